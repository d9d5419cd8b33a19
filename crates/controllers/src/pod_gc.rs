//! Pods that no node will ever clean up are removed: those bound to a node that does not exist (any more), and those
//! deleted before they had a node.

use std::time::Duration;

use http::Method;
use kube::Client;
use serde_json::json;
use tokio::time::Instant;

use crate::call::{self, Error};
use crate::view::World;

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
    /// Whether its node is lost while it may have been running; then it fails first.
    pub lost: bool,
}

/// The pods to remove, and when to look again.
pub fn decide(world: &World, now: Instant) -> (Vec<Removal>, Option<Instant>) {
    let removal = |uid: &String, lost: bool| {
        let pod = world.pod(uid)?;
        let lost = lost && !pod.finished;
        Some(Removal { uid: uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone(), lost })
    };
    let mut removals: Vec<Removal> = world.unbound_going().filter_map(|uid| removal(uid, false)).collect();
    let mut wake_at = None;
    for (node, since) in &world.missing_nodes {
        let at = *since + QUARANTINE;
        if at <= now {
            removals.extend(world.pods_on(node).filter_map(|uid| removal(uid, true)));
        } else {
            wake_at = Some(wake_at.map_or(at, |wake_at: Instant| wake_at.min(at)));
        }
    }
    (removals, wake_at)
}

/// Removes the pod without waiting for a node to say that it has ended.
pub async fn act(client: &Client, removal: &Removal) -> Result<(), Error> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", removal.namespace, removal.name);
    // 404: it is gone. 409: another pod has its name.
    let fine = [404, 409];
    if removal.lost {
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
        });
        let status = json!({"phase": "Failed", "conditions": [condition]});
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

    fn names(removals: &[Removal]) -> Vec<(&str, bool)> {
        removals.iter().map(|removal| (&*removal.uid, removal.lost)).collect()
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
        assert_eq!((names(&removals), wake_at), (vec![("deleted", false)], Some(now + QUARANTINE)));
        let later = now + QUARANTINE;
        world.note_missing_nodes(later);
        let (removals, wake_at) = decide(&world, later);
        assert_eq!((names(&removals), wake_at), (vec![("deleted", false), ("orphan", true)], None));
        world.nodes.insert("gone".into(), Node::default().into());
        world.note_missing_nodes(later);
        assert_eq!(names(&decide(&world, later).0), [("deleted", false)]);
    }
}
