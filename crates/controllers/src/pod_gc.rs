//! Pods that no node will ever clean up are removed: those bound to a node that does not exist (any more), those deleted
//! before they had a node, those deleted on a node that is out of service, and the oldest of too many that have ended.

use std::time::Duration;

use http::Method;
use kube::Client;
use serde_json::json;
use tokio::time::Instant;

use crate::call::{self, Error};
use crate::view::node::Ready;
use crate::view::{Pod, World};

/// By this people say that a node that is not ready will not run anything any more.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// How long a node has to be missing before its pods go: it may be about to register again.
const QUARANTINE: Duration = Duration::from_secs(40);

/// A pod to remove, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removal {
    /// metadata.uid: another pod of the same name is not meant.
    pub uid: String,
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
    /// What becomes of it first.
    pub first: First,
}

/// What becomes of a pod before it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum First {
    /// Nothing: it has ended.
    Nothing,
    /// It fails.
    Fails,
    /// It fails, and says that its node is lost.
    FailsWithItsNode,
}

/// The pods to remove, and when to look again.
pub fn decide(world: &World, now: Instant) -> (Vec<Removal>, Option<Instant>) {
    let removal = |uid: &String, first: First| {
        let pod = world.pod(uid)?;
        let first = if pod.finished { First::Nothing } else { first };
        Some(Removal { uid: uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone(), first })
    };
    let mut removals: Vec<Removal> = world.unbound_going().filter_map(|uid| removal(uid, First::Fails)).collect();
    removals.extend(out_of_service(world).filter_map(|uid| removal(uid, First::Fails)));
    removals.extend(too_many(world).filter_map(|uid| removal(uid, First::Nothing)));
    let mut wake_at = None;
    for (node, since) in &world.missing_nodes {
        let at = *since + QUARANTINE;
        if at <= now {
            removals.extend(world.pods_on(node).filter_map(|uid| removal(uid, First::FailsWithItsNode)));
        } else {
            wake_at = Some(wake_at.map_or(at, |wake_at: Instant| wake_at.min(at)));
        }
    }
    (removals, wake_at)
}

/// Deleted pods of nodes that are out of service.
fn out_of_service(world: &World) -> impl Iterator<Item = &String> {
    let nodes = world.nodes.iter().filter(|(_, node)| {
        node.ready != Ready::True && node.taints.iter().any(|taint| taint["key"] == OUT_OF_SERVICE)
    });
    let is_going = |pod: &Pod| pod.deleting && !pod.finished;
    nodes.flat_map(|(name, _)| world.pods_on(name)).filter(move |uid| world.pod(uid).is_some_and(|pod| is_going(pod)))
}

/// Pods that have ended, beyond as many as are kept.
fn too_many(world: &World) -> impl Iterator<Item = &String> {
    let most = world.lifecycle.policy.ended_pods_max;
    let excess = if most == 0 { 0 } else { world.ended.len().saturating_sub(most) };
    world.ended.iter().take(excess).map(|(.., uid)| uid)
}

/// Removes the pod without waiting for a node to say that it has ended.
pub async fn act(client: &Client, removal: &Removal) -> Result<(), Error> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", removal.namespace, removal.name);
    // 404: it is gone. 409: another pod has its name.
    let fine = [404, 409];
    if removal.first != First::Nothing {
        let mut status = json!({"phase": "Failed"});
        if removal.first == First::FailsWithItsNode {
            status["conditions"] = json!([{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
            }]);
        }
        let patch = json!({"metadata": {"uid": removal.uid}, "status": status});
        call::call_unless(client, Method::PATCH, &format!("{path}/status"), Some(&patch), &fine).await?;
    }
    let options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": removal.uid},
    });
    call::call_unless(client, Method::DELETE, &path, Some(&options), &fine).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Node, Served};

    fn pod(name: &str, node: Option<&str>, deleting: bool) -> serde_json::Value {
        let at = deleting.then_some("2026-01-01T00:00:00Z");
        json!({"metadata": {"name": name, "namespace": "ns", "deletionTimestamp": at}, "spec": {"nodeName": node}})
    }

    fn names(removals: &[Removal]) -> Vec<(&str, First)> {
        removals.iter().map(|removal| (&*removal.uid, removal.first)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_pods_of_a_node_out_of_service_go_if_it_is_not_ready() {
        let mut world = World::default();
        let taints = vec![json!({"key": OUT_OF_SERVICE, "effect": "NoExecute"})];
        for (name, ready) in [("away", Ready::Unknown), ("ill", Ready::False), ("well", Ready::True)] {
            world.nodes.insert(name.into(), Node { ready, taints: taints.clone(), ..Node::default() }.into());
            for (what, deleting) in [("going", true), ("staying", false)] {
                let name = format!("{what}-{name}");
                world.is(Served::pods(), &name, &pod(&name, name.split('-').nth(1), deleting));
            }
        }
        world.nodes.insert("plain".into(), Node { ready: Ready::Unknown, ..Node::default() }.into());
        world.is(Served::pods(), "going-plain", &pod("going-plain", Some("plain"), true));
        let (removals, _) = decide(&world, Instant::now());
        assert_eq!(names(&removals), [("going-away", First::Fails), ("going-ill", First::Fails)]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_pods_that_have_ended_evicted_ones_go_first_and_then_the_oldest() {
        let mut world = World::default();
        let ended = |name: &str, made: &str, reason: &str| {
            json!({"metadata": {"name": name, "namespace": "ns", "creationTimestamp": format!("2026-01-0{made}T00:00:00Z")},
                "spec": {"nodeName": "n"}, "status": {"phase": "Failed", "reason": reason}})
        };
        world.nodes.insert("n".into(), Node::default().into());
        for (name, made, reason) in
            [("old", "1", ""), ("older", "1", ""), ("new", "5", ""), ("evicted", "6", "Evicted")]
        {
            world.is(Served::pods(), name, &ended(name, made, reason));
        }
        let of_most = |world: &mut World, most: usize| {
            world.lifecycle.policy.ended_pods_max = most;
            let removals = decide(world, Instant::now()).0;
            removals.into_iter().map(|removal| removal.uid).collect::<Vec<_>>()
        };
        assert!(of_most(&mut world, 4).is_empty() && of_most(&mut world, 0).is_empty());
        assert_eq!(of_most(&mut world, 3), ["evicted"]);
        assert_eq!(of_most(&mut world, 1), ["evicted", "old", "older"]);
        world.is_gone("evicted");
        assert_eq!(of_most(&mut world, 2), ["old"]);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_missing_nodes_go_after_the_quarantine_and_unbound_deleted_ones_at_once() {
        let now = Instant::now();
        let mut world = World::default();
        world.nodes.insert("here".into(), Node::default().into());
        for pod in [
            pod("fine", Some("here"), false),
            pod("ending", Some("here"), true),
            pod("waiting", None, false),
            pod("deleted", None, true),
            pod("orphan", Some("gone"), false),
        ] {
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            world.is(Served::pods(), &name, &pod);
        }
        world.note_missing_nodes(now);
        let (removals, wake_at) = decide(&world, now);
        assert_eq!((names(&removals), wake_at), (vec![("deleted", First::Fails)], Some(now + QUARANTINE)));
        let later = now + QUARANTINE;
        world.note_missing_nodes(later);
        let (removals, wake_at) = decide(&world, later);
        assert_eq!(
            (names(&removals), wake_at),
            (vec![("deleted", First::Fails), ("orphan", First::FailsWithItsNode)], None)
        );
        world.nodes.insert("gone".into(), Node::default().into());
        world.note_missing_nodes(later);
        assert_eq!(names(&decide(&world, later).0), [("deleted", First::Fails)]);
    }
}
