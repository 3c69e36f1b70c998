//! From reviewers to one number, with its uncertainty.

use std::collections::{BTreeMap, BTreeSet};

use crate::form::Form;
use crate::review::{Aggregate, Decision, Reviewer, ScoreRead};

/// The panel's scores: the mean over reviewers that gave one. Missing scores are left out, never 0.
///
/// The interval is the central 90 % of the mixture of the reviewers' distributions (for reviewers without one, of their
/// values). It says where a further reviewer of this kind would score, not how well the mean is known: reviewers of one
/// model are dependent, so a standard error over n would be too small.
pub fn aggregate(form: &Form, reviewers: &[Reviewer]) -> BTreeMap<String, Aggregate> {
    form.scores
        .iter()
        .filter_map(|field| {
            let given: Vec<&ScoreRead> = reviewers.iter().filter_map(|r| score(r, &field.key)).collect();
            if given.is_empty() {
                return None;
            }
            let n = given.len() as f64;
            let mean = given.iter().map(|s| s.value).sum::<f64>() / n;
            let expected = given.iter().map(|s| s.expected.unwrap_or(s.value)).sum::<f64>() / n;
            let mixture = mixture(&given);
            let aggregate = Aggregate {
                mean,
                expected,
                calibrated: None,
                interval90: [quantile(&mixture, 0.05), quantile(&mixture, 0.95)],
                reviewers: given.len(),
            };
            Some((field.key.clone(), aggregate))
        })
        .collect()
}

fn score<'a>(reviewer: &'a Reviewer, key: &str) -> Option<&'a ScoreRead> {
    if key == "confidence" { reviewer.confidence.as_ref() } else { reviewer.scores.get(key) }
}

/// Values and weights, ascending.
fn mixture(given: &[&ScoreRead]) -> Vec<(f64, f64)> {
    let n = given.len() as f64;
    let mut points: Vec<(f64, f64)> = given
        .iter()
        .flat_map(|s| match &s.distribution {
            Some(d) => d.iter().filter_map(|(v, p)| Some((v.parse().ok()?, p / n))).collect(),
            None => vec![(s.value, 1.0 / n)],
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

fn quantile(points: &[(f64, f64)], q: f64) -> f64 {
    let mut mass = 0.0;
    for (value, weight) in points {
        mass += weight;
        if mass >= q - 1e-12 {
            return *value;
        }
    }
    points.last().map_or(f64::NAN, |p| p.0)
}

/// Probability that the mean of as many independent reviewers, each drawn from its own distribution, reaches the form's
/// threshold: the distributions are convolved exactly. Reviewers without a distribution count as certain.
pub fn accept_probability(form: &Form, reviewers: &[Reviewer]) -> Option<f64> {
    let given: Vec<&ScoreRead> = reviewers.iter().filter_map(|r| score(r, &form.main_score)).collect();
    if given.is_empty() {
        return None;
    }
    // Sums in thousandths, so that equal sums meet.
    let mut sums = BTreeMap::from([(0i64, 1.0f64)]);
    for s in &given {
        let mut next = BTreeMap::new();
        for (sum, p) in &sums {
            for (value, weight) in mixture(&[s]) {
                *next.entry(sum + (value * 1000.0).round() as i64).or_default() += p * weight;
            }
        }
        sums = next;
    }
    let needed = form.decision.threshold * given.len() as f64 * 1000.0;
    Some(
        sums.iter()
            .filter(|(sum, _)| **sum as f64 >= needed - 1e-6)
            .map(|(_, p)| p)
            .sum::<f64>()
            .clamp(0.0, 1.0),
    )
}

/// The decision by the form's rule: accept where the expected main score reaches the threshold.
pub fn decide(
    form: &Form,
    reviewers: &[Reviewer],
    scores: &BTreeMap<String, Aggregate>,
    written: Option<String>,
) -> Option<Decision> {
    let accept_probability = accept_probability(form, reviewers)?;
    let expected = scores.get(&form.main_score)?.expected;
    let label = if expected >= form.decision.threshold { "accept" } else { "reject" };
    Some(Decision { accept_probability, label: label.into(), base_rate: form.decision.base_rate, written })
}

/// Mean share of a reviewer's word 5-grams that another reviewer has too.
pub fn overlap(reviewers: &[Reviewer]) -> Option<f64> {
    let grams: Vec<BTreeSet<String>> = reviewers
        .iter()
        .map(|r| {
            let mut text = r.strengths.join(" ");
            for w in &r.weaknesses {
                text.push(' ');
                text.push_str(&w.text);
            }
            text.push_str(r.summary.as_deref().unwrap_or_default());
            let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
            words.windows(5).map(|w| w.join(" ")).collect()
        })
        .filter(|g: &BTreeSet<String>| !g.is_empty())
        .collect();
    if grams.len() < 2 {
        return None;
    }
    let shares: Vec<f64> = (0..grams.len())
        .map(|i| {
            let shared =
                grams[i].iter().filter(|g| (0..grams.len()).any(|j| j != i && grams[j].contains(*g)));
            shared.count() as f64 / grams[i].len() as f64
        })
        .collect();
    Some(shares.iter().sum::<f64>() / shares.len() as f64)
}
