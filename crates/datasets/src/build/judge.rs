//! Papers joined from their fragments, judged by the steps, and what is said of those that do not pass.

use std::path::Path;

use super::rows::{Stop, score_row};
use super::{Builder, Entry};
use crate::alike::Signatures;
use crate::error::DatasetError;
use crate::fragment::Fragment;
use crate::minhash::signature;
use crate::spec::SpecKind;
use crate::spool::{Place, Spool, Spooled};
use crate::steps::place;
use crate::write;

impl Builder<'_> {
    /// Joins the fragments of each paper and passes it through the steps; rows go to disk.
    pub(super) fn judge(
        &mut self,
        places: Vec<(String, Vec<Place>)>,
        fragments: &mut Spooled,
        next: &Path,
        signatures: &mut Signatures,
    ) -> Result<(Vec<(Entry, Option<u32>)>, Spooled), DatasetError> {
        let mut spool = Spool::new(&self.work.join("rows"))?;
        // Of the score table a line's key alone is in memory.
        let mut scores = Spool::new(&self.work.join("scores"))?;
        let mut lines: Vec<(i32, String, Place)> = Vec::new();
        let mut entries = Vec::new();
        let total = places.len();
        for (n, (id, places)) in places.into_iter().enumerate() {
            self.check()?;
            if n % 64 == 0 {
                self.options.progress.stage("joining", n, total);
            }
            let mut joined: Option<Fragment> = None;
            for place in &places {
                let fragment: Fragment = fragments.get(*place)?;
                match &mut joined {
                    None => joined = Some(fragment),
                    Some(joined) => joined.join(fragment),
                }
            }
            let Some(mut paper) = joined else { continue };
            paper.venue = paper.venue.take().or_else(|| self.spec.records.venue.clone());
            let (year, title) = (paper.year, paper.title.clone().unwrap_or_default());
            if let Err((step, why)) = self.belongs(&paper) {
                self.leave(&id, year, &title, step, why);
                continue;
            }
            if self.spec.kind == SpecKind::Review
                && let Some(row) = score_row(&paper)
            {
                lines.push((year.unwrap_or_default(), id.clone(), scores.add(&row)?));
            }
            let made = match self.spec.kind {
                SpecKind::Review => self.review_row(&mut paper).map(serde_json::to_value),
                SpecKind::Research => self.research_row(&mut paper).map(serde_json::to_value),
            };
            let row = match made {
                Ok(row) => row,
                Err(Stop::Step(step, why)) => {
                    // What was wrong with its parts may be why it does not pass.
                    self.problems.extend(paper.problems.drain(..).map(|p| (id.clone(), p)));
                    let title = paper.title.clone().unwrap_or_default();
                    self.leave(&id, paper.year, &title, step, why);
                    continue;
                }
                Err(Stop::Whole(e)) => return Err(e),
            };
            let row = row.map_err(|e| DatasetError::input(next, e))?;
            self.problems.extend(paper.problems.drain(..).map(|p| (id.clone(), p)));
            let title = row["title"].as_str().unwrap_or_default().to_string();
            let told = row["abstract"].as_str().filter(|t| t.len() > 200);
            let told = told.or_else(|| row["paper_text"].as_str()).map(|t| format!("{title}\n{t}"));
            let license = paper.license.clone();
            let date = paper.date.take();
            let row = Some(spool.add(&row)?);
            let file = paper.files.first().cloned();
            let entry = Entry { id, year: paper.year, date, title, file, row, license, group: 0 };
            entries
                .push((entry, told.as_deref().and_then(signature).map(|s| signatures.add(&s)).transpose()?));
        }
        if self.spec.kind == SpecKind::Review {
            lines.sort();
            score_table(&next.join("scores.csv"), &lines, &mut scores.done()?)?;
        }
        entries.sort_by(|(a, _), (b, _)| (a.year, &a.id).cmp(&(b.year, &b.id)));
        Ok((entries, spool.done()?))
    }

    /// What was left out, and what was wrong with parts of papers.
    pub(super) fn reports(&mut self, next: &Path) -> Result<(), DatasetError> {
        self.left.sort_by(|a, b| (place(a.step), &a.id, &a.reason).cmp(&(place(b.step), &b.id, &b.reason)));
        let lines: String =
            self.left.iter().map(|l| serde_json::to_string(l).unwrap_or_default() + "\n").collect();
        write::text(next, "left_out.jsonl", &lines)?;
        self.problems.sort();
        let one = |(id, problem): &(String, String)| {
            serde_json::json!({"id": id, "problem": problem}).to_string() + "\n"
        };
        write::text(next, "problems.jsonl", &self.problems.iter().map(one).collect::<String>())
    }
}

/// Facts alone, of all papers of the wanted venues: also of those that are left out later.
fn score_table(path: &Path, lines: &[(i32, String, Place)], rows: &mut Spooled) -> Result<(), DatasetError> {
    const HEADER: [&str; 9] =
        ["year", "venue", "id", "state", "decision", "ratings", "confidences", "ratings_initial", "title"];
    let bad = |e: csv::Error| match e.into_kind() {
        csv::ErrorKind::Io(e) => DatasetError::write(path)(e),
        other => DatasetError::input(path, format!("{other:?}")),
    };
    let mut table = csv::Writer::from_path(path).map_err(bad)?;
    table.write_record(HEADER).map_err(bad)?;
    for (_, _, place) in lines {
        let row: Vec<String> = rows.get(*place)?;
        table.write_record(&row).map_err(bad)?;
    }
    table.flush().map_err(DatasetError::write(path))
}
