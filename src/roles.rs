//! One role of the binary at a time: control plane, node agent, container runtime.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::node_identity::NodeIdentity;
use crate::output::line;
use crate::settings::{Resolved, Settings};
use crate::wiring::{self, Components, ControlPlane};
use crate::{join, kubeconfig, node_identity, up};

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
        components.controllers(&plane, &certificates, &resolved);
        let instance = &resolved.instance;
        let url = kubeconfig::server_url(resolved.listen);
        kubeconfig::write_admin(&instance.admin_kubeconfig(), &instance.name(), &url, &certificates)?;
        line(&format!("the API is served at {url}; kubeconfig: {}", instance.admin_kubeconfig().display()));
        Ok(components)
    })
}

/// How a node becomes a member of a cluster.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct By {
    /// How to reach the API server, and as whom
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How to ask the API server for a certificate: a file of `sampan token create -o kubeconfig`; not needed any more once
    /// the node has one
    #[arg(long, value_name = "FILE")]
    bootstrap_kubeconfig: Option<PathBuf>,
}

/// The node agent with its embedded runtime, for an API server elsewhere.
pub fn node(settings: Settings, by: &By) -> anyhow::Result<()> {
    let resolved = settings.clone().resolve()?;
    hold(&resolved, async |cancel| {
        let instance = &resolved.instance;
        settings.remember(instance)?;
        let own = wiring::certificates(&resolved)?;
        let file = match by {
            By { bootstrap_kubeconfig: Some(bootstrap), .. } => {
                node_identity::join(instance, &resolved.node_name, bootstrap).await?
            }
            By { kubeconfig, .. } => kubeconfig.clone().context("name a --kubeconfig")?,
        };
        node_identity::refuse_other_node(&file, &resolved.node_name)?;
        join::remember(instance, &file)?;
        let identity = NodeIdentity::open(instance, &node_identity::chosen(instance, &file)?, &own).await?;
        let runtime = wiring::container_runtime(&resolved, cancel.clone()).await?;
        let mut components = Components::new(cancel);
        components.cri_socket(&runtime, &resolved);
        components.node_with(&resolved, identity.client(), &runtime, identity.tls(&own)?)?;
        components.renewal(identity);
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
