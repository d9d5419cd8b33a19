//! Namespaces: their finalizer, phase and the label with their name.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

/// Rules of `v1 Namespace`.
pub struct Namespaces;

/// The finalizer that every namespace has: its objects go first.
pub const FINALIZER: &str = "kubernetes";

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Rules for Namespaces {
    fn default(&self, object: &mut Value) {
        let name = look::text_at(object, &["metadata", "name"]).to_owned();
        if !name.is_empty() {
            look::set(look::child(look::child(object, "metadata"), "labels"), NAME_LABEL, name);
        }
        look::set_empty(look::child(object, "status"), "phase", "Active");
        look::child(object, "spec");
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        // A generated name is known by now, so the label can be right.
        self.default(object);
        look::set(object, "status", json!({"phase": "Active"}));
        let spec = look::child(object, "spec");
        let mut finalizers: Vec<Value> = look::list(spec, "finalizers").to_vec();
        if !finalizers.iter().any(|name| name == FINALIZER) {
            finalizers.push(Value::from(FINALIZER));
        }
        look::set(spec, "finalizers", finalizers);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let path = Path::new("spec").child("finalizers");
        let mut errors = Vec::new();
        for name in look::list_at(object, &["spec", "finalizers"]).iter().filter_map(Value::as_str) {
            finalizer(name, &path, &mut errors);
        }
        errors
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        match sub {
            Some("status") => look::copy(old, new, "spec"),
            Some("finalize") => look::copy(old, new, "status"),
            _ => {
                look::copy(old, new, "status");
                let empty = Value::Null;
                look::copy(look::get(old, "spec").unwrap_or(&empty), look::child(new, "spec"), "finalizers");
            }
        }
    }

    fn validate_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub != Some("status") {
            return self.validate_create(new);
        }
        let phase = look::text_at(new, &["status", "phase"]);
        let (wanted, state) = match look::at(new, &["metadata", "deletionTimestamp"]) {
            None => ("Active", "empty"),
            Some(_) => ("Terminating", "not empty"),
        };
        match phase == wanted {
            true => Vec::new(),
            false => {
                let detail = format!("may only be '{wanted}' if `deletionTimestamp` is {state}");
                vec![FieldError::invalid(&Path::new("status").child("Phase"), phase, detail)]
            }
        }
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("name", look::text_at(object, &["metadata", "name"]).to_owned()),
            ("status.phase", look::text_at(object, &["status", "phase"]).to_owned()),
        ]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_cell(object), Value::from(look::text_at(object, &["status", "phase"])), age_cell(object, now)]
    }

    fn name_complaints(&self, name: &str) -> Vec<String> {
        names::label(name)
    }
}

fn finalizer(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    errors.extend(names::label_key(name).into_iter().map(|text| FieldError::invalid(path, name, text)));
    let standard = [FINALIZER, "orphan", "foregroundDeletion"].contains(&name);
    if !name.contains('/') && !standard {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_has_its_finalizer_and_its_name_as_a_label() {
        let mut object = json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}});
        Namespaces.default(&mut object);
        Namespaces.prepare_create(&mut object, Timestamp::UNIX_EPOCH);
        assert_eq!(
            object,
            json!({
                "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            })
        );
        assert!(Namespaces.validate_create(&object).is_empty());
    }

    #[test]
    fn finalizers_change_only_through_their_own_path() {
        let old = json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let mut new = json!({"spec": {"finalizers": []}, "status": {"phase": "x"}});
        Namespaces.prepare_update(&mut new, &old, None);
        assert_eq!(new, old);
        let mut new = json!({"spec": {"finalizers": []}});
        Namespaces.prepare_update(&mut new, &old, Some("finalize"));
        assert_eq!(new, json!({"spec": {"finalizers": []}, "status": {"phase": "Active"}}));
    }

    #[test]
    fn the_phase_follows_the_deletion() {
        let object = json!({"metadata": {}, "status": {"phase": "Terminating"}});
        let errors = Namespaces.validate_update(&object, &object, Some("status"));
        assert_eq!(
            errors[0].to_string(),
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
        );
    }
}
