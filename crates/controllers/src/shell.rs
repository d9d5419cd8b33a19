//! The shared shell: watch once, ask every controller after every change, carry out what they want.
//!
//! One task owns the [`World`]. An action that is under way, or that failed and rests, is not started again; one that
//! is no longer wanted is forgotten. Actions are idempotent, so a crash between two of them loses nothing.

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

use crate::garbage::Orphan;
use crate::node_taints::Tainting;
use crate::pod_gc::Removal;
use crate::resource_quota::Count;
use crate::view::{
    AccountObject, ConfigMapObject, NamespaceObject, NodeObject, Pod, PodObject, Quota, QuotaObject, ReplicaSetObject,
    ReplicationControllerObject, SetKey, SetKind, TrackedSet, World,
};
use crate::{call, garbage, namespace, node_taints, pod_gc, replica_set, resource_quota, root_ca, service_account};

/// How many actions may be under way at once.
const ACTIONS_MAX: usize = 32;

/// How long one action may take before it is tried anew.
const ACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause after the first failure of an action; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Why the controllers ended before they were told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An action panicked: what it did is not known.
    #[error("an action of a controller panicked")]
    Panicked(#[source] JoinError),
    /// A watch ended for good, which a watch never does.
    #[error("the watch of {0} ended")]
    WatchEnded(&'static str),
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
    /// Bring the taints of a node in line with its conditions.
    TaintNode(Tainting),
    /// Count what a quota has in use.
    CountQuota(Count),
    /// Bring a set of replicas in order.
    LookAtSet(SetKey),
    /// Remove a pod whose set is gone.
    Collect(Orphan),
}

/// Everything that all controllers want now, and when to ask again though nothing changes.
fn decide(world: &World, now: Instant) -> (BTreeSet<Action>, Option<Instant>) {
    let (removals, removal_at) = pod_gc::decide(world, now);
    let (counts, poll_at) = resource_quota::decide(world, now);
    let wake_at = removal_at.into_iter().chain(poll_at).min();
    let accounts = service_account::decide(world).into_iter().map(Action::CreateAccount);
    let published = root_ca::decide(world).into_iter().map(|(namespace, ca)| Action::PublishCa(namespace, ca));
    let namespaces = namespace::decide(world).into_iter().map(Action::EmptyNamespace);
    let taints = node_taints::decide(world).into_iter().map(Action::TaintNode);
    let removals = removals.into_iter().map(Action::RemovePod);
    let counts = counts.into_iter().map(Action::CountQuota);
    let looks = replica_set::decide(world).into_iter().map(Action::LookAtSet);
    let orphans = garbage::decide(world).into_iter().map(Action::Collect);
    let of_pods = removals.chain(looks).chain(orphans);
    (accounts.chain(published).chain(namespaces).chain(taints).chain(counts).chain(of_pods).collect(), wake_at)
}

async fn act(client: &Client, action: &Action) -> Result<(), call::Error> {
    let work = async {
        match action {
            Action::CreateAccount(namespace) => service_account::act(client, namespace).await,
            Action::PublishCa(namespace, ca) => root_ca::act(client, namespace, ca).await,
            Action::EmptyNamespace(namespace) => namespace::act(client, namespace).await,
            Action::RemovePod(removal) => pod_gc::act(client, removal).await,
            Action::TaintNode(tainting) => node_taints::act(client, tainting).await,
            Action::CountQuota(count) => resource_quota::act(client, count).await,
            Action::LookAtSet(key) => replica_set::act(client, key).await,
            Action::Collect(orphan) => garbage::act(client, orphan).await,
        }
    };
    let timed_out = |_| call::Error::TimedOut(ACTION_TIMEOUT.as_secs());
    tokio::time::timeout(ACTION_TIMEOUT, work).await.map_err(timed_out)?
}

/// Runs all controllers until they are cancelled; then finishes the actions under way. `root_ca` is published for pods.
pub async fn run(client: Client, root_ca: Option<String>, cancel: CancellationToken) -> Result<(), Error> {
    let mut namespaces = watch::<NamespaceObject>(&client, Config::default());
    let mut accounts = watch::<AccountObject>(&client, Config::default().fields("metadata.name=default"));
    let mut config_maps = watch::<ConfigMapObject>(&client, Config::default().fields("metadata.name=kube-root-ca.crt"));
    let mut pods = watch::<PodObject>(&client, Config::default());
    let mut nodes = watch::<NodeObject>(&client, Config::default());
    let mut quotas = watch::<QuotaObject>(&client, Config::default());
    let mut sets = watch::<ReplicaSetObject>(&client, Config::default());
    let mut old_sets = watch::<ReplicationControllerObject>(&client, Config::default());
    let mut shell = Shell::new(client);
    shell.world.root_ca = root_ca;
    loop {
        let wake_at = shell.wake_at;
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(done) = shell.running.join_next() => shell.done(done.map_err(Error::Panicked)?),
            event = namespaces.next() => shell.take_namespace(event.ok_or(Error::WatchEnded("namespaces"))?),
            event = accounts.next() => shell.take_account(event.ok_or(Error::WatchEnded("serviceaccounts"))?),
            event = quotas.next() => shell.take_quota(event.ok_or(Error::WatchEnded("resourcequotas"))?),
            event = config_maps.next() => shell.take_config_map(event.ok_or(Error::WatchEnded("configmaps"))?),
            event = sets.next() => shell.take_set(event.ok_or(Error::WatchEnded("replicasets"))?, SetKind::ReplicaSet),
            event = old_sets.next() => {
                shell.take_set(event.ok_or(Error::WatchEnded("replicationcontrollers"))?, SetKind::ReplicationController);
            }
            event = nodes.next() => shell.take_node(event.ok_or(Error::WatchEnded("nodes"))?),
            event = pods.next() => shell.take_pod(event.ok_or(Error::WatchEnded("pods"))?),
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

type Watched<K> = Result<watcher::Event<K>, watcher::Error>;

fn watch<K>(client: &Client, config: Config) -> BoxStream<'static, Watched<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let stream = watcher(Api::<K>::all(client.clone()), config);
    StreamBackoff::new(stream, watcher::DefaultBackoff::default()).boxed()
}

/// What a list has shown so far, between Init and InitDone.
#[derive(Default)]
struct Listing {
    seen: BTreeSet<String>,
    complete: bool,
}

/// A change of one watched kind, by the key that the world has it under.
enum Change<K> {
    Is(String, K),
    IsGone(String),
    /// The list is complete: only these exist.
    AreAll(BTreeSet<String>),
    None,
}

impl Listing {
    /// Turns what a watch says into a change.
    fn take<K: Resource>(&mut self, event: Watched<K>, key: fn(&K) -> Option<&String>) -> Change<K> {
        let key = |object: &K| key(object).cloned().unwrap_or_default();
        match event {
            Ok(watcher::Event::Init) => self.seen.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                self.seen.insert(key(&object));
                return Change::Is(key(&object), object);
            }
            Ok(watcher::Event::Apply(object)) => return Change::Is(key(&object), object),
            Ok(watcher::Event::Delete(object)) => return Change::IsGone(key(&object)),
            Ok(watcher::Event::InitDone) => {
                self.complete = true;
                return Change::AreAll(std::mem::take(&mut self.seen));
            }
            Err(error) => tracing::warn!(error = %chain(&error), "cannot watch"),
        }
        Change::None
    }
}

/// An action that is under way or rests after a failure.
struct Attempt {
    running: bool,
    failures: u32,
    not_before: Instant,
}

type Done = (Action, Result<(), call::Error>);

struct Shell {
    client: Client,
    world: World,
    namespaces: Listing,
    accounts: Listing,
    config_maps: Listing,
    pods: Listing,
    nodes: Listing,
    quotas: Listing,
    sets: BTreeMap<SetKind, Listing>,
    attempts: BTreeMap<Action, Attempt>,
    running: JoinSet<Done>,
    wake_at: Option<Instant>,
}

impl Shell {
    fn new(client: Client) -> Shell {
        Shell {
            client,
            world: World::default(),
            namespaces: Listing::default(),
            accounts: Listing::default(),
            config_maps: Listing::default(),
            pods: Listing::default(),
            nodes: Listing::default(),
            quotas: Listing::default(),
            sets: [SetKind::ReplicaSet, SetKind::ReplicationController].map(|kind| (kind, Listing::default())).into(),
            attempts: BTreeMap::new(),
            running: JoinSet::new(),
            wake_at: None,
        }
    }

    fn take_namespace(&mut self, event: Watched<NamespaceObject>) {
        let known = &mut self.world.namespaces;
        match self.namespaces.take(event, |object| object.meta().name.as_ref()) {
            Change::Is(name, object) => drop(known.insert(name, object.into())),
            Change::IsGone(name) => drop(known.remove(&name)),
            Change::AreAll(names) => known.retain(|name, _| names.contains(name)),
            Change::None => {}
        }
    }

    fn take_account(&mut self, event: Watched<AccountObject>) {
        let known = &mut self.world.with_default_account;
        match self.accounts.take(event, |object| object.meta().namespace.as_ref()) {
            Change::Is(namespace, object) if object.meta().name.as_deref() == Some("default") => {
                known.insert(namespace);
            }
            Change::IsGone(namespace) => {
                known.remove(&namespace);
            }
            Change::AreAll(namespaces) => known.retain(|namespace| namespaces.contains(namespace)),
            Change::Is(..) | Change::None => {}
        }
    }

    fn take_config_map(&mut self, event: Watched<ConfigMapObject>) {
        let known = &mut self.world.published_ca;
        match self.config_maps.take(event, |object| object.meta().namespace.as_ref()) {
            Change::Is(namespace, mut object) if object.meta().name.as_deref() == Some(root_ca::NAME) => {
                known.insert(namespace, object.data.remove(root_ca::KEY).unwrap_or_default());
            }
            Change::IsGone(namespace) => drop(known.remove(&namespace)),
            Change::AreAll(namespaces) => known.retain(|namespace, _| namespaces.contains(namespace)),
            Change::Is(..) | Change::None => {}
        }
    }

    fn take_node(&mut self, event: Watched<NodeObject>) {
        let known = &mut self.world.nodes;
        match self.nodes.take(event, |object| object.meta().name.as_ref()) {
            Change::Is(name, object) => drop(known.insert(name, object.into())),
            Change::IsGone(name) => drop(known.remove(&name)),
            Change::AreAll(names) => known.retain(|name, _| names.contains(name)),
            Change::None => {}
        }
    }

    fn take_set<K: Resource>(&mut self, event: Watched<K>, kind: SetKind) {
        let known = &mut self.world.sets;
        let listing = self.sets.entry(kind).or_default();
        match listing.take(event, |object: &K| object.meta().uid.as_ref()) {
            Change::Is(uid, object) => {
                let meta = object.meta();
                let namespace = meta.namespace.clone().unwrap_or_default();
                let key = SetKey { kind, namespace, name: meta.name.clone().unwrap_or_default() };
                let fresh = || TrackedSet { uid: uid.clone(), happened: 0, looking: 0, seen: 0 };
                let set = known.entry(key).or_insert_with(fresh);
                set.happened += 1;
                set.uid = uid;
            }
            Change::IsGone(uid) => known.retain(|_, set| set.uid != uid),
            Change::AreAll(uids) => known.retain(|key, set| key.kind != kind || uids.contains(&set.uid)),
            Change::None => {}
        }
    }

    fn take_quota(&mut self, event: Watched<QuotaObject>) {
        let known = &mut self.world.quotas;
        match self.quotas.take(event, |object| object.meta().uid.as_ref()) {
            Change::Is(uid, object) => {
                let of_others = object.is_of_others();
                let meta = object.meta();
                let at = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
                let fresh =
                    || Quota { uid: uid.clone(), happened: 0, counted: 0, of_others, polled_at: Instant::now() };
                let quota = known.entry(at).or_insert_with(fresh);
                // Also what it says itself may be wrong now: a new limit, or a charge for what was never stored.
                quota.happened += 1;
                (quota.of_others, quota.uid) = (of_others, uid);
            }
            Change::IsGone(uid) => known.retain(|_, quota| quota.uid != uid),
            Change::AreAll(uids) => known.retain(|_, quota| uids.contains(&quota.uid)),
            Change::None => {}
        }
    }

    fn take_pod(&mut self, event: Watched<PodObject>) {
        let known = &mut self.world.pods;
        match self.pods.take(event, |object| object.meta().uid.as_ref()) {
            Change::Is(uid, object) => {
                let pod = Pod::from(object);
                let (namespace, finished) = (pod.namespace.clone(), pod.finished);
                let owner = pod.owner.as_ref().map(|owner| owner.uid.clone());
                let before = known.get(&uid).and_then(|pod| pod.owner.as_ref()).map(|owner| owner.uid.clone());
                if known.insert(uid, pod).is_none_or(|before| before.finished != finished) {
                    self.world.note_usage(&namespace);
                }
                self.world.note_pod(&namespace, owner.as_deref());
                if before.is_some() && before != owner {
                    self.world.note_pod(&namespace, before.as_deref());
                }
            }
            Change::IsGone(uid) => {
                if let Some(pod) = known.remove(&uid) {
                    self.world.note_usage(&pod.namespace);
                    if let Some(owner) = &pod.owner {
                        self.world.note_pod(&pod.namespace, Some(&owner.uid));
                    }
                    self.hurry(&Action::EmptyNamespace(pod.namespace));
                }
            }
            Change::AreAll(uids) => {
                known.retain(|uid, _| uids.contains(uid));
                // What went while nobody watched is not told one by one.
                self.world.sets.values_mut().for_each(|set| set.happened += 1);
            }
            Change::None => {}
        }
    }

    /// What the action waits for may have happened.
    fn hurry(&mut self, action: &Action) {
        if let Some(attempt) = self.attempts.get_mut(action) {
            attempt.failures = 0;
            attempt.not_before = Instant::now();
        }
    }

    fn done(&mut self, (action, outcome): Done) {
        if let (Action::CountQuota(count), Ok(())) = (&action, &outcome) {
            resource_quota::counted(&mut self.world, count);
        }
        if let (Action::LookAtSet(key), Ok(())) = (&action, &outcome) {
            replica_set::look_ends(&mut self.world, key);
            // A look reads the API itself, so the next one has nothing to wait for.
            self.attempts.remove(&action);
            return;
        }
        let Some(attempt) = self.attempts.get_mut(&action) else { return };
        attempt.running = false;
        attempt.failures += 1;
        // A success rests too: its effect has to come back through the watch before it is asked for again.
        attempt.not_before = Instant::now() + backoff(attempt.failures);
        match outcome {
            Ok(()) => tracing::debug!(?action, "done"),
            Err(error @ call::Error::Remaining(_)) => tracing::debug!(?action, %error, "waiting"),
            Err(error) => tracing::warn!(?action, error = %chain(&error), "an action failed, it will be tried again"),
        }
    }

    fn start_what_is_wanted(&mut self, now: Instant) {
        let listings = [&self.namespaces, &self.accounts, &self.config_maps, &self.pods, &self.nodes, &self.quotas];
        if !listings.into_iter().chain(self.sets.values()).all(|listing| listing.complete) {
            return;
        }
        self.world.note_missing_nodes(now);
        resource_quota::note_polls(&mut self.world, now);
        let (wanted, mut wake_at) = decide(&self.world, now);
        self.attempts.retain(|action, attempt| attempt.running || wanted.contains(action));
        for action in wanted {
            let attempt =
                self.attempts.entry(action.clone()).or_insert(Attempt { running: false, failures: 0, not_before: now });
            if attempt.running || self.running.len() >= ACTIONS_MAX {
                continue;
            }
            if attempt.not_before > now {
                wake_at = Some(wake_at.map_or(attempt.not_before, |at| at.min(attempt.not_before)));
                continue;
            }
            attempt.running = true;
            if let Action::LookAtSet(key) = &action {
                replica_set::look_begins(&mut self.world, key);
            }
            let client = self.client.clone();
            self.running.spawn(async move {
                let outcome = act(&client, &action).await;
                (action, outcome)
            });
        }
        self.wake_at = wake_at;
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |line, source| format!("{line}: {source}"))
}
