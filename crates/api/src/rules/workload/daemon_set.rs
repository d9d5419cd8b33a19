//! DaemonSets: one pod on each node.

use jiff::Timestamp;
use serde_json::Value;

use super::{Share, cells};
use crate::field::{FieldError, Path};
use crate::look;
use crate::rules::Rules;

/// Rules of `apps/v1 DaemonSet`.
pub struct DaemonSets;

/// Counts the templates that a DaemonSet has had; old clients read it.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Rules for DaemonSets {
    fn default(&self, object: &mut Value) {
        let spec = look::child(object, "spec");
        let strategy = look::child(spec, "updateStrategy");
        look::set_empty(strategy, "type", "RollingUpdate");
        if look::text(strategy, "type") == "RollingUpdate" {
            let rolling = look::child(strategy, "rollingUpdate");
            look::set_absent(rolling, "maxUnavailable", 1);
            look::set_absent(rolling, "maxSurge", 0);
        }
        look::set_absent(spec, "revisionHistoryLimit", 10);
        super::default_template(spec);
        super::zero_counts(look::child(object, "status"), "apps.v1.DaemonSetStatus");
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        super::prepare_create(object);
        super::zero_counts(look::child(object, "status"), "apps.v1.DaemonSetStatus");
        set_template_generation(object, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        super::prepare_update(new, old, sub);
        let count = look::text_at(old, &["metadata", "annotations", TEMPLATE_GENERATION]).parse().unwrap_or(1);
        let template = |object| look::at(object, &["spec", "template"]);
        let changed = !look::same(template(new), template(old));
        set_template_generation(new, count + i64::from(changed));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
        let spec = look::get(object, "spec").unwrap_or(&empty);
        super::selector(spec, "daemonset", &path, &mut errors);
        super::lasting_template(spec, "DaemonSet", &path, &mut errors);
        super::none_negative(spec, &["minReadySeconds"], &path, &mut errors);
        strategy(look::get(spec, "updateStrategy").unwrap_or(&empty), &path.child("updateStrategy"), &mut errors);
        super::none_negative(spec, &["revisionHistoryLimit"], &path, &mut errors);
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
        cells::of_daemon_set(object, now)
    }
}

fn set_template_generation(object: &mut Value, count: i64) {
    let annotations = look::child(look::child(object, "metadata"), "annotations");
    look::set(annotations, TEMPLATE_GENERATION, count.to_string());
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let path_rolling = path.child("rollingUpdate");
    let rolling = match (look::text(strategy, "type"), look::get(strategy, "rollingUpdate")) {
        ("OnDelete", _) => return,
        ("RollingUpdate", None) => return errors.push(FieldError::required(&path_rolling, "")),
        ("RollingUpdate", Some(rolling)) => rolling,
        _ => {
            let supported = ["RollingUpdate", "OnDelete"];
            return errors.push(FieldError::not_supported(path, strategy.clone(), &supported));
        }
    };
    let fields = ["maxUnavailable", "maxSurge"];
    fields.iter().for_each(|field| super::share(rolling, field, &path_rolling, errors));
    fields.iter().for_each(|field| super::at_most_all(rolling, field, &path_rolling, errors));
    let [unavailable, surge] = fields.map(|field| !Share::of(look::get(rolling, field)).is_zero());
    if unavailable && surge {
        let shown = look::get(rolling, "maxSurge").cloned().unwrap_or(Value::Null);
        let detail = "may not be set when maxUnavailable is non-zero";
        errors.push(FieldError::invalid(&path_rolling.child("maxSurge"), shown, detail));
    } else if !unavailable && !surge {
        let detail = "cannot be 0 when maxSurge is 0";
        errors.push(FieldError::required(&path_rolling.child("maxUnavailable"), detail));
    }
}

fn status(new: &Value, old: &Value) -> Vec<FieldError> {
    let (mut errors, empty) = (Vec::new(), Value::Null);
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    let status = look::get(new, "status").unwrap_or(&empty);
    super::none_negative(status, &counts, &Path::new("status"), &mut errors);
    super::no_fewer_collisions(new, old, &mut errors);
    errors
}
