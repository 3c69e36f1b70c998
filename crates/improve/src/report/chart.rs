//! Small charts as inline SVG: lines over iterations, with intervals and limits.

use std::fmt::Write;

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// A value at an iteration, with its interval where it has one.
pub(super) type Point = (usize, f64, Option<(f64, f64)>);

/// A line.
pub(super) struct Line {
    /// Its colour's class, `c0` or `c1`.
    pub(super) class: &'static str,
    pub(super) points: Vec<Point>,
}

/// A chart of lines over iterations 0…`last`. `limits` are dashed levels; `zero` marks the level 0.
pub(super) fn chart(last: usize, lines: &[Line], limits: &[f64], zero: bool, about: &str) -> String {
    let ends = |(_, v, i): &Point| i.map_or([*v, *v], |(low, high)| [low, high]);
    let mut values: Vec<f64> = lines.iter().flat_map(|l| l.points.iter().flat_map(ends)).collect();
    if zero {
        values.push(0.0);
    }
    values.retain(|v| v.is_finite());
    let (mut low, mut high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    if values.is_empty() {
        (low, high) = (0.0, 1.0);
    }
    // A flat line stands in the middle of a frame of its own size.
    if high - low < 1e-6 * high.abs().max(1.0) {
        let around = 0.1 * high.abs().max(1.0);
        (low, high) = (low - around, high + around);
    }
    // A limit that is far away would flatten the lines; it is left out then.
    let span = (high - low).max(1e-9);
    let near: Vec<f64> =
        limits.iter().copied().filter(|l| *l > low - 2.0 * span && *l < high + 2.0 * span).collect();
    for l in &near {
        (low, high) = (low.min(*l), high.max(*l));
    }
    let step = nice((high - low).max(1e-9) / 3.0);
    (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    if high - low < step / 2.0 {
        high = low + step;
    }
    let x = |i: f64| LEFT + (WIDTH - LEFT - RIGHT) * (i + 0.25) / (last.max(1) as f64 + 0.5);
    let y = |v: f64| TOP + (HEIGHT - TOP - BOTTOM) * (high - v) / (high - low);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{about}\">");
    let digits = if step >= 1.0 { 0 } else { (-step.log10()).ceil() as usize };
    let ticks = ((high - low) / step).round() as usize;
    for k in 0..=ticks {
        let v = low + k as f64 * step;
        let at = y(v);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{v:.digits$}</text>",
            WIDTH - RIGHT,
            LEFT - 5.0,
            at + 4.0
        );
    }
    let level = |svg: &mut String, class: &str, v: f64| {
        let at = y(v);
        let _ = write!(
            svg,
            "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - RIGHT
        );
    };
    if zero {
        level(&mut svg, "zero", 0.0);
    }
    near.iter().for_each(|l| level(&mut svg, "limit", *l));
    for i in 0..=last {
        let label = if i == 0 { "start".to_string() } else { i.to_string() };
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            x(i as f64),
            HEIGHT - 8.0
        );
    }
    for (n, line) in lines.iter().enumerate() {
        // Two lines' intervals stand beside each other.
        let shift = if lines.len() > 1 { n as f64 * 0.06 - 0.03 } else { 0.0 };
        let known: Vec<&Point> = line.points.iter().filter(|p| p.1.is_finite()).collect();
        let path: Vec<String> =
            known.iter().map(|(i, v, _)| format!("{:.1},{:.1}", x(*i as f64 + shift), y(*v))).collect();
        let _ = write!(svg, "<polyline class=\"{}\" points=\"{}\"/>", line.class, path.join(" "));
        for (i, v, interval) in known {
            let at = x(*i as f64 + shift);
            if let Some((low, high)) = interval {
                let _ = write!(
                    svg,
                    "<line class=\"{}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                    line.class,
                    y(*low),
                    y(*high)
                );
            }
            let _ =
                write!(svg, "<circle class=\"{}\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3\"/>", line.class, y(*v));
        }
    }
    svg + "</svg>"
}

/// The nearest of 1, 2 and 5 times a power of ten.
fn nice(x: f64) -> f64 {
    let power = 10f64.powf(x.log10().floor());
    let rest = x / power;
    power
        * if rest < 1.5 {
            1.0
        } else if rest < 3.5 {
            2.0
        } else if rest < 7.5 {
            5.0
        } else {
            10.0
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_holds_every_point_inside_its_frame_whatever_the_numbers() {
        for values in [vec![0.0, 0.0], vec![-3.0, 1e6], vec![0.1, 0.10001], vec![f64::NAN, 2.0], vec![]] {
            let points = values.iter().enumerate().map(|(i, v)| (i, *v, Some((v - 1.0, v + 1.0)))).collect();
            let svg = chart(1, &[Line { class: "c0", points }], &[5.0], true, "x");
            for number in svg.split("y1=\"").skip(1).map(|s| s.split('"').next().unwrap()) {
                let y: f64 = number.parse().unwrap();
                assert!((0.0..=HEIGHT).contains(&y), "{y}: {svg}");
            }
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
