//! Workloads: the kinds that hold a pod template and are meant to make pods of it.
//!
//! Here is what they share: the template's defaults and checks, selectors, counts, generations, warnings. One module a
//! kind says what is special; [`scale`] is the `scale` subresource, `cells` the columns.

use serde_json::{Value, json};

use super::pod::{default, hooks, scheduling, spec, warning};
use crate::field::{FieldError, Path};
use crate::look;
use crate::meta::{self, NEGATIVE};
use crate::schema;
use crate::selector::label::LabelSelector;

mod cells;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod job;
mod job_policy;
mod job_status;
pub mod replicas;
pub mod scale;
pub mod stateful_set;

pub(super) use cells::{containers, pairs};

/// Defaults a pod template: metadata and spec are there, the spec as in a Pod but for what is for Pods alone.
pub(super) fn default_template(holder: &mut Value) {
    let template = look::child(holder, "template");
    look::child(template, "metadata");
    default::template(look::child(template, "spec"));
}

/// Counts that upstream always writes: required integers of a type that are absent are 0.
fn zero_counts(object: &mut Value, type_name: &str) {
    let Some(found) = schema::find(type_name) else { return };
    for field in found.fields.iter().filter(|field| field.required && field.shape == schema::Shape::Int32) {
        look::set_absent(object, field.name, 0);
    }
}

/// A new object starts at generation 1 with an empty status, whatever the client says.
fn prepare_create(object: &mut Value) {
    look::set(look::child(object, "metadata"), "generation", 1);
    look::set(object, "status", json!({}));
}

/// The status changes by its subresource alone, and only it there; the generation counts changes of the spec.
fn prepare_update(new: &mut Value, old: &Value, sub: Option<&str>) {
    match sub {
        Some("status") => {
            look::copy(old, new, "spec");
            super::keep_generation(new, old, &[]);
        }
        _ => {
            look::copy(old, new, "status");
            super::keep_generation(new, old, &["spec"]);
        }
    }
}

/// Complains about a negative number.
fn not_negative(object: &Value, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(number) = look::integer(object, field).filter(|number| *number < 0) {
        errors.push(FieldError::invalid(&path.child(field), number, NEGATIVE));
    }
}

/// Complains about the negative ones of some numbers.
pub(super) fn none_negative(object: &Value, fields: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    fields.iter().for_each(|field| not_negative(object, field, path, errors));
}

/// Complains about counts that are above the count of the whole.
fn none_above(status: &Value, fields: &[&str], whole: &str, detail: &str, errors: &mut Vec<FieldError>) {
    let count = |field: &str| look::integer(status, field).unwrap_or(0);
    for field in fields {
        if count(field) > count(whole) {
            errors.push(FieldError::invalid(&Path::new("status").child(field), count(field), detail));
        }
    }
}

/// The collision count of a status only rises.
fn no_fewer_collisions(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let count = |object: &Value| look::at(object, &["status", "collisionCount"]).and_then(Value::as_i64);
    if count(old).is_some_and(|before| count(new).is_none_or(|now| now < before)) {
        let path = Path::new("status").child("collisionCount");
        errors.push(FieldError::invalid(&path, count(new).unwrap_or(0), "cannot be decremented"));
    }
}

/// Checks `spec.selector`: it must be there and select something. `kind` is upstream's word for the refusal.
fn selector(spec: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("selector");
    let Some(found) = look::get(spec, "selector") else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    scheduling::label_selector(spec, "selector", &path, errors);
    if look::map(found, "matchLabels").count() + look::list(found, "matchExpressions").len() == 0 {
        let detail = format!("empty selector is invalid for {kind}");
        errors.push(FieldError::invalid(&path, found.clone(), detail));
    }
}

/// Whether a LabelSelector object selects the pods of the template; a selector that cannot be read is the caller's.
fn template_is_selected(spec: &Value) -> bool {
    let labels = look::at(spec, &["template", "metadata", "labels"]);
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
    match LabelSelector::from_object(look::get(spec, "selector")) {
        Ok(selector) => selector.is_empty() || selector.matches(label),
        Err(_) => true,
    }
}

fn unselected(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let labels = look::at(spec, &["template", "metadata", "labels"]).cloned();
    let path = path.child("template").child("metadata").child("labels");
    let detail = "`selector` does not match template `labels`";
    errors.push(FieldError::invalid(&path, labels.unwrap_or(Value::Null), detail));
}

/// What pods that are made again and again cannot be: they restart always and have no deadline. `kind` is the Kind.
fn lasting(spec: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("template").child("spec");
    let policy = look::text_at(spec, &["template", "spec", "restartPolicy"]);
    if policy != "Always" {
        errors.push(FieldError::not_supported(&path.child("restartPolicy"), policy, &["Always"]));
    }
    if look::at(spec, &["template", "spec", "activeDeadlineSeconds"]).is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(&path.child("activeDeadlineSeconds"), detail));
    }
}

/// The template of a workload whose selector was checked: selected, good in itself, lasting.
fn lasting_template(spec: &Value, kind: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if !template_is_selected(spec) {
        unselected(spec, path, errors);
    }
    template(spec, path, errors);
    lasting(spec, kind, path, errors);
}

/// The template in itself (IMG-27, IMG-30).
fn template(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let empty = Value::Null;
    let found = look::get(spec, "template").unwrap_or(&empty);
    errors.extend(spec::validate_template(found, &path.child("template")));
}

/// Warnings about the template at a path of fields.
pub(super) fn template_warnings(object: &Value, path: &[&str]) -> Vec<String> {
    let empty = Value::Null;
    let template = look::at(object, path).unwrap_or(&empty);
    let spec = look::get(template, "spec").unwrap_or(&empty);
    let root = path.join(".");
    let mut out = warning::of_spec(spec, &format!("{root}.spec"));
    out.extend(hooks::warnings(template, &format!("{root}.")));
    out
}

/// `selector` of apps/v1 never changes.
fn fixed_selector(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let of = |object| look::at(object, &["spec", "selector"]);
    meta::immutable(of(new), of(old), &Path::new("spec").child("selector"), errors);
}

/// A number, or a percentage of one: `5`, `25%`.
#[derive(Clone, Copy, PartialEq)]
enum Share {
    Number(i64),
    Percent(i64),
    Neither,
}

impl Share {
    fn of(value: Option<&Value>) -> Share {
        match value {
            None => Share::Number(0),
            Some(Value::String(text)) => {
                let digits = text.strip_suffix('%').filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
                digits.and_then(|digits| digits.parse().ok()).map_or(Share::Neither, Share::Percent)
            }
            Some(value) => value.as_i64().map_or(Share::Neither, Share::Number),
        }
    }

    fn is_zero(self) -> bool {
        // A text that is no percentage counts as the number in it, which is none.
        matches!(self, Share::Number(0) | Share::Percent(0) | Share::Neither)
    }
}

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for \
                       validation is '[0-9]+%')";

pub(super) fn share(object: &Value, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let value = look::get(object, field);
    let shown = || value.cloned().unwrap_or(Value::Null);
    match Share::of(value) {
        Share::Neither => errors.push(FieldError::invalid(&path.child(field), shown(), PERCENT)),
        Share::Number(number) if number < 0 => errors.push(FieldError::invalid(&path.child(field), number, NEGATIVE)),
        Share::Number(_) | Share::Percent(_) => {}
    }
}

pub(super) fn at_most_all(object: &Value, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if let Share::Percent(percent) = Share::of(look::get(object, field))
        && percent > 100
    {
        let shown = look::get(object, field).cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(&path.child(field), shown, "must not be greater than 100%"));
    }
}

#[cfg(test)]
mod tests;
