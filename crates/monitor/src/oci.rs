//! Runs of the OCI runtime's command line: runc, crun, runsc (wall "OCI runtime").
//!
//! Owns the command lines, and what a runtime says when it fails. It never waits: a [`Run`] is polled by
//! its pidfd. Start with [`Runtime`] and [`Run::start`].
#![allow(clippy::disallowed_methods, reason = "the one module of this crate that starts processes")]

use crate::clock;
use crate::sys;
use crate::tree;
use crate::wire::{Failure, code};
use rustix::fs::MemfdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, waitid};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Time for a step when the request does not say.
const TIMEOUT_MILLISECONDS: u64 = 120_000;
/// Longest text of a runtime that goes into a reply.
const MESSAGE_BYTES_MAX: usize = 4096;

/// How a container's OCI runtime is called.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The executable.
    pub binary: PathBuf,
    /// `--root`; empty for the runtime's default.
    pub root: PathBuf,
    /// Further global arguments.
    pub arguments: Vec<String>,
    /// Time for a step whose request does not say; 0 is the default.
    pub timeout_milliseconds: u64,
}

/// Descriptors for a run; what is `None` is `/dev/null` for stdin, and a buffer for the others.
#[derive(Debug, Default)]
pub struct Stdio3 {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// One run of the OCI runtime in progress.
#[derive(Debug)]
pub struct Run {
    /// `create`, `start`, …
    pub step: &'static str,
    child: Child,
    /// Readable when the run has ended.
    pub pidfd: OwnedFd,
    /// Monotonic milliseconds.
    pub deadline: u64,
    timed_out: bool,
    log: PathBuf,
    words: File,
    /// Where the runtime writes a pid, if the step makes a process.
    pub pid_file: Option<PathBuf>,
    console: Option<(UnixListener, PathBuf)>,
}

/// What a run needs beside its arguments.
#[derive(Debug, Default)]
pub struct Plan {
    /// Subcommand and its arguments, without the container's id.
    pub arguments: Vec<OsString>,
    /// Comes last.
    pub container: String,
    /// Comes after the id (`kill ID SIGNAL`).
    pub trailing: Vec<OsString>,
    /// Ask for a pid file.
    pub makes_process: bool,
    /// Ask for a console socket.
    pub terminal: bool,
    /// 0 is the runtime's.
    pub timeout_milliseconds: u64,
}

/// Refuses what the kernel does not run: `execvp` would hand it to a shell.
fn check_format(program: &Path) -> io::Result<()> {
    if program.is_relative() {
        return Ok(());
    }
    let mut begin = [0; 4];
    let read = File::open(program)?.read(&mut begin)?;
    match begin[..read].starts_with(b"#!") || begin == *b"\x7fELF" {
        true => Ok(()),
        false => Err(rustix::io::Errno::NOEXEC.into()),
    }
}

impl Run {
    /// Starts the runtime. Scratch files are named by `number` in the current directory.
    pub fn start(step: &'static str, runtime: &Runtime, number: u64, plan: Plan, stdio: Stdio3) -> io::Result<Run> {
        // Some runtimes change their directory, so scratch files have absolute names; through /proc they are short,
        // as socket addresses must be.
        let scratch = PathBuf::from(format!("/proc/{}/cwd", std::process::id()));
        let log = scratch.join(format!("oci.{number}.log"));
        let words = File::from(rustix::fs::memfd_create("words", MemfdFlags::CLOEXEC)?);
        let mut command = Command::new(&runtime.binary);
        if !runtime.root.as_os_str().is_empty() {
            command.arg("--root").arg(&runtime.root);
        }
        command.arg("--log").arg(&log).args(["--log-format", "json"]).args(&runtime.arguments).args(&plan.arguments);
        let pid_file = plan.makes_process.then(|| scratch.join(format!("oci.{number}.pid")));
        if let Some(path) = &pid_file {
            command.arg("--pid-file").arg(path);
        }
        let console = if plan.terminal {
            let path = scratch.join(format!("oci.{number}.tty"));
            let listener = UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            command.arg("--console-socket").arg(&path);
            Some((listener, path))
        } else {
            None
        };
        command.arg(&plan.container).args(&plan.trailing);
        sys::unblock_signals(&mut command);
        command.stdin(stdio.stdin.map_or_else(Stdio::null, Stdio::from));
        command.stdout(stdio.stdout.map_or_else(|| words.try_clone().map(Stdio::from), |fd| Ok(Stdio::from(fd)))?);
        command.stderr(stdio.stderr.map_or_else(|| words.try_clone().map(Stdio::from), |fd| Ok(Stdio::from(fd)))?);
        // An own process group, so that what a failed run leaves is found.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        check_format(&runtime.binary)?;
        let mut child = command.spawn()?;
        let pidfd = match open_pidfd(child.id()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let asked = [plan.timeout_milliseconds, runtime.timeout_milliseconds];
        let time = asked.into_iter().find(|time| *time > 0).unwrap_or(TIMEOUT_MILLISECONDS);
        let deadline = clock::monotonic_milliseconds().saturating_add(time);
        Ok(Run { step, child, pidfd, deadline, timed_out: false, log, words, pid_file, console })
    }

    /// Kills the run with all that it has started; its end is seen by the pidfd as always.
    pub fn time_out(&mut self) {
        self.timed_out = true;
        self.give_up();
    }

    /// Kills the run with all that it has started: nobody needs what it was to do.
    pub fn give_up(&mut self) {
        self.deadline = u64::MAX;
        tree::kill(self.child.id());
    }

    /// To be called once the pidfd is readable: the pid it made, if it makes one, and the terminal; or why not.
    /// `own_words` is what the runtime wrote where its words are not kept by the run itself.
    pub fn finish(mut self, own_words: impl FnOnce() -> Vec<u8>) -> Result<Outcome, Failure> {
        let result = self.outcome(own_words);
        let _ = fs::remove_file(&self.log);
        if let Some(path) = &self.pid_file {
            let _ = fs::remove_file(path);
        }
        if let Some((_, path)) = &self.console {
            let _ = fs::remove_file(path);
        }
        result
    }

    fn outcome(&mut self, own_words: impl FnOnce() -> Vec<u8>) -> Result<Outcome, Failure> {
        let system = |error: io::Error, what: &str| Failure::new(code::SYSTEM, self.step, format!("{what}: {error}"));
        if !tree::ended_well(self.child.id()) {
            // A runtime that was killed leaves its helpers; while it is not reaped, the group is its own.
            tree::kill_group(self.child.id());
        }
        let status = self.child.wait().map_err(|error| system(error, "waiting for the runtime"))?;
        if self.timed_out {
            return Err(Failure::new(code::TIMED_OUT, self.step, "the runtime did not end in time and was killed"));
        }
        if !status.success() {
            return Err(Failure {
                exit_code: exit_code(status),
                runtime_message: self.last_words(own_words),
                ..Failure::new(code::RUNTIME_FAILED, self.step, format!("the runtime ended with {status}"))
            });
        }
        let pid = match &self.pid_file {
            Some(path) => match read_pid(path) {
                Ok(pid) => Some(pid),
                Err(error) => {
                    let message = format!("the runtime ended well and told no process: {error}");
                    let runtime_message = self.last_words(own_words);
                    return Err(Failure { runtime_message, ..Failure::new(code::SYSTEM, self.step, message) });
                }
            },
            None => None,
        };
        let master = match &self.console {
            Some((listener, _)) => Some(take_master(listener).map_err(|error| system(error, "taking the terminal"))?),
            None => None,
        };
        Ok(Outcome { pid, master })
    }

    fn last_words(&mut self, own_words: impl FnOnce() -> Vec<u8>) -> String {
        if let Some(message) = fs::read_to_string(&self.log).ok().and_then(|text| last_error(&text)) {
            return cut(message);
        }
        let mut words = own_words();
        if words.is_empty() && self.words.seek(SeekFrom::Start(0)).is_ok() {
            let _ = (&self.words).take(64 * 1024).read_to_end(&mut words);
        }
        let start = words.len().saturating_sub(MESSAGE_BYTES_MAX);
        cut(String::from_utf8_lossy(&words[start..]).trim().to_owned())
    }
}

/// What a run that went well has made.
#[derive(Debug)]
pub struct Outcome {
    /// The process.
    pub pid: Option<u32>,
    /// Its terminal's master.
    pub master: Option<OwnedFd>,
}

/// Opens a pidfd. The process must be a child of ours that nobody has reaped, else the pid may be a stranger's.
pub fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Like [`open_pidfd`], for a pid that an OCI runtime has told: a wrong one would give us a stranger to wait for, and to
/// kill.
pub fn open_told_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let not_ours = || io::Error::new(io::ErrorKind::InvalidData, format!("the runtime told {pid}, no process it made"));
    let pidfd = open_pidfd(pid).map_err(|_| not_ours())?;
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(pidfd.as_fd()), peek).map_err(|_| not_ours())?;
    Ok(pidfd)
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn read_pid(path: &Path) -> io::Result<u32> {
    fs::read_to_string(path)?.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Takes the master that the runtime has sent before it ended.
fn take_master(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (socket, _) = listener.accept()?;
    socket.set_nonblocking(true)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0_u8; 4096];
    rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(master) = descriptors.next()
        {
            return Ok(master);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the runtime sent no terminal"))
}

/// The message of the last error in a runtime's JSON log.
fn last_error(log: &str) -> Option<String> {
    let errors = |line: &&str| line.contains("\"level\":\"error\"") || line.contains("\"level\":\"fatal\"");
    log.lines().rev().find(errors).and_then(|line| json_text(line, "msg"))
}

/// The text value of `key` in a flat JSON object.
fn json_text(line: &str, key: &str) -> Option<String> {
    let quoted = format!("\"{key}\"");
    let rest = line[line.find(&quoted)? + quoted.len()..].trim_start().strip_prefix(':')?.trim_start();
    let mut characters = rest.strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'u' => {
                    let digits: String = characters.by_ref().take(4).collect();
                    let number = u32::from_str_radix(&digits, 16).ok()?;
                    text.push(char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

fn cut(mut text: String) -> String {
    let mut end = MESSAGE_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Arguments as the command line wants them.
pub fn words<const N: usize>(words: [&OsStr; N]) -> Vec<OsString> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_runtime_log_is_found() {
        let log = concat!(
            "{\"level\":\"warning\",\"msg\":\"w\",\"time\":\"t\"}\n",
            "{\"level\":\"error\",\"msg\":\"exec: \\\"foo\\\": not found\\u0021\",\"time\":\"t\"}\n",
            "{\"level\":\"info\",\"msg\":\"i\"}\n"
        );
        assert_eq!(last_error(log).as_deref(), Some("exec: \"foo\": not found!"));
        assert_eq!(
            last_error("{ \"msg\":\"open `x`: No such file\", \"level\":\"error\", \"time\":\"t\" }").as_deref(),
            Some("open `x`: No such file")
        );
        assert_eq!(last_error("{\"level\":\"error\",\"msg\":\"trunc"), None);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("é".repeat(4000)).len(), MESSAGE_BYTES_MAX);
    }
}
