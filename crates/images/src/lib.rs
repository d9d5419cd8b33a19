//! Images: the registry client, manifests, the content store and the unpacking of layers.
//!
//! Owns `<data-dir>/images` and every byte that comes from a registry. Knows nothing of pods, policies or back-off:
//! it is told what to pull with which credential, and answers with an [`Image`] whose layers are whole, or with a
//! [`PullError`]. Start at [`Images`]; `pull.rs` is the road from a name to an image, `layer/` the streaming pass,
//! `registry/` the protocol, `store/` what is on disk. The contract and the promises about crashes are in
//! `docs/walls/registry.md`.

#![forbid(unsafe_code)]

mod archive;
mod credential;
mod error;
mod flight;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hash;
mod images;
mod layer;
mod machine;
mod manifest;
mod progress;
mod pull;
mod queue;
mod registry;
mod store;

pub use archive::{ArchiveError, ImportOptions, ImportSource};
pub use credential::Credential;
pub use error::{Attempt, OpenError, PullError, RemoveError};
pub use images::{Hold, Images, Options, PullRequest, Usage};
pub use manifest::ImageConfig;
pub use progress::{LayerProgress, LayerState, ProgressSink, PullProgress};
pub use registry::ProxyOptions;
pub use store::Image;
