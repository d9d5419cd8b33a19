//! Roles and ClusterRoles: lists of what may be done. What the lists mean is in [`crate::rbac`].

use jiff::Timestamp;
use serde_json::Value;

use super::pod::scheduling;
use super::{Rules, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

/// Rules of `rbac.authorization.k8s.io/v1 Role`.
pub struct Roles;

impl Rules for Roles {
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        policy_rules(object, true)
    }

    fn name_complaints(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        cells(object)
    }
}

/// Rules of `rbac.authorization.k8s.io/v1 ClusterRole`.
pub struct ClusterRoles;

impl Rules for ClusterRoles {
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = policy_rules(object, false);
        let Some(aggregation) = look::get(object, "aggregationRule") else { return errors };
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = look::list(aggregation, "clusterRoleSelectors");
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(&path, detail));
        }
        for (index, selector) in selectors.iter().enumerate() {
            scheduling::one_label_selector(selector, &path.index(index), &mut errors);
        }
        errors
    }

    fn name_complaints(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        cells(object)
    }
}

fn cells(object: &Value) -> Vec<Value> {
    vec![name_cell(object), look::text_at(object, &["metadata", "creationTimestamp"]).into()]
}

fn policy_rules(object: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, rule) in look::list(object, "rules").iter().enumerate() {
        policy_rule(rule, namespaced, &Path::new("rules").index(index), &mut errors);
    }
    errors
}

fn policy_rule(rule: &Value, namespaced: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let has = |field| !look::list(rule, field).is_empty();
    let mut required = |field: &str, detail: &str| errors.push(FieldError::required(&path.child(field), detail));
    if !has("verbs") {
        required("verbs", "verbs must contain at least one value");
    }
    if !has("nonResourceURLs") {
        if !has("apiGroups") {
            required("apiGroups", "resource rules must supply at least one api group");
        }
        if !has("resources") {
            required("resources", "resource rules must supply at least one resource");
        }
        return;
    }
    let mut refuse = |detail: &str| {
        errors.push(FieldError::invalid(&path.child("nonResourceURLs"), rule["nonResourceURLs"].clone(), detail));
    };
    if namespaced {
        refuse("namespaced rules cannot apply to non-resource URLs");
    }
    if has("apiGroups") || has("resources") || has("resourceNames") {
        refuse("rules cannot apply to both regular resources and non-resource URLs");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(rules: &dyn Rules, object: Value, expected: &[&str]) {
        let texts: Vec<String> = rules.validate_create(&object).iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_rule_has_verbs_and_either_resources_or_paths() {
        let rule = |rule: Value| json!({"rules": [rule]});
        check(&Roles, rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})), &[]);
        check(
            &Roles,
            rule(json!({})),
            &[
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ],
        );
        check(&ClusterRoles, rule(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})), &[]);
        let path = "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: ";
        check(
            &Roles,
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["a"]})),
            &[
                &format!("{path}namespaced rules cannot apply to non-resource URLs"),
                &format!("{path}rules cannot apply to both regular resources and non-resource URLs"),
            ],
        );
    }

    #[test]
    fn an_aggregation_rule_selects_something() {
        let with = |selectors: Value| json!({"aggregationRule": {"clusterRoleSelectors": selectors}});
        check(&ClusterRoles, with(json!([{"matchLabels": {"a": "b"}}])), &[]);
        let text = "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if \
                    aggregationRule is non-nil";
        check(&ClusterRoles, with(json!([])), &[text]);
        let wrong = json!([{"matchExpressions": [{"key": "a", "operator": "Maybe"}]}]);
        assert_eq!(ClusterRoles.validate_create(&with(wrong)).len(), 1);
    }

    #[test]
    fn names_are_segments_of_a_path() {
        assert!(Roles.name_complaints("system:node").is_empty());
        assert!(ClusterRoles.name_complaints("Any Name!").is_empty());
        assert_eq!(ClusterRoles.name_complaints("a/b"), ["may not contain '/'"]);
    }
}
