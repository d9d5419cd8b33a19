//! Protobuf bodies: what typed Go clients send for built-in kinds, kubectl's own `create` commands among them.
//!
//! Requests only: answers are JSON, which those clients accept too. What a message means is in two tables: the numbers of
//! fields here, their shapes in the schema facts of `api`. The table `numbers.txt` is derived by
//! `xtask/protobuf_numbers.py` and never edited. Its form, line by line: `=core.v1.Pod` begins a type; `name 3` is a field
//! and its number, with ` z` when its zero value means that it is absent; `~2 core.v1.VolumeSource` stands for the fields
//! of another type, which travel in a message of their own.
//!
//! Pure; the bytes are untrusted. Start at [`decode`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use api::schema::{self, Shape};
use api::weight;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use crate::status::Status;
use wire::{Fields, Wire};

mod wire;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// Messages inside of messages; the deepest of the API is a dozen.
const DEPTH_MAX: usize = 64;

/// How deep a message may go yet, and how much all of them may weigh.
#[derive(Clone, Copy)]
struct Room<'a> {
    depth: usize,
    left: &'a Cell<usize>,
}

impl Room<'_> {
    fn deeper(self) -> Option<Self> {
        Some(Room { depth: self.depth.checked_sub(1)?, ..self })
    }

    fn take(self, bytes: usize) -> Option<()> {
        self.left.set(self.left.get().saturating_sub(bytes));
        (self.left.get() > 0).then_some(())
    }
}

const NUMBERS: &str = include_str!("numbers.txt");

/// What a number means.
#[derive(Debug, PartialEq)]
enum Meaning {
    /// A field, and whether its zero value means that it is absent.
    Field(&'static str, bool),
    /// The fields of another type.
    Inline(&'static str),
}

type Numbers = BTreeMap<&'static str, BTreeMap<u64, Meaning>>;

static TYPES: LazyLock<Numbers> = LazyLock::new(|| {
    let mut types = Numbers::new();
    let mut current = "";
    for line in NUMBERS.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('=') {
            current = name;
            continue;
        }
        let mut words = line.split(' ');
        let (first, second, last) = (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next());
        let (number, meaning) = match first.strip_prefix('~') {
            Some(number) => (number, Meaning::Inline(second)),
            None => (second, Meaning::Field(first, last == Some("z"))),
        };
        // A test reads the table whole.
        let number = number.parse().expect("the numbers are numbers");
        types.entry(current).or_default().insert(number, meaning);
    }
    types
});

/// Decodes an enveloped object; a kind that is not in the table is 415.
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
    let name = type_name(&api_version, &kind).ok_or_else(unknown)?;
    let mut object = Value::Object(Map::new());
    let left = Cell::new(weight::DOCUMENT_BYTES_MAX);
    let room = Room { depth: DEPTH_MAX, left: &left };
    message(raw, name, &mut object, room).ok_or_else(|| match left.get() {
        0 => Status::too_much(&format!("the document takes more than {} bytes of memory", weight::DOCUMENT_BYTES_MAX)),
        _ => broken(),
    })?;
    api::look::set(&mut object, "apiVersion", api_version);
    api::look::set(&mut object, "kind", kind);
    Ok(object)
}

/// The type of a kind in the schema facts. DeleteOptions are of every group.
fn type_name(api_version: &str, kind: &str) -> Option<&'static str> {
    if kind == "DeleteOptions" {
        return Some("meta.v1.DeleteOptions");
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let is = |found: &schema::GroupVersionKind| (found.group, found.version, found.kind) == (group, version, kind);
    let found = schema::types().find(|found| found.kind.as_ref().is_some_and(is))?;
    TYPES.contains_key(found.name).then_some(found.name)
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Adds the fields of a message to an object; None if the bytes are broken. Empty texts are absent, as in JSON.
fn message(bytes: &[u8], name: &'static str, out: &mut Value, room: Room<'_>) -> Option<()> {
    match schema::find(name) {
        Some(found) => fields(bytes, name, found, out, room),
        None => Some(()),
    }
}

/// The fields of `name` as they stand in the type `found`, which is another one where they are inlined.
fn fields(bytes: &[u8], name: &str, found: &schema::Type, out: &mut Value, room: Room<'_>) -> Option<()> {
    let room = room.deeper()?;
    let Some(numbers) = TYPES.get(name) else { return Some(()) };
    for item in Fields(bytes) {
        let (number, wire) = item?;
        match numbers.get(&number) {
            // Of a newer version than ours, or not for the wire.
            None => {}
            Some(Meaning::Inline(target)) => {
                let Wire::Bytes(inner) = wire else { return None };
                fields(inner, target, found, out, room)?;
            }
            Some(Meaning::Field(field, zero_is_absent)) => {
                let Some(known) = found.field(field) else { continue };
                add(out, field, &known.shape, (&wire, *zero_is_absent), room)?;
            }
        }
    }
    Some(())
}

/// Adds one occurrence of a field: an item of a list, an entry of a map, or the value itself.
fn add(
    out: &mut Value,
    field: &str,
    shape: &Shape,
    (wire, zero_is_absent): (&Wire<'_>, bool),
    room: Room<'_>,
) -> Option<()> {
    room.take(weight::ITEM + weight::of_entry(api::look::fields(out).len(), field))?;
    match shape {
        Shape::List(inner) => {
            let items =
                api::look::fields(out).entry(field).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
            // As in JSON.
            if items.len() >= weight::LIST_ITEMS_MAX {
                return room.take(usize::MAX);
            }
            match (inner.as_ref(), wire) {
                // Numbers may travel packed.
                (Shape::Int32 | Shape::Int64, Wire::Bytes(bytes)) => {
                    room.take(bytes.len() * weight::ITEM)?;
                    items.extend(wire::packed(bytes)?.map(Value::from))
                }
                _ => items.push(value(wire, inner, room)?),
            }
        }
        Shape::Map(inner) => {
            let Wire::Bytes(bytes) = wire else { return None };
            let (key, value) = entry(bytes, inner, room)?;
            let entries = api::look::child(out, field);
            room.take(weight::of_entry(api::look::fields(entries).len(), &key))?;
            api::look::set(entries, &key, value);
        }
        shape => {
            let value = value(wire, shape, room)?;
            let empty = value == "" || value.is_null();
            if !empty && !(zero_is_absent && (value == 0 || value == false)) {
                api::look::set(out, field, value);
            }
        }
    }
    Some(())
}

fn entry(bytes: &[u8], shape: &Shape, room: Room<'_>) -> Option<(String, Value)> {
    let (mut key, mut found) = (String::new(), Value::String(String::new()));
    for item in Fields(bytes) {
        match item? {
            (1, Wire::Bytes(text)) => key = text_of(text),
            (2, wire) => found = value(&wire, shape, room)?,
            _ => {}
        }
    }
    Some((key, found))
}

fn value(wire: &Wire<'_>, shape: &Shape, room: Room<'_>) -> Option<Value> {
    Some(match (shape, wire) {
        (Shape::Text, Wire::Bytes(bytes)) => Value::String(std::str::from_utf8(bytes).ok()?.to_owned()),
        (Shape::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Shape::Boolean, Wire::Number(number)) => Value::Bool(*number != 0),
        (Shape::Int32 | Shape::Int64, Wire::Number(number)) => Value::from(number.cast_signed()),
        (Shape::Number, Wire::Double(number)) => Value::Number(Number::from_f64(*number)?),
        (Shape::Object(name), Wire::Bytes(bytes)) => {
            let mut object = Value::Object(Map::new());
            message(bytes, name, &mut object, room)?;
            object
        }
        (Shape::Quantity, Wire::Bytes(bytes)) => match text_field(bytes, 1)? {
            text if text.is_empty() => Value::from("0"),
            text => Value::from(text),
        },
        (Shape::IntOrText, Wire::Bytes(bytes)) => match number_field(bytes, 1)? {
            0 => Value::from(number_field(bytes, 2)?),
            _ => Value::from(text_field(bytes, 3)?),
        },
        (Shape::Time | Shape::MicroTime, Wire::Bytes(bytes)) => {
            // The zero time travels as an empty message.
            let seconds = number_field(bytes, 1)?;
            if seconds <= 0 {
                return Some(Value::Null);
            }
            let nanos = i32::try_from(number_field(bytes, 2)?).ok()?;
            let time = api::Timestamp::new(seconds, nanos).ok()?;
            let micro = matches!(shape, Shape::MicroTime);
            Value::from(if micro { api::time::micros(time) } else { api::time::seconds(time) })
        }
        // Raw JSON: an object that the schema leaves open.
        (Shape::Any, Wire::Bytes(bytes)) => {
            let text = text_field(bytes, 1)?;
            if text.is_empty() {
                return Some(Value::Null);
            }
            let any = crate::codec::decode_json(text.as_bytes()).ok()?.value;
            room.take(weight::of(&any).0)?;
            any
        }
        _ => return None,
    })
}

fn text_field(bytes: &[u8], wanted: u64) -> Option<String> {
    let mut found = String::new();
    for item in Fields(bytes) {
        if let (number, Wire::Bytes(text)) = item?
            && number == wanted
        {
            found = std::str::from_utf8(text).ok()?.to_owned();
        }
    }
    Some(found)
}

fn number_field(bytes: &[u8], wanted: u64) -> Option<i64> {
    let mut found = 0;
    for item in Fields(bytes) {
        if let (number, Wire::Number(value)) = item?
            && number == wanted
        {
            found = value.cast_signed();
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn varint(number: u8, value: u8) -> Vec<u8> {
        vec![number << 3, value]
    }

    fn enveloped(api_version: &[u8], kind: &[u8], raw: &[u8]) -> Vec<u8> {
        let type_meta = [bytes(1, api_version), bytes(2, kind)].concat();
        [MAGIC.to_vec(), bytes(1, &type_meta), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
    }

    fn secret() -> Vec<u8> {
        let meta =
            [bytes(1, b"s"), bytes(2, b""), bytes(8, b""), bytes(11, &[bytes(1, b"k"), bytes(2, b"v")].concat())];
        let data = [bytes(1, b"key"), bytes(2, b"hello")].concat();
        let raw = [bytes(1, &meta.concat()), bytes(2, &data), bytes(3, b"Opaque")].concat();
        enveloped(b"v1", b"Secret", &raw)
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
    fn inlined_messages_choices_and_zeroes_read_as_in_json() {
        let get = bytes(2, &[bytes(1, b"/x"), bytes(2, &[varint(1, 0), varint(2, 80)].concat())].concat());
        let probe = [bytes(1, &get), varint(2, 0), varint(3, 7)].concat();
        let container = [bytes(1, b"c"), bytes(2, b"img"), bytes(10, &probe)].concat();
        let volume = [bytes(1, b"v"), bytes(2, &bytes(2, b""))].concat();
        let spec = [bytes(1, &volume), bytes(2, &container), varint(4, 0), varint(11, 0)].concat();
        let pod = enveloped(b"v1", b"Pod", &[bytes(1, &bytes(1, b"p")), bytes(2, &spec)].concat());
        let pod = decode(&pod).unwrap();
        assert_eq!(
            pod["spec"],
            json!({
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "c", "image": "img",
                    "livenessProbe": {"httpGet": {"path": "/x", "port": 80}, "timeoutSeconds": 7}}],
                // A pointer in Go: its zero was meant.
                "terminationGracePeriodSeconds": 0,
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
        assert_eq!(decode(&enveloped(b"v1", b"Nonsense", b"")).unwrap_err().code, 415);
        assert_eq!(decode(&enveloped(b"example.com/v1", b"Pod", b"")).unwrap_err().code, 415);
        let mut deep = Vec::new();
        for _ in 0..60 {
            deep = if deep.len() > 100 { break } else { bytes(1, &deep) };
        }
        let _ = decode(&enveloped(b"v1", b"Pod", &deep));
    }

    #[test]
    fn every_served_kind_and_all_it_reaches_has_numbers() {
        for kind in api::kinds() {
            assert!(TYPES.contains_key(kind.schema), "{kind:?}");
            let found = schema::find(kind.schema).unwrap();
            for field in found.fields.iter().filter(|field| !["apiVersion", "kind"].contains(&field.name)) {
                let known = TYPES[kind.schema]
                    .values()
                    .any(|meaning| matches!(meaning, Meaning::Field(name, _) if *name == field.name));
                assert!(known, "{kind:?} {}", field.name);
            }
        }
    }
}
