//! The versions of an OpenReview submission: what reviewers read is not what is shown today.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ask::{Answer, Ask, Keep, Want};
use crate::error::SourceError;
use crate::openreview::{Api, OpenReview};
use crate::service::Service;

/// One version with a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its id: of an edit (API 2) or of a reference (API 1).
    pub id: String,
    /// When it was made, milliseconds since 1970.
    pub created: i64,
}

/// The versions in an answer that have a file, the earliest first.
///
/// # Errors
/// If the answer has no list of them.
pub fn revisions(body: &[u8]) -> Result<Vec<Revision>, String> {
    let value: Value = serde_json::from_slice(body).map_err(|e| format!("no JSON ({e})"))?;
    let list = value["edits"].as_array().or_else(|| value["references"].as_array());
    let list = list.ok_or("the answer has no list of versions; has the API changed?")?;
    let one = |v: &Value| {
        // API 2 wraps the note in an edit and the value in an object.
        let pdf = [&v["note"]["content"]["pdf"]["value"], &v["content"]["pdf"]];
        pdf.iter().find(|p| p.as_str().is_some_and(|p| !p.is_empty()))?;
        let created = v["tcdate"].as_i64().or_else(|| v["cdate"].as_i64())?;
        v["ddate"].is_null().then_some(())?;
        Some(Revision { id: v["id"].as_str()?.into(), created })
    };
    let mut out: Vec<Revision> = list.iter().filter_map(one).collect();
    out.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Ok(out)
}

impl OpenReview<'_> {
    /// The versions of a submission that have a file and are public, the earliest first. Many venues do not show them:
    /// then there are none.
    ///
    /// # Errors
    /// If the service fails.
    pub async fn revisions(&self, api: Api, forum: &str) -> Result<Vec<Revision>, SourceError> {
        let ask = match api {
            Api::Two => {
                let ask = Ask::get(api.service(), "/notes/edits", Want::Json);
                ask.with("note.id", forum).with("sort", "tcdate:asc")
            }
            // The original of a blind note; without one the note's own versions.
            Api::One => {
                let ask = Ask::get(api.service(), "/references", Want::Json);
                ask.with("referent", forum).with("original", true)
            }
        };
        match self.http.ask(&self.authorised(ask.keep(Keep::Stored))).await {
            Ok(answer) => revisions(&answer.body)
                .map_err(|what| SourceError::Unexpected { url: answer.url.clone(), what }),
            Err(SourceError::Refused { status: 401 | 403 | 404, .. }) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// The file of a version.
    ///
    /// # Errors
    /// If there is none, or it is not public.
    pub async fn revision_pdf(&self, api: Api, id: &str) -> Result<Answer, SourceError> {
        let ask = match api {
            Api::Two => {
                let ask = Ask::get(Service::OpenReviewFiles, "/notes/edits/attachment", Want::Pdf);
                ask.with("id", id).with("name", "pdf")
            }
            Api::One => Ask::get(Service::OpenReviewFiles, "/references/pdf", Want::Pdf).with("id", id),
        };
        self.http.ask(&self.authorised(ask)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_version_with_a_file_comes_first_on_either_api() {
        let two = br#"{"edits":[{"id":"c","tcdate":30,"note":{"content":{"pdf":{"value":"/pdf/2.pdf"}}}},
            {"id":"b","tcdate":20,"note":{"content":{"title":{"value":"only a title"}}}},
            {"id":"a","tcdate":10,"note":{"content":{"pdf":{"value":"/pdf/1.pdf"}}}}],"count":3}"#;
        let ids = |body: &[u8]| revisions(body).unwrap().into_iter().map(|r| r.id).collect::<Vec<_>>();
        assert_eq!(ids(two), ["a", "c"]);
        let one = br#"{"references":[{"id":"y","tcdate":2,"content":{"pdf":"/pdf/2.pdf"}},{"id":"x","tcdate":1,"content":{"pdf":"/pdf/1.pdf"}}]}"#;
        assert_eq!(ids(one), ["x", "y"]);
        assert!(revisions(b"{}").unwrap_err().contains("changed"));
    }
}
