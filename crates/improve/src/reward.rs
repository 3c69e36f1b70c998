//! From a judge's score and the checks to one number, every term of it by name.

use std::collections::BTreeMap;

use crate::config::{Reward, TermName};
use crate::rows::{Checked, Compared, Rewarded, Scored};

/// The reward of a sample. A judge that said nothing, or a sum that is no number, leaves it without one.
pub fn reward(config: &Reward, scored: &Scored, checked: &Checked) -> Rewarded {
    let mut all = checked.terms.clone();
    let judged = [
        (TermName::Mean, scored.mean),
        (TermName::Std, scored.std),
        (TermName::Min, scored.min),
        (TermName::WinRate, scored.win_rate),
    ];
    all.extend(judged.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let (mut total, mut terms, mut gated) = (0.0, BTreeMap::new(), Vec::new());
    let mut known = scored.failed.is_none();
    for term in &config.terms {
        let Some(&value) = all.get(&term.name) else {
            // What a judge should have said is missing; a check that does not apply is not.
            let judges =
                matches!(term.name, TermName::Mean | TermName::Std | TermName::Min | TermName::WinRate);
            known &= !(judges && term.weight != 0.0);
            continue;
        };
        if term.weight != 0.0 {
            total += term.weight * value;
        }
        terms.insert(term.name, value);
        let low = term.at_least.is_some_and(|least| value < least);
        let high = term.at_most.is_some_and(|most| value > most);
        if low || high {
            gated.push(term.name);
        }
    }
    let mut weighed = config.terms.iter().filter(|t| t.weight != 0.0);
    let alone = weighed.next().filter(|t| weighed.next().is_none() && t.weight > 0.0);
    let compares = alone.is_some_and(|t| matches!(t.name, TermName::Mean | TermName::WinRate));
    let compared = scored.win_rate.zip(scored.log_odds).filter(|_| compares);
    let compared = compared.map(|(win_rate, log_odds)| Compared { win_rate, log_odds });
    Rewarded { compared, total: Some(total).filter(|t| known && t.is_finite()), terms, gated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Term;

    #[test]
    fn a_reward_is_its_weighed_terms_and_never_a_zero_in_place_of_a_missing_one() {
        let term = |name, weight, at_least| Term { name, weight, at_least, at_most: None };
        let config = Reward {
            terms: vec![
                term(TermName::Mean, 1.0, None),
                term(TermName::Std, -0.5, None),
                term(TermName::Distinct, 0.0, Some(0.8)),
                term(TermName::Citations, 0.0, Some(1.0)),
            ],
        };
        let mut scored = Scored::of("j".into(), 5.0);
        scored.std = Some(2.0);
        let mut checked = Checked::default();
        checked.terms.insert(TermName::Distinct, 0.9);
        let fine = reward(&config, &scored, &checked);
        assert_eq!(fine.total, Some(4.0));
        assert!(fine.gated.is_empty(), "a check that does not apply keeps nothing out: {:?}", fine.gated);

        checked.terms.insert(TermName::Distinct, 0.7);
        assert_eq!(reward(&config, &scored, &checked).gated, [TermName::Distinct]);
        assert_eq!(reward(&config, &Scored::failed("j".into(), "silent"), &checked).total, None);
        assert_eq!(reward(&config, &Scored::of("j".into(), f64::NAN), &checked).total, None);
    }
}
