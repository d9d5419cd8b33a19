//! Field validation: which fields of an object are unknown, and which values have the wrong type.
//!
//! As Go's decoder: `null` is the same as absent, everywhere.

use serde_json::Value;

use super::{Shape, Type, find};
use crate::kind::Kind;
use crate::quantity::Quantity;
use crate::time;

/// Most complaints of one sort about one document.
pub const COMPLAINTS_MAX: usize = 100;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaReport {
    /// Texts such as `unknown field "spec.foo"`. Refused, warned about or dropped, as the client asks.
    pub unknown: Vec<String>,
    /// Values that cannot be decoded. Always refused (400).
    pub mistyped: Vec<Mistyped>,
    /// Whether a value is written otherwise than the server writes it: see [`settle`].
    pub is_unsettled: bool,
}

/// A value of the wrong type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistyped {
    /// Path of the field, e.g. `spec.containers[0].image`.
    pub field: String,
    /// The decoder's words, naming the field.
    pub message: String,
}

/// Checks an object against the type of its kind.
pub fn check(kind: &Kind, object: &Value) -> SchemaReport {
    check_type(kind.schema, object)
}

/// Checks an object against a type of the schema facts, e.g. `meta.v1.DeleteOptions`. An unknown type passes.
pub fn check_type(name: &str, object: &Value) -> SchemaReport {
    let mut report = SchemaReport::default();
    if let Some(found) = find(name) {
        let mut walk = Walk { report: &mut report, root: kind_name(name), path: String::new() };
        walk.object(found, object);
    }
    report
}

/// Writes what has several texts as Kubernetes' types write it: times in UTC and with the digits of their type, bytes
/// without line ends, quantities with the largest suffix that leaves a whole number. A client that writes back what it
/// read, `+00:00` for `Z`, has changed nothing.
pub fn settle(kind: &Kind, object: &mut Value) {
    settle_shape(&Shape::Object(kind.schema), object);
}

fn settle_shape(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Object(name), Value::Object(fields)) => {
            let Some(found) = find(name) else { return };
            for (name, value) in fields.iter_mut() {
                if let Some(field) = found.field(name) {
                    settle_shape(&field.shape, value);
                }
            }
        }
        (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| settle_shape(inner, item)),
        (Shape::Map(inner), Value::Object(fields)) => fields.values_mut().for_each(|value| settle_shape(inner, value)),
        (scalar, value) => {
            if let Some(text) = settled(scalar, value) {
                *value = Value::String(text);
            }
        }
    }
}

/// The server's text of a value, if it is another than the value's own. What cannot be read stays as it is.
fn settled(shape: &Shape, value: &Value) -> Option<String> {
    let text = match (shape, value) {
        (Shape::Time, Value::String(text)) => time::seconds(time::parse(text)?),
        (Shape::MicroTime, Value::String(text)) => time::micros(time::parse(text)?),
        (Shape::Bytes, Value::String(text)) if text.contains(['\n', '\r']) => text.replace(['\n', '\r'], ""),
        (Shape::Quantity, value) => Quantity::from_value(value).ok()?.to_string(),
        _ => return None,
    };
    (value.as_str() != Some(&text)).then_some(text)
}

/// Removes every field that the schema does not know and every null, as decoding into typed objects does.
pub fn prune(kind: &Kind, object: &mut Value) {
    prune_type(kind.schema, object);
}

/// [`prune`] for a type of the schema facts. An unknown type stays as it is.
pub fn prune_type(name: &str, object: &mut Value) {
    let (Some(found), Some(fields)) = (find(name), object.as_object_mut()) else { return };
    fields.retain(|name, value| !value.is_null() && found.field(name).is_some());
    for (name, value) in fields.iter_mut() {
        if let Some(field) = found.field(name) {
            prune_shape(&field.shape, value);
        }
    }
}

fn prune_shape(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Object(name), value) => prune_type(name, value),
        (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| prune_shape(inner, item)),
        (Shape::Map(inner), Value::Object(fields)) => fields.values_mut().for_each(|value| prune_shape(inner, value)),
        _ => {}
    }
}

fn kind_name(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

struct Walk<'a> {
    report: &'a mut SchemaReport,
    /// Kind of the whole object, for messages.
    root: &'a str,
    path: String,
}

impl Walk<'_> {
    fn object(&mut self, found: &Type, value: &Value) {
        let fields = match value {
            Value::Object(fields) => fields,
            Value::Null => return,
            other => return self.wrong(other, &go_type(found.name)),
        };
        for (name, value) in fields {
            let length = self.path.len();
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
            match found.field(name) {
                Some(field) => self.value(&field.shape, value),
                // Upstream's decoder stops to count too.
                None if self.report.unknown.len() >= COMPLAINTS_MAX => {}
                None => self.report.unknown.push(format!("unknown field {}", crate::field::quote(&self.path))),
            }
            self.path.truncate(length);
        }
    }

    fn value(&mut self, shape: &Shape, value: &Value) {
        match (shape, value) {
            (_, Value::Null) | (Shape::Any, _) => {}
            (Shape::Object(name), value) => {
                if let Some(found) = find(name) {
                    self.object(found, value);
                }
            }
            (Shape::List(inner), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.below(&format!("[{index}]"), |walk| walk.value(inner, item));
                }
            }
            (Shape::Map(inner), Value::Object(fields)) => {
                for (key, item) in fields {
                    self.below(&format!(".{key}"), |walk| walk.value(inner, item));
                }
            }
            (Shape::List(_), other) => self.wrong(other, "a list"),
            (Shape::Map(_), other) => self.wrong(other, "a map"),
            (scalar, value) => self.scalar(scalar, value),
        }
    }

    fn below(&mut self, segment: &str, visit: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(segment);
        visit(self);
        self.path.truncate(length);
    }

    fn scalar(&mut self, shape: &Shape, value: &Value) {
        self.report.is_unsettled |= settled(shape, value).is_some();
        match shape {
            Shape::Text if !value.is_string() => self.wrong(value, "string"),
            Shape::Boolean if !value.is_boolean() => self.wrong(value, "bool"),
            Shape::Number if !value.is_number() => self.wrong(value, "float64"),
            Shape::Int32 => self.integer(value, "int32", i64::from(i32::MIN)..=i64::from(i32::MAX)),
            Shape::Int64 => self.integer(value, "int64", i64::MIN..=i64::MAX),
            Shape::Bytes => self.bytes(value),
            Shape::Quantity => {
                if let Err(error) = Quantity::from_value(value) {
                    self.mistyped(error.to_string());
                }
            }
            Shape::IntOrText if !value.is_string() => {
                self.integer(value, "int32", i64::from(i32::MIN)..=i64::from(i32::MAX));
            }
            Shape::Time | Shape::MicroTime => self.time(value),
            _ => {}
        }
    }

    fn integer(&mut self, value: &Value, kind: &str, range: std::ops::RangeInclusive<i64>) {
        match value {
            Value::Number(number) => match number.as_i64() {
                Some(whole) if range.contains(&whole) => {}
                _ => self.wrong_text(&format!("number {number}"), kind),
            },
            other => self.wrong(other, kind),
        }
    }

    fn bytes(&mut self, value: &Value) {
        use base64::Engine;
        let Some(text) = value.as_str() else { return self.wrong(value, "[]uint8") };
        // Go's decoder skips line ends.
        let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        if let Err(error) = base64::engine::general_purpose::STANDARD.decode(text) {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLength(at) => at,
                _ => 0,
            };
            self.mistyped(format!("illegal base64 data at input byte {at}"));
        }
    }

    fn time(&mut self, value: &Value) {
        match value.as_str() {
            None => self.wrong(value, "time"),
            Some(text) if time::parse(text).is_none() => {
                let quoted = crate::field::quote(text);
                self.mistyped(format!("parsing time {quoted} as \"2006-01-02T15:04:05Z07:00\": cannot parse"));
            }
            Some(_) => {}
        }
    }

    fn wrong(&mut self, value: &Value, kind: &str) {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.wrong_text(found, kind);
    }

    fn wrong_text(&mut self, found: &str, kind: &str) {
        let message = format!(
            "json: cannot unmarshal {found} into Go struct field {}.{} of type {kind}",
            self.root,
            without_indexes(&self.path)
        );
        self.tell(message);
    }

    fn tell(&mut self, message: String) {
        if self.report.mistyped.len() < COMPLAINTS_MAX {
            self.report.mistyped.push(Mistyped { field: self.path.clone(), message });
        }
    }

    /// A message of an inner decoder, which does not know its field.
    fn mistyped(&mut self, message: String) {
        let message = format!("{}: {message}", self.path);
        self.tell(message);
    }
}

/// Go's decoder names list items by their field alone.
fn without_indexes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

fn go_type(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    let kind = parts.pop().unwrap_or(name);
    format!("{}.{kind}", parts.pop().unwrap_or("v1"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::find as find_kind;

    fn pod(object: Value) -> SchemaReport {
        check(find_kind("", "v1", "pods").unwrap(), &object)
    }

    #[test]
    fn what_has_several_texts_is_written_in_one() {
        let written = json!({
            "metadata": {"creationTimestamp": "2026-01-02T04:04:05.6+01:00"},
            "spec": {"containers": [{"resources": {"limits": {"cpu": 1000, "memory": "1024Mi"}}}],
                "volumes": [{"emptyDir": {"sizeLimit": "1024Mi"}}]},
        });
        assert!(pod(written.clone()).is_unsettled);
        let kind = find_kind("", "v1", "pods").unwrap();
        let mut object = written;
        settle(kind, &mut object);
        assert_eq!(
            object,
            json!({
                "metadata": {"creationTimestamp": "2026-01-02T03:04:05Z"},
                "spec": {"containers": [{"resources": {"limits": {"cpu": "1k", "memory": "1Gi"}}}],
                    "volumes": [{"emptyDir": {"sizeLimit": "1Gi"}}]},
            })
        );
        assert!(!pod(object).is_unsettled);
        let lease = find_kind("coordination.k8s.io", "v1", "leases").unwrap();
        let mut object = json!({"spec": {"renewTime": "2026-01-02T03:04:05+00:00"}});
        settle(lease, &mut object);
        assert_eq!(object["spec"]["renewTime"], "2026-01-02T03:04:05.000000Z");
        let secret = find_kind("", "v1", "secrets").unwrap();
        let mut object = json!({"data": {"a": "QUJD\nREVG\n", "b": null}});
        settle(secret, &mut object);
        assert_eq!(object["data"], json!({"a": "QUJDREVG", "b": null}));
    }

    #[test]
    fn unknown_fields_are_named_by_their_path() {
        let report = pod(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "lables": {}},
            "spec": {"foo": 1, "containers": [{"name": "c", "imagePullPolicie": "x"}], "nodeSelector": {"any": "thing"}},
        }));
        assert_eq!(
            report.unknown,
            [
                "unknown field \"metadata.lables\"",
                "unknown field \"spec.containers[0].imagePullPolicie\"",
                "unknown field \"spec.foo\"",
            ]
        );
        assert!(report.mistyped.is_empty());
    }

    #[test]
    fn wrong_types_are_named_in_the_decoders_words() {
        let cases = [
            (
                json!({"spec": {"containers": [{"image": 1}]}}),
                "json: cannot unmarshal number into Go struct field Pod.spec.containers.image of type string",
            ),
            (
                json!({"spec": {"hostNetwork": "yes"}}),
                "json: cannot unmarshal string into Go struct field Pod.spec.hostNetwork of type bool",
            ),
            (json!({"spec": "x"}), "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec"),
            (
                json!({"spec": {"containers": {}}}),
                "json: cannot unmarshal object into Go struct field Pod.spec.containers of type a list",
            ),
            (
                json!({"spec": {"priority": 3_000_000_000u32}}),
                "json: cannot unmarshal number 3000000000 into Go struct field Pod.spec.priority of type int32",
            ),
            (
                json!({"spec": {"terminationGracePeriodSeconds": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field Pod.spec.terminationGracePeriodSeconds of type int64",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field Pod.metadata.labels.a of type string",
            ),
        ];
        for (object, message) in cases {
            let report = pod(object.clone());
            assert_eq!(report.mistyped.first().map(|m| m.message.as_str()), Some(message), "{object}");
        }
    }

    #[test]
    fn inner_decoders_are_asked() {
        let quantity = pod(json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1x"}}}]}}));
        assert_eq!(quantity.mistyped[0].field, "spec.containers[0].resources.limits.cpu");
        let time = pod(json!({"metadata": {"creationTimestamp": "yesterday"}}));
        assert!(time.mistyped[0].message.starts_with("metadata.creationTimestamp: parsing time \"yesterday\""));
        let secret = find_kind("", "v1", "secrets").unwrap();
        let bytes = check(secret, &json!({"data": {"a": "not base64!"}}));
        assert!(bytes.mistyped[0].message.starts_with("data.a: illegal base64 data at input byte"));
    }

    #[test]
    fn pruning_drops_what_is_unknown_and_what_is_null() {
        let mut object = json!({
            "metadata": {"name": "a", "creationTimestamp": null}, "odd": 1,
            "spec": {"nodeSelector": {"any": "thing"}, "containers": [{"name": "c", "imagePullPolicie": "x"}]},
        });
        prune(find_kind("", "v1", "pods").unwrap(), &mut object);
        assert_eq!(
            object,
            json!({"metadata": {"name": "a"}, "spec": {"nodeSelector": {"any": "thing"}, "containers": [{"name": "c"}]}})
        );
    }

    #[test]
    fn null_and_both_forms_of_ports_and_quantities_pass() {
        let report = pod(json!({
            "metadata": {"creationTimestamp": null, "labels": null},
            "spec": {
                "terminationGracePeriodSeconds": 10, "containers": [{
                    "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"httpGet": {"port": 80}},
                }],
            },
        }));
        // The server writes the number of processors as text.
        assert_eq!(report, SchemaReport { is_unsettled: true, ..SchemaReport::default() });
    }
}
