//! CertificateSigningRequests: who asks for which certificate, who approved it, and what came of it.
//!
//! What is asked never changes. Conditions of approval are set through `approval`, the certificate through `status`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Requester, Rules, age_cell, name_cell};
use crate::certificate::{self, LEGACY, Request, USAGES};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;
use crate::time;

/// Rules of `certificates.k8s.io/v1 CertificateSigningRequest`.
pub struct CertificateRequests;

/// Somebody said yes.
pub const APPROVED: &str = "Approved";
/// Somebody said no.
pub const DENIED: &str = "Denied";
/// The signer could not.
pub const FAILED: &str = "Failed";

/// The shortest life that may be asked for.
pub const SECONDS_MIN: i64 = 600;

const SUBDOMAIN_MAX: usize = 253;
const SIGNER_MAX: usize = SUBDOMAIN_MAX + 1 + SUBDOMAIN_MAX + 1 + 63;

impl Rules for CertificateRequests {
    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        // Nobody brings an approval along.
        look::set(object, "status", json!({}));
    }

    fn ask(&self, object: &mut Value, who: &Requester<'_>) {
        let spec = look::child(object, "spec");
        for field in ["username", "uid", "groups", "extra"] {
            look::remove(spec, field);
        }
        look::set(spec, "username", who.name);
        if !who.uid.is_empty() {
            look::set(spec, "uid", who.uid);
        }
        if !who.groups.is_empty() {
            look::set(spec, "groups", who.groups);
        }
        if !who.extra.is_empty() {
            look::set(spec, "extra", json!(who.extra));
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        check(object, None)
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        look::copy(old, new, "spec");
        let nothing = json!({});
        let before = look::get(old, "status").unwrap_or(&nothing);
        match sub {
            Some("approval") => {
                let conditions = look::at(new, &["status", "conditions"]).cloned();
                let mut status = before.clone();
                match conditions {
                    Some(conditions) => look::set(&mut status, "conditions", conditions),
                    None => drop(look::remove(&mut status, "conditions")),
                }
                look::set(new, "status", status);
            }
            Some("status") => [APPROVED, DENIED].iter().for_each(|kind| keep(look::child(new, "status"), before, kind)),
            _ => look::copy(old, new, "status"),
        }
    }

    fn stamp(&self, new: &mut Value, old: &Value, sub: Option<&str>, now: Timestamp) {
        if sub.is_none() {
            return;
        }
        let Some(status) = look::get_mut(new, "status") else { return };
        let before = look::list_at(old, &["status", "conditions"]);
        for one in look::list_mut(status, "conditions") {
            if look::text(one, "lastUpdateTime").is_empty() {
                look::set(one, "lastUpdateTime", time::seconds(now));
            }
            if look::text(one, "lastTransitionTime").is_empty() {
                let same = |was: &&Value| ["type", "status"].iter().all(|f| look::text(was, f) == look::text(one, f));
                let since = before.iter().find(same).map(|was| look::text(was, "lastTransitionTime"));
                let since = since.filter(|since| !since.is_empty()).map_or_else(|| time::seconds(now), str::to_owned);
                look::set(one, "lastTransitionTime", since);
            }
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errors = check(new, Some(old));
        let path = Path::new("status").child("conditions");
        for kind in [APPROVED, DENIED, FAILED] {
            if of(new, kind).len() < of(old, kind).len() {
                let detail = format!("updates may not remove a condition of type {kind:?}");
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
        for kind in [APPROVED, DENIED].into_iter().filter(|_| sub != Some("approval")) {
            let (now, before) = (of(new, kind), of(old, kind));
            let verb = match now.len().cmp(&before.len()) {
                std::cmp::Ordering::Greater => "add",
                std::cmp::Ordering::Equal if now != before => "modify",
                _ => continue,
            };
            errors.push(FieldError::forbidden(&path, format!("updates may not {verb} a condition of type {kind:?}")));
        }
        let (now, before) = (issued(new), issued(old));
        if now != before {
            let path = Path::new("status").child("certificate");
            if sub != Some("status") {
                errors.push(FieldError::forbidden(&path, "updates may not set certificate content"));
            } else if !before.is_empty() {
                errors.push(FieldError::forbidden(&path, "updates may not modify existing certificate content"));
            }
        }
        errors
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", look::text_at(object, &["spec", "signerName"]).to_owned())]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let signer = look::text_at(object, &["spec", "signerName"]);
        let seconds = look::at(object, &["spec", "expirationSeconds"]).and_then(Value::as_i64);
        vec![
            name_cell(object),
            age_cell(object, now),
            if signer.is_empty() { "<none>" } else { signer }.into(),
            look::text_at(object, &["spec", "username"]).into(),
            seconds.map_or_else(|| "<none>".to_owned(), time::human).into(),
            state(object).into(),
        ]
    }

    fn name_complaints(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }
}

/// `Pending`, `Approved,Issued`, and the like.
fn state(object: &Value) -> String {
    let is = |kind: &str| !of(object, kind).is_empty();
    let first = match (is(DENIED), is(APPROVED)) {
        (true, _) => DENIED,
        (false, true) => APPROVED,
        (false, false) => "Pending",
    };
    let failed = if is(FAILED) { ",Failed" } else { "" };
    let issued = if issued(object).is_empty() { "" } else { ",Issued" };
    format!("{first}{failed}{issued}")
}

/// The conditions of one type.
fn of<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    let conditions = look::list_at(object, &["status", "conditions"]).iter();
    conditions.filter(|one| look::text(one, "type") == kind).collect()
}

fn issued(object: &Value) -> &str {
    look::text_at(object, &["status", "certificate"])
}

/// Keeps conditions of a type as they were, unless some were added or taken away, which the checks refuse.
fn keep(status: &mut Value, before: &Value, kind: &str) {
    let is = |one: &&Value| look::text(one, "type") == kind;
    let old: Vec<Value> = look::list(before, "conditions").iter().filter(is).cloned().collect();
    if look::list(status, "conditions").iter().filter(is).count() != old.len() {
        return;
    }
    let new = look::list_mut(status, "conditions").iter_mut().filter(|one| look::text(one, "type") == kind);
    new.zip(old).for_each(|(new, old)| *new = old);
}

/// Everything that must hold always. What was wrong before may stay so.
fn check(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let (mut errors, path, nothing) = (Vec::new(), Path::new("spec"), Value::Null);
    let spec = look::get(object, "spec").unwrap_or(&nothing);
    // What is asked does not change: it was checked when it came.
    if old.is_none() {
        asked(object, spec, &path, &mut errors);
    }
    conditions(object, old, &mut errors);
    let certificate = issued(object);
    if !certificate.is_empty() && old.is_none_or(|old| issued(old) != certificate) {
        let pem = STANDARD.decode(certificate).unwrap_or_default();
        if let Some(complaint) = certificate::chain_complaint(&pem) {
            let path = Path::new("status").child("certificate");
            errors.push(FieldError::invalid(&path, "<certificate data>", complaint));
        }
    }
    errors
}

fn asked(object: &Value, spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Err(complaint) = Request::of(object) {
        errors.push(FieldError::invalid(&path.child("request"), look::text(spec, "request"), complaint));
    }
    let usages = look::texts(spec, "usages");
    if usages.is_empty() {
        errors.push(FieldError::required(&path.child("usages"), ""));
    }
    for (index, usage) in usages.iter().enumerate() {
        let path = path.child("usages").index(index);
        if certificate::usage(usage).is_none() {
            let known: Vec<&str> = USAGES.iter().map(|(name, _)| *name).collect();
            errors.push(FieldError::not_supported(&path, *usage, &known));
        }
        if usages[..index].contains(usage) {
            errors.push(FieldError::duplicate(&path, *usage));
        }
    }
    let signer = look::text(spec, "signerName");
    match signer == LEGACY {
        true => {
            let detail = "the legacy signerName is not allowed via this API version";
            errors.push(FieldError::invalid(&path.child("signerName"), signer, detail));
        }
        false => signer_name(signer, &path.child("signerName"), errors),
    }
    if let Some(seconds) = look::integer(spec, "expirationSeconds").filter(|seconds| *seconds < SECONDS_MIN) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, detail));
    }
}

/// `example.com/name`: a domain of two labels at least, and a path of subdomains.
fn signer_name(signer: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let segments: Vec<&str> = signer.split('/').collect();
    let [domain, name] = segments[..] else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, signer, detail));
        return;
    };
    if domain.len() > SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, SUBDOMAIN_MAX));
    }
    labels(domain, names::label, path, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, detail));
    }
    labels(name, names::subdomain, path, errors);
    if signer.len() > SIGNER_MAX {
        errors.push(FieldError::too_long(path, SIGNER_MAX));
    }
}

/// The first label with a complaint is told, with all of them.
fn labels(text: &str, complaints: fn(&str) -> Vec<String>, path: &Path, errors: &mut Vec<FieldError>) {
    let bad = text.split('.').map(|label| (label, complaints(label))).find(|(_, complaints)| !complaints.is_empty());
    let Some((label, complaints)) = bad else { return };
    let told = complaints.into_iter().map(|why| format!("validating label {label:?}: {why}"));
    errors.extend(told.map(|detail| FieldError::invalid(path, text, detail)));
}

fn conditions(object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let path = Path::new("status").child("conditions");
    let all = look::list_at(object, &["status", "conditions"]);
    let had_both = old.is_some_and(|old| !of(old, APPROVED).is_empty() && !of(old, DENIED).is_empty());
    for (index, one) in all.iter().enumerate() {
        let (path, kind, status) = (path.index(index), look::text(one, "type"), look::text(one, "status"));
        if kind.is_empty() {
            errors.push(FieldError::required(&path.child("type"), ""));
        }
        let allowed: &[&str] =
            if [APPROVED, DENIED, FAILED].contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        match status {
            "" => errors.push(FieldError::required(&path.child("status"), "")),
            _ if !allowed.contains(&status) => {
                errors.push(FieldError::not_supported(&path.child("status"), status, allowed));
            }
            _ => {}
        }
        let before = |wanted: &str| all[..index].iter().any(|one| look::text(one, "type") == wanted);
        let opposite = match kind {
            APPROVED => Some(DENIED),
            DENIED => Some(APPROVED),
            _ => None,
        };
        if opposite.is_some_and(before) && !had_both {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&path.child("type"), kind, detail));
        }
        if before(kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn request() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        STANDARD.encode(rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap())
    }

    fn asked() -> Value {
        json!({"metadata": {"name": "a"}, "spec": {
            "request": request(), "signerName": "example.com/mine", "usages": ["client auth"], "username": "ann",
        }})
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(FieldError::to_string).collect()
    }

    /// Changes one field of a good request.
    fn check(field: &str, value: Value, expected: &[&str]) {
        let mut object = asked();
        object["spec"][field] = value;
        assert_eq!(texts(&CertificateRequests.validate_create(&object)), expected);
    }

    #[test]
    fn what_is_asked_is_checked_once() {
        check("signerName", "example.com/mine".into(), &[]);
        check("expirationSeconds", 600.into(), &[]);
        let path = "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST";
        check("request", "eA==".into(), &[path]);
        check("usages", json!([]), &["spec.usages: Required value"]);
        check("usages", json!(["any", "any"]), &["spec.usages[1]: Duplicate value: \"any\""]);
        let mut object = asked();
        object["spec"]["usages"] = json!(["spying"]);
        let errors = texts(&CertificateRequests.validate_create(&object));
        assert!(errors[0].starts_with("spec.usages[0]: Unsupported value: \"spying\": supported values: \"any\", "));
        check(
            "expirationSeconds",
            599.into(),
            &[
                "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
            ],
        );
    }

    #[test]
    fn a_signer_has_a_domain_and_a_name() {
        check("signerName", "".into(), &["spec.signerName: Required value"]);
        check(
            "signerName",
            "mine".into(),
            &[
                "spec.signerName: Invalid value: \"mine\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ],
        );
        check(
            "signerName",
            "com/mine".into(),
            &[
                "spec.signerName: Invalid value: \"com\": should be a domain with at least two segments separated by dots",
            ],
        );
        check(
            "signerName",
            LEGACY.into(),
            &[
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
            ],
        );
        let mut object = asked();
        object["spec"]["signerName"] = "a..b/X".into();
        let errors = texts(&CertificateRequests.validate_create(&object));
        assert!(errors[0].contains("\"a..b\": validating label \"\": "), "{errors:?}");
        assert!(errors[1].contains("\"X\": validating label \"X\": "), "{errors:?}");
    }

    #[test]
    fn who_asks_is_as_the_server_knows_and_nothing_comes_approved() {
        let mut object = asked();
        object["spec"]["groups"] = json!(["system:masters"]);
        object["status"] = json!({"conditions": [{"type": APPROVED, "status": "True"}], "certificate": "eA=="});
        let (groups, extra) = (["dev".to_owned()], [("k".to_owned(), vec!["v".to_owned()])].into());
        CertificateRequests.prepare_create(&mut object, Timestamp::UNIX_EPOCH);
        CertificateRequests.ask(&mut object, &Requester { name: "bob", uid: "", groups: &groups, extra: &extra });
        let spec = &object["spec"];
        assert_eq!(
            (&spec["username"], &spec["groups"], &spec["extra"]),
            (&"bob".into(), &json!(["dev"]), &json!({"k": ["v"]}))
        );
        assert_eq!((object["status"].clone(), spec.get("uid")), (json!({}), None));
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True", "reason": "R"})
    }

    /// An update as the server carries it out; what is stored then, and the complaints.
    fn update(old: &Value, new: &Value, sub: Option<&str>) -> (Value, Vec<String>) {
        let mut new = new.clone();
        CertificateRequests.prepare_update(&mut new, old, sub);
        CertificateRequests.stamp(&mut new, old, sub, NOW.parse().unwrap());
        let errors = CertificateRequests.validate_update(&new, old, sub);
        (new, texts(&errors))
    }

    fn with(conditions: Value) -> Value {
        let mut object = asked();
        object["status"] = json!({"conditions": conditions});
        object
    }

    #[test]
    fn approval_changes_conditions_alone_and_only_ever_adds_them() {
        let old = asked();
        let mut new = with(json!([condition(APPROVED)]));
        new["spec"]["username"] = "eve".into();
        new["status"]["certificate"] = "eA==".into();
        let (stored, errors) = update(&old, &new, Some("approval"));
        assert_eq!((errors, &stored["spec"]), (vec![], &old["spec"]));
        assert_eq!(stored["status"].get("certificate"), None);
        assert_eq!(stored["status"]["conditions"][0]["lastUpdateTime"], NOW);
        assert_eq!(stored["status"]["conditions"][0]["lastTransitionTime"], NOW);
        let (again, errors) = update(&stored, &with(json!([])), Some("approval"));
        assert_eq!(errors, ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]);
        assert_eq!(again["spec"], old["spec"]);
        let both = with(json!([condition(APPROVED), condition(DENIED)]));
        let exclusive = "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive";
        assert_eq!(update(&stored, &both, Some("approval")).1, [exclusive]);
        let mut false_one = condition(DENIED);
        false_one["status"] = "False".into();
        let (_, errors) = update(&old, &with(json!([false_one])), Some("approval"));
        assert_eq!(errors, ["status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\""]);
        let twice = with(json!([condition("Mine"), condition("Mine")]));
        assert_eq!(update(&old, &twice, Some("approval")).1, ["status.conditions[1].type: Duplicate value: \"Mine\""]);
    }

    #[test]
    fn a_status_brings_the_certificate_once_and_never_an_approval() {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let (old, _) = update(&asked(), &with(json!([condition(APPROVED)])), Some("approval"));
        let mut new = with(json!([{"type": APPROVED, "status": "True", "reason": "other"}, condition(FAILED)]));
        new["status"]["certificate"] = STANDARD.encode(&pem).into();
        let (stored, errors) = update(&old, &new, Some("status"));
        assert_eq!((errors, &stored["status"]["conditions"][0]["reason"]), (vec![], &"R".into()));
        let mut other = stored.clone();
        other["status"]["certificate"] = STANDARD.encode(pem.replace('\n', "\r\n")).into();
        let path = "status.certificate: Forbidden: updates may not ";
        assert_eq!(update(&stored, &other, Some("status")).1, [format!("{path}modify existing certificate content")]);
        let added = with(json!([condition(APPROVED), condition(DENIED)]));
        let errors = update(&old, &added, Some("status")).1;
        assert!(
            errors.contains(&"status.conditions: Forbidden: updates may not add a condition of type \"Denied\"".into())
        );
        let mut junk = old.clone();
        junk["status"]["certificate"] = "eA==".into();
        let told = "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block";
        assert_eq!(update(&old, &junk, Some("status")).1, [told]);
    }

    #[test]
    fn a_plain_update_changes_neither_what_is_asked_nor_what_came_of_it() {
        let old = with(json!([condition(APPROVED)]));
        let mut new = asked();
        new["spec"]["signerName"] = "kubernetes.io/kube-apiserver-client".into();
        let (stored, errors) = update(&old, &new, None);
        assert_eq!(
            (errors, &stored["spec"], &stored["status"]["conditions"][0]["type"]),
            (vec![], &old["spec"], &APPROVED.into())
        );
    }

    #[test]
    fn the_columns_say_where_it_stands() {
        let mut object = with(json!([condition(APPROVED), condition(FAILED)]));
        object["spec"]["expirationSeconds"] = 86_400.into();
        let cells = CertificateRequests.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[2..], ["example.com/mine", "ann", "24h", "Approved,Failed"]);
        object = with(json!([condition(DENIED)]));
        assert_eq!(CertificateRequests.cells(&object, Timestamp::UNIX_EPOCH)[4..], ["<none>", "Denied"]);
        object = with(json!([condition(APPROVED)]));
        object["status"]["certificate"] = "eA==".into();
        assert_eq!(CertificateRequests.cells(&object, Timestamp::UNIX_EPOCH)[5], "Approved,Issued");
        assert_eq!(CertificateRequests.cells(&asked(), Timestamp::UNIX_EPOCH)[5], "Pending");
    }
}
