//! A scripted runtime: sandboxes and containers that live in memory and on tokio's clock.
//!
//! Owns a faithful state machine of the CRI's contracts, the log of every call, and the faults that a test injects.
//! Must not touch the machine. Start with [`Fake::new`], hand [`Fake::client`] to the code under test, then read
//! [`Fake::calls`]. Everything works under paused time.

mod call;
mod script;
mod serve;
mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use call::{Call, Recorded, Verb};
pub use script::{Effect, Exec, ExecOutcome, Fault, OnStop, Program};
use world::World;

use crate::Client;
use crate::v1::{ContainerEventResponse, ContainerStatus, PodSandboxStatus, RuntimeHandler};

/// Events that a slow reader may lag behind before its stream ends.
const EVENTS_MAX: usize = 4096;

/// A runtime that does what it is told. Clones share the same world.
#[derive(Clone)]
pub struct Fake {
    shared: Arc<Shared>,
    /// Ends containers when their time comes; stops with the last clone.
    _driver: Arc<JoinSet<()>>,
}

pub(crate) struct Shared {
    world: Mutex<World>,
    /// Grows with every change of the world.
    version: watch::Sender<u64>,
    events: broadcast::Sender<ContainerEventResponse>,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake::new()
    }
}

impl Fake {
    /// An empty world in which every pull, start and command succeeds. Needs a tokio runtime.
    pub fn new() -> Fake {
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(Instant::now())),
            version: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENTS_MAX),
        });
        let mut driver = JoinSet::new();
        driver.spawn(drive(Arc::downgrade(&shared), shared.version.subscribe()));
        Fake { shared, _driver: Arc::new(driver) }
    }

    /// A client whose transport is this fake.
    pub fn client(&self) -> Client {
        crate::in_process(serve::Service(self.shared.clone()), serve::Service(self.shared.clone()))
    }

    /// Every call so far, in the order of arrival.
    pub fn calls(&self) -> Vec<Recorded> {
        self.shared.world().calls.clone()
    }

    /// The calls of one verb, in the order of arrival.
    pub fn calls_of(&self, verb: Verb) -> Vec<Recorded> {
        self.shared.world().calls.iter().filter(|recorded| recorded.call.verb() == verb).cloned().collect()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.shared.world().calls.clear();
    }

    /// What the caller did that no caller may do: creating in a dead sandbox, creating a name twice, starting twice.
    pub fn violations(&self) -> Vec<String> {
        self.shared.world().violations.clone()
    }

    /// Arms a fault. Faults are tried in the order of arming; each matches `times` calls.
    pub fn inject(&self, fault: Fault) {
        self.shared.change(|world| world.faults.push(fault));
    }

    /// Disarms every fault. Calls that hang stay hung.
    pub fn heal(&self) {
        self.shared.change(|world| world.faults.clear());
    }

    /// What containers of this name (or, if no program has the name, of this image) do when started from now on.
    pub fn program(&self, name_or_image: &str, program: Program) {
        self.shared.change(|world| world.programs.insert(name_or_image.to_owned(), program));
    }

    /// Answers ExecSync from now on. The default answers exit code 0 at once and no output.
    pub fn on_exec(&self, answer: impl Fn(&Exec) -> ExecOutcome + Send + Sync + 'static) {
        self.shared.change(|world| world.exec = Arc::new(answer));
    }

    /// Puts an image into the store, as if it had been pulled. Returns its id.
    pub fn add_image(&self, reference: &str) -> String {
        self.shared.change(|world| world.pull(reference).id)
    }

    /// Handlers that Status lists. RunPodSandbox refuses others; "" is always accepted.
    pub fn set_handlers(&self, handlers: Vec<RuntimeHandler>) {
        self.shared.change(|world| world.handlers = handlers);
    }

    /// Sets a condition of Status (`RuntimeReady`, `NetworkReady`).
    pub fn set_condition(&self, kind: &str, status: bool, reason: &str, message: &str) {
        self.shared.change(|world| world.set_condition(kind, status, reason, message));
    }

    /// Whether GetContainerEvents is carried (it is by default); else it answers Unimplemented as old runtimes do.
    pub fn set_events(&self, carried: bool) {
        self.shared.change(|world| world.events_carried = carried);
    }

    /// The address that Exec, Attach and PortForward return. A path and a token are appended.
    pub fn set_streaming_url(&self, base: &str) {
        self.shared.change(|world| world.streaming_url = base.to_owned());
    }

    /// The statuses of all sandboxes, oldest first.
    pub fn sandboxes(&self) -> Vec<PodSandboxStatus> {
        self.shared.world().sandboxes.values().map(|sandbox| sandbox.status.clone()).collect()
    }

    /// The statuses of all containers, oldest first.
    pub fn containers(&self) -> Vec<ContainerStatus> {
        self.shared.world().containers.values().map(|container| container.status.clone()).collect()
    }

    /// Signals that a container was sent, with the time since the fake's birth.
    pub fn signals(&self, container_id: &str) -> Vec<(Duration, i32)> {
        self.shared.world().containers.get(container_id).map(|c| c.signals.clone()).unwrap_or_default()
    }

    /// Ends a running container by its id or name, at once.
    pub fn exit(&self, id_or_name: &str, code: i32) {
        self.shared.change(|world| world.exit(id_or_name, code, ""));
    }

    /// Ends a running container by its id or name as the kernel does when memory runs out (137, `OOMKilled`).
    pub fn oom_kill(&self, id_or_name: &str) {
        self.shared.change(|world| world.exit(id_or_name, 137, "OOMKilled"));
    }

    /// A sandbox dies: NotReady, its running containers end with 255 `Unknown`.
    pub fn kill_sandbox(&self, id: &str) {
        self.shared.change(|world| world.kill_sandbox(id));
    }

    /// Waits until a condition of the world's calls holds. Wakes with every call and every change.
    pub async fn until(&self, mut holds: impl FnMut(&Fake) -> bool) {
        let mut version = self.shared.version.subscribe();
        while !holds(self) {
            if version.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the world, then tells everybody who waits for it.
    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let (answer, events) = {
            let mut world = self.world();
            world.settle(Instant::now());
            let answer = change(&mut world);
            world.settle(Instant::now());
            (answer, std::mem::take(&mut world.outbox))
        };
        for event in events {
            // Nobody listening is no error.
            let _ = self.events.send(event);
        }
        self.version.send_modify(|version| *version += 1);
        answer
    }
}

/// Ends containers at their time.
async fn drive(shared: std::sync::Weak<Shared>, mut version: watch::Receiver<u64>) {
    loop {
        let Some(due) = shared.upgrade().map(|shared| shared.world().next_due()) else { return };
        let changed = match due {
            None => version.changed().await,
            Some(due) => tokio::select! {
                changed = version.changed() => changed,
                () = tokio::time::sleep_until(due) => {
                    let Some(shared) = shared.upgrade() else { return };
                    shared.change(|_| ());
                    Ok(())
                }
            },
        };
        if changed.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
