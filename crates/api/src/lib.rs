//! Kubernetes objects and their rules.
//!
//! This room owns: the one table of served kinds ([`kinds`]), defaulting, validation, selectors, quantities, patches, apply,
//! printer columns and the per-kind strategies ([`Rules`]). Objects are `serde_json::Value` while rules run.
//!
//! It must not do: I/O, clocks, async. Time is an argument wherever it is needed.
//!
//! Start at [`kind`] for the table, at [`rules`] for what a kind does, at [`pod`] for arithmetic that the scheduler and
//! the node share. The contract is `docs/walls/cluster-api.md`.
#![forbid(unsafe_code)]

pub mod apply;
pub mod certificate;
pub mod duration;
pub mod field;
pub mod handlers;
pub mod hook;
pub mod kind;
pub mod look;
pub mod meta;
pub mod names;
pub mod patch;
pub mod pod;
pub mod pod_security;
pub mod quantity;
pub mod quota;
pub mod rbac;
pub mod rules;
pub mod schedule;
pub mod schema;
pub mod selector;
pub mod table;
pub mod time;
pub mod weight;

pub use field::{Cause, FieldError, FieldErrorKind, Path};
pub use jiff::Timestamp;
pub use kind::{Kind, Storage, Subresource, find, find_kind, kinds};
pub use rules::{Requester, Rules, Toward};
pub use table::Column;
