//! Conditions of workloads.

use api::{Timestamp, look, time};
use serde_json::{Value, json};

/// The condition of a type.
pub fn find<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    look::list(status, "conditions").iter().find(|one| look::text(one, "type") == kind)
}

/// Whether the condition of a type is True.
pub fn holds(status: &Value, kind: &str) -> bool {
    find(status, kind).is_some_and(|one| look::text(one, "status") == "True")
}

/// A condition.
pub fn new(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": time::seconds(now),
    })
}

/// Sets a condition: its time of transition changes only with its status.
pub fn set(status: &mut Value, mut wanted: Value) {
    let kind = look::text(&wanted, "type").to_owned();
    let mut all = look::list(status, "conditions").to_vec();
    match all.iter_mut().find(|one| look::text(one, "type") == kind) {
        Some(known) => {
            if look::text(known, "status") == look::text(&wanted, "status") {
                look::copy(known, &mut wanted, "lastTransitionTime");
            }
            *known = wanted;
        }
        None => all.push(wanted),
    }
    look::set(status, "conditions", all);
}

/// Removes a condition.
pub fn remove(status: &mut Value, kind: &str) {
    let all = look::list(status, "conditions").iter().filter(|one| look::text(one, "type") != kind);
    let all: Vec<Value> = all.cloned().collect();
    match all.is_empty() {
        true => drop(look::remove(status, "conditions")),
        false => look::set(status, "conditions", all),
    }
}

/// Whether two statuses say the same: what is 0, false or empty may be left out.
pub fn is_same_status(a: &Value, b: &Value) -> bool {
    let said = |status: &Value| {
        let mut status = status.clone();
        look::fields(&mut status).retain(|_, value| match value {
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Bool(flag) => *flag,
            Value::String(text) => !text.is_empty(),
            value => !look::is_empty(value),
        });
        status
    };
    look::same(Some(&said(a)), Some(&said(b)))
}
