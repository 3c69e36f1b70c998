//! Panels with curves or bars and their intervals, as SVG.

use std::fmt::Write;

use super::report::interval;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 270.0;
const COLORS: [&str; 6] = ["#1f6feb", "#d1480f", "#2b8a3e", "#7b3fb5", "#8a6d00", "#555555"];

/// A curve: at each x a mean and the ends of its interval.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<[f64; 4]>,
}

impl Curve {
    /// From values by x, then by seed.
    pub(super) fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, Vec<f64>)>) -> Self {
        let points = points
            .into_iter()
            .map(|(x, values)| {
                let (mean, low, high) = interval(&values);
                if low.is_finite() { [x, mean, low, high] } else { [x, mean, mean, mean] }
            })
            .collect();
        Self { name: name.into(), points }
    }
}

/// What a panel shows.
#[derive(Debug, Clone)]
pub(super) enum Shown {
    /// Lines over x.
    Curves(Vec<Curve>),
    /// A dot with its interval for each name.
    Dots(Vec<Curve>),
}

/// A panel.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) shown: Shown,
    /// A dashed level with its name.
    pub(super) levels: Vec<(String, f64)>,
    /// Both ends of y, where the data should not decide.
    pub(super) range: Option<(f64, f64)>,
}

impl Panel {
    pub(super) fn curves(title: &str, x: &str, y: &str, curves: Vec<Curve>) -> Self {
        let (title, x, y) = (title.into(), x.into(), y.into());
        Self { title, x, y, shown: Shown::Curves(curves), levels: Vec::new(), range: None }
    }

    pub(super) fn dots(title: &str, y: &str, figures: Vec<(String, Vec<f64>)>) -> Self {
        let dots = figures.into_iter().map(|(name, values)| Curve::new(name, [(0.0, values)])).collect();
        let (title, y) = (title.into(), y.into());
        Self { title, x: String::new(), y, shown: Shown::Dots(dots), levels: Vec::new(), range: None }
    }

    pub(super) fn level(mut self, name: impl Into<String>, at: f64) -> Self {
        self.levels.push((name.into(), at));
        self
    }

    pub(super) fn between(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Three to eight round numbers between both ends.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 4.0;
    let size = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].map(|m| m * size).into_iter().filter(|s| *s <= rough).fold(size, f64::max);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// At most four decimals, none that says nothing.
fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// The panels, two a row.
pub(super) fn svg(title: &str, panels: &[Panel]) -> String {
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns).max(1);
    let (width, height) = (columns as f64 * WIDTH, rows as f64 * HEIGHT + 24.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"18\" font-size=\"13\" font-weight=\"bold\">cycle bench {}</text>\n",
        escaped(title)
    );
    for (i, panel) in panels.iter().enumerate() {
        draw(&mut out, (i % columns) as f64 * WIDTH, (i / columns) as f64 * HEIGHT + 24.0, panel);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, x: f64, y: f64, panel: &Panel) {
    let (curves, dots) = match &panel.shown {
        Shown::Curves(c) => (c, false),
        Shown::Dots(c) => (c, true),
    };
    let points = || curves.iter().flat_map(|c| &c.points);
    let fold = |values: &mut dyn Iterator<Item = f64>| {
        values
            .filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    };
    let widen = |(a, b): (f64, f64)| if b > a { (a, b) } else { (a - 0.5, a + 0.5) };
    let (x0, x1) = match dots {
        true => (-0.5, curves.len() as f64 - 0.5),
        false => widen(fold(&mut points().map(|p| p[0]))),
    };
    let (y0, y1) = panel.range.unwrap_or_else(|| {
        let levels = panel.levels.iter().map(|l| l.1);
        let (low, high) = widen(fold(&mut points().flat_map(|p| [p[2], p[3]]).chain(levels)));
        (low - 0.06 * (high - low), high + 0.06 * (high - low))
    });
    // Names of curves stand below the axis, one a line where they are long.
    let lines = if dots { 1 } else { curves.len().div_ceil(2) };
    let (left, right) = (x + 62.0, x + WIDTH - 14.0);
    let (top, bottom) = (y + 30.0, y + HEIGHT - 36.0 - 14.0 * lines as f64);
    let px = |v: f64| left + (v - x0) / (x1 - x0) * (right - left);
    let py = |v: f64| bottom - (v.clamp(y0, y1) - y0) / (y1 - y0) * (bottom - top);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"{}\" fill=\"#222\">{}</text>\
         <path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>\
         <text transform=\"translate({} {}) rotate(-90)\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
        y + 20.0,
        escaped(&panel.title),
        x + 14.0,
        (top + bottom) / 2.0,
        escaped(&panel.y)
    );
    for v in ticks(y0, y1) {
        let _ = writeln!(
            out,
            "<path d=\"M{left} {0:.1}H{right}\" stroke=\"#eee\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\" fill=\"#666\">{3}</text>",
            py(v),
            left - 4.0,
            py(v) + 4.0,
            plain(v)
        );
    }
    for (name, at) in &panel.levels {
        let _ = writeln!(
            out,
            "<path d=\"M{left} {0:.1}H{right}\" stroke=\"#444\" stroke-dasharray=\"4 3\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\" fill=\"#444\">{3}</text>",
            py(*at),
            right - 2.0,
            py(*at) - 3.0,
            escaped(name)
        );
    }
    if !dots {
        let _ = writeln!(
            out,
            "<text x=\"{left}\" y=\"{0}\" fill=\"#666\">{1}</text>\
             <text x=\"{right}\" y=\"{0}\" text-anchor=\"end\" fill=\"#666\">{2}</text>\
             <text x=\"{3}\" y=\"{0}\" text-anchor=\"middle\" fill=\"#555\">{4}</text>",
            bottom + 13.0,
            plain(x0),
            plain(x1),
            (left + right) / 2.0,
            escaped(&panel.x)
        );
    }
    for (i, curve) in curves.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        if dots {
            let Some([_, mean, low, high]) = curve.points.first() else { continue };
            let at = px(i as f64);
            let _ = writeln!(
                out,
                "<path d=\"M{at:.1} {:.1}V{:.1}\" stroke=\"{color}\" stroke-width=\"2\"/>\
                 <circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{color}\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"{color}\">{}</text>",
                py(*low),
                py(*high),
                py(*mean),
                bottom + 14.0,
                escaped(&curve.name)
            );
            continue;
        }
        let line = |k: usize, reversed: bool| {
            let at = |p: &[f64; 4]| format!("{:.1},{:.1}", px(p[0]), py(p[k]));
            let mut all: Vec<String> = curve.points.iter().map(at).collect();
            if reversed {
                all.reverse();
            }
            all.join(" ")
        };
        let (above, below, mean) = (line(3, false), line(2, true), line(1, false));
        let (column, row) = (i % 2, i / 2);
        let (kx, ky) = (left + column as f64 * (right - left) / 2.0, bottom + 29.0 + 14.0 * row as f64);
        let _ = writeln!(
            out,
            "<polygon points=\"{above} {below}\" fill=\"{color}\" fill-opacity=\"0.15\"/>\
             <polyline points=\"{mean}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\"/>\
             <path d=\"M{kx} {}h16\" stroke=\"{color}\" stroke-width=\"3\"/>\
             <text x=\"{}\" y=\"{ky}\" fill=\"{color}\">{}</text>",
            ky - 4.0,
            kx + 20.0,
            escaped(&curve.name),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let shown = |low, high| ticks(low, high).into_iter().map(plain).collect::<Vec<_>>();
        assert_eq!(shown(0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(shown(-0.0022, 0.0359), ["0", "0.005", "0.01", "0.015", "0.02", "0.025", "0.03", "0.035"]);
        assert_eq!(shown(3.1, 24.0), ["5", "10", "15", "20"]);
    }
}
