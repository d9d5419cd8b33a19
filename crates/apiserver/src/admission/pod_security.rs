//! `PodSecurity`: the Pod Security Standards by the labels of namespaces (HOOK-8).
//!
//! A pod that violates the level that its namespace enforces is refused; what the namespace only warns of is told, of pods
//! and of templates. Labels that cannot be read are not let in. The rules themselves are `api::pod_security`.

use api::field::{FieldError, Path};
use api::look;
use api::pod_security::{self, Policy};
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct PodSecurity;

/// Where kinds that make pods have the pod.
const TEMPLATES: [&[&str]; 3] = [&["spec", "template"], &["spec", "jobTemplate", "spec", "template"], &["template"]];

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object.filter(|_| matches!(request.operation, Operation::Create | Operation::Update)) else {
            return Ok(());
        };
        if request.is_on("", "namespaces") {
            return labels(request, object);
        }
        let on_pods = request.kind.group.is_empty() && request.kind.plural == "pods";
        let brings = match request.subresource {
            // What an update of a pod can change, no rule is about.
            "" => !on_pods || request.operation == Operation::Create,
            "ephemeralcontainers" => on_pods,
            _ => false,
        };
        let pod = if on_pods { Some(object) } else { TEMPLATES.iter().find_map(|path| look::at(object, path)) };
        let Some(pod) = pod.filter(|_| brings && !request.namespace.is_empty()) else { return Ok(()) };
        let Some(namespace) = namespace_of(request).await? else { return Ok(()) };
        let (enforced, warned) = (Policy::of(&namespace, "enforce"), Policy::of(&namespace, "warn"));
        if on_pods && let Some(text) = pod_security::verdict(enforced, pod) {
            return Err(request.forbidden(format!("violates {text}")));
        }
        request.warnings.extend(pod_security::verdict(warned, pod).map(|text| format!("would violate {text}")));
        Ok(())
    }
}

/// A namespace that cannot be looked at lets nobody in.
async fn namespace_of(request: &Request<'_>) -> Result<Option<Value>, Status> {
    let Some(kind) = api::find("", "v1", "namespaces") else {
        return Err(Status::internal("namespaces are not served"));
    };
    let name = request.namespace;
    let entry = request.world.entry(kind, None, name).await.map_err(|e| crate::status::from_store(kind, name, &e))?;
    Ok(entry.map(|entry| crate::object::decode(kind, &entry)))
}

/// Labels that nobody can read would leave a namespace open, or closed, by mistake. Those that were there stay.
fn labels(request: &Request<'_>, namespace: &Value) -> Result<(), Status> {
    let known = request.old.map(pod_security::unreadable).unwrap_or_default();
    let news = pod_security::unreadable(namespace).into_iter().filter(|label| !known.contains(label));
    let path = Path::new("metadata").child("labels");
    let errors: Vec<FieldError> =
        news.map(|(name, value, wanted)| FieldError::invalid(&path.key(&name), value.as_str(), wanted)).collect();
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(request.kind, request.name, &errors)) }
}
