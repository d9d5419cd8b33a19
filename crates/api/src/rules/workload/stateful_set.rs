//! StatefulSets: pods with names and volumes of their own.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Share, cells};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;
use crate::rules::Rules;

/// Rules of `apps/v1 StatefulSet`.
pub struct StatefulSets;

const CHANGEABLE: [&str; 7] = [
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "revisionHistoryLimit",
];

impl Rules for StatefulSets {
    fn default(&self, object: &mut Value) {
        let spec = look::child(object, "spec");
        look::set_empty(spec, "podManagementPolicy", "OrderedReady");
        let strategy = look::child(spec, "updateStrategy");
        look::set_empty(strategy, "type", "RollingUpdate");
        if look::text(strategy, "type") == "RollingUpdate" {
            look::set_absent(look::child(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = look::child(spec, "persistentVolumeClaimRetentionPolicy");
        look::set_empty(retention, "whenDeleted", "Retain");
        look::set_empty(retention, "whenScaled", "Retain");
        look::set_absent(spec, "replicas", 1);
        look::set_absent(spec, "revisionHistoryLimit", 10);
        super::default_template(spec);
        for claim in look::list_mut(spec, "volumeClaimTemplates") {
            look::set(claim, "apiVersion", "v1");
            look::set(claim, "kind", "PersistentVolumeClaim");
            look::set_absent(look::child(claim, "spec"), "volumeMode", "Filesystem");
            look::set_empty(look::child(claim, "status"), "phase", "Pending");
        }
        super::zero_counts(look::child(object, "status"), "apps.v1.StatefulSetStatus");
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        super::prepare_create(object);
        super::zero_counts(look::child(object, "status"), "apps.v1.StatefulSetStatus");
        look::set_absent(look::child(object, "status"), "availableReplicas", 0);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        super::prepare_update(new, old, sub);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
        let spec = look::get(object, "spec").unwrap_or(&empty);
        match look::text(spec, "podManagementPolicy") {
            "OrderedReady" | "Parallel" => {}
            other => {
                let detail = "must be 'OrderedReady' or 'Parallel'";
                errors.push(FieldError::invalid(&path.child("podManagementPolicy"), other, detail));
            }
        }
        strategy(look::get(spec, "updateStrategy").unwrap_or(&empty), &path.child("updateStrategy"), &mut errors);
        let retention = look::get(spec, "persistentVolumeClaimRetentionPolicy").unwrap_or(&empty);
        for field in ["whenDeleted", "whenScaled"] {
            let policy = look::text(retention, field);
            if !matches!(policy, "Retain" | "Delete") {
                let path = path.child("persistentVolumeClaimRetentionPolicy").child(field);
                errors.push(FieldError::not_supported(&path, policy, &["Retain", "Delete"]));
            }
        }
        super::none_negative(spec, &["replicas", "minReadySeconds"], &path, &mut errors);
        if let Some(ordinals) = look::get(spec, "ordinals") {
            super::not_negative(ordinals, "start", &path.child("ordinals"), &mut errors);
        }
        super::none_negative(spec, &["revisionHistoryLimit"], &path, &mut errors);
        super::selector(spec, "statefulset", &path, &mut errors);
        super::lasting_template(&with_claims(spec), "StatefulSet", &path, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return status(new, old);
        }
        let mut errors = self.validate_create(new);
        let empty = Value::Null;
        let old = look::get(old, "spec").unwrap_or(&empty);
        let mut masked = look::get(new, "spec").cloned().unwrap_or(Value::Null);
        CHANGEABLE.iter().for_each(|field| look::copy(old, &mut masked, field));
        if !look::same(Some(&masked), Some(old)) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                          'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                          'minReadySeconds' are forbidden";
            errors.push(FieldError::forbidden(&Path::new("spec"), detail));
        }
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        super::template_warnings(object, &["spec", "template"])
    }

    fn name_complaints(&self, name: &str) -> Vec<String> {
        names::label(name)
    }

    fn pod_spec_path(&self) -> &'static [&'static str] {
        &["spec", "template", "spec"]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells::of_stateful_set(object, now)
    }
}

/// The spec with a volume for each claim, as its pods will have it. Upstream leaves the pod spec of a StatefulSet
/// unchecked; here a template that can never become a pod is refused at once.
fn with_claims(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims: Vec<String> = look::list(&spec, "volumeClaimTemplates")
        .iter()
        .map(|claim| look::text_at(claim, &["metadata", "name"]).to_owned())
        .collect();
    if claims.is_empty() {
        return spec;
    }
    let pod = look::child(look::child(&mut spec, "template"), "spec");
    let mut volumes = look::list(pod, "volumes").to_vec();
    volumes.retain(|volume| !claims.iter().any(|name| name == look::text(volume, "name")));
    volumes.extend(claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})));
    look::set(pod, "volumes", volumes);
    spec
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let rolling = look::get(strategy, "rollingUpdate");
    match (look::text(strategy, "type"), rolling) {
        ("OnDelete", Some(rolling)) => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(&path.child("rollingUpdate"), rolling.clone(), detail));
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            let path = path.child("rollingUpdate");
            super::not_negative(rolling, "partition", &path, errors);
            if let Some(unavailable) = look::get(rolling, "maxUnavailable") {
                super::share(rolling, "maxUnavailable", &path, errors);
                if Share::of(Some(unavailable)).is_zero() {
                    errors.push(FieldError::invalid(&path.child("maxUnavailable"), unavailable.clone(), "cannot be 0"));
                }
                super::at_most_all(rolling, "maxUnavailable", &path, errors);
            }
        }
        _ => errors.push(FieldError::invalid(path, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'")),
    }
}

fn status(new: &Value, old: &Value) -> Vec<FieldError> {
    let (mut errors, empty) = (Vec::new(), Value::Null);
    let status = look::get(new, "status").unwrap_or(&empty);
    let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    let path = Path::new("status");
    super::none_negative(status, &["replicas"], &path, &mut errors);
    super::none_negative(status, &parts, &path, &mut errors);
    super::none_negative(status, &["observedGeneration", "collisionCount"], &path, &mut errors);
    super::none_above(status, &parts, "replicas", "cannot be greater than status.replicas", &mut errors);
    let detail = "cannot be greater than status.readyReplicas";
    super::none_above(status, &["availableReplicas"], "readyReplicas", detail, &mut errors);
    super::no_fewer_collisions(new, old, &mut errors);
    errors
}
