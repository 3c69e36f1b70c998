//! `cycle review`: papers in, reviews out, each stored as soon as it is done.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use documents::{Document, ReadError, Severity, read_isolated};
use lm::LanguageModel;
use review::{Form, Mode, Panel, Review, default_sampling, report};
use sha2::{Digest, Sha256};
use store::{NewReview, ReviewKey, ScoreRow, Store};

use crate::args::{Format, ReviewArgs};
use crate::commands::Outcome;
use crate::context::{Context, sampling};
use crate::failure::{Code, Failure};
use crate::output::{columns, emit, write};
use crate::progress::{Reporter, interrupted};

/// Runs the command.
///
/// # Errors
/// If the words make no sense, the model or the store cannot be used, or the only paper cannot be reviewed.
pub fn run(context: &mut Context, args: &ReviewArgs) -> Result<Outcome, Failure> {
    context.apply(&args.model);
    context.settings.set("form", args.form.as_ref());
    context.settings.set("reviewers", args.reviewers);
    context.settings.set("mode", args.mode.as_ref());
    context.settings.set("jobs", args.jobs);
    let form = form(context.settings.get("form").unwrap_or("iclr2025"))?;
    let mode: Mode = context
        .settings
        .get("mode")
        .unwrap_or("standard")
        .parse()
        .map_err(|e: String| Failure::new(Code::Usage, e))?;
    let reviewers = context.settings.number::<usize>("reviewers")?.unwrap_or(4);
    if !(1..=64).contains(&reviewers) {
        return Err(Failure::new(Code::Usage, "--reviewers is 1 to 64"));
    }
    let panel = Panel {
        form,
        reviewers,
        mode,
        sampling: sampling(&args.model, default_sampling())?,
        seed: context.seed()?,
        max_tokens: args.model.max_tokens,
    };
    let paths = expand(&args.paths)?;
    let several = paths.len() > 1
        || args.paths.iter().any(|p| p.starts_with('@') || Path::new(p).is_dir() && !has_tex(Path::new(p)));
    let format =
        args.format.unwrap_or(if several && args.out.is_some() { Format::Json } else { Format::Text });
    let mut job = Job { context, args, panel, format, model: None, store: context.store()? };
    if !several {
        let Some(path) = paths.first() else {
            return Err(Failure::new(Code::Input, "no paper to review was found"));
        };
        let (review, look) = job.one(path, read_isolated(path, &documents::Limits::default()))?;
        emit(&job.shown(&review)?, args.out.as_deref())?;
        return Ok(if look { Outcome::Look } else { Outcome::Done });
    }
    job.many(&paths)
}

/// A shipped form or a file.
///
/// # Errors
/// If there is none.
pub fn form(name: &str) -> Result<Form, Failure> {
    if name.ends_with(".toml") {
        let path = Path::new(name);
        let text = std::fs::read_to_string(path).map_err(|e| Failure::io(path, &e))?;
        return Ok(Form::from_toml(&text)?);
    }
    Ok(Form::named(name)?)
}

fn has_tex(folder: &Path) -> bool {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|e| e.path().extension().is_some_and(|x| x == "tex"))
}

/// Files behind the words: folders of papers, lists, archives. A folder with LaTeX in it is one paper.
fn expand(words: &[String]) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    let mut seen = BTreeSet::new();
    let mut push = |path: PathBuf| {
        if seen.insert(path.clone()) {
            paths.push(path);
        }
    };
    for word in words {
        if let Some(list) = word.strip_prefix('@') {
            let path = Path::new(list);
            let text = std::fs::read_to_string(path).map_err(|e| Failure::io(path, &e))?;
            for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
                push(line.into());
            }
            continue;
        }
        let path = PathBuf::from(word);
        if path.is_dir() && !has_tex(&path) {
            let mut inside: Vec<PathBuf> = std::fs::read_dir(&path)
                .map_err(|e| Failure::io(&path, &e))?
                .flatten()
                .map(|e| e.path())
                .filter(|p| {
                    let name = p.to_string_lossy().to_lowercase();
                    p.is_file()
                        && [".pdf", ".tex", ".tar.gz", ".tgz", ".gz", ".md", ".txt"]
                            .iter()
                            .any(|e| name.ends_with(e))
                })
                .collect();
            inside.sort();
            if inside.is_empty() {
                return Err(Failure::new(Code::Input, format!("{}: holds no paper", path.display())));
            }
            inside.into_iter().for_each(&mut push);
        } else {
            push(path);
        }
    }
    Ok(paths)
}

/// Papers read ahead, in their order, each in a worker process of its own, while another is reviewed.
struct ReadAhead<'a> {
    waiting: std::slice::Iter<'a, PathBuf>,
    reading: VecDeque<JoinHandle<Result<Document, ReadError>>>,
    jobs: usize,
}

impl<'a> ReadAhead<'a> {
    fn new(paths: &'a [PathBuf], jobs: usize) -> Self {
        Self { waiting: paths.iter(), reading: VecDeque::new(), jobs }
    }

    /// The next paper; `jobs` more are being read when this returns.
    fn next(&mut self) -> Option<Result<Document, ReadError>> {
        while self.reading.len() <= self.jobs {
            let Some(path) = self.waiting.next().cloned() else { break };
            self.reading
                .push_back(std::thread::spawn(move || read_isolated(&path, &documents::Limits::default())));
        }
        let read = self.reading.pop_front()?.join();
        Some(read.unwrap_or_else(|_| {
            Err(ReadError::Damaged {
                path: PathBuf::new(),
                reason: "the reader ended by a defect of ours".into(),
            })
        }))
    }
}

struct Job<'a> {
    context: &'a Context,
    args: &'a ReviewArgs,
    panel: Panel,
    format: Format,
    model: Option<Box<dyn LanguageModel>>,
    store: Store,
}

impl Job<'_> {
    fn model(&mut self) -> Result<&dyn LanguageModel, Failure> {
        if self.model.is_none() {
            let reference = self.context.reference("reviewer")?;
            self.model = Some(self.context.open(&reference)?);
        }
        match &self.model {
            Some(model) => Ok(model.as_ref()),
            None => Err(Failure::new(Code::Model, "no model")),
        }
    }

    /// Looks into the store, reviews, stores. The flag asks for a human's eye.
    fn one(&mut self, path: &Path, read: Result<Document, ReadError>) -> Result<(Review, bool), Failure> {
        let document = read?;
        let name = path.display().to_string();
        let json = serde_json::to_string(&document).map_err(|e| Failure::new(Code::Input, e))?;
        let source = serde_json::to_value(document.source).ok().and_then(|v| v.as_str().map(String::from));
        let paper = self.store.put_document(
            &document.sha256,
            &name,
            source.as_deref().unwrap_or("text"),
            document.title.as_deref(),
            document.pages,
            &json,
        )?;
        self.refuse_hidden(&document, path)?;
        let info = self.model()?.info().clone();
        let key = ReviewKey {
            version: document.sha256.clone(),
            form: form_key(&self.panel.form),
            mode: format!("{:?}", self.panel.mode).to_lowercase(),
            reviewers: self.panel.reviewers as i64,
            model: info.sha256.clone().unwrap_or_else(|| info.reference.clone()),
            seed: self.panel.seed as i64,
            sampling: sampling_key(&self.panel),
        };
        if !self.args.force {
            if let Some(stored) = self.store.find_review(&key)? {
                if let Ok(review) =
                    stored.outcome.and_then(|t| serde_json::from_str::<Review>(&t).map_err(|e| e.to_string()))
                {
                    self.context
                        .note(&format!("{name}: from the store ({}); --force reviews it again", stored.id));
                    let look = document.has_hidden_text() || review.parse.failed > 0;
                    return Ok((review, look));
                }
            }
        }
        let reporter = Reporter::new(name.clone(), self.context.loudness);
        let panel = self.panel.clone();
        let reviewed = panel.review(&document, self.model()?, &reporter);
        reporter.done();
        let mut review = match reviewed {
            Ok(review) => review,
            Err(e) => {
                let failure = Failure::from(e);
                if failure.code != Code::Interrupted {
                    let new = NewReview {
                        key: &key,
                        model_reference: &info.reference,
                        outcome: Err(&failure.what),
                        scores: &[],
                    };
                    self.store.put_review(&new)?;
                }
                return Err(failure);
            }
        };
        review.id = key.id();
        review.paper.id = paper;
        let json = serde_json::to_string(&review).map_err(|e| Failure::new(Code::Model, e))?;
        let scores = scores(&review);
        self.store.put_review(&NewReview {
            key: &key,
            model_reference: &info.reference,
            outcome: Ok(&json),
            scores: &scores,
        })?;
        let look = document.has_hidden_text() || review.parse.failed > 0;
        Ok((review, look))
    }

    /// Hidden text stops a review unless the user says otherwise; it never reaches the model.
    fn refuse_hidden(&self, document: &Document, path: &Path) -> Result<(), Failure> {
        let hidden: Vec<_> = document.findings.iter().filter(|f| f.severity == Severity::Hidden).collect();
        if hidden.is_empty() || self.args.allow_hidden_text {
            return Ok(());
        }
        let first = hidden[0];
        let page = first.page.map_or(String::new(), |p| format!(" on page {p}"));
        let text: String = first.text.chars().take(120).collect();
        Err(Failure::new(
            Code::Look,
            format!(
                "{}: {} pieces of hidden text{page} ({}): {text:?}",
                path.display(),
                hidden.len(),
                first.reason
            ),
        )
        .advise("cycle read FILE --findings lists them; --allow-hidden-text reviews what can be seen"))
    }

    fn shown(&self, review: &Review) -> Result<String, Failure> {
        show(review, &self.panel.form, self.format)
    }

    /// Every paper on its own: what fails is a row with its reason.
    fn many(&mut self, paths: &[PathBuf]) -> Result<Outcome, Failure> {
        let mut rows: Vec<(String, Result<Review, String>)> = Vec::new();
        let mut names = BTreeSet::new();
        let mut look = false;
        let jobs = self.context.settings.number::<usize>("jobs")?.unwrap_or(1);
        if !(1..=64).contains(&jobs) {
            return Err(Failure::new(Code::Usage, "--jobs is 1 to 64"));
        }
        let mut ahead = ReadAhead::new(paths, jobs);
        for (i, path) in paths.iter().enumerate() {
            if interrupted() {
                break;
            }
            let name = path.display().to_string();
            let Some(read) = ahead.next() else { break };
            let row = match self.one(path, read) {
                Ok((review, needs)) => {
                    look |= needs;
                    self.context.note(&format!("{} of {}: {name}: done", i + 1, paths.len()));
                    match &self.args.out {
                        Some(folder) => {
                            write(
                                &folder.join(self.file_name(path, &mut names)),
                                self.shown(&review)?.as_bytes(),
                            )?;
                        }
                        None if self.format == Format::Json => emit(&self.shown(&review)?, None)?,
                        None => {}
                    }
                    Ok(review)
                }
                // A model, a store or a disk that fails would fail for all papers.
                Err(f)
                    if matches!(f.code, Code::Model | Code::Resources | Code::Remote)
                        && !is_about_paper(&f, path) =>
                {
                    return Err(f);
                }
                Err(f) if f.code == Code::Interrupted => break,
                Err(f) => {
                    look = true;
                    self.context.note(&f.to_string());
                    Err(f.what)
                }
            };
            rows.push((name, row));
        }
        if let Some(folder) = &self.args.out {
            write(
                &folder.join("ranking.csv"),
                report::ranking(&rows, &self.panel.form.main_score).as_bytes(),
            )?;
        }
        if self.format != Format::Json || self.args.out.is_some() {
            emit(&table(&rows, &self.panel.form), None)?;
        }
        if interrupted() {
            let left = paths.len() - rows.len();
            return Err(Failure::new(Code::Interrupted, format!("interrupted; {left} papers are left"))
                .advise("the same command does only the rest"));
        }
        if rows.iter().all(|(_, r)| r.is_err()) {
            return Err(Failure::new(Code::Input, "no paper could be reviewed"));
        }
        Ok(if look { Outcome::Look } else { Outcome::Done })
    }

    fn file_name(&self, path: &Path, names: &mut BTreeSet<String>) -> String {
        let ending = match self.format {
            Format::Text => "txt",
            Format::Json => "json",
            Format::Md => "md",
            Format::Html => "html",
        };
        let stem = path.file_name().map_or_else(|| "paper".into(), |n| n.to_string_lossy().into_owned());
        let stem = stem.trim_end_matches(".gz").trim_end_matches(".tar");
        let stem = stem.strip_suffix(".pdf").or_else(|| stem.strip_suffix(".tex")).unwrap_or(stem);
        let mut name = format!("{stem}.{ending}");
        let mut n = 2;
        while !names.insert(name.clone()) {
            name = format!("{stem}-{n}.{ending}");
            n += 1;
        }
        name
    }
}

/// True for a limit that this one paper ran into.
fn is_about_paper(failure: &Failure, path: &Path) -> bool {
    failure.what.starts_with(&path.display().to_string())
}

/// The form's name; of a form that does not ship, its content too, so that an edited one is another.
fn form_key(form: &Form) -> String {
    if form.is_shipped() {
        return form.name.clone();
    }
    let text = serde_json::to_string(form).unwrap_or_default();
    let hash: String = Sha256::digest(text.as_bytes()).iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("{}@{hash}", form.name)
}

fn sampling_key(panel: &Panel) -> String {
    let sampling = serde_json::to_string(&panel.sampling).unwrap_or_default();
    panel.max_tokens.map_or(sampling.clone(), |most| format!("{sampling} max_tokens={most}"))
}

/// A review in a format.
///
/// # Errors
/// If the page template fails.
pub fn show(review: &Review, form: &Form, format: Format) -> Result<String, Failure> {
    Ok(match format {
        Format::Text => report::text(review, form, 100),
        Format::Md => report::markdown(review, form),
        Format::Json => serde_json::to_string(review).map_err(|e| Failure::new(Code::Model, e))?,
        Format::Html => report::html(review, form).map_err(|e| Failure::new(Code::Model, e))?,
    })
}

fn scores(review: &Review) -> Vec<ScoreRow> {
    let mut rows = Vec::new();
    for r in &review.reviewers {
        let confidence = r.confidence.iter().map(|s| ("confidence".to_string(), s));
        for (name, s) in r.scores.iter().map(|(n, s)| (n.clone(), s)).chain(confidence) {
            rows.push(ScoreRow {
                reviewer: r.index as i64,
                name,
                value: s.value,
                expected: s.expected,
                distribution: s.distribution.as_ref().and_then(|d| serde_json::to_string(d).ok()),
            });
        }
    }
    rows
}

fn table(rows: &[(String, Result<Review, String>)], form: &Form) -> String {
    let mut table: Vec<Vec<String>> = Vec::new();
    for (path, review) in rows {
        let name = Path::new(path).file_name().map_or(path.clone(), |n| n.to_string_lossy().into_owned());
        match review {
            Ok(r) => {
                let a = r.scores.get(&form.main_score);
                table.push(vec![
                    name,
                    a.map_or("–".into(), |a| format!("{:.2}", a.mean)),
                    a.map_or("–".into(), |a| format!("{} to {}", a.interval90[0], a.interval90[1])),
                    r.decision.as_ref().map_or("–".into(), |d| d.label.clone()),
                    "done".into(),
                ]);
            }
            Err(e) => {
                let short: String = e.chars().take(70).collect();
                table.push(vec![name, "–".into(), "–".into(), "–".into(), short]);
            }
        }
    }
    columns(&["paper", &form.main_score, "90 %", "decision", "status"], &table)
}
