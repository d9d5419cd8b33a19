//! Kinds of access control, `rbac.authorization.k8s.io/v1`.

use super::{ALL_VERBS, Kind, Storage};
use crate::rules::role::{ClusterRoles, Roles};
use crate::rules::role_binding::{ClusterRoleBindings, RoleBindings};
use crate::table;

/// The group.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// What the four kinds have in common.
const BASE: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "Role",
    plural: "roles",
    singular: "role",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: &Roles,
    columns: table::ROLES,
    storage: &Storage { group: GROUP, plural: "roles" },
    schema: "rbac.v1.Role",
};

pub(super) const ROLES: Kind = BASE;

pub(super) const CLUSTER_ROLES: Kind = Kind {
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    namespaced: false,
    rules: &ClusterRoles,
    storage: &Storage { group: GROUP, plural: "clusterroles" },
    schema: "rbac.v1.ClusterRole",
    ..BASE
};

pub(super) const ROLE_BINDINGS: Kind = Kind {
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    rules: &RoleBindings,
    columns: table::ROLE_BINDINGS,
    storage: &Storage { group: GROUP, plural: "rolebindings" },
    schema: "rbac.v1.RoleBinding",
    ..BASE
};

pub(super) const CLUSTER_ROLE_BINDINGS: Kind = Kind {
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    namespaced: false,
    rules: &ClusterRoleBindings,
    columns: table::ROLE_BINDINGS,
    storage: &Storage { group: GROUP, plural: "clusterrolebindings" },
    schema: "rbac.v1.ClusterRoleBinding",
    ..BASE
};
