//! Events: what controllers tell people. The same event again raises the count of the one that is there.

use std::hash::{DefaultHasher, Hash, Hasher};

use api::{Timestamp, look};
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::call::call;

/// What is told.
pub struct Told<'a> {
    /// `Normal` or `Warning`.
    pub kind: &'a str,
    /// Upstream's reason.
    pub reason: &'a str,
    /// One sentence.
    pub message: &'a str,
    /// Who tells, e.g. `replicaset-controller`.
    pub component: &'a str,
}

/// Tells something about an object. What cannot be told is lost, as events may be.
pub async fn tell(client: &Client, about: &Value, told: &Told<'_>) {
    if let Err(error) = try_tell(client, about, told).await {
        tracing::warn!(%error, reason = told.reason, "cannot post an event");
    }
}

async fn try_tell(client: &Client, about: &Value, told: &Told<'_>) -> Result<(), crate::call::Error> {
    let meta = |field| look::text_at(about, &["metadata", field]);
    let mut hasher = DefaultHasher::new();
    (meta("uid"), told.reason, told.message).hash(&mut hasher);
    let name = format!("{}.{:016x}", meta("name"), hasher.finish());
    // What is of no namespace is told of in the one that is always there.
    let namespace = if meta("namespace").is_empty() { "default" } else { meta("namespace") };
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let now = format!("{:.0}", Timestamp::now());
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": look::text(about, "apiVersion"), "kind": look::text(about, "kind"), "name": meta("name"),
            "namespace": meta("namespace"), "uid": meta("uid"), "resourceVersion": meta("resourceVersion"),
        },
        "type": told.kind, "reason": told.reason,
        "message": told.message.chars().take(1024).collect::<String>(),
        "source": {"component": told.component}, "reportingComponent": told.component,
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    match call(client, Method::POST, &path, Some(&event)).await {
        Err(error) if error.status() == Some(409) => {}
        outcome => return outcome.map(drop),
    }
    let path = format!("{path}/{name}");
    let known = call(client, Method::GET, &path, None).await?;
    let count = look::integer(&known, "count").unwrap_or(1) + 1;
    call(client, Method::PATCH, &path, Some(&json!({"count": count, "lastTimestamp": now}))).await.map(drop)
}
