//! Updates of `pods/status`.

use serde_json::Value;

use super::spec::ip;
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

/// Checks a new status against the old one.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("status");
    let mut errors = Vec::new();
    let nominated = look::text_at(new, &["status", "nominatedNodeName"]);
    if !nominated.is_empty() {
        for complaint in names::subdomain(nominated) {
            errors.push(FieldError::invalid(&path.child("nominatedNodeName"), nominated, complaint));
        }
    }
    let (class, before) = (look::text_at(new, &["status", "qosClass"]), look::text_at(old, &["status", "qosClass"]));
    if class != before && !before.is_empty() {
        errors.push(FieldError::invalid(&path.child("qosClass"), class, crate::meta::IMMUTABLE));
    }
    conditions(new, &path.child("conditions"), &mut errors);
    // Containers that have ended for good do not come back to life.
    for (field, list) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        transitions(new, old, (field, list), &path.child(field), &mut errors);
    }
    addresses(new, "podIPs", &path.child("podIPs"), &mut errors);
    addresses(new, "hostIPs", &path.child("hostIPs"), &mut errors);
    let host = look::list_at(new, &["status", "hostIPs"]).first().map(|entry| look::text(entry, "ip"));
    if let Some(first) = host.filter(|first| *first != look::text_at(new, &["status", "hostIP"])) {
        let path = path.child("hostIPs").index(0).child("ip");
        errors.push(FieldError::invalid(&path, first, "must be equal to `hostIP`"));
    }
    errors
}

/// Conditions that the system does not know must have a qualified name.
fn conditions(new: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    const KNOWN: [&str; 6] =
        ["PodScheduled", "Ready", "Initialized", "ContainersReady", "DisruptionTarget", "PodReadyToStartContainers"];
    for (index, condition) in look::list_at(new, &["status", "conditions"]).iter().enumerate() {
        let kind = look::text(condition, "type");
        if KNOWN.contains(&kind) {
            continue;
        }
        let path = path.index(index).child("Type");
        errors.extend(names::label_key(kind).into_iter().map(|text| FieldError::invalid(&path, kind, text)));
    }
}

fn transitions(new: &Value, old: &Value, (field, list): (&str, &str), path: &Path, errors: &mut Vec<FieldError>) {
    let now = look::list_at(new, &["status", field]);
    for (index, before) in look::list_at(old, &["status", field]).iter().enumerate() {
        let Some(end) = look::at(before, &["state", "terminated"]) else { continue };
        let name = look::text(before, "name");
        let alive = now
            .iter()
            .any(|status| look::text(status, "name") == name && look::at(status, &["state", "terminated"]).is_none());
        if alive && !may_restart(new, list, name, look::integer(end, "exitCode").unwrap_or(0)) {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(&path.index(index).child("state"), detail));
        }
    }
}

/// Whether the policies let a container start again after it ended with this code.
fn may_restart(pod: &Value, list: &str, name: &str, exit_code: i64) -> bool {
    // A rule of one container may have all of them begin anew (HOOK-106).
    let lists = ["initContainers", "containers"].map(|list| look::list_at(pod, &["spec", list]));
    let mut rules = lists.into_iter().flatten().flat_map(|container| look::list(container, "restartPolicyRules"));
    if rules.any(|rule| look::text(rule, "action") == "RestartAllContainers") {
        return true;
    }
    let container = look::list_at(pod, &["spec", list]).iter().find(|item| look::text(item, "name") == name);
    let Some(container) = container else { return false };
    for rule in look::list(container, "restartPolicyRules") {
        let listed = look::list_at(rule, &["exitCodes", "values"]).iter().any(|code| code.as_i64() == Some(exit_code));
        if listed == (look::text_at(rule, &["exitCodes", "operator"]) == "In") {
            return true;
        }
    }
    let own = look::text(container, "restartPolicy");
    match if own.is_empty() { look::text_at(pod, &["spec", "restartPolicy"]) } else { own } {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

fn addresses(new: &Value, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let all: Vec<&str> = look::list_at(new, &["status", field]).iter().map(|entry| look::text(entry, "ip")).collect();
    for (index, address) in all.iter().enumerate() {
        ip(address, &path.index(index), errors);
    }
    let families: Vec<bool> = all.iter().map(|address| address.contains(':')).collect();
    if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        let shown = new["status"][field].clone();
        errors.push(FieldError::invalid(path, shown, "may specify no more than one IP for each IP family"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(policy: &str, old: Value, new: Value, expected: &[&str]) {
        let with = |status: &Value| json!({"spec": {"restartPolicy": policy, "containers": [{"name": "c"}]}, "status": status});
        let texts: Vec<String> = validate_update(&with(&new), &with(&old)).iter().map(FieldError::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn the_dead_stay_dead_unless_the_policy_says_otherwise() {
        let dead =
            |code: i64| json!({"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code}}}]});
        let alive = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
        let refused = "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state";
        check("Always", dead(0), alive.clone(), &[]);
        check("OnFailure", dead(1), alive.clone(), &[]);
        check("OnFailure", dead(0), alive.clone(), &[refused]);
        check("Never", dead(1), alive, &[refused]);
        check("Never", dead(1), dead(1), &[]);
    }

    #[test]
    fn addresses_and_conditions() {
        check("Always", json!({}), json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}), &[]);
        check(
            "Always",
            json!({}),
            json!({"podIPs": [{"ip": "x"}]}),
            &["status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
        );
        check(
            "Always",
            json!({}),
            json!({"hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.1"}]}),
            &["status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`"],
        );
        check(
            "Always",
            json!({"qosClass": "BestEffort"}),
            json!({"qosClass": "Burstable"}),
            &["status.qosClass: Invalid value: \"Burstable\": field is immutable"],
        );
    }
}
