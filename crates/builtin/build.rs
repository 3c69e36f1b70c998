//! Embeds what is in `weights/` (`NAME.gguf` per model, or one `both.gguf` that serves all of them), `judges/` and
//! `adapters/` (a folder per model, its files as they are).

use std::{env, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=weights");
    println!("cargo::rerun-if-changed=cards");
    println!("cargo::rerun-if-changed=judges");
    println!("cargo::rerun-if-changed=adapters");
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
    let code = code
        + &folders("JUDGE_FILES", &folder.join("judges"))?
        + &folders("ADAPTER_FILES", &folder.join("adapters"))?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("weights.rs"), code)?;
    Ok(())
}

/// A table of folders and their files, as Rust.
fn folders(table: &str, folder: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let mut code = format!("/// Folders and their files.\nconst {table}: &[(&str, &[(&str, &[u8])])] = &[\n");
    for inner in sorted(folder)?.into_iter().filter(|p| p.is_dir()) {
        code += &format!("    ({:?}, &[\n", inner.file_name().unwrap_or_default());
        for file in sorted(&inner)?.into_iter().filter(|p| p.is_file()) {
            code +=
                &format!("        ({:?}, include_bytes!({file:?})),\n", file.file_name().unwrap_or_default());
        }
        code += "    ]),\n";
    }
    Ok(code + "];\n")
}

fn sorted(folder: &Path) -> Result<Vec<std::path::PathBuf>, std::io::Error> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    found.sort();
    Ok(found)
}
