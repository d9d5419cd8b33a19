//! What the runtime is started with.

use std::ffi::OsString;
use std::path::PathBuf;

/// How an embedded runtime is set up. Paths are absolute.
pub struct Options {
    /// Durable state; `runtime/` below it is this room's.
    pub data_dir: PathBuf,
    /// State that need not survive a reboot: sockets, bundles, mounts.
    pub run_dir: PathBuf,
    /// Top cgroup of the instance, such as `/sampan`.
    pub cgroup_top: String,
    /// Handlers by name. The default is among them.
    pub handlers: Vec<Handler>,
    /// Name of the handler that "" means.
    pub default_handler: String,
    /// The pod network.
    pub network: network::Options,
    /// The image store, already open.
    pub images: images::Images,
    /// The command that is a monitor, such as `/proc/self/exe monitor`.
    pub monitor_command: Vec<OsString>,
}

/// An OCI runtime by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// As a RuntimeClass names it.
    pub name: String,
    /// The executable.
    pub binary: PathBuf,
    /// Global arguments before the subcommand.
    pub arguments: Vec<String>,
}

impl Handler {
    /// A handler without further arguments.
    pub fn new(name: &str, binary: impl Into<PathBuf>) -> Handler {
        Handler { name: name.into(), binary: binary.into(), arguments: Vec::new() }
    }
}
