//! What an answer means for the next try.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::moment;

/// What to do after an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is an answer.
    Fine,
    /// Another try may help; the service may have said when.
    Again(String, Option<Duration>),
    /// It will not.
    Never(String),
}

/// Only these pass by themselves (openreview-py retries the same).
const PASSING: [u16; 5] = [429, 500, 502, 503, 504];

/// Judges a status other than success by its headers and body.
pub fn judge(status: u16, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Verdict {
    if (200..300).contains(&status) || status == 304 {
        return Verdict::Fine;
    }
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let what = format!("HTTP {status} {}", message(&value, body));
    if !PASSING.contains(&status) {
        return Verdict::Never(message(&value, body));
    }
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let after = header("retry-after").and_then(|v| retry_after(v, now));
    let reset = value["details"]["resetTime"].as_str().and_then(moment::rfc3339);
    let reset = reset.map(|at| at.duration_since(now).unwrap_or_default());
    Verdict::Again(what, after.max(reset))
}

/// The service's own words: `message`, `error`, the list that Crossref sends, or the beginning of the text.
pub fn message(value: &Value, body: &[u8]) -> String {
    let listed = || value["message"].as_array()?.first()?["message"].as_str();
    let found = value["message"].as_str().or_else(listed).or_else(|| value["error"].as_str());
    let text = found.map_or_else(|| String::from_utf8_lossy(body).into_owned(), String::from);
    let line = if is_html(body) { "an HTML page".into() } else { text };
    line.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// 2^attempt times the first pause, at most two minutes, with up to as much again as jitter (`share` in 0..1).
pub fn backoff(first: Duration, attempt: u32, share: f64) -> Duration {
    let pause = (first * 2u32.pow(attempt.min(16))).min(Duration::from_secs(120));
    pause.mul_f64(1.0 + share)
}

/// True for a web page, whatever its header says.
pub fn is_html(body: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&body[..body.len().min(512)]).trim_start().to_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html")
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn now() -> SystemTime {
        moment::rfc3339("2026-08-31T07:59:12Z").unwrap()
    }

    #[test]
    fn the_longest_of_what_a_service_says_is_waited_for() {
        let body = br#"{"name":"RateLimitError","message":"Too many requests","details":{"resetTime":"2026-08-31T08:59:12Z"}}"#;
        let mut headers = HeaderMap::new();
        let wait = |headers: &HeaderMap| match judge(429, headers, body, now()) {
            Verdict::Again(_, wait) => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(&headers), Some(Duration::from_secs(3_600)));
        headers.insert("retry-after", HeaderValue::from_static("7200"));
        assert_eq!(wait(&headers), Some(Duration::from_secs(7_200)));
        assert_eq!(retry_after("Mon, 31 Aug 2026 08:00:12 GMT", now()), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Mon, 31 Aug 2020 08:00:12 GMT", now()), Some(Duration::ZERO));
        assert_eq!(retry_after("-3", now()), None);
    }

    #[test]
    fn only_what_passes_by_itself_is_tried_again() {
        for status in [400, 401, 403, 404, 410, 501] {
            assert!(matches!(judge(status, &HeaderMap::new(), b"{}", now()), Verdict::Never(_)), "{status}");
        }
        let crossref =
            br#"{"message":[{"type":"cursor-invalid","message":"Cursor specified but it is invalid"}]}"#;
        assert_eq!(
            judge(404, &HeaderMap::new(), crossref, now()),
            Verdict::Never("Cursor specified but it is invalid".into())
        );
        assert_eq!(
            judge(404, &HeaderMap::new(), b"Resource not found.", now()),
            Verdict::Never("Resource not found.".into())
        );
    }
}
