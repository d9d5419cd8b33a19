//! The columns of workloads, as upstream's printers fill them.

use jiff::Timestamp;
use serde_json::Value;

use crate::look;
use crate::rules::{age_cell, name_cell};
use crate::selector::label::LabelSelector;
use crate::time;

/// What an empty cell shows.
pub(super) const NONE: &str = "<none>";

fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// A plain map as a selector shows it.
pub(in crate::rules) fn pairs(map: Option<&Value>) -> String {
    let map = map.and_then(Value::as_object).into_iter().flatten();
    let mut all: Vec<String> = map.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    all.sort_unstable();
    or_none(all.join(","))
}

/// `spec.selector` as text.
pub(super) fn selector(object: &Value) -> String {
    match LabelSelector::from_object(look::at(object, &["spec", "selector"])) {
        Ok(mut selector) => {
            selector.requirements.sort_by(|a, b| a.key.cmp(&b.key));
            or_none(selector.to_string())
        }
        Err(_) => "<error>".to_owned(),
    }
}

fn status(object: &Value, field: &str) -> i64 {
    look::at(object, &["status", field]).and_then(Value::as_i64).unwrap_or(0)
}

fn spec(object: &Value, field: &str) -> i64 {
    look::at(object, &["spec", field]).and_then(Value::as_i64).unwrap_or(0)
}

/// Names and images of the containers of a template, for wide output.
pub(in crate::rules) fn containers(object: &Value, template: &[&str]) -> [Value; 2] {
    let empty = Value::Null;
    let spec = look::at(object, template).and_then(|template| look::get(template, "spec")).unwrap_or(&empty);
    ["name", "image"].map(|field| {
        let texts: Vec<&str> =
            look::list(spec, "containers").iter().map(|container| look::text(container, field)).collect();
        Value::from(texts.join(","))
    })
}

fn row(
    cells: impl IntoIterator<Item = Value>,
    object: &Value,
    template: &[&str],
    selector: Option<String>,
) -> Vec<Value> {
    let wide = containers(object, template).into_iter().chain(selector.map(Value::from));
    cells.into_iter().chain(wide).collect()
}

const TEMPLATE: [&str; 2] = ["spec", "template"];

pub(super) fn of_replicas(object: &Value, selector: String, now: Timestamp) -> Vec<Value> {
    let cells = [
        name_cell(object),
        spec(object, "replicas").into(),
        status(object, "replicas").into(),
        status(object, "readyReplicas").into(),
        age_cell(object, now),
    ];
    row(cells, object, &TEMPLATE, Some(selector))
}

pub(super) fn of_deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", status(object, "readyReplicas"), spec(object, "replicas"));
    let cells = [
        name_cell(object),
        ready.into(),
        status(object, "updatedReplicas").into(),
        status(object, "availableReplicas").into(),
        age_cell(object, now),
    ];
    row(cells, object, &TEMPLATE, Some(selector(object)))
}

pub(super) fn of_stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", status(object, "readyReplicas"), spec(object, "replicas"));
    row([name_cell(object), ready.into(), age_cell(object, now)], object, &TEMPLATE, None)
}

pub(super) fn of_daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    let nodes = pairs(look::at(object, &["spec", "template", "spec", "nodeSelector"]));
    let counts = counts.into_iter().map(|field| Value::from(status(object, field)));
    let cells = std::iter::once(name_cell(object)).chain(counts).chain([nodes.into(), age_cell(object, now)]);
    row(cells, object, &TEMPLATE, Some(selector(object)))
}

pub(super) fn of_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let parallelism = spec(object, "parallelism");
    let succeeded = status(object, "succeeded");
    let completions = match look::at(object, &["spec", "completions"]).and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let time = |field| time::parse(look::text_at(object, &["status", field]));
    let duration = match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => time::human(end.unwrap_or(now).as_second() - start.as_second()),
    };
    let cells =
        [name_cell(object), job_state(object).into(), completions.into(), duration.into(), age_cell(object, now)];
    row(cells, object, &TEMPLATE, Some(selector(object)))
}

fn job_state(object: &Value) -> &'static str {
    let conditions = look::list_at(object, &["status", "conditions"]);
    let is = |kind: &str| {
        conditions.iter().any(|found| look::text(found, "type") == kind && look::text(found, "status") == "True")
    };
    if is("Complete") {
        return "Complete";
    }
    if is("Failed") {
        return "Failed";
    }
    if look::at(object, &["metadata", "deletionTimestamp"]).is_some() {
        return "Terminating";
    }
    ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| is(kind)).unwrap_or("Running")
}

pub(super) fn of_cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let text = |field: &str| look::text_at(object, &["spec", field]).to_owned();
    let suspended = look::at(object, &["spec", "suspend"]).and_then(Value::as_bool);
    let last = look::text_at(object, &["status", "lastScheduleTime"]);
    let cells = [
        name_cell(object),
        text("schedule").into(),
        or_none(text("timeZone")).into(),
        match suspended {
            None => "<unset>".into(),
            Some(true) => "True".into(),
            Some(false) => "False".into(),
        },
        look::list_at(object, &["status", "active"]).len().into(),
        if last.is_empty() { NONE.into() } else { time::age(last, now).into() },
        age_cell(object, now),
    ];
    let template = ["spec", "jobTemplate", "spec", "template"];
    row(cells, object, &template, Some(job_selector(object)))
}

fn job_selector(object: &Value) -> String {
    let job = look::at(object, &["spec", "jobTemplate"]).unwrap_or(&Value::Null);
    selector(job)
}
