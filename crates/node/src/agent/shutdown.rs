//! The machine's shutdown among the agent's pods (HOOK-97): what `shutdown` decides, on its way to the pods' tasks.
//!
//! Static pods that a shutdown has ended or kept out begin anew when it is over: when it was cancelled, or with the agent
//! that runs after it. Pods of the API stay ended. Start at [`Pods::take_shutdown_news`].

use super::pods::Pods;
use crate::{
    event::Target,
    object::Pod,
    pod::checkpoint::{Checkpoint, Verdict},
    shutdown::{
        self, Policy,
        decide::{Ending, Machine, News, PodView, Stage, View},
    },
};
use jiff::{SignedDuration, Timestamp};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};

/// Between two looks at pods that end.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_millis(100);
/// How long a start waits to hear whether the machine is shutting down.
const HEAR_WITHIN: Duration = Duration::from_secs(6);

/// What the agent knows of the machine's shutdown.
pub(super) struct Shutdown {
    policy: Policy,
    machine: Machine,
    wake_at: Option<Timestamp>,
    /// Whether the machine's shutdown is to wait.
    lock: watch::Sender<bool>,
    /// Whether the machine is shutting down, for the Node's status.
    announced: watch::Sender<bool>,
}

impl Default for Shutdown {
    /// One that nobody ever announces.
    fn default() -> Self {
        Self::new(Policy::default())
    }
}

impl Shutdown {
    pub(super) fn new(policy: Policy) -> Self {
        let (lock, announced) = (watch::Sender::new(true), watch::Sender::new(false));
        Self { policy, machine: Machine::default(), wake_at: None, lock, announced }
    }

    /// Hears of shutdowns in the background, if anybody wants to know.
    pub(super) fn listen(
        &self,
        background: &mut tokio::task::JoinSet<()>,
        cancel: &tokio_util::sync::CancellationToken,
    ) -> mpsc::Receiver<News> {
        let (news, heard) = mpsc::channel(4);
        if !self.policy.is_off() {
            let logind = shutdown::logind::Logind { wanted: self.policy.total(), lock: self.lock.subscribe(), news };
            background.spawn(logind.run(cancel.clone()));
        }
        heard
    }

    /// True from an announcement until it is cancelled.
    pub(super) fn announced(&self) -> watch::Receiver<bool> {
        self.announced.subscribe()
    }

    pub(super) fn refuses_pods(&self) -> bool {
        self.machine.refuses_pods()
    }

    fn has_ended(&self, checkpoint: &Checkpoint) -> bool {
        let verdict = checkpoint.verdict.as_ref();
        !self.refuses_pods() && verdict.is_some_and(|verdict| shutdown::is_reason(&verdict.reason))
    }
}

/// That a pod which came too late is not let in.
pub(super) fn rejection(at: Timestamp) -> Verdict {
    let (reason, message) = (shutdown::REJECTED.to_owned(), shutdown::REJECTED_MESSAGE.to_owned());
    Verdict { reason, message, at, grace_seconds: 1, is_disruption: false }
}

/// Waits so long; for ever if there is nothing to wait for.
pub(super) async fn rest(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

impl Pods {
    /// A start waits for the first news, so that no pod begins on a machine that is shutting down.
    pub(super) async fn hear_first(&mut self, heard: &mut mpsc::Receiver<News>) {
        if let Ok(Some(news)) = tokio::time::timeout(HEAR_WITHIN, heard.recv()).await {
            self.take_shutdown_news(news);
        }
    }

    /// Something was heard of the machine's shutdown.
    pub(super) fn take_shutdown_news(&mut self, news: News) {
        let now = self.actor.clock.now();
        let before = self.shutdown.machine;
        self.shutdown.machine = before.hear(news, &self.shutdown.policy, now);
        if !before.refuses_pods() && self.shutdown.refuses_pods() {
            self.tell_node("Shutdown manager detected shutdown event");
        }
        self.go_on_shutting_down(before);
    }

    /// Looks whether pods have ended or time is out.
    pub(super) fn look_at_shutdown(&mut self) {
        self.go_on_shutting_down(self.shutdown.machine);
    }

    fn go_on_shutting_down(&mut self, before: Machine) {
        let now = self.actor.clock.now();
        let (machine, plan) = self.shutdown.machine.step(&self.shutdown.policy, &self.view_for_shutdown(), now);
        if machine.stage() != before.stage() {
            tracing::info!(stage = ?machine.stage(), "shutdown of the machine");
        }
        let is_under_way = matches!(machine.stage(), Stage::Ending { .. } | Stage::Telling { .. });
        let look_at = is_under_way.then(|| now + LOOK_AGAIN);
        (self.shutdown.machine, self.shutdown.wake_at) = (machine, plan.wake_at.into_iter().chain(look_at).min());
        plan.end.into_iter().for_each(|ending| self.end_for_shutdown(ending, now));
        let is_on = machine.refuses_pods();
        self.shutdown.announced.send_if_modified(|known| std::mem::replace(known, is_on) != is_on);
        let holds = machine.holds_lock();
        self.shutdown.lock.send_if_modified(|known| std::mem::replace(known, holds) != holds);
        if before.refuses_pods() && !is_on {
            self.tell_node("Shutdown manager detected shutdown cancellation");
            self.renew_statics();
        }
        self.statics.show_shutdown(is_on);
    }

    /// How long until pods that end, or the time, are to be looked at again.
    pub(super) fn shutdown_pause(&self) -> Option<Duration> {
        let now = self.actor.clock.now();
        self.shutdown.wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default())
    }

    fn view_for_shutdown(&self) -> View {
        let pods = self.handles.iter().map(|(uid, handle)| {
            let wish = handle.wishes.borrow();
            PodView {
                uid: uid.clone(),
                priority: wish.pod.spec.priority.unwrap_or(0),
                grace_seconds: wish.pod.spec.termination_grace_period_seconds.unwrap_or(30),
                is_asked: wish.verdict.is_some(),
                end: *handle.end.borrow(),
            }
        });
        View { pods: pods.collect(), is_complete: self.known().is_some() }
    }

    fn end_for_shutdown(&self, ending: Ending, at: Timestamp) {
        let Some(handle) = self.handles.get(&ending.uid) else { return };
        let (reason, message) = (shutdown::TERMINATED.to_owned(), shutdown::TERMINATED_MESSAGE.to_owned());
        let grace_seconds = ending.grace_seconds;
        let verdict = Verdict { reason, message, at, grace_seconds, is_disruption: true };
        handle.wishes.send_modify(|wish| {
            tracing::info!(pod = wish.pod.full_name(), grace_seconds, "a pod ends for the machine's shutdown");
            wish.verdict = Some(verdict);
        });
    }

    /// A pod that came when the machine was shutting down is refused; on disk before its task begins.
    pub(super) fn reject_for_shutdown(&self, pod: &Pod) -> Option<Verdict> {
        self.shutdown.refuses_pods().then(|| {
            self.actor.recorder.warning(Target::pod(pod), shutdown::REJECTED, shutdown::REJECTED_MESSAGE);
            rejection(self.actor.clock.now())
        })
    }

    fn tell_node(&self, message: &str) {
        tracing::info!(message);
        self.actor.recorder.normal(Target::node(&self.actor.ctx.node_name), "Shutdown", message);
    }

    /// True for a static pod that a shutdown has ended which is over.
    pub(super) fn was_shut_down(&self, uid: &str) -> bool {
        let wished = self.handles.get(uid).and_then(|handle| handle.wishes.borrow().verdict.clone());
        let checkpoint = || self.actor.checkpoints.load(uid);
        self.shutdown.has_ended(&Checkpoint { verdict: wished, ..Checkpoint::default() })
            || self.shutdown.has_ended(&checkpoint())
    }

    /// True for a mirror that shows what a shutdown did which is over.
    pub(super) fn is_outdated(&self, mirror: &Arc<Pod>) -> bool {
        !self.shutdown.refuses_pods() && shutdown::has_ended(&mirror.status)
    }
}
