//! Objects as bytes: the stored form, the served form, and the little that is read out of them without decoding all.
//!
//! The stored form is JSON whose first members are `kind`, `apiVersion` and `metadata`, without a resourceVersion: that
//! is the store's revision and is spliced in when the object leaves. Pure. Start at [`encode`] and [`serve`].

use std::borrow::Cow;

use api::{Kind, Timestamp, look};
use bytes::Bytes;
use serde_json::{Map, Value};
use store::{Entry, Revision};

const METADATA: &[u8] = b"\"metadata\":{";
/// Where the owners of fields stand: first in the metadata, so that they are found without reading the object.
const MANAGED: &[u8] = b"\"managedFields\":";

/// Key of an object, or the prefix of a collection when `name` is None.
pub fn key(kind: &Kind, namespace: Option<&str>, name: Option<&str>) -> String {
    let mut key = kind.storage.prefix();
    if let Some(namespace) = namespace {
        key.push_str(namespace);
        key.push('/');
    }
    if let Some(name) = name {
        key.push_str(name);
    }
    key
}

/// Whether the stored form of `kind` is not the served form.
pub fn is_converted(kind: &Kind) -> bool {
    storage_group(kind) != kind.group
}

/// Group of the kind whose form is stored.
fn storage_group(kind: &Kind) -> &'static str {
    if kind.storage.group == "core" { "" } else { kind.storage.group }
}

/// The stored form, with the owners of its fields as JSON bytes, which may be none. What is not part of it
/// (resourceVersion, selfLink) is left out.
pub fn encode(kind: &Kind, object: &Value, managed: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(2048 + managed.len());
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(kind.kind.as_bytes());
    out.extend_from_slice(b"\",\"apiVersion\":\"");
    out.extend_from_slice(kind.api_version().as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(METADATA);
    let empty = Map::new();
    let members = object.as_object().unwrap_or(&empty);
    let metadata = members.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let dropped = ["resourceVersion", "selfLink", "managedFields"];
    let mut kept = metadata.iter().filter(|(name, _)| !dropped.contains(&name.as_str())).peekable();
    if !managed.is_empty() {
        out.extend_from_slice(MANAGED);
        out.extend_from_slice(managed);
        if kept.peek().is_some() {
            out.push(b',');
        }
    }
    append_members(&mut out, kept);
    out.push(b'}');
    let rest: Vec<_> =
        members.iter().filter(|(name, _)| !["kind", "apiVersion", "metadata"].contains(&name.as_str())).collect();
    if !rest.is_empty() {
        out.push(b',');
        append_members(&mut out, rest.into_iter());
    }
    out.push(b'}');
    Bytes::from(out)
}

fn append_members<'a>(out: &mut Vec<u8>, members: impl Iterator<Item = (&'a String, &'a Value)>) {
    for (index, (name, value)) in members.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        append_json(out, name);
        out.push(b':');
        append_json(out, value);
    }
}

fn append_json(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("values and texts always serialise into memory");
}

/// Appends the served form of stored bytes: the same with `metadata.resourceVersion`.
pub fn append_served(out: &mut Vec<u8>, stored: &[u8], revision: Revision) {
    // The first occurrence is the real one: only `kind` and `apiVersion` come before it.
    let Some(start) = stored.windows(METADATA.len()).position(|window| window == METADATA) else {
        out.extend_from_slice(stored);
        return;
    };
    let split = start + METADATA.len();
    out.extend_from_slice(&stored[..split]);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(revision.to_string().as_bytes());
    out.push(b'"');
    if stored.get(split) != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(&stored[split..]);
}

/// Stored bytes as clients of `kind` read them, with the revision that is shown.
pub fn serve_at(kind: &Kind, stored: &[u8], revision: Revision) -> Bytes {
    let mut out = Vec::with_capacity(stored.len() + 40);
    append_kind(&mut out, kind, stored, revision);
    Bytes::from(out)
}

/// Appends the served form for a kind, converting it where the stored kind is another one.
pub fn append_kind(out: &mut Vec<u8>, kind: &Kind, stored: &[u8], revision: Revision) {
    if is_converted(kind) {
        let object = whole_at(kind, stored, revision);
        append_json(out, &object);
    } else {
        append_served(out, stored, revision);
    }
}

/// The owners of the fields of a stored object, as JSON bytes; empty when there are none.
pub fn managed(stored: &[u8]) -> &[u8] {
    owners_at(stored).map_or(&[], |(start, end)| &stored[start + MANAGED.len()..end])
}

/// Where the member with the owners is.
fn owners_at(stored: &[u8]) -> Option<(usize, usize)> {
    let start = stored.windows(METADATA.len()).position(|window| window == METADATA)? + METADATA.len();
    let list = stored[start..].strip_prefix(MANAGED)?;
    let (mut depth, mut text, mut escaped) = (0usize, false, false);
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            _ if text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some((start, start + MANAGED.len() + at + 1));
                }
            }
            _ => {}
        }
    }
    None
}

/// Stored bytes without the owners.
fn without_owners(stored: &[u8]) -> Cow<'_, [u8]> {
    owners_at(stored).map_or(Cow::Borrowed(stored), |place| Cow::Owned(cut(stored, place)))
}

fn cut(stored: &[u8], (start, end): (usize, usize)) -> Vec<u8> {
    let end = if stored.get(end) == Some(&b',') { end + 1 } else { end };
    [&stored[..start], &stored[end..]].concat()
}

/// The entry as [`decode`] has it, and the owners of its fields as bytes.
pub fn open<'a>(kind: &Kind, entry: &'a Entry) -> (Value, &'a [u8]) {
    let stored: &[u8] = &entry.value;
    let Some((start, end)) = owners_at(stored) else { return (document(kind, stored, entry.modified), &[]) };
    (document(kind, &cut(stored, (start, end)), entry.modified), &stored[start + MANAGED.len()..end])
}

/// The entry as a document of `kind`, with its resourceVersion and without the owners of its fields.
pub fn decode(kind: &Kind, entry: &Entry) -> Value {
    decode_at(kind, &entry.value, entry.modified)
}

/// The same for bytes that are shown with another revision.
pub fn decode_at(kind: &Kind, stored: &[u8], revision: Revision) -> Value {
    document(kind, &without_owners(stored), revision)
}

/// The document with the owners of its fields, as clients see it.
pub fn whole_at(kind: &Kind, stored: &[u8], revision: Revision) -> Value {
    document(kind, stored, revision)
}

fn document(kind: &Kind, bytes: &[u8], revision: Revision) -> Value {
    let mut object: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    if is_converted(kind) {
        kind.rules.convert(&mut object, api::Toward::Served);
        look::set(&mut object, "kind", kind.kind);
        look::set(&mut object, "apiVersion", kind.api_version());
    }
    look::set(look::child(&mut object, "metadata"), "resourceVersion", revision.to_string());
    object
}

/// Turns a document of `kind` and the owners of its fields into bytes for the store.
pub fn to_stored(kind: &Kind, object: &Value, managed: &[u8]) -> Bytes {
    if !is_converted(kind) {
        return encode(kind, object, managed);
    }
    let mut object = object.clone();
    kind.rules.convert(&mut object, api::Toward::Storage);
    let stored_kind =
        api::kinds().iter().find(|k| k.group == storage_group(kind) && k.plural == kind.storage.plural).unwrap_or(kind);
    encode(stored_kind, &object, managed)
}

/// A member of metadata as text; empty when absent.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    look::text_at(object, &["metadata", field])
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// The metadata for writing.
pub fn metadata_mut(object: &mut Value) -> &mut Value {
    look::child(object, "metadata")
}

/// A time as object metadata carries it.
pub fn timestamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The metadata of an object alone, as `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    serde_json::json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| serde_json::json!({})),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_stored_form_has_no_resource_version_and_the_served_form_has_the_revision() {
        let kind = api::find("", "v1", "configmaps").unwrap();
        let object = json!({
            "data": {"metadata": "x", "trap": "\"metadata\":{"},
            "metadata": {"name": "a", "resourceVersion": "7", "managedFields": [], "labels": {"k": "v"}},
        });
        let stored = encode(kind, &object, b"");
        let text = std::str::from_utf8(&stored).unwrap();
        assert!(text.starts_with(r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"#), "{text}");
        assert!(!text.contains("resourceVersion") && !text.contains("managedFields"));
        let served: Value = serde_json::from_slice(&serve_at(kind, &stored, Revision(9))).unwrap();
        assert_eq!(served["metadata"]["resourceVersion"], "9");
        assert_eq!(served["data"], object["data"]);
    }

    #[test]
    fn the_owners_are_cut_out_as_bytes_and_shown_whole() {
        let kind = api::find("", "v1", "configmaps").unwrap();
        let managed = br#"[{"manager":"a\\\"]}","fieldsV1":{"f:data":{"k:{\"n\":\"[\"}":{}}}}]"#;
        for metadata in [json!({"name": "a"}), json!({})] {
            let object = json!({"metadata": metadata, "data": {"x": "y"}});
            let stored = encode(kind, &object, managed);
            assert_eq!(super::managed(&stored), managed);
            let bare = decode_at(kind, &stored, Revision(4));
            assert_eq!(bare["metadata"].get("managedFields"), None);
            assert_eq!((&bare["data"], &bare["metadata"]["resourceVersion"]), (&object["data"], &json!("4")));
            let whole = whole_at(kind, &stored, Revision(4));
            assert_eq!(whole["metadata"]["managedFields"], serde_json::from_slice::<Value>(managed).unwrap());
            assert_eq!(serde_json::from_slice::<Value>(&serve_at(kind, &stored, Revision(4))).unwrap(), whole);
            assert!(super::managed(&encode(kind, &object, b"")).is_empty());
        }
    }

    #[test]
    fn empty_metadata_takes_a_revision_too() {
        let mut out = Vec::new();
        append_served(&mut out, br#"{"kind":"X","apiVersion":"v1","metadata":{}}"#, Revision(3));
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["metadata"]["resourceVersion"], "3");
    }
}
