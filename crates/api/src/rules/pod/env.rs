//! Environment variables, and the references to fields and resources that volumes use too.

use serde_json::Value;

use crate::field::{FieldError, Path};
use crate::look;
use crate::names;
use crate::quantity::Quantity;

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const BYTE_DIVISORS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Where a reference stands: that decides which fields it may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Env,
    Volume,
}

/// Checks `env`.
pub(super) fn env(all: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, variable) in all.iter().enumerate() {
        let path = path.index(index);
        let name = look::text(variable, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            complain(names::env_name(name), name, &path.child("name"), errors);
        }
        if let Some(source) = look::get(variable, "valueFrom") {
            value_from(source, !look::text(variable, "value").is_empty(), &path.child("valueFrom"), errors);
        }
    }
}

fn complain(complaints: Vec<String>, value: &str, path: &Path, errors: &mut Vec<FieldError>) {
    errors.extend(complaints.into_iter().map(|text| FieldError::invalid(path, value, text)));
}

fn value_from(source: &Value, has_value: bool, path: &Path, errors: &mut Vec<FieldError>) {
    let found: Vec<(&str, &Value)> =
        SOURCES.iter().filter_map(|name| Some((*name, look::get(source, name)?))).collect();
    for (name, reference) in &found {
        let path = path.child(name);
        match *name {
            "fieldRef" => field_reference(reference, Place::Env, &path, errors),
            "resourceFieldRef" => resource_reference(reference, Place::Env, &path, errors),
            "fileKeyRef" => file_key(reference, &path, errors),
            _ => object_key(reference, &path, errors),
        }
    }
    let detail = match found.len() {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}

/// A reference to a field of the pod.
pub(super) fn field_reference(reference: &Value, place: Place, path: &Path, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "fieldPath"] {
        if look::text(reference, name).is_empty() {
            errors.push(FieldError::required(&path.child(name), ""));
            return;
        }
    }
    let field = look::text(reference, "fieldPath");
    let version = look::text(reference, "apiVersion");
    if version != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.push(FieldError::invalid(&path.child("fieldPath"), field, detail));
        return;
    }
    if let Some((name, key)) = field.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        match name {
            "metadata.annotations" => complain(names::label_key(&key.to_lowercase()), key, path, errors),
            "metadata.labels" => complain(names::label_key(key), key, path, errors),
            _ => unknown_field(field, path, errors),
        }
        return;
    }
    let fields: &[&str] = if place == Place::Env { &ENV_FIELDS } else { &VOLUME_FIELDS };
    if fields.contains(&field) {
        return;
    }
    match ENV_FIELDS.contains(&field) || VOLUME_FIELDS.contains(&field) {
        true => errors.push(FieldError::not_supported(&path.child("fieldPath"), field, fields)),
        false => unknown_field(field, path, errors),
    }
}

fn unknown_field(field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let detail = format!("error converting fieldPath: field label not supported: {field}");
    errors.push(FieldError::invalid(&path.child("fieldPath"), field, detail));
}

/// A reference to a request or limit of a container.
pub(super) fn resource_reference(reference: &Value, place: Place, path: &Path, errors: &mut Vec<FieldError>) {
    let resource = look::text(reference, "resource");
    let huge = ["requests.hugepages-", "limits.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if place == Place::Volume && look::text(reference, "containerName").is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !huge && !RESOURCES.contains(&resource) {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, &RESOURCES));
    }
    let divisor = look::get(reference, "divisor").and_then(|value| Quantity::from_value(value).ok());
    if let Some(divisor) = divisor.filter(|divisor| !divisor.is_zero()) {
        check_divisor(resource, huge, &divisor.to_string(), &path.child("divisor"), errors);
    }
}

fn check_divisor(resource: &str, huge: bool, divisor: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let detail = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") if !matches!(divisor, "1" | "1m") => {
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
        }
        Some(name @ ("memory" | "ephemeral-storage")) if !BYTE_DIVISORS.contains(&divisor) => {
            let shown = if name == "memory" { "memory" } else { "local ephemeral storage" };
            format!("only divisor's values {} are supported with the {shown} resource", BYTE_DIVISORS.join(", "))
        }
        _ if huge && !BYTE_DIVISORS.contains(&divisor) => {
            format!("only divisor's values {} are supported with the hugepages resource", BYTE_DIVISORS.join(", "))
        }
        _ => return,
    };
    errors.push(FieldError::invalid(path, resource, detail));
}

/// A key of a ConfigMap or a Secret.
fn object_key(reference: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let name = look::text(reference, "name");
    complain(names::subdomain(name), name, &path.child("name"), errors);
    let key = look::text(reference, "key");
    if key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), ""));
    } else {
        complain(names::config_key(key), key, &path.child("key"), errors);
    }
}

/// A variable in a file of a volume.
fn file_key(reference: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let text = |name: &str| look::text(reference, name);
    for name in ["key", "volumeName", "path"] {
        let path = path.child(name);
        match (name, text(name)) {
            (_, "") => errors.push(FieldError::required(&path, "")),
            ("key", key) => complain(names::env_name(key), key, &path, errors),
            ("volumeName", volume) => complain(names::label(volume), volume, &path, errors),
            (_, file) => super::volume::no_backsteps(file, &path, errors),
        }
    }
}

/// Checks `envFrom`.
pub(super) fn env_from(all: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, source) in all.iter().enumerate() {
        let item = path.index(index);
        let prefix = look::text(source, "prefix");
        if !prefix.is_empty() {
            complain(names::env_name(prefix), prefix, &item.child("prefix"), errors);
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            let Some(reference) = look::get(source, kind) else { continue };
            count += 1;
            let name = look::text(reference, "name");
            let path = item.child(kind).child("name");
            match name.is_empty() {
                true => errors.push(FieldError::required(&path, "")),
                false => complain(names::subdomain(&names::mask_trailing_dash(name)), name, &path, errors),
            }
        }
        if count != 1 {
            let detail = match count {
                0 => "must specify one of: `configMapRef` or `secretRef`",
                _ => "may not have more than one field specified at a time",
            };
            // Upstream names the list, not the item.
            errors.push(FieldError::invalid(path, "", detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(variable: Value, expected: &[&str]) {
        let mut errors = Vec::new();
        env(&[variable], &Path::new("env"), &mut errors);
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn names_and_sources() {
        check(json!({"name": "A", "value": "x"}), &[]);
        check(json!({"value": "x"}), &["env[0].name: Required value"]);
        check(
            json!({"name": "A", "valueFrom": {}}),
            &[
                "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
        );
        let secret = json!({"name": "s", "key": "k"});
        check(json!({"name": "A", "valueFrom": {"secretKeyRef": secret}}), &[]);
        check(
            json!({"name": "A", "value": "x", "valueFrom": {"secretKeyRef": secret}}),
            &["env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"],
        );
        check(
            json!({"name": "A", "valueFrom": {"secretKeyRef": secret, "configMapKeyRef": secret}}),
            &["env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time"],
        );
        check(
            json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}),
            &["env[0].valueFrom.secretKeyRef.key: Required value"],
        );
    }

    #[test]
    fn fields_and_resources() {
        let field =
            |path: &str| json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
        check(field("status.podIP"), &[]);
        check(field("metadata.labels['a.b/c']"), &[]);
        check(
            field("spec.foo"),
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": error converting fieldPath: field label not supported: spec.foo",
            ],
        );
        let labels = &Value::Null;
        assert!(labels.is_null());
        let resource = |name: &str, divisor: &str| json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": name, "divisor": divisor}}});
        check(resource("limits.cpu", "0"), &[]);
        check(resource("limits.memory", "1Mi"), &[]);
        check(
            resource("limits.cpu", "2"),
            &[
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            ],
        );
        check(
            resource("limits.x", "0"),
            &[
                "env[0].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.x\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\"",
            ],
        );
    }

    #[test]
    fn whole_maps() {
        let check = |source: Value, expected: &[&str]| {
            let mut errors = Vec::new();
            env_from(&[source], &Path::new("envFrom"), &mut errors);
            let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
            assert_eq!(texts, expected);
        };
        check(json!({"prefix": "P_", "configMapRef": {"name": "c"}}), &[]);
        check(json!({}), &["envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"]);
        check(json!({"secretRef": {}}), &["envFrom[0].secretRef.name: Required value"]);
    }
}
