//! What every verb shares: the options, the state, the doors to the other rooms, and how a monitor is listened to.
//!
//! Start with [`Core`]. Verbs are functions over `&Arc<Core>` in `sandbox/`, `container/`, `images.rs` and `stats.rs`.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cri::v1::{ContainerEventResponse, ContainerEventType};
use monitor::wire::{Event, Exited, Snapshot, status};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::Hierarchies;
use crate::clock;
use crate::error::Error;
use crate::events::Events;
use crate::figures::Figures;
use crate::gate::Gate;
use crate::handlers::Handlers;
use crate::link::{Link, Listener};
use crate::oci::Machine;
use crate::options::Handler;
use crate::process::Monitors;
use crate::state::{Container, Layout, Phase, Sandbox, Stage, State, lock};
use crate::streaming::Tickets;

/// The runtime's inside.
pub(crate) struct Core {
    pub layout: Layout,
    pub cgroup_top: String,
    pub handlers: Handlers,
    /// Longest time of one command of an OCI runtime.
    pub command_timeout: Duration,
    /// What is known of the handlers.
    pub figures: Figures,
    pub monitors: Monitors,
    pub gate: Gate,
    pub network: network::Network,
    pub images: images::Images,
    pub hierarchies: Hierarchies,
    pub machine: Machine,
    pub state: State,
    pub events: Events,
    /// Promises of streams that nobody has fetched yet.
    pub tickets: Tickets,
    /// Verbs run here, so that a caller who goes away leaves nothing half done.
    pub tasks: TaskTracker,
    pub cancel: CancellationToken,
}

impl Core {
    /// State directory of a handler's OCI runtime.
    pub(crate) fn oci_root(&self, handler: &Handler) -> PathBuf {
        self.layout.run.join("oci").join(&handler.name)
    }

    /// Runs a verb to its end, whether or not its caller waits.
    pub(crate) async fn finish<T: Send + 'static>(
        self: &Arc<Core>,
        verb: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let task = self.tasks.spawn(verb);
        task.await.unwrap_or_else(|error| Err(Error::step("carry out the call", error)))
    }

    /// Tells listeners what happened to a container.
    pub(crate) fn tell(&self, container: &Container, kind: ContainerEventType) {
        tracing::debug!(container = container.id(), event = crate::events::word(kind), "container");
        self.tell_about(container.id(), &container.sandbox, kind);
    }

    /// Tells listeners what happened to a sandbox: its own id stands for the container's.
    pub(crate) fn tell_sandbox(&self, sandbox: &Sandbox, kind: ContainerEventType) {
        tracing::debug!(sandbox = sandbox.id(), event = crate::events::word(kind), "sandbox");
        self.tell_about(sandbox.id(), sandbox, kind);
    }

    fn tell_about(&self, id: &str, sandbox: &Sandbox, kind: ContainerEventType) {
        if !self.events.is_heard() {
            return;
        }
        self.events.send(ContainerEventResponse {
            container_id: id.into(),
            container_event_type: kind as i32,
            created_at: clock::now_nanoseconds(),
            pod_sandbox_status: Some(crate::sandbox::status::of(sandbox)),
            containers_statuses: self.statuses_in(sandbox.id()),
        });
    }

    /// Statuses of the visible containers of a sandbox.
    pub(crate) fn statuses_in(&self, sandbox: &str) -> Vec<cri::v1::ContainerStatus> {
        let inside = self.state.containers_in(sandbox);
        let visible = inside.iter().filter(|container| container.stage() != Stage::Making);
        visible.map(|container| crate::container::status::of(container)).collect()
    }

    /// Connects to a sandbox's monitor and takes its state over.
    pub(crate) async fn listen(self: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<Arc<Link>, Error> {
        let listener = Ear { core: Arc::downgrade(self), sandbox: Arc::downgrade(sandbox) };
        let directory = self.layout.sandbox_run(sandbox.id());
        let link = Link::connect(&directory, Arc::new(listener), &self.tasks).await;
        let link = Arc::new(link.map_err(|failure| Error::step("connect to the monitor", failure))?);
        sandbox.change(|live| {
            live.pid = link.welcome.pid;
            live.pause_pid = link.welcome.pause_pid;
            live.link = Some(link.clone());
        });
        Ok(link)
    }

    /// A container has ended.
    pub(crate) fn ended(&self, container: &Container, exit_code: i32, finished_at: i64, oom: bool) {
        let reason = match (oom, exit_code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        if container.end(exit_code, finished_at, reason, "") {
            self.tell(container, ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// The sandbox is ready, unless its monitor died before anybody could notice.
    pub(crate) async fn declare_ready(self: &Arc<Core>, sandbox: &Arc<Sandbox>) {
        let link = sandbox.change(|live| {
            live.phase = Phase::Ready;
            live.link.clone()
        });
        if link.is_none_or(|link| link.is_ended()) {
            self.clone().bury(sandbox.clone()).await;
        }
    }

    /// The monitor is dead: so is the sandbox, and what still runs in it must not run on unwatched.
    async fn bury(self: Arc<Core>, sandbox: Arc<Sandbox>) {
        let was_ready = sandbox.change(|live| {
            live.link = None;
            std::mem::replace(&mut live.phase, Phase::NotReady) == Phase::Ready
        });
        lock(&sandbox.execs).clear();
        if !was_ready {
            return;
        }
        tracing::warn!(sandbox = sandbox.id(), "the monitor died");
        if let Err(error) = crate::sandbox::stop::kill_remains(&self, &sandbox).await {
            tracing::warn!(sandbox = sandbox.id(), %error, "kill what the monitor left");
        }
        for container in self.state.containers_in(sandbox.id()) {
            self.end_unwatched(&container);
        }
        self.tell_sandbox(&sandbox, ContainerEventType::ContainerStoppedEvent);
    }

    /// Decides the end of a container whose monitor is gone: by its exit record, else 255 `Unknown`.
    pub(crate) fn end_unwatched(&self, container: &Container) {
        if !matches!(container.stage(), Stage::Starting | Stage::Running) {
            return;
        }
        let path = self.layout.container_data(container.id()).join(crate::record::EXIT);
        match monitor::exit::Record::read(&path) {
            Ok(Some(record)) => self.ended(container, record.exit_code, nanoseconds(record.finished_at), record.oom),
            _ => {
                let message = "the sandbox's monitor died";
                if container.end(255, clock::now_nanoseconds(), "Unknown", message) {
                    self.tell(container, ContainerEventType::ContainerStoppedEvent);
                }
            }
        }
    }
}

/// The monitor's time as CRI counts.
pub(crate) fn nanoseconds(since_epoch: u64) -> i64 {
    i64::try_from(since_epoch).unwrap_or(i64::MAX)
}

/// Listens to one monitor. Holds nothing alive.
struct Ear {
    core: Weak<Core>,
    sandbox: Weak<Sandbox>,
}

impl Ear {
    fn container(&self, id: &str) -> Option<(Arc<Core>, Arc<Container>)> {
        let core = self.core.upgrade()?;
        let sandbox = self.sandbox.upgrade()?;
        let container = core.state.containers_in(sandbox.id()).into_iter().find(|container| container.id() == id)?;
        Some((core, container))
    }

    fn exited(&self, exited: &Exited) {
        if let Some((core, container)) = self.container(&exited.container) {
            if container.stage() == Stage::Starting {
                // It was made and never started: the start fails, and says so (POD-37).
                return;
            }
            core.ended(&container, exited.exit_code, nanoseconds(exited.finished_at), exited.oom);
        }
    }
}

impl Listener for Ear {
    fn snapshot(&self, snapshot: &Snapshot) {
        if let Some(sandbox) = self.sandbox.upgrade() {
            // After a broken connection: what ended meanwhile will not be told again, so its waiters give up.
            lock(&sandbox.execs).retain(|name, _| snapshot.execs.iter().any(|running| running.exec == *name));
        }
        for known in &snapshot.containers {
            let Some((core, container)) = self.container(&known.id) else { continue };
            match known.status {
                status::RUNNING => container.change(|live| {
                    if live.stage != Stage::Exited {
                        live.stage = Stage::Running;
                        live.pid = known.pid;
                        live.started_at = nanoseconds(known.started_at);
                    }
                }),
                status::EXITED => {
                    container.change(|live| live.started_at = nanoseconds(known.started_at));
                    core.ended(&container, known.exit_code, nanoseconds(known.finished_at), known.oom);
                }
                _ => {}
            }
        }
    }

    fn event(&self, event: Event) {
        match event {
            Event::Exited(exited) => self.exited(&exited),
            Event::Started(started) => {
                let Some((core, container)) = self.container(&started.container) else { return };
                container.change(|live| {
                    if live.stage == Stage::Starting {
                        live.stage = Stage::Running;
                    }
                    live.pid = started.pid;
                    live.started_at = nanoseconds(started.started_at);
                });
                core.tell(&container, ContainerEventType::ContainerStartedEvent);
            }
            Event::ExecExited(exited) => {
                let waiting = self.sandbox.upgrade().and_then(|sandbox| lock(&sandbox.execs).remove(&exited.exec));
                // Who asked may have gone.
                let _ = waiting.map(|waiting| waiting.send(exited));
            }
            Event::LogReopened(_) | Event::Deleted(_) => {}
        }
    }

    fn closed(&self) {
        let (Some(core), Some(sandbox)) = (self.core.upgrade(), self.sandbox.upgrade()) else { return };
        if sandbox.live().phase != Phase::Ready || core.cancel.is_cancelled() {
            return;
        }
        let tasks = core.tasks.clone();
        tasks.spawn(async move {
            // A reader that was too slow is dropped by a monitor that lives: it is found again at once.
            if core.listen(&sandbox).await.is_err() {
                core.bury(sandbox).await;
            }
        });
    }
}
