//! The loops that ship, as they stand in `recipes/`: to be used by name, or copied and changed.

pub use training::recipes::Shipped;

/// Every loop, the smallest first.
pub const ALL: [Shipped; 4] = [
    Shipped { name: "micro", text: include_str!("../recipes/micro.toml") },
    Shipped { name: "mini", text: include_str!("../recipes/mini.toml") },
    Shipped { name: "small", text: include_str!("../recipes/small.toml") },
    Shipped { name: "8b", text: include_str!("../recipes/8b.toml") },
];

/// The loop of that name, or the name that is most like it.
///
/// # Errors
/// The most similar name.
pub fn named(name: &str) -> Result<Shipped, &'static str> {
    training::recipes::among(&ALL, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoopConfig;

    #[test]
    fn every_loop_that_ships_is_one() {
        for shipped in ALL {
            LoopConfig::parse(shipped.text, &[]).unwrap_or_else(|e| panic!("{}: {e}", shipped.name));
        }
    }

    #[test]
    fn a_mistyped_key_is_refused_and_the_nearest_one_offered() {
        let text = ALL[0].text.replace("\nper_prompt", "\nper_promt");
        let error = LoopConfig::parse(&text, &[]).unwrap_err().to_string();
        assert!(error.contains("did you mean per_prompt"), "{error}");
        let same = ALL[0].text.replace("\"method\"", "\"we\"");
        assert!(LoopConfig::parse(&same, &[]).unwrap_err().to_string().contains("the same"));
    }
}
