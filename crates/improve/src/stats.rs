//! Intervals, diversity and repetition.

use std::collections::{BTreeMap, BTreeSet};

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::rows::Interval;

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sample standard deviation (n − 1); `None` of fewer than two.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let m = mean(values)?;
    let n = values.len();
    (n > 1).then(|| (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt())
}

/// Mean and its two-sided interval by Student's t over independent values; `None` of nothing.
pub fn interval(values: &[f64], confidence: f64) -> Option<Interval> {
    let m = mean(values)?;
    let n = values.len();
    let half = deviation(values).and_then(|sd| {
        let t = StudentsT::new(0.0, 1.0, (n - 1) as f64).ok()?;
        Some(t.inverse_cdf(0.5 + confidence / 2.0) * sd / (n as f64).sqrt())
    });
    Some(Interval { mean: m, low: half.map(|h| m - h), high: half.map(|h| m + h), n })
}

/// Words, lower case, without marks.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

/// Share of n-grams that are different, over all texts together (distinct-n, 1510.03055); 1 where there is none.
pub fn distinct(texts: &[Vec<String>], n: usize) -> f64 {
    let all: Vec<&[String]> = texts.iter().flat_map(|t| t.windows(n)).collect();
    if all.is_empty() {
        return 1.0;
    }
    all.iter().collect::<BTreeSet<_>>().len() as f64 / all.len() as f64
}

/// Mean BLEU-4 of every text against all others (self-BLEU, 1802.01886), with add-one smoothing of the orders above 1
/// (Lin & Och 2004); 0 for fewer than two texts.
pub fn self_bleu(texts: &[Vec<String>]) -> f64 {
    if texts.len() < 2 {
        return 0.0;
    }
    let counts: Vec<[BTreeMap<&[String], usize>; 4]> =
        texts.iter().map(|t| std::array::from_fn(|n| grams(t, n + 1))).collect();
    // The two largest counts of a gram over the texts: the largest among the others is one of them.
    let mut largest: [BTreeMap<&[String], [(usize, usize); 2]>; 4] = std::array::from_fn(|_| BTreeMap::new());
    for (i, orders) in counts.iter().enumerate() {
        for (order, grams) in orders.iter().enumerate() {
            for (gram, &count) in grams {
                let top = largest[order].entry(gram).or_insert([(0, usize::MAX); 2]);
                if count > top[0].0 {
                    *top = [(count, i), top[0]];
                } else if count > top[1].0 {
                    top[1] = (count, i);
                }
            }
        }
    }
    let score = |i: usize| -> f64 {
        let mut log = 0.0;
        for order in 0..4 {
            let (mut hits, mut total) = (0.0, 0.0);
            for (gram, &count) in &counts[i][order] {
                let elsewhere =
                    largest[order].get(gram).map_or(0, |top| if top[0].1 == i { top[1].0 } else { top[0].0 });
                hits += count.min(elsewhere) as f64;
                total += count as f64;
            }
            let smooth = if order == 0 { 0.0 } else { 1.0 };
            if hits + smooth == 0.0 || total + smooth == 0.0 {
                return 0.0;
            }
            log += ((hits + smooth) / (total + smooth)).ln() / 4.0;
        }
        let length = texts[i].len() as f64;
        let others = texts.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, t)| t.len() as f64);
        // The reference whose length is closest, the shorter one of two.
        let closest = others.min_by(|a, b| {
            let key = |x: f64| ((x - length).abs(), x);
            key(*a).partial_cmp(&key(*b)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let brevity = closest.map_or(0.0, |c| if length >= c { 0.0 } else { 1.0 - c / length.max(1.0) });
        (log + brevity).exp()
    };
    (0..texts.len()).map(score).sum::<f64>() / texts.len() as f64
}

fn grams(text: &[String], n: usize) -> BTreeMap<&[String], usize> {
    let mut counts = BTreeMap::new();
    for gram in text.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(texts: &[&str]) -> Vec<Vec<String>> {
        texts.iter().map(|t| words(t)).collect()
    }

    #[test]
    fn an_interval_is_students() {
        // scipy.stats.t.interval(.95, 4, loc=3, scale=sem)
        let i = interval(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.95).unwrap();
        assert_eq!(i.mean, 3.0);
        assert!((i.low.unwrap() - 1.0367568385224402).abs() < 1e-6, "{i:?}");
        let one = interval(&[2.0], 0.95).unwrap();
        assert_eq!((one.mean, one.low, one.high), (2.0, None, None));
        assert!(interval(&[], 0.95).is_none());
    }

    #[test]
    fn equal_texts_have_no_diversity_and_foreign_ones_all_of_it() {
        let same = split(&["a b c d e f"; 3]);
        assert!((self_bleu(&same) - 1.0).abs() < 1e-12);
        assert!((distinct(&same, 2) - 1.0 / 3.0).abs() < 1e-12);
        let foreign = split(&["a b c d e f", "g h i j k l"]);
        assert_eq!(self_bleu(&foreign), 0.0);
        assert_eq!(distinct(&foreign, 2), 1.0);
        let some = self_bleu(&split(&["a b c d e f", "a b c x y z"]));
        assert!(some > 0.2 && some < 0.8, "{some}");
    }
}
