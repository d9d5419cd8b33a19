//! RemovePodSandbox: stops what runs, removes the containers, then every trace. Unknown is fine.

use std::sync::Arc;

use cri::v1::ContainerEventType;

use crate::core::Core;
use crate::error::Error;
use crate::rootfs;
use crate::state::Sandbox;

pub(crate) async fn remove(core: Arc<Core>, id: String) -> Result<(), Error> {
    let Ok(sandbox) = core.state.sandbox(&id) else { return Ok(()) };
    let _verb = sandbox.verbs.lock().await;
    unmake(&core, &sandbox).await?;
    core.state.forget_sandbox(sandbox.id());
    core.tell_sandbox(&sandbox, ContainerEventType::ContainerDeletedEvent);
    Ok(())
}

/// Takes everything of a sandbox away, whatever of it exists. The record goes last, so that it can be repeated.
pub(crate) async fn unmake(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    super::stop::halt(core, sandbox).await?;
    for container in core.state.containers_in(sandbox.id()) {
        // One that is just being made comes to its end first, so that nothing is mounted behind our back.
        let _verb = container.verbs.lock().await;
        crate::container::remove::unmake(core, &container).await?;
    }
    let (core, sandbox) = (core.clone(), sandbox.clone());
    let erased = tokio::task::spawn_blocking(move || erase(&core, &sandbox)).await;
    erased.map_err(|error| Error::step("remove the sandbox", error))?
}

fn erase(core: &Core, sandbox: &Sandbox) -> Result<(), Error> {
    // The last one of a pod takes it away: another attempt may live there.
    if sandbox.record.own_cgroup && !core.state.shares_cgroup(sandbox) {
        let cgroup = &sandbox.record.cgroup;
        core.hierarchies.remove(cgroup).map_err(Error::file("remove cgroup", cgroup))?;
    }
    rootfs::remove_tree(&core.layout.sandbox_run(sandbox.id()), &["shm"])?;
    rootfs::remove_tree(&core.layout.sandbox_data(sandbox.id()), &[])
}
