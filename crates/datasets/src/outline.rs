//! Outlines: motivation, main idea, experiments and results of a paper, by a model that cannot leave the form, checked
//! against the paper. A small model chooses among the paper's own sentences and tables; a large one, or a server, writes
//! JSON. Either way a result with a number that does not stand in the paper is left out and counted.

use std::collections::HashSet;

use lm::{Grammar, LanguageModel, LmError, Message, Output, Part, Progress, Request, Script};
use minijinja::context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::messages::{render, results_json};
use crate::numbers::missing;
use crate::record::ResultItem;
use crate::research::ResearchPaper;

const CHOICES: &str = include_str!("../../../prompts/datasets/outline_choices.md");
const WRITTEN: &str = include_str!("../../../prompts/datasets/outline.md");

/// Sentences and results that a small model chooses among.
const MOST_SENTENCES: usize = 8;
const MOST_RESULTS: usize = 10;
/// Characters of one of them in the prompt.
const LONGEST: usize = 240;

/// What is known of a paper's argument and experiments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outline {
    /// Why it was worth doing.
    pub motivation: String,
    /// What it does.
    pub main_idea: String,
    /// The experiments.
    pub setup: Vec<ResultItem>,
    /// Their results.
    pub results: Vec<ResultItem>,
    /// How the check went.
    pub check: OutlineCheck,
    /// The model.
    pub model: String,
}

/// How the check against the paper went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlineCheck {
    /// Results that were left out for a number that does not stand in the paper.
    pub left_out: usize,
    /// These numbers.
    pub missing: Vec<String>,
}

/// A possible result: a table with numbers, or a sentence with one.
#[derive(Debug, Clone)]
struct Candidate {
    shown: String,
    item: ResultItem,
    setup: ResultItem,
}

/// The outlines of some papers, each or why there is none.
///
/// # Errors
/// If the model fails as a whole.
pub fn outlines(
    model: &dyn LanguageModel,
    papers: &[&ResearchPaper],
    progress: &dyn Progress,
) -> Result<Vec<Result<Outline, String>>, LmError> {
    let chooses = model.capabilities().scripts && !model.info().is_large();
    let mut requests = Vec::new();
    let mut asked: Vec<Result<(usize, Vec<String>, Vec<Candidate>), String>> = Vec::new();
    for paper in papers {
        let (sentences, candidates) = (sentences_of(paper), candidates(paper));
        if sentences.is_empty() {
            asked.push(Err("it has no sentence to take a motivation from".into()));
            continue;
        }
        let request = if chooses { choose(paper, &sentences, &candidates) } else { write(paper, model) };
        asked.push(request.map(|r| {
            requests.push(r);
            (requests.len() - 1, sentences, candidates)
        }));
    }
    let mut answers: Vec<Option<Result<lm::Completion, LmError>>> =
        model.complete(&requests, progress)?.into_iter().map(Some).collect();
    let name = model.info().reference.clone();
    let mut out = Vec::new();
    for (paper, asked) in papers.iter().zip(asked) {
        out.push(match asked {
            Err(why) => Err(why),
            Ok((at, sentences, candidates)) => match answers[at].take() {
                Some(Ok(answer)) => {
                    let made = if chooses {
                        chosen(&answer, &sentences, &candidates)
                    } else {
                        written(&answer.text)
                    };
                    made.and_then(|m| checked(m, paper, &name))
                }
                Some(Err(LmError::Interrupted)) => return Err(LmError::Interrupted),
                Some(Err(e)) => Err(format!("the extractor failed: {e}")),
                None => Err("the extractor gave no answer".into()),
            },
        });
    }
    Ok(out)
}

struct Made {
    motivation: String,
    main_idea: String,
    setup: Vec<ResultItem>,
    results: Vec<ResultItem>,
}

/// Leaves out results whose numbers do not stand in the paper. A paper with a table has results.
fn checked(made: Made, paper: &ResearchPaper, model: &str) -> Result<Outline, String> {
    let known: HashSet<String> = paper.numbers.iter().cloned().collect();
    let mut check = OutlineCheck::default();
    let mut results = Vec::new();
    for item in made.results {
        let wrong = missing(&results_json(std::slice::from_ref(&item)).to_string(), &known);
        if wrong.is_empty() {
            results.push(item);
        } else {
            check.left_out += 1;
            check.missing.extend(wrong);
        }
    }
    if results.is_empty() && !paper.tables.is_empty() {
        let why = if check.left_out > 0 {
            format!("no result is left: {} do not stand in the paper", check.missing.join(", "))
        } else {
            "no result was found, though the paper has a table".into()
        };
        return Err(why);
    }
    if made.motivation.trim().is_empty() || made.main_idea.trim().is_empty() {
        return Err("motivation or main idea is empty".into());
    }
    Ok(Outline {
        motivation: made.motivation,
        main_idea: made.main_idea,
        setup: made.setup,
        results,
        check,
        model: model.into(),
    })
}

fn sentences_of(paper: &ResearchPaper) -> Vec<String> {
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

/// Tables with numbers; without any, sentences with numbers out of the sections that tell results.
fn candidates(paper: &ResearchPaper) -> Vec<Candidate> {
    let known: HashSet<String> = paper.numbers.iter().cloned().collect();
    // A sentence may hold the number of a section, which TeX puts there and the source does not have.
    let stands = |s: &String| missing(s, &known).is_empty();
    let mut out = Vec::new();
    for (n, table) in paper.tables.iter().enumerate() {
        let cells = || table.rows.iter().flatten();
        if !cells().any(|c| has_number(c)) {
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
        let name = caption.first().cloned().unwrap_or_else(|| mention.clone());
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

fn choose(paper: &ResearchPaper, sentences: &[String], candidates: &[Candidate]) -> Result<Request, String> {
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

fn chosen(answer: &lm::Completion, sentences: &[String], candidates: &[Candidate]) -> Result<Made, String> {
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

fn schema() -> Value {
    let text = json!({ "type": "string" });
    let list = |properties: Value, required: Value| json!({ "type": "array", "items": { "type": "object", "properties": properties, "required": required, "additionalProperties": false } });
    let table = json!({ "type": "array", "items": { "type": "array", "items": text } });
    json!({
        "type": "object",
        "properties": {
            "motivation": text,
            "main_idea": text,
            "experimental_setup": list(json!({ "name": text, "description": text }), json!(["name", "description"])),
            "experimental_results":
                list(json!({ "name": text, "table": table, "description": text }), json!(["name", "table", "description"])),
        },
        "required": ["motivation", "main_idea", "experimental_setup", "experimental_results"],
        "additionalProperties": false,
    })
}

/// Tokens of an outline.
const ANSWER: usize = 3_000;

fn write(paper: &ResearchPaper, model: &dyn LanguageModel) -> Result<Request, String> {
    let mut text = format!("# {}\n\n", paper.title.as_deref().unwrap_or_default());
    text.push_str(&format!("## Abstract\n\n{}\n\n", paper.abstract_text.as_deref().unwrap_or_default()));
    for (heading, body) in &paper.plain {
        text.push_str(&format!("## {heading}\n\n{body}\n\n"));
    }
    // Over the context, the middle goes: results stand late.
    if let Some(context) = model.info().context {
        let room = context.saturating_sub(ANSWER + 400).max(1_000) * 3;
        if text.len() > room {
            let cut = |i: usize| (0..=i).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            let (head, tail) = (cut(room / 3), cut(text.len() - room * 2 / 3));
            text = format!("{}\n\n[…]\n\n{}", &text[..head], &text[tail..]);
        }
    }
    let prompt = render(WRITTEN, context! { paper => text })?;
    let mut request = Request::new(vec![Message::user(prompt)], ANSWER);
    request.output = Output::Constrained(Grammar::JsonSchema(schema()));
    Ok(request)
}

/// The first JSON object of an answer.
fn written(answer: &str) -> Result<Made, String> {
    let start = answer.find('{').ok_or("the extractor wrote no JSON")?;
    let mut values = serde_json::Deserializer::from_str(&answer[start..]).into_iter::<Value>();
    let value = values
        .next()
        .ok_or("the extractor wrote no JSON")?
        .map_err(|e| format!("the extractor's JSON is broken: {e}"))?;
    let text = |v: &Value, n: &str| v[n].as_str().map(str::trim).filter(|t| !t.is_empty()).map(String::from);
    let items = |name: &str| -> Vec<ResultItem> {
        let cell = |c: &Value| c.as_str().map_or_else(|| c.to_string(), String::from);
        let rows = |v: &Value| -> Vec<Vec<String>> {
            let list = v.as_array().into_iter().flatten();
            list.map(|r| r.as_array().into_iter().flatten().map(cell).collect()).collect()
        };
        let list = value[name].as_array().into_iter().flatten();
        list.filter_map(|v| {
            let result = if v["result"].is_object() { &v["result"] } else { v };
            Some(ResultItem {
                name: text(v, "name")?,
                table: rows(&result["table"]),
                description: text(result, "description"),
            })
        })
        .collect()
    };
    Ok(Made {
        motivation: text(&value, "motivation").unwrap_or_default(),
        main_idea: text(&value, "main_idea").unwrap_or_default(),
        setup: items("experimental_setup"),
        results: items("experimental_results"),
    })
}

/// The key under which an outline is kept: the paper, the model and the words said to it.
pub fn key(paper: &ResearchPaper, model: &dyn LanguageModel) -> String {
    let info = model.info();
    let text = format!(
        "{}\n{}\n{}\n{CHOICES}\n{WRITTEN}",
        serde_json::to_string(paper).unwrap_or_default(),
        info.reference,
        info.sha256.as_deref().unwrap_or_default()
    );
    sources::sha256(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TableRow;

    fn paper() -> ResearchPaper {
        ResearchPaper {
            title: Some("On agreement".into()),
            abstract_text: Some("Reviewers disagree, and nobody knows why. We measure agreement over many years of reviews. It is low.".into()),
            sections: Vec::new(),
            headings: Vec::new(),
            figures: Vec::new(),
            tables: vec![TableRow { caption: "Agreement by year. Higher is better.".into(), rows: vec![vec!["year".into(), "r".into()], vec!["2020".into(), "0.31".into()]] }],
            references: Vec::new(),
            cited: 0,
            resolved: 0,
            unresolved: Vec::new(),
            plain: vec![("Results".into(), "As Table 1 shows, it fell.".into())],
            numbers: ["2020", "0.31", "1"].map(String::from).to_vec(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn an_invented_number_takes_its_result_with_it_and_an_empty_list_is_no_outline() {
        let answer = |value: &str| {
            format!(
                "Here: {{\"motivation\":\"m\",\"main_idea\":\"i\",\"experimental_setup\":[],\"experimental_results\":[{{\"name\":\"a\",\"table\":[[\"2020\",\"{value}\"]],\"description\":\"\"}}]}}"
            )
        };
        let check = |value: &str| written(&answer(value)).and_then(|m| checked(m, &paper(), "m"));
        let good = check("0.310").unwrap();
        assert_eq!((good.results.len(), good.check.left_out), (1, 0));
        assert!(check("0.99").unwrap_err().contains("0.99"));
        assert!(written("no json at all").is_err());
    }

    #[test]
    fn a_small_model_is_shown_the_papers_own_sentences_and_tables() {
        let (sentences, candidates) = (sentences_of(&paper()), candidates(&paper()));
        assert_eq!(sentences.len(), 2, "{sentences:?}");
        assert_eq!(candidates[0].item.description.as_deref(), Some("As Table 1 shows, it fell."));
        let request = choose(&paper(), &sentences, &candidates).unwrap();
        assert!(
            request.messages[0].content.contains("R1. Agreement by year. (year, r)"),
            "{}",
            request.messages[0].content
        );
    }
}
