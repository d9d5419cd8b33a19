//! Which pod goes first.
//!
//! Pure: pods that use more than they asked for, then the lower priority, then who uses most beyond its request (RTC-70).

use super::{
    signal::{Resource, Signal},
    view::{Candidate, Layout},
};
use crate::object::Pod;
use std::cmp::Reverse;

/// Pods of this priority and above keep the node alive.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// True for a pod that the node must not do without: static pods, their mirrors, and those of system priority.
pub fn is_critical(pod: &Pod) -> bool {
    // By where it came from, not by an annotation: anybody can write that.
    pod.is_static || pod.is_mirror() || pod.spec.priority.unwrap_or(0) >= SYSTEM_CRITICAL
}

/// The place of a pod in the order of eviction; the least goes first.
type Rank = (bool, bool, i32, Reverse<i64>, Reverse<i64>);

fn rank(candidate: &Candidate, signal: Signal, layout: Layout) -> Rank {
    let priority = candidate.pod.spec.priority.unwrap_or(0);
    // Of equals the younger goes: it has the least work to lose.
    let started = candidate.pod.status.start_time.as_ref().map_or(i64::MAX, |at| at.0.as_second());
    let uses = candidate.uses(signal, layout);
    let above = uses.map_or(i64::MAX, |uses| uses.saturating_sub(candidate.requests(signal)));
    // Nobody asks for process ids, so nobody uses too many of them. Elsewhere a pod of which nothing is known goes first.
    let (is_known, is_modest) = match signal.resource() {
        Resource::Pids => (true, false),
        _ => (uses.is_some(), above <= 0),
    };
    (is_known, is_modest, priority, Reverse(above), Reverse(started))
}

/// The pods in the order of eviction.
pub fn order(candidates: &[Candidate], signal: Signal, layout: Layout) -> Vec<&Candidate> {
    let mut ordered: Vec<&Candidate> = candidates.iter().collect();
    ordered.sort_by_cached_key(|candidate| (rank(candidate, signal, layout), candidate.pod.uid().to_owned()));
    ordered
}
