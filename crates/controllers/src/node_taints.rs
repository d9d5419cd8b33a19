//! A node that runs short bears a taint for each pressure, so that no pod is sent to it.
//!
//! As upstream's node lifecycle controller does it: the taints follow the conditions, and those of others stay.

use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::call::{self, Error};
use crate::view::{Node, World};

/// Condition to taint.
const TAINTS: [(&str, &str); 3] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];
const EFFECT: &str = "NoSchedule";

/// The taints of a node as they are to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tainting {
    name: String,
    /// The version that this was decided on; a newer one is decided anew.
    version: String,
    /// The whole list, as JSON.
    taints: String,
}

/// The nodes whose taints do not say what their conditions say.
pub fn decide(world: &World) -> Vec<Tainting> {
    world.nodes.iter().filter_map(|(name, node)| tainting(name, node)).collect()
}

fn tainting(name: &str, node: &Node) -> Option<Tainting> {
    let is = |taint: &Value, key: &str| taint["key"] == key && taint["effect"] == EFFECT;
    let is_pressed = |condition: &str| node.holding.contains(condition);
    let mut taints = node.taints.clone();
    for (condition, key) in TAINTS {
        let bears = taints.iter().any(|taint| is(taint, key));
        match (is_pressed(condition), bears) {
            (true, false) => taints.push(json!({"key": key, "effect": EFFECT})),
            (false, true) => taints.retain(|taint| !is(taint, key)),
            _ => {}
        }
    }
    let differs = taints != node.taints;
    let (name, version) = (name.to_owned(), node.version.clone());
    differs.then(|| Tainting { name, version, taints: Value::Array(taints).to_string() })
}

/// Writes the list. If the node has changed meanwhile, what its watch brings is decided on anew.
pub async fn act(client: &Client, tainting: &Tainting) -> Result<(), Error> {
    let taints: Value = serde_json::from_str(&tainting.taints).unwrap_or_default();
    let patch = json!({"metadata": {"resourceVersion": tainting.version}, "spec": {"taints": taints}});
    let path = format!("/api/v1/nodes/{}", tainting.name);
    // 404: it is gone. 409: it is another version by now.
    call::call_unless(client, Method::PATCH, &path, Some(&patch), &[404, 409]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(holding: &[&str], taints: Value) -> Option<Value> {
        let holding = holding.iter().map(|one| (*one).to_owned()).collect();
        let taints = taints.as_array().unwrap().clone();
        let node = Node { version: "7".into(), holding, taints, ..Node::default() };
        let mut world = World::default();
        world.nodes.insert("n".into(), node.into());
        let wanted = decide(&world);
        assert!(wanted.iter().all(|tainting| tainting.name == "n" && tainting.version == "7"));
        wanted.first().map(|tainting| serde_json::from_str(&tainting.taints).unwrap())
    }

    #[test]
    fn taints_follow_the_pressures_and_others_stay() {
        let own = json!({"key": "mine", "value": "v", "effect": "NoExecute"});
        let disk = json!({"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"});
        let memory = json!({"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"});
        let other = json!({"key": "node.kubernetes.io/disk-pressure", "effect": "NoExecute"});
        assert_eq!(check(&[], json!([own])), None);
        assert_eq!(check(&["DiskPressure"], json!([own])), Some(json!([own, disk])));
        assert_eq!(check(&["DiskPressure"], json!([disk, own])), None);
        assert_eq!(check(&["MemoryPressure"], json!([disk, own])), Some(json!([own, memory])));
        assert_eq!(check(&[], json!([disk, other])), Some(json!([other])));
        assert_eq!(check(&["Ready"], json!([])), None);
        let pid = json!([{"key": "node.kubernetes.io/pid-pressure", "effect": "NoSchedule"}]);
        assert_eq!(check(&["PIDPressure"], json!([])), Some(pid));
    }
}
