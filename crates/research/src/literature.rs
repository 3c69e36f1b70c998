//! The references that a paper may cite.

use documents::{BibEntry, Bibliography};
use typeset::Citation;

use crate::prompts;

/// What may be cited.
#[derive(Debug, Clone, Default)]
pub struct Literature {
    /// In the order of the bibliography.
    pub entries: Vec<BibEntry>,
    /// What was wrong with the bibliography.
    pub problems: Vec<String>,
}

impl From<Bibliography> for Literature {
    fn from(b: Bibliography) -> Self {
        let entries = b.entries.into_iter().filter(|e| e.title.is_some()).collect();
        Self { entries, problems: b.problems }
    }
}

impl Literature {
    /// References as the model reads them, whole entries until `fits` says no; and what was left out, in words.
    ///
    /// Entries nearest to the topic come first; abstracts are shortened to their first sentences before entries go.
    pub fn told(&self, topic: Option<&str>, fits: &dyn Fn(&str) -> bool) -> (String, Vec<String>) {
        let order = self.nearest(topic.unwrap_or_default());
        let render = |count: usize, words: usize| -> String {
            let parts: Vec<String> = order
                .iter()
                .take(count)
                .map(|&i| {
                    let e = &self.entries[i];
                    let short = e.abstract_text.as_ref().filter(|_| words > 0).map(|t| first_words(t, words));
                    let title = e.title.as_deref().unwrap_or_default();
                    let year = e.year.map(|y| y.to_string());
                    prompts::reference(&e.key, title, year.as_deref(), short.as_deref())
                })
                .collect();
            parts.join("\n\n")
        };
        for (words, what) in
            [(10_000, ""), (60, "abstracts cut to their first sentences"), (0, "abstracts left out")]
        {
            let text = render(order.len(), words);
            if fits(&text) {
                return (text, if what.is_empty() { Vec::new() } else { vec![what.to_string()] });
            }
        }
        let mut count = order.len();
        while count > 1 && !fits(&render(count, 0)) {
            count = count * 3 / 4;
        }
        let left = order.len() - count;
        (
            render(count, 0),
            vec!["abstracts left out".into(), format!("{left} of {} references left out", order.len())],
        )
    }

    /// Entries by shared words with a text, most first.
    pub fn nearest(&self, text: &str) -> Vec<usize> {
        let words = |t: &str| -> std::collections::BTreeSet<String> {
            t.to_lowercase()
                .split(|c: char| !c.is_alphanumeric())
                .filter(|w| w.len() > 3)
                .map(String::from)
                .collect()
        };
        let wanted = words(text);
        let mut order: Vec<(usize, usize)> = self
            .entries
            .iter()
            .enumerate()
            .map(|(i, e)| (words(e.title.as_deref().unwrap_or_default()).intersection(&wanted).count(), i))
            .collect();
        order.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        order.into_iter().map(|o| o.1).collect()
    }

    /// An entry as it is set.
    pub fn citation(&self, key: &str) -> Option<Citation> {
        let e = self.entries.iter().find(|e| e.key == key)?;
        Some(Citation {
            key: e.key.clone(),
            authors: e.authors.clone(),
            year: e.year.map(|y| y.to_string()),
            title: e.title.clone().unwrap_or_default(),
            venue: e.venue.clone(),
            locator: None,
            bibtex: e.bibtex.clone(),
        })
    }
}

fn first_words(text: &str, words: usize) -> String {
    let all: Vec<&str> = text.split_whitespace().collect();
    if all.len() <= words {
        return all.join(" ");
    }
    let cut = all[..words].join(" ");
    match cut.rfind(". ") {
        Some(end) => cut[..=end].to_string(),
        None => cut,
    }
}
