//! One installation on this machine: its directories and the names that follow from them.
//!
//! Several instances run beside each other when their directories, ports and pod addresses differ, so every name that
//! the machine sees (cgroup, bridge, netfilter table, kubeconfig context) is derived from the run directory here.

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// Default of `--data-dir`.
pub const DATA_DIR: &str = "/var/lib/sampan";
/// Default of `--run-dir`.
pub const RUN_DIR: &str = "/run/sampan";
/// How often, and how far apart, a dying process's lock is tried.
const DYING_TRIES: u32 = 200;
const DYING_PAUSE: Duration = Duration::from_millis(10);
/// Version of the data directory's layout; a newer one is refused.
const SCHEMA: u32 = 1;

/// Where an instance keeps its state.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Durable state.
    pub data_dir: PathBuf,
    /// State that may vanish at a reboot.
    pub run_dir: PathBuf,
}

impl Instance {
    /// An instance in these directories. Nothing is touched.
    pub fn new(data_dir: PathBuf, run_dir: PathBuf) -> Instance {
        Instance { data_dir, run_dir }
    }

    /// Empty for the default run directory, else eight digits that tell this instance from others.
    fn tag(&self) -> Option<String> {
        if self.run_dir == Path::new(RUN_DIR) {
            return None;
        }
        // DefaultHasher::new() has fixed keys: the same directory has the same tag in every process.
        let mut hasher = DefaultHasher::new();
        self.run_dir.hash(&mut hasher);
        Some(format!("{:08x}", hasher.finish() as u32))
    }

    /// A name of this instance: `sampan`, or `sampan-<tag>`.
    pub fn name(&self) -> String {
        self.tag().map_or_else(|| "sampan".into(), |tag| format!("sampan-{tag}"))
    }

    /// The top cgroup of everything that runs for this instance.
    pub fn cgroup_top(&self) -> String {
        format!("/{}", self.name())
    }

    /// The bridge of the built-in pod network (at most 15 characters).
    pub fn bridge(&self) -> String {
        self.tag().map_or_else(|| "sampan0".into(), |tag| format!("sp{tag}"))
    }

    /// The netfilter table of the built-in pod network.
    pub fn nft_table(&self) -> String {
        self.name().replace('-', "_")
    }

    /// Where pods' log files lie: the place that Kubernetes names for the default instance, else below the data.
    pub fn log_dir(&self) -> PathBuf {
        if self.data_dir == Path::new(DATA_DIR) {
            PathBuf::from("/var/log/pods")
        } else {
            self.data_dir.join("log/pods")
        }
    }

    /// The socket of the embedded runtime.
    pub fn cri_socket(&self) -> PathBuf {
        self.run_dir.join("cri.sock")
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    /// Which kubeconfig the node joined another cluster by.
    pub fn joined(&self) -> PathBuf {
        self.data_dir.join("joined")
    }

    /// The settings of the last start.
    pub fn last_settings(&self) -> PathBuf {
        self.data_dir.join("settings.json")
    }

    /// The log of a detached instance.
    pub fn log_file(&self) -> PathBuf {
        self.data_dir.join("sampan.log")
    }

    fn directories(&self) -> [(&Path, &'static str); 2] {
        [(&self.data_dir, "--data-dir"), (&self.run_dir, "--run-dir")]
    }

    /// Refuses directories that cannot be made or written to, without making them.
    pub fn refuse_if_unusable(&self) -> anyhow::Result<()> {
        for (dir, flag) in self.directories() {
            let there = std::path::absolute(dir)?;
            let nearest = there.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
            if !nearest.is_dir() {
                bail!("{flag} {}: {} is not a directory; choose another with {flag}", dir.display(), nearest.display());
            }
            rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).with_context(
                || {
                    format!(
                        "{flag} {}: {} cannot be written to; choose another with {flag}",
                        dir.display(),
                        nearest.display()
                    )
                },
            )?;
        }
        Ok(())
    }

    /// Makes both directories and checks the layout's version.
    pub fn prepare(&self) -> anyhow::Result<()> {
        for (dir, flag) in self.directories() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(dir)
                .with_context(|| format!("make the directory {}; choose another with {flag}", dir.display()))?;
        }
        let path = self.data_dir.join("schema");
        match std::fs::read_to_string(&path) {
            // A loss of power in the first start of an earlier version left it so.
            Ok(text) if text.trim().is_empty() => crate::certificates::write_private(&path, &format!("{SCHEMA}\n")),
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(version) if version <= SCHEMA => Ok(()),
                _ => bail!(
                    "{} was written by a newer sampan (schema {}); this one knows {SCHEMA}",
                    self.data_dir.display(),
                    text.trim()
                ),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                crate::certificates::write_private(&path, &format!("{SCHEMA}\n"))
            }
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Takes the instance for this process; the lock ends with the process, however it ends.
    ///
    /// Returns `Err(pid)` of the holder if another process has it.
    pub fn lock(&self) -> anyhow::Result<Result<Lock, u32>> {
        let path = self.run_dir.join("sampan.pid");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        if let Err(pid) = try_lock(&file, &path, FlockOperation::NonBlockingLockExclusive) {
            return Ok(Err(pid));
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Ok(Lock { _file: file }))
    }

    /// The process that runs this instance, if one does.
    pub fn running(&self) -> Option<u32> {
        let path = self.run_dir.join("sampan.pid");
        let file = File::open(&path).ok()?;
        try_lock(&file, &path, FlockOperation::NonBlockingLockShared).err()
    }

    /// An error that says what to do, unless this instance runs.
    pub fn must_run(&self) -> anyhow::Result<()> {
        match self.running() {
            Some(_) => Ok(()),
            None => anyhow::bail!("sampan does not run here; start it first, or name its --data-dir and --run-dir"),
        }
    }
}

/// Locks, or names the process that holds the lock. A holder that is dying is waited for: its leader may be gone while
/// its last thread still has the file.
fn try_lock(file: &File, path: &Path, operation: FlockOperation) -> Result<(), u32> {
    for _ in 0..DYING_TRIES {
        if flock(file, operation).is_ok() {
            return Ok(());
        }
        let pid = holder(path);
        if !is_dying(pid) {
            return Err(pid);
        }
        pause();
    }
    Err(holder(path))
}

/// Whether a process has ended but for its last threads. Unknown processes count as dying.
fn is_dying(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|state| state.is_empty() || state.starts_with(['Z', 'X']))
}

/// There is no event to wait for: the kernel tells nobody when a lock's last holder is gone.
#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(DYING_PAUSE);
}

fn holder(path: &Path) -> u32 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Held while a process is the instance.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The address by which this machine reaches the outside; loopback if it has no route.
pub fn default_address() -> IpAddr {
    // Connecting a datagram socket sends nothing; it only asks the kernel for the route's source address.
    let probe = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    probe().ok().filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_two_instances_differ_and_fit() {
        let one = Instance::new(DATA_DIR.into(), RUN_DIR.into());
        let two = Instance::new("/tmp/a".into(), "/tmp/b".into());
        assert_eq!((one.bridge().as_str(), one.cgroup_top().as_str()), ("sampan0", "/sampan"));
        assert_ne!(one.bridge(), two.bridge());
        assert!(two.bridge().len() <= 15);
        assert_eq!(two.name(), Instance::new("/x".into(), "/tmp/b".into()).name());
    }

    #[test]
    fn only_one_process_holds_an_instance_and_a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::new(dir.path().join("data"), dir.path().join("run"));
        instance.prepare().unwrap();
        assert_eq!(instance.running(), None);
        let lock = instance.lock().unwrap().unwrap();
        assert_eq!(instance.lock().unwrap().unwrap_err(), std::process::id());
        assert_eq!(instance.running(), Some(std::process::id()));
        drop(lock);
        assert_eq!(instance.running(), None);
        std::fs::write(instance.data_dir.join("schema"), "99\n").unwrap();
        assert!(instance.prepare().unwrap_err().to_string().contains("newer"));
        std::fs::write(instance.data_dir.join("schema"), "").unwrap();
        instance.prepare().unwrap();
        assert_eq!(std::fs::read_to_string(instance.data_dir.join("schema")).unwrap(), "1\n");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_refused_with_its_flag() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let instance = Instance::new(dir.path().join("data"), dir.path().join("file/run"));
        let error = instance.refuse_if_unusable().unwrap_err().to_string();
        assert!(error.contains("--run-dir") && error.contains("is not a directory"), "{error}");
        assert!(!instance.data_dir.exists());
    }
}
