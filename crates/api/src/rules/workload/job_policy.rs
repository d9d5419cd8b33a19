//! When a Job fails, succeeds and replaces its pods: the policies of its spec. Start at [`pod_failure`].

use serde_json::Value;

use crate::field::{FieldError, Path};
use crate::look;
use crate::meta::NEGATIVE;
use crate::names;

const RULES_MAX: usize = 20;
const PATTERNS_MAX: usize = 20;
const CODES_MAX: usize = 255;
const INDEXES_BYTES_MAX: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

/// `["a" "b"]`, as Go prints a list of quoted texts.
fn valid_values(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

/// Checks `podFailurePolicy`.
pub(super) fn pod_failure(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(policy) = look::get(spec, "podFailurePolicy") else { return };
    let rules = look::list(policy, "rules");
    let path = path.child("rules");
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&path, rules.len(), RULES_MAX));
    }
    for (index, rule) in rules.iter().enumerate() {
        failure_rule(spec, rule, &path.index(index), errors);
    }
}

fn failure_rule(spec: &Value, rule: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let action = look::text(rule, "action");
    let path_action = path.child("action");
    match action {
        "" => errors.push(FieldError::required(&path_action, valid_values(&ACTIONS))),
        "FailIndex" if look::get(spec, "backoffLimitPerIndex").is_none() => {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(&path_action, action, detail));
        }
        action if ACTIONS.contains(&action) => {}
        other => errors.push(FieldError::not_supported(&path_action, other, &ACTIONS)),
    }
    let codes = look::get(rule, "onExitCodes");
    let conditions = look::list(rule, "onPodConditions");
    if let Some(codes) = codes {
        exit_codes(spec, codes, &path.child("onExitCodes"), errors);
    }
    pod_conditions(conditions, &path.child("onPodConditions"), errors);
    let detail = match (codes.is_some(), conditions.is_empty()) {
        (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    errors.push(FieldError::invalid(path, Value::Null, detail));
}

fn pod_conditions(all: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    if all.len() > PATTERNS_MAX {
        errors.push(FieldError::too_many(path, all.len(), PATTERNS_MAX));
    }
    for (index, pattern) in all.iter().enumerate() {
        let path = path.index(index);
        let kind = look::text(pattern, "type");
        let complaints = names::label_key(kind);
        errors.extend(complaints.into_iter().map(|words| FieldError::invalid(&path.child("type"), kind, words)));
        match look::text(pattern, "status") {
            "" => errors.push(FieldError::required(&path.child("status"), valid_values(&STATUSES))),
            status if STATUSES.contains(&status) => {}
            other => errors.push(FieldError::not_supported(&path.child("status"), other, &STATUSES)),
        }
    }
}

fn exit_codes(spec: &Value, demand: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let operator = look::text(demand, "operator");
    match operator {
        "" => errors.push(FieldError::required(&path.child("operator"), valid_values(&["In", "NotIn"]))),
        "In" | "NotIn" => {}
        other => errors.push(FieldError::not_supported(&path.child("operator"), other, &["In", "NotIn"])),
    }
    if let Some(name) = look::get(demand, "containerName").and_then(Value::as_str) {
        let known = ["containers", "initContainers"].iter().any(|list| {
            let path = ["template", "spec", list];
            look::list_at(spec, &path).iter().any(|container| look::text(container, "name") == name)
        });
        if !known {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(FieldError::invalid(&path.child("containerName"), name, detail));
        }
    }
    let codes: Vec<i64> = look::list(demand, "values").iter().filter_map(Value::as_i64).collect();
    let path = path.child("values");
    if codes.is_empty() {
        errors.push(FieldError::invalid(&path, codes.clone(), "at least one value is required"));
    } else if codes.len() > CODES_MAX {
        errors.push(FieldError::too_many(&path, codes.len(), CODES_MAX));
    }
    for (index, code) in codes.iter().enumerate() {
        if operator == "In" && *code == 0 {
            errors.push(FieldError::invalid(&path.index(index), 0, "must not be 0 for the In operator"));
        }
        if codes[..index].contains(code) {
            errors.push(FieldError::duplicate(&path.index(index), *code));
        }
    }
    if !codes.is_sorted() {
        errors.push(FieldError::invalid(&path, codes, "must be ordered"));
    }
}

/// Checks `podReplacementPolicy`.
pub(super) fn pod_replacement(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(policy) = look::get(spec, "podReplacementPolicy").and_then(Value::as_str) else { return };
    let supported: &[&str] = match look::get(spec, "podFailurePolicy") {
        Some(_) => &["Failed"],
        None => &["Failed", "TerminatingOrFailed"],
    };
    if !supported.contains(&policy) {
        errors.push(FieldError::not_supported(path, policy, supported));
    }
}

/// Checks `successPolicy`.
pub(super) fn success(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(policy) = look::get(spec, "successPolicy") else { return };
    if look::text(spec, "completionMode") != "Indexed" {
        errors.push(FieldError::invalid(path, policy.clone(), "requires indexed completion mode"));
        return;
    }
    let rules = look::list(policy, "rules");
    let path = path.child("rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(&path, detail));
    }
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&path, rules.len(), RULES_MAX));
    }
    let completions = look::integer(spec, "completions").unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        success_rule(rule, completions, &path.index(index), errors);
    }
}

fn success_rule(rule: &Value, completions: i64, path: &Path, errors: &mut Vec<FieldError>) {
    let count = look::integer(rule, "succeededCount");
    let indexes = look::get(rule, "succeededIndexes").and_then(Value::as_str);
    if count.is_none() && indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let mut total = 0;
    if let Some(text) = indexes {
        let path = path.child("succeededIndexes");
        if text.len() > INDEXES_BYTES_MAX {
            errors.push(FieldError::too_long(&path, INDEXES_BYTES_MAX));
        }
        match count_indexes(text, completions) {
            Ok(found) => total = found,
            Err(why) => {
                let detail = format!("error parsing succeededIndexes: {why}");
                errors.push(FieldError::invalid(&path, text, detail));
            }
        }
    }
    let Some(count) = count else { return };
    let path = path.child("succeededCount");
    if count < 0 {
        errors.push(FieldError::invalid(&path, count, NEGATIVE));
    }
    if count > completions {
        let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(FieldError::invalid(&path, count, detail));
    }
    if indexes.is_some() && count > total {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(FieldError::invalid(&path, count, detail));
    }
}

/// How many indexes `0,2-4` names; each below the completions, in rising order.
pub(super) fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total) = (None, 0);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = part.split('-').collect();
    let index = |text: &str| {
        let index: i64 = text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if index >= completions { Err(format!("too large index: {text:?}")) } else { Ok(index) }
    };
    match limits.as_slice() {
        [one] => index(one).map(|index| (index, index)),
        [from, to] => {
            let (from, to) = (index(from)?, index(to)?);
            if from >= to {
                return Err(format!("non-increasing order, previous: {from}, current: {to}"));
            }
            Ok((from, to))
        }
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts \
             separated by '-'"
        )),
    }
}
