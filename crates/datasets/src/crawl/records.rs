//! The folder of records that a crawl ends in: the same, wherever it was killed on the way.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufWriter, Write};

use serde_json::json;
use sources::{Note, Package, State, Task};

use super::{Crawl, Crawled, Paper, text};
use crate::error::DatasetError;
use crate::fragment::Fragment;
use crate::record::{ArxivMatch, Version};
use crate::spool::{Place, Spool, Spooled};

impl Crawl<'_> {
    /// Writes the records. What was asked and had no answer is a problem of its paper.
    pub(super) async fn assemble(
        &self,
        papers: &[Paper],
        kept: &mut Spooled,
    ) -> Result<Crawled, DatasetError> {
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
        // Abstracts of everything that is cited do not fit in memory.
        let (cited, mut lists) = self.on_disk("cited", &["references"]).await?;
        let (abstracts, mut texts) = self.on_disk("abstracts", &["openalex", "crossref"]).await?;
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
            let name = paper.id.replace('/', "%2F");
            if let Some(found) = matches.get(&paper.id) {
                failed += usize::from(found.reason.is_some());
                f.problems.extend(found.reason.as_ref().map(|r| format!("not matched: {r}")));
                f.paper_id = found.value["paper_id"].as_str().map(String::from);
                if let Some(id) = found.value["arxiv"].as_str() {
                    // A paper that is known by a listing alone came when it was first on arXiv, to the month.
                    f.date = paper.note.is_none().then(|| month(id)).flatten();
                    if packages.get(&paper.id).is_some_and(|t| t.value["sha256"].is_string()) {
                        f.text_date = found.value["updated"].as_str().map(String::from);
                    }
                    f.arxiv = Some(ArxivMatch {
                        id: id.into(),
                        version: found.value["version"].as_u64().and_then(|v| u32::try_from(v).ok()),
                        confidence: found.value["confidence"].as_f64().unwrap_or(0.0),
                    });
                    if let Some(place) = cited.get(id) {
                        f.references = lists.get(*place)?;
                    }
                    for r in f.references.iter_mut().filter(|r| r.abstract_text.is_none()) {
                        if let Some(place) = r.doi.as_ref().and_then(|doi| abstracts.get(doi)) {
                            r.abstract_text = texts.get(*place)?;
                        }
                    }
                }
            }
            if let Some(found) = licences.get(&paper.id) {
                failed += usize::from(found.reason.is_some());
                f.problems.extend(found.reason.as_ref().map(|r| format!("its licence is not known: {r}")));
                f.license = found.value["licence"].as_str().map(String::from);
            }
            if let Some(found) = pdfs.get(&paper.id).filter(|t| t.value["version"] == "submitted") {
                f.text_version = Some(Version::Submitted);
                f.text_date = found.value["day"].as_str().map(String::from);
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

impl Crawl<'_> {
    /// What tasks of some kinds found, by its name, with the values on disk; of two the later kind counts.
    async fn on_disk(
        &self,
        name: &str,
        kinds: &[&str],
    ) -> Result<(HashMap<String, Place>, Spooled), DatasetError> {
        let mut spool = Spool::new(&self.options.work.join(name))?;
        let mut places = HashMap::new();
        for kind in kinds {
            let each = |t: Task| -> Result<(), DatasetError> {
                for (key, value) in t.value.as_object().into_iter().flatten() {
                    places.insert(key.clone(), spool.add(value)?);
                }
                Ok(())
            };
            self.queue.each(kind, each).await?;
        }
        Ok((places, spool.done()?))
    }
}

/// `2023-05` of `2305.01234`; ids from before 2007 say their month behind the archive.
fn month(arxiv: &str) -> Option<String> {
    let digits = arxiv.rsplit('/').next()?;
    let (year, month) = (digits.get(..2)?.parse::<u32>().ok()?, digits.get(2..4)?.parse::<u32>().ok()?);
    let century = if year >= 91 { 1900 } else { 2000 };
    (1..=12).contains(&month).then(|| format!("{}-{month:02}", century + year))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_id_of_arxiv_says_its_month_in_either_spelling() {
        assert_eq!(super::month("2305.01234").as_deref(), Some("2023-05"));
        assert_eq!(super::month("cs/9901002").as_deref(), Some("1999-01"));
        assert_eq!(super::month("2313.01234"), None);
    }
}
