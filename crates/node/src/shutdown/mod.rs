//! The end of the machine: when its shutdown is announced, the node's pods stop group by group, those of the lowest
//! priority first, each with its hooks, while logind waits (HOOK-97, TR-16).
//!
//! `policy` is the words of the settings, `decide` the state machine over announcements, ends of pods and the time, both
//! pure; `logind` holds the lock that the machine's shutdown waits for and hears what is announced. Must not touch a pod: a
//! verdict is handed to the pod's own task by the agent. Start at [`decide::Machine`].

pub mod decide;
pub mod logind;
pub mod policy;

pub use policy::{Given, Group, Policy};

use crate::object::PodStatus;

/// The reason of a pod that was ended for the machine's shutdown.
pub const TERMINATED: &str = "Terminated";
/// Its message.
pub const TERMINATED_MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// The reason of a pod that came when the machine was already shutting down.
pub const REJECTED: &str = "NodeShutdown";
/// Its message.
pub const REJECTED_MESSAGE: &str = "Pod was rejected as the node is shutting down.";
/// Why the node is not ready then.
pub const NOT_READY: &str = "node is shutting down";

/// True for the status of a pod that a shutdown of the machine has ended or kept out.
pub fn has_ended(status: &PodStatus) -> bool {
    status.phase == "Failed" && is_reason(&status.reason)
}

/// True for the reason of such a pod.
pub fn is_reason(reason: &str) -> bool {
    matches!(reason, TERMINATED | REJECTED)
}
