//! `up --detach`: the same program again in a session of its own, watched until its node is Ready.
//!
//! The child writes its steps to a pipe that the parent relays, and everything else to the log file. One line of the
//! pipe is a marker: after it the parent returns. A pipe that ends without the marker is a failed start.
#![allow(clippy::disallowed_methods)]

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::instance::Instance;
use crate::output::{complain, line};
use crate::settings::Settings;

/// The line that says: the node is Ready.
pub const READY: &str = "\u{1}ready";

/// Starts a detached instance and waits until it is ready or has failed.
pub fn up(settings: &Settings) -> anyhow::Result<()> {
    let instance = settings.instance();
    if let Some(pid) = instance.running() {
        line(&crate::up::already_running(&instance, pid));
        return Ok(());
    }
    // What can fail early fails here, on the terminal, before a directory is made.
    let resolved = settings.clone().resolve()?;
    crate::settings::audit::refuse_stdout(&resolved)?;
    crate::up::preflight(&resolved)?;
    instance.prepare()?;
    let mut log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(instance.log_file())
        .with_context(|| format!("open {}", instance.log_file().display()))?;
    let log_start = log.seek(SeekFrom::End(0))?;
    let mut child = command()?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?)
        .spawn()
        .context("start sampan in the background")?;
    let pipe = child.stdout.take().context("the child has no standard output")?;
    for read in BufReader::new(pipe).lines() {
        let read = read.context("read what the background process says")?;
        if read == READY {
            return Ok(());
        }
        line(&read);
    }
    let status = child.wait()?;
    report_log(&mut log, log_start, &instance);
    bail!("sampan did not start ({status}); its log is {}", instance.log_file().display())
}

/// This program with the same words, less `--detach`, leading a session of its own.
fn command() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(std::env::args_os().skip(1).filter(|word| word != "--detach"));
    command.env("SAMPAN_DETACHED", "1");
    // Two arenas are enough for two or three busy threads, and keep the idle memory small.
    command.env("MALLOC_ARENA_MAX", "2");
    command.process_group(0);
    Ok(command)
}

/// What the failed start logged, at most its last 4 KiB.
fn report_log(log: &mut std::fs::File, start: u64, instance: &Instance) {
    let end = log.seek(SeekFrom::End(0)).unwrap_or(start);
    let from = start.max(end.saturating_sub(4096));
    let mut text = String::new();
    if log.seek(SeekFrom::Start(from)).is_ok() && log.take(4096).read_to_string(&mut text).is_ok() {
        complain(text.trim_end());
    } else {
        complain(&format!("see {}", instance.log_file().display()));
    }
}
