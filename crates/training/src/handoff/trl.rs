//! TRL's command line: `trl sft|dpo|kto|reward --config FILE --accelerate_config FILE`. Checked against TRL 1.16.

use serde_json::{Value, json};

use super::rows::{self, Form};
use super::{
    HandoffError, Hardware, Job, Loss, Method, Plan, Precision, Reduction, Sharding, Source, Written,
    accelerate, yaml,
};
use crate::recipe::{LossOn, Overlong, Scheduler};

/// Losses of pairs that `trl dpo` has.
const DPO: [&str; 14] = [
    "sigmoid",
    "hinge",
    "ipo",
    "sigmoid_norm",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
];
/// Losses of single answers that `trl kto` has.
const KTO: [&str; 2] = ["kto", "apo_zero_unpaired"];
/// Losses with a trainer class in `trl.experimental`, but no command.
const CLASSES: [(&str, &str); 5] = [
    ("cpo", "CPOTrainer"),
    ("simpo", "CPOTrainer"),
    ("cpo_simpo", "CPOTrainer"),
    ("alphapo", "CPOTrainer"),
    ("orpo", "ORPOTrainer"),
];

/// The subcommand of a job, with the arguments of its loss.
fn loss(job: &Job) -> Result<(&'static str, Vec<(&'static str, Value)>), HandoffError> {
    let o = &job.loss;
    match job.method {
        Method::Sft => Ok(("sft", vec![])),
        Method::Reward => reward(o),
        Method::Preference if KTO.contains(&o.name.as_str()) => kto(o),
        Method::Preference => dpo(o),
    }
}

fn reward(o: &Loss) -> Result<(&'static str, Vec<(&'static str, Value)>), HandoffError> {
    if o.name != "bt" || o.tau.is_some_and(|t| t != 1.0) {
        return Err(HandoffError::unsupported(
            format!("TRL 1.16 has no reward model {:?} with these values", o.name),
            "its reward command trains bt with tau = 1; --engine local has the others",
        ));
    }
    Ok((
        "reward",
        o.center_rewards_coefficient.map(|c| ("center_rewards_coefficient", json!(c))).into_iter().collect(),
    ))
}

fn kto(o: &Loss) -> Result<(&'static str, Vec<(&'static str, Value)>), HandoffError> {
    if o.nll_weight != 0.0 || o.label_smoothing != 0.0 {
        return Err(HandoffError::unsupported(
            "TRL 1.16's kto command has neither nll_weight nor label_smoothing",
            "leave them at 0, or use --engine local",
        ));
    }
    let mut out = vec![
        ("loss_type", json!(o.name)),
        ("desirable_weight", json!(o.desirable_weight)),
        ("undesirable_weight", json!(o.undesirable_weight)),
    ];
    out.extend(o.beta.map(|b| ("beta", json!(b))));
    Ok(("kto", out))
}

fn dpo(o: &Loss) -> Result<(&'static str, Vec<(&'static str, Value)>), HandoffError> {
    let (mut names, mut weights): (Vec<&str>, Vec<f64>) = match o.name.as_str() {
        "dpo" => (vec!["sigmoid"], vec![1.0]),
        "rpo" => (vec!["sigmoid", "sft"], vec![1.0, if o.nll_weight == 0.0 { 1.0 } else { o.nll_weight }]),
        "mpo" => (vec!["sigmoid", "bco_pair", "sft"], vec![0.8, 0.2, 1.0]),
        name => match DPO.iter().find(|n| **n == name) {
            Some(name) => (vec![name], vec![1.0]),
            None => return Err(unknown(name)),
        },
    };
    let smooths = ["robust", "exo_pair"].contains(&names[0]);
    if o.label_smoothing != 0.0 && !smooths {
        return Err(HandoffError::unsupported(
            format!("TRL 1.16 ignores label_smoothing with {}", o.name),
            "robust and exo_pair use it; --engine openrlhf has cdpo, --engine local all",
        ));
    }
    if o.nll_weight != 0.0 && !names.contains(&"sft") {
        names.push("sft");
        weights.push(o.nll_weight);
    }
    if names.contains(&"sft") && o.nll_reduction == Reduction::Sequence {
        return Err(HandoffError::unsupported(
            "TRL 1.16 averages the NLL over the tokens of a batch, not per answer",
            "set nll_reduction = \"token\", or use --engine local",
        ));
    }
    let mut out = vec![("loss_type", json!(names))];
    if weights.len() > 1 {
        out.push(("loss_weights", json!(weights)));
    }
    out.extend(o.beta.map(|b| ("beta", json!(b))));
    if smooths {
        out.push(("label_smoothing", json!(o.label_smoothing)));
    }
    if names[0] == "discopop" {
        out.extend(o.tau.map(|t| ("discopop_tau", json!(t))));
    }
    out.extend(o.ld_alpha.map(|a| ("ld_alpha", json!(a))));
    if o.use_weighting {
        out.push(("use_weighting", json!(true)));
    }
    out.extend(o.f_divergence_type.as_ref().map(|f| ("f_divergence_type", json!(f))));
    Ok(("dpo", out))
}

fn unknown(name: &str) -> HandoffError {
    let what = match CLASSES.iter().find(|(n, _)| *n == name) {
        Some((_, class)) => {
            format!("TRL 1.16 has {name} as a Python class ({class}) alone, without a command")
        }
        None => format!("TRL 1.16 has no objective {name:?}"),
    };
    let remedy = format!(
        "its dpo command has {}; its kto command {}; --engine local has all",
        DPO.join(", "),
        KTO.join(", ")
    );
    HandoffError::unsupported(what, remedy)
}

/// Everything but the rows, which [`rows`] has written.
///
/// # Errors
/// If TRL's command line cannot do what the job says.
pub fn plan(job: &Job, written: &[Written]) -> Result<Plan, HandoffError> {
    let (command, losses) = loss(job)?;
    let (micro, accumulation) = job.share()?;
    let o = &job.optimizer;
    if let (Some(reference), Method::Preference) = (&job.reference_model, job.method) {
        if *reference != job.model {
            return Err(HandoffError::unsupported(
                "TRL 1.16's commands take no reference model: theirs is the model at the start",
                "leave reference_model out, or use --engine openrlhf or local",
            ));
        }
    }
    let mut pairs: Vec<(&str, Value)> = vec![
        ("model_name_or_path", json!(job.model)),
        ("dtype", json!(if job.precision == Precision::Float32 { "float32" } else { "bfloat16" })),
        ("dataset_name", json!(job.data(""))),
        ("output_dir", json!(job.trained())),
        ("seed", json!(job.seed)),
        ("max_length", json!(job.max_length)),
        ("train_sampling_strategy", json!(if job.shuffle { "random" } else { "sequential" })),
    ];
    // Else prompt and completion count as the recipe says, and rows of ids have labels.
    if command == "sft"
        && job.loss.loss_on == LossOn::All
        && written.iter().any(|w| w.form == Form::Completion)
    {
        pairs.push(("completion_only_loss", json!(false)));
    }
    pairs.extend(losses);
    pairs.extend([
        ("learning_rate", json!(o.learning_rate)),
        ("adam_beta1", json!(o.adam_beta1)),
        ("adam_beta2", json!(o.adam_beta2)),
        ("adam_epsilon", json!(o.adam_epsilon)),
        ("weight_decay", json!(o.weight_decay)),
        ("max_grad_norm", json!(o.max_grad_norm)),
        ("lr_scheduler_type", json!(scheduler(o.lr_scheduler_type))),
        ("warmup_steps", json!(o.warmup_steps)),
    ]);
    match o.max_steps {
        Some(steps) => pairs.push(("max_steps", json!(steps))),
        None => pairs.push(("num_train_epochs", json!(o.num_train_epochs.unwrap_or(1.0)))),
    }
    pairs.extend([
        ("per_device_train_batch_size", json!(micro)),
        ("gradient_accumulation_steps", json!(accumulation)),
        ("save_strategy", json!("steps")),
        ("save_steps", json!(job.save.every.max(1))),
        ("save_total_limit", json!(job.save.keep.max(1))),
        ("logging_steps", json!(1)),
        ("report_to", json!("none")),
        ("disable_tqdm", json!(true)),
        ("bf16", json!(job.precision == Precision::Bfloat16)),
        ("use_cpu", json!(job.hardware == Hardware::Cpu)),
    ]);
    pairs.extend(adapters(job)?);
    if let (true, Some(newest)) = (job.resume, job.newest_checkpoint()) {
        pairs.push(("resume_from_checkpoint", json!(newest)));
    }
    if written.len() > 1 {
        pairs.extend([
            ("eval_strategy", json!("steps")),
            ("eval_steps", json!(job.save.every.max(1))),
            ("per_device_eval_batch_size", json!(micro)),
        ]);
    }
    let text = yaml::text(&format!("For `trl {command} --config`; names as TRL 1.16 has them."), &pairs);
    let accelerate = accelerate::config(job)?;
    let at = |name: &str| job.folder().join(name).display().to_string();
    let words = ["trl", command, "--config", &at("trl.yaml"), "--accelerate_config", &at("accelerate.yaml")];
    Ok(Plan {
        engine: "TRL",
        folder: job.folder(),
        files: vec![("trl.yaml".into(), text), ("accelerate.yaml".into(), accelerate)],
        command: words.map(String::from).to_vec(),
        environment: environment(job),
        notes: notes(job, written),
    })
}

fn scheduler(kind: Scheduler) -> &'static str {
    match kind {
        Scheduler::Cosine => "cosine",
        Scheduler::Linear => "linear",
        Scheduler::Constant => "constant",
        Scheduler::ConstantWithWarmup => "constant_with_warmup",
    }
}

fn adapters(job: &Job) -> Result<Vec<(&'static str, Value)>, HandoffError> {
    let Some(lora) = &job.lora else { return Ok(vec![]) };
    if let Some(init) = &lora.init {
        return Err(HandoffError::unsupported(
            format!("TRL's commands start from new adapters, not from {}", init.display()),
            "merge it into the model first (`cycle models merge`), or use --engine local",
        ));
    }
    if lora.lora_alpha.fract() != 0.0 {
        return Err(HandoffError::unsupported(
            format!("TRL's lora_alpha is a whole number, not {}", lora.lora_alpha),
            "choose another r, or use --engine local",
        ));
    }
    let task = if job.method == Method::Reward { "SEQ_CLS" } else { "CAUSAL_LM" };
    Ok(vec![
        ("use_peft", json!(true)),
        ("lora_r", json!(lora.r)),
        ("lora_alpha", json!(lora.lora_alpha as u64)),
        ("lora_dropout", json!(0.0)),
        ("use_rslora", json!(lora.use_rslora)),
        ("lora_target_modules", json!(lora.target_modules)),
        ("lora_task_type", json!(task)),
    ])
}

/// Nothing is fetched or reported; on the CPU no GPU is looked for.
fn environment(job: &Job) -> Vec<(String, String)> {
    let cache = job.folder().join("cache").display().to_string();
    let mut out = vec![
        ("HF_HUB_OFFLINE", "1".into()),
        ("HF_HUB_DISABLE_TELEMETRY", "1".into()),
        ("HF_DATASETS_CACHE", cache),
        ("TOKENIZERS_PARALLELISM", "false".into()),
    ];
    if job.hardware == Hardware::Cpu {
        out.push(("CUDA_VISIBLE_DEVICES", String::new()));
    }
    out.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

fn notes(job: &Job, written: &[Written]) -> Vec<String> {
    let mut out = Vec::new();
    if job.shuffle {
        out.push("the order of rows is TRL's own for this seed".into());
    }
    if written.iter().any(|w| matches!(w.form, Form::Completion | Form::Text | Form::Pair | Form::Labelled)) {
        out.push("TRL reads prompt and answer as one text: a token may reach across the seam".into());
    }
    if written.iter().any(|w| w.form == Form::Messages) {
        out.push("TRL counts a line break that the chat template puts after a turn; cycle does not".into());
    }
    if job.method == Method::Reward {
        out.push("the reward head starts from TRL's random numbers, if the model has none".into());
    }
    if let Hardware::Gpus { machines, sharding, .. } = &job.hardware {
        if *machines > 1 {
            out.push(format!("start it on each of the {machines} machines, with --machine_rank 0, 1, …"));
        }
        if matches!(sharding, Sharding::Zero2 | Sharding::Zero3) {
            out.push("DeepSpeed has to be installed there".into());
        }
    }
    out
}

/// Writes the rows: `data/train.jsonl`, and `data/test.jsonl` where some are held out. Before [`plan`].
///
/// # Errors
/// If a row is not what TRL's command reads, or a file cannot be written.
pub fn rows(
    job: &Job,
    train: Source<'_>,
    held_out: Option<Source<'_>>,
) -> Result<Vec<Written>, HandoffError> {
    let (command, _) = loss(job)?;
    job.clear()?;
    let mut written =
        vec![rows::write(job, train, "train.jsonl", &mut |form, row| turn(job, command, form, row))?];
    if let Some(source) = held_out {
        written.push(rows::write(job, source, "test.jsonl", &mut |form, row| turn(job, command, form, row))?);
    }
    for one in &written {
        limits(job, command, one.form)?;
    }
    Ok(written)
}

/// What of `overlong` TRL can do with text: it cuts, and its reward command leaves out.
fn limits(job: &Job, command: &str, form: Form) -> Result<(), HandoffError> {
    let does = if command == "reward" { Overlong::Skip } else { Overlong::Truncate };
    if matches!(form, Form::Ids | Form::PairIds) || job.overlong == does {
        return Ok(());
    }
    let word = if does == Overlong::Skip { "skip" } else { "truncate" };
    Err(HandoffError::unsupported(
        format!("TRL's {command} command does one thing with text longer than max_length: {word}"),
        format!("set overlong = \"{word}\", or give rows of ids"),
    ))
}

/// A row in the form the command reads.
fn turn(job: &Job, command: &str, form: Form, row: Value) -> Result<Vec<Value>, String> {
    let all = job.loss.loss_on == LossOn::All;
    if command == "reward" {
        rows::hard_label(&row)?;
    }
    Ok(match (command, form) {
        ("sft", Form::Ids) => vec![rows::with_labels(&row, job.loss.loss_on)?],
        ("sft", Form::Completion) => vec![rows::only(&row, &["prompt", "completion"])],
        ("sft", Form::Text) => vec![rows::only(&row, &["text"])],
        ("sft", Form::Messages) if all => vec![rows::only(&row, &["messages"])],
        ("sft", Form::Messages) => match rows::last_turn(&row) {
            Some((prompt, answer)) => vec![json!({"prompt": prompt, "completion": [answer]})],
            None => {
                return Err("has several turns of the assistant, of which TRL would train the last alone; have the rows \
                            read into ids, or set loss_on = \"all\""
                    .into());
            }
        },
        ("dpo", Form::Pair) => vec![rows::only(&row, &["prompt", "chosen", "rejected"])],
        ("dpo" | "kto", Form::PairIds | Form::Ids) => {
            return Err(format!("TRL's {command} command reads text or messages alone, no ids"));
        }
        ("kto", Form::Labelled) => vec![rows::only(&row, &["prompt", "completion", "label"])],
        // TRL would put all chosen answers first, and a batch needs both kinds.
        ("kto", Form::Pair) if row.get("prompt").is_some() => [("chosen", true), ("rejected", false)]
            .map(|(key, good)| json!({"prompt": row["prompt"], "completion": row[key], "label": good}))
            .to_vec(),
        ("reward", Form::Pair) => vec![rows::only(&row, &["prompt", "chosen", "rejected", "margin"])],
        ("reward", Form::PairIds) => {
            let whole = |key: &str| -> Result<Vec<u32>, String> {
                let list = |key: &str| {
                    serde_json::from_value::<Vec<u32>>(row.get(key).cloned().unwrap_or(json!([])))
                };
                let no = |_| format!("{key} is no list of ids");
                let mut ids = list("prompt_ids").map_err(no)?;
                ids.extend(list(key).map_err(no)?);
                Ok(ids)
            };
            let mut out = json!({"chosen_ids": whole("chosen_ids")?, "rejected_ids": whole("rejected_ids")?});
            if let Some(margin) = row.get("margin") {
                out["margin"] = margin.clone();
            }
            vec![out]
        }
        _ => {
            return Err(format!(
                "has {}; TRL's {command} command wants {}",
                form.keys(),
                rows::wants(job.method)
            ));
        }
    })
}
