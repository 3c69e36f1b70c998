//! The specifications of `datasets/`, in the binary.

use crate::error::DatasetError;
use crate::spec::Spec;

/// Names and texts.
pub const SHIPPED: [(&str, &str); 4] = [
    ("review-5k", include_str!("../../../datasets/review-5k.toml")),
    ("research-14k", include_str!("../../../datasets/research-14k.toml")),
    ("iclr-reviews", include_str!("../../../datasets/iclr-reviews.toml")),
    ("latex-papers", include_str!("../../../datasets/latex-papers.toml")),
];

/// A specification by name.
///
/// # Errors
/// If there is none of that name; the nearest one is offered.
pub fn shipped(name: &str) -> Result<Spec, DatasetError> {
    if let Some((_, text)) = SHIPPED.iter().find(|(n, _)| *n == name) {
        return Spec::parse(text, &format!("datasets/{name}.toml"));
    }
    let best = SHIPPED
        .iter()
        .map(|(n, _)| *n)
        .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    let what = format!(
        "no specification is called so, and it is no file; did you mean `{}`?",
        best.unwrap_or_default()
    );
    Err(DatasetError::Spec { place: name.into(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_specification_is_read_under_its_own_name() {
        for (name, _) in SHIPPED {
            assert_eq!(shipped(name).unwrap().name, name);
        }
        assert!(shipped("review-5").unwrap_err().to_string().contains("did you mean `review-5k`"));
    }
}
