//! Warnings about new pods: legal, but not what people want.

use serde_json::Value;

use super::scheduling::deprecated_label;
use crate::look;
use crate::quantity::Quantity;

/// Warnings about a new Pod, as upstream words them.
pub(super) fn of_pod(object: &Value) -> Vec<String> {
    let empty = Value::Null;
    let spec = look::get(object, "spec").unwrap_or(&empty);
    let mut out: Vec<String> = super::name_warnings(look::text_at(object, &["metadata", "name"])).into_iter().collect();
    out.extend(of_spec(spec, "spec"));
    out.extend(super::hooks::warnings(object, ""));
    out
}

/// Warnings about a pod spec at a path, in a Pod or in a template.
pub(in crate::rules) fn of_spec(spec: &Value, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    node_labels(spec, path, &mut out);
    names_and_references(spec, path, &mut out);
    for list in ["initContainers", "containers"] {
        for (index, container) in look::list(spec, list).iter().enumerate() {
            duplicate_env(container, &format!("{path}.{list}[{index}]"), &mut out);
            fractional_bytes(container, &format!("{path}.{list}[{index}].resources"), &mut out);
        }
    }
    // HOOK-73.
    if look::integer(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let field = format!("{path}.terminationGracePeriodSeconds");
        out.push(format!("{field}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    out
}

fn node_labels(spec: &Value, root: &str, out: &mut Vec<String>) {
    for (key, _) in look::map(spec, "nodeSelector") {
        if let Some(words) = deprecated_label(key) {
            out.push(format!("{root}.nodeSelector[{key}]: {words}"));
        }
    }
    let path = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    for (term_index, term) in look::list_at(spec, &path).iter().enumerate() {
        for (index, demand) in look::list(term, "matchExpressions").iter().enumerate() {
            let key = look::text(demand, "key");
            if let Some(words) = deprecated_label(key) {
                let path = format!("{root}.{}[{term_index}].matchExpressions[{index}].key", path.join("."));
                out.push(format!("{path}: {key} is {words}"));
            }
        }
    }
}

/// IMG-184: empty and repeated names are told, not refused.
fn names_and_references(spec: &Value, root: &str, out: &mut Vec<String>) {
    let secrets = look::list(spec, "imagePullSecrets");
    for (index, secret) in secrets.iter().enumerate() {
        let name = look::text(secret, "name");
        if name.is_empty() {
            out.push(format!("{root}.imagePullSecrets[{index}].name: invalid empty name \"\""));
        } else if secrets[..index].iter().any(|other| look::text(other, "name") == name) {
            out.push(format!("{root}.imagePullSecrets[{index}].name: duplicate name \"{name}\""));
        }
    }
    let aliases = look::list(spec, "hostAliases");
    for (index, alias) in aliases.iter().enumerate() {
        let ip = look::text(alias, "ip");
        if aliases[..index].iter().any(|other| look::text(other, "ip") == ip) {
            out.push(format!("{root}.hostAliases[{index}].ip: duplicate ip \"{ip}\""));
        }
    }
}

fn duplicate_env(container: &Value, path: &str, out: &mut Vec<String>) {
    let all = look::list(container, "env");
    for (index, variable) in all.iter().enumerate() {
        let name = look::text(variable, "name");
        if all[..index].iter().any(|other| look::text(other, "name") == name) {
            out.push(format!("{path}.env[{index}]: hides previous definition of \"{name}\", which may be unexpected"));
        }
    }
}

fn fractional_bytes(container: &Value, path: &str, out: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let value = look::at(container, &["resources", list, name]);
            let Some(quantity) = value.and_then(|value| Quantity::from_value(value).ok()) else { continue };
            if !quantity.is_whole() {
                out.push(format!(
                    "{path}.{list}[{name}]: fractional byte value \"{quantity}\" is invalid, must be an integer"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn warnings_name_their_field() {
        let object = json!({"metadata": {"name": "p"}, "spec": {
            "terminationGracePeriodSeconds": -1, "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "imagePullSecrets": [{"name": "a"}, {"name": "a"}],
            "containers": [{"env": [{"name": "A"}, {"name": "A"}], "resources": {"limits": {"memory": "100m"}}}],
        }});
        assert_eq!(
            of_pod(&object),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.imagePullSecrets[1].name: duplicate name \"a\"",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be unexpected",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            ]
        );
        assert!(of_pod(&json!({"metadata": {"name": "p"}, "spec": {}})).is_empty());
        assert!(
            of_pod(&json!({"metadata": {"name": "a.b"}}))[0]
                .starts_with("metadata.name: this is used in the Pod's hostname")
        );
    }
}
