//! The services that papers, reviews and references come from, over one polite HTTP layer.
//!
//! [`Http`] is the only place that opens a socket: a token bucket for each host at its published limit, waits that the
//! service asks for, jittered back-off within a budget of requests, a cache by content on disk, bodies that go on where
//! they were cut. A client knows one protocol and nothing of the others: [`OpenReview`] (both APIs), [`Arxiv`],
//! [`SemanticScholar`], [`OpenAlex`], [`Crossref`], [`Listings`] (ACL Anthology, CVF, PMLR). [`Queue`] is a list of work
//! in SQLite that a killed crawl goes on with. What a service sent is parsed by pure functions over bytes, so that
//! recorded answers are read by the same code.

mod arxiv;
mod ask;
mod body;
mod bucket;
mod cache;
mod crossref;
mod error;
mod http;
mod listings;
mod moment;
mod note;
mod openalex;
mod openreview;
mod queue;
mod retry;
mod revisions;
mod robots;
mod semantic_scholar;
mod service;

pub use arxiv::{Arxiv, ArxivEntry, ArxivFeed, Package, arxiv_feed, arxiv_id, arxiv_licence};
pub use ask::{Answer, Ask, HttpOptions, Keep, Want};
pub use cache::{Cache, sha256};
pub use crossref::{Crossref, CrossrefWork, crossref_work, crossref_works};
pub use error::SourceError;
pub use http::Http;
pub use listings::{Listed, Listings, acl_volume, cvf_page, pmlr_page};
pub use moment::day;
pub use note::{Kind, Note, State, notes};
pub use openalex::{OpenAlex, OpenAlexWork, openalex_works};
pub use openreview::{Api, Listing, OpenReview, Page, Session};
pub use queue::{NewTask, Queue, Task, TaskState};
pub use revisions::{Revision, revisions};
pub use robots::Robots;
pub use semantic_scholar::{S2Paper, SemanticScholar, s2_batch, s2_match, s2_paper, s2_references};
pub use service::{Limit, Service};
