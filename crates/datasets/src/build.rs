//! [`build`]: from records to a set.

mod arrange;
mod intake;
mod outlines;
mod rows;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::btree_map::Entry as Slot;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::card::card;
use crate::error::DatasetError;
use crate::fragment::Fragment;
use crate::gather::{self, Input};
use crate::leakage::NamedSet;
use crate::licence;
use crate::messages::{self, Form};
use crate::minhash::{Signature, signature};
use crate::papers::{self, Kept, Reader};
use crate::spec::{Spec, SpecKind};
use crate::split::Part;
use crate::spool::{Place, Spool, Spooled};
use crate::steps::{LeftOut, Step, StepCount, counts, place};
use crate::write::{self, PartWriter, Written};
use rows::{Stop, score_row};

/// Told about work as it happens; may ask for a stop.
pub trait Progress: Sync {
    /// So much of a stage is done.
    fn stage(&self, _what: &str, _done: usize, _total: usize) {}
    /// True stops soon.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Says nothing, never stops.
pub struct Silent;
impl Progress for Silent {}

/// How a set is built.
pub struct BuildOptions<'a> {
    /// The set's folder.
    pub out: &'a Path,
    /// Records.
    pub from: &'a Path,
    /// At most so many papers.
    pub limit: Option<usize>,
    /// Reads sources and PDFs.
    pub reader: &'a Reader<'a>,
    /// Writes outlines; without one a research set has none.
    pub model: Option<&'a dyn lm::LanguageModel>,
    /// More lists of papers to be kept out.
    pub keep_out: &'a [PathBuf],
    /// Build although nothing has changed.
    pub force: bool,
    /// Told.
    pub progress: &'a dyn Progress,
}

/// What a set was made from and what it is. No clock and no path of a machine stands in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `cycle.dataset/1`.
    pub schema: String,
    /// The specification's name.
    pub name: String,
    /// The specification.
    pub spec: Spec,
    /// Of all that the set depends on.
    pub fingerprint: String,
    /// Files that were read.
    pub inputs: Vec<Input>,
    /// Records in them.
    pub records: usize,
    /// Papers that they are about.
    pub papers: usize,
    /// Rows of the set.
    pub kept: usize,
    /// Parts and their rows.
    pub splits: BTreeMap<String, usize>,
    /// What each step left out.
    pub steps: Vec<StepCount>,
    /// Things that were wrong with parts of papers.
    pub problems: usize,
    /// Licences of the papers in it.
    pub licences: BTreeMap<String, usize>,
    /// Lists that were kept out, with their sizes.
    pub kept_out: Vec<(String, usize)>,
    /// The set's files.
    pub files: Vec<Written>,
    /// Over the names and hashes of the files.
    pub hash: String,
}

/// What came of a build.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// What the set is.
    pub manifest: Manifest,
    /// True if it was there already.
    pub unchanged: bool,
}

/// Changes when rows are made otherwise.
const VERSION: u32 = 2;

struct Entry {
    id: String,
    year: Option<i32>,
    title: String,
    file: Option<String>,
    row: Option<Place>,
    signature: Option<Signature>,
    license: Option<String>,
    group: usize,
}

struct Builder<'a> {
    spec: &'a Spec,
    options: &'a BuildOptions<'a>,
    work: PathBuf,
    kept: Kept,
    keep_out: Vec<NamedSet>,
    left: Vec<LeftOut>,
    counts: Vec<usize>,
    problems: Vec<(String, String)>,
    forms: HashMap<(Option<String>, Option<i32>), Form>,
}

/// Builds a set; what has not changed is not built again.
///
/// # Errors
/// If records cannot be read, the output cannot be written, or the extractor fails as a whole. What is wrong with one
/// paper is a line of `left_out.jsonl` or `problems.jsonl`.
pub fn build(spec: &Spec, options: &BuildOptions<'_>) -> Result<Built, DatasetError> {
    let files = gather::files(options.from)?;
    let keep_out_paths = keep_out(spec, options);
    let fingerprint = fingerprint(spec, options, &files, &keep_out_paths)?;
    let earlier: Option<Manifest> =
        fs::read(options.out.join("manifest.json")).ok().and_then(|b| serde_json::from_slice(&b).ok());
    if let Some(manifest) = &earlier
        && manifest.fingerprint == fingerprint
        && !options.force
        && manifest
            .files
            .iter()
            .all(|f| gather::file_sha256(&options.out.join(&f.path)).is_ok_and(|h| h == f.sha256))
    {
        return Ok(Built { manifest: manifest.clone(), unchanged: true });
    }
    let work = options.out.join(".work");
    fs::create_dir_all(&work).map_err(DatasetError::write(&work))?;
    let kept = Kept::new(&work.join("kept"))?;
    let mut sets = Vec::new();
    for (name, path) in &keep_out_paths {
        sets.push(NamedSet::load(name, path)?);
    }
    let mut builder = Builder {
        spec,
        options,
        work,
        kept,
        keep_out: sets,
        left: Vec::new(),
        counts: vec![0; Step::ALL.len()],
        problems: Vec::new(),
        forms: HashMap::new(),
    };
    builder.run(&files, fingerprint, earlier)
}

/// Lists to keep out: the specification's, where they exist beside the records, and those that were named.
fn keep_out(spec: &Spec, options: &BuildOptions<'_>) -> Vec<(String, PathBuf)> {
    let own =
        spec.leakage.keep_out.iter().map(|n| (n.clone(), options.from.join(n))).filter(|(_, p)| p.exists());
    let named = options.keep_out.iter().map(|p| (gather::name(p), p.clone()));
    own.chain(named).collect()
}

fn fingerprint(
    spec: &Spec,
    options: &BuildOptions<'_>,
    files: &[PathBuf],
    keep_out: &[(String, PathBuf)],
) -> Result<String, DatasetError> {
    let rows =
        format!("{VERSION} {} {} {}", papers::FORMAT, messages::words_sha256(), env!("CARGO_PKG_VERSION"));
    let mut text = format!("{rows}\n{}\n", serde_json::to_string(spec).unwrap_or_default());
    text += &format!("{:?}\n", options.limit);
    if let Some(model) = options.model {
        text += &format!("{} {:?}\n", model.info().reference, model.info().sha256);
    }
    for file in files {
        text += &format!("{} {}\n", gather::name(file), gather::file_sha256(file)?);
    }
    for (name, path) in keep_out {
        let inside = if path.is_dir() { list(path)? } else { vec![path.clone()] };
        for file in inside {
            text += &format!("out {name} {} {}\n", gather::name(&file), gather::file_sha256(&file)?);
        }
    }
    Ok(sources::sha256(text.as_bytes()))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).map_err(DatasetError::reading(folder))? {
        out.push(entry.map_err(DatasetError::reading(folder))?.path());
    }
    out.retain(|p| p.is_file());
    out.sort();
    Ok(out)
}

impl Builder<'_> {
    fn leave(&mut self, id: &str, year: Option<i32>, title: &str, step: Step, reason: String) {
        self.counts[place(step)] += 1;
        let title = (!title.is_empty()).then(|| title.to_string());
        self.left.push(LeftOut { id: id.into(), year, title, step, reason });
    }

    fn check(&self) -> Result<(), DatasetError> {
        if self.options.progress.cancelled() { Err(DatasetError::Interrupted) } else { Ok(()) }
    }

    fn run(
        &mut self,
        files: &[PathBuf],
        fingerprint: String,
        earlier: Option<Manifest>,
    ) -> Result<Built, DatasetError> {
        let (mut gathered, inputs, mut fragments) = self.gather(files)?;
        for (place, why) in std::mem::take(&mut gathered.broken) {
            self.leave(&place, None, "", Step::BrokenRecord, why);
        }
        let papers = gathered.places.len();
        self.read_files(&gathered)?;
        let next = self.work.join("next");
        let _ = fs::remove_dir_all(&next);
        fs::create_dir_all(&next).map_err(DatasetError::write(&next))?;
        let (mut entries, mut rows) = self.judge(gathered.places, &mut fragments, &next)?;
        drop(fragments);
        self.near_duplicates(&mut entries);
        self.limit(&mut entries);
        let mut rows = if self.spec.kind == SpecKind::Research && self.options.model.is_some() {
            self.outlines(&mut entries, &mut rows)?
        } else {
            rows
        };
        let parts = self.split(&entries);
        let mut writers: BTreeMap<Part, PartWriter> = BTreeMap::new();
        let mut licences: BTreeMap<String, usize> = BTreeMap::new();
        for (n, entry) in entries.iter().enumerate() {
            let Some(at) = entry.row else { continue };
            self.check()?;
            self.options.progress.stage("writing", n, entries.len());
            let row: Value = rows.get(at)?;
            let part = parts[entry.group];
            let writer = match writers.entry(part) {
                Slot::Occupied(there) => there.into_mut(),
                Slot::Vacant(empty) => empty.insert(PartWriter::new(&next, part, self.spec.kind)?),
            };
            writer.add(&row)?;
            let licence = entry.license.as_deref().map_or_else(|| "not known".into(), licence::normal);
            *licences.entry(licence).or_default() += 1;
        }
        let mut splits: BTreeMap<String, usize> =
            [Part::Train, Part::Test].map(|p| (p.name().into(), 0)).into();
        for (part, writer) in writers {
            splits.insert(part.name().into(), writer.done()?);
        }
        self.reports(&next)?;
        let mut manifest = Manifest {
            schema: "cycle.dataset/1".into(),
            name: self.spec.name.clone(),
            spec: self.spec.clone(),
            fingerprint,
            records: inputs.iter().map(|i| i.records).sum(),
            inputs,
            papers,
            kept: splits.values().sum(),
            splits,
            steps: counts(&self.counts),
            problems: self.problems.len(),
            licences,
            kept_out: self.keep_out.iter().map(|s| (s.name.clone(), s.len())).collect(),
            files: Vec::new(),
            hash: String::new(),
        };
        write::text(&next, "README.md", &card(self.spec, &manifest))?;
        let splits = manifest.splits.clone();
        let rows_of = |path: &str| {
            let name = path.rsplit('/').next()?.split('.').next()?;
            (path.starts_with("data/") || path.starts_with("jsonl/"))
                .then(|| splits.get(name).copied())
                .flatten()
        };
        manifest.files = write::inventory(&next, &rows_of)?;
        manifest.hash = write::hash(&manifest.files);
        let before = earlier.map(|m| m.files).unwrap_or_default();
        write::publish(&next, self.options.out, &manifest.files, &before)?;
        let text = serde_json::to_string_pretty(&manifest).unwrap_or_default() + "\n";
        let partial = self.work.join("manifest.json");
        fs::write(&partial, text).map_err(DatasetError::write(&partial))?;
        let last = self.options.out.join("manifest.json");
        fs::rename(&partial, &last).map_err(DatasetError::write(&last))?;
        let _ = fs::remove_dir_all(&next);
        Ok(Built { manifest, unchanged: false })
    }

    /// Joins the fragments of each paper and passes it through the steps; rows go to disk.
    fn judge(
        &mut self,
        places: Vec<(String, Vec<Place>)>,
        fragments: &mut Spooled,
        next: &Path,
    ) -> Result<(Vec<Entry>, Spooled), DatasetError> {
        let mut spool = Spool::new(&self.work.join("rows"))?;
        let mut scores = csv::Writer::from_path(next.join("scores.csv"))
            .map_err(|e| DatasetError::input(&next.join("scores.csv"), e))?;
        let mut score_rows: Vec<(i32, String, Vec<String>)> = Vec::new();
        let mut entries = Vec::new();
        let total = places.len();
        for (n, (id, places)) in places.into_iter().enumerate() {
            self.check()?;
            if n % 64 == 0 {
                self.options.progress.stage("joining", n, total);
            }
            let mut joined: Option<Fragment> = None;
            for place in &places {
                let fragment: Fragment = fragments.get(*place)?;
                match &mut joined {
                    None => joined = Some(fragment),
                    Some(joined) => joined.join(fragment),
                }
            }
            let Some(mut paper) = joined else { continue };
            paper.venue = paper.venue.take().or_else(|| self.spec.records.venue.clone());
            let (year, title) = (paper.year, paper.title.clone().unwrap_or_default());
            if let Err((step, why)) = self.belongs(&paper) {
                self.leave(&id, year, &title, step, why);
                continue;
            }
            if self.spec.kind == SpecKind::Review
                && let Some(row) = score_row(&paper)
            {
                score_rows.push((year.unwrap_or_default(), id.clone(), row));
            }
            let made = match self.spec.kind {
                SpecKind::Review => self.review_row(&mut paper).map(serde_json::to_value),
                SpecKind::Research => self.research_row(&mut paper).map(serde_json::to_value),
            };
            let row = match made {
                Ok(row) => row,
                Err(Stop::Step(step, why)) => {
                    let title = paper.title.clone().unwrap_or_default();
                    self.leave(&id, paper.year, &title, step, why);
                    continue;
                }
                Err(Stop::Whole(e)) => return Err(e),
            };
            let row = row.map_err(|e| DatasetError::input(next, e))?;
            for problem in std::mem::take(&mut paper.problems) {
                self.problems.push((id.clone(), problem));
            }
            let title = row["title"].as_str().unwrap_or_default().to_string();
            let told = row["abstract"].as_str().filter(|t| t.len() > 200);
            let told = told.or_else(|| row["paper_text"].as_str()).map(|t| format!("{title}\n{t}"));
            let signature = told.as_deref().and_then(signature);
            let license = paper.license.clone();
            let row = Some(spool.add(&row)?);
            let file = paper.file.take();
            entries.push(Entry { id, year: paper.year, title, file, row, signature, license, group: 0 });
        }
        let csv_path = next.join("scores.csv");
        let bad = |e: csv::Error| DatasetError::input(&csv_path, e);
        if self.spec.kind == SpecKind::Review {
            score_rows.sort();
            scores
                .write_record([
                    "year",
                    "venue",
                    "id",
                    "state",
                    "decision",
                    "ratings",
                    "confidences",
                    "ratings_initial",
                    "title",
                ])
                .map_err(bad)?;
            for (_, _, row) in &score_rows {
                scores.write_record(row).map_err(bad)?;
            }
            scores.flush().map_err(DatasetError::write(&csv_path))?;
        }
        drop(scores);
        if self.spec.kind == SpecKind::Research {
            let _ = fs::remove_file(&csv_path);
        }
        entries.sort_by(|a, b| (a.year, &a.id).cmp(&(b.year, &b.id)));
        Ok((entries, spool.done()?))
    }

    fn reports(&mut self, next: &Path) -> Result<(), DatasetError> {
        self.left.sort_by(|a, b| (place(a.step), &a.id, &a.reason).cmp(&(place(b.step), &b.id, &b.reason)));
        let lines: String =
            self.left.iter().map(|l| serde_json::to_string(l).unwrap_or_default() + "\n").collect();
        write::text(next, "left_out.jsonl", &lines)?;
        self.problems.sort();
        let one = |(id, problem): &(String, String)| {
            serde_json::json!({"id": id, "problem": problem}).to_string() + "\n"
        };
        write::text(next, "problems.jsonl", &self.problems.iter().map(one).collect::<String>())
    }
}
