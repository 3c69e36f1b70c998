//! `cycle research`: references in, a drafted paper out, every stage stored before the next.

use std::path::{Path, PathBuf};

use documents::{BibEntry, bibliography};
use lm::{LanguageModel, Sampling};
use research::{
    Brief, Draft, Literature, PaperFolder, Provenance, Researcher, Results, StageSink, default_sampling,
    folder,
};
use serde_json::{Value, json};
use store::{Item, Store};
use typeset::Style;

use crate::args::ResearchArgs;
use crate::commands::Outcome;
use crate::commands::judge::Judge;
use crate::context::{Context, sampling};
use crate::failure::{Code, Failure};
use crate::output::{csv, emit, write};
use crate::progress::Reporter;

impl From<research::ResearchError> for Failure {
    fn from(error: research::ResearchError) -> Self {
        use research::ResearchError as E;
        match error {
            E::Model(e) => e.into(),
            E::Results(_) | E::Experiment(_) | E::FirstHalf => Self::new(Code::Input, error),
            E::Sink(_) => Self::new(Code::Resources, error),
            E::Prompt(_) | E::Stage { .. } | E::Typeset(_) => Self::new(Code::Model, error),
        }
    }
}

/// Stages of a run in the store.
struct Stages<'a> {
    store: &'a Store,
    run: String,
    stored: Vec<(String, Value)>,
}

impl StageSink for Stages<'_> {
    fn stored(&self, name: &str) -> Option<Value> {
        self.stored.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }
    fn store(&mut self, name: &str, value: &Value) -> Result<(), String> {
        self.store.put_stage(&self.run, name, &value.to_string()).map_err(|e| e.to_string())
    }
}

fn style(name: &str) -> Result<Style, Failure> {
    match name {
        "iclr" => Ok(Style::Iclr),
        "neurips" => Ok(Style::Neurips),
        "article" => Ok(Style::Article),
        other => {
            Err(Failure::new(Code::Usage, format!("{other:?} is no style; there are iclr, neurips, article")))
        }
    }
}

/// The references: a bibliography, a folder of them, or ids of papers in the store, separated by commas.
fn literature(context: &Context, store: &Store, words: Option<&str>) -> Result<Literature, Failure> {
    let Some(words) = words else { return Ok(Literature::default()) };
    let path = Path::new(words);
    if !path.exists() && words.split(',').all(is_paper_id) {
        return from_store(store, words);
    }
    let found: Literature = bibliography(path)?.into();
    for problem in found.problems.iter().take(8) {
        context.note(&format!("{}: {problem}", path.display()));
    }
    if found.problems.len() > 8 {
        context.note(&format!("{}: {} more problems", path.display(), found.problems.len() - 8));
    }
    if found.entries.is_empty() {
        return Err(Failure::new(Code::Input, format!("{}: holds no entry with a title", path.display())));
    }
    Ok(found)
}

fn is_paper_id(word: &str) -> bool {
    let digits = word.trim().strip_prefix('p').unwrap_or_default();
    !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit())
}

/// Papers of the store as references, with the titles and abstracts that were read from them.
fn from_store(store: &Store, ids: &str) -> Result<Literature, Failure> {
    let mut found = Literature::default();
    for id in ids.split(',').map(str::trim) {
        let Item::Paper { paper, document, .. } = store.show(id)? else {
            return Err(Failure::new(Code::Usage, format!("{id} is no paper of the store")));
        };
        let document = document.unwrap_or_default();
        let Some(title) = document["title"].as_str().or(paper.title.as_deref()) else {
            found.problems.push(format!("{id}: no title was found in it"));
            continue;
        };
        found.entries.push(BibEntry {
            key: paper.id.clone(),
            entry_type: "misc".into(),
            title: Some(title.into()),
            authors: Vec::new(),
            year: None,
            venue: None,
            abstract_text: document["abstract_text"].as_str().map(String::from),
            locator: format!("store:{}", paper.id),
            bibtex: format!("@misc{{{},\n  title = {{{title}}}\n}}", paper.id),
        });
    }
    if found.entries.is_empty() {
        return Err(Failure::new(Code::Input, format!("{ids}: no paper with a title")));
    }
    Ok(found)
}

/// Everything that drafts of one call share.
struct Job<'a> {
    context: &'a Context,
    args: &'a ResearchArgs,
    style: Style,
    literature: Literature,
    results: Results,
    sampling: Sampling,
    model: Box<dyn LanguageModel>,
    judge: Option<Judge>,
    store: Store,
}

/// A draft, set.
struct Drafted {
    folder: PaperFolder,
    /// What the judge expects of it; absent without a judge.
    verdict: Option<f64>,
    stops_at_setup: bool,
}

/// Runs the command.
///
/// # Errors
/// If the references, the results or the model cannot be used.
pub fn run(context: &mut Context, args: &ResearchArgs) -> Result<Outcome, Failure> {
    if args.topic.is_none() && args.references.is_none() {
        return Err(Failure::new(Code::Usage, "give --topic TEXT, --references FILE.bib, or both"));
    }
    if !(1..=1000).contains(&args.papers) || !(1..=64).contains(&args.best_of) {
        return Err(Failure::new(Code::Usage, "--papers is 1 to 1000, --best-of 1 to 64"));
    }
    context.apply(&args.model);
    let style = style(&args.style)?;
    let store = context.store()?;
    let literature = literature(context, &store, args.references.as_deref())?;
    let results = results(args)?;
    let sampling = sampling(&args.model, default_sampling())?;
    let seed = context.seed()?;
    let model = context.open(&context.reference("researcher")?)?;
    // Only a choice among drafts, or an order of papers, needs a judge.
    let judge =
        (args.best_of > 1 || args.papers > 1).then(|| Judge::open(context, &args.judge)).transpose()?;
    let job = Job { context, args, style, literature, results, sampling, model, judge, store };
    let mut papers = Vec::new();
    for n in 0..args.papers {
        let out: PathBuf =
            if args.papers > 1 { args.out.join(format!("paper-{}", n + 1)) } else { args.out.clone() };
        let drafted = job.best(&out, seed.wrapping_add((n * args.best_of) as u64))?;
        for (name, bytes) in &drafted.folder.files {
            write(&out.join(name), bytes)?;
        }
        let c = drafted.folder.citations;
        context.note(&format!(
            "{}: citations {} kept, {} repaired, {} removed; {} numbers of the text are backed by no result{}",
            out.display(),
            c.kept,
            c.repaired,
            c.removed,
            drafted.folder.unbacked_numbers,
            if drafted.stops_at_setup {
                "; it stops after the set-up: --results, --experiment or --simulate go on"
            } else {
                ""
            }
        ));
        papers.push((out, drafted));
    }
    if let (Some(judge), true) = (&job.judge, args.papers > 1) {
        // A stable order: papers of one verdict stay as they were written.
        papers.sort_by(|a, b| {
            let key = |d: &Drafted| d.verdict.unwrap_or(f64::NEG_INFINITY);
            key(&b.1).total_cmp(&key(&a.1))
        });
        write(&args.out.join("ranking.csv"), ranking(&papers, judge).as_bytes())?;
    }
    let lines: Vec<String> =
        papers.iter().map(|(p, d)| format!("{}: {}", p.display(), d.folder.title)).collect();
    emit(&lines.join("\n"), None)?;
    Ok(Outcome::Done)
}

fn results(args: &ResearchArgs) -> Result<Results, Failure> {
    Ok(match (&args.results, &args.experiment, args.simulate) {
        (Some(path), ..) => {
            let text = std::fs::read(path).map_err(|e| Failure::io(path, &e))?;
            let value: Value = serde_json::from_slice(&text)
                .map_err(|e| Failure::new(Code::Input, format!("{}: {e}", path.display())))?;
            Results::Given(value)
        }
        (_, Some(command), _) => Results::Command(command.clone()),
        (_, _, true) => Results::Simulate,
        _ => Results::Stop,
    })
}

impl Job<'_> {
    /// The draft of `--best-of` that the judge thinks most of; the first of equals.
    fn best(&self, out: &Path, seed: u64) -> Result<Drafted, Failure> {
        let mut best: Option<Drafted> = None;
        for k in 0..self.args.best_of {
            let label = match self.args.best_of {
                1 => out.display().to_string(),
                n => format!("{} (draft {} of {n})", out.display(), k + 1),
            };
            let drafted = self.draft(&label, seed.wrapping_add(k as u64))?;
            if let (Some(verdict), true) = (drafted.verdict, self.args.best_of > 1) {
                self.context.note(&format!("{label}: the judge expects {verdict:.2}"));
            }
            if best.as_ref().is_none_or(|b| drafted.verdict > b.verdict) {
                best = Some(drafted);
            }
        }
        best.ok_or_else(|| Failure::new(Code::Usage, "--best-of is at least 1"))
    }

    /// One draft; a run with its stages in the store.
    fn draft(&self, label: &str, seed: u64) -> Result<Drafted, Failure> {
        let (info, store) = (self.model.info(), &self.store);
        let references: Vec<&str> = self.literature.entries.iter().map(|e| e.bibtex.as_str()).collect();
        let config = json!({"topic": self.args.topic, "references": references,
            "results": format!("{:?}", self.results), "model": info.sha256.as_deref().unwrap_or(&info.reference),
            "seed": seed, "sampling": self.sampling, "max_tokens": self.args.model.max_tokens});
        let run = store.start_run("research", &config.to_string(), self.args.force)?;
        let stored = store.stages(&run)?;
        if !stored.is_empty() {
            self.context.note(&format!(
                "run {run}: {} stages are stored and taken over; --force begins anew",
                stored.len()
            ));
        }
        let brief = Brief {
            topic: self.args.topic.clone(),
            literature: self.literature.clone(),
            results: self.results.clone(),
            sampling: self.sampling.clone(),
            seed,
            max_tokens: self.args.model.max_tokens,
        };
        let reporter = Reporter::new(label, self.context.loudness);
        let researcher = Researcher { model: self.model.as_ref(), progress: &reporter };
        let mut sink = Stages { store, run: run.clone(), stored };
        let written = researcher.write(&brief, &mut sink);
        reporter.done();
        let finished =
            written.map_err(Failure::from).and_then(|draft| self.set(&draft, seed, &mut sink, label));
        match finished {
            Ok(drafted) => {
                store.end_run(&run, "done", None)?;
                Ok(drafted)
            }
            Err(failure) => {
                let status = if failure.code == Code::Interrupted { "interrupted" } else { "failed" };
                // What went wrong first is what is said: a full disk fails here too.
                let _ = store.end_run(&run, status, Some(&failure.what));
                Err(failure)
            }
        }
    }

    /// Sets a draft and hears the judge, whose verdict is a stage like the others.
    fn set(&self, draft: &Draft, seed: u64, sink: &mut Stages<'_>, label: &str) -> Result<Drafted, Failure> {
        for cut in &draft.cut {
            self.context.note(&format!("not read by the model: {cut}"));
        }
        let info = self.model.info();
        let by = Provenance { model: info.reference.clone(), sha256: info.sha256.clone(), seed };
        let folder = folder(draft, &self.literature, self.style, &by)?;
        let verdict = match &self.judge {
            None => None,
            Some(judge) => {
                let name = format!("verdict:{}", judge.name());
                let value = match sink.stored(&name) {
                    Some(value) => value,
                    None => {
                        let value = judge.verdict(self.context, &folder, label)?;
                        sink.store(&name, &value).map_err(|e| Failure::new(Code::Resources, e))?;
                        value
                    }
                };
                value["expected"].as_f64()
            }
        };
        Ok(Drafted { folder, verdict, stops_at_setup: draft.results.is_none() })
    }
}

/// `ranking.csv`: papers in the judge's order.
fn ranking(papers: &[(PathBuf, Drafted)], judge: &Judge) -> String {
    let header = [
        "rank",
        "paper",
        "title",
        "expected",
        "judge",
        "citations_kept",
        "citations_removed",
        "unbacked_numbers",
    ];
    let rows = papers.iter().enumerate().map(|(i, (path, d))| {
        vec![
            (i + 1).to_string(),
            path.display().to_string(),
            d.folder.title.clone(),
            d.verdict.map_or(String::new(), |v| format!("{v:.4}")),
            judge.name().to_string(),
            d.folder.citations.kept.to_string(),
            d.folder.citations.removed.to_string(),
            d.folder.unbacked_numbers.to_string(),
        ]
    });
    csv(&header, rows)
}
