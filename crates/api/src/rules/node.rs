//! Nodes: taints, addresses, capacity.

use jiff::Timestamp;
use serde_json::Value;

use super::pod::resources;
use super::pod::scheduling::taint_effect;
use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

/// Rules of `v1 Node`.
pub struct Nodes;

impl Rules for Nodes {
    fn default(&self, object: &mut Value) {
        if let Some(status) = look::get_mut(object, "status") {
            for name in ["capacity", "allocatable"] {
                resources::round_list(status, name);
            }
            if let (Some(capacity), None) = (look::get(status, "capacity").cloned(), look::get(status, "allocatable")) {
                look::set(status, "allocatable", capacity);
            }
        }
        look::child(object, "spec");
        look::child(object, "status");
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        look::remove(look::child(object, "spec"), "configSource");
        look::remove(look::child(object, "status"), "config");
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        taints(object, &mut errors);
        node_resources(object, &mut errors);
        pod_cidrs(object, &mut errors);
        errors
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        match sub {
            Some("status") => look::copy(old, new, "spec"),
            _ => look::copy(old, new, "status"),
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errors = self.validate_create(new);
        unique_addresses(new, &mut errors);
        set_once(new, old, &mut errors);
        errors
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let unschedulable = look::at(object, &["spec", "unschedulable"]).and_then(Value::as_bool).unwrap_or(false);
        vec![("spec.unschedulable", unschedulable.to_string())]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let version = look::text_at(object, &["status", "nodeInfo", "kubeletVersion"]);
        vec![
            name_cell(object),
            Value::from(state(object)),
            Value::from(roles(object)),
            age_cell(object, now),
            Value::from(version),
            Value::from(address(object, "InternalIP")),
            Value::from(address(object, "ExternalIP")),
            Value::from(known(object, "osImage")),
            Value::from(kernel(object)),
            Value::from(known(object, "containerRuntimeVersion")),
        ]
    }
}

fn taints(object: &Value, errors: &mut Vec<FieldError>) {
    // Upstream names this path `metadata.taints`.
    let path = Path::new("metadata").child("taints");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, taint) in look::list_at(object, &["spec", "taints"]).iter().enumerate() {
        let path = path.index(index);
        let (key, value, effect) = (look::text(taint, "key"), look::text(taint, "value"), look::text(taint, "effect"));
        for complaint in names::label_key(key) {
            errors.push(FieldError::invalid(&path.child("key"), key, complaint));
        }
        let complaints = names::label_value(value);
        if !complaints.is_empty() {
            errors.push(FieldError::invalid(&path.child("value"), value, complaints.join(";")));
        }
        taint_effect(effect, false, &path.child("effect"), errors);
        if seen.contains(&(key, effect)) {
            let mut error = FieldError::duplicate(&path, taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
        seen.push((key, effect));
    }
}

fn node_resources(object: &Value, errors: &mut Vec<FieldError>) {
    for list in ["capacity", "allocatable"] {
        let Some(status) = look::get(object, "status") else { return };
        for (name, value) in look::map(status, list) {
            let path = Path::new("status").child(list).child(name);
            resources::quantity_value(name, value, &path, errors);
        }
    }
}

fn pod_cidrs(object: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::new("spec").child("podCIDRs");
    let all = look::list_at(object, &["spec", "podCIDRs"]);
    for (index, cidr) in all.iter().enumerate() {
        let text = cidr.as_str().unwrap_or("");
        if text.parse::<ipnet::IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(&path.index(index), text, detail));
        }
    }
    let versions: Vec<bool> = all.iter().map(|cidr| cidr.as_str().unwrap_or("").contains(':')).collect();
    let one_each = versions.len() < 2 || (versions.len() == 2 && versions[0] != versions[1]);
    if !one_each {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(&path, all.to_vec(), detail));
    }
}

fn unique_addresses(object: &Value, errors: &mut Vec<FieldError>) {
    let all = look::list_at(object, &["status", "addresses"]);
    for (index, address) in all.iter().enumerate() {
        if all[..index].contains(address) {
            let path = Path::new("status").child("addresses").index(index);
            errors.push(FieldError::duplicate(&path, address.clone()));
        }
    }
}

/// Fields that may be set while they are empty and never change afterwards.
fn set_once(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let spec = Path::new("spec");
    let old_cidrs = look::at(old, &["spec", "podCIDRs"]);
    let has_cidrs = old_cidrs.and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if has_cidrs && !look::same(look::at(new, &["spec", "podCIDRs"]), old_cidrs) {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&spec.child("podCIDRs"), detail));
    }
    let old_provider = look::text_at(old, &["spec", "providerID"]);
    if !old_provider.is_empty() && look::text_at(new, &["spec", "providerID"]) != old_provider {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&spec.child("providerID"), detail));
    }
    if look::text_at(new, &["spec", "externalID"]) != look::text_at(old, &["spec", "externalID"]) {
        errors.push(FieldError::forbidden(&spec.child("externalID"), "may not be updated"));
    }
}

fn state(object: &Value) -> String {
    let ready = look::list_at(object, &["status", "conditions"]).iter().rfind(|c| look::text(c, "type") == "Ready");
    let mut text = match ready.map(|condition| look::text(condition, "status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if look::at(object, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(object: &Value) -> String {
    let empty = Value::Null;
    let meta = look::get(object, "metadata").unwrap_or(&empty);
    let mut roles: Vec<&str> = look::text_map(meta, "labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => Some(value),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address(object: &Value, kind: &str) -> String {
    let all = look::list_at(object, &["status", "addresses"]);
    let found = all.iter().find(|address| look::text(address, "type") == kind);
    found.map_or("<none>", |address| look::text(address, "address")).to_owned()
}

fn known(object: &Value, name: &str) -> String {
    match look::text_at(object, &["status", "nodeInfo", name]) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    }
}

fn kernel(object: &Value) -> String {
    let version = known(object, "kernelVersion");
    match look::text_at(object, &["status", "nodeInfo", "architecture"]) {
        "" => version,
        architecture => format!("{version} ({architecture})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value, expected: &[&str]) {
        let texts: Vec<String> = Nodes.validate_create(&object).iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn taints_have_a_known_effect_and_are_unique() {
        check(
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]}}),
            &[],
        );
        check(
            json!({"spec": {"taints": [{"key": "a", "effect": "No"}]}}),
            &[
                "metadata.taints[0].effect: Unsupported value: \"No\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        );
        check(
            json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}]}}),
            &[
                "metadata.taints[1]: Duplicate value: {\"effect\":\"NoExecute\",\"key\":\"a\"}: taints must be unique by key and effect pair",
            ],
        );
    }

    #[test]
    fn the_pod_cidr_is_set_once() {
        let old = json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "a"}});
        let new = json!({"spec": {"podCIDRs": ["10.0.1.0/24"], "providerID": "a"}});
        let errors = Nodes.validate_update(&new, &old, None);
        assert_eq!(
            errors[0].to_string(),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"
        );
        assert!(Nodes.validate_update(&old, &json!({"spec": {}}), None).is_empty());
    }

    #[test]
    fn cells_show_state_roles_and_versions() {
        let node = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "kernelVersion": "6.1", "architecture": "amd64"},
            },
        });
        let cells = Nodes.cells(&node, Timestamp::UNIX_EPOCH);
        assert_eq!(
            cells,
            [
                "n",
                "Ready,SchedulingDisabled",
                "control-plane,x",
                "<unknown>",
                "v1.36.0",
                "10.0.0.1",
                "<none>",
                "<unknown>",
                "6.1 (amd64)",
                "<unknown>"
            ]
        );
    }
}
