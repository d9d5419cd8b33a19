//! What the scheduler sees: Pods, Nodes and RuntimeClasses reduced to what a choice needs.
//!
//! The `*Object` types are the wire: they decode only the fields named here. `Pod` and `Node` are what is kept.
//! Metadata is dropped after conversion, with managedFields.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::pod::affinity::Term;
use api::pod::requests::{self, Shape};
use api::pod::toleration::{Taint, Toleration};
use api::quantity::Quantity;
use api::selector::label::LabelSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

use crate::fit::Resources;
use crate::neighbours::{PodAffinity, SpreadObject, Wishes};

/// The name under which pods ask for this scheduler.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// A pod, reduced.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// metadata.uid.
    pub uid: String,
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
    /// metadata.resourceVersion, for events.
    pub resource_version: String,
    /// The node it is bound to.
    pub node: Option<String>,
    /// Whether it waits for this scheduler: no node, our name, no gate, not being deleted.
    pub wants_node: bool,
    /// Whether it has ended and holds nothing any more.
    pub finished: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// When its node took it, as text that sorts by time; empty before.
    pub started: String,
    /// The node that others are leaving for it.
    pub nominated: Option<String>,
    /// spec.priority.
    pub priority: i64,
    /// Whether it may displace others (`preemptionPolicy` is not `Never`).
    pub preempts: bool,
    /// metadata.labels, by which disruption budgets take it.
    pub labels: BTreeMap<String, String>,
    /// What it asks for, overhead included (RTC-57).
    pub requests: Resources,
    /// Host ports that it takes.
    pub ports: BTreeSet<HostPort>,
    /// The class whose handler the node must have (RTC-53).
    pub runtime_class: Option<String>,
    /// Where it may and would like to run.
    pub placement: Placement,
    /// What it asks of other pods, if it asks anything.
    pub wishes: Option<Arc<Wishes>>,
    /// The PodScheduled condition, if it is False: reason and message.
    pub refused: Option<(String, String)>,
}

/// The node constraints of a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    /// spec.nodeSelector.
    pub selector: BTreeMap<String, String>,
    /// Required node affinity: one of these must match.
    pub required: Option<Vec<Term>>,
    /// Preferred node affinity with weights.
    pub preferred: Vec<(i64, Term)>,
    /// spec.tolerations.
    pub tolerations: Vec<Toleration>,
}

/// A port of the host that a container takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The number.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The address; `0.0.0.0` = all.
    pub address: String,
}

/// A node, reduced.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// metadata.name.
    pub name: String,
    /// metadata.labels.
    pub labels: BTreeMap<String, String>,
    /// spec.unschedulable.
    pub unschedulable: bool,
    /// spec.taints.
    pub taints: Vec<Taint>,
    /// status.allocatable, or capacity where that is missing.
    pub allocatable: Resources,
    /// The handlers that it publishes; `None` = it publishes no list.
    pub handlers: Option<BTreeSet<String>>,
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
    scheduler_name: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    scheduling_gates: Vec<serde::de::IgnoredAny>,
    priority: Option<i64>,
    preemption_policy: Option<String>,
    runtime_class_name: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    node_selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_as_default")]
    affinity: Affinity,
    #[serde(deserialize_with = "null_as_default")]
    tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "null_as_default")]
    topology_spread_constraints: Vec<SpreadObject>,
    #[serde(deserialize_with = "null_as_default")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "null_as_default")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "null_as_default")]
    overhead: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_as_default")]
    resources: Requirements,
    #[serde(deserialize_with = "null_as_default")]
    host_network: bool,
}

/// A container on the wire, as far as it takes something.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    #[serde(deserialize_with = "null_as_default")]
    resources: Requirements,
    restart_policy: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    ports: Vec<Port>,
}

impl Container {
    fn shape(&self) -> requests::Container {
        requests::Container {
            requests: quantities(&self.resources.requests),
            sidecar: self.restart_policy.as_deref() == Some("Always"),
            ..requests::Container::default()
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Requirements {
    #[serde(deserialize_with = "null_as_default")]
    requests: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    container_port: u16,
    host_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: String,
    protocol: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    #[serde(deserialize_with = "null_as_default")]
    node_affinity: NodeAffinity,
    #[serde(deserialize_with = "null_as_default")]
    pod_affinity: PodAffinity,
    #[serde(deserialize_with = "null_as_default")]
    pod_anti_affinity: PodAffinity,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
    #[serde(deserialize_with = "null_as_default")]
    preferred_during_scheduling_ignored_during_execution: Vec<Preferred>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelector {
    #[serde(deserialize_with = "null_as_default")]
    node_selector_terms: Vec<Term>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Preferred {
    weight: i64,
    #[serde(deserialize_with = "null_as_default")]
    preference: Term,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    #[serde(deserialize_with = "null_as_default")]
    start_time: String,
    nominated_node_name: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
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
    unschedulable: bool,
    #[serde(deserialize_with = "null_as_default")]
    taints: Vec<Taint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    #[serde(deserialize_with = "null_as_default")]
    allocatable: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_as_default")]
    capacity: BTreeMap<String, serde_json::Value>,
    runtime_handlers: Option<Vec<RuntimeHandler>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RuntimeHandler {
    name: String,
}

/// A RuntimeClass on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ClassObject {
    metadata: ObjectMeta,
    /// The handler that the class names.
    pub handler: String,
}

/// A Namespace on the wire: its labels are all that matters.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceObject {
    metadata: ObjectMeta,
}

/// A PodDisruptionBudget, reduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
    /// Which pods it is about.
    pub selector: LabelSelector,
    /// How many of them may go now.
    pub allowed: i64,
    /// The names of those that are on their way out already.
    pub noted: BTreeSet<String>,
}

/// A PodDisruptionBudget on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BudgetObject {
    metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    spec: BudgetSpec,
    #[serde(deserialize_with = "null_as_default")]
    status: BudgetStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct BudgetSpec {
    selector: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BudgetStatus {
    disruptions_allowed: i64,
    #[serde(deserialize_with = "null_as_default")]
    disrupted_pods: BTreeMap<String, serde::de::IgnoredAny>,
}

/// Other writers of objects may say `null` where nothing is meant.
pub fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl From<PodObject> for Pod {
    fn from(object: PodObject) -> Pod {
        let PodObject { metadata, mut spec, status } = object;
        let node = spec.node_name.clone().filter(|node| !node.is_empty());
        let ours = spec.scheduler_name.as_deref().unwrap_or(SCHEDULER_NAME) == SCHEDULER_NAME;
        let finished = matches!(&*status.phase, "Succeeded" | "Failed");
        let free = node.is_none() && metadata.deletion_timestamp.is_none() && spec.scheduling_gates.is_empty();
        let refused = |condition: Condition| {
            (condition.r#type == "PodScheduled" && condition.status == "False")
                .then_some((condition.reason, condition.message))
        };
        let namespace = metadata.namespace.unwrap_or_default();
        let labels = metadata.labels.unwrap_or_default();
        let affinity = [&mut spec.affinity.pod_affinity, &mut spec.affinity.pod_anti_affinity].map(std::mem::take);
        let spread = std::mem::take(&mut spec.topology_spread_constraints);
        Pod {
            wishes: Wishes::read(affinity, spread, (&namespace, &labels)).map(Arc::new),
            uid: metadata.uid.unwrap_or_default(),
            namespace,
            name: metadata.name.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            wants_node: ours && free && !finished,
            node,
            finished,
            deleting: metadata.deletion_timestamp.is_some(),
            started: status.start_time,
            nominated: status.nominated_node_name.filter(|node| !node.is_empty()),
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            labels,
            requests: requests(&spec),
            ports: ports(&spec),
            runtime_class: spec.runtime_class_name.clone(),
            placement: placement(spec),
            refused: status.conditions.into_iter().find_map(refused),
        }
    }
}

impl From<BudgetObject> for Budget {
    fn from(object: BudgetObject) -> Budget {
        let BudgetObject { metadata, spec, status } = object;
        let nothing = LabelSelector { requirements: Vec::new(), nothing: true };
        Budget {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            // The API server has refused what is no selector.
            selector: LabelSelector::from_object(spec.selector.as_ref()).unwrap_or(nothing),
            allowed: status.disruptions_allowed,
            noted: status.disrupted_pods.into_keys().collect(),
        }
    }
}

/// What must be free on a node, overhead included (RTC-57, 58, 59).
fn requests(spec: &PodSpec) -> Resources {
    let containers = |list: &[Container]| list.iter().map(Container::shape).collect();
    let shape = Shape {
        init_containers: containers(&spec.init_containers),
        containers: containers(&spec.containers),
        overhead: quantities(&spec.overhead),
        pod_requests: quantities(&spec.resources.requests),
        ..Shape::default()
    };
    Resources::of(&requests::requests(&shape))
}

/// What is no quantity counts as nothing: the API server has refused it already.
fn quantities(list: &BTreeMap<String, serde_json::Value>) -> api::pod::Resources {
    list.iter().filter_map(|(name, value)| Some((name.clone(), Quantity::from_value(value).ok()?))).collect()
}

fn ports(spec: &PodSpec) -> BTreeSet<HostPort> {
    let containers = spec.containers.iter().chain(&spec.init_containers);
    let host_port = |port: &Port| {
        let number = if spec.host_network && port.host_port == 0 { port.container_port } else { port.host_port };
        (number != 0).then(|| HostPort {
            port: number,
            protocol: if port.protocol.is_empty() { "TCP".into() } else { port.protocol.clone() },
            address: if port.host_ip.is_empty() { "0.0.0.0".into() } else { port.host_ip.clone() },
        })
    };
    containers.flat_map(|container| container.ports.iter().filter_map(host_port)).collect()
}

fn placement(spec: PodSpec) -> Placement {
    let affinity = spec.affinity.node_affinity;
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution;
    Placement {
        selector: spec.node_selector,
        required: affinity.required_during_scheduling_ignored_during_execution.map(|some| some.node_selector_terms),
        preferred: preferred.into_iter().map(|preferred| (preferred.weight, preferred.preference)).collect(),
        tolerations: spec.tolerations,
    }
}

impl From<NodeObject> for Node {
    fn from(object: NodeObject) -> Node {
        let NodeObject { metadata, spec, status } = object;
        let allocatable = if status.allocatable.is_empty() { status.capacity } else { status.allocatable };
        let names = |handlers: Vec<RuntimeHandler>| handlers.into_iter().map(|handler| handler.name).collect();
        Node {
            name: metadata.name.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            unschedulable: spec.unschedulable,
            taints: spec.taints,
            allocatable: Resources::of(&quantities(&allocatable)),
            handlers: status.runtime_handlers.filter(|handlers| !handlers.is_empty()).map(names),
        }
    }
}

/// Tells `kube` where a slim type lives.
macro_rules! resource {
    ($type:ty, $scope:ty, $kind:literal, $group:literal, $version:literal, $plural:literal) => {
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
                $version.into()
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

resource!(PodObject, k8s_openapi::NamespaceResourceScope, "Pod", "", "v1", "pods");
resource!(NodeObject, k8s_openapi::ClusterResourceScope, "Node", "", "v1", "nodes");
resource!(ClassObject, k8s_openapi::ClusterResourceScope, "RuntimeClass", "node.k8s.io", "v1", "runtimeclasses");
resource!(NamespaceObject, k8s_openapi::ClusterResourceScope, "Namespace", "", "v1", "namespaces");
resource!(
    BudgetObject,
    k8s_openapi::NamespaceResourceScope,
    "PodDisruptionBudget",
    "policy",
    "v1",
    "poddisruptionbudgets"
);
