//! Listings: pages of OpenReview that may shift while they are read, and proceedings without an API.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};
use sources::{Api, Keep, Listed, Listings, NewTask, Note, Service, SourceError, State, Task, arxiv_id};

use super::{Crawl, Paper, key, label, task};
use crate::error::DatasetError;
use crate::fragment::first_review;
use crate::spec::ListedBy;
use crate::spool::{Spool, Spooled};

/// A page shifts while it is read; so often a venue is read again until it is complete.
const SWEEPS: i64 = 4;

/// Old notes name their arXiv page where others have a file.
fn named_on_arxiv(note: &Note) -> Option<(String, Option<u32>)> {
    let fields = ["pdf", "html", "arxiv"].into_iter().filter_map(|f| note.text(f));
    fields.filter(|t| t.contains("arxiv") || !t.contains('/')).find_map(arxiv_id)
}

impl Crawl<'_> {
    /// All pages of all venues.
    pub(super) async fn list(&self) -> Result<(), DatasetError> {
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

    pub(super) async fn page(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
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

    pub(super) async fn listed(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
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
    pub(super) async fn papers(&self) -> Result<(Vec<Paper>, Spooled), DatasetError> {
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
                    reviewed: first_review(&note),
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
                    reviewed: None,
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
}
