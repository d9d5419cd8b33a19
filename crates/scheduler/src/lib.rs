//! The scheduler: which node for this pod.
//!
//! `view.rs` holds small types of what matters of Pods, Nodes and RuntimeClasses; `fit.rs` the arithmetic on them;
//! `decide.rs` the pure choice and `preempt.rs` whom it displaces; `queue.rs` whose turn it is; `act.rs` binds, displaces
//! and reports; `shell.rs` watches and wakes. Start at [`decide::place`]. It must not decide anything but the node and
//! who makes room on it.

#![forbid(unsafe_code)]

pub mod act;
pub mod decide;
pub mod fit;
pub mod neighbours;
pub mod preempt;
mod queue;
pub mod shell;
pub mod view;

pub use shell::{Error, run};
