//! Authorization: who may do what. Denies by default.
//!
//! Owns the seam [`Authorizer`], the components' own roles and the chain of both. The Node authorizer is in `authz_node`.
//! It must not change anything. Start at [`authorize`].

use async_trait::async_trait;

use crate::authz_node::NodeAuthorizer;
use crate::status::Status;
use crate::user::{AUTHENTICATED, MASTERS, SERVICE_ACCOUNTS, UserInfo};
use crate::world::World;

/// What is asked, in the words of access control.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: &'a str,
    /// API group; empty for core.
    pub group: &'a str,
    /// Plural name of the resource; empty for paths.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Object name or empty.
    pub name: &'a str,
    /// Field selector of a list or watch, as text.
    pub fields: &'a str,
    /// The path, for requests that are on no resource.
    pub path: &'a str,
}

/// What one authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// Ask the next one. The text is shown if nobody allows it.
    NoOpinion(String),
}

/// One way to decide. RBAC will be another.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Judges one request.
    async fn decide(&self, attributes: &Attributes<'_>, world: &World) -> Decision;
}

/// The authorizers in their order; nodes get tokens for these audiences (IMG-208).
pub fn chain(node_audiences: Vec<String>) -> Vec<Box<dyn Authorizer>> {
    vec![Box::new(Masters), Box::new(Roles), Box::new(NodeAuthorizer { audiences: node_audiences })]
}

/// Asks the chain; refuses with upstream's 403 when nobody allows it.
pub async fn authorize(
    chain: &[Box<dyn Authorizer>],
    attributes: &Attributes<'_>,
    world: &World,
) -> Result<(), Status> {
    let mut reasons = Vec::new();
    for authorizer in chain {
        match authorizer.decide(attributes, world).await {
            Decision::Allow => return Ok(()),
            Decision::NoOpinion(reason) if !reason.is_empty() => reasons.push(reason),
            Decision::NoOpinion(_) => {}
        }
    }
    Err(forbidden(attributes, &reasons.join(", ")))
}

/// Upstream's words for a refusal.
fn forbidden(a: &Attributes<'_>, reason: &str) -> Status {
    let user = &a.user.name;
    if a.resource.is_empty() {
        let message = format!("forbidden: User {user:?} cannot {} path {:?}", a.verb, a.path);
        let mut status = Status::plain(403, "Forbidden", message);
        status.details = serde_json::json!({});
        return status;
    }
    let resource =
        if a.subresource.is_empty() { a.resource.to_owned() } else { format!("{}/{}", a.resource, a.subresource) };
    let place = if a.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", a.namespace)
    };
    let mut why = format!("User {user:?} cannot {} resource {resource:?} in API group {:?} {place}", a.verb, a.group);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let qualified = if a.group.is_empty() { a.resource.to_owned() } else { format!("{}.{}", a.resource, a.group) };
    let message = if a.name.is_empty() {
        format!("{qualified} is forbidden: {why}")
    } else {
        format!("{qualified} {:?} is forbidden: {why}", a.name)
    };
    let mut details = serde_json::Map::new();
    for (field, value) in [("name", a.name), ("group", a.group), ("kind", a.resource)] {
        if !value.is_empty() {
            details.insert(field.into(), value.into());
        }
    }
    Status { code: 403, reason: "Forbidden".into(), message, details: details.into() }
}

/// `system:masters` may do everything.
struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn decide(&self, attributes: &Attributes<'_>, _: &World) -> Decision {
        if attributes.user.is_in(MASTERS) { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

/// One line of a role: verbs × groups × resources (`pods/status` names a subresource, `*` is everything).
struct Rule {
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
}

const fn rule(
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
) -> Rule {
    Rule { verbs, groups, resources }
}

const READ: &[&str] = &["get", "list", "watch"];
const ALL_READ: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
const EVENTS: &[&str] = &["", "events.k8s.io"];

/// What every component may do: see what is served, and tell events.
const EVENT_RULE: Rule = rule(&["create", "update", "patch"], EVENTS, &["events"]);

/// What everybody who is authenticated may ask: who am I, may I (upstream's `system:basic-user`).
const EVERYBODY: &[Rule] = &[
    rule(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
    rule(&["create"], &["authorization.k8s.io"], &["selfsubjectaccessreviews"]),
];

/// How tokens are judged by others (upstream's `system:service-account-issuer-discovery`).
const ISSUER_PATHS: [&str; 2] = ["/openid/v1/jwks", "/.well-known/openid-configuration"];

const SCHEDULER: &[Rule] = &[
    EVENT_RULE,
    rule(
        READ,
        &[""],
        &[
            "pods",
            "nodes",
            "namespaces",
            "services",
            "replicationcontrollers",
            "persistentvolumeclaims",
            "persistentvolumes",
        ],
    ),
    rule(READ, &["scheduling.k8s.io", "node.k8s.io", "apps", "policy", "storage.k8s.io"], &["*"]),
    rule(&["delete"], &[""], &["pods"]),
    rule(&["create"], &[""], &["bindings", "pods/binding"]),
    rule(&["update", "patch"], &[""], &["pods/status"]),
    rule(ALL_READ, &["coordination.k8s.io"], &["leases"]),
];

/// The controllers own the namespaces' life, so they read and delete everything; they write what they make.
const CONTROLLERS: &[Rule] = &[
    EVENT_RULE,
    rule(&["get", "list", "watch", "delete", "deletecollection"], &["*"], &["*"]),
    rule(
        &["create", "update", "patch"],
        &[""],
        &[
            "serviceaccounts",
            "configmaps",
            "pods",
            "pods/status",
            "pods/eviction",
            "nodes",
            "nodes/status",
            "resourcequotas/status",
            "replicationcontrollers",
            "replicationcontrollers/status",
            "namespaces",
            "namespaces/status",
            "namespaces/finalize",
        ],
    ),
    rule(&["create", "update", "patch"], &["apps"], &["replicasets", "replicasets/status"]),
    rule(&["create", "update", "patch"], &["coordination.k8s.io"], &["leases"]),
];

/// The roles of the components that ship with the server.
struct Roles;

#[async_trait]
impl Authorizer for Roles {
    async fn decide(&self, a: &Attributes<'_>, _: &World) -> Decision {
        if a.resource.is_empty() {
            let open = a.verb == "get"
                && (a.user.is_in(AUTHENTICATED) && is_discovery(a.path)
                    || a.user.is_in(SERVICE_ACCOUNTS) && ISSUER_PATHS.contains(&a.path));
            return if open { Decision::Allow } else { Decision::NoOpinion(String::new()) };
        }
        if a.user.is_in(AUTHENTICATED) && EVERYBODY.iter().any(|rule| rule.allows(a)) {
            return Decision::Allow;
        }
        let rules = match a.user.name.as_str() {
            "system:kube-scheduler" => SCHEDULER,
            "system:kube-controller-manager" => CONTROLLERS,
            _ => &[],
        };
        if rules.iter().any(|rule| rule.allows(a)) { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

impl Rule {
    fn allows(&self, a: &Attributes<'_>) -> bool {
        let resource =
            if a.subresource.is_empty() { a.resource.to_owned() } else { format!("{}/{}", a.resource, a.subresource) };
        let has = |list: &[&str], word: &str| list.iter().any(|w| *w == word || *w == "*");
        self.verbs.contains(&a.verb)
            && has(self.groups, a.group)
            && self.resources.iter().any(|r| *r == resource || (*r == "*" && a.subresource.is_empty()))
    }
}

/// Paths that every authenticated user may read.
fn is_discovery(path: &str) -> bool {
    ["/api", "/apis", "/openapi"].iter().any(|root| path == *root || path.starts_with(&format!("{root}/")))
        || ["/version", "/version/", "/healthz", "/livez", "/readyz", "/"].contains(&path)
}
