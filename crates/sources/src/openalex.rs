//! OpenAlex: the fall-back for abstracts.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ask::{Ask, Want};
use crate::error::SourceError;
use crate::http::Http;
use crate::service::Service;

/// One work; much of it may be unknown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAlexWork {
    /// `W2741809807`.
    pub id: String,
    /// In lower case, without address.
    pub doi: Option<String>,
    /// The title.
    pub title: Option<String>,
    /// The year.
    pub year: Option<i32>,
    /// Put together from the inverted index.
    pub abstract_text: Option<String>,
    /// `cc-by`, of the best known place.
    pub license: Option<String>,
    /// In order, at most 100.
    pub authors: Vec<String>,
}

/// Works of a list and the cursor of the next page.
///
/// # Errors
/// If the answer has no results.
pub fn openalex_works(body: &[u8]) -> Result<(Vec<OpenAlexWork>, Option<String>), String> {
    let value: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let list = value["results"].as_array().ok_or("an answer without results; has the API changed?")?;
    let works = list.iter().filter_map(work).collect();
    Ok((works, value["meta"]["next_cursor"].as_str().map(String::from)))
}

fn work(value: &Value) -> Option<OpenAlexWork> {
    let text = |v: &Value| v.as_str().map(str::trim).filter(|t| !t.is_empty()).map(String::from);
    let authors = value["authorships"].as_array().into_iter().flatten();
    Some(OpenAlexWork {
        id: text(&value["id"])?.rsplit('/').next()?.into(),
        doi: text(&value["doi"]).map(|d| d.trim_start_matches("https://doi.org/").to_lowercase()),
        title: text(&value["title"]).or_else(|| text(&value["display_name"])),
        year: value["publication_year"].as_i64().and_then(|y| i32::try_from(y).ok()),
        abstract_text: uninverted(&value["abstract_inverted_index"]),
        license: text(&value["primary_location"]["license"]),
        authors: authors.filter_map(|a| text(&a["author"]["display_name"])).collect(),
    })
}

/// Words by position, joined; `None` where there is no index.
fn uninverted(index: &Value) -> Option<String> {
    let mut words: Vec<(u64, &str)> = Vec::new();
    for (word, positions) in index.as_object()? {
        words.extend(
            positions.as_array().into_iter().flatten().filter_map(Value::as_u64).map(|p| (p, word.as_str())),
        );
    }
    words.sort();
    let text = words.into_iter().map(|(_, w)| w).collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// The client.
pub struct OpenAlex<'a>(pub &'a Http);

impl OpenAlex<'_> {
    /// Works by DOI, at most 50 in a request, all pages.
    ///
    /// # Errors
    /// If the service fails.
    pub async fn by_dois(&self, dois: &[&str]) -> Result<Vec<OpenAlexWork>, SourceError> {
        let mut out = Vec::new();
        for some in dois.chunks(50) {
            self.list("filter", &format!("doi:{}", some.join("|")), some.len(), &mut out).await?;
        }
        Ok(out)
    }

    /// The best hits for a title.
    ///
    /// # Errors
    /// If the service fails.
    pub async fn by_title(&self, title: &str, most: usize) -> Result<Vec<OpenAlexWork>, SourceError> {
        let mut out = Vec::new();
        self.list("search", title, most, &mut out).await?;
        Ok(out)
    }

    async fn list(
        &self,
        name: &str,
        value: &str,
        most: usize,
        out: &mut Vec<OpenAlexWork>,
    ) -> Result<(), SourceError> {
        let (mut cursor, start) = (Some("*".to_string()), out.len());
        while let Some(at) = cursor.take() {
            let mut ask = Ask::get(Service::OpenAlex, "/works", Want::Json)
                .with(name, value)
                .with("per-page", most.clamp(1, 200))
                .with("cursor", &at);
            if let Some(contact) = self.0.contact() {
                ask = ask.with("mailto", contact);
            }
            let answer = self.0.ask(&ask).await?;
            let (works, next) = openalex_works(&answer.body)
                .map_err(|what| SourceError::Unexpected { url: answer.url.clone(), what })?;
            let is_empty = works.is_empty();
            out.extend(works);
            cursor = next.filter(|n| !is_empty && *n != at && out.len() - start < most);
        }
        Ok(())
    }
}
