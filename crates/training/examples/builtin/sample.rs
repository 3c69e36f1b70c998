//! What a model writes for held-out rows, unedited, in the product's layout and with its sampling.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use inference::{Engine, EngineOptions, Part, Plan, Row, Sampling, Script};
use models::{LoadOptions, Model, ModelSource};

use crate::rows;

/// Prints the answers to the questions of rows `rows` of a file.
pub fn run(model: &Path, file: &Path, wanted: &[usize]) -> Result<(), Box<dyn Error>> {
    let source = ModelSource::parse(&model.to_string_lossy());
    let model = Arc::new(Model::load(&source, &LoadOptions::default())?);
    let engine = Engine::new(model.clone(), EngineOptions::default());
    let all = rows::read(file)?;
    let mut batch = Vec::new();
    for &row in wanted {
        let messages = all.get(row).and_then(|r| r["messages"].as_array()).ok_or("no such row")?;
        let asked = messages.get(..2).ok_or("a row has three messages")?;
        let review = messages[2]["content"].as_str().is_some_and(|c| c.starts_with("## Reviewer"));
        batch.push(Row {
            prompt: model.encode_chat(&model.chat.render(&asked, true)?)?,
            plan: Plan::Script(if review { form() } else { first_half() }),
            sampling: Sampling {
                temperature: 0.4,
                top_p: 0.95,
                repetition_penalty: 1.1,
                no_repeat_ngram: 5,
                ..Sampling::default()
            },
            seed: row as u64,
            logprobs: false,
        });
    }
    let started = std::time::Instant::now();
    let mut tokens = 0;
    for (row, output) in wanted.iter().zip(engine.run(batch, &mut ())?) {
        let output = output?;
        tokens += output.generated;
        let title =
            all[*row]["messages"][1]["content"].as_str().and_then(|c| c.lines().next()).unwrap_or_default();
        println!("==== row {row}: {title}\n\n{}\n", output.text);
        for (name, part) in &output.parts {
            if let Some(chosen) = &part.chosen {
                let values: Vec<String> =
                    chosen.distribution.iter().map(|(v, p)| format!("{v} {p:.2}")).collect();
                println!("{name}: {} (mass {:.3})", values.join(", "), chosen.mass);
            }
        }
    }
    println!("{tokens} tokens in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// The opening ends within the line break: a tokenizer cuts "\n\n" and "- " differently where a word follows, and a
/// model that finds the cut of a digit there writes a digit.
fn free(parts: &mut Vec<Part>, name: &str, opening: &str, stop: &[&str], max_tokens: usize) {
    parts.push(Part::Literal(opening.into()));
    let stop = stop.iter().map(|s| (*s).to_string()).collect();
    parts.push(Part::Free { name: name.into(), stop, max_tokens, min_tokens: 8, grammar: None });
}

fn choice(parts: &mut Vec<Part>, name: &str, heading: &str, options: &[&str]) {
    parts.push(Part::Literal(format!("\n### {heading}\n\n")));
    let options = options.iter().map(|o| (*o).to_string()).collect();
    parts.push(Part::Choice { name: name.into(), options, terminator: "\n".into() });
}

/// The form of ICLR 2026 as the panel lays it out.
fn form() -> Script {
    const GRADES: [&str; 4] = ["1 poor", "2 fair", "3 good", "4 excellent"];
    let mut parts = vec![Part::Literal("## Reviewer\n".into())];
    let stop = ["\n#", "**********"];
    free(&mut parts, "summary", "\n### Summary\n", &stop, 200);
    parts.push(Part::Literal("\n".into()));
    choice(&mut parts, "soundness", "Soundness", &GRADES);
    choice(&mut parts, "presentation", "Presentation", &GRADES);
    choice(&mut parts, "contribution", "Contribution", &GRADES);
    for (name, heading, most) in
        [("strengths", "Strengths", 200), ("weaknesses", "Weaknesses", 320), ("questions", "Questions", 160)]
    {
        free(&mut parts, name, &format!("\n### {heading}\n"), &stop, most);
        parts.push(Part::Literal("\n".into()));
    }
    choice(
        &mut parts,
        "rating",
        "Rating",
        &[
            "0: strong reject",
            "2: reject, not good enough",
            "4: marginally below the acceptance threshold",
            "6: marginally above the acceptance threshold",
            "8: accept, good paper",
            "10: strong accept, should be highlighted",
        ],
    );
    choice(&mut parts, "confidence", "Confidence", &["1", "2", "3", "4", "5"]);
    Script { parts }
}

/// The first stages of a paper.
fn first_half() -> Script {
    let mut parts = Vec::new();
    free(&mut parts, "motivation", "## Motivation\n", &["\n#", "```"], 160);
    free(&mut parts, "idea", "\n\n## Main Idea\n", &["\n#", "```"], 200);
    free(&mut parts, "title", "\n\n```latex\n\\title{", &["}", "\n"], 40);
    free(&mut parts, "abstract", "}\n\n\\begin{abstract}\n", &["\n\\end", "\\end"], 280);
    free(
        &mut parts,
        "introduction",
        "\n\\end{abstract}\n\n\\section{Introduction}\n",
        &["\n\\section", "```"],
        300,
    );
    Script { parts }
}
