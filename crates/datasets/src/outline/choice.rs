//! A small model chooses: among the paper's own sentences and tables, so that it can invent nothing.

use std::collections::HashSet;

use lm::{Message, Output, Part, Request, Script};
use minijinja::context;

use super::{CHOICES, Made};
use crate::messages::render;
use crate::numbers::missing;
use crate::record::ResultItem;
use crate::research::ResearchPaper;

/// Sentences and results that a small model chooses among.
const MOST_SENTENCES: usize = 8;
const MOST_RESULTS: usize = 10;
/// Characters of one of them in the prompt.
const LONGEST: usize = 240;

/// A possible result: a table with numbers, or a sentence with one.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) shown: String,
    pub(super) item: ResultItem,
    setup: ResultItem,
}

pub(super) fn sentences_of(paper: &ResearchPaper) -> Vec<String> {
    let first = || paper.plain.first().map(|(_, t)| t.as_str());
    let text = paper.abstract_text.as_deref().filter(|t| t.len() > 80).or_else(first).unwrap_or_default();
    sentences(text).into_iter().filter(|s| s.split_whitespace().count() >= 4).take(MOST_SENTENCES).collect()
}

/// Sentences by a full stop before a capital.
fn sentences(text: &str) -> Vec<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let (mut out, mut start) = (Vec::new(), 0);
    for (n, (i, c)) in chars.iter().enumerate() {
        let ends = matches!(c, '.' | '?' | '!')
            && chars.get(n + 1).is_some_and(|(_, c)| *c == ' ')
            && chars.get(n + 2).is_some_and(|(_, c)| c.is_uppercase())
            // An initial or an abbreviation of one letter ends nothing.
            && !(n >= 2 && chars[n - 1].1.is_uppercase() && !chars[n - 2].1.is_alphanumeric());
        if ends {
            out.push(text[start..=*i].trim().to_string());
            start = i + 1;
        }
    }
    let rest = text[start..].trim();
    if !rest.is_empty() {
        out.push(rest.to_string());
    }
    out
}

fn has_number(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST {
        line
    } else {
        line.chars().take(LONGEST).collect::<String>() + "…"
    }
}

/// Tables whose numbers stand in the body; without any, sentences with numbers out of the sections that tell results.
pub(super) fn candidates(paper: &ResearchPaper) -> Vec<Candidate> {
    let known: HashSet<String> = paper.numbers.iter().cloned().collect();
    // A sentence may hold the number of a section, which TeX puts there and the source does not have.
    let stands = |s: &String| missing(s, &known).is_empty();
    let mut out = Vec::new();
    for (n, table) in paper.tables.iter().enumerate() {
        let cells = || table.rows.iter().flatten();
        // A table of the appendix is none of the row's text, and a number that TeX puts there is none of the authors'.
        if !cells().any(|c| has_number(c)) || !cells().all(stands) {
            continue;
        }
        let mention = format!("Table {}", n + 1);
        let told = paper.plain.iter().flat_map(|(_, t)| t.split("\n\n")).filter(|p| !p.starts_with("Table "));
        let told = told.flat_map(sentences).filter(stands).find(|s| {
            s.match_indices(&mention)
                .any(|(i, m)| !s[i + m.len()..].starts_with(|c: char| c.is_ascii_digit()))
        });
        let own = table.caption.split_once(':').filter(|(before, _)| before.starts_with("Table "));
        let caption = own.map_or(table.caption.as_str(), |(_, rest)| rest.trim());
        let whole = caption.to_string();
        let caption = sentences(caption);
        let name = caption.first().filter(|c| stands(c)).cloned().unwrap_or_else(|| "Results".into());
        let description = told.or_else(|| (caption.len() > 1).then(|| whole.clone()).filter(stands));
        out.push(Candidate {
            shown: shortened(&format!(
                "{} ({})",
                name,
                table.rows.first().map(|r| r.join(", ")).unwrap_or_default()
            )),
            item: ResultItem {
                name: name.clone(),
                table: table.rows.clone(),
                description: description.clone(),
            },
            setup: ResultItem { name, table: Vec::new(), description: description.or(Some(whole)) },
        });
    }
    if out.is_empty() {
        let told = paper.plain.iter().enumerate().filter(|(i, (h, _))| {
            let h = h.to_lowercase();
            ["result", "experiment", "evaluation", "analysis"].iter().any(|w| h.contains(w))
                || *i + 3 > paper.plain.len()
        });
        for (_, (heading, text)) in told {
            for sentence in
                text.split("\n\n").flat_map(sentences).filter(|s| has_number(s) && stands(s)).take(3)
            {
                let item = ResultItem {
                    name: heading.clone(),
                    table: Vec::new(),
                    description: Some(sentence.clone()),
                };
                out.push(Candidate { shown: shortened(&sentence), item: item.clone(), setup: item });
            }
        }
    }
    out.truncate(MOST_RESULTS);
    out
}

pub(super) fn choose(
    paper: &ResearchPaper,
    sentences: &[String],
    candidates: &[Candidate],
) -> Result<Request, String> {
    let shown: Vec<String> = sentences.iter().map(|s| shortened(s)).collect();
    let results: Vec<String> = candidates.iter().map(|c| c.shown.clone()).collect();
    let title = paper.title.as_deref().unwrap_or_default();
    let prompt = render(CHOICES, context! { title, sentences => shown, results })?;
    let options: Vec<String> = (1..=sentences.len()).map(|i| format!("S{i}")).collect();
    let choice = |name: String, options: Vec<String>| Part::Choice { name, options, terminator: "\n".into() };
    let literal = |text: String| Part::Literal(text);
    let mut parts = vec![
        literal("Why: ".into()),
        choice("motivation".into(), options.clone()),
        literal("\nWhat: ".into()),
        choice("idea".into(), options),
    ];
    for i in 1..=candidates.len() {
        parts.push(literal(format!("\nR{i} shows results: ")));
        parts.push(choice(format!("r{i}"), vec!["yes".into(), "no".into()]));
    }
    let mut request = Request::new(vec![Message::user(prompt)], 8);
    request.output = Output::Script(Script { parts });
    Ok(request)
}

pub(super) fn chosen(
    answer: &lm::Completion,
    sentences: &[String],
    candidates: &[Candidate],
) -> Result<Made, String> {
    let value = |name: &str| answer.parts.get(name)?.choice.as_ref();
    let sentence = |name: &str| -> Result<String, String> {
        let chosen = value(name).and_then(|c| c.value.trim_start_matches('S').parse::<usize>().ok());
        chosen
            .and_then(|i| sentences.get(i.wrapping_sub(1)).cloned())
            .ok_or_else(|| format!("no {name} was chosen"))
    };
    let motivation = sentence("motivation")?;
    // The likeliest one that is not the motivation again.
    let likeliest = value("idea").map(|c| {
        let mut options: Vec<(usize, f64)> = c
            .distribution
            .iter()
            .filter_map(|(o, p)| Some((o.trim_start_matches('S').parse::<usize>().ok()?, *p)))
            .collect();
        options.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        options
    });
    let mut others =
        likeliest.unwrap_or_default().into_iter().filter_map(|(i, _)| sentences.get(i.wrapping_sub(1)));
    let main_idea = match others.find(|s| **s != motivation) {
        Some(other) => other.clone(),
        None => sentence("idea")?,
    };
    let yes = |i: usize| {
        let choice = value(&format!("r{}", i + 1));
        choice.and_then(|c| c.distribution.iter().find(|(o, _)| o == "yes").map(|(_, p)| *p)).unwrap_or(0.0)
    };
    let likely: Vec<f64> = (0..candidates.len()).map(yes).collect();
    let best = likely.iter().copied().fold(0.0, f64::max);
    // Those that are as likely as the likeliest, but for a little: a weak model says "no" to all of them with small
    // differences, and a paper with tables of numbers has results.
    let keep = |p: f64| p >= 0.5 || p >= 0.8 * best;
    let kept: Vec<&Candidate> =
        candidates.iter().zip(&likely).filter(|(_, p)| keep(**p)).map(|(c, _)| c).collect();
    Ok(Made {
        motivation,
        main_idea,
        setup: kept.iter().map(|c| c.setup.clone()).collect(),
        results: kept.iter().map(|c| c.item.clone()).collect(),
    })
}
