//! The recipes that ship, as they stand in `recipes/`: to be used by name, or copied and changed.

/// A recipe that ships.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// What `--recipe` takes.
    pub name: &'static str,
    /// The TOML, comments and all.
    pub text: &'static str,
}

impl Shipped {
    /// Its first line of comment.
    pub fn summary(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
    }
}

/// Every recipe, the smallest first.
pub const ALL: [Shipped; 7] = [
    Shipped { name: "mini", text: include_str!("../recipes/mini.toml") },
    Shipped { name: "smollm2-sft", text: include_str!("../recipes/smollm2-sft.toml") },
    Shipped { name: "smollm2-dpo", text: include_str!("../recipes/smollm2-dpo.toml") },
    Shipped { name: "smollm2-simpo", text: include_str!("../recipes/smollm2-simpo.toml") },
    Shipped { name: "8b-simpo", text: include_str!("../recipes/8b-simpo.toml") },
    Shipped { name: "12b-cycleresearcher", text: include_str!("../recipes/12b-cycleresearcher.toml") },
    Shipped { name: "builtin", text: include_str!("../../builtin/recipes/both.toml") },
];

/// The recipe of that name, or the nearest name there is.
///
/// # Errors
/// The nearest name.
pub fn named(name: &str) -> Result<Shipped, &'static str> {
    among(&ALL, name)
}

/// The one of that name among those that ship, or the nearest name there is.
///
/// # Errors
/// The nearest name.
pub fn among(all: &[Shipped], name: &str) -> Result<Shipped, &'static str> {
    // By likeness, not by distance: a short name is not near to everything.
    let likeness = |n: &str| strsim::normalized_damerau_levenshtein(n, name);
    let near = all.iter().map(|r| r.name).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    all.iter().find(|r| r.name == name).copied().ok_or(near.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;

    #[test]
    fn every_recipe_that_ships_is_one_and_says_in_a_line_what_it_is() {
        for shipped in ALL {
            Recipe::parse(shipped.text, &[]).unwrap_or_else(|e| panic!("{}: {e}", shipped.name));
            let summary = shipped.summary();
            assert!(summary.len() > 20 && summary.len() < 120, "{}: {summary}", shipped.name);
        }
        assert_eq!(named("minni").unwrap_err(), "mini");
    }
}
