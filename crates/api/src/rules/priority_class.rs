//! PriorityClasses.

use jiff::Timestamp;
use serde_json::Value;

use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::meta;

/// Rules of `scheduling.k8s.io/v1 PriorityClass`.
pub struct PriorityClasses;

/// Highest priority that users may give.
pub const USER_VALUE_MAX: i64 = 1_000_000_000;

/// The two classes that are always there: name, value, description.
pub const SYSTEM: [(&str, i64, &str); 2] = [
    ("system-node-critical", 2 * USER_VALUE_MAX + 1000, "For pods that a node needs."),
    ("system-cluster-critical", 2 * USER_VALUE_MAX, "For pods that the cluster needs."),
];

impl Rules for PriorityClasses {
    fn default(&self, object: &mut Value) {
        look::set_empty(object, "preemptionPolicy", "PreemptLowerPriority");
        look::set_absent(object, "value", 0);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        look::set(look::child(object, "metadata"), "generation", 1);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let name = look::text_at(object, &["metadata", "name"]);
        let value = look::integer(object, "value").unwrap_or(0);
        if name.starts_with("system-") {
            if let Some(complaint) = system_complaint(name, value, look::flag(object, "globalDefault")) {
                let detail = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {complaint}"
                );
                errors.push(FieldError::forbidden(&Path::new("metadata").child("name"), detail));
            }
        } else if value > USER_VALUE_MAX {
            let detail = format!("maximum allowed value of a user defined priority is {USER_VALUE_MAX}");
            errors.push(FieldError::forbidden(&Path::new("value"), detail));
        }
        preemption_policy(look::text(object, "preemptionPolicy"), &Path::new("preemptionPolicy"), &mut errors);
        errors
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        let generation = look::at(old, &["metadata", "generation"]).cloned();
        if let Some(generation) = generation {
            look::set(look::child(new, "metadata"), "generation", generation);
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if look::integer(new, "value").unwrap_or(0) != look::integer(old, "value").unwrap_or(0) {
            errors.push(FieldError::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let name = "preemptionPolicy";
        meta::immutable(look::get(new, name), look::get(old, name), &Path::new(name), &mut errors);
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(object),
            Value::from(look::integer(object, "value").unwrap_or(0)),
            Value::from(look::flag(object, "globalDefault")),
            age_cell(object, now),
            Value::from(look::text(object, "preemptionPolicy")),
        ]
    }
}

fn system_complaint(name: &str, value: i64, global: bool) -> Option<String> {
    match SYSTEM.iter().find(|(known, _, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted, _)) if *wanted != value => Some(format!("value of {name} PriorityClass must be {wanted}")),
        Some(_) if global => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

/// Checks a preemption policy; an absent one is fine.
pub(super) fn preemption_policy(policy: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if !matches!(policy, "" | "PreemptLowerPriority" | "Never") {
        errors.push(FieldError::not_supported(path, policy, &["PreemptLowerPriority", "Never"]));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value, expected: &[&str]) {
        let texts: Vec<String> = PriorityClasses.validate_create(&object).iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn values_have_a_ceiling_and_system_names_are_reserved() {
        check(json!({"metadata": {"name": "a"}, "value": 1_000_000_000}), &[]);
        check(
            json!({"metadata": {"name": "a"}, "value": 1_000_000_001}),
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        );
        check(json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000u32}), &[]);
        check(
            json!({"metadata": {"name": "system-x"}}),
            &[
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class",
            ],
        );
    }

    #[test]
    fn the_value_never_changes() {
        let errors = PriorityClasses.validate_update(&json!({"value": 2}), &json!({"value": 1}), None);
        assert_eq!(errors[0].to_string(), "value: Forbidden: may not be changed in an update.");
    }
}
