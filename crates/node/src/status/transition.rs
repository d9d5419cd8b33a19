//! What a status may not say: that a container which ended for good is alive again (POD-40).
//!
//! Pure. The API refuses such a status too, so that it is not sent. Start at [`illegal`].

use crate::{
    object::{ContainerKind, Pod, PodStatus},
    pod::decide::{policy_restarts, restart_all},
};

/// The container that may not come back to life in the step from `known` to `wanted`.
pub fn illegal<'a>(pod: &'a Pod, known: &PodStatus, wanted: &PodStatus) -> Option<&'a str> {
    // HOOK-106: then every container may.
    if restart_all::is_possible(pod) {
        return None;
    }
    let policy = pod.spec.restart_policy.as_str();
    let containers = pod.containers().filter(|(kind, _)| matches!(kind, ContainerKind::App | ContainerKind::Init));
    let mut revived = containers.filter(|(kind, container)| {
        let of = |status: &PodStatus| {
            let list =
                if *kind == ContainerKind::App { &status.container_statuses } else { &status.init_container_statuses };
            list.iter().find(|found| found.name == container.name).map(|found| found.state.clone())
        };
        let Some(end) = of(known).and_then(|state| state.terminated) else { return false };
        let is_alive = of(wanted).is_some_and(|state| state.terminated.is_none());
        // An init container runs again in another sandbox whatever its code was, if the pod restarts anything at all.
        let may = policy_restarts(policy, *kind, container, end.exit_code)
            || (*kind == ContainerKind::Init && policy == "Always");
        is_alive && !may
    });
    revived.next().map(|(_, container)| container.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pod_40_who_ended_for_good_does_not_come_back() {
        let status = |list: &str, state: serde_json::Value| -> PodStatus {
            serde_json::from_value(json!({list: [{"name": "c", "state": state}]})).unwrap()
        };
        let ended = |code: i32| json!({"terminated": {"exitCode": code}});
        let rule = |action: &str| json!({"restartPolicyRules": [{"action": action, "exitCodes": {"operator": "In", "values": [42]}}]});
        for (policy, more, code, is_init, is_illegal) in [
            ("Never", json!({}), 0, false, true),
            ("Never", json!({}), 1, false, true),
            ("OnFailure", json!({}), 0, false, true),
            ("OnFailure", json!({}), 1, false, false),
            ("Always", json!({}), 0, false, false),
            ("Never", json!({"restartPolicy": "Always"}), 0, false, false),
            ("Always", json!({"restartPolicy": "Never"}), 0, false, true),
            ("Never", rule("Restart"), 42, false, false),
            ("Never", rule("Restart"), 41, false, true),
            ("Never", rule("RestartAllContainers"), 0, false, false),
            ("Never", json!({}), 0, true, true),
            ("OnFailure", json!({}), 0, true, true),
            ("OnFailure", json!({}), 1, true, false),
            ("Always", json!({}), 0, true, false),
        ] {
            let mut container = json!({"name": "c"});
            json_patch::merge(&mut container, &more);
            let list = if is_init { "initContainers" } else { "containers" };
            let pod = json!({"spec": {"restartPolicy": policy, list: [container]}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let list = if is_init { "initContainerStatuses" } else { "containerStatuses" };
            for alive in [json!({"running": {}}), json!({"waiting": {"reason": "ContainerCreating"}})] {
                let seen = illegal(&pod, &status(list, ended(code)), &status(list, alive));
                assert_eq!(seen, is_illegal.then_some("c"), "{policy} {more} {code} {is_init}");
            }
            assert_eq!(illegal(&pod, &status(list, ended(code)), &status(list, ended(code))), None);
            assert_eq!(illegal(&pod, &status(list, json!({"running": {}})), &status(list, ended(code))), None);
        }
    }
}
