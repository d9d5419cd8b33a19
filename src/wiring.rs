//! Every component and every door between them.
//!
//! The only module that knows how rooms meet: which identity a client of the API carries, which socket serves what.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::{ApiServer, UserInfo};
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificates::{Certificates, signer};
use crate::node_identity::NodeIdentity;
use crate::settings::Resolved;
use crate::{handlers, pins, secrets, supervise, tokens};

/// How long components may take to end after cancellation.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How long a start may take until the node is Ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long after a start the roles that nothing here needs are made.
const ROLES_AFTER: Duration = Duration::from_secs(1);

/// The executor of every role.
pub fn executor() -> anyhow::Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("start the executor")
}

/// The instance's certificates, made or renewed where needed.
pub fn certificates(resolved: &Resolved) -> anyhow::Result<Certificates> {
    // One provider for every library that asks for the process's default.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut addresses: Vec<IpAddr> = vec![resolved.listen.ip(), resolved.node_ip];
    addresses.extend(resolved.node_external_ip);
    addresses.extend(resolved.api_address_of_pods().map(|address| address.ip()));
    Certificates::ensure(&resolved.instance.data_dir.join("pki"), &resolved.node_name, &addresses)
}

/// API server over its store, and the doors into it.
pub struct ControlPlane {
    server: ApiServer,
    pins: pins::Slot,
}

impl ControlPlane {
    /// Opens the store and starts the server. Nothing listens yet.
    pub async fn start(
        resolved: &Resolved,
        certificates: &Certificates,
        cancel: CancellationToken,
    ) -> anyhow::Result<ControlPlane> {
        let dir = resolved.instance.data_dir.join("store");
        let store =
            store::disk::DiskStore::open(&dir).with_context(|| format!("open the store in {}", dir.display()))?;
        let mut options = apiserver::Options::new(Arc::new(store));
        options.event_ttl = resolved.event_ttl;
        let pins = pins::Slot::default();
        options.digests = Some(pins::service(&pins));
        options.unresolved_tags = resolved.unresolved_tags;
        options.admission.clone_from(&resolved.admission);
        options.default_tolerations = resolved.default_tolerations;
        options.client_ca_pem = Some(certificates.ca.clone());
        options.limits.connections = connections(options.limits.connections);
        options.node_tls = Some(apiserver::NodeTls {
            ca_pem: certificates.ca.clone(),
            certificate_pem: certificates.node_client.certificate.clone(),
            key_pem: certificates.node_client.key.clone(),
        });
        options.service_account_key_pem = Some(certificates.service_account_key.clone());
        options.audit_log = resolved.audit_log.clone();
        options.secret_keys = Some(secrets::keys(&resolved.instance.data_dir)?);
        if let Some(plugins) = &resolved.credentials.plugins {
            // IMG-208: who configures a plugin lets this machine's node ask for its tokens.
            options.node_audiences = plugins.audiences().context("--image-credential-provider-config")?;
        }
        options.tokens = tokens::read(resolved.token_auth_file.as_deref())?;
        let server = ApiServer::start(options, cancel).await.context("start the API server")?;
        Ok(ControlPlane { server, pins })
    }

    /// Lets `PinImageDigests` look up tags with this process's image store.
    pub fn look_up_tags_with(&self, runtime: &ContainerRuntime, resolved: &Resolved) -> anyhow::Result<()> {
        // It reads the pull secrets of every namespace, as the server that asks it could.
        let client = self.client_as(UserInfo::new("system:apiserver", &["system:masters"]));
        let pins = pins::Pins {
            images: runtime.images.clone(),
            credentials: pins::credentials(client, resolved)?,
            local_allowed: resolved.local_registries_pinned,
        };
        if self.pins.set(pins).is_err() {
            tracing::debug!("tags are looked up already");
        }
        Ok(())
    }

    /// The client of this machine's node, and where the API is for its pods.
    pub fn client_of_node(&self, resolved: &Resolved) -> (Client, Reach) {
        let reach = Reach { pods: resolved.api_address_of_pods(), host: resolved.api_address_of_host() };
        (self.client_as(UserInfo::node(&resolved.node_name)), reach)
    }

    /// The administrator's client, for a process that listens nowhere.
    pub fn client_of_administrator(&self) -> Client {
        self.client_as(UserInfo::admin())
    }

    /// A client without a socket that acts as a user and passes the same authorization as over TLS.
    fn client_as(&self, user: UserInfo) -> Client {
        Client::new(self.server.router_as(user), "default")
    }
}

/// As many connections as leave most descriptors of the process to everything else: there are two listeners.
fn connections(most: usize) -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    descriptors.and_then(|count| usize::try_from(count / 4).ok()).map_or(most, |quarter| most.min(quarter))
}

/// Where pods find the API server of their node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reach {
    /// Pods with an address of their own.
    pub pods: Option<SocketAddr>,
    /// Pods on the host network.
    pub host: Option<SocketAddr>,
}

/// The embedded runtime and which handler it uses by default.
pub struct ContainerRuntime {
    /// The runtime.
    pub runtime: runtime::Runtime,
    /// Its images.
    pub images: images::Images,
    /// Name of the handler for pods without a RuntimeClass.
    pub default_handler: String,
}

/// Opens the image store and starts the embedded runtime.
pub async fn container_runtime(resolved: &Resolved, cancel: CancellationToken) -> anyhow::Result<ContainerRuntime> {
    let instance = &resolved.instance;
    let images = images::Images::open(images::Options::new(instance.data_dir.join("images")))
        .await
        .context("open the image store")?;
    let inventory = handlers::load(resolved).context("read the handlers")?;
    let default_handler = handlers::choose_default(resolved, &inventory)?;
    for handlers::Unusable { name, origin, reason } in &inventory.unusable {
        tracing::info!(handler = name, origin, reason, "cannot be served here");
    }
    let options = runtime::Options {
        data_dir: instance.data_dir.clone(),
        run_dir: instance.run_dir.clone(),
        cgroup_top: instance.cgroup_top(),
        handlers: inventory.handlers(),
        default_handler: default_handler.clone(),
        command_timeout: resolved.handler_timeout,
        network: network::Options {
            bridge: instance.bridge(),
            pod_cidr: resolved.pod_cidr,
            state_dir: instance.data_dir.join("network"),
            table: instance.nft_table(),
        },
        images: images.clone(),
        // The running program itself, also after its file was replaced by an upgrade.
        monitor_command: vec!["/proc/self/exe".into(), "monitor".into()],
    };
    let runtime = runtime::Runtime::start(options, cancel).await.context("start the container runtime")?;
    Ok(ContainerRuntime { runtime, images, default_handler })
}

/// The running components of this process.
pub struct Components {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Components {
    /// None yet; all that follow end with the token.
    pub fn new(cancel: CancellationToken) -> Components {
        let mut components = Components { cancel, tasks: TaskTracker::new() };
        components.keep("memory", crate::memory::give_back);
        components
    }

    /// Serves the API over TLS.
    pub fn api(
        &mut self,
        plane: &ControlPlane,
        listener: TcpListener,
        certificates: &Certificates,
    ) -> anyhow::Result<()> {
        let (server, tls) = (plane.server.clone(), certificates.api_tls()?);
        self.keep("api", move |cancel| {
            let (server, tls, listener) = (server.clone(), tls.clone(), listener.try_clone());
            async move {
                let listener = tokio::net::TcpListener::from_std(listener?)?;
                server.serve(listener, tls, cancel).await.map_err(anyhow::Error::from)
            }
        });
        Ok(())
    }

    /// Serves the API to pods too, where what it listens on is out of their reach.
    pub fn api_for_pods(
        &mut self,
        plane: &ControlPlane,
        resolved: &Resolved,
        certificates: &Certificates,
    ) -> anyhow::Result<()> {
        let Some(address) = resolved.api_address_of_pods().filter(|_| resolved.listen.ip().is_loopback()) else {
            return Ok(());
        };
        let listener = listen_ahead(address).with_context(|| {
            format!("listen for pods on {address}; choose another --pod-cidr or another port with --listen")
        })?;
        self.api(plane, listener, certificates)
    }

    /// Binds pods to nodes.
    pub fn scheduler(&mut self, plane: &ControlPlane) {
        let client = plane.client_as(UserInfo::new("system:kube-scheduler", &[]));
        self.keep("scheduler", move |cancel| scheduler::run(client.clone(), cancel));
    }

    /// Keeps what follows from other objects.
    pub fn controllers(&mut self, plane: &ControlPlane, certificates: &Certificates, resolved: &Resolved) {
        let client = plane.client_as(UserInfo::new("system:kube-controller-manager", &[]));
        let signer = signer::door(&resolved.instance.data_dir.join("pki"), resolved.signing_limit);
        let options = controllers::Options {
            root_ca: Some(certificates.ca.clone()),
            signer: Some(signer),
            nodes: resolved.node_policy.clone(),
        };
        self.keep("controllers", move |cancel| controllers::run(client.clone(), options.clone(), cancel));
        let server = plane.server.clone();
        self.keep("roles", move |cancel| other_roles(server.clone(), cancel));
    }

    /// Serves the runtime on its socket, and keeps its handlers what the files say.
    pub fn cri_socket(&mut self, runtime: &ContainerRuntime, resolved: &Resolved) {
        let (watched, settings) = (runtime.runtime.clone(), resolved.clone());
        self.keep("handlers", move |cancel| handlers::watch::run(settings.clone(), watched.clone(), cancel));
        let (runtime, socket) = (runtime.runtime.clone(), resolved.instance.cri_socket());
        self.keep("cri", move |cancel| {
            let (runtime, socket) = (runtime.clone(), socket.clone());
            async move { runtime.serve(&socket, cancel).await }
        });
    }

    /// Runs the node agent of this process's own control plane.
    pub fn node(
        &mut self,
        resolved: &Resolved,
        plane: &ControlPlane,
        runtime: &ContainerRuntime,
        certificates: &Certificates,
    ) -> anyhow::Result<()> {
        self.node_with(resolved, plane.client_of_node(resolved), runtime, certificates.node_tls()?)
    }

    /// Runs the node agent with some client of an API.
    pub fn node_with(
        &mut self,
        resolved: &Resolved,
        (client, reach): (Client, Reach),
        runtime: &ContainerRuntime,
        tls: Arc<rustls::ServerConfig>,
    ) -> anyhow::Result<()> {
        let (resolved, cri) = (resolved.clone(), runtime.runtime.client());
        let listener = node_listener(&resolved)?;
        refuse_bad_plugins(&resolved)?;
        self.keep("node", move |cancel| {
            let options = listener
                .try_clone()
                .map(|listener| node_options(&resolved, (client.clone(), reach), cri.clone(), listener, tls.clone()));
            async move { node::run(options?, cancel).await.map_err(anyhow::Error::from) }
        });
        Ok(())
    }

    /// Renews the certificate of a node that joined another cluster.
    pub fn renewal(&mut self, identity: NodeIdentity) {
        self.keep("certificate", move |cancel| identity.clone().renew(cancel));
    }

    /// Ends all components. Pods run on.
    pub async fn end(self) -> anyhow::Result<()> {
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(END_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("some components did not end in time; they lose nothing by it");
        }
        Ok(())
    }

    fn keep<F, R, E>(&mut self, name: &'static str, mut start: F)
    where
        F: FnMut(CancellationToken) -> R + Send + 'static,
        R: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error> + Send + 'static,
    {
        let cancel = self.cancel.clone();
        self.tasks.spawn(supervise::keep(name, cancel.clone(), move || {
            let run = start(cancel.clone());
            async move { run.await.map_err(|error| format!("{:#}", error.into())) }
        }));
    }
}

/// Nobody waits for these roles, so they are made when the start is over.
async fn other_roles(server: ApiServer, cancel: CancellationToken) -> Result<(), apiserver::Error> {
    if cancel.run_until_cancelled(tokio::time::sleep(ROLES_AFTER)).await.is_some() {
        server.ensure_other_roles().await?;
        cancel.cancelled().await;
    }
    Ok(())
}

/// IMG-200: a node does not start with credential plugins that it does not understand.
pub fn refuse_bad_plugins(resolved: &Resolved) -> anyhow::Result<()> {
    match &resolved.credentials.plugins {
        Some(plugins) => plugins.load().map(drop).context("--image-credential-provider-config"),
        None => Ok(()),
    }
}

/// A listener on an address that the machine may not have yet: the bridge comes with the first pod.
fn listen_ahead(address: SocketAddr) -> std::io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_ip_freebind(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, 128)?;
    Ok(socket.into())
}

/// The node port's socket: the port that was asked for, else 10250, else a free one (the Node object tells which).
pub fn node_listener(resolved: &Resolved) -> anyhow::Result<TcpListener> {
    const KUBELET_PORT: u16 = 10250;
    let bind = |port| TcpListener::bind(SocketAddr::new(resolved.node_ip, port));
    let listener = match resolved.node_port {
        Some(port) => {
            bind(port).with_context(|| format!("listen on {}:{port}; choose another --node-port", resolved.node_ip))?
        }
        None => bind(KUBELET_PORT).or_else(|_| bind(0)).with_context(|| {
            format!("listen on {}; is it an address of this machine (--node-ip)?", resolved.node_ip)
        })?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn node_options(
    resolved: &Resolved,
    (client, reach): (Client, Reach),
    cri: cri::Client,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
) -> node::Options {
    let instance = &resolved.instance;
    node::Options {
        node_name: resolved.node_name.clone(),
        client,
        cri,
        data_dir: instance.data_dir.clone(),
        run_dir: instance.run_dir.clone(),
        log_dir: instance.log_dir(),
        cgroup_top: instance.cgroup_top(),
        node_ip: resolved.node_ip,
        node_external_ip: resolved.node_external_ip,
        listener,
        tls,
        max_pods: resolved.max_pods,
        pod_cidr: resolved.pod_cidr.to_string(),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        api_address: reach.pods,
        api_address_of_host: reach.host,
        pull_limits: resolved.images.limits,
        images_with_handler: resolved.images.with_handler,
        collection: resolved.images.collection,
        eviction: resolved.eviction.clone(),
        shutdown: resolved.shutdown.clone(),
        logs: resolved.logs,
        status_images_max: resolved.images.status_max,
        runtime_class_fails_pod: resolved.runtime_class_fails_pod,
        credentials: resolved.credentials.clone(),
        verification: resolved.verification.clone(),
        static_pods: resolved.static_pods.clone(),
        hook_limits: resolved.hook_limits,
        crash_back_off: resolved.crash_back_off,
    }
}

/// Stops all pods of this node in order, with their hooks; the API keeps them.
pub async fn drain_node(
    resolved: &Resolved,
    (client, reach): (Client, Reach),
    runtime: &ContainerRuntime,
) -> anyhow::Result<()> {
    let instance = &resolved.instance;
    let options = node::DrainOptions {
        node_name: resolved.node_name.clone(),
        client,
        cri: runtime.runtime.client(),
        data_dir: instance.data_dir.clone(),
        log_dir: instance.log_dir(),
        cgroup_top: instance.cgroup_top(),
        node_ip: resolved.node_ip,
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        api_address: reach.pods,
        api_address_of_host: reach.host,
        images_with_handler: resolved.images.with_handler,
        pull_limits: resolved.images.limits,
        runtime_class_fails_pod: resolved.runtime_class_fails_pod,
        credentials: resolved.credentials.clone(),
        verification: resolved.verification.clone(),
        hook_limits: resolved.hook_limits,
        crash_back_off: resolved.crash_back_off,
    };
    node::drain(options, |progress| crate::output::line(&format!("  {progress}"))).await.context("stop the pods")
}

/// Waits until the Node says that it is Ready.
pub async fn node_ready(plane: &ControlPlane, node_name: &str) -> anyhow::Result<()> {
    use k8s_openapi::api::core::v1::Node;
    let nodes: kube::Api<Node> = kube::Api::all(plane.client_as(UserInfo::admin()));
    let began = jiff::Timestamp::now();
    let fresh = move |node: Option<&Node>| {
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| {
            // A heartbeat of an earlier run says nothing of this one.
            let beat =
                condition.last_heartbeat_time.as_ref().is_some_and(|time| time.0.as_second() >= began.as_second());
            condition.type_ == "Ready" && condition.status == "True" && beat
        })
    };
    let wait = kube::runtime::wait::await_condition(nodes, node_name, fresh);
    match tokio::time::timeout(READY_WITHIN, wait).await {
        Ok(ready) => ready.map(drop).context("watch the node"),
        Err(_) => bail!("the node is not Ready after {} s; see the log for what it waits for", READY_WITHIN.as_secs()),
    }
}

/// A client for the API that a kubeconfig file names, and where that is for pods.
pub async fn client_from(kubeconfig: &Path) -> anyhow::Result<(Client, Reach)> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read =
        kube::config::Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default()).await?;
    let url = &config.cluster_url;
    // What is on this machine's loopback is out of reach of pods with an address of their own.
    let address = url.host().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    let host = address.map(|ip| SocketAddr::new(ip, url.port_u16().unwrap_or(443)));
    let reach = Reach { pods: host.filter(|address| !address.ip().is_loopback()), host };
    Ok((Client::try_from(config)?, reach))
}
