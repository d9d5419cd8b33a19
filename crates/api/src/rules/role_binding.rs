//! RoleBindings and ClusterRoleBindings: who has a role.

use jiff::Timestamp;
use serde_json::Value;

use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::kind::RBAC;
use crate::look;
use crate::names;

/// Rules of `rbac.authorization.k8s.io/v1 RoleBinding`.
pub struct RoleBindings;

/// Rules of `rbac.authorization.k8s.io/v1 ClusterRoleBinding`.
pub struct ClusterRoleBindings;

impl Rules for RoleBindings {
    fn default(&self, object: &mut Value) {
        default(object);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        validate(object, &["Role", "ClusterRole"], true)
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        with_role_kept(self.validate_create(new), new, old)
    }

    fn name_complaints(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(object, now)
    }
}

impl Rules for ClusterRoleBindings {
    fn default(&self, object: &mut Value) {
        default(object);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        validate(object, &["ClusterRole"], false)
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        with_role_kept(self.validate_create(new), new, old)
    }

    fn name_complaints(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(object, now)
    }
}

fn default(object: &mut Value) {
    if let Some(role) = look::get_mut(object, "roleRef") {
        look::set_empty(role, "apiGroup", RBAC);
    }
    for subject in look::list_mut(object, "subjects") {
        if matches!(look::text(subject, "kind"), "User" | "Group") {
            look::set_empty(subject, "apiGroup", RBAC);
        }
    }
}

fn validate(object: &Value, kinds: &[&str], namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (nothing, path) = (Value::Null, Path::new("roleRef"));
    let role = look::get(object, "roleRef").unwrap_or(&nothing);
    let [group, kind, name] = ["apiGroup", "kind", "name"].map(|field| look::text(role, field));
    if group != RBAC {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[RBAC]));
    }
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, kinds));
    }
    let path = path.child("name");
    if name.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    errors.extend(names::path_segment(name).into_iter().map(|text| FieldError::invalid(&path, name, text)));
    for (index, subject) in look::list(object, "subjects").iter().enumerate() {
        validate_subject(subject, namespaced, &Path::new("subjects").index(index), &mut errors);
    }
    errors
}

fn validate_subject(subject: &Value, namespaced: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let [kind, name, group] = ["kind", "name", "apiGroup"].map(|field| look::text(subject, field));
    let (name_path, group_path) = (path.child("name"), path.child("apiGroup"));
    if name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                let complaints = names::subdomain(name).into_iter();
                errors.extend(complaints.map(|text| FieldError::invalid(&name_path, name, text)));
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(&group_path, group, &[""]));
            }
            if !namespaced && look::text(subject, "namespace").is_empty() {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if name.is_empty() {
                let detail = format!("{} name cannot be empty", kind.to_lowercase());
                errors.push(FieldError::invalid(&name_path, name, detail));
            }
            if group != RBAC {
                errors.push(FieldError::not_supported(&group_path, group, &[RBAC]));
            }
        }
        _ => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(&path.child("kind"), kind, &kinds));
        }
    }
}

/// Who has what may change, but not what it is that they have: that is another binding.
fn with_role_kept(mut errors: Vec<FieldError>, new: &Value, old: &Value) -> Vec<FieldError> {
    let role = |object| look::get(object, "roleRef");
    if !look::same(role(new), role(old)) {
        let value = role(new).cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(&Path::new("roleRef"), value, "cannot change roleRef"));
    }
    errors
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let [kind, name] = ["kind", "name"].map(|field| look::text_at(object, &["roleRef", field]));
    let of = |wanted: &str| {
        let subjects = look::list(object, "subjects").iter().filter(|subject| look::text(subject, "kind") == wanted);
        let shown: Vec<String> = subjects
            .map(|subject| match (wanted, look::text(subject, "namespace"), look::text(subject, "name")) {
                ("ServiceAccount", namespace, name) => format!("{namespace}/{name}"),
                (_, _, name) => name.to_owned(),
            })
            .collect();
        Value::from(shown.join(", "))
    };
    let role = Value::from(format!("{kind}/{name}"));
    vec![name_cell(object), role, age_cell(object, now), of("User"), of("Group"), of("ServiceAccount")]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn binding(kind: &str, subject: Value) -> Value {
        let mut object = json!({"roleRef": {"kind": kind, "name": "r"}, "subjects": [subject]});
        default(&mut object);
        object
    }

    fn check(rules: &dyn Rules, object: Value, expected: &[&str]) {
        let texts: Vec<String> = rules.validate_create(&object).iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn groups_of_the_api_are_defaulted() {
        let object = binding("Role", json!({"kind": "User", "name": "u"}));
        assert_eq!((&object["roleRef"]["apiGroup"], &object["subjects"][0]["apiGroup"]), (&json!(RBAC), &json!(RBAC)));
        let object = binding("Role", json!({"kind": "ServiceAccount", "name": "u"}));
        assert_eq!(object["subjects"][0].get("apiGroup"), None);
    }

    #[test]
    fn roles_and_subjects_are_of_known_kinds() {
        let user = json!({"kind": "User", "name": "u"});
        check(&RoleBindings, binding("Role", user.clone()), &[]);
        check(&RoleBindings, binding("ClusterRole", user.clone()), &[]);
        check(&ClusterRoleBindings, binding("ClusterRole", user.clone()), &[]);
        check(
            &ClusterRoleBindings,
            binding("Role", user),
            &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
        );
        check(
            &RoleBindings,
            binding("Role", json!({"kind": "Robot", "name": "x"})),
            &[
                "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ],
        );
        let account = json!({"kind": "ServiceAccount", "name": "a"});
        check(&RoleBindings, binding("Role", account.clone()), &[]);
        check(&ClusterRoleBindings, binding("ClusterRole", account), &["subjects[0].namespace: Required value"]);
        let account = json!({"kind": "ServiceAccount", "name": "a", "namespace": "n", "apiGroup": "x"});
        check(
            &RoleBindings,
            binding("Role", account),
            &["subjects[0].apiGroup: Unsupported value: \"x\": supported values: \"\""],
        );
        let nobody = binding("Role", json!({"kind": "Group", "name": ""}));
        let name = "subjects[0].name: ";
        check(
            &RoleBindings,
            nobody,
            &[&format!("{name}Required value"), &format!("{name}Invalid value: \"\": group name cannot be empty")],
        );
        check(
            &RoleBindings,
            json!({"roleRef": {"apiGroup": RBAC, "kind": "Role", "name": ""}}),
            &["roleRef.name: Required value"],
        );
    }

    #[test]
    fn the_role_never_changes() {
        let old = binding("Role", json!({"kind": "User", "name": "u"}));
        let other = binding("Role", json!({"kind": "User", "name": "v"}));
        assert!(RoleBindings.validate_update(&other, &old, None).is_empty());
        let errors =
            RoleBindings.validate_update(&binding("ClusterRole", json!({"kind": "User", "name": "u"})), &old, None);
        assert!(errors[0].to_string().starts_with("roleRef: Invalid value: "), "{errors:?}");
        assert!(errors[0].to_string().ends_with(": cannot change roleRef"), "{errors:?}");
    }

    #[test]
    fn the_row_shows_role_and_subjects() {
        let mut object = binding("ClusterRole", json!({"kind": "ServiceAccount", "name": "a", "namespace": "n"}));
        object["subjects"]
            .as_array_mut()
            .unwrap()
            .extend([json!({"kind": "User", "name": "u"}), json!({"kind": "User", "name": "v"})]);
        let cells = cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!((&cells[1], &cells[3], &cells[5]), (&json!("ClusterRole/r"), &json!("u, v"), &json!("n/a")));
    }
}
