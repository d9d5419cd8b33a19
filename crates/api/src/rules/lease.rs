//! Leases.

use jiff::Timestamp;
use serde_json::Value;

use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

/// Rules of `coordination.k8s.io/v1 Lease`.
pub struct Leases;

impl Rules for Leases {
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let path = Path::new("spec");
        let mut errors = Vec::new();
        let Some(spec) = look::get(object, "spec") else { return errors };
        if let Some(seconds) = look::integer(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
            errors.push(FieldError::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        if let Some(count) = look::integer(spec, "leaseTransitions").filter(|count| *count < 0) {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(&path.child("leaseTransitions"), count, detail));
        }
        if let Some(strategy) = look::get(spec, "strategy").and_then(Value::as_str) {
            check_strategy(strategy, &path.child("strategy").child("strategy"), &mut errors);
        }
        if !look::text(spec, "preferredHolder").is_empty() && look::text(spec, "strategy").is_empty() {
            let detail = "may only be specified if `strategy` is defined";
            errors.push(FieldError::forbidden(&path.child("preferredHolder"), detail));
        }
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let holder = look::text_at(object, &["spec", "holderIdentity"]);
        vec![name_cell(object), Value::from(holder), age_cell(object, now)]
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

fn check_strategy(strategy: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if !strategy.contains('/') {
        if strategy != "OldestEmulationVersion" {
            errors.push(FieldError::not_supported(path, strategy, &["OldestEmulationVersion"]));
        }
        return;
    }
    errors.extend(names::label_key(strategy).into_iter().map(|text| FieldError::invalid(path, strategy, text)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_in_range() {
        let check = |spec: Value| -> Vec<String> {
            Leases.validate_create(&json!({"spec": spec})).iter().map(FieldError::to_string).collect()
        };
        assert!(check(json!({"leaseDurationSeconds": 40, "holderIdentity": "n"})).is_empty());
        assert_eq!(
            check(json!({"leaseDurationSeconds": 0, "leaseTransitions": -1})),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
        assert_eq!(
            check(json!({"preferredHolder": "x"})),
            ["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"]
        );
    }
}
