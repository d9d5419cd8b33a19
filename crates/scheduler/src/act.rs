//! What the scheduler does to the cluster: bind a pod, say why it cannot.
//!
//! Each function carries out one action with a time-out. Binding twice is a conflict that changes nothing; a report
//! that is repeated raises the count of its event.

use std::time::Duration;

use http::{Method, Request};
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::preempt::{Plan, Victim};
use crate::view::{Pod, SCHEDULER_NAME};

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an event stands before its count is raised: a pod that no node will have is tried at each change of a node,
/// and a write for each try would be more than all the rest.
const REPEAT_PAUSE: Duration = Duration::from_secs(60);

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused the call or could not be reached.
    #[error("{call} failed")]
    Call {
        /// Method and path.
        call: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// The API did not answer in time.
    #[error("{call} was not answered within {} s", CALL_TIMEOUT.as_secs())]
    TimedOut {
        /// Method and path.
        call: String,
    },
}

impl Error {
    /// Whether the object of the call does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Call { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 404))
    }
}

/// Makes room: notes the node for the pod, then ends each victim, which says who displaced it (HOOK-94).
pub async fn preempt(client: &Client, pod: &Pod, plan: &Plan) -> Result<(), Error> {
    let patch = json!({"metadata": {"uid": pod.uid}, "status": {"nominatedNodeName": plan.node}});
    call(client, Method::PATCH, format!("{}/status", pod_path(pod)), &patch).await?;
    for victim in &plan.victims {
        match displace(client, victim).await {
            // It has gone by itself.
            Err(error) if error.is_not_found() => continue,
            outcome => outcome?,
        }
        let message = format!("Preempted by pod {} on node {}", pod.uid, plan.node);
        let event = event(about(victim), ["Normal", "Preempted", "Preempting"], &message);
        if let Err(error) = call(client, Method::POST, events_path(&victim.namespace), &event).await {
            tracing::warn!(%error, pod = %victim.name, "cannot post the event Preempted");
        }
    }
    Ok(())
}

async fn displace(client: &Client, victim: &Victim) -> Result<(), Error> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", victim.namespace, victim.name);
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{SCHEDULER_NAME}: preempting to accommodate a higher priority pod"),
        "lastProbeTime": null,
        "lastTransitionTime": format!("{:.0}", Timestamp::now()),
    });
    let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
    call(client, Method::PATCH, format!("{path}/status"), &patch).await?;
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": victim.uid}});
    call(client, Method::DELETE, path, &options).await.map(drop)
}

/// An event that was posted, so that a repetition can raise its count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    name: String,
    message: String,
    count: u64,
    /// When it was last written.
    at: Instant,
    /// How many repetitions it does not count yet.
    missed: u64,
}

impl Posted {
    /// Notes a repetition; says whether it is too early to write it.
    pub fn is_enough(&mut self, message: &str, now: Instant) -> bool {
        let is_enough = self.message == message && now < self.at + REPEAT_PAUSE;
        self.missed += u64::from(is_enough);
        is_enough
    }
}

/// Binds the pod to the node and tells of it.
pub async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<(), Error> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    call(client, Method::POST, format!("{}/binding", pod_path(pod)), &binding).await?;
    let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
    let event = event(pod, ["Normal", "Scheduled", "Binding"], &message);
    // The pod is bound, whether or not the event can be told.
    if let Err(error) = call(client, Method::POST, events_path(&pod.namespace), &event).await {
        tracing::warn!(%error, pod = %pod.name, "cannot post the event Scheduled");
    }
    Ok(())
}

/// Whether the pod's condition says this.
pub fn is_told(pod: &Pod, message: &str) -> bool {
    pod.refused.as_ref().is_some_and(|(reason, told)| reason == "Unschedulable" && told == message)
}

/// Says that no node will have the pod: the event FailedScheduling and the condition PodScheduled=False.
pub async fn report(client: &Client, pod: &Pod, message: &str, before: Option<Posted>) -> Result<Posted, Error> {
    if !is_told(pod, message) {
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": format!("{:.0}", Timestamp::now()),
        });
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        call(client, Method::PATCH, format!("{}/status", pod_path(pod)), &patch).await?;
    }
    match before {
        Some(posted) if posted.message == message => repeat(client, pod, posted).await,
        _ => post(client, pod, message).await,
    }
}

async fn post(client: &Client, pod: &Pod, message: &str) -> Result<Posted, Error> {
    let event = event(pod, ["Warning", "FailedScheduling", "Scheduling"], message);
    let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    call(client, Method::POST, events_path(&pod.namespace), &event).await?;
    Ok(Posted { name, message: message.to_owned(), count: 1, at: Instant::now(), missed: 0 })
}

async fn repeat(client: &Client, pod: &Pod, posted: Posted) -> Result<Posted, Error> {
    let count = posted.count + posted.missed + 1;
    let patch = json!({"count": count, "lastTimestamp": format!("{:.0}", Timestamp::now())});
    let path = format!("{}/{}", events_path(&pod.namespace), posted.name);
    match call(client, Method::PATCH, path, &patch).await {
        // It has expired meanwhile.
        Err(error) if error.is_not_found() => post(client, pod, &posted.message).await,
        outcome => outcome.map(|_| Posted { count, at: Instant::now(), missed: 0, ..posted }),
    }
}

/// Whom an event is about.
struct About<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    version: &'a str,
}

fn about(victim: &Victim) -> About<'_> {
    About { namespace: &victim.namespace, name: &victim.name, uid: &victim.uid, version: "" }
}

impl<'a> From<&'a Pod> for About<'a> {
    fn from(pod: &'a Pod) -> About<'a> {
        About { namespace: &pod.namespace, name: &pod.name, uid: &pod.uid, version: &pod.resource_version }
    }
}

/// An event about the pod; `words` are its type, reason and action.
fn event<'a>(pod: impl Into<About<'a>>, words: [&str; 3], message: &str) -> Value {
    let (pod, [kind, reason, action]) = (pod.into(), words);
    let now = Timestamp::now();
    let seconds = format!("{now:.0}");
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": pod.namespace, "name": format!("{}.{:x}", pod.name, now.as_nanosecond())},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "resourceVersion": pod.version,
        },
        "type": kind,
        "reason": reason,
        "action": action,
        // The API allows an event no more than this.
        "message": message.chars().take(1024).collect::<String>(),
        "count": 1,
        "firstTimestamp": seconds,
        "lastTimestamp": seconds,
        "source": {"component": SCHEDULER_NAME},
        "reportingComponent": SCHEDULER_NAME,
        "reportingInstance": SCHEDULER_NAME,
    })
}

fn pod_path(pod: &Pod) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name)
}

fn events_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/events")
}

async fn call(client: &Client, method: Method, path: String, body: &Value) -> Result<Value, Error> {
    let content_type =
        if method == Method::PATCH { "application/strategic-merge-patch+json" } else { "application/json" };
    let name = format!("{method} {path}");
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .body(body.to_string().into_bytes())
        .expect("names of objects are valid in a path");
    match tokio::time::timeout(CALL_TIMEOUT, client.request(request)).await {
        Ok(answer) => answer.map_err(|source| Error::Call { call: name, source: Box::new(source) }),
        Err(_) => Err(Error::TimedOut { call: name }),
    }
}
