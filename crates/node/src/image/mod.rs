//! What the node decides about images: whether to pull, when to try again, in which order, and how far a pull is.
//!
//! Owns the decision table (IMG-41), the classes of errors (`fault`), the back-off and what ends it early (`backoff`,
//! `causes`, `probe`), the queue of pulls (`queue`, `flight`), their progress (`progress`) and their numbers
//! (`metrics`). Whether an image is present and how a pull ended is told by the pod's `act`. The cores here are pure;
//! nothing here talks to the runtime. Start at [`choose`].

pub mod backoff;
pub mod causes;
pub mod fault;
pub mod flight;
pub mod metrics;
pub mod probe;
pub mod progress;
pub mod queue;
pub mod watch;

pub use backoff::{BACKOFF_FIRST, BACKOFF_FORGET, BACKOFF_MAX, Failures, doubled};
pub use causes::{Cause, Causes};
pub use fault::{Class, Fault, Refusal};

use crate::pod::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use tokio::sync::Notify;

/// How a pull ended for all who shared it.
pub type Landing = Result<Pulled, Fault>;

/// A pull that went well.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulled {
    /// The runtime's id of the image.
    pub id: String,
    /// Which of the tries it was.
    pub by: usize,
    /// When the runtime was asked.
    pub begun: Timestamp,
    /// What the runtime says of the image; empty if it does not (IMG-49).
    pub found: cri::v1::Image,
}

/// What the pulls of a node share.
#[derive(Clone)]
pub struct Pulls {
    /// Whose turn it is.
    pub queue: queue::Queue,
    /// Pulls under way, by a hash of image and credentials.
    pub flights: flight::Flights<[u8; 32], Landing>,
    /// How far they are.
    pub board: progress::Board,
    /// Their numbers.
    pub metrics: Arc<metrics::Metrics>,
    /// What may end a back-off early.
    pub causes: Causes,
    /// Where failures of registries are told.
    pub registries: probe::Registries,
    disk_full: Arc<Notify>,
}

impl Pulls {
    /// Nothing under way; the second part is for [`probe::run`].
    pub fn new(limits: queue::Limits, clock: Clock) -> (Self, probe::Failed) {
        let (registries, failed) = probe::Registries::new();
        let pulls = Self {
            queue: queue::Queue::new(limits, clock),
            flights: flight::Flights::default(),
            board: progress::Board::new(clock),
            metrics: Arc::default(),
            causes: Causes::default(),
            registries,
            disk_full: Arc::default(),
        };
        (pulls, failed)
    }
}

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Resolve at every start.
    Always,
    /// Pull only what is absent.
    IfNotPresent,
    /// Never pull.
    Never,
}

impl Policy {
    /// From the spec's word; the API server has defaulted it, so that an unknown word means IfNotPresent.
    pub fn parse(word: &str) -> Self {
        match word {
            "Always" => Self::Always,
            "Never" => Self::Never,
            _ => Self::IfNotPresent,
        }
    }

    /// IMG-41: `Always` does not look at what is there.
    pub fn looks_locally(self) -> bool {
        self != Self::Always
    }

    /// The policy as metrics write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::IfNotPresent => "ifnotpresent",
            Self::Never => "never",
        }
    }
}

/// Whether a pod may use an image that is on the node without asking the registry (IMG-232 … IMG-237).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// It may: nobody's credentials were needed, or the pod has them.
    Allowed,
    /// Only after a pull with its own credentials.
    MustPull,
}

/// What to do for one start of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Run what is there.
    UseLocal,
    /// Ask the registry.
    Pull,
    /// `ErrImageNeverPull`.
    RefuseNever,
}

/// The table IMG-41. `Never` answers the same whether the image is absent or not this pod's (IMG-244).
pub fn choose(policy: Policy, present: bool, verification: Verification) -> Choice {
    match (policy, present, verification) {
        (Policy::Always, ..) | (Policy::IfNotPresent, false, _) => Choice::Pull,
        (Policy::IfNotPresent, true, Verification::MustPull) => Choice::Pull,
        (Policy::Never, false, _) | (Policy::Never, true, Verification::MustPull) => Choice::RefuseNever,
        (_, true, Verification::Allowed) => Choice::UseLocal,
    }
}

impl Pulls {
    /// A pull failed: whoever can do something about it is told.
    pub fn failed(&self, fault: &Fault) {
        self.registries.failed(&fault.host, fault.class);
        if fault.class == Class::Disk {
            self.disk_full.notify_one();
        }
    }

    /// Returns when a pull found no room.
    pub async fn disk_is_full(&self) {
        self.disk_full.notified().await;
    }
}

/// The name of an image in full form, so that what a pod and what the runtime calls it is the same.
pub fn full_name(image: &str) -> String {
    let full = reference::apply_default_tag(image).and_then(|image| reference::Reference::parse(&image));
    full.map_or_else(|_| image.to_owned(), |reference| reference.stored().canonical())
}

/// IMG-48: a duration in Go's notation, truncated to milliseconds.
pub fn go_duration(duration: SignedDuration) -> String {
    let ms = duration.as_millis().max(0);
    let (hours, minutes, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    if ms < 1000 {
        return if ms == 0 { "0s".into() } else { format!("{ms}ms") };
    }
    let mut text = String::new();
    if hours > 0 {
        text += &format!("{hours}h");
    }
    if ms >= 60_000 {
        text += &format!("{minutes}m");
    }
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    text + seconds.trim_end_matches('0').trim_end_matches('.') + "s"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_table_is_as_specified() {
        use {Choice::*, Policy::*, Verification::*};
        for (policy, present, verification, choice) in [
            (Always, false, Allowed, Pull),
            (Always, true, Allowed, Pull),
            (Always, true, MustPull, Pull),
            (IfNotPresent, false, Allowed, Pull),
            (IfNotPresent, false, MustPull, Pull),
            (IfNotPresent, true, Allowed, UseLocal),
            (IfNotPresent, true, MustPull, Pull),
            (Never, false, Allowed, RefuseNever),
            (Never, false, MustPull, RefuseNever),
            (Never, true, Allowed, UseLocal),
            (Never, true, MustPull, RefuseNever),
        ] {
            assert_eq!(choose(policy, present, verification), choice, "{policy:?} {present} {verification:?}");
        }
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        for (ms, text) in [
            (0, "0s"),
            (405, "405ms"),
            (1000, "1s"),
            (8658, "8.658s"),
            (8600, "8.6s"),
            (60_000, "1m0s"),
            (105_457, "1m45.457s"),
            (3_600_000, "1h0m0s"),
            (3_661_010, "1h1m1.01s"),
        ] {
            assert_eq!(go_duration(SignedDuration::from_millis(ms)), text);
        }
    }
}
