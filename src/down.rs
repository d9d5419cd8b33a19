//! `sampan down`: every pod stopped in order, with its hooks, then every trace off the machine but the data.
//!
//! One path whether sampan runs, was stopped or crashed: a running process is ended first (pods survive that), then this
//! process drains the node with components of its own (decision 0002). Each step is idempotent.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio_util::sync::CancellationToken;

use crate::instance::{Instance, Lock};
use crate::output::{Steps, line};
use crate::settings::{Resolved, Settings};
use crate::wiring::{self, ControlPlane};
use crate::{join, kubeconfig};

/// How long a running instance may take to end after SIGTERM.
const END_SECONDS: i64 = 15;

/// Stops all pods and sampan; with `purge` removes the data too.
pub fn run(settings: Settings, purge: bool) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("sampan down removes mounts, links and cgroups and so needs root; try: sudo sampan down");
    }
    let instance = settings.instance();
    if !instance.data_dir.exists() && !instance.run_dir.exists() {
        line("sampan is not installed here: nothing to stop");
        return Ok(());
    }
    let mut resolved = settings.over_last(&instance)?.resolve()?;
    crate::handlers::forgive(&mut resolved);
    crate::settings::audit::off_stdout(&mut resolved);
    let mut steps = Steps::begin();
    let lock = take(&instance)?;
    steps.done("the running process has ended");
    wiring::executor()?.block_on(drain(&resolved, &mut steps))?;
    kubeconfig::unmerge(&instance.name())?;
    remove_traces(&instance, purge)?;
    drop(lock);
    steps.done(if purge { "directories and data removed" } else { "run directory removed; the data is kept" });
    line(&format!("down in {}", crate::output::milliseconds(steps.elapsed())));
    Ok(())
}

/// Ends a running process and holds the instance's lock, so that nobody starts it meanwhile.
fn take(instance: &Instance) -> anyhow::Result<Lock> {
    std::fs::create_dir_all(&instance.run_dir).with_context(|| format!("make {}", instance.run_dir.display()))?;
    for signal in [Signal::TERM, Signal::KILL] {
        let pid = match instance.lock()? {
            Ok(lock) => return Ok(lock),
            Err(pid) => pid,
        };
        let pid =
            i32::try_from(pid).ok().and_then(Pid::from_raw).context("the running instance's process is unknown")?;
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let _ = pidfd_send_signal(&process, signal);
        let timeout = Timespec { tv_sec: END_SECONDS, tv_nsec: 0 };
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout))?;
    }
    match instance.lock()? {
        Ok(lock) => Ok(lock),
        Err(pid) => bail!("process {pid} holds {} and does not end", instance.run_dir.display()),
    }
}

async fn drain(resolved: &Resolved, steps: &mut Steps) -> anyhow::Result<()> {
    let cancel = CancellationToken::new();
    let certificates = wiring::certificates(resolved)?;
    let api = async {
        match join::joined(&resolved.instance)? {
            Some(kubeconfig) => wiring::client_from(&kubeconfig).await,
            None => {
                let plane = ControlPlane::start(resolved, &certificates, cancel.clone()).await?;
                Ok(plane.client_of_node(resolved))
            }
        }
    };
    let (api, runtime) = tokio::try_join!(api, wiring::container_runtime(resolved, cancel.clone()))?;
    wiring::drain_node(resolved, api, &runtime).await?;
    steps.done("all pods stopped");
    runtime.runtime.tear_down().await.context("take the runtime's traces off the machine")?;
    remove_cgroups(&resolved.instance.cgroup_top());
    steps.done("mounts, links, rules and cgroups removed");
    cancel.cancel();
    // Everything below ends by itself: the process is about to exit.
    tokio::time::sleep(Duration::ZERO).await;
    Ok(())
}

/// Removes the instance's cgroups in every hierarchy, children first. What is not empty stays and is said.
fn remove_cgroups(top: &str) {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    for base in hierarchies.chain(["/sys/fs/cgroup".into()]) {
        let dir = base.join(top.trim_start_matches('/'));
        if dir.join("cgroup.procs").exists() {
            remove_cgroup(&dir);
        }
    }
}

fn remove_cgroup(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    if let Err(error) = std::fs::remove_dir(dir) {
        tracing::warn!(cgroup = %dir.display(), %error, "the cgroup could not be removed");
    }
}

fn remove_traces(instance: &Instance, purge: bool) -> anyhow::Result<()> {
    remove_tree(&instance.run_dir)?;
    if purge {
        remove_tree(&instance.data_dir)?;
        if instance.log_dir() == Path::new("/var/log/pods") {
            // The place is shared with other node agents: it goes when nothing of anybody is left in it.
            let _ = std::fs::remove_dir(instance.log_dir());
            let _ = std::fs::remove_dir(instance.log_dir().with_file_name("containers"));
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
