//! The pod's phase from its container statuses (POD-42 … POD-45).

#[cfg(test)]
mod tests;

use super::is_settled;
use crate::{
    object::{ContainerKind, ContainerStatus, Pod, PodStatus},
    pod::{
        decide::{Stage, init_failed, policy_restarts, restart_all},
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
    if restart_all::trigger(view).is_some() {
        return "Running";
    }
    // POD-45: no terminal phase while something may run, or is to run once more because it became another (HOOK-91).
    match computed(&view.pod, status, false) {
        "Succeeded" | "Failed" => "Running",
        phase => phase,
    }
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

/// How many containers of a pod stand how.
#[derive(Default)]
struct Tally {
    init_failed: bool,
    init_pending: bool,
    sidecar_unstarted: bool,
    waiting: bool,
    running: bool,
    unknown: bool,
    /// App containers that ran and do not.
    stopped: u32,
    succeeded: u32,
    restartable: bool,
}

/// POD-42: the first that matches. Sidecars that do not run never count.
fn computed(pod: &Pod, status: &PodStatus, is_terminal: bool) -> &'static str {
    let tally = tally(pod, status);
    let all_well = tally.stopped == tally.succeeded;
    let has_initialised = status.container_statuses.iter().any(has_run);
    if tally.init_failed {
        return "Failed";
    }
    if tally.init_pending || (tally.sidecar_unstarted && !has_initialised) || tally.waiting {
        return "Pending";
    }
    match (tally.running, tally.stopped > 0) {
        _ if tally.unknown => "Pending",
        (true, _) => "Running",
        (false, true) if !is_terminal && tally.restartable => "Running",
        (false, true) if all_well => "Succeeded",
        (false, true) => "Failed",
        (false, false) => "Pending",
    }
}

fn tally(pod: &Pod, status: &PodStatus) -> Tally {
    let policy = pod.spec.restart_policy.as_str();
    let mut tally = Tally::default();
    for (kind, container) in pod.containers() {
        let list = match kind {
            ContainerKind::App => &status.container_statuses,
            ContainerKind::Init | ContainerKind::Sidecar => &status.init_container_statuses,
            ContainerKind::Ephemeral => continue,
        };
        let found = list.iter().find(|status| status.name == container.name);
        let code = found.and_then(last_code);
        match kind {
            ContainerKind::Init => {
                let failed = code.filter(|code| *code != 0);
                tally.init_failed |= failed.is_some_and(|code| !policy_restarts(policy, kind, container, code));
                tally.init_pending |= found.and_then(|s| s.state.terminated.as_ref()).is_none_or(|t| t.exit_code != 0);
            }
            ContainerKind::Sidecar => {
                let runs = found.is_some_and(|status| status.state.running.is_some());
                tally.running |= runs;
                tally.sidecar_unstarted |= !found.is_some_and(|status| runs && status.started == Some(true));
                tally.waiting |= found.is_some_and(|s| s.state.waiting.is_some() && s.last_state.terminated.is_none());
            }
            _ => match found {
                Some(status) if status.state.running.is_some() => tally.running = true,
                Some(_) if code.is_some() => {
                    tally.stopped += 1;
                    tally.succeeded += u32::from(code == Some(0));
                    tally.restartable |= policy_restarts(policy, kind, container, code.unwrap_or_default());
                }
                Some(status) if status.state.waiting.is_some() => tally.waiting = true,
                _ => tally.unknown = true,
            },
        }
    }
    tally
}

/// The code with which a container that does not run ended last.
fn last_code(status: &ContainerStatus) -> Option<i32> {
    let end = match &status.state {
        state if state.running.is_some() => None,
        state if state.terminated.is_some() => state.terminated.as_ref(),
        _ => status.last_state.terminated.as_ref(),
    };
    end.map(|end| end.exit_code)
}

fn has_run(status: &ContainerStatus) -> bool {
    status.state.running.is_some() || last_code(status).is_some()
}
