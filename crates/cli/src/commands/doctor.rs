//! `cycle doctor` and `cycle config show`.

use serde_json::json;

use crate::args::{Format, ShowArgs};
use crate::commands::{Outcome, models};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::emit;

/// Bytes of memory in all and free, where the system says so.
pub(super) fn memory() -> (Option<u64>, Option<u64>) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    (field("MemTotal:"), field("MemAvailable:"))
}

/// Runs `cycle doctor`.
///
/// # Errors
/// Never because of what it finds: that is the result.
pub fn run(context: &Context, args: &ShowArgs) -> Result<Outcome, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let level = format!("{:?}", kernels::Level::current());
    let (total, free) = memory();
    let device = lm::device(lm::DeviceChoice::Auto).map_or_else(|e| e.to_string(), |d| d.1);
    let found = models::found(context);
    let store = context.store().and_then(|s| Ok(s.health()?));
    let healthy = store.as_ref().is_ok_and(|h| h.integrity == "ok");
    if args.format == Format::Json {
        let store = match &store {
            Ok(h) => serde_json::to_value(h).unwrap_or_default(),
            Err(e) => json!({"error": e.what}),
        };
        let list: Vec<_> = found.iter().map(|(n, d)| json!({"ref": n, "usable": d.is_some()})).collect();
        let document = json!({"schema": "cycle.doctor/1", "version": env!("CARGO_PKG_VERSION"), "processor": level,
            "threads": threads, "memory": total, "memory_free": free, "device": device, "models": list, "store": store});
        emit(&document.to_string(), None)?;
    } else {
        let gb = |b: Option<u64>| b.map_or("unknown".into(), |b| format!("{:.1} GB", b as f64 / 1e9));
        let mut out = format!(
            "cycle {}\nprocessor: {level}, {threads} threads\nmemory: {}, {} free\ndevice: {device}\nmodels:\n",
            env!("CARGO_PKG_VERSION"),
            gb(total),
            gb(free)
        );
        for (name, d) in &found {
            let state = match d {
                Some(d) => format!(
                    "{:.1} M parameters, context {}",
                    d.parameters as f64 / 1e6,
                    d.config.max_position_embeddings
                ),
                None => "not usable".into(),
            };
            out += &format!("  {name}: {state}\n");
        }
        match &store {
            Ok(h) => {
                out += &format!(
                    "store: {}, {} bytes, {} papers, {} reviews, {} runs, {}\n",
                    h.path.display(),
                    h.bytes,
                    h.papers,
                    h.reviews,
                    h.runs,
                    h.integrity
                );
            }
            Err(e) => out += &format!("store: {}\n", e.what),
        }
        emit(&out, None)?;
    }
    Ok(if healthy { Outcome::Done } else { Outcome::Look })
}

/// Runs `cycle config show`.
///
/// # Errors
/// If it cannot be printed.
pub fn config(context: &Context, args: &ShowArgs) -> Result<Outcome, Failure> {
    if args.format == Format::Json {
        let values: serde_json::Map<String, serde_json::Value> = context
            .settings
            .all()
            .map(|(k, v)| {
                let value = (!v.text.is_empty()).then_some(&v.text);
                (k.to_string(), json!({"value": value, "origin": v.origin}))
            })
            .collect();
        emit(
            &json!({"schema": "cycle.config/1", "home": context.settings.home, "values": values}).to_string(),
            None,
        )?;
        return Ok(Outcome::Done);
    }
    let mut out = String::new();
    for (key, value) in context.settings.all() {
        let text = match (key, value.text.is_empty()) {
            ("store", true) => context.settings.store().display().to_string(),
            (_, true) => "–".into(),
            _ => value.text.clone(),
        };
        out += &format!("{key} = {text}  ({})\n", value.origin);
    }
    emit(&out, None)?;
    Ok(Outcome::Done)
}
