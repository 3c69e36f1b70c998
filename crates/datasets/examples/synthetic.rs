//! Writes so many made-up papers with reviews as records, and a specification for them:
//! `cargo run --release -p datasets --example synthetic -- 100000 DIR`, then
//! `cycle dataset build DIR/spec.toml --from DIR/records --out DIR/set`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::json;

const WORDS: usize = 20_000;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let count: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(1_000);
    let folder = args.next().unwrap_or_else(|| "synthetic".into());
    let folder = Path::new(&folder);
    fs::create_dir_all(folder.join("records"))?;
    fs::write(
        folder.join("spec.toml"),
        "name = \"synthetic\"\nkind = \"review\"\ndescription = \"Made-up papers.\"\n[scales.six]\nfields = [\"rating\"]\n\
         values = [1, 3, 5, 6, 8, 10]\n[filters]\nreviews = 3\nratings = 3\n[split]\nby = \"paper\"\ntest_share = 0.1\n",
    )?;
    let mut out = BufWriter::new(File::create(folder.join("records").join("papers.jsonl"))?);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut words = |n: usize| (0..n).map(|_| format!("w{}", next() % WORDS)).collect::<Vec<_>>().join(" ");
    for i in 0..count {
        let ratings = [1, 3, 5, 6, 8, 10];
        let review = |k: u64, text: String| json!({"rating": ratings[((i + k) % 6) as usize], "confidence": 3, "text": text});
        let reviews = [review(0, words(120)), review(1, words(120)), review(2, words(120))];
        let row = json!({
            "id": format!("s{i:07}"), "venue": "MADE", "year": 2000 + i % 20, "title": format!("{} {i}", words(8)),
            "abstract": words(150), "text": words(700), "decision": if i % 3 == 0 { "accept" } else { "reject" },
            "reviews": reviews,
        });
        writeln!(out, "{row}")?;
    }
    out.flush()
}
