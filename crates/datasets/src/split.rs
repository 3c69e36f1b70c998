//! Which papers are held out. Groups of papers that are nearly the same stay together.

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

/// A group: its key, its years, its papers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The smallest id.
    pub key: String,
    /// First and last year.
    pub years: (i32, i32),
    /// Papers in it.
    pub papers: usize,
}

/// The part of each group. By time a group that reaches over the border is in the test part as a whole: what is learned
/// from must not know what is judged. By paper the groups of the smallest hashes are tested, until there are enough
/// papers; a paper's place depends on no other paper unless a number is asked for.
pub fn parts(groups: &[Group], split: &Split) -> Vec<Part> {
    match split.by {
        SplitBy::Time => {
            let from = split.test_from.unwrap_or(i32::MAX);
            groups.iter().map(|g| if g.years.1 >= from { Part::Test } else { Part::Train }).collect()
        }
        SplitBy::Paper => {
            let hash = |key: &str| sources::sha256(format!("split\n{key}").as_bytes());
            let mut out = vec![Part::Train; groups.len()];
            if let Some(wanted) = split.test {
                let mut order: Vec<(String, usize)> = groups.iter().map(|g| hash(&g.key)).zip(0..).collect();
                order.sort();
                let mut papers = 0;
                for (_, i) in order {
                    // A group that is too large for what is left is passed over, so that the number is met.
                    if papers + groups[i].papers <= wanted {
                        papers += groups[i].papers;
                        out[i] = Part::Test;
                    }
                }
            } else {
                let limit = (split.test_share * f64::from(u32::MAX)) as u32;
                for (part, group) in out.iter_mut().zip(groups) {
                    let share = u32::from_str_radix(&hash(&group.key)[..8], 16).unwrap_or(u32::MAX);
                    if share < limit {
                        *part = Part::Test;
                    }
                }
            }
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(n: usize) -> Vec<Group> {
        (0..n)
            .map(|i| Group {
                key: format!("p{i}"),
                years: (2020 + i as i32 % 4, 2021 + i as i32 % 4),
                papers: 1 + i % 3,
            })
            .collect()
    }

    #[test]
    fn the_wanted_number_of_papers_is_tested_and_a_group_is_never_divided() {
        let groups = groups(300);
        let split = Split { test: Some(50), ..Split::default() };
        let found = parts(&groups, &split);
        let tested: usize =
            groups.iter().zip(&found).filter(|(_, p)| **p == Part::Test).map(|(g, _)| g.papers).sum();
        assert_eq!(tested, 50);
        let by_time = Split { by: SplitBy::Time, test_from: Some(2023), ..Split::default() };
        for (group, part) in groups.iter().zip(parts(&groups, &by_time)) {
            assert_eq!(part == Part::Test, group.years.1 >= 2023);
        }
        // By share, a paper's part does not depend on which others there are.
        let share = Split::default();
        assert_eq!(parts(&groups, &share)[..100], parts(&groups[..100], &share));
    }
}
