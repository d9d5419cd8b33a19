//! Keeping the default roles and bindings: what is missing is added, what was added by people stays.
//!
//! An object with the annotation [`AUTOUPDATE`] set to `false` is left alone. Start at [`role`] and [`binding`].

use serde_json::Value;

use super::{Rule, cover};
use crate::look;

/// The annotation that says whether the server keeps the object what it should be.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What is to be done with an object that is there.
#[derive(Debug, PartialEq)]
pub enum Mend {
    /// It is as it should be, or people keep it.
    Keep,
    /// It becomes this.
    Change(Value),
    /// It names another role, which cannot be changed: it is made anew.
    Replace,
}

fn changed(new: Value, old: &Value) -> Mend {
    if new == *old { Mend::Keep } else { Mend::Change(new) }
}

fn is_kept_by_people(existing: &Value) -> bool {
    look::text_at(existing, &["metadata", "annotations", AUTOUPDATE]) == "false"
}

/// Adds labels and annotations that are not as expected.
fn mend_metadata(object: &mut Value, expected: &Value) {
    for map in ["labels", "annotations"] {
        for (key, value) in look::text_map(&expected["metadata"], map) {
            let metadata = look::child(object, "metadata");
            // Whoever said that a role is not to be mended has been heard; other values are what was expected.
            look::set(look::child(metadata, map), key, value);
        }
    }
}

/// Adds to a role what it lacks.
pub fn role(expected: &Value, existing: &Value) -> Mend {
    if is_kept_by_people(existing) {
        return Mend::Keep;
    }
    let mut mended = existing.clone();
    mend_metadata(&mut mended, expected);
    if let Some(wanted) = look::get(expected, "aggregationRule") {
        let rule = look::child(&mut mended, "aggregationRule");
        append(rule, "clusterRoleSelectors", look::list(wanted, "clusterRoleSelectors"));
    } else {
        let missing = cover::missing(&Rule::all_of(existing), &Rule::all_of(expected));
        let missing: Vec<Value> = cover::compact(missing).iter().map(Rule::write).collect();
        append(&mut mended, "rules", &missing);
    }
    changed(mended, existing)
}

/// Adds to a binding whom it lacks.
pub fn binding(expected: &Value, existing: &Value) -> Mend {
    if is_kept_by_people(existing) {
        return Mend::Keep;
    }
    if !look::same(expected.get("roleRef"), existing.get("roleRef")) {
        return Mend::Replace;
    }
    let mut mended = existing.clone();
    mend_metadata(&mut mended, expected);
    append(&mut mended, "subjects", look::list(expected, "subjects"));
    changed(mended, existing)
}

/// Appends the items that are not there.
fn append(object: &mut Value, field: &str, items: &[Value]) {
    let known = look::list(object, field);
    let missing = items.iter().filter(|item| !known.iter().any(|known| look::same(Some(known), Some(item))));
    let missing: Vec<Value> = missing.cloned().collect();
    if !missing.is_empty() {
        let all: Vec<Value> = known.iter().cloned().chain(missing).collect();
        look::set(object, field, all);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn expected() -> Value {
        json!({
            "metadata": {"name": "r", "labels": {"l": "1"}, "annotations": {AUTOUPDATE: "true"}},
            "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}],
        })
    }

    #[test]
    fn a_role_gets_back_what_it_lacks_and_keeps_what_it_has_more() {
        assert_eq!(role(&expected(), &expected()), Mend::Keep);
        let mut existing = expected();
        existing["metadata"]["labels"] = json!({"mine": "x"});
        existing["rules"] = json!([
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]},
        ]);
        let Mend::Change(mended) = role(&expected(), &existing) else { panic!("nothing was mended") };
        assert_eq!(mended["metadata"]["labels"], json!({"mine": "x", "l": "1"}));
        assert_eq!(mended["rules"][2], json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}));
        assert_eq!(mended["rules"].as_array().unwrap().len(), 3);
        existing["metadata"]["annotations"] = json!({AUTOUPDATE: "false"});
        assert_eq!(role(&expected(), &existing), Mend::Keep);
    }

    #[test]
    fn a_gathering_role_gets_back_its_selectors_and_not_its_rules() {
        let selectors = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
        let expected = json!({"metadata": {"name": "r"}, "aggregationRule": selectors});
        let existing = json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["get"]}]});
        let Mend::Change(mended) = role(&expected, &existing) else { panic!("nothing was mended") };
        assert_eq!((&mended["aggregationRule"], &mended["rules"]), (&selectors, &existing["rules"]));
    }

    #[test]
    fn a_binding_gets_back_its_subjects_and_is_made_anew_for_another_role() {
        let of = |role: &str, names: &[&str]| {
            let subjects: Vec<Value> = names.iter().map(|name| json!({"kind": "User", "name": name})).collect();
            json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects})
        };
        assert_eq!(binding(&of("r", &["a"]), &of("r", &["a", "b"])), Mend::Keep);
        assert_eq!(binding(&of("r", &["a"]), &of("r", &["b"])), Mend::Change(of("r", &["b", "a"])));
        assert_eq!(binding(&of("r", &["a"]), &of("other", &["a"])), Mend::Replace);
    }
}
