//! `LimitRanger`: gives new containers what the LimitRanges of their namespace have as defaults, and refuses pods outside
//! of their bounds. Overhead is never counted (RTC-62).

use std::collections::BTreeSet;

use api::look;
use api::pod::requests::{self, Shape};
use api::pod::{Resources, resources};
use api::quantity::Quantity;
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct LimitRanger;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if is_new_pod(request) {
            for range in ranges(request).await {
                set_defaults(&range, pod);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, pod: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = pod.filter(|_| is_new_pod(request)) else { return Ok(()) };
        for range in ranges(request).await {
            let complaints = complaints(&range, pod);
            match complaints.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(one)),
                several => return Err(request.forbidden(format!("[{}]", several.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Resources never change later, so nothing else can break a bound.
fn is_new_pod(request: &Request<'_>) -> bool {
    request.is_on("", "pods") && request.operation == Operation::Create
}

async fn ranges(request: &Request<'_>) -> Vec<Value> {
    request.world.all_in("", "limitranges", request.namespace).await.into_iter().map(|(_, range)| range).collect()
}

fn items<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    look::list_at(range, &["spec", "limits"]).iter().filter(move |item| look::text(item, "type") == kind)
}

/// Fills what containers leave open, and writes down what was filled.
fn set_defaults(range: &Value, pod: &mut Value) {
    let mut told = Vec::new();
    let spec = look::child(pod, "spec");
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        for container in look::list_mut(spec, list) {
            let name = look::text(container, "name").to_owned();
            for (field, default, what) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
                let set = fill(range, container, field, default);
                if !set.is_empty() {
                    let set: Vec<String> = set.into_iter().collect();
                    told.push(format!("{} {what} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let annotations = look::child(look::child(pod, "metadata"), "annotations");
        look::set(annotations, ANNOTATION, format!("LimitRanger plugin set: {}", told.join("; ")));
    }
}

/// Copies the defaults that the container lacks; returns their names.
fn fill(range: &Value, container: &mut Value, field: &str, default: &str) -> BTreeSet<String> {
    let mut set = BTreeSet::new();
    for (name, value) in items(range, "Container").flat_map(|item| look::map(item, default)) {
        if look::at(container, &["resources", field, name]).is_none() {
            look::set(look::child(look::child(container, "resources"), field), name, value.clone());
            set.insert(name.to_owned());
        }
    }
    set
}

/// All that is out of bounds.
fn complaints(range: &Value, pod: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let empty = Value::Null;
    let spec = look::get(pod, "spec").unwrap_or(&empty);
    for item in look::list_at(range, &["spec", "limits"]) {
        match look::text(item, "type") {
            "Container" => {
                for container in look::list(spec, "containers").iter().chain(look::list(spec, "initContainers")) {
                    let list = |field| resources(look::at(container, &["resources", field]));
                    check(item, "Container", &list("requests"), &list("limits"), &mut out);
                }
            }
            "Pod" => {
                let shape = Shape { overhead: Resources::new(), ..Shape::from_spec(spec) };
                check(item, "Pod", &requests::requests(&shape), &requests::limits(&shape), &mut out);
            }
            _ => {}
        }
    }
    let mut known = BTreeSet::new();
    out.retain(|text| known.insert(text.clone()));
    out
}

/// Checks the three bounds of one item, in upstream's words.
fn check(item: &Value, kind: &str, requests: &Resources, limits: &Resources, out: &mut Vec<String>) {
    let bounds = |list| resources(look::get(item, list));
    for (name, min) in bounds("min") {
        let opening = format!("minimum {name} usage per {kind} is {min}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => out.push(format!("{opening}.  No request is specified")),
            (Some(request), _) if *request < min => out.push(format!("{opening}, but request is {request}")),
            (_, Some(limit)) if *limit < min => out.push(format!("{opening}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, max) in bounds("max") {
        let opening = format!("maximum {name} usage per {kind} is {max}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => out.push(format!("{opening}.  No limit is specified")),
            (_, Some(limit)) if *limit > max => out.push(format!("{opening}, but limit is {limit}")),
            (Some(request), _) if *request > max => out.push(format!("{opening}, but request is {request}")),
            _ => {}
        }
    }
    let some = |list: &Resources, name: &str| list.get(name).copied().filter(|amount| !amount.is_zero());
    for (name, most) in bounds("maxLimitRequestRatio") {
        let opening = format!("{name} max limit to request ratio per {kind} is {most}");
        match (some(requests, &name), some(limits, &name)) {
            (None, _) => out.push(format!("{opening}, but no request is specified or request is 0")),
            (_, None) => out.push(format!("{opening}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.ratio_to(request);
                if ratio > most.ratio_to(Quantity::units(1)) {
                    out.push(format!("{opening}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_pod(item: Value, spec: Value, expected: &[&str]) {
        let range = json!({"spec": {"limits": [item]}});
        assert_eq!(complaints(&range, &json!({"spec": spec})), expected);
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn containers_stay_within_their_bounds() {
        let item = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"},
            "maxLimitRequestRatio": {"cpu": "4"}});
        let of = |request: &str, limit: &str| json!({"containers": [container(json!({"cpu": request}), json!({"cpu": limit}))]});
        check_pod(item.clone(), of("250m", "1"), &[]);
        check_pod(item.clone(), of("50m", "100m"), &["minimum cpu usage per Container is 100m, but request is 50m"]);
        check_pod(
            item.clone(),
            of("300m", "1500m"),
            &[
                "maximum cpu usage per Container is 1, but limit is 1500m",
                "cpu max limit to request ratio per Container is 4, but provided ratio is 5.000000",
            ],
        );
        check_pod(
            item,
            json!({"containers": [container(json!({"cpu": "1"}), json!({"cpu": "1"}))], "initContainers": [{"name": "i"}]}),
            &[
                "minimum cpu usage per Container is 100m.  No request is specified",
                "maximum cpu usage per Container is 1.  No limit is specified",
                "cpu max limit to request ratio per Container is 4, but no request is specified or request is 0",
            ],
        );
    }

    #[test]
    fn rtc_62_pods_are_bounded_without_their_overhead() {
        let item = json!({"type": "Pod", "max": {"cpu": "1"}});
        let half = container(json!({"cpu": "500m"}), json!({"cpu": "500m"}));
        check_pod(item.clone(), json!({"containers": [half, half], "overhead": {"cpu": "1"}}), &[]);
        check_pod(
            item,
            json!({"containers": [half, half, half]}),
            &["maximum cpu usage per Pod is 1, but limit is 1500m"],
        );
    }

    #[test]
    fn open_resources_are_filled_once_and_told() {
        let range = json!({"spec": {"limits": [{"type": "Container",
            "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m"}}]}});
        let mut pod = json!({"spec": {
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "2"}}}], "initContainers": [{"name": "b"}]}});
        set_defaults(&range, &mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; memory limit for container a; \
             cpu request for init container b; cpu, memory limit for init container b"
        );
        let once = pod.clone();
        set_defaults(&range, &mut pod);
        assert_eq!(pod, once);
    }
}
