//! `sampan up`: from nothing, or from what the last one left, to a Ready node.
//!
//! Order: what can fail without a trace is tried first ([`preflight`]), then the control plane and the runtime start side
//! by side, then the node. The process stays until a signal; pods outlive it.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::instance::Instance;
use crate::output::{Steps, line};
use crate::settings::{Resolved, Settings};
use crate::wiring::{self, ControlPlane};
use crate::{detach, kubeconfig};

/// Runs in the foreground until SIGINT or SIGTERM.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let detached = std::env::var_os("SAMPAN_DETACHED").is_some();
    if detached {
        // A session of its own: the terminal that started us may close.
        let _ = rustix::process::setsid();
    }
    let resolved = settings.clone().resolve()?;
    let instance = resolved.instance.clone();
    if let Some(pid) = instance.running() {
        line(&already_running(&instance, pid));
        return Ok(());
    }
    preflight(&resolved)?;
    instance.prepare()?;
    let Ok(_lock) = instance.lock()? else {
        bail!("another sampan started in {} at the same moment", instance.run_dir.display());
    };
    settings.remember(&instance)?;
    crate::join::forget(&instance)?;
    crate::check::warn_if_tight(&resolved);
    wiring::executor()?.block_on(serve(resolved, detached))
}

/// What a second `up` says.
pub fn already_running(instance: &Instance, pid: u32) -> String {
    format!(
        "sampan runs already (process {pid}); kubectl --kubeconfig {} get nodes",
        instance.admin_kubeconfig().display()
    )
}

/// Refuses what cannot work before anything is changed. Each refusal says how to mend it.
pub fn preflight(resolved: &Resolved) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("sampan makes namespaces, mounts and cgroups and so needs root; try: sudo sampan up");
    }
    wiring::refuse_bad_plugins(resolved)?;
    drop(listen(resolved.listen)?);
    resolved.instance.refuse_if_unusable()?;
    crate::check::refuse_shared_network(resolved)?;
    crate::tokens::read(resolved.token_auth_file.as_deref()).context("--token-auth-file")?;
    if resolved.node_port.is_some() {
        drop(wiring::node_listener(resolved)?);
    }
    crate::check::refuse_if_unable(resolved)
}

/// Binds the API's address, or says who is in the way and what to do.
pub fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address) {
        Ok(listener) => {
            listener.set_nonblocking(true)?;
            Ok(listener)
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bail!("{address} is in use by another program; stop that, or choose another address with --listen")
        }
        Err(error) => Err(error).with_context(|| format!("listen on {address}; choose another address with --listen")),
    }
}

async fn serve(resolved: Resolved, detached: bool) -> anyhow::Result<()> {
    let mut steps = Steps::begin();
    let cancel = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let certificates = wiring::certificates(&resolved)?;
    steps.done("certificates");
    let (plane, runtime) = tokio::try_join!(
        ControlPlane::start(&resolved, &certificates, cancel.clone()),
        wiring::container_runtime(&resolved, cancel.clone()),
    )?;
    steps.done(&format!("API server and container runtime ({})", runtime.default_handler));
    plane.look_up_tags_with(&runtime, &resolved)?;
    let mut components = wiring::Components::new(cancel.clone());
    components.api(&plane, listen(resolved.listen)?, &certificates)?;
    components.api_for_pods(&plane, &resolved, &certificates)?;
    write_kubeconfigs(&resolved, &certificates)?;
    components.scheduler(&plane);
    components.controllers(&plane, &certificates, &resolved);
    components.cri_socket(&runtime, &resolved);
    components.node(&resolved, &plane, &runtime, &certificates)?;
    tokio::select! {
        ready = wiring::node_ready(&plane, &resolved.node_name) => ready?,
        _ = interrupt.recv() => return components.end().await,
        _ = terminate.recv() => return components.end().await,
    }
    steps.done(&format!("node {} is Ready", resolved.node_name));
    line(&format!("ready in {}", crate::output::milliseconds(steps.elapsed())));
    if detached {
        line(detach::READY);
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping; pods run on");
    components.end().await
}

fn write_kubeconfigs(resolved: &Resolved, certificates: &crate::certificates::Certificates) -> anyhow::Result<()> {
    let (name, server) = (resolved.instance.name(), kubeconfig::server_url(resolved.listen));
    kubeconfig::write_admin(&resolved.instance.admin_kubeconfig(), &name, &server, certificates)?;
    if resolved.merge_kubeconfig
        && let Err(error) = kubeconfig::merge(&name, &server, certificates)
    {
        // Somebody else's file in an odd state is no reason not to run.
        tracing::warn!(error = format!("{error:#}"), "the user's kubeconfig was left alone");
    }
    Ok(())
}
