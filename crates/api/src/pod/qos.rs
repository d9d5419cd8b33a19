//! The QoS class of a pod (RTC-66).

use std::fmt;

use serde_json::Value;

use super::Resources;
use super::requests::Shape;
use crate::look;

/// How dispensable a pod is when its node runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QosClass {
    /// Asks for nothing.
    BestEffort,
    /// Asks for something.
    Burstable,
    /// Asks for exactly what it may use.
    Guaranteed,
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        })
    }
}

impl std::str::FromStr for QosClass {
    type Err = ();

    fn from_str(text: &str) -> Result<QosClass, ()> {
        match text {
            "BestEffort" => Ok(Self::BestEffort),
            "Burstable" => Ok(Self::Burstable),
            "Guaranteed" => Ok(Self::Guaranteed),
            _ => Err(()),
        }
    }
}

/// The class of a whole Pod object: what its status says, else what its spec means.
pub fn class_of_pod(object: &Value) -> QosClass {
    let recorded = look::text_at(object, &["status", "qosClass"]).parse();
    let empty = Value::Null;
    recorded.unwrap_or_else(|()| class(&Shape::from_spec(look::get(object, "spec").unwrap_or(&empty))))
}

/// The class that containers, or the pod as a whole, mean. Overhead never changes it.
#[must_use]
pub fn class(shape: &Shape) -> QosClass {
    if !shape.pod_requests.is_empty() || !shape.pod_limits.is_empty() {
        return of_lists([(&shape.pod_requests, &shape.pod_limits)].into_iter());
    }
    let all = shape.init_containers.iter().chain(&shape.containers);
    of_lists(all.map(|container| (&container.requests, &container.limits)))
}

fn of_lists<'a>(lists: impl Iterator<Item = (&'a Resources, &'a Resources)>) -> QosClass {
    let amount = |list: &Resources, name: &str| list.get(name).copied().filter(|quantity| !quantity.is_zero());
    let (mut any, mut guaranteed) = (false, true);
    for (requests, limits) in lists {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(requests, name), amount(limits, name));
            any |= request.is_some() || limit.is_some();
            // A request left open is as large as the limit.
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(containers: Value, expected: QosClass) {
        let pod = json!({"spec": {"containers": containers, "overhead": {"cpu": "1"}}});
        assert_eq!(class_of_pod(&pod), expected, "{}", pod["spec"]["containers"]);
    }

    #[test]
    fn rtc_66_classes() {
        let with = |requests: Value, limits: Value| json!({"resources": {"requests": requests, "limits": limits}});
        let full = json!({"cpu": "1", "memory": "1Gi"});
        check(json!([{}]), QosClass::BestEffort);
        check(json!([with(json!({"cpu": "0"}), json!({}))]), QosClass::BestEffort);
        check(json!([with(json!({"ephemeral-storage": "1Gi"}), json!({}))]), QosClass::BestEffort);
        check(json!([with(full.clone(), full.clone())]), QosClass::Guaranteed);
        check(json!([with(json!({}), full.clone())]), QosClass::Guaranteed);
        check(json!([with(json!({"cpu": "1000m"}), full.clone())]), QosClass::Guaranteed);
        check(json!([with(json!({"cpu": "500m"}), full.clone())]), QosClass::Burstable);
        check(json!([with(full.clone(), full.clone()), {}]), QosClass::Burstable);
        check(json!([with(json!({"memory": "1"}), json!({}))]), QosClass::Burstable);
    }

    #[test]
    fn the_pod_as_a_whole_decides_where_it_says_something() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let pod = json!({"spec": {"containers": [{}], "resources": {"limits": full}}});
        assert_eq!(class_of_pod(&pod), QosClass::Guaranteed);
        assert_eq!(class_of_pod(&json!({"status": {"qosClass": "Burstable"}})), QosClass::Burstable);
    }
}
