//! What a pod asks for in total, its QoS class, and where its cgroup is.
//!
//! Pure. Start at [`demand`].

use crate::config::quantity;
use crate::object::{Container, ContainerKind, Pod, Resources};

/// The three classes of pods (RTC-66).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits for CPU and memory equal to its requests.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

impl Qos {
    /// The word in `status.qosClass`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The cgroup of a pod in every hierarchy.
pub fn path(top: &str, pod: &Pod) -> String {
    let class = match qos(pod) {
        Qos::Guaranteed => "",
        Qos::Burstable => "/burstable",
        Qos::BestEffort => "/besteffort",
    };
    format!("{top}/kubepods{class}/pod{}", pod.uid())
}

/// The QoS class; overhead has no part in it (RTC-66).
pub fn qos(pod: &Pod) -> Qos {
    let lists: Vec<&Resources> = match &pod.spec.resources {
        Some(resources) if !resources.limits.is_empty() || !resources.requests.is_empty() => vec![resources],
        _ => {
            pod.containers().filter(|(kind, _)| *kind != ContainerKind::Ephemeral).map(|(_, c)| &c.resources).collect()
        }
    };
    let names = ["cpu", "memory"];
    let asks = |list: &Resources, name: &str| {
        [&list.requests, &list.limits].into_iter().any(|side| quantity::milli_of(side, name) > 0)
    };
    let is_firm = |list: &Resources, name: &str| {
        let limit = quantity::milli_of(&list.limits, name);
        let request = list.requests.get(name).and_then(|q| quantity::milli(q));
        limit > 0 && request.is_none_or(|r| r == limit)
    };
    if !lists.iter().any(|list| names.iter().any(|name| asks(list, name))) {
        Qos::BestEffort
    } else if lists.iter().all(|list| names.iter().all(|name| is_firm(list, name))) {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// The sums over a pod's containers, without overhead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// Requested thousandths of a CPU.
    pub cpu_request_milli: i64,
    /// Requested bytes of memory.
    pub memory_request_bytes: i64,
    /// Limit in thousandths of a CPU; None unless every container has one (RTC-65).
    pub cpu_limit_milli: Option<i64>,
    /// Limit in bytes; None unless every container has one (RTC-65).
    pub memory_limit_bytes: Option<i64>,
}

impl Demand {
    /// The same with the pod's overhead: always on requests, on limits only where there is one (RTC-63, RTC-64).
    pub fn with_overhead(self, pod: &Pod) -> Demand {
        let cpu = quantity::milli_of(&pod.spec.overhead, "cpu");
        let memory = quantity::whole_of(&pod.spec.overhead, "memory");
        Demand {
            cpu_request_milli: self.cpu_request_milli.saturating_add(cpu),
            memory_request_bytes: self.memory_request_bytes.saturating_add(memory),
            cpu_limit_milli: self.cpu_limit_milli.map(|limit| limit.saturating_add(cpu)),
            memory_limit_bytes: self.memory_limit_bytes.map(|limit| limit.saturating_add(memory)),
        }
    }
}

/// The pod's demand: the containers that run together, or a greater init container with the sidecars before it.
/// Pod-level resources take the place of the sums.
pub fn demand(pod: &Pod) -> Demand {
    let own = pod.spec.resources.clone().unwrap_or_default();
    let request = |name: &str, scale: Scale| match own.requests.get(name).or(own.limits.get(name)) {
        Some(text) => scale(text).unwrap_or(0),
        None => total(pod, &|c| Some(requested(&c.resources, name, scale))).unwrap_or(0),
    };
    let limit = |name: &str, scale: Scale| match own.limits.get(name) {
        Some(text) => scale(text),
        None => total(pod, &|c| c.resources.limits.get(name).and_then(|q| scale(q)).filter(|v| *v > 0)),
    };
    Demand {
        cpu_request_milli: request("cpu", quantity::milli),
        memory_request_bytes: request("memory", quantity::whole),
        cpu_limit_milli: limit("cpu", quantity::milli),
        memory_limit_bytes: limit("memory", quantity::whole),
    }
}

/// Requested bytes of the node's disk, with the pod's overhead on top of a request (RTC-70).
pub fn storage_request(pod: &Pod) -> i64 {
    let name = "ephemeral-storage";
    match total(pod, &|c| Some(requested(&c.resources, name, quantity::whole))).unwrap_or(0) {
        0 => 0,
        bytes => bytes.saturating_add(quantity::whole_of(&pod.spec.overhead, name)),
    }
}

type Scale = fn(&str) -> Option<i64>;

fn requested(resources: &Resources, name: &str, scale: Scale) -> i64 {
    resources.requests.get(name).or(resources.limits.get(name)).and_then(|q| scale(q)).unwrap_or(0)
}

/// The greatest simultaneous sum of `of` over the pod's life; None when any container has none.
fn total(pod: &Pod, of: &dyn Fn(&Container) -> Option<i64>) -> Option<i64> {
    let (mut sidecars, mut greatest_init, mut apps) = (0i64, 0i64, 0i64);
    for (kind, container) in pod.containers() {
        match kind {
            ContainerKind::Sidecar => sidecars = sidecars.saturating_add(of(container)?),
            ContainerKind::Init => greatest_init = greatest_init.max(sidecars.saturating_add(of(container)?)),
            ContainerKind::App => apps = apps.saturating_add(of(container)?),
            ContainerKind::Ephemeral => {}
        }
    }
    Some(greatest_init.max(sidecars.saturating_add(apps)))
}
