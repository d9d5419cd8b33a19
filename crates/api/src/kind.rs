//! The one table of served kinds. Discovery, storage, routes, OpenAPI and kubectl's tables all come from it.
//!
//! Start at [`kinds`]. To serve another kind: write its rules in [`crate::rules`], add its columns in [`crate::table`],
//! add its roots to `xtask/schema_facts.py`, and add one row here.

mod access;
mod certificates;
mod passing;
mod policy;

pub use access::GROUP as RBAC;
pub use passing::{reviews, scale, token_request};

use crate::rules::{self, Rules};
use crate::table::{self, Column};

/// Where objects are kept. Kinds that share a storage are views of the same objects.
#[derive(Debug, PartialEq, Eq)]
pub struct Storage {
    /// Group in keys; `core` for the group without a name.
    pub group: &'static str,
    /// Plural in keys.
    pub plural: &'static str,
}

impl Storage {
    /// Beginning of the keys of all objects, e.g. `/registry/core/pods/`.
    pub fn prefix(&self) -> String {
        format!("/registry/{}/{}/", self.group, self.plural)
    }

    /// The key of one object; `namespace` is empty for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match namespace.is_empty() {
            true => format!("{}{name}", self.prefix()),
            false => format!("{}{namespace}/{name}", self.prefix()),
        }
    }
}

/// A part of a resource with a path of its own, such as `pods/status`.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last segment of the path, e.g. `status`.
    pub name: &'static str,
    /// Group of what is sent and received.
    pub group: &'static str,
    /// Version of what is sent and received.
    pub version: &'static str,
    /// Kind of what is sent and received.
    pub kind: &'static str,
    /// Verbs as discovery lists them.
    pub verbs: &'static [&'static str],
}

/// One row of the table: a kind in one version.
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version in the group.
    pub version: &'static str,
    /// Kind, e.g. `Pod`.
    pub kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Name of one, as kubectl takes it.
    pub singular: &'static str,
    /// Short names for kubectl.
    pub short_names: &'static [&'static str],
    /// Groups of resources that kubectl knows, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Verbs of the resource itself, as discovery lists them.
    pub verbs: &'static [&'static str],
    /// Paths below an object.
    pub subresources: &'static [Subresource],
    /// What the kind does.
    pub rules: &'static dyn Rules,
    /// Columns of its table.
    pub columns: &'static [Column],
    /// Where its objects are kept.
    pub storage: &'static Storage,
    /// Name of its type in the schema facts, e.g. `core.v1.Pod`.
    pub schema: &'static str,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({} {})", self.api_version(), self.kind)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        (self.group, self.version, self.kind) == (other.group, other.version, other.kind)
    }
}

impl Kind {
    /// `apiVersion` of objects: `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        match self.group.is_empty() {
            true => self.version.to_owned(),
            false => format!("{}/{}", self.group, self.version),
        }
    }

    /// Kind of a list, e.g. `PodList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The resource as messages name it: `pods`, `runtimeclasses.node.k8s.io`.
    pub fn qualified(&self) -> String {
        match self.group.is_empty() {
            true => self.plural.to_owned(),
            false => format!("{}.{}", self.plural, self.group),
        }
    }

    /// The subresource of a name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}

/// All served kinds. The preferred version of a group comes first.
pub fn kinds() -> &'static [Kind] {
    KINDS
}

/// The kind behind a path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| (kind.group, kind.version, kind.plural) == (group, version, plural))
}

/// The kind of an object with this `apiVersion` and `kind`.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|row| row.kind == kind && row.api_version() == api_version)
}

const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];
const STREAM_VERBS: &[&str] = &["create", "get"];

const fn core(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, group: "", version: "v1", kind, verbs }
}

const SCALE: Subresource =
    Subresource { name: "scale", group: "autoscaling", version: "v1", kind: "Scale", verbs: STATUS_VERBS };

const fn status_of(group: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", group, version: "v1", kind, verbs: STATUS_VERBS }
}

static EVENT_STORAGE: Storage = Storage { group: "core", plural: "events" };

static KINDS: &[Kind] = &[
    Kind {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        categories: &[],
        namespaced: false,
        verbs: NAMESPACE_VERBS,
        subresources: &[core("finalize", "Namespace", &["update"]), core("status", "Namespace", STATUS_VERBS)],
        rules: &rules::namespace::Namespaces,
        columns: table::NAMESPACES,
        storage: &Storage { group: "core", plural: "namespaces" },
        schema: "core.v1.Namespace",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        categories: &[],
        namespaced: false,
        verbs: ALL_VERBS,
        subresources: &[core("status", "Node", STATUS_VERBS)],
        rules: &rules::node::Nodes,
        columns: table::NODES,
        storage: &Storage { group: "core", plural: "nodes" },
        schema: "core.v1.Node",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[
            core("attach", "PodAttachOptions", STREAM_VERBS),
            core("binding", "Binding", &["create"]),
            core("ephemeralcontainers", "Pod", STATUS_VERBS),
            Subresource { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: &["create"] },
            core("exec", "PodExecOptions", STREAM_VERBS),
            core("log", "Pod", &["get"]),
            core("portforward", "PodPortForwardOptions", STREAM_VERBS),
            core("status", "Pod", STATUS_VERBS),
        ],
        rules: &rules::pod::Pods,
        columns: table::PODS,
        storage: &Storage { group: "core", plural: "pods" },
        schema: "core.v1.Pod",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::pod_template::PodTemplates,
        columns: table::POD_TEMPLATES,
        storage: &Storage { group: "core", plural: "podtemplates" },
        schema: "core.v1.PodTemplate",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[SCALE, status_of("", "ReplicationController")],
        rules: &rules::workload::replicas::ReplicationControllers,
        columns: table::REPLICAS,
        storage: &Storage { group: "core", plural: "replicationcontrollers" },
        schema: "core.v1.ReplicationController",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::secret::Secrets,
        columns: table::SECRETS,
        storage: &Storage { group: "core", plural: "secrets" },
        schema: "core.v1.Secret",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::config_map::ConfigMaps,
        columns: table::CONFIG_MAPS,
        storage: &Storage { group: "core", plural: "configmaps" },
        schema: "core.v1.ConfigMap",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[Subresource {
            name: "token",
            group: "authentication.k8s.io",
            version: "v1",
            kind: "TokenRequest",
            verbs: &["create"],
        }],
        rules: &rules::service_account::ServiceAccounts,
        columns: table::SERVICE_ACCOUNTS,
        storage: &Storage { group: "core", plural: "serviceaccounts" },
        schema: "core.v1.ServiceAccount",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::event::CoreEvents,
        columns: table::EVENTS,
        storage: &EVENT_STORAGE,
        schema: "core.v1.Event",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: &["limits"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::limit_range::LimitRanges,
        columns: table::LIMIT_RANGES,
        storage: &Storage { group: "core", plural: "limitranges" },
        schema: "core.v1.LimitRange",
    },
    Kind {
        group: "",
        version: "v1",
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[status_of("", "ResourceQuota")],
        rules: &rules::resource_quota::ResourceQuotas,
        columns: table::RESOURCE_QUOTAS,
        storage: &Storage { group: "core", plural: "resourcequotas" },
        schema: "core.v1.ResourceQuota",
    },
    Kind {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[SCALE, status_of("apps", "Deployment")],
        rules: &rules::workload::deployment::Deployments,
        columns: table::DEPLOYMENTS,
        storage: &Storage { group: "apps", plural: "deployments" },
        schema: "apps.v1.Deployment",
    },
    Kind {
        group: "apps",
        version: "v1",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[SCALE, status_of("apps", "ReplicaSet")],
        rules: &rules::workload::replicas::ReplicaSets,
        columns: table::REPLICAS,
        storage: &Storage { group: "apps", plural: "replicasets" },
        schema: "apps.v1.ReplicaSet",
    },
    Kind {
        group: "apps",
        version: "v1",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[SCALE, status_of("apps", "StatefulSet")],
        rules: &rules::workload::stateful_set::StatefulSets,
        columns: table::STATEFUL_SETS,
        storage: &Storage { group: "apps", plural: "statefulsets" },
        schema: "apps.v1.StatefulSet",
    },
    Kind {
        group: "apps",
        version: "v1",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[status_of("apps", "DaemonSet")],
        rules: &rules::workload::daemon_set::DaemonSets,
        columns: table::DAEMON_SETS,
        storage: &Storage { group: "apps", plural: "daemonsets" },
        schema: "apps.v1.DaemonSet",
    },
    Kind {
        group: "apps",
        version: "v1",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::controller_revision::ControllerRevisions,
        columns: table::CONTROLLER_REVISIONS,
        storage: &Storage { group: "apps", plural: "controllerrevisions" },
        schema: "apps.v1.ControllerRevision",
    },
    Kind {
        group: "batch",
        version: "v1",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        short_names: &[],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[status_of("batch", "Job")],
        rules: &rules::workload::job::Jobs,
        columns: table::JOBS,
        storage: &Storage { group: "batch", plural: "jobs" },
        schema: "batch.v1.Job",
    },
    Kind {
        group: "batch",
        version: "v1",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[status_of("batch", "CronJob")],
        rules: &rules::workload::cron_job::CronJobs,
        columns: table::CRON_JOBS,
        storage: &Storage { group: "batch", plural: "cronjobs" },
        schema: "batch.v1.CronJob",
    },
    Kind {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        short_names: &[],
        categories: &["api-extensions"],
        namespaced: false,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::webhook::Mutating,
        columns: table::WEBHOOKS,
        storage: &Storage { group: "admissionregistration.k8s.io", plural: "mutatingwebhookconfigurations" },
        schema: "admissionregistration.v1.MutatingWebhookConfiguration",
    },
    Kind {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        short_names: &[],
        categories: &["api-extensions"],
        namespaced: false,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::webhook::Validating,
        columns: table::WEBHOOKS,
        storage: &Storage { group: "admissionregistration.k8s.io", plural: "validatingwebhookconfigurations" },
        schema: "admissionregistration.v1.ValidatingWebhookConfiguration",
    },
    Kind {
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::event::GroupEvents,
        columns: table::EVENTS,
        storage: &EVENT_STORAGE,
        schema: "events.v1.Event",
    },
    Kind {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::lease::Leases,
        columns: table::LEASES,
        storage: &Storage { group: "coordination.k8s.io", plural: "leases" },
        schema: "coordination.v1.Lease",
    },
    Kind {
        group: "node.k8s.io",
        version: "v1",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::runtime_class::RuntimeClasses,
        columns: table::RUNTIME_CLASSES,
        storage: &Storage { group: "node.k8s.io", plural: "runtimeclasses" },
        schema: "node.v1.RuntimeClass",
    },
    Kind {
        group: "scheduling.k8s.io",
        version: "v1",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        categories: &[],
        namespaced: false,
        verbs: ALL_VERBS,
        subresources: &[],
        rules: &rules::priority_class::PriorityClasses,
        columns: table::PRIORITY_CLASSES,
        storage: &Storage { group: "scheduling.k8s.io", plural: "priorityclasses" },
        schema: "scheduling.v1.PriorityClass",
    },
    policy::DISRUPTION_BUDGETS,
    certificates::REQUESTS,
    access::ROLES,
    access::ROLE_BINDINGS,
    access::CLUSTER_ROLES,
    access::CLUSTER_ROLE_BINDINGS,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_path_and_by_kind() {
        assert_eq!(find("", "v1", "pods").unwrap().kind, "Pod");
        assert_eq!(find("events.k8s.io", "v1", "events").unwrap().storage.key("a", "b"), "/registry/core/events/a/b");
        assert_eq!(find("", "v2", "pods"), None);
        assert_eq!(find_kind("node.k8s.io/v1", "RuntimeClass").unwrap().qualified(), "runtimeclasses.node.k8s.io");
        assert_eq!(find("", "v1", "nodes").unwrap().storage.key("", "n"), "/registry/core/nodes/n");
    }

    #[test]
    fn every_row_has_a_type_in_the_schema_facts() {
        for kind in kinds() {
            assert!(crate::schema::find(kind.schema).is_some(), "{kind:?}");
            let list = crate::schema::find(&format!("{}List", kind.schema));
            assert!(list.is_some(), "{kind:?}");
        }
    }

    #[test]
    fn every_row_shows_as_many_cells_as_columns() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        for kind in kinds() {
            let cells = kind.rules.cells(&serde_json::json!({"metadata": {"name": "x"}}), now);
            assert_eq!(cells.len(), kind.columns.len(), "{kind:?}");
        }
    }
}
