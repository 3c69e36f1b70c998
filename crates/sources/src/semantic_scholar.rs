//! Semantic Scholar's academic graph.

use reqwest::header::HeaderName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ask::{Ask, Want};
use crate::error::SourceError;
use crate::http::Http;
use crate::service::Service;

/// One paper; what the service does not know or may not show is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct S2Paper {
    /// 40 hex digits; absent for a reference that was not resolved.
    pub id: Option<String>,
    /// The title.
    pub title: Option<String>,
    /// Null where a publisher forbids it.
    pub abstract_text: Option<String>,
    /// The year.
    pub year: Option<i32>,
    /// Where it appeared.
    pub venue: Option<String>,
    /// In order.
    pub authors: Vec<String>,
    /// `2411.00816`.
    pub arxiv: Option<String>,
    /// In lower case.
    pub doi: Option<String>,
    /// Those it cites, where they were asked for.
    pub references: Vec<S2Paper>,
}

const FIELDS: &str = "title,abstract,year,venue,authors,externalIds,references.title,references.abstract,references.year,references.externalIds";

/// Reads one paper; `None` for a null.
pub fn s2_paper(value: &Value) -> Option<S2Paper> {
    let object = value.as_object()?;
    let text = |name: &str| {
        object.get(name).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty()).map(String::from)
    };
    let ids = &value["externalIds"];
    Some(S2Paper {
        id: text("paperId"),
        title: text("title"),
        abstract_text: text("abstract"),
        year: value["year"].as_i64().and_then(|y| i32::try_from(y).ok()),
        venue: text("venue"),
        authors: value["authors"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|a| a["name"].as_str().map(String::from))
            .collect(),
        arxiv: ids["ArXiv"].as_str().map(String::from),
        doi: ids["DOI"].as_str().map(str::to_lowercase),
        references: value["references"].as_array().into_iter().flatten().filter_map(s2_paper).collect(),
    })
}

/// The answer to a batch, `None` at the place of an unknown id.
///
/// # Errors
/// If it is no list, or not of the questions' length.
pub fn s2_batch(body: &[u8], asked: usize) -> Result<Vec<Option<S2Paper>>, String> {
    let value: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let list = value.as_array().ok_or("a batch without a list; has the API changed?")?;
    if list.len() != asked {
        return Err(format!("{} answers to {asked} ids", list.len()));
    }
    Ok(list.iter().map(s2_paper).collect())
}

/// The hits of a search or match. Without any the answer has no `data`.
pub fn s2_match(body: &[u8]) -> Vec<S2Paper> {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    value["data"].as_array().into_iter().flatten().filter_map(s2_paper).collect()
}

/// A page of references and the offset of the next one.
pub fn s2_references(body: &[u8]) -> (Vec<S2Paper>, Option<usize>) {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let cited = value["data"].as_array().into_iter().flatten().filter_map(|r| s2_paper(&r["citedPaper"]));
    (cited.collect(), value["next"].as_u64().map(|n| n as usize))
}

/// The client.
pub struct SemanticScholar<'a> {
    http: &'a Http,
    key: Option<String>,
}

impl<'a> SemanticScholar<'a> {
    /// With a key, or in the pool of all who have none.
    pub fn new(http: &'a Http, key: Option<String>) -> Self {
        Self { http, key }
    }

    fn keyed(&self, mut ask: Ask) -> Ask {
        if let Some(key) = &self.key {
            ask.headers.push((HeaderName::from_static("x-api-key"), key.clone()));
        }
        ask
    }

    /// Papers by id (`ARXIV:2411.00816`, `DOI:…`, `ACL:…`), at most 500, with their references and abstracts. An answer
    /// may have 10 MB at most: ask for fewer where papers cite much.
    ///
    /// # Errors
    /// If the service fails.
    pub async fn batch(&self, ids: &[String]) -> Result<Vec<Option<S2Paper>>, SourceError> {
        let mut ask = Ask::get(Service::SemanticScholar, "/paper/batch", Want::Json).with("fields", FIELDS);
        ask.json = Some(serde_json::json!({ "ids": ids }));
        let answer = self.http.ask(&self.keyed(ask)).await?;
        s2_batch(&answer.body, ids.len()).map_err(|what| SourceError::Unexpected { url: answer.url, what })
    }

    /// The paper whose title is most alike, if any.
    ///
    /// # Errors
    /// If the service fails.
    pub async fn by_title(&self, title: &str) -> Result<Option<S2Paper>, SourceError> {
        let ask = Ask::get(Service::SemanticScholar, "/paper/search/match", Want::Json)
            .with("query", title)
            .with("fields", "title,abstract,year,venue,authors,externalIds");
        match self.http.ask(&self.keyed(ask)).await {
            Ok(answer) => Ok(s2_match(&answer.body).into_iter().next()),
            Err(SourceError::Refused { status: 404, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All that a paper cites, page by page, with abstracts.
    ///
    /// # Errors
    /// If the service fails.
    pub async fn references(&self, id: &str) -> Result<Vec<S2Paper>, SourceError> {
        let (mut out, mut offset) = (Vec::new(), Some(0));
        while let Some(from) = offset {
            let ask = Ask::get(Service::SemanticScholar, format!("/paper/{id}/references"), Want::Json)
                .with("fields", "title,abstract,year,externalIds")
                .with("offset", from)
                .with("limit", 1000);
            let answer = self.http.ask(&self.keyed(ask)).await?;
            let (page, next) = s2_references(&answer.body);
            out.extend(page);
            // A next page that does not advance would never end.
            offset = next.filter(|n| *n > from);
        }
        Ok(out)
    }
}
