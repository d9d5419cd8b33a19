//! The three patches of the API: JSON patch, JSON merge patch, strategic merge patch.
//!
//! All take a document and return a new one; the document is never half changed.

use json_patch::{PatchOperation, jsonptr};
use serde_json::Value;

use crate::kind::Kind;
use crate::{schema, weight};

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
    /// A patch that asks for too much (413).
    #[error("{reason}")]
    TooLarge {
        /// Of what.
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
/// `Malformed` for something that is no JSON patch, `Apply` when an operation fails, `TooLarge` for what grows without
/// bound: a patch is not a program.
pub fn json(doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > OPERATIONS_MAX {
        let reason = format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}");
        return Err(PatchError::TooLarge { reason });
    }
    let operations: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|error| PatchError::Malformed { reason: error.to_string() })?;
    let mut out = doc.clone();
    let mut copied = 0;
    for (index, operation) in operations.0.iter().enumerate() {
        copied += growth(&out, operation)?;
        if copied > weight::DOCUMENT_BYTES_MAX {
            let reason = format!("the copies of a JSON patch take more than {} bytes", weight::DOCUMENT_BYTES_MAX);
            return Err(PatchError::TooLarge { reason });
        }
        let applied = json_patch::patch_unsafe(&mut out, std::slice::from_ref(operation));
        applied.map_err(|mut error| {
            error.operation = index;
            PatchError::Apply { reason: error.to_string() }
        })?;
    }
    Ok(out)
}

/// Upstream's limit.
const OPERATIONS_MAX: usize = 10_000;

/// How many bytes an operation copies, or moves to a deeper place, which is as much work. No operation leads below the
/// deepest level: who reads, prints or drops a document does so level by level on the stack.
fn growth(doc: &Value, operation: &PatchOperation) -> Result<usize, PatchError> {
    let levels = |path: &jsonptr::Pointer| path.count();
    let (bytes, depth) = match operation {
        PatchOperation::Add(add) => (0, levels(&add.path) + weight::of(&add.value).1),
        PatchOperation::Replace(replace) => (0, levels(&replace.path) + weight::of(&replace.value).1),
        PatchOperation::Copy(copy) => {
            let (bytes, depth) = doc.pointer(copy.from.as_str()).map_or((0, 0), weight::of);
            (bytes, levels(&copy.path) + depth)
        }
        PatchOperation::Move(moved) if levels(&moved.path) > levels(&moved.from) => {
            let (bytes, depth) = doc.pointer(moved.from.as_str()).map_or((0, 0), weight::of);
            (bytes, levels(&moved.path) + depth)
        }
        PatchOperation::Move(_) | PatchOperation::Remove(_) | PatchOperation::Test(_) => (0, 0),
    };
    if depth > weight::DEPTH_MAX {
        let reason = format!("a JSON patch leads to more than {} levels", weight::DEPTH_MAX);
        return Err(PatchError::TooLarge { reason });
    }
    Ok(bytes)
}

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

    fn too_large(doc: Value, operations: Vec<Value>) -> String {
        match json(&doc, &Value::Array(operations)) {
            Err(PatchError::TooLarge { reason }) => reason,
            other => panic!("{:.200}", format!("{other:?}")),
        }
    }

    #[test]
    fn a_patch_is_not_a_program() {
        let add = json!({"op": "add", "path": "/a", "value": 1});
        assert!(json(&json!({}), &Value::Array(vec![add.clone(); 10_000])).is_ok());
        let reason = too_large(json!({}), vec![add; 10_001]);
        assert_eq!(reason, "The allowed maximum operations in a JSON patch is 10000, got 10001");
        // Each copy doubles the document.
        let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let copies = too_large(json!({"a": ["x".repeat(1000)]}), vec![double; 40]);
        assert!(copies.contains("levels") || copies.contains("copies"), "{copies}");
        let text = json!({"a": "x".repeat(1 << 20)});
        let again = (0..40).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/b{i}")})).collect();
        assert!(too_large(text, again).starts_with("the copies of a JSON patch take more than"));
    }

    #[test]
    fn no_operation_leads_below_the_deepest_level() {
        let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
        let at = |levels: usize| "/a".repeat(levels);
        assert!(json(&json!({}), &json!([{"op": "add", "path": "/a", "value": deep(126)}])).is_ok());
        for operation in ["add", "replace"] {
            let operation = json!({"op": operation, "path": at(100), "value": deep(28)});
            assert!(too_large(deep(110), vec![operation]).contains("levels"));
        }
        for operation in ["move", "copy"] {
            let operation = json!({"op": operation, "from": "/b", "path": at(100)});
            let mut doc = deep(110);
            doc["b"] = deep(28);
            assert!(too_large(doc, vec![operation]).contains("levels"));
        }
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
