//! Cgroups, version 1, version 2 and both at once: finding, making, reading, killing, removing.
//!
//! Owns no policy: paths come from the node (`cgroup_parent`), limits are set by the OCI runtime. Everything blocks.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The mounted hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Version 1: controller (or `name=…`) → mount point.
    pub v1: BTreeMap<String, PathBuf>,
    /// Mount point of version 2, if it is mounted.
    pub v2: Option<PathBuf>,
}

/// Times that a kill is repeated before giving up, and the pause between them.
const KILL_ROUNDS: usize = 200;
const KILL_PAUSE: Duration = Duration::from_millis(5);

impl Hierarchies {
    pub(crate) fn find() -> io::Result<Hierarchies> {
        Ok(Hierarchies::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Hierarchies {
        let mut found = Hierarchies::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(target) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if found.v2.is_none() => found.v2 = Some(target.into()),
                Some("cgroup") => {
                    for option in right.nth(1).unwrap_or_default().split(',').filter(|option| is_controller(option)) {
                        found.v1.entry(option.to_owned()).or_insert_with(|| target.into());
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Version 2 alone: the limits are there.
    pub(crate) fn is_unified(&self) -> bool {
        self.v1.is_empty() && self.v2.is_some()
    }

    /// The directory that accounts a controller for a cgroup.
    pub(crate) fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let root = self.v1.get(controller).or(if self.v1.is_empty() { self.v2.as_ref() } else { None })?;
        Some(root.join(path.trim_start_matches('/')))
    }

    /// Every directory of a cgroup, in all hierarchies.
    pub(crate) fn directories(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        let mut roots: Vec<&PathBuf> = self.v1.values().chain(&self.v2).collect();
        roots.sort();
        roots.dedup();
        // The empty path would be the machine itself.
        if path.is_empty() { Vec::new() } else { roots.into_iter().map(|root| root.join(path)).collect() }
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.directories(path).iter().any(|directory| directory.is_dir())
    }

    /// Makes a cgroup in every hierarchy. A cpuset inherits its parent's sets, or it would hold nobody.
    pub(crate) fn make(&self, path: &str) -> io::Result<()> {
        for directory in self.directories(path) {
            let made = fs::create_dir_all(&directory);
            if self.v2.as_ref().is_some_and(|root| directory.starts_with(root)) && !self.v1.is_empty() {
                // On a hybrid machine version 2 holds little; going without it loses nothing.
                continue;
            }
            made?;
        }
        if let Some(root) = self.v1.get("cpuset") {
            let mut directory = root.clone();
            for part in path.split('/').filter(|part| !part.is_empty()) {
                let parent = directory.clone();
                directory.push(part);
                inherit_cpuset(&parent, &directory)?;
            }
        }
        Ok(())
    }

    /// Kills every process of a cgroup and of those below it. Nothing there is fine.
    pub(crate) fn kill(&self, path: &str) -> io::Result<()> {
        let directories: Vec<PathBuf> = self.directories(path).into_iter().filter(|d| d.is_dir()).collect();
        for directory in &directories {
            // Version 2 kills a whole tree at once, forks included.
            let _ = fs::write(directory.join("cgroup.kill"), "1");
        }
        signal_until_none(path, &directories, signal_tree)
    }

    /// Kills every process right in a cgroup, and none of those below it. Nothing there is fine.
    pub(crate) fn kill_alone(&self, path: &str) -> io::Result<()> {
        signal_until_none(path, &self.directories(path), signal)
    }

    /// Removes a cgroup and those below it. Processes in it must be dead.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        for directory in self.directories(path) {
            remove_tree(&directory)?;
        }
        Ok(())
    }

    /// Names of the cgroups right below a cgroup.
    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        let mut names = std::collections::BTreeSet::new();
        for directory in self.directories(path) {
            names.extend(subdirectories(&directory).iter().filter_map(|d| d.file_name()?.to_str().map(str::to_owned)));
        }
        names.into_iter().collect()
    }
}

fn is_controller(option: &str) -> bool {
    !matches!(option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "favordynmods")
        && !option.starts_with("release_agent=")
}

fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(child.join(name))?;
        if own.trim().is_empty() {
            fs::write(child.join(name), fs::read_to_string(parent.join(name))?)?;
        }
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "version 1 has no event for an empty cgroup; bounded by KILL_ROUNDS")]
fn pause() {
    std::thread::sleep(KILL_PAUSE);
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Repeats a signal until there is nobody to get it.
fn signal_until_none(
    path: &str,
    directories: &[PathBuf],
    signal: impl Fn(&Path) -> io::Result<usize>,
) -> io::Result<()> {
    for round in 0..KILL_ROUNDS {
        let mut alive = 0;
        for directory in directories {
            alive += signal(directory)?;
        }
        if alive == 0 {
            return Ok(());
        }
        if round > 0 {
            // Dying takes a moment, and cgroups of version 1 tell nobody when it is over.
            pause();
        }
    }
    Err(io::Error::other(format!("processes of cgroup {path} do not die")))
}

/// Sends SIGKILL to all processes of a tree; returns how many there were.
fn signal_tree(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for child in subdirectories(directory) {
        count += signal_tree(&child)?;
    }
    Ok(count + signal(directory)?)
}

/// Sends SIGKILL to the processes of one directory; returns how many there were.
fn signal(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    let procs = match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(procs) => procs,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {
            return Ok(count);
        }
        Err(error) => return Err(error),
    };
    for pid in procs.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?)) {
        count += 1;
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    Ok(count)
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in subdirectories(directory) {
        remove_tree(&child)?;
    }
    for round in 0..KILL_ROUNDS {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && round + 1 < KILL_ROUNDS => pause(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    Ok(())
}

/// Reads a file of one number; None for `max`, absence or anything else.
pub(crate) fn number(directory: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(directory.join(name)).ok()?.trim().parse().ok()
}

/// Reads one value of a file of `key value` lines.
pub(crate) fn keyed(directory: &Path, name: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(directory.join(name)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_hybrid_machine_has_both() {
        let found = Hierarchies::parse(HYBRID);
        assert!(!found.is_unified());
        assert_eq!(found.directory("memory", "/a/b"), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(found.directory("pids", "/a"), None);
        assert_eq!(found.v1.keys().collect::<Vec<_>>(), ["cpu", "cpuacct", "memory", "name=systemd"]);
        assert_eq!(found.directories("/a").len(), 4);
    }

    #[test]
    fn a_unified_machine_accounts_everything_in_one_place() {
        let found = Hierarchies::parse("25 20 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(found.is_unified());
        assert_eq!(found.directory("memory", "/a"), Some("/sys/fs/cgroup/a".into()));
    }

    #[test]
    fn the_root_cgroup_is_never_a_target() {
        assert!(Hierarchies::parse(HYBRID).directories("/").is_empty());
        assert!(Hierarchies::parse(HYBRID).directories("").is_empty());
    }
}
