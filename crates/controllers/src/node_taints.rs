//! A node bears a taint for each thing that keeps pods away from it: a pressure, that it is not ready, that it is cordoned.
//!
//! As upstream's node lifecycle controller does it: NoSchedule taints follow the conditions at once. The taint NoExecute of
//! a node that is not ready or out of reach drives its pods off, so it comes to one node of a zone after another, and to
//! none while no node at all is ready. Taints of others stay. Start at [`decide`].

use std::collections::BTreeMap;
use std::time::Duration;

use api::Timestamp;
use http::Method;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::call::{self, Error};
use crate::node_health::{self, Zone};
use crate::view::World;
use crate::view::node::{Node, Ready};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const CORDONED: &str = "node.kubernetes.io/unschedulable";

/// Condition to taint.
const TAINTS: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// The taints of a node as they are to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tainting {
    name: String,
    /// The version that this was decided on; a newer one is decided anew.
    version: String,
    /// The whole list, as JSON.
    taints: String,
    /// The zone in which this node is given up.
    gives_up_in: Option<String>,
}

/// The nodes whose taints do not say what their conditions say, and when to look again.
pub fn decide(world: &World, now: Instant) -> (Vec<Tainting>, Option<Instant>) {
    let zones = node_health::zones(world);
    let none_is_left = node_health::are_all_lost(&zones);
    let (given_up, wake_at) = match none_is_left {
        true => (BTreeMap::new(), None),
        false => given_up(world, &zones, now),
    };
    let taintings = world.nodes.iter().filter_map(|(name, node)| {
        let zone = given_up.get(name).cloned();
        let mut taints = node.taints.clone();
        follow_conditions(node, &mut taints);
        follow_readiness(node, &mut taints, none_is_left, zone.is_some());
        let differs = taints != node.taints;
        let (name, version) = (name.clone(), node.version.clone());
        differs.then(|| Tainting { name, version, taints: Value::Array(taints).to_string(), gives_up_in: zone })
    });
    (taintings.collect(), wake_at)
}

fn bears(taints: &[Value], key: &str, effect: &str) -> bool {
    taints.iter().any(|taint| taint["key"] == key && taint["effect"] == effect)
}

/// Adds a taint or takes it away.
fn set(taints: &mut Vec<Value>, (key, effect): (&str, &str), wanted: bool) {
    match (wanted, bears(taints, key, effect)) {
        (true, false) => taints.push(json!({"key": key, "effect": effect})),
        (false, true) => taints.retain(|taint| !(taint["key"] == key && taint["effect"] == effect)),
        _ => {}
    }
}

fn follow_conditions(node: &Node, taints: &mut Vec<Value>) {
    for (condition, key) in TAINTS {
        set(taints, (key, NO_SCHEDULE), node.holding.contains(condition));
    }
    set(taints, (NOT_READY, NO_SCHEDULE), node.ready == Ready::False);
    set(taints, (UNREACHABLE, NO_SCHEDULE), node.ready == Ready::Unknown);
    set(taints, (CORDONED, NO_SCHEDULE), node.unschedulable);
}

/// The taint that drives pods off this node, and its opposite.
fn driving(node: &Node) -> Option<(&'static str, &'static str)> {
    match node.ready {
        Ready::False => Some((NOT_READY, UNREACHABLE)),
        Ready::Unknown => Some((UNREACHABLE, NOT_READY)),
        Ready::True | Ready::Missing => None,
    }
}

fn follow_readiness(node: &Node, taints: &mut Vec<Value>, none_is_left: bool, is_given_up: bool) {
    match driving(node) {
        _ if none_is_left || node.ready == Ready::True => {
            set(taints, (NOT_READY, NO_EXECUTE), false);
            set(taints, (UNREACHABLE, NO_EXECUTE), false);
        }
        // A node that was given up for the one reason is so for the other at once.
        Some((wanted, opposite)) if is_given_up || bears(taints, opposite, NO_EXECUTE) => {
            set(taints, (opposite, NO_EXECUTE), false);
            set(taints, (wanted, NO_EXECUTE), true);
        }
        _ => {}
    }
}

/// The nodes that may be given up now: of each zone the one that has been away the longest, if its turn has come. And
/// when the next turn is.
fn given_up(
    world: &World,
    zones: &BTreeMap<String, Zone>,
    now: Instant,
) -> (BTreeMap<String, String>, Option<Instant>) {
    let waits = |node: &Node| {
        driving(node).is_some()
            && !bears(&node.taints, NOT_READY, NO_EXECUTE)
            && !bears(&node.taints, UNREACHABLE, NO_EXECUTE)
    };
    let mut first: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    for (name, node) in world.nodes.iter().filter(|(_, node)| waits(node)) {
        let candidate = (node.ready_since.as_str(), name.as_str());
        first.entry(node.zone()).and_modify(|known| *known = candidate.min(*known)).or_insert(candidate);
    }
    let (mut given_up, mut wake_at) = (BTreeMap::new(), None);
    for (zone, (_, name)) in first {
        let state = zones.get(&zone).copied().unwrap_or_default();
        if state.rate(&world.lifecycle.policy) <= 0.0 {
            continue;
        }
        match world.lifecycle.next_taint.get(&zone).copied().filter(|at| now < *at) {
            None => drop(given_up.insert(name.to_owned(), zone)),
            Some(at) => wake_at = Some(wake_at.map_or(at, |known: Instant| known.min(at))),
        }
    }
    (given_up, wake_at)
}

/// A node was given up: the next one of its zone has to wait.
pub fn tainted(world: &mut World, tainting: &Tainting, now: Instant) {
    let Some(zone) = &tainting.gives_up_in else { return };
    let state = node_health::zones(world).get(zone).copied().unwrap_or_default();
    let rate = state.rate(&world.lifecycle.policy);
    if rate > 0.0
        && let Ok(pause) = Duration::try_from_secs_f64(1.0 / rate)
    {
        world.lifecycle.next_taint.insert(zone.clone(), now + pause);
    }
}

/// Writes the list. If the node has changed meanwhile, what its watch brings is decided on anew.
pub async fn act(client: &Client, tainting: &Tainting) -> Result<(), Error> {
    let mut taints: Value = serde_json::from_str(&tainting.taints).unwrap_or_default();
    for taint in taints.as_array_mut().into_iter().flatten() {
        if taint["effect"] == NO_EXECUTE && taint["timeAdded"].is_null() {
            taint["timeAdded"] = format!("{:.0}", Timestamp::now()).into();
        }
    }
    let patch = json!({"metadata": {"resourceVersion": tainting.version}, "spec": {"taints": taints}});
    let path = format!("/api/v1/nodes/{}", tainting.name);
    // 404: it is gone.
    call::call_unless(client, Method::PATCH, &path, Some(&patch), &[404]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn world(nodes: Vec<(&str, Node)>) -> World {
        let mut world = World::default();
        for (name, node) in nodes {
            world.nodes.insert(name.to_owned(), node.into());
        }
        world
    }

    fn check(holding: &[&str], taints: Value) -> Option<Value> {
        let holding = holding.iter().map(|one| (*one).to_owned()).collect();
        let taints = taints.as_array().unwrap().clone();
        let world = world(vec![("n", Node { version: "7".into(), holding, taints, ..Node::default() })]);
        let (wanted, _) = decide(&world, Instant::now());
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

    fn node(ready: Ready, taints: &[(&str, &str)]) -> Node {
        let taints = taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        Node { ready, taints, ..Node::default() }
    }

    /// What each node is to bear, for those that do not yet.
    fn wanted(world: &World, now: Instant) -> BTreeMap<String, Vec<(String, String)>> {
        let read = |tainting: Tainting| {
            let list: Vec<Value> = serde_json::from_str(&tainting.taints).unwrap();
            let text = |taint: &Value, field: &str| taint[field].as_str().unwrap().to_owned();
            (tainting.name, list.iter().map(|taint| (text(taint, "key"), text(taint, "effect"))).collect())
        };
        decide(world, now).0.into_iter().map(read).collect()
    }

    fn of(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, effect)| ((*key).to_owned(), (*effect).to_owned())).collect()
    }

    #[test]
    fn a_node_that_is_not_ready_is_closed_and_then_emptied_and_opened_again() {
        let now = Instant::now();
        let lost = of(&[(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]);
        let ill = of(&[(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)]);
        let well = ("well", node(Ready::True, &[]));
        let of_bad = |bad: Node| wanted(&world(vec![("bad", bad), well.clone()]), now).remove("bad");
        assert_eq!(of_bad(node(Ready::Unknown, &[])), Some(lost.clone()));
        assert_eq!(of_bad(node(Ready::False, &[])), Some(ill));
        assert_eq!(of_bad(node(Ready::Unknown, &[(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)])), None);
        let swapped = of_bad(node(Ready::Unknown, &[(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)]));
        assert_eq!(swapped, Some(lost));
        let mine = [("mine", NO_EXECUTE), (UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)];
        assert_eq!(of_bad(node(Ready::True, &mine)), Some(of(&[("mine", NO_EXECUTE)])));
        let cordoned = Node { unschedulable: true, ..node(Ready::True, &[(NOT_READY, NO_SCHEDULE)]) };
        assert_eq!(of_bad(cordoned), Some(of(&[(CORDONED, NO_SCHEDULE)])));
    }

    #[test]
    fn when_no_node_is_ready_none_is_given_up_and_those_that_were_are_not_any_more() {
        let now = Instant::now();
        let away = node(Ready::Unknown, &[(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]);
        let fresh = node(Ready::Unknown, &[(UNREACHABLE, NO_SCHEDULE)]);
        let all = world(vec![("a", away.clone()), ("b", fresh.clone())]);
        let expected = [("a".to_owned(), of(&[(UNREACHABLE, NO_SCHEDULE)]))];
        assert_eq!(wanted(&all, now), expected.into());
        let mut one = node(Ready::True, &[]);
        one.labels.insert("topology.kubernetes.io/zone".into(), "far".into());
        let with_one = world(vec![("a", away), ("b", fresh), ("c", one)]);
        let expected = [("b".to_owned(), of(&[(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]))];
        assert_eq!(wanted(&with_one, now), expected.into(), "another zone hears us");
    }

    proptest! {
        /// Whatever nodes come and go: in each zone one node is given up in ten seconds at most, none while none is ready,
        /// and in the end, with nobody changing any more, exactly those are given up that may be.
        #[test]
        fn nodes_are_given_up_at_the_rate_of_their_zone_and_only_if_they_are_away(
            steps in proptest::collection::vec((0_usize..8, 0_u8..3, 0_u64..15), 1..40),
        ) {
            let mut now = Instant::now();
            let mut world = World::default();
            let zone = |index: usize| if index < 5 { "a" } else { "b" };
            let mut last: BTreeMap<String, Instant> = BTreeMap::new();
            let quiet = std::iter::repeat_n((usize::MAX, 0, 10), 12);
            for (index, ready, passed) in steps.into_iter().chain(quiet) {
                now += Duration::from_secs(passed);
                if index < 8 {
                    let ready = [Ready::True, Ready::False, Ready::Unknown][usize::from(ready)];
                    let name = format!("n{index}");
                    let mut node = world.nodes.get(&name).map_or_else(Node::default, |node| (**node).clone());
                    node.ready = ready;
                    node.labels.insert("topology.kubernetes.io/zone".into(), zone(index).into());
                    world.nodes.insert(name, node.into());
                }
                let any_ready = world.nodes.values().any(|node| node.ready == Ready::True);
                let (taintings, _) = decide(&world, now);
                for tainting in taintings {
                    let node = world.nodes.get(&tainting.name).unwrap();
                    let taints: Vec<Value> = serde_json::from_str(&tainting.taints).unwrap();
                    let drives = |taints: &[Value]| taints.iter().any(|taint| taint["effect"] == NO_EXECUTE);
                    if drives(&taints) && !drives(&node.taints) {
                        prop_assert!(any_ready && node.ready != Ready::True);
                        let before = last.insert(node.zone(), now);
                        prop_assert!(before.is_none_or(|before| now - before >= Duration::from_secs(10)));
                    }
                    let after = Node { taints, ..(**node).clone() };
                    world.nodes.insert(tainting.name.clone(), after.into());
                    tainted(&mut world, &tainting, now);
                }
            }
            let zones = node_health::zones(&world);
            let given_up: BTreeSet<&String> = world.nodes.iter()
                .filter(|(_, node)| node.taints.iter().any(|taint| taint["effect"] == NO_EXECUTE)).map(|(name, _)| name).collect();
            for (name, node) in &world.nodes {
                if node.ready == Ready::True || node_health::are_all_lost(&zones) {
                    prop_assert!(!given_up.contains(name), "{}", name);
                } else if zones[&node.zone()].rate(&world.lifecycle.policy) > 0.0 {
                    prop_assert!(given_up.contains(name), "{}", name);
                }
            }
        }
    }
}
