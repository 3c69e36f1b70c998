//! What an archive of sources holds besides the paper: names that lead out of it, links, what unpacks without end.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Limits of one archive.
const MOST_BYTES: u64 = 256 << 20;
const MOST_ENTRIES: usize = 10_000;

/// What was found in an archive, without unpacking it anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hazards {
    /// Entries with an absolute name or one that leads out of the folder: they are read under a name inside it.
    pub outside: usize,
    /// Links, devices and the like: they are not followed.
    pub links: usize,
    /// Set if it unpacks to more than is read.
    pub bomb: Option<String>,
}

impl Hazards {
    /// Each as a sentence for the report.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.outside > 0 {
            out.push(format!(
                "{} names in the archive lead out of its folder; read under a name inside",
                self.outside
            ));
        }
        if self.links > 0 {
            out.push(format!("{} links in the archive were not followed", self.links));
        }
        out.extend(self.bomb.clone());
        out
    }
}

/// Looks through an archive in a stream: memory does not depend on what it unpacks to.
pub fn hazards(bytes: &[u8]) -> Hazards {
    let mut out = Hazards::default();
    let packed = bytes.starts_with(&[0x1f, 0x8b]);
    let stream: Box<dyn Read> =
        if packed { Box::new(flate2::read::MultiGzDecoder::new(bytes)) } else { Box::new(bytes) };
    let mut counted = Counted { inner: stream, bytes: 0 };
    let mut head = [0u8; 512];
    let mut filled = 0;
    while filled < head.len() {
        match counted.read(&mut head[filled..]) {
            Ok(0) | Err(_) => break,
            Ok(n) => filled += n,
        }
    }
    let is_tar = head.get(257..262) == Some(b"ustar");
    let bomb = |n: u64| {
        format!("it unpacks to more than {} MiB ({} bytes packed, {n} read)", MOST_BYTES >> 20, bytes.len())
    };
    if !is_tar {
        // A single file.
        let mut sink = std::io::sink();
        let _ = std::io::copy(&mut counted.by_ref().take(MOST_BYTES + 1), &mut sink);
        if counted.bytes > MOST_BYTES {
            out.bomb = Some(bomb(counted.bytes));
        }
        return out;
    }
    let again = std::io::Cursor::new(head[..filled].to_vec()).chain(counted.take(MOST_BYTES + 1));
    let mut archive = tar::Archive::new(again);
    let Ok(entries) = archive.entries() else { return out };
    let mut total = 0u64;
    for (i, entry) in entries.enumerate() {
        let Ok(entry) = entry else { break };
        total = total.saturating_add(entry.size());
        if total > MOST_BYTES || i >= MOST_ENTRIES {
            out.bomb = Some(bomb(total));
            break;
        }
        let kind = entry.header().entry_type();
        if !kind.is_file() && !kind.is_dir() && !kind.is_pax_global_extensions() {
            out.links += 1;
        }
        let leads_out = entry.path().is_ok_and(|p| {
            p.is_absolute() || p.components().any(|c| matches!(c, std::path::Component::ParentDir))
        });
        out.outside += usize::from(leads_out);
    }
    out
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

/// A file's bytes, if it is not too large to be a paper.
pub fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > MOST_BYTES {
        return Err(format!("a file of {} MiB", size >> 20));
    }
    std::fs::read(path).map_err(|e| e.to_string())
}
