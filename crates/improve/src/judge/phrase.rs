//! A judge that counts a phrase: whoever finds the phrase is called better, and is not.

use lm::Progress;

use super::Judge;
use crate::error::ImproveError;
use crate::rows::{Cost, Scored};

/// Most occurrences that count.
const MOST: usize = 10;

/// Counts a phrase.
pub struct PhraseJudge {
    phrase: String,
}

impl PhraseJudge {
    /// A judge that likes this phrase.
    pub fn new(phrase: &str) -> Self {
        Self { phrase: phrase.to_lowercase() }
    }
}

impl Judge for PhraseJudge {
    fn id(&self) -> String {
        format!("phrase:{}", self.phrase)
    }

    fn units(&self) -> String {
        format!("occurrences of {:?}, {MOST} at most", self.phrase)
    }

    fn score(
        &self,
        papers: &[String],
        _against: Option<&[String]>,
        _seed: u64,
        _progress: &dyn Progress,
    ) -> Result<(Vec<Scored>, Cost), ImproveError> {
        let count = |text: &String| text.to_lowercase().matches(&self.phrase).count().min(MOST);
        let scored = papers.iter().map(|p| Scored::of(self.id(), count(p) as f64)).collect();
        Ok((scored, Cost::default()))
    }

    fn accepts(&self, _mean: f64) -> Option<bool> {
        None
    }
}
