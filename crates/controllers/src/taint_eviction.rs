//! A taint with the effect NoExecute drives pods off its node: at once, or when they have tolerated it long enough.
//!
//! As upstream's taint eviction controller. A pod's time runs from when its node was first seen to drive it off, and ends
//! when no taint does any more. Start at [`note`] and [`decide`].

use std::time::Duration;

use api::Timestamp;
use api::pod::toleration::{Taint, Toleration};
use http::Method;
use kube::Client;
use serde_json::json;
use tokio::time::Instant;

use crate::call::{self, Error};
use crate::event::{self, Told};
use crate::view::node::Node;
use crate::view::{Pod, World};

/// A pod that has to go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Eviction {
    /// metadata.uid: another pod of the same name is not meant.
    pub uid: String,
    namespace: String,
    name: String,
}

/// How long a pod stays under some taints; None for ever.
#[must_use]
pub fn patience(taints: &[Taint], tolerations: &[Toleration]) -> Option<Duration> {
    let mut least: Option<i64> = None;
    for taint in taints {
        let Some(used) = tolerations.iter().find(|one| one.tolerates(taint)) else { return Some(Duration::ZERO) };
        least = match (least, used.toleration_seconds) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (known, said) => known.or(said),
        };
    }
    least.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.taints.iter().filter(|taint| taint["effect"] == "NoExecute");
    taints.filter_map(|taint| serde_json::from_value(taint.clone()).ok()).collect()
}

/// The pods that are driven off, and after how long.
fn driven_off(world: &World) -> Vec<(&String, &Pod, Duration)> {
    let mut found = Vec::new();
    for (name, node) in &world.nodes {
        let taints = no_execute(node);
        if taints.is_empty() {
            continue;
        }
        let pods = world.pods_on(name).filter_map(|uid| Some((uid, &**world.pod(uid)?)));
        let staying = pods.filter(|(_, pod)| !pod.deleting);
        found.extend(staying.filter_map(|(uid, pod)| Some((uid, pod, patience(&taints, &pod.tolerations)?))));
    }
    found
}

/// Takes down since when pods are driven off, and forgets those that are not any more.
pub fn note(world: &mut World, now: Instant) {
    let known = &world.lifecycle.driven_off;
    let since = |uid: &String| known.get(uid).copied().unwrap_or(now);
    let all = driven_off(world).into_iter().map(|(uid, _, _)| (uid.clone(), since(uid))).collect();
    world.lifecycle.driven_off = all;
}

/// The pods whose time is over, and when to look again.
pub fn decide(world: &World, now: Instant) -> (Vec<Eviction>, Option<Instant>) {
    let (mut evictions, mut wake_at) = (Vec::new(), None);
    for (uid, pod, patience) in driven_off(world) {
        let Some(end) = world.lifecycle.driven_off.get(uid).and_then(|since| since.checked_add(patience)) else {
            continue;
        };
        match end <= now {
            true => {
                evictions.push(Eviction { uid: uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone() })
            }
            false => wake_at = Some(wake_at.map_or(end, |at: Instant| at.min(end))),
        }
    }
    (evictions, wake_at)
}

/// Says why, and deletes the pod with its own grace.
pub async fn act(client: &Client, eviction: &Eviction) -> Result<(), Error> {
    let Eviction { uid, namespace, name } = eviction;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    // 404: it is gone. 409: another pod has its name.
    let fine = [404, 409];
    let about =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "uid": uid}});
    let message = format!("Marking for deletion Pod {namespace}/{name}");
    let told = Told {
        kind: "Normal",
        reason: "TaintManagerEviction",
        message: &message,
        component: "taint-eviction-controller",
    };
    event::tell(client, &about, &told).await;
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": format!("{:.0}", Timestamp::now()),
    });
    let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}});
    call::call_unless(client, Method::PATCH, &format!("{path}/status"), Some(&patch), &fine).await?;
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
    call::call_unless(client, Method::DELETE, &path, Some(&options), &fine).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Served;
    use proptest::prelude::*;
    use serde_json::Value;

    fn taint(key: &str) -> Value {
        json!({"key": key, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"})
    }

    fn exists(key: &str, seconds: Option<i64>) -> Value {
        json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
    }

    fn pod(world: &mut World, name: &str, tolerations: Value) {
        let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"nodeName": "n", "tolerations": tolerations}});
        world.is(Served::pods(), name, &pod);
    }

    fn node(world: &mut World, taints: &[Value]) {
        let node = json!({"metadata": {"name": "n", "uid": "n"}, "spec": {"taints": taints}});
        world.is(Served::named("", "nodes"), "n", &node);
    }

    fn gone(world: &mut World, now: Instant) -> Vec<String> {
        note(world, now);
        decide(world, now).0.into_iter().map(|eviction| eviction.name).collect()
    }

    #[test]
    fn the_least_patience_of_what_tolerates_each_taint_counts() {
        let check = |taints: &[&str], tolerations: Value, expected: Option<u64>| {
            let taints: Vec<Taint> = taints.iter().map(|key| serde_json::from_value(taint(key)).unwrap()).collect();
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
            assert_eq!(patience(&taints, &tolerations).map(|time| time.as_secs()), expected, "{taints:?}");
        };
        check(&["a"], json!([]), Some(0));
        check(&["a"], json!([exists("b", None)]), Some(0));
        check(&["a"], json!([exists("a", None)]), None);
        check(&["a"], json!([exists("a", Some(7))]), Some(7));
        check(&["a"], json!([exists("a", Some(-7))]), Some(0));
        check(&["a", "b"], json!([exists("a", Some(7)), exists("b", Some(3))]), Some(3));
        check(&["a", "b"], json!([exists("a", Some(7)), exists("b", None)]), Some(7));
        check(&["a", "b"], json!([exists("a", Some(7))]), Some(0));
        check(&["a"], json!([{"operator": "Exists"}]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_go_when_their_time_is_over_and_stay_when_the_taint_goes_first() {
        let (mut world, start) = (World::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        node(&mut world, &[]);
        for (name, tolerations) in
            [("none", json!([])), ("ten", json!([exists("a", Some(10))])), ("ever", json!([exists("a", None)]))]
        {
            pod(&mut world, name, tolerations);
        }
        assert!(gone(&mut world, start).is_empty());
        node(&mut world, &[taint("a")]);
        assert_eq!(gone(&mut world, start), ["none"]);
        assert_eq!(decide(&world, start).1, Some(after(10)));
        world.is_gone("none");
        assert!(gone(&mut world, after(9)).is_empty());
        node(&mut world, &[]);
        assert!(gone(&mut world, after(10)).is_empty(), "the taint has gone");
        node(&mut world, &[taint("a")]);
        assert!(gone(&mut world, after(11)).is_empty(), "its time begins anew");
        assert_eq!(gone(&mut world, after(21)), ["ten"]);
        node(&mut world, &[taint("a"), taint("b")]);
        assert_eq!(gone(&mut world, after(22)), ["ever", "ten"]);
    }

    proptest! {
        /// Whatever comes and goes: nobody goes early, who is due goes, and who tolerates all for ever stays.
        #[test]
        fn nobody_goes_early_or_stays_too_long(
            steps in proptest::collection::vec((0_u8..4, 0_usize..3, 0_u64..9), 1..60),
            seconds in proptest::collection::vec(proptest::option::of(0_i64..15), 3),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (mut world, mut now) = (World::default(), Instant::now());
                let (mut tainted_since, mut there) = (None, [None; 3]);
                node(&mut world, &[]);
                for (what, which, passed) in steps {
                    now += Duration::from_secs(passed);
                    match what {
                        0 => { node(&mut world, &[taint("a")]); tainted_since.get_or_insert(now); }
                        1 => { node(&mut world, &[]); tainted_since = None; }
                        2 => { pod(&mut world, &which.to_string(), json!([exists("a", seconds[which])])); there[which].get_or_insert(now); }
                        _ => { world.is_gone(&which.to_string()); there[which] = None; }
                    }
                    let went = gone(&mut world, now);
                    for (index, came) in there.iter().enumerate() {
                        let due = match (came, tainted_since, seconds[index]) {
                            (Some(came), Some(since), Some(limit)) =>
                                now >= std::cmp::max(*came, since) + Duration::from_secs(limit.unsigned_abs()),
                            _ => false,
                        };
                        prop_assert_eq!(went.contains(&index.to_string()), due, "pod {}", index);
                    }
                }
                Ok(())
            })?;
        }
    }
}
