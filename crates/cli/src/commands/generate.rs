//! `cycle generate`, `logprobs`, `embed`: the model alone.

use std::time::Instant;

use inference::{Observer, Plan, Row, RowError, RowOutput, random::Random};
use lm::{Local, ModelInfo, ModelRef, Progress, Sampling};
use models::TextEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::{NewGeneration, Store};

use crate::args::{EmbedArgs, Format, GenerateArgs, LogprobsArgs, PromptArgs};
use crate::commands::Outcome;
use crate::commands::prompt::{Asked, Prompt, asked, lines};
use crate::context::{Context, sampling};
use crate::failure::{Code, Failure};
use crate::output::emit;
use crate::progress::{Reporter, interrupted};

/// Runs `cycle generate`.
///
/// # Errors
/// If the model cannot be used or a prompt does not fit.
pub fn generate(context: &mut Context, args: &GenerateArgs) -> Result<Outcome, Failure> {
    context.apply(&args.model);
    let reference = context.reference("reviewer")?;
    let job = Job {
        seed: context.seed()?,
        sampling: sampling(&args.model, Sampling::default())?,
        max_tokens: args.model.max_tokens.unwrap_or(256),
        args,
    };
    let asked = asked(&args.prompt)?;
    let (info, samples, usage) = match reference {
        ModelRef::Server { .. } => job.by_server(context, &reference, asked)?,
        _ => job.by_engine(context, &reference, asked)?,
    };
    let kept = store_all(context, &job, &info, &samples)?;
    if samples.iter().any(|s| s.result.as_ref().is_err_and(|f| f.code == Code::Interrupted)) {
        let what = format!("interrupted; {kept} of {} samples are stored", samples.len());
        return Err(Failure::new(Code::Interrupted, what));
    }
    let failed = samples.iter().filter(|s| s.result.is_err()).count();
    let outputs: Vec<Value> = samples.iter().map(Sample::shown).collect();
    if failed == samples.len()
        && let Some(failure) = samples.into_iter().find_map(|s| s.result.err())
    {
        return Err(failure);
    }
    if args.format == Format::Json {
        let model = json!({"ref": info.reference, "sha256": info.sha256});
        let document =
            json!({"schema": "cycle.generation/1", "model": model, "outputs": outputs, "usage": usage});
        emit(&document.to_string(), None)?;
    } else {
        let texts: Vec<&str> = outputs.iter().map(|o| o["text"].as_str().unwrap_or("(failed)")).collect();
        emit(&texts.join("\n\n---\n\n"), None)?;
    }
    Ok(if failed > 0 { Outcome::Look } else { Outcome::Done })
}

/// What is asked of the model, whichever it is.
struct Job<'a> {
    seed: u64,
    sampling: Sampling,
    max_tokens: usize,
    args: &'a GenerateArgs,
}

/// One sample of one prompt.
struct Sample {
    prompt_sha256: String,
    /// The prompt as it was rendered; a server's is stored with its answer.
    prompt: Option<String>,
    seed: u64,
    result: Result<Written, Failure>,
}

/// What was written.
struct Written {
    text: String,
    tokens: usize,
    shown: Value,
}

impl Sample {
    fn shown(&self) -> Value {
        match &self.result {
            Ok(written) => written.shown.clone(),
            Err(failure) => json!({"error": failure.what}),
        }
    }
}

type Answers = (ModelInfo, Vec<Sample>, Value);

impl Job<'_> {
    /// The seed of the n-th sample of a prompt, the same for every prompt.
    fn seed_of(&self, n: usize) -> u64 {
        if n == 0 { self.seed } else { Random::derive(self.seed, n as u64) }
    }

    fn by_engine(
        &self,
        context: &Context,
        reference: &ModelRef,
        asked: Vec<Asked>,
    ) -> Result<Answers, Failure> {
        let model = context.open_local(reference)?;
        let prompts = prompts(asked, &self.args.prompt, &model)?;
        let rows: Vec<Row> = prompts
            .iter()
            .flat_map(|prompt| (0..self.args.n).map(move |n| (prompt, n)))
            .map(|(prompt, n)| Row {
                prompt: prompt.ids.clone(),
                plan: Plan::Text {
                    max_tokens: self.max_tokens,
                    stop: self.args.stop.clone(),
                    grammar: None,
                    ignore_eos: self.args.ignore_eos,
                },
                sampling: self.sampling.clone(),
                seed: self.seed_of(n),
                logprobs: true,
            })
            .collect();
        let seeds: Vec<u64> = rows.iter().map(|r| r.seed).collect();
        let mut clock = Clock {
            started: Instant::now(),
            first_token: None,
            reporter: Reporter::new("generate", context.loudness),
            bound: rows.len() * self.max_tokens,
        };
        let results = model.engine().run(rows, &mut clock).map_err(|e| Failure::new(Code::Model, e))?;
        let end = Instant::now();
        let middle = clock.first_token.unwrap_or(end);
        let done = |of: fn(&RowOutput) -> usize| -> usize { results.iter().flatten().map(of).sum() };
        let usage = json!({"prompt_tokens": done(|o| o.prompt_tokens - o.reused),
            "prompt_tokens_reused": done(|o| o.reused), "generated_tokens": done(|o| o.generated),
            "prefill_seconds": (middle - clock.started).as_secs_f64(),
            "decode_seconds": (end - middle).as_secs_f64()});
        let samples = results.into_iter().enumerate().map(|(i, result)| Sample {
            prompt_sha256: sha256(&prompts[i / self.args.n].text),
            prompt: Some(prompts[i / self.args.n].text.clone()),
            seed: seeds[i],
            result: result.map(written).map_err(row_failure),
        });
        Ok((lm::LanguageModel::info(&model).clone(), samples.collect(), usage))
    }

    fn by_server(
        &self,
        context: &Context,
        reference: &ModelRef,
        asked: Vec<Asked>,
    ) -> Result<Answers, Failure> {
        for (given, option) in [(self.args.prompt.raw, "--raw"), (self.args.ignore_eos, "--ignore-eos")] {
            if given {
                let what = format!("{option} needs a model of this machine; {reference} is a server");
                return Err(Failure::new(Code::Usage, what));
            }
        }
        let model = context.open(reference)?;
        let mut requests = Vec::new();
        for messages in asked.into_iter().map(Asked::messages) {
            let messages = messages?;
            requests.extend((0..self.args.n).map(|n| lm::Request {
                sampling: self.sampling.clone(),
                stop: self.args.stop.clone(),
                seed: self.seed_of(n),
                ..lm::Request::new(messages.clone(), self.max_tokens)
            }));
        }
        let reporter = Reporter::new("server", context.loudness);
        let started = Instant::now();
        let answers = model.complete(&requests, &reporter)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut total = lm::Usage::default();
        answers.iter().flatten().for_each(|a| total += a.usage);
        // What a server does first and then is not known here.
        let usage = json!({"prompt_tokens": total.prompt_tokens, "prompt_tokens_reused": total.prompt_tokens_reused,
            "generated_tokens": total.generated_tokens, "seconds": seconds});
        let samples = answers.into_iter().zip(&requests).map(|(answer, request)| Sample {
            prompt_sha256: answer.as_ref().map(|a| a.prompt_sha256.clone()).unwrap_or_default(),
            prompt: None,
            seed: request.seed,
            result: answer.map_err(Failure::from).map(|a| Written {
                shown: json!({"prompt_tokens": a.usage.prompt_tokens, "text": a.text, "finish": a.finish}),
                tokens: a.usage.generated_tokens,
                text: a.text,
            }),
        });
        Ok((model.info().clone(), samples.collect(), usage))
    }
}

fn written(output: RowOutput) -> Written {
    let finish = match output.finish {
        inference::Finish::Eos => "eos",
        inference::Finish::Stop => "stop",
        inference::Finish::Length => "length",
    };
    Written {
        shown: json!({"prompt_tokens": output.prompt_tokens, "tokens": output.tokens, "text": output.text,
            "logprobs": output.logprobs, "finish": finish}),
        tokens: output.generated,
        text: output.text,
    }
}

fn row_failure(error: RowError) -> Failure {
    let code = match &error {
        RowError::Interrupted => Code::Interrupted,
        RowError::Memory { .. } => Code::Resources,
        _ => Code::Model,
    };
    Failure::new(code, error)
}

/// Keeps what was written; how many that were. A store that cannot be used is said and holds nobody up.
fn store_all(context: &Context, job: &Job<'_>, info: &ModelInfo, all: &[Sample]) -> Result<usize, Failure> {
    let store: Store = match context.store() {
        Ok(store) => store,
        Err(failure) => {
            context.note(&format!("not stored: {}", failure.what));
            return Ok(0);
        }
    };
    let id = info.sha256.as_deref().unwrap_or(&info.reference);
    let sampler = serde_json::to_string(&job.sampling).unwrap_or_default();
    let rows: Vec<NewGeneration> = all
        .iter()
        .filter_map(|sample| Some((sample, sample.result.as_ref().ok()?)))
        .map(|(sample, written)| NewGeneration {
            model: id.into(),
            reference: info.reference.clone(),
            prompt_sha256: sample.prompt_sha256.clone(),
            dialogue: sample.prompt.as_ref().map(|p| json!({"messages": [], "prefill": p}).to_string()),
            seed: sample.seed as i64,
            sampling: sampler.clone(),
            output: written.text.clone(),
            tokens: written.tokens as i64,
        })
        .collect();
    store.put_generations(&rows)?;
    Ok(rows.len())
}

fn prompts(asked: Vec<Asked>, args: &PromptArgs, model: &Local) -> Result<Vec<Prompt>, Failure> {
    asked.into_iter().map(|a| a.prompt(args.raw, model)).collect()
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// Clocks of the two halves of a call.
struct Clock {
    started: Instant,
    first_token: Option<Instant>,
    reporter: Reporter,
    bound: usize,
}

impl Observer for Clock {
    fn prefill(&mut self, done: usize, total: usize) {
        self.reporter.prefill(done, total);
    }
    fn decode(&mut self, generated: usize) {
        self.first_token.get_or_insert_with(Instant::now);
        self.reporter.decode(generated, self.bound);
    }
    fn cancelled(&mut self) -> bool {
        interrupted()
    }
}

/// Runs `cycle logprobs`.
///
/// # Errors
/// If the model cannot be used or a text does not fit.
pub fn logprobs(context: &mut Context, args: &LogprobsArgs) -> Result<Outcome, Failure> {
    context.apply(&args.model);
    let reference = context.reference("reviewer")?;
    let asked = asked(&args.prompt)?;
    let model = context.open_local(&reference)?;
    let mut outputs = Vec::new();
    for prompt in prompts(asked, &args.prompt, &model)? {
        if interrupted() {
            return Err(Failure::new(Code::Interrupted, "interrupted"));
        }
        if let Some(at) = args.logits.iter().find(|&&at| at >= prompt.ids.len()) {
            let what = format!("--logits {at}: the text has {} tokens, counted from 0", prompt.ids.len());
            return Err(Failure::new(Code::Usage, what));
        }
        let scored = model
            .engine()
            .logprobs(&prompt.ids, 0, &args.logits)
            .map_err(|e| Failure::new(Code::Model, e))?;
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
/// If the folder holds no BERT, or a text is none.
pub fn embed(context: &Context, args: &EmbedArgs) -> Result<Outcome, Failure> {
    let mut all: Vec<Asked> = args.prompt.iter().cloned().map(Asked::Prompt).collect();
    if !args.tokens.is_empty() {
        all.push(Asked::Tokens(args.tokens.clone()));
    }
    all.extend(args.input.as_deref().map(lines).transpose()?.into_iter().flatten());
    if all.is_empty() {
        return Err(Failure::new(Code::Usage, "no text: give --prompt, --tokens or --input"));
    }
    let encoder = TextEncoder::load(&args.model)?;
    let (mut vectors, mut counts) = (Vec::new(), Vec::new());
    for (i, text) in all.into_iter().enumerate() {
        if interrupted() {
            return Err(Failure::new(Code::Interrupted, "interrupted"));
        }
        let (ids, cut) = text.encoded(&encoder)?;
        if cut {
            context.note(&format!("text {}: only the first {} tokens are read", i + 1, ids.len()));
        }
        vectors.push(encoder.pool(&ids)?);
        counts.push(json!({"tokens": ids.len(), "cut": cut}));
    }
    if args.format == Format::Json {
        let model = json!({"ref": args.model.display().to_string(), "sha256": encoder.sha256()});
        let document = json!({"schema": "cycle.embedding/1", "model": model, "width": encoder.width(),
            "embeddings": vectors, "inputs": counts});
        emit(&document.to_string(), None)?;
    } else {
        let line = |v: &Vec<f32>| v.iter().map(f32::to_string).collect::<Vec<_>>().join(" ");
        emit(&vectors.iter().map(line).collect::<Vec<_>>().join("\n"), None)?;
    }
    Ok(Outcome::Done)
}
