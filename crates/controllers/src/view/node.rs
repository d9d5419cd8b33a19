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
    /// metadata.uid.
    pub uid: String,
    /// metadata.creationTimestamp.
    pub created: String,
    /// The types of the conditions that are True.
    pub holding: BTreeSet<String>,
    /// Whether it is ready.
    pub ready: Ready,
    /// Since when it is or is not, as the condition says.
    pub ready_since: String,
    /// When it last reported, as the condition says.
    pub reported: String,
    /// spec.unschedulable.
    pub unschedulable: bool,
    /// spec.taints, as they are.
    pub taints: Vec<Value>,
}

/// What the condition Ready of a node says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ready {
    /// There is none: the node has never reported.
    #[default]
    Missing,
    /// It takes pods.
    True,
    /// It says that it cannot.
    False,
    /// Nothing was heard of it.
    Unknown,
}

impl Node {
    /// Reads a node.
    pub fn read(object: &Value) -> Node {
        let conditions = look::list_at(object, &["status", "conditions"]);
        let holding = conditions.iter().filter(|condition| look::text(condition, "status") == "True");
        let ready = conditions.iter().find(|condition| look::text(condition, "type") == "Ready");
        let of_ready = |field| ready.map_or("", |condition| look::text(condition, field)).to_owned();
        Node {
            uid: look::text_at(object, &["metadata", "uid"]).to_owned(),
            created: look::text_at(object, &["metadata", "creationTimestamp"]).to_owned(),
            ready: match ready.map(|condition| look::text(condition, "status")) {
                None => Ready::Missing,
                Some("True") => Ready::True,
                Some("False") => Ready::False,
                Some(_) => Ready::Unknown,
            },
            ready_since: of_ready("lastTransitionTime"),
            reported: of_ready("lastHeartbeatTime"),
            unschedulable: look::at(object, &["spec", "unschedulable"]).is_some_and(|it| it == true),
            name: look::text_at(object, &["metadata", "name"]).to_owned(),
            version: look::text_at(object, &["metadata", "resourceVersion"]).to_owned(),
            labels: labels(object),
            holding: holding.map(|condition| look::text(condition, "type").to_owned()).collect(),
            taints: look::list_at(object, &["spec", "taints"]).to_vec(),
        }
    }

    /// Where it stands, as far as failures go: its region and zone.
    pub fn zone(&self) -> String {
        let label = |key: &str| self.labels.get(key).map_or("", String::as_str);
        match (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone")) {
            ("", "") => String::new(),
            (region, zone) => format!("{region}/{zone}"),
        }
    }

    /// Whether the same pods may run on it as on another one.
    pub fn takes_pods_like(&self, other: &Node) -> bool {
        (&self.labels, &self.taints) == (&other.labels, &other.taints)
    }
}
