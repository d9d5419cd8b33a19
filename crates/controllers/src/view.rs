//! What the controllers see: namespaces, default service accounts, pods and nodes, reduced to a few facts each.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::time::Instant;

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Whether it is being deleted.
    pub deleting: bool,
    /// spec.finalizers: who has to finish before it may go.
    pub finalizers: Vec<String>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
    /// The node it is bound to.
    pub node: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its phase is Succeeded or Failed.
    pub finished: bool,
    /// The set that it belongs to.
    pub owner: Option<Owner>,
}

/// The kinds of sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetKind {
    /// apps/v1 ReplicaSet.
    ReplicaSet,
    /// v1 ReplicationController.
    ReplicationController,
}

/// Which set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetKey {
    /// Its kind.
    pub kind: SetKind,
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
}

impl SetKey {
    /// Its path in the API.
    pub fn path(&self) -> String {
        let (root, plural) = match self.kind {
            SetKind::ReplicaSet => ("/apis/apps/v1", "replicasets"),
            SetKind::ReplicationController => ("/api/v1", "replicationcontrollers"),
        };
        format!("{root}/namespaces/{}/{plural}/{}", self.namespace, self.name)
    }
}

/// The set that a pod belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its kind.
    pub kind: SetKind,
    /// metadata.name.
    pub name: String,
    /// metadata.uid.
    pub uid: String,
}

/// A set, as far as it has to be known to tell when to look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedSet {
    /// metadata.uid.
    pub uid: String,
    /// How many things have happened that may concern it.
    pub happened: u64,
    /// How many had when the last look began.
    pub looking: u64,
    /// How many a finished look has seen.
    pub seen: u64,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// metadata.resourceVersion.
    pub version: String,
    /// The types of the conditions that are True.
    pub holding: BTreeSet<String>,
    /// spec.taints, as they are.
    pub taints: Vec<Value>,
}

/// A resource quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// metadata.uid.
    pub uid: String,
    /// How many things have happened that may change what it should say.
    pub happened: u64,
    /// How many of them its status is known to reflect.
    pub counted: u64,
    /// Whether it counts objects that nobody here watches.
    pub of_others: bool,
    /// When those were last looked for.
    pub polled_at: Instant,
}

/// Everything that the controllers decide on.
#[derive(Debug, Default)]
pub struct World {
    /// By name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// The namespaces that have a ServiceAccount `default`.
    pub with_default_account: BTreeSet<String>,
    /// By which clients know the API server, PEM; None where nobody tells.
    pub root_ca: Option<String>,
    /// What the ConfigMap `kube-root-ca.crt` of a namespace says, by namespace.
    pub published_ca: BTreeMap<String, String>,
    /// By uid.
    pub pods: BTreeMap<String, Pod>,
    /// ReplicaSets and ReplicationControllers.
    pub sets: BTreeMap<SetKey, TrackedSet>,
    /// By namespace and name.
    pub quotas: BTreeMap<(String, String), Quota>,
    /// By name.
    pub nodes: BTreeMap<String, Node>,
    /// Nodes that pods are bound to but that do not exist, and since when that is known.
    pub missing_nodes: BTreeMap<String, Instant>,
}

impl World {
    /// Something in a namespace has come, changed or gone that quotas count.
    pub fn note_usage(&mut self, namespace: &str) {
        let from = (namespace.to_owned(), String::new());
        let quotas = self.quotas.range_mut(from..).take_while(|((place, _), _)| place == namespace);
        quotas.for_each(|(_, quota)| quota.happened += 1);
    }

    /// A pod has come, changed or gone: its set is concerned, or every set of the namespace when it has none.
    pub fn note_pod(&mut self, namespace: &str, owner: Option<&str>) {
        let concerned = self.sets.iter_mut().filter(|(key, set)| match owner {
            Some(uid) => set.uid == uid,
            None => key.namespace == namespace,
        });
        concerned.for_each(|(_, set)| set.happened += 1);
    }

    /// Brings `missing_nodes` up to date.
    pub fn note_missing_nodes(&mut self, now: Instant) {
        let bound: BTreeSet<&String> = self.pods.values().filter_map(|pod| pod.node.as_ref()).collect();
        let missing = bound.into_iter().filter(|node| !self.nodes.contains_key(*node));
        let since = |node: &String| self.missing_nodes.get(node).copied().unwrap_or(now);
        self.missing_nodes = missing.map(|node| (node.clone(), since(node))).collect();
    }
}

/// A Namespace on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceObject {
    metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    spec: NamespaceSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NamespaceSpec {
    #[serde(deserialize_with = "null_as_default")]
    finalizers: Vec<String>,
}

/// A ResourceQuota on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct QuotaObject {
    metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    spec: QuotaSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct QuotaSpec {
    #[serde(deserialize_with = "null_as_default")]
    hard: BTreeMap<String, Value>,
}

impl QuotaObject {
    /// Whether it counts objects of kinds other than pods.
    pub fn is_of_others(&self) -> bool {
        let pods = api::find("", "v1", "pods");
        self.spec.hard.keys().any(|name| !pods.is_some_and(|kind| api::quota::is_about(kind, name)))
    }
}

/// A ReplicaSet on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ReplicaSetObject {
    metadata: ObjectMeta,
}

/// A ReplicationController on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ReplicationControllerObject {
    metadata: ObjectMeta,
}

/// A ServiceAccount on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AccountObject {
    metadata: ObjectMeta,
}

/// A ConfigMap on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConfigMapObject {
    metadata: ObjectMeta,
    /// Its contents.
    #[serde(deserialize_with = "null_as_default")]
    pub data: BTreeMap<String, String>,
}

/// A Node on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeObject {
    metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    spec: NodeSpec,
    #[serde(deserialize_with = "null_as_default")]
    status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(deserialize_with = "null_as_default")]
    taints: Vec<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    #[serde(deserialize_with = "null_as_default")]
    conditions: Vec<NodeCondition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// A Pod on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PodObject {
    metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    spec: PodSpec,
    #[serde(deserialize_with = "null_as_default")]
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
}

/// Other writers of objects may say `null` where nothing is meant.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl From<NamespaceObject> for Namespace {
    fn from(object: NamespaceObject) -> Namespace {
        Namespace { deleting: object.metadata.deletion_timestamp.is_some(), finalizers: object.spec.finalizers }
    }
}

impl From<NodeObject> for Node {
    fn from(object: NodeObject) -> Node {
        let conditions = object.status.conditions.into_iter().filter(|condition| condition.status == "True");
        Node {
            version: object.metadata.resource_version.unwrap_or_default(),
            holding: conditions.map(|condition| condition.kind).collect(),
            taints: object.spec.taints,
        }
    }
}

impl From<PodObject> for Pod {
    fn from(object: PodObject) -> Pod {
        let owners = object.metadata.owner_references.unwrap_or_default();
        Pod {
            owner: owners.into_iter().find(|owner| owner.controller == Some(true)).and_then(|owner| {
                let kind = match (owner.api_version.as_str(), owner.kind.as_str()) {
                    ("apps/v1", "ReplicaSet") => SetKind::ReplicaSet,
                    ("v1", "ReplicationController") => SetKind::ReplicationController,
                    _ => return None,
                };
                Some(Owner { kind, name: owner.name, uid: owner.uid })
            }),
            deleting: object.metadata.deletion_timestamp.is_some(),
            namespace: object.metadata.namespace.unwrap_or_default(),
            name: object.metadata.name.unwrap_or_default(),
            node: object.spec.node_name.filter(|node| !node.is_empty()),
            finished: matches!(object.status.phase.as_deref(), Some("Succeeded" | "Failed")),
        }
    }
}

/// Tells `kube` where a slim type lives; all of them are in version v1, most in the core group.
macro_rules! resource {
    ($type:ty, $scope:ty, $kind:literal, $plural:literal) => {
        resource!($type, $scope, "", $kind, $plural);
    };
    ($type:ty, $scope:ty, $group:literal, $kind:literal, $plural:literal) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;
            fn kind(_: &()) -> Cow<'_, str> {
                $kind.into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                "v1".into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(NamespaceObject, k8s_openapi::ClusterResourceScope, "Namespace", "namespaces");
resource!(AccountObject, k8s_openapi::NamespaceResourceScope, "ServiceAccount", "serviceaccounts");
resource!(ConfigMapObject, k8s_openapi::NamespaceResourceScope, "ConfigMap", "configmaps");
resource!(NodeObject, k8s_openapi::ClusterResourceScope, "Node", "nodes");
resource!(QuotaObject, k8s_openapi::NamespaceResourceScope, "ResourceQuota", "resourcequotas");
resource!(ReplicaSetObject, k8s_openapi::NamespaceResourceScope, "apps", "ReplicaSet", "replicasets");
resource!(
    ReplicationControllerObject,
    k8s_openapi::NamespaceResourceScope,
    "ReplicationController",
    "replicationcontrollers"
);
resource!(PodObject, k8s_openapi::NamespaceResourceScope, "Pod", "pods");
