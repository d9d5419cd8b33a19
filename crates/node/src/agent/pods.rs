//! The map of pods: one task each, fed with wishes, runtime news and probe results.

use super::{
    Error,
    admission::{Room, refusal},
    breaks::Breaks,
    housekeeping,
    runtime::RuntimeEvent,
    shutdown::Shutdown,
    statics::Statics,
};
use crate::{
    eviction::{self, Pressure},
    object::Pod,
    pod::{
        act::Actor,
        checkpoint::{Checkpoint, Verdict},
        observe::Listing,
        shell::{News, Task, Wish},
        view::{Record, Sandbox},
    },
    probes::{Probes, Report},
    shutdown::decide::End,
};
use cri::v1;
use futures_util::Stream;
use kube::{
    Api,
    api::ListParams,
    runtime::{WatchStreamExt as _, watcher},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// News that wait for one pod; more are replaced by a listing.
const NEWS_MAX: usize = 256;

/// One pod's end of the channels.
pub(super) struct Handle {
    pub(super) wishes: watch::Sender<Wish>,
    news: mpsc::Sender<News>,
    /// How far the pod's end is.
    pub(super) end: watch::Receiver<End>,
}

/// All pods of this node.
pub(super) struct Pods {
    pub(super) actor: Arc<Actor>,
    probes: Probes,
    pub(super) handles: BTreeMap<String, Handle>,
    tasks: JoinSet<(String, bool)>,
    cancel: CancellationToken,
    /// Pods whose task has ended and of which the API may still tell old news.
    gone: BTreeSet<String>,
    /// The pods of a listing under way.
    listed: BTreeSet<String>,
    /// The API's pods are all known.
    synced: bool,
    max_pods: u32,
    /// The conditions that eviction has found.
    pressure: watch::Receiver<Pressure>,
    pub(super) orphans: housekeeping::Orphans,
    pub(super) statics: Statics,
    pub(super) shutdown: Shutdown,
    breaks: Breaks,
}

/// A task that ended.
pub(super) enum Ended {
    /// A pod's.
    Pod(Result<(String, bool), JoinError>),
    /// A round of housekeeping.
    Round(Result<housekeeping::Seen, JoinError>),
}

type Change = Result<watcher::Event<Pod>, watcher::Error>;

/// The changes of the pods bound to this node.
pub(super) fn watch(client: &kube::Client, node_name: &str) -> impl Stream<Item = Change> + Send + use<> {
    let api: Api<Pod> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
    watcher(api, config).default_backoff().modify(|pod| pod.metadata.managed_fields = None)
}

/// The pods bound to this node.
pub(super) async fn list(client: &kube::Client, node_name: &str) -> Result<Vec<Pod>, Error> {
    let api: Api<Pod> = Api::all(client.clone());
    let parameters = ListParams::default().fields(&format!("spec.nodeName={node_name}"));
    Ok(api.list(&parameters).await.map_err(Error::Api)?.items)
}

impl Pods {
    pub(super) fn new(
        actor: Arc<Actor>,
        probes: Probes,
        max_pods: u32,
        pressure: watch::Receiver<Pressure>,
        statics: Statics,
    ) -> Self {
        Self {
            actor,
            probes,
            handles: BTreeMap::new(),
            tasks: JoinSet::new(),
            cancel: CancellationToken::new(),
            gone: BTreeSet::new(),
            listed: BTreeSet::new(),
            synced: false,
            max_pods,
            pressure,
            orphans: housekeeping::Orphans::default(),
            statics,
            shutdown: Shutdown::default(),
            breaks: Breaks::default(),
        }
    }

    /// The UIDs of all pods that this node is to know; `None` before the API and the node's sources have told them all.
    pub(super) fn known(&self) -> Option<BTreeSet<String>> {
        (self.synced && self.statics.are_complete()).then(|| self.handles.keys().chain(&self.gone).cloned().collect())
    }

    pub(super) fn take_change(&mut self, change: Change) {
        match change {
            Ok(watcher::Event::Init) => {
                self.listed.clear();
                self.statics.begin_listing();
            }
            Ok(watcher::Event::InitApply(pod)) => {
                self.listed.insert(pod.uid().to_owned());
                self.apply(pod);
            }
            Ok(watcher::Event::InitDone) => self.end_listing(),
            Ok(watcher::Event::Apply(pod)) => self.apply(pod),
            Ok(watcher::Event::Delete(pod)) => self.removed(pod),
            Err(error) => tracing::warn!(%error, "the watch of pods broke; it is begun again"),
        }
    }

    fn end_listing(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        for (uid, handle) in &self.handles {
            if !listed.contains(uid) && !handle.wishes.borrow().pod.is_static {
                handle.wishes.send_modify(|wish| wish.removed = true);
            }
        }
        self.gone.retain(|uid| listed.contains(uid));
        self.end_mirrors();
        if !self.synced {
            self.synced = true;
            self.housekeep();
        }
    }

    fn apply(&mut self, pod: Pod) {
        if pod.is_mirror() {
            return self.take_mirror(pod);
        }
        let uid = pod.uid().to_owned();
        if self.gone.contains(&uid) {
            return;
        }
        match self.handles.get(&uid) {
            Some(handle) => handle.wishes.send_modify(|wish| wish.pod = Arc::new(pod)),
            None => {
                let verdict = self.admit(&pod);
                self.begin(Wish { verdict, ..Wish::of(Arc::new(pod)) });
            }
        }
    }

    /// What this node has for pods.
    pub(super) fn room(&self) -> Room {
        let ctx = &self.actor.ctx;
        Room { pods: self.max_pods.into(), cpu_milli: ctx.cpu_milli, memory_bytes: ctx.memory_bytes }
    }

    /// Why a pod finds no room beside the others.
    pub(super) fn shortage(&self, pod: &Pod) -> Option<(String, String)> {
        let others: Vec<Arc<Pod>> = self.handles.values().map(|handle| handle.wishes.borrow().pod.clone()).collect();
        refusal(pod, &others, self.room())
    }

    /// RTC-69, POD-7, HOOK-97: a pod that finds no room, or a machine that shuts down, is refused, and that is on disk
    /// before its task begins. A refusal that could not be written goes with the wish.
    fn admit(&self, pod: &Pod) -> Option<Verdict> {
        let fresh = pod.status.start_time.is_none() && !pod.is_deleting();
        if !fresh || self.actor.checkpoints.load(pod.uid()).verdict.is_some() {
            return None;
        }
        if let Some(verdict) = self.reject_for_shutdown(pod) {
            return self.refuse(pod, verdict);
        }
        let short = eviction::admission::refusal(pod, &self.pressure.borrow());
        let crowded = || self.shortage(pod).filter(|_| !self.make_room(pod));
        let (reason, message) = short.or_else(crowded)?;
        self.actor.recorder.warning(crate::event::Target::pod(pod), &reason, message.clone());
        let (at, message) = (self.actor.clock.now(), format!("Pod was rejected: {message}"));
        self.refuse(pod, Verdict { reason, message, at, grace_seconds: 1, is_disruption: false })
    }

    /// Writes down that a pod is not let in; gives the verdict back if that cannot be done.
    pub(super) fn refuse(&self, pod: &Pod, verdict: Verdict) -> Option<Verdict> {
        let checkpoint = Checkpoint { verdict: Some(verdict), ..self.actor.checkpoints.load(pod.uid()) };
        let error = self.actor.checkpoints.save(pod.uid(), &checkpoint).err()?;
        tracing::error!(uid = pod.uid(), %error, "checkpoint not written");
        checkpoint.verdict
    }

    fn removed(&mut self, pod: Pod) {
        if pod.is_mirror() {
            return self.lose_mirror(&pod);
        }
        let uid = pod.uid().to_owned();
        self.gone.remove(&uid);
        if let Some(handle) = self.handles.get(&uid) {
            handle.wishes.send_modify(|wish| {
                wish.pod = Arc::new(pod);
                wish.removed = true;
            });
        }
    }

    /// Begins a task that empties the node of this pod.
    pub(super) fn drain(&mut self, pod: Arc<Pod>) {
        self.begin(Wish { drained: true, ..Wish::of(pod) });
    }

    pub(super) fn begin(&mut self, wish: Wish) {
        self.begin_after(Duration::ZERO, wish);
    }

    /// Begins a task that rests at first; what happens to its pod meanwhile it takes in then.
    fn begin_after(&mut self, rest: Duration, wish: Wish) {
        let uid = wish.pod.uid().to_owned();
        self.actor.credentials.refer(&wish.pod);
        let (wishes, wish) = watch::channel(wish);
        let (news, inbox) = mpsc::channel(NEWS_MAX);
        let task = Task::new(self.actor.clone(), self.probes.clone(), wish, inbox);
        let end = task.end();
        let (cancel, ended) = (self.cancel.clone(), uid.clone());
        self.tasks.spawn(async move {
            if !rest.is_zero() && cancel.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
                return (ended, false);
            }
            (ended, task.run(cancel).await)
        });
        self.handles.insert(uid, Handle { wishes, news, end });
    }

    pub(super) async fn join_next(&mut self) -> Option<Result<(String, bool), JoinError>> {
        self.tasks.join_next().await
    }

    /// The next task that ends: a pod's, or the round of housekeeping.
    pub(super) async fn ended(&mut self) -> Option<Ended> {
        tokio::select! {
            Some(pod) = self.tasks.join_next() => Some(Ended::Pod(pod)),
            Some(round) = self.orphans.round.join_next() => Some(Ended::Round(round)),
            else => None,
        }
    }

    pub(super) fn take_ended(&mut self, ended: Ended) {
        match ended {
            Ended::Pod(pod) => self.take_end(pod),
            Ended::Round(Ok(seen)) => self.take_round(seen),
            Ended::Round(Err(error)) => tracing::error!(%error, "a round of housekeeping broke off"),
        }
    }

    /// A task ended: its pod is gone from this node. A task that broke off is begun again.
    pub(super) fn take_end(&mut self, ended: Result<(String, bool), JoinError>) {
        match ended {
            Ok((uid, true)) => {
                self.actor.credentials.forget(&uid);
                self.breaks.forget(&uid);
                let Some(handle) = self.handles.remove(&uid) else { return };
                let wish = handle.wishes.borrow().clone();
                match wish.pod.is_static {
                    true => self.static_ended(&wish),
                    false if wish.removed => {}
                    false => drop(self.gone.insert(uid)),
                }
            }
            Ok((_, false)) => {}
            Err(error) => {
                let broken: Vec<Wish> =
                    self.handles.values().filter(|h| h.news.is_closed()).map(|h| h.wishes.borrow().clone()).collect();
                for wish in broken {
                    let rest = self.breaks.again(wish.pod.uid(), self.actor.clock.now());
                    let seconds = rest.as_secs();
                    tracing::error!(pod = wish.pod.full_name(), %error, seconds, "its task broke off; it rests and is begun again");
                    self.begin_after(rest.unsigned_abs(), wish);
                }
            }
        }
    }

    /// Like [`Self::take_end`], for a node that is being emptied: the pod that has gone.
    pub(super) fn take_drained(&mut self, ended: Result<(String, bool), JoinError>) -> Option<Arc<Pod>> {
        let pod = match &ended {
            Ok((uid, _)) => self.handles.get(uid).map(|handle| handle.wishes.borrow().pod.clone()),
            Err(_) => None,
        };
        self.take_end(ended);
        pod
    }

    pub(super) fn take_event(&mut self, event: RuntimeEvent) {
        let event = match event {
            RuntimeEvent::Relist => return self.housekeep(),
            RuntimeEvent::Container(event) => event,
        };
        let Some(sandbox) = &event.pod_sandbox_status else { return self.relist_all() };
        let uid = sandbox.metadata.as_ref().map(|metadata| metadata.uid.clone()).unwrap_or_default();
        let Some(handle) = self.handles.get(&uid) else { return };
        let kind = v1::ContainerEventType::try_from(event.container_event_type);
        match kind {
            // Made and started are what the pod's own actions have just told it.
            Ok(v1::ContainerEventType::ContainerCreatedEvent | v1::ContainerEventType::ContainerStartedEvent) => {}
            Ok(v1::ContainerEventType::ContainerStoppedEvent) if !event.containers_statuses.is_empty() => {
                let records = event.containers_statuses.iter().map(|s| Record::from_cri(s, &sandbox.id)).collect();
                let listing = Listing { sandboxes: vec![Sandbox::from_cri(sandbox)], records };
                if handle.news.try_send(News::Runtime(listing)).is_err() {
                    relist(handle);
                }
            }
            _ => relist(handle),
        }
    }

    pub(super) fn take_report(&mut self, report: Report) {
        if let Some(handle) = self.handles.get(&report.uid)
            && handle.news.try_send(News::Probe(report)).is_err()
        {
            tracing::debug!("probe result dropped: the pod is busy");
        }
    }

    pub(super) fn relist_all(&self) {
        self.handles.values().for_each(relist);
    }

    pub(super) fn relist(&self, uid: &str) {
        if let Some(handle) = self.handles.get(uid) {
            relist(handle);
        }
    }

    /// Ends all tasks; containers run on.
    pub(super) async fn shut_down(mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.orphans.shut_down().await;
    }
}

fn relist(handle: &Handle) {
    handle.wishes.send_modify(|wish| wish.relist += 1);
}
