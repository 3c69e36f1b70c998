//! From rewards to pairs.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{Cut, Learn, PairRule, Pairs};
use crate::ledger::id;
use crate::rows::{Pair, PairCounts, Rewarded, Sample};
use crate::stats::{deviation, mean};

/// A sample with what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its id.
    pub id: &'a str,
    /// Itself.
    pub sample: &'a Sample,
    /// Its reward.
    pub reward: &'a Rewarded,
}

/// A candidate that may be in a pair, and the reward by which it is compared.
#[derive(Clone, Copy)]
struct Usable<'a> {
    candidate: Candidate<'a>,
    /// The weighed sum; log-odds where a judge compared the samples itself.
    total: f64,
    /// As the sum was before length was taken out of it.
    raw: f64,
}

impl Usable<'_> {
    fn tokens(&self) -> f64 {
        self.candidate.sample.tokens.max(1) as f64
    }

    /// No gate keeps it back.
    fn passes(&self) -> bool {
        self.candidate.reward.gated.is_empty()
    }
}

/// What is set against what, and what was left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Made {
    /// With their ids.
    pub pairs: Vec<(String, Pair)>,
    /// By count.
    pub counts: PairCounts,
}

/// Makes pairs of an iteration's samples. `noise` is the judge's own standard deviation over repeated reviews.
pub fn pairs(config: &Pairs, candidates: &[Candidate<'_>], noise: f64) -> Made {
    let mut made = Made::default();
    let mut prompts = sorted_out(config, candidates, &mut made.counts);
    // A judge that compares says more than one number a sample: its log-odds have a unit of their own.
    let mut usable = prompts.values().flat_map(|p| &p.whole);
    let compares = usable.all(|u| u.candidate.reward.compared.is_some());
    if compares {
        for u in prompts.values_mut().flat_map(|p| &mut p.whole) {
            u.total = u.candidate.reward.compared.map_or(u.total, |c| c.log_odds);
        }
    }
    if config.length_neutral {
        made.counts.length_slope = take_length_out(&mut prompts);
    }
    let totals: Vec<f64> = prompts.values().flat_map(|p| &p.whole).map(|u| u.total).collect();
    let unit = compares.then_some(1.0);
    let scale = config.scale.or(unit).or_else(|| deviation(&totals)).filter(|s| *s > 0.0).unwrap_or(1.0);
    let noise = config.noise * noise;
    let (mut chosen_tokens, mut rejected_tokens) = (Vec::new(), Vec::new());
    for PromptSamples { mut whole, open } in prompts.into_values() {
        // Best first; samples that a gate keeps back stand behind all others. Equal ones in the order they were drawn.
        whole.sort_by(|a, b| b.passes().cmp(&a.passes()).then(b.total.total_cmp(&a.total)));
        let standing = Standing::of(&whole, scale, config.length_neutral);
        let found = matched(config, &whole, &standing, noise, &mut made.counts);
        let run_on = open.zip(whole.first().filter(|best| best.passes()));
        made.counts.prompts_without += usize::from(found.is_empty() && run_on.is_none());
        for (i, j, difference) in found {
            let (better, worse) = (&whole[i], &whole[j]);
            chosen_tokens.push(better.tokens());
            rejected_tokens.push(worse.tokens());
            let pair = Pair {
                prompt: better.candidate.sample.prompt.clone(),
                chosen: better.candidate.id.into(),
                rejected: worse.candidate.id.into(),
                difference,
                open: false,
                without_end: config.learn == Learn::Judged,
                score_chosen: standing.scores[i],
                score_rejected: standing.scores[j],
                p_chosen: standing.wins[i],
                p_rejected: standing.wins[j],
                replayed_from: None,
            };
            made.pairs.push((id('d', &format!("{}\n{}", pair.chosen, pair.rejected)), pair));
        }
        if let Some((worse, best)) = run_on {
            // As far apart as scores of one prompt are: what learns from them sees a clear case.
            let score = standing.scores.iter().fold(1.0, |most: f64, s| most.max(*s));
            let pair = Pair {
                prompt: best.candidate.sample.prompt.clone(),
                chosen: best.candidate.id.into(),
                rejected: worse.id.into(),
                difference: 0.0,
                open: true,
                without_end: config.learn == Learn::Judged,
                score_chosen: score,
                score_rejected: -score,
                p_chosen: 1.0,
                p_rejected: 0.0,
                replayed_from: None,
            };
            made.counts.open += 1;
            made.pairs.push((id('d', &format!("{}\n{}\nopen", pair.chosen, pair.rejected)), pair));
        }
    }
    made.counts.made = made.pairs.len();
    made.counts.length_ratio = mean(&chosen_tokens).zip(mean(&rejected_tokens)).map(|(a, b)| a / b);
    made
}

/// What of a prompt's samples can be in a pair.
#[derive(Default)]
struct PromptSamples<'a> {
    whole: Vec<Usable<'a>>,
    /// The first one that ran into a limit, where such are rejected as far as they go.
    open: Option<Candidate<'a>>,
}

/// By prompt; what cannot be in a pair is counted.
fn sorted_out<'a>(
    config: &Pairs,
    candidates: &[Candidate<'a>],
    counts: &mut PairCounts,
) -> BTreeMap<&'a str, PromptSamples<'a>> {
    let mut prompts: BTreeMap<&str, PromptSamples<'_>> = BTreeMap::new();
    for c in candidates {
        let of_prompt = prompts.entry(&c.sample.prompt).or_default();
        if c.sample.text.is_none() {
            counts.failed += 1;
        } else if !c.sample.unfinished.is_empty() && config.cut != Cut::Reject {
            counts.cut += 1;
            if config.cut == Cut::Open && c.sample.cut_at.is_some_and(|at| at > 0) {
                of_prompt.open.get_or_insert(*c);
            }
        } else if of_prompt.whole.iter().any(|o| o.candidate.sample.text == c.sample.text) {
            counts.duplicates += 1;
        } else if let Some(total) = c.reward.total {
            counts.gated += usize::from(!c.reward.gated.is_empty());
            of_prompt.whole.push(Usable { candidate: *c, total, raw: total });
        } else {
            counts.unscored += 1;
        }
    }
    prompts
}

/// Pairs of a prompt, by place in `sorted`, with the difference of their rewards.
fn matched(
    config: &Pairs,
    sorted: &[Usable<'_>],
    standing: &Standing,
    noise: f64,
    counts: &mut PairCounts,
) -> Vec<(usize, usize, f64)> {
    let mut found = Vec::new();
    for (i, j) in wanted(config.rule, sorted.len()) {
        let (better, worse) = (&sorted[i], &sorted[j]);
        if !better.passes() {
            continue;
        }
        let difference = match config.rule {
            PairRule::Dno => standing.wins[i] - standing.wins[j],
            _ => better.total - worse.total,
        };
        // A sample behind a gate is worse whatever its score.
        let behind = !worse.passes();
        // The margin is in the unit of the difference, the judge's noise in that of its scores.
        let apart = better.total - worse.total;
        let clear = difference > config.margin && apart > noise && better.raw != worse.raw;
        if !(behind || clear) && config.rule != PairRule::Every {
            counts.close += 1;
            continue;
        }
        let (a, b) = (better.tokens(), worse.tokens());
        if config.length_ratio > 0.0 && (a / b).max(b / a) > config.length_ratio {
            counts.lengths += 1;
            continue;
        }
        found.push((i, j, difference));
        if config.rule == PairRule::BestWorst || found.len() == config.per_prompt {
            break;
        }
    }
    found
}

/// Takes the part of the rewards that ln(tokens) explains within prompts (least squares over all of them) out of them;
/// returns the slope, in the reward's units per doubling of the length.
fn take_length_out(prompts: &mut BTreeMap<&str, PromptSamples<'_>>) -> Option<f64> {
    let centre = |own: &[Usable<'_>]| -> Option<(f64, f64)> {
        let lengths: Vec<f64> = own.iter().map(|u| u.tokens().ln()).collect();
        let totals: Vec<f64> = own.iter().map(|u| u.total).collect();
        mean(&lengths).zip(mean(&totals))
    };
    let (mut product, mut square) = (0.0, 0.0);
    for PromptSamples { whole, .. } in prompts.values() {
        let Some((length, total)) = centre(whole) else { continue };
        for u in whole {
            let apart = u.tokens().ln() - length;
            product += apart * (u.total - total);
            square += apart * apart;
        }
    }
    let slope = (square > 0.0).then(|| product / square)?;
    for PromptSamples { whole, .. } in prompts.values_mut() {
        let Some((length, _)) = centre(whole) else { continue };
        for u in whole {
            u.total -= slope * (u.tokens().ln() - length);
        }
    }
    Some(slope * std::f64::consts::LN_2)
}

/// Candidates for pairs among n samples, best first, in the order in which they are tried.
fn wanted(rule: PairRule, n: usize) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> = match rule {
        PairRule::Every => return (0..n / 2).map(|i| (i, n - 1 - i)).collect(),
        // DNO's positive is the best; negatives are all that lie far enough below it.
        PairRule::Dno => return (1..n).rev().map(|j| (0, j)).collect(),
        PairRule::BestWorst | PairRule::Margin => {
            (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect()
        }
    };
    // The farthest apart first: where the best and the worst differ too much in length, the next ones are tried.
    all.sort_by_key(|(i, j)| (n - (j - i), *i));
    all
}

/// How each sample of a prompt stands against all of them.
struct Standing {
    /// Mean log-odds against all, itself included as 0 (GPO).
    scores: Vec<f64>,
    /// Mean probability of winning against the others (DNO, SPPO).
    wins: Vec<f64>,
}

impl Standing {
    fn of(samples: &[Usable<'_>], scale: f64, length_neutral: bool) -> Self {
        let n = samples.len();
        let passing = samples.iter().filter(|u| u.passes()).map(|u| u.total / scale);
        let lowest = passing.fold(f64::INFINITY, f64::min);
        // What a gate keeps back is worse than all that pass, whatever it scores.
        let place = |u: &Usable<'_>| if u.passes() { f64::INFINITY } else { lowest - 1.0 };
        let totals: Vec<f64> = samples.iter().map(|u| (u.total / scale).min(place(u))).collect();
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        let over = |i: usize, f: &dyn Fn(f64) -> f64| -> f64 {
            (0..n).filter(|j| *j != i).map(|j| f(totals[i] - totals[j])).sum()
        };
        // Where the judge compared the samples itself, and nothing was done to that, its probabilities count.
        let judged = |u: &Usable<'_>| u.candidate.reward.compared.filter(|_| u.passes() && !length_neutral);
        let judged: Option<Vec<f64>> = samples.iter().map(|u| judged(u).map(|c| c.win_rate)).collect();
        let others = n.saturating_sub(1).max(1) as f64;
        Self {
            scores: (0..n).map(|i| over(i, &|d| d) / n as f64).collect(),
            wins: judged.unwrap_or_else(|| {
                (0..n).map(|i| if n > 1 { over(i, &sigmoid) / others } else { 0.5 }).collect()
            }),
        }
    }
}

/// Pairs of earlier iterations that are trained on again: the `share` of `new` with the largest differences, none of
/// whose samples is among the new ones.
pub fn replayed(
    earlier: &[(String, Pair)],
    iteration: usize,
    new: usize,
    share: f64,
    taken: &BTreeSet<String>,
) -> Vec<(String, Pair)> {
    let mut own: Vec<&(String, Pair)> =
        earlier.iter().filter(|(id, p)| p.replayed_from.is_none() && !taken.contains(id)).collect();
    own.sort_by(|a, b| b.1.difference.total_cmp(&a.1.difference).then(a.0.cmp(&b.0)));
    own.truncate((share * new as f64).floor() as usize);
    own.into_iter()
        .map(|(id, p)| (id.clone(), Pair { replayed_from: Some(iteration), ..p.clone() }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TermName;

    fn samples(rows: &[(&str, f64, usize, bool)]) -> Vec<(String, Sample, Rewarded)> {
        rows.iter()
            .enumerate()
            .map(|(i, (prompt, total, tokens, gated))| {
                let sample = Sample {
                    prompt: (*prompt).into(),
                    index: i,
                    policy: "p".into(),
                    seed: 0,
                    prompt_sha256: String::new(),
                    text: Some(format!("text {i}")),
                    failed: None,
                    unfinished: Vec::new(),
                    cut_at: None,
                    parts: 1,
                    tokens: *tokens,
                };
                let reward = Rewarded {
                    total: Some(*total).filter(|t| t.is_finite()),
                    terms: BTreeMap::new(),
                    compared: None,
                    gated: if *gated { vec![TermName::Complete] } else { Vec::new() },
                };
                (format!("s{i}"), sample, reward)
            })
            .collect()
    }

    /// Rewards as they are: what length explains of a handful is chance.
    fn plain() -> Pairs {
        Pairs { length_neutral: false, ..Pairs::default() }
    }

    fn make(config: &Pairs, rows: &[(&str, f64, usize, bool)], noise: f64) -> Made {
        let owned = samples(rows);
        let candidates: Vec<Candidate<'_>> =
            owned.iter().map(|(id, sample, reward)| Candidate { id, sample, reward }).collect();
        pairs(config, &candidates, noise)
    }

    fn names(made: &Made) -> Vec<(&str, &str)> {
        made.pairs.iter().map(|(_, p)| (p.chosen.as_str(), p.rejected.as_str())).collect()
    }

    #[test]
    fn each_rule_takes_the_pairs_that_its_paper_takes() {
        let rows =
            [("q", 1.0, 100, false), ("q", 4.0, 100, false), ("q", 2.0, 100, false), ("q", 3.0, 100, false)];
        let rule = |rule| Pairs { rule, ..plain() };
        assert_eq!(names(&make(&rule(PairRule::BestWorst), &rows, 0.0)), [("s1", "s0")]);
        assert_eq!(make(&rule(PairRule::Margin), &rows, 0.0).pairs.len(), 6);
        assert_eq!(names(&make(&rule(PairRule::Every), &rows, 0.0)), [("s1", "s0"), ("s3", "s2")]);
        let dno = make(&Pairs { margin: 0.3, ..rule(PairRule::Dno) }, &rows, 0.0);
        assert_eq!(names(&dno), [("s1", "s0"), ("s1", "s2")], "only those far below the best");
        let best = &dno.pairs[0].1;
        assert!(best.p_chosen > 0.7 && best.p_rejected < 0.3 && best.score_chosen > 0.0);
    }

    #[test]
    fn what_may_not_be_compared_is_counted_and_never_a_silent_pair() {
        let none = f64::NAN;
        let rows = [
            ("a", 1.0, 100, false),
            ("a", 1.05, 100, false),
            ("b", none, 100, false),
            ("b", 2.0, 100, false),
            ("c", 9.0, 100, true),
            ("c", 1.0, 100, false),
            ("d", 3.0, 300, false),
            ("d", 1.0, 100, false),
        ];
        let made = make(&Pairs { noise: 2.0, ..plain() }, &rows, 0.1);
        assert_eq!(names(&made), [("s5", "s4")], "a gate counts for more than a score");
        let c = &made.counts;
        assert_eq!((c.unscored, c.gated, c.close, c.lengths, c.prompts_without), (1, 1, 1, 1, 3));
    }

    #[test]
    fn what_a_gate_keeps_back_has_the_lower_targets_whatever_it_scores_and_equals_are_no_pair() {
        let gated =
            [("q", 9.0, 100, true), ("q", 0.6, 100, false), ("q", 0.5, 100, false), ("q", 0.4, 100, false)];
        for rule in [PairRule::Every, PairRule::Dno, PairRule::BestWorst] {
            let made = make(&Pairs { rule, per_prompt: 9, ..plain() }, &gated, 0.0);
            assert!(made.pairs.iter().any(|(_, p)| p.rejected == "s0"), "{rule:?}");
            for (_, p) in &made.pairs {
                assert!(p.score_chosen > p.score_rejected && p.p_chosen > p.p_rejected, "{rule:?}: {p:?}");
            }
        }
        let equal =
            [("q", 1.0, 100, false), ("q", 1.0, 120, false), ("r", 1.0, 100, false), ("r", 3.0, 130, false)];
        let made = make(&Pairs::default(), &equal, 0.0);
        assert_eq!(
            (names(&made), made.counts.close),
            (vec![("s3", "s2")], 1),
            "length alone is no difference"
        );
    }

    #[test]
    fn a_judge_that_compares_gives_gpo_its_log_odds() {
        let mut owned = samples(&[("q", 0.7, 100, false), ("q", 0.5, 100, false), ("q", 0.3, 100, false)]);
        for (row, log_odds) in owned.iter_mut().zip([0.9, 0.1, -1.0]) {
            let win_rate = row.2.total.unwrap();
            row.2.compared = Some(crate::rows::Compared { win_rate, log_odds });
        }
        let candidates: Vec<Candidate<'_>> =
            owned.iter().map(|(id, sample, reward)| Candidate { id, sample, reward }).collect();
        let made = pairs(&plain(), &candidates, 0.0);
        let pair = &made.pairs[0].1;
        assert!((pair.score_chosen - 0.9).abs() < 1e-12 && (pair.score_rejected + 1.0).abs() < 1e-12);
        assert_eq!((pair.p_chosen, pair.p_rejected), (0.7, 0.3));
    }

    #[test]
    fn a_sample_that_ran_into_a_limit_is_in_no_pair_unless_one_asks_for_it() {
        let mut owned = samples(&[("q", 3.0, 9, false), ("q", 2.0, 9, false), ("q", 1.0, 9, false)]);
        owned[2].1.unfinished = vec!["title".into()];
        owned[2].1.cut_at = Some(4);
        let made = |cut| {
            let candidates: Vec<Candidate<'_>> =
                owned.iter().map(|(id, sample, reward)| Candidate { id, sample, reward }).collect();
            pairs(&Pairs { cut, ..plain() }, &candidates, 0.0)
        };
        assert_eq!(names(&made(Cut::LeaveOut)), [("s0", "s1")]);
        assert_eq!(made(Cut::LeaveOut).counts.cut, 1);
        assert_eq!(names(&made(Cut::Reject)), [("s0", "s2")]);
        let open = made(Cut::Open);
        assert_eq!(names(&open), [("s0", "s1"), ("s0", "s2")]);
        assert_eq!((open.pairs[0].1.open, open.pairs[1].1.open, open.counts.open), (false, true, 1));
    }

    #[test]
    fn the_best_and_worst_of_like_length_are_taken_where_the_very_best_is_too_long() {
        let rows =
            [("q", 5.0, 400, false), ("q", 4.0, 100, false), ("q", 1.0, 110, false), ("q", 0.5, 90, false)];
        assert_eq!(names(&make(&plain(), &rows, 0.0)), [("s1", "s3")]);
    }

    #[test]
    fn what_length_explains_is_taken_out_of_the_rewards() {
        // A point for every doubling, and a taste of a tenth that has nothing to do with length.
        let row = |tokens: usize, taste: f64| ("q", (tokens as f64).log2() + taste, tokens, false);
        let rows = [row(100, 0.1), row(100, -0.1), row(140, -0.1), row(140, 0.1)];
        let as_is = make(&plain(), &rows, 0.0);
        assert_eq!(names(&as_is), [("s3", "s1")]);
        let made = make(&Pairs { rule: PairRule::Margin, ..Pairs::default() }, &rows, 0.0);
        assert!((made.counts.length_slope.unwrap() - 1.0).abs() < 1e-9);
        let far: Vec<_> = made.pairs.iter().filter(|p| p.1.difference > 0.1).collect();
        assert_eq!(far.len(), 4, "each of the two that are liked above each of the two that are not");
        assert!(far.iter().all(|p| (p.1.difference - 0.2).abs() < 1e-9));
    }

    #[test]
    fn replay_takes_the_clearest_earlier_pairs_and_none_twice() {
        let made = make(
            &Pairs { rule: PairRule::Margin, ..plain() },
            &[("q", 1.0, 9, false), ("q", 2.0, 9, false), ("q", 4.0, 9, false)],
            0.0,
        );
        let again = replayed(&made.pairs, 1, 4, 0.5, &BTreeSet::new());
        let differences: Vec<f64> = again.iter().map(|(_, p)| p.difference).collect();
        assert_eq!(differences, [3.0, 2.0]);
        assert!(again.iter().all(|(_, p)| p.replayed_from == Some(1)));
        let taken = again.iter().map(|(id, _)| id.clone()).collect();
        assert_eq!(replayed(&made.pairs, 1, 4, 0.5, &taken).len(), 1);
    }
}
