//! The messages of the monitor's wall, for both sides. Contract: `docs/walls/monitor.md`.
//!
//! Owns what a message says; [`codec`] owns its bytes, [`socket`] carries frames and descriptors.
//! Numbers and tags never change their meaning: a monitor lives as long as its pod, so it meets
//! agents that are newer and older. Start with [`Request`], [`Reply`] and [`Event`].

pub mod codec;
pub mod socket;

use codec::{BODY_BYTES_MAX, HEADER_BYTES, Header, Malformed, VERSION, messages, record};
use std::path::PathBuf;

messages! {
/// What a client asks. Each request gets exactly one reply with the same id, in any order.
pub enum Request {
    /// Who are you? Always the first request on a connection; answered by [`Reply::Hello`].
    1 => Hello(Hello),
    /// Run the OCI runtime's `create`; answered by [`Reply::Created`].
    2 => Create(Create),
    /// Run the OCI runtime's `start`; answered by [`Reply::Done`].
    3 => Start(Start),
    /// Signal a container's first process or an exec'd process; answered by [`Reply::Done`].
    4 => Signal(Signal),
    /// Run the OCI runtime's `delete --force` and forget the container; answered by [`Reply::Done`].
    5 => Delete(Delete),
    /// Run a further process in a container; answered by [`Reply::Exec`].
    6 => Exec(Exec),
    /// Set the size of a container's terminal; answered by [`Reply::Done`].
    7 => Resize(Resize),
    /// Ask for a container's streams; answered by [`Reply::Attached`].
    8 => Attach(Attach),
    /// Open the log file anew, after it was renamed; answered by [`Reply::Done`].
    9 => ReopenLog(ReopenLog),
    /// Everything that the monitor knows; answered by [`Reply::State`].
    10 => State(State),
    /// Like `State`, and every later event comes on this connection, without a gap.
    11 => Subscribe(Subscribe),
    /// End the monitor; answered by [`Reply::Done`] just before it exits.
    12 => Shutdown(Shutdown),
}}

messages! {
/// What the monitor answers.
pub enum Reply {
    /// It is done.
    0x8001 => Done(Done),
    /// Who the monitor is.
    0x8002 => Hello(Welcome),
    /// The container is created and waits for its start.
    0x8003 => Created(Created),
    /// The process runs. Carries the terminal's master descriptor if one was asked for.
    0x8004 => Exec(ExecStarted),
    /// Carries the descriptors of the streams that were granted: stdin, stdout, stderr, in this order.
    0x8005 => Attached(Attached),
    /// The containers and processes.
    0x8006 => State(Snapshot),
    /// It was not done, and why.
    0x8007 => Error(Failure),
}}

messages! {
/// What happened. Sent with id 0 to every subscriber.
pub enum Event {
    /// A container's first process was started.
    0x4001 => Started(Started),
    /// A container's first process has ended. Its exit file is written and its log is complete.
    0x4002 => Exited(Exited),
    /// An exec'd process has ended. The connection that asked for it gets this without subscription too.
    0x4003 => ExecExited(ExecExited),
    /// The log file was opened anew.
    0x4004 => LogReopened(LogReopened),
    /// A container was deleted.
    0x4005 => Deleted(Deleted),
}}

record! {
/// See [`Request::Hello`].
pub struct Hello {
    /// Name and version of the client, for the log.
    1 => agent: String,
}

/// See [`Request::Create`].
pub struct Create {
    /// The container's id, as the OCI runtime knows it.
    1 => container: String,
    /// Directory with `config.json`.
    2 => bundle: PathBuf,
    /// The OCI runtime's executable. It stays in use for this container's later steps.
    3 => binary: PathBuf,
    /// Given to the OCI runtime as `--root`; left out if empty.
    4 => root: PathBuf,
    /// Further global arguments, before the subcommand.
    5 => arguments: Vec<String>,
    /// CRI log file, appended to; its directory must exist. Empty: output is thrown away.
    6 => log_path: PathBuf,
    /// The same as `process.terminal` in `config.json`.
    7 => terminal: bool,
    /// Keep a standard input open; else it is `/dev/null`.
    8 => stdin: bool,
    /// Standard input ends when the first attached client closes it.
    9 => stdin_once: bool,
    /// Where the exit record goes (see [`crate::exit`]); its directory must exist. Empty: nowhere.
    10 => exit_path: PathBuf,
    /// The container's cgroup directory that accounts memory (v1: of the memory hierarchy), read at exit for `oom`.
    11 => memory_cgroup: PathBuf,
    /// Time for the step, and for later ones of this container that do not say; 0 is two minutes.
    12 => timeout_milliseconds: u64,
    /// Start its program in the same step, by the OCI runtime's `run --detach` instead of its `create`. A monitor that
    /// does not know this field only creates, which the reply shows.
    13 => and_start: bool,
}

/// See [`Request::Start`].
pub struct Start {
    /// Which container.
    1 => container: String,
    /// Time for the step; 0 is that of its creation.
    2 => timeout_milliseconds: u64,
}

/// See [`Request::Signal`].
pub struct Signal {
    /// Which container.
    1 => container: String,
    /// Signal this exec'd process instead of the container's first.
    2 => exec: String,
    /// Signal number, 1 to 64.
    3 => signal: u32,
    /// Signal every process of the container (by the OCI runtime's `kill --all`).
    4 => all: bool,
}

/// See [`Request::Delete`]. Deleting what is not there is done at once.
pub struct Delete {
    /// Which container.
    1 => container: String,
    /// Time for the step; 0 is that of its creation.
    2 => timeout_milliseconds: u64,
    /// Forget it even if the OCI runtime fails, which is told all the same: the client takes away what is left.
    3 => forget: bool,
}

/// See [`Request::Exec`]. Without a terminal the frame carries three descriptors: the process's stdin, stdout and stderr.
pub struct Exec {
    /// Name of this execution, unique within the monitor until it has ended.
    1 => exec: String,
    /// Which container.
    2 => container: String,
    /// OCI `process.json`.
    3 => process: PathBuf,
    /// The same as `terminal` in the file; the reply then carries the master's descriptor.
    4 => terminal: bool,
    /// Time until the process runs, not for its whole life; 0 is that of the container's creation.
    5 => timeout_milliseconds: u64,
}

/// See [`Request::Resize`].
pub struct Resize {
    /// Which container.
    1 => container: String,
    /// Width in characters.
    2 => columns: u32,
    /// Height in characters.
    3 => rows: u32,
}

/// See [`Request::Attach`].
pub struct Attach {
    /// Which container.
    1 => container: String,
    /// Ask for a descriptor to write the container's input to.
    2 => stdin: bool,
    /// Ask for a pipe with a copy of its output from now on.
    3 => stdout: bool,
    /// The same for stderr; never granted for terminals.
    4 => stderr: bool,
}

/// See [`Request::ReopenLog`].
pub struct ReopenLog {
    /// Which container.
    1 => container: String,
    /// New path, kept from now on; empty: the same as before.
    2 => log_path: PathBuf,
}

/// See [`Request::State`].
pub struct State {}

/// See [`Request::Subscribe`].
pub struct Subscribe {}

/// See [`Request::Shutdown`].
pub struct Shutdown {
    /// Kill and delete the containers that are left; else they make the request fail.
    1 => force: bool,
}

/// See [`Reply::Done`].
pub struct Done {}

/// See [`Reply::Hello`].
pub struct Welcome {
    /// Highest protocol version that the monitor speaks.
    1 => version: u32,
    /// The monitor's pid; its namespaces are in `/proc/<pid>/ns`.
    2 => pid: u32,
    /// The sandbox's id, from the command line.
    3 => sandbox: String,
    /// First process of the shared PID namespace; 0 without one.
    4 => pause_pid: u32,
    /// The monitor's start, nanoseconds since the epoch.
    5 => started_at: u64,
}

/// See [`Reply::Created`].
pub struct Created {
    /// The first process, in the monitor's PID namespace.
    1 => pid: u32,
    /// When its program was started, nanoseconds since the epoch; 0 if that is still to be asked for.
    2 => started_at: u64,
}

/// See [`Reply::Exec`].
pub struct ExecStarted {
    /// The process, in the monitor's PID namespace.
    1 => pid: u32,
}

/// See [`Reply::Attached`]: which descriptors the frame carries.
pub struct Attached {
    /// First descriptor: write end of the input. For terminals the master: write to it, never read from it.
    1 => stdin: bool,
    /// Next descriptor: read end. It ends when the container's output ends, or when the reader is too slow.
    2 => stdout: bool,
    /// Next descriptor, likewise.
    3 => stderr: bool,
}

/// See [`Reply::State`].
pub struct Snapshot {
    /// Every container that was created and not deleted.
    1 => containers: Vec<Container>,
    /// Every exec'd process that has not ended.
    2 => execs: Vec<RunningExec>,
}

/// One container.
pub struct Container {
    /// Its id.
    1 => id: String,
    /// One of [`status`]'s numbers.
    2 => status: u32,
    /// The first process; 0 before it is created. Not to be signalled after the exit.
    3 => pid: u32,
    /// Nanoseconds since the epoch; 0 if not yet.
    4 => created_at: u64,
    /// Nanoseconds since the epoch; 0 if not yet.
    5 => started_at: u64,
    /// Nanoseconds since the epoch; 0 if not yet.
    6 => finished_at: u64,
    /// Exit code; 128 + n after signal n.
    7 => exit_code: i32,
    /// The signal that ended it, or 0.
    8 => signal: u32,
    /// The kernel killed a process of it for want of memory.
    9 => oom: bool,
    /// Bytes that the monitor wrote to the log file since it opened it.
    10 => log_bytes: u64,
    /// Bytes of output that could not be written (disk full).
    11 => lost_bytes: u64,
    /// Who has its streams now.
    12 => attached: u32,
}

/// One exec'd process.
pub struct RunningExec {
    /// Name from the request.
    1 => exec: String,
    /// Which container.
    2 => container: String,
    /// Its pid; 0 until it runs.
    3 => pid: u32,
}

/// See [`Reply::Error`].
pub struct Failure {
    /// One of [`code`]'s numbers.
    1 => code: u32,
    /// What was being done: `create`, `start`, `exec`, `delete`, `kill`, `log`, …
    2 => step: String,
    /// One clause, lower-case.
    3 => message: String,
    /// Exit code of the OCI runtime, 128 + n after signal n; 0 if it was not run or did not end.
    4 => exit_code: i32,
    /// The OCI runtime's own last words: message of the last error in its log, else the end of its stderr. At most 4 KiB.
    5 => runtime_message: String,
}

/// See [`Event::Started`].
pub struct Started {
    /// Which container.
    1 => container: String,
    /// The first process.
    2 => pid: u32,
    /// Nanoseconds since the epoch.
    3 => started_at: u64,
}

/// See [`Event::Exited`].
pub struct Exited {
    /// Which container.
    1 => container: String,
    /// Exit code; 128 + n after signal n.
    2 => exit_code: i32,
    /// The signal that ended it, or 0.
    3 => signal: u32,
    /// Nanoseconds since the epoch.
    4 => finished_at: u64,
    /// The kernel killed a process of it for want of memory.
    5 => oom: bool,
}

/// See [`Event::ExecExited`].
pub struct ExecExited {
    /// Name from the request.
    1 => exec: String,
    /// Which container.
    2 => container: String,
    /// Exit code; 128 + n after signal n.
    3 => exit_code: i32,
    /// The signal that ended it, or 0.
    4 => signal: u32,
    /// Nanoseconds since the epoch.
    5 => finished_at: u64,
}

/// See [`Event::LogReopened`].
pub struct LogReopened {
    /// Which container.
    1 => container: String,
}

/// See [`Event::Deleted`].
pub struct Deleted {
    /// Which container.
    1 => container: String,
}
}

/// Numbers of [`Container::status`].
pub mod status {
    /// `create` is being run.
    pub const CREATING: u32 = 1;
    /// Created, not started.
    pub const CREATED: u32 = 2;
    /// Started, its first process lives.
    pub const RUNNING: u32 = 3;
    /// The first process has ended.
    pub const EXITED: u32 = 4;
}

/// Numbers of [`Failure::code`].
pub mod code {
    /// The monitor is too old for this request.
    pub const UNKNOWN_REQUEST: u32 = 1;
    /// The request misses something or contradicts itself.
    pub const INVALID: u32 = 2;
    /// No such container or exec'd process.
    pub const NOT_FOUND: u32 = 3;
    /// The name is taken.
    pub const EXISTS: u32 = 4;
    /// Not in this state of the container.
    pub const WRONG_STATE: u32 = 5;
    /// The OCI runtime said no; see `exit_code` and `runtime_message`.
    pub const RUNTIME_FAILED: u32 = 6;
    /// The OCI runtime did not end in time and was killed.
    pub const TIMED_OUT: u32 = 7;
    /// A system call of the monitor failed.
    pub const SYSTEM: u32 = 8;
}

/// A whole frame: header and body of one message.
///
/// # Errors
/// The body would be longer than [`BODY_BYTES_MAX`].
fn frame(kind: u16, id: u32, descriptors: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>, Malformed> {
    let mut bytes = vec![0; HEADER_BYTES];
    fill(&mut bytes);
    let length = bytes.len() - HEADER_BYTES;
    if length > BODY_BYTES_MAX || descriptors > codec::DESCRIPTORS_MAX {
        return Err(Malformed("message is too long for a frame"));
    }
    let header = Header {
        version: VERSION,
        descriptors: u8::try_from(descriptors).map_err(|_| Malformed("too many descriptors"))?,
        kind,
        length: u32::try_from(length).map_err(|_| Malformed("message is too long for a frame"))?,
        id,
    };
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    Ok(bytes)
}

impl Request {
    /// The request as a frame; `descriptors` is how many are sent with it.
    ///
    /// # Errors
    /// It is longer than a frame may be.
    pub fn encode(&self, id: u32, descriptors: usize) -> Result<Vec<u8>, Malformed> {
        frame(self.kind(), id, descriptors, |body| self.encode_body(body))
    }
}

impl Reply {
    /// The reply as a frame; `descriptors` is how many are sent with it.
    ///
    /// # Errors
    /// It is longer than a frame may be.
    pub fn encode(&self, id: u32, descriptors: usize) -> Result<Vec<u8>, Malformed> {
        frame(self.kind(), id, descriptors, |body| self.encode_body(body))
    }
}

impl Event {
    /// The event as a frame.
    ///
    /// # Errors
    /// It is longer than a frame may be.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        frame(self.kind(), 0, 0, |body| self.encode_body(body))
    }
}

/// What a client reads from the monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The answer to the request with this id.
    Reply(u32, Reply),
    /// Something happened.
    Event(Event),
    /// A message of a newer monitor: to be skipped.
    Unknown(u16),
}

impl Incoming {
    /// Reads a frame's content on the client's side.
    ///
    /// # Errors
    /// The body is not what its kind says.
    pub fn decode(header: Header, body: &[u8]) -> Result<Incoming, Malformed> {
        if let Some(reply) = Reply::decode(header.kind, body)? {
            return Ok(Incoming::Reply(header.id, reply));
        }
        Ok(Event::decode(header.kind, body)?.map_or(Incoming::Unknown(header.kind), Incoming::Event))
    }
}

impl Failure {
    /// A failure without a run of the OCI runtime.
    #[must_use]
    pub fn new(code: u32, step: &str, message: impl Into<String>) -> Failure {
        Failure { code, step: step.into(), message: message.into(), ..Failure::default() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.message)?;
        if !self.runtime_message.is_empty() {
            write!(f, ": {}", self.runtime_message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_from_its_frame() {
        let request = Request::Create(Create {
            container: "c".into(),
            bundle: "/b".into(),
            arguments: vec!["--debug".into()],
            terminal: true,
            timeout_milliseconds: 5,
            ..Create::default()
        });
        let bytes = request.encode(7, 0).expect("short");
        let header = Header::decode(&bytes).expect("well-formed").expect("whole");
        assert_eq!((header.id, header.kind, header.length as usize), (7, 2, bytes.len() - HEADER_BYTES));
        assert_eq!(Request::decode(header.kind, &bytes[HEADER_BYTES..]), Ok(Some(request)));
    }

    #[test]
    fn an_unknown_kind_is_not_an_error_of_the_frame() {
        assert_eq!(Request::decode(999, b"whatever"), Ok(None));
        let header = Header { version: 9, descriptors: 0, kind: 0x4fff, length: 0, id: 0 };
        assert_eq!(Incoming::decode(header, &[]), Ok(Incoming::Unknown(0x4fff)));
    }

    #[test]
    fn random_bodies_never_panic() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..20_000_u64 {
            let mut body = Vec::new();
            for _ in 0..round % 40 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                body.push((seed % 7) as u8);
            }
            let _ = Request::decode((round % 14) as u16, &body);
            let _ = Reply::decode(0x8001 + (round % 8) as u16, &body);
        }
    }
}
