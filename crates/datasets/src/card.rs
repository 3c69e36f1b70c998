//! The card of a built set: what `datasets.load_dataset` reads, and what a person should know.

use std::fmt::Write;

use crate::build::Manifest;
use crate::spec::{Spec, SpecKind};

/// `README.md` of the folder.
pub fn card(spec: &Spec, manifest: &Manifest) -> String {
    let mut out = String::from("---\nlicense: other\nconfigs:\n- config_name: default\n  data_files:\n");
    for (part, rows) in &manifest.splits {
        if *rows > 0 {
            let _ = writeln!(out, "  - split: {part}\n    path: data/{part}.parquet");
        }
    }
    let _ = writeln!(out, "---\n\n# {}\n\n{}\n", spec.name, spec.description);
    out.push_str(
        "Built by `cycle dataset build`; the same rows stand in `data/*.parquet` and `jsonl/*.jsonl`.\n\n",
    );
    out.push_str("```python\nfrom datasets import load_dataset\nrows = load_dataset(\"FOLDER\", split=\"train\")\n\
         # The lines alone need the types: what is empty in the first rows would else have none.\n\
         lines = load_dataset(\"json\", data_files=\"FOLDER/jsonl/train.jsonl\", features=rows.features)\n```\n\n");
    out.push_str("```toml\n# cycle train sft --config recipe.toml\n[data]\ntrain = \"FOLDER/jsonl/train.jsonl\"\n```\n\n");
    out.push_str("## What is in it\n\n| part | rows |\n|---|---|\n");
    for (part, rows) in &manifest.splits {
        let _ = writeln!(out, "| {part} | {rows} |");
    }
    out.push_str("\n| step | papers left out |\n|---|---|\n");
    for step in &manifest.steps {
        let _ = writeln!(out, "| {} | {} |", step.step, step.left_out);
    }
    let _ = writeln!(
        out,
        "\nOf {} papers in {} records {} are rows. Every paper that is not is a line of `left_out.jsonl` with its reason; \
         what was wrong with parts of a paper ({} times) is in `problems.jsonl`.\n",
        manifest.papers, manifest.records, manifest.kept, manifest.problems
    );
    out.push_str("## Licences\n\n| licence of the paper | papers |\n|---|---|\n");
    for (license, n) in &manifest.licences {
        let _ = writeln!(out, "| {license} | {n} |");
    }
    out.push_str(
        "\nTexts stay with their authors. arXiv allows local use of its e-prints for research and no passing on unless a \
         paper's own licence does; reviews of OpenReview carry the licence that each note names. Check before you share.\n\n",
    );
    out.push_str(match spec.kind {
        SpecKind::Review => {
            "## What to know\n\nAccepted papers are mostly camera-ready versions and rejected ones submissions: names, thanks, \
             venue lines and addresses were removed, and `text_version` says which version was read; the length still tells. \
             Scales differ by year (`scale`): never mix ratings of different years without a map. `ratings` are final, \
             `ratings_initial` from before the discussion; the texts of some years carry the initial rating. A rating that \
             was not given or not readable is null, never zero.\n"
        }
        SpecKind::Research => {
            "## What to know\n\nOutlines were written by the model in `outline_model`. Every number of \
             `experimental_results` stands in the paper; that a result belongs where the outline puts it was not checked. \
             `resolved` of `cited` keys were found in the paper's bibliography.\n"
        }
    });
    out
}
