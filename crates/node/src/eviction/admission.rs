//! Whether a pod is let in while the node is under pressure.
//!
//! Pure. Memory pressure keeps out pods that ask for nothing; any other keeps out all but the critical ones.

use super::{
    rank::is_critical,
    signal::{Condition, Pressure},
};
use crate::{
    cgroups::{Qos, qos},
    object::Pod,
};
use api::pod::toleration::Taint;

/// The taint that a node under memory pressure bears.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// The reason and the message of a refusal; `None` if the pod is let in.
pub fn refusal(pod: &Pod, pressure: &Pressure) -> Option<(String, String)> {
    if pressure.is_empty() || is_critical(pod) {
        return None;
    }
    let only_memory = pressure.iter().all(|condition| *condition == Condition::MemoryPressure);
    if only_memory && (qos(pod) != Qos::BestEffort || tolerates_memory_pressure(pod)) {
        return None;
    }
    let names: Vec<&str> = pressure.iter().map(|condition| condition.name()).collect();
    Some((super::act::REASON.to_owned(), format!("The node had condition: [{}]. ", names.join(" "))))
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let taint = Taint { key: MEMORY_TAINT.into(), value: String::new(), effect: "NoSchedule".into() };
    pod.spec.tolerations.iter().any(|toleration| toleration.tolerates(&taint))
}
