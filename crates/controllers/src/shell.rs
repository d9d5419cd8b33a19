//! The shared shell: watch once, ask every controller after every change, carry out what they want.
//!
//! One task owns the [`World`]. An action that is under way, or that failed and rests, is not started again; one that
//! is no longer wanted is forgotten. Actions are idempotent, so a crash between two of them loses nothing. A look at a
//! workload begins only when the watches have shown what the one before wrote.

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

/// Everything that all controllers want now, and when to ask again though nothing changes.
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
    let looks = world.looks.all().cloned().map(Action::Look);
    let deeds = world.deeds.all().filter_map(|uid| garbage::decide(world, uid)).map(Action::Collect);
    let of_objects = removals.chain(certified).chain(looks).chain(deeds);
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
            event = events.next() => {
                shell.take(event.ok_or(Error::WatchesEnded)?);
                for _ in 1..BATCH_MAX {
                    let Some(event) = events.next().now_or_never() else { break };
                    shell.take(event.ok_or(Error::WatchesEnded)?);
                }
            }
            () = sleep_until(wake_at) => {}
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

struct Shell {
    client: Client,
    signer: Option<Signer>,
    world: World,
    listings: Listings,
    attempts: BTreeMap<Action, Attempt>,
    awaited: BTreeMap<Place, Awaited>,
    /// When to look at a workload though nothing happens.
    wakes: BTreeMap<Place, Instant>,
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
            awaited: BTreeMap::new(),
            wakes: BTreeMap::new(),
            running: JoinSet::new(),
            wake_at: None,
        }
    }

    fn take(&mut self, event: watch::Event) {
        if let (kind, Ok(kube::runtime::watcher::Event::Delete(seen))) = &event
            && kind.is("", "pods")
        {
            // What the action waits for may have happened.
            let namespace = seen.object["metadata"]["namespace"].as_str().unwrap_or_default();
            self.hurry(&Action::EmptyNamespace(namespace.to_owned()));
        }
        self.listings.take(event, &mut self.world);
    }

    fn hurry(&mut self, action: &Action) {
        if let Some(attempt) = self.attempts.get_mut(action) {
            attempt.failures = 0;
            attempt.not_before = Instant::now();
        }
    }

    fn done(&mut self, (action, looked): Done) {
        let (outcome, looked) = match looked {
            Ok(Looked { outcome, written, wake_after }) => (outcome, Some((written, wake_after))),
            Err(error) => (Err(error), None),
        };
        match (&action, &outcome) {
            (Action::CountQuota(count), Ok(())) => resource_quota::counted(&mut self.world, count),
            (Action::TaintNode(tainting), Ok(())) => node_taints::tainted(&mut self.world, tainting, Instant::now()),
            (Action::Certify(task), Ok(())) => certificates::done(&mut self.world, task),
            (Action::Collect(deed), Ok(())) => {
                self.world.deeds.ends(&deed.uid);
                self.attempts.remove(&action);
                return;
            }
            (Action::Look(place), _) => {
                self.looked(place, looked);
                if outcome.is_ok() {
                    self.world.looks.ends(place);
                    self.attempts.remove(&action);
                    return;
                }
            }
            _ => {}
        }
        let Some(attempt) = self.attempts.get_mut(&action) else { return };
        attempt.running = false;
        attempt.failures += 1;
        // A success rests too: its effect has to come back through the watch before it is asked for again.
        attempt.not_before = Instant::now() + backoff(attempt.failures);
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
            self.awaited.insert(place.clone(), Awaited { written, until: now + LAG_MAX });
        }
        match wake_after {
            Some(after) => drop(self.wakes.insert(place.clone(), now + after)),
            None => drop(self.wakes.remove(place)),
        }
    }

    fn start_what_is_wanted(&mut self, now: Instant) {
        if !self.listings.are_complete() {
            return;
        }
        self.world.note_missing_nodes(now);
        node_health::note(&mut self.world, now);
        taint_eviction::note(&mut self.world, now);
        resource_quota::note_polls(&mut self.world, now);
        self.wake_looks(now);
        self.forget_what_is_well();
        let (wanted, wake_at) = decide(&self.world, now, Timestamp::now());
        let mut wakes: Vec<Instant> = wake_at.into_iter().chain(self.wakes.values().copied()).collect();
        self.attempts.retain(|action, attempt| attempt.running || wanted.contains(action));
        for action in wanted {
            let attempt =
                self.attempts.entry(action.clone()).or_insert(Attempt { running: false, failures: 0, not_before: now });
            if attempt.running || self.running.len() >= ACTIONS_MAX {
                continue;
            }
            if attempt.not_before > now {
                wakes.push(attempt.not_before);
                continue;
            }
            match self.prepare(&action, now) {
                Ok(snapshot) => self.start(action, snapshot),
                Err(at) => wakes.push(at),
            }
        }
        self.wake_at = wakes.into_iter().min();
    }

    /// The time has come to look at these again.
    fn wake_looks(&mut self, now: Instant) {
        let due: Vec<Place> = self.wakes.iter().filter(|(_, at)| **at <= now).map(|(place, _)| place.clone()).collect();
        for place in due {
            self.wakes.remove(&place);
            if self.world.uid(&place).is_some() {
                self.world.looks.happened(place);
            }
        }
    }

    /// What happened to most objects does not concern the collector.
    fn forget_what_is_well(&mut self) {
        let world = &self.world;
        let well: Vec<String> =
            world.deeds.all().filter(|uid| garbage::decide(world, uid).is_none()).cloned().collect();
        for uid in well {
            self.world.deeds.begins(&uid);
            self.world.deeds.ends(&uid);
        }
    }

    /// What a look begins with; or, if it has to wait for the watches, until when at most.
    fn prepare(&mut self, action: &Action, now: Instant) -> Result<Snapshot, Instant> {
        match action {
            Action::Collect(deed) => {
                self.world.deeds.begins(&deed.uid);
                Ok(Snapshot::default())
            }
            Action::Look(place) => {
                let mut is_blind = false;
                if let Some(Awaited { written, until }) = self.awaited.get(place) {
                    let is_shown = written.is_shown(&self.world);
                    if !is_shown && *until > now {
                        return Err(*until);
                    }
                    is_blind = !is_shown || written.is_unsure;
                }
                self.awaited.remove(place);
                self.world.looks.begins(place);
                Ok(Snapshot { is_blind, ..workload::snapshot(&self.world, place) })
            }
            _ => Ok(Snapshot::default()),
        }
    }

    fn start(&mut self, action: Action, snapshot: Snapshot) {
        if let Some(attempt) = self.attempts.get_mut(&action) {
            attempt.running = true;
        }
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
