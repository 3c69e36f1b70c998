//! Every objective, once.

use serde::Serialize;

use super::objective::Parameters;
use super::{Needs, Row, Slope, direct, policy_only, self_play, sides, transport, unpaired};

/// An objective as the table lists it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Entry {
    /// As recipes write it; TRL's spelling where TRL has it.
    pub name: &'static str,
    /// Other names of the same.
    pub aliases: &'static [&'static str],
    /// What it is kin to.
    pub family: &'static str,
    /// In one line; `l` summed log-probability of a completion, `h` = `l` − reference's, `n` tokens, `D` = `h_c` − `h_r`.
    pub formula: &'static str,
    /// What a trainer has to bring, with the defaults.
    pub needs: Needs,
    /// Divides by the answer's length.
    pub length_normalised: bool,
    /// Numbers and their defaults.
    pub parameters: &'static [(&'static str, f64)],
    /// What else may be set.
    pub options: &'static [&'static str],
    /// Paper, equation; code followed.
    pub source: &'static str,
    #[serde(skip)]
    pub(super) form: Form,
    #[serde(skip)]
    pub(super) reward: Reward,
}

/// How a loss is computed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// Pair by pair.
    Pair(fn(&Row, &Parameters) -> Slope),
    /// Pair by pair, rewards shifted by a running mean.
    Shifted(fn(&Row, &Parameters) -> Slope),
    /// All pairs at once.
    Batch(fn(&[Row], &Parameters) -> Vec<Slope>),
    /// Nothing but NLL.
    Nll,
    /// Row by row: log-ratio, label → value, d/d log-ratio.
    Labelled(fn(f64, bool, &Parameters) -> (f64, f64)),
}

/// What metrics call the reward, before β.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reward {
    /// Log-ratio.
    Ratio,
    /// Summed log-probability, transformed by α.
    Sum,
    /// Averaged log-probability, transformed by α.
    Average,
}

const NONE: Needs = Needs {
    reference: false,
    pairs: false,
    prompt: false,
    square_sums: false,
    mismatched: false,
    scores: false,
    probabilities: false,
    both_probabilities: false,
    margins: false,
    step_tokens: false,
    whole_batch: false,
};
const POLICY: Needs = Needs { pairs: true, ..NONE };
/// NLL by tokens is a mean over the batch's.
const POLICY_NLL: Needs = Needs { step_tokens: true, ..POLICY };
const REFERENCE: Needs = Needs { reference: true, ..POLICY };
const SCORES: Needs = Needs { scores: true, ..REFERENCE };
const PROBABILITIES: Needs = Needs { probabilities: true, both_probabilities: true, ..REFERENCE };
const REFERENCE_NLL: Needs = Needs { step_tokens: true, ..REFERENCE };
const BATCH: Needs = Needs { whole_batch: true, ..REFERENCE };
const SINGLE: Needs = Needs { reference: true, ..NONE };

/// Options of losses of D alone.
const DIRECT: &[&str] = &[
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "ld_alpha",
    "use_weighting",
    "reference_free",
    "nll_weight",
    "nll_reduction",
];
/// Options of losses of either log-ratio: a divergence's dropped constant would change them.
const SIDES: &[&str] = &["ld_alpha", "use_weighting", "reference_free", "nll_weight", "nll_reduction"];
/// Options of losses without reference, of self-play and of sorted batches.
const PLAIN: &[&str] = &["nll_weight", "nll_reduction"];
const SORTED: &[&str] = &["ld_alpha", "nll_weight", "nll_reduction"];

const BETA: (&str, f64) = ("beta", 0.1);
const NLL: (&str, f64) = ("nll_weight", 1.0);
const NO_SMOOTHING: (&str, f64) = ("label_smoothing", 0.0);

const fn entry(
    name: &'static str,
    family: &'static str,
    formula: &'static str,
    needs: Needs,
    parameters: &'static [(&'static str, f64)],
    options: &'static [&'static str],
    source: &'static str,
    form: Form,
) -> Entry {
    let reward = Reward::Ratio;
    let (aliases, length_normalised): (&[&str], bool) = (&[], false);
    Entry {
        name,
        aliases,
        family,
        formula,
        needs,
        length_normalised,
        parameters,
        options,
        source,
        form,
        reward,
    }
}

impl Entry {
    const fn also(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn normalised(self) -> Self {
        Self { length_normalised: true, ..self }
    }

    const fn rewarding(self, reward: Reward) -> Self {
        Self { reward, ..self }
    }

    /// Default of a number; none if the objective does not use it.
    pub fn default_of(&self, parameter: &str) -> Option<f64> {
        self.parameters.iter().find(|(name, _)| *name == parameter).map(|(_, default)| *default)
    }

    /// Whether a parameter or option means something here.
    pub fn takes(&self, parameter: &str) -> bool {
        self.default_of(parameter).is_some() || self.options.contains(&parameter)
    }
}

/// All objectives, by family.
pub fn table() -> &'static [Entry] {
    &TABLE
}

#[rustfmt::skip] // a table reads by rows
static TABLE: [Entry; 38] = [
    entry("sigmoid", "direct", "−log σ(βD)", REFERENCE, &[BETA], DIRECT,
        "DPO, 2305.18290 eq. 7; TRL ignores label_smoothing here", Form::Pair(direct::sigmoid)).also(&["dpo"]),
    entry("cdpo", "direct", "−(1−ε) log σ(βD) − ε log σ(−βD)", REFERENCE, &[BETA, ("label_smoothing", 0.1)], DIRECT,
        "conservative DPO, Mitchell 2023; uclaml/SPPO", Form::Pair(direct::cdpo)),
    entry("robust", "direct", "[−(1−ε) log σ(βD) + ε log σ(−βD)]/(1−2ε)", REFERENCE,
        &[BETA, ("label_smoothing", 0.1)], DIRECT, "2403.00409; TRL", Form::Pair(direct::robust)),
    entry("dpo_offset", "direct", "−log σ(βD − m), m of the pair", Needs { margins: true, ..REFERENCE }, &[BETA],
        DIRECT, "ODPO, 2402.10571", Form::Pair(direct::offset)).also(&["odpo"]),
    entry("hinge", "direct", "max(0, 1 − βD)", REFERENCE, &[BETA], DIRECT,
        "SLiC, 2305.10425; TRL", Form::Pair(direct::hinge)),
    entry("ipo", "direct", "(h_c/n_c − h_r/n_r − 1/(2β))²", REFERENCE, &[BETA], DIRECT,
        "2310.12036 eq. 17, averaged as TRL", Form::Pair(direct::ipo)).normalised(),
    entry("ipo_sum", "direct", "(D − 1/(2β))²", REFERENCE, &[BETA], DIRECT,
        "2310.12036 eq. 17 over sums; uclaml/SPPO", Form::Pair(direct::ipo_sum)),
    entry("sigmoid_norm", "direct", "−log σ(β(h_c/n_c − h_r/n_r))", REFERENCE, &[("beta", 2.0)], DIRECT,
        "2411.15124; TRL (its β default, .1, is 10–20 times too small here)",
        Form::Pair(direct::sigmoid_norm)).normalised(),
    entry("exo_pair", "direct", "KL(σ(βD) ‖ 1−ε)", REFERENCE, &[BETA, ("label_smoothing", 1e-3)], DIRECT,
        "2402.00856 eq. 16; TRL", Form::Pair(direct::exo_pair)),
    entry("discopop", "direct", "(1−m)(−log σ(x)) + m e⁻ˣ, x = βD, m = σ(x/τ)", REFERENCE, &[BETA, ("tau", 0.05)],
        DIRECT, "2406.08414 eq. 5; TRL", Form::Pair(direct::discopop)),
    entry("rpo", "direct", "−log σ(βD) + w NLL", REFERENCE_NLL, &[BETA, NLL], DIRECT,
        "2404.19733; TRL [sigmoid, sft]", Form::Pair(direct::sigmoid)),
    entry("mpo", "direct", "0.8 sigmoid + 0.2 bco_pair + w NLL", REFERENCE_NLL, &[BETA, NLL], SIDES,
        "2411.10442; weights of TRL's documentation", Form::Pair(direct::mpo)),
    entry("sft", "direct", "NLL of the chosen answers' tokens", POLICY_NLL, &[],
        &["f_divergence_type", "f_alpha_divergence_coef", "ld_alpha", "use_weighting", "reference_free",
          "nll_reduction"],
        "TRL, for sums with other losses", Form::Nll).rewarding(Reward::Sum),

    entry("nca_pair", "sides", "−log σ(βh_c) − ½ log σ(−βh_c) − ½ log σ(−βh_r)", REFERENCE, &[BETA], SIDES,
        "2402.05369; TRL", Form::Pair(sides::nca_pair)),
    entry("bco_pair", "sides", "−log σ(βh_c) − log σ(−βh_r)", REFERENCE, &[BETA], SIDES,
        "2404.04656 with δ = 0; TRL", Form::Pair(sides::bco_pair)),
    entry("bco_pair_delta", "sides", "−log σ(βh_c − δ) − log σ(−(βh_r − δ)), δ running mean of βh", BATCH,
        &[BETA, ("shift_decay", 0.9)], SIDES, "2404.04656; the decay is our choice",
        Form::Shifted(sides::bco_pair)),
    entry("apo_zero", "sides", "1 − σ(βh_c) + σ(βh_r)", REFERENCE, &[BETA], SIDES,
        "2408.06266 eq. 7; TRL", Form::Pair(sides::apo_zero)),
    entry("apo_down", "sides", "σ(βh_c) + 1 − σ(βD)", REFERENCE, &[BETA], SIDES,
        "2408.06266 eq. 8; TRL", Form::Pair(sides::apo_down)),
    entry("sppo_hard", "sides", "(h_c − 1/(2β))² + (h_r + 1/(2β))²", REFERENCE, &[BETA], SIDES,
        "2405.00675 eq. 4.7; TRL, whose sum is twice the authors' mean", Form::Pair(sides::sppo_hard)),

    entry("aot", "transport", "−log σ(β(sort(l_c−l_r) − sort(ref_c−ref_r)))", BATCH, &[BETA, NO_SMOOTHING], SORTED,
        "2406.05882; TRL", Form::Batch(transport::aot)),
    entry("aot_unpaired", "transport", "−log σ(β(sort(h_c) − sort(h_r)))", BATCH, &[BETA, NO_SMOOTHING], SORTED,
        "2406.05882; TRL", Form::Batch(transport::aot_unpaired)),

    entry("cpo", "policy_only", "−log σ(β(l_c − l_r)) + w NLL", POLICY_NLL,
        &[BETA, NO_SMOOTHING, ("alpha", 0.0), NLL], PLAIN, "2401.08417 eq. 3; TRL",
        Form::Pair(policy_only::cpo)).rewarding(Reward::Sum),
    entry("cpo_hinge", "policy_only", "max(0, 1 − β(l_c − l_r)) + w NLL", POLICY_NLL, &[BETA, ("alpha", 0.0), NLL],
        PLAIN, "TRL CPO, loss_type hinge", Form::Pair(policy_only::cpo_hinge)).rewarding(Reward::Sum),
    entry("cpo_ipo", "policy_only", "(l_c/n_c − l_r/n_r − 1/(2β))² + w NLL", POLICY_NLL,
        &[BETA, ("alpha", 0.0), NLL], PLAIN, "TRL CPO, loss_type ipo",
        Form::Pair(policy_only::cpo_ipo)).normalised().rewarding(Reward::Average),
    entry("cpo_simpo", "policy_only", "simpo + w NLL", POLICY_NLL,
        &[("beta", 2.0), ("gamma", 0.5), NO_SMOOTHING, ("alpha", 0.0), NLL], PLAIN,
        "TRL CPO, loss_type simpo with its cpo_alpha; CycleResearcher's form, 2411.00816",
        Form::Pair(policy_only::simpo)).normalised().rewarding(Reward::Average),
    entry("simpo", "policy_only", "−log σ(β(l_c/n_c − l_r/n_r) − γ)", POLICY,
        &[("beta", 2.0), ("gamma", 0.5), NO_SMOOTHING, ("alpha", 0.0)], PLAIN,
        "2405.14734; defaults of princeton-nlp/SimPO",
        Form::Pair(policy_only::simpo)).normalised().rewarding(Reward::Average),
    entry("alphapo", "policy_only", "−log σ(β(r_c − r_r) − γ), r = (1 − e^(−α l/n))/α", POLICY,
        &[("beta", 2.0), ("gamma", 0.5), NO_SMOOTHING, ("alpha", 0.25)], PLAIN, "2501.03884; TRL CPO",
        Form::Pair(policy_only::simpo)).normalised().rewarding(Reward::Average),
    entry("orpo", "policy_only", "−β log σ(log odds_c − log odds_r) + w NLL(prompt, chosen), odds of e^(l/n)",
        Needs { prompt: true, ..POLICY_NLL }, &[BETA, NLL], PLAIN, "2403.07691 eq. 4, 7; TRL (β is the paper's λ)",
        Form::Pair(policy_only::orpo)).normalised().rewarding(Reward::Average),

    entry("gpo", "self_play", "½[(h_c − s_c/β)² + (h_r − s_r/β)²]", SCORES, &[("beta", 1e-3)], PLAIN,
        "2410.02197 eq. 5.3 with log Z = 0", Form::Pair(self_play::gpo)),
    entry("ln_gpo", "self_play", "½[(h_c/n_cᵃ − s_c/β)² + (h_r/n_rᵃ − s_r/β)²]", SCORES,
        &[("beta", 1e-3), ("length_exponent", 1.0)], PLAIN, "2410.02197 App. E.2",
        Form::Pair(self_play::ln_gpo)).normalised(),
    entry("gpo_scaled", "self_play", "½[(βh_c − η(P_c − ½))² + (βh_r − η(P_r − ½))²]", PROBABILITIES,
        &[BETA, ("eta", 1.0)], PLAIN, "β² times sppo at η = 1", Form::Pair(self_play::gpo_scaled)),
    entry("sppo", "self_play", "½[(h_c − (P_c − ½)/β)² + (h_r − (P_r − ½)/β)²]", PROBABILITIES, &[("beta", 1e-3)],
        PLAIN, "2405.00675; uclaml/SPPO", Form::Pair(self_play::sppo)),
    entry("sppo_single", "self_play", "½[(h_c − (P − ½)/β)² + (h_r + (P − ½)/β)²], P = P(c ≻ r)",
        Needs { both_probabilities: false, ..PROBABILITIES },
        &[("beta", 1e-3)], PLAIN, "uclaml/SPPO", Form::Pair(self_play::sppo_single)),
    entry("dno", "self_play", "−σ(P_c−P_r) log σ(ηD) − σ(P_r−P_c) log σ(−ηD)", PROBABILITIES, &[("eta", 0.1)], PLAIN,
        "2404.03715 eq. 8", Form::Pair(self_play::dno)),
    entry("dno_prct", "self_play", "−log σ(ηD)", REFERENCE, &[("eta", 0.1)], PLAIN,
        "2404.03715 eq. 13", Form::Pair(self_play::dno_prct)),

    entry("kto", "unpaired", "w(1 − σ(±β(h − z))), z = max(0, mean log-ratio of mismatched rows)",
        Needs { mismatched: true, whole_batch: true, ..SINGLE },
        &[BETA, ("desirable_weight", 1.0), ("undesirable_weight", 1.0)], &[], "2402.01306 eq. 7; TRL",
        Form::Labelled(unpaired::kto)),
    entry("apo_zero_unpaired", "unpaired", "w(1 − σ(±βh))", SINGLE,
        &[BETA, ("desirable_weight", 1.0), ("undesirable_weight", 1.0)], &[], "2408.06266 eq. 7; TRL KTO",
        Form::Labelled(unpaired::kto)),
    entry("bco", "unpaired", "−w log σ(±(βh − δ)), δ running mean of βh", Needs { whole_batch: true, ..SINGLE },
        &[BETA, ("shift_decay", 0.9), ("desirable_weight", 1.0), ("undesirable_weight", 1.0)], &[],
        "2404.04656; δ includes the batch, as in TRL's former BCOTrainer; the decay is our choice",
        Form::Labelled(unpaired::bco)),
];
