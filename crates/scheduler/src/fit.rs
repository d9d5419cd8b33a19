//! Amounts as the scheduler adds them up, and host ports. Pure.
//!
//! What a pod asks for, and whether labels, taints and tolerations match, is `api::pod`'s to say.

use std::collections::BTreeMap;

use crate::view::{HostPort, Pod};

/// Amounts by resource name: `cpu` in thousandths of a core, everything else in whole units (bytes, pieces).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<String, i64>);

impl Resources {
    /// Whole amounts of quantities.
    pub fn of(quantities: &api::pod::Resources) -> Resources {
        let amount = |(name, quantity): (&String, &api::quantity::Quantity)| {
            (name.clone(), if name == "cpu" { quantity.milli_value() } else { quantity.value() })
        };
        Resources(quantities.iter().map(amount).collect())
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
