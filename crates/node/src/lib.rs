//! The node agent (kubelet): runs the pods that are bound to this node through CRI and reports on them.
//!
//! Owns the pod machine, image decisions, status, events, volumes, probes, credentials, cgroups, the node port and the
//! heartbeat. Must not know which runtime answers CRI nor which store stands behind the API: both are reached through
//! clients that the root hands in. Start at [`agent`], then `pod` (the machine of one pod) and `status`.
#![forbid(unsafe_code)]

pub mod agent;
mod cause;
pub mod cgroups;
pub mod collection;
pub mod config;
pub mod credentials;
pub mod event;
pub mod eviction;
pub mod file_watch;
pub mod heartbeat;
mod histogram;
pub mod hooks;
pub mod image;
pub mod log_rotation;
pub mod object;
pub mod pod;
pub mod port;
pub mod probes;
pub mod records;
pub mod shutdown;
pub mod static_pods;
pub mod status;
pub mod volumes;

pub use agent::{DrainOptions, Error, Options, drain, run};
pub use pod::decide::CrashBackOff;
