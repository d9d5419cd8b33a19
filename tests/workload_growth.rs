//! Many pods of many sets, without nodes that run them: the work of the controllers grows as the pods do.
//!
//! `SAMPAN_LOAD=5000 cargo nextest run -p sampan --test workload_growth --no-capture` prints figures for so many.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Options, UserInfo};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pods of one set, and how many are made ready at once.
const PODS_OF_SET: usize = 25;
const AT_ONCE: usize = 8;
const NODES: usize = 200;
const PATIENCE: Duration = Duration::from_secs(300);

struct World {
    client: Client,
}

impl World {
    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let media = if method == Method::PATCH { "application/strategic-merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", media).body(body).unwrap();
        self.client.request(request).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn until(&self, what: &str, path: &str, is: impl Fn(&Value) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is(&self.call(Method::GET, path, &Value::Null).await) {
            assert!(Instant::now() < end, "{what} takes too long");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Binds a pod to one of the hollow nodes and says that it runs there.
    async fn run(&self, pod: String, index: usize) -> anyhow::Result<()> {
        let path = format!("/api/v1/namespaces/load/pods/{pod}");
        let node = json!({"kind": "Node", "name": format!("hollow-{}", index % NODES)});
        self.call(Method::POST, &format!("{path}/binding"), &json!({"metadata": {"name": pod}, "target": node})).await;
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let status = json!({"status": {"phase": "Running", "conditions": ready}});
        self.call(Method::PATCH, &format!("{path}/status"), &status).await;
        Ok(())
    }
}

fn set(index: usize) -> Value {
    let (name, labels) = (format!("set-{index}"), json!({"app": format!("set-{index}")}));
    let spec = json!({"containers": [{"name": "c", "image": "example.com/i:1"}]});
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": {
        "replicas": PODS_OF_SET, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": spec},
    }})
}

fn sum(list: &Value, field: &str) -> usize {
    let counts = list["items"].as_array().into_iter().flatten().filter_map(|set| set["status"][field].as_u64());
    counts.sum::<u64>().try_into().unwrap()
}

/// From the first set to the status of the last one: how long until all pods are made, and until all are known as ready.
async fn load(pods: usize) -> (Duration, Duration) {
    let cancel = CancellationToken::new();
    let options = Options::new(Arc::new(store::memory::MemoryStore::new()));
    let server = ApiServer::start(options, cancel.clone()).await.unwrap();
    let client = |user| Client::new(server.router_as(user), "default");
    let world = World { client: client(UserInfo::admin()) };
    let manager = client(UserInfo::new("system:kube-controller-manager", &[]));
    let mut controllers = tokio::task::JoinSet::new();
    // Nobody speaks for hollow nodes.
    let nodes = controllers::NodePolicy { startup_grace: Duration::from_secs(86_400), ..Default::default() };
    let options = controllers::Options { nodes, ..Default::default() };
    controllers.spawn(controllers::run(manager, options, cancel.clone()));
    for index in 0..NODES {
        world.call(Method::POST, "/api/v1/nodes", &json!({"metadata": {"name": format!("hollow-{index}")}})).await;
    }
    world.call(Method::POST, "/api/v1/namespaces", &json!({"metadata": {"name": "load"}})).await;
    let accounts = "/api/v1/namespaces/load/serviceaccounts";
    world.until("the default account", accounts, |list| list["items"] != json!([])).await;
    let sets = "/apis/apps/v1/namespaces/load/replicasets";
    let begun = Instant::now();
    for index in 0..pods / PODS_OF_SET {
        world.call(Method::POST, sets, &set(index)).await;
    }
    world.until("making pods", sets, |list| sum(list, "replicas") == pods).await;
    let made = begun.elapsed();
    let all = world.call(Method::GET, "/api/v1/namespaces/load/pods", &Value::Null).await;
    let names: Vec<String> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), pods, "not one too many");
    let running = stream::iter(names.into_iter().enumerate()).map(|(index, pod)| world.run(pod, index));
    running.buffer_unordered(AT_ONCE).try_collect::<()>().await.unwrap();
    world.until("seeing pods run", sets, |list| sum(list, "availableReplicas") == pods).await;
    let ready = begun.elapsed();
    cancel.cancel();
    controllers.join_next().await.unwrap().unwrap().unwrap();
    (made, ready)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_times_the_pods_take_about_four_times_as_long() {
    let most = std::env::var("SAMPAN_LOAD").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let few = load(most / 4).await;
    let many = load(most).await;
    let rate = |pods: usize, (made, ready): (Duration, Duration)| {
        eprintln!(
            "{pods} pods: made in {made:.1?} ({:.0}/s), known as ready after {ready:.1?}",
            pods as f64 / made.as_secs_f64()
        );
    };
    rate(most / 4, few);
    rate(most, many);
    // Squares would be sixteen; the machine may be busy with other things.
    assert!(many.1 < few.1 * 9, "{few:?} {many:?}");
}
