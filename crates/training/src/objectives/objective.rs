//! An objective made from its settings.

use super::Needs;
use super::settings::{Divergence, Reduction, Settings};
use super::table::{Entry, Form, table};

/// Numbers in force; those an objective does not use are 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Parameters {
    pub(super) beta: f64,
    pub(super) gamma: f64,
    pub(super) alpha: f64,
    pub(super) eta: f64,
    pub(super) tau: f64,
    pub(super) label_smoothing: f64,
    pub(super) desirable_weight: f64,
    pub(super) undesirable_weight: f64,
    pub(super) length_exponent: f64,
    pub(super) shift_decay: f64,
    /// BCO's δ or KTO's z: of the batch, not of the settings.
    pub(super) centre: f64,
}

/// One name of the sum.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) entry: &'static Entry,
    pub(super) weight: f64,
    pub(super) parameters: Parameters,
}

/// A loss function over log-probabilities: a weighted sum of entries of the table.
#[derive(Debug, Clone)]
pub struct Objective {
    pub(super) terms: Vec<Term>,
    pub(super) nll_weight: f64,
    pub(super) nll_reduction: Reduction,
    pub(super) divergence: Divergence,
    pub(super) divergence_alpha: f64,
    pub(super) ld_alpha: Option<f64>,
    pub(super) weighting: bool,
    pub(super) reference_free: bool,
}

/// What all terms of a sum have to understand, or none of it would be what it says.
const SHARED: [&str; 5] =
    ["f_divergence_type", "f_alpha_divergence_coef", "ld_alpha", "use_weighting", "reference_free"];

fn find(name: &str) -> Result<&'static Entry, String> {
    if let Some(entry) = table().iter().find(|e| e.name == name || e.aliases.contains(&name)) {
        return Ok(entry);
    }
    let known = table().iter().flat_map(|e| e.aliases.iter().chain([&e.name]));
    let near = known.map(|k| (strsim::damerau_levenshtein(name, k), *k)).min();
    let near = near.filter(|(d, _)| *d <= 3.max(name.chars().count() / 3));
    Err(match near {
        Some((_, near)) => format!("no objective is called {name:?}; did you mean {near:?}?"),
        None => format!("no objective is called {name:?}; `cycle train objectives` lists them"),
    })
}

fn check(name: &str, value: f64, entries: &[&Entry]) -> Result<(), String> {
    let (ok, range) = match name {
        "beta" | "tau" | "eta" => (value > 0.0, "above 0"),
        "label_smoothing" if entries.iter().any(|e| e.name == "exo_pair") => {
            (value > 0.0 && value < 0.5, "above 0 and below 0.5")
        }
        "label_smoothing" => ((0.0..0.5).contains(&value), "from 0 to below 0.5"),
        "ld_alpha" | "shift_decay" => ((0.0..=1.0).contains(&value), "from 0 to 1"),
        "nll_weight" | "desirable_weight" | "undesirable_weight" | "length_exponent" => {
            (value >= 0.0, "at least 0")
        }
        _ => (true, "a number"),
    };
    if ok && value.is_finite() { Ok(()) } else { Err(format!("{name} = {value}: it must be {range}")) }
}

impl Objective {
    /// Fills defaults in and checks.
    ///
    /// # Errors
    /// If a name is unknown (the nearest is offered), a parameter means nothing to the objective, or a value is out of
    /// range.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let names = settings.name.as_slice();
        let entries = names.iter().map(|n| find(n)).collect::<Result<Vec<_>, _>>()?;
        if entries.is_empty() {
            return Err("the objective has no name".into());
        }
        if let Some(single) = entries.iter().find(|e| !e.needs.pairs).filter(|_| entries.len() > 1) {
            return Err(format!("{} takes single answers and cannot be added to another loss", single.name));
        }
        for given in settings.given() {
            let mut takers = entries.iter().filter(|e| e.takes(given));
            let lacks = entries.iter().find(|e| !e.takes(given));
            match lacks {
                Some(e) if SHARED.contains(&given) || takers.next().is_none() => {
                    return Err(refusal(given, e));
                }
                _ => {}
            }
        }
        for (name, value) in settings.numbers() {
            if let Some(value) = value {
                check(name, value, &entries)?;
            }
        }
        let weights = settings.loss_weights.clone().unwrap_or_else(|| vec![1.0; entries.len()]);
        if weights.len() != entries.len() || weights.iter().any(|w| !w.is_finite()) {
            return Err(format!("{} names take {0} loss_weights, not {weights:?}", entries.len()));
        }
        let numbers = settings.numbers();
        let terms: Vec<Term> = entries
            .iter()
            .zip(&weights)
            .map(|(&entry, &weight)| Term { entry, weight, parameters: resolve(entry, &numbers) })
            .collect();
        let implied = terms.iter().map(|t| t.weight * t.entry.default_of("nll_weight").unwrap_or(0.0)).sum();
        let reference_free = settings.reference_free.unwrap_or(false);
        let divergence = settings.f_divergence_type.unwrap_or_default();
        if settings.f_alpha_divergence_coef.is_some() && divergence != Divergence::AlphaDivergence {
            return Err("f_alpha_divergence_coef belongs to f_divergence_type = \"alpha_divergence\"".into());
        }
        Ok(Self {
            terms,
            nll_weight: settings.nll_weight.unwrap_or(implied),
            nll_reduction: settings.nll_reduction.unwrap_or_default(),
            divergence,
            divergence_alpha: settings.f_alpha_divergence_coef.unwrap_or(0.5),
            ld_alpha: settings.ld_alpha,
            weighting: settings.use_weighting.unwrap_or(false),
            reference_free,
        })
    }

    /// What a trainer has to bring.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs { square_sums: self.weighting, ..Needs::default() };
        for term in &self.terms {
            let entry = &term.entry.needs;
            needs.reference |= entry.reference && !self.reference_free;
            needs.pairs |= entry.pairs;
            needs.prompt |= entry.prompt && self.nll_weight > 0.0;
            needs.mismatched |= entry.mismatched;
            needs.scores |= entry.scores;
            needs.probabilities |= entry.probabilities;
            needs.both_probabilities |= entry.both_probabilities;
            needs.margins |= entry.margins;
            needs.whole_batch |= matches!(term.entry.form, Form::Batch(_) | Form::Shifted(_))
                || (!entry.pairs && entry.whole_batch);
        }
        let nll = self.nll_weight > 0.0 || self.terms.iter().any(|t| matches!(t.entry.form, Form::Nll));
        needs.step_tokens = nll && self.nll_reduction == Reduction::Token;
        // WPO weighs that term by the batch's mean weight.
        needs.whole_batch |= needs.step_tokens && self.weighting;
        needs
    }

    /// The names, joined by `+`.
    pub fn name(&self) -> String {
        self.terms.iter().map(|t| t.entry.name).collect::<Vec<_>>().join("+")
    }
}

fn refusal(given: &str, entry: &Entry) -> String {
    let takes: Vec<&str> =
        entry.parameters.iter().map(|(name, _)| *name).chain(entry.options.iter().copied()).collect();
    let hint = match (entry.name, given) {
        ("sigmoid" | "rpo", "label_smoothing") => "; cdpo does (TRL ignores it for sigmoid)",
        _ => "",
    };
    format!("{} does not use {given}{hint}; it takes {}", entry.name, takes.join(", "))
}

fn resolve(entry: &Entry, numbers: &[(&'static str, Option<f64>)]) -> Parameters {
    let get = |name: &str| {
        let default = entry.default_of(name);
        let given = numbers.iter().find(|(n, _)| *n == name).and_then(|(_, value)| *value);
        default.map_or(0.0, |default| given.unwrap_or(default))
    };
    Parameters {
        beta: get("beta"),
        gamma: get("gamma"),
        alpha: get("alpha"),
        eta: get("eta"),
        tau: get("tau"),
        label_smoothing: get("label_smoothing"),
        desirable_weight: get("desirable_weight"),
        undesirable_weight: get("undesirable_weight"),
        length_exponent: get("length_exponent"),
        shift_decay: get("shift_decay"),
        centre: 0.0,
    }
}
