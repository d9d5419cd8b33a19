//! One client's streams: bytes between a WebSocket and a process. Exec owns a process, attach listens to a container's.
//!
//! One task a session; it ends when the process does, or when the client goes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use cri::v1::{AttachRequest, ExecRequest};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use monitor::wire::{Attach, Reply, Request, Resize};
use tokio::sync::mpsc;

use super::channel::{self, End, STDERR, STDOUT, Said, Version};
use crate::container::exec::{DRAIN, launch};
use crate::core::Core;
use crate::descriptor::{Descriptor, Pipe, null};
use crate::error::Error;
use crate::link::Link;
use crate::state::Container;

/// Messages that may wait for a slow client; the process then waits too.
const WAITING_MAX: usize = 16;
/// Largest piece of output in one message.
const PIECE_BYTES: usize = 32 << 10;

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

/// The other end.
struct Client {
    sink: SplitSink<WebSocket, Message>,
    messages: SplitStream<WebSocket>,
    version: Version,
}

impl Client {
    fn new(socket: WebSocket, version: Version) -> Client {
        let (sink, messages) = socket.split();
        Client { sink, messages, version }
    }
}

/// Runs a command for a client.
pub(super) async fn exec(core: Arc<Core>, request: ExecRequest, socket: WebSocket, version: Version) {
    let client = Client::new(socket, version);
    let end = match begin(&core, &request).await {
        Ok((mut running, streams)) => {
            let exit = async {
                (&mut running.ended).await.map_or(End::Failed("the sandbox died".into()), |e| End::Exit(e.exit_code))
            };
            return converse(client, streams, exit, None).await;
        }
        Err(error) => End::Failed(error.to_string()),
    };
    finish(client.sink, &end).await;
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
pub(super) async fn attach(core: Arc<Core>, request: AttachRequest, socket: WebSocket, version: Version) {
    let client = Client::new(socket, version);
    match join(&core, &request).await {
        Ok((streams, resizer)) => {
            // The output ends with the container; nothing else does.
            let never = std::future::pending();
            converse(client, streams, never, Some(resizer)).await;
        }
        Err(error) => finish(client.sink, &End::Failed(error.to_string())).await,
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
async fn converse(client: Client, streams: Streams, exit: impl Future<Output = End>, resizer: Option<Resizer>) {
    let Client { sink, messages, version } = client;
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let Streams { stdin, stdout, stderr, is_terminal } = streams;
    let terminal = if is_terminal { stdout.as_ref() } else { None };
    let outputs = async {
        let out = forward(stdout.as_ref(), STDOUT, sender.clone());
        let err = forward(stderr.as_ref(), STDERR, sender.clone());
        tokio::join!(out, err);
    };
    let process = async {
        // An empty message says that the streams are open.
        let _ = sender.send(channel::frame(STDOUT, b"")).await;
        let end = conclude(outputs, exit, resizer.is_some()).await;
        let _ = sender.send(channel::end(&end)).await;
    };
    let input = listen(messages, stdin, terminal, resizer.as_ref(), version);
    let output = write(sink, receiver);
    tokio::pin!(output, input);
    tokio::select! {
        () = process => {}
        () = &mut input => return,
        () = &mut output => return,
    }
    drop(sender);
    output.await;
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

async fn forward(from: Option<&Descriptor>, channel: u8, to: mpsc::Sender<Vec<u8>>) {
    let Some(from) = from else { return };
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || to.send(channel::frame(channel, &buffer[..read])).await.is_err() {
            return;
        }
    }
}

async fn write(mut sink: SplitSink<WebSocket, Message>, mut waiting: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = waiting.recv().await {
        if sink.send(Message::Binary(frame.into())).await.is_err() {
            return;
        }
    }
    close(sink).await;
}

async fn finish(mut sink: SplitSink<WebSocket, Message>, end: &End) {
    let _ = sink.send(Message::Binary(channel::end(end).into())).await;
    close(sink).await;
}

/// Clients take a close without the code for a normal end as an error.
async fn close(mut sink: SplitSink<WebSocket, Message>) {
    let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    let _ = sink.send(Message::Close(Some(frame))).await;
    let _ = sink.close().await;
}

/// Takes the client's messages until it goes.
async fn listen(
    mut messages: SplitStream<WebSocket>,
    mut stdin: Option<Descriptor>,
    terminal: Option<&Descriptor>,
    resizer: Option<&Resizer>,
    version: Version,
) {
    while let Some(Ok(message)) = messages.next().await {
        // Some clients send what they hold as text in text messages.
        let bytes = match &message {
            Message::Binary(bytes) => &bytes[..],
            Message::Text(text) => text.as_bytes(),
            _ => continue,
        };
        match channel::parse(bytes, version) {
            Said::Input(bytes) => {
                let Some(to) = stdin.as_ref().or(terminal) else { continue };
                if to.write_all(bytes).await.is_err() {
                    // The process reads no more; its end comes by itself.
                    stdin = None;
                }
            }
            Said::InputEnds => stdin = None,
            Said::Resize { columns, rows } => resize(terminal, resizer, columns, rows).await,
            Said::Noise => {}
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
