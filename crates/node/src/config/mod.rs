//! From a Pod to the CRI messages that create it: sandbox and container configuration.
//!
//! Owns every translation of a Pod's fields into `runtime.v1` words: names, DNS, ports, environment, mounts, security,
//! resources. Facts go in, a message comes out; the only effects are those of [`container`], which prepares the small
//! files that a container needs (hosts file, termination log, log directory, subPath binds). Must not call the runtime
//! or the API, and must not decide when something is created. Start at [`sandbox`] and [`container`].

mod annotations;
mod dns;
mod environment;
mod field;
mod files;
mod links;
mod mounts;
pub mod quantity;
pub mod resources;
mod sandbox;
mod security;

pub use annotations::{hash, label};
pub use dns::ResolvConf;
pub use environment::{Objects, references};
pub use field::{Fields, field, resource_field};
pub use files::{container_log_directory, hosts_file, pod_directory, pod_log_directory, termination_file};
pub use links::{link_log, links_directory, unlink_log, unlink_logs};
pub use sandbox::{hostname, sandbox};
pub use security::is_privileged;

use crate::object::{Container, ContainerKind, Pod};
use crate::volumes::{Mounted, SubPath};
use cri::v1;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// What is true of the node and the same for every pod.
#[derive(Debug, Clone)]
pub struct Context {
    /// The name of the Node object.
    pub node_name: String,
    /// The host's own name, for pods on the host network.
    pub host_name: String,
    /// The node's addresses, primary first.
    pub node_ips: Vec<IpAddr>,
    /// The data directory; pods live in `<data_dir>/pods/<uid>`.
    pub data_dir: PathBuf,
    /// The directory that holds one log directory per pod (POD-65), `/var/log/pods` by default.
    pub log_dir: PathBuf,
    /// The top cgroup of this instance, for example `/sampan`.
    pub cgroup_top: String,
    /// True when the memory controller is on cgroup v2.
    pub cgroup_v2: bool,
    /// The node's own resolver configuration.
    pub resolv_conf: ResolvConf,
    /// Addresses of the cluster's DNS service; empty when there is none.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain, `cluster.local` by default.
    pub cluster_domain: String,
    /// Allocatable CPU in thousandths, the default of `limits.cpu` in resource fields.
    pub cpu_milli: i64,
    /// Memory in bytes, the default of `limits.memory` and the base of OOM scores.
    pub memory_bytes: i64,
    /// Allocatable ephemeral storage in bytes.
    pub storage_bytes: i64,
    /// Where pods with an address of their own find the API server; None where the node cannot tell.
    pub api_address: Option<SocketAddr>,
    /// Where pods on the host network find it.
    pub api_address_of_host: Option<SocketAddr>,
}

/// What is true of one container about to be created.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The attempt number of this container: 0 for the first.
    pub attempt: u32,
    /// The image as the runtime knows it; goes into `ContainerConfig.image`.
    pub image: &'a v1::ImageSpec,
    /// The image's numeric user, if its configuration names one.
    pub image_uid: Option<i64>,
    /// The image's user name, "" when it is numeric or absent.
    pub image_user: &'a str,
    /// The pod's addresses, primary first; the node's for pods on the host network.
    pub pod_ips: &'a [String],
    /// The pod's volumes on the host.
    pub mounted: &'a Mounted,
    /// The ConfigMaps and Secrets that the environment names (see [`references`]).
    pub objects: &'a Objects,
    /// The id of the container whose PID namespace an ephemeral container joins.
    pub target_id: Option<&'a str>,
    /// The pod's handler can make mounts read-only all the way down (RTC-51).
    pub can_read_only_below: bool,
}

/// Why a container cannot be configured; Display is the `CreateContainerConfigError` message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A ConfigMap or Secret that is not optional does not exist.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The object's name.
        name: String,
    },
    /// The object exists and the key does not.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key that is missing.
        key: String,
    },
    /// A fieldRef or resourceFieldRef that this node does not know.
    #[error("{0}")]
    Field(String),
    /// `runAsNonRoot` and a user that is, or may be, root.
    #[error("{0}")]
    RunAsNonRoot(String),
    /// A volume mount that names no mounted volume.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    Volume {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A subPath that cannot be used.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}: {cause}")]
    SubPath {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
        /// What went wrong, in words.
        cause: String,
    },
    /// A mount that cannot be had in the form asked for.
    #[error("{0}")]
    Mount(String),
    /// A file beside the container that cannot be written.
    #[error("cannot prepare {what}: {cause}")]
    File {
        /// The file's purpose.
        what: &'static str,
        /// The operating system's word.
        cause: String,
    },
}

/// The configuration of one container, with the files it needs made ready on the host.
///
/// Blocks shortly on the file system. Idempotent: calling it again for the same attempt gives the same answer.
///
/// # Errors
/// [`Error`], whose Display is the message of a `CreateContainerConfigError`.
pub fn container(
    pod: &Pod,
    container: &Container,
    inputs: Inputs<'_>,
    ctx: &Context,
) -> Result<v1::ContainerConfig, Error> {
    files::prepare(pod, container, inputs, ctx)?;
    build(pod, container, inputs, ctx, &mut |sub_path: SubPath<'_>| {
        crate::volumes::bind_sub_path(&sub_path).map_err(|e| e.to_string())
    })
}

/// Turns a subPath of a volume into a host path that cannot leave the volume.
type Bind<'a> = &'a mut dyn FnMut(SubPath<'_>) -> Result<PathBuf, String>;

/// The pure part of [`container`].
fn build(
    pod: &Pod,
    container: &Container,
    inputs: Inputs<'_>,
    ctx: &Context,
    bind: Bind<'_>,
) -> Result<v1::ContainerConfig, Error> {
    security::verify_non_root(pod, container, inputs)?;
    let fields = Fields { pod, pod_ips: inputs.pod_ips, ctx };
    let env = environment::environment(fields, container, inputs.objects)?;
    let lookup = |name: &str| env.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expand = |words: &[String]| words.iter().map(|w| environment::expand(w, &lookup)).collect();
    let mounts = mounts::mounts(pod, container, inputs, ctx, (&lookup, bind))?;
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: inputs.attempt }),
        image: Some(inputs.image.clone()),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone(),
        envs: env.iter().map(|(k, v)| v1::KeyValue { key: k.clone(), value: v.clone().into() }).collect(),
        mounts,
        labels: annotations::container_labels(pod, container),
        annotations: annotations::container_annotations(pod, container, inputs.attempt),
        log_path: format!("{}/{}.log", container.name, inputs.attempt),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::container(pod, container, ctx)),
            security_context: Some(security::container(pod, container, inputs, ctx)),
        }),
        stop_signal: stop_signal(container) as i32,
        ..Default::default()
    })
}

/// The signal of `lifecycle.stopSignal`; the runtime's default when none or an unknown one is named.
fn stop_signal(container: &Container) -> v1::Signal {
    let name = container.lifecycle.as_ref().map_or("", |l| l.stop_signal.as_str());
    v1::Signal::from_str_name(&format!("SIGNAL_{name}")).unwrap_or(v1::Signal::RuntimeDefault)
}

/// True for a container that an ephemeral container list holds.
fn is_ephemeral(pod: &Pod, container: &Container) -> bool {
    matches!(pod.container(&container.name), Some((ContainerKind::Ephemeral, _)))
}

#[cfg(test)]
mod tests;
