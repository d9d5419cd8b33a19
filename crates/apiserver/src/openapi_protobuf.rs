//! The OpenAPI v2 document as the protobuf message that Go clients ask for (`openapi.v2.Document` of gnostic).
//!
//! kubectl before 1.27 knows no other: `explain`, `diff`, `--dry-run=server` and its own validation read it. Only what
//! [`crate::openapi`] writes is translated; what stands in a document otherwise is left out. Pure. Start at [`encode`].

use api::look;
use serde_json::Value;

/// The media type.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document as bytes.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut paths = Message::default();
    for (name, item) in members(&document["paths"]) {
        paths.message(2, named(name, path_item(item)));
    }
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.message(2, {
        let mut information = Message::default();
        information.text(1, &document["info"]["title"]);
        information.text(2, &document["info"]["version"]);
        information
    });
    out.message(8, paths);
    out.message(9, schemas(&document["definitions"]));
    out.0
}

/// Bytes of a message that is being written. What is absent is not written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, field: u64, content: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(content.len() as u64);
        self.0.extend_from_slice(content);
    }

    fn message(&mut self, field: u64, content: Message) {
        self.bytes(field, &content.0);
    }

    fn text(&mut self, field: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, list: &Value) {
        list.as_array().into_iter().flatten().for_each(|item| self.text(field, item));
    }

    fn flag(&mut self, field: u64, value: &Value) {
        if value == true {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    /// Everything that begins with `x-`, each value as YAML, which JSON is.
    fn extensions(&mut self, field: u64, of: &Value) {
        for (name, value) in members(of).filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Message::default();
            any.bytes(2, value.to_string().as_bytes());
            self.message(field, named(name, any));
        }
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// A message around another one: what it holds is its only field.
fn around(field: u64, content: Message) -> Message {
    let mut out = Message::default();
    out.message(field, content);
    out
}

/// An entry of a map.
fn named(name: &str, value: Message) -> Message {
    let mut out = Message::default();
    out.bytes(1, name.as_bytes());
    out.message(2, value);
    out
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(found) = look::get(item, method) {
            out.message(field, operation(found));
        }
    }
    parameters(&mut out, 9, &item["parameters"]);
    out
}

fn operation(from: &Value) -> Message {
    let mut out = Message::default();
    out.text(5, &from["operationId"]);
    out.texts(6, &from["produces"]);
    out.texts(7, &from["consumes"]);
    parameters(&mut out, 8, &from["parameters"]);
    let mut responses = Message::default();
    for (code, told) in members(&from["responses"]) {
        let mut response = Message::default();
        response.text(1, &told["description"]);
        response.message(2, around(1, schema(&told["schema"])));
        responses.message(1, named(code, around(1, response)));
    }
    out.message(9, responses);
    out.extensions(13, from);
    out
}

fn parameters(out: &mut Message, field: u64, list: &Value) {
    for item in list.as_array().into_iter().flatten() {
        out.message(field, around(1, parameter(item)));
    }
}

fn parameter(from: &Value) -> Message {
    let mut out = Message::default();
    if from["in"] == "body" {
        out.text(2, &from["name"]);
        out.text(3, &from["in"]);
        out.flag(4, &from["required"]);
        out.message(5, schema(&from["schema"]));
        return around(1, out);
    }
    let (kind, sort, unique) = if from["in"] == "path" { (4, 5, 19) } else { (3, 6, 20) };
    out.flag(1, &from["required"]);
    out.text(2, &from["in"]);
    out.text(4, &from["name"]);
    out.text(sort, &from["type"]);
    out.flag(unique, &from["uniqueItems"]);
    around(2, around(kind, out))
}

/// A map of schemas.
fn schemas(map: &Value) -> Message {
    let mut out = Message::default();
    for (name, found) in members(map) {
        out.message(1, named(name, schema(found)));
    }
    out
}

fn schema(from: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &from["$ref"]);
    out.text(2, &from["format"]);
    out.text(4, &from["description"]);
    out.texts(19, &from["required"]);
    if let Some(values) = look::get(from, "additionalProperties") {
        out.message(21, around(1, schema(values)));
    }
    if let Some(sort) = from["type"].as_str() {
        let mut sorts = Message::default();
        sorts.bytes(1, sort.as_bytes());
        out.message(22, sorts);
    }
    if let Some(items) = look::get(from, "items") {
        out.message(23, around(1, schema(items)));
    }
    if let Some(properties) = look::get(from, "properties") {
        out.message(25, schemas(properties));
    }
    out.extensions(31, from);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_written_field_by_field() {
        let document = json!({
            "swagger": "2.0", "info": {"title": "K", "version": "v"},
            "paths": {"/a": {"patch": {
                "parameters": [{"name": "dryRun", "in": "query", "type": "string", "uniqueItems": true, "required": false}],
                "x-k": {"kind": "A"},
            }}},
            "definitions": {"A": {"type": "array", "items": {"$ref": "#/b"}}},
        });
        let query = [&[0x12, 5][..], b"query", &[0x22, 6], b"dryRun", &[0x32, 6], b"string", &[0xa0, 1, 1]].concat();
        assert_eq!(query.len(), 26);
        let parameter = [&[0x42, 32, 0x0a, 30, 0x12, 28, 0x1a, 26][..], &query].concat();
        let extension = [&[0x6a, 21, 0x0a, 3][..], b"x-k", &[0x12, 14, 0x12, 12], br#"{"kind":"A"}"#].concat();
        let operation = [&parameter[..], &[0x4a, 0], &extension].concat();
        let item = [&[0x42, operation.len() as u8][..], &operation].concat();
        let entry = [&[0x0a, 2][..], b"/a", &[0x12, item.len() as u8], &item].concat();
        let paths = [&[0x12, entry.len() as u8][..], &entry].concat();
        let array = [&[0xb2, 1, 7, 0x0a, 5][..], b"array", &[0xba, 1, 7, 0x0a, 5, 0x0a, 3], b"#/b"].concat();
        let definition = [&[0x0a, 1][..], b"A", &[0x12, array.len() as u8], &array].concat();
        let definitions = [&[0x0a, definition.len() as u8][..], &definition].concat();
        let expected = [
            &[0x0a, 3][..],
            b"2.0",
            &[0x12, 6, 0x0a, 1],
            b"K",
            &[0x12, 1],
            b"v",
            &[0x42, paths.len() as u8],
            &paths,
            &[0x4a, definitions.len() as u8],
            &definitions,
        ];
        assert_eq!(encode(&document), expected.concat());
    }

    #[test]
    fn long_lengths_take_several_bytes() {
        let mut out = Message::default();
        out.bytes(1, &[7; 300]);
        assert_eq!(out.0[..3], [0x0a, 0xac, 0x02]);
    }
}
