//! Embeds what is in `weights/`: `NAME.gguf` per model, or one `both.gguf` that serves all of them.

use std::{env, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=weights");
    println!("cargo::rerun-if-changed=cards");
    let folder = env::var("CARGO_MANIFEST_DIR")?;
    let folder = Path::new(&folder);
    let mut arms = String::new();
    for name in ["reviewer", "researcher"] {
        let find = |kind: &str, ending: &str| {
            [name, "both"]
                .iter()
                .map(|n| folder.join(kind).join(format!("{n}.{ending}")))
                .find(|p| p.exists())
        };
        if let (Some(weights), Some(card)) = (find("weights", "gguf"), find("cards", "md")) {
            arms += &format!(
                "        {name:?} => Some((include_bytes!({weights:?}), include_str!({card:?}))),\n"
            );
        }
    }
    let code = format!(
        "/// Weights and card of a model.\n#[allow(clippy::match_single_binding)]\nfn embedded(name: &str) -> Option<(&'static [u8], &'static str)> {{\n    \
         match name {{\n{arms}        _ => None,\n    }}\n}}\n"
    );
    fs::write(Path::new(&env::var("OUT_DIR")?).join("weights.rs"), code)?;
    Ok(())
}
