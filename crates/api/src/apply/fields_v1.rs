//! FieldsV1: sets of fields as JSON, and the entries of `metadata.managedFields` around them.
//!
//! Bytes that this module wrote are read as they are; what a client sent is put into the same form by [`Set::canonical`].

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::managers::{Entry, Operation};
use super::set::{Branch, Set};

impl<'de> Deserialize<'de> for Set {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Set, D::Error> {
        Ok(Branch::deserialize(deserializer)?.below)
    }
}

impl<'de> Deserialize<'de> for Branch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Branch, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Branch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a set of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Branch, A::Error> {
        let mut branch = Branch::default();
        while let Some(element) = entries.next_key::<Box<str>>()? {
            match element.get(..2) {
                Some("f:" | "k:" | "v:" | "i:") => {
                    let mut below: Branch = entries.next_value()?;
                    // What has nothing below it is meant itself.
                    below.member |= below.below.is_empty();
                    branch.below.add(element, below);
                }
                // A sort of element that this version does not know is dropped, as upstream does.
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                    branch.member |= element.as_ref() == ".";
                }
            }
        }
        Ok(branch)
    }
}

impl Set {
    /// Appends the set as FieldsV1.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        self.write_nodes(true, out);
        out.push(b'}');
    }

    fn write_nodes(&self, first: bool, out: &mut Vec<u8>) {
        for (index, node) in self.nodes().iter().enumerate() {
            if index > 0 || !first {
                out.push(b',');
            }
            write_text(&node.element, out);
            out.extend_from_slice(b":{");
            let below = &node.branch.below;
            if node.branch.member && !below.is_empty() {
                out.extend_from_slice(b"\".\":{}");
            }
            below.write_nodes(!node.branch.member, out);
            out.push(b'}');
        }
    }

    /// The same set with the keys and values of list items written as this module writes them; None if one of them is no
    /// JSON.
    pub fn canonical(&self) -> Option<Set> {
        let mut out = Set::default();
        for node in self.nodes() {
            let element = match node.element.split_at_checked(2)? {
                ("k:", keys) => {
                    let keys: BTreeMap<String, Value> = serde_json::from_str(keys).ok()?;
                    format!("k:{}", serde_json::to_string(&keys).ok()?).into_boxed_str()
                }
                ("v:", value) => format!("v:{}", serde_json::from_str::<Value>(value).ok()?).into_boxed_str(),
                _ => node.element.clone(),
            };
            let below = node.branch.below.canonical()?;
            out.add(element, Branch { member: node.branch.member, below });
        }
        Some(out)
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("texts always serialise into memory");
    }
}

/// An entry as JSON has it.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    fields_type: String,
    #[serde(default, rename = "fieldsV1")]
    fields: Option<Set>,
    #[serde(default)]
    subresource: String,
}

impl Raw {
    fn entry(self) -> Option<Entry> {
        let operation = match self.operation.as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if !matches!(self.fields_type.as_str(), "FieldsV1") || self.api_version.is_empty() {
            return None;
        }
        Some(Entry {
            manager: self.manager,
            operation,
            api_version: self.api_version,
            subresource: self.subresource,
            time: self.time,
            fields: self.fields.unwrap_or_default(),
        })
    }
}

/// Reads the bytes that [`write`] made; nothing when there are none or they are broken.
pub fn read(bytes: &[u8]) -> Vec<Entry> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let raw: Vec<Raw> = serde_json::from_slice(bytes).unwrap_or_default();
    raw.into_iter().filter_map(Raw::entry).collect()
}

/// Reads what a client sent; None if it is not wholly understood.
pub fn read_foreign(value: &Value) -> Option<Vec<Entry>> {
    let raw = Vec::<Raw>::deserialize(value).ok()?;
    let mut entries = Vec::with_capacity(raw.len());
    for raw in raw {
        let mut entry = raw.entry()?;
        entry.fields = entry.fields.canonical()?;
        entries.push(entry);
    }
    Some(entries)
}

/// Reads one of them.
pub(super) fn read_one(text: &str) -> Option<Entry> {
    serde_json::from_str::<Raw>(text).ok().and_then(Raw::entry)
}

/// The entries as a JSON list; no bytes at all when there are none.
pub fn write(entries: &[Entry]) -> Vec<u8> {
    let mut stored = Stored::default();
    entries.iter().for_each(|entry| stored.add(entry));
    stored.end()
}

/// A JSON list of entries in the making.
#[derive(Default)]
pub(super) struct Stored {
    out: Vec<u8>,
}

impl Stored {
    fn begin(&mut self) -> &mut Vec<u8> {
        if self.out.is_empty() {
            self.out.reserve(2048);
        }
        self.out.push(if self.out.is_empty() { b'[' } else { b',' });
        &mut self.out
    }

    /// Adds an entry as it was written before.
    pub(super) fn pass(&mut self, text: &str) {
        self.begin().extend_from_slice(text.as_bytes());
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, entry: &Entry) {
        let out = self.begin();
        let operation = match entry.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut member = |name: &str, text: &str| {
            out.extend_from_slice(name.as_bytes());
            write_text(text, out);
        };
        member("{\"manager\":", &entry.manager);
        member(",\"operation\":", operation);
        member(",\"apiVersion\":", &entry.api_version);
        if let Some(time) = &entry.time {
            member(",\"time\":", time);
        }
        out.extend_from_slice(b",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":");
        entry.fields.write(out);
        if !entry.subresource.is_empty() {
            out.extend_from_slice(b",\"subresource\":");
            write_text(&entry.subresource, out);
        }
        out.push(b'}');
    }

    /// The list; no bytes when nothing was added.
    pub(super) fn end(mut self) -> Vec<u8> {
        if !self.out.is_empty() {
            self.out.push(b']');
        }
        self.out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_are_written_in_upstreams_form_and_read_back() {
        let text = concat!(
            r#"[{"manager":"kubectl","operation":"Apply","apiVersion":"v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","#,
            r#""fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}}}}},"#,
            r#"{"manager":"kubelet","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:status":{"f:phase":{}}},"subresource":"status"}]"#,
        );
        let entries = read(text.as_bytes());
        assert_eq!(entries.len(), 2);
        assert_eq!(String::from_utf8(write(&entries)).unwrap(), text);
        assert!(write(&[]).is_empty() && read(b"").is_empty() && read(b"[{").is_empty());
    }

    #[test]
    fn a_clients_keys_and_values_are_written_anew() {
        let sent = json!([{
            "manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:p": {"k:{\"protocol\":\"TCP\", \"containerPort\": 80}": {"f:x": {}}, "v: \"a\"": {}, "z:new": {}}},
        }]);
        let entries = read_foreign(&sent).unwrap();
        let mut out = Vec::new();
        entries[0].fields.write(&mut out);
        let expected = r#"{"f:p":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{"f:x":{}},"v:\"a\"":{}}}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn what_is_not_understood_is_refused_whole() {
        let good = json!({"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}});
        assert!(read_foreign(&json!([good])).is_some());
        for (field, value) in [
            ("operation", json!("Create")),
            ("fieldsType", json!("FieldsV2")),
            ("apiVersion", json!("")),
            ("fieldsV1", json!({"f:a": {"k:{name": {}}})),
            ("fieldsV1", json!([])),
            ("fieldsV1", json!({"f:a": 1})),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert!(read_foreign(&json!([good, bad])).is_none(), "{bad}");
        }
        assert!(read_foreign(&json!({})).is_none());
    }
}
