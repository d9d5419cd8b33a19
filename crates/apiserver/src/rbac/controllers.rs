//! The roles of upstream's single controllers, and the roles in `kube-system` and `kube-public`.
//!
//! Two flat tables. Each controller's role is bound to the account of its name in `kube-system`; manifests and tools refer
//! to them. The controllers of this server act as one user and use none of these (`authz::COMPONENTS`). Start at
//! [`CONTROLLERS`] and [`IN_NAMESPACES`].

use serde_json::{Value, json};

use super::defaults::{READ, Rule, Words, metadata, named, rule, subject};

const GET: Words = &["get"];
const LIST: Words = &["list", "watch"];
const UPDATE: Words = &["update"];
const CHANGE: Words = &["patch", "update"];
const READ_UPDATE: Words = &["get", "list", "update", "watch"];
const CORE: Words = &[""];
const APPS: Words = &["apps"];
const OLD_APPS: Words = &["apps", "extensions"];
const BATCH: Words = &["batch"];
const STORAGE: Words = &["storage.k8s.io"];
const CLAIMS: Words = &["resource.k8s.io"];
const SLICES: Words = &["discovery.k8s.io"];
const CERTIFICATES: Words = &["certificates.k8s.io"];
const CIDRS: Words = &["networking.k8s.io"];
const POLICIES: Words = &["admissionregistration.k8s.io"];
const LEASES: Words = &["coordination.k8s.io"];
const ALL: Words = &["*"];
const EVENT: Rule = rule(&["create", "patch", "update"], &["", "events.k8s.io"], &["events"]);

/// What one controller may, by its name without `system:controller:`.
pub static CONTROLLERS: &[(&str, &[Rule])] = &[
    (
        "attachdetach-controller",
        &[
            rule(LIST, CORE, &["persistentvolumeclaims", "persistentvolumes"]),
            rule(READ, CORE, &["nodes"]),
            rule(CHANGE, CORE, &["nodes/status"]),
            rule(LIST, CORE, &["pods"]),
            EVENT,
            rule(&["create", "delete", "get", "list", "watch"], STORAGE, &["volumeattachments"]),
            rule(READ, STORAGE, &["csidrivers"]),
            rule(READ, STORAGE, &["csinodes"]),
        ],
    ),
    (
        "certificate-controller",
        &[
            rule(&["delete", "get", "list", "watch"], CERTIFICATES, &["certificatesigningrequests"]),
            rule(UPDATE, CERTIFICATES, &["certificatesigningrequests/approval", "certificatesigningrequests/status"]),
            named(&["kubernetes.io/kube-apiserver-client-kubelet"], &["approve"], CERTIFICATES, &["signers"]),
            named(
                &[
                    "kubernetes.io/kube-apiserver-client",
                    "kubernetes.io/kube-apiserver-client-kubelet",
                    "kubernetes.io/kubelet-serving",
                    "kubernetes.io/legacy-unknown",
                ],
                &["sign"],
                CERTIFICATES,
                &["signers"],
            ),
            rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
            EVENT,
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &[rule(&["escalate", "get", "list", "patch", "update", "watch"], &[api::kind::RBAC], &["clusterroles"])],
    ),
    (
        "cronjob-controller",
        &[
            rule(READ_UPDATE, BATCH, &["cronjobs"]),
            rule(&["create", "delete", "get", "list", "patch", "update", "watch"], BATCH, &["jobs"]),
            rule(UPDATE, BATCH, &["cronjobs/status"]),
            rule(UPDATE, BATCH, &["cronjobs/finalizers"]),
            rule(&["delete", "list", "watch"], CORE, &["pods"]),
            EVENT,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            rule(READ, OLD_APPS, &["daemonsets"]),
            rule(UPDATE, OLD_APPS, &["daemonsets/status"]),
            rule(UPDATE, OLD_APPS, &["daemonsets/finalizers"]),
            rule(LIST, CORE, &["nodes"]),
            rule(&["create", "delete", "list", "patch", "watch"], CORE, &["pods"]),
            rule(&["create"], CORE, &["pods/binding"]),
            rule(&["create", "delete", "get", "list", "patch", "update", "watch"], APPS, &["controllerrevisions"]),
            EVENT,
        ],
    ),
    (
        "deployment-controller",
        &[
            rule(READ_UPDATE, OLD_APPS, &["deployments"]),
            rule(UPDATE, OLD_APPS, &["deployments/status"]),
            rule(UPDATE, OLD_APPS, &["deployments/finalizers"]),
            rule(&["create", "delete", "get", "list", "patch", "update", "watch"], OLD_APPS, &["replicasets"]),
            rule(READ_UPDATE, CORE, &["pods"]),
            EVENT,
        ],
    ),
    (
        "device-taint-eviction-controller",
        &[
            rule(&["delete", "get", "list", "watch"], CORE, &["pods"]),
            rule(CHANGE, CORE, &["pods/status"]),
            rule(READ, CLAIMS, &["resourceclaims"]),
            rule(READ, CLAIMS, &["resourceslices"]),
            rule(READ, CLAIMS, &["deviceclasses"]),
            rule(READ, CLAIMS, &["devicetaintrules"]),
            EVENT,
        ],
    ),
    (
        "disruption-controller",
        &[
            rule(READ, OLD_APPS, &["deployments"]),
            rule(READ, OLD_APPS, &["replicasets"]),
            rule(READ, CORE, &["replicationcontrollers"]),
            rule(READ, &["policy"], &["poddisruptionbudgets"]),
            rule(READ, APPS, &["statefulsets"]),
            rule(UPDATE, &["policy"], &["poddisruptionbudgets/status"]),
            rule(CHANGE, CORE, &["pods/status"]),
            rule(GET, ALL, &["*/scale"]),
            EVENT,
        ],
    ),
    (
        "endpoint-controller",
        &[
            rule(READ, CORE, &["pods", "services"]),
            rule(&["create", "delete", "get", "list", "update", "watch"], CORE, &["endpoints"]),
            rule(&["create"], CORE, &["endpoints/restricted"]),
            EVENT,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            rule(READ, CORE, &["nodes", "pods", "services"]),
            rule(UPDATE, CORE, &["services/finalizers"]),
            rule(&["create", "delete", "get", "list", "update", "watch"], SLICES, &["endpointslices"]),
            EVENT,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            rule(READ, CORE, &["endpoints", "services"]),
            rule(UPDATE, CORE, &["services/finalizers"]),
            rule(UPDATE, CORE, &["endpoints/finalizers"]),
            rule(&["create", "delete", "get", "list", "update", "watch"], SLICES, &["endpointslices"]),
            EVENT,
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            rule(READ, CORE, &["pods"]),
            rule(UPDATE, CORE, &["pods/finalizers"]),
            rule(&["create", "get", "list", "watch"], CORE, &["persistentvolumeclaims"]),
            EVENT,
        ],
    ),
    (
        "expand-controller",
        &[
            rule(&["get", "list", "patch", "update", "watch"], CORE, &["persistentvolumes"]),
            rule(CHANGE, CORE, &["persistentvolumeclaims/status"]),
            rule(READ, CORE, &["persistentvolumeclaims"]),
            EVENT,
            rule(GET, CORE, &["services"]),
        ],
    ),
    ("generic-garbage-collector", &[rule(&["delete", "get", "list", "patch", "update", "watch"], ALL, ALL), EVENT]),
    (
        "horizontal-pod-autoscaler",
        &[
            rule(READ, &["autoscaling"], &["horizontalpodautoscalers"]),
            rule(UPDATE, &["autoscaling"], &["horizontalpodautoscalers/status"]),
            rule(&["get", "update"], ALL, &["*/scale"]),
            rule(LIST, CORE, &["pods"]),
            rule(LIST, &["metrics.k8s.io"], &["pods"]),
            rule(READ, &["custom.metrics.k8s.io"], ALL),
            rule(READ, &["external.metrics.k8s.io"], ALL),
            EVENT,
        ],
    ),
    (
        "job-controller",
        &[
            rule(&["get", "list", "patch", "update", "watch"], BATCH, &["jobs"]),
            rule(UPDATE, BATCH, &["jobs/status"]),
            rule(UPDATE, BATCH, &["jobs/finalizers"]),
            rule(&["create", "delete", "list", "patch", "watch"], CORE, &["pods"]),
            EVENT,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[
            named(&["kube-apiserver-legacy-service-account-token-tracking"], GET, CORE, &["configmaps"]),
            rule(&["delete", "patch"], CORE, &["secrets"]),
        ],
    ),
    (
        "namespace-controller",
        &[
            rule(&["delete", "get", "list", "watch"], CORE, &["namespaces"]),
            rule(UPDATE, CORE, &["namespaces/finalize", "namespaces/status"]),
            rule(&["delete", "deletecollection", "get", "list", "watch"], ALL, ALL),
        ],
    ),
    (
        "node-controller",
        &[
            rule(&["delete", "get", "list", "patch", "update", "watch"], CORE, &["nodes"]),
            rule(CHANGE, CORE, &["nodes/status"]),
            rule(CHANGE, CORE, &["pods/status"]),
            rule(&["delete", "get", "list", "watch"], CORE, &["pods"]),
            EVENT,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            rule(&["create", "delete", "get", "list", "update", "watch"], CORE, &["persistentvolumes"]),
            rule(UPDATE, CORE, &["persistentvolumes/status"]),
            rule(READ_UPDATE, CORE, &["persistentvolumeclaims"]),
            rule(UPDATE, CORE, &["persistentvolumeclaims/status"]),
            rule(&["create", "delete", "get", "list", "watch"], CORE, &["pods"]),
            rule(READ, STORAGE, &["storageclasses"]),
            rule(LIST, CORE, &["nodes"]),
            EVENT,
            rule(&["watch"], CORE, &["events"]),
            rule(GET, CORE, &["services"]),
        ],
    ),
    (
        "pod-garbage-collector",
        &[
            rule(&["delete", "list", "watch"], CORE, &["pods"]),
            rule(READ, CORE, &["nodes"]),
            rule(&["patch"], CORE, &["pods/status"]),
        ],
    ),
    ("pv-protection-controller", &[rule(READ_UPDATE, CORE, &["persistentvolumes"]), EVENT]),
    (
        "pvc-protection-controller",
        &[rule(READ_UPDATE, CORE, &["persistentvolumeclaims"]), rule(READ, CORE, &["pods"]), EVENT],
    ),
    (
        "replicaset-controller",
        &[
            rule(READ_UPDATE, OLD_APPS, &["replicasets"]),
            rule(UPDATE, OLD_APPS, &["replicasets/status"]),
            rule(UPDATE, OLD_APPS, &["replicasets/finalizers"]),
            rule(&["create", "delete", "list", "patch", "watch"], CORE, &["pods"]),
            EVENT,
        ],
    ),
    (
        "replication-controller",
        &[
            rule(READ_UPDATE, CORE, &["replicationcontrollers"]),
            rule(UPDATE, CORE, &["replicationcontrollers/status"]),
            rule(UPDATE, CORE, &["replicationcontrollers/finalizers"]),
            rule(&["create", "delete", "list", "patch", "watch"], CORE, &["pods"]),
            EVENT,
        ],
    ),
    (
        "resource-claim-controller",
        &[
            rule(READ, CORE, &["pods"]),
            rule(UPDATE, CORE, &["pods/finalizers"]),
            rule(&["create", "delete", "get", "list", "watch"], CLAIMS, &["resourceclaims"]),
            rule(CHANGE, CLAIMS, &["resourceclaims", "resourceclaims/status"]),
            rule(CHANGE, CORE, &["pods/status"]),
            EVENT,
        ],
    ),
    ("resourcequota-controller", &[rule(LIST, ALL, ALL), rule(UPDATE, CORE, &["resourcequotas/status"]), EVENT]),
    ("root-ca-cert-publisher", &[rule(&["create", "update"], CORE, &["configmaps"]), EVENT]),
    ("route-controller", &[rule(LIST, CORE, &["nodes"]), rule(&["patch"], CORE, &["nodes/status"]), EVENT]),
    (
        "selinux-warning-controller",
        &[
            EVENT,
            rule(READ, CORE, &["persistentvolumes"]),
            rule(READ, CORE, &["persistentvolumeclaims"]),
            rule(READ, CORE, &["pods"]),
            rule(READ, STORAGE, &["csidrivers"]),
        ],
    ),
    ("service-account-controller", &[rule(&["create"], CORE, &["serviceaccounts"]), EVENT]),
    (
        "service-cidrs-controller",
        &[
            rule(&["get", "list", "patch", "update", "watch"], CIDRS, &["servicecidrs"]),
            rule(CHANGE, CIDRS, &["servicecidrs/finalizers"]),
            rule(CHANGE, CIDRS, &["servicecidrs/status"]),
            rule(READ, CIDRS, &["ipaddresses"]),
            EVENT,
        ],
    ),
    (
        "service-controller",
        &[
            rule(READ, CORE, &["services"]),
            rule(CHANGE, CORE, &["services/status"]),
            rule(LIST, CORE, &["nodes"]),
            EVENT,
        ],
    ),
    (
        "statefulset-controller",
        &[
            rule(LIST, CORE, &["pods"]),
            rule(READ, APPS, &["statefulsets"]),
            rule(UPDATE, APPS, &["statefulsets/status"]),
            rule(UPDATE, APPS, &["statefulsets/finalizers"]),
            rule(&["create", "delete", "get", "patch", "update"], CORE, &["pods"]),
            rule(&["create", "delete", "get", "list", "patch", "update", "watch"], APPS, &["controllerrevisions"]),
            rule(&["create", "get", "list", "watch"], CORE, &["persistentvolumeclaims"]),
            rule(&["delete", "update"], CORE, &["persistentvolumeclaims"]),
            rule(UPDATE, CORE, &["pods/finalizers"]),
            EVENT,
        ],
    ),
    ("ttl-after-finished-controller", &[rule(&["delete", "get", "list", "watch"], BATCH, &["jobs"]), EVENT]),
    ("ttl-controller", &[rule(&["list", "patch", "update", "watch"], CORE, &["nodes"]), EVENT]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            rule(READ, POLICIES, &["validatingadmissionpolicies"]),
            rule(&["get", "patch", "update"], POLICIES, &["validatingadmissionpolicies/status"]),
            EVENT,
        ],
    ),
    (
        "volumeattributesclass-protection-controller",
        &[
            rule(READ, CORE, &["persistentvolumeclaims"]),
            rule(READ, CORE, &["persistentvolumes"]),
            rule(READ_UPDATE, STORAGE, &["volumeattributesclasses"]),
            EVENT,
        ],
    ),
];

/// A Role of a namespace and the binding to it.
pub struct NamespacedRole {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it allows.
    pub rules: &'static [Rule],
    /// The name of the RoleBinding; empty for the role's.
    pub binding: &'static str,
    /// Kind and name of each subject; accounts are of `kube-system`.
    pub subjects: &'static [(&'static str, &'static str)],
}

const fn in_system(name: &'static str, rules: &'static [Rule]) -> NamespacedRole {
    NamespacedRole { namespace: "kube-system", name, rules, binding: "", subjects: &[] }
}

/// The Roles and RoleBindings.
pub static IN_NAMESPACES: &[NamespacedRole] = &[
    NamespacedRole {
        binding: "system::extension-apiserver-authentication-reader",
        subjects: &[("User", "system:kube-controller-manager"), ("User", "system:kube-scheduler")],
        ..in_system(
            "extension-apiserver-authentication-reader",
            &[named(&["extension-apiserver-authentication"], READ, CORE, &["configmaps"])],
        )
    },
    NamespacedRole {
        subjects: &[
            ("User", "system:kube-controller-manager"),
            ("ServiceAccount", "kube-controller-manager"),
            ("ServiceAccount", "leader-election-controller"),
        ],
        ..in_system(
            "system::leader-locking-kube-controller-manager",
            &[
                rule(&["watch"], CORE, &["configmaps"]),
                named(&["kube-controller-manager"], &["get", "update"], CORE, &["configmaps"]),
                rule(&["create", "get", "list", "update", "watch"], LEASES, &["leases"]),
            ],
        )
    },
    NamespacedRole {
        subjects: &[("User", "system:kube-scheduler"), ("ServiceAccount", "kube-scheduler")],
        ..in_system(
            "system::leader-locking-kube-scheduler",
            &[
                rule(&["watch"], CORE, &["configmaps"]),
                named(&["kube-scheduler"], &["get", "update"], CORE, &["configmaps"]),
            ],
        )
    },
    NamespacedRole {
        subjects: &[("ServiceAccount", "bootstrap-signer")],
        ..in_system("system:controller:bootstrap-signer", &[rule(READ, CORE, &["secrets"])])
    },
    NamespacedRole {
        subjects: &[("ServiceAccount", "cloud-provider")],
        ..in_system(
            "system:controller:cloud-provider",
            &[rule(&["create", "get", "list", "watch"], CORE, &["configmaps"])],
        )
    },
    NamespacedRole {
        subjects: &[("ServiceAccount", "token-cleaner")],
        ..in_system(
            "system:controller:token-cleaner",
            &[rule(&["delete", "get", "list", "watch"], CORE, &["secrets"]), EVENT],
        )
    },
    NamespacedRole {
        namespace: "kube-public",
        name: "system:controller:bootstrap-signer",
        rules: &[rule(READ, CORE, &["configmaps"]), named(&["cluster-info"], UPDATE, CORE, &["configmaps"]), EVENT],
        binding: "",
        subjects: &[("ServiceAccount", "bootstrap-signer")],
    },
];

fn rules(rules: &[Rule]) -> Vec<Value> {
    rules.iter().map(Rule::object).collect()
}

/// A role or a binding of one of the four kinds.
fn object(kind: &str, name: &str, namespace: &str) -> Value {
    let mut metadata = metadata(name);
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata})
}

/// The ClusterRoles of controllers as objects.
pub fn roles() -> Vec<Value> {
    let role = |(name, list): &(&str, &[Rule])| {
        let mut role = object("ClusterRole", &format!("system:controller:{name}"), "");
        role["rules"] = rules(list).into();
        role
    };
    CONTROLLERS.iter().map(role).collect()
}

/// The ClusterRoleBindings of controllers as objects.
pub fn bindings() -> Vec<Value> {
    let binding = |(name, _): &(&str, &[Rule])| {
        let role = format!("system:controller:{name}");
        let mut binding = object("ClusterRoleBinding", &role, "");
        binding["roleRef"] = json!({"apiGroup": api::kind::RBAC, "kind": "ClusterRole", "name": role});
        binding["subjects"] = json!([subject(&("ServiceAccount", name))]);
        binding
    };
    CONTROLLERS.iter().map(binding).collect()
}

/// The Roles of namespaces as objects.
pub fn roles_in_namespaces() -> Vec<Value> {
    let role = |of: &NamespacedRole| {
        let mut role = object("Role", of.name, of.namespace);
        role["rules"] = rules(of.rules).into();
        role
    };
    IN_NAMESPACES.iter().map(role).collect()
}

/// The RoleBindings of namespaces as objects.
pub fn bindings_in_namespaces() -> Vec<Value> {
    let binding = |of: &NamespacedRole| {
        let name = if of.binding.is_empty() { of.name } else { of.binding };
        let mut binding = object("RoleBinding", name, of.namespace);
        binding["roleRef"] = json!({"apiGroup": api::kind::RBAC, "kind": "Role", "name": of.name});
        binding["subjects"] = of.subjects.iter().map(subject).collect();
        binding
    };
    IN_NAMESPACES.iter().map(binding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn they_are_valid_whole_and_each_has_a_name_of_its_own() {
        let tables = [
            ("clusterroles", roles()),
            ("clusterrolebindings", bindings()),
            ("roles", roles_in_namespaces()),
            ("rolebindings", bindings_in_namespaces()),
        ];
        for (plural, objects) in tables {
            let kind = api::find(api::kind::RBAC, "v1", plural).unwrap();
            let mut names = BTreeSet::new();
            for mut object in objects {
                assert_eq!(kind.rules.validate_create(&object), [], "{object}");
                let before = object.clone();
                kind.rules.default(&mut object);
                assert_eq!(object, before, "the table says all that is defaulted");
                assert_eq!(object["kind"], kind.kind);
                let name = format!("{}/{}", object["metadata"]["namespace"], object["metadata"]["name"]);
                assert!(names.insert(name), "{object}");
                assert_ne!(object["subjects"], json!([]));
            }
        }
        let others: BTreeSet<String> =
            super::super::defaults::roles().iter().map(|role| crate::object::name(role).to_owned()).collect();
        assert!(roles().iter().all(|role| !others.contains(crate::object::name(role))));
    }

    #[test]
    fn a_controller_is_the_account_of_its_name_in_kube_system() {
        let of_jobs = bindings().into_iter().find(|one| one["metadata"]["name"] == "system:controller:job-controller");
        let expected = json!([{"kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system"}]);
        assert_eq!(of_jobs.unwrap()["subjects"], expected);
    }
}
