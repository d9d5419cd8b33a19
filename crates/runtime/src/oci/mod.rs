//! From a CRI container to an OCI `config.json`. Pure but for what its input already read.
//!
//! Owns every default that a container has. The document is built from nothing: what is not written here is not in it.
//! Must not touch the machine; [`crate::container`] gathers the [`Inputs`]. Start with [`spec`].

pub(crate) mod capabilities;
mod devices;
mod mounts;
pub(crate) mod process;
mod resources;
mod seccomp;
pub(crate) mod user;

use cri::v1::{ContainerConfig, LinuxContainerSecurityContext, MountPropagation, PodSandboxConfig, security_profile};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::Error;
use user::Identity;

pub(crate) use devices::HostDevice;
pub(crate) use resources::update as updated_resources;

/// Version of the runtime specification that is written.
const OCI_VERSION: &str = "1.0.2";

/// What this machine allows and has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// Cgroup version 2 alone.
    pub unified_cgroups: bool,
    /// Hugetlb limits can be set by version 1 or 2 alone.
    pub hugetlb: bool,
    /// Capabilities of our own bounding set; nobody gets more.
    pub capabilities: Vec<&'static str>,
    /// OOM scores below this are refused by the kernel; None if any is allowed.
    pub oom_score_floor: Option<i64>,
}

/// A namespace of the container that is not its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// Path of the network namespace; None is the host's.
    pub network: Option<PathBuf>,
    /// Path of the IPC namespace; None is the host's.
    pub ipc: Option<PathBuf>,
    /// Path of the UTS namespace; None is the host's.
    pub uts: Option<PathBuf>,
    /// The PID namespace.
    pub pid: PidNamespace,
}

/// Which processes a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    /// Its own.
    #[default]
    Own,
    /// The host's.
    Host,
    /// Another's: the pod's or a target container's.
    Path(PathBuf),
}

/// Everything that a container's document depends on.
pub(crate) struct Inputs<'a> {
    pub config: &'a ContainerConfig,
    pub sandbox: &'a PodSandboxConfig,
    pub image: &'a images::ImageConfig,
    pub machine: &'a Machine,
    pub identity: Identity,
    pub rootfs: PathBuf,
    /// Where mounts that are images can be found, by their place in the configuration.
    pub volumes: BTreeMap<usize, PathBuf>,
    pub cgroup: String,
    pub namespaces: Namespaces,
    /// Host's source for /dev/shm.
    pub shm: PathBuf,
    /// Files of the sandbox: resolv.conf and hostname.
    pub sandbox_files: PathBuf,
    pub hostname: String,
    /// Devices asked for, as found on the host.
    pub devices: Vec<(HostDevice, String)>,
    /// Content of a localhost seccomp profile.
    pub localhost_seccomp: Option<Value>,
    /// Annotations that the handler is told beside our own.
    pub annotations: BTreeMap<String, String>,
}

impl Inputs<'_> {
    pub(crate) fn security(&self) -> LinuxContainerSecurityContext {
        self.config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
    }
}

/// The whole document.
pub(crate) fn spec(inputs: &Inputs<'_>) -> Result<Value, Error> {
    let security = inputs.security();
    let capabilities = capabilities::of(&security, inputs.machine)?;
    let mut linux = json!({
        "namespaces": namespaces(inputs),
        "cgroupsPath": inputs.cgroup,
        "resources": resources::of(inputs, security.privileged),
        "rootfsPropagation": rootfs_propagation(inputs.config),
        "devices": devices::of(&inputs.devices),
    });
    if !security.privileged {
        linux["maskedPaths"] = json!(masked_paths(&security));
        linux["readonlyPaths"] = json!(readonly_paths(&security));
    }
    if let Some(profile) = seccomp_of(inputs, &security, &capabilities)? {
        linux["seccomp"] = profile;
    }
    Ok(json!({
        "ociVersion": OCI_VERSION,
        "process": process::of(inputs, &security, &capabilities)?,
        "root": { "path": inputs.rootfs, "readonly": security.readonly_rootfs },
        "mounts": mounts::of(inputs, &security),
        "annotations": annotations(inputs),
        "linux": linux,
    }))
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<Value> {
    let wanted = &inputs.namespaces;
    let mut list = vec![json!({ "type": "mount" })];
    match &wanted.pid {
        PidNamespace::Own => list.push(json!({ "type": "pid" })),
        PidNamespace::Host => {}
        PidNamespace::Path(path) => list.push(json!({ "type": "pid", "path": path })),
    }
    for (kind, path) in [("network", &wanted.network), ("ipc", &wanted.ipc), ("uts", &wanted.uts)] {
        list.extend(path.iter().map(|path| json!({ "type": kind, "path": path })));
    }
    if inputs.machine.unified_cgroups {
        list.push(json!({ "type": "cgroup" }));
    }
    list
}

/// Shared if a mount goes both ways, slave if one listens, else private.
fn rootfs_propagation(config: &ContainerConfig) -> &'static str {
    let any = |wanted: MountPropagation| config.mounts.iter().any(|mount| mount.propagation == wanted as i32);
    if any(MountPropagation::PropagationBidirectional) {
        "rshared"
    } else if any(MountPropagation::PropagationHostToContainer) {
        "rslave"
    } else {
        "rprivate"
    }
}

fn masked_paths(security: &LinuxContainerSecurityContext) -> Vec<String> {
    const DEFAULT: [&str; 11] = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/firmware",
    ];
    chosen(&security.masked_paths, &DEFAULT)
}

fn readonly_paths(security: &LinuxContainerSecurityContext) -> Vec<String> {
    const DEFAULT: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    chosen(&security.readonly_paths, &DEFAULT)
}

fn chosen(asked: &[String], default: &[&str]) -> Vec<String> {
    // procMount: Unmasked arrives as one empty path.
    if asked.iter().any(|path| !path.is_empty()) {
        asked.to_vec()
    } else if asked.is_empty() {
        default.iter().map(|path| (*path).to_owned()).collect()
    } else {
        Vec::new()
    }
}

fn seccomp_of(
    inputs: &Inputs<'_>,
    security: &LinuxContainerSecurityContext,
    capabilities: &[&str],
) -> Result<Option<Value>, Error> {
    use security_profile::ProfileType;
    let profile = security.seccomp.clone().unwrap_or(cri::v1::SecurityProfile {
        profile_type: ProfileType::Unconfined as i32,
        localhost_ref: String::new(),
    });
    if security.privileged {
        return Ok(None);
    }
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Some(seccomp::runtime_default(capabilities))),
        Ok(ProfileType::Unconfined) => Ok(None),
        Ok(ProfileType::Localhost) => match &inputs.localhost_seccomp {
            Some(profile) => Ok(Some(profile.clone())),
            None => Err(Error::Invalid(format!("seccomp profile {:?} cannot be read", profile.localhost_ref))),
        },
        Err(_) => Err(Error::Invalid(format!("unknown seccomp profile type {}", profile.profile_type))),
    }
}

/// Annotations that are ours alone: a pod must not pass for another.
const OWN: &str = "io.kubernetes.cri.";

fn annotations(inputs: &Inputs<'_>) -> Value {
    let metadata = inputs.sandbox.metadata.clone().unwrap_or_default();
    let name = inputs.config.metadata.clone().unwrap_or_default().name;
    let mut told = inputs.annotations.clone();
    // No container-type: to gVisor, "container" means one inside of a sandbox that it already runs.
    told.retain(|key, _| !key.starts_with(OWN));
    told.extend(
        [
            ("container-name", name),
            ("sandbox-name", metadata.name),
            ("sandbox-namespace", metadata.namespace),
            ("sandbox-uid", metadata.uid),
        ]
        .map(|(key, value)| (format!("{OWN}{key}"), value)),
    );
    json!(told)
}

#[cfg(test)]
mod tests;
