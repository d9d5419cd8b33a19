//! Limits: CRI's words to OCI's. Zero means "not said".

use cri::v1::LinuxContainerResources;
use serde_json::{Map, Value, json};

use super::{Inputs, Machine, devices};

/// The `resources` of a new container.
pub(super) fn of(inputs: &Inputs<'_>, privileged: bool) -> Value {
    let asked = inputs.config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let mut all = update(&asked, inputs.machine);
    all["devices"] = json!(devices::rules(&inputs.devices, privileged));
    all
}

/// The `resources` that `update` sets on a running container: no devices.
pub(crate) fn update(asked: &LinuxContainerResources, machine: &Machine) -> Value {
    let mut all = Map::new();
    let cpu = object(&[
        ("shares", number(asked.cpu_shares)),
        ("quota", number(asked.cpu_quota)),
        ("period", number(asked.cpu_period)),
        ("cpus", text(&asked.cpuset_cpus)),
        ("mems", text(&asked.cpuset_mems)),
    ]);
    let memory =
        object(&[("limit", number(asked.memory_limit_in_bytes)), ("swap", number(asked.memory_swap_limit_in_bytes))]);
    all.extend(cpu.map(|cpu| ("cpu".to_owned(), cpu)));
    all.extend(memory.map(|memory| ("memory".to_owned(), memory)));
    if machine.hugetlb && !asked.hugepage_limits.is_empty() {
        let limits = asked.hugepage_limits.iter().map(|l| json!({ "pageSize": l.page_size, "limit": l.limit }));
        all.insert("hugepageLimits".into(), limits.collect());
    }
    // Runtimes refuse these on version 1.
    if machine.unified_cgroups && !asked.unified.is_empty() {
        all.insert("unified".into(), json!(asked.unified));
    }
    Value::Object(all)
}

fn number(value: i64) -> Option<Value> {
    (value != 0).then(|| json!(value))
}

fn text(value: &str) -> Option<Value> {
    (!value.is_empty()).then(|| json!(value))
}

fn object(fields: &[(&str, Option<Value>)]) -> Option<Value> {
    let set: Map<String, Value> =
        fields.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?))).collect();
    (!set.is_empty()).then_some(Value::Object(set))
}
