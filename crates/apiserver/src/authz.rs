//! Authorization: who may do what. Denies by default.
//!
//! Owns the seam [`Authorizer`], the chain of all authorizers, and what this server's own components may beside upstream's
//! roles. The Node authorizer is in `authz_node`, roles are in `rbac`. It must not change anything. Start at [`authorize`].

use api::certificate::{CLIENT, GROUP, NODE_CLIENT, NODE_SERVING};
use async_trait::async_trait;

use crate::authz_node::NodeAuthorizer;
use crate::rbac::RoleAuthorizer;
use crate::rbac::defaults::{READ, Rule, named, rule};
use crate::status::Status;
use crate::user::{MASTERS, UserInfo};
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

/// One way to decide.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Judges one request.
    async fn decide(&self, attributes: &Attributes<'_>, world: &World) -> Decision;
}

/// The authorizers in their order; nodes get tokens for these audiences (IMG-208).
pub fn chain(node_audiences: Vec<String>) -> Vec<Box<dyn Authorizer>> {
    vec![Box::new(Masters), Box::new(NodeAuthorizer { audiences: node_audiences }), Box::new(RoleAuthorizer)]
}

/// Asks the chain; refuses with upstream's 403 when nobody allows it.
pub async fn authorize(
    chain: &[Box<dyn Authorizer>],
    attributes: &Attributes<'_>,
    world: &World,
) -> Result<(), Status> {
    judge(chain, attributes, world).await.map_err(|reason| forbidden(attributes, &reason))
}

/// Asks the chain; the error is why nobody allows it, which may be empty.
pub async fn judge(chain: &[Box<dyn Authorizer>], attributes: &Attributes<'_>, world: &World) -> Result<(), String> {
    let mut reasons = Vec::new();
    for authorizer in chain {
        match authorizer.decide(attributes, world).await {
            Decision::Allow => return Ok(()),
            Decision::NoOpinion(reason) if !reason.is_empty() => reasons.push(reason),
            Decision::NoOpinion(_) => {}
        }
    }
    Err(reasons.join(", "))
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
    Status { details: details.into(), ..Status::plain(403, "Forbidden", message) }
}

/// `system:masters` may do everything.
struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn decide(&self, attributes: &Attributes<'_>, _: &World) -> Decision {
        if attributes.user.is_in(MASTERS) { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

/// What the components that ship with the server may beside upstream's roles: the name of the ClusterRole that is made of
/// it, who has it, and the rules.
pub const COMPONENTS: &[(&str, &str, &[Rule])] = &[
    ("sampan:controllers", "system:kube-controller-manager", CONTROLLERS),
    // RTC-53: which nodes have the handler of a class.
    ("sampan:scheduler", "system:kube-scheduler", &[rule(READ, &["node.k8s.io"], &["runtimeclasses"])]),
];

/// The controllers own the namespaces' life, so they read and delete everything; they write what they make.
const CONTROLLERS: &[Rule] = &[
    // As upstream's collector of garbage: owners and finalizers are on every kind.
    rule(&["get", "list", "watch", "update", "patch", "delete", "deletecollection"], &["*"], &["*"]),
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
    rule(&["create"], &["apps", "batch"], &["replicasets", "controllerrevisions", "jobs"]),
    rule(&["create", "update", "patch"], &["coordination.k8s.io"], &["leases"]),
    named(&[NODE_CLIENT], &["approve"], &[GROUP], &["signers"]),
    named(&[CLIENT, NODE_CLIENT, NODE_SERVING], &["sign"], &[GROUP], &["signers"]),
];
