//! Bar charts as SVG, one file each: open in any browser, drawn without a library.

use std::fmt::Write;

/// A series of bars.
pub struct Bars<'a> {
    /// Above the chart.
    pub title: &'a str,
    /// What the bars count.
    pub unit: &'a str,
    /// Label and height, at least 0.
    pub bars: &'a [(String, f64)],
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The chart. Without bars it says so.
pub fn bars(chart: &Bars<'_>) -> String {
    const HEIGHT: f64 = 180.0;
    const STEP: f64 = 36.0;
    let width = (chart.bars.len() as f64 * STEP + 80.0).max(320.0);
    let most = chart.bars.iter().map(|b| b.1).fold(0.0, f64::max);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} 260\" width=\"{width:.0}\" height=\"260\" \
         role=\"img\" font-family=\"sans-serif\" font-size=\"11\">\n<title>{}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-size=\"14\">{}</text>\n\
         <text x=\"10\" y=\"36\" fill=\"#666\">{}</text>",
        escaped(chart.title),
        escaped(chart.title),
        escaped(chart.unit)
    );
    if chart.bars.is_empty() {
        out.push_str("<text x=\"10\" y=\"120\">nothing to show</text>\n");
    }
    for (i, (label, value)) in chart.bars.iter().enumerate() {
        let x = 40.0 + i as f64 * STEP;
        let height = if most > 0.0 { value / most * HEIGHT } else { 0.0 };
        let top = 230.0 - height;
        let shown = if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"26\" height=\"{height:.1}\" fill=\"#4477aa\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{shown}</text>\
             <text x=\"{:.1}\" y=\"246\" text-anchor=\"middle\">{}</text>",
            x + 13.0,
            top - 4.0,
            x + 13.0,
            escaped(label)
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_chart_is_well_formed_whatever_its_labels_and_without_bars() {
        let bars = [("a<b&\"c".to_string(), 3.0), ("zero".to_string(), 0.0)];
        for bars in [&bars[..], &[]] {
            let svg = super::bars(&super::Bars { title: "T & <x>", unit: "papers", bars });
            assert!(svg.matches("<rect").count() == 1 + bars.len() && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("a<b") && !svg.contains("NaN"));
        }
    }
}
