//! The `scale` subresource: how many pods a workload wants and has, in one form for all kinds. Start at [`of`].

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells;
use crate::field::{FieldError, Path};
use crate::kind::Kind;
use crate::look;
use crate::rules::{Rules, age_cell, name_cell};

/// Rules of `autoscaling/v1 Scale`.
pub struct Scales;

impl Rules for Scales {
    fn default(&self, object: &mut Value) {
        look::child(object, "spec");
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, empty) = (Vec::new(), Value::Null);
        let spec = look::get(object, "spec").unwrap_or(&empty);
        super::not_negative(spec, "replicas", &Path::new("spec"), &mut errors);
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count =
            |part: &str| Value::from(look::at(object, &[part, "replicas"]).and_then(Value::as_i64).unwrap_or(0));
        vec![name_cell(object), count("spec"), count("status"), age_cell(object, now)]
    }
}

/// The Scale of an object.
pub fn of(kind: &Kind, object: &Value) -> Value {
    let empty = Value::Null;
    let meta = look::get(object, "metadata").unwrap_or(&empty);
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        look::copy(meta, &mut metadata, field);
    }
    let count = |part: &str| look::at(object, &[part, "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    // The selector of a ReplicationController is a plain map.
    let selector = match kind.kind {
        "ReplicationController" => cells::pairs(look::at(object, &["spec", "selector"])),
        _ => cells::selector(object),
    };
    let selector = if selector == cells::NONE { String::new() } else { selector };
    let spec = match count("spec") {
        0 => json!({}),
        replicas => json!({"replicas": replicas}),
    };
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec,
        "status": {"replicas": count("status"), "selector": selector},
    })
}

/// The object with the replicas and the version of a Scale.
#[must_use]
pub fn applied(scale: &Value, object: &Value) -> Value {
    let mut object = object.clone();
    let replicas = look::at(scale, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    look::set(look::child(&mut object, "spec"), "replicas", replicas);
    let metadata = look::child(&mut object, "metadata");
    for field in ["resourceVersion", "uid"] {
        if let Some(value) = look::at(scale, &["metadata", field]) {
            look::set(metadata, field, value.clone());
        }
    }
    object
}
