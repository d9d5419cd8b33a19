//! One container as the monitor holds it: its streams, its first process, its end.
//!
//! Owns stdio and the exit record. It runs no OCI runtime and knows no client. Start with [`Container`].

use crate::clock;
use crate::exit::Record;
use crate::log::{Log, Splitter, Stream};
use crate::oci::Runtime;
use crate::wire::{self, Attach, Create, Event, Reply, status};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitStatus, waitid};
use rustix::termios::Winsize;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Bytes of one read from a stream.
const READ_BYTES: usize = 32 * 1024;
/// Reads of one stream before others get their turn.
const READS_AT_ONCE: usize = 4;
/// Most that is read of a stream after its container's end, should others still write to it.
const DRAIN_BYTES_MAX: usize = 8 << 20;
/// What an attached reader may be behind.
const ATTACHMENT_BYTES: usize = 1 << 20;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Exit code; 128 + n after signal n.
    pub exit_code: i32,
    /// The signal, or 0.
    pub signal: u32,
}

impl Ending {
    /// When the kernel does not know (any more).
    pub const UNKNOWN: Ending = Ending { exit_code: 255, signal: 0 };

    fn new(code: Option<i32>, signal: Option<i32>) -> Ending {
        match (code, signal) {
            (Some(exit_code), _) => Ending { exit_code, signal: 0 },
            (None, Some(signal)) => Ending { exit_code: 128 + signal, signal: u32::try_from(signal).unwrap_or(0) },
            (None, None) => Ending::UNKNOWN,
        }
    }

    /// Reaps the process of a pidfd; `None` if it still lives.
    pub fn of_process(pidfd: &OwnedFd) -> Option<Ending> {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(end)) => Some(Ending::new(end.exit_status(), end.terminating_signal())),
            Ok(None) => None,
            // Not our child (any more): it has ended, and nobody can say how.
            Err(_) => Some(Ending::UNKNOWN),
        }
    }
}

impl From<WaitStatus> for Ending {
    fn from(end: WaitStatus) -> Ending {
        Ending::new(end.exit_status(), end.terminating_signal())
    }
}

/// Memory that all streams share while they are read.
#[derive(Debug, Default)]
pub struct Scratch {
    chunk: Vec<u8>,
    lines: Vec<u8>,
}

#[derive(Debug)]
struct Output {
    source: OwnedFd,
    splitter: Splitter,
    stream: Stream,
}

#[derive(Debug)]
struct Attachment {
    stream: Stream,
    sink: OwnedFd,
}

/// A container, from the request for its creation to its deletion.
#[derive(Debug)]
pub struct Container {
    /// The monitor's own name for it, never reused.
    pub key: u32,
    /// The OCI runtime's name for it.
    pub id: String,
    /// How its OCI runtime is called.
    pub runtime: Runtime,
    /// A number of [`status`].
    pub status: u32,
    /// A step of the OCI runtime changes it right now: no other may begin, and its end waits.
    pub busy: bool,
    /// Its first process, while it is ours to wait for.
    pub pidfd: Option<OwnedFd>,
    /// Its pid; 0 before.
    pub pid: u32,
    /// The OCI runtime starts its program in the step that creates it.
    pub is_started_at_once: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
    log: Log,
    outputs: Vec<Output>,
    attachments: Vec<Attachment>,
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    exit_path: PathBuf,
    memory_cgroup: PathBuf,
    created_at: u64,
    record: Record,
}

/// The container's ends of its streams.
#[derive(Debug, Default)]
pub struct Ends {
    /// Standard input; `None` is `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Standard output; `None` with a terminal.
    pub stdout: Option<OwnedFd>,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<OwnedFd>,
}

impl Container {
    /// Opens log and streams.
    pub fn open(key: u32, request: Create) -> io::Result<(Container, Ends)> {
        let mut container = Container {
            key,
            id: request.container,
            runtime: Runtime {
                binary: request.binary,
                root: request.root,
                arguments: request.arguments,
                timeout_milliseconds: request.timeout_milliseconds,
            },
            status: status::CREATING,
            busy: true,
            pidfd: None,
            pid: 0,
            is_started_at_once: request.and_start,
            terminal: request.terminal,
            log: Log::open(request.log_path)?,
            outputs: Vec::new(),
            attachments: Vec::new(),
            stdin: None,
            stdin_once: request.stdin_once,
            exit_path: request.exit_path,
            memory_cgroup: request.memory_cgroup,
            created_at: 0,
            record: Record::default(),
        };
        let mut ends = Ends::default();
        if request.terminal {
            return Ok((container, ends));
        }
        if request.stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (ends.stdin, container.stdin) = (Some(read), Some(write));
        }
        ends.stdout = Some(container.add_pipe(Stream::Stdout)?);
        ends.stderr = Some(container.add_pipe(Stream::Stderr)?);
        Ok((container, ends))
    }

    fn add_pipe(&mut self, stream: Stream) -> io::Result<OwnedFd> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        self.add_output(read, stream)?;
        Ok(write)
    }

    fn add_output(&mut self, source: OwnedFd, stream: Stream) -> io::Result<()> {
        fcntl_setfl(&source, OFlags::NONBLOCK)?;
        self.outputs.push(Output { source, splitter: Splitter::new(stream), stream });
        Ok(())
    }

    /// Takes over what the OCI runtime has created.
    pub fn created(&mut self, pid: u32, pidfd: OwnedFd, master: Option<OwnedFd>) -> io::Result<()> {
        (self.pid, self.pidfd, self.status) = (pid, Some(pidfd), status::CREATED);
        self.created_at = clock::now();
        if let Some(master) = master {
            // One open file for both directions: the terminal hangs up when all copies are closed.
            fcntl_setfl(&master, OFlags::NONBLOCK | OFlags::RDWR)?;
            self.add_output(master, Stream::Stdout)?;
        }
        Ok(())
    }

    /// Notes that its program was started; returns what to tell about it.
    pub fn started(&mut self) -> Event {
        self.status = status::RUNNING;
        self.record.started_at = clock::now();
        let started_at = self.record.started_at;
        Event::Started(wire::Started { container: self.id.clone(), pid: self.pid, started_at })
    }

    /// The answer to who asked for its creation.
    pub fn told(&self) -> Reply {
        Reply::Created(wire::Created { pid: self.pid, started_at: self.record.started_at })
    }

    /// Streams to be polled for reading.
    pub fn sources(&self) -> impl Iterator<Item = (Stream, &OwnedFd)> {
        // Until it is created, its streams carry the OCI runtime's words.
        let open = self.status != status::CREATING;
        self.outputs.iter().filter(move |_| open).map(|output| (output.stream, &output.source))
    }

    /// Attached readers to be polled for their departure.
    pub fn sinks(&self) -> impl Iterator<Item = &OwnedFd> {
        self.attachments.iter().map(|attachment| &attachment.sink)
    }

    /// What was written to standard error while it was being created.
    pub fn take_words(&mut self) -> Vec<u8> {
        let mut words = vec![0; 4096];
        let error = self.outputs.iter().find(|output| output.stream == Stream::Stderr);
        let length = error.and_then(|output| rustix::io::read(&output.source, &mut words).ok()).unwrap_or(0);
        words.truncate(length);
        words
    }

    /// Reads what a stream has, as far as it is this stream's turn.
    pub fn pump(&mut self, stream: Stream, scratch: &mut Scratch) {
        self.read(stream, READS_AT_ONCE * READ_BYTES, scratch);
    }

    fn read(&mut self, stream: Stream, bytes_max: usize, scratch: &mut Scratch) {
        let Some(position) = self.outputs.iter().position(|output| output.stream == stream) else { return };
        scratch.chunk.resize(READ_BYTES, 0);
        let mut total = 0;
        while total < bytes_max {
            let output = &mut self.outputs[position];
            let length = match rustix::io::read(&output.source, &mut scratch.chunk[..]) {
                Ok(0) => return self.close_output(position, scratch),
                Ok(length) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => return,
                // A terminal whose other side is closed says EIO.
                Err(_) => return self.close_output(position, scratch),
            };
            total += length;
            let bytes = &scratch.chunk[..length];
            scratch.lines.clear();
            output.splitter.split(bytes, clock::now(), &mut scratch.lines);
            self.log.append(&scratch.lines);
            // Who cannot take it whole and at once is cut off, so that the container never waits for a reader.
            self.attachments.retain(|attachment| {
                attachment.stream != stream || rustix::io::write(&attachment.sink, bytes) == Ok(length)
            });
        }
    }

    fn close_output(&mut self, position: usize, scratch: &mut Scratch) {
        let mut output = self.outputs.remove(position);
        scratch.lines.clear();
        output.splitter.finish(clock::now(), &mut scratch.lines);
        self.log.append(&scratch.lines);
        self.attachments.retain(|attachment| attachment.stream != output.stream);
    }

    /// Its first process has ended: completes the log and writes the exit record, in this order.
    /// An error is about the file alone; the end is noted all the same.
    pub fn ended(&mut self, ending: Ending, scratch: &mut Scratch) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.read(stream, DRAIN_BYTES_MAX, scratch);
        }
        for output in &mut self.outputs {
            scratch.lines.clear();
            output.splitter.finish(clock::now(), &mut scratch.lines);
            self.log.append(&scratch.lines);
        }
        self.pidfd = None;
        self.stdin = None;
        self.status = status::EXITED;
        self.record.exit_code = ending.exit_code;
        self.record.signal = ending.signal;
        self.record.finished_at = clock::now();
        self.record.oom = killed_by_kernel(&self.memory_cgroup);
        if self.exit_path.as_os_str().is_empty() { Ok(()) } else { self.record.write(&self.exit_path) }
    }

    /// How it ended; zeroes before.
    pub fn record(&self) -> Record {
        self.record
    }

    /// Gives descriptors for the streams that can be had: stdin, stdout, stderr in this order.
    pub fn attach(&mut self, request: &Attach) -> io::Result<(wire::Attached, Vec<OwnedFd>)> {
        let (mut granted, mut descriptors) = (wire::Attached::default(), Vec::new());
        if request.stdin {
            let stdin = match (self.terminal, self.stdin_once) {
                (true, _) => self.outputs.first().map(|output| output.source.try_clone()).transpose()?,
                (false, true) => self.stdin.take(),
                (false, false) => self.stdin.as_ref().map(OwnedFd::try_clone).transpose()?,
            };
            granted.stdin = stdin.is_some();
            descriptors.extend(stdin);
        }
        for (wanted, stream, flag) in [
            (request.stdout, Stream::Stdout, &mut granted.stdout),
            (request.stderr, Stream::Stderr, &mut granted.stderr),
        ] {
            if wanted && self.outputs.iter().any(|output| output.stream == stream) {
                let (read, sink) = pipe_with(PipeFlags::CLOEXEC)?;
                fcntl_setfl(&sink, OFlags::NONBLOCK)?;
                // Beyond the user's limit for pipes the default size has to do.
                let _ = fcntl_setpipe_size(&sink, ATTACHMENT_BYTES);
                self.attachments.push(Attachment { stream, sink });
                descriptors.push(read);
                *flag = true;
            }
        }
        Ok((granted, descriptors))
    }

    /// Closes the sides of readers that have gone.
    pub fn detach_departed(&mut self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        self.attachments.retain(|attachment| {
            let mut one = [PollFd::new(&attachment.sink, PollFlags::empty())];
            let _ = poll(&mut one, Some(&Timespec::default()));
            !one[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL)
        });
    }

    /// Sets its terminal's size.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        match self.outputs.first() {
            Some(master) if self.terminal => Ok(rustix::termios::tcsetwinsize(&master.source, size)?),
            _ => Err(io::Error::new(io::ErrorKind::NotConnected, "the container has no terminal")),
        }
    }

    /// Opens its log anew.
    pub fn reopen_log(&mut self, path: PathBuf) -> io::Result<()> {
        self.log.reopen(path)
    }

    /// What clients see of it.
    pub fn snapshot(&self) -> wire::Container {
        wire::Container {
            id: self.id.clone(),
            status: self.status,
            pid: self.pid,
            created_at: self.created_at,
            started_at: self.record.started_at,
            finished_at: self.record.finished_at,
            exit_code: self.record.exit_code,
            signal: self.record.signal,
            oom: self.record.oom,
            log_bytes: self.log.written_bytes,
            lost_bytes: self.log.lost_bytes,
            attached: u32::try_from(self.attachments.len()).unwrap_or(u32::MAX),
        }
    }
}

/// Whether the kernel has killed a process of this cgroup for want of memory.
fn killed_by_kernel(cgroup: &Path) -> bool {
    if cgroup.as_os_str().is_empty() {
        return false;
    }
    let counted = |name: &str| {
        let text = fs::read_to_string(cgroup.join(name)).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    };
    counted("memory.oom_control") || counted("memory.events")
}

/// Reaps one child of which nobody knows; `None` when there is none.
pub fn reap_any() -> Option<(Pid, Ending)> {
    let (pid, end) = rustix::process::wait(rustix::process::WaitOptions::NOHANG).ok()??;
    Some((pid, end.into()))
}
