//! The published dialogue over a large model that writes freely: what it cites, invents and leaves out is dealt with.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use documents::BibEntry;
use lm::{
    Capabilities, Completion, Finish, LanguageModel, LmError, Message, ModelInfo, Output, Part, PartOutcome,
    Progress, Request, Script, Silent, Usage,
};
use research::{
    Brief, Draft, Literature, Provenance, Researcher, Results, StageSink, default_sampling, folder,
};
use serde_json::{Value, json};
use typeset::Style;

const FIRST: &str = "## Motivation\n\nReviewers disagree.\n\n## Main Idea\n\nAsk eight of them.\n\n```latex\n\
    \\title{Eight Reviewers}\n\n\\begin{abstract}\nWe ask 8 reviewers.\n\\end{abstract}\n\n\\section{Introduction}\n\
    As \\citet{doe2020} shows and \\citep{doe2O20, ghost1999} claim.\n\n\\section{Method}\nWe ask.\n```\n\n\
    ## Experimental Setup\n\n```json\n[{\"name\": \"Agreement\", \"description\": \"Leave one out.\"}]\n\n```";
const SECOND: &str =
    "```latex\n\\section{Results}\nAgreement is 0.43, not 0.99.\n\n\\section{Conclusion}\nWeak.\n```\n\n";
const RESULTS: &str = r#"[{"name": "Agreement", "result": {"table": [["", "rho"], ["one", "0.43"]]}}]"#;

/// Says what a test tells it, in order.
struct Puppet {
    info: ModelInfo,
    answers: Mutex<Vec<&'static str>>,
    asked: Mutex<Vec<Request>>,
}

impl Puppet {
    fn new(answers: &[&'static str]) -> Self {
        let info = ModelInfo {
            reference: "puppet".into(),
            sha256: None,
            context: None,
            builtin: false,
            parameters: Some(12_000_000_000),
        };
        Self {
            info,
            answers: Mutex::new(answers.iter().rev().copied().collect()),
            asked: Mutex::new(Vec::new()),
        }
    }
}

impl LanguageModel for Puppet {
    fn info(&self) -> &ModelInfo {
        &self.info
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { scripts: true, grammars: true }
    }
    fn count_tokens(&self, _: &str) -> Option<usize> {
        None
    }
    fn count_prompt(&self, _: &[Message]) -> Option<usize> {
        None
    }
    fn complete(
        &self,
        requests: &[Request],
        _: &dyn Progress,
    ) -> Result<Vec<Result<Completion, LmError>>, LmError> {
        self.asked.lock().unwrap().extend(requests.iter().cloned());
        let answer = |request: &Request| {
            if let Output::Script(script) = &request.output {
                return Ok(filled_in(script));
            }
            let text = self.answers.lock().unwrap().pop().expect("one question too many").to_string();
            let (parts, usage) = (BTreeMap::new(), Usage::default());
            Ok(Completion { text, parts, finish: Finish::Eos, usage, prompt_sha256: "5a".into() })
        };
        Ok(requests.iter().map(answer).collect())
    }
}

/// Every part says its own name; a long one breaks off in its second sentence.
fn filled_in(script: &Script) -> Completion {
    let mut parts = BTreeMap::new();
    for part in &script.parts {
        let (name, text, finish) = match part {
            Part::Literal(_) => continue,
            Part::Choice { name, options, .. } => (name, options[0].clone(), Finish::Stop),
            Part::Free { name, max_tokens, .. } if *max_tokens > 200 => {
                (name, format!("The {name}. It breaks"), Finish::Length)
            }
            Part::Free { name, .. } => (name, format!("The {name}"), Finish::Stop),
        };
        parts.insert(name.clone(), PartOutcome { text, choice: None, finish });
    }
    let (text, usage) = (String::new(), Usage::default());
    Completion { text, parts, finish: Finish::Stop, usage, prompt_sha256: "5a".into() }
}

#[derive(Default)]
struct Memory(Vec<(String, Value)>);

impl StageSink for Memory {
    fn stored(&self, name: &str) -> Option<Value> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }
    fn store(&mut self, name: &str, value: &Value) -> Result<(), String> {
        self.0.push((name.into(), value.clone()));
        Ok(())
    }
}

fn literature() -> Literature {
    let entry = BibEntry {
        key: "doe2020".into(),
        entry_type: "article".into(),
        title: Some("On agreement".into()),
        authors: vec!["Jane Doe".into()],
        year: Some(2020),
        venue: None,
        abstract_text: Some("It is weak.".into()),
        locator: "refs.bib:1".into(),
        bibtex: "@article{doe2020, title = {On agreement}, author = {Jane Doe}, year = {2020}}".into(),
    };
    Literature { entries: vec![entry], problems: Vec::new() }
}

fn brief(results: Results) -> Brief {
    let sampling = default_sampling();
    Brief {
        topic: Some("Agreement".into()),
        literature: literature(),
        results,
        sampling,
        seed: 1,
        max_tokens: None,
    }
}

fn set(draft: &Draft) -> research::PaperFolder {
    let by = Provenance { model: "puppet".into(), sha256: None, seed: 1 };
    folder(draft, &literature(), Style::Iclr, &by).unwrap()
}

fn file(set: &research::PaperFolder, name: &str) -> String {
    String::from_utf8_lossy(&set.files.iter().find(|(n, _)| n == name).unwrap().1).into_owned()
}

#[test]
fn without_results_the_draft_stops_after_the_set_up() {
    let model = Puppet::new(&[FIRST]);
    let mut memory = Memory::default();
    let researcher = Researcher { model: &model, progress: &Silent };
    let draft = researcher.write(&brief(Results::Stop), &mut memory).unwrap();
    assert_eq!(draft.setup, json!([{"name": "Agreement", "description": "Leave one out."}]));
    assert!(draft.results.is_none() && draft.second.is_none());
    let asked = model.asked.lock().unwrap();
    assert!(
        asked.len() == 1 && asked[0].output == Output::Free,
        "a large model writes freely, set-up and all"
    );
    let words = &asked[0].messages[1].content;
    assert!(words.find("Abstract: It is weak.").unwrap() < words.find("@article{doe2020").unwrap());
    // What is stored is not asked for again.
    let silent = Puppet::new(&[]);
    let again = Researcher { model: &silent, progress: &Silent }.write(&brief(Results::Stop), &mut memory);
    assert_eq!(again.unwrap().first, draft.first);
}

#[test]
fn citations_are_kept_repaired_or_removed_and_every_number_has_an_origin() {
    let model = Puppet::new(&[FIRST, SECOND]);
    let given = Results::Given(serde_json::from_str(RESULTS).unwrap());
    let researcher = Researcher { model: &model, progress: &Silent };
    let set = set(&researcher.write(&brief(given), &mut Memory::default()).unwrap());
    assert_eq!((set.citations.kept, set.citations.repaired, set.citations.removed), (1, 1, 1));
    assert_eq!(set.unbacked_numbers, 1);
    let tex = file(&set, "paper.tex");
    assert!(tex.contains("\\citet{doe2020}") && !tex.contains("ghost1999") && !tex.contains("simulated"));
    let record: Value = serde_json::from_str(&file(&set, "paper.json")).unwrap();
    let text = record["paper"].to_string();
    for (number, origin) in [("0.43", "results"), ("0.99", "text"), ("8", "text")] {
        assert!(
            text.contains(&format!("{{\"number\":{{\"text\":\"{number}\",\"origin\":\"{origin}\"}}}}")),
            "{text}"
        );
    }
}

#[test]
fn invented_results_are_marked_in_every_file() {
    let model = Puppet::new(&[FIRST, SECOND]);
    let researcher = Researcher { model: &model, progress: &Silent };
    let results: Value = serde_json::from_str(RESULTS).unwrap();
    let mut memory = Memory(vec![("results".into(), json!({ "results": results }))]);
    let draft = researcher.write(&brief(Results::Simulate), &mut memory).unwrap();
    let set = set(&draft);
    assert!(draft.simulated && file(&set, "results.json").contains("\"origin\": \"simulated\""));
    for name in ["paper.tex", "paper.html"] {
        assert!(file(&set, name).contains(typeset::SIMULATED_MARK), "{name}");
    }
    assert!(file(&set, "paper.json").contains("\"simulated\": true"));
}

#[test]
fn text_without_title_or_section_is_asked_for_again_under_the_script() {
    let model = Puppet::new(&["I cannot do that."]);
    let researcher = Researcher { model: &model, progress: &Silent };
    let mut memory = Memory::default();
    researcher.write(&brief(Results::Stop), &mut memory).unwrap();
    assert_eq!(memory.stored("first").unwrap()["attempts"], 2);
    let asked = model.asked.lock().unwrap();
    assert!(asked[0].output == Output::Free && matches!(asked[1].output, Output::Script(_)));
    let first = memory.stored("first").unwrap();
    let text = first["text"].as_str().unwrap();
    assert!(text.contains("\\title{The title}") && text.contains("\\citep{doe2020}"), "{text}");
    assert!(
        text.contains("The method.\n```") && !text.contains("It breaks"),
        "an unfinished sentence goes: {text}"
    );
}

#[test]
fn results_that_are_no_list_of_names_and_results_are_refused() {
    for bad in ["{}", "[]", r#"[{"name": "x"}]"#, r#"[{"name": "x", "result": {"table": []}}]"#] {
        let model = Puppet::new(&[]);
        let researcher = Researcher { model: &model, progress: &Silent };
        let given = Results::Given(serde_json::from_str(bad).unwrap());
        let error = researcher.write(&brief(given), &mut Memory::default()).unwrap_err();
        assert!(matches!(error, research::ResearchError::Results(_)), "{bad}");
    }
}
