//! PodTemplates: a pod spec that waits.

use jiff::Timestamp;
use serde_json::Value;

use super::pod::spec;
use super::{Rules, name_cell, workload};
use crate::field::{FieldError, Path};
use crate::look;

/// Rules of `v1 PodTemplate`.
pub struct PodTemplates;

impl Rules for PodTemplates {
    fn default(&self, object: &mut Value) {
        workload::default_template(object);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        look::set(look::child(object, "metadata"), "generation", 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        super::keep_generation(new, old, &["template"]);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let empty = Value::Null;
        spec::validate_template(look::get(object, "template").unwrap_or(&empty), &Path::new("template"))
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        workload::template_warnings(object, &["template"])
    }

    fn pod_spec_path(&self) -> &'static [&'static str] {
        &["template", "spec"]
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let labels = workload::pairs(look::at(object, &["template", "metadata", "labels"]));
        let [names, images] = workload::containers(object, &["template"]);
        vec![name_cell(object), names, images, labels.into()]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn img_23_templates_are_defaulted_and_checked() {
        let mut object = json!({"template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}});
        PodTemplates.default(&mut object);
        assert_eq!(object["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert!(PodTemplates.validate_create(&object).is_empty());
        object["template"]["spec"]["containers"][0]["name"] = json!("");
        assert_eq!(PodTemplates.validate_create(&object)[0].field, "template.spec.containers[0].name");
        assert_eq!(PodTemplates.cells(&object, Timestamp::UNIX_EPOCH)[2..], ["x", "<none>"]);
    }
}
