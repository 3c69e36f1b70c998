//! What a build from the network costs, before it begins: requests, days at the published limits, disk.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sources::Service;

use crate::crawl::PAGE;
use crate::spec::{ListedBy, Spec, SpecKind, WantedVersion};

/// Requests to one service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostEstimate {
    /// Who.
    pub service: String,
    /// What for.
    pub requests: BTreeMap<String, u64>,
    /// Of all of them at the published limit.
    pub seconds: f64,
}

/// What a build costs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Papers, where the specification says how many.
    pub papers: u64,
    /// Venues whose size is not given: what they cost is not in it.
    pub unknown: Vec<String>,
    /// By service; services are asked one after another for each paper, so times add up.
    pub hosts: Vec<HostEstimate>,
    /// All requests.
    pub requests: u64,
    /// All times.
    pub days: f64,
    /// Bytes on disk.
    pub disk: u64,
    /// What was assumed.
    pub assumptions: Vec<String>,
}

/// Shares and sizes that an estimate is made with. They are assumptions, and said to be: of ICLR papers on arXiv no figure
/// was measured here; a package of sources is 2 MB as the larger ones of arXiv are with their figures, a PDF 1.5 MB, a
/// submission with all its replies 40 kB.
const ON_ARXIV: f64 = 0.75;
/// Of papers on arXiv those that were there before their first review.
const EARLY: f64 = 0.6;
const PACKAGE: f64 = 2e6;
const PDF: f64 = 1.5e6;
const NOTE: f64 = 4e4;
const S2_BATCH: u64 = 20;

impl Estimate {
    /// For a specification; with a limit the listings are read all the same, and of the papers so many.
    pub fn of(spec: &Spec, limit: Option<usize>) -> Self {
        let mut asked: BTreeMap<Service, BTreeMap<String, u64>> = BTreeMap::new();
        let mut add = |service: Service, what: &str, n: u64| {
            *asked.entry(service).or_default().entry(what.into()).or_default() += n;
        };
        let mut out = Self::default();
        let mut listed = 0.0;
        for venue in &spec.venue {
            let Some(papers) = venue.expected else {
                out.unknown.push(format!("{} {}", venue.name, venue.year));
                continue;
            };
            out.papers += papers;
            let all = venue.listed.unwrap_or(papers).max(papers);
            match venue.listed_by {
                ListedBy::Openreview => {
                    let service = venue.api.map_or(Service::OpenReview2, sources::Api::service);
                    // One request for the group, pages, and one that says that there are no more.
                    add(service, "pages of submissions with replies", all.div_ceil(PAGE as u64) + 2);
                    listed += NOTE * all as f64;
                }
                ListedBy::Acl => add(Service::Acl, "listings", 1),
                ListedBy::Cvf => add(Service::Cvf, "listings", 1),
                ListedBy::Pmlr => add(Service::Pmlr, "listings", 1),
            }
        }
        out.papers = out.papers.min(limit.map_or(u64::MAX, |l| l as u64));
        let papers = out.papers;
        let submitted = spec.kind == SpecKind::Review && spec.matching.version == WantedVersion::Submitted;
        let share = if submitted { ON_ARXIV * EARLY } else { ON_ARXIV };
        let on_arxiv = (papers as f64 * share).round() as u64;
        let mut disk = listed;
        match spec.kind {
            SpecKind::Review => {
                add(Service::Arxiv, "searches by title", papers);
                add(Service::Arxiv, "packages of sources", on_arxiv);
                let pdfs = papers - on_arxiv;
                add(Service::OpenReviewFiles, "PDFs of the other papers", pdfs);
                if submitted {
                    let api =
                        spec.venue.iter().find_map(|v| v.api).map_or(Service::OpenReview2, |a| a.service());
                    add(api, "versions of these papers", pdfs);
                }
                disk += on_arxiv as f64 * PACKAGE + (papers - on_arxiv) as f64 * PDF;
                // Rows: text, reviews and dialogue, as lines and as parquet.
                disk += papers as f64 * 3e5;
            }
            SpecKind::Research => {
                add(Service::SemanticScholar, "matches by title", papers);
                add(
                    Service::SemanticScholar,
                    "batches of references with abstracts",
                    on_arxiv.div_ceil(S2_BATCH),
                );
                add(Service::Arxiv, "packages of sources", on_arxiv);
                if spec.references.openalex {
                    // About one in seven of 30 cited works each has a DOI, no abstract, and was not asked for before.
                    add(
                        Service::OpenAlex,
                        "abstracts that Semantic Scholar lacks",
                        (on_arxiv * 4).div_ceil(50),
                    );
                }
                disk += on_arxiv as f64 * PACKAGE + papers as f64 * 5e5;
            }
        }
        if spec.licences.ask {
            add(Service::ArxivOai, "licences", on_arxiv);
        }
        for (service, requests) in asked {
            let all: u64 = requests.values().sum();
            let pause: Duration = service.limit().pause();
            out.requests += all;
            let seconds = all as f64 * pause.as_secs_f64();
            out.days += seconds / 86_400.0;
            out.hosts.push(HostEstimate { service: service.name().into(), requests, seconds });
        }
        out.disk = disk as u64;
        out.assumptions = vec![
            format!("{:.0} % of the papers are on arXiv (assumed, not measured)", 100.0 * ON_ARXIV),
            "2 MB a package of sources, 1.5 MB a PDF, 40 kB a submission with its replies (assumed)".into(),
            "nothing is asked twice; a cache that is filled already costs nothing".into(),
        ];
        if submitted {
            let what =
                "of these were there before their first review; of the others OpenReview's file is taken";
            out.assumptions.insert(1, format!("{:.0} % {what} (assumed, not measured)", 100.0 * EARLY));
        }
        if spec.kind == SpecKind::Research && spec.references.openalex {
            out.assumptions
                .push("four cited works of a paper have a DOI, and no abstract at Semantic Scholar".into());
        }
        out
    }
}
