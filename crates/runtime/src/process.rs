//! Processes that the runtime itself starts: monitors, and an OCI runtime where no monitor is left to run it.
//!
//! Everything here blocks; callers wrap it in `spawn_blocking`.
#![allow(clippy::disallowed_methods, reason = "the one module of this crate that starts processes")]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use monitor::nursery::Refusal;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};

/// Where OCI runtimes find what they call.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most that is read of what a command says.
const WORDS_BYTES_MAX: u64 = 1 << 20;

/// Runs a command to its end and returns its standard output; the error is the last line it said. One that does not end
/// in time is killed with everything that it has started.
pub(crate) fn run<S: AsRef<OsStr>>(
    program: &OsStr,
    arguments: impl IntoIterator<Item = S>,
    patience: Duration,
) -> io::Result<String> {
    // Files, not pipes: what the command leaves behind may hold them open.
    let [mut said, mut complained] = [words()?, words()?];
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(complained.try_clone()?)
        .process_group(0)
        .spawn()?;
    let is_in_time = ends_within(&child, patience);
    if !is_in_time {
        monitor::tree::kill(child.id());
    } else if !monitor::tree::ended_well(child.id()) {
        // One that failed, or was killed, leaves its helpers; while it is not reaped, the group is its own.
        monitor::tree::kill_group(child.id());
    }
    let status = child.wait()?;
    if !is_in_time {
        let text = format!("it did not end within {patience:?} and was killed");
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    if status.success() {
        return read(&mut said);
    }
    let said = read(&mut complained)?;
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    Err(io::Error::other(if last.is_empty() { status.to_string() } else { last.to_owned() }))
}

fn words() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("words", rustix::fs::MemfdFlags::CLOEXEC)?))
}

/// The first of what was said.
fn read(words: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    words.seek(SeekFrom::Start(0))?;
    words.take(WORDS_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for a child's end; false when it takes too long, or nobody can tell.
fn ends_within(child: &Child, patience: Duration) -> bool {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return false };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let deadline = crate::clock::instant() + patience;
    loop {
        let left = deadline.saturating_duration_since(crate::clock::instant());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) if ready > 0 => return true,
            Ok(_) if left.is_zero() => return false,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Starts monitors, by way of a process that forks them. That process is started when the first monitor is, and again
/// should somebody kill it; it ends with this value.
pub(crate) struct Monitors {
    command: Vec<OsString>,
    nursery: Mutex<Option<Arc<Nursery>>>,
}

struct Nursery {
    socket: Option<OwnedFd>,
    process: Child,
}

impl Drop for Nursery {
    fn drop(&mut self) {
        // It ends when the socket does.
        drop(self.socket.take());
        let _ = self.process.wait();
    }
}

impl Monitors {
    /// `command` is a monitor, such as `/proc/self/exe monitor`.
    pub(crate) fn new(command: Vec<OsString>) -> Monitors {
        Monitors { command, nursery: Mutex::new(None) }
    }

    /// Starts a monitor and returns its pid once it answers on its socket.
    pub(crate) fn start(&self, arguments: &[OsString]) -> io::Result<u32> {
        let mut gone = None;
        for _ in 0..2 {
            let nursery = self.nursery(gone.take())?;
            let Some(socket) = &nursery.socket else { continue };
            match monitor::nursery::ask(socket, arguments) {
                Ok(pid) => return Ok(pid),
                Err(Refusal::Failed(reason)) => return Err(io::Error::other(reason)),
                Err(Refusal::Gone(error)) => {
                    tracing::warn!(%error, "the process that starts monitors is gone");
                    gone = Some(nursery);
                }
            }
        }
        Err(io::Error::other("the process that starts monitors does not stay"))
    }

    /// The nursery, a new one if there is none but `gone`.
    fn nursery(&self, gone: Option<Arc<Nursery>>) -> io::Result<Arc<Nursery>> {
        let mut place = self.nursery.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nursery) = place.as_ref().filter(|nursery| !gone.is_some_and(|gone| Arc::ptr_eq(nursery, &gone))) {
            return Ok(nursery.clone());
        }
        let nursery = Arc::new(start_nursery(&self.command)?);
        *place = Some(nursery.clone());
        Ok(nursery)
    }
}

fn start_nursery(command: &[OsString]) -> io::Result<Nursery> {
    let (program, leading) = command.split_first().ok_or_else(|| io::Error::other("no monitor command is set"))?;
    let (socket, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let process = Command::new(program)
        .args(leading)
        .args(monitor::nursery::arguments())
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()?;
    Ok(Nursery { socket: Some(socket), process })
}

/// First line of `binary --version`.
pub(crate) fn version(binary: &Path, patience: Duration) -> io::Result<String> {
    run(binary.as_os_str(), ["--version"], patience).map(|text| text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> io::Result<String> {
        run(OsStr::new("sh"), ["-c", script], Duration::from_secs(5))
    }

    /// Whether a process that is killed, and may be about to end, has ended.
    fn ends(pid: i32) -> bool {
        let Ok(pidfd) = rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else {
            return true;
        };
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)).unwrap() == 1
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_what_left_its_session() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("pid");
        let script =
            format!("setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; sleep 1000' & sleep 1000", gone.display());
        let error = sh(&script).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::TimedOut, "it did not end within 5s and was killed")
        );
        let pid = std::fs::read_to_string(gone).unwrap();
        assert!(ends(pid.trim().parse().unwrap()), "{pid} lives on");
    }

    #[test]
    fn what_a_command_leaves_behind_is_not_waited_for_and_its_last_line_is_its_reason() {
        let began = crate::clock::instant();
        assert_eq!(sh("echo yes; echo no >&2; sleep 30 &").unwrap(), "yes\n");
        assert!(began.elapsed() < Duration::from_secs(20));
        assert_eq!(sh("echo a >&2; echo b >&2; echo >&2; exit 3").unwrap_err().to_string(), "b");
        assert_eq!(sh("kill -9 $$").unwrap_err().to_string(), "signal: 9 (SIGKILL)");
    }
}
