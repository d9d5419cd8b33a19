//! Requests and limits as Linux knows them: shares, quotas, bytes and OOM scores.
//!
//! Pure. [`container`] is for one container, [`pod`] the sum that CRI wants beside a sandbox, [`overhead`] what the
//! runtime class adds; the pod's cgroup itself is computed in `crate::cgroups`.

use super::{Context, quantity};
use crate::cgroups::{Qos, qos};
use crate::object::{Container, ContainerKind, Pod, Resources};
use cri::v1;
use std::collections::BTreeMap;

/// The period of CPU quotas, microseconds.
pub const CPU_PERIOD_US: i64 = 100_000;
/// The least number of CPU shares that the kernel takes.
pub const CPU_SHARES_MIN: i64 = 2;
/// The greatest number of CPU shares that the kernel takes.
pub const CPU_SHARES_MAX: i64 = 262_144;
/// The least quota that the kernel takes, microseconds.
pub const CPU_QUOTA_MIN_US: i64 = 1000;
/// The OOM score of Guaranteed pods and of node-critical ones.
const OOM_GUARANTEED: i64 = -997;
/// The OOM score of BestEffort pods.
const OOM_BEST_EFFORT: i64 = 1000;

/// CPU shares of a request in thousandths of a CPU.
pub fn shares(cpu_milli: i64) -> i64 {
    (cpu_milli.saturating_mul(1024) / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

/// CPU quota per [`CPU_PERIOD_US`] of a limit in thousandths of a CPU; 0 is no limit.
pub fn quota(cpu_milli: i64) -> i64 {
    if cpu_milli <= 0 {
        return 0;
    }
    (cpu_milli.saturating_mul(CPU_PERIOD_US) / 1000).max(CPU_QUOTA_MIN_US)
}

/// The Linux resources of one container.
pub(super) fn container(pod: &Pod, container: &Container, ctx: &Context) -> v1::LinuxContainerResources {
    let mut out = linux(&container.resources);
    out.oom_score_adj = oom_score(pod, container, ctx.memory_bytes);
    if ctx.cgroup_v2 {
        // One process killed for memory takes its whole container along, so that no half-dead container runs on.
        out.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    out
}

fn linux(resources: &Resources) -> v1::LinuxContainerResources {
    let limit = quantity::milli_of(&resources.limits, "cpu");
    let request = match resources.requests.get("cpu") {
        Some(text) => quantity::milli(text).unwrap_or(0),
        None => limit,
    };
    v1::LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: quota(limit),
        cpu_shares: shares(request),
        memory_limit_in_bytes: quantity::whole_of(&resources.limits, "memory"),
        hugepage_limits: hugepages(&resources.limits),
        ..Default::default()
    }
}

fn hugepages(limits: &BTreeMap<String, String>) -> Vec<v1::HugepageLimit> {
    let pages = limits.iter().filter_map(|(name, amount)| Some((name.strip_prefix("hugepages-")?, amount)));
    pages
        .filter_map(|(size, amount)| {
            let limit = u64::try_from(quantity::whole(amount)?).ok()?;
            Some(v1::HugepageLimit { page_size: page_size(quantity::whole(size)?), limit })
        })
        .collect()
}

/// The kernel's name of a huge page size: `2MB`, `1GB`.
fn page_size(bytes: i64) -> String {
    match bytes {
        b if b % (1 << 30) == 0 => format!("{}GB", b >> 30),
        b if b % (1 << 20) == 0 => format!("{}MB", b >> 20),
        b => format!("{}KB", b >> 10),
    }
}

/// The sum of the containers' resources without overhead (RTC-68).
pub(super) fn pod(pod: &Pod) -> v1::LinuxContainerResources {
    let sum = crate::cgroups::demand(pod);
    v1::LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: quota(sum.cpu_limit_milli.unwrap_or(0)),
        cpu_shares: shares(sum.cpu_request_milli),
        memory_limit_in_bytes: sum.memory_limit_bytes.unwrap_or(0),
        ..Default::default()
    }
}

/// The runtime class's overhead as request and limit alike (RTC-68).
pub(super) fn overhead(pod: &Pod) -> v1::LinuxContainerResources {
    if pod.spec.overhead.is_empty() {
        return v1::LinuxContainerResources::default();
    }
    let list = pod.spec.overhead.clone();
    linux(&Resources { limits: list.clone(), requests: list })
}

/// The OOM score: Guaranteed least likely, BestEffort most likely, Burstable by share of the node's memory. Overhead
/// has no part in it (RTC-71).
fn oom_score(pod: &Pod, container: &Container, memory_bytes: i64) -> i64 {
    if pod.spec.priority_class_name == "system-node-critical" {
        return OOM_GUARANTEED;
    }
    match qos(pod) {
        Qos::Guaranteed => OOM_GUARANTEED,
        Qos::BestEffort => OOM_BEST_EFFORT,
        Qos::Burstable => {
            let own = burstable_score(container, memory_bytes);
            let is_sidecar = matches!(pod.container(&container.name), Some((ContainerKind::Sidecar, _)));
            let apps = pod.spec.containers.iter().map(|c| burstable_score(c, memory_bytes)).min();
            // KEP-753: a sidecar is not killed before the containers that it serves.
            if is_sidecar { own.min(apps.unwrap_or(own)) } else { own }
        }
    }
}

fn burstable_score(container: &Container, memory_bytes: i64) -> i64 {
    let resources = &container.resources;
    let limit = quantity::whole_of(&resources.limits, "memory");
    let request = resources.requests.get("memory").and_then(|q| quantity::whole(q)).unwrap_or(limit);
    let share = if memory_bytes > 0 { i128::from(request) * 1000 / i128::from(memory_bytes) } else { 0 };
    (1000 - i64::try_from(share).unwrap_or(1000)).clamp(1000 + OOM_GUARANTEED, OOM_BEST_EFFORT - 1)
}
