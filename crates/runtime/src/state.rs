//! What the runtime knows of its sandboxes and containers, in memory.
//!
//! Owns the two maps and the live part of each thing. Lists are answered from here. Locks are short and never held
//! across an await; whoever changes a live part goes through [`Container::change`], so that waiters wake.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use monitor::wire::ExecExited;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::error::Error;
use crate::link::Link;
use crate::oci::user::Identity;
use crate::record::{ContainerRecord, SandboxRecord};

/// A pod sandbox.
pub(crate) struct Sandbox {
    pub record: SandboxRecord,
    live: Mutex<SandboxLive>,
    /// One life-cycle verb at a time: run, stop, remove.
    pub verbs: tokio::sync::Mutex<()>,
    /// Who waits for the end of an exec'd process, by its name.
    pub execs: Mutex<HashMap<String, oneshot::Sender<ExecExited>>>,
}

/// The part of a sandbox that changes.
#[derive(Clone, Default)]
pub(crate) struct SandboxLive {
    /// Where it stands.
    pub phase: Phase,
    /// The monitor's pid, while it lives.
    pub pid: u32,
    /// First process of the shared PID namespace; 0 without one.
    pub pause_pid: u32,
    /// Addresses on the pod network.
    pub ips: Vec<IpAddr>,
    /// The monitor's connection.
    pub link: Option<Arc<Link>>,
}

/// Where a sandbox stands.
///
/// ```text
/// Making ──► Ready ──stop, or the monitor dies──► NotReady
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not visible yet.
    #[default]
    Making,
    /// Its monitor lives.
    Ready,
    /// Stopped or dead.
    NotReady,
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord) -> Sandbox {
        Sandbox { record, live: Mutex::default(), verbs: tokio::sync::Mutex::default(), execs: Mutex::default() }
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    /// A copy of the live part.
    pub(crate) fn live(&self) -> SandboxLive {
        lock(&self.live).clone()
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut SandboxLive) -> T) -> T {
        change(&mut lock(&self.live))
    }

    /// Whether this is its cgroup.
    fn is_in(&self, cgroup: &str) -> bool {
        self.record.cgroup.trim_matches('/') == cgroup.trim_matches('/')
    }

    /// The monitor, or why there is none.
    pub(crate) fn link(&self) -> Result<Arc<Link>, Error> {
        let live = lock(&self.live);
        match (&live.link, live.phase) {
            (Some(link), Phase::Ready | Phase::Making) => Ok(link.clone()),
            _ => Err(Error::WrongState(format!("sandbox {} is not ready", self.record.id))),
        }
    }
}

/// A container.
pub(crate) struct Container {
    pub record: ContainerRecord,
    pub sandbox: Arc<Sandbox>,
    live: watch::Sender<Live>,
    /// One life-cycle verb at a time: start, remove. Stops are not among them: they overlap (POD-74).
    pub verbs: tokio::sync::Mutex<()>,
    /// The stop in progress.
    pub stop: watch::Sender<Stop>,
    /// Its claims on the layers of its image and of its image volumes, which it has mounted.
    _layers: Vec<images::Hold>,
    /// Who its first process is, once that was decided.
    identity: OnceLock<Identity>,
    /// The last reading of its CPU time: when and how much, for the rate.
    pub last_cpu: Mutex<Option<(i64, u64)>>,
}

/// The part of a container that changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Live {
    /// Where it stands.
    pub stage: Stage,
    /// First process; 0 before the start.
    pub pid: u32,
    /// Nanoseconds since 1970; 0 if not yet.
    pub started_at: i64,
    /// Nanoseconds since 1970; 0 if not yet.
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// Limits in force, if they were changed after creation.
    pub resources: Option<cri::v1::LinuxContainerResources>,
}

/// Where a container stands.
///
/// ```text
/// Making ──► Created ──► Starting ──► Running ──► Exited
///                            └── cannot start ──────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not visible yet.
    #[default]
    Making,
    Created,
    /// The OCI runtime is at it.
    Starting,
    Running,
    Exited,
}

/// A stop in progress.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stop {
    /// The stop signal was sent; it is never sent twice.
    pub is_signalled: bool,
    /// When SIGKILL follows: the earliest that anybody asked for.
    pub deadline: Option<Instant>,
}

impl Container {
    pub(crate) fn new(
        record: ContainerRecord,
        sandbox: Arc<Sandbox>,
        stage: Stage,
        layers: Vec<images::Hold>,
    ) -> Container {
        Container {
            record,
            sandbox,
            _layers: layers,
            live: watch::Sender::new(Live { stage, ..Live::default() }),
            verbs: tokio::sync::Mutex::default(),
            stop: watch::Sender::default(),
            identity: OnceLock::new(),
            last_cpu: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    pub(crate) fn live(&self) -> Live {
        self.live.borrow().clone()
    }

    /// Who its first process is; None for containers of versions that did not keep it.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.get()
    }

    /// Sets who its first process is, once.
    pub(crate) fn recall(&self, identity: Identity) {
        let _ = self.identity.set(identity);
    }

    pub(crate) fn stage(&self) -> Stage {
        self.live.borrow().stage
    }

    /// Waits until the container's stage is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(Stage) -> bool) {
        // The sender is ours, so the wait cannot fail; the reference must not live on across awaits.
        let _ = self.live.subscribe().wait_for(|live| wanted(live.stage)).await.map(drop);
    }

    /// Changes the live part. An exited container never changes its end.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Live)) {
        self.live.send_modify(change);
    }

    /// Sets the end, once. Returns whether this call did.
    pub(crate) fn end(&self, exit_code: i32, finished_at: i64, reason: &str, message: &str) -> bool {
        self.live.send_if_modified(|live| {
            if live.stage == Stage::Exited {
                return false;
            }
            live.stage = Stage::Exited;
            live.exit_code = exit_code;
            live.finished_at = finished_at;
            live.reason = reason.into();
            live.message = message.into();
            true
        })
    }

    /// The container's cgroup.
    pub(crate) fn cgroup(&self) -> String {
        format!("{}/{}", self.sandbox.record.cgroup, self.record.id)
    }
}

/// All sandboxes and containers by id.
#[derive(Default)]
pub(crate) struct State {
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
}

impl State {
    /// A sandbox by id or by the unambiguous beginning of one.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        let found = by_prefix(&lock(&self.sandboxes), id);
        found.ok_or_else(|| Error::NoSandbox(id.into()))
    }

    /// A container by id or by the unambiguous beginning of one.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        let found = by_prefix(&lock(&self.containers), id).filter(|container| container.stage() != Stage::Making);
        found.ok_or_else(|| Error::NoContainer(id.into()))
    }

    /// Sandboxes that are visible.
    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        let all: Vec<_> = lock(&self.sandboxes).values().cloned().collect();
        all.into_iter().filter(|sandbox| sandbox.live().phase != Phase::Making).collect()
    }

    /// All sandboxes, those in the making too.
    pub(crate) fn sandboxes_all(&self) -> Vec<Arc<Sandbox>> {
        lock(&self.sandboxes).values().cloned().collect()
    }

    /// Containers that are visible.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        let all: Vec<_> = lock(&self.containers).values().cloned().collect();
        all.into_iter().filter(|container| container.stage() != Stage::Making).collect()
    }

    /// All containers of a sandbox, those in the making too.
    pub(crate) fn containers_in(&self, sandbox: &str) -> Vec<Arc<Container>> {
        lock(&self.containers).values().filter(|container| container.record.sandbox == sandbox).cloned().collect()
    }

    /// Takes a sandbox in. The name (uid, name, namespace, attempt) must be free.
    pub(crate) fn insert_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let mut all = lock(&self.sandboxes);
        let metadata = &sandbox.record.config.metadata;
        if let Some(twin) = all.values().find(|other| other.record.config.metadata == *metadata) {
            return Err(Error::Exists(format!("sandbox {} has this name and attempt already", twin.id())));
        }
        all.insert(sandbox.record.id.clone(), sandbox.clone());
        Ok(())
    }

    /// Whether another sandbox that is not dead has the same cgroup: the attempts of a pod share the node's.
    pub(crate) fn shares_cgroup(&self, sandbox: &Sandbox) -> bool {
        let others = self.sandboxes_all().into_iter().filter(|other| other.id() != sandbox.id());
        others.filter(|other| other.live().phase != Phase::NotReady).any(|other| other.is_in(&sandbox.record.cgroup))
    }

    /// Whether any sandbox has this cgroup.
    pub(crate) fn has_cgroup(&self, path: &str) -> bool {
        self.sandboxes_all().iter().any(|sandbox| sandbox.is_in(path))
    }

    /// Takes a container in. The name and attempt must be free within its sandbox.
    pub(crate) fn insert_container(&self, container: &Arc<Container>) -> Result<(), Error> {
        let mut all = lock(&self.containers);
        let (sandbox, metadata) = (&container.record.sandbox, &container.record.config.metadata);
        let is_twin =
            |other: &&Arc<Container>| other.record.sandbox == *sandbox && other.record.config.metadata == *metadata;
        if let Some(twin) = all.values().find(is_twin) {
            return Err(Error::Exists(format!("container {} has this name and attempt already", twin.id())));
        }
        all.insert(container.record.id.clone(), container.clone());
        Ok(())
    }

    pub(crate) fn forget_sandbox(&self, id: &str) {
        lock(&self.sandboxes).remove(id);
    }

    pub(crate) fn forget_container(&self, id: &str) -> bool {
        lock(&self.containers).remove(id).is_some()
    }
}

/// Where the parts of sandboxes and containers lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub data: PathBuf,
    pub run: PathBuf,
}

impl Layout {
    pub(crate) fn sandbox_data(&self, id: &str) -> PathBuf {
        self.data.join("runtime/sandboxes").join(id)
    }

    pub(crate) fn sandbox_run(&self, id: &str) -> PathBuf {
        self.run.join("sandboxes").join(id)
    }

    pub(crate) fn container_data(&self, id: &str) -> PathBuf {
        self.data.join("runtime/containers").join(id)
    }

    pub(crate) fn container_run(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }
}

fn by_prefix<T>(map: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if id.is_empty() {
        return None;
    }
    let mut from = map.range(id.to_owned()..).take_while(|(known, _)| known.starts_with(id));
    match (from.next(), from.next()) {
        (Some((known, found)), second) if known == id || second.is_none() => Some(found.clone()),
        _ => None,
    }
}

/// A lock whose holder panicked still guards plain data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new id: 64 hex digits.
pub(crate) fn fresh_id() -> Result<String, Error> {
    let mut bytes = [0_u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], flags).map_err(|error| Error::step("draw an id", error))?;
    }
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_finds_its_only_owner() {
        let map: BTreeMap<String, Arc<u8>> =
            [("ab1", 1), ("ab2", 2), ("c", 3), ("cd", 4)].map(|(id, n)| (id.to_owned(), Arc::new(n))).into();
        let check = |id: &str| by_prefix(&map, id).map(|found| *found);
        assert_eq!(check("ab"), None);
        assert_eq!(check("ab2"), Some(2));
        assert_eq!(check("c"), Some(3));
        assert_eq!(check("x"), None);
        assert_eq!(check(""), None);
    }
}
