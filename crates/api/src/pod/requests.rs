//! Effective requests and limits of a pod: what a node must have room for.

use serde_json::Value;

use super::{Resources, add, raise, resources};
use crate::look;

/// One container, as far as its resources matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// What it asks for.
    pub requests: Resources,
    /// What it may use at most.
    pub limits: Resources,
    /// An init container with restart policy `Always`: it runs beside the others.
    pub sidecar: bool,
}

/// One pod, as far as its resources matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Init containers in their order.
    pub init_containers: Vec<Container>,
    /// App containers.
    pub containers: Vec<Container>,
    /// Overhead of the runtime class.
    pub overhead: Resources,
    /// Requests of the pod as a whole.
    pub pod_requests: Resources,
    /// Limits of the pod as a whole.
    pub pod_limits: Resources,
}

impl Shape {
    /// Reads a pod spec.
    pub fn from_spec(spec: &Value) -> Shape {
        let all = |list: &str| -> Vec<Container> { look::list(spec, list).iter().map(Container::from_value).collect() };
        Shape {
            init_containers: all("initContainers"),
            containers: all("containers"),
            overhead: resources(look::get(spec, "overhead")),
            pod_requests: resources(look::at(spec, &["resources", "requests"])),
            pod_limits: resources(look::at(spec, &["resources", "limits"])),
        }
    }
}

impl Container {
    fn from_value(value: &Value) -> Container {
        Container {
            requests: resources(look::at(value, &["resources", "requests"])),
            limits: resources(look::at(value, &["resources", "limits"])),
            sidecar: look::text(value, "restartPolicy") == "Always",
        }
    }
}

/// Resources that a pod may ask for as a whole.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Requests that a node must have room for: containers, or the pod as a whole where it says so (RTC-59), plus overhead
/// (RTC-57).
#[must_use]
pub fn requests(shape: &Shape) -> Resources {
    let mut sum = of_containers(shape);
    for (name, quantity) in shape.pod_requests.iter().filter(|(name, _)| is_pod_level(name)) {
        sum.insert(name.clone(), *quantity);
    }
    add(&mut sum, &shape.overhead);
    sum
}

/// Limits of the whole pod; overhead is added only where a limit is (RTC-64).
#[must_use]
pub fn limits(shape: &Shape) -> Resources {
    let mut sum = peak(shape, |container| &container.limits);
    for (name, quantity) in shape.pod_limits.iter().filter(|(name, _)| is_pod_level(name)) {
        sum.insert(name.clone(), *quantity);
    }
    for (name, quantity) in &shape.overhead {
        if let Some(slot) = sum.get_mut(name).filter(|limit| !limit.is_zero()) {
            *slot = slot.plus(*quantity);
        }
    }
    sum
}

/// Requests of the containers alone, without overhead and without what the pod says as a whole.
#[must_use]
pub fn of_containers(shape: &Shape) -> Resources {
    peak(shape, |container| &container.requests)
}

/// The larger of: all app containers and sidecars together, and each step of initialisation with the sidecars that
/// were started before it (RTC-58).
fn peak(shape: &Shape, list: impl Fn(&Container) -> &Resources) -> Resources {
    let mut sidecars = Resources::new();
    let mut most = Resources::new();
    for container in &shape.init_containers {
        let mut step = sidecars.clone();
        add(&mut step, list(container));
        if container.sidecar {
            sidecars = step.clone();
        }
        raise(&mut most, &step);
    }
    let mut running = sidecars;
    for container in &shape.containers {
        add(&mut running, list(container));
    }
    raise(&mut most, &running);
    most
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::quantity::Quantity;

    fn container(cpu: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Value {
        let mut value = container(cpu);
        value["restartPolicy"] = json!("Always");
        value
    }

    fn check(spec: Value, requests_cpu: &str, limits_cpu: &str) {
        let shape = Shape::from_spec(&spec);
        let cpu = |list: Resources| list.get("cpu").copied().unwrap_or(Quantity::ZERO).to_string();
        assert_eq!(
            (cpu(requests(&shape)), cpu(limits(&shape))),
            (requests_cpu.to_owned(), limits_cpu.to_owned()),
            "{spec}"
        );
    }

    #[test]
    fn rtc_57_58_the_largest_moment_counts() {
        check(json!({"containers": [container("1"), container("500m")]}), "1500m", "1500m");
        check(json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]}), "3", "3");
        check(json!({"containers": [container("1")], "initContainers": [sidecar("1"), container("3")]}), "4", "4");
        check(json!({"containers": [container("1")], "initContainers": [container("3"), sidecar("1")]}), "3", "3");
        check(json!({"containers": [container("1")], "initContainers": [sidecar("1"), sidecar("2")]}), "4", "4");
    }

    #[test]
    fn rtc_57_64_overhead() {
        check(json!({"containers": [container("900m")], "overhead": {"cpu": "200m"}}), "1100m", "1100m");
        check(json!({"containers": [{}], "overhead": {"cpu": "200m"}}), "200m", "0");
    }

    #[test]
    fn rtc_59_the_pod_as_a_whole() {
        check(
            json!({"containers": [container("100m")], "resources": {"requests": {"cpu": "1"}}, "overhead": {"cpu": "250m"}}),
            "1250m",
            "350m",
        );
        let shape =
            Shape::from_spec(&json!({"containers": [{}], "resources": {"requests": {"ephemeral-storage": "1"}}}));
        assert!(requests(&shape).is_empty(), "only what a pod may ask for as a whole");
    }
}
