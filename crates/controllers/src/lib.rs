//! The controllers: each keeps one promise of the API that no single request can keep.
//!
//! One module a controller, all alike: a pure `decide` over the [`view::World`] and an idempotent `act` for each of its
//! actions. `shell.rs` is shared: it watches once for all of them, asks each what is to be done after every change,
//! and carries that out with back-off. Start at `shell.rs`; to add a controller, copy `service_account.rs` and name it
//! in [`shell::Action`] and `shell::decide`. Controllers of workloads are a pure `decide` each and share the rest: see
//! [`workload`].

#![forbid(unsafe_code)]

pub mod bootstrap_tokens;
pub mod call;
pub mod certificates;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod event;
pub mod garbage;
pub mod job;
pub mod namespace;
pub mod node_health;
pub mod node_taints;
pub mod pod_gc;
pub mod replica_set;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod shell;
pub mod stateful_set;
pub mod taint_eviction;
pub mod track;
pub mod view;
pub mod watch;
pub mod workload;

pub use node_health::Policy as NodePolicy;
pub use shell::{Error, Options, run};
