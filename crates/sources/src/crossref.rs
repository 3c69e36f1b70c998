//! Crossref: the second fall-back.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ask::{Ask, Want};
use crate::error::SourceError;
use crate::http::Http;
use crate::service::Service;

/// One work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrossrefWork {
    /// In lower case.
    pub doi: String,
    /// The first of its titles; the list may be empty.
    pub title: Option<String>,
    /// "Given Family".
    pub authors: Vec<String>,
    /// Of the first date there is.
    pub year: Option<i32>,
    /// Without its JATS tags; rarely there.
    pub abstract_text: Option<String>,
    /// Addresses of licences.
    pub licenses: Vec<String>,
    /// DOIs of what it cites, where Crossref knows them.
    pub references: Vec<String>,
}

/// A single work.
///
/// # Errors
/// If the answer is none.
pub fn crossref_work(body: &[u8]) -> Result<CrossrefWork, String> {
    let value: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    work(&value["message"]).ok_or_else(|| "a work without a DOI; has the API changed?".into())
}

/// The works of a query.
///
/// # Errors
/// If the answer is none.
pub fn crossref_works(body: &[u8]) -> Result<Vec<CrossrefWork>, String> {
    let value: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let items = value["message"]["items"].as_array().ok_or("a query without items; has the API changed?")?;
    Ok(items.iter().filter_map(work).collect())
}

fn work(value: &Value) -> Option<CrossrefWork> {
    let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    let year = ["published", "issued", "published-print", "published-online", "created"]
        .iter()
        .find_map(|d| value[*d]["date-parts"][0][0].as_i64());
    let name = |a: &Value| {
        let parts = [a["given"].as_str(), a["family"].as_str().or(a["name"].as_str())];
        let name = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
        (!name.is_empty()).then_some(name)
    };
    Some(CrossrefWork {
        doi: value["DOI"].as_str()?.to_lowercase(),
        title: list("title").iter().find_map(|t| t.as_str().map(without_tags)),
        authors: list("author").iter().filter_map(name).collect(),
        year: year.and_then(|y| i32::try_from(y).ok()),
        abstract_text: value["abstract"].as_str().map(without_tags).filter(|t| !t.is_empty()),
        licenses: list("license").iter().filter_map(|l| l["URL"].as_str().map(String::from)).collect(),
        references: list("reference")
            .iter()
            .filter_map(|r| r["DOI"].as_str().map(str::to_lowercase))
            .collect(),
    })
}

/// JATS without its tags, on one line.
fn without_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for (i, c) in text.char_indices() {
        match c {
            // A tag begins with a letter or a slash; "p < 0.05" is text.
            '<' if text[i + 1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') => {
                inside = true;
                out.push(' ');
            }
            '>' if inside => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    let plain = out.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The client.
pub struct Crossref<'a>(pub &'a Http);

impl Crossref<'_> {
    fn polite(&self, ask: Ask) -> Ask {
        match self.0.contact() {
            Some(contact) => ask.with("mailto", contact),
            None => ask,
        }
    }

    /// A work by its DOI, if Crossref has it.
    ///
    /// # Errors
    /// If the service fails.
    pub async fn work(&self, doi: &str) -> Result<Option<CrossrefWork>, SourceError> {
        let ask = self.polite(Ask::get(
            Service::Crossref,
            format!("/works/{}", doi.replace('#', "%23")),
            Want::Json,
        ));
        match self.0.ask(&ask).await {
            Ok(answer) => crossref_work(&answer.body)
                .map(Some)
                .map_err(|what| SourceError::Unexpected { url: answer.url, what }),
            Err(SourceError::Refused { status: 404, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The best hits for the text of a reference.
    ///
    /// # Errors
    /// If the service fails.
    pub async fn search(&self, reference: &str, most: usize) -> Result<Vec<CrossrefWork>, SourceError> {
        let ask = Ask::get(Service::Crossref, "/works", Want::Json)
            .with("query.bibliographic", reference)
            .with("rows", most.clamp(1, 1000));
        let answer = self.0.ask(&self.polite(ask)).await?;
        crossref_works(&answer.body).map_err(|what| SourceError::Unexpected { url: answer.url, what })
    }
}
