//! What can go wrong when a paper is set.

/// Never because of a paper's text: that is data.
#[derive(Debug, thiserror::Error)]
pub enum TypesetError {
    /// The typesetter refuses its own template.
    #[error("the typesetter: {0}")]
    Compile(String),
    /// The HTML template fails.
    #[error("the page: {0}")]
    Page(#[from] askama::Error),
}
