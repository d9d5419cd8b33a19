//! Further processes in a container: ExecSync, and the launch that streaming exec shares with it (HOOK-11).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cri::v1::{ExecSyncRequest, ExecSyncResponse};
use monitor::wire::{Exec, ExecExited, Failure, Request, Signal, code};
use tokio::fs;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Response;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::signal::SIGKILL;
use crate::core::Core;
use crate::descriptor::{Descriptor, Pipe, null};
use crate::error::Error;
use crate::link::Link;
use crate::oci;
use crate::state::{Container, Stage, fresh_id, lock};

/// Bytes of each output that are kept unless the caller wants fewer; the rest is read and dropped (HOOK-15).
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// In the metadata of a call: how much of the beginning and of the end of each output is wanted (docs/walls/cri.md).
const HEAD_WANTED: &str = "sampan-output-head";
const TAIL_WANTED: &str = "sampan-output-tail";
/// In the metadata of the answer: how many bytes were written.
const STDOUT_BYTES: &str = "sampan-stdout-bytes";
const STDERR_BYTES: &str = "sampan-stderr-bytes";
/// How long output is awaited after the end: children of the process may hold the pipes for ever.
pub(crate) const DRAIN: Duration = Duration::from_millis(300);
/// How long the end is awaited after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

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
    // What an earlier agent launched may still run, and the monitor knows it by its name.
    let name = format!("{}-{}", &container.id()[..12], &fresh_id()?[..12]);
    let bundle = core.layout.container_run(container.id());
    let process = bundle.join(format!("{name}.json"));
    let document = fs::read(bundle.join("config.json")).await.map_err(Error::file("read", &bundle))?;
    let document: serde_json::Value =
        serde_json::from_slice(&document).map_err(|error| Error::step("read config.json", error))?;
    let text = oci::process::exec(&document, command, streams.is_none()).to_string();
    fs::write(&process, text).await.map_err(Error::file("write", &process))?;
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
    let _ = fs::remove_file(&process).await;
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

/// How much of an output is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    head: usize,
    tail: usize,
}

impl Keep {
    /// What a caller wants; all that is allowed if it says nothing.
    pub(crate) fn wanted(metadata: &MetadataMap) -> Keep {
        let number = |name| metadata.get(name)?.to_str().ok()?.parse::<usize>().ok();
        match (number(HEAD_WANTED), number(TAIL_WANTED)) {
            (None, None) => Keep { head: OUTPUT_BYTES_MAX, tail: 0 },
            (head, tail) => {
                let head = head.unwrap_or(0).min(OUTPUT_BYTES_MAX);
                Keep { head, tail: tail.unwrap_or(0).min(OUTPUT_BYTES_MAX - head) }
            }
        }
    }
}

/// Runs a command to its end. A timeout above zero kills it. The answer's metadata tells how much was written.
pub(crate) async fn exec_sync(
    core: Arc<Core>,
    request: ExecSyncRequest,
    keep: Keep,
) -> Result<Response<ExecSyncResponse>, Error> {
    let container = core.state.container(&request.container_id)?;
    let limit = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let deadline = limit.map(|limit| Instant::now() + limit);
    let pipes = || -> io::Result<_> { Ok((Pipe::to_read()?, Pipe::to_read()?, null()?)) };
    let (stdout, stderr, stdin) = pipes().map_err(|error| Error::step("make pipes", error))?;
    let streams = [stdin, stdout.theirs, stderr.theirs];
    let (mut running, _) = launch(&core, &container, &request.cmd, Some(streams)).await?;
    let (mut out, mut err) = (Collected::new(keep), Collected::new(keep));
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
        Some(Ok(exit)) => {
            let written = [(STDOUT_BYTES, out.written), (STDERR_BYTES, err.written)];
            let (stdout, stderr) = (out.into_bytes(), err.into_bytes());
            let mut answer = Response::new(ExecSyncResponse { stdout, stderr, exit_code: exit.exit_code });
            for (name, bytes) in written {
                answer.metadata_mut().insert(name, MetadataValue::from(bytes));
            }
            Ok(answer)
        }
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

/// The beginning and the end of an output.
struct Collected {
    keep: Keep,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    written: u64,
}

impl Collected {
    fn new(keep: Keep) -> Collected {
        Collected { keep, head: Vec::new(), tail: VecDeque::new(), written: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let room = self.keep.head.saturating_sub(self.head.len());
        let (head, rest) = bytes.split_at(bytes.len().min(room));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(self.keep.tail)..];
        let full = (self.tail.len() + rest.len()).saturating_sub(self.keep.tail);
        self.tail.drain(..full);
        self.tail.extend(rest);
    }

    fn into_bytes(mut self) -> Vec<u8> {
        self.head.extend(self.tail);
        self.head
    }
}

/// Reads to the end, and keeps as much as is wanted.
async fn collect(from: &Descriptor, into: &mut Collected) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        into.take(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_output_the_wanted_beginning_and_end_are_kept_however_it_comes() {
        let all: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for (head, tail, expected) in [
            (10, 5, [&all[..10], &all[995..]].concat()),
            (0, 3, all[997..].to_vec()),
            (4, 0, all[..4].to_vec()),
            (2000, 0, all.clone()),
            (600, 600, all.clone()),
        ] {
            for piece in [1, 7, 999, 1000] {
                let mut collected = Collected::new(Keep { head, tail });
                all.chunks(piece).for_each(|bytes| collected.take(bytes));
                assert_eq!(collected.written, 1000);
                assert_eq!(collected.into_bytes(), expected, "{head} {tail} {piece}");
            }
        }
    }

    #[test]
    fn who_says_nothing_gets_sixteen_mebibytes() {
        let mut metadata = MetadataMap::new();
        let kept = |metadata: &MetadataMap| {
            let Keep { head, tail } = Keep::wanted(metadata);
            (head, tail)
        };
        assert_eq!(kept(&metadata), (16 << 20, 0));
        metadata.insert(HEAD_WANTED, MetadataValue::from(4096_u64));
        assert_eq!(kept(&metadata), (4096, 0));
        metadata.insert(TAIL_WANTED, MetadataValue::from(u64::MAX));
        assert_eq!(kept(&metadata), (4096, (16 << 20) - 4096));
    }
}
