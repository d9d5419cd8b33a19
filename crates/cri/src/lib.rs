//! The wall between node and runtime: CRI v1 types and client.
//!
//! Owns the interface description (`proto/`), the generated types ([`v1`]) and the [`Door`] through which the node
//! reaches a runtime: over a Unix socket ([`connect`]) or inside the process ([`in_process`]). Must not know what a Pod
//! is, nor which runtime answers. Start with [`Client`].

#![forbid(unsafe_code)]

mod door;
mod redact;

#[cfg(feature = "fake")]
pub mod fake;

pub use door::{Client, ConnectError, Door, MESSAGE_BYTES_MAX, connect, in_process, in_process_with_pulls, lazy};

/// The generated messages, clients and server traits of `runtime.v1`.
///
/// Maps are `BTreeMap`s. Each method of a server trait answers `Unimplemented` unless it is overridden.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The generated messages, client and server trait of `sampan.v1`, which only the embedded runtime offers.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod sampan {
    tonic::include_proto!("sampan.v1");
}

/// What a streaming verb of a server answers with.
pub type Stream<T> = tonic::codegen::BoxStream<T>;
