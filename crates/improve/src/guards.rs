//! Whether a gain is real: figures of a policy on held-out prompts against those of the start.

use crate::config::Guards;
use crate::rows::{Evaluation, Interval};

/// What is wrong with a policy, in words; nothing if it may be kept.
///
/// `step` holds what both judges gained since the policy in force, where that is not the start.
pub fn alarms(
    guards: &Guards,
    start: &Evaluation,
    now: &Evaluation,
    step: Option<&Evaluation>,
) -> Vec<String> {
    let mut alarms = Vec::new();
    let show = |i: &Interval| match (i.low, i.high) {
        (Some(low), Some(high)) => format!("{:+.3} [{low:+.3}, {high:+.3}]", i.mean),
        _ => format!("{:+.3}", i.mean),
    };
    if let (Some(first), Some(second)) = (&now.judge_gain, &now.second_gain) {
        let rises = rises(first);
        if falls(first) {
            alarms.push(format!("the judge falls by {}", show(first)));
        }
        if rises && falls(second) {
            alarms.push(format!(
                "the judge rises by {}, the second judge falls by {}",
                show(first),
                show(second)
            ));
        } else if let (Some(first_sd), Some(second_sd)) = (now.judge_sd.filter(|s| *s > 1e-9), now.second_sd)
        {
            // In deviations of each judge's own scores: a gain that only one of them sees is its weakness.
            let gain = first.mean / first_sd.max(f64::MIN_POSITIVE);
            let seen = second.high.unwrap_or(second.mean) / second_sd.max(f64::MIN_POSITIVE);
            if rises && gain >= guards.unconfirmed && seen < guards.unconfirmed_share * gain {
                alarms.push(format!(
                    "the judge rises by {} ({gain:.1} of its standard deviations), the second judge does not confirm it: {}",
                    show(first),
                    show(second)
                ));
            }
        } else if rises && second.mean <= 0.0 {
            // Scores that were all alike at the start have no deviation to measure a gain in.
            alarms.push(format!(
                "the judge rises by {}, the second judge does not confirm it: {}",
                show(first),
                show(second)
            ));
        }
    }
    if let Some((first, second)) = step.and_then(|s| s.judge_gain.as_ref().zip(s.second_gain.as_ref())) {
        if rises(first) && falls(second) {
            alarms.push(format!(
                "since the iteration before the judge rises by {}, the second judge falls by {}",
                show(first),
                show(second)
            ));
        }
    }
    if now.second.is_some() && now.judge_gain.is_some() && now.second_gain.is_none() {
        alarms.push("the second judge scored no prompt both now and at the start".into());
    }
    if now.judge.is_some() && now.judge_gain.is_none() {
        alarms.push("the judge scored no prompt both now and at the start".into());
    }
    if now.judge.is_none() {
        alarms.push("the judge scored none of the held-out papers".into());
    }
    if now.second.is_none() {
        alarms.push("the second judge scored none of the held-out papers".into());
    }
    let ratio = now.tokens / start.tokens.max(1.0);
    if ratio > guards.length_ratio || ratio < 1.0 / guards.length_ratio {
        alarms.push(format!(
            "lengths ran away: {:.0} tokens, {:.0} at the start (limit {:.2} times)",
            now.tokens, start.tokens, guards.length_ratio
        ));
    }
    if now.distinct < guards.distinct * start.distinct {
        alarms.push(format!(
            "diversity fell: {:.3} of the bigrams are distinct, {:.3} at the start (limit {:.2} times)",
            now.distinct, start.distinct, guards.distinct
        ));
    }
    if now.self_bleu > start.self_bleu + guards.self_bleu {
        alarms.push(format!(
            "diversity fell: self-BLEU {:.3}, {:.3} at the start (limit {:+.2})",
            now.self_bleu, start.self_bleu, guards.self_bleu
        ));
    }
    if let Some(kl) = now.kl.filter(|kl| *kl > guards.kl) {
        alarms.push(format!(
            "the log-ratio to the start (KL) is {kl:.3} nats per token (limit {:.3})",
            guards.kl
        ));
    }
    // Of some dozens of papers a tenth may be valid or not by chance.
    let falls = now.validity_change.is_none_or(|i| i.high.is_none_or(|high| high < 0.0));
    if now.validity < start.validity - guards.validity && falls {
        alarms.push(format!(
            "fewer papers are valid: {:.1} %, {:.1} % at the start (limit {:.1} points)",
            100.0 * now.validity,
            100.0 * start.validity,
            100.0 * guards.validity
        ));
    }
    alarms
}

fn rises(gain: &Interval) -> bool {
    gain.low.is_some_and(|low| low > 0.0)
}

fn falls(gain: &Interval) -> bool {
    gain.high.is_some_and(|high| high < 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn around(mean: f64) -> Option<Interval> {
        Some(Interval { mean, low: Some(mean - 0.15), high: Some(mean + 0.15), n: 20 })
    }

    fn figures(gain: f64, second: f64) -> Evaluation {
        Evaluation {
            judge: around(5.0),
            second: around(5.0),
            judge_gain: around(gain),
            second_gain: around(second),
            judge_sd: Some(0.5),
            second_sd: Some(0.5),
            validity: 0.9,
            validity_change: None,
            acceptance: None,
            tokens: 300.0,
            distinct: 0.5,
            self_bleu: 0.4,
            kl: Some(0.1),
            terms: BTreeMap::new(),
            failed: 0,
            unscored: 0,
            second_unscored: 0,
        }
    }

    #[test]
    fn each_guard_goes_off_by_itself_and_none_without_cause() {
        let guards = Guards::default();
        let start = figures(0.0, 0.0);
        let said = |now: &Evaluation| alarms(&guards, &start, now, None);
        assert!(said(&figures(0.4, 0.3)).is_empty());
        assert!(said(&figures(-0.4, -0.3))[0].contains("judge falls"), "both judges find it worse");
        let same = |second| said(&Evaluation { judge_sd: Some(0.0), ..figures(0.4, second) });
        assert!(
            same(0.1).is_empty() && same(-0.1)[0].contains("does not confirm"),
            "no deviation at the start"
        );
        let step = alarms(&guards, &start, &figures(0.9, 0.3), Some(&figures(0.4, -0.2)));
        assert!(step[0].contains("since the iteration before"), "{step:?}");
        let noisy = Evaluation { validity: 0.77, validity_change: around(-0.13), ..figures(0.4, 0.3) };
        assert!(said(&noisy).is_empty(), "a fall that may be chance");
        assert!(said(&figures(0.4, -0.2))[0].contains("falls"));
        assert!(said(&figures(2.0, 0.0))[0].contains("does not confirm"));
        let changed = |change: &dyn Fn(&mut Evaluation)| {
            let mut now = figures(0.4, 0.3);
            change(&mut now);
            said(&now)
        };
        for (change, word) in [
            (&(|e: &mut Evaluation| e.tokens = 600.0) as &dyn Fn(&mut Evaluation), "lengths"),
            (&|e| e.tokens = 100.0, "lengths"),
            (&|e| e.distinct = 0.2, "bigrams"),
            (&|e| e.self_bleu = 0.8, "self-BLEU"),
            (&|e| e.kl = Some(3.0), "KL"),
            (&|e| e.validity = 0.5, "valid"),
            (&|e| (e.validity, e.validity_change) = (0.7, around(-0.2)), "valid"),
            (&|e| e.second = None, "second judge scored none"),
        ] {
            let alarms = changed(change);
            assert!(alarms.len() == 1 && alarms[0].contains(word), "{word}: {alarms:?}");
        }
    }
}
