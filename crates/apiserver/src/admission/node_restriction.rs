//! `NodeRestriction`: a node writes only its own Node, its own Lease and pods that are bound to it.

use api::look;
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(node) = request.user.node_name() else { return Ok(()) };
        match (request.kind.group, request.kind.plural) {
            ("", "nodes") if request.name != node => {
                Err(request.forbidden(format!("node {node:?} is not allowed to modify node {:?}", request.name)))
            }
            ("coordination.k8s.io", "leases") if request.name != node => {
                Err(request.forbidden(format!("node {node:?} is not allowed to modify lease {:?}", request.name)))
            }
            ("", "pods") => pod(request, node, object),
            _ => Ok(()),
        }
    }
}

fn pod(request: &Request<'_>, node: &str, object: Option<&Value>) -> Result<(), Status> {
    let of = |pod: Option<&Value>| pod.map(|p| look::text_at(p, &["spec", "nodeName"]).to_owned()).unwrap_or_default();
    match request.operation {
        Operation::Create if request.subresource == "eviction" => Ok(()),
        Operation::Create => {
            let mirror = object
                .is_some_and(|p| look::at(p, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some());
            if !mirror {
                return Err(request.forbidden(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                )));
            }
            own(request, node, &of(object), "create pods with spec.nodeName set to itself")
        }
        Operation::Update => {
            own(request, node, &of(request.old), "update pod status for pods with spec.nodeName set to itself")
        }
        Operation::Connect => Ok(()),
        Operation::Delete => own(request, node, &of(request.old), "delete pods with spec.nodeName set to itself"),
    }
}

fn own(request: &Request<'_>, node: &str, pod_node: &str, what: &str) -> Result<(), Status> {
    if pod_node == node { Ok(()) } else { Err(request.forbidden(format!("node {node:?} can only {what}"))) }
}
