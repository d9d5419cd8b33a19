//! Resource names and quantities, of containers, pods, classes and nodes.

use serde_json::Value;

use crate::field::{FieldError, Path};
use crate::look;
use crate::meta::NEGATIVE;
use crate::names;
use crate::quantity::Quantity;

/// Where a list of resources stands: that decides which names are legal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Requests and limits of a container, and overhead.
    Container,
    /// Requests and limits of a whole pod.
    Pod,
}

const HUGE_PAGES: &str = "hugepages-";

/// Names without a prefix that mean something somewhere in the API.
pub const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Names that are counted in whole numbers.
const WHOLE: [&str; 9] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Rewrites every quantity of a list in canonical form, rounded up to thousandths, as upstream stores it.
pub fn round_list(object: &mut Value, field: &str) {
    let Some(list) = object.get_mut(field).and_then(Value::as_object_mut) else { return };
    for value in list.values_mut() {
        if let Ok(quantity) = Quantity::from_value(value) {
            *value = Value::from(quantity.rounded_to_milli().to_string());
        }
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a container may use more of this than it asks for.
pub fn overcommits(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

/// Whether this is a resource that a device plugin or an administrator has named.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::label_key(&format!("requests.{name}")).is_empty()
}

fn whole_only(name: &str) -> bool {
    WHOLE.contains(&name) || is_extended(name)
}

/// Checks one quantity of a named resource.
pub fn quantity_value(name: &str, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Ok(quantity) = Quantity::from_value(value) else { return };
    if quantity.is_negative() {
        errors.push(FieldError::invalid(path, quantity.to_string(), NEGATIVE));
    }
    if whole_only(name) && !quantity.is_whole() {
        errors.push(FieldError::invalid(path, quantity.to_string(), "must be an integer"));
    }
}

/// Checks a list of resources: names and quantities. `path` is the path of the list.
pub fn list(object: &Value, field: &str, path: &Path, scope: Scope, errors: &mut Vec<FieldError>) {
    for (name, value) in look::map(object, field) {
        let path = path.key(name);
        match scope {
            Scope::Container => container_name(name, &path, errors),
            Scope::Pod => pod_name(name, &path, errors),
        }
        quantity_value(name, value, &path, errors);
        huge_page_value(name, value, &path, errors);
    }
}

/// A name that means something anywhere; false when it does not.
pub fn any_name(name: &str, path: &Path, errors: &mut Vec<FieldError>) -> bool {
    let complaints = names::label_key(name);
    let shaped = complaints.is_empty();
    errors.extend(complaints.into_iter().map(|text| FieldError::invalid(path, name, text)));
    let known = name.contains('/')
        || STANDARD.contains(&name)
        || name.starts_with(HUGE_PAGES)
        || name.starts_with("requests.hugepages-");
    if shaped && !known {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
    shaped && known
}

/// The name of a resource that a container can have.
pub fn container_name(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    any_name(name, path, errors);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
    if !name.contains('/') && !standard {
        errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
    } else if name.contains('/') && !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

fn pod_name(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let supported = matches!(name, "cpu" | "memory") || name.starts_with(HUGE_PAGES);
    if any_name(name, path, errors) && !supported {
        errors.push(FieldError::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

fn huge_page_value(name: &str, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(size) = name.strip_prefix(HUGE_PAGES) else { return };
    let Ok(quantity) = Quantity::from_value(value) else { return };
    let size = Quantity::parse(size).map(Quantity::value).unwrap_or(0);
    if size <= 0 || quantity.value() % size != 0 {
        let detail = format!("{quantity} is not positive integer multiple of {name}");
        errors.push(FieldError::invalid(path, quantity.to_string(), detail));
    }
}

/// Checks requests and limits against each other and by themselves.
pub fn requirements(object: &Value, path: &Path, scope: Scope, errors: &mut Vec<FieldError>) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    list(object, "limits", &limits_path, scope, errors);
    list(object, "requests", &requests_path, scope, errors);
    for (name, value) in look::map(object, "requests") {
        let Ok(request) = Quantity::from_value(value) else { continue };
        let limit = look::at(object, &["limits", name]).and_then(|value| Quantity::from_value(value).ok());
        match limit {
            None if !overcommits(name) => {
                errors.push(FieldError::required(&limits_path, "Limit must be set for non overcommitable resources"));
            }
            Some(limit) if request != limit && !overcommits(name) => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&requests_path, request.to_string(), detail));
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&requests_path, request.to_string(), detail));
            }
            _ => {}
        }
    }
    huge_pages_alone(object, path, errors);
}

fn huge_pages_alone(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let all = || look::map(object, "limits").chain(look::map(object, "requests")).map(|(name, _)| name);
    let huge = all().any(|name| name.starts_with(HUGE_PAGES));
    if huge && !all().any(|name| matches!(name, "cpu" | "memory")) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value, expected: &[&str]) {
        let mut errors = Vec::new();
        requirements(&object, &Path::new("r"), Scope::Container, &mut errors);
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn requests_stay_below_limits() {
        check(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}), &[]);
        check(
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}}),
            &["r.requests: Invalid value: \"1500m\": must be less than or equal to cpu limit of 1"],
        );
        check(
            json!({"limits": {"a.b/c": "2"}, "requests": {"a.b/c": "1"}}),
            &["r.requests: Invalid value: \"1\": must be equal to a.b/c limit of 2"],
        );
        check(
            json!({"requests": {"a.b/c": "1"}}),
            &["r.limits: Required value: Limit must be set for non overcommitable resources"],
        );
    }

    #[test]
    fn names_and_quantities_are_legal() {
        check(
            json!({"limits": {"memory": "-1"}}),
            &["r.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0"],
        );
        check(
            json!({"limits": {"storage": "1"}}),
            &["r.limits[storage]: Invalid value: \"storage\": must be a standard resource for containers"],
        );
        check(json!({"limits": {"hugepages-2Mi": "4Mi", "cpu": "1"}}), &[]);
        check(
            json!({"limits": {"hugepages-2Mi": "3Mi"}}),
            &[
                "r.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "r: Forbidden: HugePages require cpu or memory",
            ],
        );
    }

    #[test]
    fn lists_are_stored_in_canonical_form() {
        let mut object = json!({"l": {"cpu": 0.1, "memory": "1.5Gi", "x": "0.0001", "bad": "?"}});
        round_list(&mut object, "l");
        assert_eq!(object["l"], json!({"cpu": "100m", "memory": "1536Mi", "x": "1m", "bad": "?"}));
    }
}
