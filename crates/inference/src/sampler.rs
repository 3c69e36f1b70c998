//! From logits to a token, in transformers' order: repetition penalty, n-grams, temperature, top-k, top-p, min-p.

use std::collections::BTreeSet;

use crate::random::Random;
use crate::request::Sampling;

/// Divides the logits of tokens already seen (multiplies where negative), once per distinct id.
pub fn repetition_penalty(logits: &mut [f32], seen: impl IntoIterator<Item = u32>, penalty: f64) {
    if penalty == 1.0 {
        return;
    }
    let seen: BTreeSet<u32> = seen.into_iter().collect();
    for id in seen {
        if let Some(l) = logits.get_mut(id as usize) {
            *l = if *l < 0.0 { *l * penalty as f32 } else { *l / penalty as f32 };
        }
    }
}

/// Forbids every token that would complete an n-gram which `generated` already holds.
pub fn forbid_repeated_ngrams(logits: &mut [f32], generated: &[u32], n: usize) {
    if n == 0 || generated.len() + 1 < n {
        return;
    }
    let tail = &generated[generated.len() + 1 - n..];
    for window in generated.windows(n) {
        let completes = &window[..n - 1] == tail;
        if let Some(logit) = logits.get_mut(window[n - 1] as usize).filter(|_| completes) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Temperature, top-k, top-p and min-p: pairs of token and probability, in descending order of probability (ties by
/// id).
///
/// Values tied with the k-th largest stay. At temperature 0 only the largest (the first among equals) stays.
pub fn distribution(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
    if sampling.temperature <= 0.0 {
        return vec![(argmax(logits), 1.0)];
    }
    let mut least_logit = f32::NEG_INFINITY;
    if sampling.top_k > 0 && sampling.top_k < logits.len() {
        let mut all = logits.to_vec();
        least_logit = *all.select_nth_unstable_by(sampling.top_k - 1, |a, b| b.total_cmp(a)).1;
    }
    let stays = |l: f32| l > f32::NEG_INFINITY && l >= least_logit;
    // The difference first: over a small temperature the logits themselves would be too large for f32.
    let largest = kernels::largest(logits);
    let mut probabilities: Vec<f32> =
        logits.iter().map(|&l| if stays(l) { l - largest } else { f32::NEG_INFINITY }).collect();
    let scale = (1.0 / sampling.temperature).min(f64::from(f32::MAX)) as f32;
    kernels::softmax_in_place(&mut probabilities, scale);
    let at_least = |least: f32| -> Vec<(u32, f64)> {
        // What can never be drawn is not listed.
        let least = least.max(f32::MIN_POSITIVE);
        let kept = (0..logits.len()).filter(|&i| probabilities[i] >= least && stays(logits[i]));
        kept.map(|i| (i as u32, f64::from(probabilities[i]))).collect()
    };
    let mut kept = if sampling.top_p < 1.0 { nucleus(at_least, sampling.top_p) } else { at_least(0.0) };
    normalise(&mut kept);
    if sampling.min_p > 0.0 {
        let largest = kept.iter().map(|k| k.1).fold(0.0, f64::max);
        kept.retain(|k| k.1 >= sampling.min_p * largest);
        normalise(&mut kept);
    }
    descending(&mut kept);
    kept
}

/// The smallest set whose mass reaches `top_p`, in descending order; the largest always stays. Only the head of the
/// distribution is sorted, as much of it as is needed: vocabularies are long and their tails are thin. `at_least` lists
/// what has at least that probability.
fn nucleus(at_least: impl Fn(f32) -> Vec<(u32, f64)>, top_p: f64) -> Vec<(u32, f64)> {
    let mut head = Vec::new();
    for least in [1e-3, 1e-6, 0.0] {
        head = at_least(least);
        descending(&mut head);
        let mut mass = 0.0;
        let reached = head.iter().position(|k| {
            mass += k.1;
            mass >= top_p
        });
        if let Some(last) = reached {
            head.truncate(last + 1);
            break;
        }
    }
    head
}

fn descending(kept: &mut [(u32, f64)]) {
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

fn normalise(kept: &mut [(u32, f64)]) {
    let total: f64 = kept.iter().map(|k| k.1).sum();
    kept.iter_mut().for_each(|k| k.1 /= total);
}

/// Draws from a distribution by inversion.
pub fn draw(distribution: &[(u32, f64)], random: &mut Random) -> u32 {
    let mut u = random.uniform();
    for (id, p) in distribution {
        if u < *p {
            return *id;
        }
        u -= p;
    }
    distribution.last().map_or(0, |d| d.0)
}

/// The first of the largest.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if *l > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// log softmax at one place, in f64.
pub fn logprob(logits: &[f32], id: u32) -> f64 {
    f64::from(logits[id as usize]) - kernels::log_sum_exp(logits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_ngram_is_never_completed() {
        let mut logits = vec![0.0; 5];
        forbid_repeated_ngrams(&mut logits, &[1, 2, 3, 1, 2], 3);
        assert_eq!(logits.iter().position(|l| *l == f32::NEG_INFINITY), Some(3));
    }

    #[test]
    fn a_damaged_logit_shows_in_every_log_probability_of_its_row() {
        let mut logits = vec![0.5; 5000];
        assert!((logprob(&logits, 7) + 5000f64.ln()).abs() < 1e-6);
        logits[4321] = f32::NAN;
        assert!(logprob(&logits, 7).is_nan());
    }

    #[test]
    fn a_small_temperature_leaves_the_largest_alone() {
        let logits: Vec<f32> = (0..40).map(|i| 30.0 - i as f32 * 0.01).collect();
        for temperature in [1e-3, 1e-12, 1e-300] {
            let sampling = Sampling { temperature, ..Sampling::default() };
            let kept = distribution(&logits, &sampling);
            assert!(kept[0].0 == 0 && (kept[0].1 - 1.0).abs() < 1e-3, "{temperature}: {:?}", &kept[..2]);
        }
    }

    #[test]
    fn distributions_are_those_of_transformers() {
        let shared = std::env::var("CYCLE_SHARED")
            .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
        let path = std::path::Path::new(&shared).join("goldens/infer/sampler.json");
        let Ok(text) = std::fs::read(path) else {
            // Past the harness, which keeps the output of a test that passes to itself.
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("skipped: the goldens in shared/ are not here\n"),
            );
            return;
        };
        let golden: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let list = |v: &serde_json::Value| -> Vec<f64> {
            v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let seen: Vec<u32> = list(&golden["input_ids"]).into_iter().map(|x| x as u32).collect();
        let mut unknown = Vec::new();
        for case in golden["cases"].as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let p = case["params"].as_object().unwrap();
            let known = [
                "temperature",
                "top_k",
                "top_p",
                "min_p",
                "repetition_penalty",
                "no_repeat_ngram_size",
                "do_sample",
            ];
            if p.keys().any(|k| !known.contains(&k.as_str())) {
                unknown.push(name);
                continue;
            }
            let number = |k: &str, d: f64| p.get(k).and_then(|v| v.as_f64()).unwrap_or(d);
            let key = if name.contains("tied") { "logits_tied" } else { "logits" };
            let mut logits: Vec<f32> = list(&golden[key]).into_iter().map(|x| x as f32).collect();
            let sampling = Sampling {
                temperature: number("temperature", 1.0),
                top_k: number("top_k", 0.0) as usize,
                top_p: number("top_p", 1.0),
                min_p: number("min_p", 0.0),
                repetition_penalty: number("repetition_penalty", 1.0),
                no_repeat_ngram: number("no_repeat_ngram_size", 0.0) as usize,
            };
            repetition_penalty(&mut logits, seen.iter().copied(), sampling.repetition_penalty);
            forbid_repeated_ngrams(&mut logits, &seen, sampling.no_repeat_ngram);
            let got: std::collections::BTreeMap<u32, f64> =
                distribution(&logits, &sampling).into_iter().collect();
            for pair in case["probs"].as_array().unwrap() {
                let (id, expected) = (pair[0].as_u64().unwrap() as u32, pair[1].as_f64().unwrap());
                let p = got.get(&id).copied().unwrap_or(0.0);
                assert!((p - expected).abs() < 1e-5, "{name}: token {id} has {p}, wanted {expected}");
            }
            let kept = list(&case["kept"]).len();
            assert_eq!(got.len(), kept, "{name}");
        }
        assert_eq!(unknown, ["typical_p 0.8"], "all but what is not offered");
    }
}
