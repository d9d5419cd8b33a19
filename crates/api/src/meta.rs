//! ObjectMeta: its validation on create and update, for all kinds alike.
//!
//! Start at [`validate_create`]. The names of kinds differ: each kind says by `Rules::name_complaints` what it allows.

use serde_json::Value;

use crate::field::{FieldError, Path};
use crate::kind::Kind;
use crate::look;
use crate::names;

/// Most bytes of all annotations together.
pub const ANNOTATION_BYTES_MAX: usize = 256 * 1024;

/// Most complaints about the entries of one map: nobody reads more, and each takes more bytes than its entry.
pub const COMPLAINTS_MAX: usize = 100;

/// Upstream's words for a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// Checks the metadata of a new object. The name must have been generated already.
pub fn validate_create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let empty = Value::Null;
    let meta = look::get(object, "metadata").unwrap_or(&empty);
    let mut errors = Vec::new();
    name_and_prefix(kind, meta, &path, &mut errors);
    namespace(kind, meta, &path, &mut errors);
    if let Some(generation) = look::integer(meta, "generation").filter(|generation| *generation < 0) {
        errors.push(FieldError::invalid(&path.child("generation"), generation, NEGATIVE));
    }
    free_parts(meta, &path, &mut errors);
    finalizers(meta, &path.child("finalizers"), &mut errors);
    errors
}

/// Checks the metadata of a changed object.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let empty = Value::Null;
    let new = look::get(new, "metadata").unwrap_or(&empty);
    let old = look::get(old, "metadata").unwrap_or(&empty);
    let mut errors = Vec::new();
    if look::get(old, "deletionTimestamp").is_some() {
        no_new_finalizers(new, old, &path.child("finalizers"), &mut errors);
    }
    if look::text(new, "resourceVersion").is_empty() {
        errors.push(FieldError::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = look::integer(new, "generation").unwrap_or(0);
    if generation < look::integer(old, "generation").unwrap_or(0) {
        errors.push(FieldError::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(look::get(new, name), look::get(old, name), &path.child(name), &mut errors);
    }
    free_parts(new, &path, &mut errors);
    errors
}

pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";

/// Complains when a value changed.
pub fn immutable(new: Option<&Value>, old: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    if !look::same(new, old) {
        errors.push(FieldError::invalid(path, new.cloned().unwrap_or(Value::Null), IMMUTABLE));
    }
}

fn name_and_prefix(kind: &Kind, meta: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let prefix = look::text(meta, "generateName");
    if !prefix.is_empty() {
        for complaint in kind.rules.name_complaints(&names::mask_trailing_dash(prefix)) {
            errors.push(FieldError::invalid(&path.child("generateName"), prefix, complaint));
        }
    }
    let name = look::text(meta, "name");
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName is required"));
        return;
    }
    for complaint in kind.rules.name_complaints(name) {
        errors.push(FieldError::invalid(&path.child("name"), name, complaint));
    }
}

fn namespace(kind: &Kind, meta: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("namespace");
    match (kind.namespaced, look::text(meta, "namespace")) {
        (true, "") => errors.push(FieldError::required(&path, "")),
        (true, name) => {
            errors.extend(names::label(name).into_iter().map(|complaint| FieldError::invalid(&path, name, complaint)))
        }
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden(&path, "not allowed on this type")),
    }
}

/// Labels, annotations, owners and field managers: what may change at any time.
fn free_parts(meta: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    labels(meta, "labels", &path.child("labels"), errors);
    annotations(meta, &path.child("annotations"), errors);
    owners(meta, &path.child("ownerReferences"), errors);
    managed_fields(meta, &path.child("managedFields"), errors);
}

/// Checks a map of labels in a field of an object.
pub fn labels(object: &Value, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let most = errors.len() + COMPLAINTS_MAX;
    for (key, value) in look::text_map(object, field) {
        if errors.len() >= most {
            return;
        }
        for complaint in names::label_key(key) {
            errors.push(FieldError::invalid(path, key, complaint));
        }
        for complaint in names::label_value(value) {
            errors.push(FieldError::invalid(path, value, complaint));
        }
    }
}

/// Checks the annotations of a metadata object.
pub fn annotations(meta: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut bytes = 0;
    let most = errors.len() + COMPLAINTS_MAX;
    for (key, value) in look::text_map(meta, "annotations") {
        bytes += key.len() + value.len();
        if errors.len() < most {
            let complaints = names::label_key(&key.to_lowercase());
            errors.extend(complaints.into_iter().map(|complaint| FieldError::invalid(path, key, complaint)));
        }
    }
    if bytes > ANNOTATION_BYTES_MAX {
        errors.push(FieldError::too_long(path, ANNOTATION_BYTES_MAX));
    }
}

fn owners(meta: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut controller: Option<String> = None;
    for owner in look::list(meta, "ownerReferences") {
        one_owner(owner, path, errors);
        if !look::flag(owner, "controller") {
            continue;
        }
        let name = format!("{}/{}", look::text(owner, "kind"), look::text(owner, "name"));
        match &controller {
            None => controller = Some(name),
            Some(first) => {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                errors.push(FieldError::invalid(path, meta["ownerReferences"].clone(), detail));
            }
        }
    }
}

fn one_owner(owner: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let api_version = look::text(owner, "apiVersion");
    if api_version.rsplit('/').next().unwrap_or("").is_empty() {
        errors.push(FieldError::invalid(&path.child("apiVersion"), api_version, "version must not be empty"));
    }
    for name in ["kind", "name", "uid"] {
        if look::text(owner, name).is_empty() {
            errors.push(FieldError::invalid(&path.child(name), "", "must not be empty"));
        }
    }
    if api_version == "v1" && look::text(owner, "kind") == "Event" {
        let detail = "/v1, Kind=Event is disallowed from being an owner";
        errors.push(FieldError::invalid(path, owner.clone(), detail));
    }
}

fn finalizers(meta: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let all = look::texts(meta, "finalizers");
    for name in &all {
        errors.extend(names::label_key(name).into_iter().map(|text| FieldError::invalid(path, *name, text)));
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, meta["finalizers"].clone(), detail));
    }
}

fn no_new_finalizers(new: &Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let old = look::texts(old, "finalizers");
    let mut added: Vec<&str> = look::texts(new, "finalizers").into_iter().filter(|name| !old.contains(name)).collect();
    added.sort_unstable();
    added.dedup();
    if !added.is_empty() {
        let quoted: Vec<String> = added.iter().map(|name| crate::field::quote(name)).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            quoted.join(", ")
        );
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn managed_fields(meta: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, entry) in look::list(meta, "managedFields").iter().enumerate() {
        let path = path.index(index);
        let operation = look::text(entry, "operation");
        if !matches!(operation, "Apply" | "Update") {
            errors.push(FieldError::invalid(&path.child("operation"), operation, "must be `Apply` or `Update`"));
        }
        let kind = look::text(entry, "fieldsType");
        if !matches!(kind, "" | "FieldsV1") {
            errors.push(FieldError::invalid(&path.child("fieldsType"), kind, "must be `FieldsV1`"));
        }
        if look::text(entry, "manager").len() > 128 {
            errors.push(FieldError::too_long(&path.child("manager"), 128));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::find;

    fn check(group: &str, plural: &str, meta: Value, expected: &[&str]) {
        let kind = find(group, "v1", plural).unwrap();
        let errors: Vec<String> =
            validate_create(kind, &json!({"metadata": meta})).iter().map(|e| e.to_string()).collect();
        let short: Vec<&str> = errors.iter().map(|text| text.split(" must consist of").next().unwrap()).collect();
        assert_eq!(short, expected);
    }

    #[test]
    fn names_follow_the_kind() {
        check("", "pods", json!({"name": "a.b", "namespace": "x"}), &[]);
        check(
            "",
            "namespaces",
            json!({"name": "a.b"}),
            &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
        );
        check(
            "",
            "pods",
            json!({"namespace": "x"}),
            &["metadata.name: Required value: name or generateName is required"],
        );
        check("", "pods", json!({"name": "a", "generateName": "a-"}), &["metadata.namespace: Required value"]);
        check(
            "",
            "nodes",
            json!({"name": "a", "namespace": "x"}),
            &["metadata.namespace: Forbidden: not allowed on this type"],
        );
        check(
            "node.k8s.io",
            "runtimeclasses",
            json!({"name": "A"}),
            &["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
        );
    }

    #[test]
    fn labels_annotations_and_owners_are_checked() {
        check(
            "",
            "nodes",
            json!({"name": "a", "labels": {"a b": "c d"}, "annotations": {"X/Y": "fine"}}),
            &[
                "metadata.labels: Invalid value: \"a b\": name part",
                "metadata.labels: Invalid value: \"c d\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue', or 'my_value', or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
        );
        check(
            "",
            "nodes",
            json!({"name": "a", "annotations": {"a": "x".repeat(ANNOTATION_BYTES_MAX)}}),
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        );
        check(
            "",
            "nodes",
            json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
            &["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
        );
    }

    #[test]
    fn identity_never_changes() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "1", "generation": 2}});
        let new = json!({"metadata": {"name": "a", "uid": "2", "generation": 1}});
        let texts: Vec<String> = validate_update(&new, &old).iter().map(|e| e.to_string()).collect();
        assert_eq!(
            texts,
            [
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }

    #[test]
    fn a_dying_object_takes_no_new_finalizer() {
        let old = json!({"metadata": {"resourceVersion": "1", "deletionTimestamp": "t", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"resourceVersion": "1", "deletionTimestamp": "t", "finalizers": ["a/b", "c/d"]}});
        let errors = validate_update(&new, &old);
        assert_eq!(
            errors[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}"
        );
    }
}
