//! The services: where they are and what they ask of their guests.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A service with an address and a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// OpenReview, API 2 (ICLR from 2024, NeurIPS from 2023).
    OpenReview2,
    /// OpenReview, API 1 (before).
    OpenReview1,
    /// OpenReview's files.
    OpenReviewFiles,
    /// arXiv: the API and, under the same limit, sources and PDFs.
    Arxiv,
    /// arXiv's OAI-PMH interface: licences.
    ArxivOai,
    /// Semantic Scholar's graph.
    SemanticScholar,
    /// OpenAlex.
    OpenAlex,
    /// Crossref.
    Crossref,
    /// The metadata of the ACL Anthology, in its repository.
    Acl,
    /// Pages of the Computer Vision Foundation.
    Cvf,
    /// Proceedings of Machine Learning Research.
    Pmlr,
}

/// How often a service may be asked. Starting values: what an answer says counts from then on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// So many requests
    pub requests: f64,
    /// in so much time,
    pub per: Duration,
    /// and so many at the same time.
    pub at_once: usize,
}

impl Limit {
    /// Time for one request.
    pub fn pause(self) -> Duration {
        self.per.div_f64(self.requests.max(1e-9))
    }
}

impl Service {
    /// All of them.
    pub const ALL: [Service; 11] = [
        Service::OpenReview2,
        Service::OpenReview1,
        Service::OpenReviewFiles,
        Service::Arxiv,
        Service::ArxivOai,
        Service::SemanticScholar,
        Service::OpenAlex,
        Service::Crossref,
        Service::Acl,
        Service::Cvf,
        Service::Pmlr,
    ];

    /// The name in `--base NAME=URL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenReview2 => "openreview2",
            Self::OpenReview1 => "openreview1",
            Self::OpenReviewFiles => "openreview-files",
            Self::Arxiv => "arxiv",
            Self::ArxivOai => "arxiv-oai",
            Self::SemanticScholar => "semantic-scholar",
            Self::OpenAlex => "openalex",
            Self::Crossref => "crossref",
            Self::Acl => "acl",
            Self::Cvf => "cvf",
            Self::Pmlr => "pmlr",
        }
    }

    /// Where it is.
    pub fn base(self) -> &'static str {
        match self {
            Self::OpenReview2 => "https://api2.openreview.net",
            Self::OpenReview1 => "https://api.openreview.net",
            Self::OpenReviewFiles => "https://openreview.net",
            Self::Arxiv => "https://export.arxiv.org",
            Self::ArxivOai => "https://oaipmh.arxiv.org",
            Self::SemanticScholar => "https://api.semanticscholar.org/graph/v1",
            Self::OpenAlex => "https://api.openalex.org",
            Self::Crossref => "https://api.crossref.org",
            Self::Acl => "https://raw.githubusercontent.com/acl-org/acl-anthology/master/data/xml",
            Self::Cvf => "https://openaccess.thecvf.com",
            Self::Pmlr => "https://proceedings.mlr.press",
        }
    }

    /// True for pages that are meant for readers: their robots.txt is asked for first. The others are interfaces for
    /// programs, whose terms are in [`Service::limit`].
    pub fn has_robots(self) -> bool {
        matches!(self, Self::Acl | Self::Cvf | Self::Pmlr)
    }

    /// What it asks of its guests, as published or seen (August 2026):
    /// arXiv, terms of use of the API: one request in three seconds over one connection; Semantic Scholar: one request
    /// a second with a key, without one a pool shared by everybody, so the same start; OpenAlex: 100 a second at most
    /// and 100,000 credits a day, of which a list costs ten; Crossref's public pool: 5 a second, one at a time;
    /// OpenReview files: 36 an hour were answered before the 429 that its message describes; OpenReview notes and
    /// pages without an API: no figure is published, one a second is kept.
    pub fn limit(self) -> Limit {
        let limit =
            |requests, seconds, at_once| Limit { requests, per: Duration::from_secs(seconds), at_once };
        match self {
            Self::Arxiv | Self::ArxivOai => limit(1.0, 3, 1),
            Self::OpenReviewFiles => limit(36.0, 3_600, 1),
            Self::OpenAlex => limit(10.0, 1, 4),
            Self::Crossref => limit(5.0, 1, 1),
            _ => limit(1.0, 1, 1),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = Self::ALL.iter().map(|s| s.name()).collect();
        Self::ALL
            .into_iter()
            .find(|s| s.name() == text)
            .ok_or_else(|| format!("no service is called {text}; there are {}", names.join(", ")))
    }
}
