//! Text to token ids and back.

use std::path::Path;
use std::str::FromStr;

use tokenizers::Tokenizer as Inner;

use crate::error::ModelError;
use crate::weights::read;

/// A byte-level or SentencePiece-style tokenizer from a `tokenizer.json` or a GGUF file's metadata.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Inner,
    special: std::collections::BTreeSet<u32>,
    byte_level: bool,
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
        let inner = Inner::from_str(text).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let special = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, _)| id)
            .collect();
        let byte_level = text.contains("\"ByteLevel\"");
        Ok(Self { inner, special, byte_level })
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
        let encoding = self.inner.encode_fast(text, special).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
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
        if self.is_special(id) {
            return None;
        }
        let token = self.inner.id_to_token(id)?;
        if self.inner.get_added_tokens_decoder().contains_key(&id) {
            return Some(token.into_bytes());
        }
        if self.byte_level {
            return Some(token.chars().filter_map(byte_of).collect());
        }
        if let Some(hex) = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')) {
            if let Ok(byte) = u8::from_str_radix(hex, 16) {
                return Some(vec![byte]);
            }
        }
        Some(token.replace('▁', " ").into_bytes())
    }
}

/// GPT-2's byte alphabet, backwards: printable bytes stand for themselves, the rest from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let code = c as u32;
    if code < 256 && printable(code) {
        return Some(code as u8);
    }
    (0..256u32).filter(|&b| !printable(b)).nth(code.checked_sub(256)? as usize).map(|b| b as u8)
}
