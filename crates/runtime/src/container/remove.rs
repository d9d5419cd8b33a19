//! RemoveContainer: kills what runs, then takes every trace away. Unknown is fine.

use std::io;
use std::sync::Arc;

use cri::v1::ContainerEventType;
use monitor::wire::{Delete, Request};

use crate::core::Core;
use crate::error::Error;
use crate::state::{Container, Stage};
use crate::{rootfs, startup};

pub(crate) async fn remove(core: Arc<Core>, id: String) -> Result<(), Error> {
    let Ok(container) = core.state.container(&id) else { return Ok(()) };
    let _verb = container.verbs.lock().await;
    unmake(&core, &container).await
}

/// Takes everything of a container away, whatever of it exists. The record goes last, so that it can be repeated.
pub(crate) async fn unmake(core: &Arc<Core>, container: &Arc<Container>) -> Result<(), Error> {
    if container.stage() == Stage::Running {
        super::stop::kill(core, container).await?;
    }
    if let Ok(link) = container.sandbox.link() {
        let delete = Delete { container: container.record.id.clone(), forget: true, ..Delete::default() };
        if let Err(failure) = link.ask(Request::Delete(delete)).await {
            // An OCI runtime that fails, or is gone, must not keep a pod for ever: what is left goes below.
            let handler = container.sandbox.record.handler_name();
            tracing::warn!(container = container.id(), handler, %failure, "delete the container");
        }
    }
    let (inner, own) = (core.clone(), container.clone());
    let erased = tokio::task::spawn_blocking(move || erase(&inner, &own)).await;
    erased.map_err(|error| Error::step("remove the container", error))??;
    let was_visible = container.stage() != Stage::Making;
    if core.state.forget_container(container.id()) && was_visible {
        core.tell(container, ContainerEventType::ContainerDeletedEvent);
    }
    Ok(())
}

fn erase(core: &Core, container: &Container) -> Result<(), Error> {
    let record = &container.record;
    wipe(core, container)?;
    rootfs::remove_bundle(&core.layout.container_run(&record.id))?;
    rootfs::remove_tree(&core.layout.container_data(&record.id), &[])
}

/// Takes away what an OCI runtime keeps of a container: state, processes, cgroup. Blocks.
pub(super) fn wipe(core: &Core, container: &Container) -> Result<(), Error> {
    let (record, sandbox) = (&container.record, &container.sandbox.record);
    let cgroup = container.cgroup();
    core.hierarchies.kill(&cgroup).map_err(Error::file("kill cgroup", &cgroup))?;
    let state = sandbox.root.join(&record.id);
    if state.exists() && sandbox.binary.exists() {
        // The monitor is gone, or its own try failed.
        if let Err(error) = forget_in_oci(core, container) {
            tracing::warn!(container = container.id(), handler = sandbox.handler_name(), %error, "delete the container");
        }
    }
    core.hierarchies.remove(&cgroup).map_err(Error::file("remove cgroup", &cgroup))?;
    for left in startup::names(&sandbox.root).into_iter().filter(|name| name.starts_with(&record.id)) {
        rootfs::remove_tree(&sandbox.root.join(left), &[])?;
    }
    Ok(())
}

/// `delete --force` without a monitor.
fn forget_in_oci(core: &Core, container: &Container) -> io::Result<()> {
    let sandbox = &container.sandbox.record;
    let mut arguments = vec!["--root".into(), sandbox.root.clone().into_os_string()];
    arguments.extend(sandbox.arguments.iter().map(Into::into));
    arguments.extend(["delete".into(), "--force".into(), container.record.id.clone().into()]);
    crate::process::run(sandbox.binary.as_os_str(), &arguments, core.command_timeout).map(|_| ())
}
