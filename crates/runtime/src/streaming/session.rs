//! One client's streams: bytes between a client and a process. Exec owns a process, attach listens to a container's.
//!
//! One task a session; it ends when the process does, when the client goes, or when nothing was said for four hours.
//! Which transport the client uses is not known here: [`client`](super::client) is the door.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cri::v1::{AttachRequest, ExecRequest};
use monitor::wire::{Attach, Reply, Request, Resize};
use tokio::time::Instant;

use super::client::{Ear, End, From, Said, Voice};
use crate::container::exec::{DRAIN, launch};
use crate::core::Core;
use crate::descriptor::{Descriptor, Pipe, null};
use crate::error::Error;
use crate::link::Link;
use crate::state::{Container, lock};

/// Largest piece of output that is passed on at a time.
const PIECE_BYTES: usize = 32 << 10;
/// How long a client may take to hear the end.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// A session in which nobody says anything for so long is over (POD-69).
const IDLE: Duration = Duration::from_secs(4 * 3600);

/// The streams of a process as this side holds them.
struct Streams {
    stdin: Option<Descriptor>,
    /// With a terminal this is the master, and input goes there too.
    stdout: Option<Descriptor>,
    stderr: Option<Descriptor>,
    is_terminal: bool,
}

/// Who can set a terminal's size when it is not the output itself.
struct Resizer {
    link: Arc<Link>,
    container: String,
}

/// Runs a command for a client.
pub(super) async fn exec(core: Arc<Core>, request: ExecRequest, (ear, voice): (impl Ear, impl Voice)) {
    match begin(&core, &request).await {
        Ok((mut running, streams)) => {
            let exit = async {
                (&mut running.ended).await.map_or(End::Failed("the sandbox died".into()), |e| End::Exit(e.exit_code))
            };
            converse((ear, voice), streams, exit, None).await;
        }
        Err(error) => finish(ear, voice, &End::Failed(error.to_string())).await,
    }
}

async fn begin(core: &Core, request: &ExecRequest) -> Result<(crate::container::exec::Running, Streams), Error> {
    let container = core.state.container(&request.container_id)?;
    if request.tty {
        let (running, master) = launch(core, &container, &request.cmd, None).await?;
        let master = master.ok_or_else(|| Error::step("exec", "no terminal came"))?;
        let master = Descriptor::new(master).map_err(|error| Error::step("open the terminal", error))?;
        let streams = Streams { stdin: None, stdout: Some(master), stderr: None, is_terminal: true };
        return Ok((running, streams));
    }
    let pipes = || -> io::Result<_> {
        let stdin = if request.stdin { Some(Pipe::to_write()?) } else { None };
        Ok((stdin, Pipe::to_read()?, Pipe::to_read()?, null()?))
    };
    let (stdin, stdout, stderr, nothing) = pipes().map_err(|error| Error::step("make pipes", error))?;
    let (stdin, input): (Option<Descriptor>, OwnedFd) = match stdin {
        Some(pipe) => (Some(pipe.ours), pipe.theirs),
        None => (None, nothing),
    };
    let theirs = [input, stdout.theirs, stderr.theirs];
    let (running, _) = launch(core, &container, &request.cmd, Some(theirs)).await?;
    let streams = Streams { stdin, stdout: Some(stdout.ours), stderr: Some(stderr.ours), is_terminal: false };
    Ok((running, streams))
}

/// Joins a client to a container's own streams.
pub(super) async fn attach(core: Arc<Core>, request: AttachRequest, (ear, voice): (impl Ear, impl Voice)) {
    match join(&core, &request).await {
        Ok((streams, resizer)) => {
            // The output ends with the container; nothing else does.
            let never = std::future::pending();
            converse((ear, voice), streams, never, Some(resizer)).await;
        }
        Err(error) => finish(ear, voice, &End::Failed(error.to_string())).await,
    }
}

async fn join(core: &Core, request: &AttachRequest) -> Result<(Streams, Resizer), Error> {
    let container: Arc<Container> = core.state.container(&request.container_id)?;
    let link = container.sandbox.link()?;
    let id = container.record.id.clone();
    let asked = Attach { container: id.clone(), stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
    let (reply, descriptors) =
        link.call(&Request::Attach(asked), &[]).await.map_err(|failure| Error::step("attach", failure))?;
    let Reply::Attached(granted) = reply else { return Err(Error::step("attach", "unexpected answer")) };
    let mut descriptors = descriptors.into_iter();
    let mut next = |is_granted: bool| -> Result<Option<Descriptor>, Error> {
        let Some(fd) = is_granted.then(|| descriptors.next()).flatten() else { return Ok(None) };
        Descriptor::new(fd).map(Some).map_err(|error| Error::step("attach", error))
    };
    let streams = Streams {
        stdin: next(granted.stdin)?,
        stdout: next(granted.stdout)?,
        stderr: next(granted.stderr)?,
        is_terminal: false,
    };
    Ok((streams, Resizer { link, container: id }))
}

/// Moves bytes both ways until the end, and tells the client how it ended.
async fn converse(
    (mut ear, voice): (impl Ear, impl Voice),
    streams: Streams,
    exit: impl Future<Output = End>,
    resizer: Option<Resizer>,
) {
    let Streams { stdin, stdout, stderr, is_terminal } = streams;
    let terminal = if is_terminal { stdout.as_ref() } else { None };
    let silence = Silence::default();
    let outputs = async {
        let out = forward(stdout.as_ref(), From::Stdout, &voice, &silence);
        let err = forward(stderr.as_ref(), From::Stderr, &voice, &silence);
        tokio::join!(out, err);
    };
    let process = async {
        voice.greet().await;
        conclude(outputs, exit, resizer.is_some()).await
    };
    let input = listen(&mut ear, stdin, (terminal, resizer.as_ref()), &silence);
    let end = tokio::select! {
        end = process => end,
        () = input => return,
        () = silence.too_long() => End::Failed("nothing was said for too long".into()),
    };
    finish(ear, voice, &end).await;
}

/// When somebody said something last.
struct Silence(Mutex<Instant>);

impl Default for Silence {
    fn default() -> Silence {
        Silence(Mutex::new(Instant::now()))
    }
}

impl Silence {
    fn ends(&self) {
        *lock(&self.0) = Instant::now();
    }

    async fn too_long(&self) {
        loop {
            let until = *lock(&self.0) + IDLE;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Waits for the end of the process and of its output. With `by_output` the output's end is the end.
async fn conclude(outputs: impl Future<Output = ()>, exit: impl Future<Output = End>, by_output: bool) -> End {
    tokio::pin!(outputs, exit);
    tokio::select! {
        () = &mut outputs => if by_output { End::Exit(0) } else { exit.await },
        end = &mut exit => {
            // Past the pause only the process's own children hold the streams.
            let _ = tokio::time::timeout(DRAIN, outputs).await;
            end
        }
    }
}

async fn forward(of: Option<&Descriptor>, from: From, to: &impl Voice, silence: &Silence) {
    let Some(of) = of else { return };
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(read) = of.read(&mut buffer).await {
        silence.ends();
        if read == 0 || to.say(from, Bytes::copy_from_slice(&buffer[..read])).await.is_err() {
            return;
        }
    }
}

async fn finish(ear: impl Ear, voice: impl Voice, end: &End) {
    // The client takes its last words and goes; or it takes nothing more.
    let _ = tokio::time::timeout(LAST_WORDS, voice.end(end)).await;
    ear.part().await;
}

/// Takes what the client says until it goes.
async fn listen(
    ear: &mut impl Ear,
    mut stdin: Option<Descriptor>,
    (terminal, resizer): (Option<&Descriptor>, Option<&Resizer>),
    silence: &Silence,
) {
    while let Some(said) = ear.hear().await {
        silence.ends();
        match said {
            Said::Input(bytes) => {
                let Some(to) = stdin.as_ref().or(terminal) else { continue };
                if to.write_all(&bytes).await.is_err() {
                    // The process reads no more; its end comes by itself.
                    stdin = None;
                }
            }
            Said::InputEnds => stdin = None,
            Said::Resize { columns, rows } => resize(terminal, resizer, columns, rows).await,
        }
    }
}

async fn resize(terminal: Option<&Descriptor>, resizer: Option<&Resizer>, columns: u16, rows: u16) {
    if let Some(terminal) = terminal {
        // A terminal that is gone needs no size.
        let _ = terminal.resize(columns, rows);
    } else if let Some(Resizer { link, container }) = resizer {
        let request = Resize { container: container.clone(), columns: columns.into(), rows: rows.into() };
        if let Err(failure) = link.ask(Request::Resize(request)).await {
            tracing::debug!(%failure, "resize a terminal");
        }
    }
}
