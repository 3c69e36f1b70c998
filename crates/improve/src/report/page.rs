//! The report as one self-contained page.

use std::collections::BTreeSet;

use askama::Template;
use research::{Outline, Stage};

use super::chart::{Line, Point, chart};
use super::{Report, Shown};
use crate::config::{Learn, Method, TermName};
use crate::rows::{Evaluation, Interval};

struct Row {
    name: String,
    first: (String, String),
    first_gain: (String, String),
    second: (String, String),
    second_gain: (String, String),
    valid: String,
    accepted: String,
    tokens: String,
    distinct: String,
    self_bleu: String,
    kl: String,
    kept: bool,
}

struct Learned {
    name: String,
    samples: usize,
    reward: String,
    terms: Vec<String>,
    pairs: String,
    replayed: String,
    ratio: String,
    slope: String,
    loss: String,
    left: String,
}

struct Plot {
    title: &'static str,
    svg: String,
}

struct Part {
    heading: String,
    text: String,
}

struct Paper {
    label: &'static str,
    first: String,
    second: String,
    faults: Vec<String>,
    parts: Vec<Part>,
    review: String,
}

struct Beside {
    which: String,
    prompt: String,
    papers: [Paper; 2],
}

struct CostRow {
    name: String,
    phase: String,
    computed: usize,
    plain: usize,
    written: usize,
    trained: usize,
    seconds: String,
}

#[derive(Template)]
#[template(path = "loop.html")]
struct Page<'a> {
    report: &'a Report,
    stage: &'static str,
    method: String,
    verdict: String,
    alarms: Vec<String>,
    held_out: usize,
    confidence: String,
    plots: Vec<Plot>,
    rows: Vec<Row>,
    has_acceptance: bool,
    unscored: usize,
    terms: Vec<String>,
    learned: Vec<Learned>,
    trains: bool,
    judged: bool,
    per_prompt: usize,
    reward: String,
    gates: String,
    examples: Vec<Beside>,
    costs: Vec<CostRow>,
    config: String,
    policy: String,
}

const NONE: &str = "–";

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or(NONE.into(), |v| format!("{v:.digits$}"))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn gain(interval: &Option<Interval>) -> String {
    match interval {
        Some(Interval { mean, low: Some(low), high: Some(high), .. }) => {
            format!("{mean:+.3} [{low:+.3}, {high:+.3}]")
        }
        Some(i) => format!("{:+.3}", i.mean),
        None => NONE.into(),
    }
}

/// A gain and its interval, apart.
fn apart(interval: &Option<Interval>) -> (String, String) {
    let whole = gain(interval);
    let (mean, range) = whole.split_once(' ').unwrap_or((&whole, ""));
    (mean.into(), range.into())
}

/// A mean and its interval, apart.
fn level(interval: &Option<Interval>) -> (String, String) {
    let Some(i) = interval else { return (NONE.into(), String::new()) };
    let range = i.low.zip(i.high).map_or(String::new(), |(low, high)| format!("[{low:.3}, {high:.3}]"));
    (format!("{:.3}", i.mean), range)
}

fn word(name: TermName) -> String {
    serde_json::to_value(name).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

fn name(iteration: usize) -> String {
    if iteration == 0 { "start".into() } else { format!("iteration {iteration}") }
}

/// A whole HTML document.
pub fn page(report: &Report) -> String {
    let evaluations: Vec<(usize, &Evaluation, bool)> = report
        .iterations
        .iter()
        .filter_map(|i| i.decision.as_ref().map(|d| (i.iteration, &d.evaluation, d.accepted)))
        .collect();
    let terms: BTreeSet<TermName> = report.iterations.iter().flat_map(|i| i.terms.keys().copied()).collect();
    let config = &report.config;
    let page = Page {
        report,
        stage: match config.sample.stage {
            Stage::Opening => "the first stage of a paper (motivation, idea, title, abstract, set-up)",
            Stage::FirstHalf => "the first half of a paper",
            Stage::SecondHalf => "the second half of a paper, after a first half and results that were given",
        },
        method: method(report),
        verdict: match config.train.method {
            Method::None => chosen(&evaluations),
            _ => verdict(&report.status, &evaluations),
        },
        alarms: report
            .iterations
            .iter()
            .flat_map(|i| {
                i.decision.iter().flat_map(|d| &d.alarms).map(|a| format!("{}: {a}", name(i.iteration)))
            })
            .collect(),
        held_out: evaluations.first().and_then(|e| e.1.judge).map_or(0, |j| j.n),
        confidence: format!("{:.0}", 100.0 * config.guards.confidence),
        plots: plots(report, &evaluations),
        has_acceptance: evaluations.iter().any(|e| e.1.acceptance.is_some()),
        unscored: evaluations.iter().map(|e| e.1.unscored + e.1.second_unscored).sum(),
        rows: evaluations.iter().map(|(i, e, kept)| row(*i, e, *kept)).collect(),
        learned: learned(report, &terms),
        trains: config.train.method != Method::None,
        judged: config.pairs.learn == Learn::Judged,
        per_prompt: match config.train.method {
            Method::None => config.sample.held_out_per_prompt,
            _ => config.sample.per_prompt,
        },
        terms: terms.into_iter().map(word).collect(),
        reward: reward(report),
        gates: gates(report),
        examples: report
            .examples
            .iter()
            .map(|e| Beside {
                which: e.which.clone(),
                prompt: e.prompt.clone(),
                papers: [paper("before", &e.before), paper("after", &e.after)],
            })
            .collect(),
        costs: costs(report),
        config: toml::to_string(config).unwrap_or_default(),
        policy: report.policy.clone().unwrap_or_else(|| NONE.into()),
    };
    page.render().unwrap_or_else(|e| format!("<!doctype html><title>error</title><p>{e}</p>"))
}

fn method(report: &Report) -> String {
    let t = &report.config.train;
    match t.method {
        Method::Preference => {
            let objective = t.objective.get("name").and_then(toml::Value::as_str).unwrap_or("simpo");
            let number = |key: &str| match t.objective.get(key) {
                Some(toml::Value::Float(v)) => *v,
                Some(toml::Value::Integer(v)) => *v as f64,
                _ => 0.0,
            };
            let nll = number("nll_weight");
            if nll > 0.0 { format!("{objective} + {nll}·NLL") } else { objective.into() }
        }
        Method::Sft => "supervised on the winners".into(),
        Method::None => format!("best of {}, no training", report.config.sample.best_of),
    }
}

/// What a gain's interval says of it.
fn seen(gain: &Option<Interval>) -> &'static str {
    match gain {
        Some(Interval { low: Some(low), .. }) if *low > 0.0 => "rose",
        Some(Interval { high: Some(high), .. }) if *high < 0.0 => "fell",
        Some(Interval { low: None, .. }) => "has no interval (one prompt)",
        Some(_) => "did not clearly change",
        None => "is not known",
    }
}

/// What taking the best of several papers gives, in a sentence: nothing is trained.
fn chosen(evaluations: &[(usize, &Evaluation, bool)]) -> String {
    match evaluations.iter().rev().find(|(i, ..)| *i > 0) {
        None => "Nothing is drawn yet.".into(),
        Some((_, e, _)) => format!(
            "Nothing was trained: of several papers the one that the first judge likes best is taken. By that its mean {} ({}), the second judge's {} ({}).",
            seen(&e.judge_gain),
            gain(&e.judge_gain),
            seen(&e.second_gain),
            gain(&e.second_gain),
        ),
    }
}

/// The answer to the page's question, in a sentence or two: about the policy that is in force.
fn verdict(status: &str, evaluations: &[(usize, &Evaluation, bool)]) -> String {
    let Some((last, _, kept)) = evaluations.iter().rev().find(|(i, ..)| *i > 0) else {
        return "No policy that was trained is evaluated yet.".into();
    };
    let start = evaluations.first().map_or(0.0, |e| e.1.validity);
    let said = |iteration: usize, e: &Evaluation| {
        let valid = match &e.validity_change {
            Some(_) => {
                format!(
                    "the share of valid papers {} ({}): ",
                    seen(&e.validity_change),
                    gain(&e.validity_change)
                )
            }
            None => "valid papers: ".into(),
        };
        format!(
            "After iteration {iteration} the first judge's mean {} ({}), the second judge's {} ({}); {valid}{}, {} at the start.",
            seen(&e.judge_gain),
            gain(&e.judge_gain),
            seen(&e.second_gain),
            gain(&e.second_gain),
            percent(e.validity),
            percent(start),
        )
    };
    let both = |e: &Evaluation| seen(&e.judge_gain) == "rose" && seen(&e.second_gain) == "rose";
    // That one paper of some dozens more has a fault is no fall.
    let valid = |e: &Evaluation| match e.validity_change {
        Some(_) => seen(&e.validity_change) != "fell",
        // Loops of an earlier version have no interval of it.
        None => e.validity >= start - 1e-9,
    };
    let holds = |e: &Evaluation| both(e) && valid(e);
    let in_force = evaluations.iter().rev().find(|(i, _, kept)| *i > 0 && *kept);
    match (in_force, kept) {
        (None, _) => {
            format!("No: iteration {last} was rolled back and the loop stopped; the start is in force.")
        }
        (Some((i, e, _)), false) => {
            let answer =
                if holds(e) { "Yes, by both judges, until the loop was stopped" } else { "Not shown" };
            format!(
                "{answer}: iteration {last} was rolled back, and the policy of iteration {i} is in force. {}",
                said(*i, e)
            )
        }
        (Some((i, e, _)), true) if status != "done" => format!("Not finished. {}", said(*i, e)),
        (Some((i, e, _)), true) if holds(e) => format!("Yes, by both judges. {}", said(*i, e)),
        (Some((i, e, _)), true) => format!("Not shown. {}", said(*i, e)),
    }
}

fn row(iteration: usize, e: &Evaluation, kept: bool) -> Row {
    Row {
        name: name(iteration),
        first: level(&e.judge),
        first_gain: apart(&e.judge_gain),
        second: level(&e.second),
        second_gain: apart(&e.second_gain),
        valid: percent(e.validity),
        accepted: e.acceptance.map_or(NONE.into(), percent),
        tokens: format!("{:.0}", e.tokens),
        distinct: format!("{:.3}", e.distinct),
        self_bleu: format!("{:.3}", e.self_bleu),
        kl: number(e.kl, 3),
        kept,
    }
}

fn plots(report: &Report, evaluations: &[(usize, &Evaluation, bool)]) -> Vec<Plot> {
    let last = evaluations.last().map_or(1, |e| e.0).max(1);
    let guards = &report.config.guards;
    let start = evaluations.first().map(|e| e.1);
    let points = |f: &dyn Fn(&Evaluation) -> Option<f64>| -> Vec<Point> {
        evaluations.iter().filter_map(|(i, e, _)| Some((*i, f(e)?, None))).collect()
    };
    let gains = |f: &dyn Fn(&Evaluation) -> Option<Interval>| -> Vec<Point> {
        evaluations
            .iter()
            .filter_map(|(i, e, _)| {
                let gain =
                    if *i == 0 { Some((0.0, None)) } else { f(e).map(|g| (g.mean, g.low.zip(g.high))) };
                gain.map(|(mean, ends)| (*i, mean, ends))
            })
            .collect()
    };
    let one = |title, about: &str, f: &dyn Fn(&Evaluation) -> Option<f64>, limits: Vec<f64>| Plot {
        title,
        svg: chart(last, &[Line { class: "c0", points: points(f) }], &limits, false, about),
    };
    // Each judge in deviations of its own scores, so that both can stand in one picture.
    let scaled = |gain: Option<Interval>, sd: Option<f64>| {
        let (g, sd) = (gain?, sd.filter(|s| *s > 0.0)?);
        Some(Interval { mean: g.mean / sd, low: g.low.map(|v| v / sd), high: g.high.map(|v| v / sd), n: g.n })
    };
    let mut plots = vec![Plot {
        title: "Gain over the start, in each judge's standard deviations",
        svg: chart(
            last,
            &[
                Line { class: "c0", points: gains(&|e| scaled(e.judge_gain, e.judge_sd)) },
                Line { class: "c1", points: gains(&|e| scaled(e.second_gain, e.second_sd)) },
            ],
            &[],
            true,
            "gain by both judges",
        ),
    }];
    plots.push(one(
        "Share of valid papers",
        "validity",
        &|e| Some(e.validity),
        start.map(|s| s.validity - guards.validity).into_iter().collect(),
    ));
    if evaluations.iter().any(|e| e.1.acceptance.is_some()) {
        plots.push(one("Share that the first judge accepts", "acceptance", &|e| e.acceptance, Vec::new()));
    }
    let lengths = start.map(|s| vec![s.tokens * guards.length_ratio, s.tokens / guards.length_ratio]);
    plots.push(one("Tokens of a paper", "length", &|e| Some(e.tokens), lengths.unwrap_or_default()));
    plots.push(one(
        "Distinct bigrams",
        "diversity",
        &|e| Some(e.distinct),
        start.map(|s| s.distinct * guards.distinct).into_iter().collect(),
    ));
    plots.push(one(
        "Self-BLEU",
        "self-BLEU",
        &|e| Some(e.self_bleu),
        start.map(|s| s.self_bleu + guards.self_bleu).into_iter().collect(),
    ));
    if evaluations.iter().any(|e| e.1.kl.is_some()) {
        plots.push(one(
            "Log-ratio to the start (KL), nats a token",
            "log-ratio to the start",
            &|e| e.kl,
            vec![guards.kl],
        ));
    }
    plots
}

fn learned(report: &Report, terms: &BTreeSet<TermName>) -> Vec<Learned> {
    let trained = report.iterations.iter().filter(|i| i.samples > 0);
    trained
        .map(|i| {
            let counts = i.trained.as_ref().map(|t| &t.pairs);
            let count = |f: &dyn Fn(&crate::rows::PairCounts) -> usize| {
                counts.map_or(NONE.into(), |c| f(c).to_string())
            };
            let left: Vec<String> = counts
                .map(|c| {
                    [
                        (c.failed, "not written"),
                        (c.unscored, "not scored"),
                        (c.cut - c.open.min(c.cut), "ran into a limit"),
                        (c.gated, "held back by a gate"),
                        (c.duplicates, "twice the same"),
                        (c.close, "pairs too close"),
                        (c.lengths, "pairs of unlike length"),
                        (c.prompts_without, "prompts without a pair"),
                    ]
                    .iter()
                    .filter(|(n, _)| *n > 0)
                    .map(|(n, what)| format!("{n} {what}"))
                    .collect()
                })
                .unwrap_or_default();
            Learned {
                name: name(i.iteration),
                samples: i.samples,
                reward: number(i.reward, 3),
                terms: terms.iter().map(|t| number(i.terms.get(t).copied(), 3)).collect(),
                pairs: count(&|c| c.made),
                replayed: count(&|c| c.replayed),
                ratio: number(counts.and_then(|c| c.length_ratio), 2),
                slope: number(counts.and_then(|c| c.length_slope), 3),
                loss: number(i.trained.as_ref().and_then(|t| t.metrics["loss"].as_f64()), 3),
                left: left.join(", "),
            }
        })
        .collect()
}

fn reward(report: &Report) -> String {
    let weighed = report.config.reward.terms.iter().filter(|t| t.weight != 0.0);
    let parts: Vec<String> = weighed
        .map(|t| if t.weight == 1.0 { word(t.name) } else { format!("{}·{}", t.weight, word(t.name)) })
        .collect();
    parts.join(" + ")
}

fn gates(report: &Report) -> String {
    let parts: Vec<String> = report
        .config
        .reward
        .terms
        .iter()
        .flat_map(|t| {
            let least = t.at_least.map(|v| format!("{} ≥ {v}", word(t.name)));
            let most = t.at_most.map(|v| format!("{} ≤ {v}", word(t.name)));
            least.into_iter().chain(most)
        })
        .collect();
    parts.join(", ")
}

fn paper(label: &'static str, shown: &Shown) -> Paper {
    let outline = Outline::of(&shown.text);
    let mut parts = Vec::new();
    let mut add = |heading: &str, text: Option<String>| {
        parts.extend(text.map(|text| Part { heading: heading.into(), text }));
    };
    add("Title", outline.title);
    add("Motivation", outline.motivation);
    add("Main idea", outline.idea);
    add("Abstract", outline.summary);
    for section in shown.text.split("\\section{").skip(1) {
        if let Some((heading, body)) = section.split_once('}') {
            add(heading, Some(body.split("```").next().unwrap_or_default().trim().to_string()));
        }
    }
    let item = |s: &serde_json::Value| {
        format!(
            "{}: {}",
            s["name"].as_str().unwrap_or_default(),
            s["description"].as_str().unwrap_or_default()
        )
    };
    let list = outline.setup.as_ref().and_then(|s| s.as_array());
    add("Experimental set-up", list.map(|l| l.iter().map(item).collect::<Vec<_>>().join(" — ")));
    if parts.is_empty() {
        parts.push(Part { heading: "As written".into(), text: shown.text.clone() });
    }
    let review =
        shown.review.as_ref().map(|r| serde_json::to_string_pretty(&r["reviewers"]).unwrap_or_default());
    Paper {
        label,
        first: number(shown.judge, 3),
        second: number(shown.second, 3),
        faults: shown.faults.clone(),
        parts,
        review: review.unwrap_or_default(),
    }
}

fn costs(report: &Report) -> Vec<CostRow> {
    let phase = |name: &str| {
        match name {
            "sample" => "sampling",
            "held-out" => "held-out papers",
            "score" => "first judge",
            "second-score" => "second judge",
            "train" => "training",
            "noise" => "the judge's noise",
            "check" => "checks",
            other => return other.to_string(),
        }
        .to_string()
    };
    let rows = report.iterations.iter().flat_map(|i| {
        i.costs.iter().map(move |(name_of, c)| CostRow {
            name: name(i.iteration),
            phase: phase(name_of),
            computed: c.prompt_tokens,
            plain: c.prompt_tokens + c.prompt_tokens_reused,
            written: c.generated_tokens,
            trained: c.trained_tokens,
            seconds: format!("{:.0}", c.seconds),
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_on_top_speaks_of_the_policy_in_force() {
        let around = |mean: f64| Some(Interval { mean, low: Some(mean - 0.1), high: Some(mean + 0.1), n: 9 });
        let figures = |first: f64, second: f64, valid: f64| Evaluation {
            judge: around(5.0),
            second: around(5.0),
            judge_gain: around(first),
            second_gain: around(second),
            judge_sd: Some(0.5),
            second_sd: Some(0.5),
            validity: 0.8 + valid,
            validity_change: around(valid),
            acceptance: None,
            tokens: 300.0,
            distinct: 0.5,
            self_bleu: 0.4,
            kl: Some(0.1),
            terms: Default::default(),
            failed: 0,
            unscored: 0,
            second_unscored: 0,
        };
        let start = figures(0.0, 0.0, 0.0);
        let (good, slight) = (figures(0.4, 0.3, 0.1), figures(0.4, 0.3, -0.02));
        let (hacked, broken) = (figures(0.9, -0.3, 0.0), figures(0.4, 0.3, -0.3));
        let said = |status: &str, then: &[(&Evaluation, bool)]| {
            let mut all = vec![(0, &start, true)];
            all.extend(then.iter().enumerate().map(|(i, (e, kept))| (i + 1, *e, *kept)));
            verdict(status, &all)
        };
        assert!(said("done", &[(&good, true)]).starts_with("Yes, by both judges. After iteration 1"));
        assert!(said("done", &[(&slight, true)]).starts_with("Yes"), "a fall that may be chance is none");
        assert!(said("done", &[(&broken, true)]).starts_with("Not shown"));
        assert!(said("done", &[(&hacked, true)]).starts_with("Not shown"));
        assert!(said("running", &[(&good, true)]).starts_with("Not finished"));
        let stopped = said("stopped", &[(&hacked, false)]);
        assert!(stopped.ends_with("the start is in force.") && stopped.starts_with("No"), "{stopped}");
        let later = said("stopped", &[(&good, true), (&hacked, false)]);
        assert!(later.contains("iteration 2 was rolled back") && later.contains("rose (+0.300"), "{later}");
    }
}
