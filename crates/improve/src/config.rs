//! A loop as TOML: what is sampled, who judges, how pairs are made, when it stops. Unknown keys are refused.

use std::path::PathBuf;

use research::Stage;
use serde::{Deserialize, Serialize};

use crate::error::ImproveError;
use crate::judge::{JudgeConfig, Reads};

/// A whole loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoopConfig {
    /// The policy at the start: `builtin:NAME`, `small:NAME`, a folder or a GGUF file, either with `+ADAPTER_DIR`.
    pub model: String,
    /// Checkpoints, pairs and the report go here.
    pub out: PathBuf,
    /// Of everything that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// Rounds of sampling and training.
    #[serde(default = "defaults::iterations")]
    pub iterations: usize,
    /// What is written about.
    pub prompts: Prompts,
    /// How papers are drawn.
    #[serde(default)]
    pub sample: Sample,
    /// Its scores make the pairs.
    pub judge: JudgeConfig,
    /// Watches the first; never makes a pair.
    pub second_judge: JudgeConfig,
    /// From scores and checks to one number.
    #[serde(default)]
    pub reward: Reward,
    /// From rewards to pairs.
    #[serde(default)]
    pub pairs: Pairs,
    /// How the policy learns.
    pub train: Training,
    /// When the loop stops and goes back.
    #[serde(default)]
    pub guards: Guards,
}

/// Prompts for sampling, and others that nothing is trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// JSONL with `topic`, `references` (BibTeX) or both; `builtin:NAME` for those that ship.
    pub train: String,
    /// The same; no prompt may stand in both.
    pub held_out: String,
    /// Prompts of one iteration; all of them if absent. Iterations take turns.
    pub per_iteration: Option<usize>,
    /// The first so many held-out prompts alone; all of them if absent.
    pub held_out_limit: Option<usize>,
    /// Files of titles that no prompt may have, one a line, or `.jsonl` and `.csv` with a column `title`. The titles of
    /// the public test set are refused in any case.
    #[serde(default)]
    pub avoid: Vec<PathBuf>,
}

/// How papers are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sample {
    /// Which part of a paper.
    pub stage: Stage,
    /// K papers for every prompt.
    pub per_prompt: usize,
    /// Papers for every held-out prompt.
    pub held_out_per_prompt: usize,
    /// Of these the one that the first judge likes best counts; 1 takes all.
    pub best_of: usize,
    /// Prompts in one batch.
    pub batch: usize,
    /// Divides the logits.
    pub temperature: f64,
    /// Keeps the smallest set of this probability.
    pub top_p: f64,
    /// Divides the logits of tokens already seen; 1 is off, and keeps samples those of the policy.
    pub repetition_penalty: f64,
    /// Most tokens of a paper; the model's context decides if absent.
    pub max_tokens: Option<usize>,
    /// Draws from a server instead, `http(s)://HOST/v1#NAME`; `{policy}` in NAME becomes `start`, `iteration-1`, …
    pub server: Option<String>,
    /// Seconds for which a server that does not answer is asked again.
    pub patience: u64,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            stage: Stage::Opening,
            per_prompt: 4,
            held_out_per_prompt: 2,
            best_of: 1,
            batch: 8,
            temperature: 0.8,
            top_p: 0.95,
            repetition_penalty: 1.0,
            max_tokens: None,
            server: None,
            patience: 300,
        }
    }
}

/// A quantity that a sample is rewarded for or held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TermName {
    /// The judge's mean score.
    Mean,
    /// The standard deviation over its reviewers; weigh it below 0 for "mean − k·std".
    Std,
    /// The worst reviewer's score.
    Min,
    /// How probably it beats another sample of its prompt (a GPM or BT judge).
    WinRate,
    /// Share of what the stage should hold.
    Complete,
    /// Share of the parts that the model ended by itself.
    Finished,
    /// Share of the citations that resolve; absent where there is none.
    Citations,
    /// Share of the decimal numbers that are roundings of numbers in the results or the first half; absent where there
    /// are no results (only a second half has them) or no decimal number.
    Numbers,
    /// 1 − the share of 4-grams that occurred before in the text.
    Distinct,
    /// Log-probability per token under the model at the start, in nats (0 is certain).
    Fluency,
    /// Tokens, in hundreds.
    Length,
}

/// One term of the reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// What.
    pub name: TermName,
    /// Its weight in the sum; 0 only logs it.
    #[serde(default)]
    pub weight: f64,
    /// A sample below this is never preferred.
    pub at_least: Option<f64>,
    /// A sample above this is never preferred.
    pub at_most: Option<f64>,
}

/// The sum of weighed terms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reward {
    /// Its terms.
    pub terms: Vec<Term>,
}

impl Default for Reward {
    fn default() -> Self {
        let gate = |name, least| Term { name, weight: 0.0, at_least: Some(least), at_most: None };
        let mean = Term { name: TermName::Mean, weight: 1.0, at_least: None, at_most: None };
        Self {
            terms: vec![
                mean,
                gate(TermName::Complete, 1.0),
                gate(TermName::Finished, 1.0),
                gate(TermName::Citations, 1.0),
                gate(TermName::Numbers, 1.0),
                gate(TermName::Distinct, 0.8),
            ],
        }
    }
}

/// Which samples are set against each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairRule {
    /// The best and the worst of a prompt (CycleResearcher).
    #[default]
    BestWorst,
    /// All whose rewards differ by more than the margin.
    Margin,
    /// DNO-Prct (2404.03715, Algorithm 2): ranked by win rate, the first against those that are far enough below.
    Dno,
    /// Every sample once, best with worst, second with second to last, …: GPO learns both scores of a pair. The middle one
    /// of an odd number, whose score is nearest to none, is left out.
    Every,
}

/// What becomes of samples that ran into a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cut {
    /// They are in no pair. Their last sentence is gone, so what is left ends where the policy did not end it: to reject
    /// it is to teach that one does not end there.
    #[default]
    LeaveOut,
    /// The best of the prompt is preferred to one of them, which is rejected as far as it was written, without an end: that
    /// teaches not to run on, and says nothing against ending. One more pair for a prompt, whatever the rule.
    Open,
    /// They stand with the others, behind a gate on `finished` if there is one.
    Reject,
}

/// How much of a paper is drawn for pairs and learned from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Learn {
    /// All of it, and that it ends there.
    #[default]
    Whole,
    /// Up to the end of the abstract, with no end behind it: what a judge of title and abstract reads, and what leads to it.
    /// A score says nothing about the rest, which in a first half is two thirds of the tokens: credit given to it is noise.
    /// Nor is the rest drawn where a form leads the policy. Terms of the reward are those of this part; held-out papers are
    /// whole.
    Judged,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// From rewards to pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pairs {
    /// Which.
    pub rule: PairRule,
    /// Samples that ran into a limit.
    pub cut: Cut,
    /// How much of a paper. Left out of a loop's record where it is the default, as in loops from before there was a choice.
    #[serde(skip_serializing_if = "is_default")]
    pub learn: Learn,
    /// Least difference of rewards (of win rates for `dno`, of log-odds where the reward is a comparing judge's alone).
    pub margin: f64,
    /// … and their rewards differ by at least so many of the judge's own standard deviations over repeated reviews. Equal
    /// rewards are never a pair, but for `every`, which learns their scores.
    pub noise: f64,
    /// Repeated reviews of a few samples, which that deviation is measured with.
    pub repeats: usize,
    /// Takes out of the rewards what the logarithm of the tokens explains among papers of one prompt, before they are
    /// compared: else a judge with a taste for long texts, or for words of many tokens, teaches length before all.
    pub length_neutral: bool,
    /// Pairs of which one text is longer than the other by more than this factor are left out; 0 does not look.
    pub length_ratio: f64,
    /// Most pairs of a prompt.
    pub per_prompt: usize,
    /// Pairs of the iteration before, of the one before that, …, as shares of the new ones.
    pub replay: Vec<f64>,
    /// Divides differences of rewards where a probability of winning is needed; the rewards' own deviation if absent,
    /// 1 for log-odds.
    pub scale: Option<f64>,
}

impl Default for Pairs {
    fn default() -> Self {
        Self {
            rule: PairRule::BestWorst,
            cut: Cut::LeaveOut,
            learn: Learn::Whole,
            margin: 0.0,
            noise: 1.0,
            repeats: 0,
            length_neutral: true,
            length_ratio: 1.5,
            per_prompt: 6,
            replay: Vec::new(),
            scale: None,
        }
    }
}

/// How the policy learns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// From pairs.
    #[default]
    Preference,
    /// From each prompt's best sample, supervised.
    Sft,
    /// Not at all: what best-of-K gives.
    None,
}

/// Who trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// This program.
    #[default]
    Local,
    /// TRL, where it is installed.
    Trl,
}

/// How the policy learns: a recipe of `cycle train` without model, data and output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// From what.
    #[serde(default)]
    pub method: Method,
    /// By whom.
    #[serde(default)]
    pub engine: Engine,
    /// Python with TRL, for `engine = "trl"`.
    pub python: Option<PathBuf>,
    /// Tokens of the longest row; longer ones are left out and counted.
    #[serde(default = "defaults::max_length")]
    pub max_length: usize,
    /// `f32` or `bf16`.
    #[serde(default)]
    pub dtype: training::Dtype,
    /// As in a recipe.
    #[serde(default)]
    pub objective: toml::Table,
    /// As in a recipe.
    pub lora: Option<toml::Table>,
    /// As in a recipe.
    pub degree: Option<toml::Table>,
    /// As in a recipe.
    #[serde(default)]
    pub optimizer: toml::Table,
    /// As in a recipe.
    pub save: Option<toml::Table>,
}

/// When the loop stops and goes back to the policy before. Comparisons are with the start, on held-out prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guards {
    /// Confidence of the intervals.
    pub confidence: f64,
    /// The first judge rose by this many of its standard deviations and the second judge's interval lies below this
    /// share of that: the gain is not confirmed.
    pub unconfirmed: f64,
    /// See `unconfirmed`.
    pub unconfirmed_share: f64,
    /// Mean length over that of the start, or under its inverse.
    pub length_ratio: f64,
    /// Distinct bigrams over those of the start, at least.
    pub distinct: f64,
    /// Self-BLEU, at most this much above that of the start.
    pub self_bleu: f64,
    /// Mean log-ratio to the start (an estimate of the KL divergence by the policy's own samples) in nats per token, at
    /// most.
    pub kl: f64,
    /// Share of valid papers: this much below that of the start is too little, where the interval of the fall is below 0.
    pub validity: f64,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            confidence: 0.95,
            unconfirmed: 1.0,
            unconfirmed_share: 0.1,
            length_ratio: 1.6,
            distinct: 0.7,
            self_bleu: 0.15,
            kl: 1.0,
            validity: 0.1,
        }
    }
}

mod defaults {
    pub(super) fn iterations() -> usize {
        3
    }
    pub(super) fn max_length() -> usize {
        2048
    }
}

impl LoopConfig {
    /// Reads a loop's TOML, with changes `key=value` over it.
    ///
    /// # Errors
    /// If a key is unknown (the nearest name is offered), or a value makes no sense.
    pub fn parse(text: &str, changes: &[String]) -> Result<Self, ImproveError> {
        let config: Self =
            training::read_toml(text, changes).map_err(|e| ImproveError::Config(e.to_string()))?;
        config.check().map_err(ImproveError::Config)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let s = &self.sample;
        let at_least = |name: &str, value: usize, least: usize| {
            if value < least { Err(format!("{name} is {value}; it is at least {least}")) } else { Ok(()) }
        };
        at_least("iterations", self.iterations, 1)?;
        at_least("sample.per_prompt", s.per_prompt, 2)?;
        at_least("sample.held_out_per_prompt", s.held_out_per_prompt, 1)?;
        at_least("sample.batch", s.batch, 1)?;
        at_least("sample.best_of", s.best_of, 1)?;
        if !s.held_out_per_prompt.is_multiple_of(s.best_of) {
            return Err(format!(
                "sample.held_out_per_prompt is {}, no multiple of best_of = {}",
                s.held_out_per_prompt, s.best_of
            ));
        }
        let fine = s.temperature > 0.0 && s.temperature.is_finite() && s.top_p > 0.0 && s.top_p <= 1.0;
        if !fine {
            return Err("sample.temperature is above 0 and sample.top_p in (0, 1]".into());
        }
        if let Some(server) = &s.server {
            if self.train.method != Method::None && !server.contains("{policy}") {
                return Err(format!(
                    "sample.server is {server}: without {{policy}} in its name what was trained would never be drawn from"
                ));
            }
            if self.reward.terms.iter().any(|t| t.name == TermName::Fluency) {
                return Err("the term fluency asks the start model for probabilities, which sample.server does not give".into());
            }
        }
        if !self.reward.terms.iter().any(|t| t.weight != 0.0) {
            return Err("no term of the reward has a weight: nothing would be learned".into());
        }
        let mut names: Vec<TermName> = self.reward.terms.iter().map(|t| t.name).collect();
        names.sort_unstable();
        if let Some(w) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(format!("the reward names {:?} twice", w[0]));
        }
        if self.judge == self.second_judge {
            return Err("judge and second_judge are the same: one could not watch the other".into());
        }
        if !(0.5..1.0).contains(&self.guards.confidence) {
            return Err("guards.confidence is in [0.5, 1)".into());
        }
        if self.pairs.replay.iter().any(|r| !(0.0..=1.0).contains(r)) {
            return Err("pairs.replay holds shares between 0 and 1".into());
        }
        if self.train.engine == Engine::Trl && self.train.lora.is_some() && self.iterations > 1 {
            let what = "train.engine = \"trl\" starts from new adapters alone: leave [train.lora] out, or set iterations = 1";
            return Err(what.into());
        }
        let judged = self.pairs.learn == Learn::Judged;
        if self.train.engine == Engine::Trl && (judged || self.pairs.cut == Cut::Open) {
            let set = if judged { "learn = \"judged\"" } else { "cut = \"open\"" };
            return Err(format!(
                "pairs.{set} needs train.engine = \"local\": TRL puts an end behind every answer"
            ));
        }
        let head = matches!(&self.judge, JudgeConfig::Model { reads: Reads::Abstract, .. });
        if judged && (!head || s.stage == Stage::SecondHalf) {
            return Err("pairs.learn = \"judged\" needs a judge that reads title and abstract alone, and a stage that has them".into());
        }
        if judged && self.train.method == Method::Sft {
            return Err("pairs.learn = \"judged\" needs train.method = \"preference\": supervised training learns whole papers".into());
        }
        self.recipe_of(&"model".into(), &"rows".into(), &"out".into(), None).map(|_| ())
    }

    /// The training of an iteration: from `model` (and its adapter so far) on these rows.
    ///
    /// # Errors
    /// If it is no recipe.
    pub fn recipe_of(
        &self,
        model: &PathBuf,
        rows: &PathBuf,
        out: &PathBuf,
        adapter: Option<&PathBuf>,
    ) -> Result<training::Recipe, String> {
        let t = &self.train;
        let mut table = toml::Table::new();
        let text = |p: &PathBuf| toml::Value::String(p.display().to_string());
        let kind = if t.method == Method::Sft { "sft" } else { "preference" };
        table.insert("kind".into(), kind.into());
        table.insert("model".into(), text(model));
        table.insert("out".into(), text(out));
        table.insert("seed".into(), toml::Value::Integer(self.seed as i64));
        let dtype = if t.dtype == training::Dtype::Bf16 { "bf16" } else { "f32" };
        table.insert("dtype".into(), dtype.into());
        let mut data = toml::Table::new();
        data.insert("train".into(), text(rows));
        data.insert("max_length".into(), toml::Value::Integer(t.max_length as i64));
        // TRL's commands know no other way with text.
        let overlong = if t.engine == Engine::Trl { "truncate" } else { "skip" };
        data.insert("overlong".into(), overlong.into());
        table.insert("data".into(), data.into());
        let mut objective = t.objective.clone();
        if t.method != Method::Sft && !objective.contains_key("name") {
            // CycleResearcher's: facts say SimPO with the winner's negative log-likelihood.
            objective.insert("name".into(), "simpo".into());
            objective.entry("nll_weight").or_insert(toml::Value::Float(0.1));
        }
        if t.method == Method::Sft {
            objective.clear();
        }
        table.insert("objective".into(), objective.into());
        if let Some(lora) = &t.lora {
            let mut lora = lora.clone();
            if let Some(adapter) = adapter {
                lora.insert("init".into(), text(adapter));
            }
            table.insert("lora".into(), lora.into());
        }
        if let Some(degree) = t.degree.as_ref().filter(|_| t.method == Method::Preference) {
            table.insert("degree".into(), degree.clone().into());
        }
        table.insert("optimizer".into(), t.optimizer.clone().into());
        if let Some(save) = &t.save {
            table.insert("save".into(), save.clone().into());
        }
        let text = toml::to_string(&table).map_err(|e| e.to_string())?;
        training::Recipe::parse(&text, &[]).map_err(|e| format!("train: {e}"))
    }
}
