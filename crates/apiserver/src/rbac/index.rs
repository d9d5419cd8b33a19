//! Roles and bindings as they are looked up: by who asks and where.
//!
//! Bindings are read when they come, roles when they are first needed, so that roles that nobody has cost nothing. Pure.
//! Start at [`Index::visit`].

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use api::look;
use api::rbac::Rule;
use bytes::Bytes;
use serde_json::Value;

use crate::user::UserInfo;

/// Roles and bindings.
#[derive(Default)]
pub struct Index {
    /// By `clusterroles/NAME` or `roles/NAMESPACE/NAME`.
    roles: HashMap<Box<str>, Role>,
    /// By `clusterrolebindings/NAME` or `rolebindings/NAMESPACE/NAME`.
    bindings: HashMap<Box<str>, Arc<Binding>>,
    users: Held,
    groups: Held,
}

/// Bindings by whom they are for, then by namespace; the empty one is everywhere.
type Held = HashMap<Box<str>, HashMap<Box<str>, Vec<Arc<Binding>>>>;

enum Role {
    Stored(Bytes),
    Read(Arc<[Rule]>),
}

/// One binding.
pub struct Binding {
    name: Box<str>,
    namespace: Box<str>,
    role_kind: Box<str>,
    role_name: Box<str>,
    /// Key of its role, as in the index.
    role: Box<str>,
    subjects: Vec<Subject>,
}

struct Subject {
    kind: SubjectKind,
    /// The user's or the group's name; of a service account, its user name.
    name: Box<str>,
    /// As upstream tells of it.
    shown: Box<str>,
}

#[derive(PartialEq)]
enum SubjectKind {
    User,
    Group,
}

/// The rules of one binding that is for whom was asked.
pub struct Visit<'a> {
    /// The binding.
    pub binding: &'a Binding,
    /// Its role's rules; None if there is no such role.
    pub rules: Option<&'a [Rule]>,
}

impl Index {
    /// Takes a stored object in; `key` is its store key behind the group.
    pub fn put(&mut self, key: &str, value: &Bytes) {
        if is_role(key) {
            self.roles.insert(key.into(), Role::Stored(value.clone()));
            return;
        }
        self.unbind(key);
        let Some(binding) = Binding::read(key, value).map(Arc::new) else { return };
        for subject in &binding.subjects {
            let places = self.held(&subject.kind).entry(subject.name.clone()).or_default();
            places.entry(binding.namespace.clone()).or_default().push(binding.clone());
        }
        self.bindings.insert(key.into(), binding);
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &str) {
        match is_role(key) {
            true => drop(self.roles.remove(key)),
            false => self.unbind(key),
        }
    }

    fn held(&mut self, kind: &SubjectKind) -> &mut Held {
        match kind {
            SubjectKind::User => &mut self.users,
            SubjectKind::Group => &mut self.groups,
        }
    }

    fn unbind(&mut self, key: &str) {
        let Some(binding) = self.bindings.remove(key) else { return };
        for subject in &binding.subjects {
            let held = self.held(&subject.kind);
            let Some(places) = held.get_mut(&subject.name) else { continue };
            if let Some(list) = places.get_mut(&binding.namespace) {
                list.retain(|other| !Arc::ptr_eq(other, &binding));
            }
            places.retain(|_, list| !list.is_empty());
            if places.is_empty() {
                held.remove(&subject.name);
            }
        }
    }

    /// Shows the bindings of a user, those for everywhere and those of `namespace`, until the visitor has enough.
    pub fn visit<T>(
        &mut self,
        user: &UserInfo,
        namespace: &str,
        mut visitor: impl FnMut(Visit<'_>) -> ControlFlow<T>,
    ) -> Option<T> {
        let Index { roles, users, groups, .. } = self;
        let own = users.get(user.name.as_str());
        let of_groups = user.groups.iter().filter_map(|group| groups.get(group.as_str()));
        let places = own.into_iter().chain(of_groups);
        let wanted = if namespace.is_empty() { &[""][..] } else { &["", namespace][..] };
        for binding in places.flat_map(|held| wanted.iter().filter_map(|place| held.get(*place))).flatten() {
            let rules = roles.get_mut(&binding.role).map(Role::rules);
            if let ControlFlow::Break(found) = visitor(Visit { binding, rules }) {
                return Some(found);
            }
        }
        None
    }

    /// The rules of a role; `key` as in [`Index::put`].
    pub fn rules(&mut self, key: &str) -> Option<&[Rule]> {
        self.roles.get_mut(key).map(Role::rules)
    }
}

fn is_role(key: &str) -> bool {
    key.starts_with("clusterroles/") || key.starts_with("roles/")
}

impl Role {
    fn rules(&mut self) -> &[Rule] {
        if let Role::Stored(bytes) = self {
            let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
            *self = Role::Read(Rule::all_of(&object).into());
        }
        match self {
            Role::Read(rules) => rules,
            Role::Stored(_) => &[],
        }
    }
}

/// Key of the role that a binding of `namespace` refers to; None for kinds that there are not.
pub fn role_key(reference: &Value, namespace: &str) -> Option<String> {
    let name = look::text(reference, "name");
    match look::text(reference, "kind") {
        "ClusterRole" => Some(format!("clusterroles/{name}")),
        "Role" => Some(format!("roles/{namespace}/{name}")),
        _ => None,
    }
}

impl Binding {
    fn read(key: &str, value: &[u8]) -> Option<Binding> {
        let object: Value = serde_json::from_slice(value).ok()?;
        let (namespace, name) = match key.strip_prefix("rolebindings/") {
            Some(rest) => rest.split_once('/')?,
            None => ("", key.strip_prefix("clusterrolebindings/")?),
        };
        let reference = look::get(&object, "roleRef")?;
        let subjects = look::list(&object, "subjects").iter();
        Some(Binding {
            name: name.into(),
            namespace: namespace.into(),
            role_kind: look::text(reference, "kind").into(),
            role_name: look::text(reference, "name").into(),
            role: role_key(reference, namespace)?.into(),
            subjects: subjects.filter_map(|subject| Subject::read(subject, namespace)).collect(),
        })
    }

    /// The binding in upstream's words, for a user that it is for.
    pub fn describe(&self, user: &UserInfo) -> String {
        let is_for = |subject: &&Subject| match subject.kind {
            SubjectKind::User => *subject.name == *user.name,
            SubjectKind::Group => user.is_in(&subject.name),
        };
        let subject = self.subjects.iter().find(is_for).map_or("", |subject| &subject.shown);
        let (kind, own) = match &*self.namespace {
            "" => ("ClusterRoleBinding", self.name.to_string()),
            namespace => ("RoleBinding", format!("{}/{namespace}", self.name)),
        };
        format!("{kind} {own:?} of {} {:?} to {subject}", self.role_kind, self.role_name)
    }

    /// That its role is not there, in upstream's words.
    pub fn role_missing(&self) -> String {
        format!("{}.{} {:?} not found", self.role_kind.to_lowercase(), api::kind::RBAC, self.role_name)
    }
}

impl Subject {
    fn read(subject: &Value, namespace: &str) -> Option<Subject> {
        let [kind, name, own] = ["kind", "name", "namespace"].map(|field| look::text(subject, field));
        let plain =
            |kind| Subject { kind, name: name.into(), shown: format!("{} {name:?}", kind_text(subject)).into() };
        match kind {
            "User" => Some(plain(SubjectKind::User)),
            "Group" => Some(plain(SubjectKind::Group)),
            "ServiceAccount" => {
                let namespace = if own.is_empty() { namespace } else { own };
                (!namespace.is_empty()).then(|| Subject {
                    kind: SubjectKind::User,
                    name: crate::tokens::claims::user_name(namespace, name).into(),
                    shown: format!("ServiceAccount {:?}", format!("{name}/{namespace}")).into(),
                })
            }
            _ => None,
        }
    }
}

fn kind_text(subject: &Value) -> &str {
    look::text(subject, "kind")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bytes(value: Value) -> Bytes {
        Bytes::from(value.to_string())
    }

    fn binding(role: (&str, &str), subjects: Value) -> Bytes {
        bytes(json!({"roleRef": {"kind": role.0, "name": role.1}, "subjects": subjects}))
    }

    fn role(verb: &str) -> Bytes {
        bytes(json!({"rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]}))
    }

    /// The verbs that a user has in a namespace; `!` for each role that is missing.
    fn verbs(index: &mut Index, user: &UserInfo, namespace: &str) -> Vec<String> {
        let mut found = Vec::new();
        index.visit(user, namespace, |visit| {
            match visit.rules {
                Some(rules) => found.extend(rules.iter().flat_map(|rule| rule.verbs.iter().map(|v| v.to_string()))),
                None => found.push("!".to_owned()),
            }
            ControlFlow::<()>::Continue(())
        });
        found.sort();
        found
    }

    #[test]
    fn bindings_are_found_by_user_group_and_account_in_their_namespace() {
        let mut index = Index::default();
        index.put("clusterroles/a", &role("cluster"));
        index.put("roles/n/b", &role("local"));
        index.put("clusterrolebindings/x", &binding(("ClusterRole", "a"), json!([{"kind": "Group", "name": "g"}])));
        let account = json!([{"kind": "ServiceAccount", "name": "s"}, {"kind": "User", "name": "u"}]);
        index.put("rolebindings/n/y", &binding(("Role", "b"), account));
        let [user, member] = [UserInfo::new("u", &[]), UserInfo::new("v", &["g"])];
        let robot = UserInfo::new("system:serviceaccount:n:s", &[]);
        assert_eq!(verbs(&mut index, &user, "n"), ["local"]);
        assert!(verbs(&mut index, &user, "m").is_empty() && verbs(&mut index, &user, "").is_empty());
        assert_eq!(verbs(&mut index, &robot, "n"), ["local"]);
        assert_eq!(verbs(&mut index, &member, "n"), ["cluster"]);
        assert_eq!(verbs(&mut index, &member, ""), ["cluster"]);
    }

    #[test]
    fn a_change_or_a_deletion_counts_at_once() {
        let mut index = Index::default();
        let user = UserInfo::new("u", &[]);
        let subjects = json!([{"kind": "User", "name": "u"}]);
        index.put("clusterrolebindings/x", &binding(("ClusterRole", "a"), subjects.clone()));
        assert_eq!(verbs(&mut index, &user, ""), ["!"]);
        index.put("clusterroles/a", &role("one"));
        assert_eq!(verbs(&mut index, &user, ""), ["one"]);
        index.put("clusterroles/a", &role("two"));
        assert_eq!(verbs(&mut index, &user, ""), ["two"]);
        index.put("clusterrolebindings/x", &binding(("ClusterRole", "a"), json!([{"kind": "User", "name": "v"}])));
        assert!(verbs(&mut index, &user, "").is_empty());
        index.put("clusterrolebindings/x", &binding(("ClusterRole", "a"), subjects));
        index.remove("clusterroles/a");
        assert_eq!(verbs(&mut index, &user, ""), ["!"]);
        index.remove("clusterrolebindings/x");
        assert!(index.users.is_empty() && index.bindings.is_empty());
    }

    #[test]
    fn a_role_of_another_namespace_is_not_the_binding_s() {
        let mut index = Index::default();
        index.put("roles/m/b", &role("get"));
        index.put("rolebindings/n/y", &binding(("Role", "b"), json!([{"kind": "User", "name": "u"}])));
        assert_eq!(verbs(&mut index, &UserInfo::new("u", &[]), "n"), ["!"]);
    }

    #[test]
    fn bindings_are_told_in_upstreams_words() {
        let subjects =
            json!([{"kind": "ServiceAccount", "name": "s", "namespace": "k"}, {"kind": "Group", "name": "g"}]);
        let value = binding(("ClusterRole", "view"), subjects);
        let local = Binding::read("rolebindings/n/y", &value).unwrap();
        assert_eq!(
            local.describe(&UserInfo::new("u", &["g"])),
            "RoleBinding \"y/n\" of ClusterRole \"view\" to Group \"g\""
        );
        let everywhere = Binding::read("clusterrolebindings/y", &value).unwrap();
        assert_eq!(
            everywhere.describe(&UserInfo::new("system:serviceaccount:k:s", &[])),
            "ClusterRoleBinding \"y\" of ClusterRole \"view\" to ServiceAccount \"s/k\""
        );
        assert_eq!(local.role_missing(), "clusterrole.rbac.authorization.k8s.io \"view\" not found");
    }
}
