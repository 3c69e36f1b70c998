//! `cycle dataset build`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use datasets::{BuildOptions, Built, CrawlOptions, DatasetError, Estimate, Spec, SpecKind, build, crawl};
use serde_json::json;
use sources::{Http, HttpOptions, Limit, OpenReview, Service, Session};

use super::{RUN, spec};
use crate::args::{BuildArgs, Format};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{columns, emit};
use crate::progress::{Loudness, bar, interrupted, say};

/// Runs the command.
///
/// # Errors
/// If the specification, the records or a service cannot be used.
pub fn run(context: &Context, args: &BuildArgs) -> Result<Outcome, Failure> {
    let spec = spec(&args.spec)?;
    if args.dry_run {
        return dry_run(&spec, args);
    }
    let Some(out) = &args.out else { return Err(Failure::new(Code::Usage, "--out is missing")) };
    let _lock = datasets::lock(out)?;
    let watch = Watch::new(context.loudness);
    let started = Instant::now();
    let from = match &args.from {
        Some(from) => from.clone(),
        None => fetched(context, &spec, args, out, &watch)?,
    };
    let model = match spec.kind {
        SpecKind::Research => Some(context.open(&context.reference("researcher")?)?),
        SpecKind::Review => None,
    };
    let limits = documents::Limits::default();
    let reader = |path: &Path| documents::read_isolated(path, &limits);
    let built = build(
        &spec,
        &BuildOptions {
            out,
            from: &from,
            limit: args.limit,
            reader: &reader,
            model: model.as_deref(),
            keep_out: &args.keep_out,
            force: args.force,
            progress: &watch,
        },
    )?;
    watch.done();
    remember(context, out, &built)?;
    shown(&built, out, started.elapsed(), args.format)?;
    if built.manifest.kept == 0 {
        context.note("no paper is left: left_out.jsonl says why for each");
        return Ok(Outcome::Look);
    }
    Ok(Outcome::Done)
}

/// Records from the network; everything that was asked is kept below the set's folder.
fn fetched(
    context: &Context,
    spec: &Spec,
    args: &BuildArgs,
    out: &Path,
    watch: &Watch,
) -> Result<std::path::PathBuf, Failure> {
    if spec.venue.is_empty() {
        let what = format!("{} names no venue to ask for", spec.name);
        return Err(Failure::new(Code::Usage, what).advise("--from DIR builds it from records on disk"));
    }
    let work = out.join(".work").join("crawl");
    let mut options = HttpOptions::new(work.join("cache"));
    options.contact = args.contact.clone();
    options.offline = context.settings.flag("offline");
    options.proxy = args.proxy.clone();
    options.budget = args.budget;
    options.patience = Duration::from_secs(args.patience);
    options.pause = Duration::from_millis(args.pause);
    options.cancelled = Arc::new(interrupted);
    (options.bases, options.limits) = bases(&args.base)?;
    if options.contact.is_none() && options.bases.is_empty() && !options.offline {
        context.note("services like to know whom to complain to: --contact you@example.org");
    }
    let secret = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let http = Http::new(options).map_err(DatasetError::from)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Resources, e))?;
    let login = secret("OPENREVIEW_USERNAME").zip(secret("OPENREVIEW_PASSWORD"));
    let openreview_token = match (secret("OPENREVIEW_TOKEN"), login) {
        (None, Some((user, password))) => Some(runtime.block_on(login_token(&http, &user, &password))?),
        (token, _) => token,
    };
    let crawled = runtime.block_on(crawl(
        spec,
        &CrawlOptions {
            work: &work,
            http: &http,
            openreview_token,
            s2_key: secret("S2_API_KEY"),
            limit: args.limit,
            refresh: args.refresh,
            page: usize::from(args.page),
            progress: watch,
        },
    ));
    watch.done();
    let sent = http.sent();
    let crawled = crawled.inspect_err(|_| {
        context
            .note(&format!("{sent} requests were sent; what was answered is kept below {}", work.display()));
    })?;
    context.note(&format!(
        "{} papers listed with {sent} requests, {} questions without an answer; records {}",
        crawled.papers, crawled.failed, crawled.hash
    ));
    Ok(crawled.records)
}

/// A token for a week, by name and password.
async fn login_token(http: &Http, user: &str, password: &str) -> Result<String, Failure> {
    let session = OpenReview::new(http, None).login(user, password, 7 * 86_400).await;
    match session.map_err(DatasetError::from)? {
        Session::Token(token) => Ok(token),
        Session::SecondFactor(methods) => {
            let what = format!("OpenReview asks for a second factor ({})", methods.join(", "));
            Err(Failure::new(Code::Remote, what)
                .advise("log in on its page and give the token in OPENREVIEW_TOKEN"))
        }
    }
}

/// Addresses of services that were named. Published limits hold for the published addresses alone.
fn bases(words: &[String]) -> Result<(HashMap<Service, String>, HashMap<Service, Limit>), Failure> {
    let (mut bases, mut limits) = (HashMap::new(), HashMap::new());
    for word in words {
        let wrong = |what: String| Failure::new(Code::Usage, format!("--base {word}: {what}"));
        let (name, url) = word.split_once('=').ok_or_else(|| wrong("SERVICE=URL is needed".into()))?;
        let service: Service = name.parse().map_err(wrong)?;
        bases.insert(service, url.trim_end_matches('/').to_string());
        let limit = Limit { requests: 1000.0, per: Duration::from_secs(1), at_once: service.limit().at_once };
        limits.insert(service, limit);
    }
    Ok((bases, limits))
}

/// The set becomes a row of the store, so that others can be held against it.
fn remember(context: &Context, out: &Path, built: &Built) -> Result<(), Failure> {
    let place = std::fs::canonicalize(out).unwrap_or_else(|_| out.into());
    let store = context.store()?;
    let config = json!({ "name": built.manifest.name, "path": place }).to_string();
    let id = store.start_run(RUN, &config, true)?;
    let set = json!({
        "name": built.manifest.name, "path": place, "hash": built.manifest.hash,
        "rows": built.manifest.kept, "splits": built.manifest.splits,
    });
    store.put_stage(&id, "set", &set.to_string())?;
    store.end_run(&id, "done", None)?;
    Ok(())
}

/// Most memory that this process has used, in bytes, where the system says so.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|k| k * 1024)
}

fn shown(built: &Built, out: &Path, took: Duration, format: Format) -> Result<(), Failure> {
    let m = &built.manifest;
    if format == Format::Json {
        let value = json!({
            "schema": "cycle.dataset/1", "name": m.name, "out": out, "hash": m.hash, "unchanged": built.unchanged,
            "records": m.records, "papers": m.papers, "rows": m.kept, "splits": m.splits, "steps": m.steps,
            "problems": m.problems, "licences": m.licences, "kept_out": m.kept_out,
            "seconds": took.as_secs_f64(), "peak_bytes": peak(),
        });
        return emit(&value.to_string(), None);
    }
    let mut text = format!("{}: {} rows of {} papers ({} records)\n", m.name, m.kept, m.papers, m.records);
    for (part, rows) in &m.splits {
        text += &format!("  {part}: {rows}\n");
    }
    for (name, n) in &m.kept_out {
        text += &format!("  held against {name} ({n} papers), which is kept out\n");
    }
    for step in m.steps.iter().filter(|s| s.left_out > 0) {
        text += &format!("  left out by {}: {}\n", step.step, step.left_out);
    }
    text += &format!("  problems with parts of papers: {} (problems.jsonl)\n", m.problems);
    text += &format!("hash {}\n", m.hash);
    let memory = peak().map_or(String::new(), |b| format!(", at most {} MB of memory", b / 1_000_000));
    let what = if built.unchanged { "nothing has changed" } else { "built" };
    text += &format!("{what} in {:.1} s{memory}: {}", took.as_secs_f64(), out.display());
    emit(&text, None)
}

fn dry_run(spec: &Spec, args: &BuildArgs) -> Result<Outcome, Failure> {
    let estimate = Estimate::of(spec, args.limit);
    if args.format == Format::Json {
        let mut value = serde_json::to_value(&estimate).map_err(|e| Failure::new(Code::Model, e))?;
        value["schema"] = "cycle.dataset-estimate/1".into();
        emit(&value.to_string(), None)?;
        return Ok(Outcome::Done);
    }
    if spec.venue.is_empty() {
        let text = format!(
            "{}: names no venue, so nobody is asked; --from DIR builds it from records on disk",
            spec.name
        );
        emit(&text, None)?;
        return Ok(Outcome::Done);
    }
    let mut rows = Vec::new();
    for host in &estimate.hosts {
        for (what, n) in &host.requests {
            rows.push(vec![host.service.clone(), what.clone(), n.to_string()]);
        }
        let all: u64 = host.requests.values().sum();
        let days = host.seconds / 86_400.0;
        rows.push(vec![
            host.service.clone(),
            "= all".into(),
            format!("{all}, {days:.2} days at the published limit"),
        ]);
    }
    let mut text = format!("{}: about {} papers\n", spec.name, estimate.papers);
    text += &columns(&["service", "for", "requests"], &rows);
    text += &format!(
        "\n{} requests, {:.1} days at the published limits, {:.1} GB of disk\n",
        estimate.requests,
        estimate.days,
        estimate.disk as f64 / 1e9
    );
    if !estimate.unknown.is_empty() {
        text += &format!("not in it, for their size is not given: {}\n", estimate.unknown.join(", "));
    }
    for assumption in &estimate.assumptions {
        text += &format!("assumed: {assumption}\n");
    }
    emit(&text, None)?;
    Ok(Outcome::Done)
}

/// Progress of a build: a bar, or a line every ten seconds.
pub struct Watch {
    loudness: Loudness,
    state: Mutex<(Option<indicatif::ProgressBar>, Instant)>,
}

impl Watch {
    /// For this loudness.
    pub fn new(loudness: Loudness) -> Self {
        Self { loudness, state: Mutex::new((bar("", loudness), Instant::now())) }
    }

    /// Takes the bar away.
    pub fn done(&self) {
        if let Ok(state) = self.state.lock()
            && let Some(bar) = &state.0
        {
            bar.finish_and_clear();
        }
    }
}

impl datasets::Progress for Watch {
    fn stage(&self, what: &str, done: usize, total: usize) {
        let Ok(mut state) = self.state.lock() else { return };
        if let Some(bar) = &state.0 {
            bar.set_message(what.to_string());
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        } else if self.loudness == Loudness::Lines && state.1.elapsed() >= Duration::from_secs(10) {
            state.1 = Instant::now();
            say(&format!("{what}: {done} of {total}"));
        }
    }

    fn cancelled(&self) -> bool {
        interrupted()
    }
}
