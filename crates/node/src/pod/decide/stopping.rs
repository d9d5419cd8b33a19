//! Stopping and Cleaning: preStop → sidecar turn → StopContainer, then everything else in order (HOOK-46, 56, 79 … 86).
//!
//! Owns the kill of a container, be it with its pod or alone, and the order in which an ended pod leaves the node. Every
//! deadline is absolute: an agent that was away, or a grace that was shortened, changes only what is left of it.

use super::{Action, Draft, Entry, Key, Notice, Stage, Verb, deadline, termination};
use crate::{
    image::go_duration,
    object::ContainerKind,
    pod::{
        checkpoint::{HookRun, Kill, Verdict},
        grace::later,
        view::{Cause, Fact, Record, Stop},
    },
    shutdown,
};
use jiff::{SignedDuration, Timestamp};

/// StopContainer never gets less, whatever is left of the grace (HOOK-81).
const STOP_SECONDS_MIN: i64 = 2;
/// The exit code of SIGKILL.
const KILLED: i32 = 137;
/// Nobody is told before that a pod takes too long to end (HOOK-98).
const PATIENCE_MIN: SignedDuration = SignedDuration::from_secs(10);

/// Plans the next steps of a pod that ends.
pub(super) fn plan(draft: &mut Draft<'_>, stop: Stop) -> Stage {
    abandon_starts(draft);
    tell_short_graces(draft);
    let live: Vec<Record> = draft.view.observed.running().cloned().collect();
    for record in &live {
        let alone = draft.view.observed.checkpoint.kills.get(&record.id);
        let deadline = alone.map_or(stop.deadline, |kill| kill.deadline.min(stop.deadline));
        let message = format!("Stopping container {}", record.name);
        // HOOK-75: whoever lives in a pod that has ended gets a grace of his own, once.
        if alone.is_none() && deadline == Timestamp::MAX && stop.cause == Cause::Ended {
            kill_within(draft, &record.id, &message, draft.view.grace());
            continue;
        }
        kill(draft, record, deadline, &message, has_turn(draft, record, &live));
    }
    if !live.is_empty() {
        tell_overrun(draft);
    }
    let starting =
        [Verb::CreateSandbox, Verb::CreateContainer, Verb::StartContainer, Verb::EnsureCgroup, Verb::PrepareVolumes];
    if !live.is_empty() || draft.is_any_busy(&starting) {
        return Stage::Stopping;
    }
    clean(draft, stop.cause)
}

/// HOOK-98: what the node ends by itself has ten seconds or half as much again as its grace; then that is told.
fn tell_overrun(draft: &mut Draft<'_>) {
    let Some(verdict) = &draft.view.observed.checkpoint.verdict else { return };
    let patience = SignedDuration::from_millis(verdict.grace_seconds.max(1).saturating_mul(1500)).max(PATIENCE_MIN);
    let over = later(verdict.at, patience);
    if draft.now < over {
        return draft.wake(over);
    }
    draft.tell(Notice {
        key: "exceeded-grace".into(),
        warning: true,
        reason: "ExceededGracePeriod",
        message: "Container runtime did not kill the pod within specified grace period.".into(),
        container: None,
    });
}

/// HOOK-46: what a preStop took is measured. A container that was then killed had too little left to stop in.
pub(super) fn tell_short_graces(draft: &mut Draft<'_>) {
    let view = draft.view;
    for (id, hooks) in &view.observed.checkpoint.hooks {
        let Some(HookRun::Finished(hook_at, _)) = &hooks.pre_stop else { continue };
        let Some(record) = view.observed.containers.get(id) else { continue };
        let alone = view.observed.checkpoint.kills.get(id).map(|kill| kill.since);
        let since = alone.or_else(|| termination(view).map(|stop| stop.since));
        let (Some(exit), Some(deadline), Some(since)) = (record.exit(), deadline(view, id), since) else { continue };
        // A hook that used up the grace itself is told as such (HOOK-49).
        if exit.code != KILLED || exit.finished_at < deadline || *hook_at >= deadline {
            continue;
        }
        let seconds = |duration: SignedDuration| go_duration(SignedDuration::from_secs(duration.as_secs()));
        let (took, grace) = (seconds(hook_at.duration_since(since)), seconds(deadline.duration_since(since)));
        draft.tell(Notice {
            key: format!("short-grace/{id}"),
            warning: true,
            reason: "GracePeriodTooShort",
            message: format!(
                "preStop took {took} of the grace period of {grace}, the container did not stop in the rest and was killed"
            ),
            container: Some(record.name.clone()),
        });
    }
}

/// HOOK-61: nothing that only serves a start is waited for.
fn abandon_starts(draft: &mut Draft<'_>) {
    let keys: Vec<Key> = draft.in_flight.keys().cloned().collect();
    for key in
        keys.into_iter().filter(|key| matches!(key.0, Verb::EnsureImage | Verb::EnsureVolumeImage | Verb::RunPostStart))
    {
        draft.actions.push(Action::Cancel(key));
    }
}

/// HOOK-29: where nothing lives any more no hook is waited for.
fn abandon_pre_stops(draft: &mut Draft<'_>) {
    let keys: Vec<Key> = draft.in_flight.keys().filter(|key| key.0 == Verb::RunPreStop).cloned().collect();
    draft.actions.extend(keys.into_iter().map(Action::Cancel));
}

/// HOOK-56: a sidecar's turn comes when all app containers and all later sidecars have ended.
fn has_turn(draft: &Draft<'_>, record: &Record, live: &[Record]) -> bool {
    let position = |name: &str| draft.view.pod.spec.init_containers.iter().position(|c| c.name == name);
    let kind = |name: &str| draft.view.pod.container(name).map(|(kind, _)| kind);
    if kind(&record.name) != Some(ContainerKind::Sidecar) {
        return true;
    }
    !live.iter().filter(|other| other.id != record.id).any(|other| {
        // HOOK-104: whose stop failed holds up nobody.
        let failed = draft.view.observed.retries.contains_key(&Key(Verb::StopContainer, other.id.clone()));
        match kind(&other.name) {
            Some(ContainerKind::App) => !failed,
            Some(ContainerKind::Sidecar) => !failed && position(&other.name) > position(&record.name),
            _ => false,
        }
    })
}

/// Drives the kill of one container of a living pod; decides it first if that has not been done.
pub(super) fn kill_while_alive(draft: &mut Draft<'_>, id: &str, message: &str) {
    let Some(decided) = draft.view.observed.checkpoint.kills.get(id).cloned() else {
        return kill_within(draft, id, message, draft.view.grace());
    };
    if let Some(record) = draft.view.observed.containers.get(id).cloned() {
        kill(draft, &record, decided.deadline, &decided.message, true);
    }
}

/// Decides the kill of one container of a living pod; it is on disk before the first signal.
pub(super) fn kill_within(draft: &mut Draft<'_>, id: &str, message: &str, grace: SignedDuration) {
    let deadline = later(draft.now, grace.max(SignedDuration::from_secs(1)));
    let kill = Kill { since: draft.now, deadline, message: message.to_owned() };
    draft.actions.push(Action::Record(Entry::Kill(id.to_owned(), kill)));
}

fn kill(draft: &mut Draft<'_>, record: &Record, deadline: Timestamp, message: &str, has_turn: bool) {
    draft.tell(Notice {
        key: format!("killing/{}", record.id),
        warning: false,
        reason: "Killing",
        message: message.to_owned(),
        container: Some(record.name.clone()),
    });
    if !hook_is_over(draft, record, deadline) {
        return;
    }
    if !has_turn && draft.now < deadline {
        return draft.wake(deadline);
    }
    stop(draft, record, deadline);
}

/// True when there is no preStop to wait for any more.
fn hook_is_over(draft: &mut Draft<'_>, record: &Record, deadline: Timestamp) -> bool {
    let container = draft.view.pod.container(&record.name);
    let has_hook = container.is_some_and(|(_, c)| c.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some()));
    let run = draft.view.observed.checkpoint.hooks.get(&record.id).and_then(|hooks| hooks.pre_stop.as_ref());
    if !has_hook || run.is_some_and(HookRun::is_finished) {
        return true;
    }
    if draft.now < deadline {
        draft.wake(deadline);
        draft.act(Action::RunPreStop { id: record.id.clone(), container: record.name.clone() });
        return false;
    }
    let key = Key(Verb::RunPreStop, record.id.clone());
    if draft.in_flight.contains_key(&key) {
        draft.actions.push(Action::Cancel(key));
        draft.tell(Notice {
            key: format!("pre-stop-late/{}", record.id),
            warning: true,
            reason: "FailedPreStopHook",
            message: "PreStopHook not completed in grace period".into(),
            container: Some(record.name.clone()),
        });
    }
    draft.actions.push(Action::Record(Entry::PreStopAbandoned(record.id.clone(), draft.now)));
    true
}

/// Sends StopContainer; again if the grace has become shorter (HOOK-78, POD-74).
pub(super) fn stop(draft: &mut Draft<'_>, record: &Record, deadline: Timestamp) {
    let left = deadline.duration_since(draft.now);
    let whole = left.as_secs() + i64::from(left.subsec_nanos() > 0);
    let timeout_seconds = whole.max(STOP_SECONDS_MIN);
    let kill_at = later(draft.now, SignedDuration::from_secs(timeout_seconds));
    let action = Action::StopContainer { id: record.id.clone(), timeout_seconds, kill_at };
    let sent = draft.in_flight.get(&action.key()).copied().flatten();
    if sent.is_some_and(|sent| later(kill_at, SignedDuration::from_secs(1)) < sent) {
        draft.actions.push(action);
    } else {
        draft.act(action);
    }
}

/// The order in which an ended pod leaves: sandbox, volumes, cgroup, records, traces, API object.
fn clean(draft: &mut Draft<'_>, cause: Cause) -> Stage {
    let observed = &draft.view.observed;
    let sandboxes: Vec<String> = observed.sandboxes.keys().cloned().collect();
    let unstopped: Vec<String> =
        sandboxes.iter().filter(|id| !observed.sandboxes_stopped.contains(*id)).cloned().collect();
    if !unstopped.is_empty() {
        unstopped.into_iter().for_each(|id| draft.act(Action::StopSandbox { id }));
        return Stage::Cleaning;
    }
    abandon_pre_stops(draft);
    let observed = &draft.view.observed;
    if observed.volumes != Fact::Gone {
        draft.act(Action::TearDownVolumes);
    } else if observed.cgroup != Fact::Gone {
        draft.act(Action::RemoveCgroup);
    } else if cause.removes_records() {
        return remove_records(draft, cause, sandboxes);
    } else if is_spare(draft) {
        return spare_records(draft, sandboxes);
    } else {
        // POD-28: of its dead as many stay as of a living pod's.
        super::running::prune(draft);
        return Stage::Finished;
    }
    Stage::Cleaning
}

/// True for an ended pod that is to keep nothing but its status: the disk is short (IMG-265), or the pod was evicted, as
/// upstream has it. What a shutdown of the machine ended keeps its logs.
fn is_spare(draft: &Draft<'_>) -> bool {
    let observed = &draft.view.observed;
    let evicts = |verdict: &Verdict| verdict.is_disruption && verdict.reason != shutdown::TERMINATED;
    let was_evicted = observed.checkpoint.verdict.as_ref().is_some_and(evicts);
    (observed.records_spare || was_evicted) && draft.view.pod.is_terminal() && !draft.is_busy(Verb::Publish, "")
}

/// The containers go with their logs, then the sandbox.
fn spare_records(draft: &mut Draft<'_>, sandboxes: Vec<String>) -> Stage {
    let records: Vec<String> = draft.view.observed.containers.keys().cloned().collect();
    if records.is_empty() && sandboxes.is_empty() {
        return Stage::Finished;
    }
    if records.is_empty() {
        sandboxes.into_iter().for_each(|id| draft.act(Action::RemoveSandbox { id }));
    } else {
        records.into_iter().for_each(|id| draft.act(Action::RemoveContainer { id, keeps_log: false }));
    }
    Stage::Cleaning
}

/// Once the API has the terminal phase the ledger is no longer needed.
fn remove_records(draft: &mut Draft<'_>, cause: Cause, sandboxes: Vec<String>) -> Stage {
    let view = draft.view;
    let published = view.pod.is_terminal() && !draft.is_busy(Verb::Publish, "");
    if cause == Cause::Deleted && !view.observed.api_gone && !published {
        return Stage::Cleaning;
    }
    let strays = view.observed.containers.values().filter(|r| !view.observed.sandboxes.contains_key(&r.sandbox));
    let strays: Vec<String> = strays.map(|record| record.id.clone()).collect();
    if !sandboxes.is_empty() || !strays.is_empty() {
        sandboxes.into_iter().for_each(|id| draft.act(Action::RemoveSandbox { id }));
        strays.into_iter().for_each(|id| draft.act(Action::RemoveContainer { id, keeps_log: false }));
        return Stage::Cleaning;
    }
    if !view.observed.traces_removed {
        draft.act(Action::RemoveTraces { logs: cause != Cause::Drained });
        return Stage::Cleaning;
    }
    if cause == Cause::Deleted && !view.observed.api_gone {
        draft.act(Action::DeleteFromApi);
        return Stage::Cleaning;
    }
    Stage::Gone
}
