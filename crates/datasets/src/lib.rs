//! Data sets of papers and reviews, built again from the services or from records on disk.
//!
//! A [`Spec`] (a TOML file in `datasets/`) says which venues, scales, filters and splits. [`build`] has three phases, each
//! over a stream: records are gathered into fragments on disk (`gather`), the fragments of a paper are joined and judged
//! by named steps (`steps`), and what is left is written in the order of its ids (`write`). Only a small entry for each
//! paper is in memory: id, title, signature. [`crawl`] fills a folder of records from the network; [`Estimate`] says what
//! that costs. A paper that is left out has a row with its reason.

mod alike;
mod archive;
mod build;
mod card;
mod crawl;
mod error;
mod estimate;
mod export;
mod fragment;
mod gather;
mod leakage;
mod licence;
mod lock;
mod messages;
mod minhash;
mod numbers;
mod outline;
mod pairs;
mod papers;
mod parquet;
mod plot;
mod record;
mod research;
mod scale;
mod shipped;
mod spec;
mod split;
mod spool;
mod stats;
mod steps;
mod title;
mod verify;
mod write;

pub use build::{BuildOptions, Built, Progress, Silent, build};
pub use crawl::{CrawlOptions, Crawled, crawl};
pub use error::DatasetError;
pub use estimate::{Estimate, HostEstimate};
pub use export::{ExportFormat, export};
pub use leakage::{Leak, LeakageReport, NamedSet, leakage};
pub use lock::{Lock, lock};
pub use outline::{Outline, OutlineCheck};
pub use pairs::write_pairs;
pub use scale::{Label, Scale, label};
pub use shipped::{SHIPPED, shipped};
pub use spec::{Spec, SpecKind, When};
pub use stats::{Stats, YearStats, stats};
pub use verify::{Fault, verify};
