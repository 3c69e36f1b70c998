//! The little YAML that configurations need: keys, scalars, lists in a row, tables one level down.

use serde_json::Value;

/// `key: value` lines; strings quoted, numbers such that YAML 1.1 reads them as numbers.
pub(super) fn text(comment: &str, pairs: &[(&str, Value)]) -> String {
    let mut out = String::new();
    for line in comment.lines() {
        out.push_str(&format!("# {line}\n"));
    }
    for (key, value) in pairs {
        match value {
            Value::Object(table) => {
                out.push_str(&format!("{key}:\n"));
                for (inner, value) in table {
                    out.push_str(&format!("  {inner}: {}\n", scalar(value)));
                }
            }
            other => out.push_str(&format!("{key}: {}\n", scalar(other))),
        }
    }
    out
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() => number(f),
            _ => n.to_string(),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(scalar).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// `5e-7` would be a string to YAML 1.1.
pub(super) fn number(f: f64) -> String {
    let text = f.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn numbers_have_a_point_and_strings_are_quoted() {
        let pairs =
            [("a", json!(5e-7)), ("b", json!([0.8, 1.0])), ("c", json!("no")), ("d", json!({"e": true}))];
        let text = super::text("about", &pairs);
        assert_eq!(text, "# about\na: 0.0000005\nb: [0.8, 1.0]\nc: \"no\"\nd:\n  e: true\n");
    }
}
