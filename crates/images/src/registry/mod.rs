//! The registry protocol, client side (IMG-120..IMG-151).
//!
//! Owns requests, authentication, redirects, retries and their errors; knows nothing of layers on disk. One
//! [`Session`] serves one pull: one repository, one credential. Start at [`Session::resolve`]; `hosts/` reads what the
//! machine's files say of a registry, `endpoint.rs` makes its hosts of that, `asking.rs` asks them in turn, `transport.rs`
//! sends one request, `login.rs` answers challenges, `retry.rs` decides what is worth another try.

mod asking;
mod body;
mod challenge;
mod connect;
mod endpoint;
mod fault;
mod hosts;
mod login;
mod pulse;
mod retry;
mod session;
mod transport;
mod trust;

pub(crate) use body::Next;
pub use connect::ProxyOptions;
pub(crate) use endpoint::endpoints;
pub(crate) use fault::{Fault, RequestError};
pub(crate) use hosts::{HostsError, Places, load as load_hosts};
#[cfg(feature = "fuzzing")]
pub(crate) use hosts::{parse_hosts_toml, parse_registries_yaml};
pub(crate) use pulse::Active;
pub(crate) use session::{Blob, Session, SessionOptions};
pub(crate) use transport::Transport;
