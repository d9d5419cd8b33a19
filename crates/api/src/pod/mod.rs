//! Arithmetic on pods that the scheduler and the node share with this room.
//!
//! Everything takes plain inputs: maps of resource names to quantities, small structs of borrowed texts. Rooms decode
//! their own slim structs and hand over what is needed; `from_spec` readers are for those that hold whole objects.
//!
//! - [`requests`]: effective requests and limits (RTC-57 to RTC-59, RTC-64);
//! - [`qos`]: the QoS class (RTC-66);
//! - [`toleration`]: taints and tolerations (RTC-33, RTC-34, RTC-56);
//! - [`affinity`]: node selectors and node affinity (RTC-55);
//! - [`reference`]: which kinds of objects in the API a spec refers to (IMG-190).

pub mod affinity;
pub mod qos;
pub mod reference;
pub mod requests;
pub mod toleration;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::look;
use crate::quantity::Quantity;

/// Quantities by the name of their resource.
pub type Resources = BTreeMap<String, Quantity>;

/// Reads a resource list; entries that are no quantities are left out.
pub fn resources(object: Option<&Value>) -> Resources {
    let entries = object.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), Quantity::from_value(value).ok()?))).collect()
}

/// Adds a list to a sum.
pub fn add(sum: &mut Resources, other: &Resources) {
    for (name, quantity) in other {
        let slot = sum.entry(name.clone()).or_insert(Quantity::ZERO);
        *slot = slot.plus(*quantity);
    }
}

/// Raises each entry of a list to that of another.
pub fn raise(most: &mut Resources, other: &Resources) {
    for (name, quantity) in other {
        let slot = most.entry(name.clone()).or_insert(*quantity);
        *slot = (*slot).max(*quantity);
    }
}

/// Whether the phase is one that never changes again.
pub fn is_terminal_phase(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// Whether the object is a mirror of a static pod.
pub fn is_mirror(object: &Value) -> bool {
    look::at(object, &["metadata", "annotations", crate::rules::pod::MIRROR_ANNOTATION]).is_some()
}
