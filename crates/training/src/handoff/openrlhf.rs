//! OpenRLHF's command lines `train_sft`, `train_dpo`, `train_rm`, started by DeepSpeed, on a Ray cluster as a job.
//! Checked against the source of OpenRLHF 0.11.2; it needs GPUs and has not been run here.

use serde_json::{Value, json};

use super::rows::{self, Form};
use super::{
    HandoffError, Hardware, Job, Method, Plan, Precision, Reduction, Sharding, Source, Written, eos_token,
};
use crate::recipe::{LossOn, Overlong, Scheduler};

/// The module of a job, with the arguments of its loss.
fn loss(job: &Job) -> Result<(&'static str, Vec<String>), HandoffError> {
    let o = &job.loss;
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    match job.method {
        Method::Sft => Ok(("train_sft", vec![])),
        Method::Reward => {
            if o.name != "bt" || o.tau.is_some_and(|t| t != 1.0) || o.center_rewards_coefficient.is_some() {
                return Err(HandoffError::unsupported(
                    format!("OpenRLHF 0.11 has no reward model {:?} with these values", o.name),
                    "its train_rm trains bt with tau = 1, without centring; --engine local has the others",
                ));
            }
            Ok(("train_rm", words(&["--model.loss_type", "sigmoid", "--model.margin_loss_enable"])))
        }
        Method::Preference => {
            let mut out = match o.name.as_str() {
                "sigmoid" | "dpo" | "rpo" | "cdpo" => vec![],
                "ipo_sum" => words(&["--model.ipo_enable"]),
                name => {
                    return Err(HandoffError::unsupported(
                        format!("OpenRLHF 0.11 has no objective {name:?}"),
                        "its train_dpo has sigmoid, cdpo, ipo_sum, rpo (nll_weight); --engine trl has more, local all",
                    ));
                }
            };
            if o.name == "sigmoid" && o.label_smoothing != 0.0 {
                return Err(HandoffError::unsupported(
                    "sigmoid has no label_smoothing",
                    "name = \"cdpo\" is the loss with it",
                ));
            }
            let others = [o.ld_alpha.is_some(), o.use_weighting, o.f_divergence_type.is_some()];
            if others.contains(&true) {
                return Err(HandoffError::unsupported(
                    "OpenRLHF 0.11 has none of ld_alpha, use_weighting, f_divergence_type",
                    "leave them out, or use --engine trl or local",
                ));
            }
            let nll = if o.name == "rpo" && o.nll_weight == 0.0 { 1.0 } else { o.nll_weight };
            if nll != 0.0 && o.nll_reduction == Reduction::Token {
                return Err(HandoffError::unsupported(
                    "OpenRLHF 0.11 averages the NLL per answer, not over the tokens of a batch",
                    "set nll_reduction = \"sequence\", or use --engine trl or local",
                ));
            }
            out.extend(["--model.beta".into(), o.beta.unwrap_or(0.1).to_string()]);
            if o.label_smoothing != 0.0 {
                out.extend(["--model.label_smoothing".into(), o.label_smoothing.to_string()]);
            }
            if nll != 0.0 {
                out.extend(["--model.nll_loss_coef".into(), nll.to_string()]);
            }
            Ok(("train_dpo", out))
        }
    }
}

/// Everything but the rows, which [`rows`] has written.
///
/// # Errors
/// If OpenRLHF's command line cannot do what the job says.
pub fn plan(job: &Job, written: &[Written]) -> Result<Plan, HandoffError> {
    let (module, losses) = loss(job)?;
    let Hardware::Gpus { per_machine, machines, main, sharding } = &job.hardware else {
        return Err(HandoffError::unsupported(
            "OpenRLHF trains on GPUs alone",
            "use --engine trl or local on a CPU",
        ));
    };
    let stage = match sharding {
        Sharding::Zero2 => "2",
        Sharding::Zero3 => "3",
        Sharding::None => "0",
        Sharding::Fsdp => {
            return Err(HandoffError::unsupported(
                "OpenRLHF shards by DeepSpeed, not by FSDP",
                "choose zero2 or zero3",
            ));
        }
    };
    if job.precision == Precision::Float32 {
        return Err(HandoffError::unsupported(
            "OpenRLHF 0.11 trains in 16 bits alone",
            "choose bf16, or use --engine trl or local",
        ));
    }
    let (micro, accumulation) = job.share()?;
    let step = micro * accumulation * job.hardware.processes();
    let (epochs, rows) = passes(job, written, step);
    let form = written.first().map(|w| w.form);
    let mut words: Vec<String> = Vec::new();
    let mut put = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    let path = |name: &str| job.folder().join(name).display().to_string();
    let o = &job.optimizer;
    put("model.model_name_or_path", job.model.display().to_string());
    if let (Some(reference), "train_dpo") = (&job.reference_model, module) {
        put("ref.model_name_or_path", reference.display().to_string());
    }
    put("data.dataset", job.data("train.jsonl").display().to_string());
    put("data.max_samples", rows.max(1).to_string());
    put("data.max_len", job.max_length.to_string());
    put("data.input_template", String::new());
    if written.len() > 1 {
        put("eval.dataset", job.data("test.jsonl").display().to_string());
        put("eval.split", "train".into());
        put("eval.steps", job.save.every.max(1).to_string());
    }
    put("train.seed", job.seed.to_string());
    put("train.max_epochs", epochs.to_string());
    put("train.batch_size", step.to_string());
    put("train.micro_batch_size", micro.to_string());
    put("adam.lr", o.learning_rate.to_string());
    put("adam.eps", o.adam_epsilon.to_string());
    put("adam.weight_decay", o.weight_decay.to_string());
    put("max_norm", o.max_grad_norm.to_string());
    put("lr_scheduler", scheduler(o.lr_scheduler_type).into());
    put("lr_warmup_ratio", warmup(job, rows * epochs / step.max(1)).to_string());
    put("ds.zero_stage", stage.into());
    put("ds.param_dtype", "bf16".into());
    put("logger.logging_steps", "1".into());
    put("logger.tensorboard_dir", path("events"));
    put("ckpt.output_dir", job.trained().display().to_string());
    put("ckpt.path", path("checkpoints"));
    put("ckpt.save_steps", job.save.every.max(1).to_string());
    put("ckpt.max_num", job.save.keep.max(1).to_string());
    words.extend(["--adam.betas".into(), o.adam_beta1.to_string(), o.adam_beta2.to_string()]);
    words.push("--model.gradient_checkpointing_enable".into());
    if job.resume {
        words.push("--ckpt.load_enable".into());
    }
    words.extend(adapters(job)?);
    words.extend(losses);
    words.extend(keys(module, form).map(String::from));
    let mut command: Vec<String> = Vec::new();
    if let Some(address) = main {
        command.extend(["ray", "job", "submit", "--address", address].map(String::from));
        command.extend(["--entrypoint-num-gpus".into(), per_machine.to_string(), "--".into()]);
    }
    command.extend(["deepspeed", "--num_gpus"].map(String::from));
    command.push(per_machine.to_string());
    if *machines > 1 {
        command.extend(["--num_nodes".into(), machines.to_string(), "--hostfile".into(), path("hostfile")]);
    }
    command.extend(["--module".into(), format!("openrlhf.cli.{module}")]);
    command.extend(words);
    let mut notes = vec![
        "OpenRLHF was not run here: its arguments were checked against the source of 0.11.2".into(),
        "OpenRLHF draws the order of rows itself and leaves an incomplete last batch out".into(),
    ];
    if *machines > 1 {
        notes.push(format!(
            "write the {machines} machines into {}, one `HOST slots={per_machine}` a line",
            path("hostfile")
        ));
    }
    if main.is_some() {
        notes.push("the paths must be the same on every machine of the cluster".into());
    }
    Ok(Plan { engine: "OpenRLHF", folder: job.folder(), files: vec![], command, environment: vec![], notes })
}

/// OpenRLHF counts in whole epochs: where steps or parts of epochs are asked for, [`rows`] has written just those rows.
fn passes(job: &Job, written: &[Written], step: usize) -> (usize, usize) {
    let rows = written.first().map_or(0, |w| w.rows);
    match (job.optimizer.max_steps, job.optimizer.num_train_epochs) {
        (None, Some(epochs)) if epochs.fract() == 0.0 => (epochs as usize, rows),
        (Some(steps), _) => (1, steps * step),
        _ => (1, rows),
    }
}

fn warmup(job: &Job, steps: usize) -> f64 {
    let asked = job.optimizer.warmup_steps;
    if asked < 1.0 { asked } else { asked / steps.max(1) as f64 }
}

fn scheduler(kind: Scheduler) -> &'static str {
    match kind {
        Scheduler::Cosine => "cosine",
        Scheduler::Linear => "linear",
        Scheduler::Constant => "constant",
        Scheduler::ConstantWithWarmup => "constant_with_warmup",
    }
}

fn adapters(job: &Job) -> Result<Vec<String>, HandoffError> {
    let Some(lora) = &job.lora else { return Ok(vec![]) };
    if lora.init.is_some() || lora.use_rslora || lora.lora_alpha.fract() != 0.0 {
        return Err(HandoffError::unsupported(
            "OpenRLHF 0.11 starts from new adapters, with a whole lora_alpha and without use_rslora",
            "change that in [lora], or use --engine local",
        ));
    }
    let mut out = vec!["--ds.lora.rank".into(), lora.r.to_string()];
    out.extend(["--ds.lora.alpha".into(), lora.lora_alpha.to_string(), "--ds.lora.target_modules".into()]);
    out.extend(lora.target_modules.iter().cloned());
    Ok(out)
}

/// Which columns hold what.
fn keys(module: &str, form: Option<Form>) -> impl Iterator<Item = &'static str> {
    let list: &[&str] = match (module, form) {
        ("train_sft", Some(Form::Messages)) => {
            &["--data.input_key", "messages", "--data.apply_chat_template", "--data.multiturn"]
        }
        ("train_sft", Some(Form::Text)) => &["--data.input_key", "text", "--model.pretrain_mode_enable"],
        ("train_sft", _) => &["--data.input_key", "prompt", "--data.output_key", "completion"],
        (_, Some(Form::Messages)) => &["--data.prompt_key", "prompt", "--data.apply_chat_template"],
        _ => &["--data.prompt_key", "prompt"],
    };
    list.iter().copied()
}

/// Writes the rows: `data/train.jsonl`, and `data/test.jsonl` where some are held out. Before [`plan`].
///
/// # Errors
/// If a row is not what OpenRLHF's command reads, the model folder does not say how a text ends, or a file cannot be
/// written.
pub fn rows(
    job: &Job,
    train: Source<'_>,
    held_out: Option<Source<'_>>,
) -> Result<Vec<Written>, HandoffError> {
    if job.overlong != Overlong::Truncate {
        return Err(HandoffError::unsupported(
            "OpenRLHF cuts what is longer than max_length",
            "set overlong = \"truncate\"",
        ));
    }
    let (module, _) = loss(job)?;
    // It puts a blank before the end of text that it adds: rows of text get theirs here.
    let eos = eos_token(&job.model).ok_or_else(|| {
        HandoffError::unsupported(
            format!("{}: tokenizer_config.json does not say what eos_token is", job.model.display()),
            "add it there; OpenRLHF needs it too",
        )
    })?;
    let turn = |form: Form, row: Value| turn(job, module, &eos, form, row);
    job.clear()?;
    let mut written = vec![exact(job, train, &turn)?];
    if let Some(source) = held_out {
        written.push(rows::write(job, source, "test.jsonl", &mut |form, row| {
            turn(form, row).map(|r| vec![r.1])
        })?);
    }
    // A row of messages inside prompt and answers is read by the chat template.
    Ok(written)
}

/// The training rows, repeated or cut to what the steps need.
fn exact(
    job: &Job,
    train: Source<'_>,
    turn: &dyn Fn(Form, Value) -> Result<(Form, Value), String>,
) -> Result<Written, HandoffError> {
    let (mut all, mut form) = (Vec::new(), None);
    let mut written = rows::write(job, train, "train.jsonl", &mut |f, row| {
        let (as_form, row) = turn(f, row)?;
        form = Some(as_form);
        all.push(row.clone());
        Ok(vec![row])
    })?;
    written.form = form.unwrap_or(written.form);
    let o = &job.optimizer;
    let needed = match (o.max_steps, o.num_train_epochs) {
        (Some(steps), _) => steps * o.batch_size * o.gradient_accumulation_steps,
        (None, Some(epochs)) if epochs.fract() != 0.0 => (all.len() as f64 * epochs).ceil() as usize,
        _ => return Ok(written),
    };
    let text: String = all.iter().cycle().take(needed).map(|r| format!("{r}\n")).collect();
    std::fs::write(&written.path, text).map_err(HandoffError::io(&written.path))?;
    written.rows = needed;
    Ok(written)
}

/// A row in the form the module reads, and which that is ([`Form::Messages`]: read by the chat template).
fn turn(job: &Job, module: &str, eos: &str, form: Form, row: Value) -> Result<(Form, Value), String> {
    let all = job.loss.loss_on == LossOn::All;
    if module == "train_rm" {
        rows::hard_label(&row)?;
    }
    let ended = |value: &Value| match value.as_str() {
        Some(text) if !text.ends_with(eos) => json!(format!("{text}{eos}")),
        _ => value.clone(),
    };
    let chat = ["prompt", "chosen", "completion"].iter().any(|k| row.get(k).is_some_and(Value::is_array));
    let list = |key: &str| row.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    match (module, form) {
        ("train_sft", Form::Messages) if !all => Ok((Form::Messages, rows::only(&row, &["messages"]))),
        ("train_sft", Form::Completion) if chat && !all => {
            let messages: Vec<Value> = [list("prompt"), list("completion")].concat();
            Ok((Form::Messages, json!({"messages": messages})))
        }
        ("train_sft", Form::Completion) if !all => {
            Ok((form, json!({"prompt": row["prompt"], "completion": ended(&row["completion"])})))
        }
        ("train_sft", Form::Text) => Ok((form, json!({"text": ended(&row["text"])}))),
        ("train_sft", Form::Completion | Form::Messages) => {
            Err("OpenRLHF counts the answer alone; set loss_on = \"completion\" or give rows of text".into())
        }
        ("train_dpo" | "train_rm", Form::Pair) if row.get("prompt").is_some() => {
            let mut out = rows::only(&row, &["prompt", "chosen", "rejected", "margin"]);
            for key in ["chosen", "rejected"] {
                out[key] = ended(&row[key]);
            }
            Ok((if chat { Form::Messages } else { form }, out))
        }
        (_, Form::Ids | Form::PairIds) => Err("OpenRLHF reads text or messages alone, no ids".into()),
        _ => Err(format!("has {}; OpenRLHF's {module} wants {}", form.keys(), rows::wants(job.method))),
    }
}
