//! The audit log: who asked for what, when, and how it was answered; one `audit.k8s.io/v1` Event a line.
//!
//! The level is Metadata: never a body, never a header but the user agent, so neither a Secret nor a token can get in.
//! Refusals tell their reason, not their message, because messages quote bodies. Start at [`Record::begin`]; `log.rs`
//! writes the lines.

mod log;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};

use crate::clock;
use crate::query::Query;
use crate::route::{self, Route};
use crate::user::UserInfo;

pub use log::{AuditLog, Log};

/// Upstream's longest user agent.
const USER_AGENT_CHARS_MAX: usize = 1024;
/// Upstream's longest audit id that a client may choose.
const ID_CHARS_MAX: usize = 64;
const ID: &str = "audit-id";

/// From which address a connection came.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Why a request was refused, beside the response.
#[derive(Clone, Debug)]
pub struct Reason(pub String);

/// The stored bytes of an object that was made, beside the response: its name is not in the path.
#[derive(Clone)]
pub struct Made(pub Bytes);

/// Who asked, found out on the way.
#[derive(Debug, Default)]
pub struct Who {
    /// Who was authenticated.
    pub user: Option<UserInfo>,
    /// As whom the request was judged, if that is another one.
    pub impersonated: Option<UserInfo>,
}

/// What is known of a request before it is answered.
pub struct Record {
    event: Map<String, Value>,
    is_long: bool,
    log: Arc<Log>,
}

impl Record {
    /// Begins the record of a request; None if it is none that is recorded.
    pub fn begin(log: &Arc<Log>, request: &Request) -> Option<Record> {
        let path = request.uri().path();
        if matches!(path.trim_end_matches('/'), "/healthz" | "/livez" | "/readyz" | "/version") {
            return None;
        }
        let query = Query::parse(request.uri().query());
        let (verb, object) = asked(request, &query);
        let is_long = verb == "watch" || is_streaming(&object) || query.flag("follow");
        let mut event = Map::new();
        let mut put = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
        put("kind", "Event".into());
        put("apiVersion", "audit.k8s.io/v1".into());
        put("level", "Metadata".into());
        put("auditID", id(request.headers()).into());
        put("stage", "ResponseComplete".into());
        put("requestURI", request.uri().path_and_query().map_or(path, |uri| uri.as_str()).into());
        put("verb", verb.into());
        put("user", json!({}));
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let sources = sources(request.headers(), peer);
        if !sources.is_empty() {
            put("sourceIPs", sources.into());
        }
        if let Some(agent) = agent(request.headers()) {
            put("userAgent", agent.into());
        }
        if let Some(object) = object {
            put("objectRef", object);
        }
        put("requestReceivedTimestamp", now());
        Some(Record { event, is_long, log: log.clone() })
    }

    /// Writes the record, now or when a stream has ended, and gives the response its id.
    pub fn end(mut self, who: &Who, response: Response) -> Response {
        if let Some(user) = &who.user {
            self.event.insert("user".to_owned(), user_value(user));
        }
        if let Some(user) = &who.impersonated {
            self.event.insert("impersonatedUser".to_owned(), user_value(user));
        }
        self.event.insert("responseStatus".to_owned(), status(&response));
        if let (Some(Made(stored)), Some(object)) = (response.extensions().get(), self.event.get_mut("objectRef")) {
            let made: Value = serde_json::from_slice(stored).unwrap_or_default();
            object["name"] = made["metadata"]["name"].clone();
            object["uid"] = made["metadata"]["uid"].clone();
        }
        let mut response = response;
        let id = self.event["auditID"].as_str().and_then(|id| HeaderValue::from_str(id).ok());
        if let Some(id) = id {
            response.headers_mut().insert(ID, id);
        }
        let is_stream =
            self.is_long && (response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS);
        if !is_stream {
            self.write("ResponseComplete");
            return response;
        }
        self.write("ResponseStarted");
        let end = End(self);
        // The stream keeps it, so that it goes with the stream.
        let keep = move |frame| {
            let _kept = &end;
            frame
        };
        response.map(|body| Body::new(body.map_frame(keep)))
    }

    fn write(&mut self, stage: &str) {
        self.event.insert("stage".to_owned(), stage.into());
        self.event.insert("stageTimestamp".to_owned(), now());
        match serde_json::to_string(&self.event) {
            Ok(line) => self.log.write(line),
            Err(error) => tracing::error!(%error, "an audit event could not be written"),
        }
    }
}

/// Writes the last stage of a stream when the stream goes, however it goes.
struct End(Record);

impl Drop for End {
    fn drop(&mut self) {
        self.0.write("ResponseComplete");
    }
}

/// The verb and the objectRef of a request.
fn asked(request: &Request, query: &Query) -> (String, Option<Value>) {
    let plain = || request.method().as_str().to_ascii_lowercase();
    match route::parse(request.uri().path()) {
        Route::Resource(target) => {
            let subresource = target.subresource.as_deref();
            let verb = route::verb(request.method(), target.name.is_some(), query.flag("watch"), subresource);
            let mut object = json!({"resource": target.kind.plural, "apiVersion": target.kind.version});
            let parts = [
                ("namespace", target.namespace.as_deref()),
                ("name", target.name.as_deref()),
                ("apiGroup", Some(target.kind.group)),
                ("subresource", subresource),
            ];
            for (name, value) in parts {
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    object[name] = value.into();
                }
            }
            (verb.to_owned(), Some(object))
        }
        Route::Review(kind, namespace) => {
            let mut object = json!({"resource": kind.plural, "apiGroup": kind.group, "apiVersion": kind.version});
            if let Some(namespace) = namespace {
                object["namespace"] = namespace.into();
            }
            ("create".to_owned(), Some(object))
        }
        Route::Unknown | Route::Plain => (plain(), None),
    }
}

fn is_streaming(object: &Option<Value>) -> bool {
    let subresource = object.as_ref().and_then(|object| object["subresource"].as_str());
    matches!(subresource, Some("exec" | "attach" | "portforward" | "proxy"))
}

/// The client's own id, if it may be one, or a new one.
fn id(headers: &HeaderMap) -> String {
    let own = headers.get(ID).and_then(|value| value.to_str().ok());
    let own = own.filter(|id| !id.is_empty() && id.len() <= ID_CHARS_MAX);
    own.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// As upstream: what proxies say, then the address that the connection came from. Only addresses are taken.
fn sources(headers: &HeaderMap, peer: Option<IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let said = text("x-forwarded-for").split(',').chain([text("x-real-ip")]);
    let mut all: Vec<IpAddr> = said.filter_map(|address| address.trim().parse().ok()).collect();
    all.extend(peer);
    all.dedup();
    all.iter().map(IpAddr::to_string).collect()
}

fn agent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::USER_AGENT)?.to_str().ok()?;
    if text.len() <= USER_AGENT_CHARS_MAX {
        return Some(text.to_owned());
    }
    // Header values that are text are ASCII.
    Some(format!("{}...TRUNCATED", &text[..USER_AGENT_CHARS_MAX]))
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

fn status(response: &Response) -> Value {
    let mut status = json!({"metadata": {}, "code": response.status().as_u16()});
    if let Some(Reason(reason)) = response.extensions().get() {
        status["status"] = "Failure".into();
        if !reason.is_empty() {
            status["reason"] = reason.as_str().into();
        }
    }
    status
}

fn now() -> Value {
    clock::micro().into()
}
