//! Arithmetic on resources, and the matching of labels, fields, taints and tolerations. Pure.

use std::collections::BTreeMap;

use api::quantity::Quantity;

use crate::view::{Container, HostPort, Node, Placement, Pod, Requirement, Taint, Term, Toleration};

/// Amounts by resource name: `cpu` in thousandths of a core, everything else in whole units (bytes, pieces).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<String, i64>);

impl Resources {
    /// Reads quantities. What is no quantity counts as nothing: the API server has refused it already.
    pub fn read(quantities: &BTreeMap<String, serde_json::Value>) -> Resources {
        let amount = |(name, value): (&String, &serde_json::Value)| {
            let quantity = Quantity::from_value(value).ok()?;
            let amount = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
            Some((name.clone(), amount))
        };
        Resources(quantities.iter().filter_map(amount).collect())
    }

    /// The amount of one resource; 0 if it is not named.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Takes all of `other` away.
    pub fn subtract(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let rest = self.0.entry(name.clone()).or_default();
            *rest = rest.saturating_sub(*amount);
        }
    }

    fn raise_to(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let most = self.0.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }
}

/// What a pod asks for: the greater of (app containers + sidecars) and each init step, then pod-level requests in
/// their place, then overhead (RTC-57, 58, 59).
pub fn pod_requests(
    containers: &[Container],
    init_containers: &[Container],
    pod_level: &BTreeMap<String, serde_json::Value>,
    overhead: &BTreeMap<String, serde_json::Value>,
) -> Resources {
    let mut running = Resources::default();
    for container in containers {
        running.add(&Resources::read(&container.resources.requests));
    }
    let mut sidecars = Resources::default();
    let mut init_peak = Resources::default();
    for container in init_containers {
        let own = Resources::read(&container.resources.requests);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&own);
            sidecars.add(&own);
            init_peak.raise_to(&sidecars);
        } else {
            let mut step = sidecars.clone();
            step.add(&own);
            init_peak.raise_to(&step);
        }
    }
    running.raise_to(&init_peak);
    for (name, amount) in Resources::read(pod_level).0 {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            running.0.insert(name, amount);
        }
    }
    running.add(&Resources::read(overhead));
    running
}

/// Whether the node selector and the required affinity allow the node.
pub fn allows(placement: &Placement, node: &Node) -> bool {
    let selected = placement.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let required = placement.required.as_ref();
    selected && required.is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
}

/// Whether everything in the term is true of the node; an empty term matches nothing.
pub fn term_matches(term: &Term, node: &Node) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    let by_label = |one: &Requirement| requirement_matches(one, node.labels.get(&one.key).map(String::as_str));
    let by_field = |one: &Requirement| {
        one.key == "metadata.name"
            && requirement_matches(one, Some(&node.name))
            && matches!(&*one.operator, "In" | "NotIn")
    };
    term.match_expressions.iter().all(by_label) && term.match_fields.iter().all(by_field)
}

fn requirement_matches(requirement: &Requirement, actual: Option<&str>) -> bool {
    let listed = |actual: &str| requirement.values.iter().any(|value| value == actual);
    let compare = |holds: fn(i64, i64) -> bool| {
        let wanted = match &requirement.values[..] {
            [one] => one.parse().ok(),
            _ => None,
        };
        let actual = actual.and_then(|actual| actual.parse().ok());
        actual.zip(wanted).is_some_and(|(actual, wanted)| holds(actual, wanted))
    };
    match &*requirement.operator {
        "In" => actual.is_some_and(listed),
        "NotIn" => !actual.is_some_and(listed),
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compare(|actual, wanted| actual > wanted),
        "Lt" => compare(|actual, wanted| actual < wanted),
        _ => false,
    }
}

/// Whether one of the tolerations covers the taint.
pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.is_empty() || toleration.effect == taint.effect;
        let key = toleration.key.is_empty() || toleration.key == taint.key;
        let value = match &*toleration.operator {
            "Exists" => true,
            "" | "Equal" => !toleration.key.is_empty() && toleration.value == taint.value,
            _ => false,
        };
        effect && key && value
    })
}

/// Whether two host ports cannot both be taken.
pub fn collide(one: &HostPort, other: &HostPort) -> bool {
    let any = |port: &HostPort| port.address == "0.0.0.0" || port.address == "::";
    let addresses = one.address == other.address || any(one) || any(other);
    one.port == other.port && one.protocol == other.protocol && addresses
}

/// What a pod counts as when nodes are compared: one that asks for nothing is still taken to use a little.
pub fn scored_request(pod: &Pod, resource: &str) -> i64 {
    match (pod.requests.get(resource), resource) {
        (0, "cpu") => 100,
        (0, "memory") => 200 << 20,
        (amount, _) => amount,
    }
}
