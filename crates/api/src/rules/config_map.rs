//! ConfigMaps: keys, size, immutability.

use jiff::Timestamp;
use serde_json::Value;

use super::secret::{BYTES_MAX, decoded_bytes, frozen};
use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

/// Rules of `v1 ConfigMap`.
pub struct ConfigMaps;

impl Rules for ConfigMaps {
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut bytes = 0;
        let binary = look::get(object, "binaryData");
        for (key, value) in look::text_map(object, "data") {
            let path = Path::new("data").key(key);
            config_key(key, &path, &mut errors);
            if binary.is_some_and(|binary| binary.get(key).is_some()) {
                errors.push(FieldError::invalid(&path, key, "duplicate of key present in binaryData"));
            }
            bytes += value.len();
        }
        for (key, value) in look::text_map(object, "binaryData") {
            config_key(key, &Path::new("binaryData").key(key), &mut errors);
            bytes += decoded_bytes(value);
        }
        if bytes > BYTES_MAX {
            // No field is named: the error is about the whole object.
            errors.push(FieldError { field: String::new(), ..FieldError::too_long(&Path::root(), BYTES_MAX) });
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        frozen(new, old, &["data", "binaryData"], &mut errors);
        errors.extend(self.validate_create(new));
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = look::map(object, "data").count() + look::map(object, "binaryData").count();
        vec![name_cell(object), Value::from(count), age_cell(object, now)]
    }
}

fn config_key(key: &str, path: &Path, errors: &mut Vec<FieldError>) {
    errors.extend(names::config_key(key).into_iter().map(|text| FieldError::invalid(path, key, text)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_unique_over_both_maps() {
        let object = json!({"data": {"a": "x", "b/c": ""}, "binaryData": {"a": "eA=="}});
        let fields: Vec<String> = ConfigMaps.validate_create(&object).into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["data[a]", "data[b/c]"]);
    }

    #[test]
    fn a_frozen_map_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        assert!(ConfigMaps.validate_update(&old, &old, None).is_empty());
        let new = json!({"immutable": true, "data": {"a": "2"}});
        assert_eq!(ConfigMaps.validate_update(&new, &old, None)[0].field, "data");
    }

    #[test]
    fn size_is_bounded() {
        let object = json!({"data": {"a": "x".repeat(BYTES_MAX), "b": "x"}});
        assert_eq!(
            ConfigMaps.validate_create(&object)[0].to_string(),
            ": Too long: may not be more than 1048576 bytes"
        );
    }
}
