//! Probes: whether a container has started, is alive, is ready.
//!
//! Owns one worker per (container id, kind) while [`Probes::sync`] says that the container is to be watched, and the
//! `Unhealthy` events. Must not act on a result: reports go to the pod's task, which decides. `count` (thresholds) is
//! pure; `attempt` and `http` carry out one probe. Start at [`Probes::sync`] (POD-54..63).

mod attempt;
mod count;
mod http;
#[cfg(test)]
mod tests;
pub(crate) mod tls;

use crate::{
    event::{Recorder, Target},
    object::{Container, Pod, Probe},
    pod::clock::Clock,
};
use attempt::{Outcome, Place};
use count::Count;
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::MissedTickBehavior,
};

/// Reports wait here until the agent takes them.
const QUEUE_LENGTH: usize = 256;
/// A probe that cannot be carried out is tried so often before it counts as an error (POD-58).
const TRIES_MAX: u32 = 3;

/// The three kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Until it succeeds the other two do not run.
    Startup,
    /// A failure kills the container.
    Liveness,
    /// A failure takes the pod out of services.
    Readiness,
}

impl Kind {
    /// The word in events: `Liveness probe failed: …`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// A verdict: thresholds were reached. Sent once per change, and the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The pod.
    pub uid: String,
    /// The container's name.
    pub container: String,
    /// The container's id in the runtime.
    pub container_id: String,
    /// Which probe.
    pub kind: Kind,
    /// Passed or failed. A failed liveness or startup probe is reported once; its worker then waits for a new container.
    pub healthy: bool,
}

/// A running container to be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The container's name in the pod.
    pub container: String,
    /// The container's id in the runtime.
    pub id: String,
    /// When it started; initial delays count from here (POD-56).
    pub started_at: Timestamp,
    /// The startup probe has passed (or there is none).
    pub started: bool,
}

/// The workers of all pods. Cloning is cheap; dropping the last clone ends all workers.
#[derive(Clone)]
pub struct Probes {
    shared: Arc<Shared>,
}

struct Shared {
    cri: cri::Client,
    recorder: Recorder,
    reports: mpsc::Sender<Report>,
    clock: Clock,
    /// When the agent started: containers older than this were probed before, and are not to be all probed at once.
    began: Timestamp,
    workers: Mutex<Workers>,
}

#[derive(Default)]
struct Workers {
    /// By pod UID, then container id and kind.
    running: BTreeMap<String, BTreeMap<(String, Kind), AbortHandle>>,
    tasks: JoinSet<()>,
}

impl Probes {
    /// Probes through `cri`, events to `recorder`; the receiver gets every verdict.
    pub fn new(cri: cri::Client, clock: Clock, recorder: Recorder) -> (Probes, mpsc::Receiver<Report>) {
        let (reports, receiver) = mpsc::channel(QUEUE_LENGTH);
        let began = clock.now();
        let shared = Shared { cri, recorder, reports, clock, began, workers: Mutex::default() };
        (Probes { shared: Arc::new(shared) }, receiver)
    }

    /// Brings the workers of a pod in line: one per live container and probe that applies now. `ip` is the pod's
    /// address. While the pod is stopping only readiness is probed (POD-62).
    ///
    /// Call it whenever the facts may have changed; it costs little when they have not. Must run inside a tokio runtime.
    pub fn sync(&self, pod: &Arc<Pod>, ip: &str, is_stopping: bool, live: &[Subject]) {
        let mut wanted: BTreeMap<(String, Kind), (&Subject, &Container)> = BTreeMap::new();
        for subject in live {
            let Some((_, container)) = pod.container(&subject.container) else { continue };
            for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
                if kind.of(container).is_some() && applies(kind, container, subject, is_stopping) {
                    wanted.insert((subject.id.clone(), kind), (subject, container));
                }
            }
        }
        let mut guard = self.shared.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = &mut *guard;
        while workers.tasks.try_join_next().is_some() {}
        if wanted.is_empty() && !workers.running.contains_key(pod.uid()) {
            return;
        }
        let running = workers.running.entry(pod.uid().to_owned()).or_default();
        running.retain(|key, worker| {
            let is_wanted = wanted.contains_key(key);
            if !is_wanted {
                worker.abort();
            }
            is_wanted
        });
        for (key, (subject, container)) in wanted {
            let kind = key.1;
            running.entry(key).or_insert_with(|| {
                let worker = Worker::new(Arc::downgrade(&self.shared), pod, (ip, kind), subject, container);
                workers.tasks.spawn(worker.run())
            });
        }
    }

    /// Ends all workers of a pod.
    pub fn stop(&self, uid: &str) {
        let mut workers = self.shared.workers.lock().unwrap_or_else(PoisonError::into_inner);
        for worker in workers.running.remove(uid).into_iter().flatten() {
            worker.1.abort();
        }
    }
}

/// POD-57, POD-62: startup before it passed, the others after; only readiness while stopping.
fn applies(kind: Kind, container: &Container, subject: &Subject, is_stopping: bool) -> bool {
    let has_started = subject.started || container.startup_probe.is_none();
    match kind {
        Kind::Startup => !has_started && !is_stopping,
        Kind::Liveness => has_started && !is_stopping,
        Kind::Readiness => has_started,
    }
}

/// One probe of one container.
struct Worker {
    shared: std::sync::Weak<Shared>,
    pod: Arc<Pod>,
    kind: Kind,
    probe: Probe,
    subject: Subject,
    place: Place,
}

impl Worker {
    fn new(
        shared: std::sync::Weak<Shared>,
        pod: &Arc<Pod>,
        (ip, kind): (&str, Kind),
        subject: &Subject,
        container: &Container,
    ) -> Worker {
        let probe = kind.of(container).cloned().unwrap_or_default();
        let place = Place { ip: ip.to_owned(), container_id: subject.id.clone(), ports: container.ports.clone() };
        Worker { shared, pod: pod.clone(), kind, probe, subject: subject.clone(), place }
    }

    async fn run(self) {
        let Some(delay) = self.shared.upgrade().map(|shared| self.first_delay(&shared)) else { return };
        tokio::time::sleep(delay).await;
        let mut ticks = tokio::time::interval(seconds(self.probe.period_seconds, 10));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = Count::new(self.kind, &self.probe);
        loop {
            ticks.tick().await;
            let Some(cri) = self.shared.upgrade().map(|shared| shared.cri.clone()) else { return };
            let outcome = self.attempt(&cri).await;
            let Some(shared) = self.shared.upgrade() else { return };
            self.tell(&shared, &outcome, count.result());
            let Some(healthy) = outcome.verdict().and_then(|passed| count.add(passed)) else { continue };
            let report = self.report(healthy);
            if shared.reports.send(report).await.is_err() || (self.kind != Kind::Readiness && !healthy) {
                return;
            }
        }
    }

    /// What is left of the initial delay; just after the agent began, older containers are spread over one period
    /// (POD-55).
    fn first_delay(&self, shared: &Shared) -> Duration {
        let initial = SignedDuration::from_secs(i64::from(self.probe.initial_delay_seconds));
        let now = shared.clock.now();
        let due = self.subject.started_at + initial;
        let period = seconds(self.probe.period_seconds, 10);
        let since_begin = Duration::try_from(now.duration_since(shared.began)).unwrap_or_default();
        match Duration::try_from(due.duration_since(now)) {
            Ok(left) if !left.is_zero() => left,
            _ if self.subject.started_at < shared.began && since_begin < period => {
                period.mul_f64(rand::random::<f64>())
            }
            _ => Duration::ZERO,
        }
    }

    async fn attempt(&self, cri: &cri::Client) -> Outcome {
        let limit = seconds(self.probe.timeout_seconds, 1);
        let mut outcome = attempt::attempt(&self.probe, &self.place, cri, limit).await;
        for _ in 1..TRIES_MAX {
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
            outcome = attempt::attempt(&self.probe, &self.place, cri, limit).await;
        }
        outcome
    }

    /// The events of POD-61.
    fn tell(&self, shared: &Shared, outcome: &Outcome, state: &str) {
        let kind = self.kind.name();
        let (reason, text) = match outcome {
            Outcome::Success => return,
            Outcome::Warning(text) => ("ProbeWarning", format!("{kind} probe warning: {text}")),
            Outcome::Failure(text) => ("Unhealthy", format!("{kind} probe failed: {text}")),
            Outcome::Error(text) => {
                ("Unhealthy", format!("{kind} probe errored and resulted in {state} state: {text}"))
            }
        };
        shared.recorder.warning(Target::container(&self.pod, &self.subject.container), reason, text);
    }

    fn report(&self, healthy: bool) -> Report {
        Report {
            uid: self.pod.uid().to_owned(),
            container: self.subject.container.clone(),
            container_id: self.subject.id.clone(),
            kind: self.kind,
            healthy,
        }
    }
}

/// Seconds of a spec that must be positive; the API's default where they are not.
fn seconds(given: i32, default: u64) -> Duration {
    Duration::from_secs(u64::try_from(given).ok().filter(|s| *s > 0).unwrap_or(default))
}
