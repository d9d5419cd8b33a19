//! `RuntimeClass`: merges a class's overhead and scheduling into new pods (RTC-24 to RTC-35).
//!
//! Of classes themselves it warns: a handler that no node offers, an overhead far from what nodes measure.
//! The lookup reads the store, so a class that was deleted is never admitted (RTC-28).

use api::pod::toleration::{self, Toleration};
use api::quantity::Quantity;
use api::{look, names};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct RuntimeClass;

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const UNFOUNDED: &str = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if !request.is_on("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        let Some(class) = class_of(request, pod).await? else { return Ok(()) };
        let spec = look::child(pod, "spec");
        set_overhead(request, spec, &class)?;
        set_scheduling(request, spec, &class)
    }

    async fn validate(&self, request: &Request<'_>, pod: Option<&Value>) -> Result<(), Status> {
        if let Some(class) = pod.filter(|_| request.is_on("node.k8s.io", "runtimeclasses")) {
            warn(request, class).await;
            return Ok(());
        }
        let Some(pod) = pod.filter(|_| request.is_on("", "pods") && request.operation == Operation::Create) else {
            return Ok(());
        };
        let class = class_of(request, pod).await?;
        // RTC-31: even an empty map counts as set.
        let Some(overhead) = look::at(pod, &["spec", "overhead"]) else { return Ok(()) };
        match class.as_ref().and_then(fixed) {
            None => Err(request.forbidden(UNFOUNDED)),
            Some(wanted) if !same_quantities(overhead, wanted) => Err(request.forbidden(MISMATCH)),
            Some(_) => Ok(()),
        }
    }
}

/// Tells who writes a class what the nodes know of its handler. Never refuses: a class may come before its nodes.
async fn warn(request: &Request<'_>, class: &Value) {
    let nodes = request.world.all("", "nodes").await;
    request.warnings.extend(api::handlers::of_nodes(look::text(class, "handler"), &nodes).warnings(class));
}

/// RTC-26, 27, 29: no name, no class; an unknown name is refused.
async fn class_of(request: &Request<'_>, pod: &Value) -> Result<Option<Value>, Status> {
    let Some(name) = look::at(pod, &["spec", "runtimeClassName"]).and_then(Value::as_str) else { return Ok(None) };
    if !names::subdomain(name).is_empty() {
        // No class can be called so: validation of the object says 422 on the field.
        return Ok(None);
    }
    let Some(kind) = api::find("node.k8s.io", "v1", "runtimeclasses") else {
        return Err(Status::internal("runtimeclasses are not served"));
    };
    let entry = request.world.entry(kind, None, name).await.map_err(|e| crate::status::from_store(kind, name, &e))?;
    match entry {
        Some(entry) => Ok(Some(crate::object::decode(kind, &entry))),
        None => Err(request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn fixed(class: &Value) -> Option<&Value> {
    look::get(class, "overhead").map(|overhead| look::get(overhead, "podFixed").unwrap_or(&Value::Null))
}

/// RTC-30: copied as a whole, or equal as a whole.
fn set_overhead(request: &Request<'_>, spec: &mut Value, class: &Value) -> Result<(), Status> {
    let Some(wanted) = fixed(class) else { return Ok(()) };
    let present = look::get(spec, "overhead").filter(|o| o.as_object().is_some_and(|map| !map.is_empty()));
    match present {
        None => {
            let map = if wanted.is_null() { Value::Object(Map::new()) } else { wanted.clone() };
            look::set(spec, "overhead", map);
            Ok(())
        }
        Some(present) if same_quantities(present, wanted) => Ok(()),
        Some(_) => Err(request.forbidden(MISMATCH)),
    }
}

fn same_quantities(a: &Value, b: &Value) -> bool {
    let empty = Map::new();
    let (a, b) = (a.as_object().unwrap_or(&empty), b.as_object().unwrap_or(&empty));
    a.len() == b.len() && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| same_quantity(value, other)))
}

fn same_quantity(a: &Value, b: &Value) -> bool {
    match (Quantity::from_value(a), Quantity::from_value(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn set_scheduling(request: &Request<'_>, spec: &mut Value, class: &Value) -> Result<(), Status> {
    let Some(scheduling) = look::get(class, "scheduling") else { return Ok(()) };
    if let Some(selector) = look::get(scheduling, "nodeSelector").and_then(Value::as_object) {
        let merged = merge_selector(request, spec, selector)?;
        if !merged.is_empty() {
            look::set(spec, "nodeSelector", merged);
        }
    }
    let more = look::list(scheduling, "tolerations");
    if !more.is_empty() {
        let merged = merge_tolerations(look::list(spec, "tolerations"), more)?;
        look::set(spec, "tolerations", merged);
    }
    Ok(())
}

/// RTC-32: the smallest conflicting key is reported.
fn merge_selector(
    request: &Request<'_>,
    spec: &Value,
    class: &Map<String, Value>,
) -> Result<Map<String, Value>, Status> {
    let mut merged = look::get(spec, "nodeSelector").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut keys: Vec<&String> = class.keys().collect();
    keys.sort();
    for key in keys {
        let wanted = class[key].as_str().unwrap_or_default();
        match merged.get(key).and_then(Value::as_str) {
            Some(present) if present != wanted => {
                return Err(request.forbidden(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {present}"
                )));
            }
            _ => merged.insert(key.clone(), wanted.into()),
        };
    }
    Ok(merged)
}

/// RTC-33: both lists, without what others cover.
fn merge_tolerations(first: &[Value], second: &[Value]) -> Result<Vec<Value>, Status> {
    let read = |list: &[Value]| -> Result<Vec<Toleration>, Status> {
        let broken = |error| Status::internal(format!("read tolerations: {error}"));
        list.iter().map(|one| Toleration::deserialize(one).map_err(broken)).collect()
    };
    let merged = toleration::merged(&read(first)?, &read(second)?);
    Ok(merged.iter().map(|one| json!(one)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_twice_changes_nothing() {
        let pod = vec![json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"})];
        let class = vec![json!({"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9})];
        let once = merge_tolerations(&pod, &class).unwrap();
        assert_eq!(once, [pod[0].clone(), class[0].clone()]);
        assert_eq!(merge_tolerations(&once, &class).unwrap(), once);
    }

    #[test]
    fn quantities_are_compared_by_value() {
        assert!(same_quantities(&json!({"cpu": "1000m", "memory": "1Gi"}), &json!({"cpu": 1, "memory": "1024Mi"})));
        assert!(!same_quantities(&json!({"cpu": "1"}), &json!({"cpu": "1", "memory": "1"})));
    }
}
