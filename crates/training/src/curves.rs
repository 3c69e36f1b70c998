//! `metrics.jsonl` as a picture: one small panel per figure, over steps.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 150.0;
const COLUMNS: usize = 2;

/// Figures that are no curves of interest.
const SKIPPED: [&str; 5] = ["step", "tokens", "tokens_per_second", "eval_tokens", "eval_perplexity"];

/// An SVG document with a panel for each figure of the lines; held-out values are dots in the panel of their figure.
pub(crate) fn svg(metrics: &str) -> String {
    let mut series: BTreeMap<String, [Vec<(f64, f64)>; 2]> = BTreeMap::new();
    for line in metrics.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
        let (Some(step), Some(object)) = (line["step"].as_f64(), line.as_object()) else { continue };
        for (name, value) in object {
            let Some(value) = value.as_f64().filter(|v| v.is_finite()) else { continue };
            if SKIPPED.contains(&name.as_str()) {
                continue;
            }
            let (name, which) = match name.strip_prefix("eval_") {
                Some(inner) => (inner, 1),
                None => (name.as_str(), 0),
            };
            series.entry(name.to_string()).or_default()[which].push((step, value));
        }
    }
    let mut names: Vec<&String> = series.keys().collect();
    names.sort_by_key(|n| (*n != "loss", *n != "grad_norm", (*n).clone()));
    let rows = names.len().div_ceil(COLUMNS).max(1);
    let (width, height) = (COLUMNS as f64 * WIDTH, rows as f64 * HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (i, name) in names.into_iter().enumerate() {
        let (x, y) = ((i % COLUMNS) as f64 * WIDTH, (i / COLUMNS) as f64 * HEIGHT);
        panel(&mut out, x, y, name, &series[name]);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, x: f64, y: f64, name: &str, [line, dots]: &[Vec<(f64, f64)>; 2]) {
    let all = || line.iter().chain(dots);
    let bounds = |f: fn(&(f64, f64)) -> f64| {
        let low = all().map(f).fold(f64::INFINITY, f64::min);
        let high = all().map(f).fold(f64::NEG_INFINITY, f64::max);
        if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
    };
    let ((x0, x1), (y0, y1)) = (bounds(|p| p.0), bounds(|p| p.1));
    let (left, right, top, bottom) = (x + 58.0, x + WIDTH - 12.0, y + 22.0, y + HEIGHT - 22.0);
    let at = |p: &(f64, f64)| {
        let px = left + (p.0 - x0) / (x1 - x0) * (right - left);
        (px, bottom - (p.1 - y0) / (y1 - y0) * (bottom - top))
    };
    let escaped = name.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a String cannot fail.
    let _ = writeln!(out, "<text x=\"{left}\" y=\"{}\" fill=\"#222\">{escaped}</text>", y + 14.0);
    let _ = writeln!(
        out,
        "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#999\"/>\
         <text x=\"{0}\" y=\"{1}\" text-anchor=\"end\" fill=\"#666\">{2}</text>\
         <text x=\"{0}\" y=\"{bottom}\" text-anchor=\"end\" fill=\"#666\">{3}</text>\
         <text x=\"{left}\" y=\"{4}\" fill=\"#666\">{x0:.0}</text>\
         <text x=\"{right}\" y=\"{4}\" text-anchor=\"end\" fill=\"#666\">{x1:.0}</text>",
        left - 4.0,
        top + 8.0,
        short(y1),
        short(y0),
        bottom + 13.0,
    );
    let points: Vec<String> = line
        .iter()
        .map(|p| {
            let (px, py) = at(p);
            format!("{px:.1},{py:.1}")
        })
        .collect();
    let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f6feb\"/>", points.join(" "));
    for p in dots {
        let (px, py) = at(p);
        let _ = writeln!(out, "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"#d1480f\"/>");
    }
}

/// Four significant digits.
fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) { format!("{value:.2e}") } else { format!("{value:.4}") }
}
