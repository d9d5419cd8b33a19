//! What eviction knows: the figures of the machine, what the pods use, what is remembered from earlier rounds.
//!
//! Pure shapes. Must not decide. Start at [`View`].

use super::{
    policy::{Policy, Threshold},
    signal::{Condition, Resource, Signal},
};
use crate::{
    cgroups::{demand, storage_request},
    object::Pod,
};
use api::quantity::Quantity;
use jiff::Timestamp;
use std::{collections::BTreeMap, sync::Arc};

/// One signal as it was seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// What is left.
    pub available: Quantity,
    /// What there is in all.
    pub capacity: Quantity,
}

/// All signals that could be seen.
pub type Observations = BTreeMap<Signal, Observation>;

/// Which file systems there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One for everything.
    One,
    /// Images and containers' own files have one of their own.
    Images,
    /// Images alone have one of their own.
    Split,
}

/// What is remembered from round to round; thresholds by their place in the policy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// Since when a threshold has been crossed.
    pub crossed: BTreeMap<usize, Timestamp>,
    /// Thresholds whose grace is over and that are not yet made good, with what is to be freed on top.
    pub met: Vec<usize>,
    /// When a condition was last seen.
    pub seen: BTreeMap<Condition, Timestamp>,
}

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    /// Bytes on disk.
    pub bytes: i64,
    /// Inodes.
    pub inodes: i64,
}

/// What one container uses, as far as that is known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ContainerUsage {
    /// Its working set.
    pub memory_bytes: Option<i64>,
    /// Its own files.
    pub layer: Option<Files>,
    /// Its logs.
    pub logs: Option<Files>,
}

/// What one pod uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// The working set of its cgroup: the sandbox's processes count (RTC-70).
    pub memory_bytes: i64,
    /// Its processes.
    pub pids: i64,
    /// Its volumes on the node's disk.
    pub volumes: Files,
    /// Its containers by name.
    pub containers: BTreeMap<String, ContainerUsage>,
}

/// A pod that may be evicted.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it uses; `None` if nothing is known.
    pub usage: Option<Usage>,
}

/// All that a decision looks at.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The settings.
    pub policy: &'a Policy,
    /// The file systems.
    pub layout: Layout,
    /// What the last round left.
    pub memory: &'a Memory,
    /// What this round saw first.
    pub seen: &'a Observations,
    /// What it saw after freeing what nobody needs; `None` if it has not done so.
    pub freed: Option<&'a Observations>,
    /// The pods with what they use; `None` if nobody has looked.
    pub candidates: Option<&'a [Candidate]>,
}

impl Observation {
    /// So much of a whole, in bytes.
    pub fn bytes(available: u64, capacity: u64) -> Self {
        let bytes = |n: u64| Quantity::bytes(i64::try_from(n).unwrap_or(i64::MAX));
        Self { available: bytes(available), capacity: bytes(capacity) }
    }

    /// So many of a whole.
    pub fn units(available: i64, capacity: i64) -> Self {
        Self { available: Quantity::units(available), capacity: Quantity::units(capacity) }
    }
}

impl Threshold {
    /// True if less is left than there should be; `with_reclaim` also asks for what is to be freed on top.
    pub fn is_crossed(&self, seen: &Observations, with_reclaim: bool) -> bool {
        let Some(seen) = seen.get(&self.signal) else { return false };
        let mut wanted = self.amount.of(seen.capacity);
        if let Some(more) = self.reclaim.filter(|_| with_reclaim) {
            wanted = wanted.plus(more.of(seen.capacity));
        }
        wanted > seen.available
    }
}

impl Files {
    /// Both sums.
    #[must_use]
    pub fn plus(self, other: Files) -> Files {
        Files { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }
}

impl Layout {
    /// The parts of a pod's files that are on the file system of this signal: own files of containers, logs, volumes.
    fn parts(self, signal: Signal) -> [bool; 3] {
        match (self, signal.is_of_images()) {
            (Self::One, _) => [true, true, true],
            (Self::Images, false) => [false, true, true],
            (Self::Images, true) => [true, false, false],
            (Self::Split, false) => [true, true, true],
            (Self::Split, true) => [false, false, false],
        }
    }
}

impl Candidate {
    /// What the pod uses of what this signal measures; `None` if nothing is known.
    pub fn uses(&self, signal: Signal, layout: Layout) -> Option<i64> {
        let usage = self.usage.as_ref()?;
        Some(match signal.resource() {
            Resource::Memory => usage.memory_bytes,
            Resource::Pids => usage.pids,
            Resource::EphemeralStorage => usage.files(layout.parts(signal)).bytes,
            Resource::Inodes => usage.files(layout.parts(signal)).inodes,
        })
    }

    /// What the pod asked for of it. Overhead counts only on top of a request (RTC-70).
    pub fn requests(&self, signal: Signal) -> i64 {
        match signal.resource() {
            Resource::Memory => match demand(&self.pod) {
                bare if bare.memory_request_bytes == 0 => 0,
                bare => bare.with_overhead(&self.pod).memory_request_bytes,
            },
            Resource::EphemeralStorage => storage_request(&self.pod),
            Resource::Inodes | Resource::Pids => 0,
        }
    }
}

impl Usage {
    fn files(&self, [layers, logs, volumes]: [bool; 3]) -> Files {
        let of = |wanted: bool, files: Option<Files>| files.filter(|_| wanted).unwrap_or_default();
        let own = self.containers.values().map(|c| of(layers, c.layer).plus(of(logs, c.logs)));
        own.fold(of(volumes, Some(self.volumes)), Files::plus)
    }
}
