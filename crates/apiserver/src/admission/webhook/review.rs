//! AdmissionReview v1: the question that a webhook gets and what its answer means. Pure; answers are untrusted. Start at
//! [`question`] and [`answer`].

use api::{Kind, look};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::{Named, Operation, Request};
use super::select::operation;
use crate::status::Status;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What a webhook is asked about.
pub struct Subject<'a> {
    /// Kind in whose form the object is.
    pub kind: Named,
    /// Kind of the resource in the path of that form.
    pub resource: &'a Kind,
    /// The object; None on deletions.
    pub object: Option<&'a Value>,
    /// The object before.
    pub old: Option<&'a Value>,
}

/// What an answer says.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// The refusal, if it is one.
    pub denied: Option<Status>,
    /// Operations of a JSON patch.
    pub patch: Option<Value>,
    /// What to tell the client.
    pub warnings: Vec<String>,
}

fn kind_of(kind: Named) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn resource_of(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "resource": kind.plural})
}

/// The AdmissionReview to send.
pub fn question(request: &Request<'_>, subject: &Subject<'_>, uid: &str) -> Value {
    let user = request.user;
    let mut user_info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        user_info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        user_info["extra"] = json!(user.extra);
    }
    let requested = request.sent().unwrap_or_else(|| request.kind.into());
    let mut asked = json!({
        "uid": uid,
        "kind": kind_of(subject.kind), "resource": resource_of(subject.resource),
        "requestKind": kind_of(requested), "requestResource": resource_of(request.kind),
        "operation": operation(request.operation),
        "userInfo": user_info,
        "object": subject.object.filter(|object| object.is_object()), "oldObject": subject.old,
        "dryRun": request.dry_run,
        "options": options(request),
    });
    for (field, text) in [("name", request.name), ("namespace", request.namespace)] {
        if !text.is_empty() {
            asked[field] = text.into();
        }
    }
    if !request.subresource.is_empty() {
        asked["subResource"] = request.subresource.into();
        asked["requestSubResource"] = request.subresource.into();
    }
    // A Namespace stands in itself.
    if request.kind.kind == "Namespace" {
        asked["namespace"] = request.name.into();
    }
    json!({"kind": KIND, "apiVersion": API_VERSION, "request": asked})
}

fn options(request: &Request<'_>) -> Value {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if request.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    let fields: &[&str] = match request.operation {
        Operation::Delete => &["propagationPolicy"],
        _ => &["fieldManager", "fieldValidation"],
    };
    for field in fields {
        if let Some(text) = request.query.get(field) {
            options[*field] = text.into();
        }
    }
    options
}

/// Reads an answer. The error says what is wrong with it, in upstream's words.
pub fn answer(webhook: &str, uid: &str, bytes: &[u8], mutating: bool) -> Result<Answer, String> {
    let review: Value =
        serde_json::from_slice(bytes).map_err(|error| format!("couldn't decode the answer: {error}"))?;
    let Some(response) = look::get(&review, "response").filter(|response| response.is_object()) else {
        return Err("webhook response was absent".to_owned());
    };
    let found = look::text(response, "uid");
    if found != uid {
        return Err(format!("expected response.uid={uid:?}, got {found:?}"));
    }
    let (api_version, kind) = (look::text(&review, "apiVersion"), look::text(&review, "kind"));
    if (api_version, kind) != (API_VERSION, KIND) {
        return Err(format!("expected webhook response of {API_VERSION}, Kind={KIND}, got {api_version}, Kind={kind}"));
    }
    let patch = patch(response, mutating)?;
    let allowed = look::flag(response, "allowed");
    Ok(Answer {
        denied: (!allowed).then(|| denial(webhook, look::get(response, "status"))),
        patch: patch.filter(|_| allowed),
        warnings: look::texts(response, "warnings").into_iter().map(str::to_owned).collect(),
    })
}

fn patch(response: &Value, mutating: bool) -> Result<Option<Value>, String> {
    let text = look::text(response, "patch");
    let sort = look::get(response, "patchType").map(|sort| sort.as_str().unwrap_or_default());
    match (mutating, text.is_empty(), sort) {
        (false, false, _) => Err("validating webhook may not return response.patch".to_owned()),
        (false, true, Some(_)) => Err("validating webhook may not return response.patchType".to_owned()),
        (true, false, None) => Err("webhook returned response.patch but not response.patchType".to_owned()),
        (true, true, Some(_)) => Err("webhook returned response.patchType but not response.patch".to_owned()),
        (true, false, Some("")) => Err("webhook returned invalid response.patchType of \"\"".to_owned()),
        (true, false, Some("JSONPatch")) => {
            let bytes = STANDARD.decode(text).map_err(|error| format!("response.patch is no base64: {error}"))?;
            let patch =
                serde_json::from_slice(&bytes).map_err(|error| format!("response.patch is no JSON: {error}"))?;
            Ok(Some(patch))
        }
        (true, false, Some(other)) => Err(format!("unsupported patch type {other:?}")),
        (_, true, None) => Ok(None),
    }
}

/// The refusal that the client gets: the webhook's code and words, never a success.
fn denial(webhook: &str, status: Option<&Value>) -> Status {
    let empty = Value::Null;
    let status = status.unwrap_or(&empty);
    let by = format!("admission webhook {webhook:?} denied the request");
    let message = match (look::text(status, "message"), look::text(status, "reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = look::integer(status, "code").and_then(|code| u16::try_from(code).ok());
    Status {
        code: code.filter(|code| (400..600).contains(code)).unwrap_or(400),
        reason: look::text(status, "reason").to_owned().into(),
        message,
        details: look::get(status, "details").cloned().unwrap_or(Value::Null),
        continue_token: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(response: Value) -> Vec<u8> {
        json!({"kind": KIND, "apiVersion": API_VERSION, "response": response}).to_string().into_bytes()
    }

    #[test]
    fn a_refusal_has_the_webhooks_words_and_never_a_good_code() {
        let denied = |status: Value| {
            let bytes = review(json!({"uid": "u", "allowed": false, "status": status}));
            let status = answer("a.b.c", "u", &bytes, false).unwrap().denied.unwrap();
            (status.code, status.message)
        };
        let by = "admission webhook \"a.b.c\" denied the request";
        assert_eq!(denied(Value::Null), (400, format!("{by} without explanation")));
        assert_eq!(denied(json!({"code": 200, "reason": "Why"})), (400, format!("{by}: Why")));
        assert_eq!(denied(json!({"code": 403, "message": "no"})), (403, format!("{by}: no")));
        assert_eq!(denied(json!({"code": 99999, "message": "no"})), (400, format!("{by}: no")));
    }

    #[test]
    fn answers_that_do_not_fit_are_told_as_upstream_tells_them() {
        let told = |response: Value, mutating: bool| answer("w", "u", &review(response), mutating).unwrap_err();
        assert_eq!(told(Value::Null, true), "webhook response was absent");
        assert_eq!(told(json!({"uid": "x"}), true), "expected response.uid=\"u\", got \"x\"");
        let patch = json!({"uid": "u", "allowed": true, "patch": "W10="});
        assert_eq!(told(patch.clone(), false), "validating webhook may not return response.patch");
        assert_eq!(told(patch, true), "webhook returned response.patch but not response.patchType");
        let other = json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "Merge"});
        assert_eq!(told(other, true), "unsupported patch type \"Merge\"");
        assert!(answer("w", "u", b"<html>", true).unwrap_err().starts_with("couldn't decode the answer"));
        let beta =
            json!({"kind": KIND, "apiVersion": "admission.k8s.io/v1beta1", "response": {"uid": "u"}}).to_string();
        assert!(answer("w", "u", beta.as_bytes(), true).unwrap_err().starts_with("expected webhook response of"));
    }

    #[test]
    fn a_patch_and_warnings_are_read() {
        let patch = STANDARD.encode(r#"[{"op":"add","path":"/a","value":1}]"#);
        let bytes = review(
            json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch", "warnings": ["careful"], "auditAnnotations": {"a": "b"}}),
        );
        let read = answer("w", "u", &bytes, true).unwrap();
        assert_eq!((read.denied, read.warnings), (None, vec!["careful".to_owned()]));
        assert_eq!(read.patch.unwrap()[0]["path"], "/a");
    }
}
