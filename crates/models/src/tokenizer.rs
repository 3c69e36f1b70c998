//! Text to token ids and back.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::str::FromStr;
use std::sync::LazyLock;

use tokenizers::Tokenizer as Inner;

use crate::error::ModelError;
use crate::weights::read;

/// A byte-level or SentencePiece-style tokenizer from a `tokenizer.json` or a GGUF file's metadata.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Inner,
    /// Control tokens.
    special: BTreeSet<u32>,
    /// All added tokens: spelled as they are, not in the byte alphabet.
    added: BTreeSet<u32>,
    byte_level: bool,
    missing: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// If the file is missing or no tokenizer.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        Self::from_json(&read(path)?).map_err(|e| ModelError::invalid(path, e))
    }

    /// Parses the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is no tokenizer.
    pub fn from_json(json: &[u8]) -> Result<Self, ModelError> {
        let text = std::str::from_utf8(json).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let mut inner = Inner::from_str(text).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        // Some files carry the padding and truncation of their last use; a prompt must have neither.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let decoder = inner.get_added_tokens_decoder();
        let special = decoder.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let added = decoder.keys().copied().collect();
        let byte_level = text.contains("\"ByteLevel\"");
        Ok(Self { inner, special, added, byte_level, missing: false })
    }

    /// Stands in where a checkpoint has no tokenizer: refuses text, and writes ids as numbers.
    ///
    /// # Errors
    /// None in practice; the tokenizer library's own.
    pub fn of_ids(vocabulary: usize) -> Result<Self, ModelError> {
        let words: HashMap<String, usize> = (0..vocabulary).map(|id| (id.to_string(), id)).collect();
        let json = serde_json::json!({"version": "1.0", "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null, "truncation": null, "padding": null,
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "0"}});
        Ok(Self { missing: true, ..Self::from_json(json.to_string().as_bytes())? })
    }

    /// True if the checkpoint had no tokenizer: only ids can be given, and text is the ids as numbers.
    pub fn is_missing(&self) -> bool {
        self.missing
    }

    /// The same tokenizer, which puts `token` before plain text.
    ///
    /// # Errors
    /// If the token is not in the vocabulary.
    pub fn with_bos(&self, id: u32, token: &str) -> Result<Self, ModelError> {
        use tokenizers::processors::template::TemplateProcessing;
        let fail = |e: String| ModelError::Tokenizer(e);
        let processor = TemplateProcessing::builder()
            .try_single(format!("{token}:0 $A:0"))
            .map_err(fail)?
            .try_pair(format!("{token}:0 $A:0 {token}:1 $B:1"))
            .map_err(fail)?
            .special_tokens(vec![(token.to_string(), id)])
            .build()
            .map_err(|e| fail(e.to_string()))?;
        let mut inner = self.inner.clone();
        inner.with_post_processor(Some(processor));
        Ok(Self { inner, ..self.clone() })
    }

    /// The `tokenizer.json` of this tokenizer.
    ///
    /// # Errors
    /// If it cannot be written out.
    pub fn to_json(&self) -> Result<String, ModelError> {
        self.inner.to_string(false).map_err(|e| ModelError::Tokenizer(e.to_string()))
    }

    /// Number of ids: one more than the largest, added tokens included.
    pub fn size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// Ids of `text` as it stands; special tokens written in it are recognised, none is added.
    ///
    /// # Errors
    /// If the tokenizer has no token for some piece and no unknown token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.encode_as(text, false)
    }

    /// Ids of plain text with what the tokenizer adds of itself (a beginning-of-sequence token, most often).
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.encode_as(text, true)
    }

    fn encode_as(&self, text: &str, special: bool) -> Result<Vec<u32>, ModelError> {
        if self.missing {
            return Err(ModelError::Tokenizer(
                "the checkpoint has no tokenizer.json; give token ids instead".into(),
            ));
        }
        let encoding =
            self.inner.encode_fast(text, special).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a text that begins a sequence: with the one beginning-of-sequence token that the model wants, if it wants
    /// one.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let (mut ids, plain) = (self.encode_with_special(text)?, self.encode(text)?);
        let added = ids.len() - plain.len().min(ids.len());
        // What it puts behind a text (an end of sequence) would end what is to go on.
        if let Some(before) = (0..=added).find(|n| ids[*n..].starts_with(&plain)) {
            ids.truncate(before + plain.len());
        }
        match ids.as_slice() {
            // The text brought its own.
            [first, second, ..] if first == second && self.is_special(*first) => Ok(plain),
            _ => Ok(ids),
        }
    }

    /// Text of `ids`; special tokens are left out where asked.
    ///
    /// # Errors
    /// If the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, ModelError> {
        self.inner.decode(ids, skip_special).map_err(|e| ModelError::Tokenizer(e.to_string()))
    }

    /// Id of a token by its spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Spelling of a token as the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// True for control tokens (turn marks, beginning and end of sequence).
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The bytes a token stands for in running text; `None` for special tokens and ids without a token.
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        if self.missing || self.is_special(id) {
            return None;
        }
        let token = self.inner.id_to_token(id)?;
        if self.added.contains(&id) {
            return Some(token.into_bytes());
        }
        if self.byte_level {
            return Some(token.chars().filter_map(|c| BYTE_ALPHABET.get(&c).copied()).collect());
        }
        let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
        if let Some(byte) = hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            return Some(vec![byte]);
        }
        Some(token.replace('▁', " ").into_bytes())
    }

    /// True for tokens that stand beside the model's own vocabulary and are written as they are.
    pub(crate) fn is_added(&self, id: u32) -> bool {
        self.added.contains(&id)
    }

    /// Text as it grows token by token.
    pub fn stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream { tokenizer: self, skip_special, ids: Vec::new(), from: 0, shown: 0 }
    }
}

/// Decodes ids one at a time and gives out only whole characters; all pieces together are the text of all ids.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    /// Decoding starts here: the first token of a decoded slice may lose its leading space, so one piece that was
    /// already given out stays in front.
    from: usize,
    /// The text of the ids before this one was given out.
    shown: usize,
}

impl TextStream<'_> {
    /// Takes the next id; gives the text that is certain now, which may be empty.
    ///
    /// # Errors
    /// If the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        self.ids.push(id);
        let (before, text) = self.window()?;
        // A replacement character at the end is most often half a character.
        if text.len() <= before || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.from = self.shown;
        self.shown = self.ids.len();
        Ok(text.get(before..).unwrap_or_default().to_string())
    }

    /// What is left at the end, broken characters included.
    ///
    /// # Errors
    /// If the decoder fails.
    pub fn finish(self) -> Result<String, ModelError> {
        let (before, text) = self.window()?;
        Ok(text.get(before..).unwrap_or_default().to_string())
    }

    /// Length of what was given out of the window, and the window's text.
    fn window(&self) -> Result<(usize, String), ModelError> {
        let before = self.tokenizer.decode(&self.ids[self.from..self.shown], self.skip_special)?;
        let text = self.tokenizer.decode(&self.ids[self.from..], self.skip_special)?;
        Ok((before.len(), text))
    }
}

/// GPT-2's byte alphabet, backwards: printable bytes stand for themselves, the rest from U+0100 on.
static BYTE_ALPHABET: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let own = (0..=255u8).filter(|&b| printable(b)).map(|b| (char::from(b), b));
    let moved = (0..=255u8).filter(|&b| !printable(b)).zip('\u{100}'..).map(|(b, c)| (c, b));
    own.chain(moved).collect()
});
