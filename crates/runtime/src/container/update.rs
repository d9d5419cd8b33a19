//! UpdateContainerResources and ReopenContainerLog.

use std::fs;
use std::sync::Arc;

use cri::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};
use monitor::wire::{ReopenLog, Request};

use crate::core::Core;
use crate::error::Error;
use crate::oci;
use crate::state::{Container, Stage};

/// Sets new limits; what the request leaves at zero stays as it is.
pub(crate) async fn update(core: Arc<Core>, request: UpdateContainerResourcesRequest) -> Result<(), Error> {
    let container = core.state.container(&request.container_id)?;
    let _verb = container.verbs.lock().await;
    let asked = request.linux.unwrap_or_default();
    match container.stage() {
        Stage::Running => {
            let (inner, own, wanted) = (core.clone(), container.clone(), asked.clone());
            let done = tokio::task::spawn_blocking(move || set(&inner, &own, &wanted)).await;
            done.map_err(|error| Error::step("update the container", error))??;
        }
        Stage::Created => {
            let path = core.layout.container_run(container.id()).join("config.json");
            amend(&core, &path, &asked)?;
        }
        _ => return Err(Error::WrongState(format!("container {} has ended", container.id()))),
    }
    container.change(|live| live.resources = Some(asked));
    Ok(())
}

fn set(core: &Core, container: &Container, asked: &LinuxContainerResources) -> Result<(), Error> {
    let sandbox = &container.sandbox.record;
    let file = core.layout.container_run(container.id()).join("resources.json");
    fs::write(&file, oci::updated_resources(asked, &core.machine).to_string()).map_err(Error::file("write", &file))?;
    let mut arguments = vec!["--root".into(), sandbox.root.clone().into_os_string()];
    arguments.extend(sandbox.arguments.iter().map(Into::into));
    arguments.extend(["update".into(), "--resources".into(), file.into_os_string(), container.id().into()]);
    let done = crate::process::run(sandbox.binary.as_os_str(), &arguments, core.command_timeout);
    done.map(|_| ()).map_err(|error| Error::step("update the container", error))
}

/// A container that was not started yet gets its limits by its document.
fn amend(core: &Core, path: &std::path::Path, asked: &LinuxContainerResources) -> Result<(), Error> {
    let text = fs::read(path).map_err(Error::file("read", path))?;
    let mut document: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| Error::step("read config.json", error))?;
    let resources = &mut document["linux"]["resources"];
    if let Some(changes) = oci::updated_resources(asked, &core.machine).as_object() {
        for (key, value) in changes {
            resources[key.as_str()] = value.clone();
        }
    }
    fs::write(path, document.to_string()).map_err(Error::file("write", path))
}

/// The log was renamed: the monitor opens a new one.
pub(crate) async fn reopen_log(core: Arc<Core>, id: String) -> Result<(), Error> {
    let container = core.state.container(&id)?;
    if container.stage() != Stage::Running {
        return Err(Error::WrongState(format!("container {} is not running", container.id())));
    }
    let request = ReopenLog { container: container.record.id.clone(), ..ReopenLog::default() };
    let done = container.sandbox.link()?.ask(Request::ReopenLog(request)).await;
    done.map(|_| ()).map_err(|failure| Error::step("reopen the log", failure))
}
