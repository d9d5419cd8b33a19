//! What the runtime is started with.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The usual [`Options::command_timeout`]. A failed creation takes two commands, and clients wait two minutes for it.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(40);
/// The longest one.
pub const COMMAND_TIMEOUT_MAX: Duration = Duration::from_secs(55);

/// How an embedded runtime is set up. Paths are absolute.
pub struct Options {
    /// Durable state; `runtime/` below it is this room's.
    pub data_dir: PathBuf,
    /// State that need not survive a reboot: sockets, bundles, mounts.
    pub run_dir: PathBuf,
    /// Top cgroup of the instance, such as `/sampan`.
    pub cgroup_top: String,
    /// Handlers by name. The default is among them; [`crate::Runtime::set_handlers`] puts others in their place.
    pub handlers: Vec<Handler>,
    /// Name of the handler that "" means.
    pub default_handler: String,
    /// Longest time of one command of an OCI runtime; then it is killed with everything that it has started.
    pub command_timeout: Duration,
    /// The pod network.
    pub network: network::Options,
    /// The image store, already open.
    pub images: images::Images,
    /// The command that is a monitor, such as `/proc/self/exe monitor`.
    pub monitor_command: Vec<OsString>,
}

/// An OCI runtime by name. Handlers are told apart by their names: two may share a binary and differ in the rest (RTC-81).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handler {
    /// As a RuntimeClass names it.
    pub name: String,
    /// The executable: an absolute path, or a name that is looked up in PATH whenever it is needed.
    pub binary: PathBuf,
    /// Global arguments before the subcommand.
    pub arguments: Vec<String>,
    /// Annotations of the pod that the OCI runtime is told: names, or globs, in which `*` matches no `/` (RTC-76).
    pub pod_annotations: Vec<String>,
    /// Annotations of a container that it is told.
    pub container_annotations: Vec<String>,
}

impl Handler {
    /// A handler without further arguments.
    pub fn new(name: &str, binary: impl Into<PathBuf>) -> Handler {
        Handler { name: name.into(), binary: binary.into(), ..Handler::default() }
    }
}
