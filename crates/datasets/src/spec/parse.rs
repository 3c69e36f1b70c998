//! A specification read and checked, with words that say where it is wrong.

use std::path::Path;

use super::{ListedBy, Spec, SplitBy, Venue};
use crate::error::DatasetError;
use crate::scale::Scale;

impl Spec {
    /// Reads a specification; `place` names it in messages.
    ///
    /// # Errors
    /// If it is no TOML, has a key that does not exist, or contradicts itself.
    pub fn parse(text: &str, place: &str) -> Result<Self, DatasetError> {
        let wrong = |what: String| DatasetError::Spec { place: place.into(), what };
        let spec: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            wrong(format!("line {line}: {}", nearest(e.message())))
        })?;
        for venue in &spec.venue {
            let who = format!("{} {}", venue.name, venue.year);
            if let Some(scale) = &venue.scale
                && !spec.scales.contains_key(scale)
            {
                let known: Vec<&str> = spec.scales.keys().map(String::as_str).collect();
                return Err(wrong(format!(
                    "{who}: no scale is called `{scale}`; there are {}",
                    known.join(", ")
                )));
            }
            if venue.listed_by == ListedBy::Openreview && (venue.api.is_none() || venue.submissions.is_none())
            {
                return Err(wrong(format!(
                    "{who}: OpenReview needs `api` (\"1\" or \"2\") and `submissions`"
                )));
            }
        }
        let share = |name: &str, x: f64| {
            if (0.0..=1.0).contains(&x) {
                Ok(())
            } else {
                Err(wrong(format!("{name} is {x}, not between 0 and 1")))
            }
        };
        share("split.test_share", spec.split.test_share)?;
        share("near_duplicates.similarity", spec.near_duplicates.similarity)?;
        share("match.least_confidence", spec.matching.least_confidence)?;
        share("filters.citations", spec.filters.citations)?;
        if let Some(from) = &spec.split.test_from {
            let from = from.to_string();
            let is_moment = from
                .split('-')
                .zip([4, 2, 2])
                .all(|(part, digits)| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()));
            if spec.split.by != SplitBy::Time {
                return Err(wrong("split.test_from is of `by = \"time\"`".into()));
            }
            if !is_moment || from.split('-').count() > 3 {
                return Err(wrong(format!(
                    "split.test_from = {from:?}: 2024, \"2024-03\" or \"2024-03-01\""
                )));
            }
        }
        if spec.name.is_empty() || !spec.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return Err(wrong(format!("name = {:?}: letters, digits, - _ . only", spec.name)));
        }
        Ok(spec)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Spec::parse`], or if the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, DatasetError> {
        let text = std::fs::read_to_string(path).map_err(DatasetError::reading(path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The venue of a record, and its scale.
    pub(crate) fn venue_of(&self, name: &str, year: i32) -> Option<&Venue> {
        self.venue.iter().find(|v| v.year == year && v.name.eq_ignore_ascii_case(name))
    }

    /// The scale of a venue.
    pub(crate) fn scale_of(&self, name: &str, year: i32) -> Option<&Scale> {
        self.scales.get(self.venue_of(name, year)?.scale.as_ref()?)
    }
}

/// Serde's words about an unknown key, with the nearest known one in front of the list.
fn nearest(message: &str) -> String {
    let Some(rest) =
        message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))
    else {
        return message.lines().next().unwrap_or_default().into();
    };
    let mut quoted = rest.split('`');
    let typed = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.skip(1).step_by(2).collect();
    let best =
        known.iter().max_by(|a, b| strsim::jaro_winkler(typed, a).total_cmp(&strsim::jaro_winkler(typed, b)));
    match best {
        Some(best) => format!("`{typed}` is not known here; did you mean `{best}`?"),
        None => format!("`{typed}` is not known here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = \"x\"\nkind = \"review\"\ndescription = \"y\"\n";

    #[test]
    fn a_wrong_key_is_named_with_its_line_and_the_nearest_right_one() {
        let says = |more: &str| Spec::parse(&format!("{LEAST}{more}"), "x.toml").unwrap_err().to_string();
        assert_eq!(
            says("[filters]\nreview = 3\n"),
            "x.toml: line 5: `review` is not known here; did you mean `reviews`?"
        );
        assert!(says("[near_duplicates]\naction = \"dorp\"\n").contains("did you mean `drop`"));
        assert!(says("[split]\ntest_from = 2024\n").contains("by = \"time\""));
        assert!(says("[split]\ntest_share = 3\n").contains("not between 0 and 1"));
        let venue = "[[venue]]\nname = \"ICLR\"\nyear = 2024\nlisted_by = \"openreview\"\nid = \"I\"\n";
        assert!(says(venue).contains("needs `api`"));
        assert!(Spec::parse(LEAST, "x.toml").is_ok());
    }
}
