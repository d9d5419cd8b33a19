//! Processes that the runtime itself starts: monitors, and an OCI runtime where no monitor is left to run it.
//!
//! Everything here blocks; callers wrap it in `spawn_blocking`.
#![allow(clippy::disallowed_methods, reason = "the one module of this crate that starts processes")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

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

/// Starts a monitor and returns its pid. The command returns when the monitor answers on its socket.
pub(crate) fn start_monitor(command: &[OsString], arguments: &[OsString]) -> io::Result<u32> {
    let (program, leading) = command.split_first().ok_or_else(|| io::Error::other("no monitor command is set"))?;
    let said = run(program, leading.iter().chain(arguments))?;
    let pid = said.lines().find_map(|line| line.strip_prefix("pid=")).and_then(|pid| pid.parse().ok());
    pid.ok_or_else(|| io::Error::other("the monitor did not tell its pid"))
}

/// First line of `binary --version`.
pub(crate) fn version(binary: &Path) -> io::Result<String> {
    run(binary.as_os_str(), ["--version"]).map(|text| text.lines().next().unwrap_or_default().to_owned())
}
