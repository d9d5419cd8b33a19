//! What a request asks for, read from its method, path and query alone.
//!
//! Pure. Start at [`parse`].

use std::borrow::Cow;

use api::Kind;
use http::Method;

/// A request on a resource (or on a subresource of it).
#[derive(Clone, Debug)]
pub struct Target {
    /// Entry of the table of kinds.
    pub kind: &'static Kind,
    /// Namespace in the path; None for cluster-scoped paths and for lists over all namespaces.
    pub namespace: Option<String>,
    /// Object name in the path.
    pub name: Option<String>,
    /// Subresource in the path, for example `status`.
    pub subresource: Option<String>,
    /// Path behind the subresource (`nodes/x/proxy/<rest>`).
    pub rest: String,
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub enum Route {
    /// An object, a collection or a subresource.
    Resource(Target),
    /// A question that is answered and not stored, and the namespace that it is asked in.
    Review(&'static Kind, Option<String>),
    /// A path below /api or /apis whose group, version or resource is not served.
    Unknown,
    /// Anything else: discovery, health, OpenAPI.
    Plain,
}

/// Reads the path.
pub fn parse(path: &str) -> Route {
    let mut parts = path.split('/').filter(|s| !s.is_empty()).map(decode);
    let Some(first) = parts.next() else { return Route::Plain };
    let (group, version) = match &*first {
        "api" => (Cow::Borrowed(""), parts.next()),
        "apis" => match parts.next() {
            Some(group) => (group, parts.next()),
            None => return Route::Plain,
        },
        _ => return Route::Plain,
    };
    let Some(version) = version else { return Route::Plain };
    let rest: Vec<Cow<'_, str>> = parts.collect();
    if rest.is_empty() {
        return Route::Plain;
    }
    match (resource(&group, &version, &rest), review(&group, &version, &rest)) {
        (Some(target), _) => Route::Resource(target),
        (None, Some((kind, namespace))) => Route::Review(kind, namespace),
        (None, None) => Route::Unknown,
    }
}

fn review(group: &str, version: &str, parts: &[Cow<'_, str>]) -> Option<(&'static Kind, Option<String>)> {
    let (plural, namespace) = match parts {
        [plural] => (plural, None),
        [first, namespace, plural] if first == "namespaces" => (plural, Some(namespace.to_string())),
        _ => return None,
    };
    let is = |kind: &&Kind| (kind.group, kind.version, kind.plural) == (group, version, &**plural);
    let kind = api::kind::reviews().iter().find(is)?;
    (kind.namespaced == namespace.is_some()).then_some((kind, namespace))
}

fn decode(part: &str) -> Cow<'_, str> {
    crate::query::percent_decode(part)
}

fn resource(group: &str, version: &str, parts: &[Cow<'_, str>]) -> Option<Target> {
    // `namespaces/<ns>/<resource>` unless the third part is a subresource of the namespace itself.
    if parts.len() >= 3 && parts[0] == "namespaces" && !(group.is_empty() && is_namespace_subresource(&parts[2])) {
        let kind = api::find(group, version, &parts[2])?;
        if !kind.namespaced {
            return None;
        }
        return Some(target(kind, Some(parts[1].to_string()), &parts[3..]));
    }
    let kind = api::find(group, version, &parts[0])?;
    if kind.namespaced && parts.len() > 1 {
        return None;
    }
    Some(target(kind, None, &parts[1..]))
}

fn is_namespace_subresource(part: &str) -> bool {
    part == "status" || part == "finalize"
}

fn target(kind: &'static Kind, namespace: Option<String>, parts: &[Cow<'_, str>]) -> Target {
    Target {
        kind,
        namespace,
        name: parts.first().map(|s| s.to_string()),
        subresource: parts.get(1).map(|s| s.to_string()),
        rest: parts.get(2..).unwrap_or_default().join("/"),
    }
}

/// Whether a subresource is answered for as long as its client likes.
pub fn is_stream(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// The API verb of a request, as authorization and audit call it.
pub fn verb(method: &Method, named: bool, watch: bool, subresource: Option<&str>) -> &'static str {
    let streaming = matches!(subresource, Some("exec" | "attach" | "portforward" | "proxy"));
    match *method {
        // Upstream treats the streaming subresources as creations, whichever method opens them.
        Method::GET | Method::HEAD if streaming && subresource != Some("proxy") => "create",
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "unknown",
    }
}
