//! ResourceQuotas: how much a namespace may use. What objects use is in [`crate::quota`].

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod::resources;
use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::meta;
use crate::quantity::Quantity;

/// Rules of `v1 ResourceQuota`.
pub struct ResourceQuotas;

/// What the quotas of most scopes may limit, beside names with a prefix.
const OF_PODS: [&str; 7] = ["pods", "cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

const SCOPES: [&str; 6] =
    ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity"];

impl Rules for ResourceQuotas {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = look::get_mut(object, "spec") {
            resources::round_list(spec, "hard");
        }
        if let Some(status) = look::get_mut(object, "status") {
            resources::round_list(status, "hard");
            resources::round_list(status, "used");
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        look::set(object, "status", json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        look::copy(old, new, if sub == Some("status") { "spec" } else { "status" });
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
        let spec = look::get(object, "spec").unwrap_or(&empty);
        amounts(spec, "hard", &path, &mut errors);
        scopes(spec, &path.child("scopes"), &mut errors);
        scope_selector(spec, &path.child("scopeSelector").child("matchExpressions"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if sub == Some("status") {
            let empty = Value::Null;
            let (status, path) = (look::get(new, "status").unwrap_or(&empty), Path::new("status"));
            amounts(status, "hard", &path, &mut errors);
            amounts(status, "used", &path, &mut errors);
            return errors;
        }
        errors.extend(self.validate_create(new));
        let of = |object| look::at(object, &["spec", "scopes"]);
        meta::immutable(of(new), of(old), &Path::new("spec").child("scopes"), &mut errors);
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut names: Vec<(&str, &Value)> =
            look::at(object, &["status"]).map(|status| look::map(status, "hard").collect()).unwrap_or_default();
        names.sort_by_key(|(name, _)| *name);
        let shown = |limits: bool| {
            let of_column = names.iter().filter(|(name, _)| name.starts_with("limits.") == limits);
            let texts: Vec<String> = of_column
                .map(|(name, hard)| {
                    let used = look::at(object, &["status", "used", name]).map_or("0".to_owned(), plain);
                    format!("{name}: {used}/{}", plain(hard))
                })
                .collect();
            texts.join(", ")
        };
        vec![name_cell(object), shown(false).into(), shown(true).into(), age_cell(object, now)]
    }
}

fn plain(value: &Value) -> String {
    Quantity::from_value(value).map(|quantity| quantity.to_string()).unwrap_or_default()
}

fn is_standard(name: &str) -> bool {
    // Storage is limited as what is requested of it.
    (resources::STANDARD.contains(&name) && name != "storage")
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

fn amounts(object: &Value, list: &str, path: &Path, errors: &mut Vec<FieldError>) {
    for (name, value) in look::map(object, list) {
        let path = path.child(list).key(name);
        resources::any_name(name, &path, errors);
        if !name.contains('/') && !is_standard(name) {
            errors.push(FieldError::invalid(&path, name, "must be a standard resource for quota"));
        }
        resources::quantity_value(name, value, &path, errors);
    }
}

/// Whether a quota of this scope may limit this resource.
fn fits(scope: &str, name: &str) -> bool {
    match scope {
        "BestEffort" => name == "pods",
        _ => OF_PODS.contains(&name),
    }
}

/// Whether some standard resource of the quota is not for this scope.
fn misapplied(spec: &Value, scope: &str) -> bool {
    look::map(spec, "hard").any(|(name, _)| is_standard(name) && !fits(scope, name))
}

fn conflicting(scopes: &[&str]) -> bool {
    [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]]
        .iter()
        .any(|pair| pair.iter().all(|scope| scopes.contains(scope)))
}

fn scopes(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let given = look::texts(spec, "scopes");
    let whole = || json!(given);
    for scope in &given {
        if !SCOPES.contains(scope) {
            errors.push(FieldError::invalid(path, whole(), "unsupported scope"));
        }
        if misapplied(spec, scope) {
            errors.push(FieldError::invalid(path, whole(), "unsupported scope applied to resource"));
        }
    }
    if conflicting(&given) {
        errors.push(FieldError::invalid(path, whole(), "conflicting scopes"));
    }
}

const ONLY_EXISTS: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                           ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                           ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

fn scope_selector(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let expressions = look::list_at(spec, &["scopeSelector", "matchExpressions"]);
    let mut given = Vec::new();
    for (index, expression) in expressions.iter().enumerate() {
        let path = path.index(index);
        let (scope, operator) = (look::text(expression, "scopeName"), look::text(expression, "operator"));
        given.push(scope);
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(&path.child("scopeName"), scope, "unsupported scope"));
        }
        if misapplied(spec, scope) {
            let shown = expression.clone();
            errors.push(FieldError::invalid(&path, shown, "unsupported scope applied to resource"));
        }
        if scope != "PriorityClass" && SCOPES.contains(&scope) && operator != "Exists" {
            errors.push(FieldError::invalid(&path.child("operator"), operator, ONLY_EXISTS));
        }
        operator_values(operator, look::texts(expression, "values"), &path, errors);
    }
    if conflicting(&given) {
        errors.push(FieldError::invalid(path, json!(expressions), "conflicting scopes"));
    }
}

fn operator_values(operator: &str, values: Vec<&str>, path: &Path, errors: &mut Vec<FieldError>) {
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.push(FieldError::required(&path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.push(FieldError::invalid(&path.child("values"), json!(values), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.push(FieldError::invalid(&path.child("operator"), operator, "not a valid selector operator")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value, expected: &[&str]) {
        let errors = ResourceQuotas.validate_create(&json!({"spec": spec}));
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn amounts_are_of_known_things_and_not_negative() {
        check(
            json!({"hard": {"pods": "3", "requests.cpu": "1", "count/jobs.batch": "2", "requests.example.com/gpu": "1",
                "hugepages-2Mi": "2Mi"}}),
            &[],
        );
        check(
            json!({"hard": {"pods": "1.5", "storage": "-1"}}),
            &[
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota",
                "spec.hard[storage]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        );
    }

    #[test]
    fn scopes_fit_what_is_limited_and_each_other() {
        check(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]}), &[]);
        check(
            json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}),
            &[
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ],
        );
        let selector = |scope: &str, operator: &str, values: Value| {
            json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": scope, "operator": operator, "values": values},
            ]}})
        };
        check(selector("PriorityClass", "In", json!(["high"])), &[]);
        let at = "spec.scopeSelector.matchExpressions[0]";
        check(
            selector("PriorityClass", "In", json!([])),
            &[&format!(
                "{at}.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            )],
        );
        check(
            selector("Terminating", "DoesNotExist", json!([])),
            &[&format!("{at}.operator: Invalid value: \"DoesNotExist\": {ONLY_EXISTS}")],
        );
    }

    #[test]
    fn scopes_never_change_and_the_status_has_a_door_of_its_own() {
        let old = json!({"spec": {"hard": {"pods": "1"}}, "status": {"used": {"pods": "1"}}});
        let mut new = json!({"spec": {"hard": {"pods": "2"}, "scopes": ["BestEffort"]}, "status": {}});
        let errors = ResourceQuotas.validate_update(&new, &old, None);
        assert_eq!(errors[0].field, "spec.scopes");
        ResourceQuotas.prepare_update(&mut new, &old, None);
        assert_eq!(new["status"], old["status"]);
        ResourceQuotas.prepare_update(&mut new, &old, Some("status"));
        assert_eq!(new["spec"], old["spec"]);
    }

    #[test]
    fn a_row_shows_requests_and_limits_apart() {
        let object = json!({"metadata": {"name": "q"}, "status": {
            "hard": {"pods": "2", "cpu": "1", "limits.cpu": "2"}, "used": {"pods": "1", "limits.cpu": "500m"},
        }});
        let cells = ResourceQuotas.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[..3], [json!("q"), json!("cpu: 0/1, pods: 1/2"), json!("limits.cpu: 500m/2")]);
    }
}
