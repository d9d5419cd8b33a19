//! Bodies: media types in, JSON values out; duplicate fields found on the way.
//!
//! Pure. Start at [`decode`] for bodies and [`Output::negotiate`] for answers.

use http::HeaderMap;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::protobuf;
use crate::status::Status;

/// The largest body this server reads, in bytes.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// A decoded body.
#[derive(Debug)]
pub struct Decoded {
    /// The document.
    pub value: Value,
    /// Paths of fields that are there twice; the last one won.
    pub duplicates: Vec<String>,
}

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
    let mut duplicates = Vec::new();
    let mut path = String::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Watchful { path: &mut path, duplicates: &mut duplicates };
    let value = seed
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| Status::bad_request(format!("error decoding the request body: {error}")))?;
    Ok(Decoded { value, duplicates })
}

/// Decodes an applied configuration: YAML, which JSON is too.
pub fn decode_applied(body: &[u8]) -> Result<Decoded, Status> {
    let json = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if json && let Ok(decoded) = decode_json(body) {
        return Ok(decoded);
    }
    decode_yaml(body).map_err(|status| {
        Status::bad_request(status.message.replace("error converting YAML to JSON", "error decoding YAML"))
    })
}

fn decode_yaml(body: &[u8]) -> Result<Decoded, Status> {
    let text = std::str::from_utf8(body).map_err(|_| Status::bad_request("the request body is not UTF-8"))?;
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: {error}")))?;
    Ok(Decoded { value, duplicates: Vec::new() })
}

/// Builds a [`Value`] and remembers which fields came twice.
struct Watchful<'a> {
    path: &'a mut String,
    duplicates: &'a mut Vec<String>,
}

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

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        let length = self.path.len();
        loop {
            self.path.push_str(&format!("[{}]", out.len()));
            let next = items.next_element_seed(Watchful { path: self.path, duplicates: self.duplicates })?;
            self.path.truncate(length);
            match next {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        let length = self.path.len();
        while let Some(key) = entries.next_key::<String>()? {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if self.path.len() > 4096 {
                return Err(A::Error::custom("the document is nested too deeply"));
            }
            let value = entries.next_value_seed(Watchful { path: self.path, duplicates: self.duplicates })?;
            if out.contains_key(&key) && !self.duplicates.contains(self.path) {
                self.duplicates.push(self.path.clone());
            }
            self.path.truncate(length);
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
}
