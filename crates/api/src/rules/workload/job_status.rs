//! The status of a Job: what its controller may write. A Job ends once, in one way.

use serde_json::Value;

use super::job_policy::count_indexes;
use crate::field::{FieldError, Path};
use crate::look;

const COUNTS: [&str; 5] = ["active", "succeeded", "failed", "ready", "terminating"];

fn is(job: &Value, condition: &str) -> bool {
    look::list_at(job, &["status", "conditions"])
        .iter()
        .any(|found| look::text(found, "type") == condition && look::text(found, "status") == "True")
}

/// Checks a changed status.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let (mut errors, path, empty) = (Vec::new(), Path::new("status"), Value::Null);
    let status = look::get(new, "status").unwrap_or(&empty);
    super::none_negative(status, &COUNTS, &path, &mut errors);
    uncounted(status, &path, &mut errors);
    conditions(new, old, &path.child("conditions"), &mut errors);
    times(new, old, &path, &mut errors);
    finished(new, status, &path, &mut errors);
    indexes(new, status, &path, &mut errors);
    let before = look::get(old, "status").unwrap_or(&empty);
    for counter in ["failed", "succeeded"] {
        let (now, then) = (look::integer(status, counter).unwrap_or(0), look::integer(before, counter).unwrap_or(0));
        if now < then {
            let detail = format!("cannot decrease the {counter} counter");
            errors.push(FieldError::invalid(&path.child(counter), now, detail));
        }
    }
    errors
}

fn uncounted(status: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(uncounted) = look::get(status, "uncountedTerminatedPods") else { return };
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for (index, uid) in look::texts(uncounted, list).into_iter().enumerate() {
            let path = path.child("uncountedTerminatedPods").child(list).index(index);
            if uid.is_empty() {
                errors.push(FieldError::invalid(&path, uid, "must not be empty"));
            } else if seen.contains(&uid) {
                errors.push(FieldError::duplicate(&path, uid));
            }
            seen.push(uid);
        }
    }
}

/// Which conditions exclude each other, and which never go again.
fn conditions(new: &Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut refuse = |detail: String| errors.push(FieldError::invalid(path, Value::Null, detail));
    let judged = look::at(new, &["spec", "successPolicy"]).is_some();
    let rules: [(bool, &str); 7] = [
        (is(new, "Complete") && is(new, "Failed"), "cannot set Complete=True and Failed=true conditions"),
        (is(new, "Complete") && is(new, "FailureTarget"), "cannot set Complete=True and FailureTarget=true conditions"),
        (
            is(new, "Failed") && !is(new, "FailureTarget") && !is(old, "Failed"),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            is(new, "Complete") && !is(new, "SuccessCriteriaMet") && !is(old, "Complete"),
            match judged {
                true => "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
                false => "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            },
        ),
        (
            is(new, "SuccessCriteriaMet") && is(new, "Failed"),
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            is(new, "SuccessCriteriaMet") && is(new, "FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            is(old, "Complete") && !is(old, "SuccessCriteriaMet") && is(new, "SuccessCriteriaMet"),
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
    ];
    rules.iter().filter(|(broken, _)| *broken).for_each(|(_, detail)| refuse((*detail).to_owned()));
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if is(old, condition) && !is(new, condition) {
            refuse(format!("cannot disable the terminal {condition}=True condition"));
        }
    }
    if is(old, "SuccessCriteriaMet") && !is(new, "SuccessCriteriaMet") {
        refuse("cannot disable the SuccessCriteriaMet=True condition".to_owned());
    }
}

fn times(new: &Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let time = |job, field| look::text_at(job, &["status", field]);
    let (started, completed) = (time(new, "startTime"), time(new, "completionTime"));
    let path_completed = path.child("completionTime");
    let complete = is(new, "Complete");
    if !completed.is_empty() && !complete {
        let detail = "cannot set completionTime when there is no Complete=True condition";
        errors.push(FieldError::invalid(&path_completed, completed, detail));
    }
    if completed.is_empty() && complete {
        errors.push(FieldError::required(&path_completed, "completionTime is required for Complete jobs"));
    }
    if let (Some(start), Some(end)) = (crate::time::parse(started), crate::time::parse(completed))
        && end < start
    {
        let detail = "completionTime cannot be set before startTime";
        errors.push(FieldError::invalid(&path_completed, completed, detail));
    }
    let before = time(old, "completionTime");
    if !completed.is_empty() && !before.is_empty() && completed != before {
        errors.push(FieldError::invalid(&path_completed, completed, "completionTime cannot be mutated"));
    }
    let before = time(old, "startTime");
    let suspended = look::at(new, &["spec", "suspend"]) == Some(&Value::Bool(true));
    if !before.is_empty() && before != started && !suspended {
        let detail = "startTime cannot be removed for unsuspended job";
        errors.push(FieldError::required(&path.child("startTime"), detail));
    }
}

/// What a finished Job no longer has.
fn finished(new: &Value, status: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let number = |field: &str| look::integer(status, field).unwrap_or(0);
    if number("ready") > number("active") {
        let detail = "cannot set more ready pods than active";
        errors.push(FieldError::invalid(&path.child("ready"), number("ready"), detail));
    }
    if !is(new, "Complete") && !is(new, "Failed") {
        return;
    }
    for field in ["active", "terminating"] {
        if number(field) > 0 {
            let detail = format!("{field}>0 is invalid for finished job");
            errors.push(FieldError::invalid(&path.child(field), number(field), detail));
        }
    }
    if look::text(status, "startTime").is_empty() {
        errors.push(FieldError::required(&path.child("startTime"), "startTime is required for finished job"));
    }
    if let Some(uncounted) = look::get(status, "uncountedTerminatedPods")
        && ["succeeded", "failed"].iter().any(|list| !look::list(uncounted, list).is_empty())
    {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        errors.push(FieldError::invalid(&path.child("uncountedTerminatedPods"), uncounted.clone(), detail));
    }
}

fn indexes(new: &Value, status: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let completions = look::at(new, &["spec", "completions"]).and_then(Value::as_i64);
    let completed = look::text(status, "completedIndexes");
    let failed = look::get(status, "failedIndexes").and_then(Value::as_str);
    for (field, text) in [("completedIndexes", Some(completed)), ("failedIndexes", failed)] {
        if let (Some(text), Some(completions)) = (text, completions)
            && let Err(why) = count_indexes(text, completions)
        {
            errors.push(FieldError::invalid(&path.child(field), text, format!("error parsing {field}: {why}")));
        }
    }
    if !completed.is_empty() && look::text_at(new, &["spec", "completionMode"]) != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(FieldError::invalid(&path.child("completedIndexes"), completed, detail));
    }
    if let Some(failed) = failed.filter(|_| look::at(new, &["spec", "backoffLimitPerIndex"]).is_none()) {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(FieldError::invalid(&path.child("failedIndexes"), failed, detail));
    }
}
