//! What may change in a Pod after its creation: almost nothing.

use serde_json::Value;

use super::scheduling;
use super::spec;
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;
use crate::rules::keep_generation;

/// Upstream's list of what may change.
const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                          `spec.tolerations` (only additions to existing tolerations),\
                          `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Puts back what a request may not touch.
pub(super) fn prepare(new: &mut Value, old: &Value, sub: Option<&str>) {
    match sub {
        Some("status") => prepare_status(new, old),
        Some("ephemeralcontainers") => {
            let added = look::at(new, &["spec", "ephemeralContainers"]).cloned();
            let mut kept = old.clone();
            let spec = look::child(&mut kept, "spec");
            match added {
                Some(list) => look::set(spec, "ephemeralContainers", list),
                None => drop(look::remove(spec, "ephemeralContainers")),
            }
            let version = look::at(new, &["metadata", "resourceVersion"]).cloned();
            look::set(look::child(&mut kept, "metadata"), "resourceVersion", version.unwrap_or(Value::Null));
            *new = kept;
            keep_generation(new, old, &["spec"]);
        }
        _ => {
            look::copy(old, new, "status");
            keep_generation(new, old, &["spec"]);
        }
    }
}

fn prepare_status(new: &mut Value, old: &Value) {
    look::copy(old, new, "spec");
    let empty = Value::Null;
    let old_meta = look::get(old, "metadata").unwrap_or(&empty);
    let meta = look::child(new, "metadata");
    for name in ["ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        look::copy(old_meta, meta, name);
    }
    let old_status = look::get(old, "status").unwrap_or(&empty);
    let status = look::child(new, "status");
    if look::text(status, "qosClass").is_empty() {
        look::copy(old_status, status, "qosClass");
    }
    if look::integer(status, "observedGeneration").unwrap_or(0) == 0 {
        look::copy(old_status, status, "observedGeneration");
    }
}

/// Checks a changed Pod against the old one.
pub(super) fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = spec::validate_pod_any(new);
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        let (now, before) = (look::list_at(new, &["spec", list]), look::list_at(old, &["spec", list]));
        if now.len() != before.len() {
            // Upstream's words; nothing else can be compared then.
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&path.child(list), detail));
            return errors;
        }
    }
    let empty = Value::Null;
    let new_spec = look::get(new, "spec").unwrap_or(&empty);
    let old_spec = look::get(old, "spec").unwrap_or(&empty);
    if !deadline(new_spec, old_spec, &path.child("activeDeadlineSeconds"), &mut errors) {
        return errors;
    }
    tolerations(new_spec, old_spec, &path.child("tolerations"), &mut errors);
    gates(new_spec, old_spec, &path.child("schedulingGates"), &mut errors);
    let mut masked = masked(new_spec, old_spec);
    if !look::list(old_spec, "schedulingGates").is_empty() {
        gated(&mut masked, old_spec, &path, &mut errors);
    }
    if !look::same(Some(&masked), Some(old_spec)) {
        let changed = changes(&masked, old_spec, "");
        let detail = format!("pod updates may not change fields other than {CHANGEABLE}\n{}", changed.join("\n"));
        errors.push(FieldError::forbidden(&path, detail));
    }
    errors
}

/// IMG-29 and the rest of the `ephemeralcontainers` subresource: new ones may come, old ones stay as they are.
pub(super) fn validate_ephemeral_containers(new: &Value, old: &Value) -> Vec<FieldError> {
    if look::at(old, &["metadata", "annotations", super::MIRROR_ANNOTATION]).is_some() {
        let detail = "static pods do not support ephemeral containers";
        return vec![FieldError { field: String::new(), ..FieldError::forbidden(&Path::root(), detail) }];
    }
    let mut errors = spec::validate_pod_any(new);
    let path = Path::new("spec").child("ephemeralContainers");
    let now = look::list_at(new, &["spec", "ephemeralContainers"]);
    for before in look::list_at(old, &["spec", "ephemeralContainers"]) {
        let name = look::text(before, "name");
        let quoted = crate::field::quote(name);
        match now.iter().find(|container| look::text(container, "name") == name) {
            None => {
                let detail = format!("existing ephemeral containers {quoted} may not be removed\n");
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some(after) if !look::same(Some(after), Some(before)) => {
                let changed = changes(after, before, "").join("\n");
                let detail = format!("existing ephemeral containers {quoted} may not be changed\n{changed}");
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some(_) => {}
        }
    }
    errors
}

/// The new spec with everything that may change set back to the old: what is different now is forbidden.
fn masked(new: &Value, old: &Value) -> Value {
    let mut masked = new.clone();
    for list in ["containers", "initContainers"] {
        for (item, before) in look::list_mut(&mut masked, list).iter_mut().zip(look::list(old, list)) {
            look::copy(before, item, "image");
        }
    }
    for name in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        look::copy(old, &mut masked, name);
    }
    let grace = "terminationGracePeriodSeconds";
    let was_negative = look::integer(old, grace).is_some_and(|seconds| seconds < 0);
    if was_negative && look::integer(new, grace) == Some(1) {
        look::copy(old, &mut masked, grace);
    }
    masked
}

/// False when nothing more is to be compared.
fn deadline(new: &Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) -> bool {
    let name = "activeDeadlineSeconds";
    match (look::integer(new, name), look::integer(old, name)) {
        (Some(now), before) => {
            if let Some(complaint) = names::in_range(now, 0, i64::from(i32::MAX)).pop() {
                errors.push(FieldError::invalid(path, now, complaint));
                return false;
            }
            if before.is_some_and(|before| before < now) {
                errors.push(FieldError::invalid(path, now, "must be less than or equal to previous value"));
                return false;
            }
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, Value::Null, detail));
        }
        (None, None) => {}
    }
    true
}

fn tolerations(new: &Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let without_seconds = |toleration: &Value| {
        let mut copy = toleration.clone();
        look::remove(&mut copy, "tolerationSeconds");
        copy
    };
    let now = look::list(new, "tolerations");
    let kept = |before: &Value| {
        now.iter().any(|after| look::same(Some(&without_seconds(after)), Some(&without_seconds(before))))
    };
    if !look::list(old, "tolerations").iter().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    scheduling::tolerations(now, path, errors);
}

fn gates(new: &Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let before = look::list(old, "schedulingGates");
    for (index, gate) in look::list(new, "schedulingGates").iter().enumerate() {
        let name = look::text(gate, "name");
        if !before.iter().any(|other| look::text(other, "name") == name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(&path.index(index).child("name"), detail));
        }
    }
}

/// While a pod is gated its node selector may grow.
fn gated(masked: &mut Value, old: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let changed =
        look::map(old, "nodeSelector").any(|(key, value)| look::at(masked, &["nodeSelector", key]) != Some(value));
    if changed {
        let shown = look::get(masked, "nodeSelector").cloned().unwrap_or(Value::Null);
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid(&path.child("nodeSelector"), shown, detail));
    }
    look::copy(old, masked, "nodeSelector");
}

/// The fields that differ, one a line: `-path: old`, `+path: new`. Never more than a screenful.
fn changes(new: &Value, old: &Value, path: &str) -> Vec<String> {
    const LINES_MAX: usize = 20;
    let mut lines = Vec::new();
    collect_changes(Some(new), Some(old), path, &mut lines);
    if lines.len() > LINES_MAX {
        lines.truncate(LINES_MAX);
        lines.push("…".to_owned());
    }
    lines
}

fn collect_changes(new: Option<&Value>, old: Option<&Value>, path: &str, lines: &mut Vec<String>) {
    if look::same(new, old) {
        return;
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (new, old) {
        (Some(Value::Object(now)), Some(Value::Object(before))) => {
            let added = now.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                collect_changes(now.get(key), before.get(key), &below(key), lines);
            }
        }
        (Some(Value::Array(now)), Some(Value::Array(before))) => {
            for index in 0..now.len().max(before.len()) {
                collect_changes(now.get(index), before.get(index), &format!("{path}[{index}]"), lines);
            }
        }
        (now, before) => {
            lines.extend(before.filter(|v| !v.is_null()).map(|value| format!("-{path}: {value}")));
            lines.extend(now.filter(|v| !v.is_null()).map(|value| format!("+{path}: {value}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::Rules;
    use crate::rules::pod::Pods;

    fn pod() -> Value {
        let mut object = json!({
            "metadata": {"name": "p", "generation": 1},
            "spec": {
                "containers": [{"name": "c", "image": "x:1"}], "initContainers": [{"name": "i", "image": "y:1"}],
                "tolerations": [{"key": "a", "operator": "Exists"}], "activeDeadlineSeconds": 100, "runtimeClassName": "r",
            },
        });
        Pods.default(&mut object);
        object
    }

    /// The first line of each error of a change.
    fn check(change: impl Fn(&mut Value), expected: &[&str]) {
        let old = pod();
        let mut new = pod();
        change(&mut new["spec"]);
        Pods.default(&mut new);
        let texts: Vec<String> = Pods.validate_update(&new, &old, None).iter().map(FieldError::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:#?}");
        for (text, expected) in texts.iter().zip(expected) {
            assert!(text.starts_with(expected), "{text}\nwanted: {expected}");
        }
    }

    const REFUSED: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";

    #[test]
    fn img_28_images_may_change_and_policies_may_not() {
        check(|_| {}, &[]);
        check(|spec| spec["containers"][0]["image"] = json!("x:2"), &[]);
        check(|spec| spec["initContainers"][0]["image"] = json!("y:2"), &[]);
        check(|spec| spec["containers"][0]["imagePullPolicy"] = json!("Always"), &[REFUSED]);
        // IMG-26: a PUT without the policy gets that of the new image, and that is a change.
        check(|spec| spec["containers"][0] = json!({"name": "c", "image": "x:latest"}), &[REFUSED]);
        check(
            |spec| spec["containers"] = json!([]),
            &[
                "spec.containers: Required value",
                "spec.containers: Forbidden: pod updates may not add or remove containers",
            ],
        );
    }

    #[test]
    fn rtc_21_hook_10_hook_73_the_rest_is_fixed() {
        check(|spec| spec["runtimeClassName"] = json!("s"), &[REFUSED]);
        check(|spec| spec["nodeSelector"] = json!({"a": "b"}), &[REFUSED]);
        check(|spec| spec["terminationGracePeriodSeconds"] = json!(20), &[REFUSED]);
        check(|spec| spec["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 1}}}), &[REFUSED]);
    }

    #[test]
    fn a_refusal_names_what_changed() {
        let old = pod();
        let mut new = pod();
        new["spec"]["runtimeClassName"] = json!("s");
        let text = validate(&new, &old)[0].to_string();
        assert!(text.ends_with("\n-runtimeClassName: \"r\"\n+runtimeClassName: \"s\""), "{text}");
    }

    #[test]
    fn tolerations_grow_and_deadlines_shrink() {
        check(
            |spec| {
                spec["tolerations"] = json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}])
            },
            &[],
        );
        check(
            |spec| spec["tolerations"] = json!([]),
            &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
        );
        check(|spec| spec["activeDeadlineSeconds"] = json!(50), &[]);
        check(
            |spec| spec["activeDeadlineSeconds"] = json!(150),
            &["spec.activeDeadlineSeconds: Invalid value: 150: must be less than or equal to previous value"],
        );
        check(
            |spec| spec["activeDeadlineSeconds"] = Value::Null,
            &["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"],
        );
    }

    #[test]
    fn a_negative_grace_may_become_one() {
        let mut old = pod();
        old["spec"]["terminationGracePeriodSeconds"] = json!(-5);
        let mut new = old.clone();
        new["spec"]["terminationGracePeriodSeconds"] = json!(1);
        assert!(validate(&new, &old).is_empty());
    }

    #[test]
    fn img_29_ephemeral_containers_come_and_stay() {
        let old = pod();
        let mut new = json!({"metadata": {"name": "p", "resourceVersion": "7", "labels": {"x": "y"}}, "spec": {"nodeName": "other", "ephemeralContainers": [{"name": "e", "image": "d", "targetContainerName": "c"}]}});
        Pods.default(&mut new);
        Pods.prepare_update(&mut new, &old, Some("ephemeralcontainers"));
        assert_eq!(new["spec"]["containers"], old["spec"]["containers"]);
        assert_eq!((&new["metadata"]["resourceVersion"], &new["metadata"]["generation"]), (&json!("7"), &json!(2)));
        assert_eq!(new["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "Always");
        assert_eq!(Pods.validate_update(&new, &old, Some("ephemeralcontainers")), []);
        let mut changed = new.clone();
        changed["spec"]["ephemeralContainers"][0]["image"] = json!("other:1");
        let errors = Pods.validate_update(&changed, &new, Some("ephemeralcontainers"));
        assert!(errors[0].to_string().starts_with(
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be changed\n"
        ));
        changed["spec"]["ephemeralContainers"] = json!([]);
        let errors = Pods.validate_update(&changed, &new, Some("ephemeralcontainers"));
        assert_eq!(errors[0].detail, "existing ephemeral containers \"e\" may not be removed\n");
    }

    #[test]
    fn pod_19_an_ephemeral_container_has_no_hooks_and_no_probes() {
        let old = pod();
        let probe = json!({"exec": {"command": ["x"]}});
        for (field, value) in [
            ("lifecycle", json!({"preStop": {"exec": {"command": ["x"]}}})),
            ("livenessProbe", probe.clone()),
            ("readinessProbe", probe.clone()),
            ("startupProbe", probe),
            ("restartPolicy", json!("Always")),
        ] {
            let mut new = json!({"metadata": {"name": "p"}, "spec": {"ephemeralContainers": [{"name": "e", "image": "d", field: value}]}});
            Pods.default(&mut new);
            Pods.prepare_update(&mut new, &old, Some("ephemeralcontainers"));
            let errors = Pods.validate_update(&new, &old, Some("ephemeralcontainers"));
            let wanted =
                format!("spec.ephemeralContainers[0].{field}: Forbidden: cannot be set for an Ephemeral Container");
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [wanted]);
        }
    }

    #[test]
    fn each_door_changes_its_own_part() {
        let old = {
            let mut old = pod();
            old["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
            old
        };
        let mut new = old.clone();
        new["status"] = json!({"phase": "Running"});
        new["spec"]["containers"][0]["image"] = json!("x:2");
        let mut by_status = new.clone();
        Pods.prepare_update(&mut by_status, &old, Some("status"));
        assert_eq!(by_status["spec"], old["spec"]);
        assert_eq!(by_status["status"], json!({"phase": "Running", "qosClass": "BestEffort"}));
        assert_eq!(by_status["metadata"]["generation"], 1);
        Pods.prepare_update(&mut new, &old, None);
        assert_eq!(new["status"], old["status"]);
        assert_eq!(new["metadata"]["generation"], 2);
    }
}
