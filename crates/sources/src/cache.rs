//! Answers on disk, by content: a body is a file named by its SHA-256, a question is a small file that names the body.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::SourceError;

/// Where answers are kept.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// What is known of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The question.
    pub url: String,
    /// SHA-256 (hex) of the body.
    pub sha256: String,
    /// The body's kind, as the service named it.
    pub content_type: String,
    /// For If-None-Match.
    pub etag: Option<String>,
    /// For If-Modified-Since.
    pub last_modified: Option<String>,
}

/// The beginning of a body that was cut.
#[derive(Debug, Default)]
pub struct Partial {
    /// What is there.
    pub bytes: Vec<u8>,
    /// The version it belongs to; without one it cannot be gone on with.
    pub validator: Option<String>,
}

/// SHA-256 as hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Cache {
    /// A cache in a folder, which is made.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(folder: &Path) -> Result<Self, SourceError> {
        for part in ["asked", "bodies", "cut"] {
            let folder = folder.join(part);
            fs::create_dir_all(&folder).map_err(SourceError::disk(&folder))?;
        }
        Ok(Self { folder: folder.into() })
    }

    /// The key of a question: method, address, body.
    pub fn key(method: &str, url: &str, body: &[u8]) -> String {
        let mut hasher = Sha256::new();
        for part in [method.as_bytes(), b"\n", url.as_bytes(), b"\n", body] {
            hasher.update(part);
        }
        hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    fn asked(&self, key: &str) -> PathBuf {
        self.folder.join("asked").join(&key[..2]).join(key)
    }

    fn body_path(&self, sha256: &str) -> PathBuf {
        self.folder.join("bodies").join(sha256.get(..2).unwrap_or("00")).join(sha256)
    }

    fn cut(&self, key: &str) -> PathBuf {
        self.folder.join("cut").join(key)
    }

    /// What was answered to a question, if its body is whole.
    pub fn get(&self, key: &str) -> Option<(Entry, Vec<u8>)> {
        let entry: Entry = serde_json::from_slice(&fs::read(self.asked(key)).ok()?).ok()?;
        let body = self.body(&entry.sha256)?;
        Some((entry, body))
    }

    /// A body by its hash; absent too where the file is not what its name says.
    pub fn body(&self, hash: &str) -> Option<Vec<u8>> {
        let body = fs::read(self.body_path(hash)).ok()?;
        (sha256(&body) == hash).then_some(body)
    }

    /// Gives a body a second name elsewhere on the same disk; false where that cannot be done.
    pub fn link(&self, hash: &str, to: &Path) -> bool {
        fs::hard_link(self.body_path(hash), to).is_ok()
    }

    /// Keeps an answer; the body first, so that an entry never names what is not there.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn put(&self, key: &str, entry: &Entry, body: &[u8]) -> Result<(), SourceError> {
        let path = self.body_path(&entry.sha256);
        // One that is there but damaged is written again.
        if self.body(&entry.sha256).is_none() {
            write(&path, body)?;
        }
        let text = serde_json::to_vec(entry).unwrap_or_default();
        write(&self.asked(key), &text)?;
        self.forget_cut(key);
        Ok(())
    }

    /// What an earlier try brought of a body.
    pub fn partial(&self, key: &str) -> Partial {
        let path = self.cut(key);
        let validator = fs::read_to_string(path.with_extension("validator")).ok();
        match validator {
            Some(validator) => {
                Partial { bytes: fs::read(&path).unwrap_or_default(), validator: Some(validator) }
            }
            None => Partial::default(),
        }
    }

    /// Keeps the beginning of a body.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn put_partial(&self, key: &str, partial: &Partial) -> Result<(), SourceError> {
        let Some(validator) = &partial.validator else { return Ok(()) };
        let path = self.cut(key);
        write(&path.with_extension("validator"), validator.as_bytes())?;
        write(&path, &partial.bytes)
    }

    /// Drops the beginning of a body.
    pub fn forget_cut(&self, key: &str) {
        let path = self.cut(key);
        let _ = fs::remove_file(path.with_extension("validator"));
        let _ = fs::remove_file(path);
    }
}

/// Writes under another name and renames.
fn write(path: &Path, bytes: &[u8]) -> Result<(), SourceError> {
    let disk = SourceError::disk(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(&disk)?;
    }
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("partial-{}-{n}", std::process::id()));
    let written = fs::File::create(&partial)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&partial);
        disk(e)
    })
}
