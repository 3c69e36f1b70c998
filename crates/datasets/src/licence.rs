//! Licences as they are written, in one spelling.

use crate::spec::{Licences, Unknown};

/// `CC BY 4.0` of an address, of `cc-by`, or as it stands.
pub fn normal(text: &str) -> String {
    let low = text.trim().to_lowercase();
    if let Some((_, rest)) = low.split_once("creativecommons.org/") {
        let mut parts = rest.trim_start_matches("licenses/").trim_start_matches("publicdomain/").split('/');
        let kind = parts.next().unwrap_or_default();
        let version = parts.next().unwrap_or_default();
        return match kind {
            "zero" => "CC0 1.0".into(),
            kind => format!("CC {} {version}", kind.to_uppercase()).trim().to_string(),
        };
    }
    if low.contains("arxiv.org/licenses/nonexclusive-distrib") {
        return "arXiv nonexclusive-distrib 1.0".into();
    }
    if let Some(rest) = low.strip_prefix("cc-") {
        return format!("CC {}", rest.to_uppercase());
    }
    text.trim().to_string()
}

/// Why a paper with this licence may not stay; `None` if it may.
pub fn refusal(license: Option<&str>, rule: &Licences) -> Option<String> {
    let Some(license) = license.map(normal).filter(|l| !l.is_empty()) else {
        let wanted = rule.unknown == Unknown::Drop;
        return wanted.then(|| "its licence is not known".into());
    };
    // `CC BY` begins `CC BY 4.0`, but not `CC BY-NC 4.0`.
    let begins = |wanted: &String| {
        let (l, w) = (license.to_lowercase(), normal(wanted).to_lowercase());
        l.strip_prefix(&w).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    if rule.deny.iter().any(begins) {
        return Some(format!("its licence is {license}, which is denied"));
    }
    if !rule.allow.is_empty() && !rule.allow.iter().any(begins) {
        return Some(format!("its licence is {license}, which is not among those allowed"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_compared_by_its_kind_and_not_by_its_first_letters() {
        assert_eq!(normal("http://creativecommons.org/licenses/by-nc/4.0/"), "CC BY-NC 4.0");
        assert_eq!(normal("cc-by"), "CC BY");
        assert_eq!(
            normal("http://arxiv.org/licenses/nonexclusive-distrib/1.0/"),
            "arXiv nonexclusive-distrib 1.0"
        );
        let rule = Licences {
            allow: vec!["CC BY".into(), "CC0".into()],
            unknown: Unknown::Drop,
            ..Licences::default()
        };
        assert_eq!(refusal(Some("https://creativecommons.org/licenses/by/4.0/"), &rule), None);
        assert!(refusal(Some("CC BY-NC 4.0"), &rule).is_some());
        assert!(refusal(None, &rule).is_some());
        assert_eq!(refusal(None, &Licences::default()), None);
    }
}
