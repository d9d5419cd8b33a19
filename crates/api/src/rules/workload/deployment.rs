//! Deployments: ReplicaSets that follow each other.

use jiff::Timestamp;
use serde_json::Value;

use super::{Share, cells};
use crate::field::{FieldError, Path};
use crate::look;
use crate::rules::Rules;

/// Rules of `apps/v1 Deployment`.
pub struct Deployments;

impl Rules for Deployments {
    fn default(&self, object: &mut Value) {
        let spec = look::child(object, "spec");
        look::set_absent(spec, "replicas", 1);
        let strategy = look::child(spec, "strategy");
        look::set_empty(strategy, "type", "RollingUpdate");
        if look::text(strategy, "type") == "RollingUpdate" {
            let rolling = look::child(strategy, "rollingUpdate");
            look::set_absent(rolling, "maxUnavailable", "25%");
            look::set_absent(rolling, "maxSurge", "25%");
        }
        look::set_absent(spec, "revisionHistoryLimit", 10);
        look::set_absent(spec, "progressDeadlineSeconds", 600);
        super::default_template(spec);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        super::prepare_create(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        super::prepare_update(new, old, sub);
        let metadata = |object: &Value, field: &str| look::at(object, &["metadata", field]).cloned();
        if sub == Some("status") {
            let labels = metadata(old, "labels");
            look::set(look::child(new, "metadata"), "labels", labels.unwrap_or(Value::Null));
        } else if !look::same(metadata(new, "annotations").as_ref(), metadata(old, "annotations").as_ref())
            && look::same(look::get(new, "spec"), look::get(old, "spec"))
        {
            // Annotations of a Deployment are copied to its ReplicaSets, so they count as the spec does.
            let generation = metadata(old, "generation").and_then(|value| value.as_i64()).unwrap_or(0);
            look::set(look::child(new, "metadata"), "generation", generation + 1);
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
        let spec = look::get(object, "spec").unwrap_or(&empty);
        super::none_negative(spec, &["replicas"], &path, &mut errors);
        super::selector(spec, "deployment", &path, &mut errors);
        super::lasting_template(spec, "ReplicaSet", &path, &mut errors);
        strategy(look::get(spec, "strategy").unwrap_or(&empty), &path.child("strategy"), &mut errors);
        let seconds = ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
        super::none_negative(spec, &seconds, &path, &mut errors);
        let ready = look::integer(spec, "minReadySeconds").unwrap_or(0);
        if let Some(deadline) = look::integer(spec, "progressDeadlineSeconds").filter(|deadline| *deadline <= ready) {
            let path = path.child("progressDeadlineSeconds");
            errors.push(FieldError::invalid(&path, deadline, "must be greater than minReadySeconds"));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return status(new, old);
        }
        let mut errors = self.validate_create(new);
        super::fixed_selector(new, old, &mut errors);
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        super::template_warnings(object, &["spec", "template"])
    }

    fn pod_spec_path(&self) -> &'static [&'static str] {
        &["spec", "template", "spec"]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells::of_deployment(object, now)
    }
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let path_rolling = path.child("rollingUpdate");
    let rolling = look::get(strategy, "rollingUpdate");
    match (look::text(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(&path_rolling, detail));
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            let detail = "this should be defaulted and never be nil";
            errors.push(FieldError::required(&path_rolling, detail));
        }
        ("RollingUpdate", Some(rolling)) => {
            let (unavailable, surge) = ("maxUnavailable", "maxSurge");
            super::share(rolling, unavailable, &path_rolling, errors);
            super::share(rolling, surge, &path_rolling, errors);
            let zero = |field| Share::of(look::get(rolling, field)).is_zero();
            if zero(unavailable) && zero(surge) {
                let shown = look::get(rolling, unavailable).cloned().unwrap_or(Value::Null);
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(&path_rolling.child(unavailable), shown, detail));
            }
            super::at_most_all(rolling, unavailable, &path_rolling, errors);
        }
        _ => errors.push(FieldError::not_supported(path, strategy.clone(), &["Recreate", "RollingUpdate"])),
    }
}

fn status(new: &Value, old: &Value) -> Vec<FieldError> {
    let (mut errors, empty) = (Vec::new(), Value::Null);
    let status = look::get(new, "status").unwrap_or(&empty);
    let counts = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    super::none_negative(status, &counts, &Path::new("status"), &mut errors);
    let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
    super::none_above(status, &parts, "replicas", "cannot be greater than status.replicas", &mut errors);
    let detail = "cannot be greater than readyReplicas";
    super::none_above(status, &["availableReplicas"], "readyReplicas", detail, &mut errors);
    super::no_fewer_collisions(new, old, &mut errors);
    errors
}
