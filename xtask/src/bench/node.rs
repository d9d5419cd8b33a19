//! A node of our own for measuring: its directories, its processes, their memory and CPU time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::disk::Disk;
use super::process;
use xtask::registry::{PASSWORD, Registry, USER};
use xtask::{image, shell};

/// A running instance in a directory of its own.
pub struct Node {
    disk: Disk,
    sampan: String,
    /// The registry that holds [`Node::image`].
    pub registry: Registry,
    /// How long `up --detach` took.
    pub up: Duration,
}

const LISTEN: &str = "127.0.0.1:16443";
const REGISTRY_PORT: u16 = 15051;
/// On a tmpfs, as `/run` is wherever an init system set the machine up.
pub const RUN_DIR: &str = "/dev/shm/sampan-bench";

impl Node {
    /// Starts registry and node: this binary, or a release build of the tree.
    pub fn start(sampan: Option<&Path>, handler: &str) -> anyhow::Result<Node> {
        Node::start_with(sampan, handler, &[])
    }

    /// The same with more flags.
    pub fn start_with(sampan: Option<&Path>, handler: &str, more: &[&str]) -> anyhow::Result<Node> {
        let sampan = sampan.map_or_else(release, |given| Ok(given.to_owned()))?;
        let sampan = sampan.to_str().context("odd path")?.to_owned();
        let dir = PathBuf::from("/var/tmp/sampan-bench");
        let registry = Registry::new(&dir.join("registry"), REGISTRY_PORT);
        registry.ensure()?;
        image::layout(&dir.join("image"), image::architecture())?;
        registry.push(&dir.join("image"), "bench/box:1")?;
        let disk = Disk::mount(&dir.join("disk"))?;
        let mut node = Node { disk, sampan, registry, up: Duration::ZERO };
        node.down()?;
        node.write_credentials()?;
        // Once cold, then warm: the second is what a user sees every day.
        for _ in 0..2 {
            let began = Instant::now();
            let usual = [
                "up",
                "--detach",
                "--no-merge-kubeconfig",
                "--listen",
                LISTEN,
                "--pod-cidr",
                "10.89.0.0/23",
                "--max-pods",
                "250",
                "--default-handler",
                handler,
            ];
            node.sampan(&[&usual, more].concat())?;
            node.up = began.elapsed();
            if !node.disk.directory().join("warm").exists() {
                std::fs::write(node.disk.directory().join("warm"), "")?;
                node.sampan(&["down"])?;
            } else {
                break;
            }
        }
        Ok(node)
    }

    /// The image that the benchmark's pods run.
    pub fn image(&self) -> String {
        format!("{}/bench/box:1", self.registry.address)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.disk.directory().join("data/admin.kubeconfig")
    }

    /// How the administrator's client is set up.
    pub async fn config(&self) -> anyhow::Result<kube::Config> {
        let read = kube::config::Kubeconfig::read_from(self.kubeconfig())?;
        Ok(kube::Config::from_custom_kubeconfig(read, &Default::default()).await?)
    }

    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        PathBuf::from(RUN_DIR)
    }

    /// Stops the node and removes all that it made.
    pub fn down(&self) -> anyhow::Result<()> {
        let _ = std::fs::remove_file(self.disk.directory().join("warm"));
        self.sampan(&["down", "--purge"])
    }

    fn write_credentials(&self) -> anyhow::Result<()> {
        let data = self.disk.directory().join("data");
        std::fs::create_dir_all(&data)?;
        let auths = serde_json::json!({"auths": {&self.registry.address: {"username": USER, "password": PASSWORD}}});
        Ok(std::fs::write(data.join("config.json"), auths.to_string())?)
    }

    fn sampan(&self, words: &[&str]) -> anyhow::Result<()> {
        let (data, run) = (self.disk.directory().join("data"), self.run_dir());
        let dirs = ["--data-dir", data.to_str().context("odd path")?, "--run-dir", run.to_str().context("odd path")?];
        shell::output(&self.sampan, &[words, &dirs].concat(), "").map(drop)
    }

    /// The agent's process.
    pub fn agent(&self) -> anyhow::Result<u32> {
        Ok(std::fs::read_to_string(self.run_dir().join("sampan.pid"))?.trim().parse()?)
    }

    /// All processes of this instance: the agent and the monitors.
    pub fn processes(&self) -> Vec<u32> {
        let marker = self.run_dir();
        let marker = marker.to_string_lossy().into_owned();
        let own = std::fs::canonicalize(&self.sampan).unwrap_or_default();
        let ours = |pid: &u32| {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            program == own && process::command_line(*pid).contains(&marker)
        };
        process::all().into_iter().map(|(pid, _)| pid).filter(ours).collect()
    }

    /// Proportional memory of all our processes in MB.
    pub fn pss_megabytes(&self) -> f64 {
        self.processes().into_iter().map(process::pss_kilobytes).sum::<f64>() / 1000.0
    }

    /// CPU time of all our processes and the children they have waited for.
    pub fn cpu(&self) -> Duration {
        let ticks: u64 =
            self.processes().into_iter().filter_map(|pid| ticks(Path::new(&format!("/proc/{pid}/stat")))).sum();
        Duration::from_millis(ticks * 10)
    }
}

/// Builds the release binary.
pub fn release() -> anyhow::Result<PathBuf> {
    shell::run("cargo", &["build", "--release", "--quiet", "--bin", "sampan"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from);
    Ok(target.join("release/sampan"))
}

fn ticks(stat: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(stat).ok()?;
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    (11..=14).map(|at| fields.get(at)?.parse::<u64>().ok()).sum()
}
