//! `NodeRestriction`: a node writes only its own Node, its own Lease and pods that are bound to it.
//!
//! Of its Node it may not touch what steers pods to it: its taints, its owners, and labels that are for others to set.
//! Of pods it makes mirrors of static ones only: bound to and owned by itself, referring to nothing in the API (IMG-190).

use std::collections::{BTreeMap, BTreeSet};

use api::certificate::{GROUP, PLURAL};
use api::look;
use api::pod::reference::{Reference, references};
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request, certificates};
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
        let Some(node) = request.user.node_name().filter(|_| request.operation != Operation::Connect) else {
            return Ok(());
        };
        match (request.kind.group, request.kind.plural) {
            ("", "nodes") if request.name != node => {
                Err(request.forbidden(format!("node {node:?} is not allowed to modify node {:?}", request.name)))
            }
            ("", "nodes") => own_node(request, node, object),
            ("coordination.k8s.io", "leases") if request.name != node => {
                Err(request.forbidden(format!("node {node:?} is not allowed to modify lease {:?}", request.name)))
            }
            ("", "pods") => pod(request, node, object).await,
            (GROUP, PLURAL) if request.subresource.is_empty() => certificates::of_node(request, node, object),
            ("", "serviceaccounts") if request.subresource == "token" => token(request, node, object).await,
            _ => Ok(()),
        }
    }
}

fn own_node(request: &Request<'_>, node: &str, object: Option<&Value>) -> Result<(), Status> {
    let nothing = Value::Null;
    let (new, old) = (object.unwrap_or(&nothing), request.old.unwrap_or(&nothing));
    let labels = restricted_changes(new, old);
    if request.operation == Operation::Create {
        let refused = format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", "));
        return if labels.is_empty() { Ok(()) } else { Err(request.forbidden(refused)) };
    }
    if request.operation != Operation::Update {
        return Ok(());
    }
    let changed = |path: &[&str]| !look::same(look::at(new, path), look::at(old, path));
    for (path, what) in [(["spec", "taints"], "taints"), (["metadata", "ownerReferences"], "ownerReferences")] {
        if changed(&path) {
            return Err(request.forbidden(format!("node {node:?} is not allowed to modify {what}")));
        }
    }
    match labels.is_empty() {
        true => Ok(()),
        false => Err(request.forbidden(format!("is not allowed to modify labels: {}", labels.join(", ")))),
    }
}

/// Labels that differ and that a node may not set, in order.
fn restricted_changes(new: &Value, old: &Value) -> Vec<String> {
    let of = |object: &Value| -> BTreeMap<String, String> {
        let metadata = object.get("metadata").cloned().unwrap_or_default();
        look::text_map(&metadata, "labels").map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let (new, old) = (of(new), of(old));
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    keys.into_iter().filter(|key| new.get(*key) != old.get(*key) && is_restricted(key)).cloned().collect()
}

/// The labels under Kubernetes' own domains that a node may set on itself.
const NODE_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

fn is_restricted(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let under = |root: &str| domain.strip_suffix(root).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if under("node-restriction.kubernetes.io") {
        return true;
    }
    let is_kubernetes = under("kubernetes.io") || under("k8s.io");
    let is_nodes = under("kubelet.kubernetes.io") || under("node.kubernetes.io") || NODE_LABELS.contains(&label);
    is_kubernetes && !is_nodes
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
            own(request, node, &of(request.old), "update pod status for pods with spec.nodeName set to itself")?;
            let labels = |pod: Option<&Value>| pod.and_then(|pod| look::at(pod, &["metadata", "labels"])).cloned();
            match look::same(labels(object).as_ref(), labels(request.old).as_ref()) {
                true => Ok(()),
                false => Err(request.forbidden(format!("node {node:?} cannot update labels through pod status"))),
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_sets_its_own_labels_and_those_outside_of_kubernetes() {
        for label in [
            "app",
            "example.com/role",
            "kubernetes.io/hostname",
            "beta.kubernetes.io/os",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/anything",
            "x.kubelet.kubernetes.io/y",
            "notkubernetes.io/x",
        ] {
            assert!(!is_restricted(label), "{label}");
        }
        for label in [
            "node-restriction.kubernetes.io/x",
            "a.node-restriction.kubernetes.io/x",
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/anything",
            "x.k8s.io/y",
            "k8s.io/y",
        ] {
            assert!(is_restricted(label), "{label}");
        }
    }
}
