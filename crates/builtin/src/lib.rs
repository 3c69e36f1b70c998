//! The small models that ship in the binary, so that the main job runs on a fresh machine with no download.
//!
//! `builtin:reviewer` and `builtin:researcher` are GGUF files embedded at build time; their cards say what they were
//! trained on, what they reach and what they cannot do. Recipes stand in `recipes/`.

/// Names after `builtin:`.
pub const NAMES: [&str; 2] = ["reviewer", "researcher"];

/// A model that is part of the binary.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// The name after `builtin:`.
    pub name: &'static str,
    /// A whole GGUF file.
    pub weights: &'static [u8],
    /// Data, steps, loss, held-out figures, limits; Markdown.
    pub card: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/weights.rs"));

/// The shipped model of that name; `None` in a build without its weights.
pub fn shipped(name: &str) -> Option<Shipped> {
    let name = NAMES.into_iter().find(|n| *n == name)?;
    let (weights, card) = embedded(name)?;
    Some(Shipped { name, weights, card })
}

/// Score models that ship, by name. `judge-a` and `judge-b` share neither weights nor papers; `judge-g` compares (GPM), from
/// the papers of `judge-a`.
pub const JUDGES: [&str; 3] = ["judge-a", "judge-b", "judge-g"];

/// The files of a score model's folder, by name; `None` in a build without it.
pub fn judge(name: &str) -> Option<&'static [(&'static str, &'static [u8])]> {
    JUDGE_FILES.iter().find(|(n, _)| *n == name).map(|(_, files)| *files)
}

/// The PEFT adapter of `small:NAME` on SmolLM2-135M-Instruct.
#[derive(Debug, Clone, Copy)]
pub struct SmallAdapter {
    /// The files of its folder, by name.
    pub files: &'static [(&'static str, &'static [u8])],
    /// Data, steps, loss, held-out figures, limits; Markdown.
    pub card: &'static str,
}

/// The adapter of that name; `None` in a build without it.
pub fn adapter(name: &str) -> Option<SmallAdapter> {
    let files = ADAPTER_FILES.iter().find(|(n, _)| *n == name)?.1;
    let card = files.iter().find(|(n, _)| *n == "README.md")?.1;
    Some(SmallAdapter { files, card: std::str::from_utf8(card).ok()? })
}
