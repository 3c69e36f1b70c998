//! What stops a review.

/// Each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The form cannot be used.
    #[error("form: {0}")]
    Form(String),
    /// A prompt template fails.
    #[error("prompt: {0}")]
    Prompt(String),
    /// The model fails.
    #[error(transparent)]
    Model(#[from] lm::LmError),
    /// There is nothing to read.
    #[error("the document has no text to review")]
    Empty,
    /// Nothing that the model wrote could be read.
    #[error("no reviewer's text could be read, after {attempts} attempts; the texts are kept in the store")]
    Unparsed {
        /// Tries in all.
        attempts: usize,
    },
}
