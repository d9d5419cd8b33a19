//! The kernel's side of cgroups: hierarchies, directories, settings, killing.
//!
//! A leaf of file system calls. A *hierarchy* is one mount of cgroup v1 (with its controllers) or the one of v2.

use super::{CPU_PERIOD_US, Settings};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The v1 controllers in which a pod gets its cgroup from us; in others the runtime makes its own as needed.
const WANTED: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "freezer"];
/// The v2 controllers that are passed down as far as they are there.
const DELEGATED: [&str; 6] = ["cpu", "memory", "pids", "io", "cpuset", "hugetlb"];

/// One mounted hierarchy.
#[derive(Debug)]
struct Hierarchy {
    root: PathBuf,
    /// Empty for v2, whose controllers are enabled directory by directory.
    controllers: Vec<String>,
    is_v2: bool,
}

/// All mounted hierarchies.
#[derive(Debug)]
pub(super) struct Tree {
    hierarchies: Vec<Hierarchy>,
}

/// What a cgroup uses; `None` where no hierarchy tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory but for file pages that have not been touched for long.
    pub working_set_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Tree {
    /// Reads what is mounted on this machine.
    pub fn discover() -> Tree {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Tree { hierarchies: parse(&table) }
    }

    /// True when memory is controlled by v2.
    pub fn is_v2(&self) -> bool {
        let has_memory = |h: &Hierarchy| h.controllers.iter().any(|c| c == "memory");
        !self.hierarchies.iter().any(has_memory) && self.hierarchies.iter().any(|h| h.is_v2)
    }

    /// Makes the directory in the hierarchies that count. Fails only when there are such and none took it.
    pub fn create(&self, path: &str) -> io::Result<()> {
        let wanted = |h: &&Hierarchy| h.is_v2 || h.controllers.iter().any(|c| WANTED.contains(&c.as_str()));
        // Beside v1, v2 holds what nobody mounted elsewhere: to pass that down would bind it there for good, and an OCI
        // runtime that wants it on v1 could not have it any more.
        let passes_down = self.is_v2();
        let results: Vec<_> = self.hierarchies.iter().filter(wanted).map(|h| h.create(path, passes_down)).collect();
        if results.is_empty() || results.iter().any(Result::is_ok) {
            return Ok(());
        }
        results.into_iter().collect()
    }

    /// Applies settings where their controller is; returns those that the kernel refused.
    pub fn set(&self, path: &str, settings: Settings) -> Vec<(&'static str, io::Error)> {
        let mut refused = Vec::new();
        for hierarchy in &self.hierarchies {
            let directory = hierarchy.directory(path);
            for (file, value) in hierarchy.values(settings) {
                let file_path = directory.join(file);
                if file_path.exists()
                    && let Err(error) = fs::write(&file_path, value)
                {
                    refused.push((file, error));
                }
            }
        }
        refused
    }

    /// What a cgroup with all below it uses; "" is the machine.
    pub fn usage(&self, path: &str) -> Usage {
        let directories = || self.hierarchies.iter().map(|h| h.directory(path));
        Usage {
            working_set_bytes: directories().find_map(|directory| working_set(&directory)),
            pids: directories().find_map(|directory| number(&directory, "pids.current")),
        }
    }

    /// The names of the child cgroups in any hierarchy.
    pub fn children(&self, path: &str) -> BTreeSet<String> {
        let directories = self.hierarchies.iter().map(|h| h.directory(path));
        directories.flat_map(|d| subdirectories(&d)).filter_map(|d| Some(d.file_name()?.to_str()?.to_owned())).collect()
    }

    /// Kills everything in the cgroup and below it and removes the directories, children first. `Err` while processes
    /// are still dying.
    pub fn kill_and_remove(&self, path: &str) -> io::Result<()> {
        let directories: Vec<_> = self.hierarchies.iter().map(|h| h.directory(path)).filter(|d| d.is_dir()).collect();
        for directory in &directories {
            kill(directory);
        }
        let results: Vec<_> = directories.iter().map(|d| remove(d)).collect();
        results.into_iter().collect()
    }
}

impl Hierarchy {
    fn directory(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn create(&self, path: &str, passes_down: bool) -> io::Result<()> {
        fs::create_dir_all(self.directory(path))?;
        if self.is_v2 && passes_down {
            self.delegate(path);
        }
        Ok(())
    }

    /// Enables the controllers from the root down to and in the cgroup itself: its children are containers.
    fn delegate(&self, path: &str) {
        let mut directory = self.root.clone();
        let parts = path.split('/').filter(|p| !p.is_empty());
        for part in std::iter::once("").chain(parts) {
            directory.push(part);
            for controller in DELEGATED {
                // One by one, since a single missing controller would refuse the whole line.
                let _absent = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }

    fn values(&self, settings: Settings) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        if self.is_v2 {
            out.extend(settings.cpu_shares.map(|s| ("cpu.weight", weight(s).to_string())));
            out.extend(settings.cpu_quota_us.filter(|q| *q > 0).map(|q| ("cpu.max", format!("{q} {CPU_PERIOD_US}"))));
            out.extend(settings.memory_bytes.map(|bytes| ("memory.max", bytes.to_string())));
        } else {
            out.extend(settings.cpu_shares.map(|s| ("cpu.shares", s.to_string())));
            if let Some(quota) = settings.cpu_quota_us.filter(|q| *q > 0) {
                out.push(("cpu.cfs_period_us", CPU_PERIOD_US.to_string()));
                out.push(("cpu.cfs_quota_us", quota.to_string()));
            }
            out.extend(settings.memory_bytes.map(|bytes| ("memory.limit_in_bytes", bytes.to_string())));
        }
        out
    }
}

/// What is used but for inactive file pages. The root of v2 has no figure of its own; its parts add up to it.
fn working_set(directory: &Path) -> Option<u64> {
    let table = fs::read_to_string(directory.join("memory.stat")).ok()?;
    let stat = |name: &str| {
        let mut fields = table.lines().filter_map(|line| line.split_once(' '));
        fields.find(|(key, _)| *key == name).and_then(|(_, value)| value.trim().parse::<u64>().ok())
    };
    let used = number(directory, "memory.usage_in_bytes").or_else(|| number(directory, "memory.current"));
    let used = used.or_else(|| Some(stat("anon")?.saturating_add(stat("file")?)))?;
    let inactive = stat("total_inactive_file").or_else(|| stat("inactive_file")).unwrap_or(0);
    Some(used.saturating_sub(inactive))
}

fn number(directory: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
}

/// The v2 weight (1..10000) of v1 shares (2..262144).
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// The cgroup mounts of a mountinfo table; of several mounts of one hierarchy the first.
fn parse(table: &str) -> Vec<Hierarchy> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (left, right): (Vec<_>, Vec<_>) = (left.split(' ').collect(), right.split(' ').collect());
        let (Some(device), Some(point), Some(kind)) = (left.get(2), left.get(4), right.first()) else { continue };
        if !kind.starts_with("cgroup") || !seen.insert((*device).to_owned()) {
            continue;
        }
        let options = right.get(2).copied().unwrap_or_default();
        let is_v2 = *kind == "cgroup2";
        let controllers = options.split(',').filter(|o| !is_v2 && *o != "rw").map(str::to_owned).collect();
        out.push(Hierarchy { root: PathBuf::from(point), controllers, is_v2 });
    }
    out
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// SIGKILL to all processes of a cgroup and its children: at one stroke where the kernel can, else one by one.
fn kill(directory: &Path) {
    if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for child in subdirectories(directory) {
        kill(&child);
    }
    let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        // A process that is gone already is what we want.
        let _gone = kill_process(pid, Signal::KILL);
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    for child in subdirectories(directory) {
        remove(&child)?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_once_each_with_their_controllers() {
        let table = "30 25 0:26 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
                     31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                     32 25 0:26 /x /mnt rw - cgroup cgroup rw,cpu,cpuacct\n33 1 8:1 / / rw - ext4 /dev/sda rw\n";
        let found = parse(table);
        let plain: Vec<_> =
            found.iter().map(|h| (h.root.to_str().unwrap(), h.controllers.join(","), h.is_v2)).collect();
        assert_eq!(
            plain,
            [("/sys/fs/cgroup/cpu", "cpu,cpuacct".to_owned(), false), ("/sys/fs/cgroup/unified", String::new(), true)]
        );
    }

    #[test]
    fn the_working_set_leaves_out_what_the_kernel_can_drop_in_each_version() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        assert_eq!(working_set(directory.path()), None);
        write("memory.stat", "anon 100\nfile 50\nactive_file 20\ninactive_file 30\n");
        assert_eq!(working_set(directory.path()), Some(120), "the root of v2");
        write("memory.current", "170\n");
        assert_eq!(working_set(directory.path()), Some(140), "v2");
        write("memory.stat", "cache 1\ninactive_file 30\ntotal_inactive_file 40\n");
        write("memory.usage_in_bytes", "200\n");
        assert_eq!(working_set(directory.path()), Some(160), "v1, with those below");
    }

    #[test]
    fn shares_become_weights_at_both_ends_of_the_scale() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }
}
