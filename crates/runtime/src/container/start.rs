//! StartContainer: the monitor runs the OCI runtime's create and start. What fails ends the container (128, StartError).

use std::path::Path;
use std::sync::Arc;

use cri::v1::ContainerEventType;
use monitor::wire::{Create, Delete, Failure, Reply, Request, Start};

use crate::clock;
use crate::core::{Core, nanoseconds};
use crate::error::Error;
use crate::link::Link;
use crate::record::{self, EXIT, FAILURE};
use crate::state::{Container, Stage};

/// Exit code of a container that never ran (POD-37).
const START_ERROR: i32 = 128;

pub(crate) async fn start(core: Arc<Core>, id: String) -> Result<(), Error> {
    let container = core.state.container(&id)?;
    let _verb = container.verbs.lock().await;
    if container.stage() != Stage::Created {
        let text = format!("container {} is not in the created state", container.id());
        return Err(Error::WrongState(text));
    }
    let link = container.sandbox.link()?;
    container.change(|live| live.stage = Stage::Starting);
    match launch(&core, &container, &link).await {
        Ok(()) => Ok(()),
        Err(failure) => {
            fail(&core, &container, &link, &failure).await;
            let handler = container.sandbox.record.handler_name();
            Err(Error::Start { handler, reason: failure.to_string() })
        }
    }
}

async fn launch(core: &Core, container: &Container, link: &Link) -> Result<(), Failure> {
    let _turn = core.gate.pass().await;
    let created = link.ask(Request::Create(create(core, container))).await?;
    let mut is_started = false;
    if let Reply::Created(created) = created {
        container.change(|live| live.pid = created.pid);
        is_started = created.started_at > 0;
    }
    if !is_started {
        let id = container.record.id.clone();
        link.ask(Request::Start(Start { container: id, timeout_milliseconds: 0 })).await?;
    }
    // The event of the start usually came before the reply and set this already.
    container.change(|live| {
        if live.stage == Stage::Starting {
            live.stage = Stage::Running;
            live.started_at = clock::now_nanoseconds();
        }
    });
    Ok(())
}

fn create(core: &Core, container: &Container) -> Create {
    let (record, sandbox) = (&container.record, &container.sandbox.record);
    Create {
        container: record.id.clone(),
        bundle: core.layout.container_run(&record.id),
        binary: sandbox.binary.clone(),
        root: sandbox.root.clone(),
        arguments: sandbox.arguments.clone(),
        log_path: record.log_path.clone(),
        terminal: record.config.tty,
        stdin: record.config.stdin,
        stdin_once: record.config.stdin_once,
        exit_path: core.layout.container_data(&record.id).join(EXIT),
        memory_cgroup: core.hierarchies.directory("memory", &container.cgroup()).unwrap_or_default(),
        timeout_milliseconds: u64::try_from(core.command_timeout.as_millis()).unwrap_or(u64::MAX),
        and_start: runs_at_once(&sandbox.binary),
    }
}

/// Whether `run --detach` may stand for `create` and `start`, one process instead of two. Only where it is known to be
/// the same: crun's `run` takes the exit code of a program that ends at once for itself, and runtimes that wrap
/// another one (for GPUs) look out for the word `create`.
fn runs_at_once(binary: &Path) -> bool {
    std::fs::canonicalize(binary).is_ok_and(|real| real.file_name().is_some_and(|name| name == "runc"))
}

/// Keeps on disk that and why it did not start, then ends it.
async fn fail(core: &Arc<Core>, container: &Arc<Container>, link: &Link, failure: &Failure) {
    let delete = Delete { container: container.record.id.clone(), forget: true, ..Delete::default() };
    let _ = link.ask(Request::Delete(delete)).await;
    let (inner, own) = (core.clone(), container.clone());
    let wiped = tokio::task::spawn_blocking(move || super::remove::wipe(&inner, &own)).await;
    if !matches!(wiped, Ok(Ok(()))) {
        tracing::warn!(container = container.id(), ?wiped, "take away what a failed start left");
    }
    let now = clock::now_nanoseconds();
    let data = core.layout.container_data(container.id());
    let exit = monitor::exit::Record {
        exit_code: START_ERROR,
        finished_at: u64::try_from(now).unwrap_or_default(),
        ..monitor::exit::Record::default()
    };
    let message = failure.to_string();
    let kept = record::write(&data.join(FAILURE), message.as_bytes()).and_then(|()| exit.write(&data.join(EXIT)));
    if let Err(error) = kept {
        tracing::warn!(container = container.id(), %error, "keep why a container did not start");
    }
    if container.end(START_ERROR, nanoseconds(exit.finished_at), "StartError", &message) {
        core.tell(container, ContainerEventType::ContainerStoppedEvent);
    }
}
