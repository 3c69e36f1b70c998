//! What stops a draft.

/// Each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum ResearchError {
    /// The model fails.
    #[error(transparent)]
    Model(#[from] lm::LmError),
    /// A prompt template fails.
    #[error("prompt: {0}")]
    Prompt(String),
    /// A stage gave nothing usable after several tries.
    #[error("the stage {stage} gave no {missing}, {attempts} attempts; a larger model may do better")]
    Stage {
        /// Which stage.
        stage: String,
        /// What is missing.
        missing: String,
        /// Tries.
        attempts: usize,
    },
    /// The user's results are not of the form `[{"name": …, "result": {…}}]`.
    #[error("results: {0}")]
    Results(String),
    /// A second half was asked for, and there is nothing that it could follow.
    #[error("a second half needs the first (with \\title and an abstract) and results")]
    FirstHalf,
    /// The user's command failed.
    #[error("experiment: {0}")]
    Experiment(String),
    /// The PDF or page cannot be made.
    #[error(transparent)]
    Typeset(#[from] typeset::TypesetError),
    /// A stage cannot be stored.
    #[error("{0}")]
    Sink(String),
}
