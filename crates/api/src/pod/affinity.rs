//! Node selectors and node affinity (RTC-55).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One demand on a label, or on a field, of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Demand {
    /// Key of the label, or name of the field.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt` or `Lt`.
    pub operator: String,
    /// Values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl Demand {
    /// Whether a value satisfies the demand. An operator that is unknown is never satisfied.
    pub fn is_met(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|wanted| wanted == value);
        match self.operator.as_str() {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => self.compared(value).is_some_and(|(value, bound)| value > bound),
            "Lt" => self.compared(value).is_some_and(|(value, bound)| value < bound),
            _ => false,
        }
    }

    fn compared(&self, value: Option<&str>) -> Option<(i64, i64)> {
        match &self.values[..] {
            [bound] => Some((value?.parse().ok()?, bound.parse().ok()?)),
            _ => None,
        }
    }
}

/// One alternative: all its demands must be met. Without demands it matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Term {
    /// Demands on labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Demand>,
    /// Demands on fields; `metadata.name` is the only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Demand>,
}

impl Term {
    /// Whether a node with this name and these labels matches.
    pub fn matches(&self, node_name: &str, labels: &BTreeMap<String, String>) -> bool {
        if self.match_expressions.is_empty() && self.match_fields.is_empty() {
            return false;
        }
        let field = |key: &str| (key == "metadata.name").then_some(node_name);
        self.match_expressions.iter().all(|demand| demand.is_met(labels.get(&demand.key).map(String::as_str)))
            && self.match_fields.iter().all(|demand| field(&demand.key).is_some() && demand.is_met(field(&demand.key)))
    }
}

/// Whether a node matches a pod's node selector and its required node affinity: every pair of the selector, and at
/// least one of the terms. `None` means that the pod has no required affinity; an empty list matches no node.
pub fn node_matches(
    selector: &BTreeMap<String, String>,
    required: Option<&[Term]>,
    node_name: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|terms| terms.iter().any(|term| term.matches(node_name, labels)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn rtc_55_every_pair_and_one_term() {
        let node = labels(&[("zone", "a"), ("cores", "8")]);
        let terms = |value: serde_json::Value| -> Vec<Term> { serde_json::from_value(value).unwrap() };
        let check = |selector: &[(&str, &str)], required: Option<serde_json::Value>, expected: bool| {
            let required = required.map(&terms);
            assert_eq!(node_matches(&labels(selector), required.as_deref(), "n", &node), expected, "{required:?}");
        };
        check(&[], None, true);
        check(&[("zone", "a")], None, true);
        check(&[("zone", "b")], None, false);
        check(&[], Some(json!([])), false);
        check(&[], Some(json!([{}])), false);
        check(
            &[],
            Some(json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b", "a"]}]}])),
            true,
        );
        check(
            &[],
            Some(
                json!([{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["7"]}, {"key": "x", "operator": "DoesNotExist"}]}]),
            ),
            true,
        );
        check(&[], Some(json!([{"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["8"]}]}])), false);
        check(&[], Some(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])), true);
        check(
            &[],
            Some(json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n"]}]}])),
            false,
        );
        check(&[("zone", "b")], Some(json!([{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}])), false);
    }
}
