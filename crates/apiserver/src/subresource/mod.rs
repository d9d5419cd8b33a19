//! Subresources that are more than a view of their object.

pub mod binding;
pub mod eviction;
pub mod hooks;
pub mod log;
pub mod node_port;
pub mod scale;
pub mod stream;
pub mod token;
