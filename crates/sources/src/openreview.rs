//! OpenReview, both APIs.

use reqwest::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ask::{Answer, Ask, Keep, Want};
use crate::error::SourceError;
use crate::http::Http;
use crate::note::{Note, notes};
use crate::service::Service;

/// Which API a venue is on. The other one answers an empty list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Api {
    /// `api.openreview.net`: ICLR to 2023, NeurIPS to 2022.
    #[serde(rename = "1")]
    One,
    /// `api2.openreview.net`.
    #[serde(rename = "2")]
    Two,
}

impl Api {
    /// Where it is.
    pub fn service(self) -> Service {
        match self {
            Self::One => Service::OpenReview1,
            Self::Two => Service::OpenReview2,
        }
    }
}

/// Which submissions are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// On which API.
    pub api: Api,
    /// `ICLR.cc/2024/Conference/-/Submission`.
    pub invitation: String,
    /// Submissions of a page, at most 1000; with all replies a thousand are tens of MB.
    pub page: usize,
}

/// Some submissions with all their replies.
#[derive(Debug, Clone)]
pub struct Page {
    /// In the order of the answer.
    pub notes: Vec<Note>,
    /// Notes that are not of the known shape, each with what is wrong.
    pub broken: Vec<String>,
    /// All that there are, where the service says so.
    pub count: Option<usize>,
    /// Under which the cache keeps the answer.
    pub sha256: String,
}

/// What `/login` gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// A bearer token.
    Token(String),
    /// A second factor is wanted: log in by the web page and give the token in OPENREVIEW_TOKEN.
    SecondFactor(Vec<String>),
}

/// The client.
pub struct OpenReview<'a> {
    pub(crate) http: &'a Http,
    token: Option<String>,
}

impl<'a> OpenReview<'a> {
    /// A guest, or whoever the token belongs to.
    pub fn new(http: &'a Http, token: Option<String>) -> Self {
        Self { http, token }
    }

    pub(crate) fn authorised(&self, mut ask: Ask) -> Ask {
        if let Some(token) = &self.token {
            ask.headers.push((AUTHORIZATION, format!("Bearer {token}")));
        }
        ask
    }

    /// Logs in; `seconds` is how long the token shall last, at most a week.
    ///
    /// # Errors
    /// If the service refuses.
    pub async fn login(&self, id: &str, password: &str, seconds: u32) -> Result<Session, SourceError> {
        let mut ask = Ask::get(Service::OpenReview2, "/login", Want::Json).keep(Keep::Revalidate);
        ask.json = Some(serde_json::json!({"id": id, "password": password, "expiresIn": seconds}));
        let answer = self.http.ask_unstored(&ask).await?;
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if let Some(token) = value["token"].as_str() {
            return Ok(Session::Token(token.into()));
        }
        if value["mfaPending"] == true {
            let methods = value["mfaMethods"].as_array().into_iter().flatten();
            return Ok(Session::SecondFactor(methods.filter_map(Value::as_str).map(String::from).collect()));
        }
        Err(SourceError::Unexpected { url: answer.url, what: "a login without token".into() })
    }

    /// Whether a venue exists, by its group.
    ///
    /// # Errors
    /// If the service fails; a venue that does not exist is no error.
    pub async fn venue_exists(&self, api: Api, venue: &str) -> Result<bool, SourceError> {
        let ask = Ask::get(api.service(), "/groups", Want::Json).with("id", venue).keep(Keep::Revalidate);
        match self.http.ask(&self.authorised(ask)).await {
            Ok(answer) => {
                let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                Ok(value["groups"].as_array().is_some_and(|g| !g.is_empty()))
            }
            Err(SourceError::Refused { status: 404, .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Submissions with their replies. API 2 goes on behind the id `after` (sorted by id: what is added or withdrawn in
    /// between shifts nothing); API 1 knows offsets alone.
    ///
    /// # Errors
    /// If the service fails or the answer is none.
    pub async fn page(
        &self,
        listing: &Listing,
        after: Option<&str>,
        offset: usize,
        keep: Keep,
    ) -> Result<Page, SourceError> {
        let mut ask = Ask::get(listing.api.service(), "/notes", Want::Json)
            .with("invitation", &listing.invitation)
            // API 1 gives the notes right below a submission: reviews, decision, withdrawal are among them.
            .with("details", if listing.api == Api::One { "directReplies" } else { "replies" })
            .with("limit", listing.page.clamp(1, 1000))
            .keep(keep);
        ask.max_bytes = 512 << 20;
        ask = match listing.api {
            Api::Two => ask.with("sort", "id"),
            Api::One => ask.with("sort", "number:asc").with("offset", offset),
        };
        if let (Api::Two, Some(after)) = (listing.api, after) {
            ask = ask.with("after", after);
        }
        page(self.http.ask(&self.authorised(ask)).await?)
    }

    /// One submission as it is now.
    ///
    /// # Errors
    /// If the service fails or may not show it.
    pub async fn forum(&self, api: Api, id: &str) -> Result<Page, SourceError> {
        let ask = Ask::get(api.service(), "/notes", Want::Json).with("id", id).with("details", "replies");
        page(self.http.ask(&self.authorised(ask.keep(Keep::Revalidate))).await?)
    }

    /// The latest PDF of a submission: of an accepted paper the camera-ready version.
    ///
    /// # Errors
    /// If there is none, or it is not public.
    pub async fn pdf(&self, forum: &str) -> Result<Answer, SourceError> {
        let ask = Ask::get(Service::OpenReviewFiles, "/pdf", Want::Pdf).with("id", forum);
        self.http.ask(&self.authorised(ask)).await
    }
}

fn page(answer: Answer) -> Result<Page, SourceError> {
    let (list, count) =
        notes(&answer.body).map_err(|what| SourceError::Unexpected { url: answer.url.clone(), what })?;
    let mut out = Page { notes: Vec::new(), broken: Vec::new(), count, sha256: answer.sha256 };
    for note in list {
        match note {
            Ok(note) => out.notes.push(note),
            Err(what) => out.broken.push(what),
        }
    }
    Ok(out)
}
