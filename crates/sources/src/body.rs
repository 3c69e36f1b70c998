//! Bodies: read behind what is there of them, and judged by what was asked for.

use futures::StreamExt;

use crate::ask::Want;
use crate::cache::Partial;
use crate::retry::is_html;

/// Why a body was not read to an end of any kind.
pub enum Unread {
    /// Another part than was asked for.
    OtherPart,
    /// More bytes than are allowed.
    TooLarge,
}

/// Reads a body behind what is there of it, at most `most` bytes in all; whether it is whole is the second half. A
/// service that says nothing for `silence` has cut it.
pub async fn read(
    response: reqwest::Response,
    partial: Partial,
    most: u64,
    silence: std::time::Duration,
) -> Result<(Partial, Result<(), String>), Unread> {
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(String::from);
    let goes_on = response.status().as_u16() == 206
        && header("content-range").and_then(|r| {
            r.trim_start_matches("bytes").trim().split('-').next()?.trim().parse::<usize>().ok()
        }) == Some(partial.bytes.len());
    if response.status().as_u16() == 206 && !goes_on {
        return Err(Unread::OtherPart);
    }
    let strong = header("etag").filter(|e| !e.starts_with("W/"));
    let mut out = Partial { bytes: Vec::new(), validator: strong.or_else(|| header("last-modified")) };
    if goes_on {
        out.bytes = partial.bytes;
        out.validator = partial.validator;
    }
    let mut parts = response.bytes_stream();
    let whole = loop {
        match tokio::time::timeout(silence, parts.next()).await {
            Err(_) => break Err("the body fell silent".into()),
            Ok(None) => break Ok(()),
            Ok(Some(Err(e))) => break Err(format!("the body was cut ({})", reason(&e))),
            Ok(Some(Ok(bytes))) => out.bytes.extend_from_slice(&bytes),
        }
        if out.bytes.len() as u64 > most {
            return Err(Unread::TooLarge);
        }
    };
    Ok((out, whole))
}

/// Whether a body is what was asked for.
pub fn check(want: Want, body: &[u8]) -> Result<(), String> {
    let html = is_html(body);
    match want {
        Want::Page => Ok(()),
        _ if html => Err("an HTML page in place of what was asked for".into()),
        Want::Json => serde_json::from_slice::<serde::de::IgnoredAny>(body)
            .map(|_| ())
            .map_err(|e| format!("no whole JSON ({e})")),
        Want::Xml if body.trim_ascii_start().starts_with(b"<") => Ok(()),
        Want::Xml => Err("no XML".into()),
        Want::Pdf if body[..body.len().min(1024)].windows(5).any(|w| w == b"%PDF-") => Ok(()),
        Want::Pdf => Err("no PDF".into()),
        Want::Package if body.is_empty() => Err("an empty file".into()),
        Want::Package => Ok(()),
    }
}

/// The innermost cause of a transport error.
pub fn reason(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
