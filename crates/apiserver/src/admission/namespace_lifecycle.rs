//! `NamespaceLifecycle`: nothing is made in namespaces that do not exist or are going; three namespaces stay for ever.

use api::look;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct NamespaceLifecycle;

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn mutate(&self, request: &Request<'_>, _object: &mut Value) -> Result<(), Status> {
        exists(request).await
    }

    async fn validate(&self, request: &Request<'_>, _object: Option<&Value>) -> Result<(), Status> {
        let on_namespace = request.is_on("", "namespaces");
        if on_namespace && request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
            return Err(request.forbidden("this namespace may not be deleted"));
        }
        Ok(())
    }
}

async fn exists(request: &Request<'_>) -> Result<(), Status> {
    let concerns = matches!(request.operation, Operation::Create | Operation::Update);
    if request.namespace.is_empty() || !concerns || request.kind.plural == "namespaces" {
        return Ok(());
    }
    let Some(namespace) = request.world.find("", "namespaces", None, request.namespace).await else {
        let kind = api::find("", "v1", "namespaces").unwrap_or(request.kind);
        return Err(Status::not_found(kind, request.namespace));
    };
    let terminating = look::text_at(&namespace, &["status", "phase"]) == "Terminating";
    if request.operation != Operation::Create || !terminating {
        return Ok(());
    }
    let name = request.namespace;
    let mut status =
        request.forbidden(format!("unable to create new content in namespace {name} because it is being terminated"));
    status.details["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": format!("namespace {name} is being terminated"),
        "field": "metadata.namespace",
    }]);
    Err(status)
}
