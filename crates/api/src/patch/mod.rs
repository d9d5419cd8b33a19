//! The three patches of the API: JSON patch, JSON merge patch, strategic merge patch.
//!
//! All take a document and return a new one; the document is never half changed.

use serde_json::Value;

use crate::kind::Kind;
use crate::schema;

mod strategic;

/// A patch that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed (400).
    #[error("the patch is malformed: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// A well-formed patch that does not fit the document, such as a failed test (422).
    #[error("{reason}")]
    Apply {
        /// Why it does not fit.
        reason: String,
    },
}

/// Applies a JSON patch (RFC 6902): a list of operations, all or none.
///
/// # Errors
/// `Malformed` for something that is no JSON patch, `Apply` when an operation fails.
pub fn json(doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|error| PatchError::Malformed { reason: error.to_string() })?;
    // Upstream's limit: a patch is not a program.
    if operations.0.len() > OPERATIONS_MAX {
        let reason =
            format!("the allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}", operations.0.len());
        return Err(PatchError::Malformed { reason });
    }
    let mut out = doc.clone();
    json_patch::patch(&mut out, &operations).map_err(|error| PatchError::Apply { reason: error.to_string() })?;
    Ok(out)
}

const OPERATIONS_MAX: usize = 10_000;

/// Applies a JSON merge patch (RFC 7386).
///
/// # Errors
/// `Malformed` when the patch is not an object.
pub fn merge(doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed { reason: "a merge patch is an object".to_owned() });
    }
    let mut out = doc.clone();
    json_patch::merge(&mut out, patch);
    Ok(out)
}

/// Applies a strategic merge patch, as kubectl apply sends it, with the merge keys of the kind.
///
/// # Errors
/// `Malformed` for unknown directives, items without their merge key and the like.
pub fn strategic(kind: &Kind, doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    strategic_type(kind.schema, doc, patch)
}

/// [`strategic`] for a type of the schema facts.
///
/// # Errors
/// As [`strategic`].
pub fn strategic_type(name: &str, doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed { reason: "a strategic merge patch is an object".to_owned() });
    }
    strategic::merge_map(schema::find(name), doc, patch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failed_operation_changes_nothing() {
        let doc = json!({"a": 1});
        let patch = json!([{"op": "add", "path": "/b", "value": 2}, {"op": "test", "path": "/a", "value": 3}]);
        assert!(matches!(json(&doc, &patch), Err(PatchError::Apply { .. })));
        assert!(matches!(json(&doc, &json!({"a": 2})), Err(PatchError::Malformed { .. })));
        let good = json!([{"op": "replace", "path": "/a", "value": [1]}, {"op": "add", "path": "/a/-", "value": 2}]);
        assert_eq!(json(&doc, &good), Ok(json!({"a": [1, 2]})));
    }

    #[test]
    fn merge_patch_is_rfc_7386() {
        assert_eq!(merge(&json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"b": null}})), Ok(json!({"a": {"c": 2}})));
        assert_eq!(merge(&json!({"a": [1]}), &json!({"a": [2]})), Ok(json!({"a": [2]})));
        assert_eq!(merge(&json!({}), &json!({"a": {"b": null, "c": 1}})), Ok(json!({"a": {"c": 1}})));
        assert!(merge(&json!({}), &json!([])).is_err());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<u8>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| map.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_json_diff_leads_to_its_target(from in any_value(), to in any_value()) {
            let diff = serde_json::to_value(json_patch::diff(&from, &to)).unwrap();
            prop_assert_eq!(json(&from, &diff), Ok(to));
        }

        #[test]
        fn a_merge_patch_applied_twice_is_applied_once(doc in any_value(), patch in prop::collection::btree_map("[a-c]", any_value(), 0..4)) {
            let patch: Value = patch.into_iter().collect();
            let once = merge(&doc, &patch).unwrap();
            prop_assert_eq!(merge(&once, &patch), Ok(once.clone()));
        }
    }
}
