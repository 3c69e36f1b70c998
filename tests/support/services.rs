//! OpenReview (both APIs) and arXiv as a local server with planted failures, over papers that we made up.
#![allow(dead_code)] // each test file uses its part

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

/// Submissions of the venue.
pub const PAPERS: usize = 41;

/// What the server does besides answering.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It answers.
    Kind,
    /// The first answer to every address is a failure, each kind in turn.
    Planted,
}

struct Server {
    api: u8,
    mood: Mood,
    asked: Mutex<HashMap<String, usize>>,
    /// Papers that are listed.
    papers: AtomicUsize,
    log: Mutex<Vec<String>>,
}

/// A running server.
#[derive(Clone)]
pub struct Services {
    pub base: String,
    server: Arc<Server>,
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut builder = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body.into()).unwrap()
}

const WORDS: [&str; 12] = [
    "calibrated",
    "reviewers",
    "sparse",
    "graphs",
    "robust",
    "markets",
    "latent",
    "planning",
    "causal",
    "images",
    "speech",
    "proofs",
];

/// A title of its own for each paper.
pub fn title(n: usize) -> String {
    let w = |k: usize| WORDS[(n * 5 + k * 7 + n / 12) % 12];
    format!("{} {} for {} {} under {} number {n}", w(0), w(1), w(2), w(3), w(4))
}

fn words(n: usize, salt: usize, count: usize) -> String {
    let mut state = (n * 7919 + salt * 104_729 + 1) as u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    (0..count).map(|_| format!("{}{}", WORDS[next() % 12], next() % 50)).collect::<Vec<_>>().join(" ")
}

/// A paper's source: a LaTeX article with an abstract, a table and what it cites.
pub fn latex(n: usize) -> String {
    format!(
        "\\documentclass{{article}}\n\\title{{{}}}\n\\author{{Jane Doe{n}}}\n\\begin{{document}}\n\\maketitle\n\
         \\begin{{abstract}}\nNobody knows {}. We measure it. It is {}.{n} per cent.\n\\end{{abstract}}\n\
         \\section{{Introduction}}\n{} \\cite{{a{n}}}.\n\n{}\n\\section{{Experiments}}\n{}\n\
         \\begin{{table}}\\caption{{Scores of paper {n}}}\\begin{{tabular}}{{ll}}method & score\\\\ ours & 0.{}\\\\ theirs & 0.{}\\end{{tabular}}\\end{{table}}\n\
         \\section{{Conclusion}}\n{}\n\\begin{{thebibliography}}{{1}}\\bibitem{{a{n}}} A. Author. Cited work {n}. Venue, 2020.\\end{{thebibliography}}\n\\end{{document}}\n",
        title(n),
        words(n, 1, 20),
        n % 90 + 1,
        words(n, 2, 150),
        words(n, 3, 150),
        words(n, 4, 60),
        100 + n,
        200 + n,
        words(n, 5, 40)
    )
}

/// An archive with these files.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Written by hand: names that no honest program makes are wanted too.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn id(n: usize) -> String {
    format!("Paper{n:04}")
}

fn wrap(api: u8, value: Value) -> Value {
    if api == 2 { json!({ "value": value }) } else { value }
}

fn note(api: u8, id: &str, forum: &str, n: usize, path: &str, content: Value) -> Value {
    let content: serde_json::Map<String, Value> =
        content.as_object().unwrap().iter().map(|(k, v)| (k.clone(), wrap(api, v.clone()))).collect();
    let mut out = json!({
        "id": id, "forum": forum, "number": n, "content": content, "readers": ["everyone"], "tcdate": 1_700_000_000_000i64 + n as i64,
        "tmdate": 1_700_000_000_000i64 + n as i64, "ddate": null, "replyto": if id == forum { Value::Null } else { json!(forum) },
    });
    if api == 2 {
        out["invitations"] = json!([path, "TEST.cc/2024/Conference/-/Edit"]);
        out["version"] = json!(2);
        out["license"] = json!("CC BY 4.0");
    } else {
        out["invitation"] = json!(path);
    }
    out
}

fn submission(api: u8, n: usize) -> Value {
    let forum = id(n);
    let group = "TEST.cc/2024/Conference";
    let reply = |kind: &str| format!("{group}/Submission{n}/-/{kind}");
    let venueid = match n % 10 {
        9 => format!("{group}/Withdrawn_Submission"),
        _ => group.to_string(),
    };
    let content = json!({
        "title": title(n), "authors": [format!("Jane Doe{n}")], "venueid": venueid,
        "abstract": format!("Nobody knows {}. We measure it. It is {}.{n} per cent.", words(n, 1, 20), n % 90 + 1),
        "pdf": format!("/pdf/{n:040x}.pdf"),
    });
    let mut out = note(api, &forum, &forum, n, &format!("{group}/-/Submission"), content);
    let mut replies = Vec::new();
    for r in 0..3usize {
        let rating = [
            "3: reject, not good enough",
            "6: marginally above the acceptance threshold",
            "10: strong accept",
        ][(n + r) % 3];
        let content = json!({
            "summary": words(n, 10 + r, 12), "strengths": words(n, 20 + r, 10), "weaknesses": words(n, 30 + r, 14),
            "questions": "Why?", "rating": rating, "confidence": "4: confident", "soundness": "3 good",
            "presentation": "2 fair", "contribution": "3 good",
        });
        replies.push(note(
            api,
            &format!("{forum}r{r}"),
            &forum,
            n * 10 + r,
            &reply("Official_Review"),
            content,
        ));
    }
    let decision = if n.is_multiple_of(2) { "Accept (poster)" } else { "Reject" };
    replies.push(note(
        api,
        &format!("{forum}d"),
        &forum,
        n,
        &reply("Decision"),
        json!({ "decision": decision }),
    ));
    out["details"] = json!({ "replies": replies });
    out
}

impl Server {
    /// Those that are listed now. On API 1 the third paper goes while pages are read: all behind it move up by one.
    fn listed(&self, requests: usize) -> Vec<usize> {
        let gone = self.api == 1 && self.mood == Mood::Planted && requests >= 2;
        (1..=self.papers.load(Ordering::Relaxed)).filter(|n| !(gone && *n == 3)).collect()
    }

    fn notes(&self, query: &HashMap<String, String>, requests: usize) -> Response<Body> {
        if query.get("invitation").is_none_or(|i| i != "TEST.cc/2024/Conference/-/Submission") {
            return answer(200, &[], r#"{"notes":[],"count":0}"#);
        }
        let all = self.listed(requests);
        let limit: usize = query["limit"].parse().unwrap();
        let from = match (query.get("after"), query.get("offset")) {
            (Some(after), _) => all.iter().position(|n| id(*n) == *after).map_or(0, |i| i + 1),
            (_, Some(offset)) => offset.parse().unwrap(),
            _ => 0,
        };
        let notes: Vec<Value> = all.iter().skip(from).take(limit).map(|n| submission(self.api, *n)).collect();
        answer(
            200,
            &[("content-type", "application/json")],
            json!({ "notes": notes, "count": all.len() }).to_string(),
        )
    }

    /// Every third paper is on arXiv under its title; the hit before it is another paper.
    fn feed(&self, query: &HashMap<String, String>) -> Response<Body> {
        let asked = query["search_query"].trim_start_matches("ti:\"").trim_end_matches('"').to_string();
        let found = (1..=PAPERS).find(|n| title(*n) == asked && n.is_multiple_of(3));
        let entry = |id: String, title: String, author: String| {
            format!(
                "<entry><id>http://arxiv.org/abs/{id}</id><title>{title}</title><summary>S</summary><published>2024-01-01T00:00:00Z</published><updated>2024-01-01T00:00:00Z</updated><author><name>{author}</name></author></entry>"
            )
        };
        let entries = found.map_or(String::new(), |n| {
            entry("2401.99999v1".into(), "A survey of everything".into(), "A. Nother".into())
                + &entry(format!("2401.{n:05}v2"), title(n), format!("Jane Doe{n}"))
        });
        let total = if found.is_some() { 2 } else { 0 };
        answer(
            200,
            &[],
            format!(
                "<?xml version='1.0'?><feed xmlns=\"http://www.w3.org/2005/Atom\" xmlns:o=\"http://a9.com/-/spec/opensearch/1.1/\"><o:totalResults>{total}</o:totalResults>{entries}</feed>"
            ),
        )
    }

    fn file(&self, path: &str) -> Response<Body> {
        let n: usize = path.rsplit('.').next().unwrap_or("").trim_end_matches("v2").parse().unwrap_or(0);
        let source = latex(n);
        answer(200, &[("etag", "\"e\"")], archive(&[("main.tex", source.as_bytes())]))
    }
}

/// The first answer to every address is one of these, in turn.
fn planted(kind: usize, whole: Bytes) -> Option<Response<Body>> {
    Some(match kind % 6 {
        0 => answer(429, &[("retry-after", "0")], r#"{"message":"Too Many Requests"}"#),
        1 => answer(429, &[], r#"{"name":"RateLimitError","status":429}"#),
        2 => answer(503, &[], "down"),
        3 => {
            let half = whole.slice(..whole.len() / 2);
            // The first piece has to be on the wire before the second one fails.
            let body = Body::from_stream(futures::stream::unfold(Some(half), |half| async move {
                match half {
                    Some(half) => Some((Ok(half), None)),
                    None => {
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                        Some((Err(std::io::Error::other("cut")), None))
                    }
                }
            }));
            answer(200, &[("content-length", &whole.len().to_string())], body)
        }
        4 => answer(200, &[("content-type", "text/html")], "<!DOCTYPE html><html><body>Busy</body></html>"),
        _ => return None,
    })
}

async fn serve(State(server): State<Arc<Server>>, request: Request) -> Response<Body> {
    let uri = request.uri().clone();
    let query: HashMap<String, String> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|p| p.split_once('='))
        .map(|(k, v)| (k.to_string(), decoded(v)))
        .collect();
    let (first, requests) = {
        let mut asked = server.asked.lock().unwrap();
        let all = asked.values().sum::<usize>();
        let n = asked.entry(uri.to_string()).or_default();
        *n += 1;
        server.log.lock().unwrap().push(uri.to_string());
        (*n == 1, all)
    };
    let path = uri.path();
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
    let posted: Value = serde_json::from_slice(&body).unwrap_or_default();
    let whole = if path == "/notes" {
        server.notes(&query, requests)
    } else if path == "/groups" {
        answer(404, &[], r#"{"name":"NotFoundError","message":"Group Not Found"}"#)
    } else if path == "/api/query" {
        server.feed(&query)
    } else if path.starts_with("/src/") {
        server.file(path)
    } else if path == "/oai" {
        match query["identifier"].rsplit('.').next().unwrap_or("").parse::<usize>().unwrap_or(0) {
            n if n.is_multiple_of(2) => {
                answer(200, &[], "<OAI-PMH><error code=\"idDoesNotExist\">No such id</error></OAI-PMH>")
            }
            _ => answer(
                200,
                &[],
                "<OAI-PMH><GetRecord><license>http://creativecommons.org/licenses/by/4.0/</license></GetRecord></OAI-PMH>",
            ),
        }
    } else if path == "/v202/" || path == "/2023.acl.xml" || path == "/CVPR2023" {
        listing(path)
    } else if path == "/paper/search/match" {
        let n = (1..=PAPERS).find(|n| title(*n) == query["query"]);
        match n {
            // Semantic Scholar does not know every paper.
            Some(n) if !n.is_multiple_of(5) => answer(200, &[], json!({"data": [{
                "paperId": format!("{n:040x}"), "title": title(n), "authors": [{"name": format!("Jane Doe{n}")}],
                "externalIds": {"ArXiv": format!("2401.{n:05}")}, "matchScore": 99.0}]}).to_string()),
            _ => answer(404, &[], r#"{"error":"Title match not found"}"#),
        }
    } else if path == "/paper/batch" {
        let ids: Vec<usize> =
            posted["ids"].as_array().unwrap().iter().map(|i| number(i.as_str().unwrap())).collect();
        let papers: Vec<Value> = ids.iter().map(|n| if n.is_multiple_of(6) { Value::Null } else { json!({
            "paperId": format!("{n:040x}"), "title": title(*n),
            "references": [{"paperId": "c", "title": format!("Cited work {n}"), "abstract": null, "externalIds": {"DOI": format!("10.1/{n}")}}]}) }).collect();
        answer(200, &[], Value::Array(papers).to_string())
    } else if path == "/works" {
        let dois = query["filter"].trim_start_matches("doi:").to_string();
        let works: Vec<Value> = dois
            .split('|')
            .map(|d| {
                json!({
            "id": "https://openalex.org/W1", "doi": format!("https://doi.org/{d}"), "title": "Cited",
            "abstract_inverted_index": {"told": [1], "Abstract": [0], "again": [2]}})
            })
            .collect();
        answer(200, &[], json!({"meta": {"next_cursor": null}, "results": works}).to_string())
    } else if path == "/v1/chat/completions" {
        outline(&posted)
    } else if path == "/pdf" {
        match query["id"].trim_start_matches("Paper").parse::<usize>().unwrap_or(0) {
            // Taken back while we were reading: nothing is public any more.
            n if n.is_multiple_of(7) => {
                return answer(403, &[], r#"{"message":"User Guest does not have permission to see Note"}"#);
            }
            n => return answer(302, &[("location", &format!("/files/{n}.pdf"))], ""),
        }
    } else if path == "/notes/edits" {
        // Of every fourth paper the versions are not public; of the others the second one is the final one.
        match query["note.id"].trim_start_matches("Paper").parse::<usize>().unwrap_or(0) {
            n if n.is_multiple_of(4) => {
                return answer(403, &[], r#"{"message":"User Guest does not have permission to see Note"}"#);
            }
            n => {
                let edit = |k: i64| {
                    json!({"id": format!("e{n}-{k}"), "tcdate": 1_650_000_000_000i64 + k * 90_000_000_000, "ddate": null,
                           "note": {"id": id(n), "content": {"pdf": {"value": format!("/pdf/{k}.pdf")}}}})
                };
                answer(200, &[], json!({"edits": [edit(1), edit(0)], "count": 2}).to_string())
            }
        }
    } else if path == "/notes/edits/attachment" {
        let known = query["id"].ends_with("-0") && query["name"] == "pdf";
        if known {
            answer(200, &[], std::fs::read(crate::support::sample()).unwrap())
        } else {
            answer(404, &[], "{}")
        }
    } else if path.starts_with("/files/") {
        answer(200, &[], std::fs::read(crate::support::sample()).unwrap())
    } else {
        answer(404, &[], "{}")
    };
    if server.mood == Mood::Planted && first {
        let kind: usize = uri.to_string().bytes().map(usize::from).sum();
        let status = whole.status();
        let body = axum::body::to_bytes(whole.into_body(), usize::MAX).await.unwrap();
        return planted(kind, body.clone()).unwrap_or_else(|| answer(status.as_u16(), &[], body));
    }
    whole
}

fn number(id: &str) -> usize {
    id.rsplit('.').next().unwrap_or("").parse().unwrap_or(0)
}

/// Listings without an API share the papers among them.
fn listing(path: &str) -> Response<Body> {
    let some = |from: usize| (from..=PAPERS).step_by(3);
    let text = match path {
        "/2023.acl.xml" => {
            let one = |n: usize| format!("<paper id=\"{n}\"><title>{}</title><author><first>Jane</first><last>Doe{n}</last></author></paper>", title(n));
            format!("<collection id=\"2023.acl\"><volume id=\"long\">{}</volume></collection>", some(1).map(one).collect::<String>())
        }
        "/CVPR2023" => some(2).map(|n| format!("<dt class=\"ptitle\"><br><a href=\"/content/html/Doe{n}.html\">{}</a></dt><dd><input name=\"query_author\" value=\"Jane Doe{n}\"></dd>", title(n))).collect(),
        _ => some(3).map(|n| format!("<div class=\"paper\"><p class=\"title\">{}</p><span class=\"authors\">Jane Doe{n}</span><a href=\"/v202/doe{n}a.html\">abs</a></div>", title(n))).collect(),
    };
    answer(200, &[], text)
}

/// A model that outlines papers: of every fourth it invents a number.
fn outline(posted: &Value) -> Response<Body> {
    let prompt = posted["messages"][0]["content"].as_str().unwrap_or_default();
    let n = (1..=PAPERS).find(|n| prompt.contains(&format!("# {}\n", title(*n)))).unwrap_or(0);
    let score = if n.is_multiple_of(4) { "0.999".to_string() } else { format!("0.{}", 100 + n) };
    let table = json!([["method", "score"], ["ours", score]]);
    let outline = json!({
        "motivation": "Nobody knows.", "main_idea": "We measure it.",
        "experimental_setup": [{"name": "Scores", "description": "Both methods are scored."}],
        "experimental_results": [{"name": "Scores", "table": table, "description": "Ours is lower."}],
    });
    let text = format!("```json\n{outline}\n```");
    answer(200, &[("content-type", "application/json")], json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).to_string())
}

fn decoded(text: &str) -> String {
    let bytes = text.replace('+', " ").into_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let hex = std::str::from_utf8(&bytes[i + 1..i + 3]).unwrap();
                out.push(u8::from_str_radix(hex, 16).unwrap());
                i += 3;
            }
            b => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

impl Services {
    /// Starts a server in a thread of its own.
    pub fn start(api: u8, mood: Mood) -> Self {
        let papers = AtomicUsize::new(PAPERS);
        let server = Arc::new(Server { api, mood, papers, asked: Mutex::default(), log: Mutex::default() });
        let (send, receive) = std::sync::mpsc::channel();
        let shared = server.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                axum::serve(listener, Router::new().fallback(serve).with_state(shared)).await.unwrap();
            });
        });
        let address = receive.recv().unwrap();
        Self { base: format!("http://{address}"), server }
    }

    /// One more paper is submitted.
    pub fn submit(&self) {
        self.server.papers.fetch_add(1, Ordering::Relaxed);
    }

    /// All requests so far.
    pub fn requests(&self) -> usize {
        self.server.log.lock().unwrap().len()
    }

    /// Options that send every service here.
    pub fn options(&self) -> Vec<String> {
        let names = [
            "openreview1",
            "openreview2",
            "openreview-files",
            "arxiv",
            "arxiv-oai",
            "semantic-scholar",
            "openalex",
            "acl",
            "cvf",
            "pmlr",
        ];
        names.iter().flat_map(|n| ["--base".to_string(), format!("{n}={}", self.base)]).collect()
    }

    /// A specification of three venues that are listed without an API.
    pub fn research_spec() -> String {
        let venue = |name: &str, by: &str, id: &str| {
            format!("[[venue]]\nname = \"{name}\"\nyear = 2023\nlisted_by = \"{by}\"\nid = \"{id}\"\n")
        };
        "name = \"made-up\"\nkind = \"research\"\ndescription = \"Papers that we made up.\"\n[filters]\ncitations = 0.9\noutline = true\n\
         [near_duplicates]\naction = \"group\"\nsimilarity = 0.9\n[split]\nby = \"paper\"\ntest = 4\n"
            .to_string()
            + &venue("ACL", "acl", "2023.acl#long")
            + &venue("CVPR", "cvf", "CVPR2023")
            + &venue("ICML", "pmlr", "v202")
    }

    /// A specification of the venue.
    pub fn spec(&self, venue: &str) -> String {
        format!(
            "name = \"made-up\"\nkind = \"review\"\ndescription = \"Papers that we made up.\"\n[[venue]]\nname = \"TEST\"\nyear = 2024\n\
             listed_by = \"openreview\"\napi = \"{}\"\nid = \"{venue}\"\nsubmissions = \"{venue}/-/Submission\"\nscale = \"six\"\n\
             [scales.six]\nfields = [\"rating\"]\nvalues = [1, 3, 5, 6, 8, 10]\n[filters]\ndrop_states = [\"withdrawn\"]\nreviews = 3\n\
             abstract_chars = 20\ntext_chars = 100\n[near_duplicates]\naction = \"group\"\nsimilarity = 0.9\n[split]\nby = \"paper\"\ntest = 5\n",
            self.server.api
        )
    }
}
