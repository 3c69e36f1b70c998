//! A larger model, or a server, writes the outline as JSON under a schema.

use lm::{Grammar, LanguageModel, Message, Output, Request};
use minijinja::context;
use serde_json::{Value, json};

use super::{Made, WRITTEN};
use crate::messages::render;
use crate::record::ResultItem;
use crate::research::ResearchPaper;

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

pub(super) fn write(paper: &ResearchPaper, model: &dyn LanguageModel) -> Result<Request, String> {
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
pub(super) fn written(answer: &str) -> Result<Made, String> {
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
