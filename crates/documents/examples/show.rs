//! Prints what a reviewer reads of a paper: `cargo run -p documents --example show FILE [TOKENS]` (tokens are words here).

use documents::{Limits, TextBudget, read_isolated, reviewer_text};
use std::path::Path;

fn main() {
    documents::worker_main_if_requested();
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: show FILE [TOKENS]");
        std::process::exit(2);
    };
    let count = |text: &str| text.split_whitespace().count();
    let max_tokens = arguments.next().and_then(|n| n.parse().ok());
    match read_isolated(Path::new(&path), &Limits::default()) {
        Ok(document) => {
            for finding in &document.findings {
                eprintln!("{finding:?}");
            }
            let text = reviewer_text(
                &document,
                &TextBudget { max_tokens, count: &count, references: true, appendix: true },
            );
            eprintln!("{} of {} tokens; left out: {:?}", text.tokens, text.tokens_wanted, text.cut);
            println!("{}", text.text);
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(error.exit_code());
        }
    }
}
