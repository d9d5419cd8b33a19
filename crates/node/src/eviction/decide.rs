//! The decision of one round: which conditions hold, what is freed first, who goes.
//!
//! Pure. The shell asks again after each step of the round with what it has learned, and remembers [`Plan::memory`] at
//! its end. At most one pod goes in a round. Start at [`decide`].

use super::{
    message,
    policy::{Policy, Threshold},
    rank,
    signal::{Condition, Pressure, Resource, Signal},
    view::{Layout, Memory, View},
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// What a pod that is evicted at once gets, in seconds (HOOK-54, HOOK-93).
const GRACE_SECONDS: i64 = 1;

/// What this round is to do.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Plan {
    /// To be remembered for the next round.
    pub memory: Memory,
    /// The conditions of the node.
    pub pressure: Pressure,
    /// What runs short, if something has to be done about it.
    pub starved: Option<Signal>,
    /// The next step.
    pub step: Step,
}

/// The next step of a round.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing is to be done.
    Rest,
    /// Free what nobody needs, then look again.
    Free(Free),
    /// Find out what the pods use of this.
    Measure(Resource),
    /// End this pod.
    Evict(Eviction),
    /// There is nobody who could be evicted.
    Nobody,
}

/// What is freed before a pod has to go, in this order (IMG-265).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Free {
    /// The records, own files and logs of containers that have ended for good.
    pub containers: bool,
    /// All images that nobody uses.
    pub images: bool,
}

/// A pod's end.
#[derive(Debug, Clone, PartialEq)]
pub struct Eviction {
    /// The pod.
    pub uid: String,
    /// Seconds that its containers get.
    pub grace_seconds: i64,
    /// `status.message`, and the event's.
    pub message: String,
    /// The event's annotations.
    pub notes: BTreeMap<String, String>,
}

/// Decides the next step of a round.
pub fn decide(view: &View<'_>, now: Timestamp) -> Plan {
    let thresholds = &view.policy.thresholds;
    let memory = remember(view, now);
    let pressure = pressure(view.policy, &memory, now);
    let driving: Vec<Threshold> = memory.met.iter().map(|index| thresholds[*index]).collect();
    let rest = |memory, pressure| Plan { memory, pressure, starved: None, step: Step::Rest };
    let Some(worst) = driving.first() else { return rest(memory, pressure) };
    let free = free(view.layout, worst.signal);
    if view.freed.is_none() && free != Free::default() {
        return Plan { memory, pressure, starved: Some(worst.signal), step: Step::Free(free) };
    }
    // What was freed may have been enough, with what was to be freed on top.
    let left = |t: &Threshold| view.freed.is_none_or(|freed| t.is_crossed(freed, true));
    let left: Vec<Threshold> = driving.into_iter().filter(left).collect();
    let Some(worst) = left.first() else { return rest(memory, pressure) };
    let step = match view.candidates {
        None => Step::Measure(worst.signal.resource()),
        Some(_) => evict(view, worst, &left),
    };
    Plan { memory, pressure, starved: Some(worst.signal), step }
}

/// The first in the order of eviction that may go.
fn evict(view: &View<'_>, worst: &Threshold, met: &[Threshold]) -> Step {
    let ordered = rank::order(view.candidates.unwrap_or_default(), worst.signal, view.layout);
    let Some(candidate) = ordered.into_iter().find(|candidate| !rank::is_critical(&candidate.pod)) else {
        return Step::Nobody;
    };
    let grace_seconds = if worst.is_hard() {
        GRACE_SECONDS
    } else {
        let own = candidate.pod.spec.termination_grace_period_seconds.unwrap_or(30);
        view.policy.pod_grace_max_seconds.min(own).max(GRACE_SECONDS)
    };
    let (message, notes) = message::eviction(candidate, worst.signal, met, view.freed.unwrap_or(view.seen));
    Step::Evict(Eviction { uid: candidate.pod.uid().to_owned(), grace_seconds, message, notes })
}

/// What is crossed now, since when, and what of it has to be made good.
fn remember(view: &View<'_>, now: Timestamp) -> Memory {
    let Memory { crossed, met, seen } = view.memory;
    let is_crossed = |index: usize, threshold: &Threshold| {
        threshold.is_crossed(view.seen, false) || (met.contains(&index) && threshold.is_crossed(view.seen, true))
    };
    let thresholds = view.policy.thresholds.iter().enumerate().filter(|(index, t)| is_crossed(*index, t));
    let (mut memory, mut conditions) = (Memory::default(), seen.clone());
    for (index, threshold) in thresholds {
        let since = crossed.get(&index).copied().unwrap_or(now);
        memory.crossed.insert(index, since);
        conditions.insert(threshold.signal.condition(), now);
        if now.duration_since(since) >= threshold.grace {
            memory.met.push(index);
        }
    }
    conditions.retain(|_, at| is_shown(view.policy, *at, now));
    Memory { seen: conditions, ..memory }
}

/// A condition is shown as long as it is seen and for a while after, so that it does not flap.
fn pressure(policy: &Policy, memory: &Memory, now: Timestamp) -> Pressure {
    memory.seen.iter().filter(|(_, at)| is_shown(policy, **at, now)).map(|(condition, _)| *condition).collect()
}

fn is_shown(policy: &Policy, seen: Timestamp, now: Timestamp) -> bool {
    let past = now.duration_since(seen);
    past <= SignedDuration::ZERO || past < policy.transition
}

/// What can be freed where the signal measures.
fn free(layout: Layout, signal: Signal) -> Free {
    if !matches!(signal.resource(), Resource::EphemeralStorage | Resource::Inodes) {
        return Free::default();
    }
    match (layout, signal.is_of_images()) {
        (Layout::One, _) | (Layout::Images, true) => Free { containers: true, images: true },
        (Layout::Images, false) => Free::default(),
        (Layout::Split, true) => Free { containers: false, images: true },
        (Layout::Split, false) => Free { containers: true, images: false },
    }
}

/// The conditions that came (true) and went (false).
pub fn changes(before: &Pressure, after: &Pressure) -> Vec<(Condition, bool)> {
    let changed = Condition::ALL.into_iter().filter(|one| before.contains(one) != after.contains(one));
    changed.map(|condition| (condition, after.contains(&condition))).collect()
}
