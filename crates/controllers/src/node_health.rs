//! A node of which nothing is heard is not ready, and its pods are not either.
//!
//! As upstream's node lifecycle controller: a node is heard of when its lease or its report changes here; its own clock does
//! not matter. After a grace its conditions become Unknown. Zones in which most nodes are away, and how fast nodes
//! may be given up there, are judged here too; `node_taints` acts on it. Start at [`note`] and [`decide`].

use std::collections::BTreeMap;
use std::time::Duration;

use api::Timestamp;
use http::Method;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::call::{self, Error};
use crate::event::{self, Told};
use crate::view::node::{Node, Ready};
use crate::view::{Pod, World};

/// Where the leases of nodes are.
pub const LEASES: &str = "kube-node-lease";
/// A node with this label does not count in its zone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
/// The conditions that a node reports.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Who tells.
const COMPONENT: &str = "node-controller";

/// How patient the controllers are with nodes. The defaults are upstream's.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// `--node-monitor-grace-period`: how long nothing may be heard of a node.
    pub grace: Duration,
    /// `--node-startup-grace-period`: the same for one that has never reported.
    pub startup_grace: Duration,
    /// `--node-eviction-rate`: nodes of a zone that are given up, a second.
    pub eviction_rate: f64,
    /// `--secondary-node-eviction-rate`: the same in a large zone where most nodes are away.
    pub secondary_eviction_rate: f64,
    /// `--large-cluster-size-threshold`: a zone with more nodes is large.
    pub large_zone: usize,
    /// `--unhealthy-zone-threshold`: the share of nodes that are away from which on it is most.
    pub unhealthy_share: f64,
    /// `--terminated-pod-gc-threshold`: so many pods that have ended are kept; 0 keeps all.
    pub ended_pods_max: usize,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            grace: Duration::from_secs(50),
            startup_grace: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            large_zone: 50,
            unhealthy_share: 0.55,
            ended_pods_max: 12_500,
        }
    }
}

/// What is remembered of nodes. All of it may be lost: patience begins anew then.
#[derive(Debug, Default)]
pub struct Lifecycle {
    /// How patient to be.
    pub policy: Policy,
    /// By node: what was last heard of it, and when.
    beats: BTreeMap<String, (Beat, Instant)>,
    /// Whether no node at all was ready.
    were_all_lost: bool,
    /// By zone: when its next node may be given up.
    pub next_taint: BTreeMap<String, Instant>,
    /// By pod: since when a taint of its node drives it off.
    pub driven_off: BTreeMap<String, Instant>,
}

/// What a node says of itself, in two ways.
type Beat = (Option<String>, String);

/// How the nodes of a zone are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Zone {
    ready: usize,
    away: usize,
}

impl Zone {
    fn is_lost(self) -> bool {
        self.ready == 0 && self.away > 0
    }

    /// Nodes a second that may be given up.
    pub fn rate(self, policy: &Policy) -> f64 {
        let size = self.ready + self.away;
        // A handful of nodes says little, and of a zone that is away as a whole others tell that it is not we.
        let is_partial = self.away > 2 && self.away as f64 / size as f64 >= policy.unhealthy_share;
        match (self.is_lost(), is_partial) {
            (false, true) if size > policy.large_zone => policy.secondary_eviction_rate,
            (false, true) => 0.0,
            _ => policy.eviction_rate,
        }
    }
}

/// The zones by name.
pub fn zones(world: &World) -> BTreeMap<String, Zone> {
    let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
    for node in world.nodes.values().filter(|node| !node.labels.contains_key(EXCLUDED)) {
        let zone = zones.entry(node.zone()).or_default();
        match node.ready {
            Ready::True => zone.ready += 1,
            _ => zone.away += 1,
        }
    }
    zones
}

/// Whether no node is ready anywhere: then it is rather we who hear nothing, and nobody is given up.
pub fn are_all_lost(zones: &BTreeMap<String, Zone>) -> bool {
    !zones.is_empty() && zones.values().all(|zone| zone.is_lost())
}

/// Takes down what was heard of nodes by now.
pub fn note(world: &mut World, now: Instant) {
    let are_all_lost = are_all_lost(&zones(world));
    let World { nodes, leases, lifecycle, .. } = world;
    lifecycle.beats.retain(|name, _| nodes.contains_key(name));
    // Who could not be heard at all has the whole grace from when somebody is heard again.
    let is_back = std::mem::replace(&mut lifecycle.were_all_lost, are_all_lost) && !are_all_lost;
    for (name, node) in nodes {
        let lease = leases.get(name);
        match lifecycle.beats.get_mut(name) {
            Some(((renewed, reported), at)) => {
                if renewed.as_ref() != lease || *reported != node.reported || is_back {
                    (*renewed, *at) = (lease.cloned(), now);
                    reported.clone_from(&node.reported);
                }
            }
            None => drop(lifecycle.beats.insert(name.clone(), ((lease.cloned(), node.reported.clone()), now))),
        }
    }
}

/// A node of which nothing is heard any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    /// metadata.name.
    pub name: String,
    uid: String,
    created: String,
    /// The version that this was decided on; a newer one is decided anew.
    version: String,
    was_ready: bool,
}

/// The nodes to be marked, and when to look again.
pub fn decide(world: &World, now: Instant) -> (Vec<Loss>, Option<Instant>) {
    let Policy { grace, startup_grace, .. } = world.lifecycle.policy;
    let (mut losses, mut wake_at) = (Vec::new(), None);
    for (name, node) in world.nodes.iter().filter(|(_, node)| node.ready != Ready::Unknown) {
        let Some((_, heard_at)) = world.lifecycle.beats.get(name) else { continue };
        let end = *heard_at + if node.ready == Ready::Missing { startup_grace } else { grace };
        match end <= now {
            true => losses.push(loss(name, node)),
            false => wake_at = Some(wake_at.map_or(end, |at: Instant| at.min(end))),
        }
    }
    (losses, wake_at)
}

fn loss(name: &str, node: &Node) -> Loss {
    Loss {
        name: name.to_owned(),
        uid: node.uid.clone(),
        created: node.created.clone(),
        version: node.version.clone(),
        was_ready: node.ready == Ready::True,
    }
}

/// Marks the node. A conflict means that it has reported after all.
pub async fn act(client: &Client, loss: &Loss) -> Result<(), Error> {
    let path = format!("/api/v1/nodes/{}", loss.name);
    let node = match call::call(client, Method::GET, &path, None).await {
        Err(error) if error.status() == Some(404) => return Ok(()),
        found => found?,
    };
    let conditions = unknown(&node, &loss.created, &format!("{:.0}", Timestamp::now()));
    let patch = json!({"metadata": {"resourceVersion": loss.version}, "status": {"conditions": conditions}});
    call::call_unless(client, Method::PATCH, &format!("{path}/status"), Some(&patch), &[404]).await?;
    if loss.was_ready {
        let about = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": loss.name, "uid": loss.uid}});
        let message = format!("Node {} status is now: NodeNotReady", loss.name);
        let told = Told { kind: "Normal", reason: "NodeNotReady", message: &message, component: COMPONENT };
        event::tell(client, &about, &told).await;
    }
    Ok(())
}

/// The conditions that nobody knows any more, in upstream's words.
fn unknown(node: &Value, created: &str, now: &str) -> Vec<Value> {
    let known = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |kind: &str| known.iter().find(|condition| condition["type"] == kind);
    let mark = |kind: &str| match of(kind) {
        Some(condition) if condition["status"] == "Unknown" => None,
        Some(_) => Some(json!({
            "type": kind, "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": now,
            "message": "Kubelet stopped posting node status.",
        })),
        None => Some(json!({
            "type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated", "lastTransitionTime": now,
            "lastHeartbeatTime": created, "message": "Kubelet never posted node status.",
        })),
    };
    REPORTED.iter().filter_map(|kind| mark(kind)).collect()
}

/// A pod that says that it is ready on a node of which nothing is heard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unready {
    uid: String,
    namespace: String,
    name: String,
}

/// The pods to be marked.
pub fn unready(world: &World) -> Vec<Unready> {
    let lost = world.nodes.iter().filter(|(_, node)| node.ready == Ready::Unknown);
    let pods = lost.flat_map(|(name, _)| world.pods_on(name)).filter_map(|uid| world.pod(uid));
    let mark = |pod: &Pod| Unready { uid: pod.uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone() };
    pods.filter(|pod| pod.ready_since.is_some()).map(|pod| mark(pod)).collect()
}

/// Marks the pod.
pub async fn act_on_pod(client: &Client, pod: &Unready) -> Result<(), Error> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
    let condition =
        json!({"type": "Ready", "status": "False", "lastTransitionTime": format!("{:.0}", Timestamp::now())});
    let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
    // 404: it is gone. 409: another pod has its name.
    call::call_unless(client, Method::PATCH, &format!("{path}/status"), Some(&patch), &[404, 409]).await?;
    let meta = json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid});
    let about = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta});
    let told = Told { kind: "Warning", reason: "NodeNotReady", message: "Node is not ready", component: COMPONENT };
    event::tell(client, &about, &told).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Served;

    fn node(name: &str, status: &str, reported: &str) -> Value {
        let mut node = json!({"metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"}});
        if !status.is_empty() {
            let ready = json!({"type": "Ready", "status": status, "lastHeartbeatTime": reported});
            node["status"] = json!({"conditions": [ready]});
        }
        node
    }

    fn put(world: &mut World, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        world.is(Served::named("", "nodes"), name, object);
    }

    fn renew(world: &mut World, node: &str, time: &str) {
        let meta = json!({"name": node, "namespace": LEASES, "uid": format!("lease-{node}")});
        let lease = json!({"metadata": meta, "spec": {"renewTime": time}});
        world.is(Served::named("coordination.k8s.io", "leases"), &format!("lease-{node}"), &lease);
    }

    fn lost(world: &mut World, now: Instant) -> Vec<String> {
        note(world, now);
        decide(world, now).0.into_iter().map(|loss| loss.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_lost_when_neither_its_lease_nor_its_report_changes_for_the_grace() {
        let (mut world, start) = (World::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        put(&mut world, &node("a", "True", "1"));
        put(&mut world, &node("b", "False", "1"));
        put(&mut world, &node("new", "", ""));
        assert!(lost(&mut world, start).is_empty());
        assert_eq!(decide(&world, start).1, Some(after(50)));
        renew(&mut world, "a", "1");
        assert!(lost(&mut world, after(40)).is_empty());
        assert_eq!(lost(&mut world, after(50)), ["b"]);
        assert_eq!(lost(&mut world, after(60)), ["b", "new"], "who never reported has a minute");
        put(&mut world, &node("b", "False", "2"));
        assert_eq!(lost(&mut world, after(61)), ["new"], "its report counts as well");
        renew(&mut world, "a", "2");
        assert_eq!(lost(&mut world, after(110)), ["new"]);
        renew(&mut world, "new", "1");
        assert_eq!(lost(&mut world, after(111)), ["b"], "a lease is enough");
        put(&mut world, &node("b", "Unknown", "2"));
        assert!(lost(&mut world, after(112)).is_empty(), "it is marked already");
    }

    #[tokio::test(start_paused = true)]
    async fn when_somebody_is_heard_again_after_nobody_was_all_have_the_whole_grace() {
        let (mut world, start) = (World::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        put(&mut world, &node("a", "Unknown", "1"));
        put(&mut world, &node("b", "False", "1"));
        assert!(lost(&mut world, start).is_empty());
        assert_eq!(lost(&mut world, after(50)), ["b"]);
        put(&mut world, &node("a", "True", "2"));
        assert!(lost(&mut world, after(55)).is_empty());
        assert_eq!(lost(&mut world, after(105)), ["a", "b"]);
    }

    #[test]
    fn the_marks_are_in_upstreams_words_and_made_once() {
        let said = unknown(&node("a", "True", "1"), "c", "now");
        assert_eq!(said.len(), 4);
        assert_eq!(said[0]["reason"], "NodeStatusUnknown");
        assert_eq!(said[0]["message"], "Kubelet stopped posting node status.");
        assert!(said[0].get("lastHeartbeatTime").is_none(), "it stays");
        assert_eq!(
            (&said[1]["reason"], &said[1]["lastHeartbeatTime"]),
            (&json!("NodeStatusNeverUpdated"), &json!("c"))
        );
        assert_eq!(unknown(&node("a", "Unknown", "1"), "c", "now").len(), 3);
    }

    #[test]
    fn zones_slow_down_when_most_of_their_nodes_are_away() {
        let rate = |ready, away| Zone { ready, away }.rate(&Policy::default());
        for ((ready, away), expected) in [
            ((3, 0), 0.1),
            ((1, 2), 0.1),
            ((3, 3), 0.1),
            ((2, 3), 0.0),
            ((22, 28), 0.0),
            ((22, 29), 0.01),
            ((30, 30), 0.1),
            ((0, 3), 0.1),
        ] {
            assert_eq!(rate(ready, away), expected, "{ready} ready, {away} away");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_a_lost_node_are_not_ready_and_those_of_others_stay_as_they_are() {
        let mut world = World::default();
        for (name, status) in [("lost", "Unknown"), ("ill", "False"), ("well", "True")] {
            put(&mut world, &node(name, status, "1"));
            for ready in ["True", "False"] {
                let uid = format!("{name}-{ready}");
                let conditions = json!([{"type": "Ready", "status": ready}]);
                let pod = json!({"metadata": {"name": uid, "namespace": "ns", "uid": uid},
                    "spec": {"nodeName": name}, "status": {"phase": "Running", "conditions": conditions}});
                world.is(Served::pods(), &uid, &pod);
            }
        }
        assert_eq!(unready(&world).into_iter().map(|pod| pod.name).collect::<Vec<_>>(), ["lost-True"]);
    }
}
