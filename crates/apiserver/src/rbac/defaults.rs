//! The roles and bindings that every cluster has: upstream's, and what the components of this server need beside them.
//!
//! One flat table; nothing is decided here. Start at [`ROLES`] and [`BINDINGS`].

use api::rbac::mend::AUTOUPDATE;
use serde_json::{Value, json};

use crate::authz::COMPONENTS;

/// One ClusterRole.
pub struct DefaultRole {
    /// Its name.
    pub name: &'static str,
    /// The role that gathers this one: `admin`, `edit` or `view`; empty for none.
    pub part_of: &'static str,
    /// The word that this one gathers by, likewise.
    pub gathers: &'static str,
    /// What it allows.
    pub rules: &'static [Rule],
}

/// One line of a role: verbs × groups × resources of these names, or verbs × paths.
pub struct Rule {
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    names: &'static [&'static str],
    paths: &'static [&'static str],
}

/// Words of one list of a rule.
pub type Words = &'static [&'static str];

/// A line about resources.
pub const fn rule(verbs: Words, groups: Words, resources: Words) -> Rule {
    Rule { verbs, groups, resources, names: &[], paths: &[] }
}

/// A line about resources of these names.
pub const fn named(names: Words, verbs: Words, groups: Words, resources: Words) -> Rule {
    Rule { verbs, groups, resources, names, paths: &[] }
}

const fn paths(paths: Words) -> Rule {
    Rule { verbs: GET, groups: &[], resources: &[], names: &[], paths }
}

const fn role(name: &'static str, rules: &'static [Rule]) -> DefaultRole {
    DefaultRole { name, part_of: "", gathers: "", rules }
}

const ALL: Words = &["*"];
const GET: Words = &["get"];
const CREATE: Words = &["create"];
const CHANGE: Words = &["patch", "update"];
/// Reading.
pub const READ: Words = &["get", "list", "watch"];
const WATCH: Words = &["list", "watch"];
const WRITE: Words = &["create", "delete", "deletecollection", "patch", "update"];
const READ_WRITE: Words = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const CORE: Words = &[""];
const EVENTS: Words = &["", "events.k8s.io"];
const TOKENS: Words = &["authentication.k8s.io"];
const ACCESS: Words = &["authorization.k8s.io"];
const CERTIFICATES: Words = &["certificates.k8s.io"];
const LEASES: Words = &["coordination.k8s.io"];
const STORAGE: Words = &["storage.k8s.io"];
const CLAIMS: Words = &["resource.k8s.io"];

/// Telling events.
const EVENT: Rule = rule(&["create", "patch", "update"], EVENTS, &["events"]);
const TOKEN_REVIEW: Rule = rule(CREATE, TOKENS, &["tokenreviews"]);
const ACCESS_REVIEW: Rule = rule(CREATE, ACCESS, &["subjectaccessreviews"]);
const REQUESTS: Rule = rule(&["create", "get", "list", "watch"], CERTIFICATES, &["certificatesigningrequests"]);

const fn approver(name: &'static str, rules: &'static [Rule]) -> DefaultRole {
    role(name, rules)
}

const fn approves(signer: Words) -> Rule {
    named(signer, &["approve"], CERTIFICATES, &["signers"])
}

const HEALTH: Words = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// The ClusterRoles.
pub static ROLES: &[DefaultRole] = &[
    role("cluster-admin", &[rule(ALL, ALL, ALL), Rule { verbs: ALL, ..paths(ALL) }]),
    DefaultRole { name: "admin", part_of: "", gathers: "admin", rules: &[] },
    DefaultRole { name: "edit", part_of: "admin", gathers: "edit", rules: &[] },
    DefaultRole { name: "view", part_of: "edit", gathers: "view", rules: &[] },
    DefaultRole {
        name: "system:aggregate-to-admin",
        part_of: "admin",
        gathers: "",
        rules: &[
            rule(CREATE, ACCESS, &["localsubjectaccessreviews"]),
            rule(READ_WRITE, &[api::kind::RBAC], &["rolebindings", "roles"]),
        ],
    },
    DefaultRole { name: "system:aggregate-to-edit", part_of: "edit", gathers: "", rules: EDIT },
    DefaultRole { name: "system:aggregate-to-view", part_of: "view", gathers: "", rules: VIEW },
    role("system:auth-delegator", &[TOKEN_REVIEW, ACCESS_REVIEW]),
    role(
        "system:basic-user",
        &[
            rule(CREATE, ACCESS, &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
            rule(CREATE, TOKENS, &["selfsubjectreviews"]),
        ],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[rule(CREATE, CERTIFICATES, &["certificatesigningrequests/nodeclient"])],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[rule(CREATE, CERTIFICATES, &["certificatesigningrequests/selfnodeclient"])],
    ),
    approver(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[approves(&["kubernetes.io/kube-apiserver-client"])],
    ),
    approver(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[approves(&["kubernetes.io/kube-apiserver-client-kubelet"])],
    ),
    approver("system:certificates.k8s.io:kubelet-serving-approver", &[approves(&["kubernetes.io/kubelet-serving"])]),
    approver("system:certificates.k8s.io:legacy-unknown-approver", &[approves(&["kubernetes.io/legacy-unknown"])]),
    role(
        "system:discovery",
        &[paths(&[
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version",
            "/version/",
        ])],
    ),
    role("system:kube-aggregator", &[rule(READ, CORE, &["endpoints", "services"])]),
    role("system:kube-controller-manager", CONTROLLER_MANAGER),
    role("system:kube-dns", &[rule(WATCH, CORE, &["endpoints", "services"])]),
    role("system:kube-scheduler", SCHEDULER),
    role(
        "system:kubelet-api-admin",
        &[
            rule(READ, CORE, &["nodes"]),
            rule(&["proxy"], CORE, &["nodes"]),
            rule(ALL, CORE, &["nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"]),
            rule(ALL, CORE, &["nodes/configz", "nodes/healthz", "nodes/pods"]),
        ],
    ),
    role(
        "system:monitoring",
        &[
            paths(&[
                "/healthz",
                "/healthz/*",
                "/livez",
                "/livez/*",
                "/metrics",
                "/metrics/slis",
                "/readyz",
                "/readyz/*",
                "/statusz",
            ]),
            rule(GET, CORE, &["nodes/metrics"]),
        ],
    ),
    role("system:node", NODE),
    role("system:node-bootstrapper", &[REQUESTS]),
    role(
        "system:node-problem-detector",
        &[rule(GET, CORE, &["nodes"]), rule(&["patch"], CORE, &["nodes/status"]), EVENT],
    ),
    role(
        "system:node-proxier",
        &[
            rule(WATCH, CORE, &["endpoints", "services"]),
            rule(READ, CORE, &["nodes"]),
            EVENT,
            rule(WATCH, &["networking.k8s.io"], &["servicecidrs"]),
            rule(WATCH, &["discovery.k8s.io"], &["endpointslices"]),
        ],
    ),
    role(
        "system:persistent-volume-provisioner",
        &[
            rule(&["create", "delete", "get", "list", "watch"], CORE, &["persistentvolumes"]),
            rule(&["get", "list", "update", "watch"], CORE, &["persistentvolumeclaims"]),
            rule(READ, STORAGE, &["storageclasses"]),
            rule(&["watch"], CORE, &["events"]),
            EVENT,
        ],
    ),
    role("system:public-info-viewer", &[paths(HEALTH)]),
    role(
        "system:service-account-issuer-discovery",
        &[paths(&[
            "/.well-known/openid-configuration",
            "/.well-known/openid-configuration/",
            "/openid/v1/jwks",
            "/openid/v1/jwks/",
        ])],
    ),
    role(
        "system:volume-scheduler",
        &[
            rule(&["get", "list", "patch", "update", "watch"], CORE, &["persistentvolumes"]),
            rule(READ, STORAGE, &["storageclasses"]),
            rule(&["get", "list", "patch", "update", "watch"], CORE, &["persistentvolumeclaims"]),
        ],
    ),
];

const EDIT: &[Rule] = &[
    rule(READ, CORE, &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"]),
    rule(&["impersonate"], CORE, &["serviceaccounts"]),
    rule(WRITE, CORE, &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"]),
    rule(CREATE, CORE, &["pods/eviction"]),
    rule(
        WRITE,
        CORE,
        &[
            "configmaps",
            "persistentvolumeclaims",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "secrets",
            "serviceaccounts",
            "services",
            "services/proxy",
        ],
    ),
    rule(CREATE, CORE, &["serviceaccounts/token"]),
    rule(WRITE, EVENTS, &["events"]),
    rule(
        WRITE,
        &["apps"],
        &[
            "daemonsets",
            "deployments",
            "deployments/rollback",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ],
    ),
    rule(WRITE, &["autoscaling"], &["horizontalpodautoscalers"]),
    rule(WRITE, &["batch"], &["cronjobs", "jobs"]),
    rule(
        WRITE,
        &["extensions"],
        &[
            "daemonsets",
            "deployments",
            "deployments/rollback",
            "deployments/scale",
            "ingresses",
            "networkpolicies",
            "replicasets",
            "replicasets/scale",
            "replicationcontrollers/scale",
        ],
    ),
    rule(WRITE, &["policy"], &["poddisruptionbudgets"]),
    rule(WRITE, &["networking.k8s.io"], &["ingresses", "networkpolicies"]),
    rule(READ_WRITE, LEASES, &["leases"]),
    rule(WRITE, CLAIMS, &["resourceclaims", "resourceclaimtemplates"]),
];

const VIEW: &[Rule] = &[
    rule(
        READ,
        CORE,
        &[
            "configmaps",
            "endpoints",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
            "pods",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "serviceaccounts",
            "services",
            "services/status",
        ],
    ),
    rule(
        READ,
        CORE,
        &[
            "bindings",
            "limitranges",
            "namespaces/status",
            "pods/log",
            "pods/status",
            "replicationcontrollers/status",
            "resourcequotas",
            "resourcequotas/status",
        ],
    ),
    rule(READ, CORE, &["namespaces"]),
    rule(READ, EVENTS, &["events"]),
    rule(READ, &["discovery.k8s.io"], &["endpointslices"]),
    rule(
        READ,
        &["apps"],
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
    ),
    rule(READ, &["autoscaling"], &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
    rule(READ, &["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
    rule(
        READ,
        &["extensions"],
        &[
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "ingresses",
            "ingresses/status",
            "networkpolicies",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "replicationcontrollers/scale",
        ],
    ),
    rule(READ, &["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
    rule(READ, &["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"]),
    rule(READ, CLAIMS, &["resourceclaims", "resourceclaims/status", "resourceclaimtemplates"]),
];

const CONTROLLER_MANAGER: &[Rule] = &[
    EVENT,
    rule(CREATE, LEASES, &["leases"]),
    named(&["kube-controller-manager"], &["get", "update"], LEASES, &["leases"]),
    rule(CREATE, CORE, &["secrets", "serviceaccounts"]),
    rule(&["delete"], CORE, &["secrets"]),
    rule(GET, CORE, &["configmaps", "namespaces", "secrets", "serviceaccounts"]),
    rule(&["update"], CORE, &["secrets", "serviceaccounts"]),
    TOKEN_REVIEW,
    ACCESS_REVIEW,
    rule(WATCH, ALL, ALL),
    rule(CREATE, CORE, &["serviceaccounts/token"]),
];

const SCHEDULER: &[Rule] = &[
    EVENT,
    rule(CREATE, LEASES, &["leases"]),
    named(&["kube-scheduler"], &["get", "list", "update", "watch"], LEASES, &["leases"]),
    rule(READ_WRITE, LEASES, &["leasecandidates"]),
    rule(READ, CORE, &["nodes"]),
    rule(&["delete", "get", "list", "watch"], CORE, &["pods"]),
    rule(CREATE, CORE, &["bindings", "pods/binding"]),
    rule(CHANGE, CORE, &["pods/status"]),
    rule(READ, CORE, &["replicationcontrollers", "services"]),
    rule(READ, &["apps", "extensions"], &["replicasets"]),
    rule(READ, &["apps"], &["statefulsets"]),
    rule(READ, &["policy"], &["poddisruptionbudgets"]),
    rule(READ, CORE, &["persistentvolumeclaims", "persistentvolumes"]),
    TOKEN_REVIEW,
    ACCESS_REVIEW,
    rule(READ, STORAGE, &["csinodes"]),
    rule(READ, STORAGE, &["volumeattachments"]),
    rule(READ, CORE, &["namespaces"]),
    rule(READ, STORAGE, &["csidrivers"]),
    rule(READ, STORAGE, &["csistoragecapacities"]),
    rule(READ, CLAIMS, &["deviceclasses"]),
    rule(&["get", "list", "patch", "update", "watch"], CLAIMS, &["resourceclaims"]),
    rule(&["get", "list", "patch", "update", "watch"], CLAIMS, &["resourceclaims/status"]),
    rule(&["update"], CORE, &["pods/finalizers"]),
    rule(READ, CLAIMS, &["resourceslices"]),
    rule(&["create", "delete"], CLAIMS, &["resourceclaims"]),
];

/// Bound to nobody, as upstream: nodes are judged by the Node authorizer. RTC-20: RuntimeClasses are read.
const NODE: &[Rule] = &[
    TOKEN_REVIEW,
    rule(CREATE, ACCESS, &["localsubjectaccessreviews", "subjectaccessreviews"]),
    rule(READ, CORE, &["services"]),
    rule(&["create", "get", "list", "watch"], CORE, &["nodes"]),
    rule(CHANGE, CORE, &["nodes/status"]),
    rule(CHANGE, CORE, &["nodes"]),
    EVENT,
    rule(READ, CORE, &["pods"]),
    rule(&["create", "delete"], CORE, &["pods"]),
    rule(CHANGE, CORE, &["pods/status"]),
    rule(CREATE, CORE, &["pods/eviction"]),
    rule(READ, CORE, &["configmaps", "secrets"]),
    rule(GET, CORE, &["persistentvolumeclaims", "persistentvolumes"]),
    rule(GET, CORE, &["endpoints"]),
    REQUESTS,
    rule(&["create", "delete", "get", "patch", "update"], LEASES, &["leases"]),
    rule(GET, STORAGE, &["volumeattachments"]),
    rule(CREATE, CORE, &["serviceaccounts/token"]),
    rule(&["get", "patch", "update"], CORE, &["persistentvolumeclaims/status"]),
    rule(READ, STORAGE, &["csidrivers"]),
    rule(&["create", "delete", "get", "patch", "update"], STORAGE, &["csinodes"]),
    rule(READ, &["node.k8s.io"], &["runtimeclasses"]),
    rule(GET, CLAIMS, &["resourceclaims"]),
    rule(&["deletecollection"], CLAIMS, &["resourceslices"]),
    rule(GET, CORE, &["serviceaccounts"]),
];

/// Role, then kind and name of each subject.
type DefaultBinding = (&'static str, &'static [(&'static str, &'static str)]);

/// The ClusterRoleBindings. Each has the name of its role.
pub static BINDINGS: &[DefaultBinding] = &[
    ("cluster-admin", &[("Group", "system:masters")]),
    ("system:basic-user", &[("Group", "system:authenticated")]),
    // A node renews its own certificate. Machines without one get in by what `sampan token create` binds.
    ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", &[("Group", "system:nodes")]),
    ("system:discovery", &[("Group", "system:authenticated")]),
    ("system:kube-controller-manager", &[("User", "system:kube-controller-manager")]),
    ("system:kube-dns", &[("ServiceAccount", "kube-dns")]),
    ("system:kube-scheduler", &[("User", "system:kube-scheduler")]),
    // Upstream leaves this one to who sets up the cluster: the API server's own certificate towards nodes.
    ("system:kubelet-api-admin", &[("User", "kube-apiserver-kubelet-client")]),
    ("system:monitoring", &[("Group", "system:monitoring")]),
    ("system:node", &[]),
    ("system:node-proxier", &[("User", "system:kube-proxy")]),
    ("system:public-info-viewer", &[("Group", "system:authenticated"), ("Group", "system:unauthenticated")]),
    ("system:service-account-issuer-discovery", &[("Group", "system:serviceaccounts")]),
    ("system:volume-scheduler", &[("User", "system:kube-scheduler")]),
];

/// Label of a role that `role` gathers.
fn gathered_by(role: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{role}")
}

pub(super) fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "annotations": {AUTOUPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    })
}

impl Rule {
    pub(super) fn object(&self) -> Value {
        let lists = [
            ("apiGroups", self.groups),
            ("resourceNames", self.names),
            ("resources", self.resources),
            ("nonResourceURLs", self.paths),
            ("verbs", self.verbs),
        ];
        let filled = lists.into_iter().filter(|(_, list)| !list.is_empty());
        Value::Object(filled.map(|(name, list)| (name.to_owned(), json!(list))).collect())
    }
}

impl DefaultRole {
    fn object(&self) -> Value {
        let rules: Vec<Value> = self.rules.iter().map(Rule::object).collect();
        let mut object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(self.name),
            "rules": rules,
        });
        if !self.part_of.is_empty() {
            object["metadata"]["labels"][gathered_by(self.part_of)] = "true".into();
        }
        if !self.gathers.is_empty() {
            let selector = json!({"matchLabels": {gathered_by(self.gathers): "true"}});
            object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        }
        object
    }
}

/// A subject by kind and name; accounts are of `kube-system`.
pub(super) fn subject((kind, name): &(&str, &str)) -> Value {
    match *kind {
        "ServiceAccount" => json!({"kind": kind, "name": name, "namespace": "kube-system"}),
        _ => json!({"apiGroup": api::kind::RBAC, "kind": kind, "name": name}),
    }
}

fn binding((role, subjects): &DefaultBinding) -> Value {
    let subjects: Vec<Value> = subjects.iter().map(subject).collect();
    let reference = json!({"apiGroup": api::kind::RBAC, "kind": "ClusterRole", "name": role});
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(role),
        "roleRef": reference,
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    object
}

/// All default ClusterRoles as objects; those that gather others come with what they gather.
pub fn roles() -> Vec<Value> {
    let components = COMPONENTS.iter().map(|(name, _, rules)| role(name, rules).object());
    let mut objects: Vec<Value> = ROLES.iter().map(DefaultRole::object).chain(components).collect();
    // The roles that others gather come later in the table, so that the last ones are gathered first.
    for at in (0..objects.len()).rev() {
        let all: Vec<&Value> = objects.iter().collect();
        if let Some(rules) = api::rbac::gather(&objects[at], &all) {
            objects[at]["rules"] = rules.into();
        }
    }
    objects
}

/// All default ClusterRoleBindings as objects.
pub fn bindings() -> Vec<Value> {
    let components = COMPONENTS.iter().map(|(name, user, _)| {
        let mut object = binding(&(name, &[]));
        object["subjects"] = json!([{"apiGroup": api::kind::RBAC, "kind": "User", "name": user}]);
        object
    });
    BINDINGS.iter().map(binding).chain(components).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use api::rbac::{Asked, Rule};

    use super::*;

    fn rules(name: &str) -> Vec<Rule> {
        let all = roles();
        Rule::all_of(all.iter().find(|role| role["metadata"]["name"] == name).unwrap())
    }

    fn may(name: &str, verb: &str, group: &str, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let asked = Asked { verb, group, resource, subresource, ..Asked::default() };
        rules(name).iter().any(|rule| rule.allows(&asked))
    }

    #[test]
    fn the_defaults_are_valid_and_each_binding_has_its_role() {
        let names: BTreeSet<String> = roles().iter().map(|role| crate::object::name(role).to_owned()).collect();
        for (plural, objects) in [("clusterroles", roles()), ("clusterrolebindings", bindings())] {
            let kind = api::find(api::kind::RBAC, "v1", plural).unwrap();
            for mut object in objects {
                assert_eq!(kind.rules.validate_create(&object), [], "{object}");
                let before = object.clone();
                kind.rules.default(&mut object);
                assert_eq!(object, before, "the table says all that is defaulted");
                if plural == "clusterrolebindings" {
                    assert!(names.contains(object["roleRef"]["name"].as_str().unwrap()), "{object}");
                }
            }
        }
        assert_eq!(names.len(), roles().len());
    }

    #[test]
    fn view_is_in_edit_and_edit_in_admin() {
        for (less, more) in [("view", "edit"), ("edit", "admin"), ("admin", "cluster-admin")] {
            let (held, wanted) = (rules(more), rules(less));
            assert!(!wanted.is_empty() && api::rbac::cover::missing(&held, &wanted).is_empty(), "{less} in {more}");
            assert!(!api::rbac::cover::missing(&wanted, &held).is_empty(), "{more} is more than {less}");
        }
    }

    #[test]
    fn secrets_are_for_editors_and_roles_for_administrators() {
        assert!(may("view", "list", "", "pods") && may("view", "get", "", "pods/log"));
        assert!(!may("view", "get", "", "secrets") && !may("view", "create", "", "pods/exec"));
        assert!(may("edit", "get", "", "secrets") && may("edit", "create", "", "pods/exec"));
        assert!(!may("edit", "create", api::kind::RBAC, "roles") && may("admin", "create", api::kind::RBAC, "roles"));
        for word in ["escalate", "bind"] {
            assert!(!may("admin", word, api::kind::RBAC, "clusterroles"), "{word}");
        }
        assert!(!may("admin", "update", "", "resourcequotas") && !may("admin", "update", "", "namespaces"));
    }

    #[test]
    fn rtc_20_the_default_roles_give_nothing_on_runtime_classes_but_reading_to_nodes() {
        let verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
        for role in roles() {
            let name = crate::object::name(&role);
            let given: Vec<&str> =
                verbs.into_iter().filter(|verb| may(name, verb, "node.k8s.io", "runtimeclasses")).collect();
            let expected = match name {
                "cluster-admin" => &verbs[..],
                "system:node" | "sampan:scheduler" => &verbs[..3],
                // All kinds are watched, and emptied with their namespaces.
                "system:kube-controller-manager" => &["list", "watch"],
                // The collector writes owners and finalizers of every kind, as upstream's may.
                "sampan:controllers" => &["get", "list", "watch", "update", "patch", "delete", "deletecollection"],
                _ => &[],
            };
            assert_eq!(given, expected, "{name}");
        }
    }
}
