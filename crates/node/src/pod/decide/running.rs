//! Running: app and ephemeral containers, restarts, kills of single containers, and when a pod has ended.
//!
//! Owns the restart policy (POD-16 … POD-19) and the reasons for which one container is killed while its pod lives
//! (HOOK-37, HOOK-89, HOOK-91).

use super::{
    Action, Draft, Stage, initialising,
    start::{self, Progress},
    stopping,
};
use crate::{
    object::{Container, ContainerKind},
    pod::view::{Record, RecordState, Sandbox, View},
};
use jiff::SignedDuration;
use std::collections::BTreeSet;

/// The action of a rule that has the whole pod begin anew (HOOK-106).
pub(super) const RESTART_ALL: &str = "RestartAllContainers";

/// Plans app containers in spec order: one waits for the one before it, unless that one is stuck (HOOK-35, IMG-59).
pub(super) fn plan(draft: &mut Draft<'_>, sandbox: &Sandbox) -> Stage {
    let view = draft.view;
    for container in &view.pod.spec.containers {
        if start::step(draft, ContainerKind::App, container, sandbox) == Progress::Busy {
            break;
        }
    }
    Stage::Running
}

/// Plans ephemeral containers; nobody waits for them, and none starts twice (POD-19).
pub(super) fn ephemeral(draft: &mut Draft<'_>, sandbox: &Sandbox) {
    let view = draft.view;
    for container in &view.pod.spec.ephemeral_containers {
        let _: Progress = start::step(draft, ContainerKind::Ephemeral, container, sandbox);
    }
}

/// POD-17: whether an ended record of this container is followed by another one.
pub fn restarts(view: &View, kind: ContainerKind, container: &Container, record: &Record) -> bool {
    let Some(exit) = record.exit() else { return true };
    if start::is_outdated(container, record) && kind == ContainerKind::App {
        return true;
    }
    policy_restarts(&view.pod.spec.restart_policy, kind, container, exit.code)
}

/// POD-17: whether the pod's policy, or the container's own, has a container that ended with this code start again.
pub fn policy_restarts(pod_policy: &str, kind: ContainerKind, container: &Container, code: i32) -> bool {
    match kind {
        ContainerKind::Ephemeral => false,
        ContainerKind::Sidecar => true,
        ContainerKind::Init | ContainerKind::App => {
            if rule(container, code).is_some() {
                return true;
            }
            let own = container.restart_policy.as_str();
            match if own.is_empty() { pod_policy } else { own } {
                "Never" => false,
                "OnFailure" => code != 0,
                // An init container that went well is done, whatever the pod's policy is.
                _ => kind == ContainerKind::App || code != 0,
            }
        }
    }
}

/// What the first of a container's `restartPolicyRules` that knows this code wants.
pub(super) fn rule(container: &Container, code: i32) -> Option<&str> {
    let rule = container.restart_policy_rules.iter().find(|rule| {
        let listed = rule["exitCodes"]["values"]
            .as_array()
            .is_some_and(|values| values.iter().any(|value| value.as_i64() == Some(i64::from(code))));
        match rule["exitCodes"]["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            _ => false,
        }
    })?;
    rule["action"].as_str().filter(|action| matches!(*action, "Restart" | RESTART_ALL))
}

/// True when no container of the pod will run again (POD-10, POD-18): the pod's own end.
pub(super) fn has_ended(view: &View) -> bool {
    let Some(sandbox) = view.observed.newest_sandbox() else { return false };
    let never = view.pod.spec.restart_policy == "Never";
    if !sandbox.ready && never && view.pod.spec.containers.iter().any(|c| view.observed.newest(&c.name).is_some()) {
        return view.pod.spec.containers.iter().all(|c| view.observed.newest(&c.name).is_none_or(|r| !r.is_running()));
    }
    if init_failed(view) {
        return true;
    }
    let apps = &view.pod.spec.containers;
    !apps.is_empty()
        && apps.iter().all(|container| {
            view.observed
                .newest(&container.name)
                .is_some_and(|record| record.exit().is_some() && !restarts(view, ContainerKind::App, container, record))
        })
}

/// An ordinary init container failed for good.
pub(crate) fn init_failed(view: &View) -> bool {
    view.containers().filter(|(kind, _)| *kind == ContainerKind::Init).any(|(kind, container)| {
        view.observed.newest(&container.name).is_some_and(|record| {
            record.exit().is_some_and(|exit| exit.code != 0) && !restarts(view, kind, container, record)
        })
    })
}

/// Finds single containers that are to be killed and drives their kills.
pub(super) fn kill_unwanted(draft: &mut Draft<'_>) {
    let view = draft.view;
    for (kind, container) in view.containers() {
        let Some(record) = view.observed.newest(&container.name).filter(|record| record.is_running()) else {
            continue;
        };
        if view.observed.checkpoint.kills.contains_key(&record.id) {
            stopping::kill_while_alive(draft, &record.id, "");
        } else if let Some((message, grace)) = reason_to_kill(draft, kind, container, record) {
            stopping::kill_within(draft, &record.id, &message, grace);
        }
    }
}

fn reason_to_kill(
    draft: &mut Draft<'_>,
    kind: ContainerKind,
    container: &Container,
    record: &Record,
) -> Option<(String, SignedDuration)> {
    let view = draft.view;
    let name = &container.name;
    if matches!(record.state, RecordState::Unknown { .. }) {
        let whose =
            if matches!(kind, ContainerKind::Init | ContainerKind::Sidecar) { "Init container" } else { "Container" };
        return Some((format!("{whose} is in \"unknown\" state, try killing it before restart"), view.grace()));
    }
    if draft.failed_post_start(&record.id).is_some() {
        return Some(("FailedPostStartHook".into(), view.grace()));
    }
    if kind == ContainerKind::App && start::is_outdated(container, record) {
        return Some((format!("Container {name} definition changed, will be restarted"), view.grace()));
    }
    let (probe, grace) = view.observed.probes.get(&record.id)?.failed.clone()?;
    let grace = grace.map_or(view.grace(), SignedDuration::from_secs);
    let never = view.pod.spec.restart_policy == "Never" && kind == ContainerKind::App;
    let message = match kind {
        ContainerKind::Sidecar => format!("Init container {name} failed {probe} probe"),
        _ if never => format!("Container {name} failed {probe} probe"),
        _ => format!("Container {name} failed {probe} probe, will be restarted"),
    };
    Some((message, grace))
}

/// POD-28: of each container the newest record and the newest dead one stay; of each pod the sandboxes they stand in.
pub(super) fn prune(draft: &mut Draft<'_>) {
    let view = draft.view;
    let names: BTreeSet<&str> = view.observed.containers.values().map(|record| record.name.as_str()).collect();
    let mut kept_sandboxes = BTreeSet::new();
    for name in names {
        let mut dead_kept = false;
        for (position, record) in view.observed.records(name).into_iter().enumerate() {
            // The newest is not dead while it waits for its start: the one before it is then the last that ended.
            let dead = record.exit().is_some();
            let superfluous = position > 0 && dead && dead_kept;
            // A record that was made but never started, below a newer one, tells nothing.
            let empty = position > 0 && record.state == RecordState::Created;
            dead_kept |= dead && !empty;
            if superfluous || empty {
                draft.act(Action::RemoveContainer { id: record.id.clone(), keeps_log: false });
            } else {
                kept_sandboxes.insert(record.sandbox.clone());
            }
        }
    }
    let Some(newest) = view.observed.newest_sandbox().map(|sandbox| sandbox.id.clone()) else { return };
    for sandbox in view.observed.sandboxes.values() {
        let stopped = view.observed.sandboxes_stopped.contains(&sandbox.id);
        if sandbox.id != newest && !sandbox.ready && !kept_sandboxes.contains(&sandbox.id) {
            let id = sandbox.id.clone();
            draft.act(if stopped { Action::RemoveSandbox { id } } else { Action::StopSandbox { id } });
        }
    }
}

/// True once all init containers of the present sandbox are done.
pub fn is_initialised(view: &View) -> bool {
    view.pod.spec.init_containers.is_empty()
        || view.observed.newest_sandbox().is_some_and(|sandbox| initialising::next(view, sandbox).is_none())
}
