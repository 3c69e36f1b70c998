//! The table of preference objectives.

use serde_json::{Value, json};
use training::objectives::{Entry, table};

use crate::args::Format;
use crate::commands::Outcome;
use crate::failure::Failure;
use crate::output::emit;

/// Prints the table.
pub fn show(format: Format) -> Result<Outcome, Failure> {
    let text = match format {
        Format::Json => {
            json!({"schema": "cycle.objectives/1", "objectives": table().iter().map(object).collect::<Vec<_>>()})
                .to_string()
        }
        Format::Md => markdown(),
        _ => plain(),
    };
    emit(&text, None)?;
    Ok(Outcome::Done)
}

fn object(entry: &Entry) -> Value {
    let mut value = serde_json::to_value(entry).unwrap_or_default();
    value["parameters"] = entry.parameters.iter().map(|(name, default)| (*name, json!(default))).collect();
    value
}

fn names(entry: &Entry) -> String {
    entry.aliases.iter().fold(entry.name.to_string(), |names, alias| format!("{names} ({alias})"))
}

fn defaults(entry: &Entry) -> String {
    let all: Vec<String> =
        entry.parameters.iter().map(|(name, default)| format!("{name} {default}")).collect();
    all.join(", ")
}

/// What rows and models it takes.
fn needs(entry: &Entry) -> String {
    let n = entry.needs;
    let mut words = vec![if n.reference { "reference" } else { "no reference" }];
    for (needed, word) in [
        (!n.pairs, "labelled answers"),
        (n.scores, "scores"),
        (n.probabilities, "probabilities"),
        (n.margins, "margins"),
        (n.whole_batch, "the whole batch"),
    ] {
        if needed {
            words.push(word);
        }
    }
    if entry.length_normalised {
        words.push("by length");
    }
    words.join(", ")
}

const LEGEND: &str = "l: summed log-probability of an answer, h: l minus the reference's, n: its tokens, D = h_c − h_r; \
                      c is the chosen answer, r the rejected one.";

fn plain() -> String {
    let mut out = format!("{LEGEND}\n");
    let mut family = "";
    for entry in table() {
        if entry.family != family {
            family = entry.family;
            out += &format!("\n{}\n", family.replace('_', " "));
        }
        out += &format!("  {:<18} {}\n", names(entry), entry.formula);
        let facts = [needs(entry), defaults(entry), entry.source.to_string()];
        let facts: Vec<String> = facts.into_iter().filter(|f| !f.is_empty()).collect();
        out += &format!("  {:<18} {}\n", "", facts.join("; "));
    }
    out
}

fn markdown() -> String {
    let mut out = format!(
        "{LEGEND}\n\n| name | loss | needs a reference | by length | defaults | source |\n|---|---|---|---|---|---|\n"
    );
    let yes = |b: bool| if b { "yes" } else { "no" };
    for entry in table() {
        let cells = [
            names(entry),
            entry.formula.replace('|', "\\|"),
            yes(entry.needs.reference).into(),
            yes(entry.length_normalised).into(),
            defaults(entry),
            entry.source.into(),
        ];
        out += &format!("| {} |\n", cells.join(" | "));
    }
    out
}
