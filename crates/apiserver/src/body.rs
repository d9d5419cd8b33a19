//! Bodies that are objects: kind, schema, unknown and duplicate fields, and whether they belong where they were sent.
//!
//! Pure. Start at [`check`].

use api::schema::{self, Shape, Type};
use api::{Kind, look};
use serde_json::Value;

use crate::codec::Decoded;
use crate::object;
use crate::query::FieldValidation;
use crate::registry::Call;
use crate::status::Status;

/// An object that fits its schema.
#[derive(Debug)]
pub struct Checked {
    /// The object without unknown fields, with `kind` and `apiVersion`.
    pub object: Value,
    /// What to tell the client.
    pub warnings: Vec<String>,
}

/// Checks a decoded body against the kind of the path.
pub fn check(kind: &Kind, document: Decoded, validation: FieldValidation) -> Result<Checked, Status> {
    let Decoded { value: mut object, duplicates } = document;
    if !object.is_object() {
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: the document is not an object",
            kind.kind, kind.version, kind.kind
        )));
    }
    check_kind(kind, &mut object)?;
    let report = api::schema::check(kind, &object);
    if let Some(mistyped) = report.mistyped.first() {
        return Err(cannot_handle(kind, &mistyped.message));
    }
    let has_unknown = !report.unknown.is_empty();
    let mut complaints = report.unknown;
    complaints.extend(duplicates.iter().map(|path| format!("duplicate field {path:?}")));
    let warnings = match validation {
        FieldValidation::Strict if !complaints.is_empty() => {
            return Err(cannot_handle(kind, &format!("strict decoding error: {}", complaints.join(", "))));
        }
        FieldValidation::Warn => complaints,
        _ => Vec::new(),
    };
    if has_unknown && let Some(found) = schema::find(kind.schema) {
        prune(found, &mut object);
    }
    if report.is_unsettled {
        schema::settle(kind, &mut object);
    }
    Ok(Checked { object, warnings })
}

fn cannot_handle(kind: &Kind, why: &str) -> Status {
    Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        kind.kind, kind.version, kind.kind
    ))
}

/// A body may leave out what the path says already.
fn check_kind(kind: &Kind, object: &mut Value) -> Result<(), Status> {
    let expected = kind.api_version();
    let (api_version, name) = (look::text(object, "apiVersion").to_owned(), look::text(object, "kind").to_owned());
    if !api_version.is_empty() && api_version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    if !name.is_empty() && name != kind.kind {
        return Err(Status::bad_request(format!(
            "{name} in version {:?} cannot be handled as a {}: the kind in the data does not match the path",
            kind.version, kind.kind
        )));
    }
    look::set(object, "apiVersion", expected);
    look::set(object, "kind", kind.kind);
    Ok(())
}

/// Removes every field that the schema does not know, as decoding into typed objects does.
fn prune(found: &Type, object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.retain(|name, _| found.field(name).is_some());
    for (name, value) in fields.iter_mut() {
        if let Some(field) = found.field(name) {
            prune_shape(&field.shape, value);
        }
    }
}

fn prune_shape(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Object(name), value) => {
            if let Some(found) = schema::find(name) {
                prune(found, value);
            }
        }
        (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| prune_shape(inner, item)),
        (Shape::Map(inner), Value::Object(fields)) => fields.values_mut().for_each(|value| prune_shape(inner, value)),
        _ => {}
    }
}

/// The names in the object must be those of the path, if both are there.
pub fn check_place(object: &Value, call: &Call<'_>) -> Result<(), Status> {
    let (name, namespace) = (object::name(object), object::meta(object, "namespace"));
    if !call.name.is_empty() && !name.is_empty() && name != call.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        )));
    }
    let place = call.namespace.unwrap_or_default();
    if call.kind.namespaced && !namespace.is_empty() && namespace != place {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decoded(value: Value) -> Decoded {
        Decoded { value, duplicates: vec!["metadata.name".to_owned()] }
    }

    #[test]
    fn unknown_fields_are_refused_told_or_dropped() {
        let kind = api::find("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "imagee": "x"}]}});
        let status = check(kind, decoded(pod.clone()), FieldValidation::Strict).unwrap_err();
        assert_eq!(
            status.message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \
             \"spec.containers[0].imagee\", duplicate field \"metadata.name\""
        );
        let told = check(kind, decoded(pod.clone()), FieldValidation::Warn).unwrap();
        assert_eq!(told.warnings.len(), 2);
        assert_eq!(told.object["spec"]["containers"][0], json!({"name": "c"}));
        assert!(check(kind, decoded(pod), FieldValidation::Ignore).unwrap().warnings.is_empty());
    }

    #[test]
    fn a_body_of_another_kind_or_type_is_refused() {
        let kind = api::find("", "v1", "pods").unwrap();
        for body in [json!({"kind": "Secret"}), json!({"apiVersion": "v2"}), json!([]), json!({"spec": 3})] {
            assert_eq!(check(kind, decoded(body), FieldValidation::Ignore).unwrap_err().code, 400);
        }
    }
}
