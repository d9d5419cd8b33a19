//! One role of the binary at a time: control plane, node agent, container runtime.

use std::path::Path;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output::line;
use crate::settings::{Resolved, Settings};
use crate::wiring::{self, Components, ControlPlane};
use crate::{join, kubeconfig, up};

/// The control plane alone.
pub fn server(settings: Settings) -> anyhow::Result<()> {
    let resolved = settings.resolve()?;
    let listener = up::listen(resolved.listen)?;
    hold(&resolved, async |cancel| {
        let certificates = wiring::certificates(&resolved)?;
        let plane = ControlPlane::start(&resolved, &certificates, cancel.clone()).await?;
        let mut components = Components::new(cancel);
        components.api(&plane, listener, &certificates)?;
        components.scheduler(&plane);
        components.controllers(&plane, &resolved, &certificates);
        let instance = &resolved.instance;
        let url = kubeconfig::server_url(resolved.listen);
        kubeconfig::write_admin(&instance.admin_kubeconfig(), &instance.name(), &url, &certificates)?;
        line(&format!("the API is served at {url}; kubeconfig: {}", instance.admin_kubeconfig().display()));
        Ok(components)
    })
}

/// The node agent with its embedded runtime, for an API server elsewhere.
pub fn node(settings: Settings, kubeconfig: &Path) -> anyhow::Result<()> {
    let resolved = settings.clone().resolve()?;
    hold(&resolved, async |cancel| {
        settings.remember(&resolved.instance)?;
        join::remember(&resolved.instance, kubeconfig)?;
        let client = wiring::client_from(kubeconfig).await?;
        let tls = join::node_tls(kubeconfig, resolved.node_ip, &wiring::certificates(&resolved)?)?;
        let runtime = wiring::container_runtime(&resolved, cancel.clone()).await?;
        let mut components = Components::new(cancel);
        components.cri_socket(&runtime, &resolved);
        components.node_with(&resolved, client, &runtime, tls)?;
        line(&format!("node {} runs", resolved.node_name));
        Ok(components)
    })
}

/// The container runtime alone.
pub fn runtime(settings: Settings) -> anyhow::Result<()> {
    let resolved = settings.resolve()?;
    hold(&resolved, async |cancel| {
        let runtime = wiring::container_runtime(&resolved, cancel.clone()).await?;
        let mut components = Components::new(cancel);
        components.cri_socket(&runtime, &resolved);
        line(&format!("CRI v1 is served at {}", resolved.instance.cri_socket().display()));
        Ok(components)
    })
}

/// Takes the instance, starts its components and waits for a signal.
fn hold<F>(resolved: &Resolved, start: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce(CancellationToken) -> anyhow::Result<Components>,
{
    let instance = &resolved.instance;
    instance.prepare()?;
    let Ok(_lock) = instance.lock()? else {
        bail!("sampan runs already in {}; give another --run-dir and --data-dir", instance.run_dir.display());
    };
    wiring::executor()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let components = start(CancellationToken::new()).await.context("start")?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        components.end().await
    })
}
