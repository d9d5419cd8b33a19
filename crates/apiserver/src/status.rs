//! The `Status` object: every refusal of this server as Kubernetes clients know it.
//!
//! Owns codes, reasons and message texts, which clients match. It must not decide anything. Start at [`Status`].

use std::borrow::Cow;

use api::FieldError;
use api::Kind;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// One refusal. Converts into an HTTP response with a `Status` body.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason in CamelCase; may be empty.
    pub reason: Cow<'static, str>,
    /// One sentence for people, in upstream's words.
    pub message: String,
    /// `details` of the object, or null.
    pub details: Value,
    /// `metadata.continue` of the object, or empty: how a list that came too late may go on all the same.
    pub continue_token: String,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// Most causes of one refusal that are told one by one.
const CAUSES_MAX: usize = 200;

/// The text of an optimistic lock failure.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// `Pod`, or `RuntimeClass.node.k8s.io` for kinds of a named group.
pub fn qualified_kind(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.kind.to_owned() } else { format!("{}.{}", kind.kind, kind.group) }
}

fn object_details(kind: &Kind, kind_or_resource: &str, name: &str) -> serde_json::Map<String, Value> {
    let mut details = serde_json::Map::new();
    if !name.is_empty() {
        details.insert("name".into(), name.into());
    }
    if !kind.group.is_empty() {
        details.insert("group".into(), kind.group.into());
    }
    details.insert("kind".into(), kind_or_resource.into());
    details
}

impl Status {
    /// A refusal without details.
    pub fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        let (reason, message) = (Cow::Borrowed(reason), message.into());
        Status { code, reason, message, details: Value::Null, continue_token: String::new() }
    }

    fn about(kind: &Kind, name: &str, code: u16, reason: &'static str, message: String) -> Status {
        let details = Value::Object(object_details(kind, kind.plural, name));
        Status { details, ..Status::plain(code, reason, message) }
    }

    /// 404 for a named object.
    pub fn not_found(kind: &Kind, name: &str) -> Status {
        Status::about(kind, name, 404, "NotFound", format!("{} {name:?} not found", kind.qualified()))
    }

    /// 404 for a path or resource type that is not served.
    pub fn no_such_path() -> Status {
        let mut status = Status::plain(404, "NotFound", "the server could not find the requested resource");
        status.details = json!({});
        status
    }

    /// 409 for a name that is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Status {
        Status::about(kind, name, 409, "AlreadyExists", format!("{} {name:?} already exists", kind.qualified()))
    }

    /// 409 with a free text behind upstream's opening words.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified());
        Status::about(kind, name, 409, "Conflict", message)
    }

    /// 409 because of a stale resourceVersion.
    pub fn modified(kind: &Kind, name: &str) -> Status {
        Status::conflict(kind, name, MODIFIED)
    }

    /// 422 with one cause for each wrong field.
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Status {
        let (errors, more) = errors.split_at(errors.len().min(CAUSES_MAX));
        let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        if !more.is_empty() {
            texts.push(format!("and {} more", more.len()));
        }
        let joined = match texts.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let mut details = object_details(kind, kind.kind, name);
        let causes: Vec<Value> = errors
            .iter()
            .map(FieldError::cause)
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        details.insert("causes".into(), causes.into());
        let message = format!("{} {name:?} is invalid: {joined}", qualified_kind(kind));
        Status { details: details.into(), ..Status::plain(422, "Invalid", message) }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::plain(400, "BadRequest", message)
    }

    /// 403 by admission: `pods "x" is forbidden: why`.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Status {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", kind.qualified())
        } else {
            format!("{} {name:?} is forbidden: {why}", kind.qualified())
        };
        Status::about(kind, name, 403, "Forbidden", message)
    }

    /// 401.
    pub fn unauthorized() -> Status {
        Status::plain(401, "Unauthorized", "Unauthorized")
    }

    /// 405 on a known resource.
    pub fn method_not_allowed() -> Status {
        let mut status =
            Status::plain(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        status.details = json!({});
        status
    }

    /// 406: nothing in Accept can be produced.
    pub fn not_acceptable() -> Status {
        let message = "only the following media types are accepted: application/json, application/yaml";
        Status::plain(406, "NotAcceptable", message)
    }

    /// 415: the body's media type is not understood here.
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::plain(415, "UnsupportedMediaType", message)
    }

    /// 413.
    pub fn too_large(limit_bytes: usize) -> Status {
        Status::too_much(&format!("limit is {limit_bytes}"))
    }

    /// 413 for another reason than its bytes.
    pub fn too_much(why: &str) -> Status {
        Status::plain(413, "RequestEntityTooLarge", format!("Request entity too large: {why}"))
    }

    /// 429: too many requests are in flight.
    pub fn too_many_requests() -> Status {
        Status::plain(429, "TooManyRequests", "Too many requests, please try again later.")
    }

    /// 504: the request took too long.
    pub fn timeout() -> Status {
        Status::plain(504, "Timeout", "Timeout: request did not complete within the allotted timeout")
    }

    /// 410: the revision asked for is no longer kept.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::plain(410, "Expired", message)
    }

    /// 504: the revision asked for lies in the future.
    pub fn too_large_resource_version(wanted: u64, current: u64) -> Status {
        let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
        let mut status = Status::plain(504, "Timeout", message);
        status.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        status
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Status {
        Status::plain(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::plain(503, "ServiceUnavailable", message)
    }

    /// The refusal as the JSON object that travels.
    pub fn to_value(&self) -> Value {
        let mut object = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            object["reason"] = self.reason.as_ref().into();
        }
        if !self.details.is_null() {
            object["details"] = self.details.clone();
        }
        if !self.continue_token.is_empty() {
            object["metadata"]["continue"] = self.continue_token.as_str().into();
        }
        object
    }
}

/// The `Success` Status that answers a finished delete.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = object_details(kind, kind.plural, name);
    if !uid.is_empty() {
        details.insert("uid".into(), uid.into());
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Maps what the store refuses while the object `name` of `kind` is read or written.
pub fn from_store(kind: &Kind, name: &str, error: &store::Error) -> Status {
    match error {
        store::Error::Conflict { current: Some(_), .. } => Status::modified(kind, name),
        store::Error::Conflict { .. } | store::Error::NotFound { .. } => Status::not_found(kind, name),
        store::Error::Compacted { .. } => Status::expired("The resourceVersion for the provided watch is too old."),
        store::Error::Unreadable { .. } => Status::internal(error),
        store::Error::Future { .. } => Status::plain(504, "Timeout", format!("Timeout: {error}")),
        other => Status::unavailable(format!("the store does not answer: {other}")),
    }
}

impl IntoResponse for Status {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_value().to_string()));
        *response.status_mut() = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.extensions_mut().insert(crate::audit::Reason(self.reason.to_string()));
        let retry_after = self.details.get("retryAfterSeconds").and_then(Value::as_u64);
        let is_busy = matches!(self.code, 429 | 504) && self.details.is_null();
        if let Some(seconds) = retry_after.or(is_busy.then_some(1)) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
