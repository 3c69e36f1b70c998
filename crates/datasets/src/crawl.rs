//! From the services to a folder of records. Everything that is asked is a task of a queue on disk and every answer lies
//! in the cache, so a crawl that was killed goes on where it was, and the records do not depend on where that happened.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sources::{
    Api, Arxiv, Crossref, Http, Keep, Listed, Listing, Listings, NewTask, Note, OpenAlex, OpenReview,
    Package, Queue, SemanticScholar, Service, SourceError, State, Task, arxiv_id,
};

use crate::build::Progress;
use crate::error::DatasetError;
use crate::fragment::{Fragment, Reference};
use crate::record::ArxivMatch;
use crate::spec::{ListedBy, Spec, SpecKind, Venue};
use crate::spool::{Place, Spool, Spooled};
use crate::title;

/// Submissions of a page: with all replies about 40 kB each.
pub const PAGE: usize = 200;
/// A page shifts while it is read; so often a venue is read again until it is complete.
const SWEEPS: i64 = 4;
/// Papers whose references are asked for at once: an answer may have 10 MB.
const BATCH: usize = 20;
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

/// Old notes name their arXiv page where others have a file.
fn named_on_arxiv(note: &Note) -> Option<(String, Option<u32>)> {
    let fields = ["pdf", "html", "arxiv"].into_iter().filter_map(|f| note.text(f));
    fields.filter(|t| t.contains("arxiv") || !t.contains('/')).find_map(arxiv_id)
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

    /// All pages of all venues.
    async fn list(&self) -> Result<(), DatasetError> {
        let (mut first, fresh) = (Vec::new(), self.options.refresh);
        for (i, v) in self.spec.venue.iter().enumerate() {
            let place = i as i64 * 1_000_000;
            if v.listed_by != ListedBy::Openreview {
                first.push(task("listing", label(v), place, json!({ "venue": label(v), "fresh": fresh })));
                continue;
            }
            for part in 0..=v.also.len() {
                let payload = json!({
                    "venue": label(v), "part": part, "sweep": 1, "n": 0, "offset": 0, "fresh": fresh,
                });
                first.push(task("page", key(v, part, 1, 0), place, payload));
            }
        }
        self.queue.add(&first).await?;
        self.work("page").await?;
        self.work("listing").await
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

    async fn page(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let p = &at.payload;
        let Some((i, venue)) = self.venue(p) else { return Ok((Value::Null, Vec::new())) };
        let part = p["part"].as_u64().unwrap_or(0) as usize;
        let listing = self.listing(venue, part);
        let (sweep, n) = (p["sweep"].as_i64().unwrap_or(1), p["n"].as_i64().unwrap_or(0));
        let offset = p["offset"].as_u64().unwrap_or(0) as usize;
        let after = p["after"].as_str();
        // A page that is read again is asked for afresh.
        let keep = if sweep > 1 || p["fresh"] == true { Keep::Revalidate } else { Keep::Stored };
        let page = self.openreview().page(&listing, after, offset, keep).await?;
        if n == 0 && part == 0 && page.notes.is_empty() && page.broken.is_empty() {
            let exists = self.openreview().venue_exists(listing.api, &venue.id).await?;
            let what = if exists {
                format!(
                    "{} has no public note of {}; is the invitation of this year another?",
                    venue.id, listing.invitation
                )
            } else {
                format!(
                    "OpenReview has no group {} on API {}; is the venue spelt right?",
                    venue.id,
                    if listing.api == Api::One { 1 } else { 2 }
                )
            };
            return Err(DatasetError::Spec { place: format!("{} {}", venue.name, venue.year), what });
        }
        let ids: Vec<&str> = page.notes.iter().map(|n| n.id.as_str()).collect();
        // Offsets shift when a submission comes or goes: pages overlap by one, and who is not there again has moved.
        let moved =
            p["last"].as_str().is_some_and(|last| listing.api == Api::One && ids.first() != Some(&last));
        let mut value = json!({ "sha256": page.sha256, "ids": ids, "count": page.count, "broken": page.broken, "moved": moved });
        let got = page.notes.len() + page.broken.len();
        let base = i as i64 * 1_000_000 + sweep * 100_000;
        let last = ids.last().map(|s| s.to_string());
        let more = match listing.api {
            Api::Two => last.is_some() && last.as_deref() != after,
            Api::One => got >= self.options.page && got > 1,
        };
        if more {
            let payload = json!({
                "venue": p["venue"], "part": part, "sweep": sweep, "n": n + 1, "offset": offset + got - usize::from(listing.api == Api::One),
                "after": last, "last": last, "fresh": p["fresh"],
            });
            return Ok((value, vec![task("page", key(venue, part, sweep, n + 1), base + n + 1, payload)]));
        }
        // The end of a sweep: what shifted between two pages is read again.
        let mut seen: HashSet<String> = ids.iter().map(|s| s.to_string()).collect();
        let (mut count, mut moved) = (page.count, moved);
        for earlier in self
            .queue
            .all("page")
            .await?
            .iter()
            .filter(|t| t.payload["venue"] == p["venue"] && t.payload["part"] == p["part"])
        {
            let ids = earlier.value["ids"].as_array().into_iter().flatten();
            seen.extend(ids.filter_map(|v| v.as_str().map(String::from)));
            if earlier.payload["sweep"] == p["sweep"] {
                count = count.max(earlier.value["count"].as_u64().map(|c| c as usize));
                moved |= earlier.value["moved"] == true;
            }
        }
        let lacks = count.is_some_and(|c| seen.len() < c);
        if (lacks || moved) && sweep < SWEEPS {
            let payload =
                json!({ "venue": p["venue"], "part": part, "sweep": sweep + 1, "n": 0, "offset": 0 });
            let place = i as i64 * 1_000_000 + (sweep + 1) * 100_000;
            return Ok((value, vec![task("page", key(venue, part, sweep + 1, 0), place, payload)]));
        }
        if lacks || moved {
            let all = count.map_or("an unknown number".into(), |c| c.to_string());
            let what = format!(
                "{} of {all} submissions of {} after {SWEEPS} sweeps",
                seen.len(),
                listing.invitation
            );
            if let Some(broken) = value["broken"].as_array_mut() {
                broken.push(json!(what));
            }
        }
        Ok((value, Vec::new()))
    }

    async fn listed(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let Some((_, venue)) = self.venue(&at.payload) else { return Ok((Value::Null, Vec::new())) };
        let service = match venue.listed_by {
            ListedBy::Acl => Service::Acl,
            ListedBy::Cvf => Service::Cvf,
            _ => Service::Pmlr,
        };
        let keep = if at.payload["fresh"] == true { Keep::Revalidate } else { Keep::Stored };
        let papers =
            Listings(self.options.http).list(service, &venue.id, keep).await.map_err(|e| match e {
                SourceError::Refused { status: 404, .. } => DatasetError::Spec {
                    place: format!("{} {}", venue.name, venue.year),
                    what: format!("{service} has no listing {}", venue.id),
                },
                e => e.into(),
            })?;
        Ok((json!({ "papers": papers }), Vec::new()))
    }

    /// All listed papers in the requested order, each once; of two versions of a note the later one.
    async fn papers(&self) -> Result<(Vec<Paper>, Spooled), DatasetError> {
        let mut out: BTreeMap<(usize, i64, String), Paper> = BTreeMap::new();
        let mut notes: HashMap<String, (Option<i64>, i64, Paper)> = HashMap::new();
        let mut spool = Spool::new(&self.options.work.join("notes"))?;
        // Of each venue the last sweep, and who was in it.
        let mut last: HashMap<(usize, u64), (i64, HashSet<String>)> = HashMap::new();
        let pages = self.queue.all("page").await?;
        for page in &pages {
            let Some((i, _)) = self.venue(&page.payload) else { continue };
            let sweep = page.payload["sweep"].as_i64().unwrap_or(1);
            let of = last.entry((i, page.payload["part"].as_u64().unwrap_or(0))).or_default();
            if sweep > of.0 {
                *of = (sweep, HashSet::new());
            }
            if sweep == of.0 {
                of.1.extend(
                    page.value["ids"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|v| v.as_str().map(String::from)),
                );
            }
        }
        for page in pages {
            let (Some((i, _)), Some(hash)) = (self.venue(&page.payload), page.value["sha256"].as_str())
            else {
                continue;
            };
            let lost = || {
                DatasetError::input(
                    self.options.work,
                    format!("the cache has lost the body {hash}; remove queue.db to ask again"),
                )
            };
            let body = self.options.http.cache().body(hash).ok_or_else(lost)?;
            let (list, _) = sources::notes(&body).map_err(|e| DatasetError::input(self.options.work, e))?;
            for note in list.into_iter().flatten() {
                if notes.get(&note.id).is_some_and(|(known, ..)| *known >= note.modified) {
                    continue;
                }
                let gone = !last.iter().any(|((v, _), (_, ids))| *v == i && ids.contains(&note.id));
                let paper = Paper {
                    id: note.id.clone(),
                    title: note.text("title").unwrap_or_default().into(),
                    authors: note.list("authors"),
                    state: if note.deleted || gone { State::Withdrawn } else { note.state() },
                    place: 0,
                    venue: i,
                    note: Some(spool.add(&note)?),
                    named: named_on_arxiv(&note),
                    listed: None,
                    gone,
                };
                notes.insert(note.id, (note.modified, note.number.unwrap_or(i64::MAX), paper));
            }
        }
        for (id, (_, number, paper)) in notes {
            out.insert((paper.venue, number, id), paper);
        }
        for list in self.queue.all("listing").await? {
            let Some((i, _)) = self.venue(&list.payload) else { continue };
            let papers: Vec<Listed> =
                serde_json::from_value(list.value["papers"].clone()).unwrap_or_default();
            for (n, listed) in papers.into_iter().enumerate() {
                let paper = Paper {
                    id: listed.id.clone(),
                    title: listed.title.clone(),
                    authors: listed.authors.clone(),
                    place: 0,
                    venue: i,
                    state: State::Accepted,
                    note: None,
                    named: None,
                    listed: Some(listed),
                    gone: false,
                };
                out.entry((i, n as i64, paper.id.clone())).or_insert(paper);
            }
        }
        let mut papers: Vec<Paper> = out.into_values().collect();
        for (n, paper) in papers.iter_mut().enumerate() {
            paper.place = n as i64;
        }
        Ok((papers, spool.done()?))
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
                if let Some((id, version)) = &p.named {
                    payload["named"] = json!({ "arxiv": id, "version": version, "confidence": 1.0 });
                }
                task("match", p.id.clone(), p.place, payload)
            })
            .collect();
        self.queue.add(&tasks).await?;
        Ok(())
    }

    /// The paper on arXiv: by its title on arXiv itself, or through Semantic Scholar where references are wanted too.
    async fn find(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let title = text(&at.payload, "title");
        let authors: Vec<String> = serde_json::from_value(at.payload["authors"].clone()).unwrap_or_default();
        let least = self.spec.matching.least_confidence;
        let mut best: Option<(f64, Value)> = None;
        let offer = |best: &mut Option<(f64, Value)>, confidence: f64, value: Value| {
            if confidence >= least && best.as_ref().is_none_or(|(c, _)| confidence > *c) {
                *best = Some((confidence, value));
            }
        };
        if at.payload["named"].is_object() && self.spec.kind == SpecKind::Review {
            best = Some((1.0, at.payload["named"].clone()));
        }
        match self.spec.kind {
            // Named by its own note: nothing has to be searched.
            SpecKind::Review if best.is_some() => {}
            SpecKind::Review => {
                let feed = Arxiv(self.options.http).by_title(&title, self.spec.matching.candidates).await?;
                for e in feed.entries {
                    let sure = title::confidence(&title, &authors, &e.title, &e.authors);
                    offer(
                        &mut best,
                        sure,
                        json!({ "arxiv": e.id, "version": e.version, "confidence": sure, "comment": e.comment }),
                    );
                }
            }
            SpecKind::Research => {
                let s2 = SemanticScholar::new(self.options.http, self.options.s2_key.clone());
                if let Some(p) = s2.by_title(&title).await? {
                    let sure = title::confidence(
                        &title,
                        &authors,
                        p.title.as_deref().unwrap_or_default(),
                        &p.authors,
                    );
                    offer(
                        &mut best,
                        sure,
                        json!({ "arxiv": p.arxiv, "confidence": sure, "paper_id": p.id, "abstract": p.abstract_text }),
                    );
                }
            }
        }
        let Some((_, value)) = best else {
            return Ok((json!({ "arxiv": null }), self.instead("match", at)));
        };
        let next = match value["arxiv"].as_str() {
            Some(id) => {
                let mut payload = at.payload.clone();
                payload["arxiv"] = json!(id);
                payload["version"] = value["version"].clone();
                let mut next = vec![task("source", at.key.clone(), at.place, payload.clone())];
                if self.spec.licences.ask {
                    next.push(task("licence", at.key.clone(), at.place, payload));
                }
                next
            }
            None => self.instead("match", at),
        };
        Ok((value, next))
    }

    async fn source(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let id = text(&at.payload, "arxiv");
        let version = at.payload["version"].as_u64().and_then(|v| u32::try_from(v).ok());
        let answer = Arxiv(self.options.http).source(&id, version).await?;
        let package = Package::of(&answer.body);
        let value = json!({ "sha256": answer.sha256, "package": package });
        let next = match package {
            Package::PostScript | Package::Html => self.instead("source", at),
            _ => Vec::new(),
        };
        Ok((value, next))
    }

    async fn pdf(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let answer = self.openreview().pdf(&at.key).await?;
        Ok((json!({ "sha256": answer.sha256 }), Vec::new()))
    }

    async fn licence(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let licence = Arxiv(self.options.http).licence(&text(&at.payload, "arxiv")).await?;
        Ok((json!({ "licence": licence }), Vec::new()))
    }

    /// DOIs of cited works that nobody has given an abstract of, in chunks.
    async fn plan_abstracts(&self, kind: &str, wanted: bool, chunk: usize) -> Result<(), DatasetError> {
        if !wanted || self.spec.kind != SpecKind::Research {
            return Ok(());
        }
        let mut lacking = BTreeSet::new();
        for t in self.queue.all("references").await? {
            for list in t.value.as_object().into_iter().flat_map(|o| o.values()) {
                let list: Vec<Reference> = serde_json::from_value(list.clone()).unwrap_or_default();
                lacking.extend(list.into_iter().filter(|r| r.abstract_text.is_none()).filter_map(|r| r.doi));
            }
        }
        for known in self.abstracts().await?.keys() {
            lacking.remove(known);
        }
        let lacking: Vec<String> = lacking.into_iter().collect();
        let one =
            |(n, dois): (usize, &[String])| task(kind, format!("{n:06}"), n as i64, json!({ "dois": dois }));
        let tasks: Vec<NewTask> = lacking.chunks(chunk).enumerate().map(one).collect();
        self.queue.add(&tasks).await?;
        Ok(())
    }

    /// Abstracts by DOI from the services that are asked second.
    async fn abstracts(&self) -> Result<HashMap<String, String>, DatasetError> {
        let mut out = HashMap::new();
        for kind in ["openalex", "crossref"] {
            for t in self.queue.all(kind).await? {
                let found = t.value.as_object().into_iter().flatten();
                out.extend(found.filter_map(|(doi, text)| Some((doi.clone(), text.as_str()?.to_string()))));
            }
        }
        Ok(out)
    }

    async fn openalex(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let dois: Vec<String> = serde_json::from_value(at.payload["dois"].clone()).unwrap_or_default();
        let some: Vec<&str> = dois.iter().map(String::as_str).collect();
        let works = OpenAlex(self.options.http).by_dois(&some).await?;
        let found = works.into_iter().filter_map(|w| Some((w.doi?, json!(w.abstract_text?))));
        Ok((Value::Object(found.collect()), Vec::new()))
    }

    async fn crossref(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let dois: Vec<String> = serde_json::from_value(at.payload["dois"].clone()).unwrap_or_default();
        let mut found = serde_json::Map::new();
        for doi in dois {
            if let Some(text) = Crossref(self.options.http).work(&doi).await?.and_then(|w| w.abstract_text) {
                found.insert(doi, json!(text));
            }
        }
        Ok((Value::Object(found), Vec::new()))
    }

    async fn plan_references(&self) -> Result<(), DatasetError> {
        if self.spec.kind != SpecKind::Research {
            return Ok(());
        }
        let matched = self.queue.all("match").await?;
        let ids: Vec<String> = matched
            .iter()
            .filter_map(|t| t.value["arxiv"].as_str())
            .map(|id| format!("ARXIV:{id}"))
            .collect();
        let batches = ids.chunks(BATCH).enumerate();
        let tasks: Vec<NewTask> = batches
            .map(|(n, ids)| task("references", format!("{n:06}"), n as i64, json!({ "ids": ids })))
            .collect();
        self.queue.add(&tasks).await?;
        Ok(())
    }

    async fn references(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let ids: Vec<String> = serde_json::from_value(at.payload["ids"].clone()).unwrap_or_default();
        let papers = SemanticScholar::new(self.options.http, self.options.s2_key.clone()).batch(&ids).await?;
        let mut found = serde_json::Map::new();
        for (id, paper) in ids.iter().zip(papers) {
            let Some(paper) = paper else { continue };
            let list: Vec<Reference> = paper
                .references
                .into_iter()
                .map(|r| Reference {
                    paper_id: r.id,
                    title: r.title,
                    abstract_text: r.abstract_text,
                    year: r.year,
                    doi: r.doi,
                })
                .collect();
            found.insert(
                id.trim_start_matches("ARXIV:").into(),
                serde_json::to_value(list).unwrap_or_default(),
            );
        }
        Ok((Value::Object(found), Vec::new()))
    }

    /// Writes the records. What was asked and had no answer is a problem of its paper.
    async fn assemble(&self, papers: &[Paper], kept: &mut Spooled) -> Result<Crawled, DatasetError> {
        let records = self.options.work.join("records");
        let next = self.options.work.join("records.next");
        let _ = fs::remove_dir_all(&next);
        let folder = next.join("sources");
        fs::create_dir_all(&folder).map_err(DatasetError::write(&folder))?;
        let by_key = |tasks: Vec<Task>| -> HashMap<String, Task> {
            tasks.into_iter().map(|t| (t.key.clone(), t)).collect()
        };
        let matches = by_key(self.queue.all("match").await?);
        let packages = by_key(self.queue.all("source").await?);
        let pdfs = by_key(self.queue.all("pdf").await?);
        let licences = by_key(self.queue.all("licence").await?);
        let abstracts = self.abstracts().await?;
        let mut cited: HashMap<String, Value> = HashMap::new();
        for t in self.queue.all("references").await? {
            cited.extend(t.value.as_object().cloned().unwrap_or_default());
        }
        let mut broken = Vec::new();
        for t in self.queue.all("page").await? {
            let list = t.value["broken"].as_array().cloned().unwrap_or_default();
            broken.extend(
                list.into_iter().map(|b| format!("page {}: {}", t.key, b.as_str().unwrap_or_default())),
            );
        }
        let create = |name: &str| {
            let path = next.join(name);
            fs::File::create(&path).map(BufWriter::new).map_err(DatasetError::write(&path))
        };
        let (mut notes, mut lines) = (create("submissions.jsonl")?, create("papers.jsonl")?);
        let line = |file: &mut BufWriter<fs::File>, text: &str| -> Result<(), DatasetError> {
            writeln!(file, "{text}").map_err(DatasetError::write(&next))
        };
        let mut failed = broken.len();
        for b in broken {
            // Read again as a record that is none, so that it is counted.
            line(&mut notes, &json!({ "broken": b }).to_string())?;
        }
        for paper in papers {
            if let Some(at) = paper.note {
                let note: Note = kept.get(at)?;
                line(&mut notes, &serde_json::to_string(&note).unwrap_or_default())?;
            }
            let venue = &self.spec.venue[paper.venue];
            let mut f = Fragment { id: paper.id.clone(), ..Fragment::default() };
            if let Some(listed) = &paper.listed {
                f.venue = Some(venue.name.clone());
                f.year = Some(venue.year);
                f.title = Some(listed.title.clone());
                f.authors = listed.authors.clone();
                f.abstract_text = listed.abstract_text.clone();
                f.state = Some(State::Accepted);
            }
            if paper.gone {
                f.state = Some(State::Withdrawn);
                f.problems.push("it was taken from the listing while that was read".into());
            }
            let name = paper.id.replace('/', "__");
            if let Some(found) = matches.get(&paper.id) {
                failed += usize::from(found.reason.is_some());
                f.problems.extend(found.reason.as_ref().map(|r| format!("not matched: {r}")));
                f.paper_id = found.value["paper_id"].as_str().map(String::from);
                if let Some(id) = found.value["arxiv"].as_str() {
                    f.arxiv = Some(ArxivMatch {
                        id: id.into(),
                        version: found.value["version"].as_u64().and_then(|v| u32::try_from(v).ok()),
                        confidence: found.value["confidence"].as_f64().unwrap_or(0.0),
                    });
                    f.references = cited
                        .get(id)
                        .cloned()
                        .and_then(|v| serde_json::from_value(v).ok())
                        .unwrap_or_default();
                    for r in f.references.iter_mut().filter(|r| r.abstract_text.is_none()) {
                        r.abstract_text = r.doi.as_ref().and_then(|doi| abstracts.get(doi).cloned());
                    }
                }
            }
            if let Some(found) = licences.get(&paper.id) {
                failed += usize::from(found.reason.is_some());
                f.problems.extend(found.reason.as_ref().map(|r| format!("its licence is not known: {r}")));
                f.license = found.value["licence"].as_str().map(String::from);
            }
            for (kind, task) in [("source", packages.get(&paper.id)), ("PDF", pdfs.get(&paper.id))] {
                let Some(task) = task else { continue };
                failed += usize::from(task.reason.is_some());
                f.problems.extend(task.reason.as_ref().map(|r| format!("no {kind}: {r}")));
                let Some(body) =
                    task.value["sha256"].as_str().and_then(|h| self.options.http.cache().body(h))
                else {
                    continue;
                };
                let end = match Package::of(&body) {
                    Package::Pdf => "pdf",
                    Package::Gzip => "gz",
                    Package::Tar => "tar",
                    Package::Tex => "tex",
                    Package::PostScript | Package::Html => continue,
                };
                let file = folder.join(format!("{name}.{end}"));
                // The cache has it already; another copy would double the disk.
                let hash = task.value["sha256"].as_str().unwrap_or_default();
                if !self.options.http.cache().link(hash, &file) {
                    fs::write(&file, body).map_err(DatasetError::write(&file))?;
                }
            }
            line(&mut lines, &serde_json::to_string(&f).unwrap_or_default())?;
        }
        // Papers of an earlier listing that have gone since.
        let listed: HashSet<&str> = papers.iter().map(|p| p.id.as_str()).collect();
        let mut gone: Vec<&Task> = matches.values().filter(|t| !listed.contains(t.key.as_str())).collect();
        gone.sort_by(|a, b| a.key.cmp(&b.key));
        for task in gone {
            let Some((_, venue)) = self.venue(&task.payload) else { continue };
            let f = Fragment {
                id: task.key.clone(),
                venue: Some(venue.name.clone()),
                year: Some(venue.year),
                title: Some(text(&task.payload, "title")),
                state: Some(State::Withdrawn),
                problems: vec!["it was listed once and is not listed any more".into()],
                ..Fragment::default()
            };
            line(&mut lines, &serde_json::to_string(&f).unwrap_or_default())?;
        }
        for mut file in [notes, lines] {
            file.flush().map_err(DatasetError::write(&next))?;
        }
        let files = crate::write::inventory(&next, &|_| None)?;
        let _ = fs::remove_dir_all(&records);
        fs::rename(&next, &records).map_err(DatasetError::write(&records))?;
        Ok(Crawled { records, hash: crate::write::hash(&files), papers: papers.len(), failed })
    }
}
