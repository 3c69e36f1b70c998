//! A question to a service, its answer, and the manners of asking.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderName;

use crate::service::{Limit, Service};

/// How services are spoken to.
#[derive(Clone)]
pub struct HttpOptions {
    /// A mail or web address of the user, sent in the user agent, so that a service can complain.
    pub contact: Option<String>,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Refuse every socket; what is cached is still answered.
    pub offline: bool,
    /// `http://HOST:PORT`; without one the environment's HTTP_PROXY, HTTPS_PROXY and NO_PROXY hold.
    pub proxy: Option<String>,
    /// Other addresses than the published ones.
    pub bases: HashMap<Service, String>,
    /// Other limits than the published ones.
    pub limits: HashMap<Service, Limit>,
    /// Tries of one request.
    pub tries: u32,
    /// First pause of the back-off.
    pub pause: Duration,
    /// A service that asks for a longer wait ends the run, resumably.
    pub patience: Duration,
    /// To connect.
    pub connect: Duration,
    /// A body that says nothing for so long counts as cut.
    pub silence: Duration,
    /// Requests of this run, repeated ones included.
    pub budget: Option<u64>,
    /// Asked often; true ends all waiting with [`SourceError::Interrupted`].
    pub cancelled: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl HttpOptions {
    /// The defaults, with the cache in this folder.
    pub fn new(cache: PathBuf) -> Self {
        Self {
            contact: None,
            cache,
            offline: false,
            proxy: None,
            bases: HashMap::new(),
            limits: HashMap::new(),
            tries: 8,
            pause: Duration::from_secs(1),
            patience: Duration::from_secs(300),
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            budget: None,
            cancelled: Arc::new(|| false),
        }
    }
}

/// What kind of body is an answer; anything else is a failure that may pass (an error page with status 200).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A whole JSON document.
    Json,
    /// XML that is no web page.
    Xml,
    /// A PDF.
    Pdf,
    /// An e-print of arXiv: tar, gzip, PDF, PostScript or TeX, but no web page.
    Package,
    /// A web page.
    Page,
}

/// Whether the cache may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What was once answered stays (files, finished pages of a crawl).
    Stored,
    /// Ask whether it has changed (ETag, Last-Modified).
    Revalidate,
}

/// One question.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Whom.
    pub service: Service,
    /// Behind the service's base (begins with `/`), or a whole address.
    pub path: String,
    /// Parameters, encoded here.
    pub query: Vec<(String, String)>,
    /// A body makes it a POST.
    pub json: Option<serde_json::Value>,
    /// Secrets and the like; never part of the cache's key, and never sent on to another host.
    pub headers: Vec<(HeaderName, String)>,
    /// What is an answer.
    pub want: Want,
    /// Whether the cache may answer.
    pub keep: Keep,
    /// Longest body in bytes.
    pub max_bytes: u64,
}

impl Ask {
    /// A GET of at most 64 MiB that the cache may answer.
    pub fn get(service: Service, path: impl Into<String>, want: Want) -> Self {
        Self {
            service,
            path: path.into(),
            query: Vec::new(),
            json: None,
            headers: Vec::new(),
            want,
            keep: Keep::Stored,
            max_bytes: 64 << 20,
        }
    }

    /// Adds a parameter.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.into(), value.to_string()));
        self
    }

    /// Chooses whether the cache may answer.
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was asked for.
    pub url: String,
    /// The body.
    pub body: Vec<u8>,
    /// SHA-256 (hex) of the body, under which the cache keeps it.
    pub sha256: String,
    /// True if no body went over the wire.
    pub cached: bool,
}
