//! What a set was made from, and what it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::BuildOptions;
use crate::error::DatasetError;
use crate::gather::{self, Input};
use crate::messages;
use crate::papers;
use crate::spec::Spec;
use crate::steps::StepCount;
use crate::write::Written;

/// What a set was made from and what it is. No clock and no path of a machine stands in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `cycle.dataset/1`.
    pub schema: String,
    /// The specification's name.
    pub name: String,
    /// The specification.
    pub spec: Spec,
    /// Of all that the set depends on.
    pub fingerprint: String,
    /// Files that were read.
    pub inputs: Vec<Input>,
    /// Records in them.
    pub records: usize,
    /// Papers that they are about.
    pub papers: usize,
    /// Rows of the set.
    pub kept: usize,
    /// Parts and their rows.
    pub splits: BTreeMap<String, usize>,
    /// What each step left out.
    pub steps: Vec<StepCount>,
    /// Things that were wrong with parts of papers, also of those that were left out.
    pub problems: usize,
    /// Licences of the papers in it.
    pub licences: BTreeMap<String, usize>,
    /// Lists that were kept out, with their sizes.
    pub kept_out: Vec<(String, usize)>,
    /// The set's files.
    pub files: Vec<Written>,
    /// Over the names and hashes of the files.
    pub hash: String,
}

/// Changes when rows are made otherwise.
const VERSION: u32 = 3;

/// Lists to keep out: the specification's, where they exist beside the records, and those that were named.
pub(super) fn keep_out(spec: &Spec, options: &BuildOptions<'_>) -> Vec<(String, PathBuf)> {
    let own =
        spec.leakage.keep_out.iter().map(|n| (n.clone(), options.from.join(n))).filter(|(_, p)| p.exists());
    let named = options.keep_out.iter().map(|p| (gather::name(p), p.clone()));
    own.chain(named).collect()
}

/// Of all that a set depends on: specification, words, model, files.
pub(super) fn fingerprint(
    spec: &Spec,
    options: &BuildOptions<'_>,
    files: &[PathBuf],
    keep_out: &[(String, PathBuf)],
) -> Result<String, DatasetError> {
    let rows =
        format!("{VERSION} {} {} {}", papers::FORMAT, messages::words_sha256(), env!("CARGO_PKG_VERSION"));
    let mut text = format!("{rows}\n{}\n", serde_json::to_string(spec).unwrap_or_default());
    text += &format!("{:?}\n", options.limit);
    if let Some(model) = options.model {
        text += &format!("{} {:?}\n", model.info().reference, model.info().sha256);
    }
    for file in files {
        text += &format!("{} {}\n", gather::name(file), gather::file_sha256(file)?);
    }
    for (name, path) in keep_out {
        let inside = if path.is_dir() { list(path)? } else { vec![path.clone()] };
        for file in inside {
            text += &format!("out {name} {} {}\n", gather::name(&file), gather::file_sha256(&file)?);
        }
    }
    Ok(sources::sha256(text.as_bytes()))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).map_err(DatasetError::reading(folder))? {
        out.push(entry.map_err(DatasetError::reading(folder))?.path());
    }
    out.retain(|p| p.is_file());
    out.sort();
    Ok(out)
}
