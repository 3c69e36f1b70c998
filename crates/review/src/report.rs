//! A review as text, Markdown and one self-contained HTML page.

use askama::Template;
use documents::Severity;

use crate::form::{Form, ScoreField};
use crate::review::{AnchorKind, Review, Reviewer, ScoreRead, Weakness};

/// Half up to one decimal, without a trailing ".0".
fn short(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Where a weakness stands and, where it was asked, how far the paper bears it out.
fn place(weakness: &Weakness) -> String {
    let anchor = &weakness.anchor;
    let mut parts = Vec::new();
    parts.extend(anchor.section.as_ref().map(|s| format!("section {s}")));
    parts.extend(anchor.page.map(|p| format!("page {p}")));
    if anchor.kind == AnchorKind::Quoted {
        parts.push("quoted".into());
    }
    parts.extend(weakness.support.map(|p| format!("borne out {p:.2}")));
    parts.join(", ")
}

fn title(review: &Review) -> &str {
    review.paper.title.as_deref().unwrap_or("(no title found)")
}

fn decision_line(review: &Review) -> Option<String> {
    let d = review.decision.as_ref()?;
    Some(format!(
        "{} (acceptance probability {:.2}; the venue accepts {:.0} %)",
        d.label,
        d.accept_probability,
        d.base_rate * 100.0
    ))
}

fn read_line(review: &Review) -> String {
    match (review.paper.tokens_read, review.paper.tokens) {
        (Some(read), Some(all)) if read < all => format!("{read} of {all} tokens were read"),
        (Some(read), _) => format!("all {read} tokens were read"),
        _ => "read as far as the server's model reads".into(),
    }
}

/// Plain text for a terminal, lines of at most `width` columns.
pub fn text(review: &Review, form: &Form, width: usize) -> String {
    let mut out = String::new();
    let mut line = |indent: usize, text: &str| wrap(&mut out, indent, text, width);
    line(0, title(review));
    line(0, &format!("{}, {}", form.title, read_line(review)));
    line(0, "");
    for f in &review.findings {
        if f.severity > Severity::Note {
            let page = f.page.map_or(String::new(), |p| format!(" on page {p}"));
            line(0, &format!("! {:?} text{page} ({}): {}", f.severity, f.reason, f.text));
        }
    }
    for cut in &review.cut {
        line(0, &format!("Not read: {cut}"));
    }
    let mut table = String::new();
    table_text(review, form, &mut table);
    out.push_str(&table);
    let mut line = |indent: usize, text: &str| wrap(&mut out, indent, text, width);
    if let Some(decision) = decision_line(review) {
        line(0, "");
        line(0, &format!("Decision: {decision}"));
    }
    for r in &review.reviewers {
        line(0, "");
        line(0, &heading(r, form));
        if let Some(s) = &r.summary {
            line(2, s);
        }
        let weaknesses: Vec<String> = r
            .weaknesses
            .iter()
            .map(|w| match place(w) {
                p if p.is_empty() => w.text.clone(),
                p => format!("{} [{p}]", w.text),
            })
            .collect();
        for (name, points) in
            [("Strengths", &r.strengths), ("Weaknesses", &weaknesses), ("Questions", &r.questions)]
        {
            if !points.is_empty() {
                line(2, name);
                for p in points {
                    line(4, &format!("- {p}"));
                }
            }
        }
        for (key, value) in &r.other {
            line(2, &format!("{key}: {value}"));
        }
    }
    if let Some(meta) = &review.meta_review {
        line(0, "");
        line(0, "Meta-review");
        line(2, meta);
    }
    line(0, "");
    line(0, &provenance(review));
    line(0, &review.notice);
    out
}

fn provenance(review: &Review) -> String {
    let hash = review
        .model
        .info
        .sha256
        .as_deref()
        .map_or(String::new(), |h| format!(" ({})", &h[..h.len().min(12)]));
    format!(
        "{}{hash}, seed {}, temperature {}, {} new tokens, {} prompt tokens read and {} reused, {:.1} s",
        review.model.info.reference,
        review.seed,
        review.sampling.temperature,
        review.usage.generated_tokens,
        review.usage.prompt_tokens,
        review.usage.prompt_tokens_reused,
        review.usage.seconds
    )
}

fn heading(r: &Reviewer, form: &Form) -> String {
    let mut out = format!("Reviewer {}", r.index);
    if let Some(stance) = &r.stance {
        out += &format!(" ({stance})");
    }
    match (r.scores.get(&form.main_score), form.score(&form.main_score)) {
        (Some(s), Some(field)) => {
            out += &format!(": {} {}", field.heading.to_lowercase(), short(s.value));
            if let Some(label) = field.label(s.value) {
                out += &format!(", {label}");
            }
        }
        _ => out += ": no rating could be read",
    }
    out
}

fn cell(score: Option<&ScoreRead>) -> String {
    score.map_or("–".into(), |s| match s.expected {
        Some(e) => format!("{} ({})", short(s.value), format_args!("{e:.1}")),
        None => short(s.value),
    })
}

fn of<'a>(r: &'a Reviewer, field: &ScoreField) -> Option<&'a ScoreRead> {
    if field.key == "confidence" { r.confidence.as_ref() } else { r.scores.get(&field.key) }
}

fn table_text(review: &Review, form: &Form, out: &mut String) {
    let columns = review.reviewers.len();
    let head: Vec<String> = (1..=columns).map(|i| format!("R{i}")).collect();
    *out += &format!("{:<14}", "");
    for h in &head {
        *out += &format!("{h:>12}");
    }
    *out += &format!("{:>8}{:>14}\n", "mean", "90 %");
    for field in &form.scores {
        *out += &format!("{:<14}", field.heading);
        for r in &review.reviewers {
            *out += &format!("{:>12}", cell(of(r, field)));
        }
        if let Some(a) = review.scores.get(&field.key) {
            let interval = format!("{} to {}", short(a.interval90[0]), short(a.interval90[1]));
            *out += &format!("{:>8}{interval:>14}", format!("{:.2}", a.mean));
        }
        out.push('\n');
    }
    *out += "A score is the value drawn, in brackets the mean of its distribution.\n";
}

/// Words of `text` in lines of `width`, indented; an empty text is an empty line.
fn wrap(out: &mut String, indent: usize, text: &str, width: usize) {
    let mut column = 0;
    let hang = if text.starts_with("- ") { indent + 2 } else { indent };
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            column = 0;
            out.extend(std::iter::repeat_n(' ', hang));
            column += hang;
        } else if column == 0 {
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

/// Markdown.
pub fn markdown(review: &Review, form: &Form) -> String {
    let mut out = format!("# Review of “{}”\n\n{}; {}.\n", title(review), form.title, read_line(review));
    for f in review.findings.iter().filter(|f| f.severity > Severity::Note) {
        let page = f.page.map_or(String::new(), |p| format!(" on page {p}"));
        out += &format!("\n> **{:?} text{page}** ({}): {}\n", f.severity, f.reason, f.text);
    }
    for cut in &review.cut {
        out += &format!("\nNot read: {cut}\n");
    }
    out += "\n| |";
    for r in &review.reviewers {
        out += &format!(" R{} |", r.index);
    }
    out += " mean | 90 % |\n|---|";
    out += &"---:|".repeat(review.reviewers.len() + 2);
    out.push('\n');
    for field in &form.scores {
        out += &format!("| {} |", field.heading);
        for r in &review.reviewers {
            out += &format!(" {} |", cell(of(r, field)));
        }
        match review.scores.get(&field.key) {
            Some(a) => {
                out += &format!(" {:.2} | {}–{} |\n", a.mean, short(a.interval90[0]), short(a.interval90[1]))
            }
            None => out += " – | – |\n",
        }
    }
    if let Some(decision) = decision_line(review) {
        out += &format!("\n**Decision:** {decision}\n");
    }
    for r in &review.reviewers {
        out += &format!("\n## {}\n", heading(r, form));
        if let Some(s) = &r.summary {
            out += &format!("\n{s}\n");
        }
        let weaknesses: Vec<String> = r
            .weaknesses
            .iter()
            .map(|w| match place(w) {
                p if p.is_empty() => w.text.clone(),
                p => format!("{} *({p})*", w.text),
            })
            .collect();
        for (name, points) in
            [("Strengths", &r.strengths), ("Weaknesses", &weaknesses), ("Questions", &r.questions)]
        {
            if !points.is_empty() {
                out += &format!("\n### {name}\n\n");
                for p in points {
                    out += &format!("- {p}\n");
                }
            }
        }
        for (key, value) in &r.other {
            out += &format!("\n### {key}\n\n{value}\n");
        }
    }
    if let Some(meta) = &review.meta_review {
        out += &format!("\n## Meta-review\n\n{meta}\n");
    }
    out += &format!("\n---\n\n{}. {}\n", provenance(review), review.notice);
    out
}

#[derive(Template)]
#[template(path = "review.html")]
struct Page<'a> {
    review: &'a Review,
    form: &'a Form,
    title: &'a str,
    read: String,
    decision: Option<String>,
    rows: Vec<RowView>,
    reviewers: Vec<ReviewerView<'a>>,
    findings: Vec<FindingView<'a>>,
    checked: bool,
    provenance: String,
}

struct RowView {
    heading: String,
    cells: Vec<CellView>,
    mean: String,
    interval: String,
}

struct CellView {
    value: String,
    expected: String,
    bars: Vec<Bar>,
    about: String,
}

struct Bar {
    x: String,
    y: String,
    height: String,
    drawn: bool,
}

struct ReviewerView<'a> {
    reviewer: &'a Reviewer,
    heading: String,
    weaknesses: Vec<(&'a str, String)>,
}

struct FindingView<'a> {
    severity: String,
    page: String,
    reason: &'a str,
    text: &'a str,
}

/// The width of a distribution's picture, in pixels; its height is 24.
const PICTURE: f64 = 64.0;

fn bars(score: &ScoreRead, field: &ScoreField) -> Vec<Bar> {
    let Some(distribution) = &score.distribution else { return Vec::new() };
    let step = PICTURE / field.values.len() as f64;
    let largest = distribution.values().copied().fold(0.0, f64::max).max(1e-9);
    field
        .values
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let p = distribution.get(&v.value.to_string()).copied().unwrap_or(0.0);
            let height = (22.0 * p / largest).max(0.5);
            Bar {
                x: format!("{:.1}", i as f64 * step + 1.0),
                y: format!("{:.1}", 24.0 - height),
                height: format!("{height:.1}"),
                drawn: v.value as f64 == score.value,
            }
        })
        .collect()
}

/// One HTML page: no script, nothing loaded from elsewhere, fit for print.
///
/// # Errors
/// If the template fails.
pub fn html(review: &Review, form: &Form) -> Result<String, askama::Error> {
    let rows = form
        .scores
        .iter()
        .map(|field| {
            let aggregate = review.scores.get(&field.key);
            RowView {
                heading: field.heading.clone(),
                cells: review
                    .reviewers
                    .iter()
                    .map(|r| {
                        let score = of(r, field);
                        let about = score.and_then(|s| s.distribution.as_ref()).map_or(String::new(), |d| {
                            let parts = field.values.iter().filter_map(|v| {
                                Some(format!("{}: {:.0} %", v.value, d.get(&v.value.to_string())? * 100.0))
                            });
                            parts.collect::<Vec<_>>().join(", ")
                        });
                        CellView {
                            value: score.map_or("–".into(), |s| short(s.value)),
                            expected: score
                                .and_then(|s| s.expected)
                                .map_or(String::new(), |e| format!("{e:.1}")),
                            bars: score.map(|s| bars(s, field)).unwrap_or_default(),
                            about,
                        }
                    })
                    .collect(),
                mean: aggregate.map_or("–".into(), |a| format!("{:.2}", a.mean)),
                interval: aggregate.map_or("–".into(), |a| {
                    format!("{} to {}", short(a.interval90[0]), short(a.interval90[1]))
                }),
            }
        })
        .collect();
    let reviewers = review
        .reviewers
        .iter()
        .map(|r| ReviewerView {
            reviewer: r,
            heading: heading(r, form),
            weaknesses: r.weaknesses.iter().map(|w| (w.text.as_str(), place(w))).collect(),
        })
        .collect();
    let mut findings: Vec<_> = review.findings.iter().collect();
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    let findings = findings
        .into_iter()
        .map(|f| FindingView {
            severity: format!("{:?}", f.severity).to_lowercase(),
            page: f.page.map_or(String::new(), |p| format!("page {p}")),
            reason: &f.reason,
            text: &f.text,
        })
        .collect();
    Page {
        review,
        form,
        title: title(review),
        read: read_line(review),
        decision: decision_line(review),
        rows,
        reviewers,
        findings,
        checked: review.reviewers.iter().flat_map(|r| &r.weaknesses).any(|w| w.support.is_some()),
        provenance: provenance(review),
    }
    .render()
}

/// `ranking.csv` of several reviews: best expected main score first; papers without one at the end.
pub fn ranking(rows: &[(String, Result<Review, String>)], main_score: &str) -> String {
    let mut ranked: Vec<_> = rows
        .iter()
        .map(|(path, r)| {
            let aggregate = r.as_ref().ok().and_then(|r| r.scores.get(main_score)).cloned();
            (path, r, aggregate)
        })
        .collect();
    ranked.sort_by(|a, b| {
        let key = |x: &Option<crate::Aggregate>| x.as_ref().map_or(f64::NEG_INFINITY, |a| a.expected);
        key(&b.2).total_cmp(&key(&a.2)).then(a.0.cmp(b.0))
    });
    let quote = |s: &str| format!("\"{}\"", s.replace('"', "\"\"").replace(['\n', '\r'], " "));
    let mut out =
        String::from("rank,paper,title,mean,expected,low90,high90,accept_probability,decision,status\n");
    for (i, (path, review, aggregate)) in ranked.into_iter().enumerate() {
        let (title, decision, status) = match review {
            Ok(r) => (r.paper.title.clone().unwrap_or_default(), r.decision.clone(), "done".to_string()),
            Err(e) => (String::new(), None, e.clone()),
        };
        let numbers = aggregate.map_or(",,,".to_string(), |a| {
            format!("{},{:.4},{},{}", a.mean, a.expected, a.interval90[0], a.interval90[1])
        });
        let (p, label) = decision
            .map_or((String::new(), String::new()), |d| (format!("{:.4}", d.accept_probability), d.label));
        out += &format!(
            "{},{},{},{numbers},{p},{label},{}\n",
            i + 1,
            quote(path),
            quote(&title),
            quote(&status)
        );
    }
    out
}
