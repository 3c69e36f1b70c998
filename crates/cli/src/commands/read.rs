//! `cycle read`: a paper as it is read.

use documents::{Document, Finding, Severity, read_isolated, scrub};

use crate::args::{Format, ReadArgs};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::emit;

/// Runs the command.
///
/// # Errors
/// If the file cannot be read.
pub fn run(context: &Context, args: &ReadArgs) -> Result<Outcome, Failure> {
    let mut document = read_isolated(&args.path, &documents::Limits::default())?;
    if args.scrubbed {
        document = scrub(&document);
    }
    let text = match (args.findings, args.format) {
        (true, Format::Json) => {
            serde_json::json!({"schema": "cycle.findings/1", "findings": document.findings}).to_string()
        }
        (true, _) => findings(&document),
        (false, Format::Json) => {
            let mut value = serde_json::to_value(&document).map_err(|e| Failure::new(Code::Input, e))?;
            value["schema"] = "cycle.document/1".into();
            value.to_string()
        }
        (false, Format::Text | Format::Md) => markdown(&document),
        (false, Format::Html) => {
            return Err(Failure::new(Code::Usage, "cycle read has no HTML; use text, md or json"));
        }
    };
    emit(&text, args.out.as_deref())?;
    let hidden = document.findings.iter().filter(|f| f.severity > Severity::Note).count();
    if hidden > 0 && !args.findings {
        let what = if hidden == 1 { "finding needs" } else { "findings need" };
        context.note(&format!("{hidden} {what} a look: cycle read {} --findings", args.path.display()));
    }
    Ok(if hidden > 0 { Outcome::Look } else { Outcome::Done })
}

fn findings(document: &Document) -> String {
    if document.findings.is_empty() {
        return "nothing found".into();
    }
    document.findings.iter().map(finding).collect::<Vec<_>>().join("\n")
}

/// "hidden, page 3, white-on-white at [72 700 300 712]: the text", in one line.
fn finding(f: &Finding) -> String {
    let severity = match f.severity {
        Severity::Hidden => "hidden",
        Severity::Instruction => "instruction",
        Severity::Note => "note",
    };
    let page = f.page.map_or(String::new(), |p| format!(", page {p}"));
    let place = f.bounds.map_or(String::new(), |[x0, y0, x1, y1]| {
        format!(" at [{x0:.0} {y0:.0} {x1:.0} {y1:.0}] (points from the top left)")
    });
    format!("{severity}{page}, {}{place}: {}", f.reason, f.text.replace('\n', " "))
}

fn markdown(document: &Document) -> String {
    let mut out = String::new();
    if let Some(title) = &document.title {
        out += &format!("# {title}\n\n");
    }
    if let Some(front) = &document.front_matter {
        out += &format!("{front}\n\n");
    }
    if let Some(text) = &document.abstract_text {
        out += &format!("## Abstract\n\n{text}\n\n");
    }
    for s in &document.sections {
        if !s.heading.is_empty() {
            let number = s.number.as_ref().map_or(String::new(), |n| format!("{n} "));
            out += &format!("{} {number}{}\n\n", "#".repeat(usize::from(s.level) + 1), s.heading);
        }
        out += &format!("{}\n\n", s.text.trim());
    }
    if !document.references.is_empty() {
        out += "## References\n\n";
        for r in &document.references {
            let key = r.key.as_ref().map_or(String::new(), |k| format!("[{k}] "));
            out += &format!("{key}{}\n", r.text);
        }
    }
    out
}
