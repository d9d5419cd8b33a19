//! StopPodSandbox: what still runs is killed, the monitor ends, the address is free. Idempotent; unknown is fine (POD-73).

use std::io;
use std::sync::Arc;

use cri::v1::ContainerEventType;
use monitor::wire::{Request, Shutdown};

use crate::core::Core;
use crate::error::Error;
use crate::state::{Phase, Sandbox, Stage};

pub(crate) async fn stop(core: Arc<Core>, id: String) -> Result<(), Error> {
    let Ok(sandbox) = core.state.sandbox(&id) else { return Ok(()) };
    let _verb = sandbox.verbs.lock().await;
    halt(&core, &sandbox).await
}

/// The stop itself, under the sandbox's verb lock.
pub(crate) async fn halt(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    for container in core.state.containers_in(sandbox.id()) {
        if matches!(container.stage(), Stage::Starting | Stage::Running) {
            crate::container::stop::kill(core, &container).await?;
        }
    }
    let link = sandbox.change(|live| {
        let was_ready = std::mem::replace(&mut live.phase, Phase::NotReady) == Phase::Ready;
        (live.link.take(), was_ready)
    });
    let (link, was_ready) = link;
    // The address first: while the monitor lives, the namespace does, and detaching finds its end of the link.
    if !super::is_on_host_network(&sandbox.record.config) {
        let detached = core.network.detach(sandbox.id()).await;
        detached.map_err(|error| Error::step("detach from the network", super::run::report(&error)))?;
    }
    if let Some(link) = link {
        let ended = link.ask(Request::Shutdown(Shutdown { force: true })).await;
        if let Err(failure) = ended {
            tracing::debug!(sandbox = sandbox.id(), %failure, "end the monitor");
        }
    }
    kill_remains(core, sandbox).await?;
    if was_ready {
        core.tell_sandbox(sandbox, ContainerEventType::ContainerStoppedEvent);
    }
    Ok(())
}

/// Kills what a dead sandbox has left, and nothing of another attempt of its pod: it has the same cgroup.
pub(crate) async fn kill_remains(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    let (inner, own) = (core.clone(), sandbox.clone());
    let killed = tokio::task::spawn_blocking(move || kill(&inner, &own)).await;
    let killed = killed.map_err(|error| Error::step("kill what is left", error))?;
    killed.map_err(Error::file("kill cgroup", &sandbox.record.cgroup))
}

fn kill(core: &Core, sandbox: &Sandbox) -> io::Result<()> {
    let (hierarchies, cgroup) = (&core.hierarchies, &sandbox.record.cgroup);
    // Listed before the question: what an attempt that comes now puts here is not on the list.
    let below = hierarchies.children(cgroup);
    if core.state.shares_cgroup(sandbox) {
        let own = core.state.containers_in(sandbox.id());
        return own.iter().try_for_each(|container| hierarchies.kill(&container.cgroup()));
    }
    below.iter().try_for_each(|name| hierarchies.kill(&format!("{cgroup}/{name}")))?;
    hierarchies.kill_alone(cgroup)
}
