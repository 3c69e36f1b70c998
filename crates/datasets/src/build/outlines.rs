//! Outlines in batches, and the dialogue that follows from them.

use super::{Builder, Entry, Progress};
use crate::error::DatasetError;
use crate::messages;
use crate::outline::{self, Outline};
use crate::record::ResearchRow;
use crate::research::{self, ResearchPaper};
use crate::spool::{Spool, Spooled};
use crate::steps::Step;

/// Papers whose outlines are asked for at once.
const BATCH: usize = 8;

struct Watch<'a>(&'a dyn Progress);

impl lm::Progress for Watch<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

impl Builder<'_> {
    /// Asks for outlines in batches and adds them, and the dialogue, to the rows.
    pub(super) fn outlines(
        &mut self,
        entries: &mut [Entry],
        rows: &mut Spooled,
    ) -> Result<Spooled, DatasetError> {
        let Some(model) = self.options.model else { return Spool::new(&self.work.join("outlined"))?.done() };
        let mut spool = Spool::new(&self.work.join("outlined"))?;
        let wanted: Vec<usize> = (0..entries.len()).filter(|i| entries[*i].row.is_some()).collect();
        let mut done = 0;
        for batch in wanted.chunks(BATCH) {
            self.check()?;
            self.options.progress.stage("outlining", done, wanted.len());
            let mut batch_rows: Vec<(usize, ResearchRow)> = Vec::new();
            let mut papers: Vec<(String, ResearchPaper, Option<Result<Outline, String>>)> = Vec::new();
            for i in batch {
                let (Some(at), Some(file)) = (entries[*i].row.take(), entries[*i].file.clone()) else {
                    continue;
                };
                let row: ResearchRow = rows.get(at)?;
                match self.sources_of(&file)? {
                    Ok(paper) => {
                        let key = outline::key(&paper, model);
                        let kept = self.kept.get("outline", &key);
                        papers.push((key, paper, kept));
                        batch_rows.push((*i, row));
                    }
                    Err(why) => self.leave(&row.id, row.year, &row.title, Step::Unreadable, why),
                }
            }
            let missing: Vec<usize> = (0..papers.len()).filter(|k| papers[*k].2.is_none()).collect();
            if !missing.is_empty() {
                let asked: Vec<&ResearchPaper> = missing.iter().map(|k| &papers[*k].1).collect();
                let watch = Watch(self.options.progress);
                let made = outline::outlines(model, &asked, &watch).map_err(|e| match e {
                    lm::LmError::Interrupted => DatasetError::Interrupted,
                    e => DatasetError::Model(e),
                })?;
                for (k, outline) in missing.into_iter().zip(made) {
                    self.kept.put("outline", &papers[k].0, &outline)?;
                    papers[k].2 = Some(outline);
                }
            }
            for ((i, mut row), (_, _, outline)) in batch_rows.into_iter().zip(papers) {
                done += 1;
                match outline {
                    Some(Ok(outline)) => {
                        if outline.check.left_out > 0 {
                            let what = format!(
                                "{} results left out of the outline: {} do not stand in the paper",
                                outline.check.left_out,
                                outline.check.missing.join(", ")
                            );
                            self.problems.push((row.id.clone(), what));
                        }
                        fill(&mut row, outline)?;
                        entries[i].row = Some(spool.add(&row)?);
                    }
                    Some(Err(why)) if self.spec.filters.outline => {
                        self.leave(&row.id, row.year, &row.title, Step::Outline, why);
                    }
                    other => {
                        let why = other.and_then(Result::err).unwrap_or_else(|| "no outline".into());
                        self.problems.push((row.id.clone(), format!("no outline: {why}")));
                        entries[i].row = Some(spool.add(&row)?);
                    }
                }
            }
        }
        spool.done()
    }
}

fn fill(row: &mut ResearchRow, outline: Outline) -> Result<(), DatasetError> {
    let second = research::second_half(&row.sections).unwrap_or(row.sections.len());
    row.messages = messages::paper(&messages::Paper {
        title: &row.title,
        abstract_text: row.abstract_text.as_deref().unwrap_or_default(),
        references: &row.references,
        sections: &row.sections,
        second,
        motivation: &outline.motivation,
        main_idea: &outline.main_idea,
        setup: &outline.setup,
        results: &outline.results,
    })
    .map_err(|what| DatasetError::Spec { place: "prompts/research".into(), what })?;
    row.motivation = Some(outline.motivation);
    row.main_idea = Some(outline.main_idea);
    row.experimental_setup = outline.setup;
    row.experimental_results = outline.results;
    row.outline_model = Some(outline.model);
    Ok(())
}
