//! What is asked of each paper: its match on arXiv, sources, file, licence, and what it cites.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};
use sources::{Arxiv, Crossref, NewTask, OpenAlex, Package, SemanticScholar, Task};

use super::{Crawl, task, text};
use crate::error::DatasetError;
use crate::fragment::Reference;
use crate::spec::SpecKind;
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

    pub(super) async fn pdf(&self, at: &Task) -> Result<(Value, Vec<NewTask>), DatasetError> {
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
    pub(super) async fn abstracts(&self) -> Result<HashMap<String, String>, DatasetError> {
        let mut out = HashMap::new();
        for kind in ["openalex", "crossref"] {
            for t in self.queue.all(kind).await? {
                let found = t.value.as_object().into_iter().flatten();
                out.extend(found.filter_map(|(doi, text)| Some((doi.clone(), text.as_str()?.to_string()))));
            }
        }
        Ok(out)
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
