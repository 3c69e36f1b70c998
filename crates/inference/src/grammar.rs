//! Token masks by grammar (llguidance): a form or JSON cannot be left.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use models::Tokenizer;
use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::request::Grammar;

/// The vocabulary as llguidance wants it; built once per model.
pub struct Vocabulary {
    factory: ParserFactory,
}

struct Environment {
    trie: TokTrie,
    tokenizer: Tokenizer,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let text = String::from_utf8_lossy(bytes);
        self.tokenizer.encode(&text).unwrap_or_else(|_| self.trie.greedy_tokenize(bytes))
    }
}

impl Vocabulary {
    /// From a tokenizer, for logits of `size` entries and the given end-of-sequence token.
    ///
    /// # Errors
    /// The library's message.
    pub fn new(tokenizer: &Tokenizer, size: usize, eos: u32) -> Result<Self, String> {
        let words: Vec<Vec<u8>> = (0..size as u32)
            .map(|id| match tokenizer.bytes(id) {
                Some(bytes) => bytes,
                None => {
                    // Special tokens are words behind a byte that no text holds.
                    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                    word.extend_from_slice(
                        tokenizer.token(id).unwrap_or_else(|| format!("<[{id}]>")).as_bytes(),
                    );
                    word
                }
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, eos), &words);
        let environment: TokEnv = Arc::new(Environment { trie, tokenizer: tokenizer.clone() });
        let factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
        Ok(Self { factory })
    }

    /// A matcher at the beginning of a grammar.
    ///
    /// # Errors
    /// If the grammar does not compile.
    pub fn matcher(&self, grammar: &Grammar) -> Result<Mask, String> {
        let top = match grammar {
            Grammar::Regex(r) => TopLevelGrammar::from_regex(r),
            Grammar::JsonSchema(schema) => {
                let mut schema = schema.clone();
                if let Some(object) = schema.as_object_mut() {
                    // Otherwise white space without end is valid JSON.
                    object.insert("x-guidance".into(), serde_json::json!({"whitespace_flexible": false}));
                }
                TopLevelGrammar::from_json_schema(schema)
            }
            Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let matcher = Matcher::new(self.factory.create_parser(top));
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(Mask { matcher }),
        }
    }
}

/// Where a row stands in its grammar.
pub struct Mask {
    matcher: Matcher,
}

impl Mask {
    /// Sets the logits of tokens that may not come next to −∞.
    ///
    /// # Errors
    /// The library's message.
    pub fn apply(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(|e| e.to_string())?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= allowed.len() || !allowed.is_allowed(id as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes the token that was drawn.
    ///
    /// # Errors
    /// If the grammar does not allow it.
    pub fn accept(&mut self, id: u32) -> Result<(), String> {
        self.matcher.consume_token(id).map_err(|e| e.to_string())
    }

    /// True when nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// True if the text so far is whole.
    pub fn accepts_end(&mut self) -> bool {
        self.matcher.is_accepting().unwrap_or(false)
    }
}
