//! [`build`]: from records to a set.

mod arrange;
mod intake;
mod judge;
mod manifest;
mod outlines;
mod rows;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::btree_map::Entry as Slot;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::alike::Signatures;
use crate::card::card;
use crate::error::DatasetError;
use crate::gather;
use crate::leakage::NamedSet;
use crate::licence;
use crate::messages::Form;
use crate::papers::{Kept, Reader};
use crate::spec::{Spec, SpecKind};
use crate::split::Part;
use crate::spool::Place;
use crate::steps::{LeftOut, Step, counts, place};
use crate::write::{self, PartWriter};
use manifest::{fingerprint, keep_out};

pub use manifest::Manifest;

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

/// What came of a build.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// What the set is.
    pub manifest: Manifest,
    /// True if it was there already.
    pub unchanged: bool,
}

struct Entry {
    id: String,
    year: Option<i32>,
    /// When it came, as exactly as it is known.
    date: Option<String>,
    title: String,
    file: Option<String>,
    row: Option<Place>,
    license: Option<String>,
    /// The place of its group's first paper.
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
        drop(std::mem::take(&mut gathered.files));
        let mut signatures = Signatures::new(&self.work.join("signatures"))?;
        let (judged, mut rows) = self.judge(gathered.places, &mut fragments, &next, &mut signatures)?;
        drop(fragments);
        let mut entries = self.near_duplicates(judged, signatures)?;
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
}
