//! RestartAllContainers: one container's end has the whole pod begin anew in its sandbox (HOOK-106).
//!
//! Derived from the ledger: the record whose end asks for it goes last, and as long as it is there the rest is to be
//! killed and removed. An agent that was away goes on where it was. Start at [`trigger`].

use super::{
    Action, Draft, Key, Notice, Stage, Verb,
    running::{RESTART_ALL, rule},
    stopping,
};
use crate::{
    object::{Container, ContainerKind, Pod},
    pod::view::{Record, View},
};

/// `reason` of what was killed for it.
pub(crate) const REASON: &str = "RestartingAllContainers";
/// `message` of what was killed for it.
pub(crate) const MESSAGE: &str = "The container is removed because RestartAllContainers in place";

/// The record whose end asks for it.
pub(crate) fn trigger(view: &View) -> Option<&Record> {
    let mut containers = view.containers().filter(|(kind, _)| *kind != ContainerKind::Ephemeral);
    containers.find_map(|(_, container)| {
        let record = view.observed.newest(&container.name)?;
        let asks = record.exit().is_some_and(|exit| rule(container, exit.code) == Some(RESTART_ALL));
        asks.then_some(record)
    })
}

/// Whether it can come to this with the pod.
pub(crate) fn is_possible(pod: &Pod) -> bool {
    let asks = |container: &Container| container.restart_policy_rules.iter().any(|rule| rule["action"] == RESTART_ALL);
    pod.containers().any(|(_, container)| asks(container))
}

/// Plans the way to a sandbox without containers: kill at once and without hooks, then remove app containers, init
/// containers, and the trigger.
pub(super) fn plan(draft: &mut Draft<'_>, trigger: &Record) -> Stage {
    let (view, now) = (draft.view, draft.now);
    let kind = |record: &Record| view.pod.container(&record.name).map(|(kind, _)| kind);
    let is_lasting = |record: &&Record| kind(record).is_some_and(|kind| kind != ContainerKind::Ephemeral);
    let records: Vec<&Record> = view.observed.containers.values().filter(is_lasting).collect();
    let hooks: Vec<Key> = draft.in_flight.keys().cloned().collect();
    for key in hooks.into_iter().filter(|key| matches!(key.0, Verb::RunPostStart | Verb::RunPreStop)) {
        draft.actions.push(Action::Cancel(key));
    }
    let live: Vec<&Record> = records.iter().copied().filter(|record| record.is_running()).collect();
    for record in live.iter().copied() {
        draft.tell(Notice {
            key: format!("killing/{}", record.id),
            warning: false,
            reason: "Killing",
            message: "killing".into(),
            container: Some(record.name.clone()),
        });
        stopping::stop(draft, record, now);
    }
    if !live.is_empty() || draft.is_any_busy(&[Verb::CreateContainer, Verb::StartContainer]) {
        return Stage::Running;
    }
    let rank = |record: &Record| match kind(record) {
        _ if record.name == trigger.name => 2,
        Some(ContainerKind::Init | ContainerKind::Sidecar) => 1,
        _ => 0,
    };
    let first = records.iter().map(|record| rank(record)).min();
    for record in records.into_iter().filter(|record| Some(rank(record)) == first) {
        draft.act(Action::RemoveContainer { id: record.id.clone(), keeps_log: true });
    }
    Stage::Running
}
