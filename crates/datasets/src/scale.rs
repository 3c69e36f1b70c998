//! Ratings as each year wrote them: "8: accept, good paper", "3 good", 6.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A rating scale of a venue and year. Scales are never mixed: a 6 of 2020 is not a 6 of 2022.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The review's field that holds the rating, the first one that is there.
    pub fields: Vec<String>,
    /// The values that may occur.
    pub values: Vec<f64>,
    /// The wording of each value, where it is known.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// A score as it was written, and its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// The number.
    pub value: f64,
    /// The words behind it, in the source's spelling.
    pub label: Option<String>,
}

/// Reads a score: a number, or text that begins with one (`10: strong accept` is ten, not one). `None` where there is no
/// number: free text has no rating, and none is never zero.
pub fn label(value: &Value) -> Option<Label> {
    match value {
        Value::Number(n) => n.as_f64().filter(|v| v.is_finite()).map(|value| Label { value, label: None }),
        Value::String(text) => {
            let text = text.trim().trim_start_matches('*').trim_start();
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
            let number = text[..end].trim_end_matches('.');
            let rest = text[number.len()..].trim_start_matches('*');
            // "2-3" and "7th" are words, not scores.
            if number.is_empty() || !(rest.is_empty() || rest.starts_with([':', ' ', '.', ',', '('])) {
                return None;
            }
            let words = rest.trim_start_matches([':', '.', ',', ' ']).trim();
            let label = (!words.is_empty()).then(|| words.to_string());
            number.parse().ok().map(|value| Label { value, label })
        }
        _ => None,
    }
}

impl Scale {
    /// True for a value that occurs on it.
    pub fn has(&self, value: f64) -> bool {
        self.values.iter().any(|v| (v - value).abs() < 1e-9)
    }

    /// The words of a value.
    pub fn label(&self, value: f64) -> Option<&str> {
        let at = self.values.iter().position(|v| (v - value).abs() < 1e-9)?;
        self.labels.get(at).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rating_of_ten_is_not_one_and_free_text_is_none() {
        let value = |v: Value| label(&v).map(|l| l.value);
        assert_eq!(value(json!("10: strong accept, should be highlighted")), Some(10.0));
        assert_eq!(value(json!("3 good")), Some(3.0));
        assert_eq!(value(json!("6.5")), Some(6.5));
        assert_eq!(value(json!(" 8 : accept")), Some(8.0));
        assert_eq!(value(json!(6)), Some(6.0));
        for none in [
            json!("strong accept"),
            json!("Not applicable"),
            json!(""),
            json!("2-3"),
            json!(null),
            json!([8]),
        ] {
            assert_eq!(value(none.clone()), None, "{none}");
        }
        let found = label(&json!("8: accept, good paper")).unwrap();
        assert_eq!(found.label.as_deref(), Some("accept, good paper"));
    }
}
