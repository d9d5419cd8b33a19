//! The runtime as a whole: starting, the two doors (in the process, on a socket), taking everything down.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use cri::MESSAGE_BYTES_MAX;
use cri::sampan::pulls_server::PullsServer;
use cri::v1::image_service_server::ImageServiceServer;
use cri::v1::runtime_service_server::RuntimeServiceServer;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::Hierarchies;
use crate::core::Core;
use crate::error::Error;
use crate::events::Events;
use crate::figures::{self, Figures};
use crate::gate::Gate;
use crate::handlers::{Handlers, Table};
use crate::oci::{Machine, capabilities};
use crate::options::{Handler, Options};
use crate::process::Monitors;
use crate::sandbox::run::report;
use crate::service::Service;
use crate::startup::names;
use crate::state::{Layout, State};
use crate::streaming::{self, Tickets};
use crate::{rootfs, sandbox, startup};

/// CAP_SYS_RESOURCE: who lacks it cannot lower an OOM score.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// The embedded CRI runtime. Clones share it.
#[derive(Clone)]
pub struct Runtime {
    core: Arc<Core>,
}

impl Runtime {
    /// Starts: takes over the sandboxes of an earlier runtime with these directories, and sweeps what is left of others.
    ///
    /// When `cancel` is cancelled the servers end; sandboxes and containers run on.
    ///
    /// # Errors
    /// A directory, a cgroup, the network or the streaming port cannot be had; nothing runs then.
    pub async fn start(options: Options, cancel: CancellationToken) -> Result<Runtime, Error> {
        let layout = Layout { data: options.data_dir, run: options.run_dir };
        for directory in [
            layout.sandbox_data(""),
            layout.container_data(""),
            layout.sandbox_run(""),
            layout.container_run(""),
            layout.run.join("oci"),
        ] {
            fs::create_dir_all(&directory).map_err(Error::file("make directory", directory))?;
        }
        let handlers = Handlers::new(Table::new(options.handlers, options.default_handler)?);
        let hierarchies = Hierarchies::find().map_err(Error::file("read", "/proc/self/mountinfo"))?;
        let machine = probe(&hierarchies)?;
        let network = network::Network::start(options.network).await;
        let network = network.map_err(|error| Error::step("start the pod network", report(&error)))?;
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.map_err(|error| Error::step("open the streaming port", error))?;
        let address = listener.local_addr().map_err(|error| Error::step("open the streaming port", error))?;
        let core = Arc::new(Core {
            layout,
            cgroup_top: options.cgroup_top.trim_end_matches('/').to_owned(),
            handlers,
            command_timeout: options.command_timeout,
            figures: Figures::default(),
            monitors: Monitors::new(options.monitor_command),
            gate: Gate::new(),
            network,
            images: options.images,
            hierarchies,
            machine,
            state: State::default(),
            events: Events::new(),
            tickets: Tickets::new(address),
            tasks: TaskTracker::new(),
            cancel,
        });
        startup::take_over(&core).await?;
        core.tasks.spawn(streaming::serve(core.clone(), listener));
        core.tasks.spawn(figures::run(core.clone()));
        Ok(Runtime { core })
    }

    /// Puts other handlers in the place of those that there are. Sandboxes keep what they were made with (RTC-80, RTC-82).
    ///
    /// # Errors
    /// The default is not among them; nothing is changed then.
    pub fn set_handlers(&self, handlers: Vec<Handler>, default: String) -> Result<(), Error> {
        self.core.handlers.replace(Table::new(handlers, default)?);
        Ok(())
    }

    /// A client whose transport is this runtime: no socket.
    pub fn client(&self) -> cri::Client {
        let service = Service(self.core.clone());
        cri::in_process_with_pulls(service.clone(), service.clone(), service)
    }

    /// Serves CRI on a Unix socket (mode 0660) until `cancel` is cancelled. A socket file left over is replaced.
    ///
    /// # Errors
    /// The socket cannot be made, or the server fails.
    pub async fn serve(&self, socket: &Path, cancel: CancellationToken) -> Result<(), Error> {
        match fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", socket)(error));
            }
            _ => {}
        }
        let listener = tokio::net::UnixListener::bind(socket).map_err(Error::file("listen on", socket))?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o660)).map_err(Error::file("protect", socket))?;
        let service = Service(self.core.clone());
        let served = tonic::transport::Server::builder()
            .add_service(
                RuntimeServiceServer::new(service.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add_service(PullsServer::new(service.clone()))
            .add_service(
                ImageServiceServer::new(service)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .serve_with_incoming(UnixListenerStream::new(listener));
        // Ending at once: event streams would hold a graceful end for ever.
        match cancel.run_until_cancelled(served).await {
            Some(served) => served.map_err(|error| Error::step("serve CRI", report(&error))),
            None => Ok(()),
        }
    }

    /// Takes everything off the machine: containers, monitors, mounts, cgroups, links. Idempotent; what fails is
    /// tried again by the next call, after the rest was done.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub async fn tear_down(&self) -> Result<(), Error> {
        let core = &self.core;
        let mut first = None;
        let mut all = tokio::task::JoinSet::new();
        for sandbox in core.state.sandboxes_all() {
            all.spawn(sandbox::remove::remove(core.clone(), sandbox.id().to_owned()));
        }
        while let Some(removed) = all.join_next().await {
            let removed = removed.unwrap_or_else(|error| Err(Error::step("remove a sandbox", error)));
            first = first.or(removed.err());
        }
        let network = core.network.tear_down().await;
        first = first.or(network.err().map(|error| Error::step("take the network down", report(&error))));
        let inner = core.clone();
        let erased = tokio::task::spawn_blocking(move || erase(&inner)).await;
        first = first.or(erased.unwrap_or_else(|error| Err(Error::step("erase", error))).err());
        first.map_or(Ok(()), Err)
    }
}

/// Directories and cgroups of the runtime itself, once they are empty.
fn erase(core: &Core) -> Result<(), Error> {
    for directory in ["sandboxes", "containers"] {
        let path = core.layout.run.join(directory);
        if names(&path).is_empty() {
            rootfs::remove_tree(&path, &[])?;
        }
    }
    rootfs::remove_tree(&core.layout.run.join("oci"), &[])?;
    figures::close(core);
    figures::sweep(core)?;
    for name in ["monitors", "sandboxes"] {
        startup::erase_cgroup(core, &format!("{}/{name}", core.cgroup_top))?;
    }
    Ok(())
}

/// What this machine allows and has.
fn probe(hierarchies: &Hierarchies) -> Result<Machine, Error> {
    let read = |path: &str| fs::read_to_string(path).map_err(Error::file("read", path));
    let status = read("/proc/self/status")?;
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
    };
    let own_score: i64 = read("/proc/self/oom_score_adj")?.trim().parse().unwrap_or_default();
    let may_lower = mask("CapEff:") & CAP_SYS_RESOURCE != 0;
    if !may_lower {
        tracing::info!(floor = own_score, "OOM scores cannot be lowered here; containers go without");
    }
    Ok(Machine {
        unified_cgroups: hierarchies.is_unified(),
        hugetlb: hierarchies.is_unified() || hierarchies.v1.contains_key("hugetlb"),
        capabilities: capabilities::of_mask(mask("CapBnd:")),
        oom_score_floor: (!may_lower).then_some(own_score),
    })
}
