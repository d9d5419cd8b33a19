//! Questions about rights: the access reviews, of oneself and of others, and the list of what one may.
//!
//! They ask the same authorizers as requests do. Start at [`access`] and [`rules`].

use api::field::{FieldError, Path};
use api::rbac::Rule;
use api::{Kind, look};
use serde_json::{Value, json};

use crate::authz::{self, Attributes};
use crate::rbac::Answer;
use crate::server::Core;
use crate::status::Status;
use crate::user::{MASTERS, UserInfo};

/// Answers SelfSubjectAccessReview, SubjectAccessReview and LocalSubjectAccessReview.
pub async fn access(
    core: &Core,
    (kind, namespace): (&Kind, Option<&str>),
    asker: &UserInfo,
    mut review: Value,
) -> Result<Value, Status> {
    let is_self = kind.kind == "SelfSubjectAccessReview";
    let spec = look::get(&review, "spec").cloned().unwrap_or(Value::Null);
    let errors = complaints(&spec, is_self, namespace);
    if !errors.is_empty() {
        return Err(Status::invalid(kind, "", &errors));
    }
    let subject = if is_self { asker.clone() } else { subject(&spec) };
    let nothing = Value::Null;
    let of = |field| look::get(&spec, field).unwrap_or(&nothing);
    let (resource, path) = (of("resourceAttributes"), of("nonResourceAttributes"));
    let verb = [resource, path].map(|of| look::text(of, "verb")).concat();
    let [group, plural, subresource, place, name] =
        ["group", "resource", "subresource", "namespace", "name"].map(|field| look::text(resource, field));
    let attributes = Attributes {
        user: &subject,
        verb: &verb,
        group,
        resource: plural,
        subresource,
        namespace: place,
        name,
        fields: "",
        path: look::text(path, "path"),
    };
    let status = status(core, &attributes).await;
    look::child(&mut review, "metadata");
    review["status"] = status;
    Ok(review)
}

async fn status(core: &Core, attributes: &Attributes<'_>) -> Value {
    let world = &core.registry.world;
    let refused = authz::judge(&core.authorizers, attributes, world).await.err();
    let reason = match &refused {
        Some(reason) => reason.clone(),
        None => match world.rbac.answer(&*world.store, attributes).await {
            Ok(Answer::Allowed(binding)) => format!("RBAC: allowed by {binding}"),
            _ => String::new(),
        },
    };
    let mut status = json!({"allowed": refused.is_none()});
    if !reason.is_empty() {
        look::set(&mut status, "reason", reason);
    }
    status
}

/// Whom a review asks about: as it says, nothing is added.
fn subject(spec: &Value) -> UserInfo {
    let list =
        |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    UserInfo {
        name: look::text(spec, "user").to_owned(),
        uid: look::text(spec, "uid").to_owned(),
        groups: spec.get("groups").map(list).unwrap_or_default(),
        extra: look::map(spec, "extra").map(|(key, values)| (key.to_owned(), list(values))).collect(),
    }
}

fn complaints(spec: &Value, is_self: bool, namespace: Option<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let root = Path::new("spec");
    let (resource, path) = (look::get(spec, "resourceAttributes"), look::get(spec, "nonResourceAttributes"));
    let at = root.child("resourceAttributes");
    match (resource, path) {
        (Some(_), Some(path)) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            errors.push(FieldError::invalid(&root.child("nonResourceAttributes"), path.clone(), detail));
        }
        (None, None) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid(&at, Value::Null, detail));
        }
        _ => {}
    }
    if !is_self && look::text(spec, "user").is_empty() && look::list(spec, "groups").is_empty() {
        errors.push(FieldError::invalid(&root.child("user"), "", "at least one of user or group must be specified"));
    }
    let Some(namespace) = namespace else { return errors };
    if let Some(path) = path {
        let detail = "disallowed on this kind of request";
        errors.push(FieldError::invalid(&root.child("nonResourceAttributes"), path.clone(), detail));
    }
    let place = resource.map_or("", |resource| look::text(resource, "namespace"));
    if resource.is_some() && place != namespace {
        errors.push(FieldError::invalid(&at.child("namespace"), place, "must match metadata.namespace"));
    }
    errors
}

/// Answers SelfSubjectRulesReview: all that the roles give.
pub async fn rules(core: &Core, user: &UserInfo, mut review: Value) -> Result<Value, Status> {
    let namespace = look::text_at(&review, &["spec", "namespace"]).to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let world = &core.registry.world;
    let rights = world.rbac.rights(&*world.store, user, &namespace).await;
    let mut rights = rights.map_err(|error| Status::internal(error.to_string()))?;
    if user.is_in(MASTERS) {
        rights.rules.extend(api::rbac::cover::everything());
    }
    let is_path = |rule: &&Rule| !rule.urls.is_empty();
    let list = |rules: Vec<&Rule>| -> Vec<Value> { rules.into_iter().map(Rule::write).collect() };
    let resources = list(rights.rules.iter().filter(|rule| !is_path(rule)).collect());
    let paths = list(rights.rules.iter().filter(is_path).collect());
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
    let mut problems = rights.missing;
    if user.node_name().is_some() {
        problems.push("node authorizer does not support user rule resolution".to_owned());
    }
    if !problems.is_empty() {
        look::set(&mut status, "incomplete", true);
        look::set(&mut status, "evaluationError", problems.join(", "));
    }
    look::child(&mut review, "metadata");
    review["status"] = status;
    Ok(review)
}
