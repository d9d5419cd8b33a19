//! Whether a pod that was bound here finds room (RTC-69, POD-7): the node's last word, after the scheduler's.
//!
//! Pure. Must not refuse a pod that was let in before. Start at [`refusal`].

use crate::{cgroups::demand, object::Pod};
use std::sync::Arc;

/// What the node has for pods.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub pods: i64,
    pub cpu_milli: i64,
    pub memory_bytes: i64,
}

/// The reason and the message of a refusal; None if the pod fits beside the others. Pods that have ended take no room.
pub(super) fn refusal(pod: &Pod, others: &[Arc<Pod>], room: Room) -> Option<(String, String)> {
    let others: Vec<_> = others.iter().filter(|other| !other.is_terminal() && other.uid() != pod.uid()).collect();
    let wanted = demand(pod).with_overhead(pod);
    let used: Vec<_> = others.iter().map(|other| demand(other).with_overhead(other)).collect();
    let pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let cpu = used.iter().map(|demand| demand.cpu_request_milli).fold(0, i64::saturating_add);
    let memory = used.iter().map(|demand| demand.memory_request_bytes).fold(0, i64::saturating_add);
    [
        ("pods", 1, pods, room.pods),
        ("cpu", wanted.cpu_request_milli, cpu, room.cpu_milli),
        ("memory", wanted.memory_request_bytes, memory, room.memory_bytes),
    ]
    .into_iter()
    .find(|(_, requested, used, capacity)| *requested > 0 && requested.saturating_add(*used) > *capacity)
    .map(|(name, requested, used, capacity)| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        (format!("OutOf{name}"), message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, cpu: &str, memory: &str, phase: &str) -> Arc<Pod> {
        let requests = json!({ "cpu": cpu, "memory": memory });
        let pod = json!({ "metadata": { "uid": uid }, "status": { "phase": phase },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": requests } }] } });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_that_finds_no_room_is_refused_in_the_words_of_kubernetes() {
        let room = Room { pods: 2, cpu_milli: 1000, memory_bytes: 1 << 20 };
        let one = pod("a", "600m", "1Ki", "Running");
        let ended = pod("b", "600m", "1Ki", "Failed");
        let refused = |pod: &Pod, others: &[Arc<Pod>]| refusal(pod, others, room);
        let text = |name: &str, numbers: [i64; 3]| {
            let [requested, used, capacity] = numbers;
            let text = "Node didn't have enough resource";
            let message = format!("{text}: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
            Some((format!("OutOf{name}"), message))
        };
        assert_eq!(refused(&pod("c", "400m", "1Ki", ""), &[one.clone(), ended]), None);
        assert_eq!(refused(&pod("c", "401m", "1Ki", ""), std::slice::from_ref(&one)), text("cpu", [401, 600, 1000]));
        assert_eq!(
            refused(&pod("c", "1m", "1Mi", ""), std::slice::from_ref(&one)),
            text("memory", [1 << 20, 1024, 1 << 20])
        );
        let two = pod("d", "0", "0", "Running");
        assert_eq!(refused(&pod("c", "0", "0", ""), &[one, two]), text("pods", [1, 2, 2]));
    }
}
