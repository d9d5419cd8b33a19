//! The pure heart of the pod machine: facts in, plan out.
//!
//! Owns the stages, the actions and their order. No clock, no I/O, no await: time is an argument, and the same facts
//! give the same plan. An action is planned only if it is not in flight and not waiting for its retry. Start at
//! [`decide`].

mod backoff;
mod deadline;
mod image;
mod initialising;
mod preparing;
pub(crate) mod restart_all;
mod running;
mod start;
mod stopping;

pub use backoff::{CRASH_FORGET, CrashBackOff};
pub(crate) use running::init_failed;
pub use running::{is_initialised, policy_restarts, restarts};

use super::{
    checkpoint::{HookRun, Kill, Verdict},
    grace::later,
    view::{Cause, Stop, View},
};
use crate::object::PodStatus;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// What the pod's task is to do now.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Plan {
    /// The stage the pod is in.
    pub stage: Stage,
    /// To be begun now, in this order, none waiting for another.
    pub actions: Vec<Action>,
    /// The status as it is now; `None` when none is to be written (drained, gone).
    pub status: Option<PodStatus>,
    /// When to decide again although nothing happened.
    pub wake_at: Option<Timestamp>,
    /// Why containers wait, by name: the words of `state.waiting`.
    pub waiting: BTreeMap<String, Waiting>,
}

/// `state.waiting`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// Where a pod is in its life; derived, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Volumes, images and the sandbox are being made.
    Preparing,
    /// The init container of that index is next or runs.
    Initialising(usize),
    /// All init containers are done.
    Running,
    /// Containers are being stopped.
    Stopping,
    /// Nothing lives any more; what remains is being removed.
    Cleaning,
    /// Ended, its records are kept for the API's clients.
    Finished,
    /// Nothing of it is left on the node.
    Gone,
}

/// One effect on the outside, idempotent.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make the pod's cgroup.
    EnsureCgroup,
    /// Make the pod's volumes.
    PrepareVolumes,
    /// Make a sandbox.
    CreateSandbox {
        /// Its attempt.
        attempt: u32,
    },
    /// Have the image for a container's next start.
    EnsureImage {
        /// The container.
        container: String,
        /// The attempt it is for.
        attempt: u32,
    },
    /// Have the image of a volume.
    EnsureVolumeImage {
        /// The volume.
        volume: String,
    },
    /// Make a container.
    CreateContainer {
        /// The container.
        container: String,
        /// The record's attempt.
        attempt: u32,
        /// In which sandbox.
        sandbox: String,
        /// Restarts since the crash back-off began.
        step: u32,
    },
    /// Start a made container; a postStart hook is recorded as pending first.
    StartContainer {
        /// The record.
        id: String,
        /// Its name.
        container: String,
    },
    /// Deliver postStart.
    RunPostStart {
        /// The record.
        id: String,
        /// Its name.
        container: String,
    },
    /// Deliver preStop.
    RunPreStop {
        /// The record.
        id: String,
        /// Its name.
        container: String,
    },
    /// Stop a container's process.
    StopContainer {
        /// The record.
        id: String,
        /// Seconds between the stop signal and SIGKILL, at least 2 (HOOK-81).
        timeout_seconds: i64,
        /// The instant of SIGKILL.
        kill_at: Timestamp,
    },
    /// Stop a sandbox and free its network.
    StopSandbox {
        /// The sandbox.
        id: String,
    },
    /// Remove one record.
    RemoveContainer {
        /// The record.
        id: String,
        /// Its log stays: the container starts anew (HOOK-106).
        keeps_log: bool,
    },
    /// Remove a sandbox with its records.
    RemoveSandbox {
        /// The sandbox.
        id: String,
    },
    /// Unmount and remove the pod's volumes.
    TearDownVolumes,
    /// Remove the pod's cgroup.
    RemoveCgroup,
    /// Remove the pod's checkpoint and, unless the node is only being emptied, its logs.
    RemoveTraces {
        /// With the logs.
        logs: bool,
    },
    /// Finish the deletion in the API: grace 0 with UID precondition (HOOK-86).
    DeleteFromApi,
    /// Abandon an action in flight.
    Cancel(Key),
    /// Write into the checkpoint.
    Record(Entry),
    /// Tell the user.
    Tell(Notice),
}

/// A fact for the checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// This container is to be killed while the pod lives.
    Kill(String, Kill),
    /// The grace wait for this container's preStop is over.
    PreStopAbandoned(String, Timestamp),
    /// The pod is to end by the node's own decision.
    Verdict(Verdict),
}

/// An event for the user, given once per key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Two notices with the same key are one.
    pub key: String,
    /// Type Warning instead of Normal.
    pub warning: bool,
    /// The event's reason.
    pub reason: &'static str,
    /// The event's text.
    pub message: String,
    /// The container it is about; `None` for the pod.
    pub container: Option<String>,
}

/// What an action is about: one action per key is in flight at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub Verb, pub String);

/// The kinds of actions.
#[allow(missing_docs)] // Same names as the actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    EnsureCgroup,
    PrepareVolumes,
    CreateSandbox,
    EnsureImage,
    EnsureVolumeImage,
    CreateContainer,
    StartContainer,
    RunPostStart,
    RunPreStop,
    StopContainer,
    StopSandbox,
    RemoveContainer,
    RemoveSandbox,
    TearDownVolumes,
    RemoveCgroup,
    RemoveTraces,
    DeleteFromApi,
    Publish,
    Inline,
}

impl Action {
    /// What the action is about.
    pub fn key(&self) -> Key {
        let pod = String::new;
        match self {
            Self::EnsureCgroup => Key(Verb::EnsureCgroup, pod()),
            Self::PrepareVolumes => Key(Verb::PrepareVolumes, pod()),
            Self::CreateSandbox { .. } => Key(Verb::CreateSandbox, pod()),
            Self::EnsureImage { container, .. } => Key(Verb::EnsureImage, container.clone()),
            Self::EnsureVolumeImage { volume } => Key(Verb::EnsureVolumeImage, volume.clone()),
            Self::CreateContainer { container, .. } => Key(Verb::CreateContainer, container.clone()),
            Self::StartContainer { id, .. } => Key(Verb::StartContainer, id.clone()),
            Self::RunPostStart { id, .. } => Key(Verb::RunPostStart, id.clone()),
            Self::RunPreStop { id, .. } => Key(Verb::RunPreStop, id.clone()),
            Self::StopContainer { id, .. } => Key(Verb::StopContainer, id.clone()),
            Self::StopSandbox { id } => Key(Verb::StopSandbox, id.clone()),
            Self::RemoveContainer { id, .. } => Key(Verb::RemoveContainer, id.clone()),
            Self::RemoveSandbox { id } => Key(Verb::RemoveSandbox, id.clone()),
            Self::TearDownVolumes => Key(Verb::TearDownVolumes, pod()),
            Self::RemoveCgroup => Key(Verb::RemoveCgroup, pod()),
            Self::RemoveTraces { .. } => Key(Verb::RemoveTraces, pod()),
            Self::DeleteFromApi => Key(Verb::DeleteFromApi, pod()),
            Self::Cancel(key) => key.clone(),
            Self::Record(_) | Self::Tell(_) => Key(Verb::Inline, pod()),
        }
    }
}

/// The actions that have been begun and not ended. For a StopContainer, the instant of its SIGKILL.
pub type InFlight = BTreeMap<Key, Option<Timestamp>>;

/// A plan being made.
struct Draft<'a> {
    view: &'a View,
    in_flight: &'a InFlight,
    now: Timestamp,
    actions: Vec<Action>,
    wake_at: Option<Timestamp>,
    waiting: BTreeMap<String, Waiting>,
}

impl Draft<'_> {
    /// Plans an action unless it is in flight, planned already (two rules may want the same) or its retry is not due.
    fn act(&mut self, action: Action) {
        let key = action.key();
        if self.in_flight.contains_key(&key) || self.actions.contains(&action) {
            return;
        }
        if let Some(retry) = self.view.observed.retries.get(&key).filter(|retry| retry.at > self.now) {
            return self.wake(retry.at);
        }
        self.actions.push(action);
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    fn tell(&mut self, notice: Notice) {
        if !self.view.observed.told.contains(&notice.key) {
            self.actions.push(Action::Tell(notice));
        }
    }

    fn wait(&mut self, container: &str, reason: &str, message: impl Into<String>) {
        let waiting = Waiting { reason: reason.to_owned(), message: message.into() };
        self.waiting.insert(container.to_owned(), waiting);
    }

    fn is_busy(&self, verb: Verb, about: &str) -> bool {
        self.in_flight.contains_key(&Key(verb, about.to_owned()))
    }

    fn is_any_busy(&self, verbs: &[Verb]) -> bool {
        self.in_flight.keys().any(|key| verbs.contains(&key.0))
    }
}

/// Plans the next steps of one pod.
pub fn decide(view: &View, in_flight: &InFlight, now: Timestamp) -> Plan {
    let mut draft = Draft { view, in_flight, now, actions: Vec::new(), wake_at: None, waiting: BTreeMap::new() };
    draft.remember_start_errors();
    let stage = match termination(view) {
        Some(stop) => stopping::plan(&mut draft, stop),
        None if deadline::is_over(&mut draft) => Stage::Stopping,
        None => alive(&mut draft),
    };
    let status = publishes(view).then(|| crate::status::generate(view, stage, &draft.waiting, now));
    Plan { stage, actions: draft.actions, status, wake_at: draft.wake_at, waiting: draft.waiting }
}

/// False once the API object is not this pod's any more, or is to stay as it is. Of a static pod that was removed the
/// mirror tells until the records go (HOOK-101).
fn publishes(view: &View) -> bool {
    let cause = match view.desired {
        super::view::Desired::Stop(stop) => Some(stop.cause),
        super::view::Desired::Run => None,
    };
    match cause {
        Some(Cause::Drained) => false,
        Some(Cause::Removed) if view.pod.is_static => !view.observed.containers.is_empty(),
        _ => !view.observed.api_gone,
    }
}

/// The plan of a pod that is to run.
fn alive(draft: &mut Draft<'_>) -> Stage {
    if let Some(trigger) = restart_all::trigger(draft.view) {
        return restart_all::plan(draft, trigger);
    }
    running::prune(draft);
    stopping::tell_short_graces(draft);
    running::kill_unwanted(draft);
    let Some(sandbox) = preparing::plan(draft) else { return Stage::Preparing };
    // POD-12: a pod whose initialisation hangs can be looked at.
    running::ephemeral(draft, &sandbox);
    match initialising::plan(draft, &sandbox) {
        Some(index) => Stage::Initialising(index),
        None => running::plan(draft, &sandbox),
    }
}

/// The termination that holds: the wish, the node's verdict, a terminal phase, or the pod's own end.
pub fn termination(view: &View) -> Option<Stop> {
    let verdict = view.observed.checkpoint.verdict.as_ref().map(|verdict| {
        let deadline = later(verdict.at, jiff::SignedDuration::from_secs(verdict.grace_seconds.max(1)));
        Stop { cause: Cause::Verdict, since: verdict.at, deadline }
    });
    if let super::view::Desired::Stop(stop) = view.desired {
        // HOOK-109: of two terminations the shorter grace holds.
        let deadline = verdict.map_or(stop.deadline, |verdict| verdict.deadline.min(stop.deadline));
        return Some(Stop { deadline, ..stop });
    }
    if verdict.is_some() {
        return verdict;
    }
    if view.pod.is_terminal() {
        // Whatever lives all the same has its own grace from when that is seen (HOOK-75).
        return Some(Stop { cause: Cause::Ended, since: last_exit(view), deadline: Timestamp::MAX });
    }
    running::has_ended(view).then(|| {
        let since = last_exit(view);
        Stop { cause: Cause::Ended, since, deadline: later(since, view.grace()) }
    })
}

/// When the grace of a container that is being stopped is used up, with its pod or alone.
pub fn deadline(view: &View, id: &str) -> Option<Timestamp> {
    let own = view.observed.checkpoint.kills.get(id).map(|kill| kill.deadline);
    own.into_iter().chain(termination(view).map(|stop| stop.deadline)).min()
}

/// When the last container of the pod that ended did so.
fn last_exit(view: &View) -> Timestamp {
    let exits = view.observed.containers.values().filter_map(|record| record.exit());
    exits.map(|exit| exit.finished_at).max().unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Draft<'_> {
    fn remember_start_errors(&mut self) {
        for (container, error) in &self.view.observed.start_errors {
            let waiting = Waiting { reason: error.reason.clone(), message: error.message.clone() };
            self.waiting.insert(container.clone(), waiting);
        }
    }

    /// True if the hook of this record is to be run and is not known to have ended.
    fn owes_post_start(&self, id: &str) -> bool {
        self.view.observed.post_start(id).is_some_and(|run| !run.is_finished())
    }

    /// The text of a failed postStart hook.
    fn failed_post_start(&self, id: &str) -> Option<String> {
        match self.view.observed.post_start(id) {
            Some(HookRun::Finished(_, Some(error))) => Some(error.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
