//! What objects use of a ResourceQuota: shared by the plugin that charges and the controller that counts.
//!
//! Start at [`usage`] for one object, at [`matches`] for whether a quota is about it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::look;
use crate::pod::qos::{self, QosClass};
use crate::pod::requests::{self, Container, Shape};
use crate::pod::{Resources, add, is_terminal_phase, resources};
use crate::quantity::Quantity;
use crate::{Kind, time};

/// Kinds that a quota may also name by their plural alone.
const CLASSIC: [&str; 6] =
    ["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"];

/// What every container has to say when a quota limits it.
const EXPLICIT: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// The name under which a quota counts objects of a kind, e.g. `count/jobs.batch`.
pub fn count_name(kind: &Kind) -> String {
    format!("count/{}", kind.qualified())
}

/// Whether a quota that limits `name` is about objects of the kind.
pub fn is_about(kind: &Kind, name: &str) -> bool {
    if name == count_name(kind) || (kind.group.is_empty() && CLASSIC.contains(&name) && name == kind.plural) {
        return true;
    }
    is_pod(kind) && is_of_pods(name)
}

fn is_pod(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "pods"
}

/// Whether it is counted by what is in pods, not by objects.
fn is_of_pods(name: &str) -> bool {
    let compute = ["pods", "ephemeral-storage", "requests.ephemeral-storage", "limits.ephemeral-storage"];
    compute.contains(&name)
        || EXPLICIT.contains(&name)
        || name.starts_with("hugepages-")
        || name.strip_prefix("requests.").is_some_and(|name| name.starts_with("hugepages-") || name.contains('/'))
}

/// What an object uses. A pod that has ended, or should have by now, counts as an object only.
#[must_use]
pub fn usage(kind: &Kind, object: &Value, now: Timestamp) -> Resources {
    let mut used = Resources::from([(count_name(kind), Quantity::units(1))]);
    if kind.group.is_empty() && CLASSIC.contains(&kind.plural) {
        used.insert(kind.plural.to_owned(), Quantity::units(1));
    }
    if is_pod(kind) && is_charged(object, now) {
        let empty = Value::Null;
        let shape = Shape::from_spec(look::get(object, "spec").unwrap_or(&empty));
        // RTC-61, RTC-64: both with overhead.
        used.extend(compute(&requests::requests(&shape), &requests::limits(&shape)));
        used.insert("pods".to_owned(), Quantity::units(1));
    }
    used
}

/// Whether the pod still holds what it asked for.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if is_terminal_phase(look::text_at(pod, &["status", "phase"])) {
        return false;
    }
    // `deletionTimestamp` is the end of the grace, after which nobody may have seen the pod end.
    let grace = look::at(pod, &["metadata", "deletionGracePeriodSeconds"]);
    match (grace, time::parse(look::text_at(pod, &["metadata", "deletionTimestamp"]))) {
        (Some(_), Some(end)) => now <= end,
        _ => true,
    }
}

/// Requests and limits under the names that quotas have for them.
fn compute(requests: &Resources, limits: &Resources) -> Resources {
    let mut used = Resources::new();
    for (name, amount) in requests {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            used.insert(name.clone(), *amount);
        }
        used.insert(format!("requests.{name}"), *amount);
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    used
}

/// Whether a quota is about this object: none of its scopes is against it. Only pods have scopes.
#[must_use]
pub fn matches(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let scopes = look::list_at(quota, &["spec", "scopes"]);
    let expressions = look::list_at(quota, &["spec", "scopeSelector", "matchExpressions"]);
    if !is_pod(kind) {
        return scopes.is_empty() && expressions.is_empty();
    }
    scopes.iter().filter_map(Value::as_str).all(|scope| in_scope(scope, object))
        && expressions.iter().all(|expression| match look::text(expression, "scopeName") {
            "PriorityClass" => of_class(expression, look::text_at(object, &["spec", "priorityClassName"])),
            scope => in_scope(scope, object),
        })
}

fn in_scope(scope: &str, pod: &Value) -> bool {
    let ends = || {
        let seconds = look::at(pod, &["spec", "activeDeadlineSeconds"]).and_then(Value::as_i64);
        seconds.is_some_and(|seconds| seconds >= 0)
    };
    match scope {
        "Terminating" => ends(),
        "NotTerminating" => !ends(),
        "BestEffort" => qos::class_of_pod(pod) == QosClass::BestEffort,
        "NotBestEffort" => qos::class_of_pod(pod) != QosClass::BestEffort,
        "PriorityClass" => !look::text_at(pod, &["spec", "priorityClassName"]).is_empty(),
        "CrossNamespacePodAffinity" => leaves_namespace(look::at(pod, &["spec", "affinity"]).unwrap_or(&Value::Null)),
        _ => false,
    }
}

fn of_class(expression: &Value, class: &str) -> bool {
    let listed = || look::texts(expression, "values").contains(&class);
    match look::text(expression, "operator") {
        "In" => !class.is_empty() && listed(),
        "NotIn" => class.is_empty() || !listed(),
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        _ => false,
    }
}

/// Whether some term of a pod's affinity looks at pods of other namespaces.
fn leaves_namespace(affinity: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().filter_map(|kind| look::get(affinity, kind)).any(|rules| {
        let required = look::list(rules, "requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = look::list(rules, "preferredDuringSchedulingIgnoredDuringExecution").iter();
        let terms = required.chain(preferred.filter_map(|term| look::get(term, "podAffinityTerm")));
        terms
            .into_iter()
            .any(|term| !look::list(term, "namespaces").is_empty() || look::get(term, "namespaceSelector").is_some())
    })
}

/// What containers fail to say though the limited `names` need it, in upstream's words: `must specify cpu for: a,b`.
#[must_use]
pub fn unspecified(pod: &Value, names: &BTreeSet<&str>) -> Option<String> {
    let empty = Value::Null;
    let spec = look::get(pod, "spec").unwrap_or(&empty);
    let shape = Shape::from_spec(spec);
    // What the pod says as a whole holds for all its containers.
    let whole = compute(&shape.pod_requests, &shape.pod_limits);
    let named = |list: &str| -> Vec<String> {
        look::list(spec, list).iter().map(|container| look::text(container, "name").to_owned()).collect()
    };
    let all: Vec<(String, &Container)> = named("containers")
        .into_iter()
        .zip(&shape.containers)
        .chain(named("initContainers").into_iter().zip(&shape.init_containers))
        .collect();
    let mut complaints = Vec::new();
    for name in names.iter().filter(|name| EXPLICIT.contains(*name) && !whole.contains_key(**name)) {
        let silent: BTreeSet<&str> = all
            .iter()
            .filter(|(_, container)| !compute(&container.requests, &container.limits).contains_key(*name))
            .map(|(container, _)| container.as_str())
            .collect();
        if !silent.is_empty() {
            complaints.push(format!("{name} for: {}", silent.into_iter().collect::<Vec<_>>().join(",")));
        }
    }
    (!complaints.is_empty()).then(|| format!("must specify {}", complaints.join("; ")))
}

/// The part of a list that another one names.
#[must_use]
pub fn masked(list: &Resources, names: &Resources) -> Resources {
    list.iter().filter(|(name, _)| names.contains_key(*name)).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// A sum of two lists.
#[must_use]
pub fn sum(a: &Resources, b: &Resources) -> Resources {
    let mut sum = a.clone();
    add(&mut sum, b);
    sum
}

/// What a quota allows, from its spec.
pub fn hard(quota: &Value) -> Resources {
    resources(look::at(quota, &["spec", "hard"]))
}

/// A list as upstream prints it: `cpu=1,pods=2`.
pub fn shown(list: &Resources) -> String {
    list.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind(group: &str, plural: &str) -> &'static Kind {
        crate::find(group, "v1", plural).unwrap()
    }

    fn pod(requests: Value, limits: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}})
    }

    fn used(pod: &Value) -> String {
        shown(&usage(kind("", "pods"), pod, Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn rtc_61_64_overhead_counts_in_requests_and_where_a_limit_is() {
        let mut object = pod(json!({"cpu": "1", "memory": "1Gi"}), json!({"memory": "2Gi"}));
        object["spec"]["overhead"] = json!({"cpu": "250m", "memory": "64Mi"});
        assert_eq!(
            used(&object),
            "count/pods=1,cpu=1250m,limits.memory=2112Mi,memory=1088Mi,pods=1,requests.cpu=1250m,requests.memory=1088Mi"
        );
    }

    #[test]
    fn extended_resources_and_huge_pages_have_names_of_their_own() {
        let some = json!({"example.com/gpu": "2", "hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi"});
        assert_eq!(
            used(&pod(some.clone(), some)),
            "count/pods=1,ephemeral-storage=1Gi,hugepages-2Mi=4Mi,limits.ephemeral-storage=1Gi,pods=1,\
             requests.ephemeral-storage=1Gi,requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi"
        );
    }

    #[test]
    fn a_pod_that_has_ended_is_only_an_object() {
        let mut object = pod(json!({"cpu": "1"}), json!({}));
        object["status"] = json!({"phase": "Succeeded"});
        assert_eq!(used(&object), "count/pods=1");
        object["status"] = json!({"phase": "Running"});
        object["metadata"] = json!({"deletionTimestamp": "1969-12-31T23:59:59Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(used(&object), "count/pods=1");
        object["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:30Z");
        assert_eq!(used(&object), "count/pods=1,cpu=1,pods=1,requests.cpu=1");
    }

    #[test]
    fn other_kinds_are_counted_by_one_or_two_names() {
        let of = |group, plural| shown(&usage(kind(group, plural), &json!({}), Timestamp::UNIX_EPOCH));
        assert_eq!(of("", "secrets"), "count/secrets=1,secrets=1");
        assert_eq!(of("apps", "deployments"), "count/deployments.apps=1");
        assert!(is_about(kind("", "secrets"), "secrets") && !is_about(kind("", "secrets"), "pods"));
        assert!(is_about(kind("", "pods"), "requests.example.com/gpu") && !is_about(kind("", "pods"), "secrets"));
    }

    #[test]
    fn scopes_choose_pods() {
        let check = |spec: Value, pod: &Value, expected: bool| {
            assert_eq!(matches(&json!({"spec": spec}), kind("", "pods"), pod), expected, "{spec}");
        };
        let (idle, busy) = (pod(json!({}), json!({})), pod(json!({"cpu": "1"}), json!({})));
        check(json!({}), &idle, true);
        check(json!({"scopes": ["BestEffort"]}), &idle, true);
        check(json!({"scopes": ["BestEffort"]}), &busy, false);
        check(json!({"scopes": ["NotBestEffort", "NotTerminating"]}), &busy, true);
        let mut short = busy.clone();
        short["spec"]["activeDeadlineSeconds"] = json!(5);
        check(json!({"scopes": ["Terminating"]}), &short, true);
        check(json!({"scopes": ["NotTerminating"]}), &short, false);
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        let mut high = busy.clone();
        high["spec"]["priorityClassName"] = json!("high");
        check(class("In", json!(["high"])), &high, true);
        check(class("In", json!(["low"])), &high, false);
        check(class("NotIn", json!(["high"])), &busy, true);
        check(class("Exists", json!([])), &busy, false);
        let mut near = busy.clone();
        near["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!([{"topologyKey": "a", "namespaces": ["other"]}]);
        check(json!({"scopes": ["CrossNamespacePodAffinity"]}), &near, true);
        assert!(!matches(&json!({"spec": {"scopes": ["BestEffort"]}}), kind("", "secrets"), &json!({})));
    }

    #[test]
    fn every_container_says_what_is_limited() {
        let object = json!({"spec": {
            "containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}],
            "initContainers": [{"name": "i"}],
        }});
        let names = BTreeSet::from(["limits.cpu", "pods", "requests.memory"]);
        assert_eq!(
            unspecified(&object, &names).unwrap(),
            "must specify limits.cpu for: b,i; requests.memory for: a,b,i"
        );
        assert_eq!(unspecified(&object, &BTreeSet::from(["pods"])), None);
        let mut whole = object;
        whole["spec"]["resources"] = json!({"limits": {"cpu": "1"}, "requests": {"memory": "1Gi"}});
        assert_eq!(unspecified(&whole, &names), None);
    }
}
