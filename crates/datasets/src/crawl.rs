//! From the services to a folder of records. Everything that is asked is a task of a queue on disk and every answer lies
//! in the cache, so a crawl that was killed goes on where it was, and the records do not depend on where that happened.

mod asks;
mod pages;
mod records;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sources::{Api, Http, Listed, Listing, NewTask, OpenReview, Queue, SourceError, State, Task};

use crate::build::Progress;
use crate::error::DatasetError;
use crate::spec::{ListedBy, Spec, SpecKind, Venue};
use crate::spool::Place;

/// Submissions of a page: with all replies about 40 kB each.
pub const PAGE: usize = 200;
/// So many services that cannot be reached in a row are no accident.
const IN_A_ROW: usize = 5;

/// How a crawl is run.
pub struct CrawlOptions<'a> {
    /// Folder of queue, cache and records.
    pub work: &'a Path,
    /// The services.
    pub http: &'a Http,
    /// OpenReview's bearer token; a guest has none.
    pub openreview_token: Option<String>,
    /// Semantic Scholar's key.
    pub s2_key: Option<String>,
    /// At most so many papers of the wanted states.
    pub limit: Option<usize>,
    /// List all venues again and ask again what had no answer; what is known of a paper stays.
    pub refresh: bool,
    /// Submissions of a page.
    pub page: usize,
    /// Told.
    pub progress: &'a dyn Progress,
}

/// What came of a crawl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crawled {
    /// The folder of records, for `--from`.
    pub records: PathBuf,
    /// Over all files of the records.
    pub hash: String,
    /// Papers listed.
    pub papers: usize,
    /// Questions that had no answer; each is a problem of its paper.
    pub failed: usize,
}

struct Crawl<'a> {
    spec: &'a Spec,
    options: &'a CrawlOptions<'a>,
    queue: Queue,
}

/// Fills a folder of records; what is there already is not asked again.
///
/// # Errors
/// If a venue does not exist, a service cannot be reached or asks for more patience than there is; the same call goes on.
pub async fn crawl(spec: &Spec, options: &CrawlOptions<'_>) -> Result<Crawled, DatasetError> {
    fs::create_dir_all(options.work).map_err(DatasetError::write(options.work))?;
    let queue = Queue::open(&options.work.join("queue.db")).await?;
    let wanted =
        sources::sha256(serde_json::to_string(&(&spec.kind, &spec.matching)).unwrap_or_default().as_bytes());
    match queue.fact("spec").await? {
        None => queue.put_fact("spec", &wanted).await?,
        Some(known) if known == wanted => {}
        Some(_) => {
            return Err(DatasetError::Spec {
                place: options.work.display().to_string(),
                what: "holds a crawl with another `kind` or `match`; name another --out, or remove it".into(),
            });
        }
    }
    queue.retry(if options.refresh { "" } else { "unreachable: " }).await?;
    if options.refresh {
        queue.forget("page").await?;
        queue.forget("listing").await?;
    }
    let crawl = Crawl { spec, options, queue };
    crawl.list().await?;
    let (papers, mut notes) = crawl.papers().await?;
    crawl.plan(&papers).await?;
    crawl.work("match").await?;
    crawl.work("source").await?;
    crawl.work("pdf").await?;
    crawl.work("licence").await?;
    crawl.plan_references().await?;
    crawl.work("references").await?;
    crawl.plan_abstracts("openalex", spec.references.openalex, 50).await?;
    crawl.work("openalex").await?;
    crawl.plan_abstracts("crossref", spec.references.crossref, 1).await?;
    crawl.work("crossref").await?;
    crawl.assemble(&papers, &mut notes).await
}

/// One paper that is listed.
#[derive(Clone)]
struct Paper {
    id: String,
    title: String,
    authors: Vec<String>,
    place: i64,
    venue: usize,
    state: State,
    /// Day of its first review.
    reviewed: Option<String>,
    /// Where its note lies; thousands of submissions with all replies do not fit in memory.
    note: Option<Place>,
    /// Its arXiv id, where its own note names it.
    named: Option<(String, Option<u32>)>,
    listed: Option<Listed>,
    /// It was listed, and was not any more when the pages were read again.
    gone: bool,
}

fn task(kind: &str, key: impl Into<String>, place: i64, payload: Value) -> NewTask {
    NewTask { kind: kind.into(), key: key.into(), place, payload }
}

/// A venue in keys of tasks: adding others changes nothing of it.
fn label(venue: &Venue) -> String {
    format!("{} {} {}", venue.name, venue.year, venue.id)
}

fn key(venue: &Venue, part: usize, sweep: i64, n: i64) -> String {
    format!("{}/{part}/{sweep}/{n:06}", label(venue))
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_string()
}

impl Crawl<'_> {
    /// The venue of a task; one that has left the specification has none.
    fn venue(&self, payload: &Value) -> Option<(usize, &Venue)> {
        let name = payload["venue"].as_str()?;
        self.spec.venue.iter().enumerate().find(|(_, v)| label(v) == name)
    }

    /// The submissions of a venue, or one of its further invitations (from 1).
    fn listing(&self, venue: &Venue, part: usize) -> Listing {
        let further = part.checked_sub(1).and_then(|i| venue.also.get(i));
        Listing {
            api: venue.api.unwrap_or(Api::Two),
            invitation: further.or(venue.submissions.as_ref()).cloned().unwrap_or_default(),
            page: self.options.page,
        }
    }

    fn openreview(&self) -> OpenReview<'_> {
        OpenReview::new(self.options.http, self.options.openreview_token.clone())
    }

    /// Does all waiting tasks of a kind, those that follow from them included.
    async fn work(&self, kind: &str) -> Result<(), DatasetError> {
        let mut unreachable = 0;
        while let Some(task) = self.queue.next(kind).await? {
            if self.options.progress.cancelled() {
                return Err(DatasetError::Interrupted);
            }
            let [waiting, done, failed] = self.queue.counts(kind).await?;
            self.options.progress.stage(kind, (done + failed) as usize, (waiting + done + failed) as usize);
            let of_a_venue = !matches!(kind, "references" | "openalex" | "crossref");
            if of_a_venue && self.venue(&task.payload).is_none() {
                // Begins as what is tried again: should the venue come back, so does this.
                self.queue.fail_task(task.id, "unreachable: its venue is not in the specification").await?;
                continue;
            }
            let worked = match kind {
                "page" => self.page(&task).await,
                "listing" => self.listed(&task).await,
                "match" => self.find(&task).await,
                "source" => self.source(&task).await,
                "pdf" => self.pdf(&task).await,
                "licence" => self.licence(&task).await,
                "openalex" => self.openalex(&task).await,
                "crossref" => self.crossref(&task).await,
                _ => self.references(&task).await,
            };
            match worked {
                Ok((value, next)) => {
                    unreachable = 0;
                    self.queue.finish(task.id, &value, &next).await?;
                }
                Err(DatasetError::Source(e))
                    if e.concerns_one_item() && kind != "page" && kind != "listing" =>
                {
                    unreachable = 0;
                    // What is not at the first place may be at the second.
                    let next = self.instead(kind, &task);
                    self.queue.fail_task_with(task.id, &e.reason(), &next).await?;
                }
                Err(DatasetError::Source(e @ SourceError::Unreachable { .. }))
                    if kind != "page" && kind != "listing" =>
                {
                    unreachable += 1;
                    self.queue.fail_task(task.id, &format!("unreachable: {}", e.reason())).await?;
                    if unreachable >= IN_A_ROW {
                        return Err(e.into());
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn instead(&self, kind: &str, failed: &Task) -> Vec<NewTask> {
        let is_openreview =
            self.venue(&failed.payload).is_some_and(|(_, v)| v.listed_by == ListedBy::Openreview);
        if self.spec.kind == SpecKind::Review && is_openreview && matches!(kind, "match" | "source") {
            return vec![task("pdf", failed.key.clone(), failed.place, failed.payload.clone())];
        }
        Vec::new()
    }

    fn is_wanted(&self, paper: &Paper) -> bool {
        let f = &self.spec.filters;
        !f.drop_states.contains(&paper.state)
            && (f.only_states.is_empty() || f.only_states.contains(&paper.state))
            && !paper.title.is_empty()
    }

    async fn plan(&self, papers: &[Paper]) -> Result<(), DatasetError> {
        let wanted =
            papers.iter().filter(|p| self.is_wanted(p)).take(self.options.limit.unwrap_or(usize::MAX));
        let tasks: Vec<NewTask> = wanted
            .map(|p| {
                let mut payload =
                    json!({ "venue": label(&self.spec.venue[p.venue]), "title": p.title, "authors": p.authors });
                if let Some(day) = &p.reviewed {
                    payload["reviewed"] = json!(day);
                }
                if let Some((id, version)) = &p.named {
                    payload["named"] = json!({ "arxiv": id, "version": version, "confidence": 1.0 });
                }
                task("match", p.id.clone(), p.place, payload)
            })
            .collect();
        self.queue.add(&tasks).await?;
        Ok(())
    }
}
