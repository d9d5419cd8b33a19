//! Pods that no node will ever clean up are removed: those bound to a node that does not exist (any more), and those
//! deleted before they had a node.

use std::time::Duration;

use http::Method;
use kube::Client;
use serde_json::json;
use tokio::time::Instant;

use crate::call::{self, Error};
use crate::view::{Pod, World};

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
    let mut removals = Vec::new();
    let mut wake_at = None;
    for (uid, pod) in &world.pods {
        let removal =
            |lost| Removal { uid: uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone(), lost };
        match due_at(pod, world) {
            Some(None) => removals.push(removal(false)),
            Some(Some(at)) if at <= now => removals.push(removal(!pod.finished)),
            Some(Some(at)) => wake_at = Some(wake_at.map_or(at, |wake_at: Instant| wake_at.min(at))),
            None => {}
        }
    }
    (removals, wake_at)
}

/// When the pod is to be removed: never, at once, or at a time.
fn due_at(pod: &Pod, world: &World) -> Option<Option<Instant>> {
    match &pod.node {
        None => pod.deleting.then_some(None),
        Some(node) => world.missing_nodes.get(node).map(|since| Some(*since + QUARANTINE)),
    }
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
    use crate::view::Node;

    fn pod(name: &str, node: Option<&str>, deleting: bool) -> Pod {
        let node = node.map(str::to_owned);
        Pod { namespace: "ns".into(), name: name.into(), node, deleting, finished: false, owner: None }
    }

    fn names(removals: &[Removal]) -> Vec<(&str, bool)> {
        removals.iter().map(|removal| (&*removal.uid, removal.lost)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_missing_nodes_go_after_the_quarantine_and_unbound_deleted_ones_at_once() {
        let now = Instant::now();
        let mut world = World::default();
        world.nodes.insert("here".into(), Node::default());
        for pod in [
            pod("fine", Some("here"), false),
            pod("ending", Some("here"), true),
            pod("waiting", None, false),
            pod("deleted", None, true),
            pod("orphan", Some("gone"), false),
        ] {
            world.pods.insert(pod.name.clone(), pod);
        }
        world.note_missing_nodes(now);
        let (removals, wake_at) = decide(&world, now);
        assert_eq!((names(&removals), wake_at), (vec![("deleted", false)], Some(now + QUARANTINE)));
        let later = now + QUARANTINE;
        world.note_missing_nodes(later);
        let (removals, wake_at) = decide(&world, later);
        assert_eq!((names(&removals), wake_at), (vec![("deleted", false), ("orphan", true)], None));
        world.nodes.insert("gone".into(), Node::default());
        world.note_missing_nodes(later);
        assert_eq!(names(&decide(&world, later).0), [("deleted", false)]);
    }
}
