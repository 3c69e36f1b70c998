//! Our own engine as the agents use it, over a micro checkpoint.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::path::{Path, PathBuf};

use lm::{
    DeviceChoice, Finish, Grammar, LanguageModel, LmError, Message, ModelRef, OpenOptions, Output, Part,
    Request, Sampling, Script, Silent,
};

fn micro() -> Option<PathBuf> {
    let shared = std::env::var("CYCLE_SHARED")
        .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let path = Path::new(&shared).join("goldens/infer/models/llama3_rope");
    if !path.exists() {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipped: the goldens in shared/ are not here\n"),
        );
        return None;
    }
    Some(path)
}

fn open() -> Option<Box<dyn LanguageModel>> {
    let reference = ModelRef::Checkpoint { path: micro()?, adapter: None };
    let options = OpenOptions { device: DeviceChoice::Cpu, offline: true, ..OpenOptions::default() };
    Some(lm::open(&reference, &options).unwrap())
}

fn request(output: Output) -> Request {
    let sampling = Sampling { temperature: 0.8, ..Sampling::default() };
    let messages = vec![Message::system("You review."), Message::user("Rate this paper.")];
    Request { output, sampling, seed: 3, ..Request::new(messages, 12) }
}

#[test]
fn one_batch_answers_freely_within_a_grammar_and_on_a_form() {
    let Some(model) = open() else { return };
    let script = Script {
        parts: vec![
            Part::Literal("Rating: ".into()),
            Part::Choice {
                name: "rating".into(),
                options: vec!["1".into(), "10".into()],
                terminator: "\n".into(),
            },
        ],
    };
    let requests = [
        request(Output::Free),
        request(Output::Constrained(Grammar::Regex("(accept|reject)".into()))),
        request(Output::Script(script)),
    ];
    let together = model.complete(&requests, &Silent).unwrap();
    for (request, answer) in requests.iter().zip(&together) {
        let answer = answer.as_ref().unwrap();
        assert_eq!(
            Some(answer.usage.prompt_tokens + answer.usage.prompt_tokens_reused),
            model.count_prompt(&request.messages)
        );
        let alone =
            open().unwrap().complete(std::slice::from_ref(request), &Silent).unwrap().remove(0).unwrap();
        assert_eq!((&alone.text, &alone.prompt_sha256), (&answer.text, &answer.prompt_sha256));
    }
    let [_, constrained, form] = [0, 1, 2].map(|i| together[i].as_ref().unwrap());
    assert!(["accept", "reject"].contains(&constrained.text.as_str()));
    assert_eq!(constrained.finish, Finish::Stop);
    let rating = form.parts["rating"].choice.as_ref().unwrap();
    assert_eq!(form.text, format!("Rating: {}\n", rating.value));
    assert!((rating.distribution.iter().map(|d| d.1).sum::<f64>() - 1.0).abs() < 1e-12);
    // One of the three paid for the prompt that all share.
    let paid = together.iter().filter(|a| a.as_ref().unwrap().usage.prompt_tokens_reused == 0).count();
    assert_eq!(paid, 1);
}

#[test]
fn a_prefill_is_read_and_not_repeated() {
    let Some(model) = open() else { return };
    let begun = Request { prefill: "The paper".into(), ..request(Output::Free) };
    let answer = model.complete(std::slice::from_ref(&begun), &Silent).unwrap().remove(0).unwrap();
    assert!(
        Some(answer.usage.prompt_tokens + answer.usage.prompt_tokens_reused)
            > model.count_prompt(&begun.messages)
    );
    assert!(!answer.text.starts_with("The paper"));
}

#[test]
fn a_prompt_that_is_too_long_says_by_how_much() {
    let Some(model) = open() else { return };
    let long = Request::new(vec![Message::user("word ".repeat(400))], 4);
    let error = model.complete(&[long, request(Output::Free)], &Silent).unwrap();
    let context = model.info().context.unwrap();
    assert!(
        matches!(&error[0], Err(LmError::TooLong { prompt, context: c }) if *prompt > context && *c == context)
    );
    assert!(error[1].is_ok());
}

#[test]
fn the_device_is_said_and_a_missing_gpu_is_an_error_only_when_named() {
    assert_eq!(lm::device(DeviceChoice::Cpu).unwrap().1, "cpu");
    let (device, note) = lm::device(DeviceChoice::Auto).unwrap();
    assert!(!device.is_cpu() || note.starts_with("cpu ("), "{note}");
    if device.is_cpu() {
        assert!(lm::device(DeviceChoice::Cuda(0)).unwrap_err().to_string().contains("--device cpu"));
    }
    assert_eq!("cuda:2".parse(), Ok(DeviceChoice::Cuda(2)));
    assert!("gpu".parse::<DeviceChoice>().unwrap_err().contains("cuda:N"));
}
