//! Input that cannot be used: one test an item, each with its exit code and a clear message.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;

use support::{Home, checkpoint, has_builtin, paper, sample, tokenizer, with};

#[test]
fn files_that_cannot_be_read_exit_3_with_their_name() {
    let home = Home::new();
    home.fails(&["read", "missing.pdf"], 3, "missing.pdf");
    home.write("empty.pdf", "");
    home.fails(&["read", "empty.pdf"], 3, "empty.pdf");
    home.write("not.pdf", "just some words");
    home.fails(&["read", "not.pdf"], 3, "not.pdf");
    let whole = fs::read(sample()).unwrap();
    home.write("cut.pdf", &whole[..700]);
    home.fails(&["read", "cut.pdf"], 3, "cut.pdf");
    home.fails(&["review", "missing.pdf"], 3, "missing.pdf");
}

#[test]
fn checkpoints_that_cannot_be_used_exit_4() {
    let home = Home::new();
    home.write("half.gguf", b"GGUF\x03\0\0\0");
    home.fails(&["generate", "--prompt", "x", "--model", "half.gguf"], 4, "half.gguf");
    home.write("folder/config.json", r#"{"model_type": "mamba", "vocab_size": 3}"#);
    home.fails(&["generate", "--prompt", "x", "--model", "folder"], 4, "folder");
    home.write("shard/config.json", "{}");
    home.write("shard/model.safetensors.index.json", r#"{"weight_map": {"a": "model-1.safetensors"}}"#);
    home.fails(&["generate", "--prompt", "x", "--model", "shard"], 4, "model-1.safetensors");
    home.fails(&["generate", "--prompt", "x", "--model", "nowhere"], 4, "nowhere");
    home.fails(&["review", &sample(), "--model", "builtin:reviwer"], 4, "builtin:reviewer");
    home.fails(&["review", &sample(), "--model", "small:reviewer"], 4, "README");
}

#[test]
fn a_bibliography_with_broken_entries_keeps_the_good_ones() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write(
        "refs.bib",
        "@article{good2020, title={A good paper on agreement}, author={Ann Doe}, year={2020}}\n\n@article{broken, title={No end\n\n\
         @article{also2021, title={Another paper on scores}, author={Bo Li}, year={2021}}\n",
    );
    let output = home.run(&[
        "research",
        "--topic",
        "Agreement",
        "--references",
        "refs.bib",
        "--out",
        "draft",
        "--simulate",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for name in [
        "paper.pdf",
        "paper.tex",
        "references.bib",
        "paper.html",
        "paper.json",
        "experiment.json",
        "results.json",
        "manifest.json",
    ] {
        assert!(home.path("draft").join(name).exists(), "{name}");
    }
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path("draft/paper.json")).unwrap()).unwrap();
    assert_eq!(record["schema"], "cycle.paper/1");
    assert_eq!(record["simulated"], true);
    assert!(fs::read_to_string(home.path("draft/paper.html")).unwrap().contains("simulated results"));
    // The same words again: every stage is taken from the store.
    let before = fs::read(home.path("draft/paper.pdf")).unwrap();
    let again = home.run(&[
        "research",
        "--topic",
        "Agreement",
        "--references",
        "refs.bib",
        "--out",
        "again",
        "--simulate",
    ]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("stages are stored"));
    assert!(before == fs::read(home.path("again/paper.pdf")).unwrap());
}

#[test]
fn a_bad_file_among_good_ones_is_a_row_and_exit_1() {
    let home = Home::new();
    if !has_builtin(&home) {
        return;
    }
    home.write("papers/a.md", paper(1));
    home.write("papers/b.pdf", "no PDF");
    let output = home.run(&with(&["review", "papers", "--out", "out", "--jobs", "3"]));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let ranking = fs::read_to_string(home.path("out/ranking.csv")).unwrap();
    assert_eq!(ranking.lines().count(), 3, "{ranking}");
    assert!(home.path("out/a.md.json").exists());
}

/// A PDF of `pages` pages that share one line of text; `trailer` goes into its trailer.
fn pdf(pages: usize, trailer: &str) -> Vec<u8> {
    let content = "BT /F1 11 Tf 72 700 Td (One line on every page.) Tj ET";
    let kids: String = (0..pages).map(|i| format!("{} 0 R ", 5 + i)).collect();
    let mut bodies = vec![
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        format!("<</Type/Pages/Kids[{kids}]/Count {pages}>>"),
        format!("<</Length {}>>\nstream\n{content}\nendstream", content.len()),
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>".to_owned(),
    ];
    let page =
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 3 0 R/Resources<</Font<</F1 4 0 R>>>>>>";
    bodies.extend((0..pages).map(|_| page.to_owned()));
    let (mut out, mut table) = ("%PDF-1.7\n".to_string(), "0000000000 65535 f \n".to_string());
    for (i, body) in bodies.iter().enumerate() {
        table += &format!("{:010} 00000 n \n", out.len());
        out += &format!("{} 0 obj\n{body}\nendobj\n", i + 1);
    }
    let (start, size) = (out.len(), bodies.len() + 1);
    out += &format!(
        "xref\n0 {size}\n{table}trailer<</Size {size}/Root 1 0 R{trailer}>>\nstartxref\n{start}\n%%EOF\n"
    );
    out.into_bytes()
}

#[test]
fn three_thousand_pages_are_refused_with_the_numbers() {
    let home = Home::new();
    home.write("long.pdf", pdf(3000, ""));
    home.fails(&["review", "long.pdf"], 5, "3000 pages");
}

#[test]
fn a_password_is_named_as_the_reason() {
    let home = Home::new();
    let (owner, user) = ("ab".repeat(32), "cd".repeat(32));
    let encrypt = format!(
        "/Encrypt<</Filter/Standard/V 1/R 2/Length 40/P -4/O<{owner}>/U<{user}>>>/ID[<0123456789abcdef><0123456789abcdef>]"
    );
    home.write("locked.pdf", pdf(1, &encrypt));
    home.fails(&["read", "locked.pdf"], 3, "password");
}

#[test]
fn a_nan_weight_and_a_tokenizer_larger_than_the_embedding_are_named() {
    let home = Home::new();
    checkpoint(&home, "whole", |_, _| {});
    let output =
        home.run(&["generate", "--tokens", "1,5", "--model", "whole", "--max-tokens", "3", "--ignore-eos"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    checkpoint(&home, "nan", |tensor, values| {
        if tensor.contains("up_proj") {
            values[7] = f32::NAN;
        }
    });
    home.fails(&["generate", "--tokens", "1,5", "--model", "nan"], 4, "NaN");
    let verified = home.run(&["models", "verify", "nan", "--format", "json"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&verified.stdout).contains("up_proj"));
    checkpoint(&home, "wide", |_, _| {});
    tokenizer(&home, "wide", 40);
    home.fails(&["generate", "--tokens", "1,5", "--model", "wide"], 4, "40 tokens");
}

#[test]
fn a_cut_gguf_file_is_refused() {
    let home = Home::new();
    checkpoint(&home, "whole", |_, _| {});
    let header = [b"GGUF".to_vec(), 3u32.to_le_bytes().to_vec(), 9u64.to_le_bytes().to_vec()].concat();
    home.write("cut.gguf", header);
    home.fails(&["generate", "--tokens", "1", "--model", "cut.gguf"], 4, "cut.gguf");
    home.fails(&["models", "show", "cut.gguf"], 4, "cut.gguf");
}
