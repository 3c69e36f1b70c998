//! arXiv: its Atom API and the packages of sources.

use roxmltree::{Document, Node};
use serde::{Deserialize, Serialize};

use crate::ask::{Answer, Ask, Keep, Want};
use crate::error::SourceError;
use crate::http::Http;
use crate::service::Service;

/// One paper of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArxivEntry {
    /// `2411.00816` or `cs/9901002`.
    pub id: String,
    /// The version, from 1.
    pub version: Option<u32>,
    /// On one line.
    pub title: String,
    /// The abstract.
    pub summary: String,
    /// In order.
    pub authors: Vec<String>,
    /// `2016-05-26T17:59:46Z`: of the first version.
    pub published: String,
    /// Of this version.
    pub updated: String,
    /// Categories, the primary one first.
    pub categories: Vec<String>,
    /// Where given.
    pub doi: Option<String>,
    /// The authors' remark ("Accepted at ICLR 2024").
    pub comment: Option<String>,
}

/// An answer of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArxivFeed {
    /// All that match.
    pub total: usize,
    /// Those of this answer.
    pub entries: Vec<ArxivEntry>,
}

/// What a file of `/src/ID` is, by its content: the name says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Package {
    /// A folder of sources, compressed or not.
    Tar,
    /// Gzip: of a tar or of a single file, which only unpacking tells.
    Gzip,
    /// One TeX file.
    Tex,
    /// Only a PDF was submitted.
    Pdf,
    /// Old papers.
    PostScript,
    /// An error page.
    Html,
}

impl Package {
    /// By content.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Self::Gzip;
        }
        if bytes.starts_with(b"%PDF-") {
            return Self::Pdf;
        }
        if bytes.starts_with(b"%!PS") {
            return Self::PostScript;
        }
        if bytes.get(257..262) == Some(b"ustar") {
            return Self::Tar;
        }
        if crate::retry::is_html(bytes) { Self::Html } else { Self::Tex }
    }
}

/// `2411.00816` and 3 of `arXiv:2411.00816v3`, an address, or an old id with its archive.
pub fn arxiv_id(text: &str) -> Option<(String, Option<u32>)> {
    let text = text.trim();
    let text = text.rsplit_once("/abs/").or_else(|| text.rsplit_once("/pdf/")).map_or(text, |(_, id)| id);
    let text = text.trim_end_matches(".pdf");
    let text = text.get(..6).filter(|p| p.eq_ignore_ascii_case("arxiv:")).map_or(text, |_| &text[6..]);
    let (id, version) = match text.rsplit_once('v') {
        Some((id, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => (id, n.parse().ok()),
        _ => (text, None),
    };
    let digits = |s: &str, n: std::ops::RangeInclusive<usize>| {
        n.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit())
    };
    let is_new = id.split_once('.').is_some_and(|(a, b)| digits(a, 4..=4) && digits(b, 4..=5));
    let is_old = id.split_once('/').is_some_and(|(archive, n)| {
        digits(n, 7..=7)
            && !archive.is_empty()
            && archive.chars().all(|c| c.is_ascii_alphabetic() || "-.".contains(c))
    });
    (is_new || is_old).then(|| (id.to_string(), version))
}

/// A feed.
///
/// # Errors
/// With the service's words where the feed is an error (HTTP 400, formerly 200), or what is wrong with the XML.
pub fn arxiv_feed(body: &[u8]) -> Result<ArxivFeed, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the feed is no UTF-8")?;
    let tree = Document::parse(text).map_err(|e| format!("the feed is no XML ({e})"))?;
    let root = tree.root_element();
    if root.tag_name().name() != "feed" {
        return Err(format!("<{}> in place of a feed", root.tag_name().name()));
    }
    let total = child(root, "totalResults").and_then(|t| t.parse().ok());
    let total = total.ok_or("the feed does not say how many there are; has the API changed?")?;
    let mut entries = Vec::new();
    for node in root.children().filter(|n| n.tag_name().name() == "entry") {
        let id = child(node, "id").unwrap_or_default();
        if id.contains("/api/errors") {
            return Err(child(node, "summary").unwrap_or_else(|| "an error without words".into()));
        }
        let Some((id, version)) = arxiv_id(&id) else { return Err(format!("an entry with the id `{id}`")) };
        let all = |name: &'static str| node.children().filter(move |n| n.tag_name().name() == name);
        let primary = all("primary_category").find_map(|n| n.attribute("term"));
        let mut categories: Vec<String> = primary.map(String::from).into_iter().collect();
        let others = all("category").filter_map(|n| n.attribute("term")).filter(|t| Some(*t) != primary);
        categories.extend(others.map(String::from));
        entries.push(ArxivEntry {
            id,
            version,
            title: child(node, "title").unwrap_or_default(),
            summary: child(node, "summary").unwrap_or_default(),
            authors: all("author").filter_map(|n| child(n, "name")).collect(),
            published: child(node, "published").unwrap_or_default(),
            updated: child(node, "updated").unwrap_or_default(),
            categories,
            doi: child(node, "doi"),
            comment: child(node, "comment"),
        });
    }
    Ok(ArxivFeed { total, entries })
}

/// The licence of an OAI record in the format `arXiv`; `None` where the record names none.
///
/// # Errors
/// With the service's words where it has no such record, or what is wrong with the XML.
pub fn arxiv_licence(body: &[u8]) -> Result<Option<String>, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the record is no UTF-8")?;
    let tree = Document::parse(text).map_err(|e| format!("the record is no XML ({e})"))?;
    if tree.root_element().tag_name().name() != "OAI-PMH" {
        return Err(format!("<{}> in place of a record", tree.root_element().tag_name().name()));
    }
    if let Some(error) = tree.descendants().find(|n| n.tag_name().name() == "error") {
        return Err(error.text().unwrap_or("an error without words").trim().to_string());
    }
    let found = tree.descendants().find(|n| n.tag_name().name() == "license");
    Ok(found.and_then(|n| n.text()).map(|t| t.trim().to_string()).filter(|t| !t.is_empty()))
}

/// The text of a child, on one line.
fn child(node: Node<'_, '_>, name: &str) -> Option<String> {
    let found = node.children().find(|n| n.tag_name().name() == name)?;
    let text: String = found.descendants().filter_map(|n| n.text().filter(|_| n.is_text())).collect();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!line.is_empty()).then_some(line)
}

/// The client.
pub struct Arxiv<'a>(pub &'a Http);

impl Arxiv<'_> {
    /// A page may come back empty although there are hits (known of arXiv): it is asked for again.
    async fn query(&self, mut ask: Ask) -> Result<ArxivFeed, SourceError> {
        for _ in 0..4 {
            let answer = self.0.ask(&ask).await?;
            let feed = arxiv_feed(&answer.body)
                .map_err(|what| SourceError::Unexpected { url: answer.url.clone(), what })?;
            if feed.total == 0 || !feed.entries.is_empty() {
                return Ok(feed);
            }
            ask.keep = Keep::Revalidate;
        }
        let url = self.0.url(&ask)?.to_string();
        Err(SourceError::Unexpected { url, what: "hits are promised, but every page is empty".into() })
    }

    /// Papers with these words in their title, most relevant first.
    ///
    /// # Errors
    /// If the service fails.
    pub async fn by_title(&self, title: &str, most: usize) -> Result<ArxivFeed, SourceError> {
        // Characters with a meaning in a query are none of a title's.
        let words: Vec<&str> =
            title.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
        let ask = Ask::get(Service::Arxiv, "/api/query", Want::Xml)
            .with("search_query", format!("ti:\"{}\"", words.join(" ")))
            .with("start", 0)
            .with("max_results", most);
        self.query(ask).await
    }

    /// Papers by id; what does not exist is left out by the service.
    ///
    /// # Errors
    /// If the service fails or an id is malformed.
    pub async fn by_ids(&self, ids: &[&str]) -> Result<ArxivFeed, SourceError> {
        let ask = Ask::get(Service::Arxiv, "/api/query", Want::Xml)
            .with("id_list", ids.join(","))
            .with("max_results", ids.len());
        self.query(ask).await
    }

    /// The licence that a paper's authors chose.
    ///
    /// # Errors
    /// If the service fails or has no such record.
    pub async fn licence(&self, id: &str) -> Result<Option<String>, SourceError> {
        let ask = Ask::get(Service::ArxivOai, "/oai", Want::Xml)
            .with("verb", "GetRecord")
            .with("metadataPrefix", "arXiv")
            .with("identifier", format!("oai:arXiv.org:{id}"));
        let answer = self.0.ask(&ask).await?;
        arxiv_licence(&answer.body).map_err(|what| SourceError::Unexpected { url: answer.url, what })
    }

    /// The sources: a tar, gzip, TeX or bare PDF ([`Package`] tells).
    ///
    /// # Errors
    /// If there are none (a withdrawn version), or the service fails.
    pub async fn source(&self, id: &str, version: Option<u32>) -> Result<Answer, SourceError> {
        let version = version.map_or(String::new(), |v| format!("v{v}"));
        let mut ask = Ask::get(Service::Arxiv, format!("/src/{id}{version}"), Want::Package);
        ask.max_bytes = 256 << 20;
        self.0.ask(&ask).await
    }
}
