//! Which webhooks a request concerns: rules, scopes, selectors, equivalent kinds. Pure. Start at [`matching`].

use api::selector::label::LabelSelector;
use api::{Kind, look};
use serde_json::Value;

use super::super::{Operation, Request};

/// Configurations are never judged by webhooks, so that a broken webhook can always be removed.
pub fn is_exempt(request: &Request<'_>) -> bool {
    request.kind.group == "admissionregistration.k8s.io"
}

/// The word of an operation in rules and reviews.
pub fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// The kind in whose form the webhook gets the object, if one of its rules matches: the request's own, or, with
/// `matchPolicy: Equivalent`, another kind that is a view of the same objects.
pub fn matching(webhook: &Value, request: &Request<'_>) -> Option<&'static Kind> {
    let rules = look::list(webhook, "rules");
    let matches = |kind: &Kind| rules.iter().any(|rule| rule_matches(rule, kind, request));
    if matches(request.kind) {
        return Some(request.kind);
    }
    let equivalent = look::text(webhook, "matchPolicy") != "Exact";
    api::kinds()
        .iter()
        .find(|kind| equivalent && *kind != request.kind && kind.storage == request.kind.storage && matches(kind))
}

fn rule_matches(rule: &Value, kind: &Kind, request: &Request<'_>) -> bool {
    let names = |field: &str, wanted: &str| look::texts(rule, field).iter().any(|text| *text == "*" || *text == wanted);
    let scope = match look::text(rule, "scope") {
        "Cluster" => !kind.namespaced,
        "Namespaced" => kind.namespaced,
        _ => true,
    };
    let resource = |text: &str| {
        let (resource, sub) = text.split_once('/').unwrap_or((text, ""));
        (resource == "*" || resource == kind.plural) && (sub == "*" || sub == request.subresource)
    };
    scope
        && names("operations", operation(request.operation))
        && names("apiGroups", kind.group)
        && names("apiVersions", kind.version)
        && look::texts(rule, "resources").into_iter().any(resource)
}

/// Whether a selector of the webhook selects these labels; a broken one selects nothing.
fn selects(webhook: &Value, field: &str, labels: Option<&Value>) -> bool {
    let selector = look::get(webhook, field);
    if selector.is_none() {
        return true;
    }
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
    LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches(label))
}

/// Whether `namespaceSelector` lets every namespace through, so that none has to be read.
pub fn any_namespace(webhook: &Value) -> bool {
    let selector = look::get(webhook, "namespaceSelector");
    selector.is_none_or(|selector| LabelSelector::from_object(Some(selector)).is_ok_and(|found| found.is_empty()))
}

/// Whether the namespace with these labels is selected.
pub fn namespace_is_selected(webhook: &Value, namespace: &Value) -> bool {
    selects(webhook, "namespaceSelector", look::at(namespace, &["metadata", "labels"]))
}

/// Whether the object is selected, as it is or as it was. What has no metadata is not, as upstream.
pub fn object_is_selected(webhook: &Value, object: Option<&Value>, old: Option<&Value>) -> bool {
    let selector = look::get(webhook, "objectSelector");
    if selector.is_none_or(|selector| LabelSelector::from_object(Some(selector)).is_ok_and(|found| found.is_empty())) {
        return true;
    }
    [object, old]
        .into_iter()
        .flatten()
        .filter(|object| look::get(object, "metadata").is_some())
        .any(|object| selects(webhook, "objectSelector", look::at(object, &["metadata", "labels"])))
}
