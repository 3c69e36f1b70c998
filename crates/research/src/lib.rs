//! CycleResearcher: references in, a drafted paper out, in the stages of the published dialogue.
//!
//! A [`Researcher`] asks for motivation, idea, title, abstract and the first sections, then for the experimental set-up
//! as JSON, and stops there unless there are results: the user's, a command's, or invented ones that are marked on every
//! page. Every stage is handed to a [`StageSink`] before the next begins. [`folder`] sets a [`Draft`]: citations outside
//! the given references are repaired or removed and counted, tables come from the results alone.

mod error;
mod experiment;
mod folder;
mod latex;
mod literature;
pub mod prompts;
mod researcher;
mod scripts;
mod stage;

pub use error::ResearchError;
pub use folder::{PaperFolder, Provenance, folder};
pub use latex::{Citations, Keys, blocks, inlines, sections};
pub use literature::Literature;
pub use researcher::{Brief, Draft, Researcher, Results, StageSink, default_sampling};
pub use stage::{Given, Outline, Stage, Written, written};
