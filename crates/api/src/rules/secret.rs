//! Secrets: types, size, immutability (IMG-185).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::meta;
use crate::names;

/// Rules of `v1 Secret`.
pub struct Secrets;

/// Most bytes of all values of a Secret or a ConfigMap together.
pub const BYTES_MAX: usize = 1024 * 1024;

const IMMUTABLE_SET: &str = "field is immutable when `immutable` is set";

impl Rules for Secrets {
    fn default(&self, object: &mut Value) {
        // stringData is a convenience for writing only: it overrides data and is never stored.
        if let Some(Value::Object(texts)) = look::remove(object, "stringData") {
            let data = look::fields(look::child(object, "data"));
            for (key, value) in texts {
                data.insert(key, Value::from(STANDARD.encode(value.as_str().unwrap_or(""))));
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        // Not a default of every decoded object: an update that names no type keeps the old one (IMG-185).
        look::set_empty(object, "type", "Opaque");
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let path = Path::new("data");
        let mut errors = Vec::new();
        let mut bytes = 0;
        for (key, value) in look::text_map(object, "data") {
            for complaint in names::config_key(key) {
                errors.push(FieldError::invalid(&path.key(key), key, complaint));
            }
            bytes += decoded_bytes(value);
        }
        if bytes > BYTES_MAX {
            errors.push(FieldError::too_long(&path, BYTES_MAX));
        }
        content(object, &path, &mut errors);
        errors
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        if look::text(new, "type").is_empty() {
            look::copy(old, new, "type");
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        meta::immutable(look::get(new, "type"), look::get(old, "type"), &Path::new("type"), &mut errors);
        frozen(new, old, &["data"], &mut errors);
        errors.extend(self.validate_create(new));
        errors
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", look::text(object, "type").to_owned())]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = look::map(object, "data").count();
        vec![name_cell(object), Value::from(look::text(object, "type")), Value::from(count), age_cell(object, now)]
    }
}

/// Complains when a frozen object is thawed or one of its fields changed.
pub(super) fn frozen(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if !look::flag(old, "immutable") {
        return;
    }
    if !look::flag(new, "immutable") {
        errors.push(FieldError::forbidden(&Path::new("immutable"), IMMUTABLE_SET));
    }
    for name in fields {
        if !look::same(look::get(new, name), look::get(old, name)) {
            errors.push(FieldError::forbidden(&Path::new(name), IMMUTABLE_SET));
        }
    }
}

/// Bytes that a base64 text stands for.
pub(super) fn decoded_bytes(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// What the type of the secret wants in its data.
fn content(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let data = |key: &str| look::get(object, "data").and_then(|data| look::get(data, key)).and_then(Value::as_str);
    let mut need = |key: &str| {
        if data(key).is_none() {
            errors.push(FieldError::required(&path.key(key), ""));
        }
    };
    match look::text(object, "type") {
        "kubernetes.io/dockercfg" => docker(data(".dockercfg"), &path.key(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => docker(data(".dockerconfigjson"), &path.key(".dockerconfigjson"), errors),
        "kubernetes.io/basic-auth" if data("username").is_none() && data("password").is_none() => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if data("ssh-privatekey").is_none_or(str::is_empty) => {
            errors.push(FieldError::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if look::text_at(object, &["metadata", "annotations", key]).is_empty() {
                errors.push(FieldError::required(&Path::new("metadata").child("annotations").key(key), ""));
            }
        }
        _ => {}
    }
}

fn docker(text: Option<&str>, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(text) = text else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    let parsed = STANDARD.decode(text).map_err(|error| error.to_string()).and_then(|bytes| {
        serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).map_err(|error| json_complaint(&bytes, &error))
    });
    if let Err(complaint) = parsed {
        errors.push(FieldError::invalid(path, "<secret contents redacted>", complaint));
    }
}

/// What is wrong with a text that is not JSON. Never quotes the text: it is secret.
fn json_complaint(bytes: &[u8], error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Eof => "unexpected end of JSON input".to_owned(),
        serde_json::error::Category::Data if !bytes.is_empty() => "json: cannot unmarshal into an object".to_owned(),
        _ => format!("invalid character at line {} column {}", error.line(), error.column()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value, expected: &[&str]) {
        let texts: Vec<String> = Secrets.validate_create(&object).iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn string_data_becomes_data_and_the_type_is_opaque() {
        let mut object = json!({"data": {"a": "eA=="}, "stringData": {"b": "y", "a": "z"}});
        Secrets.default(&mut object);
        Secrets.prepare_create(&mut object, Timestamp::UNIX_EPOCH);
        assert_eq!(object, json!({"type": "Opaque", "data": {"a": "eg==", "b": "eQ=="}}));
    }

    #[test]
    fn pull_secrets_hold_json() {
        let kind = "kubernetes.io/dockerconfigjson";
        check(json!({"type": kind}), &["data[.dockerconfigjson]: Required value"]);
        check(json!({"type": kind, "data": {".dockerconfigjson": "e30="}}), &[]);
        check(
            json!({"type": kind, "data": {".dockerconfigjson": "ew=="}}),
            &["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input"],
        );
        check(json!({"type": "kubernetes.io/dockercfg"}), &["data[.dockercfg]: Required value"]);
    }

    #[test]
    fn other_types_want_their_keys() {
        check(
            json!({"type": "kubernetes.io/tls"}),
            &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
        );
        check(
            json!({"type": "kubernetes.io/basic-auth"}),
            &["data[username]: Required value", "data[password]: Required value"],
        );
        check(json!({"type": "kubernetes.io/basic-auth", "data": {"username": ""}}), &[]);
        check(json!({"type": "kubernetes.io/ssh-auth"}), &["data[ssh-privatekey]: Required value"]);
        check(
            json!({"type": "kubernetes.io/service-account-token"}),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        );
        check(
            json!({"type": "mine", "data": {"": ""}}).clone(),
            &[
                "data[]: Invalid value: \"\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', or 'KEY_NAME', or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ],
        );
    }

    #[test]
    fn size_is_bounded() {
        let value = STANDARD.encode(vec![0u8; BYTES_MAX]);
        check(json!({"data": {"a": value}}), &[]);
        check(json!({"data": {"a": value, "b": "eA=="}}), &["data: Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn img_185_an_update_without_a_type_keeps_the_old_one() {
        let old = json!({"type": "mine"});
        let mut new = json!({"data": {"a": "eA=="}});
        Secrets.default(&mut new);
        Secrets.prepare_update(&mut new, &old, None);
        assert_eq!(new["type"], "mine");
        assert!(Secrets.validate_update(&new, &old, None).is_empty());
    }

    #[test]
    fn type_never_changes_and_frozen_means_frozen() {
        let old = json!({"type": "a", "immutable": true, "data": {"x": "eA=="}});
        let new = json!({"type": "b", "data": {"x": "eQ=="}});
        let texts: Vec<String> = Secrets.validate_update(&new, &old, None).iter().map(FieldError::to_string).collect();
        assert_eq!(
            texts,
            [
                "type: Invalid value: \"b\": field is immutable",
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
    }
}
