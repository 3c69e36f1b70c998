//! Review forms: one TOML file from which prompt, script, parser, table and page follow.

use lm::{Part, Script};
use serde::{Deserialize, Serialize};

use crate::error::ReviewError;

/// A review form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// As `--form` takes it.
    pub name: String,
    /// As people say it.
    pub title: String,
    /// The score that is averaged and decides.
    pub main_score: String,
    /// From scores to a decision.
    pub decision: DecisionRule,
    /// Text sections.
    pub sections: Vec<SectionField>,
    /// Scores.
    pub scores: Vec<ScoreField>,
    /// The order in which fields are filled in.
    pub layout: Layout,
}

/// From scores to a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionRule {
    /// Accept where the panel's expected main score reaches this.
    pub threshold: f64,
    /// Share of submissions that the venue accepts.
    pub base_rate: f64,
    /// Where the two come from.
    pub source: String,
}

/// A text section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SectionField {
    /// Name in JSON.
    pub key: String,
    /// Heading on the form.
    pub heading: String,
    /// One point a line.
    #[serde(default)]
    pub list: bool,
    /// Room for a local model.
    pub max_tokens: usize,
}

/// A score and its values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreField {
    /// Name in JSON.
    pub key: String,
    /// Heading on the form.
    pub heading: String,
    /// Allowed values, ascending.
    pub values: Vec<ScoreValue>,
}

/// An allowed value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreValue {
    /// The number.
    pub value: i64,
    /// What it means.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// Order of fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Keys of sections and scores.
    pub order: Vec<String>,
}

/// The forms that ship.
const SHIPPED: [(&str, &str); 6] = [
    ("iclr2022", include_str!("../../../prompts/forms/iclr2022.toml")),
    ("iclr2023", include_str!("../../../prompts/forms/iclr2023.toml")),
    ("iclr2024", include_str!("../../../prompts/forms/iclr2024.toml")),
    ("iclr2025", include_str!("../../../prompts/forms/iclr2025.toml")),
    ("iclr2026", include_str!("../../../prompts/forms/iclr2026.toml")),
    ("neurips", include_str!("../../../prompts/forms/neurips.toml")),
];

/// A field of a form, in its place.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    /// Text.
    Section(&'a SectionField),
    /// Number.
    Score(&'a ScoreField),
}

impl Form {
    /// Names of the shipped forms.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHIPPED.into_iter().map(|(name, _)| name)
    }

    /// A shipped form.
    ///
    /// # Errors
    /// If there is none of that name; the message names those there are.
    pub fn named(name: &str) -> Result<Self, ReviewError> {
        match SHIPPED.into_iter().find(|(n, _)| *n == name) {
            Some((_, text)) => Self::from_toml(text),
            None => Err(ReviewError::Form(format!(
                "there is no form {name:?}; there are {}, or give a .toml file",
                Self::names().collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// True for a form of this program, unchanged.
    pub fn is_shipped(&self) -> bool {
        Self::named(&self.name).is_ok_and(|shipped| shipped == *self)
    }

    /// A form from TOML.
    ///
    /// # Errors
    /// If a key is unknown or missing, or the order names a field that is not there.
    pub fn from_toml(text: &str) -> Result<Self, ReviewError> {
        let form: Self = toml::from_str(text).map_err(|e| ReviewError::Form(e.message().to_string()))?;
        let known: Vec<&str> = form
            .sections
            .iter()
            .map(|s| s.key.as_str())
            .chain(form.scores.iter().map(|s| s.key.as_str()))
            .collect();
        let mut order: Vec<&str> = form.layout.order.iter().map(String::as_str).collect();
        let mut all = known.clone();
        order.sort_unstable();
        all.sort_unstable();
        if order != all {
            return Err(ReviewError::Form(format!(
                "layout.order must name each of {} once",
                known.join(", ")
            )));
        }
        if form.score(&form.main_score).is_none_or(|s| s.values.is_empty()) {
            return Err(ReviewError::Form(format!(
                "main_score {:?} is no score of the form",
                form.main_score
            )));
        }
        Ok(form)
    }

    /// A score by key.
    pub fn score(&self, key: &str) -> Option<&ScoreField> {
        self.scores.iter().find(|s| s.key == key)
    }

    /// Fields in the order of the form.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.layout.order.iter().filter_map(|key| {
            let section = self.sections.iter().find(|s| s.key == *key).map(Field::Section);
            section.or_else(|| self.score(key).map(Field::Score))
        })
    }

    /// The form as a script: headings stand, sections are free text, scores are choices over whole values.
    ///
    /// The layout is that of the published reviewers (`## Reviewer`, `### Heading`, blank line, value), so that their
    /// checkpoints feel at home. `room` scales the length of sections; `seed_text` may hold what stands before.
    pub fn script(&self, room: f64) -> Script {
        // Literals are whole runs of layout and end where tokens of running text end ("-" before a space), so that a
        // model reads the form in the tokens it was trained on.
        let mut parts = Vec::new();
        let mut pending = String::from("## Reviewer\n\n");
        for field in self.fields() {
            match field {
                Field::Section(s) => {
                    pending += &format!("### {}\n\n{}", s.heading, if s.list { "-" } else { "" });
                    parts.push(Part::Literal(std::mem::replace(&mut pending, "\n\n".into())));
                    parts.push(Part::Free {
                        name: s.key.clone(),
                        stop: ["\n#", "**********", "\n\n\n"].map(String::from).to_vec(),
                        max_tokens: ((s.max_tokens as f64 * room) as usize).max(16),
                        min_tokens: 8,
                        grammar: None,
                    });
                }
                Field::Score(s) => {
                    pending += &format!("### {}\n\n", s.heading);
                    parts.push(Part::Literal(std::mem::take(&mut pending)));
                    parts.push(Part::Choice {
                        name: s.key.clone(),
                        options: s.values.iter().map(|v| v.written()).collect(),
                        terminator: "\n".into(),
                    });
                    pending.push('\n');
                }
            }
        }
        Script { parts }
    }
}

impl ScoreValue {
    /// As it stands on the form: `6: marginally above …` for long labels, `3 good` for short ones, `4` without.
    pub fn written(&self) -> String {
        match self.label.len() {
            0 => self.value.to_string(),
            1..=9 => format!("{} {}", self.value, self.label),
            _ => format!("{}: {}", self.value, self.label),
        }
    }
}

impl ScoreField {
    /// The value that a written option stands for.
    pub fn value_of(&self, written: &str) -> Option<i64> {
        self.values.iter().find(|v| v.written() == written).map(|v| v.value)
    }

    /// The words for a value.
    pub fn label(&self, value: f64) -> Option<&str> {
        let found = self.values.iter().find(|v| v.value as f64 == value)?;
        (!found.label.is_empty()).then_some(found.label.as_str())
    }

    /// Smallest and largest value.
    pub fn range(&self) -> (f64, f64) {
        let values = self.values.iter().map(|v| v.value as f64);
        (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_form_is_whole() {
        for name in Form::names() {
            let form = Form::named(name).unwrap();
            assert_eq!(form.name, name);
            let choices = form.script(1.0).parts.iter().filter(|p| matches!(p, Part::Choice { .. })).count();
            assert_eq!(choices, form.scores.len());
        }
    }

    #[test]
    fn an_unknown_key_and_an_unknown_name_are_refused() {
        let text = SHIPPED[0].1.replace("main_score", "mainscore");
        assert!(Form::from_toml(&text).unwrap_err().to_string().contains("mainscore"));
        assert!(Form::named("iclr1999").unwrap_err().to_string().contains("iclr2025"));
    }
}
