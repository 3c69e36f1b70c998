//! From log-probabilities to loss, gradient and metrics.

use std::collections::BTreeMap;

use super::math::{exp, exp_m1, log_sigmoid, sigmoid};
use super::objective::{Objective, Parameters, Term};
use super::settings::{Divergence, Reduction};
use super::table::{Form, Reward};
use super::{Answer, Batch, Gradient, Labelled, Loss, Needs, Pair, Row, Side, Slope, State, policy_only};

impl Objective {
    /// The loss of a batch and its gradient with respect to every token's log-probability.
    ///
    /// # Errors
    /// If the batch is empty or of the wrong kind, or lacks something of [`Objective::needs`]; the message says what.
    pub fn evaluate(&self, batch: &Batch<'_>, state: &mut State) -> Result<Loss, String> {
        self.evaluate_part(batch, None, state)
    }

    /// The same for one of a step's micro-batches, whose mean (weighed by their rows) is then the step's loss: an NLL over
    /// tokens is divided by `tokens`, the micro-batch's share of the tokens that count in the step.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn evaluate_part(
        &self,
        batch: &Batch<'_>,
        tokens: Option<f64>,
        state: &mut State,
    ) -> Result<Loss, String> {
        let needs = self.needs();
        match *batch {
            Batch::Pairs(pairs) if needs.pairs => self.pairs(pairs, tokens, &needs, state),
            Batch::Labelled { rows, mismatched } if !needs.pairs => {
                self.labelled(rows, mismatched, &needs, state)
            }
            Batch::Pairs(_) => Err(format!("{} takes labelled rows, not pairs", self.name())),
            Batch::Labelled { .. } => Err(format!("{} takes pairs, not labelled rows", self.name())),
        }
    }

    fn pairs(
        &self,
        pairs: &[Pair],
        tokens: Option<f64>,
        needs: &Needs,
        state: &mut State,
    ) -> Result<Loss, String> {
        if pairs.is_empty() {
            return Err("the batch is empty".into());
        }
        for (i, pair) in pairs.iter().enumerate() {
            let missing = |what: &str| format!("{}: pair {} {what}", self.name(), i + 1);
            complete(&pair.chosen, needs).map_err(|e| missing(&format!("(chosen) {e}")))?;
            complete(&pair.rejected, needs).map_err(|e| missing(&format!("(rejected) {e}")))?;
            pair.targets.check(needs).map_err(|e| missing(&e))?;
        }
        let n = pairs.len() as f64;
        let (rows, slopes): (Vec<Row>, Vec<(f64, f64)>) = pairs.iter().map(|p| self.row(p, needs)).unzip();
        let weights: Vec<f64> = pairs
            .iter()
            .map(|p| if self.weighting { weight(&p.chosen) * weight(&p.rejected) } else { 1.0 })
            .collect();

        let mut loss = Loss::default();
        let mut total = vec![Slope::default(); pairs.len()];
        for term in &self.terms {
            let mut parameters = term.parameters;
            let losses: Vec<Slope> = match term.entry.form {
                Form::Pair(f) => rows.iter().map(|r| f(r, &parameters)).collect(),
                Form::Shifted(f) => {
                    let rewards = rows.iter().flat_map(|r| [r.chosen.ratio, r.rejected.ratio]);
                    parameters.centre = shift(rewards, &parameters, state);
                    loss.metrics.insert("delta".into(), parameters.centre);
                    rows.iter().map(|r| f(r, &parameters)).collect()
                }
                Form::Batch(f) => f(&rows, &parameters),
                Form::Nll | Form::Labelled(_) => continue,
            };
            for ((sum, one), w) in total.iter_mut().zip(losses).zip(&weights) {
                *sum = sum.plus(one.scaled(term.weight * w / n));
            }
        }
        loss.value = total.iter().map(|s| s.value).sum();
        let side = |pair: &Pair, chosen: bool, slope: f64| {
            let (answer, other) =
                if chosen { (&pair.chosen, &pair.rejected) } else { (&pair.rejected, &pair.chosen) };
            let shared = answer.policy.len().min(other.policy.len());
            let tail = self.ld_alpha.unwrap_or(1.0) * slope;
            let token = |t: usize| if t < shared { slope } else { tail };
            Gradient { policy: (0..answer.policy.len()).map(token).collect(), prompt: Vec::new() }
        };
        let each = || pairs.iter().zip(&total).zip(&slopes);
        loss.gradients = each()
            .map(|((p, s), u)| side(p, true, s.chosen * u.0))
            .chain(each().map(|((p, s), u)| side(p, false, s.rejected * u.1)))
            .collect();
        self.add_nll(pairs, &weights, tokens, needs, &mut loss);
        self.pair_metrics(&rows, &mut loss.metrics);
        Ok(loss)
    }

    /// What a loss sees of a pair, and du/dh of either side.
    fn row(&self, pair: &Pair, needs: &Needs) -> (Row, (f64, f64)) {
        let shared = pair.chosen.policy.len().min(pair.rejected.policy.len());
        let sum = |tokens: &[f64]| -> f64 {
            let (head, tail) = tokens.split_at(shared.min(tokens.len()));
            let tail: f64 = tail.iter().sum();
            head.iter().sum::<f64>() + self.ld_alpha.map_or(tail, |a| a * tail)
        };
        let side = |answer: &Answer| {
            let policy = sum(&answer.policy);
            let ratio = if needs.reference { policy - sum(&answer.reference) } else { policy };
            let (score, slope) = self.score(ratio);
            (Side { policy, tokens: answer.policy.len() as f64, ratio, score }, slope)
        };
        let ((chosen, du), (rejected, dv)) = (side(&pair.chosen), side(&pair.rejected));
        let t = &pair.targets;
        let two = |a: Option<f64>, b: Option<f64>| (a.unwrap_or(0.0), b.unwrap_or(0.0));
        let row = Row {
            chosen,
            rejected,
            scores: two(t.score_chosen, t.score_rejected),
            probabilities: two(t.p_chosen, t.p_rejected),
            margin: t.margin.unwrap_or(0.0),
        };
        (row, (du, dv))
    }

    /// u(h) and u'(h) of the f-divergence; a mean over tokens is taken after it, so that its constant counts.
    fn score(&self, h: f64) -> (f64, f64) {
        match self.divergence {
            Divergence::ReverseKl => (h, 1.0),
            Divergence::ForwardKl => (-exp_m1(-h), exp(-h)),
            Divergence::JsDivergence => (std::f64::consts::LN_2 + log_sigmoid(h), sigmoid(-h)),
            Divergence::AlphaDivergence => {
                let c = self.divergence_alpha - 1.0;
                if c.abs() < 1e-6 { (h, 1.0) } else { (exp_m1(c * h) / c, exp(c * h)) }
            }
        }
    }

    /// Adds −log π(chosen): of the table or the settings, and of the term `sft`, which alone WPO weighs.
    fn add_nll(&self, pairs: &[Pair], weights: &[f64], tokens: Option<f64>, needs: &Needs, loss: &mut Loss) {
        let is_sft = |t: &&Term| matches!(t.entry.form, Form::Nll);
        let sft: f64 = self.terms.iter().filter(is_sft).map(|t| t.weight).sum();
        let policy_only = self.terms.iter().all(|t| !t.entry.needs.reference);
        if sft == 0.0 && self.nll_weight == 0.0 {
            if policy_only {
                loss.metrics.insert("nll_loss".into(), 0.0);
            }
            return;
        }
        let n = pairs.len() as f64;
        let count =
            |p: &Pair| (p.chosen.policy.len() + if needs.prompt { p.chosen.prompt.len() } else { 0 }) as f64;
        let tokens: f64 = tokens.unwrap_or_else(|| pairs.iter().map(count).sum());
        let mean_weight = weights.iter().sum::<f64>() / n;
        let mut nll = 0.0;
        for ((pair, w), gradient) in pairs.iter().zip(weights).zip(&mut loss.gradients) {
            let (share, w) = match self.nll_reduction {
                Reduction::Token => (1.0 / tokens, mean_weight),
                Reduction::Sequence => (1.0 / (n * count(pair)), *w),
            };
            let mut sum: f64 = pair.chosen.policy.iter().sum();
            let slope = -(self.nll_weight + sft * w) * share;
            for g in &mut gradient.policy {
                *g += slope;
            }
            if needs.prompt {
                sum += pair.chosen.prompt.iter().sum::<f64>();
                gradient.prompt = vec![slope; pair.chosen.prompt.len()];
            }
            nll -= share * sum;
            loss.value -= (self.nll_weight + sft * w) * share * sum;
        }
        loss.metrics.insert("nll_loss".into(), nll);
    }

    fn pair_metrics(&self, rows: &[Row], metrics: &mut BTreeMap<String, f64>) {
        // TRL's rewards are those of one β; of a sum of losses the first that has one speaks.
        let spoken = self.terms.iter().find(|t| !matches!(t.entry.form, Form::Nll));
        let kind = self.terms[0].entry.reward;
        let n = rows.len() as f64;
        let mean = |f: &dyn Fn(&Row) -> f64| rows.iter().map(f).sum::<f64>() / n;
        let logp = |s: &Side| if kind == Reward::Average { s.average() } else { s.policy };
        metrics.insert("logps/chosen".into(), mean(&|r| logp(&r.chosen)));
        metrics.insert("logps/rejected".into(), mean(&|r| logp(&r.rejected)));
        let Some(Term { entry, parameters: p, .. }) = spoken else { return };
        let scale = if entry.default_of("beta").is_some() { p.beta } else { p.eta };
        let reward = |s: &Side| match entry.reward {
            Reward::Ratio => scale * s.ratio,
            Reward::Sum => scale * policy_only::reward(s.policy, p.alpha).0,
            Reward::Average => scale * policy_only::reward(s.average(), p.alpha).0,
        };
        let (chosen, rejected) = (mean(&|r| reward(&r.chosen)), mean(&|r| reward(&r.rejected)));
        let right = mean(&|r| f64::from(u8::from(reward(&r.chosen) > reward(&r.rejected))));
        metrics.insert("rewards/chosen".into(), chosen);
        metrics.insert("rewards/rejected".into(), rejected);
        metrics.insert("rewards/accuracies".into(), right);
        metrics.insert("rewards/margins".into(), mean(&|r| reward(&r.chosen) - reward(&r.rejected)));
        if entry.name == "orpo" {
            // TRL names them so: the "ratio" is the log-sigmoid, "chosen" the log odds ratio.
            metrics.insert("log_odds_ratio".into(), mean(&|r| log_sigmoid(policy_only::log_odds_ratio(r))));
            metrics.insert("log_odds_chosen".into(), mean(&policy_only::log_odds_ratio));
        }
    }

    fn labelled(
        &self,
        rows: &[Labelled],
        mismatched: &[(f64, f64)],
        needs: &Needs,
        state: &mut State,
    ) -> Result<Loss, String> {
        let Some(Term { entry, parameters, .. }) = self.terms.first() else {
            return Err("the objective has no name".into());
        };
        let Form::Labelled(f) = entry.form else {
            return Err(format!("{} takes pairs, not labelled rows", entry.name));
        };
        if rows.is_empty() {
            return Err("the batch is empty".into());
        }
        for (i, row) in rows.iter().enumerate() {
            complete(&row.answer, needs).map_err(|e| format!("{}: row {} {e}", entry.name, i + 1))?;
        }
        let mut loss = Loss::default();
        let mut p = *parameters;
        let policy: Vec<f64> = rows.iter().map(|r| r.answer.policy.iter().sum()).collect();
        let ratios: Vec<f64> =
            rows.iter().zip(&policy).map(|(r, l)| l - r.answer.reference.iter().sum::<f64>()).collect();
        if needs.mismatched {
            if mismatched.is_empty() {
                return Err(format!(
                    "{}: no mismatched rows for z; a batch needs at least 2 prompts",
                    entry.name
                ));
            }
            let sum: f64 = mismatched.iter().map(|(policy, reference)| policy - reference).sum();
            p.centre = (sum / mismatched.len() as f64).max(0.0);
            loss.metrics.insert("kl".into(), p.centre);
        } else if entry.default_of("shift_decay").is_some() {
            p.centre = shift(ratios.iter().copied(), &p, state);
            loss.metrics.insert("delta".into(), p.centre);
        }
        let n = rows.len() as f64;
        for (row, ratio) in rows.iter().zip(&ratios) {
            let weight = if row.desirable { p.desirable_weight } else { p.undesirable_weight } / n;
            let (value, slope) = f(*ratio, row.desirable, &p);
            loss.value += weight * value;
            let policy = vec![weight * slope; row.answer.policy.len()];
            loss.gradients.push(Gradient { policy, prompt: Vec::new() });
        }
        for (name, desirable) in [("chosen", true), ("rejected", false)] {
            let of: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].desirable == desirable).collect();
            if !of.is_empty() {
                let mean = |x: &[f64]| of.iter().map(|&i| x[i]).sum::<f64>() / of.len() as f64;
                loss.metrics.insert(format!("rewards/{name}"), p.beta * mean(&ratios));
                loss.metrics.insert(format!("logps/{name}"), mean(&policy));
            }
        }
        if let (Some(c), Some(r)) = (loss.metrics.get("rewards/chosen"), loss.metrics.get("rewards/rejected"))
        {
            let margin = c - r;
            loss.metrics.insert("rewards/margins".into(), margin);
        }
        Ok(loss)
    }
}

/// Whether an answer has what is needed.
fn complete(answer: &Answer, needs: &Needs) -> Result<(), String> {
    let n = answer.policy.len();
    let of = |what: &str, len: usize| {
        if len == n { Ok(()) } else { Err(format!("has {len} {what} for {n} tokens")) }
    };
    if n == 0 {
        return Err("has no completion tokens".into());
    }
    if needs.reference {
        of("reference log-probabilities", answer.reference.len())?;
    }
    if needs.square_sums {
        of("square_sums", answer.square_sums.len())?;
    }
    Ok(())
}

/// exp(mean_t(log p_t − log Σ_v p(v)²)), taken as a constant (WPO, 2406.11827 eq. 2).
fn weight(answer: &Answer) -> f64 {
    let sum: f64 = answer.policy.iter().zip(&answer.square_sums).map(|(l, s)| l - s).sum();
    exp(sum / answer.policy.len() as f64)
}

/// The running mean of rewards βh, this batch included; a constant for the gradient.
fn shift(ratios: impl Iterator<Item = f64>, p: &Parameters, state: &mut State) -> f64 {
    let (count, sum) = ratios.fold((0.0, 0.0), |(n, sum), h| (n + 1.0, sum + p.beta * h));
    let mean = sum / count;
    let shift = state.shift.map_or(mean, |old| p.shift_decay * old + (1.0 - p.shift_decay) * mean);
    state.shift = Some(shift);
    shift
}
