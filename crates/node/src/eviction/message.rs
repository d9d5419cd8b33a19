//! What an evicted pod is told: upstream's words, figure by figure.
//!
//! Pure. Start at [`eviction`].

use super::{
    policy::Threshold,
    signal::{Resource, Signal},
    view::{Candidate, Observations},
};
use api::quantity::Quantity;
use std::collections::BTreeMap;

/// The message and the event's annotations. `met` are the thresholds that drive eviction now.
pub fn eviction(
    candidate: &Candidate,
    signal: Signal,
    met: &[Threshold],
    seen: &Observations,
) -> (String, BTreeMap<String, String>) {
    let resource = signal.resource();
    let mut message = format!("The node was low on resource: {}. ", resource.name());
    let same = met.iter().filter(|threshold| threshold.signal.resource() == resource);
    if let Some((threshold, seen)) = same.filter_map(|t| Some((t, seen.get(&t.signal)?))).next() {
        let quantity = threshold.amount.of(seen.capacity);
        message.push_str(&format!("Threshold quantity: {quantity}, available: {}. ", seen.available));
    }
    let mut notes = BTreeMap::new();
    if candidate.usage.is_none() {
        return (message, notes);
    }
    if let Some((used, requested)) = of_pod(candidate, resource) {
        let name = candidate.pod.name();
        message.push_str(&blame("Pod", name, &used, &requested, resource));
        notes.insert("offending_pod".to_owned(), name.to_owned());
        notes.insert("offending_pod_usage".to_owned(), used);
    }
    let greedy = greedy(candidate, resource);
    for (name, used, requested) in &greedy {
        message.push_str(&blame("Container", name, used, requested, resource));
    }
    let joined = |of: fn(&Greedy) -> &str| greedy.iter().map(of).collect::<Vec<_>>().join(",");
    notes.insert("offending_containers".to_owned(), joined(|(name, ..)| name));
    notes.insert("offending_containers_usage".to_owned(), joined(|(_, used, _)| used));
    notes.insert("starved_resource".to_owned(), resource.name().to_owned());
    (message, notes)
}

fn blame(what: &str, name: &str, used: &str, requested: &str, resource: Resource) -> String {
    let resource = resource.name();
    format!("{what} {name} was using {used}, request is {requested}, has larger consumption of {resource}. ")
}

/// What a pod with a request of its own uses and asked for.
fn of_pod(candidate: &Candidate, resource: Resource) -> Option<(String, String)> {
    let requests = &candidate.pod.spec.resources.as_ref()?.requests;
    let requested = requests.get(resource.name()).filter(|_| resource == Resource::Memory)?;
    let requested = Quantity::parse(requested).ok()?;
    Some((Quantity::bytes(candidate.usage.as_ref()?.memory_bytes).to_string(), requested.to_string()))
}

/// Name, use, request.
type Greedy = (String, String, String);

/// The containers that use more than they asked for.
fn greedy(candidate: &Candidate, resource: Resource) -> Vec<Greedy> {
    let spec = &candidate.pod.spec;
    let containers = spec.containers.iter().chain(&spec.init_containers);
    let blamed = containers.filter_map(|container| {
        let usage = candidate.usage.as_ref()?.containers.get(&container.name)?;
        let used = match resource {
            Resource::Memory => usage.memory_bytes?,
            Resource::EphemeralStorage => usage.layer?.plus(usage.logs?).bytes,
            Resource::Inodes | Resource::Pids => return None,
        };
        let requested = container.resources.requests.get(resource.name());
        let requested = requested.and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::ZERO);
        let used = Quantity::bytes(used);
        (used > requested).then(|| (container.name.clone(), used.to_string(), requested.to_string()))
    });
    blamed.collect()
}
