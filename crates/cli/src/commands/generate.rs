//! `cycle generate`, `logprobs`, `embed`: the model alone.

use std::path::Path;
use std::time::Instant;

use inference::{Finish, Observer, Plan, Row, random::Random};
use lm::{Local, Message, ModelRef, Sampling};
use models::TextEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::{EmbedArgs, Format, GenerateArgs, LogprobsArgs, PromptArgs};
use crate::commands::Outcome;
use crate::context::{Context, sampling};
use crate::failure::{Code, Failure};
use crate::output::emit;
use crate::progress::interrupted;

/// A prompt as ids, as text where it has one.
struct Prompt {
    ids: Vec<u32>,
    text: String,
}

fn usage(what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Usage, what)
}

fn json_file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::io(path, &e))
}

fn from_value(value: &Value, raw: bool, model: &Local) -> Result<Prompt, Failure> {
    let engine = model.engine().model();
    if let Some(ids) = value.get("tokens") {
        let ids: Vec<u32> = serde_json::from_value(ids.clone()).map_err(|e| usage(format!("tokens: {e}")))?;
        let text = engine.tokenizer.decode(&ids, false).unwrap_or_default();
        return Ok(Prompt { ids, text });
    }
    if let Some(messages) = value.get("messages") {
        let messages: Vec<Message> =
            serde_json::from_value(messages.clone()).map_err(|e| usage(format!("messages: {e}")))?;
        let text = model.render(&messages, "")?;
        return Ok(Prompt { ids: engine.encode_chat(&text)?, text });
    }
    let Some(text) = value.get("prompt").and_then(Value::as_str) else {
        return Err(usage("a prompt needs prompt, messages or tokens"));
    };
    if raw {
        return Ok(Prompt { ids: engine.encode_plain(text)?, text: text.into() });
    }
    let text = model.render(&[Message::user(text)], "")?;
    Ok(Prompt { ids: engine.encode_chat(&text)?, text })
}

fn prompts(args: &PromptArgs, model: &Local) -> Result<Vec<Prompt>, Failure> {
    let mut values: Vec<Value> = args.prompt.iter().map(|p| json!({ "prompt": p })).collect();
    if let Some(path) = &args.messages {
        let messages: Value = serde_json::from_slice(&json_file(path)?)
            .map_err(|e| Failure::new(Code::Input, format!("{}: {e}", path.display())))?;
        values.push(json!({ "messages": messages }));
    }
    if !args.tokens.is_empty() {
        values.push(json!({ "tokens": args.tokens }));
    }
    if let Some(path) = &args.input {
        for (i, line) in String::from_utf8_lossy(&json_file(path)?).lines().enumerate() {
            if !line.trim().is_empty() {
                let value = serde_json::from_str(line).map_err(|e| {
                    Failure::new(Code::Input, format!("{}, line {}: {e}", path.display(), i + 1))
                })?;
                values.push(value);
            }
        }
    }
    if values.is_empty() {
        return Err(usage("no prompt: give --prompt, --messages, --tokens or --input"));
    }
    values.iter().map(|v| from_value(v, args.raw, model)).collect()
}

/// Clocks of the two halves of a call.
struct Clock {
    started: Instant,
    first_token: Option<Instant>,
}

impl Observer for Clock {
    fn decode(&mut self, _: usize) {
        self.first_token.get_or_insert_with(Instant::now);
    }
    fn cancelled(&mut self) -> bool {
        interrupted()
    }
}

/// Runs `cycle generate`.
///
/// # Errors
/// If the model cannot be used or a prompt does not fit.
pub fn generate(context: &mut Context, args: &GenerateArgs) -> Result<Outcome, Failure> {
    context.apply(&args.model);
    let reference = context.reference("reviewer")?;
    let seed = context.seed()?;
    let sampling = sampling(&args.model, Sampling::default())?;
    if let ModelRef::Server { .. } = reference {
        return server(context, args, &reference, sampling, seed);
    }
    let model = context.open_local(&reference)?;
    let prompts = prompts(&args.prompt, &model)?;
    let mut rows = Vec::new();
    for prompt in &prompts {
        for n in 0..args.n {
            rows.push(Row {
                prompt: prompt.ids.clone(),
                plan: Plan::Text {
                    max_tokens: args.model.max_tokens.unwrap_or(256),
                    stop: args.stop.clone(),
                    grammar: None,
                    ignore_eos: args.ignore_eos,
                },
                sampling: sampling.clone(),
                seed: if n == 0 { seed } else { Random::derive(seed, n as u64) },
                logprobs: true,
            });
        }
    }
    let seeds: Vec<u64> = rows.iter().map(|r| r.seed).collect();
    let mut clock = Clock { started: Instant::now(), first_token: None };
    let results = model.engine().run(rows, &mut clock).map_err(|e| Failure::new(Code::Model, e))?;
    let end = Instant::now();
    let middle = clock.first_token.unwrap_or(end);
    let info = lm::LanguageModel::info(&model).clone();
    let (mut outputs, mut usage, mut look) = (Vec::new(), [0usize; 3], None);
    let store = context.store().ok();
    for (i, result) in results.into_iter().enumerate() {
        let output = match result {
            Ok(output) => output,
            Err(inference::RowError::Interrupted) => {
                return Err(Failure::new(Code::Interrupted, "interrupted"));
            }
            Err(e) => {
                look = Some(Failure::new(Code::Model, &e));
                outputs.push(json!({"error": e.to_string()}));
                continue;
            }
        };
        usage[0] += output.prompt_tokens;
        usage[1] += output.reused;
        usage[2] += output.generated;
        if let Some(store) = &store {
            let prompt = &prompts[i / args.n];
            let hash: String =
                Sha256::digest(prompt.text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
            let id = info.sha256.as_deref().unwrap_or(&info.reference);
            let sampler = serde_json::to_string(&sampling).unwrap_or_default();
            store.put_generation(
                (id, &info.reference),
                &hash,
                seeds[i] as i64,
                &sampler,
                &output.text,
                output.generated,
            )?;
        }
        let finish = match output.finish {
            Finish::Eos => "eos",
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        outputs.push(
            json!({"prompt_tokens": output.prompt_tokens, "tokens": output.tokens, "text": output.text,
            "logprobs": output.logprobs, "finish": finish}),
        );
    }
    if let (Some(failure), 1) = (&look, outputs.len()) {
        return Err(Failure::new(failure.code, &failure.what));
    }
    if args.format == Format::Json {
        let document = json!({"schema": "cycle.generation/1", "model": {"ref": info.reference, "sha256": info.sha256},
            "outputs": outputs, "usage": {"prompt_tokens": usage[0], "prompt_tokens_reused": usage[1],
                "generated_tokens": usage[2], "prefill_seconds": (middle - clock.started).as_secs_f64(),
                "decode_seconds": (end - middle).as_secs_f64()}});
        emit(&document.to_string(), None)?;
    } else {
        let texts: Vec<&str> = outputs.iter().map(|o| o["text"].as_str().unwrap_or("(failed)")).collect();
        emit(&texts.join("\n\n---\n\n"), None)?;
    }
    Ok(if look.is_some() { Outcome::Look } else { Outcome::Done })
}

/// The same through a server.
fn server(
    context: &Context,
    args: &GenerateArgs,
    reference: &ModelRef,
    sampling: Sampling,
    seed: u64,
) -> Result<Outcome, Failure> {
    let model = context.open(reference)?;
    let mut requests = Vec::new();
    for prompt in &args.prompt.prompt {
        for n in 0..args.n {
            let mut request =
                lm::Request::new(vec![Message::user(prompt.clone())], args.model.max_tokens.unwrap_or(256));
            request.sampling = sampling.clone();
            request.stop = args.stop.clone();
            request.seed = Random::derive(seed, n as u64);
            requests.push(request);
        }
    }
    if requests.is_empty() {
        return Err(usage("a server needs --prompt"));
    }
    let reporter = crate::progress::Reporter::new("server", context.loudness);
    let mut outputs = Vec::new();
    for answer in model.complete(&requests, &reporter)? {
        let answer = answer?;
        outputs.push(json!({"prompt_tokens": answer.usage.prompt_tokens, "text": answer.text, "finish": answer.finish}));
    }
    if args.format == Format::Json {
        let document = json!({"schema": "cycle.generation/1", "model": model.info(), "outputs": outputs});
        emit(&document.to_string(), None)?;
    } else {
        let texts: Vec<&str> = outputs.iter().filter_map(|o| o["text"].as_str()).collect();
        emit(&texts.join("\n\n---\n\n"), None)?;
    }
    Ok(Outcome::Done)
}

/// Runs `cycle logprobs`.
///
/// # Errors
/// If the model cannot be used or a text does not fit.
pub fn logprobs(context: &mut Context, args: &LogprobsArgs) -> Result<Outcome, Failure> {
    context.apply(&args.model);
    let reference = context.reference("reviewer")?;
    let model = context.open_local(&reference)?;
    let mut outputs = Vec::new();
    for prompt in prompts(&args.prompt, &model)? {
        let scored =
            model.engine().logprobs(&prompt.ids, &args.logits).map_err(|e| Failure::new(Code::Model, e))?;
        let mut output =
            json!({"tokens": prompt.ids, "logprobs": scored.logprobs, "perplexity": scored.perplexity()});
        if !args.logits.is_empty() {
            let rows: serde_json::Map<String, Value> =
                scored.logits.iter().map(|(p, l)| (p.to_string(), json!(l))).collect();
            output["logits"] = Value::Object(rows);
        }
        outputs.push(output);
    }
    if args.format == Format::Json {
        emit(&json!({"schema": "cycle.logprobs/1", "outputs": outputs}).to_string(), None)?;
    } else {
        let lines: Vec<String> = outputs
            .iter()
            .map(|o| {
                format!("perplexity {}", o["perplexity"].as_f64().map_or("–".into(), |p| format!("{p:.4}")))
            })
            .collect();
        emit(&lines.join("\n"), None)?;
    }
    Ok(Outcome::Done)
}

/// Runs `cycle embed`.
///
/// # Errors
/// If the folder holds no BERT.
pub fn embed(args: &EmbedArgs) -> Result<Outcome, Failure> {
    let encoder = TextEncoder::load(&args.model)?;
    let vectors = encoder.embed(&args.prompt)?;
    emit(&json!({"schema": "cycle.embedding/1", "embeddings": vectors}).to_string(), None)?;
    Ok(Outcome::Done)
}
