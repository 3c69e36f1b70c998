//! A local server with planted failures: what the HTTP layer makes of each, and how often it asks.
#![allow(clippy::unwrap_used)] // a test that cannot set itself up may fail

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use sources::{Ask, Http, HttpOptions, Keep, Limit, Service, SourceError, Want};

/// What was asked: path and headers, in order.
type Log = Arc<Mutex<Vec<(String, HeaderMap)>>>;

const PDF: &[u8] = b"%PDF-1.5 a paper that is long enough to be cut in the middle of its body";

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut builder = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body.into()).unwrap()
}

/// A body that says how long it is and ends before.
fn cut(status: u16, headers: &[(&str, &str)], part: &'static [u8]) -> Response<Body> {
    // The first piece has to be on the wire before the second one fails.
    let pieces = futures::stream::unfold(0, move |n| async move {
        match n {
            0 => Some((Ok(Bytes::from_static(part)), 1)),
            _ => {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Some((Err(std::io::Error::other("cut")), 2))
            }
        }
    });
    answer(status, headers, Body::from_stream(pieces))
}

async fn serve(State(log): State<Log>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_string();
    let headers = request.headers().clone();
    let tries = {
        let mut log = log.lock().unwrap();
        log.push((path.clone(), headers.clone()));
        log.iter().filter(|(p, _)| *p == path).count()
    };
    let range = headers.get("range").and_then(|r| r.to_str().ok()).map(String::from);
    match (path.as_str(), tries) {
        ("/busy", 1) => {
            answer(429, &[("retry-after", "0")], r#"{"message":"Too Many Requests.","code":"429"}"#)
        }
        ("/busy", 2) => answer(429, &[], "{}"),
        ("/busy", 3) => answer(503, &[], "down"),
        ("/busy" | "/page", _) => answer(200, &[("etag", "\"one\"")], r#"{"fine":true}"#),
        ("/html", 1) => {
            answer(200, &[("content-type", "application/json")], "<!DOCTYPE html><html>busy</html>")
        }
        ("/html", _) => answer(200, &[], "[1]"),
        ("/half", 1) => answer(200, &[], "[1,"),
        ("/half", _) => answer(200, &[], "[1,2]"),
        ("/cut", _) => match range {
            None => cut(200, &[("etag", "\"v1\""), ("content-length", &PDF.len().to_string())], &PDF[..20]),
            Some(range) => {
                assert_eq!(range, "bytes=20-");
                let part = format!("bytes 20-{}/{}", PDF.len() - 1, PDF.len());
                answer(206, &[("content-range", &part)], Body::from(&PDF[20..]))
            }
        },
        ("/changed", _) => match (range, tries) {
            (None, 1) => cut(200, &[("etag", "\"v1\""), ("content-length", "72")], &PDF[..20]),
            // The file is another one now: If-Range makes the service send all of it.
            _ => answer(200, &[("etag", "\"v2\"")], Body::from(PDF)),
        },
        ("/moved", _) => answer(302, &[("location", "/files/1.pdf")], ""),
        ("/files/1.pdf", _) => answer(200, &[], Body::from(PDF)),
        ("/robots.txt", _) => answer(200, &[], "User-agent: *\nCrawl-delay: 0.05\nDisallow: /private/\n"),
        ("/round", _) => answer(302, &[("location", "/round")], ""),
        ("/hour", _) => answer(
            429,
            &[],
            r#"{"name":"RateLimitError","message":"Too many requests","details":{"resetTime":"2099-08-31T08:59:25.212Z"}}"#,
        ),
        ("/large", _) => answer(200, &[], vec![b'x'; 100_000]),
        ("/silent", _) => {
            tokio::time::sleep(Duration::from_secs(20)).await;
            answer(200, &[], "[]")
        }
        ("/down", _) => answer(500, &[], "no"),
        ("/fresh", 1) => answer(200, &[("etag", "\"f1\"")], "[1]"),
        ("/fresh", 2) => {
            assert_eq!(headers["if-none-match"], "\"f1\"");
            answer(304, &[], "")
        }
        ("/fresh", _) => answer(200, &[("etag", "\"f2\"")], "[2]"),
        _ => answer(404, &[], r#"{"message":"The Note X was not found"}"#),
    }
}

struct Place {
    http: Http,
    log: Log,
    options: HttpOptions,
    _folder: tempfile::TempDir,
}

async fn place(change: impl FnOnce(&mut HttpOptions)) -> Place {
    let log: Log = Log::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(serve).with_state(log.clone());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let folder = tempfile::tempdir().unwrap();
    let mut options = HttpOptions::new(folder.path().join("cache"));
    options.bases = HashMap::from([(Service::OpenReview2, base.clone()), (Service::Cvf, format!("{base}/"))]);
    let limit = Limit { requests: 1000.0, per: Duration::from_secs(1), at_once: 1 };
    options.limits = HashMap::from([(Service::OpenReview2, limit), (Service::Cvf, limit)]);
    options.pause = Duration::from_millis(2);
    options.contact = Some("jane@example.org".into());
    change(&mut options);
    Place { http: Http::new(options.clone()).unwrap(), log, options, _folder: folder }
}

fn ask(path: &str, want: Want) -> Ask {
    Ask::get(Service::OpenReview2, path, want)
}

impl Place {
    async fn get(&self, path: &str, want: Want) -> Result<Vec<u8>, SourceError> {
        self.http.ask(&ask(path, want)).await.map(|a| a.body)
    }

    fn times(&self, path: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|(p, _)| p == path).count()
    }
}

#[tokio::test]
async fn what_passes_by_itself_is_waited_for_and_everything_is_asked_once() {
    let place = place(|_| {}).await;
    assert_eq!(place.get("/busy", Want::Json).await.unwrap(), br#"{"fine":true}"#);
    assert_eq!(place.get("/html", Want::Json).await.unwrap(), b"[1]");
    assert_eq!(place.get("/half", Want::Json).await.unwrap(), b"[1,2]");
    assert_eq!(place.get("/moved", Want::Pdf).await.unwrap(), PDF);
    let asked = place.http.sent();
    // 4 + 2 + 2 + 2: each planted failure costs one request, nothing more.
    assert_eq!(asked, 10);
    for path in ["/busy", "/html", "/half"] {
        place.get(path, Want::Json).await.unwrap();
    }
    assert_eq!(place.http.sent(), asked);
    let agent = place.log.lock().unwrap()[0].1["user-agent"].to_str().unwrap().to_string();
    assert!(agent.starts_with("cycle/") && agent.contains("jane@example.org"), "{agent}");
}

#[tokio::test]
async fn a_body_that_was_cut_goes_on_where_it_ended_unless_the_file_has_changed() {
    let place = place(|_| {}).await;
    assert_eq!(place.get("/cut", Want::Pdf).await.unwrap(), PDF);
    assert_eq!(place.times("/cut"), 2);
    let log = place.log.lock().unwrap()[1].1.clone();
    assert_eq!(log["if-range"], "\"v1\"");
    assert_eq!(place.get("/changed", Want::Pdf).await.unwrap(), PDF);
    assert_eq!(place.times("/changed"), 2);
}

#[tokio::test]
async fn what_does_not_pass_is_said_at_once_and_what_takes_an_hour_ends_the_run() {
    let place = place(|o| o.tries = 3).await;
    let refused = place.get("/nothing", Want::Json).await.unwrap_err();
    assert!(
        matches!(&refused, SourceError::Refused { status: 404, message, .. } if message.contains("not found")),
        "{refused}"
    );
    assert_eq!(place.times("/nothing"), 1);
    assert!(matches!(place.get("/hour", Want::Json).await, Err(SourceError::Later { .. })));
    assert_eq!(place.times("/hour"), 1);
    assert!(matches!(place.get("/down", Want::Json).await, Err(SourceError::Unreachable { tries: 3, .. })));
    assert_eq!(place.times("/down"), 3);
    assert!(matches!(place.get("/round", Want::Pdf).await, Err(SourceError::Unexpected { .. })));
    let mut large = ask("/large", Want::Page);
    large.max_bytes = 1_000;
    assert!(matches!(place.http.ask(&large).await, Err(SourceError::TooLarge { limit: 1_000, .. })));
}

#[tokio::test]
async fn the_budget_and_offline_are_kept_and_a_changed_page_is_asked_for_with_its_tag() {
    let place = place(|o| o.budget = Some(3)).await;
    for (wanted, cached) in [("[1]", false), ("[1]", true), ("[2]", false)] {
        let answer = place.http.ask(&ask("/fresh", Want::Json).keep(Keep::Revalidate)).await.unwrap();
        assert_eq!((String::from_utf8(answer.body).unwrap(), answer.cached), (wanted.to_string(), cached));
    }
    assert!(matches!(place.get("/page", Want::Json).await, Err(SourceError::Budget(3))));
    let offline = Http::new(HttpOptions { offline: true, ..place.options.clone() }).unwrap();
    assert_eq!(offline.ask(&ask("/fresh", Want::Json).keep(Keep::Revalidate)).await.unwrap().body, b"[2]");
    assert!(matches!(offline.ask(&ask("/page", Want::Json)).await, Err(SourceError::Offline { .. })));
    assert_eq!(offline.sent(), 0);
}

#[tokio::test]
async fn a_service_that_says_nothing_is_left_and_a_proxy_is_asked_in_its_place() {
    let silent = place(|o| {
        o.silence = Duration::from_millis(50);
        o.tries = 2;
    })
    .await;
    let error = silent.get("/silent", Want::Json).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Unreachable { what, tries: 2, .. } if what.contains("no answer within")),
        "{error}"
    );
    // A name that does not exist: only the proxy can have answered.
    let place = place(|o| {
        o.proxy = o.bases.get(&Service::OpenReview2).cloned();
        o.bases = HashMap::from([(Service::OpenReview2, "http://papers.invalid".to_string())]);
    })
    .await;
    assert_eq!(place.get("/page", Want::Json).await.unwrap(), br#"{"fine":true}"#);
    assert_eq!(place.times("/page"), 1);
}

#[tokio::test]
async fn pages_without_an_api_are_fetched_as_far_as_their_robots_txt_allows() {
    let place = place(|_| {}).await;
    let page = |path: &str| {
        Ask::get(Service::Cvf, format!("{}{path}", place.options.bases[&Service::OpenReview2]), Want::Page)
    };
    let begun = std::time::Instant::now();
    for path in ["/page", "/busy", "/private/papers"] {
        let answer = place.http.ask(&page(path)).await;
        assert_eq!(
            matches!(answer, Err(SourceError::Robots { .. })),
            path == "/private/papers",
            "{path}: {answer:?}"
        );
    }
    assert_eq!((place.times("/robots.txt"), place.times("/private/papers")), (1, 0));
    // /page, then /busy in four tries: the delay that it asks for lies between them.
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}
