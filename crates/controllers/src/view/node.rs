//! A node, reduced to what controllers decide on.

use std::collections::{BTreeMap, BTreeSet};

use api::look;
use serde_json::Value;

use super::object::labels;

/// A node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// metadata.name.
    pub name: String,
    /// metadata.resourceVersion.
    pub version: String,
    /// metadata.labels.
    pub labels: BTreeMap<String, String>,
    /// The types of the conditions that are True.
    pub holding: BTreeSet<String>,
    /// spec.taints, as they are.
    pub taints: Vec<Value>,
}

impl Node {
    /// Reads a node.
    pub fn read(object: &Value) -> Node {
        let conditions = look::list_at(object, &["status", "conditions"]).iter();
        let holding = conditions.filter(|condition| look::text(condition, "status") == "True");
        Node {
            name: look::text_at(object, &["metadata", "name"]).to_owned(),
            version: look::text_at(object, &["metadata", "resourceVersion"]).to_owned(),
            labels: labels(object),
            holding: holding.map(|condition| look::text(condition, "type").to_owned()).collect(),
            taints: look::list_at(object, &["spec", "taints"]).to_vec(),
        }
    }

    /// Whether the same pods may run on it as on another one.
    pub fn takes_pods_like(&self, other: &Node) -> bool {
        (&self.labels, &self.taints) == (&other.labels, &other.taints)
    }
}
