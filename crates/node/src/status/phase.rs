//! The pod's phase from its container statuses (POD-42 … POD-45).

use super::is_settled;
use crate::{
    object::{ContainerKind, PodStatus},
    pod::{
        decide::{Stage, init_failed, is_initialised, restarts, termination},
        view::View,
    },
};

/// Pending, Running, Succeeded or Failed.
pub(super) fn phase(view: &View, stage: Stage, status: &PodStatus) -> &'static str {
    // POD-44: terminal phases never change.
    match view.pod.status.phase.as_str() {
        "Failed" => return "Failed",
        "Succeeded" => return "Succeeded",
        _ => {}
    }
    if is_settled(view, stage) {
        return ended(view);
    }
    // POD-45: no terminal phase while something may run.
    let unsettled = |phase| match (phase, termination(view).is_some()) {
        ("Succeeded" | "Failed", true) => "Running",
        (phase, _) => phase,
    };
    unsettled(computed(view, status))
}

/// HOOK-85: Succeeded only if every app container is known to have exited with 0.
fn ended(view: &View) -> &'static str {
    let verdict = view.observed.checkpoint.verdict.is_some();
    let all_well = view.pod.spec.containers.iter().all(|container| {
        let record = view.observed.newest(&container.name);
        record.and_then(|record| record.exit()).is_some_and(|exit| exit.code == 0)
    });
    if all_well && !verdict && !init_failed(view) { "Succeeded" } else { "Failed" }
}

fn computed(view: &View, status: &PodStatus) -> &'static str {
    if init_failed(view) {
        return "Failed";
    }
    if !is_initialised(view) {
        return "Pending";
    }
    let never_ran = status
        .container_statuses
        .iter()
        .any(|s| s.state.running.is_none() && s.state.terminated.is_none() && s.last_state.terminated.is_none());
    if never_ran {
        return "Pending";
    }
    if status.container_statuses.iter().any(|s| s.state.running.is_some()) {
        return "Running";
    }
    let restartable = view.containers().filter(|(kind, _)| *kind == ContainerKind::App).any(|(kind, container)| {
        view.observed.newest(&container.name).is_none_or(|record| restarts(view, kind, container, record))
    });
    if restartable { "Running" } else { ended(view) }
}
