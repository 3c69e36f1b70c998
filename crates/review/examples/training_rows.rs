//! Rows for `cycle train sft` from review data, in exactly the layout of the product's prompts.
//!
//!     cargo run -p review --example training_rows -- DATA_DIR OUT_DIR
//!
//! DATA_DIR holds `reviews_structured.jsonl.zst`, `papers_abs.jsonl.zst` and `fulltext_train_iclr2022.jsonl.zst`; nothing
//! below its `test/` is read. Writes `train.jsonl`, `eval_review.jsonl` (reviews of the last 200 papers, which stand in
//! hash order) and `eval_research.jsonl` (every 40th full text), each row with `messages`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use review::{Field, Form, prompts};
use serde_json::{Value, json};

#[allow(dead_code)]
#[path = "../../research/src/prompts.rs"]
mod research;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn rows(path: &Path) -> Result<Vec<Value>> {
    let reader = BufReader::new(zstd::Decoder::new(File::open(path)?)?);
    reader.split(b'\n').map(|line| Ok(serde_json::from_slice(&line?)?)).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default().trim()
}

/// The first `words` words, cut after a sentence where there is one.
fn shorten(text: &str, words: usize) -> String {
    let mut cut: String = text.split_inclusive(char::is_whitespace).take(words).collect();
    if cut.len() < text.len() {
        if let Some(end) = cut.rfind(". ") {
            cut.truncate(end + 1);
        }
    }
    cut.trim().to_string()
}

/// One review on the form, as the script lays it out.
fn filled(form: &Form, review: &Value) -> Option<String> {
    let mut out = String::from("## Reviewer\n");
    for field in form.fields() {
        match field {
            Field::Section(s) => {
                let mut body = text(review, &s.key).replace("\n\n\n", "\n\n").replace("\n#", "\n");
                if s.list {
                    // The form opens every list with a dash.
                    let points: Vec<String> = body
                        .lines()
                        .map(|l| {
                            l.trim()
                                .trim_start_matches(|c: char| "-*•0123456789.)( ".contains(c))
                                .trim()
                                .to_string()
                        })
                        .filter(|l| l.len() > 3)
                        .take(6)
                        .collect();
                    body = points.join("\n- ");
                    body.insert_str(0, "- ");
                }
                let body = shorten(&body, s.max_tokens * 2 / 5);
                if body.len() < 8 {
                    return None;
                }
                out += &format!("\n### {}\n\n{body}\n", s.heading);
            }
            Field::Score(s) => {
                // The data's ratings are those of 2026; other years' forms have as many steps in the same order.
                let value = if s.key == form.main_score {
                    let step =
                        [0, 2, 4, 6, 8, 10].iter().position(|v| Some(*v) == review["rating"].as_i64())?;
                    s.values.get(step)?
                } else {
                    s.values.iter().find(|v| Some(v.value) == review[&s.key].as_i64())?
                };
                out += &format!("\n### {}\n\n{}\n", s.heading, value.written());
            }
        }
    }
    Some(out)
}

fn review_row(form: &Form, paper: &Value, review: &Value, mean: f64) -> Result<Option<Value>> {
    let Some(answer) = filled(form, review) else { return Ok(None) };
    let difference = review["rating"].as_f64().unwrap_or(mean) - mean;
    let stance = match difference {
        d if d <= -1.5 => "strict",
        d if d < 0.5 => "balanced",
        d if d < 1.5 => "constructive",
        _ => "lenient",
    };
    let shown = format!("# {}\n\n## Abstract\n\n{}", text(paper, "title"), text(paper, "abstract"));
    let mut messages = prompts::reviewer(&shown, form, stance)?;
    messages.push(lm::Message::assistant(answer));
    Ok(Some(json!({ "messages": messages })))
}

/// Papers that share rare title words: stand-ins for a reference list, which the data do not have.
struct Neighbours<'a> {
    papers: &'a [Value],
    by_word: HashMap<String, Vec<usize>>,
}

fn words(title: &str) -> Vec<String> {
    title
        .to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| w.len() > 3)
        .map(String::from)
        .collect()
}

impl<'a> Neighbours<'a> {
    fn new(papers: &'a [Value]) -> Self {
        let mut by_word: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, paper) in papers.iter().enumerate() {
            for word in words(text(paper, "title")) {
                by_word.entry(word).or_default().push(i);
            }
        }
        Self { papers, by_word }
    }

    fn of(&self, title: &str, count: usize) -> Vec<&'a Value> {
        let mut scores: BTreeMap<usize, f64> = BTreeMap::new();
        for word in words(title) {
            if let Some(list) = self.by_word.get(&word) {
                for &i in list {
                    *scores.entry(i).or_default() += 1.0 / list.len() as f64;
                }
            }
        }
        let mut order: Vec<(usize, f64)> = scores.into_iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order
            .into_iter()
            .map(|(i, _)| &self.papers[i])
            .filter(|p| text(p, "title") != title)
            .take(count)
            .collect()
    }
}

fn sentences(text: &str) -> Vec<&str> {
    text.split_inclusive(". ").map(str::trim).filter(|s| !s.is_empty()).collect()
}

/// The first half of a paper as the dialogue wants it. Motivation and idea are sentences of the abstract itself: the
/// data hold no others.
fn research_row(paper: &Value, near: &Neighbours<'_>) -> Result<Option<Value>> {
    let (title, summary, body) = (text(paper, "title"), text(paper, "abstract"), text(paper, "text"));
    let parts = sentences(summary);
    if parts.len() < 4 || title.is_empty() {
        return Ok(None);
    }
    let references: Vec<String> = near
        .of(title, 3)
        .into_iter()
        .enumerate()
        .map(|(i, p)| {
            let year = p["year"].as_i64().map(|y| y.to_string());
            research::reference(
                &format!("ref{}", i + 1),
                text(p, "title"),
                year.as_deref(),
                Some(&shorten(text(p, "abstract"), 60)),
            )
        })
        .collect();
    let user = research::first(Some(title), &references.join("\n\n"))?;
    let idea = parts.iter().position(|s| s.contains(" we ") || s.starts_with("We ")).unwrap_or(1).clamp(1, 3);
    let mut answer = format!(
        "## Motivation\n\n{}\n\n## Main Idea\n\n{}\n\n```latex\n\\title{{{title}}}\n\n\\begin{{abstract}}\n{summary}\n\
         \\end{{abstract}}\n",
        parts[..idea].join(" "),
        parts[idea..(idea + 2).min(parts.len())].join(" ")
    );
    for (heading, names, length) in [
        ("Introduction", &["introduction"][..], 220),
        ("Related Work", &["related work", "background"], 140),
        ("Method", &["method", "approach", "model"], 180),
        ("Results", &["experiments", "results", "evaluation"], 140),
        ("Conclusion", &["conclusion", "discussion"], 120),
    ] {
        if let Some(section) = section(body, names) {
            answer += &format!("\n\\section{{{heading}}}\n\n{}\n", shorten(&section, length));
        }
    }
    answer += "```";
    let messages =
        [lm::Message::system(research::system()), lm::Message::user(user), lm::Message::assistant(answer)];
    Ok(Some(json!({ "messages": messages })))
}

/// The running text after a heading line such as "1 INTRODUCTION".
fn section(body: &str, names: &[&str]) -> Option<String> {
    let mut lines = body.lines();
    lines.find(|line| {
        let line =
            line.trim().trim_start_matches(|c: char| c.is_ascii_digit() || ". ".contains(c)).to_lowercase();
        line.len() < 40 && names.iter().any(|n| line.starts_with(n))
    })?;
    let text: Vec<&str> = lines.map(str::trim).filter(|l| l.len() > 40).take(40).collect();
    let text = text.join(" ").replace("- ", "");
    (text.len() > 200).then_some(text)
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(data), Some(out)) = (args.next(), args.next()) else {
        return Err("usage: training_rows DATA_DIR OUT_DIR".into());
    };
    let (data, out) = (Path::new(&data), Path::new(&out));
    std::fs::create_dir_all(out)?;
    let forms = [Form::named("iclr2025")?, Form::named("iclr2026")?];
    let (mut train, mut eval_review, mut eval_research) = (Vec::new(), Vec::new(), Vec::new());

    let papers = rows(&data.join("reviews_structured.jsonl.zst"))?;
    for (i, paper) in papers.iter().enumerate() {
        let held_out = i >= papers.len() - 200;
        let reviews = paper["reviews"].as_array().cloned().unwrap_or_default();
        let ratings: Vec<f64> = reviews.iter().filter_map(|r| r["rating"].as_f64()).collect();
        let mean = ratings.iter().sum::<f64>() / ratings.len().max(1) as f64;
        for (k, review) in reviews.iter().enumerate() {
            if let Some(row) = review_row(&forms[usize::from(k % 3 == 2)], paper, review, mean)? {
                if held_out { eval_review.push(row) } else { train.push(row) }
            }
        }
    }
    let reviews = train.len();
    let abstracts = rows(&data.join("papers_abs.jsonl.zst"))?;
    let near = Neighbours::new(&abstracts);
    let full = rows(&data.join("fulltext_train_iclr2022.jsonl.zst"))?;
    for (i, paper) in full.iter().enumerate() {
        if let Some(row) = research_row(paper, &near)? {
            if i % 40 == 0 { eval_research.push(row) } else { train.push(row) }
        }
    }
    // Titles and abstracts without a body teach the first stages.
    for paper in abstracts.iter().step_by(3) {
        train.extend(research_row(paper, &near)?);
    }
    // Every 40th held-out review is enough to watch.
    let eval_review: Vec<Value> = eval_review.into_iter().step_by(40).collect();
    println!(
        "{reviews} reviews, {} papers; held out {} and {}",
        train.len() - reviews,
        eval_review.len(),
        eval_research.len()
    );
    for (name, list) in [("train", train), ("eval_review", eval_review), ("eval_research", eval_research)] {
        let mut file = std::io::BufWriter::new(File::create(out.join(format!("{name}.jsonl")))?);
        for row in list {
            writeln!(file, "{row}")?;
        }
    }
    Ok(())
}
