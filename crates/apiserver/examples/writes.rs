//! What a write costs: pods made, their status changed and read, leases renewed, through the in-process door on the
//! memory store. Prints the median microseconds of each.
//!
//! `cargo run --release -p apiserver --example writes [ROUNDS]`
#![allow(clippy::disallowed_macros, clippy::disallowed_methods)] // It measures, and talks to a person.

use std::sync::Arc;
use std::time::Instant;

use apiserver::{ApiServer, Options, UserInfo};
use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const PODS: &str = "/api/v1/namespaces/default/pods";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(2000), |text| text.parse())?;
    let store = Arc::new(store::memory::MemoryStore::new());
    let server = ApiServer::start(Options::new(store), CancellationToken::new()).await?;
    let door = server.router_as(UserInfo::admin());
    let (mut made, mut running, mut read) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for round in 0..rounds {
        let name = format!("p{round}");
        made.push(send(&door, (Method::POST, PODS), "application/json", &pod(&name)).await?.0);
        let status = format!("{PODS}/{name}/status");
        for phase in ["Pending", "Running", "Succeeded"] {
            running.push(send(&door, (Method::PATCH, &status), STRATEGIC, &pod_status(phase)).await?.0);
        }
        let (took, body) = send(&door, (Method::GET, &format!("{PODS}/{name}")), "", &Value::Null).await?;
        read.push(took);
        bytes = body;
    }
    println!("create pod {:.1} µs", median(&mut made));
    println!("patch status {:.1} µs", median(&mut running));
    println!("get pod {:.1} µs, {bytes} bytes", median(&mut read));
    Ok(())
}

/// Sends a request; microseconds and bytes of the answer.
async fn send(
    door: &axum::Router,
    (method, path): (Method, &str),
    media: &str,
    body: &Value,
) -> Result<(f64, usize), Box<dyn std::error::Error>> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let request = request.header("user-agent", "kubelet/v1").body(body)?;
    let start = Instant::now();
    let response = door.clone().oneshot(request).await?;
    let ok = response.status().is_success();
    let bytes = response.into_body().collect().await?.to_bytes();
    let took = start.elapsed().as_secs_f64() * 1e6;
    if !ok {
        return Err(String::from_utf8_lossy(&bytes).into_owned().into());
    }
    Ok((took, bytes.len()))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web", "tier": "front"}, "annotations": {"a/b": "c"}},
        "spec": {
            "containers": [{
                "name": "web", "image": "nginx:1.27", "ports": [{"containerPort": 80}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 80}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn pod_status(phase: &str) -> Value {
    let condition = |name: &str| json!({"type": name, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-02T03:04:05Z", "reason": phase});
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"].map(condition);
    json!({"status": {
        "phase": phase, "hostIP": "10.0.0.1", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}],
        "startTime": "2026-01-02T03:04:05Z",
        "conditions": conditions,
        "containerStatuses": [{
            "name": "web", "image": "nginx:1.27", "imageID": "sha256:e3b0c44298fc1c149afbf4c8996fb924", "ready": true,
            "restartCount": 0, "started": true, "containerID": "x://e3b0c44298fc1c149afbf4c8996fb924",
            "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}},
        }],
    }})
}
