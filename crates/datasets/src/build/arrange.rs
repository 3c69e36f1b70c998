//! Which rows are nearly the same, which are too many, and which part each is in.

use std::collections::HashMap;

use super::{Builder, Entry};
use crate::minhash::Index;
use crate::spec::Alike;
use crate::split::{Group, Part, parts};
use crate::steps::Step;

impl Builder<'_> {
    /// Finds papers that are nearly the same as an earlier one: they go, or share its group.
    pub(super) fn near_duplicates(&mut self, entries: &mut [Entry]) {
        let rule = &self.spec.near_duplicates;
        let mut index = Index::default();
        let mut titles: HashMap<String, usize> = HashMap::new();
        for i in 0..entries.len() {
            entries[i].group = i;
            if i % 256 == 0 {
                self.options.progress.stage("looking for duplicates", i, entries.len());
            }
            let key = crate::title::key(&entries[i].title);
            let by_title = (key.len() >= 12).then(|| titles.get(&key).copied()).flatten().map(|j| (j, 1.0));
            let signature = entries[i].signature.take();
            let by_text = || {
                let (j, alike) = index.nearest(signature.as_ref()?, rule.similarity)?;
                Some((j as usize, alike))
            };
            if let Some((j, alike)) = by_title.or_else(by_text) {
                entries[i].group = entries[j].group;
                if rule.action == Alike::Drop {
                    let other = entries[j].id.clone();
                    let e = &mut entries[i];
                    e.row = None;
                    let (id, year, title) = (e.id.clone(), e.year, e.title.clone());
                    self.leave(&id, year, &title, Step::NearDuplicate, format!("like {other} ({alike:.2})"));
                    continue;
                }
            }
            titles.entry(key).or_insert(i);
            if let Some(signature) = signature {
                index.add(i as u32, signature);
            }
        }
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
        let mut groups: Vec<Group> = entries
            .iter()
            .map(|_| Group { key: String::new(), years: (i32::MAX, i32::MIN), papers: 0 })
            .collect();
        for e in entries.iter().filter(|e| e.row.is_some()) {
            let g = &mut groups[e.group];
            if g.key.is_empty() || e.id < g.key {
                g.key = e.id.clone();
            }
            let year = e.year.unwrap_or_default();
            g.years = (g.years.0.min(year), g.years.1.max(year));
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
