//! Which rows are nearly the same, which are too many, and which part each is in.

use super::{Builder, Entry};
use crate::alike::{Groups, Signatures};
use crate::error::DatasetError;
use crate::spec::Alike;
use crate::split::{Group, Part, parts};
use crate::steps::Step;

impl Builder<'_> {
    /// Finds papers that are nearly the same: all but the earliest of a group go, or they share a part of the split.
    pub(super) fn near_duplicates(
        &mut self,
        judged: Vec<(Entry, Option<u32>)>,
        mut signatures: Signatures,
    ) -> Result<Vec<Entry>, DatasetError> {
        let rule = &self.spec.near_duplicates;
        let mut groups = Groups::new(judged.len());
        // A short title says too little.
        let key = |e: &Entry| {
            let key = crate::title::key(&e.title);
            (key.len() >= 12).then(|| crate::minhash::hash(&key))
        };
        let titled = judged.iter().enumerate().filter_map(|(i, (e, _))| Some((key(e)?, i as u32)));
        groups.join_equal(titled.collect());
        let mut paper_of = vec![0; judged.len()];
        for (i, (_, signature)) in judged.iter().enumerate() {
            if let Some(place) = signature {
                paper_of[*place as usize] = i as u32;
            }
        }
        let watch = |band: usize, bands: usize| {
            self.options.progress.stage("looking for duplicates", band, bands);
            self.check()
        };
        groups.join_similar(&mut signatures, &paper_of, rule.similarity, &watch)?;
        let mut entries: Vec<Entry> = judged.into_iter().map(|(e, _)| e).collect();
        for i in 0..entries.len() {
            entries[i].group = groups.first(i as u32) as usize;
            if rule.action == Alike::Group || entries[i].group == i {
                continue;
            }
            let (other, alike) = groups.like(i as u32).unwrap_or((entries[i].group as u32, 0.0));
            let other = entries[other as usize].id.clone();
            let e = &mut entries[i];
            e.row = None;
            let (id, year, title) = (e.id.clone(), e.year, e.title.clone());
            self.leave(&id, year, &title, Step::NearDuplicate, format!("like {other} ({alike:.2})"));
        }
        Ok(entries)
    }

    pub(super) fn limit(&mut self, entries: &mut [Entry]) {
        let Some(limit) = self.options.limit else { return };
        let mut rows = 0;
        for e in entries.iter_mut().filter(|e| e.row.is_some()) {
            rows += 1;
            if rows > limit {
                e.row = None;
                let (id, year, title) = (e.id.clone(), e.year, e.title.clone());
                self.leave(&id, year, &title, Step::Limit, format!("behind the first {limit}"));
            }
        }
    }

    pub(super) fn split(&self, entries: &[Entry]) -> Vec<Part> {
        let mut groups: Vec<Group> = vec![Group::default(); entries.len()];
        for e in entries.iter().filter(|e| e.row.is_some()) {
            let g = &mut groups[e.group];
            if g.key.is_empty() || e.id < g.key {
                g.key = e.id.clone();
            }
            let own = e.date.clone().or_else(|| e.year.map(|y| y.to_string())).unwrap_or_default();
            g.last = std::mem::take(&mut g.last).max(own);
            g.papers += 1;
        }
        let real: Vec<usize> = (0..groups.len()).filter(|i| groups[*i].papers > 0).collect();
        let found = parts(&real.iter().map(|i| groups[*i].clone()).collect::<Vec<_>>(), &self.spec.split);
        let mut out = vec![Part::Train; groups.len()];
        for (i, part) in real.into_iter().zip(found) {
            out[i] = part;
        }
        out
    }
}
