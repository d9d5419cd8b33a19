//! The objects that every cluster has: four namespaces, two priority classes, the default roles and their bindings; and
//! those that may come later, because nothing in this server needs them ([`later`]).
//!
//! They are made at start through the registry like any other object, so that the same rules hold, and all at once, so
//! that the store makes few transactions of them. Roles and bindings that are there are mended. Start at [`objects`].

use api::Kind;
use api::rbac::mend::{self, Mend};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::object;
use crate::rbac::{controllers, defaults, gathering};
use crate::registry::{Call, Registry, Server};
use crate::status::Status;

const NAMESPACES: [&str; 4] = ["kube-system", "default", "kube-public", "kube-node-lease"];

const CLASSES: [(&str, i64, &str); 2] = [
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

/// Makes what is missing and mends what lacks something.
pub async fn objects(registry: &Registry) -> Result<(), Status> {
    let namespaces =
        NAMESPACES.map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    let classes = CLASSES.map(|(name, value, description)| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        })
    });
    let group = api::kind::RBAC;
    let all = [
        (kind("", "namespaces")?, Vec::from(namespaces)),
        (kind("scheduling.k8s.io", "priorityclasses")?, Vec::from(classes)),
        (kind(group, "clusterroles")?, defaults::roles()),
        (kind(group, "clusterrolebindings")?, defaults::bindings()),
    ];
    ensure_all(registry, all).await?;
    gathering::refresh(registry).await
}

/// Makes and mends the roles of upstream's single controllers and those in namespaces: manifests and tools refer to them.
pub async fn later(registry: &Registry) -> Result<(), Status> {
    let group = api::kind::RBAC;
    let all = [
        (kind(group, "clusterroles")?, controllers::roles()),
        (kind(group, "clusterrolebindings")?, controllers::bindings()),
        (kind(group, "roles")?, controllers::roles_in_namespaces()),
        (kind(group, "rolebindings")?, controllers::bindings_in_namespaces()),
    ];
    ensure_all(registry, all).await
}

async fn ensure_all<const N: usize>(registry: &Registry, all: [(&'static Kind, Vec<Value>); N]) -> Result<(), Status> {
    let all = all.into_iter().flat_map(|(kind, objects)| objects.into_iter().map(move |object| (kind, object)));
    try_join_all(all.map(|(kind, object)| ensure(registry, kind, object))).await.map(drop)
}

fn kind(group: &str, plural: &str) -> Result<&'static Kind, Status> {
    api::find(group, "v1", plural).ok_or_else(|| Status::internal(format!("{plural} is not served")))
}

async fn ensure(registry: &Registry, kind: &'static Kind, expected: Value) -> Result<(), Status> {
    let name = object::name(&expected).to_owned();
    let namespace = expected["metadata"]["namespace"].as_str().map(str::to_owned);
    let server = Server::new();
    let call = Call { namespace: namespace.as_deref(), ..server.call(kind, &name) };
    let entry = match registry.entry(&call).await {
        Ok(entry) => entry,
        Err(status) if status.code == 404 => return create(registry, &call, expected).await,
        Err(status) => return Err(status),
    };
    let existing = object::decode(kind, &entry);
    let mend = match kind.plural {
        "clusterroles" | "roles" => mend::role(&expected, &existing),
        "clusterrolebindings" | "rolebindings" => mend::binding(&expected, &existing),
        _ => Mend::Keep,
    };
    match mend {
        Mend::Keep => Ok(()),
        Mend::Change(mended) => registry.modify(&call, &|_| Ok(mended.clone().into())).await.map(drop),
        Mend::Replace => {
            registry.remove(&call, &entry).await?;
            create(registry, &call, expected).await
        }
    }
}

async fn create(registry: &Registry, call: &Call<'_>, object: Value) -> Result<(), Status> {
    match registry.create(&Call { name: "", ..*call }, object).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}
