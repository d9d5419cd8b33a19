//! Pods whose set is gone go too.
//!
//! The view may lag behind, so the API is asked about the set before anything is deleted.

use std::collections::BTreeSet;

use http::Method;
use kube::Client;
use serde_json::json;

use crate::call::{self, Error};
use crate::view::{SetKey, World};

/// A pod that seems to have outlived its set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Orphan {
    /// metadata.name of the pod.
    pub name: String,
    /// metadata.uid of the pod.
    pub uid: String,
    /// Its controller's place.
    pub set: SetKey,
    /// Its controller's uid: another set of the same name is not meant.
    pub set_uid: String,
}

/// The pods to collect.
pub fn decide(world: &World) -> Vec<Orphan> {
    let known: BTreeSet<&String> = world.sets.values().map(|set| &set.uid).collect();
    let lost = world.pods.iter().filter_map(|(uid, pod)| Some((uid, pod, pod.owner.as_ref()?)));
    let lost = lost.filter(|(_, pod, owner)| !pod.deleting && !known.contains(&owner.uid));
    lost.map(|(uid, pod, owner)| Orphan {
        name: pod.name.clone(),
        uid: uid.clone(),
        set: SetKey { kind: owner.kind, namespace: pod.namespace.clone(), name: owner.name.clone() },
        set_uid: owner.uid.clone(),
    })
    .collect()
}

/// Deletes the pod, unless its set is there after all.
pub async fn act(client: &Client, orphan: &Orphan) -> Result<(), Error> {
    match call::call(client, Method::GET, &orphan.set.path(), None).await {
        Ok(set) if set["metadata"]["uid"] == *orphan.set_uid => return Ok(()),
        Err(error) if error.status() != Some(404) => return Err(error),
        _ => {}
    }
    let path = format!("/api/v1/namespaces/{}/pods/{}", orphan.set.namespace, orphan.name);
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": orphan.uid}});
    call::call_unless(client, Method::DELETE, &path, Some(&options), &[404, 409]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Owner, Pod, SetKind, TrackedSet};

    #[test]
    fn only_pods_of_sets_that_are_gone_are_collected() {
        let mut world = World::default();
        let pod = |name: &str, owner: Option<&str>, deleting| Pod {
            namespace: "a".into(),
            name: name.into(),
            node: None,
            deleting,
            finished: false,
            owner: owner.map(|uid| Owner { kind: SetKind::ReplicaSet, name: "web".into(), uid: uid.into() }),
        };
        for pod in [
            pod("free", None, false),
            pod("kept", Some("new"), false),
            pod("lost", Some("old"), false),
            pod("going", Some("old"), true),
        ] {
            world.pods.insert(pod.name.clone(), pod);
        }
        let key = SetKey { kind: SetKind::ReplicaSet, namespace: "a".into(), name: "web".into() };
        world.sets.insert(key, TrackedSet { uid: "new".into(), happened: 1, looking: 0, seen: 0 });
        let names: Vec<String> = decide(&world).into_iter().map(|orphan| orphan.name).collect();
        assert_eq!(names, ["lost"], "a set of the same name with another uid is another set");
    }
}
