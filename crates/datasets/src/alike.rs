//! Which papers are nearly the same, in groups: by title, or by the MinHash of their text. Signatures lie on disk and are
//! looked at band by band, so that memory is some twenty bytes a paper, whatever the texts; whoever is like a member of a
//! group belongs to it, so two parts of a split share nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::minhash::{BANDS, FULL, ROWS, Signature};

/// Bytes of a signature on disk.
const BYTES: usize = 4 * ROWS;

/// A file of signatures, in the order of their papers.
pub struct Signatures {
    path: PathBuf,
    file: BufWriter<File>,
    count: usize,
}

impl Signatures {
    /// An empty file.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(path: &Path) -> Result<Self, DatasetError> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path);
        let file = file.map_err(DatasetError::write(path))?;
        Ok(Self { path: path.into(), file: BufWriter::with_capacity(1 << 16, file), count: 0 })
    }

    /// Adds the next paper's; its place is returned.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn add(&mut self, signature: &Signature) -> Result<u32, DatasetError> {
        let bytes: Vec<u8> = signature.0.iter().flat_map(|row| row.to_le_bytes()).collect();
        self.file.write_all(&bytes).map_err(DatasetError::write(&self.path))?;
        self.count += 1;
        u32::try_from(self.count - 1)
            .map_err(|_| DatasetError::input(&self.path, "more than four billion papers"))
    }

    fn at(&mut self, place: u32) -> Result<Signature, DatasetError> {
        let mut bytes = [0; BYTES];
        let file = self.file.get_mut();
        let read = file
            .seek(SeekFrom::Start(u64::from(place) * BYTES as u64))
            .and_then(|_| file.read_exact(&mut bytes));
        read.map_err(DatasetError::reading(&self.path))?;
        Ok(signature(&bytes))
    }

    /// Calls `f` with all signatures in their order.
    fn each(&mut self, mut f: impl FnMut(u32, Signature)) -> Result<(), DatasetError> {
        self.file.flush().map_err(DatasetError::write(&self.path))?;
        let mut file = BufReader::with_capacity(1 << 18, self.file.get_ref());
        file.seek(SeekFrom::Start(0)).map_err(DatasetError::reading(&self.path))?;
        let mut bytes = [0; BYTES];
        for place in 0..self.count {
            file.read_exact(&mut bytes).map_err(DatasetError::reading(&self.path))?;
            f(place as u32, signature(&bytes));
        }
        Ok(())
    }
}

impl Drop for Signatures {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn signature(bytes: &[u8; BYTES]) -> Signature {
    let mut rows = [0; ROWS];
    for (row, four) in rows.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *row = u32::from_le_bytes(*four);
    }
    Signature(rows)
}

/// Groups of papers that are nearly the same.
pub struct Groups {
    /// Of each paper one that is nearer to the group's first paper, or itself.
    parent: Vec<u32>,
    /// Of each paper the earlier paper that it is most like, and how much.
    like: Vec<(u32, f32)>,
}

impl Groups {
    /// Every paper by itself.
    pub fn new(papers: usize) -> Self {
        Self { parent: (0..papers as u32).collect(), like: vec![(0, 0.0); papers] }
    }

    /// The first paper of a paper's group.
    pub fn first(&mut self, paper: u32) -> u32 {
        let mut at = paper as usize;
        while self.parent[at] as usize != at {
            // Each step halves the way for the next time.
            self.parent[at] = self.parent[self.parent[at] as usize];
            at = self.parent[at] as usize;
        }
        at as u32
    }

    /// The earlier paper that this one is most like, and how much; `None` for the first of a group.
    pub fn like(&self, paper: u32) -> Option<(u32, f32)> {
        Some(self.like[paper as usize]).filter(|(_, alike)| *alike > 0.0)
    }

    fn join(&mut self, earlier: u32, later: u32, alike: f32) {
        let (a, b) = (self.first(earlier), self.first(later));
        // The earliest paper of all is a group's first.
        self.parent[a.max(b) as usize] = a.min(b);
        if alike > self.like[later as usize].1 {
            self.like[later as usize] = (earlier, alike);
        }
    }

    /// Joins papers with one key (a title's hash).
    pub fn join_equal(&mut self, mut keys: Vec<(u64, u32)>) {
        keys.sort_unstable();
        for pair in keys.windows(2).filter(|w| w[0].0 == w[1].0) {
            self.join(pair[0].1, pair[1].1, 1.0);
        }
    }

    /// Joins papers whose signatures are of at least this similarity; `paper` says whose a signature is, and rises.
    /// Signatures that share a band are compared, each with the [`FULL`] before it: a longer row is boilerplate.
    ///
    /// # Errors
    /// If the file of signatures cannot be read.
    pub fn join_similar(
        &mut self,
        signatures: &mut Signatures,
        paper: &[u32],
        least: f64,
        watch: &dyn Fn(usize, usize) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        for band in 0..BANDS {
            watch(band, BANDS)?;
            let mut keys: Vec<(u64, u32)> = Vec::with_capacity(signatures.count);
            signatures.each(|place, signature| keys.push((signature.band(band), place)))?;
            keys.sort_unstable();
            for run in keys.chunk_by(|a, b| a.0 == b.0).filter(|run| run.len() > 1) {
                let mut before: VecDeque<(u32, Signature)> = VecDeque::new();
                for (_, place) in run {
                    let own = signatures.at(*place)?;
                    for (other, theirs) in &before {
                        let alike = own.similarity(theirs);
                        if alike >= least {
                            self.join(paper[*other as usize], paper[*place as usize], alike as f32);
                        }
                    }
                    if before.len() == FULL {
                        before.pop_front();
                    }
                    before.push_back((*place, own));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_like_two_papers_makes_one_group_of_both() {
        // 0 and 2 share no row; 1 shares 48 rows with either.
        let rows = |f: &dyn Fn(usize) -> u32| Signature(std::array::from_fn(f));
        let folder = tempfile::tempdir().unwrap();
        let mut signatures = Signatures::new(&folder.path().join("signatures")).unwrap();
        let first = rows(&|i| i as u32);
        let third = rows(&|i| if i < 32 { i as u32 } else { 1_000 + i as u32 });
        let between = rows(&|i| if i < 48 { i as u32 } else { 1_000 + i as u32 });
        let other = rows(&|i| 5_000 + i as u32);
        let places: Vec<u32> =
            [&first, &third, &other, &between].iter().map(|s| signatures.add(s).unwrap()).collect();
        assert_eq!(places, [0, 1, 2, 3]);
        let mut groups = Groups::new(6);
        // Papers 1 and 4 have texts too short for a signature.
        groups.join_similar(&mut signatures, &[0, 2, 3, 5], 0.7, &|_, _| Ok(())).unwrap();
        groups.join_equal(vec![(7, 4), (8, 0), (7, 3)]);
        let firsts: Vec<u32> = (0..6).map(|p| groups.first(p)).collect();
        assert_eq!(firsts, [0, 1, 0, 3, 3, 0]);
        assert_eq!(groups.like(0), None);
        assert_eq!(groups.like(5), Some((0, 0.75)));
        assert_eq!(groups.like(4), Some((3, 1.0)));
    }
}
