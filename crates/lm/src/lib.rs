//! The language model as the agents see it: chat messages in, text and (where it can be had) probabilities out.
//!
//! [`LanguageModel`] has two implementations: [`Local`], our own engine over a checkpoint on this machine, and
//! [`Server`], any OpenAI-compatible endpoint. [`ModelRef`] is what the user types after `--model`; [`open`] turns
//! it into one or the other. Calls block and take whole batches; rows of a batch succeed or fail on their own.

mod device;
mod local;
mod open;
mod reference;
mod server;
mod types;
mod wire;

pub use device::{DeviceChoice, device};
pub use inference::{Grammar, Part, Sampling, Script};
pub use local::Local;
pub use open::{OpenOptions, SMOLLM2_FILE, on_disk, open, open_local, shipped_file, small};
pub use reference::ModelRef;
pub use server::{Server, ServerOptions};
pub use types::{
    Capabilities, ChoiceOutcome, Completion, Finish, LanguageModel, LmError, Message, ModelInfo, Output,
    PartOutcome, Progress, Request, Role, Silent, Usage,
};
pub use wire::ServerToken;
