//! Watches, the queue and the calls in flight. Boring on purpose: what to do is decided in `decide.rs`.
//!
//! One task owns everything. A pod that was given a node counts there at once (it is *assumed*), so the next choice
//! does not wait for the API; the watch confirms it later. A pod that no node will have waits until a node, a class or
//! a leaving pod changes something, and is then tried again after its back-off.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use kube::runtime::utils::StreamBackoff;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::act::{self, Posted};
use crate::decide::{self, Cluster, Verdict};
use crate::preempt::Plan;
use crate::queue::{Queue, Waiting};
use crate::view::{Budget, BudgetObject, ClassObject, NamespaceObject, Node, NodeObject, Pod, PodObject};

/// How many calls may be under way at once.
const CALLS_MAX: usize = 64;

/// The pause after the first failed attempt; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// The longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Why the scheduler ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call panicked: what it did is not known.
    #[error("a call of the scheduler panicked")]
    Panicked(#[source] JoinError),
    /// A watch ended for good, which a watch never does.
    #[error("the watch of {0} ended")]
    WatchEnded(&'static str),
}

/// Schedules until it is cancelled; then finishes the calls under way.
pub async fn run(client: Client, cancel: CancellationToken) -> Result<(), Error> {
    let mut pods = watch::<PodObject>(&client);
    let mut nodes = watch::<NodeObject>(&client);
    let mut classes = watch::<ClassObject>(&client);
    let mut budgets = watch::<BudgetObject>(&client);
    let mut namespaces = watch::<NamespaceObject>(&client);
    let mut shell = Shell::new(client);
    loop {
        let wake_at = shell.wake_at();
        let event = tokio::select! {
            () = cancel.cancelled() => break,
            Some(done) = shell.calls.join_next() => Event::Done(done.map_err(Error::Panicked)?),
            event = nodes.next() => Event::Node(event.ok_or(Error::WatchEnded("nodes"))?),
            event = classes.next() => Event::Class(event.ok_or(Error::WatchEnded("runtimeclasses"))?),
            event = budgets.next() => Event::Budget(event.ok_or(Error::WatchEnded("poddisruptionbudgets"))?),
            event = namespaces.next() => Event::Namespace(event.ok_or(Error::WatchEnded("namespaces"))?),
            event = pods.next() => Event::Pod(Box::new(event.ok_or(Error::WatchEnded("pods"))?)),
            () = sleep_until(wake_at) => Event::Woken,
        };
        shell.take(event);
        shell.schedule(Instant::now());
    }
    while let Some(done) = shell.calls.join_next().await {
        done.map_err(Error::Panicked)?;
    }
    Ok(())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

type Watched<K> = Result<watcher::Event<K>, watcher::Error>;

fn watch<K>(client: &Client) -> BoxStream<'static, Watched<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let stream = watcher(Api::<K>::all(client.clone()), Config::default());
    StreamBackoff::new(stream, watcher::DefaultBackoff::default()).boxed()
}

/// Everything that can happen.
enum Event {
    Pod(Box<Watched<PodObject>>),
    Node(Watched<NodeObject>),
    Class(Watched<ClassObject>),
    Budget(Watched<BudgetObject>),
    Namespace(Watched<NamespaceObject>),
    Done(Done),
    Woken,
}

/// The end of a call.
enum Done {
    Bound { uid: String, outcome: Result<(), act::Error> },
    Preempted { uid: String, outcome: Result<(), act::Error> },
    Reported { uid: String, outcome: Result<Posted, act::Error> },
}

/// The names that a list has shown so far, between Init and InitDone.
#[derive(Default)]
struct Listing {
    seen: BTreeSet<String>,
    complete: bool,
}

struct Shell {
    client: Client,
    cluster: Cluster,
    queue: Queue,
    /// Pods that were given a node which the watch has not confirmed yet; by uid.
    assumed: BTreeMap<String, Waiting>,
    pods: Listing,
    nodes: Listing,
    classes: Listing,
    budgets: Listing,
    namespaces: Listing,
    calls: JoinSet<Done>,
}

impl Shell {
    fn new(client: Client) -> Shell {
        Shell {
            client,
            cluster: Cluster::default(),
            queue: Queue::default(),
            assumed: BTreeMap::new(),
            pods: Listing::default(),
            nodes: Listing::default(),
            classes: Listing::default(),
            budgets: Listing::default(),
            namespaces: Listing::default(),
            calls: JoinSet::new(),
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Pod(event) => match *event {
                Ok(event) => self.take_pod(event),
                Err(error) => tracing::warn!(error = %chain(&error), "cannot watch pods"),
            },
            Event::Node(Ok(event)) => self.take_node(event),
            Event::Class(Ok(event)) => self.take_class(event),
            Event::Node(Err(error)) => tracing::warn!(error = %chain(&error), "cannot watch nodes"),
            Event::Class(Err(error)) => {
                // Without classes no handler is looked for; that must not keep pods from being scheduled.
                tracing::warn!(%error, "cannot watch runtime classes");
                self.classes.complete = true;
            }
            Event::Budget(Ok(event)) => self.take_budget(event),
            Event::Budget(Err(error)) => {
                // A preferred victim is worth less than a place for the pod.
                tracing::warn!(error = %chain(&error), "cannot watch disruption budgets");
                self.budgets.complete = true;
            }
            Event::Namespace(Ok(event)) => self.take_namespace(event),
            Event::Namespace(Err(error)) => {
                // Only selectors of namespaces need their labels.
                tracing::warn!(error = %chain(&error), "cannot watch namespaces");
                self.namespaces.complete = true;
            }
            Event::Done(Done::Bound { uid, outcome }) => self.bound(uid, outcome),
            Event::Done(Done::Preempted { uid, outcome }) => self.preempted(&uid, outcome),
            Event::Done(Done::Reported { uid, outcome }) => self.reported(&uid, outcome),
            Event::Woken => {}
        }
    }

    fn take_pod(&mut self, event: watcher::Event<PodObject>) {
        match event {
            watcher::Event::Init => self.pods.seen.clear(),
            watcher::Event::Apply(object) => self.pod_is(object.into()),
            watcher::Event::InitApply(object) => {
                let pod = Pod::from(object);
                self.pods.seen.insert(pod.uid.clone());
                self.pod_is(pod);
            }
            watcher::Event::Delete(object) => self.pod_is_gone(&Pod::from(object).uid),
            watcher::Event::InitDone => {
                self.pods.complete = true;
                let seen = std::mem::take(&mut self.pods.seen);
                let known = self.queue.uids().chain(self.cluster.placed());
                let gone: Vec<String> = known.filter(|uid| !seen.contains(*uid)).map(str::to_owned).collect();
                gone.iter().for_each(|uid| self.pod_is_gone(uid));
            }
        }
    }

    fn pod_is(&mut self, pod: Pod) {
        if pod.finished {
            return self.pod_is_gone(&pod.uid);
        }
        if let Some(node) = pod.node.clone() {
            self.queue.remove(&pod.uid);
            self.assumed.remove(&pod.uid);
            if self.cluster.denominate(&pod.uid).is_some_and(|kept| kept != node) {
                self.wake();
            }
            if self.cluster.place(&pod, &node) {
                self.queue.wake_wishing();
            }
            return;
        }
        if self.assumed.contains_key(&pod.uid) {
            return;
        }
        if !pod.wants_node {
            self.queue.remove(&pod.uid);
            // Nobody waits for the room that others are leaving.
            if self.cluster.denominate(&pod.uid).is_some() {
                self.wake();
            }
            return;
        }
        if let Some(node) = &pod.nominated {
            self.cluster.nominate(&pod, node);
        }
        let wishes = |pod: &Pod| (pod.placement.clone(), pod.requests.clone(), pod.wishes.clone(), pod.labels.clone());
        let is_known = self.queue.change(&pod.uid, |waiting| {
            waiting.ready |= wishes(&waiting.pod) != wishes(&pod);
            waiting.pod = pod.clone();
        });
        if !is_known {
            self.queue.arrive(pod, Instant::now());
        }
    }

    fn pod_is_gone(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.assumed.remove(uid);
        let kept = self.cluster.denominate(uid);
        let left = self.cluster.release(uid);
        if let Some(node) = &left {
            self.hurry(node);
        }
        if kept.is_some() || left.is_some() {
            self.wake();
        }
    }

    /// Who waits for others to go from a node is tried as soon as one has, however often it was tried in vain.
    fn hurry(&mut self, node: &str) {
        let now = Instant::now();
        for uid in self.cluster.awaiting(node) {
            self.queue.change(uid, |waiting| {
                (waiting.ready, waiting.attempts, waiting.not_before) = (true, 0, now);
            });
        }
    }

    fn take_node(&mut self, event: watcher::Event<NodeObject>) {
        match event {
            watcher::Event::Init => self.nodes.seen.clear(),
            watcher::Event::Apply(object) => self.node_is(object.into()),
            watcher::Event::InitApply(object) => {
                let node = Node::from(object);
                self.nodes.seen.insert(node.name.clone());
                self.node_is(node);
            }
            watcher::Event::Delete(object) => self.node_is_gone(&Node::from(object).name),
            watcher::Event::InitDone => {
                self.nodes.complete = true;
                let seen = std::mem::take(&mut self.nodes.seen);
                let gone = self.cluster.node_names().filter(|name| !seen.contains(*name));
                let gone: Vec<String> = gone.map(str::to_owned).collect();
                gone.iter().for_each(|name| self.node_is_gone(name));
            }
        }
    }

    fn node_is(&mut self, node: Node) {
        if self.cluster.apply_node(node) {
            self.wake();
        }
    }

    /// When the last node goes that offers a handler, others are candidates (RTC-53).
    fn node_is_gone(&mut self, name: &str) {
        self.cluster.remove_node(name);
        self.wake();
    }

    fn take_class(&mut self, event: watcher::Event<ClassObject>) {
        match event {
            watcher::Event::Init => self.classes.seen.clear(),
            watcher::Event::Apply(object) => self.class_is(object),
            watcher::Event::InitApply(object) => {
                self.classes.seen.extend(object.meta().name.clone());
                self.class_is(object);
            }
            watcher::Event::Delete(object) => {
                self.cluster.remove_class(object.meta().name.as_deref().unwrap_or_default());
                self.wake();
            }
            watcher::Event::InitDone => {
                self.classes.complete = true;
                let seen = std::mem::take(&mut self.classes.seen);
                if self.cluster.retain_classes(|name| seen.contains(name)) {
                    self.wake();
                }
            }
        }
    }

    fn class_is(&mut self, object: ClassObject) {
        let name = object.meta().name.clone().unwrap_or_default();
        if self.cluster.apply_class(name, object.handler) {
            self.wake();
        }
    }

    fn take_budget(&mut self, event: watcher::Event<BudgetObject>) {
        let key = |budget: &Budget| format!("{}/{}", budget.namespace, budget.name);
        match event {
            watcher::Event::Init => self.budgets.seen.clear(),
            watcher::Event::Apply(object) => self.cluster.apply_budget(object.into()),
            watcher::Event::InitApply(object) => {
                let budget = Budget::from(object);
                self.budgets.seen.insert(key(&budget));
                self.cluster.apply_budget(budget);
            }
            watcher::Event::Delete(object) => {
                let gone = Budget::from(object);
                self.cluster.retain_budgets(|namespace, name| (namespace, name) != (&*gone.namespace, &*gone.name));
            }
            watcher::Event::InitDone => {
                self.budgets.complete = true;
                let seen = std::mem::take(&mut self.budgets.seen);
                self.cluster.retain_budgets(|namespace, name| seen.contains(&format!("{namespace}/{name}")));
            }
        }
    }

    fn take_namespace(&mut self, event: watcher::Event<NamespaceObject>) {
        let name = |object: &NamespaceObject| object.meta().name.clone().unwrap_or_default();
        match event {
            watcher::Event::Init => self.namespaces.seen.clear(),
            watcher::Event::Apply(object) => self.namespace_is(&object),
            watcher::Event::InitApply(object) => {
                self.namespaces.seen.insert(name(&object));
                self.namespace_is(&object);
            }
            watcher::Event::Delete(object) => self.cluster.retain_namespaces(|other| *other != name(&object)),
            watcher::Event::InitDone => {
                self.namespaces.complete = true;
                let seen = std::mem::take(&mut self.namespaces.seen);
                self.cluster.retain_namespaces(|name| seen.contains(name));
            }
        }
    }

    fn namespace_is(&mut self, object: &NamespaceObject) {
        let meta = object.meta();
        let (name, labels) = (meta.name.clone().unwrap_or_default(), meta.labels.clone().unwrap_or_default());
        if self.cluster.apply_namespace(name, labels) {
            self.queue.wake_wishing();
        }
    }

    /// Something changed that may make room: every pod that waits is tried again, after its back-off.
    fn wake(&mut self) {
        self.queue.wake();
    }

    /// When the next pod's back-off ends.
    fn wake_at(&self) -> Option<Instant> {
        if !self.synced() || self.calls.len() >= CALLS_MAX {
            return None;
        }
        self.queue.wake_at()
    }

    fn synced(&self) -> bool {
        let others = self.classes.complete && self.budgets.complete && self.namespaces.complete;
        self.pods.complete && self.nodes.complete && others
    }

    /// Tries every pod whose turn it is: the highest priority first, then the oldest.
    fn schedule(&mut self, now: Instant) {
        if !self.synced() {
            return;
        }
        while self.calls.len() < CALLS_MAX {
            let Some(mut pending) = self.queue.next(now) else { return };
            pending.ready = false;
            pending.attempts += 1;
            pending.not_before = now + backoff(pending.attempts);
            match decide::place(&pending.pod, &self.cluster) {
                Verdict::Bind(node) => self.bind(pending, node),
                Verdict::Preempt { plan, message } => self.preempt(pending, plan, message),
                Verdict::Unschedulable(message) => self.report(pending, message),
            }
        }
    }

    fn bind(&mut self, mut pending: Waiting, node: String) {
        self.cluster.denominate(&pending.pod.uid);
        self.cluster.place(&pending.pod, &node);
        self.queue.wake_wishing();
        let (client, pod, uid) = (self.client.clone(), pending.pod.clone(), pending.pod.uid.clone());
        // What is being told of its wait is of no interest any more.
        pending.telling = None;
        self.assumed.insert(uid.clone(), pending);
        self.calls.spawn(async move { Done::Bound { outcome: act::bind(&client, &pod, &node).await, uid } });
    }

    /// The pod waits for its victims to go, and is tried as soon as one has.
    fn preempt(&mut self, mut pending: Waiting, plan: Plan, message: String) {
        self.cluster.nominate(&pending.pod, &plan.node);
        (pending.attempts, pending.not_before) = (0, Instant::now());
        let (client, pod, uid) = (self.client.clone(), pending.pod.clone(), pending.pod.uid.clone());
        self.report(pending, message);
        self.calls.spawn(async move { Done::Preempted { outcome: act::preempt(&client, &pod, &plan).await, uid } });
    }

    fn report(&mut self, mut pending: Waiting, message: String) {
        let is_enough = |posted: &mut Posted| posted.is_enough(&message, Instant::now());
        let is_told = act::is_told(&pending.pod, &message) && pending.posted.as_mut().is_some_and(is_enough);
        if is_told || pending.telling.as_ref() == Some(&message) {
            return self.queue.put(pending);
        }
        pending.telling = Some(message.clone());
        let (client, pod, uid) = (self.client.clone(), pending.pod.clone(), pending.pod.uid.clone());
        let posted = pending.posted.take();
        self.queue.put(pending);
        self.calls
            .spawn(async move { Done::Reported { outcome: act::report(&client, &pod, &message, posted).await, uid } });
    }

    fn bound(&mut self, uid: String, outcome: Result<(), act::Error>) {
        let Err(error) = outcome else { return };
        tracing::warn!(error = %chain(&error), uid, "cannot bind a pod");
        // Unless the watch has said meanwhile what became of the pod, it waits for a node again.
        if let Some(mut pending) = self.assumed.remove(&uid) {
            self.cluster.release(&uid);
            if !error.is_not_found() {
                pending.ready = true;
                self.queue.put(pending);
            }
            self.wake();
        }
    }

    fn preempted(&mut self, uid: &str, outcome: Result<(), act::Error>) {
        let Err(error) = outcome else { return };
        tracing::warn!(error = %chain(&error), uid, "cannot make room for a pod");
        // Nobody may be on the way out: the choice is made anew after a pause.
        self.cluster.denominate(uid);
        self.queue.change(uid, |pending| {
            pending.attempts += 1;
            (pending.ready, pending.not_before) = (true, Instant::now() + backoff(pending.attempts + 4));
        });
        self.wake();
    }

    fn reported(&mut self, uid: &str, outcome: Result<Posted, act::Error>) {
        let mut error = None;
        let waits = self.queue.change(uid, |pending| {
            pending.telling = None;
            match outcome {
                Ok(posted) => pending.posted = Some(posted),
                Err(why) => error = Some(why),
            }
        });
        if let Some(error) = error.filter(|error| waits && !error.is_not_found()) {
            tracing::warn!(error = %chain(&error), uid, "cannot report an unschedulable pod");
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |line, source| format!("{line}: {source}"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A shell that has listed everything, before an API at which every call waits.
    fn shell() -> Shell {
        let silent = |_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, Infallible>>();
        let mut shell = Shell::new(Client::new(tower::service_fn(silent), "default"));
        shell.take_pod(watcher::Event::InitDone);
        shell.take_node(watcher::Event::InitDone);
        shell.take_class(watcher::Event::InitDone);
        shell.take_budget(watcher::Event::InitDone);
        shell.take_namespace(watcher::Event::InitDone);
        shell
    }

    fn pod(name: &str, spec: Value) -> PodObject {
        let metadata = json!({"name": name, "namespace": "ns", "uid": name});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})).unwrap()
    }

    fn asking(name: &str, priority: i64, cpu: &str) -> PodObject {
        pod(name, json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn node(name: &str, handlers: Value) -> NodeObject {
        let status = json!({"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "9"}, "runtimeHandlers": handlers});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
    }

    /// It offers the handler and takes nothing.
    fn cordoned() -> NodeObject {
        serde_json::from_value(json!({
            "metadata": {"name": "with"}, "spec": {"unschedulable": true},
            "status": {"allocatable": {"cpu": "1", "pods": "9"}, "runtimeHandlers": [{"name": "runsc"}]},
        }))
        .unwrap()
    }

    fn class(name: &str) -> ClassObject {
        serde_json::from_value(json!({"metadata": {"name": name}, "handler": "runsc"})).unwrap()
    }

    /// The pods that were given nodes, and the nodes.
    fn assumed(shell: &Shell) -> Vec<(&str, &str)> {
        let node = |uid: &&String| shell.cluster.node_of(uid).unwrap_or_default();
        shell.assumed.keys().map(|uid| (uid.as_str(), node(&uid))).collect()
    }

    async fn pass(shell: &mut Shell, time: Duration) {
        tokio::time::advance(time).await;
        shell.schedule(Instant::now());
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn when_a_pod_for_which_room_was_kept_goes_others_have_the_room() {
        let mut shell = shell();
        shell.take_node(watcher::Event::Apply(node("n", Value::Null)));
        shell.pod_is(asking("low", 1, "700m").into());
        shell.schedule(Instant::now());
        shell.pod_is(asking("high", 10, "700m").into());
        shell.schedule(Instant::now());
        shell.pod_is(asking("small", 5, "200m").into());
        shell.schedule(Instant::now());
        shell.pod_is_gone("low");
        shell.cluster.release("high");
        assert_eq!(shell.cluster.nomination("high"), Some("n"));
        shell.pod_is(asking("middle", 5, "600m").into());
        shell.queue.change("high", |high| high.ready = false);
        pass(&mut shell, Duration::ZERO).await;
        assert_eq!(assumed(&shell), [("small", "n")], "room is kept for the important one");
        shell.pod_is_gone("high");
        pass(&mut shell, LONG).await;
        assert_eq!(assumed(&shell), [("middle", "n"), ("small", "n")]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_victim_is_tried_as_soon_as_that_has_gone_however_often_it_was_tried() {
        let mut shell = shell();
        shell.take_node(watcher::Event::Apply(node("n", Value::Null)));
        shell.pod_is(asking("low", 1, "700m").into());
        shell.schedule(Instant::now());
        shell.pod_is(asking("high", 10, "700m").into());
        for _ in 0..12 {
            pass(&mut shell, LONG).await;
            shell.wake();
        }
        pass(&mut shell, LONG).await;
        shell.pod_is_gone("low");
        pass(&mut shell, Duration::ZERO).await;
        assert_eq!(assumed(&shell), [("high", "n")]);
    }

    /// A pod whose class has a handler that only a cordoned node offers.
    async fn waiting_for_its_handler() -> Shell {
        let mut shell = shell();
        shell.take_class(watcher::Event::Apply(class("gvisor")));
        shell.take_node(watcher::Event::Apply(cordoned()));
        shell.take_node(watcher::Event::Apply(node("without", json!([{"name": "runc"}]))));
        shell.pod_is(pod("p", json!({"runtimeClassName": "gvisor"})).into());
        pass(&mut shell, LONG).await;
        assert_eq!(assumed(&shell), []);
        shell
    }

    #[tokio::test(start_paused = true)]
    async fn rtc_53_when_the_last_node_with_the_handler_goes_others_are_tried() {
        let mut shell = waiting_for_its_handler().await;
        shell.take_node(watcher::Event::Delete(cordoned()));
        pass(&mut shell, LONG).await;
        assert_eq!(assumed(&shell), [("p", "without")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_class_that_went_while_nothing_was_heard_is_gone() {
        let mut shell = waiting_for_its_handler().await;
        shell.take_class(watcher::Event::Init);
        shell.take_class(watcher::Event::InitDone);
        pass(&mut shell, LONG).await;
        assert_eq!(assumed(&shell), [("p", "without")], "no handler is looked for");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_to_be_near_another_is_tried_when_that_comes() {
        let mut shell = shell();
        shell.take_node(watcher::Event::Apply(node("n", Value::Null)));
        let term = |selector: Value| {
            json!({"topologyKey": "host", "labelSelector": selector, "namespaceSelector": {
                "matchLabels": {"team": "red"},
            }})
        };
        let near = |selector| {
            json!({"affinity": {"podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [term(selector)],
            }}})
        };
        let mut labelled = node("n", Value::Null);
        labelled.meta_mut().labels = Some([("host".to_owned(), "n".to_owned())].into());
        shell.take_node(watcher::Event::Apply(labelled));
        shell.pod_is(pod("waits", near(json!({}))).into());
        pass(&mut shell, LONG).await;
        shell.pod_is(pod("comes", json!({})).into());
        pass(&mut shell, LONG).await;
        assert_eq!(assumed(&shell), [("comes", "n")], "it is in a namespace that is not meant");
        let namespace = json!({"metadata": {"name": "ns", "labels": {"team": "red"}}});
        shell.take_namespace(watcher::Event::Apply(serde_json::from_value(namespace).unwrap()));
        pass(&mut shell, LONG).await;
        assert_eq!(assumed(&shell), [("comes", "n"), ("waits", "n")]);
        shell.pod_is(pod("other", near(json!({"matchLabels": {"app": "web"}}))).into());
        pass(&mut shell, LONG).await;
        let mut bound: Pod = pod("bound", json!({"nodeName": "n"})).into();
        bound.labels = [("app".to_owned(), "web".to_owned())].into();
        shell.pod_is(bound);
        pass(&mut shell, LONG).await;
        assert_eq!(shell.cluster.node_of("other"), Some("n"));
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_wait_is_being_told_it_is_not_told_again() {
        let mut shell = shell();
        shell.take_node(watcher::Event::Apply(node("n", Value::Null)));
        shell.pod_is(asking("large", 0, "2").into());
        for _ in 0..5 {
            pass(&mut shell, LONG).await;
            shell.wake();
        }
        assert_eq!(shell.calls.len(), 1, "the API is slow");
    }
}
