//! The task of one pod: a loop that waits for something to happen, decides, begins actions and publishes the status.
//!
//! Owns one pod and everything in flight for it; nobody else touches either. Dropping the task is safe at any point:
//! what it knows is in the runtime, in the checkpoint or in the API. Start at [`Task::run`].

mod apply;
mod probe;
mod publish;
mod static_pod;

use super::{
    act::{Actor, Outcome, Scene},
    checkpoint::{StopRecord, Verdict},
    decide::{Action, InFlight, Key, Plan, Stage, Verb, deadline, decide},
    grace,
    observe::{self, Listing},
    view::{Cause, Desired, Fact, Observed, Stop, View},
};
use crate::{event::Target, image, object::Pod, shutdown::decide::End, volumes::Mounted};
use jiff::{SignedDuration, Timestamp};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// How many rounds of recording and deciding again may follow one event; a bound against a fault in the rules.
const ROUNDS_MAX: usize = 32;
/// Contents of ConfigMap and Secret volumes are brought up to date this often.
const REFRESH: SignedDuration = SignedDuration::from_secs(60);
/// How long a first look at the runtime waits before it is repeated.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a later one waits, as all that failed does (POD-4).
const LOOK_AFTER_ERROR: SignedDuration = SignedDuration::from_secs(10);
/// And so long after one that went well.
const LOOK_AFTER_SUCCESS: SignedDuration = SignedDuration::from_secs(60);
/// How long what could not be written down waits.
const WRITE_AGAIN: SignedDuration = SignedDuration::from_secs(1);
/// The progress of pulls is written at most this often.
const PROGRESS: SignedDuration = SignedDuration::from_secs(1);

/// What the agent wants of a pod; only the latest counts.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// The pod as last seen in the API.
    pub pod: Arc<Pod>,
    /// It is no longer there.
    pub removed: bool,
    /// The node is being emptied.
    pub drained: bool,
    /// Counts the requests to list the runtime again.
    pub relist: u64,
    /// The node's verdict on a pod that runs.
    pub verdict: Option<Verdict>,
    /// Once the pod has ended, nothing but its status is to stay.
    pub spare: bool,
    /// For a static pod, what the API shows of it.
    pub mirror: Option<Arc<Pod>>,
}

impl Wish {
    /// That this pod runs.
    pub fn of(pod: Arc<Pod>) -> Self {
        Self { pod, ..Self::default() }
    }
}

/// What happens to a pod beside its own actions.
#[derive(Debug)]
pub enum News {
    /// The runtime told of sandboxes and records.
    Runtime(Listing),
    /// A probe has a result.
    Probe(crate::probes::Report),
}

/// One pod's task.
pub struct Task {
    actor: Arc<Actor>,
    wishes: watch::Receiver<Wish>,
    news: mpsc::Receiver<News>,
    probes: crate::probes::Probes,
    view: View,
    mounted: Arc<Mounted>,
    acts: JoinSet<(Action, Outcome)>,
    flights: BTreeMap<Key, Flight>,
    /// Outcomes taken in so far; a listing begun earlier than one of them must not remove anything.
    outcomes: u64,
    /// What may end a back-off early.
    causes: broadcast::Receiver<image::Cause>,
    /// When the progress of pulls was last taken in.
    progress_at: Timestamp,
    looks: JoinSet<(u64, Result<Listing, String>)>,
    look_wanted: bool,
    /// When a look that failed is repeated.
    look_again_at: Option<Timestamp>,
    relists_seen: u64,
    /// When a checkpoint that could not be written is written again.
    write_again_at: Option<Timestamp>,
    refreshed_at: Timestamp,
    /// Labels or annotations changed, which volumes may show.
    refresh_wanted: bool,
    publish: publish::Publish,
    /// What the API shows of a static pod.
    mirror: Option<Arc<Pod>>,
    /// Cancelled once the pod is being deleted.
    deletion: CancellationToken,
    /// How far the pod's end is.
    end: watch::Sender<End>,
}

struct Flight {
    abort: AbortHandle,
    kill_at: Option<Timestamp>,
}

/// What woke the task.
#[allow(clippy::large_enum_variant)] // One at a time, on the stack, for an instant.
enum Event {
    Wish,
    News(News),
    Acted(Result<(tokio::task::Id, (Action, Outcome)), tokio::task::JoinError>),
    Looked(u64, Result<Listing, String>),
    Published(publish::Answer),
    Heard(image::Cause),
    Time,
    Nobody,
}

impl Task {
    /// A task for the pod in `wishes`.
    pub fn new(
        actor: Arc<Actor>,
        probes: crate::probes::Probes,
        wishes: watch::Receiver<Wish>,
        news: mpsc::Receiver<News>,
    ) -> Self {
        let pod = wishes.borrow().pod.clone();
        let spread = rand::random::<f64>() / 2.0;
        let observed = Observed { spread, ..Observed::default() };
        let host_ips = actor.ctx.node_ips.iter().map(ToString::to_string).collect();
        let runtime = actor.runtime_name.clone();
        let crash_back_off = actor.crash_back_off;
        let view = View { pod, desired: Desired::Run, observed, host_ips, runtime, crash_back_off };
        let refreshed_at = actor.clock.now();
        let causes = actor.pulls.causes.listen();
        Self {
            actor,
            wishes,
            news,
            probes,
            view,
            mounted: Arc::default(),
            acts: JoinSet::new(),
            flights: BTreeMap::new(),
            outcomes: 0,
            causes,
            progress_at: refreshed_at,
            looks: JoinSet::new(),
            look_wanted: false,
            look_again_at: None,
            relists_seen: 0,
            write_again_at: None,
            refreshed_at,
            refresh_wanted: false,
            publish: publish::Publish::default(),
            mirror: None,
            deletion: CancellationToken::new(),
            end: watch::Sender::new(End::Not),
        }
    }

    /// How far the pod's end is, from now on.
    pub fn end(&self) -> watch::Receiver<End> {
        self.end.subscribe()
    }

    /// Runs the pod until nothing of it is left (true), or until cancelled (false): then containers run on.
    pub async fn run(mut self, cancel: CancellationToken) -> bool {
        if cancel.run_until_cancelled(self.first_look()).await.is_none() {
            return false;
        }
        self.take_wish().await;
        let mut runtime = self.actor.runtime_state.subscribe();
        loop {
            // POD-5: a runtime that is not ready is left alone. Its state lives as long as the actor.
            if cancel.run_until_cancelled(runtime.wait_for(|state| state.is_ready)).await.is_none() {
                return false;
            }
            let plan = self.settle().await;
            self.tell_end(plan.stage);
            if plan.stage == Stage::Gone && self.flights.is_empty() {
                self.probes.stop(self.view.pod.uid());
                return true;
            }
            let now = self.actor.clock.now();
            let others = [self.publish.due_at, self.look_again_at, self.write_again_at];
            let wake_at = others.into_iter().chain([plan.wake_at, self.refresh_at(), self.progress_due()]);
            let wake_at = wake_at.flatten().min();
            let sleep = wake_at.map_or(Duration::from_secs(3600), |at| until(now, at));
            let Some(event) = cancel.run_until_cancelled(self.next(sleep)).await else { return false };
            if self.take(event).await {
                return false;
            }
        }
    }

    async fn first_look(&mut self) {
        self.load().await;
        loop {
            match observe::pod(&self.actor.cri, self.view.pod.uid()).await {
                Ok(listing) => {
                    self.view.observed.see_all(listing.sandboxes, listing.records);
                    self.seen();
                    self.view.observed.past_attempts = observe::logged(&self.actor.ctx.log_dir, &self.view.pod).await;
                    return self.view.remember_probes();
                }
                Err(error) => self.not_seen(error),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// POD-2: what the pod is doing cannot be told; nothing is decided on it, and it is asked again.
    fn not_seen(&mut self, error: String) {
        let text = format!("error determining status: {error}");
        self.actor.recorder.warning(Target::pod(&self.view.pod), "FailedSync", text);
        tracing::warn!(pod = self.view.pod.full_name(), error, "runtime not listed");
        self.look_again_at = Some(self.actor.clock.now() + self.view.observed.spread(LOOK_AFTER_ERROR));
    }

    /// POD-4: however quiet it is, the runtime is looked at now and then.
    fn seen(&mut self) {
        self.look_again_at = Some(self.actor.clock.now() + self.view.observed.spread(LOOK_AFTER_SUCCESS));
    }

    async fn next(&mut self, sleep: Duration) -> Event {
        tokio::select! {
            biased;
            changed = self.wishes.changed() => if changed.is_ok() { Event::Wish } else { Event::Nobody },
            Some(acted) = self.acts.join_next_with_id() => Event::Acted(acted),
            Some(news) = self.news.recv() => Event::News(news),
            Some(answer) = self.publish.flight.join_next() => match answer {
                Ok(answer) => Event::Published(answer),
                Err(error) => Event::Published(publish::Answer::Failed(error.to_string())),
            },
            Some(looked) = self.looks.join_next() => match looked {
                Ok((outcomes, listing)) => Event::Looked(outcomes, listing),
                Err(error) => Event::Looked(0, Err(error.to_string())),
            },
            cause = hear(&mut self.causes) => Event::Heard(cause),
            () = tokio::time::sleep(sleep) => Event::Time,
        }
    }

    /// Takes in what happened; true if nobody is interested in this task any more.
    async fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Wish => self.take_wish().await,
            Event::News(News::Runtime(listing)) => self.take_listing(listing, false),
            Event::News(News::Probe(report)) => self.take_probe(report),
            Event::Acted(acted) => self.take_outcome(acted).await,
            Event::Looked(outcomes, Ok(listing)) => {
                self.seen();
                self.take_listing(listing, outcomes == self.outcomes);
            }
            Event::Looked(_, Err(error)) => self.not_seen(error),
            Event::Published(answer) => self.take_answer(answer),
            Event::Heard(cause) => self.view.observed.hear(cause, self.actor.clock.now()),
            Event::Time => self.write_again().await,
            Event::Nobody => return true,
        }
        false
    }

    async fn take_wish(&mut self) {
        let wish = self.wishes.borrow_and_update().clone();
        if wish.pod.is_static {
            self.take_static(&wish.pod, wish.mirror);
        } else {
            self.take_pod(wish.pod);
            self.view.observed.api_gone |= wish.removed;
        }
        self.look_wanted |= wish.relist != self.relists_seen;
        self.relists_seen = wish.relist;
        self.view.observed.records_spare |= wish.spare;
        self.take_verdict(wish.verdict).await;
        self.take_stop(wish.removed, wish.drained).await;
    }

    /// A verdict is on disk before the first signal: one that cannot be written waits for as long as anything lives. The
    /// first one holds, and an ended pod gets none.
    async fn take_verdict(&mut self, verdict: Option<Verdict>) {
        if verdict.is_some() && self.view.observed.checkpoint.verdict.is_none() && !self.view.pod.is_terminal() {
            self.view.observed.checkpoint.verdict = verdict;
            if !self.save().await && self.view.observed.running().next().is_some() {
                self.view.observed.checkpoint.verdict = None;
            }
        }
    }

    /// Only a newer version of the pod replaces the one that is known.
    fn take_pod(&mut self, pod: Arc<Pod>) {
        if version(&pod) < version(&self.view.pod) {
            return;
        }
        let (new, old) = (&pod.metadata, &self.view.pod.metadata);
        if new.labels != old.labels || new.annotations != old.annotations {
            self.refresh_wanted = true;
        }
        self.view.pod = pod;
    }

    /// HOOK-76, HOOK-77: the deadline is absolute, comes from the API where there is one, and only moves closer.
    async fn take_stop(&mut self, removed: bool, drained: bool) {
        let pod = &self.view.pod;
        let now = self.actor.clock.now();
        let cause = match (removed, pod.is_deleting(), drained) {
            (true, ..) => Cause::Removed,
            (false, true, _) => Cause::Deleted,
            (false, false, true) => Cause::Drained,
            // A drain that was broken off by a crash leaves no deadline behind for a later deletion.
            (false, false, false) => {
                if self.view.observed.checkpoint.stop.take().is_some() {
                    self.save().await;
                }
                return;
            }
        };
        if matches!(cause, Cause::Removed | Cause::Deleted) {
            self.deletion.cancel();
        }
        let known = self.view.observed.checkpoint.stop;
        let stop = grace::stop(pod, known, now);
        if known.is_none_or(|known| known.deadline != stop.deadline) {
            self.view.observed.checkpoint.stop = Some(stop);
            self.save().await;
        }
        let StopRecord { since, deadline } = stop;
        self.view.desired = Desired::Stop(Stop { cause, since, deadline });
    }

    /// Decides and begins actions until nothing is left to record, then reports.
    async fn settle(&mut self) -> Plan {
        self.hear_last_words();
        self.see_progress();
        for _ in 0..ROUNDS_MAX {
            let now = self.actor.clock.now();
            let plan = decide(&self.view, &self.in_flight(), now);
            let mut recorded = false;
            for action in plan.actions.clone() {
                recorded |= self.begin(action).await;
            }
            if !recorded {
                self.look_if_wanted();
                if self.keep_status(&plan) {
                    continue;
                }
                self.report(&plan, now);
                return plan;
            }
        }
        tracing::error!(pod = self.view.pod.full_name(), "the rules do not settle");
        let now = self.actor.clock.now();
        Plan { wake_at: Some(now + SignedDuration::from_secs(1)), ..decide(&self.view, &self.in_flight(), now) }
    }

    fn in_flight(&self) -> InFlight {
        let mut flights: InFlight = self.flights.iter().map(|(key, flight)| (key.clone(), flight.kill_at)).collect();
        if !self.publish.flight.is_empty() {
            flights.insert(Key(Verb::Publish, String::new()), None);
        }
        flights
    }

    /// Begins one action; true if it changed the facts at once, so that the plan is to be made again.
    async fn begin(&mut self, action: Action) -> bool {
        match action {
            Action::Record(_) => return self.write_down(&action).await,
            Action::Tell(notice) => {
                let pod = &self.view.pod;
                let target = notice.container.as_ref().map_or_else(|| Target::pod(pod), |c| Target::container(pod, c));
                match notice.warning {
                    true => self.actor.recorder.warning(target, notice.reason, notice.message),
                    false => self.actor.recorder.normal(target, notice.reason, notice.message),
                }
                self.view.observed.told.insert(notice.key);
                return false;
            }
            Action::Cancel(key) => {
                if let Some(flight) = self.flights.remove(&key) {
                    flight.abort.abort();
                }
                return false;
            }
            _ => {}
        }
        // HOOK-63: what cannot be written down does not begin.
        if !self.write_down(&action).await {
            self.view.observed.try_again(action.key(), self.actor.clock.now());
            return false;
        }
        self.spawn(action);
        false
    }

    /// Writes down what is to be on disk before this action begins; false if that cannot be done now.
    async fn write_down(&mut self, action: &Action) -> bool {
        let before = self.view.observed.checkpoint.clone();
        if !self.view.begin(action, self.actor.clock.now()) || self.save().await {
            return true;
        }
        self.view.observed.checkpoint = before;
        false
    }

    fn spawn(&mut self, action: Action) {
        let key = action.key();
        let kill_at = match &action {
            Action::StopContainer { kill_at, .. } => Some(*kill_at),
            _ => None,
        };
        let (actor, scene) = (self.actor.clone(), self.scene(&action));
        let abort = self.acts.spawn(async move {
            let outcome = actor.run(&scene, &action).await;
            (action, outcome)
        });
        // A StopContainer with a shorter time-out takes the place of the one before it (HOOK-78).
        if let Some(earlier) = self.flights.insert(key, Flight { abort, kill_at }) {
            earlier.abort.abort();
        }
    }

    fn scene(&self, action: &Action) -> Scene {
        let observed = &self.view.observed;
        let container = match action {
            Action::CreateContainer { container, .. } => Some(container),
            _ => None,
        };
        let hooked = match action {
            Action::RunPostStart { id, .. } | Action::RunPreStop { id, .. } => Some(id.as_str()),
            _ => None,
        };
        let target = container
            .and_then(|name| self.view.pod.container(name))
            .map(|(_, container)| container.target_container_name.as_str())
            .filter(|target| !target.is_empty());
        Scene {
            pod: self.view.pod.clone(),
            mounted: self.mounted.clone(),
            sandbox: observed.newest_sandbox().cloned(),
            image: container.and_then(|name| observed.images.get(name).cloned()),
            handler: observed.checkpoint.handler.clone(),
            volume_images: observed.checkpoint.volume_images.clone(),
            target_id: target.and_then(|name| observed.newest(name)).map(|record| record.id.clone()),
            deletion: self.deletion.clone(),
            restart: hooked.and_then(|id| observed.containers.get(id)).map_or(0, |record| record.attempt),
            deadline: hooked.and_then(|id| deadline(&self.view, id)),
        }
    }

    /// Writes the checkpoint, or says that it could not be; then that is tried again soon.
    /// One after another, and where a slow disk stops nobody else.
    async fn save(&mut self) -> bool {
        let (checkpoints, uid) = (self.actor.checkpoints.clone(), self.view.pod.uid().to_owned());
        let checkpoint = self.view.observed.checkpoint.clone();
        let saved = tokio::task::spawn_blocking(move || checkpoints.save(&uid, &checkpoint));
        let saved = saved.await.unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = &saved {
            tracing::error!(uid = self.view.pod.uid(), %error, "checkpoint not written");
        }
        self.write_again_at = saved.is_err().then(|| self.actor.clock.now() + WRITE_AGAIN);
        saved.is_ok()
    }

    /// Takes in what an earlier task has written down.
    async fn load(&mut self) {
        let (checkpoints, uid) = (self.actor.checkpoints.clone(), self.view.pod.uid().to_owned());
        let loaded = tokio::task::spawn_blocking(move || checkpoints.load(&uid)).await;
        self.view.observed.checkpoint = loaded.unwrap_or_default();
    }

    /// What could not be written is written now, if it is time; and what was wished meanwhile is taken in again.
    async fn write_again(&mut self) {
        let now = self.actor.clock.now();
        if self.write_again_at.is_some_and(|at| at <= now) && self.save().await {
            self.take_wish().await;
        }
    }

    fn look_if_wanted(&mut self) {
        let now = self.actor.clock.now();
        self.look_wanted |= self.look_again_at.take_if(|at| *at <= now).is_some();
        if self.look_wanted && self.looks.is_empty() {
            self.look_wanted = false;
            let (cri, uid, outcomes) = (self.actor.cri.clone(), self.view.pod.uid().to_owned(), self.outcomes);
            self.looks.spawn(async move { (outcomes, observe::pod(&cri, &uid).await) });
        }
    }

    /// The images that are being pulled for this pod.
    fn pulled(&self) -> impl Iterator<Item = &str> {
        self.flights.keys().filter_map(|key| self.view.image_of(key))
    }

    /// When the progress of pulls is to be looked at again.
    fn progress_due(&self) -> Option<Timestamp> {
        self.pulled().next().map(|_| self.progress_at + PROGRESS)
    }

    /// Takes in how far the pod's pulls are, at most once a second.
    fn see_progress(&mut self) {
        let now = self.actor.clock.now();
        if now < self.progress_at + PROGRESS {
            return;
        }
        let (board, uid) = (&self.actor.pulls.board, self.view.pod.uid());
        let words = self.pulled().filter_map(|image| Some((image.to_owned(), board.text(uid, image)?)));
        let words: BTreeMap<String, String> = words.collect();
        self.view.observed.pulling = words;
        self.progress_at = now;
    }

    /// When the contents of volumes are due to be brought up to date.
    fn refresh_at(&mut self) -> Option<Timestamp> {
        let living = self.view.desired == Desired::Run && self.view.observed.volumes == Fact::Ready;
        let fresh = self.view.pod.spec.volumes.iter().any(|volume| {
            volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.downward_api.is_some()
                || volume.projected.is_some()
        });
        if !living || !fresh || self.view.pod.is_terminal() {
            return None;
        }
        let now = self.actor.clock.now();
        let key = Action::PrepareVolumes.key();
        let due = self.refresh_wanted || now >= self.refreshed_at + REFRESH;
        if due && !self.flights.contains_key(&key) {
            (self.refreshed_at, self.refresh_wanted) = (now, false);
            self.spawn(Action::PrepareVolumes);
        }
        Some(self.refreshed_at + REFRESH)
    }
}

/// The next cause. Whoever fell behind tries all that a pull may depend on.
async fn hear(causes: &mut broadcast::Receiver<image::Cause>) -> image::Cause {
    match causes.recv().await {
        Ok(cause) => cause,
        Err(broadcast::error::RecvError::Lagged(_)) => image::Cause::Mirrors,
        // The actor holds the other end for as long as this task lives.
        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
    }
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    at.duration_since(now).try_into().unwrap_or(Duration::ZERO)
}

/// The resource version as a number, for comparing two states of one pod.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}
