//! `pods/binding`: a pod gets its node.

use api::look;
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::object;
use crate::registry::{Call, Registry};
use crate::status::Status;

/// Binds a pod to `target.name` of a Binding, if admission lets it.
pub async fn bind(registry: &Registry, call: &Call<'_>, binding: Value) -> Result<Value, Status> {
    let binding = &registry.admit(call, Operation::Create, binding).await?;
    let named = object::name(binding);
    if !named.is_empty() && named != call.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let node = look::text_at(binding, &["target", "name"]);
    let kind = look::text_at(binding, &["target", "kind"]);
    if !kind.is_empty() && kind != "Node" {
        return Err(Status::bad_request(format!(
            "target.kind: Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\""
        )));
    }
    if node.is_empty() {
        return Err(Status::bad_request("target.name: Required value"));
    }
    registry.rewrite(call, &|pod| assign(call, pod, (binding, node))).await?;
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}

fn assign(call: &Call<'_>, pod: &Value, (binding, node): (&Value, &str)) -> Result<Value, Status> {
    let name = call.name;
    let refuse = |why: String| {
        // Upstream names the subresource in this conflict.
        let mut status = Status::conflict(call.kind, name, &why);
        status.message = format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}");
        Err(status)
    };
    for field in ["uid", "resourceVersion"] {
        let (wanted, current) = (object::meta(binding, field), object::meta(pod, field));
        if !wanted.is_empty() && wanted != current {
            return refuse(format!(
                "Precondition failed: {field} in precondition: {wanted}, in object meta: {current}"
            ));
        }
    }
    if look::at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let present = look::text_at(pod, &["spec", "nodeName"]);
    if !present.is_empty() {
        return refuse(format!("pod {name} is already assigned to node {present:?}"));
    }
    if !look::list_at(pod, &["spec", "schedulingGates"]).is_empty() {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = pod.clone();
    look::set(look::child(&mut new, "spec"), "nodeName", node);
    for field in ["annotations", "labels"] {
        for (key, value) in look::text_map(&binding["metadata"], field) {
            look::set(look::child(object::metadata_mut(&mut new), field), key, value);
        }
    }
    let status = look::child(&mut new, "status");
    look::remove(status, "nominatedNodeName");
    set_scheduled(status, &object::timestamp(call.now));
    Ok(new)
}

fn set_scheduled(status: &mut Value, now: &str) {
    let mut conditions = look::list(status, "conditions").to_vec();
    conditions.retain(|condition| look::text(condition, "type") != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    }));
    look::set(status, "conditions", conditions);
}
