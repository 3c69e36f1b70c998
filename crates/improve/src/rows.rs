//! What the rows of a loop hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::TermName;

/// A paper that a policy wrote, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Of the prompt.
    pub prompt: String,
    /// Among the prompt's samples, from 0.
    pub index: usize,
    /// Hash of the policy's weights, or a server's reference.
    pub policy: String,
    /// Its seed.
    pub seed: u64,
    /// SHA-256 of the rendered prompt.
    pub prompt_sha256: String,
    /// The text in the layout of the published dialogue; absent where the model failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why there is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Parts that ran into their limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<String>,
    /// Bytes of the text up to where the first of these stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_at: Option<usize>,
    /// Parts that the model was to end by itself.
    pub parts: usize,
    /// New tokens; words where the server does not count.
    pub tokens: usize,
}

/// What a judge says of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Hash of the judge, or its reference.
    pub judge: String,
    /// Its mean score, in its own units; absent where it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Standard deviation over its reviewers; absent for one opinion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// Of its reviewers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// P(sample ≻ another of its prompt), for judges that compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub win_rate: Option<f64>,
    /// Mean log-odds against the prompt's samples, itself included as 0 (GPO's score), for judges that compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_odds: Option<f64>,
    /// Why it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What it wrote, for the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub review: Option<Value>,
}

/// What can be said of a sample without a judge.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// By name; what does not apply is absent.
    pub terms: BTreeMap<TermName, f64>,
    /// What is missing or wrong, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// Mean log(π/π₀) per token, in nats: the sample's share of KL(π ‖ π₀). Absent for a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_ratio: Option<f64>,
}

impl Checked {
    /// Nothing is missing or wrong.
    pub fn is_valid(&self) -> bool {
        self.faults.is_empty()
    }
}

/// How a judge that compares sees a sample among those of its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Mean probability of winning against the others.
    pub win_rate: f64,
    /// Mean log-odds against all, itself included as 0.
    pub log_odds: f64,
}

/// A sample's reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rewarded {
    /// The weighed sum; absent where the judge said nothing or it is no number.
    pub total: Option<f64>,
    /// By name.
    pub terms: BTreeMap<TermName, f64>,
    /// The judge's win rate and log-odds, where it compares and nothing else is weighed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
    /// Terms that keep it from being preferred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gated: Vec<TermName>,
}

/// Two samples of a prompt, the better one first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Of the prompt.
    pub prompt: String,
    /// Id of the better sample.
    pub chosen: String,
    /// Id of the worse sample.
    pub rejected: String,
    /// Difference of their rewards; 0 where an open one is rejected.
    pub difference: f64,
    /// The worse one ran into a limit: it is rejected up to there, and no end of it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// Both are the beginnings of papers: neither has an end to learn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_end: bool,
    /// Mean log-odds of the better one against the prompt's samples, its own included as 0 (GPO's score).
    pub score_chosen: f64,
    /// Of the worse one.
    pub score_rejected: f64,
    /// Mean probability of the better one against the prompt's samples (DNO, SPPO).
    pub p_chosen: f64,
    /// Of the worse one.
    pub p_rejected: f64,
    /// The iteration whose samples these are, where it is an earlier one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_from: Option<usize>,
}

/// What became of the pairs of an iteration, by count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PairCounts {
    /// Pairs of this iteration's samples.
    pub made: usize,
    /// Pairs of earlier ones.
    pub replayed: usize,
    /// Samples without a text.
    pub failed: usize,
    /// Samples without a score.
    pub unscored: usize,
    /// Samples that ran into a limit and are in no pair.
    #[serde(default)]
    pub cut: usize,
    /// Samples that a gate keeps from being preferred.
    pub gated: usize,
    /// Samples whose text another sample of the prompt has too.
    pub duplicates: usize,
    /// Candidates closer than the margin.
    pub close: usize,
    /// Candidates of too different lengths.
    pub lengths: usize,
    /// Prompts without a pair.
    pub prompts_without: usize,
    /// Mean tokens of the better ones over those of the worse ones.
    pub length_ratio: Option<f64>,
    /// Pairs made whose rejected paper ran into a limit.
    #[serde(default)]
    pub open: usize,
    /// What a doubling of the length adds to a reward among papers of one prompt, where that was taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_slope: Option<f64>,
}

/// A training's outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Hash of base and adapter, or of the folder.
    pub policy: String,
    /// Folder of the checkpoint; absent where nothing was trained.
    pub path: Option<String>,
    /// Hash of the policy it began with.
    pub parent: String,
    /// SHA-256 of its rows.
    pub rows_sha256: String,
    /// Rows.
    pub rows: usize,
    /// Its last line of metrics, without times.
    pub metrics: Value,
    /// What became of the samples.
    pub pairs: PairCounts,
}

/// A mean and its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean.
    pub mean: f64,
    /// Lower end; absent for one value.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Values.
    pub n: usize,
}

/// Figures of a policy on the held-out prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// First judge, over prompts.
    pub judge: Option<Interval>,
    /// Second judge.
    pub second: Option<Interval>,
    /// Change against the start, prompt by prompt.
    pub judge_gain: Option<Interval>,
    /// The same of the second judge.
    pub second_gain: Option<Interval>,
    /// Standard deviation of the first judge's scores at the start.
    pub judge_sd: Option<f64>,
    /// Of the second's.
    pub second_sd: Option<f64>,
    /// Share of valid papers.
    pub validity: f64,
    /// Its change since the start, prompt by prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity_change: Option<Interval>,
    /// Share that the first judge would accept, where it says so.
    pub acceptance: Option<f64>,
    /// Mean tokens.
    pub tokens: f64,
    /// Distinct bigrams over all, of all texts together.
    pub distinct: f64,
    /// Mean BLEU-4 of a text against the others of its iteration.
    pub self_bleu: f64,
    /// KL(π ‖ π₀) in nats per token; absent for a server.
    pub kl: Option<f64>,
    /// Means of the terms.
    pub terms: BTreeMap<TermName, f64>,
    /// Samples without a text, and without a score of either judge.
    pub failed: usize,
    /// Samples without a score of the first judge.
    pub unscored: usize,
    /// Samples without a score of the second judge.
    pub second_unscored: usize,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The policy on held-out prompts.
    pub evaluation: Evaluation,
    /// Guards that were set off, in words; an accepted policy has none.
    pub alarms: Vec<String>,
    /// Hash of the policy that is in force after this iteration.
    pub policy: String,
    /// True if this iteration's policy is that one.
    pub accepted: bool,
}

/// Tokens and seconds of a phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Prompt tokens that were computed.
    pub prompt_tokens: usize,
    /// Prompt tokens that were not, because another row had them.
    pub prompt_tokens_reused: usize,
    /// New tokens.
    pub generated_tokens: usize,
    /// Tokens trained on.
    #[serde(default)]
    pub trained_tokens: usize,
    /// Wall time.
    pub seconds: f64,
}
