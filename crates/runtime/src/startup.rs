//! What the runtime does first: it finds what an earlier one left, takes over what lives and sweeps the rest.
//!
//! A sandbox whose monitor answers goes on. One whose monitor is dead is NotReady and its processes are killed.
//! What was only half made, or has no readable record, is removed: directories, mounts, cgroups, links.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use monitor::exit::Record;
use monitor::wire::{Request, Shutdown};

use crate::core::{Core, nanoseconds};
use crate::error::Error;
use crate::record::{self, ContainerRecord, EXIT, FAILURE, IDENTITY, SIGNALLED, SandboxRecord};
use crate::rootfs;
use crate::state::{Container, Phase, Sandbox, Stage};

/// Takes over. Sandboxes first, because containers belong to them. The word of a monitor that answers counts.
pub(crate) async fn take_over(core: &Arc<Core>) -> Result<(), Error> {
    for id in names(&core.layout.sandbox_data("")) {
        match record::load::<SandboxRecord>(&core.layout.sandbox_data(&id)) {
            Some(record) => find(core, record).await?,
            None => tracing::info!(sandbox = %id, "a sandbox was half made"),
        }
    }
    let mut dead = Vec::new();
    for sandbox in core.state.sandboxes_all() {
        if let Err(error) = core.listen(&sandbox).await {
            tracing::info!(sandbox = sandbox.id(), %error, "the monitor is gone");
            sandbox.change(|live| live.phase = Phase::NotReady);
            dead.push(sandbox);
            continue;
        }
        let ips = core.network.attachment(sandbox.id()).await.map(|attachment| attachment.ips);
        sandbox.change(|live| live.ips = ips.unwrap_or_default());
        core.declare_ready(&sandbox).await;
    }
    // Once it is known who lives: the attempts of a pod share a cgroup.
    for sandbox in dead {
        settle(core, &sandbox).await?;
    }
    sweep(core).await
}

/// Enters a sandbox and its containers as they are on disk.
async fn find(core: &Arc<Core>, record: SandboxRecord) -> Result<(), Error> {
    let sandbox = Arc::new(Sandbox::new(record));
    core.state.insert_sandbox(&sandbox)?;
    for id in names(&core.layout.container_data("")) {
        let data = core.layout.container_data(&id);
        let Some(record) = record::load::<ContainerRecord>(&data) else { continue };
        if record.sandbox != sandbox.id() {
            continue;
        }
        let images = std::iter::once(&record.image_id).chain(&record.volume_images);
        let images = images.filter_map(|id| core.images.resolve(id));
        let layers = images.map(|image| core.images.hold(&image)).collect();
        let container = Arc::new(Container::new(record, sandbox.clone(), Stage::Created, layers));
        recall(&container, &data);
        core.state.insert_container(&container)?;
    }
    Ok(())
}

/// Who a container is, whether it was told to stop, and its end if that is on record.
fn recall(container: &Container, data: &Path) {
    if let Some(identity) = fs::read(data.join(IDENTITY)).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
        container.recall(identity);
    }
    let is_signalled = data.join(SIGNALLED).exists();
    container.stop.send_modify(|stop| stop.is_signalled = is_signalled);
    let Ok(Some(exit)) = Record::read(&data.join(EXIT)) else { return };
    container.change(|live| live.started_at = nanoseconds(exit.started_at));
    let failure = fs::read_to_string(data.join(FAILURE)).ok();
    let reason = match (&failure, exit.oom, exit.exit_code) {
        (Some(_), ..) => "StartError",
        (None, true, _) => "OOMKilled",
        (None, false, 0) => "Completed",
        (None, false, _) => "Error",
    };
    container.end(exit.exit_code, nanoseconds(exit.finished_at), reason, &failure.unwrap_or_default());
}

/// Ends what a dead monitor has left.
async fn settle(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    crate::sandbox::stop::kill_remains(core, sandbox).await?;
    for container in core.state.containers_in(sandbox.id()) {
        // Whether it was started, nobody can tell but the OCI runtime's own record.
        if container.stage() == Stage::Created && sandbox.record.root.join(container.id()).exists() {
            container.change(|live| live.stage = Stage::Running);
        }
        core.end_unwatched(&container);
    }
    Ok(())
}

/// Removes what belongs to nobody.
async fn sweep(core: &Arc<Core>) -> Result<(), Error> {
    let ready = |sandbox: &Arc<Sandbox>| sandbox.live().phase == Phase::Ready;
    let live: BTreeSet<String> =
        core.state.sandboxes().iter().filter(|s| ready(s)).map(|s| s.id().to_owned()).collect();
    core.network.sweep(&live).await.map_err(|error| Error::step("sweep the network", error))?;
    for id in names(&core.layout.sandbox_run("")) {
        if core.state.sandbox(&id).is_err() {
            end_stray_monitor(core, &id).await;
        }
    }
    let inner = core.clone();
    let swept = tokio::task::spawn_blocking(move || sweep_files(&inner)).await;
    swept.map_err(|error| Error::step("sweep", error))?
}

/// A monitor of a sandbox that nobody knows: it was being made when the agent died.
async fn end_stray_monitor(core: &Arc<Core>, id: &str) {
    struct Deaf;
    impl crate::link::Listener for Deaf {
        fn snapshot(&self, _: &monitor::wire::Snapshot) {}
        fn event(&self, _: monitor::wire::Event) {}
        fn closed(&self) {}
    }
    let directory = core.layout.sandbox_run(id);
    let link = crate::link::Link::connect(&directory, Arc::new(Deaf), &core.tasks).await;
    if let Ok(link) = link {
        let ended = link.ask(Request::Shutdown(Shutdown { force: true })).await;
        tracing::info!(sandbox = id, ?ended, "end a stray monitor");
    }
}

fn sweep_files(core: &Core) -> Result<(), Error> {
    crate::figures::sweep(core)?;
    let layout = &core.layout;
    for id in names(&layout.container_run("")).union(&names(&layout.container_data(""))) {
        if core.state.container(id).is_err() {
            tracing::info!(container = %id, "remove a leftover");
            rootfs::remove_bundle(&layout.container_run(id))?;
            rootfs::remove_tree(&layout.container_data(id), &[])?;
        }
    }
    for id in names(&layout.sandbox_run("")).union(&names(&layout.sandbox_data(""))) {
        if core.state.sandbox(id).is_err() {
            tracing::info!(sandbox = %id, "remove a leftover");
            let torn = fs::read(layout.sandbox_data(id).join(record::RECORD)).ok();
            if let Some(record) = torn.and_then(|bytes| serde_json::from_slice::<SandboxRecord>(&bytes).ok())
                && record.own_cgroup
                && !core.state.has_cgroup(&record.cgroup)
            {
                erase_cgroup(core, &record.cgroup)?;
            }
            rootfs::remove_tree(&layout.sandbox_run(id), &["shm"])?;
            rootfs::remove_tree(&layout.sandbox_data(id), &[])?;
        }
    }
    let own = format!("{}/sandboxes", core.cgroup_top);
    for id in core.hierarchies.children(&own) {
        if core.state.sandbox(&id).is_err() {
            erase_cgroup(core, &format!("{own}/{id}"))?;
        }
    }
    Ok(())
}

pub(crate) fn erase_cgroup(core: &Core, cgroup: &str) -> Result<(), Error> {
    core.hierarchies.kill(cgroup).map_err(Error::file("kill cgroup", cgroup))?;
    core.hierarchies.remove(cgroup).map_err(Error::file("remove cgroup", cgroup))
}

/// Names in a directory; none if it is not there.
pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
