//! What decides where a pod runs: tolerations, node selectors, affinity, spreading, gates.

use serde_json::Value;

use crate::field::{FieldError, Path};
use crate::look;
use crate::meta;
use crate::names;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const VALUES_WANTED: &str = "must be specified when `operator` is 'In' or 'NotIn'";
const VALUES_UNWANTED: &str = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
const OPERATOR: &str = "not a valid selector operator";

/// Checks the effect of a taint or a toleration.
pub fn taint_effect(effect: &str, empty_allowed: bool, path: &Path, errors: &mut Vec<FieldError>) {
    match effect {
        "" if empty_allowed => {}
        "" => errors.push(FieldError::required(path, "")),
        effect if EFFECTS.contains(&effect) => {}
        effect => errors.push(FieldError::not_supported(path, effect, &EFFECTS)),
    }
}

/// Checks tolerations (RTC-14).
pub fn tolerations(all: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, one) in all.iter().enumerate() {
        toleration(one, &path.index(index), errors);
    }
}

fn toleration(toleration: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let text = |name: &str| look::text(toleration, name);
    let operator_path = path.child("operator");
    if !text("key").is_empty() {
        label_key(text("key"), &path.child("key"), errors);
    } else if text("operator") != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(&operator_path, text("operator"), detail));
    }
    if look::get(toleration, "tolerationSeconds").is_some() && text("effect") != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(&path.child("effect"), text("effect"), detail));
    }
    match text("operator") {
        "" | "Equal" => {
            let complaints = names::label_value(text("value"));
            if !complaints.is_empty() {
                errors.push(FieldError::invalid(&operator_path, text("value"), complaints.join(";")));
            }
        }
        "Exists" if !text("value").is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(&operator_path, text("value"), detail));
        }
        "Exists" => {}
        other @ ("Lt" | "Gt") => {
            errors.push(FieldError::not_supported(&operator_path, other, &["Equal", "Exists", "Lt", "Gt"]));
        }
        other => errors.push(FieldError::not_supported(&operator_path, other, &["Equal", "Exists"])),
    }
    taint_effect(text("effect"), true, &path.child("effect"), errors);
}

fn label_key(key: &str, path: &Path, errors: &mut Vec<FieldError>) {
    errors.extend(names::label_key(key).into_iter().map(|text| FieldError::invalid(path, key, text)));
}

/// Checks `spec.affinity`.
pub(super) fn affinity(affinity: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(node) = look::get(affinity, "nodeAffinity") {
        node_affinity(node, &path.child("nodeAffinity"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        if let Some(rules) = look::get(affinity, kind) {
            pod_affinity(rules, &path.child(kind), errors);
        }
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node_affinity(rules: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(required) = look::get(rules, REQUIRED) {
        let path = path.child(REQUIRED).child("nodeSelectorTerms");
        let terms = look::list(required, "nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(FieldError::required(&path, "must have at least one node selector term"));
        }
        for (index, term) in terms.iter().enumerate() {
            node_selector_term(term, &path.index(index), errors);
        }
    }
    for (index, term) in look::list(rules, PREFERRED).iter().enumerate() {
        let path = path.child(PREFERRED).index(index);
        weight(term, &path, errors);
        if let Some(preference) = look::get(term, "preference") {
            node_selector_term(preference, &path.child("preference"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let weight = look::integer(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn node_selector_term(term: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, demand) in look::list(term, "matchExpressions").iter().enumerate() {
        node_demand(demand, &path.child("matchExpressions").index(index), errors);
    }
    for (index, demand) in look::list(term, "matchFields").iter().enumerate() {
        node_field(demand, &path.child("matchFields").index(index), errors);
    }
}

fn node_demand(demand: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let values = look::texts(demand, "values");
    let values_path = path.child("values");
    let operator = look::text(demand, "operator");
    match operator {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(&values_path, VALUES_WANTED)),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(FieldError::forbidden(&values_path, VALUES_UNWANTED));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&values_path, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(&path.child("operator"), other, OPERATOR)),
    }
    label_key(look::text(demand, "key"), &path.child("key"), errors);
    label_values(&values, &values_path, errors);
}

fn label_values(values: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, value) in values.iter().enumerate() {
        for complaint in names::label_value(value) {
            errors.push(FieldError::invalid(&path.index(index), *value, complaint));
        }
    }
}

fn node_field(demand: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let values = look::texts(demand, "values");
    let operator = look::text(demand, "operator");
    if !matches!(operator, "In" | "NotIn") {
        errors.push(FieldError::invalid(&path.child("operator"), operator, OPERATOR));
    } else if values.len() != 1 {
        let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
        errors.push(FieldError::required(&path.child("values"), detail));
    }
    let key = look::text(demand, "key");
    if key != "metadata.name" {
        errors.push(FieldError::invalid(&path.child("key"), key, "not a valid field selector key"));
        return;
    }
    for (index, value) in values.iter().enumerate() {
        for complaint in names::subdomain(value) {
            errors.push(FieldError::invalid(&path.child("values").index(index), *value, complaint));
        }
    }
}

fn pod_affinity(rules: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, term) in look::list(rules, REQUIRED).iter().enumerate() {
        pod_affinity_term(term, &path.child(REQUIRED).index(index), errors);
    }
    for (index, term) in look::list(rules, PREFERRED).iter().enumerate() {
        let path = path.child(PREFERRED).index(index);
        weight(term, &path, errors);
        if let Some(term) = look::get(term, "podAffinityTerm") {
            pod_affinity_term(term, &path.child("podAffinityTerm"), errors);
        }
    }
}

fn pod_affinity_term(term: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    label_selector(term, "labelSelector", &path.child("labelSelector"), errors);
    label_selector(term, "namespaceSelector", &path.child("namespaceSelector"), errors);
    for name in look::texts(term, "namespaces") {
        for complaint in names::label(name) {
            errors.push(FieldError::invalid(&path.child("namespace"), name, complaint));
        }
    }
    topology_key(term, &path.child("topologyKey"), errors);
}

fn topology_key(term: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let key = look::text(term, "topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(path, "can not be empty"));
    }
    label_key(key, path, errors);
}

/// Checks a LabelSelector object.
pub(in crate::rules) fn label_selector(object: &Value, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(selector) = look::get(object, field) {
        one_label_selector(selector, path, errors);
    }
}

/// Checks a LabelSelector itself.
pub(in crate::rules) fn one_label_selector(selector: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    meta::labels(selector, "matchLabels", &path.child("matchLabels"), errors);
    for (index, demand) in look::list(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = look::texts(demand, "values");
        match look::text(demand, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(FieldError::required(&path.child("values"), VALUES_WANTED));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(FieldError::forbidden(&path.child("values"), VALUES_UNWANTED));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(&path.child("operator"), other, OPERATOR)),
        }
        label_key(look::text(demand, "key"), &path.child("key"), errors);
        label_values(&values, &path.child("values"), errors);
    }
}

/// Checks `spec.topologySpreadConstraints`.
pub(super) fn spread(all: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, constraint) in all.iter().enumerate() {
        let path = path.index(index);
        let skew = look::integer(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        topology_key(constraint, &path.child("topologyKey"), errors);
        let action = look::text(constraint, "whenUnsatisfiable");
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            let supported = ["DoNotSchedule", "ScheduleAnyway"];
            errors.push(FieldError::not_supported(&path.child("whenUnsatisfiable"), action, &supported));
        }
        let same = |other: &Value| {
            ["topologyKey", "whenUnsatisfiable"]
                .iter()
                .all(|name| look::text(other, name) == look::text(constraint, name))
        };
        if all[index + 1..].iter().any(same) {
            let pair = format!("{{{}, {action}}}", look::text(constraint, "topologyKey"));
            errors.push(FieldError::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        label_selector(constraint, "labelSelector", &path.child("labelSelector"), errors);
    }
}

/// Checks `spec.schedulingGates`.
pub(super) fn gates(all: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, gate) in all.iter().enumerate() {
        let name = look::text(gate, "name");
        label_key(name, &path.index(index), errors);
        if all[..index].iter().any(|other| look::text(other, "name") == name) {
            errors.push(FieldError::duplicate(&path.index(index), name));
        }
    }
}

/// Labels that nodes once had, with what to use today.
const DEPRECATED_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What to say about a node label that is out of use.
pub fn deprecated_label(key: &str) -> Option<&'static str> {
    DEPRECATED_LABELS.iter().find(|(label, _)| *label == key).map(|(_, words)| *words)
}

/// Warnings about a map that selects nodes by labels out of use (RTC-16).
pub fn deprecated_label_warnings(object: &Value, field: &str, path: &str) -> Vec<String> {
    look::map(object, field).filter_map(|(key, _)| Some(format!("{path}: {}", deprecated_label(key)?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(visit: impl Fn(&Path, &mut Vec<FieldError>), expected: &[&str]) {
        let mut errors = Vec::new();
        visit(&Path::new("x"), &mut errors);
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        for (text, expected) in texts.iter().zip(expected) {
            assert!(text.starts_with(expected), "{text}\nwanted: {expected}");
        }
    }

    #[test]
    fn rtc_14_tolerations() {
        let cases: [(Value, &[&str]); 9] = [
            (json!({"key": "a", "operator": "Exists"}), &[]),
            (json!({"operator": "Exists"}), &[]),
            (json!({"key": "a", "value": "b", "effect": "NoSchedule"}), &[]),
            (json!({}), &["x[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty"]),
            (
                json!({"key": "a", "operator": "Exists", "value": "b"}),
                &["x[0].operator: Invalid value: \"b\": value must be empty"],
            ),
            (json!({"key": "a", "effect": "No"}), &["x[0].effect: Unsupported value: \"No\""]),
            (
                json!({"key": "a", "tolerationSeconds": 1}),
                &["x[0].effect: Invalid value: \"\": effect must be 'NoExecute'"],
            ),
            (json!({"key": "a", "operator": "Gt", "value": "1"}), &["x[0].operator: Unsupported value: \"Gt\""]),
            (
                json!({"key": "a", "operator": "?"}),
                &["x[0].operator: Unsupported value: \"?\": supported values: \"Equal\", \"Exists\""],
            ),
        ];
        for (toleration, expected) in cases {
            check(|path, errors| tolerations(std::slice::from_ref(&toleration), path, errors), expected);
        }
    }

    #[test]
    fn node_affinity_terms() {
        let required = |terms: Value| json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}});
        let base = "x.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
        let none = format!("{base}: Required value: must have at least one node selector term");
        let values = format!("{base}[0].matchExpressions[0].values: Required value: must be specified when");
        let operator = format!("{base}[0].matchExpressions[0].operator: Invalid value: \"?\": not a valid");
        let field = format!("{base}[0].matchFields[0].key: Invalid value: \"a\": not a valid field selector key");
        let one = |demand: Value| required(json!([{"matchExpressions": [demand]}]));
        check(|p, e| affinity(&one(json!({"key": "a", "operator": "In", "values": ["b"]})), p, e), &[]);
        check(|p, e| affinity(&required(json!([])), p, e), &[&none]);
        check(|p, e| affinity(&one(json!({"key": "a", "operator": "In"})), p, e), &[&values]);
        check(|p, e| affinity(&one(json!({"key": "a", "operator": "?"})), p, e), &[&operator]);
        let by_field = required(json!([{"matchFields": [{"key": "a", "operator": "In", "values": ["b"]}]}]));
        check(|p, e| affinity(&by_field, p, e), &[&field]);
    }

    #[test]
    fn spreading_and_gates() {
        let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        check(|p, e| spread(std::slice::from_ref(&constraint), p, e), &[]);
        check(
            |p, e| spread(&[constraint.clone(), constraint.clone()], p, e),
            &["x[0].{topologyKey, whenUnsatisfiable}: Duplicate value"],
        );
        check(|p, e| gates(&[json!({"name": "a"}), json!({"name": "a"})], p, e), &["x[1]: Duplicate value: \"a\""]);
    }
}
