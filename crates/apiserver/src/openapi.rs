//! OpenAPI, as far as kubectl needs it: apply reads merge keys and the PATCH operation, explain reads descriptions.
//!
//! Shapes and merge keys come from the schema facts of `api`; descriptions come from k8s-openapi. A document is built for
//! each request and dropped, because it is large and rarely asked for. Start at [`respond`].

use std::collections::{BTreeMap, BTreeSet};

use api::Kind;
use api::schema::{self, ListType, Shape, Type};
use axum::response::Response;
use http::{HeaderMap, header};
use serde_json::{Map, Value, json};

use crate::answer;
use crate::descriptions::Descriptions;
use crate::discovery::{groups, kinds_of, served, versions};
use crate::openapi_protobuf;
use crate::patch::ACCEPTED as PATCHES;
use crate::server::Core;
use crate::status::Status;

/// Which of the two languages a document speaks.
#[derive(Clone, Copy, PartialEq)]
enum Language {
    V2,
    V3,
}

impl Language {
    fn reference(self, name: &str) -> Value {
        match self {
            Language::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Language::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// Answers an OpenAPI path; None if it is none.
pub fn respond(path: &str, headers: &HeaderMap, core: &Core) -> Option<Result<Response, Status>> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let document = match parts.as_slice() {
        ["openapi", "v2"] if only_protobuf(headers) => {
            let bytes = openapi_protobuf::encode(&v2(&core.service_version));
            return Some(Ok(answer::typed(200, openapi_protobuf::MEDIA_TYPE, bytes)));
        }
        ["openapi", "v2"] => v2(&core.service_version),
        ["openapi", "v3"] => index(&core.service_version),
        ["openapi", "v3", "api", version] => v3("", version, &core.service_version)?,
        ["openapi", "v3", "apis", group, version] => v3(group, version, &core.service_version)?,
        _ => return None,
    };
    Some(Ok(answer::json_bytes(200, document.to_string())))
}

fn only_protobuf(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accept.contains("protobuf") && !accept.contains("json") && !accept.contains("*/*")
}

fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The index of documents. Their hash is that of the version: documents change only with the binary.
fn index(service_version: &str) -> Value {
    let mut paths = Map::new();
    let hash = crate::query::percent_encode(service_version);
    for group in groups() {
        for version in versions(group) {
            let path = group_path(group, version);
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

fn information(service_version: &str) -> Value {
    json!({"title": "Kubernetes", "version": service_version})
}

fn v3(group: &str, version: &str, service_version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = kinds_of(group, version).collect();
    if kinds.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": information(service_version),
        "paths": paths(&kinds, Language::V3),
        "components": {"schemas": schemas(&kinds, Language::V3)},
    }))
}

fn v2(service_version: &str) -> Value {
    let kinds: Vec<&Kind> = served().collect();
    json!({
        "swagger": "2.0",
        "info": information(service_version),
        "paths": paths(&kinds, Language::V2),
        "definitions": schemas(&kinds, Language::V2),
    })
}

/// The types that the kinds reach.
fn reached(kinds: &[&Kind]) -> BTreeSet<&'static str> {
    let mut waiting: Vec<&'static str> = vec!["meta.v1.DeleteOptions", "meta.v1.Status"];
    for kind in kinds {
        waiting.push(kind.schema);
        waiting.extend(schema::find(&format!("{}List", kind.schema)).map(|list| list.name));
    }
    let mut reached = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        let Some(found) = schema::find(name) else { continue };
        if reached.insert(found.name) {
            waiting.extend(found.fields.iter().filter_map(|field| object_in(&field.shape)));
        }
    }
    reached
}

fn object_in(shape: &Shape) -> Option<&'static str> {
    match shape {
        Shape::Object(name) => Some(name),
        Shape::List(inner) | Shape::Map(inner) => object_in(inner),
        _ => None,
    }
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";

fn schemas(kinds: &[&Kind], language: Language) -> Value {
    let descriptions = Descriptions::gather(kinds);
    let mut out: BTreeMap<String, Value> = BTreeMap::new();
    for name in reached(kinds) {
        if let Some(found) = schema::find(name) {
            let full = schema::openapi_name(found.name);
            let document = type_schema(found, &descriptions.of(&full), language);
            out.insert(full, document);
        }
    }
    let quantity = match language {
        Language::V2 => json!({"type": "string"}),
        Language::V3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
    };
    let int_or_string = match language {
        Language::V2 => json!({"type": "string", "format": "int-or-string"}),
        Language::V3 => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
    };
    for (name, mut document) in [
        (QUANTITY, quantity),
        (INT_OR_STRING, int_or_string),
        (TIME, json!({"type": "string", "format": "date-time"})),
        (MICRO_TIME, json!({"type": "string", "format": "date-time"})),
    ] {
        if let Some(text) = descriptions.of(name).text() {
            document["description"] = text.into();
        }
        out.insert(name.to_owned(), document);
    }
    json!(out)
}

fn type_schema(found: &Type, told: &crate::descriptions::Told<'_>, language: Language) -> Value {
    let mut properties = Map::new();
    for field in &found.fields {
        let mut property = shape_schema(&field.shape, language);
        if let Some(text) = told.field(field.name) {
            describe(&mut property, text, language);
        }
        extend(&mut property, field);
        properties.insert(field.name.to_owned(), property);
    }
    let mut document = json!({"type": "object"});
    if let Some(text) = told.text() {
        document["description"] = text.into();
    }
    let required: Vec<&str> = found.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    if !required.is_empty() {
        document["required"] = required.into();
    }
    if !properties.is_empty() {
        document["properties"] = properties.into();
    }
    if found.atomic {
        document["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Some(kind) = found.kind {
        document["x-kubernetes-group-version-kind"] =
            json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
    }
    document
}

/// In version 3 nothing may stand beside a reference, so it moves into `allOf`.
fn describe(property: &mut Value, text: &str, language: Language) {
    if language == Language::V3 && property.get("$ref").is_some() {
        *property = json!({"allOf": [property.clone()]});
    }
    property["description"] = text.into();
}

fn extend(property: &mut Value, field: &schema::Field) {
    if let Some(key) = field.merge_key {
        property["x-kubernetes-patch-merge-key"] = key.into();
    }
    if !field.patch_strategy.is_empty() {
        property["x-kubernetes-patch-strategy"] = field.patch_strategy.into();
    }
    match &field.list_type {
        None => {}
        Some(ListType::Atomic) => property["x-kubernetes-list-type"] = "atomic".into(),
        Some(ListType::Set) => property["x-kubernetes-list-type"] = "set".into(),
        Some(ListType::Map(keys)) => {
            property["x-kubernetes-list-type"] = "map".into();
            property["x-kubernetes-list-map-keys"] = keys.as_slice().into();
        }
    }
    if field.map_atomic {
        property["x-kubernetes-map-type"] = "atomic".into();
    }
}

fn shape_schema(shape: &Shape, language: Language) -> Value {
    match shape {
        Shape::Text => json!({"type": "string"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Boolean => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Number => json!({"type": "number", "format": "double"}),
        Shape::Quantity => language.reference(QUANTITY),
        Shape::IntOrText => language.reference(INT_OR_STRING),
        Shape::Time => language.reference(TIME),
        Shape::MicroTime => language.reference(MICRO_TIME),
        Shape::Any => json!({"type": "object"}),
        Shape::Object(name) => language.reference(&schema::openapi_name(name)),
        Shape::List(inner) => json!({"type": "array", "items": shape_schema(inner, language)}),
        Shape::Map(inner) => json!({"type": "object", "additionalProperties": shape_schema(inner, language)}),
    }
}

fn paths(kinds: &[&Kind], language: Language) -> Value {
    let mut paths = Map::new();
    for kind in kinds {
        let root = format!("/{}", group_path(kind.group, kind.version));
        let collection = match kind.namespaced {
            true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
            false => format!("{root}/{}", kind.plural),
        };
        let item = format!("{collection}/{{name}}");
        let operations = |pairs: &[(&str, &str)]| {
            let offered = pairs.iter().filter(|(_, verb)| kind.verbs.contains(verb));
            let mut out: Map<String, Value> =
                offered.map(|(method, verb)| ((*method).to_owned(), operation(kind, verb, language))).collect();
            out.insert("parameters".into(), path_parameters(kind, pairs[0].1 == "get"));
            Value::Object(out)
        };
        paths.insert(collection, operations(&[("get", "list"), ("post", "create"), ("delete", "deletecollection")]));
        let on_item = [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
        paths.insert(item, operations(&on_item));
    }
    Value::Object(paths)
}

fn parameter(name: &str, place: &str, sort: &str) -> Value {
    json!({"name": name, "in": place, "required": place == "path", "schema": {"type": sort}, "type": sort, "uniqueItems": true})
}

fn path_parameters(kind: &Kind, item: bool) -> Value {
    let mut parameters = Vec::new();
    if item {
        parameters.push(parameter("name", "path", "string"));
    }
    if kind.namespaced {
        parameters.push(parameter("namespace", "path", "string"));
    }
    parameters.push(parameter("pretty", "query", "string"));
    parameters.into()
}

/// Query parameters by verb. kubectl looks for `fieldValidation` on PATCH.
fn query_parameters(verb: &str) -> &'static [(&'static str, &'static str)] {
    match verb {
        "create" | "update" => &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")],
        "patch" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")]
        }
        "list" | "deletecollection" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "delete" => &[("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string")],
        _ => &[],
    }
}

fn operation(kind: &Kind, verb: &str, language: Language) -> Value {
    let action = match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    };
    let name = schema::openapi_name(kind.schema);
    let answer = match verb {
        "list" => format!("{name}List"),
        "delete" | "deletecollection" => schema::openapi_name("meta.v1.Status"),
        _ => name.clone(),
    };
    let mut parameters: Vec<Value> =
        query_parameters(verb).iter().map(|(name, sort)| parameter(name, "query", sort)).collect();
    let mut operation = json!({
        "operationId": format!("{verb}{}{}", kind.version, kind.kind),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    });
    let body = matches!(verb, "create" | "update" | "patch");
    match language {
        Language::V3 => {
            let content = json!({"application/json": {"schema": language.reference(&answer)}});
            operation["responses"] = json!({"200": {"description": "OK", "content": content}});
            let media: &[&str] = if verb == "patch" { &PATCHES } else { &["application/json", "application/yaml"] };
            let schema = if verb == "patch" { json!({"type": "object"}) } else { language.reference(&name) };
            let content: Map<String, Value> =
                media.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
            if body {
                operation["requestBody"] = json!({"required": true, "content": content});
            }
        }
        Language::V2 => {
            operation["responses"] = json!({"200": {"description": "OK", "schema": language.reference(&answer)}});
            operation["produces"] = json!(["application/json", "application/yaml"]);
            operation["consumes"] = if verb == "patch" { json!(PATCHES) } else { json!(["*/*"]) };
            if body {
                let schema = if verb == "patch" { json!({"type": "object"}) } else { language.reference(&name) };
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
            }
        }
    }
    operation["parameters"] = parameters.into();
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_in_a_document_is_defined_in_it() {
        for (group, version) in [("", "v1"), ("node.k8s.io", "v1")] {
            let document = v3(group, version, "v1").unwrap();
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let text = document.to_string();
            for part in text.split("\"#/components/schemas/").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(schemas.contains_key(name), "{name}");
            }
        }
    }

    #[test]
    fn a_pod_is_described_and_has_its_merge_keys() {
        let document = v3("", "v1", "v1").unwrap();
        let schemas = &document["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert!(containers["description"].as_str().unwrap().len() > 20);
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Pod");
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
    }
}
