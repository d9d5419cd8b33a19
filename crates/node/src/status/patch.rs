//! The patch that brings the API's status to ours, and how urgent it is (POD-49).

use crate::object::PodStatus;
use serde_json::{Map, Value, json};

/// A merge patch of `pods/status` from `known` to `wanted`, guarded by the UID; `None` if they say the same.
pub fn merge(uid: &str, known: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let (known, wanted) = (fields(known), fields(wanted));
    let mut changes = Map::new();
    for (name, value) in &wanted {
        if known.get(name) != Some(value) {
            changes.insert(name.clone(), value.clone());
        }
    }
    for name in known.keys().filter(|name| !wanted.contains_key(*name)) {
        changes.insert(name.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| json!({ "metadata": { "uid": uid }, "status": changes }))
}

fn fields(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// True if somebody waits for this change: phase, a container's state or readiness. Addresses and first words of a pod
/// that is on its way to Running can wait for what comes milliseconds later, so that a start costs one patch.
pub fn is_urgent(known: &PodStatus, wanted: &PodStatus) -> bool {
    let first = known.phase.is_empty() || known.phase == "Pending";
    if !first || wanted.phase != "Pending" {
        return true;
    }
    let all = wanted.container_statuses.iter().chain(&wanted.init_container_statuses);
    all.into_iter().any(|status| {
        let in_silence = status
            .state
            .waiting
            .as_ref()
            .is_some_and(|w| matches!(w.reason.as_str(), "" | "ContainerCreating" | "PodInitializing"));
        !in_silence
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_has_what_changed_and_nulls_what_went() {
        let known = PodStatus { phase: "Pending".into(), message: "old".into(), ..PodStatus::default() };
        let wanted = PodStatus { phase: "Running".into(), ..PodStatus::default() };
        let patch = merge("u", &known, &wanted).unwrap();
        assert_eq!(patch, json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "message": null}}));
        assert_eq!(merge("u", &wanted, &wanted), None);
    }
}
