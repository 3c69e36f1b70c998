//! What is asked of each paper: its match on arXiv, sources, file, licence, and what it cites.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};
use sources::{Api, Arxiv, Crossref, NewTask, OpenAlex, Package, SemanticScholar, Task};

use super::{Crawl, task, text};
use crate::error::DatasetError;
use crate::fragment::Reference;
use crate::spec::{SpecKind, WantedVersion};
use crate::title;

/// Papers whose references are asked for at once: an answer may have 10 MB.
const BATCH: usize = 20;

impl Crawl<'_> {
    /// The paper on arXiv: by its title on arXiv itself, or through Semantic Scholar where references are wanted too.
    pub(super) async fn find(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
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
                        json!({
                            "arxiv": e.id, "version": e.version, "confidence": sure, "comment": e.comment,
                            "published": e.published.get(..10), "updated": e.updated.get(..10),
                        }),
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
        let Some((_, mut value)) = best else {
            return Ok((json!({ "arxiv": null }), self.instead("match", at)));
        };
        if self.wants_submitted() {
            let reviewed = at.payload["reviewed"].as_str();
            // Without a day of its own it may be anything: OpenReview's first file is surer.
            let is_earlier = match (value["published"].as_str(), reviewed) {
                (Some(published), Some(reviewed)) => published <= reviewed,
                (_, None) => true,
                (None, Some(_)) => false,
            };
            if !is_earlier {
                return Ok((value, self.instead("match", at)));
            }
            value["version"] = json!(1);
            value["updated"] = value["published"].clone();
        }
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

    pub(super) async fn source(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
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

    /// Whether what reviewers read is wanted, not what is shown today.
    fn wants_submitted(&self) -> bool {
        self.spec.kind == SpecKind::Review && self.spec.matching.version == WantedVersion::Submitted
    }

    /// OpenReview's file: the first one that is older than the first review, where that is wanted and shown, else the
    /// latest.
    pub(super) async fn pdf(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let api = self.venue(&at.payload).and_then(|(_, v)| v.api).unwrap_or(Api::Two);
        if self.wants_submitted() {
            let reviewed = at.payload["reviewed"].as_str();
            let first = self.openreview().revisions(api, &at.key).await?.into_iter().next();
            let first = first.map(|r| (sources::day(r.created), r.id));
            if let Some((day, id)) = first.filter(|(day, _)| reviewed.is_none_or(|r| day.as_str() <= r)) {
                match self.openreview().revision_pdf(api, &id).await {
                    Ok(answer) => {
                        let value = json!({ "sha256": answer.sha256, "version": "submitted", "day": day });
                        return Ok((value, Vec::new()));
                    }
                    // It is named, and not public: the latest one may be.
                    Err(e) if e.concerns_one_item() => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        let answer = self.openreview().pdf(&at.key).await?;
        Ok((json!({ "sha256": answer.sha256 }), Vec::new()))
    }

    pub(super) async fn licence(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let licence = Arxiv(self.options.http).licence(&text(&at.payload, "arxiv")).await?;
        Ok((json!({ "licence": licence }), Vec::new()))
    }

    /// DOIs of cited works that nobody has given an abstract of, in chunks.
    pub(super) async fn plan_abstracts(
        &self,
        kind: &str,
        wanted: bool,
        chunk: usize,
    ) -> Result<(), DatasetError> {
        if !wanted || self.spec.kind != SpecKind::Research {
            return Ok(());
        }
        let mut lacking = BTreeSet::new();
        let each = |t: Task| -> Result<(), DatasetError> {
            for list in t.value.as_object().into_iter().flat_map(|o| o.values()) {
                let list: Vec<Reference> = serde_json::from_value(list.clone()).unwrap_or_default();
                lacking.extend(list.into_iter().filter(|r| r.abstract_text.is_none()).filter_map(|r| r.doi));
            }
            Ok(())
        };
        self.queue.each("references", each).await?;
        for earlier in ["openalex", "crossref"] {
            let each = |t: Task| -> Result<(), DatasetError> {
                for (doi, text) in t.value.as_object().into_iter().flatten() {
                    if text.is_string() {
                        lacking.remove(doi);
                    }
                }
                Ok(())
            };
            self.queue.each(earlier, each).await?;
        }
        self.plan_chunks(kind, "dois", lacking.into_iter().collect(), chunk).await
    }

    /// Adds tasks of so many words each, for the words that no task of the kind has asked for: when papers come in
    /// between, what was asked stays as it was.
    async fn plan_chunks(
        &self,
        kind: &str,
        field: &str,
        words: Vec<String>,
        chunk: usize,
    ) -> Result<(), DatasetError> {
        let (mut asked, mut tasks) = (HashSet::new(), 0);
        let each = |t: Task| -> Result<(), DatasetError> {
            tasks += 1;
            let some = t.payload[field].as_array().into_iter().flatten();
            asked.extend(some.filter_map(|w| w.as_str().map(String::from)));
            Ok(())
        };
        self.queue.each(kind, each).await?;
        let new: Vec<String> = words.into_iter().filter(|w| !asked.contains(w)).collect();
        let one = |(n, some): (usize, &[String])| {
            task(kind, format!("{:06}", tasks + n), (tasks + n) as i64, json!({ field: some }))
        };
        let new: Vec<NewTask> = new.chunks(chunk).enumerate().map(one).collect();
        self.queue.add(&new).await?;
        Ok(())
    }

    pub(super) async fn openalex(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let dois: Vec<String> = serde_json::from_value(at.payload["dois"].clone()).unwrap_or_default();
        let some: Vec<&str> = dois.iter().map(String::as_str).collect();
        let works = OpenAlex(self.options.http).by_dois(&some).await?;
        let found = works.into_iter().filter_map(|w| Some((w.doi?, json!(w.abstract_text?))));
        Ok((Value::Object(found.collect()), Vec::new()))
    }

    pub(super) async fn crossref(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
        let dois: Vec<String> = serde_json::from_value(at.payload["dois"].clone()).unwrap_or_default();
        let mut found = serde_json::Map::new();
        for doi in dois {
            if let Some(text) = Crossref(self.options.http).work(&doi).await?.and_then(|w| w.abstract_text) {
                found.insert(doi, json!(text));
            }
        }
        Ok((Value::Object(found), Vec::new()))
    }

    pub(super) async fn plan_references(&self) -> Result<(), DatasetError> {
        if self.spec.kind != SpecKind::Research {
            return Ok(());
        }
        let mut ids = Vec::new();
        let each = |t: Task| -> Result<(), DatasetError> {
            ids.extend(t.value["arxiv"].as_str().map(|id| format!("ARXIV:{id}")));
            Ok(())
        };
        self.queue.each("match", each).await?;
        self.plan_chunks("references", "ids", ids, BATCH).await
    }

    pub(super) async fn references(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
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
}
