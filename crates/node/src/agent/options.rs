//! What the root hands to the agent, and the facts of the machine.

use crate::{
    hooks::{Hooks, journal::Journal},
    pod::{checkpoint::Checkpoints, clock::Clock},
};
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Everything that the agent needs.
pub struct Options {
    /// The name of the Node object.
    pub node_name: String,
    /// The API, with the identity `system:node:<node_name>`.
    pub client: kube::Client,
    /// The runtime.
    pub cri: cri::Client,
    /// All durable state.
    pub data_dir: PathBuf,
    /// All state that ends with the machine's uptime.
    pub run_dir: PathBuf,
    /// One directory per pod with its logs; `/var/log/pods` by default.
    pub log_dir: PathBuf,
    /// The top cgroup of this instance, for example `/sampan`.
    pub cgroup_top: String,
    /// The node's primary address.
    pub node_ip: IpAddr,
    /// Its external address, for the Node object.
    pub node_external_ip: Option<IpAddr>,
    /// The node port's socket, listening.
    pub listener: TcpListener,
    /// TLS of the node port; it requires client certificates of our CA.
    pub tls: Arc<rustls::ServerConfig>,
    /// At most so many pods.
    pub max_pods: u32,
    /// The addresses of pods, for the Node object.
    pub pod_cidr: String,
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Where pods with an address of their own find the API server; None where nobody can tell.
    pub api_address: Option<SocketAddr>,
    /// Where pods on the host network find it.
    pub api_address_of_host: Option<SocketAddr>,
    /// Images are asked for with the handler of the pod's RuntimeClass (gate RuntimeClassInImageCriApi, IMG-320).
    pub images_with_handler: bool,
    /// How many image pulls at a time, and how many a second.
    pub pull_limits: crate::image::queue::Limits,
    /// Which images are collected.
    pub collection: crate::collection::Policy,
    /// When pods are evicted.
    pub eviction: crate::eviction::Policy,
    /// How long pods get when the machine shuts down.
    pub shutdown: crate::shutdown::Policy,
    /// When logs are rotated.
    pub logs: crate::log_rotation::Policy,
    /// How many images the Node's status lists; `None` for all (IMG-268).
    pub status_images_max: Option<usize>,
    /// A pod whose RuntimeClass or handler does not exist fails at once (`runtimeClassFailurePolicy: FailPod`).
    pub runtime_class_fails_pod: bool,
    /// How credentials for images are found.
    pub credentials: crate::credentials::Options,
    /// Who may use an image that is there.
    pub verification: crate::records::Rules,
    /// Where pods come from besides the API.
    pub static_pods: crate::static_pods::Options,
    /// How many runs of hooks are kept, and for how long.
    pub hook_limits: crate::hooks::journal::Limits,
    /// How long containers that ended wait for their next start (POD-23, POD-24).
    pub crash_back_off: crate::pod::decide::CrashBackOff,
}

/// What [`crate::drain`] needs: the part of [`Options`] without the node port.
#[derive(Clone)]
#[allow(missing_docs)] // As in `Options`.
pub struct DrainOptions {
    pub node_name: String,
    pub client: kube::Client,
    pub cri: cri::Client,
    pub data_dir: PathBuf,
    pub log_dir: PathBuf,
    pub cgroup_top: String,
    pub node_ip: IpAddr,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub api_address: Option<SocketAddr>,
    pub api_address_of_host: Option<SocketAddr>,
    pub images_with_handler: bool,
    pub pull_limits: crate::image::queue::Limits,
    pub runtime_class_fails_pod: bool,
    pub credentials: crate::credentials::Options,
    pub verification: crate::records::Rules,
    pub hook_limits: crate::hooks::journal::Limits,
    pub crash_back_off: crate::pod::decide::CrashBackOff,
}

impl Options {
    /// The part that draining needs, to be taken before [`crate::run`] gets the whole.
    pub fn for_drain(&self) -> DrainOptions {
        DrainOptions {
            node_name: self.node_name.clone(),
            client: self.client.clone(),
            cri: self.cri.clone(),
            data_dir: self.data_dir.clone(),
            log_dir: self.log_dir.clone(),
            cgroup_top: self.cgroup_top.clone(),
            node_ip: self.node_ip,
            cluster_dns: self.cluster_dns.clone(),
            cluster_domain: self.cluster_domain.clone(),
            api_address: self.api_address,
            api_address_of_host: self.api_address_of_host,
            images_with_handler: self.images_with_handler,
            pull_limits: self.pull_limits,
            runtime_class_fails_pod: self.runtime_class_fails_pod,
            credentials: self.credentials.clone(),
            verification: self.verification.clone(),
            hook_limits: self.hook_limits,
            crash_back_off: self.crash_back_off,
        }
    }
}

impl DrainOptions {
    /// The journal of hooks, in which pods with a checkpoint live.
    pub(super) fn hooks(&self, checkpoints: &Checkpoints) -> Result<Hooks, Error> {
        let path = self.data_dir.join("node/hooks");
        let journal = Journal::open(&path, self.hook_limits, &checkpoints.uids(), Clock::System);
        journal.map(Hooks::new).map_err(|source| Error::Directory { path, source })
    }
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory of its own.
    #[error("make the directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The configuration of credential plugins.
    #[error("read the configuration of credential plugins")]
    Plugins(#[from] crate::credentials::plugin::ConfigError),
    /// The records of pulls.
    #[error(transparent)]
    Records(#[from] crate::records::Error),
    /// The cgroup tree.
    #[error("make the cgroup tree: {0}")]
    Cgroups(String),
    /// The runtime does not answer.
    #[error("ask the runtime for its pods: {0}")]
    Runtime(String),
    /// The API does not answer.
    #[error("ask the API for the node's pods")]
    Api(#[source] kube::Error),
}

/// The machine's CPUs in thousandths.
pub(super) fn cpu_milli() -> i64 {
    std::thread::available_parallelism().map_or(1000, |n| i64::try_from(n.get()).unwrap_or(1) * 1000)
}

/// The machine's memory in bytes.
pub(super) fn memory_bytes() -> i64 {
    let info = rustix::system::sysinfo();
    // The field widths differ between platforms; a machine's memory fits in an i64 on all of them.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let bytes = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The bytes of the file system that holds the data directory.
pub(super) fn storage_bytes(data_dir: &Path) -> i64 {
    rustix::fs::statvfs(data_dir)
        .map_or(0, |fs| i64::try_from(fs.f_blocks.saturating_mul(fs.f_frsize)).unwrap_or(i64::MAX))
}
