//! PodDisruptionBudgets: how many pods of an application may be taken away at once (HOOK-95).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod::scheduling;
use super::{Rules, age_cell, keep_generation, name_cell, workload};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

/// Rules of `policy/v1 PodDisruptionBudget`.
pub struct DisruptionBudgets;

/// Upstream always writes these.
const COUNTS: [&str; 4] = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
                      characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  \
                      or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
                      '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

impl Rules for DisruptionBudgets {
    fn default(&self, object: &mut Value) {
        let status = look::child(object, "status");
        COUNTS.iter().for_each(|count| look::set_absent(status, count, 0));
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        look::set(look::child(object, "metadata"), "generation", 1);
        look::set(object, "status", json!({}));
        self.default(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        look::copy(old, new, if sub == Some("status") { "spec" } else { "status" });
        keep_generation(new, old, &["spec"]);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
        let spec = look::get(object, "spec").unwrap_or(&empty);
        let bounds = ["minAvailable", "maxUnavailable"];
        if bounds.iter().all(|bound| look::get(spec, bound).is_some()) {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid(&path, spec.clone(), detail));
        }
        for bound in bounds.into_iter().filter(|bound| look::get(spec, bound).is_some()) {
            workload::share(spec, bound, &path, &mut errors);
            workload::at_most_all(spec, bound, &path, &mut errors);
        }
        scheduling::label_selector(spec, "selector", &path.child("selector"), &mut errors);
        if let Some(policy) = look::get(spec, "unhealthyPodEvictionPolicy")
            && policy != "AlwaysAllow"
            && policy != "IfHealthyBudget"
        {
            let path = path.child("unhealthyPodEvictionPolicy");
            errors.push(FieldError::not_supported(&path, policy.clone(), &["AlwaysAllow", "IfHealthyBudget"]));
        }
        errors
    }

    fn validate_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub != Some("status") {
            return self.validate_create(new);
        }
        let (mut errors, path, empty) = (Vec::new(), Path::new("status"), Value::Null);
        let status = look::get(new, "status").unwrap_or(&empty);
        conditions(look::list(status, "conditions"), &path.child("conditions"), &mut errors);
        workload::none_negative(status, &COUNTS, &path, &mut errors);
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let bound = |field| match look::at(object, &["spec", field]) {
            Some(Value::String(text)) => text.clone(),
            Some(number) => number.to_string(),
            None => "N/A".to_owned(),
        };
        let allowed = look::at(object, &["status", "disruptionsAllowed"]).and_then(Value::as_i64).unwrap_or(0);
        vec![
            name_cell(object),
            bound("minAvailable").into(),
            bound("maxUnavailable").into(),
            allowed.into(),
            age_cell(object, now),
        ]
    }
}

/// Checks conditions of the form that newer kinds share.
fn conditions(all: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, one) in all.iter().enumerate() {
        let (path, kind) = (path.index(index), look::text(one, "type"));
        if all[..index].iter().any(|before| look::text(before, "type") == kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
        let complaints = names::label_key(kind).into_iter();
        errors.extend(complaints.map(|text| FieldError::invalid(&path.child("type"), kind, text)));
        let status = look::text(one, "status");
        if !STATUSES.contains(&status) {
            errors.push(FieldError::not_supported(&path.child("status"), status, &STATUSES));
        }
        if let Some(generation) = look::integer(one, "observedGeneration").filter(|number| *number < 0) {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(&path.child("observedGeneration"), generation, detail));
        }
        if look::get(one, "lastTransitionTime").is_none() {
            errors.push(FieldError::required(&path.child("lastTransitionTime"), "must be set"));
        }
        let reason = look::text(one, "reason");
        if reason.is_empty() {
            errors.push(FieldError::required(&path.child("reason"), "must be set"));
        } else if !is_reason(reason) {
            errors.push(FieldError::invalid(&path.child("reason"), reason, REASON));
        }
    }
}

fn is_reason(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|byte| word(*byte))
        && bytes.iter().all(|byte| word(*byte) || b",:".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(FieldError::to_string).collect()
    }

    fn check(spec: Value, expected: &[&str]) {
        assert_eq!(texts(&DisruptionBudgets.validate_create(&json!({"spec": spec}))), expected);
    }

    #[test]
    fn a_budget_is_a_number_or_a_percentage_one_way_or_the_other() {
        check(json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}), &[]);
        check(json!({"maxUnavailable": "50%", "unhealthyPodEvictionPolicy": "AlwaysAllow"}), &[]);
        check(json!({"minAvailable": 0}), &[]);
        check(
            json!({"minAvailable": 1, "maxUnavailable": 1}),
            &[
                "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
            ],
        );
        check(
            json!({"minAvailable": "101%"}),
            &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
        );
        check(
            json!({"maxUnavailable": -1}),
            &["spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"],
        );
        let errors = DisruptionBudgets.validate_create(&json!({"spec": {"maxUnavailable": "few"}}));
        assert!(texts(&errors)[0].starts_with(
            "spec.maxUnavailable: Invalid value: \"few\": a valid percent string must be a numeric string"
        ));
        check(
            json!({"unhealthyPodEvictionPolicy": "Never", "selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            &[
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ],
        );
    }

    #[test]
    fn a_status_counts_from_zero_and_its_conditions_are_whole() {
        let check = |status: Value, expected: &[&str]| {
            let new = json!({"status": status});
            assert_eq!(texts(&DisruptionBudgets.validate_update(&new, &json!({}), Some("status"))), expected);
        };
        let whole = json!({
            "type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        check(json!({"conditions": [whole], "disruptionsAllowed": 1}), &[]);
        check(
            json!({"conditions": [whole, {"type": "DisruptionAllowed", "status": "Yes", "reason": "1"}], "expectedPods": -1}),
            &[
                "status.conditions[1].type: Duplicate value: \"DisruptionAllowed\"",
                "status.conditions[1].status: Unsupported value: \"Yes\": supported values: \"False\", \"True\", \"Unknown\"",
                "status.conditions[1].lastTransitionTime: Required value: must be set",
                &format!("status.conditions[1].reason: Invalid value: \"1\": {REASON}"),
                "status.expectedPods: Invalid value: -1: must be greater than or equal to 0",
            ],
        );
    }

    #[test]
    fn the_status_is_the_servers_and_the_generation_counts_the_spec() {
        let mut new = json!({"spec": {"minAvailable": 1}, "status": {"disruptionsAllowed": 7}});
        DisruptionBudgets.prepare_create(&mut new, Timestamp::UNIX_EPOCH);
        assert_eq!((&new["status"]["disruptionsAllowed"], &new["metadata"]["generation"]), (&json!(0), &json!(1)));
        let mut next = new.clone();
        next["spec"]["minAvailable"] = json!(2);
        next["status"]["disruptionsAllowed"] = json!(7);
        let mut by_status = next.clone();
        DisruptionBudgets.prepare_update(&mut next, &new, None);
        assert_eq!((&next["status"]["disruptionsAllowed"], &next["metadata"]["generation"]), (&json!(0), &json!(2)));
        DisruptionBudgets.prepare_update(&mut by_status, &new, Some("status"));
        assert_eq!((&by_status["status"]["disruptionsAllowed"], &by_status["spec"]), (&json!(7), &new["spec"]));
        assert_eq!(by_status["metadata"]["generation"], 1);
    }

    #[test]
    fn cells_show_what_is_asked_for_and_what_may_go() {
        let budget = json!({
            "metadata": {"name": "web"}, "spec": {"maxUnavailable": "25%"}, "status": {"disruptionsAllowed": 2},
        });
        let cells = DisruptionBudgets.cells(&budget, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[..4], [json!("web"), json!("N/A"), json!("25%"), json!(2)]);
    }
}
