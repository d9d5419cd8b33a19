//! The registry protocol, client side (IMG-120..IMG-151).
//!
//! Owns requests, authentication, redirects, retries and their errors; knows nothing of layers on disk. One
//! [`Session`] serves one pull: one repository, one credential. Start at [`Session::resolve`]; `transport.rs` sends one
//! request, `login.rs` answers challenges, `retry.rs` decides what is worth another try.

mod body;
mod challenge;
mod endpoint;
mod fault;
mod login;
mod retry;
mod session;
mod transport;

pub(crate) use body::{Next, next_frame};
pub(crate) use endpoint::endpoints;
pub(crate) use fault::{Fault, RequestError};
pub(crate) use session::{Blob, Session, SessionOptions};
pub(crate) use transport::Transport;
