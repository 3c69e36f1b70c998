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
