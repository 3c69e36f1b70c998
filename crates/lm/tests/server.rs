//! The server client against a local server that behaves as real ones do on bad days.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::{Router, routing::post};
use lm::{
    Finish, Grammar, LanguageModel, LmError, Message, OpenOptions, Output, Progress, Request, Server,
    ServerOptions, Silent,
};
use serde_json::{Value, json};

/// What the server does with its n-th request.
#[derive(Clone)]
enum Act {
    Say(&'static str),
    Status(u16, Option<&'static str>),
    Cut(&'static str),
    /// Whole JSON, although a stream was asked for.
    Whole(Value),
    /// A stream with a log-probability for its one token.
    Scored(&'static str),
    /// 400 with a message.
    Refuse(&'static str),
    /// 400 with a message for as long as this is in the body, else an answer.
    Without(&'static str, &'static str),
    /// 307 to another address.
    Elsewhere(String),
    Malformed,
    Hang,
    /// What was asked, and how many requests were under way; the earlier the request, the later the answer.
    Echo,
}

fn event(text: &str, finish: Value) -> String {
    format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}, "finish_reason": finish}]}))
}

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

async fn play(act: Act, asked: Value) -> Response<Body> {
    let stream = |parts: Vec<Result<String, std::io::Error>>| {
        Response::new(Body::from_stream(futures::stream::iter(parts.into_iter().map(|p| p.map(Bytes::from)))))
    };
    match act {
        Act::Say(text) => {
            let (a, b) = text.split_at(text.len() / 2);
            let usage = json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}});
            stream(vec![
                Ok(event(a, Value::Null)),
                Ok(event(b, json!("stop"))),
                Ok(format!("data: {usage}\n\n")),
                Ok("data: [DONE]\n\n".into()),
            ])
        }
        Act::Status(code, after) => {
            let mut response = Response::new(Body::from(json!({"error": {"message": "no"}}).to_string()));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            if let Some(after) = after {
                response.headers_mut().insert("retry-after", after.parse().unwrap());
            }
            response
        }
        Act::Whole(value) => {
            let mut response = Response::new(Body::from(value.to_string()));
            response.headers_mut().insert("content-type", "application/json; charset=utf-8".parse().unwrap());
            response
        }
        Act::Scored(text) => {
            let token = json!({"token": text, "logprob": -0.5, "top_logprobs": [
                {"token": text, "logprob": -0.5}, {"token": "other", "logprob": -1.5}]});
            let choice = json!({"delta": {"content": text}, "finish_reason": "stop", "logprobs": {"content": [token]}});
            // The last line has no line break.
            stream(vec![Ok(format!("data: {}", json!({"choices": [choice]})))])
        }
        Act::Refuse(message) => {
            let mut response = Response::new(Body::from(json!({"error": {"message": message}}).to_string()));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
        Act::Without(option, message) => match asked.get(option) {
            Some(_) => Box::pin(play(Act::Refuse(message), asked)).await,
            None => Box::pin(play(Act::Say("hello"), asked)).await,
        },
        Act::Elsewhere(address) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response.headers_mut().insert("location", address.parse().unwrap());
            response
        }
        Act::Cut(text) => stream(vec![Ok(event(text, Value::Null)), Err(std::io::Error::other("cut"))]),
        Act::Echo => {
            let text = asked["messages"][0]["content"].as_str().unwrap().to_string();
            let count = UNDER_WAY.fetch_add(1, Ordering::SeqCst) + 1;
            let number: u64 = text.strip_prefix("number ").unwrap().parse().unwrap();
            tokio::time::sleep(Duration::from_millis(60 - 10 * number)).await;
            UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
            stream(vec![Ok(event(&format!("{text} of {count}"), json!("stop")))])
        }
        Act::Malformed => stream(vec![Ok("data: {\"choices\": [\n\n".into())]),
        Act::Hang => {
            tokio::time::sleep(Duration::from_secs(30)).await;
            Response::new(Body::empty())
        }
    }
}

type Log = Arc<Mutex<Vec<(Option<String>, Value)>>>;

/// Starts a server that plays the acts in turn (the last one for ever) and remembers what it was asked.
fn serve(acts: Vec<Act>) -> (String, Log) {
    let log: Log = Arc::default();
    let seen = log.clone();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let handler = move |headers: HeaderMap, body: Bytes| {
                let (acts, seen) = (acts.clone(), seen.clone());
                async move {
                    let asked: Value = serde_json::from_slice(&body).unwrap();
                    let n = {
                        let mut seen = seen.lock().unwrap();
                        let key = headers.get("authorization").map(|v| v.to_str().unwrap().to_string());
                        seen.push((key, asked.clone()));
                        seen.len() - 1
                    };
                    play(acts[n.min(acts.len() - 1)].clone(), asked).await
                }
            };
            let app = Router::new().route("/v1/chat/completions", post(handler));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
    });
    (format!("http://{}/v1", receive.recv().unwrap()), log)
}

fn quick() -> ServerOptions {
    ServerOptions {
        key: Some("secret".into()),
        tries: 4,
        pause: Duration::from_millis(5),
        silence: Duration::from_millis(400),
        deadline: Duration::from_secs(20),
        parallel: 2,
    }
}

fn ask(acts: Vec<Act>) -> (Result<(String, Finish), LmError>, Log) {
    let (base, log) = serve(acts);
    let server = Server::new(&base, "m", quick()).unwrap();
    let answer = server.complete(&[Request::new(vec![Message::user("hi")], 9)], &Silent).unwrap().remove(0);
    (answer.map(|c| (c.text, c.finish)), log)
}

#[test]
fn an_answer_is_put_together_from_its_stream() {
    let (answer, log) = ask(vec![Act::Say("hello")]);
    assert_eq!(answer.unwrap(), ("hello".to_string(), Finish::Eos));
    let log = log.lock().unwrap();
    assert_eq!(log[0].0.as_deref(), Some("Bearer secret"));
    assert_eq!((&log[0].1["model"], &log[0].1["max_tokens"]), (&json!("m"), &json!(9)));
}

#[test]
fn passing_failures_are_tried_again() {
    for act in [
        Act::Status(429, None),
        Act::Status(429, Some("0.05")),
        Act::Status(429, Some("Sun, 06 Nov 1994 08:49:37 GMT")),
        Act::Status(500, None),
        Act::Cut("hel"),
        Act::Malformed,
        Act::Whole(json!({"error": "busy"})),
        Act::Whole(json!({})),
        Act::Hang,
    ] {
        let (answer, log) = ask(vec![act, Act::Say("hello")]);
        assert_eq!(answer.unwrap().0, "hello");
        assert_eq!(log.lock().unwrap().len(), 2);
    }
}

#[test]
fn a_server_that_stays_down_is_given_up_with_its_last_word() {
    let (answer, log) = ask(vec![Act::Status(503, None)]);
    let message = answer.unwrap_err().to_string();
    assert!(message.contains("HTTP 503") && message.contains("4 times"), "{message}");
    assert_eq!(log.lock().unwrap().len(), 4);
}

#[test]
fn a_wrong_key_is_not_tried_again() {
    let (answer, log) = ask(vec![Act::Status(401, None)]);
    assert!(answer.unwrap_err().to_string().contains("CYCLE_API_KEY"));
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[test]
fn a_server_that_knows_no_schema_is_asked_without_one() {
    let (base, log) = serve(vec![Act::Status(400, None), Act::Say("{}")]);
    let server = Server::new(&base, "m", ServerOptions::default()).unwrap();
    let mut request = Request::new(vec![Message::user("hi")], 9);
    request.output = Output::Constrained(Grammar::JsonSchema(json!({"type": "object"})));
    assert_eq!(server.complete(&[request], &Silent).unwrap().remove(0).unwrap().text, "{}");
    let log = log.lock().unwrap();
    assert!(log[0].1.get("response_format").is_some() && log[1].1.get("response_format").is_none());
}

fn schema_request() -> Request {
    let mut request = Request::new(vec![Message::user("hi")], 9);
    request.output = Output::Constrained(Grammar::JsonSchema(json!({"type": "object"})));
    request
}

#[test]
fn only_the_option_that_a_server_names_is_given_up_and_only_once() {
    for (option, message, kept) in [
        ("seed", "unknown field `seed`", "response_format"),
        ("response_format", "json_schema is not supported", "seed"),
        ("stream_options", "Extra inputs are not permitted: stream_options", "response_format"),
    ] {
        let (base, log) = serve(vec![Act::Without(option, message)]);
        let server = Server::new(&base, "m", quick()).unwrap();
        for _ in 0..2 {
            assert_eq!(
                server.complete(&[schema_request()], &Silent).unwrap().remove(0).unwrap().text,
                "hello"
            );
        }
        let log = log.lock().unwrap();
        assert_eq!(log.len(), 3, "the second request knows");
        assert!(log[1..].iter().all(|(_, body)| body.get(option).is_none() && body.get(kept).is_some()));
    }
}

#[test]
fn a_prompt_that_is_refused_on_any_terms_changes_none() {
    let too_long = "This model's maximum context length is 8 tokens";
    let (base, log) = serve(vec![Act::Refuse(too_long), Act::Refuse(too_long), Act::Say("hello")]);
    let server = Server::new(&base, "m", quick()).unwrap();
    let error = server.complete(&[schema_request()], &Silent).unwrap().remove(0).unwrap_err();
    assert!(error.to_string().contains("maximum context length"), "{error}");
    assert!(server.complete(&[schema_request()], &Silent).unwrap().remove(0).is_ok());
    assert!(log.lock().unwrap()[2].1.get("response_format").is_some());
}

#[test]
fn a_server_that_points_elsewhere_is_not_followed_and_one_that_is_not_there_is_said() {
    let (other, other_log) = serve(vec![Act::Say("hello")]);
    let (answer, _) = ask(vec![Act::Elsewhere(format!("{other}/chat/completions"))]);
    assert!(answer.unwrap_err().to_string().contains("points elsewhere"));
    assert!(other_log.lock().unwrap().is_empty());
    let server = Server::new("http://127.0.0.1:9/v1", "m", quick()).unwrap();
    let error = server.complete(&[schema_request()], &Silent).unwrap().remove(0).unwrap_err();
    assert!(error.to_string().contains("refused") && error.to_string().contains("127.0.0.1:9"), "{error}");
}

#[test]
fn an_answer_that_comes_whole_is_taken_too() {
    let whole = json!({"choices": [{"message": {"content": "hello"}, "finish_reason": "length"}]});
    assert_eq!(ask(vec![Act::Whole(whole)]).0.unwrap(), ("hello".to_string(), Finish::Length));
}

#[test]
fn a_newer_name_of_the_limit_is_learned_from_the_refusal() {
    let (answer, log) = ask(vec![Act::Refuse("use 'max_completion_tokens' instead"), Act::Say("hello")]);
    assert_eq!(answer.unwrap().0, "hello");
    assert_eq!(log.lock().unwrap()[1].1["max_completion_tokens"], 9);
}

#[test]
fn logprobs_are_read_where_offered_and_done_without_elsewhere() {
    let request = Request::new(vec![Message::user("hi")], 9);
    let (base, log) = serve(vec![Act::Scored("8"), Act::Refuse("no logprobs here"), Act::Say("8")]);
    let server = Server::new(&base, "m", quick()).unwrap();
    let (completion, tokens) = server.complete_with_logprobs(&request, 5, &Silent).unwrap();
    assert_eq!((completion.text.as_str(), tokens.len()), ("8", 1));
    assert_eq!(tokens[0].top, [("8".to_string(), -0.5), ("other".to_string(), -1.5)]);
    let (completion, tokens) = server.complete_with_logprobs(&request, 5, &Silent).unwrap();
    assert_eq!((completion.text.as_str(), tokens.len()), ("8", 0));
    let log = log.lock().unwrap();
    assert_eq!(log[0].1["top_logprobs"], 5);
    assert!(log[2].1.get("top_logprobs").is_none());
}

#[test]
fn a_pause_that_is_asked_for_is_made_unless_it_is_too_long() {
    let started = Instant::now();
    assert!(ask(vec![Act::Status(429, Some("0.3")), Act::Say("hello")]).0.is_ok());
    assert!(started.elapsed() >= Duration::from_millis(300));
    let (answer, log) = ask(vec![Act::Status(429, Some("3600")), Act::Say("hello")]);
    assert!(answer.unwrap_err().to_string().contains("too late"));
    assert_eq!(log.lock().unwrap().len(), 1);
}

/// A user who presses ctrl-C after a tenth of a second.
struct Impatient(Instant);

impl Progress for Impatient {
    fn cancelled(&self) -> bool {
        self.0.elapsed() > Duration::from_millis(100)
    }
}

#[test]
fn a_server_that_hangs_holds_nobody_up() {
    let (base, _) = serve(vec![Act::Hang]);
    let requests = [Request::new(vec![Message::user("hi")], 9)];
    let options = ServerOptions { silence: Duration::from_secs(20), ..quick() };
    let server = Server::new(&base, "m", options.clone()).unwrap();
    let started = Instant::now();
    let answer = server.complete(&requests, &Impatient(Instant::now())).unwrap().remove(0);
    assert!(matches!(answer, Err(LmError::Interrupted)));
    let server =
        Server::new(&base, "m", ServerOptions { deadline: Duration::from_millis(200), ..options }).unwrap();
    let error = server.complete(&requests, &Silent).unwrap().remove(0).unwrap_err();
    assert!(error.to_string().contains("200ms"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_caller_within_a_runtime_may_ask_too() {
    let (base, _) = serve(vec![Act::Say("hello")]);
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let server = Server::new(&base, "m", quick()).unwrap();
        let answers = server.complete(&[Request::new(vec![Message::user("hi")], 9)], &Silent).unwrap();
        assert_eq!(answers[0].as_ref().unwrap().text, "hello");
    });
}

#[test]
fn offline_no_server_is_opened() {
    let (base, log) = serve(vec![Act::Say("hello")]);
    let options = OpenOptions { offline: true, ..OpenOptions::default() };
    let error = lm::open(&format!("{base}#m").parse().unwrap(), &options).err().unwrap();
    assert!(matches!(error, LmError::Offline(_)) && error.to_string().contains("--offline"));
    assert!(log.lock().unwrap().is_empty());
}

#[test]
fn answers_stand_in_the_order_of_the_requests_and_few_are_under_way() {
    let (base, log) = serve(vec![Act::Echo]);
    let server = Server::new(&base, "m", quick()).unwrap();
    let requests: Vec<Request> =
        (0..6).map(|i| Request::new(vec![Message::user(format!("number {i}"))], 9)).collect();
    for (i, answer) in server.complete(&requests, &Silent).unwrap().into_iter().enumerate() {
        let text = answer.unwrap().text;
        let under_way: usize = text.strip_prefix(&format!("number {i} of ")).unwrap().parse().unwrap();
        assert!(under_way <= 2, "{under_way} requests at once");
    }
    assert_eq!(log.lock().unwrap().len(), 6);
}
