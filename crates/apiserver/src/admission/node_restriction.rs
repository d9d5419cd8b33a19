//! `NodeRestriction`: a node writes only its own Node, its own Lease and pods that are bound to it.
//!
//! Of pods it makes mirrors of static ones only: bound to and owned by itself, referring to nothing in the API (IMG-190).

use api::look;
use api::pod::reference::{Reference, references};
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::status::Status;
use crate::subresource::token::uid_mismatch;

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
            ("", "pods") => pod(request, node, object).await,
            ("", "serviceaccounts") if request.subresource == "token" => token(request, node, object).await,
            _ => Ok(()),
        }
    }
}

/// A node gets tokens for the accounts of its own pods, bound to those pods.
async fn token(request: &Request<'_>, node: &str, asked: Option<&Value>) -> Result<(), Status> {
    let nothing = Value::Null;
    let reference = asked.and_then(|asked| look::at(asked, &["spec", "boundObjectRef"])).unwrap_or(&nothing);
    let [version, kind, name, uid] = ["apiVersion", "kind", "name", "uid"].map(|field| look::text(reference, field));
    if (version, kind) != ("v1", "Pod") || name.is_empty() {
        return Err(request.forbidden("node requested token not bound to a pod"));
    }
    if uid.is_empty() {
        return Err(request.forbidden("node requested token with a pod binding without a uid"));
    }
    let Some(pod) = request.world.pod(request.namespace, name).await else {
        let kind = api::find("", "v1", "pods").expect("the table of kinds has pods");
        return Err(Status::not_found(kind, name));
    };
    if look::text_at(&pod, &["metadata", "uid"]) != uid {
        return Err(request.forbidden(uid_mismatch(uid)));
    }
    match look::text_at(&pod, &["spec", "nodeName"]) == node {
        true => Ok(()),
        false => Err(request.forbidden("node requested token bound to a pod scheduled on a different node")),
    }
}

async fn pod(request: &Request<'_>, node: &str, object: Option<&Value>) -> Result<(), Status> {
    let of = |pod: Option<&Value>| pod.map(|p| look::text_at(p, &["spec", "nodeName"]).to_owned()).unwrap_or_default();
    match request.operation {
        Operation::Create if request.subresource == "eviction" => Ok(()),
        Operation::Create => {
            let nothing = Value::Null;
            let pod = object.unwrap_or(&nothing);
            if !api::pod::is_mirror(pod) {
                return Err(request.forbidden(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                )));
            }
            own(request, node, &of(object), "create pods with spec.nodeName set to itself")?;
            owned(request, node, pod).await?;
            refers_to_nothing(request, node, pod)
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

/// A mirror pod goes with its node: it has that one owner.
async fn owned(request: &Request<'_>, node: &str, pod: &Value) -> Result<(), Status> {
    let refused = |what: String| Err(request.forbidden(what));
    let owners = look::list_at(pod, &["metadata", "ownerReferences"]);
    let only = |what: &str| format!("node {node:?} can only create pods with {what} owner reference set to itself");
    let owner = match owners {
        [] => return refused(only("an")),
        [owner] => owner,
        _ => return refused(only("a single")),
    };
    let is = ["apiVersion", "kind", "name"].map(|field| look::text(owner, field)) == ["v1", "Node", node];
    if !is {
        return refused(only("an"));
    }
    if !look::flag(owner, "controller") {
        return refused(only("a controller"));
    }
    if look::flag(owner, "blockOwnerDeletion") {
        return refused(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let Some(kept) = request.world.find("", "nodes", None, node).await else {
        let kind = api::find("", "v1", "nodes").expect("the table of kinds has nodes");
        return Err(Status::not_found(kind, node));
    };
    let (expected, got) = (look::text(owner, "uid"), look::text_at(&kept, &["metadata", "uid"]));
    match expected == got {
        true => Ok(()),
        false => refused(format!("node {node} UID mismatch: expected {expected} got {got}")),
    }
}

fn refers_to_nothing(request: &Request<'_>, node: &str, pod: &Value) -> Result<(), Status> {
    let nothing = Value::Null;
    let found = references(look::get(pod, "spec").unwrap_or(&nothing));
    let Some(reference) = found.into_iter().find(|reference| *reference != Reference::ResourceClaim) else {
        return Ok(());
    };
    let what = match reference {
        Reference::ServiceAccount => "a service account",
        other => other.plural(),
    };
    Err(request.forbidden(format!("node {node:?} can not create pods that reference {what}")))
}
