//! Bodies: media types in, JSON values out; duplicate fields found on the way.
//!
//! Pure. Start at [`decode`] for bodies and [`Output::negotiate`] for answers.

use api::schema::COMPLAINTS_MAX;
use api::weight::{self, LIST_ITEMS_MAX};
use http::HeaderMap;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::protobuf;
use crate::status::Status;

/// A decoded body.
#[derive(Debug)]
pub struct Decoded {
    /// The document.
    pub value: Value,
    /// Paths of fields that are there twice; the last one won.
    pub duplicates: Vec<String>,
}

/// The longest path of a field.
const PATH_BYTES_MAX: usize = 4096;

/// The media type of a body without its parameters, lower case.
pub fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Decodes JSON, YAML or (small kinds only) protobuf, whichever the Content-Type says. The rest is 415.
pub fn decode(headers: &HeaderMap, body: &[u8]) -> Result<Decoded, Status> {
    match media_type(headers).as_str() {
        "" | "application/json" | "*/*" => decode_json(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" => decode_yaml(body),
        protobuf::MEDIA_TYPE => Ok(Decoded { value: protobuf::decode(body)?, duplicates: Vec::new() }),
        _ => Err(Status::unsupported_media_type(&["application/json", "application/yaml"])),
    }
}

/// Decodes JSON and lists duplicate fields.
pub fn decode_json(body: &[u8]) -> Result<Decoded, Status> {
    let mut tally = Tally::default();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Watchful(&mut tally)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| tally.refusal("error decoding the request body", &error))?;
    Ok(Decoded { value, duplicates: tally.duplicates })
}

/// Decodes an applied configuration: YAML, which JSON is too.
pub fn decode_applied(body: &[u8]) -> Result<Decoded, Status> {
    let json = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if json {
        match decode_json(body) {
            Err(status) if status.code == 400 => {}
            decoded => return decoded,
        }
    }
    yaml(body, "error decoding YAML")
}

fn decode_yaml(body: &[u8]) -> Result<Decoded, Status> {
    yaml(body, "error converting YAML to JSON")
}

/// Aliases, levels and nodes are bounded by the parser's own budget.
fn yaml(body: &[u8], what: &str) -> Result<Decoded, Status> {
    let text = std::str::from_utf8(body).map_err(|_| Status::bad_request("the request body is not UTF-8"))?;
    let mut tally = Tally::default();
    let value = serde_saphyr::with_deserializer_from_str(text, |yaml| Watchful(&mut tally).deserialize(yaml));
    let value = value.map_err(|error| tally.refusal(what, &error))?;
    Ok(Decoded { value, duplicates: Vec::new() })
}

/// What is counted while a document is built.
#[derive(Default)]
struct Tally {
    path: String,
    /// Paths of fields that came twice, as many as are told.
    duplicates: Vec<String>,
    bytes: usize,
    /// Why the document is refused although it may be well-formed.
    excess: Option<String>,
}

impl Tally {
    fn weigh<E: serde::de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.bytes += bytes;
        if self.bytes <= weight::DOCUMENT_BYTES_MAX {
            return Ok(());
        }
        self.too_much(format!("the document takes more than {} bytes of memory", weight::DOCUMENT_BYTES_MAX))
    }

    fn too_much<E: serde::de::Error>(&mut self, why: String) -> Result<(), E> {
        self.excess = Some(why);
        Err(E::custom("the document is too large"))
    }

    fn refusal(&self, what: &str, error: &dyn std::fmt::Display) -> Status {
        match &self.excess {
            Some(why) => Status::too_much(why),
            None => Status::bad_request(format!("{what}: {error}")),
        }
    }
}

/// Builds a [`Value`], weighs it and remembers which fields came twice.
struct Watchful<'a>(&'a mut Tally);

impl<'de> DeserializeSeed<'de> for Watchful<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Watchful<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.0.weigh(weight::of_text(value))?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let Watchful(tally) = self;
        let mut out = Vec::new();
        let length = tally.path.len();
        loop {
            tally.path.push_str(&format!("[{}]", out.len()));
            let next = items.next_element_seed(Watchful(tally))?;
            tally.path.truncate(length);
            let Some(item) = next else { return Ok(Value::Array(out)) };
            // The operations of a patch are counted by whoever applies them.
            if out.len() >= LIST_ITEMS_MAX && length > 0 {
                tally.too_much(format!("a list has more than {LIST_ITEMS_MAX} items"))?;
            }
            tally.weigh(weight::ITEM)?;
            out.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let Watchful(tally) = self;
        let mut out = Map::new();
        let length = tally.path.len();
        while let Some(key) = entries.next_key::<String>()? {
            if length > 0 {
                tally.path.push('.');
            }
            tally.path.push_str(&key);
            if tally.path.len() > PATH_BYTES_MAX {
                return Err(A::Error::custom("the document is nested too deeply"));
            }
            tally.weigh(weight::of_entry(out.len(), &key))?;
            let value = entries.next_value_seed(Watchful(tally))?;
            let counts = tally.duplicates.len() < COMPLAINTS_MAX;
            if counts && out.contains_key(&key) && !tally.duplicates.contains(&tally.path) {
                tally.duplicates.push(tally.path.clone());
            }
            tally.path.truncate(length);
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

/// What the client wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The object itself.
    Object,
    /// Rows and columns.
    Table,
    /// Only the metadata.
    PartialMetadata,
}

/// Shape and syntax of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Object, Table or metadata.
    pub output: Output,
    /// YAML instead of JSON.
    pub yaml: bool,
    /// Line breaks and indentation.
    pub pretty: bool,
}

impl Format {
    /// The first offer in `Accept` that this server can produce; none is 406.
    pub fn negotiate(headers: &HeaderMap, pretty: bool) -> Result<Format, Status> {
        let plain = Format { output: Output::Object, yaml: false, pretty };
        let Some(accept) = headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()) else { return Ok(plain) };
        for offer in accept.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            let mut parts = offer.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
            let parameter = |name| parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
            let yaml = match media {
                "application/json" | "*/*" | "application/*" | "application/json;stream=watch" => false,
                "application/yaml" => true,
                _ => continue,
            };
            let output = match (parameter("as"), parameter("v"), parameter("g")) {
                (None, _, _) => Output::Object,
                (Some("Table"), Some("v1"), Some("meta.k8s.io")) => Output::Table,
                (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1"), Some("meta.k8s.io")) => {
                    Output::PartialMetadata
                }
                _ => continue,
            };
            return Ok(Format { output, yaml, pretty });
        }
        Err(Status::not_acceptable())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn duplicate_fields_are_found_with_their_path() {
        let body = br#"{"a":1,"a":2,"spec":{"list":[{"x":1,"x":2}]}}"#;
        let decoded = decode_json(body).unwrap();
        assert_eq!(decoded.duplicates, ["a", "spec.list[0].x"]);
        assert_eq!(decoded.value["a"], 2);
    }

    #[test]
    fn accept_takes_the_first_offer_that_is_known() {
        let mut headers = HeaderMap::new();
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        headers.insert("accept", accept.parse().unwrap());
        assert_eq!(Format::negotiate(&headers, false).unwrap().output, Output::Table);
        headers.insert("accept", "application/vnd.kubernetes.protobuf, application/json".parse().unwrap());
        assert_eq!(Format::negotiate(&headers, false).unwrap().output, Output::Object);
        headers.insert("accept", "text/csv".parse().unwrap());
        assert_eq!(Format::negotiate(&headers, false).unwrap_err().code, 406);
    }

    #[test]
    fn garbage_bodies_are_refused_not_trusted() {
        for body in [&b"{"[..], b"", b"{\"a\":1}x", b"\xff\xfe", b"[1,"] {
            assert_eq!(decode_json(body).unwrap_err().code, 400);
        }
        let deep = "[".repeat(100_000);
        assert_eq!(decode_json(deep.as_bytes()).unwrap_err().code, 400);
    }

    fn untrusted() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..8),
            prop::sample::select(vec![
                "{",
                "}",
                "[",
                "]",
                ":",
                ",",
                "\"",
                "\"a\":",
                "1e999",
                "null",
                "\\u0000",
                "\n",
                "  ",
                "- ",
                "a: ",
                "&a ",
                "*a",
                "<<: *a",
                "!!binary ",
                "? ",
                "| ",
                "---\n",
                "k8s\0",
                "\u{12}\u{ff}",
                "\u{feff}",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
        ];
        prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_refused(body in untrusted()) {
            for decoded in [decode_json(&body), decode_applied(&body), decode_yaml(&body)] {
                match decoded {
                    Ok(decoded) => prop_assert!(weight::of(&decoded.value).1 <= weight::DEPTH_MAX),
                    Err(status) => prop_assert!(matches!(status.code, 400 | 413)),
                }
            }
            for body in [body.clone(), [b"k8s\0".to_vec(), body].concat()] {
                if let Err(status) = protobuf::decode(&body) {
                    prop_assert!(matches!(status.code, 400 | 413 | 415));
                }
            }
        }
    }
}
