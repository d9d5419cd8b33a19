//! The whole scheduler against a scripted API: what it calls when pods and nodes come and go.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a call may be awaited before the test calls it missing.
const PATIENCE: Duration = Duration::from_secs(20);

type Feeds = BTreeMap<&'static str, mpsc::Receiver<Value>>;

/// The API's side: events to feed into watches, calls to look at.
struct Script {
    pods: mpsc::Sender<Value>,
    nodes: mpsc::Sender<Value>,
    calls: mpsc::Receiver<(String, Value)>,
    cancel: CancellationToken,
    scheduler: JoinSet<Result<(), scheduler::Error>>,
}

impl Script {
    /// Starts a scheduler whose API has nothing yet.
    fn start() -> Script {
        let (pods, pods_feed) = mpsc::channel(16);
        let (nodes, nodes_feed) = mpsc::channel(16);
        let (told, calls) = mpsc::channel(64);
        let feeds: Feeds = [("/api/v1/pods", pods_feed), ("/api/v1/nodes", nodes_feed)].into();
        let feeds = Arc::new(Mutex::new(feeds));
        let service = tower::service_fn(move |request| answer(request, feeds.clone(), told.clone()));
        let client = kube::Client::new(service, "default");
        let cancel = CancellationToken::new();
        let mut scheduler = JoinSet::new();
        scheduler.spawn(scheduler::run(client, cancel.clone()));
        Script { pods, nodes, calls, cancel, scheduler }
    }

    async fn call(&mut self) -> (String, Value) {
        tokio::time::timeout(PATIENCE, self.calls.recv()).await.expect("a call comes in time").expect("it runs")
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.scheduler.join_next()).await.expect("it ends in time");
        ended.unwrap().unwrap().unwrap();
    }
}

async fn answer(
    request: Request<kube::client::Body>,
    feeds: Arc<Mutex<Feeds>>,
    told: mpsc::Sender<(String, Value)>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if parts.method != Method::GET {
        let body = body.collect().await.unwrap().to_bytes();
        let _ = told.send((format!("{} {path}", parts.method), serde_json::from_slice(&body).unwrap())).await;
        return Ok(json_response(json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}})));
    }
    if !parts.uri.query().unwrap_or_default().contains("watch=true") {
        return Ok(json_response(json!({"metadata": {"resourceVersion": "1"}, "items": []})));
    }
    let feed = feeds.lock().unwrap().remove(&*path);
    let events = stream::unfold(feed, |feed| async move {
        let Some(mut open) = feed else { return std::future::pending().await };
        open.recv().await.map(|event: Value| (Ok(Frame::data(Bytes::from(format!("{event}\n")))), Some(open)))
    });
    Ok(Response::new(UnsyncBoxBody::new(StreamBody::new(events.boxed()))))
}

fn json_response(value: Value) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    Response::new(UnsyncBoxBody::new(Full::new(Bytes::from(value.to_string()))))
}

fn pod(name: &str, rest: Value) -> Value {
    json!({
        "type": "ADDED",
        "object": {
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": "2"},
            "spec": rest,
            "status": {"phase": "Pending"},
        },
    })
}

fn node(name: &str, cpu: &str) -> Value {
    let status = json!({"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}});
    json!({"type": "ADDED", "object": {"metadata": {"name": name, "resourceVersion": "3"}, "status": status}})
}

#[tokio::test]
async fn a_pod_waits_for_a_node_and_is_bound_as_soon_as_one_comes() {
    let mut script = Script::start();
    script.pods.send(pod("web", json!({}))).await.unwrap();
    let (call, patch) = script.call().await;
    assert_eq!(call, "PATCH /api/v1/namespaces/ns/pods/web/status");
    let condition = &patch["status"]["conditions"][0];
    assert_eq!((&condition["reason"], &condition["status"]), (&json!("Unschedulable"), &json!("False")));
    let time = condition["lastTransitionTime"].as_str().unwrap();
    assert_eq!((time.len(), &time[19..]), ("2026-01-01T00:00:00Z".len(), "Z"), "whole seconds");
    let (call, event) = script.call().await;
    assert_eq!(call, "POST /api/v1/namespaces/ns/events");
    assert_eq!(event["reason"], "FailedScheduling");
    assert_eq!(event["message"], "no nodes available to schedule pods");
    script.nodes.send(node("n", "1")).await.unwrap();
    let (call, binding) = script.call().await;
    assert_eq!(call, "POST /api/v1/namespaces/ns/pods/web/binding");
    assert_eq!((&binding["target"]["name"], &binding["metadata"]["uid"]), (&json!("n"), &json!("uid-web")));
    let (_, event) = script.call().await;
    assert_eq!((&event["type"], &event["reason"]), (&json!("Normal"), &json!("Scheduled")));
    assert_eq!(event["message"], "Successfully assigned ns/web to n");
    script.stop().await;
}

#[tokio::test]
async fn an_assumed_pod_counts_before_the_watch_confirms_it_and_its_end_wakes_the_next() {
    let mut script = Script::start();
    script.nodes.send(node("n", "1")).await.unwrap();
    let wants = |cpu: &str| json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]});
    script.pods.send(pod("first", wants("700m"))).await.unwrap();
    // The node may be seen after the pod: then the pod is refused first. Only the binding counts here.
    while script.call().await.0 != "POST /api/v1/namespaces/ns/pods/first/binding" {}
    script.pods.send(pod("second", wants("700m"))).await.unwrap();
    let message = loop {
        let (call, body) = script.call().await;
        assert!(!call.contains("binding"), "the second pod does not fit");
        if body["reason"] == "FailedScheduling" {
            break body["message"].clone();
        }
    };
    let expect = "0/1 nodes are available: 1 Insufficient cpu. \
                  preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(message, expect);
    let mut gone = pod("first", wants("700m"));
    gone["type"] = json!("DELETED");
    script.pods.send(gone).await.unwrap();
    while script.call().await.0 != "POST /api/v1/namespaces/ns/pods/second/binding" {}
    script.stop().await;
}

#[tokio::test]
async fn hook_94_a_pod_displaces_a_less_important_one_and_takes_its_place() {
    let mut script = Script::start();
    script.nodes.send(node("n", "1")).await.unwrap();
    let spec =
        |priority: i64| json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": "700m"}}}]});
    script.pods.send(pod("low", spec(1))).await.unwrap();
    while script.call().await.0 != "POST /api/v1/namespaces/ns/pods/low/binding" {}
    script.pods.send(pod("high", spec(10))).await.unwrap();
    let mut seen = BTreeMap::new();
    while !seen.contains_key("DELETE /api/v1/namespaces/ns/pods/low") {
        let (call, body) = script.call().await;
        let nominates = body["status"]["nominatedNodeName"].is_string();
        seen.insert(if nominates { "nomination".into() } else { call }, body);
    }
    assert_eq!(seen["nomination"]["status"]["nominatedNodeName"], "n");
    let condition = &seen["PATCH /api/v1/namespaces/ns/pods/low/status"]["status"]["conditions"][0];
    assert_eq!([&condition["type"], &condition["status"]], ["DisruptionTarget", "True"]);
    assert_eq!(condition["reason"], "PreemptionByScheduler");
    assert_eq!(condition["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    let options = &seen["DELETE /api/v1/namespaces/ns/pods/low"];
    assert_eq!(options["preconditions"]["uid"], "uid-low");
    assert_eq!(options.get("gracePeriodSeconds"), None, "it has its own grace");
    let event = loop {
        let (_, body) = script.call().await;
        if body["reason"] == "Preempted" {
            break body;
        }
    };
    assert_eq!(event["involvedObject"]["name"], "low");
    assert_eq!(event["message"], "Preempted by pod uid-high on node n");
    let mut gone = pod("low", spec(1));
    gone["type"] = json!("DELETED");
    script.pods.send(gone).await.unwrap();
    while script.call().await.0 != "POST /api/v1/namespaces/ns/pods/high/binding" {}
    script.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_count_of_an_event_is_raised_once_a_minute_however_often_a_pod_is_tried() {
    let mut script = Script::start();
    script.nodes.send(node("n", "1")).await.unwrap();
    let spec = json!({"containers": [{"resources": {"requests": {"cpu": "2"}}}]});
    script.pods.send(pod("large", spec.clone())).await.unwrap();
    let mut message = json!("no nodes available to schedule pods");
    while message == "no nodes available to schedule pods" {
        let (_, body) = script.call().await;
        message = if body["reason"] == "FailedScheduling" { body["message"].clone() } else { message };
    }
    // The watch shows the condition.
    let mut told = pod("large", spec);
    told["type"] = json!("MODIFIED");
    told["object"]["status"]["conditions"] =
        json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]);
    script.pods.send(told).await.unwrap();
    // A node that changes all the time has it tried all the time.
    let start = tokio::time::Instant::now();
    let mut raised = Vec::new();
    for step in 0..60 {
        let mut changed = node("n", "1");
        changed["type"] = json!("MODIFIED");
        changed["object"]["metadata"]["labels"] = json!({"step": step.to_string()});
        script.nodes.send(changed).await.unwrap();
        tokio::time::sleep(Duration::from_secs(11)).await;
        while let Ok((call, body)) = script.calls.try_recv() {
            assert!(call.starts_with("PATCH /api/v1/namespaces/ns/events/large."), "{call}");
            raised.push((start.elapsed().as_secs(), body["count"].as_u64().unwrap()));
        }
    }
    assert!((8..12).contains(&raised.len()), "about once a minute in eleven: {raised:?}");
    let (_, count) = raised.last().unwrap();
    assert!(*count > 50, "every try is counted in the end: {raised:?}");
    script.stop().await;
}
