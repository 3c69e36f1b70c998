//! [`build`]: from records to a set.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sources::State;

use crate::card::card;
use crate::error::DatasetError;
use crate::fragment::Fragment;
use crate::gather::{self, Input, Sink};
use crate::leakage::NamedSet;
use crate::licence;
use crate::messages::{self, Form};
use crate::minhash::{Index, Signature, signature};
use crate::outline::{self, Outline};
use crate::papers::{self, Kept, PaperText, Reader, markdown, paper_text};
use crate::record::{ResearchRow, ReviewRow, TextSource, Version};
use crate::research::{self, ResearchPaper, join_abstracts, research_paper};
use crate::spec::{Alike, PaperPart, Spec, SpecKind};
use crate::split::{Group, Part, parts};
use crate::spool::{Place, Spool, Spooled};
use crate::steps::{LeftOut, Step, StepCount, counts, place};
use crate::write::{self, PartWriter, Written};

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

/// Papers whose outlines are asked for at once.
const BATCH: usize = 8;

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

#[derive(Default)]
struct Gathered {
    ids: HashMap<String, usize>,
    places: Vec<(String, Vec<Place>)>,
    broken: Vec<(String, String)>,
    files: BTreeSet<String>,
    records: usize,
}

struct Gatherer<'a> {
    spool: &'a mut Spool,
    into: &'a mut Gathered,
}

impl Sink for Gatherer<'_> {
    fn fragment(&mut self, fragment: Fragment) -> Result<(), DatasetError> {
        let place = self.spool.add(&fragment)?;
        self.into.files.extend(fragment.file);
        let at = *self.into.ids.entry(fragment.id.clone()).or_insert_with(|| {
            self.into.places.push((fragment.id, Vec::new()));
            self.into.places.len() - 1
        });
        self.into.places[at].1.push(place);
        Ok(())
    }

    fn broken(&mut self, place: String, why: String) {
        self.into.broken.push((place, why));
    }
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

    fn gather(&self, files: &[PathBuf]) -> Result<(Gathered, Vec<Input>, Spooled), DatasetError> {
        let mut spool = Spool::new(&self.work.join("fragments"))?;
        let mut gathered = Gathered::default();
        let mut inputs = Vec::new();
        for (n, file) in files.iter().enumerate() {
            self.check()?;
            self.options.progress.stage("reading records", n, files.len());
            let mut sink = Gatherer { spool: &mut spool, into: &mut gathered };
            let records = gather::read(file, self.options.from, self.spec, &mut sink)?;
            gathered.records += records;
            let name =
                file.strip_prefix(self.options.from).unwrap_or(file).to_string_lossy().replace('\\', "/");
            inputs.push(Input { file: name, sha256: gather::file_sha256(file)?, records });
        }
        // The order of the set is that of year and id, not of files; ids first, the year comes from the join.
        gathered.places.sort();
        Ok((gathered, inputs, spool.done()?))
    }

    /// Reads files of sources and PDFs, several at once; results are kept.
    fn read_files(&self, gathered: &Gathered) -> Result<(), DatasetError> {
        let done = std::sync::atomic::AtomicUsize::new(0);
        gathered.files.par_iter().try_for_each(|file| {
            self.check()?;
            let n = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.options.progress.stage("reading papers", n, gathered.files.len());
            match self.spec.kind {
                SpecKind::Review => self.text_of(file).map(drop),
                SpecKind::Research => self.sources_of(file).map(drop),
            }
        })
    }

    fn text_of(&self, file: &str) -> Result<Result<PaperText, String>, DatasetError> {
        let path = self.options.from.join(file);
        self.kept.of_file("text", &path, || paper_text(&path, self.options.reader))
    }

    fn sources_of(&self, file: &str) -> Result<Result<ResearchPaper, String>, DatasetError> {
        let path = self.options.from.join(file);
        self.kept.of_file("research", &path, || research_paper(&path, self.options.reader))
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

    /// Whether a paper is of the wanted venues and of no list that is kept out.
    fn belongs(&self, paper: &Fragment) -> Result<(), (Step, String)> {
        if !self.spec.venue.is_empty() {
            let (name, year) = (paper.venue.as_deref().unwrap_or("?"), paper.year.unwrap_or_default());
            if self.spec.venue_of(name, year).is_none() {
                return Err((Step::OtherVenue, format!("{name} {year} is not in the specification")));
            }
        }
        let title = paper.title.as_deref().unwrap_or_default();
        for set in &self.keep_out {
            let text = paper.abstract_text.as_deref();
            if let Some((other, same, alike)) =
                set.find(&paper.id, title, text, self.spec.near_duplicates.similarity)
            {
                let same = serde_json::to_value(same).unwrap_or_default();
                let how = same.as_str().unwrap_or_default().replace('_', " ");
                return Err((Step::KeptOut, format!("{other} of {} ({how}, {alike:.2})", set.name)));
            }
        }
        Ok(())
    }

    fn form(&mut self, venue: Option<&str>, year: Option<i32>) -> Result<&Form, Stop> {
        let key = (venue.map(String::from), year);
        if !self.forms.contains_key(&key) {
            let form = Form::named(self.spec.messages.form.as_deref(), venue, year);
            let what = |what| Stop::Whole(DatasetError::Spec { place: self.spec.name.clone(), what });
            self.forms.insert(key.clone(), form.map_err(what)?);
        }
        Ok(&self.forms[&key])
    }

    fn review_row(&mut self, paper: &mut Fragment) -> Result<ReviewRow, Stop> {
        let spec = self.spec;
        let filters = &spec.filters;
        let stop = |step, why: String| Err(Stop::Step(step, why));
        let read = match &paper.file {
            Some(file) => Some(self.text_of(file).map_err(Stop::Whole)?),
            None => None,
        };
        if let Some(Ok(text)) = &read {
            paper.title = paper.title.take().or_else(|| text.title.clone());
            paper.abstract_text = paper.abstract_text.take().or_else(|| text.abstract_text.clone());
            paper.problems.extend(text.problems.iter().cloned());
        }
        let Some(title) = paper.title.clone() else {
            return stop(Step::NoTitle, "no record of it has a title".into());
        };
        let state = paper.state.unwrap_or(State::Unknown);
        let is_wanted = filters.only_states.is_empty() || filters.only_states.contains(&state);
        if filters.drop_states.contains(&state) || !is_wanted {
            let name = serde_json::to_value(state).unwrap_or_default();
            return stop(
                Step::State,
                format!("it is {}", name.as_str().unwrap_or_default().replace('_', " ")),
            );
        }
        if let Some(text) = &paper.abstract_text {
            let n = text.chars().count();
            if n < filters.abstract_chars {
                return stop(Step::ShortAbstract, format!("an abstract of {n} characters"));
            }
        }
        let written = paper.reviews.iter().filter(|r| r.has_text()).count();
        if written < filters.reviews {
            return stop(
                Step::Reviews,
                format!("{written} reviews with text, {} are wanted", filters.reviews),
            );
        }
        let ratings = paper.final_ratings();
        if ratings.len() < filters.ratings {
            return stop(Step::Ratings, format!("{} ratings, {} are wanted", ratings.len(), filters.ratings));
        }
        if let Some(why) = licence::refusal(paper.license.as_deref(), &spec.licences) {
            return stop(Step::Licence, why);
        }
        let (paper_text, text_source, text_version) = match (read, paper.text.take()) {
            (Some(Ok(text)), _) => (text.text, text.source, text.version),
            (unread, Some(text)) => {
                if let Some(Err(why)) = unread {
                    paper
                        .problems
                        .push(format!("its file could not be read ({why}); the record's text is used"));
                }
                let version = paper.text_version.unwrap_or(Version::Unknown);
                (recorded_text(&title, paper.abstract_text.as_deref(), &text), TextSource::Record, version)
            }
            (Some(Err(why)), None) if filters.paper == PaperPart::Full => return stop(Step::Unreadable, why),
            (unread, None) => {
                if let Some(Err(why)) = unread {
                    paper.problems.push(format!("its file could not be read ({why})"));
                }
                let text = recorded_text(&title, paper.abstract_text.as_deref(), "");
                let source =
                    if paper.abstract_text.is_some() { TextSource::Abstract } else { TextSource::Title };
                (text, source, Version::Unknown)
            }
        };
        // OpenReview gives the latest file: of an accepted paper the final version, else the last submission.
        let of_openreview = text_source == TextSource::Pdf && paper.arxiv.is_none();
        let text_version = match (text_version, state) {
            (Version::Unknown, State::Accepted) if of_openreview => Version::CameraReady,
            (Version::Unknown, State::Rejected) if of_openreview => Version::Submitted,
            (version, _) => version,
        };
        let part = match text_source {
            TextSource::Title => PaperPart::Title,
            TextSource::Abstract => PaperPart::Abstract,
            _ => PaperPart::Full,
        };
        if part < filters.paper {
            let has = if part == PaperPart::Title { "title" } else { "title and abstract" };
            return stop(Step::PaperText, format!("only {has} are there"));
        }
        if part == PaperPart::Full && paper_text.chars().count() < filters.text_chars {
            return stop(Step::PaperText, format!("a text of {} characters", paper_text.chars().count()));
        }
        let shown: Vec<_> = {
            let with_text = paper.reviews.iter().filter(|r| r.has_text()).cloned();
            let mut shown: Vec<_> = with_text.collect();
            shown.sort_by(|a, b| a.rating.unwrap_or(f64::MAX).total_cmp(&b.rating.unwrap_or(f64::MAX)));
            shown.truncate(spec.messages.reviews.unwrap_or(usize::MAX));
            shown
        };
        let meta = paper.meta_review.clone();
        let form = self.form(paper.venue.as_deref(), paper.year)?;
        let messages = messages::panel(&paper_text, form, &shown, meta.as_deref(), state).map_err(|e| {
            Stop::Whole(DatasetError::Spec { place: "prompts/review/panel.md".into(), what: e })
        })?;
        let scale =
            paper.venue.as_deref().zip(paper.year).and_then(|(v, y)| spec.venue_of(v, y)?.scale.clone());
        let review_licenses: BTreeSet<String> =
            paper.reviews.iter().filter_map(|r| r.license.clone()).collect();
        Ok(ReviewRow {
            id: paper.id.clone(),
            venue: paper.venue.clone(),
            year: paper.year,
            title,
            abstract_text: paper.abstract_text.clone(),
            state,
            decision: paper.decision.clone(),
            mean: (!ratings.is_empty()).then(|| ratings.iter().sum::<f64>() / ratings.len() as f64),
            ratings,
            ratings_initial: paper.ratings_initial.clone(),
            confidences: if paper.confidences.is_empty() {
                paper.reviews.iter().filter_map(|r| r.confidence).collect()
            } else {
                paper.confidences.clone()
            },
            scale,
            reviews: paper.reviews.clone(),
            meta_review: meta,
            paper_text,
            text_source,
            text_version,
            arxiv: paper.arxiv.clone(),
            license: paper.license.as_deref().map(licence::normal),
            review_licenses: review_licenses.into_iter().collect(),
            messages,
        })
    }

    fn research_row(&mut self, paper: &mut Fragment) -> Result<ResearchRow, Stop> {
        let spec = self.spec;
        let stop = |step, why: String| Err(Stop::Step(step, why));
        let Some(file) = &paper.file else {
            return stop(Step::PaperText, "there are no sources of it".into());
        };
        let read = match self.sources_of(file).map_err(Stop::Whole)? {
            Ok(read) => read,
            Err(why) => return stop(Step::Unreadable, why),
        };
        paper.problems.extend(read.problems.iter().cloned());
        paper
            .problems
            .extend(read.unresolved.iter().map(|k| format!("`{k}` is cited and not in the bibliography")));
        let Some(title) = read.title.clone().or_else(|| paper.title.clone()) else {
            return stop(Step::NoTitle, "neither record nor source has a title".into());
        };
        paper.title = Some(title.clone());
        let state = paper.state.unwrap_or(State::Unknown);
        let is_wanted = spec.filters.only_states.is_empty() || spec.filters.only_states.contains(&state);
        if spec.filters.drop_states.contains(&state) || !is_wanted {
            return stop(Step::State, "its state is not wanted".into());
        }
        if let Some(why) = licence::refusal(paper.license.as_deref(), &spec.licences) {
            return stop(Step::Licence, why);
        }
        if read.cited > 0 && (read.resolved as f64) < spec.filters.citations * read.cited as f64 {
            return stop(
                Step::Citations,
                format!("{} of {} citations are in its bibliography", read.resolved, read.cited),
            );
        }
        if research::second_half(&read.sections).is_none() {
            return stop(Step::SecondHalf, format!("{} sections", read.sections.len()));
        }
        let mut references = read.references;
        join_abstracts(&mut references, &paper.references);
        Ok(ResearchRow {
            id: paper.id.clone(),
            paper_id: paper.paper_id.clone(),
            venue: paper.venue.clone(),
            year: paper.year,
            title,
            abstract_text: read.abstract_text.or_else(|| paper.abstract_text.clone()),
            authors: paper.authors.clone(),
            arxiv: paper.arxiv.as_ref().map(|a| a.id.clone()),
            license: paper.license.as_deref().map(licence::normal),
            sections: read.sections,
            headings: read.headings,
            figures: read.figures,
            tables: read.tables,
            references,
            cited: read.cited,
            resolved: read.resolved,
            motivation: None,
            main_idea: None,
            experimental_setup: Vec::new(),
            experimental_results: Vec::new(),
            outline_model: None,
            messages: Vec::new(),
        })
    }

    /// Finds papers that are nearly the same as an earlier one: they go, or share its group.
    fn near_duplicates(&mut self, entries: &mut [Entry]) {
        let rule = &self.spec.near_duplicates;
        let mut index = Index::default();
        let mut titles: HashMap<String, usize> = HashMap::new();
        for i in 0..entries.len() {
            entries[i].group = i;
            if i % 256 == 0 {
                self.options.progress.stage("looking for duplicates", i, entries.len());
            }
            let key = crate::title::key(&entries[i].title);
            let by_title = (key.len() >= 12).then(|| titles.get(&key).copied()).flatten().map(|j| (j, 1.0));
            let signature = entries[i].signature.take();
            let by_text = || {
                let (j, alike) = index.nearest(signature.as_ref()?, rule.similarity)?;
                Some((j as usize, alike))
            };
            if let Some((j, alike)) = by_title.or_else(by_text) {
                entries[i].group = entries[j].group;
                if rule.action == Alike::Drop {
                    let other = entries[j].id.clone();
                    let e = &mut entries[i];
                    e.row = None;
                    let (id, year, title) = (e.id.clone(), e.year, e.title.clone());
                    self.leave(&id, year, &title, Step::NearDuplicate, format!("like {other} ({alike:.2})"));
                    continue;
                }
            }
            titles.entry(key).or_insert(i);
            if let Some(signature) = signature {
                index.add(i as u32, signature);
            }
        }
    }

    fn limit(&mut self, entries: &mut [Entry]) {
        let Some(limit) = self.options.limit else { return };
        let mut rows = 0;
        for e in entries.iter_mut().filter(|e| e.row.is_some()) {
            rows += 1;
            if rows > limit {
                e.row = None;
                let (id, year, title) = (e.id.clone(), e.year, e.title.clone());
                self.leave(&id, year, &title, Step::Limit, format!("behind the first {limit}"));
            }
        }
    }

    /// Asks for outlines in batches and adds them, and the dialogue, to the rows.
    fn outlines(&mut self, entries: &mut [Entry], rows: &mut Spooled) -> Result<Spooled, DatasetError> {
        let Some(model) = self.options.model else { return Spool::new(&self.work.join("outlined"))?.done() };
        let mut spool = Spool::new(&self.work.join("outlined"))?;
        let wanted: Vec<usize> = (0..entries.len()).filter(|i| entries[*i].row.is_some()).collect();
        let mut done = 0;
        for batch in wanted.chunks(BATCH) {
            self.check()?;
            self.options.progress.stage("outlining", done, wanted.len());
            let mut batch_rows: Vec<(usize, ResearchRow)> = Vec::new();
            let mut papers: Vec<(String, ResearchPaper, Option<Result<Outline, String>>)> = Vec::new();
            for i in batch {
                let (Some(at), Some(file)) = (entries[*i].row.take(), entries[*i].file.clone()) else {
                    continue;
                };
                let row: ResearchRow = rows.get(at)?;
                match self.sources_of(&file)? {
                    Ok(paper) => {
                        let key = outline::key(&paper, model);
                        let kept = self.kept.get("outline", &key);
                        papers.push((key, paper, kept));
                        batch_rows.push((*i, row));
                    }
                    Err(why) => self.leave(&row.id, row.year, &row.title, Step::Unreadable, why),
                }
            }
            let missing: Vec<usize> = (0..papers.len()).filter(|k| papers[*k].2.is_none()).collect();
            if !missing.is_empty() {
                let asked: Vec<&ResearchPaper> = missing.iter().map(|k| &papers[*k].1).collect();
                let watch = Watch(self.options.progress);
                let made = outline::outlines(model, &asked, &watch).map_err(|e| match e {
                    lm::LmError::Interrupted => DatasetError::Interrupted,
                    e => DatasetError::Model(e),
                })?;
                for (k, outline) in missing.into_iter().zip(made) {
                    self.kept.put("outline", &papers[k].0, &outline)?;
                    papers[k].2 = Some(outline);
                }
            }
            for ((i, mut row), (_, _, outline)) in batch_rows.into_iter().zip(papers) {
                done += 1;
                match outline {
                    Some(Ok(outline)) => {
                        if outline.check.left_out > 0 {
                            let what = format!(
                                "{} results left out of the outline: {} do not stand in the paper",
                                outline.check.left_out,
                                outline.check.missing.join(", ")
                            );
                            self.problems.push((row.id.clone(), what));
                        }
                        fill(&mut row, outline)?;
                        entries[i].row = Some(spool.add(&row)?);
                    }
                    Some(Err(why)) if self.spec.filters.outline => {
                        self.leave(&row.id, row.year, &row.title, Step::Outline, why);
                    }
                    other => {
                        let why = other.and_then(Result::err).unwrap_or_else(|| "no outline".into());
                        self.problems.push((row.id.clone(), format!("no outline: {why}")));
                        entries[i].row = Some(spool.add(&row)?);
                    }
                }
            }
        }
        spool.done()
    }

    fn split(&self, entries: &[Entry]) -> Vec<Part> {
        let mut groups: Vec<Group> = entries
            .iter()
            .map(|_| Group { key: String::new(), years: (i32::MAX, i32::MIN), papers: 0 })
            .collect();
        for e in entries.iter().filter(|e| e.row.is_some()) {
            let g = &mut groups[e.group];
            if g.key.is_empty() || e.id < g.key {
                g.key = e.id.clone();
            }
            let year = e.year.unwrap_or_default();
            g.years = (g.years.0.min(year), g.years.1.max(year));
            g.papers += 1;
        }
        let real: Vec<usize> = (0..groups.len()).filter(|i| groups[*i].papers > 0).collect();
        let found = parts(&real.iter().map(|i| groups[*i].clone()).collect::<Vec<_>>(), &self.spec.split);
        let mut out = vec![Part::Train; groups.len()];
        for (i, part) in real.into_iter().zip(found) {
            out[i] = part;
        }
        out
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

enum Stop {
    Step(Step, String),
    Whole(DatasetError),
}

struct Watch<'a>(&'a dyn Progress);

impl lm::Progress for Watch<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

fn fill(row: &mut ResearchRow, outline: Outline) -> Result<(), DatasetError> {
    let second = research::second_half(&row.sections).unwrap_or(row.sections.len());
    row.messages = messages::paper(&messages::Paper {
        title: &row.title,
        abstract_text: row.abstract_text.as_deref().unwrap_or_default(),
        references: &row.references,
        sections: &row.sections,
        second,
        motivation: &outline.motivation,
        main_idea: &outline.main_idea,
        setup: &outline.setup,
        results: &outline.results,
    })
    .map_err(|what| DatasetError::Spec { place: "prompts/research".into(), what })?;
    row.motivation = Some(outline.motivation);
    row.main_idea = Some(outline.main_idea);
    row.experimental_setup = outline.setup;
    row.experimental_results = outline.results;
    row.outline_model = Some(outline.model);
    Ok(())
}

/// Title, abstract and text of a record in the form that a file of the paper would give.
fn recorded_text(title: &str, abstract_text: Option<&str>, text: &str) -> String {
    let section = documents::Section {
        level: 1,
        number: None,
        heading: String::new(),
        text: text.into(),
        page: None,
        appendix: false,
    };
    markdown(&documents::Document {
        source: documents::Source::Text,
        sha256: String::new(),
        title: Some(title.into()),
        abstract_text: abstract_text.map(String::from),
        front_matter: None,
        sections: if text.is_empty() { Vec::new() } else { vec![section] },
        references: Vec::new(),
        tables: Vec::new(),
        pages: None,
        findings: Vec::new(),
    })
}

/// Facts alone: who, when, which scores.
fn score_row(paper: &Fragment) -> Option<Vec<String>> {
    let ratings = paper.final_ratings();
    let join = |v: &[f64]| v.iter().map(|x| x.to_string()).collect::<Vec<_>>().join(";");
    let state = serde_json::to_value(paper.state.unwrap_or(State::Unknown)).ok()?;
    let own: Vec<f64> = paper.reviews.iter().filter_map(|r| r.confidence).collect();
    Some(vec![
        paper.year.map_or(String::new(), |y| y.to_string()),
        paper.venue.clone().unwrap_or_default(),
        paper.id.clone(),
        state.as_str()?.into(),
        paper.decision.clone().unwrap_or_default(),
        join(&ratings),
        join(if paper.confidences.is_empty() { &own } else { &paper.confidences }),
        join(&paper.ratings_initial),
        paper.title.clone().unwrap_or_default(),
    ])
}
