//! Pod sandboxes: one file a verb. A sandbox is a monitor that holds namespaces, an address, and a cgroup.
//!
//! `run` makes, `stop` ends, `remove` forgets; making that fails is undone by what removing does.

pub(crate) mod remove;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod stop;

use cri::v1::{NamespaceMode, NamespaceOption, PodSandboxConfig};

/// The namespace wishes of a sandbox; what nobody said is CRI's zero.
pub(crate) fn namespaces(config: &PodSandboxConfig) -> NamespaceOption {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
}

/// On the host's network: no own network namespace, no own host name, no address of its own.
pub(crate) fn is_on_host_network(config: &PodSandboxConfig) -> bool {
    namespaces(config).network == NamespaceMode::Node as i32
}

/// The host name that the pod's processes see.
pub(crate) fn hostname(config: &PodSandboxConfig) -> String {
    if !config.hostname.is_empty() {
        return config.hostname.clone();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
