//! Figures over seeds, claims that may fail, and how both are told.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::plot::Panel;
use crate::error::TrainError;

/// Two-sided 90 % quantiles of Student's t for 1, 2, … degrees of freedom; the normal's beyond.
const T90: [f64; 20] = [
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753,
    1.746, 1.740, 1.734, 1.729, 1.725,
];

/// Mean and 90 % interval (Student's t over independent seeds). One value has no interval: both ends are NaN.
pub fn interval(values: &[f64]) -> (f64, f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, f64::NAN, f64::NAN);
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = T90.get(values.len() - 2).copied().unwrap_or(1.645) * (variance / n).sqrt();
    (mean, mean - half, mean + half)
}

/// A measured quantity.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What it is, unit included.
    pub name: String,
    /// One value a seed.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Lower end of the 90 % interval; absent for one seed.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, values: Vec<f64>) -> Self {
        let (mean, low, high) = interval(&values);
        let known = |x: f64| x.is_finite().then_some(x);
        Self { name: name.into(), values, mean, low: known(low), high: known(high) }
    }

    fn text(&self) -> String {
        let ends = match (self.low, self.high) {
            (Some(low), Some(high)) => format!("{} … {}", short(low), short(high)),
            _ => "one seed".into(),
        };
        format!("{} [{ends}]", short(self.mean))
    }
}

/// Something the experiment is there to show. It holds or it does not.
#[derive(Debug, Clone, Serialize)]
pub struct Claim {
    /// In words.
    pub claim: String,
    /// Whether the numbers bear it out.
    pub holds: bool,
    /// The numbers.
    pub numbers: String,
}

/// A comparison nobody promised an outcome for.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was compared.
    pub question: String,
    /// `higher`, `lower` or `no difference seen`, from the 90 % interval of the paired difference.
    pub outcome: String,
    /// The paired difference.
    pub difference: Figure,
}

impl Finding {
    /// `first − second`, seed by seed.
    pub(super) fn paired(question: impl Into<String>, first: &[f64], second: &[f64]) -> Self {
        let difference = Figure::new("difference", first.iter().zip(second).map(|(a, b)| a - b).collect());
        let outcome = match (difference.low, difference.high) {
            (Some(low), _) if low > 0.0 => "higher",
            (_, Some(high)) if high < 0.0 => "lower",
            _ => "no difference seen",
        };
        Self { question: question.into(), outcome: outcome.into(), difference }
    }
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `cycle.bench/1`.
    pub schema: &'static str,
    /// The experiment.
    pub name: &'static str,
    /// What was trained and how, in sentences.
    pub setting: Vec<String>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// True if less of everything was done than the experiment asks for: its figures are no result.
    pub small: bool,
    /// Measured quantities.
    pub figures: Vec<Figure>,
    /// What was promised.
    pub claims: Vec<Claim>,
    /// What was not.
    pub findings: Vec<Finding>,
    /// Seconds it took.
    pub seconds: f64,
    /// Curves and everything else that was measured, by seed.
    pub details: serde_json::Value,
    #[serde(skip)]
    pub(super) plot: Vec<Panel>,
}

impl Report {
    pub(super) fn new(name: &'static str, options: &super::Options) -> Self {
        Self {
            schema: "cycle.bench/1",
            name,
            setting: Vec::new(),
            seeds: options.seeds(),
            small: options.small,
            figures: Vec::new(),
            claims: Vec::new(),
            findings: Vec::new(),
            seconds: 0.0,
            details: serde_json::Value::Null,
            plot: Vec::new(),
        }
    }

    pub(super) fn claim(&mut self, claim: impl Into<String>, holds: bool, numbers: impl Into<String>) {
        self.claims.push(Claim { claim: claim.into(), holds, numbers: numbers.into() });
    }

    /// Adds a figure and returns it.
    pub(super) fn figure(&mut self, name: impl Into<String>, values: Vec<f64>) -> Figure {
        let figure = Figure::new(name, values);
        self.figures.push(figure.clone());
        figure
    }

    /// Claims that `first − second`, seed by seed, lies above 0 with its whole interval.
    pub(super) fn claim_above(&mut self, claim: impl Into<String>, first: &[f64], second: &[f64]) {
        let difference = Figure::new("", first.iter().zip(second).map(|(a, b)| a - b).collect());
        // One seed has no interval: its own difference has to do.
        let holds = difference.low.unwrap_or(difference.mean) > 0.0;
        let numbers = format!("paired difference {}", difference.text());
        self.claim(claim, holds, numbers);
    }

    /// Whether all claims hold.
    pub fn holds(&self) -> bool {
        self.claims.iter().all(|c| c.holds)
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut out = format!("{}: {}\n", self.name, self.setting.join(" "));
        if self.small {
            out += "A small run: its figures are no result.\n";
        }
        out += &format!("Seeds {:?}; means with 90 % intervals over seeds.\n\n", self.seeds);
        let width = self.figures.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
        for figure in &self.figures {
            out += &format!("  {:width$}  {}\n", figure.name, figure.text());
        }
        out.push('\n');
        for claim in &self.claims {
            let verdict = if claim.holds { "holds" } else { "does not hold" };
            out += &format!("{verdict}: {} ({})\n", claim.claim, claim.numbers);
        }
        for finding in &self.findings {
            out += &format!("{}: {} ({})\n", finding.question, finding.outcome, finding.difference.text());
        }
        out + &format!("{:.0} s\n", self.seconds)
    }

    /// `report.json` and `plot.svg`, by rename.
    pub(super) fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let json = serde_json::to_string_pretty(self).map_err(|e| TrainError::Recipe(e.to_string()))?;
        for (name, text) in [("report.json", json), ("plot.svg", super::plot::svg(self.name, &self.plot))] {
            let (path, partial) = (folder.join(name), folder.join(format!(".{name}.partial")));
            fs::write(&partial, text)
                .and_then(|()| fs::rename(&partial, &path))
                .map_err(TrainError::io(&path))?;
        }
        Ok(())
    }
}

/// Four significant digits at most.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.2e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_student() {
        let (mean, low, high) = interval(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        // t(0.95; 4) = 2.132, standard error = √(2.5/5).
        assert!((mean - 3.0).abs() < 1e-12 && (high - 3.0 - 2.132 * 0.5f64.sqrt()).abs() < 1e-12);
        assert!((low + high - 6.0).abs() < 1e-12);
        assert!(interval(&[1.0]).1.is_nan());
        let finding = Finding::paired("", &[1.0, 1.1, 1.2], &[1.0, 1.2, 1.0]);
        assert_eq!(finding.outcome, "no difference seen");
    }

    #[test]
    fn a_claim_whose_interval_reaches_zero_does_not_hold() {
        let mut report = Report::new("x", &crate::miniatures::Options::new("x"));
        report.claim_above("clear", &[1.0, 1.1, 1.2], &[0.1, 0.0, 0.1]);
        assert!(report.holds());
        report.claim_above("unclear", &[1.0, 1.1, 1.2], &[1.0, 1.2, 1.0]);
        assert!(!report.holds() && report.text().contains("does not hold: unclear"), "{}", report.text());
    }
}
