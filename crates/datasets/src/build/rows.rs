//! From a paper's joined fragments to its row, or to the step that leaves it out.

use std::collections::BTreeSet;

use sources::State;

use super::Builder;
use crate::error::DatasetError;
use crate::fragment::Fragment;
use crate::licence;
use crate::messages::{self, Form};
use crate::papers::{PaperText, markdown};
use crate::record::{ResearchRow, ReviewRow, TextSource, Version};
use crate::research::{self, join_abstracts};
use crate::spec::{LaterText, PaperPart};
use crate::steps::Step;

/// Why there is no row.
pub(super) enum Stop {
    /// The paper is left out.
    Step(Step, String),
    /// The build as a whole cannot go on.
    Whole(DatasetError),
}

impl Builder<'_> {
    /// Whether a paper is of the wanted venues and of no list that is kept out.
    pub(super) fn belongs(&self, paper: &Fragment) -> Result<(), (Step, String)> {
        if !self.spec.venue.is_empty() {
            let (name, year) = (paper.venue.as_deref().unwrap_or("?"), paper.year.unwrap_or_default());
            if self.spec.venue_of(name, year).is_none() {
                return Err((Step::OtherVenue, format!("{name} {year} is not in the specification")));
            }
        }
        let title = paper.title.as_deref().unwrap_or_default();
        for set in &self.keep_out {
            let text = paper.abstract_text.as_deref();
            if let Some((other, same, alike)) =
                set.find(&paper.id, title, text, self.spec.near_duplicates.similarity)
            {
                let same = serde_json::to_value(same).unwrap_or_default();
                let how = same.as_str().unwrap_or_default().replace('_', " ");
                return Err((Step::KeptOut, format!("{other} of {} ({how}, {alike:.2})", set.name)));
            }
        }
        Ok(())
    }

    pub(super) fn form(&mut self, venue: Option<&str>, year: Option<i32>) -> Result<&Form, Stop> {
        let key = (venue.map(String::from), year);
        if !self.forms.contains_key(&key) {
            let form = Form::named(self.spec.messages.form.as_deref(), venue, year);
            let what = |what| Stop::Whole(DatasetError::Spec { place: self.spec.name.clone(), what });
            self.forms.insert(key.clone(), form.map_err(what)?);
        }
        Ok(&self.forms[&key])
    }

    pub(super) fn review_row(&mut self, paper: &mut Fragment) -> Result<ReviewRow, Stop> {
        let spec = self.spec;
        let filters = &spec.filters;
        let stop = |step, why: String| Err(Stop::Step(step, why));
        let read = self.first_readable(paper)?;
        if let Some(Ok(text)) = &read {
            paper.title = paper.title.take().or_else(|| text.title.clone());
            paper.abstract_text = paper.abstract_text.take().or_else(|| text.abstract_text.clone());
            paper.problems.extend(text.problems.iter().cloned());
        }
        let Some(title) = paper.title.clone() else {
            // A file that is no paper is why there is no title.
            return match read {
                Some(Err(why)) => stop(Step::Unreadable, why),
                _ => stop(Step::NoTitle, "no record of it has a title".into()),
            };
        };
        let state = paper.state.unwrap_or(State::Unknown);
        let is_wanted = filters.only_states.is_empty() || filters.only_states.contains(&state);
        if filters.drop_states.contains(&state) || !is_wanted {
            let name = serde_json::to_value(state).unwrap_or_default();
            return stop(
                Step::State,
                format!("it is {}", name.as_str().unwrap_or_default().replace('_', " ")),
            );
        }
        if let Some(text) = &paper.abstract_text {
            let n = text.chars().count();
            if n < filters.abstract_chars {
                return stop(Step::ShortAbstract, format!("an abstract of {n} characters"));
            }
        }
        let written = paper.reviews.iter().filter(|r| r.has_text()).count();
        if written < filters.reviews {
            return stop(
                Step::Reviews,
                format!("{written} reviews with text, {} are wanted", filters.reviews),
            );
        }
        let ratings = paper.final_ratings();
        if ratings.len() < filters.ratings {
            return stop(Step::Ratings, format!("{} ratings, {} are wanted", ratings.len(), filters.ratings));
        }
        if let Some(why) = licence::refusal(paper.license.as_deref(), &spec.licences) {
            return stop(Step::Licence, why);
        }
        let (paper_text, text_source, text_version) = match (read, paper.text.take()) {
            (Some(Ok(text)), _) => (text.text, text.source, text.version),
            (unread, Some(text)) => {
                if let Some(Err(why)) = unread {
                    paper
                        .problems
                        .push(format!("its file could not be read ({why}); the record's text is used"));
                }
                let version = paper.text_version.unwrap_or(Version::Unknown);
                (recorded_text(&title, paper.abstract_text.as_deref(), &text), TextSource::Record, version)
            }
            (Some(Err(why)), None) if filters.paper == PaperPart::Full => return stop(Step::Unreadable, why),
            (unread, None) => {
                if let Some(Err(why)) = unread {
                    paper.problems.push(format!("its file could not be read ({why})"));
                }
                let text = recorded_text(&title, paper.abstract_text.as_deref(), "");
                let source =
                    if paper.abstract_text.is_some() { TextSource::Abstract } else { TextSource::Title };
                (text, source, Version::Unknown)
            }
        };
        let text_version = version(text_version, text_source, paper, state);
        let is_later = text_version == Version::CameraReady
            || paper
                .text_date
                .as_ref()
                .zip(paper.reviewed.as_ref())
                .is_some_and(|(text, review)| text > review);
        if is_later && filters.later_text == LaterText::Drop {
            return stop(Step::LaterText, "its text is later than its reviews".into());
        }
        let part = match text_source {
            TextSource::Title => PaperPart::Title,
            TextSource::Abstract => PaperPart::Abstract,
            _ => PaperPart::Full,
        };
        if part < filters.paper {
            let has = if part == PaperPart::Title { "title" } else { "title and abstract" };
            return stop(Step::PaperText, format!("only {has} are there"));
        }
        if part == PaperPart::Full && paper_text.chars().count() < filters.text_chars {
            return stop(Step::PaperText, format!("a text of {} characters", paper_text.chars().count()));
        }
        let shown: Vec<_> = {
            let with_text = paper.reviews.iter().filter(|r| r.has_text()).cloned();
            let mut shown: Vec<_> = with_text.collect();
            shown.sort_by(|a, b| a.rating.unwrap_or(f64::MAX).total_cmp(&b.rating.unwrap_or(f64::MAX)));
            shown.truncate(spec.messages.reviews.unwrap_or(usize::MAX));
            shown
        };
        let meta = paper.meta_review.clone();
        let form = self.form(paper.venue.as_deref(), paper.year)?;
        let messages = messages::panel(&paper_text, form, &shown, meta.as_deref(), state).map_err(|e| {
            Stop::Whole(DatasetError::Spec { place: "prompts/review/panel.md".into(), what: e })
        })?;
        let scale =
            paper.venue.as_deref().zip(paper.year).and_then(|(v, y)| spec.venue_of(v, y)?.scale.clone());
        let review_licenses: BTreeSet<String> =
            paper.reviews.iter().filter_map(|r| r.license.clone()).collect();
        Ok(ReviewRow {
            id: paper.id.clone(),
            venue: paper.venue.clone(),
            year: paper.year,
            date: paper.date.clone(),
            title,
            abstract_text: paper.abstract_text.clone(),
            state,
            decision: paper.decision.clone(),
            mean: (!ratings.is_empty()).then(|| ratings.iter().sum::<f64>() / ratings.len() as f64),
            ratings,
            ratings_initial: paper.ratings_initial.clone(),
            confidences: if paper.confidences.is_empty() {
                paper.reviews.iter().filter_map(|r| r.confidence).collect()
            } else {
                paper.confidences.clone()
            },
            scale,
            reviews: paper.reviews.clone(),
            meta_review: meta,
            paper_text,
            text_source,
            text_version,
            text_date: paper.text_date.clone(),
            reviewed: paper.reviewed.clone(),
            arxiv: paper.arxiv.clone(),
            license: paper.license.as_deref().map(licence::normal),
            review_licenses: review_licenses.into_iter().collect(),
            messages,
        })
    }

    /// The text of the first of a paper's files that is one: sources before PDFs. What is wrong with the others is a
    /// problem; if none is one, the last one's reason is the paper's.
    fn first_readable(&self, paper: &mut Fragment) -> Result<Option<Result<PaperText, String>>, Stop> {
        let mut last = None;
        for file in &paper.files {
            match self.text_of(file).map_err(Stop::Whole)? {
                Ok(text) => {
                    if let Some(why) = last {
                        paper.problems.push(format!("its sources could not be read ({why}); its PDF was"));
                        paper.text_date = None;
                    }
                    return Ok(Some(Ok(text)));
                }
                Err(why) => last = Some(why),
            }
        }
        Ok(last.map(Err))
    }

    pub(super) fn research_row(&mut self, paper: &mut Fragment) -> Result<ResearchRow, Stop> {
        let spec = self.spec;
        let stop = |step, why: String| Err(Stop::Step(step, why));
        let Some(file) = paper.files.first() else {
            return stop(Step::PaperText, "there are no sources of it".into());
        };
        let read = match self.sources_of(file).map_err(Stop::Whole)? {
            Ok(read) => read,
            Err(why) => return stop(Step::Unreadable, why),
        };
        paper.problems.extend(read.problems.iter().cloned());
        paper
            .problems
            .extend(read.unresolved.iter().map(|k| format!("`{k}` is cited and not in the bibliography")));
        let Some(title) = read.title.clone().or_else(|| paper.title.clone()) else {
            return stop(Step::NoTitle, "neither record nor source has a title".into());
        };
        paper.title = Some(title.clone());
        let state = paper.state.unwrap_or(State::Unknown);
        let is_wanted = spec.filters.only_states.is_empty() || spec.filters.only_states.contains(&state);
        if spec.filters.drop_states.contains(&state) || !is_wanted {
            return stop(Step::State, "its state is not wanted".into());
        }
        if let Some(why) = licence::refusal(paper.license.as_deref(), &spec.licences) {
            return stop(Step::Licence, why);
        }
        if read.cited > 0 && (read.resolved as f64) < spec.filters.citations * read.cited as f64 {
            return stop(
                Step::Citations,
                format!("{} of {} citations are in its bibliography", read.resolved, read.cited),
            );
        }
        if research::second_half(&read.sections).is_none() {
            return stop(Step::SecondHalf, format!("{} sections", read.sections.len()));
        }
        let mut references = read.references;
        join_abstracts(&mut references, &paper.references);
        Ok(ResearchRow {
            id: paper.id.clone(),
            paper_id: paper.paper_id.clone(),
            venue: paper.venue.clone(),
            year: paper.year,
            date: paper.date.clone(),
            title,
            abstract_text: read.abstract_text.or_else(|| paper.abstract_text.clone()),
            authors: paper.authors.clone(),
            arxiv: paper.arxiv.as_ref().map(|a| a.id.clone()),
            license: paper.license.as_deref().map(licence::normal),
            sections: read.sections,
            headings: read.headings,
            figures: read.figures,
            tables: read.tables,
            references,
            cited: read.cited,
            resolved: read.resolved,
            motivation: None,
            main_idea: None,
            experimental_setup: Vec::new(),
            experimental_results: Vec::new(),
            outline_model: None,
            messages: Vec::new(),
        })
    }
}

/// Which version a text is. A crawl knows it of what it asked for; a file of OpenReview is the latest one, of an accepted
/// paper the final version, else the last submission; what is older than the first review gives no decision away.
fn version(marked: Version, source: TextSource, paper: &Fragment, state: State) -> Version {
    if paper.text_version == Some(Version::Submitted) && source == TextSource::Pdf {
        return Version::Submitted;
    }
    let is_earlier =
        paper.text_date.as_ref().zip(paper.reviewed.as_ref()).is_some_and(|(text, review)| text <= review);
    let of_openreview = source == TextSource::Pdf && paper.text_date.is_none();
    match (marked, state) {
        (Version::Unknown | Version::CameraReady, _) if is_earlier => Version::Preprint,
        (Version::Unknown, State::Accepted) if of_openreview => Version::CameraReady,
        (Version::Unknown, State::Rejected) if of_openreview => Version::Submitted,
        (marked, _) => marked,
    }
}

/// Title, abstract and text of a record in the form that a file of the paper would give.
fn recorded_text(title: &str, abstract_text: Option<&str>, text: &str) -> String {
    let section = documents::Section {
        level: 1,
        number: None,
        heading: String::new(),
        text: text.into(),
        page: None,
        appendix: false,
    };
    markdown(&documents::Document {
        source: documents::Source::Text,
        sha256: String::new(),
        title: Some(title.into()),
        abstract_text: abstract_text.map(String::from),
        front_matter: None,
        sections: if text.is_empty() { Vec::new() } else { vec![section] },
        references: Vec::new(),
        tables: Vec::new(),
        pages: None,
        findings: Vec::new(),
    })
}

/// Facts alone: who, when, which scores.
pub(super) fn score_row(paper: &Fragment) -> Option<Vec<String>> {
    let ratings = paper.final_ratings();
    let join = |v: &[f64]| v.iter().map(|x| x.to_string()).collect::<Vec<_>>().join(";");
    let state = serde_json::to_value(paper.state.unwrap_or(State::Unknown)).ok()?;
    let own: Vec<f64> = paper.reviews.iter().filter_map(|r| r.confidence).collect();
    Some(vec![
        paper.year.map_or(String::new(), |y| y.to_string()),
        paper.venue.clone().unwrap_or_default(),
        paper.id.clone(),
        state.as_str()?.into(),
        paper.decision.clone().unwrap_or_default(),
        join(&ratings),
        join(if paper.confidences.is_empty() { &own } else { &paper.confidences }),
        join(&paper.ratings_initial),
        paper.title.clone().unwrap_or_default(),
    ])
}
