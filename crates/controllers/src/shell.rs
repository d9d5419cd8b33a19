//! The shared shell: watch once, ask every controller after every change, carry out what they want.
//!
//! One task owns the [`World`]. An action that is under way, or that failed and rests, is not started again; one that
//! is no longer wanted is forgotten. Actions are idempotent, so a crash between two of them loses nothing. A look at a
//! workload begins only when the watches have shown what the one before wrote.
//!
//! Workloads and objects to collect have turns ([`crate::track`]): a round takes as many as can start, so that many of
//! them cost no more each than few. What concerns whole nodes and namespaces is decided anew after changes, but not
//! more often than every [`WIDE_PAUSE`]. A round without a free slot decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::Timestamp;
use futures_util::{FutureExt, StreamExt};
use kube::Client;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::certificates::{Signer, Task};
use crate::garbage::Deed;
use crate::node_health::{Loss, Policy, Unready};
use crate::node_taints::Tainting;
use crate::pod_gc::Removal;
use crate::resource_quota::Count;
use crate::taint_eviction::Eviction;
use crate::track::Alarms;
use crate::view::{Place, World};
use crate::watch::{self, Listings};
use crate::workload::act::Looked;
use crate::workload::{self, Snapshot, Written};
use crate::{
    bootstrap_tokens, call, certificates, garbage, namespace, node_health, node_taints, pod_gc, resource_quota,
    root_ca, service_account, taint_eviction,
};

/// How many actions may be under way at once.
const ACTIONS_MAX: usize = 32;

/// How many of them may be counts of quotas: each reads all that a namespace has.
const COUNTS_MAX: usize = 8;

/// How long one action may take before it is tried anew.
const ACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause after the first failure of an action; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long the watches may take to show what a look wrote; then the next look asks the API itself.
const LAG_MAX: Duration = Duration::from_secs(5);

/// Times in objects are of whole seconds and of another clock: what is due at one is due a little after it.
const WALL_STEP: Duration = Duration::from_millis(10);

/// How many changes are taken before the controllers are asked again.
const BATCH_MAX: usize = 256;

/// How long one wide decision holds at least: it walks over all nodes and namespaces.
const WIDE_PAUSE: Duration = Duration::from_millis(20);

/// Why the controllers ended before they were told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An action panicked: what it did is not known.
    #[error("an action of a controller panicked")]
    Panicked(#[source] JoinError),
    /// The watches ended for good, which they never do.
    #[error("the watches ended")]
    WatchesEnded,
}

/// What can be wanted; also the key under which an action is under way or rests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Create the ServiceAccount `default` of a namespace.
    CreateAccount(String),
    /// Publish the API server's certificate, the second text, in a namespace.
    PublishCa(String, String),
    /// Empty a namespace and let it go.
    EmptyNamespace(String),
    /// Remove a pod that no node looks after.
    RemovePod(Removal),
    /// Mark a node of which nothing is heard.
    LoseNode(Loss),
    /// Mark a pod of such a node.
    MarkPod(Unready),
    /// Bring the taints of a node in line with its conditions.
    TaintNode(Tainting),
    /// Drive a pod off a tainted node.
    DrivePodOff(Eviction),
    /// Count what a quota has in use.
    CountQuota(Count),
    /// Approve, sign or remove a request for a certificate.
    Certify(Task),
    /// Remove a bootstrap token.
    RemoveToken(bootstrap_tokens::Removal),
    /// Bring a workload in order.
    Look(Place),
    /// Do what the deletion of an object or of its owners asks for.
    Collect(Deed),
}

/// What the controllers want that concerns more than one object, and when to ask again though nothing changes.
fn decide(world: &World, now: Instant, wall: Timestamp) -> (BTreeSet<Action>, Option<Instant>) {
    let (removals, removal_at) = pod_gc::decide(world, now);
    let (counts, poll_at) = resource_quota::decide(world, now);
    let (losses, loss_at) = node_health::decide(world, now);
    let (taintings, taint_at) = node_taints::decide(world, now);
    let (evictions, eviction_at) = taint_eviction::decide(world, now);
    let (tasks, task_at) = certificates::decide(world, wall);
    let (tokens, token_at) = bootstrap_tokens::decide(world, wall);
    let until = |at: Timestamp| Duration::try_from(at.duration_since(wall)).ok();
    let at_last = task_at.into_iter().chain(token_at).min().and_then(until);
    let at_last = at_last.and_then(|after| now.checked_add(after.saturating_add(WALL_STEP)));
    let wake_at = [removal_at, poll_at, loss_at, taint_at, eviction_at, at_last].into_iter().flatten().min();
    let certified = tasks.into_iter().map(Action::Certify).chain(tokens.into_iter().map(Action::RemoveToken));
    let accounts = service_account::decide(world).into_iter().map(Action::CreateAccount);
    let published = root_ca::decide(world).into_iter().map(|(namespace, ca)| Action::PublishCa(namespace, ca));
    let namespaces = namespace::decide(world).into_iter().map(Action::EmptyNamespace);
    let losses = losses.into_iter().map(Action::LoseNode);
    let marks = node_health::unready(world).into_iter().map(Action::MarkPod);
    let taints = taintings.into_iter().map(Action::TaintNode);
    let evictions = evictions.into_iter().map(Action::DrivePodOff);
    let of_nodes = losses.chain(marks).chain(taints).chain(evictions);
    let removals = removals.into_iter().map(Action::RemovePod);
    let counts = counts.into_iter().map(Action::CountQuota);
    let of_objects = removals.chain(certified);
    (accounts.chain(published).chain(namespaces).chain(of_nodes).chain(counts).chain(of_objects).collect(), wake_at)
}

async fn act(
    client: &Client,
    action: &Action,
    (snapshot, signer): (Snapshot, Option<Signer>),
) -> Result<Looked, call::Error> {
    let work = async {
        match action {
            Action::CreateAccount(namespace) => service_account::act(client, namespace).await,
            Action::PublishCa(namespace, ca) => root_ca::act(client, namespace, ca).await,
            Action::EmptyNamespace(namespace) => namespace::act(client, namespace).await,
            Action::RemovePod(removal) => pod_gc::act(client, removal).await,
            Action::LoseNode(loss) => node_health::act(client, loss).await,
            Action::MarkPod(pod) => node_health::act_on_pod(client, pod).await,
            Action::TaintNode(tainting) => node_taints::act(client, tainting).await,
            Action::DrivePodOff(eviction) => taint_eviction::act(client, eviction).await,
            Action::CountQuota(count) => resource_quota::act(client, count).await,
            Action::Certify(task) => certificates::act(client, task, signer).await,
            Action::RemoveToken(removal) => bootstrap_tokens::act(client, removal).await,
            Action::Collect(deed) => garbage::act(client, deed).await,
            Action::Look(place) => return workload::act::act(client, place, snapshot).await,
        }
        .into()
    };
    let timed_out = |_| call::Error::TimedOut(ACTION_TIMEOUT.as_secs());
    tokio::time::timeout(ACTION_TIMEOUT, work).await.map_err(timed_out)
}

/// What the controllers are given beside their client.
#[derive(Clone, Default)]
pub struct Options {
    /// The certificate by which pods know the API server, PEM; published for them.
    pub root_ca: Option<String>,
    /// Who signs certificates.
    pub signer: Option<Signer>,
    /// How patient they are with nodes.
    pub nodes: Policy,
}

/// Runs all controllers until they are cancelled; then finishes the actions under way.
pub async fn run(client: Client, options: Options, cancel: CancellationToken) -> Result<(), Error> {
    let mut events = watch::all(&client);
    let mut shell = Shell::new(client);
    shell.world.root_ca = options.root_ca;
    shell.world.signs = options.signer.is_some();
    shell.signer = options.signer;
    shell.world.lifecycle.policy = options.nodes;
    loop {
        let wake_at = shell.wake_at;
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(done) = shell.running.join_next() => shell.done(done.map_err(Error::Panicked)?),
            event = events.next() => shell.take(event.ok_or(Error::WatchesEnded)?),
            () = sleep_until(wake_at) => {}
        }
        // What else has happened is taken with it.
        while let Some(done) = shell.running.try_join_next() {
            shell.done(done.map_err(Error::Panicked)?);
        }
        for _ in 1..BATCH_MAX {
            let Some(event) = events.next().now_or_never() else { break };
            shell.take(event.ok_or(Error::WatchesEnded)?);
        }
        shell.start_what_is_wanted(Instant::now());
    }
    while let Some(done) = shell.running.join_next().await {
        shell.done(done.map_err(Error::Panicked)?);
    }
    Ok(())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// An action that is under way or rests after a failure.
struct Attempt {
    running: bool,
    failures: u32,
    not_before: Instant,
}

/// What a look wrote and the watches have yet to show.
struct Awaited {
    written: Written,
    until: Instant,
}

type Done = (Action, Result<Looked, call::Error>);

/// When to decide on what concerns more than one object.
struct Wide {
    /// Whether something has happened since the last time.
    is_due: bool,
    not_before: Instant,
    /// When to do so though nothing happens.
    wake_at: Option<Instant>,
}

struct Shell {
    client: Client,
    signer: Option<Signer>,
    world: World,
    listings: Listings,
    /// Of wide actions.
    attempts: BTreeMap<Action, Attempt>,
    wide: Wide,
    awaited: BTreeMap<Place, Awaited>,
    /// Looks that wait for the watches.
    lagging: BTreeSet<Place>,
    /// When to look at a workload though nothing happens.
    alarms: Alarms<Place>,
    running: JoinSet<Done>,
    wake_at: Option<Instant>,
}

impl Shell {
    fn new(client: Client) -> Shell {
        Shell {
            client,
            signer: None,
            world: World::default(),
            listings: Listings::default(),
            attempts: BTreeMap::new(),
            wide: Wide { is_due: true, not_before: Instant::now(), wake_at: None },
            awaited: BTreeMap::new(),
            lagging: BTreeSet::new(),
            alarms: Alarms::default(),
            running: JoinSet::new(),
            wake_at: None,
        }
    }

    fn take(&mut self, event: watch::Event) {
        self.wide.is_due = true;
        self.listings.take(event, &mut self.world);
    }

    fn done(&mut self, (action, looked): Done) {
        let now = Instant::now();
        let (outcome, looked) = match looked {
            Ok(Looked { outcome, written, wake_after }) => (outcome, Some((written, wake_after))),
            Err(error) => (Err(error), None),
        };
        let rest = |failures| now + backoff(failures);
        match (&action, &outcome) {
            (Action::Look(place), outcome) => {
                self.looked(place, looked);
                match outcome {
                    Ok(()) => self.world.looks.ends(place),
                    Err(_) => self.world.looks.fails(place, rest),
                }
            }
            (Action::Collect(deed), Ok(())) => self.world.deeds.ends(&deed.uid),
            (Action::Collect(deed), Err(_)) => self.world.deeds.fails(&deed.uid, rest),
            (Action::CountQuota(count), Ok(())) => resource_quota::counted(&mut self.world, count, now),
            (Action::TaintNode(tainting), Ok(())) => node_taints::tainted(&mut self.world, tainting, now),
            (Action::Certify(task), Ok(())) => certificates::done(&mut self.world, task),
            _ => {}
        }
        if let Some(attempt) = self.attempts.get_mut(&action) {
            attempt.running = false;
            attempt.failures += 1;
            // A success rests too: its effect has to come back through the watch before it is asked for again.
            attempt.not_before = rest(attempt.failures);
            self.wide.is_due = true;
        }
        match outcome {
            Ok(()) => tracing::debug!(?action, "done"),
            Err(error @ call::Error::Remaining(_)) => tracing::debug!(?action, %error, "waiting"),
            Err(error) if error.reason() == Some("Conflict") => tracing::debug!(?action, %error, "overtaken"),
            Err(error) => tracing::warn!(?action, error = %chain(&error), "an action failed, it will be tried again"),
        }
    }

    fn looked(&mut self, place: &Place, looked: Option<(Written, Option<Duration>)>) {
        let now = Instant::now();
        // A look that ran out of time may have written anything.
        let unsure = Written { is_unsure: true, ..Written::default() };
        let (written, wake_after) = looked.unwrap_or((unsure, None));
        if self.world.uid(place).is_some() {
            if written != Written::default() {
                self.awaited.insert(place.clone(), Awaited { written, until: now + LAG_MAX });
            }
            self.alarms.set(place, wake_after.map(|after| now + after));
        } else {
            self.forget(place);
        }
    }

    /// The workload is gone.
    fn forget(&mut self, place: &Place) {
        self.awaited.remove(place);
        self.lagging.remove(place);
        self.alarms.set(place, None);
    }

    fn has_slot(&self) -> bool {
        self.running.len() < ACTIONS_MAX
    }

    fn start_what_is_wanted(&mut self, now: Instant) {
        self.wake_at = None;
        // Without a slot nothing can start: the end of an action is the next occasion.
        if !self.listings.are_complete() || !self.has_slot() {
            return;
        }
        let wide = self.start_wide(now);
        while let Some(place) = self.alarms.next(now) {
            self.world.looks.happened(place);
        }
        self.hurry_what_is_shown();
        self.start_looks(now);
        self.start_deeds(now);
        let wakes = [wide, self.alarms.first(), self.world.looks.wake_at(), self.world.deeds.wake_at()];
        self.wake_at = wakes.into_iter().flatten().min();
    }

    /// Starts what concerns more than one object, if it is time to decide on it; says when it is.
    fn start_wide(&mut self, now: Instant) -> Option<Instant> {
        if !self.wide.is_due && self.wide.wake_at.is_none_or(|at| at > now) {
            return self.wide.wake_at;
        }
        if self.wide.not_before > now {
            return Some(self.wide.not_before);
        }
        (self.wide.is_due, self.wide.not_before) = (false, now + WIDE_PAUSE);
        self.world.note_missing_nodes(now);
        node_health::note(&mut self.world, now);
        taint_eviction::note(&mut self.world, now);
        resource_quota::note_polls(&mut self.world, now);
        let (wanted, wake_at) = decide(&self.world, now, Timestamp::now());
        let mut wakes: Vec<Instant> = wake_at.into_iter().collect();
        self.attempts.retain(|action, attempt| attempt.running || wanted.contains(action));
        let is_count = |action: &Action| matches!(action, Action::CountQuota(_));
        let counts = self.attempts.iter().filter(|(action, attempt)| attempt.running && is_count(action));
        let mut counts = counts.count();
        for action in wanted {
            let attempt =
                self.attempts.entry(action.clone()).or_insert(Attempt { running: false, failures: 0, not_before: now });
            if attempt.running {
                continue;
            }
            if attempt.not_before > now {
                wakes.push(attempt.not_before);
                continue;
            }
            if self.running.len() >= ACTIONS_MAX {
                self.wide.is_due = true;
                break;
            }
            if let Action::CountQuota(count) = &action {
                if counts >= COUNTS_MAX {
                    continue;
                }
                counts += 1;
                resource_quota::begins(&mut self.world, count);
            }
            attempt.running = true;
            self.start(action, Snapshot::default());
        }
        self.wide.wake_at = wakes.into_iter().min();
        self.wide.wake_at
    }

    /// The watches have shown what these wait for.
    fn hurry_what_is_shown(&mut self) {
        let (world, awaited) = (&mut self.world, &mut self.awaited);
        self.lagging.retain(|place| {
            let lags = awaited.get_mut(place).is_some_and(|awaited| !awaited.written.is_shown(world));
            if !lags {
                world.looks.hurry(place);
            }
            lags
        });
    }

    fn start_looks(&mut self, now: Instant) {
        while self.has_slot() {
            let Some(place) = self.world.looks.next(now) else { return };
            if self.world.uid(&place).is_none() {
                self.forget(&place);
                self.world.looks.ends(&place);
                continue;
            }
            let mut is_blind = false;
            if let Some(Awaited { written, until }) = self.awaited.get_mut(&place) {
                let is_shown = written.is_shown(&self.world);
                if !is_shown && *until > now {
                    self.world.looks.waits(&place, *until);
                    self.lagging.insert(place);
                    continue;
                }
                is_blind = !is_shown || written.is_unsure;
            }
            self.awaited.remove(&place);
            self.lagging.remove(&place);
            let snapshot = Snapshot { is_blind, ..workload::snapshot(&self.world, &place) };
            self.start(Action::Look(place), snapshot);
        }
    }

    fn start_deeds(&mut self, now: Instant) {
        while self.has_slot() {
            let Some(uid) = self.world.deeds.next(now) else { return };
            match garbage::decide(&self.world, &uid) {
                Some(deed) => self.start(Action::Collect(deed), Snapshot::default()),
                // What happened to most objects does not concern the collector.
                None => self.world.deeds.ends(&uid),
            }
        }
    }

    fn start(&mut self, action: Action, snapshot: Snapshot) {
        let (client, signer) = (self.client.clone(), self.signer.clone());
        self.running.spawn(async move {
            let outcome = act(&client, &action, (snapshot, signer)).await;
            (action, outcome)
        });
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

/// An error with its sources, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |line, source| format!("{line}: {source}"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;
    use crate::view::Served;

    /// The paths of what was deleted.
    type Deleted = Arc<Mutex<Vec<String>>>;

    /// Pods are there, their owner is not.
    fn client(deleted: Deleted) -> Client {
        let answer = move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            let (status, body) = match request.method() {
                &Method::DELETE => {
                    deleted.lock().unwrap().push(name);
                    (StatusCode::OK, json!({"kind": "Status", "status": "Success"}))
                }
                _ if path.contains("replicasets") => {
                    (StatusCode::NOT_FOUND, json!({"kind": "Status", "code": 404, "reason": "NotFound"}))
                }
                _ => (StatusCode::OK, pod(&name)),
            };
            let mut response = Response::new(Body::from(body.to_string().into_bytes()));
            *response.status_mut() = status;
            async move { Ok::<_, Infallible>(response) }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    fn pod(name: &str) -> Value {
        let owner = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "web", "controller": true,
            "blockOwnerDeletion": true,
        });
        json!({"metadata": {"name": name, "namespace": "a", "uid": name, "ownerReferences": [owner]}})
    }

    fn set() -> Value {
        let spec = json!({"replicas": 0, "selector": {"matchLabels": {"app": "web"}}});
        json!({"kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "a", "uid": "web"}, "spec": spec})
    }

    fn shell(client: Client) -> Shell {
        let mut shell = Shell::new(client);
        for kind in watch::kinds() {
            shell.take((kind, Ok(kube::runtime::watcher::Event::InitDone)));
        }
        shell
    }

    /// How many turns the collector has given when a set with so many pods is gone, and how often nodes were walked over.
    async fn work(pods: usize) -> (u64, u64) {
        let deleted = Deleted::default();
        let mut shell = shell(client(deleted.clone()));
        shell.world.is(Served::named("apps", "replicasets"), "web", &set());
        for index in 0..pods {
            let name = format!("p{index}");
            shell.world.is(Served::pods(), &name, &pod(&name));
        }
        // Nothing is to be done about pods whose owner is there.
        shell.start_deeds(Instant::now());
        assert_eq!((shell.running.len(), shell.world.deeds.all().count()), (0, 0));
        shell.world.is_gone("web");
        let mut rounds = 0;
        loop {
            shell.wide.is_due = true;
            shell.start_what_is_wanted(Instant::now());
            rounds += u64::from(!shell.wide.is_due);
            // One after the other, as they end.
            let Some(done) = shell.running.join_next().await else { break };
            shell.done(done.unwrap());
            deleted.lock().unwrap().drain(..).for_each(|uid| shell.world.is_gone(&uid));
        }
        assert_eq!(shell.world.pods_in("a").live, 0, "all are gone");
        (shell.world.deeds.turns(), rounds)
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_end_of_a_set_costs_grows_as_its_pods_do() {
        let ((few, few_rounds), (many, many_rounds)) = (work(200).await, work(2_000).await);
        assert_eq!((few, many), (400, 4_000), "two turns a pod: one as it came, one as its owner went");
        assert!(
            few_rounds.max(many_rounds) <= 2,
            "nodes are walked over by the clock, not by what ends: {many_rounds}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_without_a_free_slot_decides_nothing() {
        let mut shell = shell(client(Deleted::default()));
        (0..ACTIONS_MAX).for_each(|_| drop(shell.running.spawn(std::future::pending())));
        shell.world.is(Served::pods(), "p", &pod("p"));
        shell.start_what_is_wanted(Instant::now());
        assert_eq!((shell.world.deeds.turns(), shell.wide.is_due, shell.wake_at), (0, true, None));
    }

    #[tokio::test(start_paused = true)]
    async fn of_workloads_that_are_gone_nothing_is_remembered() {
        let mut shell = shell(client(Deleted::default()));
        let (kind, now) = (Served::named("apps", "replicasets"), Instant::now());
        let place = Place { kind, namespace: "a".to_owned(), name: "web".to_owned() };
        shell.world.is(kind, "web", &set());
        let written = Written { going: vec!["p".to_owned()], ..Written::default() };
        shell.looked(&place, Some((written, Some(Duration::from_secs(9)))));
        assert_eq!((shell.awaited.len(), shell.alarms.first().is_some()), (1, true));
        shell.world.is_gone("web");
        shell.start_looks(now);
        assert_eq!((shell.running.len(), shell.awaited.len(), shell.alarms.first()), (0, 0, None));
        // A look that ends later leaves nothing either.
        shell.looked(&place, None);
        assert!(shell.awaited.is_empty() && shell.world.looks.all().next().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_waits_for_the_watch_and_goes_on_as_soon_as_it_has_shown_what_was_written() {
        let mut shell = shell(client(Deleted::default()));
        let (kind, now) = (Served::named("apps", "replicasets"), Instant::now());
        let place = Place { kind, namespace: "a".to_owned(), name: "web".to_owned() };
        shell.world.is(kind, "web", &set());
        shell.world.is(Served::pods(), "p", &pod("p"));
        let written = Written { going: vec!["p".to_owned()], ..Written::default() };
        shell.looked(&place, Some((written, None)));
        shell.start_what_is_wanted(now);
        let is_looking = |shell: &Shell| !shell.lagging.contains(&place) && !shell.awaited.contains_key(&place);
        assert!(!is_looking(&shell) && shell.world.looks.wake_at() == Some(now + LAG_MAX));
        shell.world.is_gone("p");
        shell.start_what_is_wanted(now);
        assert!(is_looking(&shell) && shell.world.looks.wake_at().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn counts_of_quotas_leave_slots_to_others_and_each_runs_once_whatever_happens() {
        let mut shell = shell(client(Deleted::default()));
        let quotas = Served::named("", "resourcequotas");
        let quota = |name: &str| json!({"metadata": {"name": name, "namespace": "a", "uid": name}, "spec": {"hard": {"pods": "1"}}});
        let names: Vec<String> = (0..ACTIONS_MAX).map(|index| format!("q{index}")).collect();
        names[..3].iter().for_each(|name| shell.world.is(quotas, name, &quota(name)));
        for _ in 0..5 {
            shell.world.note_usage("a");
            shell.wide.is_due = true;
            shell.start_what_is_wanted(Instant::now());
            assert_eq!(shell.running.len(), 3, "what happens during a count begins no other one");
            tokio::time::advance(WIDE_PAUSE).await;
        }
        names.iter().for_each(|name| shell.world.is(quotas, name, &quota(name)));
        shell.wide.is_due = true;
        shell.start_what_is_wanted(Instant::now());
        assert_eq!(shell.running.len(), COUNTS_MAX);
    }
}
