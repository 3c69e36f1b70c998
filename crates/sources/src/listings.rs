//! Proceedings without an API: the XML of the ACL Anthology, the pages of CVF and PMLR.

use std::sync::LazyLock;

use regex::Regex;
use roxmltree::{Document, Node, ParsingOptions};
use serde::{Deserialize, Serialize};

use crate::ask::{Answer, Ask, Keep, Want};
use crate::error::SourceError;
use crate::http::Http;
use crate::service::Service;

/// A paper of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// `2020.acl-main.207`, or the name of the page or file.
    pub id: String,
    /// On one line.
    pub title: String,
    /// "First Last", in order.
    pub authors: Vec<String>,
    /// Where the listing has it.
    pub abstract_text: Option<String>,
    /// Address of the PDF, relative to the service.
    pub pdf: Option<String>,
    /// Where given, in lower case.
    pub doi: Option<String>,
}

/// The papers of a volume's XML (`2023.acl.xml`); `volume` chooses one volume of the file ("long"), else all.
///
/// # Errors
/// If it is no such XML.
pub fn acl_volume(body: &[u8], volume: Option<&str>) -> Result<Vec<Listed>, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the volume is no UTF-8")?;
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let tree =
        Document::parse_with_options(text, options).map_err(|e| format!("the volume is no XML ({e})"))?;
    let collection = tree.root_element();
    if collection.tag_name().name() != "collection" {
        return Err(format!("<{}> in place of a collection", collection.tag_name().name()));
    }
    let prefix = collection.attribute("id").unwrap_or_default();
    let mut out = Vec::new();
    for v in collection.children().filter(|n| n.has_tag_name("volume")) {
        let name = v.attribute("id").unwrap_or_default();
        if volume.is_some_and(|wanted| wanted != name) {
            continue;
        }
        for paper in v.children().filter(|n| n.has_tag_name("paper")) {
            let part = |name: &str| {
                paper.children().find(|n| n.has_tag_name(name)).map(inner).filter(|t| !t.is_empty())
            };
            let url = part("url");
            let number = paper.attribute("id").unwrap_or_default();
            // The file's own name where it has one; ids before 2020 have no dots and their volume's digit in front.
            let id = url
                .clone()
                .filter(|u| !u.contains("://"))
                .unwrap_or_else(|| format!("{prefix}-{name}.{number}"));
            let authors = paper.children().filter(|n| n.has_tag_name("author"));
            let Some(title) = part("title") else { continue };
            out.push(Listed {
                pdf: Some(format!("https://aclanthology.org/{id}.pdf")),
                id,
                title,
                authors: authors
                    .map(|a| a.children().filter(Node::is_element).map(inner).collect::<Vec<_>>().join(" "))
                    .collect(),
                abstract_text: part("abstract"),
                doi: part("doi").map(|d| d.to_lowercase()),
            });
        }
    }
    Ok(out)
}

/// All text below a node, on one line.
fn inner(node: Node<'_, '_>) -> String {
    let text: String = node.descendants().filter(Node::is_text).filter_map(|n| n.text()).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[allow(clippy::expect_used)] // the expressions are constants
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant expression")
}

static CVF: LazyLock<Regex> = LazyLock::new(|| {
    regex(r#"(?s)<dt class="ptitle">.*?<a href="([^"]+)">(.*?)</a>.*?</dt>(.*?)(?:<dt|</dl>|\z)"#)
});
static CVF_AUTHOR: LazyLock<Regex> = LazyLock::new(|| regex(r#"name="query_author" value="([^"]+)""#));
static PDF: LazyLock<Regex> = LazyLock::new(|| regex(r#"href="([^"]+\.pdf)""#));
static PMLR: LazyLock<Regex> = LazyLock::new(|| regex(r#"(?s)<div class="paper">(.*?)</div>"#));
static PMLR_TITLE: LazyLock<Regex> = LazyLock::new(|| regex(r#"(?s)<p class="title">(.*?)</p>"#));
static PMLR_AUTHORS: LazyLock<Regex> = LazyLock::new(|| regex(r#"(?s)<span class="authors">(.*?)</span>"#));
static PMLR_PAGE: LazyLock<Regex> = LazyLock::new(|| regex(r#"href="(?:[^"]*/)?([A-Za-z0-9_-]+)\.html""#));
static TAG: LazyLock<Regex> = LazyLock::new(|| regex("<[^>]*>"));

/// Text of a piece of HTML, on one line.
fn plain(html: &str) -> String {
    let text = TAG.replace_all(html, " ");
    let entities =
        [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    let text = entities.iter().fold(text.into_owned(), |t, (from, to)| t.replace(from, to));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The papers of a page of CVF (`/CVPR2024?day=all`).
///
/// # Errors
/// If the page lists none: an empty list would pass for a venue without papers.
pub fn cvf_page(body: &[u8]) -> Result<Vec<Listed>, String> {
    let html = String::from_utf8_lossy(body);
    let mut out = Vec::new();
    let mut at = 0;
    // Each match ends where the next one begins.
    while let Some(found) = CVF.captures_at(&html, at) {
        let (page, rest) = (&found[1], &found[3]);
        let id = page.rsplit('/').next().unwrap_or(page).trim_end_matches(".html");
        out.push(Listed {
            id: id.into(),
            title: plain(&found[2]),
            authors: CVF_AUTHOR.captures_iter(rest).map(|c| plain(&c[1])).collect(),
            abstract_text: None,
            pdf: PDF.captures(rest).map(|c| absolute(&c[1])),
            doi: None,
        });
        at = found.get(3).map_or(html.len(), |m| m.end()).max(at + 1);
    }
    if out.is_empty() { Err("the page lists no paper; has its layout changed?".into()) } else { Ok(out) }
}

/// The papers of a volume of PMLR (`/v202/`).
///
/// # Errors
/// As [`cvf_page`].
pub fn pmlr_page(body: &[u8]) -> Result<Vec<Listed>, String> {
    let html = String::from_utf8_lossy(body);
    let mut out = Vec::new();
    for found in PMLR.captures_iter(&html) {
        let paper = &found[1];
        let Some(title) = PMLR_TITLE.captures(paper).map(|c| plain(&c[1])) else { continue };
        let authors = PMLR_AUTHORS.captures(paper).map(|c| plain(&c[1])).unwrap_or_default();
        let pdf = PDF.captures(paper).map(|c| c[1].to_string());
        let of_pdf = || pdf.as_deref().and_then(|p| p.rsplit('/').next()).map(|f| f.trim_end_matches(".pdf"));
        let page = PMLR_PAGE.captures(paper).map(|c| c[1].to_string());
        let Some(id) = page.or_else(|| of_pdf().map(String::from)) else { continue };
        out.push(Listed {
            id,
            title,
            authors: authors.split(',').map(str::trim).filter(|a| !a.is_empty()).map(String::from).collect(),
            abstract_text: None,
            pdf,
            doi: None,
        });
    }
    if out.is_empty() { Err("the page lists no paper; has its layout changed?".into()) } else { Ok(out) }
}

fn absolute(path: &str) -> String {
    if path.contains("://") || path.starts_with('/') { path.into() } else { format!("/{path}") }
}

/// The client.
pub struct Listings<'a>(pub &'a Http);

impl Listings<'_> {
    /// A listing: `2023.acl#long`, `CVPR2024`, `v202`.
    ///
    /// # Errors
    /// If the service fails or the page is none.
    pub async fn list(&self, service: Service, name: &str, keep: Keep) -> Result<Vec<Listed>, SourceError> {
        let (name, volume) = name.split_once('#').map_or((name, None), |(n, v)| (n, Some(v)));
        let ask = match service {
            Service::Acl => Ask::get(service, format!("/{name}.xml"), Want::Xml),
            Service::Cvf => Ask::get(service, format!("/{name}"), Want::Page).with("day", "all"),
            Service::Pmlr => Ask::get(service, format!("/{name}/"), Want::Page),
            other => return Err(SourceError::Usage(format!("{other} has no listings"))),
        };
        let answer = self.0.ask(&ask.keep(keep)).await?;
        let papers = match service {
            Service::Acl => acl_volume(&answer.body, volume),
            Service::Cvf => cvf_page(&answer.body),
            _ => pmlr_page(&answer.body),
        };
        papers.map_err(|what| SourceError::Unexpected { url: answer.url, what })
    }

    /// A paper's PDF.
    ///
    /// # Errors
    /// If there is none.
    pub async fn pdf(&self, service: Service, path: &str) -> Result<Answer, SourceError> {
        self.0.ask(&Ask::get(service, path, Want::Pdf)).await
    }
}
