//! Processes that the runtime itself starts: monitors, and an OCI runtime where no monitor is left to run it.
//!
//! Everything here blocks; callers wrap it in `spawn_blocking`.
#![allow(clippy::disallowed_methods, reason = "the one module of this crate that starts processes")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use monitor::nursery::Refusal;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Where OCI runtimes find what they call.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a command to its end and returns its standard output; the error is the last line it said.
pub(crate) fn run<S: AsRef<OsStr>>(program: &OsStr, arguments: impl IntoIterator<Item = S>) -> io::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    Err(io::Error::other(if last.is_empty() { output.status.to_string() } else { last.to_owned() }))
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
pub(crate) fn version(binary: &Path) -> io::Result<String> {
    run(binary.as_os_str(), ["--version"]).map(|text| text.lines().next().unwrap_or_default().to_owned())
}
