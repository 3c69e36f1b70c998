//! Which papers are held out. Groups of papers that are nearly the same stay together.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::spec::{Split, SplitBy};

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// To learn from.
    Train,
    /// Held out.
    Test,
}

impl Part {
    /// Its name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// A group: its key, when its last paper came, its papers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The smallest id.
    pub key: String,
    /// `2023-09-28`, `2023-09` or `2023`, as exactly as it is known: of two such words the later time is the larger one.
    pub last: String,
    /// Papers in it.
    pub papers: usize,
}

/// The part of each group. By time a group that reaches over the border is in the test part as a whole: what is learned
/// from must not know what is judged. By paper the groups of the smallest hashes are tested, until there are enough
/// papers; a paper's place depends on no other paper unless a number is asked for.
pub fn parts(groups: &[Group], split: &Split) -> Vec<Part> {
    let hash = |g: &Group| sources::sha256(format!("split\n{}", g.key).as_bytes());
    let all: usize = groups.iter().map(|g| g.papers).sum();
    match (split.by, &split.test_from, split.test) {
        (SplitBy::Time, Some(from), _) => {
            let from = from.to_string();
            groups.iter().map(|g| if g.last >= from { Part::Test } else { Part::Train }).collect()
        }
        (SplitBy::Time, None, wanted) => {
            // Of one day the hashes decide.
            let wanted = wanted.unwrap_or((split.test_share * all as f64).round() as usize);
            tested(groups, wanted, true, |g| (Reverse(g.last.clone()), hash(g)))
        }
        (SplitBy::Paper, _, Some(wanted)) => tested(groups, wanted, false, hash),
        (SplitBy::Paper, _, None) => {
            let limit = (split.test_share * f64::from(u32::MAX)) as u32;
            let share = |g: &Group| u32::from_str_radix(&hash(g)[..8], 16).unwrap_or(u32::MAX);
            groups.iter().map(|g| if share(g) < limit { Part::Test } else { Part::Train }).collect()
        }
    }
}

/// The first groups of an order, until the wanted number of papers is tested. At a group that is too large for what is left
/// a `strict` order ends, a few papers short; another one passes it over, so that the number is met.
fn tested<K: Ord>(groups: &[Group], wanted: usize, strict: bool, order: impl Fn(&Group) -> K) -> Vec<Part> {
    let mut out = vec![Part::Train; groups.len()];
    let mut turn: Vec<(K, usize)> = groups.iter().map(order).zip(0..).collect();
    turn.sort();
    let mut papers = 0;
    for (_, i) in turn {
        if papers + groups[i].papers <= wanted {
            papers += groups[i].papers;
            out[i] = Part::Test;
        } else if strict {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::When;

    fn groups(n: usize) -> Vec<Group> {
        let last = |i: usize| match i % 3 {
            0 => format!("{}", 2020 + i % 4),
            1 => format!("{}-{:02}", 2020 + i % 4, 1 + i % 12),
            _ => format!("{}-{:02}-{:02}", 2020 + i % 4, 1 + i % 12, 1 + i % 28),
        };
        (0..n).map(|i| Group { key: format!("p{i}"), last: last(i), papers: 1 + i % 3 }).collect()
    }

    fn count(groups: &[Group], found: &[Part]) -> usize {
        groups.iter().zip(found).filter(|(_, p)| **p == Part::Test).map(|(g, _)| g.papers).sum()
    }

    #[test]
    fn the_wanted_number_of_papers_is_tested_and_a_group_is_never_divided() {
        let groups = groups(300);
        let split = Split { test: Some(50), ..Split::default() };
        assert_eq!(count(&groups, &parts(&groups, &split)), 50);
        // By share, a paper's part does not depend on which others there are.
        let share = Split::default();
        assert_eq!(parts(&groups, &share)[..100], parts(&groups[..100], &share));
    }

    #[test]
    fn by_time_nothing_that_is_learned_from_is_later_than_what_is_tested() {
        let groups = groups(300);
        let from =
            Split { by: SplitBy::Time, test_from: Some(When::Day("2023-05".into())), ..Split::default() };
        for (group, part) in groups.iter().zip(parts(&groups, &from)) {
            assert_eq!(part == Part::Test, group.last.as_str() >= "2023-05");
        }
        let latest = Split { by: SplitBy::Time, test: Some(80), ..Split::default() };
        let found = parts(&groups, &latest);
        assert!((78..=80).contains(&count(&groups, &found)));
        let of =
            |part: Part| groups.iter().zip(&found).filter(move |(_, p)| **p == part).map(|(g, _)| &g.last);
        assert!(of(Part::Train).max() <= of(Part::Test).min());
        let share = Split { by: SplitBy::Time, test_share: 0.25, ..Split::default() };
        assert!((148..=150).contains(&count(&groups, &parts(&groups, &share))));
    }
}
