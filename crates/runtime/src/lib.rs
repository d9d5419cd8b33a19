//! The embedded container runtime: a CRI v1 server on top of OCI runtimes, one monitor process a pod.
//!
//! Owns `<data-dir>/runtime`, `<run-dir>/{sandboxes,containers,oci}` and what is mounted there. Knows no Pod and no API
//! object: it sees sandboxes, containers and images as CRI tells them. Containers belong to their monitors, so this
//! process may die at any time; the next one takes over ([`Runtime::start`], `startup.rs`). Contracts:
//! `docs/walls/{cri,oci-runtime,files,monitor}.md`. Start with [`Runtime`], then `service.rs` and `core.rs`.

#![forbid(unsafe_code)]

mod archives;
mod cgroup;
mod check;
mod clock;
mod container;
mod core;
mod descriptor;
mod error;
mod events;
mod figures;
mod gate;
mod handlers;
mod images;
mod info;
mod link;
mod oci;
mod options;
mod process;
mod pulls;
mod record;
mod rootfs;
mod sandbox;
mod server;
mod service;
mod startup;
mod state;
mod stats;
mod streaming;

pub use check::{Passed, self_test};
pub use error::Error;
pub use handlers::find_program;
pub use options::{COMMAND_TIMEOUT, COMMAND_TIMEOUT_MAX, Handler, Options};
pub use server::Runtime;
