//! The server client against a local server that behaves as real ones do on bad days.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::{Router, routing::post};
use lm::{Finish, Grammar, LanguageModel, LmError, Message, Output, Request, Server, ServerOptions, Silent};
use serde_json::{Value, json};

/// What the server does with its n-th request.
#[derive(Clone)]
enum Act {
    Say(&'static str),
    Status(u16, Option<&'static str>),
    Cut(&'static str),
    Malformed,
    Hang,
}

fn event(text: &str, finish: Value) -> String {
    format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}, "finish_reason": finish}]}))
}

async fn play(act: Act) -> Response<Body> {
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
        Act::Cut(text) => stream(vec![Ok(event(text, Value::Null)), Err(std::io::Error::other("cut"))]),
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
                    let n = {
                        let mut seen = seen.lock().unwrap();
                        let key = headers.get("authorization").map(|v| v.to_str().unwrap().to_string());
                        seen.push((key, serde_json::from_slice(&body).unwrap()));
                        seen.len() - 1
                    };
                    play(acts[n.min(acts.len() - 1)].clone()).await
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

fn ask(acts: Vec<Act>) -> (Result<(String, Finish), LmError>, Log) {
    let (base, log) = serve(acts);
    let options = ServerOptions {
        key: Some("secret".into()),
        tries: 4,
        pause: Duration::from_millis(5),
        silence: Duration::from_millis(400),
        parallel: 2,
    };
    let server = Server::new(&base, "m", options).unwrap();
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
        Act::Status(500, None),
        Act::Cut("hel"),
        Act::Malformed,
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

#[test]
fn answers_stand_in_the_order_of_the_requests() {
    let (base, _) = serve(vec![Act::Status(500, None), Act::Say("later")]);
    let options = ServerOptions { pause: Duration::from_millis(5), ..ServerOptions::default() };
    let server = Server::new(&base, "m", options).unwrap();
    let requests: Vec<Request> = (0..5).map(|_| Request::new(vec![Message::user("hi")], 9)).collect();
    assert_eq!(server.complete(&requests, &Silent).unwrap().into_iter().filter(|r| r.is_ok()).count(), 5);
}
