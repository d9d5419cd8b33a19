//! Webhook configurations: who is asked before objects are written. Both kinds are alike but for one field.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod::scheduling;
use super::{Rules, age_cell, keep_generation, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

/// Rules of `admissionregistration.k8s.io/v1 MutatingWebhookConfiguration`.
pub struct Mutating;

/// Rules of `admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration`.
pub struct Validating;

/// Versions of AdmissionReview that upstream accepts in a list.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const CONDITIONS_MAX: usize = 64;
/// Upstream's port of a service that names none.
const SERVICE_PORT: i64 = 443;

impl Rules for Mutating {
    fn default(&self, object: &mut Value) {
        for webhook in look::list_mut(object, "webhooks") {
            default(webhook);
            look::set_empty(webhook, "reinvocationPolicy", "Never");
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        look::set(look::child(object, "metadata"), "generation", 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        keep_generation(new, old, &["webhooks"]);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = validate(object);
        for (index, webhook) in look::list(object, "webhooks").iter().enumerate() {
            let path = Path::new("webhooks").index(index).child("reinvocationPolicy");
            one_of(webhook, "reinvocationPolicy", &["IfNeeded", "Never"], &path, &mut errors);
        }
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(object, now)
    }
}

impl Rules for Validating {
    fn default(&self, object: &mut Value) {
        look::list_mut(object, "webhooks").iter_mut().for_each(default);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        look::set(look::child(object, "metadata"), "generation", 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        keep_generation(new, old, &["webhooks"]);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(object, now)
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name_cell(object), Value::from(look::list(object, "webhooks").len()), age_cell(object, now)]
}

fn default(webhook: &mut Value) {
    look::set_empty(webhook, "failurePolicy", "Fail");
    look::set_empty(webhook, "matchPolicy", "Equivalent");
    look::set_absent(webhook, "namespaceSelector", json!({}));
    look::set_absent(webhook, "objectSelector", json!({}));
    look::set_absent(webhook, "timeoutSeconds", 10);
    for rule in look::list_mut(webhook, "rules") {
        look::set_empty(rule, "scope", "*");
    }
    if let Some(service) = look::get_mut(look::child(webhook, "clientConfig"), "service") {
        look::set_absent(service, "port", SERVICE_PORT);
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let webhooks = look::list(object, "webhooks");
    for (index, webhook) in webhooks.iter().enumerate() {
        let path = Path::new("webhooks").index(index);
        one(webhook, &path, &mut errors);
        let name = look::text(webhook, "name");
        if !name.is_empty() && webhooks[..index].iter().any(|other| look::text(other, "name") == name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
    }
    errors
}

fn one(webhook: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    qualified_name(look::text(webhook, "name"), &path.child("name"), errors);
    for (index, rule) in look::list(webhook, "rules").iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(index), errors);
    }
    one_of(webhook, "failurePolicy", &["Fail", "Ignore"], &path.child("failurePolicy"), errors);
    one_of(webhook, "matchPolicy", &["Equivalent", "Exact"], &path.child("matchPolicy"), errors);
    let classes = ["None", "NoneOnDryRun"];
    let side_effects = path.child("sideEffects");
    match look::get(webhook, "sideEffects") {
        None => errors.push(FieldError::required(&side_effects, "must specify one of None, NoneOnDryRun")),
        Some(_) => one_of(webhook, "sideEffects", &classes, &side_effects, errors),
    }
    if let Some(seconds) = look::integer(webhook, "timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(&path.child("timeoutSeconds"), seconds, detail));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        scheduling::label_selector(webhook, field, &path.child(field), errors);
    }
    let empty = Value::Null;
    let client = look::get(webhook, "clientConfig").unwrap_or(&empty);
    client_config(client, &path.child("clientConfig"), errors);
    conditions(look::list(webhook, "matchConditions"), &path.child("matchConditions"), errors);
    review_versions(&look::texts(webhook, "admissionReviewVersions"), &path.child("admissionReviewVersions"), errors);
}

fn one_of(object: &Value, field: &str, supported: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(text) = look::get(object, field).and_then(Value::as_str).filter(|text| !supported.contains(text)) {
        errors.push(FieldError::not_supported(path, text, supported));
    }
}

/// At least three labels, such as `pods.policy.example.com`.
fn qualified_name(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let complaints = names::subdomain(name);
    if !complaints.is_empty() {
        errors.push(FieldError::invalid(path, name, complaints.join(",")));
    } else if name.split('.').count() < 3 {
        errors.push(FieldError::invalid(
            path,
            name,
            "should be a domain with at least three segments separated by dots",
        ));
    }
}

/// A list that must have something, and a `*` only alone.
fn wildcards(rule: &Value, field: &str, what: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let all = look::texts(rule, field);
    let path = path.child(field);
    if all.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    if all.len() > 1 && all.contains(&"*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(&path, all, detail));
    }
}

fn validate_rule(rule: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    wildcards(rule, "operations", "operations", path, errors);
    for (index, operation) in look::texts(rule, "operations").into_iter().enumerate() {
        if !OPERATIONS.contains(&operation) {
            let path = path.child("operations").index(index);
            errors.push(FieldError::not_supported(&path, operation, &OPERATIONS));
        }
    }
    wildcards(rule, "apiGroups", "API groups", path, errors);
    wildcards(rule, "apiVersions", "API versions", path, errors);
    for (index, version) in look::texts(rule, "apiVersions").into_iter().enumerate() {
        if version.is_empty() {
            errors.push(FieldError::required(&path.child("apiVersions").index(index), ""));
        }
    }
    resources(&look::texts(rule, "resources"), &path.child("resources"), errors);
    one_of(rule, "scope", &["*", "Cluster", "Namespaced"], &path.child("scope"), errors);
}

fn resources(all: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    if all.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    for (index, text) in all.iter().enumerate() {
        let path = path.index(index);
        if text.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        let Some((resource, sub)) = text.split_once('/') else { continue };
        let earlier = |wanted: &str| all[..index].contains(&wanted);
        if earlier(&format!("{resource}/*")) {
            let detail = format!("if '{resource}/*' is present, must not specify {text}");
            errors.push(FieldError::invalid(&path, *text, detail));
        }
        if earlier(&format!("*/{sub}")) {
            let detail = format!("if '*/{sub}' is present, must not specify {text}");
            errors.push(FieldError::invalid(&path, *text, detail));
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, all.to_vec(), detail));
    }
    if all.contains(&"*") && all.iter().any(|text| *text != "*" && !text.contains('/')) {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, all.to_vec(), detail));
    }
}

fn client_config(client: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let url = look::get(client, "url").and_then(Value::as_str);
    match (url, look::get(client, "service")) {
        (Some(url), None) => validate_url(url, &path.child("url"), errors),
        (None, Some(service)) => validate_service(service, &path.child("service"), errors),
        _ => errors.push(FieldError::required(path, "exactly one of url or service is required")),
    }
}

fn validate_url(url: &str, path: &Path, errors: &mut Vec<FieldError>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut invalid = |shown: &str, detail: String| errors.push(FieldError::invalid(path, shown, detail));
    let Some((scheme, rest)) = url.split_once("://") else {
        invalid(url, format!("url must be a valid URL: missing scheme{FORM}"));
        return;
    };
    if scheme != "https" {
        invalid(scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        invalid(host, format!("host must be specified{FORM}"));
    }
    if user.is_some() {
        // Not shown: it may be a password.
        invalid("<redacted>", "user information is not permitted in the URL".to_owned());
    }
    if let Some((_, fragment)) = url.split_once('#') {
        invalid(fragment, "fragments are not permitted in the URL".to_owned());
    }
    if let Some((_, query)) = url.split('#').next().unwrap_or("").split_once('?') {
        invalid(query, "query parameters are not permitted in the URL".to_owned());
    }
}

fn validate_service(service: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (field, detail) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
        if look::text(service, field).is_empty() {
            errors.push(FieldError::required(&path.child(field), detail));
        }
    }
    let port = look::integer(service, "port").unwrap_or(SERVICE_PORT);
    for words in names::port_number(port) {
        errors.push(FieldError::invalid(&path.child("port"), port, format!("port is not valid: {words}")));
    }
    if let Some(text) = look::get(service, "path").and_then(Value::as_str).filter(|text| !text.starts_with('/')) {
        errors.push(FieldError::invalid(&path.child("path"), text, "must start with a '/'"));
    }
    // Ours: there is nothing yet that a service name could lead to, and a webhook that is never reached is worse.
    let detail = "this server has no Services yet: name the webhook by clientConfig.url";
    errors.push(FieldError::forbidden(path, detail));
}

/// This server evaluates no CEL, and a condition that is not looked at would be a lie.
fn conditions(all: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    if all.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, all.len(), CONDITIONS_MAX));
    }
    if !all.is_empty() {
        let detail = "this server evaluates no CEL expressions: use rules, namespaceSelector and objectSelector";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn review_versions(all: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    let known = REVIEW_VERSIONS.join(", ");
    if all.is_empty() {
        errors.push(FieldError::required(path, format!("must specify one of {known}")));
        return;
    }
    for (index, version) in all.iter().enumerate() {
        if all[..index].contains(version) {
            errors.push(FieldError::invalid(&path.index(index), *version, "duplicate version"));
        }
    }
    if !all.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        errors.push(FieldError::invalid(path, all.to_vec(), format!("must include at least one of {known}")));
    } else if !all.contains(&"v1") {
        // Ours: AdmissionReview is spoken in version v1 alone.
        errors.push(FieldError::invalid(path, all.to_vec(), "must include v1: this server sends no other version"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> Value {
        json!({
            "name": "pods.policy.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://example.com/x"},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        })
    }

    /// The beginning of each error of a webhook that differs from a good one in these fields.
    fn check(change: Value, expected: &[&str]) {
        let mut object = json!({"webhooks": [webhook()]});
        for (field, value) in change.as_object().unwrap() {
            object["webhooks"][0][field] = value.clone();
        }
        Mutating.default(&mut object);
        let texts: Vec<String> = Mutating.validate_create(&object).iter().map(FieldError::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:#?}");
        for (text, expected) in texts.iter().zip(expected) {
            let text = text.strip_prefix("webhooks[0].").unwrap_or(text);
            assert!(text.starts_with(expected), "{text}\nwanted: {expected}");
        }
    }

    #[test]
    fn what_is_not_said_is_defaulted_as_upstream_does() {
        let mut object = json!({"webhooks": [webhook()]});
        Mutating.default(&mut object);
        let made = &object["webhooks"][0];
        assert_eq!(made["failurePolicy"], "Fail");
        assert_eq!(made["matchPolicy"], "Equivalent");
        assert_eq!((&made["namespaceSelector"], &made["objectSelector"]), (&json!({}), &json!({})));
        assert_eq!((&made["timeoutSeconds"], &made["reinvocationPolicy"]), (&json!(10), &json!("Never")));
        assert_eq!(made["rules"][0]["scope"], "*");
        let mut validating = json!({"webhooks": [webhook()]});
        Validating.default(&mut validating);
        assert_eq!(validating["webhooks"][0].get("reinvocationPolicy"), None);
    }

    #[test]
    fn webhooks_are_checked_in_upstreams_words() {
        check(json!({}), &[]);
        check(
            json!({"name": "a.b"}),
            &["name: Invalid value: \"a.b\": should be a domain with at least three segments"],
        );
        check(json!({"sideEffects": null}), &["sideEffects: Required value: must specify one of None, NoneOnDryRun"]);
        check(
            json!({"sideEffects": "Some"}),
            &["sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""],
        );
        check(
            json!({"timeoutSeconds": 31}),
            &["timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"],
        );
        check(json!({"failurePolicy": "x"}), &["failurePolicy: Unsupported value: \"x\""]);
        check(json!({"reinvocationPolicy": "x"}), &["reinvocationPolicy: Unsupported value: \"x\""]);
        check(
            json!({"admissionReviewVersions": ["v2"]}),
            &["admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1"],
        );
        check(
            json!({"rules": [{"operations": ["*", "CREATE"], "apiGroups": [], "apiVersions": ["v1"], "resources": ["pods/*", "pods/status"]}]}),
            &[
                "rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
                "rules[0].apiGroups: Required value",
                "rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
            ],
        );
    }

    #[test]
    fn a_webhook_is_named_by_an_https_url_and_by_nothing_else_yet() {
        let with = |client: Value| json!({"clientConfig": client});
        check(with(json!({})), &["clientConfig: Required value: exactly one of url or service is required"]);
        check(
            with(json!({"url": "http://x/y"})),
            &[
                "clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ],
        );
        check(
            with(json!({"url": "https://u:secret@x/?q#f"})),
            &[
                "clientConfig.url: Invalid value: \"<redacted>\": user information is not permitted in the URL",
                "clientConfig.url: Invalid value: \"f\": fragments",
                "clientConfig.url: Invalid value: \"q\": query parameters",
            ],
        );
        check(
            with(json!({"service": {"name": "a", "namespace": "b"}})),
            &["clientConfig.service: Forbidden: this server has no Services yet"],
        );
        check(
            json!({"matchConditions": [{"name": "a", "expression": "true"}]}),
            &["matchConditions: Forbidden: this server evaluates no CEL expressions"],
        );
    }
}
