//! `pods/log?hooks=true`: the runs of a pod's lifecycle hooks, as the nodes keep them (HOOK-65).
//!
//! A part of `pods/log`, so that whoever may read a pod's log may read what its hooks printed, and nobody else. A pod that
//! has gone is asked for at every node: its runs stay for a while where it ran.

use api::look;
use axum::body::Body;
use axum::response::Response;
use futures_util::future::join_all;
use http::Method;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use super::node_port::{NodePort, Target};
use crate::answer;
use crate::query::{Query, percent_encode};
use crate::status::Status;

/// More than a node keeps of one pod, and of a few of its name.
const BYTES_MAX: usize = 8 << 20;

/// Asks the nodes and puts their answers together.
pub async fn runs(port: &NodePort, names: [&str; 2], nodes: &[Value], query: &Query) -> Result<Response, Status> {
    let [namespace, pod] = names.map(percent_encode);
    let container = query.get("container").map(|name| format!("?container={}", percent_encode(name)));
    let path = format!("/hooks/{namespace}/{pod}{}", container.unwrap_or_default());
    let mut items = Vec::new();
    let mut failure = None;
    for answer in join_all(nodes.iter().map(|node| of_node(port, node, &path))).await {
        match answer {
            Ok(list) => items.extend(look::list(&list, "items").iter().cloned()),
            Err(status) => failure = Some(status),
        }
    }
    match failure {
        // What one node has is worth telling although another does not answer.
        Some(status) if items.is_empty() => Err(status),
        _ => {
            let list = json!({ "kind": "HookRunList", "apiVersion": "node.sampan.dev/v1", "items": items });
            Ok(answer::typed(200, "application/json", Body::from(list.to_string())))
        }
    }
}

async fn of_node(port: &NodePort, node: &Value, path: &str) -> Result<Value, Status> {
    let request = http::Request::builder().method(Method::GET).uri(path).body(Body::empty());
    let response = port.send(&Target::of_node(node)?, request.map_err(Status::internal)?).await?;
    let code = response.status();
    let body = Limited::new(response.into_body(), BYTES_MAX).collect().await.map_err(Status::internal)?.to_bytes();
    let name = look::text_at(node, &["metadata", "name"]);
    match code.is_success() {
        true => serde_json::from_slice(&body).map_err(Status::internal),
        false => Err(Status::internal(format!("node {name:?} does not tell of hooks: {code}"))),
    }
}
