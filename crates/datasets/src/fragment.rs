//! What one record says of one paper; the fragments of a paper are joined into one.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sources::{Kind, Note, State};

use crate::record::{ArxivMatch, Review, Version};
use crate::scale::{Scale, label};
use crate::spec::Spec;

/// What one record says of one paper.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fragment {
    pub id: String,
    pub venue: Option<String>,
    pub year: Option<i32>,
    pub title: Option<String>,
    pub abstract_text: Option<String>,
    pub authors: Vec<String>,
    pub state: Option<State>,
    pub decision: Option<String>,
    pub reviews: Vec<Review>,
    pub meta_review: Option<String>,
    /// Final ratings, where they are listed apart from the reviews.
    pub ratings: Vec<f64>,
    pub ratings_initial: Vec<f64>,
    pub confidences: Vec<f64>,
    /// The paper's text, where the record holds it.
    pub text: Option<String>,
    pub text_version: Option<Version>,
    /// Day of the version of the text that is read.
    pub text_date: Option<String>,
    /// When it was submitted or first shown: `2023-09-28`, or as much of that as is known.
    pub date: Option<String>,
    /// Day of the first review.
    pub reviewed: Option<String>,
    /// Files of sources and PDFs, relative to the records, sources first.
    pub files: Vec<String>,
    pub arxiv: Option<ArxivMatch>,
    pub license: Option<String>,
    pub paper_id: Option<String>,
    /// Works that it cites, as Semantic Scholar lists them.
    pub references: Vec<Reference>,
    /// Changed last, milliseconds since 1970: of two versions of a note the later one counts.
    pub modified: Option<i64>,
    /// What was wrong with parts of it: each is counted.
    pub problems: Vec<String>,
}

/// A cited work as a service lists it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reference {
    pub paper_id: Option<String>,
    pub title: Option<String>,
    pub abstract_text: Option<String>,
    pub year: Option<i32>,
    pub doi: Option<String>,
}

/// A state by the words of recorded decisions (`accept_poster`, `reject_or_withdrawn`, …).
fn state(decision: &str) -> State {
    let d = decision.to_lowercase();
    match d.as_str() {
        "reject_or_withdrawn" => State::RejectedOrWithdrawn,
        _ if d.contains("desk") => State::DeskRejected,
        _ if d.contains("withdraw") => State::Withdrawn,
        _ if d.contains("reject") || d.contains("workshop") => State::Rejected,
        _ if d.contains("accept")
            || d.contains("poster")
            || d.contains("oral")
            || d.contains("spotlight") =>
        {
            State::Accepted
        }
        _ => State::Unknown,
    }
}

fn text(value: &Value, name: &str) -> Option<String> {
    value[name].as_str().map(str::trim).filter(|t| !t.is_empty()).map(String::from)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(|v| label(v).map(|l| l.value)).collect()
}

/// A recorded row: `id`, `title`, `year`, `ratings`, `reviews`, `text` and the like, or a fragment that a crawl wrote.
///
/// # Errors
/// With what is missing.
pub fn recorded(value: &Value) -> Result<Fragment, String> {
    let object = value.as_object().ok_or("it is no object")?;
    if object.contains_key("abstract_text") || object.contains_key("paper_id") {
        return serde_json::from_value(value.clone()).map_err(|e| e.to_string());
    }
    let Some(id) = text(value, "id") else {
        let keys: Vec<&str> = object.keys().map(String::as_str).take(8).collect();
        return Err(format!("it has no `id`; it has {}", keys.join(", ")));
    };
    // "ICLR 2026" and "ICLR" with a year beside it.
    let venue = text(value, "venue");
    let venue = venue.map(|v| v.split_whitespace().next().unwrap_or_default().to_string());
    let decision = text(value, "decision");
    let mut problems = Vec::new();
    let mut reviews = Vec::new();
    for (i, review) in value["reviews"].as_array().into_iter().flatten().enumerate() {
        let score = |name: &str| label(&review[name]).map(|l| l.value);
        let written = |name: &str| text(review, name);
        let rating = label(&review["rating"]);
        if rating.is_none() {
            problems.push(format!("review {}: {}", i + 1, no_rating(&review["rating"])));
        }
        reviews.push(Review {
            rating: rating.as_ref().map(|l| l.value),
            rating_label: rating.and_then(|l| l.label),
            confidence: score("confidence"),
            soundness: score("soundness"),
            presentation: score("presentation"),
            contribution: score("contribution"),
            summary: written("summary"),
            strengths: written("strengths"),
            weaknesses: written("weaknesses"),
            questions: written("questions"),
            text: written("text"),
            license: written("license"),
        });
    }
    let flags = &value["raw_flags"];
    let text_version = match (flags["anon"].as_bool(), flags["ack"].as_bool()) {
        (Some(true), _) => Some(Version::Submitted),
        (_, Some(true)) => Some(Version::CameraReady),
        (None, None) => None,
        _ => Some(Version::Unknown),
    };
    Ok(Fragment {
        venue,
        year: value["year"].as_i64().and_then(|y| i32::try_from(y).ok()),
        title: text(value, "title"),
        abstract_text: text(value, "abstract"),
        authors: value["authors"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|a| a.as_str().or(a["name"].as_str()).map(String::from))
            .collect(),
        state: decision.as_deref().map(state),
        decision,
        reviews,
        meta_review: text(value, "meta_review"),
        ratings: numbers(&value["ratings"]),
        ratings_initial: numbers(&value["ratings_initial"]),
        confidences: numbers(&value["confidences"]),
        text: text(value, "text"),
        date: text(value, "date").filter(|d| d.starts_with(|c: char| c.is_ascii_digit())),
        text_version,
        license: text(value, "license"),
        id,
        problems,
        ..Fragment::default()
    })
}

/// A row of a score table: `year,id,decision,ratings,confidences,ratings_initial,title`, lists separated by `;`.
///
/// # Errors
/// With what is missing.
pub fn score_row(get: &dyn Fn(&str) -> Option<String>) -> Result<Fragment, String> {
    let id = get("id").filter(|i| !i.is_empty()).ok_or("a row without `id`")?;
    let mut problems = Vec::new();
    let mut list = |name: &str| -> Vec<f64> {
        let Some(cell) = get(name) else { return Vec::new() };
        let parts = cell.split(';').map(str::trim).filter(|p| !p.is_empty());
        let mut out = Vec::new();
        for part in parts {
            match label(&Value::String(part.into())) {
                Some(l) => out.push(l.value),
                None => problems.push(format!("{name}: `{part}` is no number")),
            }
        }
        out
    };
    let (ratings, confidences, ratings_initial) =
        (list("ratings"), list("confidences"), list("ratings_initial"));
    let decision = get("decision").filter(|d| !d.is_empty());
    Ok(Fragment {
        id,
        year: get("year").and_then(|y| y.parse().ok()),
        venue: get("venue").filter(|v| !v.is_empty()),
        title: get("title").filter(|t| !t.is_empty()),
        state: decision.as_deref().map(state),
        decision,
        ratings,
        confidences,
        ratings_initial,
        problems,
        ..Fragment::default()
    })
}

fn no_rating(value: &Value) -> String {
    match value {
        Value::Null => "no rating".into(),
        Value::String(s) => {
            format!("a rating in free text (`{}`)", s.chars().take(60).collect::<String>().replace('\n', " "))
        }
        other => format!(
            "a rating that is no number (`{}`)",
            other.to_string().chars().take(60).collect::<String>()
        ),
    }
}

const FORM: [&str; 4] = ["summary", "strengths", "weaknesses", "questions"];
/// Fields that are answers to duties, not part of a review.
const DUTIES: [&str; 8] = [
    "title",
    "flag_for_ethics_review",
    "code_of_conduct",
    "rating",
    "recommendation",
    "confidence",
    "details_of_ethics_concerns",
    "first_time_reviewer",
];

/// A submission of OpenReview with its replies. Venue and year come from its invitation (`ICLR.cc/2024/…`).
pub fn submission(note: &Note, spec: &Spec) -> Fragment {
    let group = note.invitations.first().map(String::as_str).unwrap_or_default();
    let mut parts = group.split('/');
    let venue = parts.next().map(|v| v.split('.').next().unwrap_or(v).to_string()).filter(|v| !v.is_empty());
    let year: Option<i32> = parts.next().and_then(|y| y.parse().ok());
    let scale = venue.as_deref().zip(year).and_then(|(v, y)| spec.scale_of(v, y));
    let mut problems = Vec::new();
    let mut reviews = Vec::new();
    for reply in note.of(Kind::Review) {
        // Authors answer under the same invitation in some years.
        if reply.signatures.first().is_some_and(|s| s.ends_with("/Authors")) {
            continue;
        }
        reviews.push(review(reply, scale, &mut problems));
    }
    let meta = note.of(Kind::MetaReview).find_map(|n| n.text("metareview").or_else(|| n.text("meta_review")));
    let comment = || note.of(Kind::Decision).find_map(|n| n.text("comment"));
    Fragment {
        id: note.forum.clone(),
        venue,
        year,
        title: note.text("title").map(String::from),
        abstract_text: note.text("abstract").map(String::from),
        authors: note.list("authors"),
        state: Some(note.state()),
        decision: note.decision().map(String::from),
        meta_review: meta.or_else(comment).map(String::from),
        license: note.license.clone(),
        date: note.created.map(sources::day),
        reviewed: first_review(note),
        modified: note.modified,
        reviews,
        problems,
        ..Fragment::default()
    }
}

/// Day of a submission's first review.
pub fn first_review(note: &Note) -> Option<String> {
    note.of(Kind::Review).filter_map(|r| r.created).min().map(sources::day)
}

fn review(note: &Note, scale: Option<&Scale>, problems: &mut Vec<String>) -> Review {
    let default = ["rating".to_string(), "recommendation".to_string()];
    let fields = scale.map_or(&default[..], |s| &s.fields);
    let raw = fields.iter().find_map(|f| note.content.get(f)).cloned().unwrap_or_default();
    let rating = label(&raw);
    match (&rating, scale) {
        (None, _) => problems.push(format!("review {}: {}", note.id, no_rating(&raw))),
        (Some(l), Some(scale)) if !scale.has(l.value) => {
            problems.push(format!("review {}: the rating {} is not on the year's scale", note.id, l.value));
        }
        _ => {}
    }
    // A value that the year's form did not offer is no rating.
    let rating = rating.filter(|l| scale.is_none_or(|s| s.has(l.value)));
    let score = |name: &str| note.content.get(name).and_then(label).map(|l| l.value);
    let written = |name: &str| note.text(name).map(String::from);
    let mut other = Vec::new();
    for (name, value) in &note.content {
        let known = FORM.contains(&name.as_str())
            || DUTIES.contains(&name.as_str())
            || name == "summary_of_the_paper";
        let Some(text) = value.as_str().map(str::trim).filter(|t| !t.is_empty()) else { continue };
        if known || fields.contains(name) || label(value).is_some() {
            continue;
        }
        let heading = name.replace('_', " ");
        // A single field of the review's whole text needs no heading.
        other.push(if matches!(name.as_str(), "review" | "main_review") {
            text.to_string()
        } else {
            format!("{heading}:\n{text}")
        });
    }
    Review {
        rating: rating.as_ref().map(|l| l.value),
        rating_label: raw.as_str().map(String::from).filter(|_| rating.is_some()),
        confidence: score("confidence"),
        soundness: score("soundness"),
        presentation: score("presentation"),
        contribution: score("contribution"),
        summary: written("summary").or_else(|| written("summary_of_the_paper")),
        strengths: written("strengths"),
        weaknesses: written("weaknesses"),
        questions: written("questions"),
        text: (!other.is_empty()).then(|| other.join("\n\n")),
        license: note.license.clone(),
    }
}

impl Fragment {
    /// Joins another record of the same paper: what is absent here is taken from there, what is longer counts, and of
    /// two versions of a note the later one.
    pub fn join(&mut self, mut other: Fragment) {
        let other_is_later = other.modified > self.modified && self.modified.is_some();
        if other_is_later {
            std::mem::swap(self, &mut other);
        }
        fn fill<T>(a: &mut Option<T>, b: Option<T>) {
            if a.is_none() {
                *a = b;
            }
        }
        fn longer<T>(a: &mut Vec<T>, b: Vec<T>) {
            if b.len() > a.len() {
                *a = b;
            }
        }
        fill(&mut self.venue, other.venue);
        fill(&mut self.year, other.year);
        fill(&mut self.title, other.title);
        fill(&mut self.abstract_text, other.abstract_text);
        if self.state.is_none_or(|s| s == State::Unknown) && other.state.is_some() {
            self.state = other.state;
            self.decision = other.decision.or(self.decision.take());
        }
        fill(&mut self.meta_review, other.meta_review);
        fill(&mut self.text, other.text);
        fill(&mut self.text_version, other.text_version);
        fill(&mut self.text_date, other.text_date);
        fill(&mut self.date, other.date);
        fill(&mut self.reviewed, other.reviewed);
        self.files.extend(other.files);
        self.files.sort_by_key(|f| (f.to_lowercase().ends_with(".pdf"), f.clone()));
        self.files.dedup();
        fill(&mut self.arxiv, other.arxiv);
        fill(&mut self.license, other.license);
        fill(&mut self.paper_id, other.paper_id);
        longer(&mut self.authors, other.authors);
        longer(&mut self.reviews, other.reviews);
        // Lists of equal length may differ: the score table is the final one, so the later file in order counts.
        if other.ratings.len() >= self.ratings.len() && !other.ratings.is_empty() {
            self.ratings = other.ratings;
        }
        longer(&mut self.ratings_initial, other.ratings_initial);
        longer(&mut self.confidences, other.confidences);
        longer(&mut self.references, other.references);
        for problem in other.problems {
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
        self.modified = self.modified.max(other.modified);
    }

    /// The final ratings: as listed, else those of the reviews.
    pub fn final_ratings(&self) -> Vec<f64> {
        if self.ratings.is_empty() {
            self.reviews.iter().filter_map(|r| r.rating).collect()
        } else {
            self.ratings.clone()
        }
    }
}
