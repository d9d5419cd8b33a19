//! Node-pressure eviction: when memory, disk or process ids run short, the node frees what nobody needs and, if that is
//! not enough, ends pods one at a time (HOOK-93, IMG-265, RTC-70, TR-15).
//!
//! `signal` and `policy` are the words of the settings, `view` what was seen, `decide` (with `rank` and `message`) the
//! decision, all pure; `measure` reads the machine, `act` frees and evicts, `shell` is the round every ten seconds. Must
//! not touch a pod: a verdict is handed to the pod's own task. Start at [`decide::decide`].

pub mod act;
pub mod admission;
pub mod decide;
mod measure;
mod message;
mod metrics;
pub mod policy;
mod rank;
mod shell;
pub mod signal;
#[cfg(test)]
mod tests;
pub mod view;

pub use act::Ask;
pub use metrics::Metrics;
pub use policy::{Given, Policy};
pub use rank::is_critical;
pub use shell::{Evictor, Options};
pub use signal::{Condition, Pressure};
