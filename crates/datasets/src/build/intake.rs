//! From files to fragments on disk, and from sources and PDFs to what is kept of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::Builder;
use crate::error::DatasetError;
use crate::fragment::Fragment;
use crate::gather::{self, Input, Sink};
use crate::papers::{PaperText, paper_text};
use crate::research::{ResearchPaper, research_paper};
use crate::spec::SpecKind;
use crate::spool::{Place, Spool, Spooled};

/// What the records are about.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) ids: HashMap<String, usize>,
    pub(super) places: Vec<(String, Vec<Place>)>,
    pub(super) broken: Vec<(String, String)>,
    pub(super) files: BTreeSet<String>,
    pub(super) records: usize,
}

struct Gatherer<'a> {
    spool: &'a mut Spool,
    into: &'a mut Gathered,
}

impl Sink for Gatherer<'_> {
    fn fragment(&mut self, fragment: Fragment) -> Result<(), DatasetError> {
        let place = self.spool.add(&fragment)?;
        self.into.files.extend(fragment.files.iter().cloned());
        let at = *self.into.ids.entry(fragment.id.clone()).or_insert_with(|| {
            self.into.places.push((fragment.id, Vec::new()));
            self.into.places.len() - 1
        });
        self.into.places[at].1.push(place);
        Ok(())
    }

    fn broken(&mut self, place: String, why: String) {
        self.into.broken.push((place, why));
    }
}

impl Builder<'_> {
    pub(super) fn gather(&self, files: &[PathBuf]) -> Result<(Gathered, Vec<Input>, Spooled), DatasetError> {
        let mut spool = Spool::new(&self.work.join("fragments"))?;
        let mut gathered = Gathered::default();
        let mut inputs = Vec::new();
        for (n, file) in files.iter().enumerate() {
            self.check()?;
            self.options.progress.stage("reading records", n, files.len());
            let mut sink = Gatherer { spool: &mut spool, into: &mut gathered };
            let records = gather::read(file, self.options.from, self.spec, &mut sink)?;
            gathered.records += records;
            let name =
                file.strip_prefix(self.options.from).unwrap_or(file).to_string_lossy().replace('\\', "/");
            inputs.push(Input { file: name, sha256: gather::file_sha256(file)?, records });
        }
        // The order of the set is that of year and id, not of files; ids first, the year comes from the join.
        gathered.ids = HashMap::new();
        gathered.places.sort();
        gathered.places.shrink_to_fit();
        gathered.places.iter_mut().for_each(|(_, places)| places.shrink_to_fit());
        Ok((gathered, inputs, spool.done()?))
    }

    /// Reads files of sources and PDFs, several at once; results are kept.
    pub(super) fn read_files(&self, gathered: &Gathered) -> Result<(), DatasetError> {
        let done = AtomicUsize::new(0);
        // A PDF beside sources is read where these turn out to be none.
        let sources: HashSet<String> =
            gathered.files.iter().filter(|f| !is_pdf(f)).map(|f| gather::id_of(f)).collect();
        let wanted: Vec<&String> =
            gathered.files.iter().filter(|f| !is_pdf(f) || !sources.contains(&gather::id_of(f))).collect();
        wanted.par_iter().try_for_each(|file| {
            self.check()?;
            let n = done.fetch_add(1, Ordering::Relaxed);
            self.options.progress.stage("reading papers", n, wanted.len());
            match self.spec.kind {
                SpecKind::Review => self.text_of(file).map(drop),
                SpecKind::Research => self.sources_of(file).map(drop),
            }
        })
    }

    pub(super) fn text_of(&self, file: &str) -> Result<Result<PaperText, String>, DatasetError> {
        let path = self.options.from.join(file);
        self.kept.of_file("text", &path, || paper_text(&path, self.options.reader))
    }

    pub(super) fn sources_of(&self, file: &str) -> Result<Result<ResearchPaper, String>, DatasetError> {
        let path = self.options.from.join(file);
        self.kept.of_file("research", &path, || research_paper(&path, self.options.reader))
    }
}

fn is_pdf(file: &str) -> bool {
    file.to_lowercase().ends_with(".pdf")
}
