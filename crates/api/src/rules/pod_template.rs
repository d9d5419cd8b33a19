//! PodTemplates: a pod spec that waits.

use jiff::Timestamp;
use serde_json::Value;

use super::pod::{default, spec};
use super::{Rules, name_cell};
use crate::field::{FieldError, Path};
use crate::look;

/// Rules of `v1 PodTemplate`.
pub struct PodTemplates;

impl Rules for PodTemplates {
    fn default(&self, object: &mut Value) {
        let template = look::child(object, "template");
        look::child(template, "metadata");
        default::template(look::child(template, "spec"));
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

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let containers = look::list_at(object, &["template", "spec", "containers"]);
        let joined = |field: &str| -> String {
            containers.iter().map(|container| look::text(container, field)).collect::<Vec<_>>().join(",")
        };
        vec![name_cell(object), Value::from(joined("name")), Value::from(joined("image")), Value::from(labels(object))]
    }
}

fn labels(object: &Value) -> String {
    let empty = Value::Null;
    let metadata = look::at(object, &["template", "metadata"]).unwrap_or(&empty);
    let mut all: Vec<String> =
        look::text_map(metadata, "labels").map(|(key, value)| format!("{key}={value}")).collect();
    all.sort_unstable();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
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
