//! What is known of the handlers before a pod needs them: whether each works here, how long a container takes to start,
//! and how much memory a pod's sandbox takes beyond its containers' processes.
//!
//! Whoever asks for the verbose Status gets them. A handler is tested when it is new or its program has changed; memory is
//! measured now and again. Nothing here is needed by any verb. Start at [`run`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::check::{Place, test};
use crate::core::Core;
use crate::options::Handler;
use crate::rootfs;
use crate::startup::erase_cgroup;
use crate::state::{Phase, Sandbox, Stage, lock};

/// Until the first look: starting up and taking over come first.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What is known, by handler.
#[derive(Default)]
pub(crate) struct Figures {
    known: Mutex<BTreeMap<String, Figure>>,
    /// Held while a handler is tried out; true once no other may be.
    is_closed: Mutex<bool>,
}

#[derive(Clone, Debug, Default)]
struct Figure {
    tested: Option<Tested>,
    /// Median over the live pods of the last look that had some.
    sandbox_memory_bytes: u64,
    pods: usize,
}

#[derive(Clone, Debug)]
struct Tested {
    /// What was tested: another program or other arguments are tested anew.
    of: (Handler, Option<Program>),
    /// Version and milliseconds, or why it does not work.
    outcome: Result<(String, u128), String>,
}

/// A file on disk as long as nobody changes it: device, inode, size, time.
type Program = (u64, u64, u64, i64);

impl Figures {
    /// As JSON: handler → figures, for those that were tested.
    pub(crate) fn to_value(&self) -> Value {
        let all = lock(&self.known);
        let tested = all.iter().filter_map(|(name, figure)| Some((name, figure, figure.tested.as_ref()?)));
        tested.map(|(name, figure, tested)| (name.clone(), figure.to_value(&tested.outcome))).collect()
    }
}

impl Figure {
    fn to_value(&self, outcome: &Result<(String, u128), String>) -> Value {
        let mut value =
            json!({ "works": outcome.is_ok(), "sandboxMemoryBytes": self.sandbox_memory_bytes, "pods": self.pods });
        match outcome {
            Ok((version, milliseconds)) => {
                value["version"] = version.as_str().into();
                value["coldStartMs"] = u64::try_from(*milliseconds).unwrap_or(u64::MAX).into();
            }
            Err(reason) => value["reason"] = reason.as_str().into(),
        }
        value
    }
}

/// Looks until the runtime ends.
pub(crate) async fn run(core: Arc<Core>) {
    let mut pause = FIRST_LOOK;
    loop {
        if core.cancel.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        let inner = core.clone();
        // A look that panics is a look less.
        let _ = tokio::task::spawn_blocking(move || look(&inner)).await;
        pause = LOOK_AGAIN;
    }
}

fn look(core: &Core) {
    let table = core.handlers.table();
    lock(&core.figures.known).retain(|name, _| table.all.contains_key(name));
    for handler in table.all.values() {
        if core.cancel.is_cancelled() {
            return;
        }
        let of = (handler.clone(), handler.executable().ok().and_then(|binary| program(&binary)));
        let known = lock(&core.figures.known).get(&handler.name).and_then(|figure| figure.tested.clone());
        if known.is_none_or(|known| known.of != of) {
            let outcome = try_out(core, handler);
            lock(&core.figures.known).entry(handler.name.clone()).or_default().tested = Some(Tested { of, outcome });
        }
    }
    let sandboxes = core.state.sandboxes();
    let measured = measure(core, &sandboxes);
    for (name, figure) in lock(&core.figures.known).iter_mut() {
        let mut bytes = measured.get(name).cloned().unwrap_or_default();
        bytes.sort_unstable();
        figure.pods = bytes.len();
        if let Some(median) = bytes.get(bytes.len() / 2) {
            figure.sandbox_memory_bytes = *median;
        }
    }
}

fn try_out(core: &Core, handler: &Handler) -> Result<(String, u128), String> {
    let is_closed = lock(&core.figures.is_closed);
    if *is_closed {
        return Err("it was not tried out".into());
    }
    let place = place(core);
    let tested = test(handler, &place, core.command_timeout);
    let _ = fs::remove_dir_all(&place.scratch);
    match tested {
        Ok(passed) => Ok((passed.version, passed.cold_start.as_millis())),
        Err(error) => {
            tracing::info!(handler = handler.name, %error, "does not work here");
            Err(error.to_string())
        }
    }
}

/// Where handlers are tested: within what is this runtime's alone, so that the next one can sweep it.
fn place(core: &Core) -> Place {
    Place { scratch: core.layout.run.join("self-test"), cgroup: format!("{}/self-test", core.cgroup_top) }
}

/// No handler is tried out any more. Blocks until a test that is under way has ended.
pub(crate) fn close(core: &Core) {
    *lock(&core.figures.is_closed) = true;
}

/// Removes what a test has left whose runtime was killed. Blocks.
pub(crate) fn sweep(core: &Core) -> Result<(), crate::Error> {
    let Place { scratch, cgroup } = place(core);
    erase_cgroup(core, &cgroup)?;
    rootfs::remove_tree(&scratch, &[])
}

/// Bytes of each live pod with a running container, by handler.
fn measure(core: &Core, sandboxes: &[Arc<Sandbox>]) -> BTreeMap<String, Vec<u64>> {
    let runs = |sandbox: &&Arc<Sandbox>| {
        sandbox.live().phase == Phase::Ready
            && core.state.containers_in(sandbox.id()).iter().any(|container| container.stage() == Stage::Running)
    };
    let mut by_handler: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, parent) in monitor::tree::processes() {
        children.entry(parent).or_default().push(pid);
    }
    for sandbox in sandboxes.iter().filter(runs) {
        let bytes = sandbox_bytes(sandbox.live().pid, &sandbox.record.binary, &children);
        by_handler.entry(sandbox.record.handler_name()).or_default().push(bytes);
    }
    by_handler
}

/// The share in memory of a pod's monitor and of all below it that runs the monitor's program or the OCI runtime's: the
/// pause process, a sandbox's kernel. A container's own processes run neither.
fn sandbox_bytes(monitor: u32, binary: &Path, children: &BTreeMap<u32, Vec<u32>>) -> u64 {
    counted(monitor, binary, children).into_iter().map(pss_bytes).sum()
}

fn counted(monitor: u32, binary: &Path, children: &BTreeMap<u32, Vec<u32>>) -> BTreeSet<u32> {
    let programs: BTreeSet<(u64, u64)> =
        [executable(monitor), binary.into()].iter().filter_map(|path| identity(path)).collect();
    let (mut found, mut open) = (BTreeSet::new(), vec![monitor]);
    while let Some(pid) = open.pop() {
        open.extend(children.get(&pid).into_iter().flatten());
        if identity(&executable(pid)).is_some_and(|program| programs.contains(&program)) {
            found.insert(pid);
        }
    }
    found
}

fn executable(pid: u32) -> PathBuf {
    format!("/proc/{pid}/exe").into()
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn program(path: &Path) -> Option<Program> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino(), found.size(), found.mtime()))
}

/// A process's share: what it shares with others is divided among them. 0 if it has ended.
fn pss_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() << 10
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests start processes")]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_the_sandboxes_programs_is_counted() {
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let children = BTreeMap::from([(own, vec![child.id()])]);
        // Only then does it run its own program.
        let sleep = crate::handlers::find_program("sleep").unwrap();
        let began = crate::clock::instant();
        while identity(&executable(child.id())) != identity(&sleep) {
            assert!(began.elapsed() < std::time::Duration::from_secs(60), "the child does not begin");
            std::thread::yield_now();
        }
        assert_eq!(counted(own, Path::new("/nowhere"), &BTreeMap::new()), [own].into());
        assert_eq!(counted(own, Path::new("/nowhere"), &children), [own].into(), "a stranger");
        // As if `sleep` were the OCI runtime.
        assert_eq!(counted(own, &sleep, &children), [own, child.id()].into());
        let alone = sandbox_bytes(own, Path::new("/nowhere"), &children);
        let share = sandbox_bytes(child.id(), &sleep, &BTreeMap::new());
        assert!(alone > 100 << 10 && share > 0 && share < alone, "{alone} {share}");
        let with_binary: BTreeSet<_> =
            [executable(child.id()), sleep].iter().filter_map(|path| identity(path)).collect();
        assert_eq!(with_binary.len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(pss_bytes(child.id()), 0);
    }
}
