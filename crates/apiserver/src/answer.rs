//! Answers: objects, lists and Tables as response bodies, in JSON or YAML.
//!
//! Objects travel as the bytes that are stored; they are decoded only for Tables, metadata-only answers, YAML and
//! indentation. Start at [`object`] and [`list`].

use std::sync::Arc;

use api::{Kind, Timestamp};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use store::Revision;

use crate::audit::Made;
use crate::codec::{Format, Output};
use crate::object as objects;
use crate::registry::Written;
use crate::status::Status;

/// How much of the object each row of a Table carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// Reads `includeObject`.
    pub fn parse(text: Option<&str>) -> Result<Include, Status> {
        match text {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// Everything about the form of an answer.
#[derive(Clone, Debug)]
pub struct Form {
    /// Media type and shape.
    pub format: Format,
    /// For Tables.
    pub include: Include,
    /// For ages in Tables.
    pub now: Timestamp,
    /// For Tables: objects of the kind that the rows read beside their own.
    pub others: Arc<[Value]>,
}

/// A response with a JSON body.
pub fn json_bytes(code: u16, body: impl Into<Body>) -> Response {
    typed(code, "application/json", body)
}

/// A response of a media type.
pub fn typed(code: u16, media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// A response with a document, in the client's syntax.
pub fn value(code: u16, document: &Value, format: Format) -> Response {
    if format.yaml {
        return match serde_saphyr::to_string(document) {
            Ok(text) => typed(code, "application/yaml", text),
            Err(error) => Status::internal(error).into_response(),
        };
    }
    let text = if format.pretty { serde_json::to_string_pretty(document) } else { serde_json::to_string(document) };
    json_bytes(code, text.unwrap_or_default())
}

/// One object.
pub fn object(code: u16, kind: &Kind, (stored, revision): (&Bytes, Option<Revision>), form: &Form) -> Response {
    let plain = form.format.output == Output::Object && !form.format.yaml && !form.format.pretty;
    match revision {
        Some(revision) if plain => json_bytes(code, objects::serve_at(kind, stored, revision)),
        _ => {
            let mut document = objects::whole_at(kind, stored, revision.unwrap_or_default());
            if revision.is_none() {
                api::look::remove(objects::metadata_mut(&mut document), "resourceVersion");
            }
            value(code, &shaped(kind, document, form), form.format)
        }
    }
}

/// The object after a write: 201 when it is new.
pub fn written(kind: &Kind, written: &Written, form: &Form) -> Response {
    let code = if written.created { 201 } else { 200 };
    let mut response = object(code, kind, (&written.stored, written.revision), form);
    if written.created {
        response.extensions_mut().insert(Made(written.stored.clone()));
    }
    response
}

/// A document in the shape that the client asked for.
pub fn shaped(kind: &Kind, document: Value, form: &Form) -> Value {
    match form.format.output {
        Output::Object => document,
        Output::PartialMetadata => objects::partial(&document),
        Output::Table => {
            let revision = objects::meta(&document, "resourceVersion").to_owned();
            table(kind, &[document], json!({"resourceVersion": revision}), form)
        }
    }
}

/// A Table of objects.
pub fn table(kind: &Kind, documents: &[Value], metadata: Value, form: &Form) -> Value {
    let rows: Vec<Value> = documents.iter().map(|document| row(kind, document, form)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": column_definitions(kind), "rows": rows,
    })
}

fn column_definitions(kind: &Kind) -> Vec<Value> {
    let column = |c: &api::Column| {
        json!({
            "name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority,
        })
    };
    kind.columns.iter().map(column).collect()
}

fn row(kind: &Kind, document: &Value, form: &Form) -> Value {
    let cells = kind.rules.cells_among(document, &form.others, form.now);
    match form.include {
        Include::None => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": objects::partial(document)}),
        Include::Object => json!({"cells": cells, "object": document}),
    }
}

/// The metadata of a list.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    /// Revision of the list.
    pub revision: Revision,
    /// Token for the next page.
    pub continue_token: Option<String>,
    /// Items behind this page, if that is known.
    pub remaining: Option<u64>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining.filter(|n| *n > 0) {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// A list of stored items.
pub fn list(kind: &Kind, items: &[(Bytes, Revision)], meta: &ListMeta, form: &Form) -> Response {
    if form.format.output == Output::Object && !form.format.yaml && !form.format.pretty {
        return json_bytes(200, raw_list(kind, items, meta));
    }
    let documents: Vec<Value> = items.iter().map(|(bytes, rev)| objects::whole_at(kind, bytes, *rev)).collect();
    let document = match form.format.output {
        Output::Object => json!({
            "kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": meta.to_value(), "items": documents,
        }),
        Output::PartialMetadata => {
            let items: Vec<Value> = documents.iter().map(objects::partial).collect();
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": meta.to_value(), "items": items,
            })
        }
        Output::Table => table(kind, &documents, meta.to_value(), form),
    };
    value(200, &document, form.format)
}

fn raw_list(kind: &Kind, items: &[(Bytes, Revision)], meta: &ListMeta) -> Vec<u8> {
    let size: usize = items.iter().map(|(bytes, _)| bytes.len() + 48).sum();
    let mut out = Vec::with_capacity(size + 256);
    let head = json!({"kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": meta.to_value()});
    out.extend_from_slice(head.to_string().as_bytes());
    out.pop();
    out.extend_from_slice(b",\"items\":[");
    for (index, (bytes, revision)) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        objects::append_kind(&mut out, kind, bytes, *revision);
    }
    out.extend_from_slice(b"]}");
    out
}

/// Bytes of all warnings together, after which they are cut, and of one that is cut.
const WARNINGS_BYTES_MAX: usize = 4096;
const CUT_WARNING_CHARS: usize = 256;
/// Warnings of one answer: clients bear a hundred headers (hyper's limit).
const WARNINGS_MAX: usize = 64;

/// Adds a `Warning: 299` header for each text; as upstream, no more than clients' header limits bear.
pub fn warn(response: &mut Response, warnings: &[String]) {
    let too_long = warnings.iter().map(String::len).sum::<usize>() > WARNINGS_BYTES_MAX;
    let mut bytes = 0;
    for warning in warnings.iter().take(WARNINGS_MAX) {
        let chars = if too_long { CUT_WARNING_CHARS } else { usize::MAX };
        let text: String = warning.chars().filter(|c| !c.is_control()).take(chars).collect();
        bytes += text.len();
        if bytes > WARNINGS_BYTES_MAX {
            return;
        }
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(header) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, header);
        }
    }
}
