//! ReplicationControllers and ReplicaSets: so many pods of one template.

use jiff::Timestamp;
use serde_json::Value;

use super::cells;
use crate::field::{FieldError, Path};
use crate::look;
use crate::rules::Rules;

/// Rules of `v1 ReplicationController`.
pub struct ReplicationControllers;

/// Rules of `apps/v1 ReplicaSet`.
pub struct ReplicaSets;

const COUNTS: [&str; 5] =
    ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];

impl Rules for ReplicationControllers {
    fn default(&self, object: &mut Value) {
        let spec = look::child(object, "spec");
        look::set_absent(spec, "replicas", 1);
        super::default_template(spec);
        let labels = look::at(spec, &["template", "metadata", "labels"]).cloned();
        if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty())) {
            if look::map(spec, "selector").next().is_none() {
                look::set(spec, "selector", labels.clone());
            }
            let metadata = look::child(object, "metadata");
            if look::map(metadata, "labels").next().is_none() {
                look::set(metadata, "labels", labels);
            }
        }
        super::zero_counts(look::child(object, "status"), "core.v1.ReplicationControllerStatus");
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        super::prepare_create(object);
        super::zero_counts(look::child(object, "status"), "core.v1.ReplicationControllerStatus");
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        super::prepare_update(new, old, sub);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
        let spec = look::get(object, "spec").unwrap_or(&empty);
        super::none_negative(spec, &["minReadySeconds"], &path, &mut errors);
        if look::map(spec, "selector").next().is_none() {
            errors.push(FieldError::required(&path.child("selector"), ""));
        }
        super::none_negative(spec, &["replicas"], &path, &mut errors);
        let labels = look::at(spec, &["template", "metadata", "labels"]).unwrap_or(&empty);
        if look::text_map(spec, "selector").any(|(key, value)| look::get(labels, key).is_none_or(|v| v != value)) {
            super::unselected(spec, &path, &mut errors);
        }
        super::template(spec, &path, &mut errors);
        super::lasting(spec, "ReplicationController", &path, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") { status(new) } else { self.validate_create(new) }
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        super::template_warnings(object, &["spec", "template"])
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", replicas(object))]
    }

    fn pod_spec_path(&self) -> &'static [&'static str] {
        &["spec", "template", "spec"]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let selector = cells::pairs(look::at(object, &["spec", "selector"]));
        cells::of_replicas(object, selector, now)
    }
}

impl Rules for ReplicaSets {
    fn default(&self, object: &mut Value) {
        let spec = look::child(object, "spec");
        look::set_absent(spec, "replicas", 1);
        super::default_template(spec);
        super::zero_counts(look::child(object, "status"), "apps.v1.ReplicaSetStatus");
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        super::prepare_create(object);
        super::zero_counts(look::child(object, "status"), "apps.v1.ReplicaSetStatus");
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        super::prepare_update(new, old, sub);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
        let spec = look::get(object, "spec").unwrap_or(&empty);
        super::none_negative(spec, &["replicas", "minReadySeconds"], &path, &mut errors);
        // Upstream's word, also for a ReplicaSet.
        super::selector(spec, "deployment", &path, &mut errors);
        super::lasting_template(spec, "ReplicaSet", &path, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return status(new);
        }
        let mut errors = self.validate_create(new);
        super::fixed_selector(new, old, &mut errors);
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        super::template_warnings(object, &["spec", "template"])
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", replicas(object))]
    }

    fn pod_spec_path(&self) -> &'static [&'static str] {
        &["spec", "template", "spec"]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells::of_replicas(object, cells::selector(object), now)
    }
}

fn replicas(object: &Value) -> String {
    look::at(object, &["status", "replicas"]).and_then(Value::as_i64).unwrap_or(0).to_string()
}

fn status(object: &Value) -> Vec<FieldError> {
    let (mut errors, empty) = (Vec::new(), Value::Null);
    let status = look::get(object, "status").unwrap_or(&empty);
    super::none_negative(status, &COUNTS, &Path::new("status"), &mut errors);
    let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    super::none_above(status, &parts, "replicas", "cannot be greater than status.replicas", &mut errors);
    let detail = "cannot be greater than readyReplicas";
    super::none_above(status, &["availableReplicas"], "readyReplicas", detail, &mut errors);
    errors
}
