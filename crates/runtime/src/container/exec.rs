//! Further processes in a container: ExecSync, and the launch that streaming exec shares with it (HOOK-11).

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cri::v1::{ExecSyncRequest, ExecSyncResponse};
use monitor::wire::{Exec, ExecExited, Failure, Request, Signal, code};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::signal::SIGKILL;
use crate::core::Core;
use crate::descriptor::{Descriptor, Pipe, null};
use crate::error::Error;
use crate::link::Link;
use crate::oci;
use crate::state::{Container, Stage, lock};

/// Bytes of each output that are kept; what comes after them is read and dropped (HOOK-15).
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// How long output is awaited after the end: children of the process may hold the pipes for ever.
pub(crate) const DRAIN: Duration = Duration::from_millis(300);
/// How long the end is awaited after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// A process that was launched.
pub(crate) struct Running {
    link: Arc<Link>,
    container: String,
    name: String,
    /// Its end. Fails if the monitor dies first.
    pub ended: oneshot::Receiver<ExecExited>,
}

/// Launches a process. Without a terminal its three streams are `streams`; with one, the master comes back.
pub(crate) async fn launch(
    core: &Core,
    container: &Container,
    command: &[String],
    streams: Option<[OwnedFd; 3]>,
) -> Result<(Running, Option<OwnedFd>), Error> {
    if container.stage() != Stage::Running {
        return Err(Error::WrongState(format!("container {} is not running", container.id())));
    }
    if command.first().is_none_or(String::is_empty) {
        return Err(Error::Invalid("no command is given".into()));
    }
    let link = container.sandbox.link()?;
    let name = format!("{}-{}", &container.id()[..12], SERIAL.fetch_add(1, Ordering::Relaxed));
    let bundle = core.layout.container_run(container.id());
    let process = bundle.join(format!("{name}.json"));
    let document = fs::read(bundle.join("config.json")).map_err(Error::file("read", &bundle))?;
    let document: serde_json::Value =
        serde_json::from_slice(&document).map_err(|error| Error::step("read config.json", error))?;
    let text = oci::process::exec(&document, command, streams.is_none()).to_string();
    fs::write(&process, text).map_err(Error::file("write", &process))?;
    let (sender, ended) = oneshot::channel();
    lock(&container.sandbox.execs).insert(name.clone(), sender);
    let request = Request::Exec(Exec {
        exec: name.clone(),
        container: container.record.id.clone(),
        process: process.clone(),
        terminal: streams.is_none(),
        timeout_milliseconds: 0,
    });
    let fds: Vec<_> = streams.iter().flatten().map(|fd| fd.as_fd()).collect();
    let started = link.call(&request, &fds).await;
    let _ = fs::remove_file(&process);
    match started {
        Ok((_, mut descriptors)) => {
            Ok((Running { link, container: container.record.id.clone(), name, ended }, descriptors.pop()))
        }
        Err(failure) => {
            lock(&container.sandbox.execs).remove(&name);
            Err(refusal(&failure))
        }
    }
}

fn refusal(failure: &Failure) -> Error {
    match failure.code {
        code::NOT_FOUND | code::WRONG_STATE => Error::WrongState(failure.to_string()),
        code::TIMED_OUT => Error::DeadlineExceeded(failure.to_string()),
        _ => Error::step("failed to exec in container", failure),
    }
}

impl Running {
    /// Kills the process (not the container).
    pub(crate) async fn kill(&self) -> Result<(), Failure> {
        let signal =
            Signal { container: self.container.clone(), exec: self.name.clone(), signal: SIGKILL, ..Signal::default() };
        self.link.ask(Request::Signal(signal)).await.map(|_| ())
    }
}

/// Runs a command to its end. A timeout above zero kills it.
pub(crate) async fn exec_sync(core: Arc<Core>, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error> {
    let container = core.state.container(&request.container_id)?;
    let limit = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let deadline = limit.map(|limit| Instant::now() + limit);
    let pipes = || -> io::Result<_> { Ok((Pipe::to_read()?, Pipe::to_read()?, null()?)) };
    let (stdout, stderr, stdin) = pipes().map_err(|error| Error::step("make pipes", error))?;
    let streams = [stdin, stdout.theirs, stderr.theirs];
    let (mut running, _) = launch(&core, &container, &request.cmd, Some(streams)).await?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = {
        let outputs = async { tokio::join!(collect(&stdout.ours, &mut out), collect(&stderr.ours, &mut err)) };
        tokio::pin!(outputs);
        let mut is_drained = false;
        let exit = loop {
            tokio::select! {
                exit = &mut running.ended => break Some(exit),
                _ = &mut outputs, if !is_drained => is_drained = true,
                () = until(deadline) => break None,
            }
        };
        if exit.is_some() && !is_drained {
            // Past the pause only the process's own children hold the pipes.
            let _ = tokio::time::timeout(DRAIN, &mut outputs).await;
        }
        exit
    };
    match exit {
        Some(Ok(exit)) => Ok(ExecSyncResponse { stdout: out, stderr: err, exit_code: exit.exit_code }),
        Some(Err(_)) => Err(Error::step("wait for the command", "the sandbox's monitor died")),
        None => {
            if let Err(failure) = running.kill().await {
                tracing::debug!(%failure, "kill a command whose time is over");
            }
            let _ = tokio::time::timeout(KILL_PATIENCE, &mut running.ended).await;
            let seconds = request.timeout;
            Err(Error::DeadlineExceeded(format!("command {:?} timed out after {seconds}s", request.cmd)))
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Reads to the end, and keeps the beginning.
async fn collect(from: &Descriptor, kept: &mut Vec<u8>) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
}
