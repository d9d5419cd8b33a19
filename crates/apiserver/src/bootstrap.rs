//! The objects that every cluster has: four namespaces and two priority classes.
//!
//! They are made at start through the registry like any other object, so that the same rules hold. Start at [`objects`].

use serde_json::{Value, json};

use crate::clock;
use crate::query::Query;
use crate::registry::{Call, Registry};
use crate::status::Status;
use crate::user::{MASTERS, UserInfo};
use crate::warnings::Warnings;

const NAMESPACES: [&str; 4] = ["kube-system", "default", "kube-public", "kube-node-lease"];

/// Makes what is missing.
pub async fn objects(registry: &Registry) -> Result<(), Status> {
    let user = UserInfo::new("system:apiserver", &[MASTERS]);
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(registry, &user, ("", "namespaces"), namespace).await?;
    }
    let classes = [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ];
    for (name, value, description) in classes {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        });
        ensure(registry, &user, ("scheduling.k8s.io", "priorityclasses"), class).await?;
    }
    Ok(())
}

async fn ensure(registry: &Registry, user: &UserInfo, at: (&str, &str), object: Value) -> Result<(), Status> {
    let Some(kind) = api::find(at.0, "v1", at.1) else {
        return Err(Status::internal(format!("{} is not served", at.1)));
    };
    let name = crate::object::name(&object).to_owned();
    let (query, warnings) = (Query::default(), Warnings::default());
    let call = Call {
        kind,
        namespace: None,
        name: "",
        subresource: None,
        user,
        dry_run: false,
        now: clock::now(),
        query: &query,
        warnings: &warnings,
        manager: "kube-apiserver",
    };
    if registry.world.entry(kind, None, &name).await.is_ok_and(|entry| entry.is_some()) {
        return Ok(());
    }
    match registry.create(&call, object).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}
