//! `cycle research`: references in, a drafted paper out, every stage stored before the next.

use std::path::{Path, PathBuf};

use documents::bibliography;
use research::{Brief, Literature, Provenance, Researcher, Results, StageSink, default_sampling, folder};
use serde_json::{Value, json};
use store::Store;
use typeset::Style;

use crate::args::ResearchArgs;
use crate::commands::Outcome;
use crate::context::{Context, sampling};
use crate::failure::{Code, Failure};
use crate::output::{emit, write};
use crate::progress::Reporter;

impl From<research::ResearchError> for Failure {
    fn from(error: research::ResearchError) -> Self {
        use research::ResearchError as E;
        match error {
            E::Model(e) => e.into(),
            E::Results(_) | E::Experiment(_) => Self::new(Code::Input, error),
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

fn literature(context: &Context, path: Option<&Path>) -> Result<Literature, Failure> {
    let Some(path) = path else { return Ok(Literature::default()) };
    let found: Literature = bibliography(path)?.into();
    for problem in found.problems.iter().take(8) {
        context.note(&format!("{}: {problem}", path.display()));
    }
    if found.entries.is_empty() {
        return Err(Failure::new(Code::Input, format!("{}: holds no entry with a title", path.display())));
    }
    Ok(found)
}

/// Runs the command.
///
/// # Errors
/// If the references, the results or the model cannot be used.
pub fn run(context: &mut Context, args: &ResearchArgs) -> Result<Outcome, Failure> {
    if args.topic.is_none() && args.references.is_none() {
        return Err(Failure::new(Code::Usage, "give --topic TEXT, --references FILE.bib, or both"));
    }
    context.apply(&args.model);
    let style = style(&args.style)?;
    let literature = literature(context, args.references.as_deref())?;
    let results = match (&args.results, &args.experiment, args.simulate) {
        (Some(path), ..) => {
            let text = std::fs::read(path).map_err(|e| Failure::io(path, &e))?;
            let value: Value = serde_json::from_slice(&text)
                .map_err(|e| Failure::new(Code::Input, format!("{}: {e}", path.display())))?;
            Results::Given(value)
        }
        (_, Some(command), _) => Results::Command(command.clone()),
        (_, _, true) => Results::Simulate,
        _ => Results::Stop,
    };
    let sampling = sampling(&args.model, default_sampling())?;
    let seed = context.seed()?;
    let reference = context.reference("researcher")?;
    let model = context.open(&reference)?;
    let store = context.store()?;
    let mut titles = Vec::new();
    for n in 0..args.papers.max(1) {
        let out: PathBuf =
            if args.papers > 1 { args.out.join(format!("paper-{}", n + 1)) } else { args.out.clone() };
        let seed = seed + n as u64;
        let info = model.info();
        let config = json!({"topic": args.topic, "references": literature.entries.iter().map(|e| &e.bibtex).collect::<Vec<_>>(),
            "results": format!("{results:?}"), "model": info.sha256.as_deref().unwrap_or(&info.reference), "seed": seed,
            "sampling": sampling});
        let run = store.start_run("research", &config.to_string(), args.force)?;
        let stored = store.stages(&run)?;
        if !stored.is_empty() {
            context.note(&format!(
                "run {run}: {} stages are stored and taken over; --force begins anew",
                stored.len()
            ));
        }
        let brief = Brief {
            topic: args.topic.clone(),
            literature: literature.clone(),
            results: results.clone(),
            sampling: sampling.clone(),
            seed,
        };
        let reporter = Reporter::new(out.display().to_string(), context.loudness);
        let researcher = Researcher { model: model.as_ref(), progress: &reporter };
        let mut sink = Stages { store: &store, run: run.clone(), stored };
        let written = researcher.write(&brief, &mut sink);
        reporter.done();
        let draft = match written {
            Ok(draft) => draft,
            Err(e) => {
                let failure = Failure::from(e);
                let status = if failure.code == Code::Interrupted { "interrupted" } else { "failed" };
                store.end_run(&run, status, Some(&failure.what))?;
                return Err(failure);
            }
        };
        for cut in &draft.cut {
            context.note(&format!("not read by the model: {cut}"));
        }
        let by = Provenance { model: info.reference.clone(), sha256: info.sha256.clone(), seed };
        let paper = folder(&draft, &literature, style, &by)?;
        for (name, bytes) in &paper.files {
            write(&out.join(name), bytes)?;
        }
        store.end_run(&run, "done", None)?;
        let c = paper.citations;
        context.note(&format!(
            "{}: citations {} kept, {} repaired, {} removed; {} numbers of the text are backed by no result{}",
            out.display(),
            c.kept,
            c.repaired,
            c.removed,
            paper.unbacked_numbers,
            if draft.results.is_none() { "; it stops after the set-up: --results, --experiment or --simulate go on" } else { "" }
        ));
        titles.push((out, paper.title));
    }
    if args.papers > 1 {
        let rows: String =
            titles.iter().map(|(p, t)| format!("{:?},{:?}\n", p.display().to_string(), t)).collect();
        write(&args.out.join("ranking.csv"), format!("paper,title\n{rows}").as_bytes())?;
    }
    let lines: Vec<String> = titles.iter().map(|(p, t)| format!("{}: {t}", p.display())).collect();
    emit(&lines.join("\n"), None)?;
    Ok(Outcome::Done)
}
