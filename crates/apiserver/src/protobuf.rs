//! Protobuf bodies of the small kinds that kubectl's own `create` commands send that way.
//!
//! Requests only: answers are JSON, which those clients accept too. Kinds that are not in [`MESSAGES`] are 415. Pure; the
//! bytes are untrusted. Start at [`decode`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::status::Status;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";

/// What a field holds.
enum Shape {
    Text,
    Bytes,
    Flag,
    Integer,
    Time,
    MicroTime,
    Quantity,
    Message(&'static [Field]),
    Map(&'static Shape),
}

/// Number, JSON name, shape, and whether it is a list.
struct Field(u64, &'static str, Shape, bool);

const fn one(number: u64, name: &'static str, shape: Shape) -> Field {
    Field(number, name, shape, false)
}

const fn many(number: u64, name: &'static str, shape: Shape) -> Field {
    Field(number, name, shape, true)
}

static OWNER: &[Field] = &[
    one(1, "kind", Shape::Text),
    one(3, "name", Shape::Text),
    one(4, "uid", Shape::Text),
    one(5, "apiVersion", Shape::Text),
    one(6, "controller", Shape::Flag),
    one(7, "blockOwnerDeletion", Shape::Flag),
];

static META: &[Field] = &[
    one(1, "name", Shape::Text),
    one(2, "generateName", Shape::Text),
    one(3, "namespace", Shape::Text),
    one(5, "uid", Shape::Text),
    one(6, "resourceVersion", Shape::Text),
    one(8, "creationTimestamp", Shape::Time),
    one(9, "deletionTimestamp", Shape::Time),
    one(10, "deletionGracePeriodSeconds", Shape::Integer),
    one(11, "labels", Shape::Map(&Shape::Text)),
    one(12, "annotations", Shape::Map(&Shape::Text)),
    many(13, "ownerReferences", Shape::Message(OWNER)),
    many(14, "finalizers", Shape::Text),
];

const METADATA: Field = one(1, "metadata", Shape::Message(META));

static SECRET: &[Field] = &[
    METADATA,
    one(2, "data", Shape::Map(&Shape::Bytes)),
    one(3, "type", Shape::Text),
    one(4, "stringData", Shape::Map(&Shape::Text)),
    one(5, "immutable", Shape::Flag),
];

static CONFIG_MAP: &[Field] = &[
    METADATA,
    one(2, "data", Shape::Map(&Shape::Text)),
    one(3, "binaryData", Shape::Map(&Shape::Bytes)),
    one(4, "immutable", Shape::Flag),
];

static NAMESPACE: &[Field] = &[METADATA, one(2, "spec", Shape::Message(&[many(1, "finalizers", Shape::Text)]))];

static REFERENCE: &[Field] = &[
    one(1, "kind", Shape::Text),
    one(2, "namespace", Shape::Text),
    one(3, "name", Shape::Text),
    one(4, "uid", Shape::Text),
    one(5, "apiVersion", Shape::Text),
    one(6, "resourceVersion", Shape::Text),
    one(7, "fieldPath", Shape::Text),
];

static SERVICE_ACCOUNT: &[Field] = &[
    METADATA,
    many(2, "secrets", Shape::Message(REFERENCE)),
    many(3, "imagePullSecrets", Shape::Message(&[one(1, "name", Shape::Text)])),
    one(4, "automountServiceAccountToken", Shape::Flag),
];

static PRIORITY_CLASS: &[Field] = &[
    METADATA,
    one(2, "value", Shape::Integer),
    one(3, "globalDefault", Shape::Flag),
    one(4, "description", Shape::Text),
    one(5, "preemptionPolicy", Shape::Text),
];

static DELETE_OPTIONS: &[Field] = &[
    one(1, "gracePeriodSeconds", Shape::Integer),
    one(2, "preconditions", Shape::Message(&[one(1, "uid", Shape::Text), one(2, "resourceVersion", Shape::Text)])),
    one(3, "orphanDependents", Shape::Flag),
    one(4, "propagationPolicy", Shape::Text),
    many(5, "dryRun", Shape::Text),
];

static EVICTION: &[Field] = &[METADATA, one(2, "deleteOptions", Shape::Message(DELETE_OPTIONS))];

static TOLERATION: &[Field] = &[
    one(1, "key", Shape::Text),
    one(2, "operator", Shape::Text),
    one(3, "value", Shape::Text),
    one(4, "effect", Shape::Text),
    one(5, "tolerationSeconds", Shape::Integer),
];

static RUNTIME_CLASS: &[Field] = &[
    METADATA,
    one(2, "handler", Shape::Text),
    one(3, "overhead", Shape::Message(&[one(1, "podFixed", Shape::Map(&Shape::Quantity))])),
    one(
        4,
        "scheduling",
        Shape::Message(&[
            one(1, "nodeSelector", Shape::Map(&Shape::Text)),
            many(2, "tolerations", Shape::Message(TOLERATION)),
        ]),
    ),
];

static QUANTITY: &[Field] = &[one(1, "string", Shape::Text)];

static TIME: &[Field] = &[one(1, "seconds", Shape::Integer), one(2, "nanos", Shape::Integer)];

static LEASE: &[Field] = &[
    METADATA,
    one(
        2,
        "spec",
        Shape::Message(&[
            one(1, "holderIdentity", Shape::Text),
            one(2, "leaseDurationSeconds", Shape::Integer),
            one(3, "acquireTime", Shape::MicroTime),
            one(4, "renewTime", Shape::MicroTime),
            one(5, "leaseTransitions", Shape::Integer),
        ]),
    ),
];

/// The kinds that are understood.
static MESSAGES: &[(&str, &[Field])] = &[
    ("Secret", SECRET),
    ("ConfigMap", CONFIG_MAP),
    ("Namespace", NAMESPACE),
    ("ServiceAccount", SERVICE_ACCOUNT),
    ("PriorityClass", PRIORITY_CLASS),
    ("RuntimeClass", RUNTIME_CLASS),
    ("Lease", LEASE),
    ("Eviction", EVICTION),
    ("DeleteOptions", DELETE_OPTIONS),
];

/// Decodes an enveloped object; a kind that is not understood is 415.
pub fn decode(body: &[u8]) -> Result<Value, Status> {
    let unknown = || Status::unsupported_media_type(&["application/json", "application/yaml"]);
    let broken = || Status::bad_request("error decoding the request body: it is not a protobuf object");
    let envelope = body.strip_prefix(MAGIC).ok_or_else(broken)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field.ok_or_else(broken)? {
            (1, Wire::Bytes(type_meta)) => {
                for field in Fields(type_meta) {
                    match field.ok_or_else(broken)? {
                        (1, Wire::Bytes(text)) => api_version = text_of(text),
                        (2, Wire::Bytes(text)) => kind = text_of(text),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (_, fields) = MESSAGES.iter().find(|(name, _)| *name == kind).ok_or_else(unknown)?;
    let mut object = message(raw, fields).ok_or_else(broken)?;
    api::look::set(&mut object, "apiVersion", api_version);
    api::look::set(&mut object, "kind", kind);
    Ok(object)
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A message as a JSON object; None if the bytes are broken. Empty texts are absent, as in JSON.
fn message(bytes: &[u8], fields: &'static [Field]) -> Option<Value> {
    let mut out = Map::new();
    for item in Fields(bytes) {
        let (number, wire) = item?;
        let Some(Field(_, name, shape, list)) = fields.iter().find(|f| f.0 == number) else { continue };
        if let Shape::Map(of) = shape {
            let (key, value) = entry(&wire, of)?;
            if let Some(map) = out.entry(*name).or_insert_with(|| json!({})).as_object_mut() {
                map.insert(key, value);
            }
            continue;
        }
        let value = value(&wire, shape)?;
        if *list {
            if let Some(list) = out.entry(*name).or_insert_with(|| json!([])).as_array_mut() {
                list.push(value);
            }
        } else if value != "" && !value.is_null() {
            out.insert((*name).to_owned(), value);
        }
    }
    Some(Value::Object(out))
}

fn entry(wire: &Wire<'_>, of: &Shape) -> Option<(String, Value)> {
    let Wire::Bytes(bytes) = wire else { return None };
    let (mut key, mut found) = (String::new(), Value::String(String::new()));
    for item in Fields(bytes) {
        match item? {
            (1, Wire::Bytes(text)) => key = text_of(text),
            (2, wire) => found = value(&wire, of)?,
            _ => {}
        }
    }
    Some((key, found))
}

fn value(wire: &Wire<'_>, shape: &Shape) -> Option<Value> {
    Some(match (shape, wire) {
        (Shape::Text, Wire::Bytes(bytes)) => Value::String(std::str::from_utf8(bytes).ok()?.to_owned()),
        (Shape::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Shape::Flag, Wire::Number(number)) => Value::Bool(*number != 0),
        (Shape::Integer, Wire::Number(number)) => Value::from(number.cast_signed()),
        (Shape::Message(fields), Wire::Bytes(bytes)) => message(bytes, fields)?,
        (Shape::Quantity, Wire::Bytes(bytes)) => {
            let inner = message(bytes, QUANTITY)?;
            inner.get("string").cloned().unwrap_or_else(|| Value::from("0"))
        }
        (Shape::Time | Shape::MicroTime, Wire::Bytes(bytes)) => {
            let inner = message(bytes, TIME)?;
            // The zero time travels as an empty message.
            let Some(seconds) = api::look::integer(&inner, "seconds").filter(|s| *s > 0) else {
                return Some(Value::Null);
            };
            let nanos = i32::try_from(api::look::integer(&inner, "nanos").unwrap_or(0)).ok()?;
            let time = api::Timestamp::new(seconds, nanos).ok()?;
            let micro = matches!(shape, Shape::MicroTime);
            Value::from(if micro { api::time::micros(time) } else { api::time::seconds(time) })
        }
        _ => return None,
    })
}

/// A value as it stands on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; an item is None where the bytes are broken, and then there are no more.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(first & 0x7f).checked_shl(shift)?;
            if first & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn secret() -> Vec<u8> {
        let type_meta = [bytes(1, b"v1"), bytes(2, b"Secret")].concat();
        let meta =
            [bytes(1, b"s"), bytes(2, b""), bytes(8, b""), bytes(11, &[bytes(1, b"k"), bytes(2, b"v")].concat())];
        let data = [bytes(1, b"key"), bytes(2, b"hello")].concat();
        let raw = [bytes(1, &meta.concat()), bytes(2, &data), bytes(3, b"Opaque")].concat();
        [MAGIC.to_vec(), bytes(1, &type_meta), bytes(2, &raw), bytes(3, b""), bytes(4, b"")].concat()
    }

    #[test]
    fn a_secret_is_decoded() {
        assert_eq!(
            decode(&secret()).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"key": "aGVsbG8="},
                "metadata": {"name": "s", "labels": {"k": "v"}},
            })
        );
    }

    #[test]
    fn broken_bytes_and_unknown_kinds_are_refused() {
        let whole = secret();
        for length in 0..whole.len() {
            // Cut anywhere: refused or a shorter object, never a panic.
            let _ = decode(&whole[..length]);
        }
        assert_eq!(decode(b"{}").unwrap_err().code, 400);
        let pod = [MAGIC.to_vec(), bytes(1, &bytes(2, b"Pod"))].concat();
        assert_eq!(decode(&pod).unwrap_err().code, 415);
    }
}
