//! RuntimeClasses (RTC-1 to RTC-19).

use jiff::Timestamp;
use serde_json::Value;

use super::pod::{resources, scheduling};
use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::handlers;
use crate::look;
use crate::meta;
use crate::names;

/// Rules of `node.k8s.io/v1 RuntimeClass`.
pub struct RuntimeClasses;

impl Rules for RuntimeClasses {
    fn default(&self, object: &mut Value) {
        if let Some(overhead) = look::get_mut(object, "overhead") {
            resources::round_list(overhead, "podFixed");
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        // Upstream keeps no generation here.
        look::remove(look::child(object, "metadata"), "generation");
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        handler(look::text(object, "handler"), &mut errors);
        if let Some(overhead) = look::get(object, "overhead") {
            // RTC-12: checked, and named, as the limits of a container.
            let path = Path::new("overhead").child("limits");
            resources::list(overhead, "podFixed", &path, resources::Scope::Container, &mut errors);
        }
        if let Some(scheduling) = look::get(object, "scheduling") {
            validate_scheduling(scheduling, &Path::new("scheduling"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        // RTC-8: the handler never changes. RTC-9: all else may, and is checked again.
        let mut errors = self.validate_create(new);
        meta::immutable(look::get(new, "handler"), look::get(old, "handler"), &Path::new("handler"), &mut errors);
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        // RTC-16.
        let Some(scheduling) = look::get(object, "scheduling") else { return Vec::new() };
        scheduling::deprecated_label_warnings(scheduling, "nodeSelector", "scheduling.nodeSelector")
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.cells_among(object, &[], now)
    }

    fn cells_read(&self) -> Option<(&'static str, &'static str)> {
        Some(("", "nodes"))
    }

    fn cells_among(&self, object: &Value, nodes: &[Value], now: Timestamp) -> Vec<Value> {
        let handler = look::text(object, "handler");
        let mut cells = vec![name_cell(object), Value::from(handler), age_cell(object, now)];
        cells.extend(handlers::of_nodes(handler, nodes).cells(object).map(Value::from));
        cells
    }

    fn creates_on_update(&self) -> bool {
        // RTC-10.
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

/// RTC-6 and RTC-7.
fn handler(name: &str, errors: &mut Vec<FieldError>) {
    let path = Path::new("handler");
    if name.is_empty() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    errors.extend(names::label(name).into_iter().map(|text| FieldError::invalid(&path, name, text)));
}

/// RTC-13 to RTC-15.
fn validate_scheduling(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    meta::labels(object, "nodeSelector", &path.child("nodeSelector"), errors);
    let path = path.child("tolerations");
    let tolerations = look::list(object, "tolerations");
    scheduling::tolerations(tolerations, &path, errors);
    let identity = |toleration: &Value| -> Vec<String> {
        ["key", "operator", "value", "effect"].iter().map(|name| look::text(toleration, name).to_owned()).collect()
    };
    for (index, toleration) in tolerations.iter().enumerate() {
        let mine = identity(toleration);
        if tolerations[..index].iter().any(|other| identity(other) == mine) {
            errors.push(FieldError::duplicate(&path.index(index), toleration.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The first words of each error, up to the explanation of a pattern.
    fn check(object: Value, expected: &[&str]) {
        let texts: Vec<String> = RuntimeClasses.validate_create(&object).iter().map(FieldError::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        for (text, expected) in texts.iter().zip(expected) {
            assert!(text.starts_with(expected), "{text}\nwanted: {expected}");
        }
    }

    #[test]
    fn rtc_6_and_7_the_handler_is_a_label() {
        check(json!({"handler": "runc"}), &[]);
        check(json!({"handler": "kata-qemu"}), &[]);
        check(json!({}), &["handler: Required value"]);
        check(
            json!({"handler": "Kata"}),
            &["handler: Invalid value: \"Kata\": a lowercase RFC 1123 label must consist of"],
        );
        check(json!({"handler": "kata.qemu"}), &["handler: Invalid value: \"kata.qemu\": must not contain dots"]);
        check(json!({"handler": "kata_fc"}), &["handler: Invalid value: \"kata_fc\": a lowercase"]);
        check(json!({"handler": "a".repeat(64)}), &["handler: Invalid value: "]);
    }

    #[test]
    fn rtc_12_overhead_is_checked_as_limits() {
        let with = |list: Value| json!({"handler": "x", "overhead": {"podFixed": list}});
        check(with(json!({"cpu": "100m", "memory": "1Mi", "example.com/gpu": 1})), &[]);
        check(
            with(json!({"cpu": "-1"})),
            &["overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
        );
        check(
            with(json!({"pods": "1"})),
            &["overhead.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers"],
        );
        check(
            with(json!({"foo": "1"})),
            &[
                "overhead.limits[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
                "overhead.limits[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            ],
        );
        check(
            with(json!({"example.com/gpu": "1.5"})),
            &["overhead.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer"],
        );
    }

    #[test]
    fn rtc_13_to_15_scheduling() {
        let with = |scheduling: Value| json!({"handler": "x", "scheduling": scheduling});
        check(
            with(json!({"nodeSelector": {"a b": "c"}})),
            &["scheduling.nodeSelector: Invalid value: \"a b\": name part must"],
        );
        let same = json!({"key": "a", "operator": "Exists"});
        let seconds = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3});
        check(with(json!({"tolerations": [same, seconds]})), &[]);
        check(with(json!({"tolerations": [same, same]})), &["scheduling.tolerations[1]: Duplicate value: "]);
    }

    #[test]
    fn rtc_8_the_handler_never_changes() {
        let old = json!({"handler": "a"});
        let errors = RuntimeClasses.validate_update(&json!({"handler": "b"}), &old, None);
        assert_eq!(errors[0].to_string(), "handler: Invalid value: \"b\": field is immutable");
        assert!(RuntimeClasses.validate_update(&json!({"handler": "a", "overhead": {}}), &old, None).is_empty());
    }

    #[test]
    fn rtc_16_old_labels_give_a_warning() {
        let object = json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/arch": "amd64"}}});
        assert_eq!(
            RuntimeClasses.warnings(&object),
            ["scheduling.nodeSelector: deprecated since v1.14; use \"kubernetes.io/arch\" instead"]
        );
    }
}
