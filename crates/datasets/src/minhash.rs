//! Near-duplicates by MinHash and banding (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.3–3.4).

use std::collections::HashMap;

/// Rows of a signature: the standard error of an estimated similarity is at most 0.5 / √64 = 0.06.
pub const ROWS: usize = 64;
/// Sixteen bands of four rows: a pair of similarity 0.8 is compared with probability 1 − (1 − 0.8⁴)¹⁶ = 0.9998.
pub const BANDS: usize = 16;
/// Words of a shingle.
const SHINGLE: usize = 3;
/// A text of fewer shingles says too little.
const FEWEST: usize = 12;
/// Characters that are looked at.
pub const MOST: usize = 20_000;

/// The signature of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature(pub [u32; ROWS]);

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The hash of a word.
pub fn hash(word: &str) -> u64 {
    // FNV-1a over letters and digits alone, so that typesetting makes no difference.
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The signature of the beginning of a text; `None` where it is too short to tell.
pub fn signature(text: &str) -> Option<Signature> {
    let end = text.char_indices().nth(MOST).map_or(text.len(), |(i, _)| i);
    let words: Vec<u64> =
        text[..end].split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(hash).collect();
    if words.len() < SHINGLE + FEWEST {
        return None;
    }
    let mut rows = [u32::MAX; ROWS];
    for some in words.windows(SHINGLE) {
        let shingle = some.iter().fold(0u64, |h, w| mix(h.rotate_left(21) ^ w));
        for (i, row) in rows.iter_mut().enumerate() {
            // One strong hash, then a different mixing for each row.
            let h =
                (mix(shingle.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 32) as u32;
            *row = (*row).min(h);
        }
    }
    Some(Signature(rows))
}

impl Signature {
    /// Estimated Jaccard similarity of the two texts' shingles.
    pub fn similarity(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count() as f64 / ROWS as f64
    }

    /// The hash of a band: texts that share one are worth a comparison.
    pub fn band(&self, band: usize) -> u64 {
        let width = ROWS / BANDS;
        self.0[band * width..(band + 1) * width].iter().fold(band as u64, |h, r| mix(h ^ u64::from(*r)))
    }

    fn bands(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        (0..BANDS).map(|b| (b, self.band(b)))
    }
}

/// Signatures to look things up in: about 600 bytes an item.
#[derive(Debug, Default)]
pub struct Index {
    /// The latest signature with this band.
    latest: HashMap<u64, u32>,
    /// The one before it with the same band, for each band of each signature; `NONE` ends the chain.
    before: Vec<[u32; BANDS]>,
    signatures: Vec<(u32, Signature)>,
}

const NONE: u32 = u32::MAX;
/// A chain that is so long holds boilerplate; following it to its end would make the work quadratic.
pub const FULL: usize = 64;

impl Index {
    /// The most similar earlier item of at least this similarity.
    pub fn nearest(&self, signature: &Signature, least: f64) -> Option<(u32, f64)> {
        let mut best: Option<(u32, f64)> = None;
        let mut seen = Vec::new();
        for (band, hash) in signature.bands() {
            let mut at = self.latest.get(&hash).copied().unwrap_or(NONE);
            for _ in 0..FULL {
                if at == NONE {
                    break;
                }
                if !seen.contains(&at) {
                    seen.push(at);
                    let (item, other) = &self.signatures[at as usize];
                    let similarity = signature.similarity(other);
                    let better = |(i, s): (u32, f64)| similarity > s || similarity == s && *item < i;
                    if similarity >= least && best.is_none_or(better) {
                        best = Some((*item, similarity));
                    }
                }
                at = self.before[at as usize][band];
            }
        }
        best
    }

    /// Adds an item.
    pub fn add(&mut self, item: u32, signature: Signature) {
        let at = self.signatures.len() as u32;
        let mut before = [NONE; BANDS];
        for (band, hash) in signature.bands() {
            before[band] = self.latest.insert(hash, at).unwrap_or(NONE);
        }
        self.before.push(before);
        self.signatures.push((item, signature));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u64, words: usize) -> Vec<String> {
        (0..words as u64).map(|i| format!("w{}", mix(seed * 1_000_003 + i) % 5_000)).collect()
    }

    #[test]
    fn a_resubmission_with_changed_sentences_is_found_and_another_paper_is_not() {
        let first = text(1, 300);
        let mut second = first.clone();
        for i in (0..second.len()).step_by(60) {
            second[i] = "changed".into();
        }
        let signature = |w: &[String]| signature(&w.join(" ")).unwrap();
        let mut index = Index::default();
        index.add(7, signature(&first));
        for other in 2..200 {
            index.add(100 + other as u32, signature(&text(other, 300)));
        }
        let (item, similarity) = index.nearest(&signature(&second), 0.75).unwrap();
        assert_eq!(item, 7);
        // 5 of 300 words changed: 15 of 298 shingles, Jaccard 283 / 313 = 0.90.
        assert!((similarity - 0.90).abs() < 0.13, "{similarity}");
        assert_eq!(index.nearest(&signature(&text(9_999, 300)), 0.75), None);
        assert_eq!(super::signature("Too short to tell anything at all."), None);
    }
}
