//! Hollow nodes: what a control plane sees of nodes, without anything that runs on them.
//!
//! Each has its own connection and its own identity, renews its lease, watches the pods that are bound to it, says that
//! they run as soon as it sees them, and removes those that are deleted.

use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// As kubelets do.
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: u32 = 40;
/// Nodes that register at a time.
const AT_ONCE: usize = 8;

/// Registers so many nodes; they live as long as what is returned.
pub async fn start(config: &kube::Config, nodes: usize) -> anyhow::Result<JoinSet<()>> {
    let clients = stream::iter(0..nodes).map(|nth| register(config, format!("hollow-{nth}")));
    let clients: Vec<(String, Client)> = clients.buffer_unordered(AT_ONCE).try_collect().await?;
    let mut lives = JoinSet::new();
    for (name, client) in clients {
        lives.spawn(renew(client.clone(), name.clone()));
        lives.spawn(run_pods(client, name));
    }
    Ok(lives)
}

async fn register(config: &kube::Config, name: String) -> anyhow::Result<(String, Client)> {
    let mut config = config.clone();
    config.auth_info.impersonate = Some(format!("system:node:{name}"));
    config.auth_info.impersonate_groups = Some(vec!["system:nodes".into()]);
    let client = Client::try_from(config)?;
    let nodes: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    nodes.create(&PostParams::default(), &node).await.context("register a node")?;
    let amounts = json!({"cpu": "64", "memory": "256Gi", "pods": "110"});
    let ready = condition("2026-01-01T00:00:00Z");
    let status = json!({"status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}});
    nodes.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await.context("a node's status")?;
    Ok((name, client))
}

fn condition(since: &str) -> Value {
    json!({"type": "Ready", "status": "True", "reason": "Hollow", "message": "", "lastTransitionTime": since,
        "lastHeartbeatTime": since})
}

async fn renew(client: Client, name: String) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    loop {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {
            "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now(),
        }});
        let ours = PatchParams::apply("hollow").force();
        if let Err(error) = leases.patch(&name, &ours, &Patch::Apply(lease)).await {
            eprintln!("{name}: its lease: {error}");
        }
        tokio::time::sleep(RENEW).await;
    }
}

fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

async fn run_pods(client: Client, name: String) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
    let events = watcher::watcher(Api::<Pod>::all(client.clone()), config);
    let mut events = events.boxed();
    loop {
        let done = match events.next().await {
            Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => serve(&client, &pod).await,
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
            None => return,
        };
        if let Err(error) = done {
            eprintln!("{name}: {error:#}");
        }
    }
}

/// Does at once what a pod is for.
async fn serve(client: &Client, pod: &Pod) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        let this = Preconditions { uid: pod.uid(), resource_version: None };
        let parameters = DeleteParams::default().grace_period(0).preconditions(this);
        return match pods.delete(&name, &parameters).await {
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
            other => other.map(drop).context("remove a pod"),
        };
    }
    if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running") {
        return Ok(());
    }
    let since = now();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": since});
    let image = "example.com/hollow:1";
    let status = json!({"status": {
        "phase": "Running", "startTime": since, "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}],
        "conditions": [condition("Initialized"), condition("ContainersReady"), condition("Ready")],
        "containerStatuses": [{"name": "c", "image": image, "imageID": "", "ready": true, "started": true,
            "restartCount": 0, "state": {"running": {"startedAt": since}}}],
    }});
    match pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop).context("a pod's status"),
    }
}
