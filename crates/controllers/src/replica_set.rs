//! ReplicaSets and ReplicationControllers: so many pods of one template.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Timestamp, look};
use serde_json::{Value, json};

use crate::view::{Pod, Served};
use crate::workload::{Controller, Failure, Plan, Pods, Step, View, Words, after_seconds, claim, condition, selector};

/// How many pods are made or removed by one look at a set.
pub const BURST: usize = 500;

/// The controller of ReplicaSets.
pub const REPLICA_SETS: Controller = Controller {
    of: ("apps", "replicasets"),
    component: "replicaset-controller",
    adopts: true,
    children: None,
    pods: Pods::Own,
    sees_nodes: false,
    decide,
    fail,
};

/// The controller of ReplicationControllers.
pub const REPLICATION_CONTROLLERS: Controller =
    Controller { of: ("", "replicationcontrollers"), component: "replication-controller", ..REPLICA_SETS };

/// What a set needs.
pub fn decide(view: &View, now: Timestamp) -> Plan {
    let (own, mut first) = claim::pods(view, &selector(&view.object));
    let active: Vec<&Arc<Pod>> = own.iter().filter(|pod| pod.is_active()).collect();
    let replicas = usize::try_from(view.number("replicas").unwrap_or(1)).unwrap_or(0);
    if !view.is_deleting() {
        first.extend(change(view, &active, replicas));
    }
    let min_ready = view.number("minReadySeconds").unwrap_or(0);
    let proving = active.iter().filter_map(|pod| pod.ready_since).map(|since| since + min_ready);
    let wake_at = proving.filter(|at| *at > now.as_second()).min().and_then(after_seconds);
    Plan { first, status: Some(status(view, &active, now)), wake_at, ..Plan::default() }
}

fn change(view: &View, active: &[&Arc<Pod>], replicas: usize) -> Vec<Step> {
    if active.len() < replicas {
        let count = (replicas - active.len()).min(BURST);
        let objects = vec![view.new_pod(view.template()); count];
        return vec![Step::Create { kind: Served::pods(), objects, words: Words::of_created_pod() }];
    }
    let excess = (active.len() - replicas).min(BURST);
    let going = most_dispensable(active).into_iter().take(excess);
    going.map(|pod| Step::delete_pod(pod, Words::of_deleted_pod())).collect()
}

/// The pods in the order in which they may go: without a node, not running, not ready, cheap, doubled on a node, ready for
/// a short time, often restarted, young.
fn most_dispensable<'a>(pods: &[&'a Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
    let mut on_node: BTreeMap<Option<&String>, usize> = BTreeMap::new();
    for pod in pods {
        *on_node.entry(pod.node.as_ref()).or_default() += 1;
    }
    let phase = |pod: &Pod| match pod.phase.as_str() {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let mut sorted = pods.to_vec();
    sorted.sort_by_key(|pod| {
        let doubled = on_node.get(&pod.node.as_ref()).copied().unwrap_or(0);
        (
            (pod.node.is_some(), phase(pod), pod.ready_since.is_some(), pod.cost),
            (Reverse(doubled), Reverse(pod.ready_since), Reverse(pod.restarts), Reverse(pod.created)),
        )
    });
    sorted
}

fn status(view: &View, active: &[&Arc<Pod>], now: Timestamp) -> Value {
    let min_ready = view.number("minReadySeconds").unwrap_or(0);
    let labels = look::at(view.template(), &["metadata"]);
    let is_labelled = |pod: &&&Arc<Pod>| {
        labels.is_none_or(|meta| look::text_map(meta, "labels").all(|(key, value)| pod.label(key) == Some(value)))
    };
    let mut status = json!({
        "replicas": active.len(), "fullyLabeledReplicas": active.iter().filter(is_labelled).count(),
        "readyReplicas": active.iter().filter(|pod| pod.ready_since.is_some()).count(),
        "availableReplicas": active.iter().filter(|pod| pod.is_available(min_ready, now.as_second())).count(),
        "observedGeneration": view.generation(),
    });
    look::copy(view.status(), &mut status, "conditions");
    condition::remove(&mut status, "ReplicaFailure");
    status
}

/// RTC-22: what the API refused is a condition.
fn fail(status: &mut Value, old: &Value, failure: &Failure, now: Timestamp) {
    if !failure.reason.is_empty() {
        look::copy(old, status, "conditions");
        condition::set(status, condition::new("ReplicaFailure", "True", failure.reason, &failure.words, now));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::workload::sim::{Sim, World, labelled, template};

    fn set(replicas: usize) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "a"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web")},
        })
    }

    fn sim(replicas: usize) -> Sim {
        let mut sim = Sim::default();
        sim.create("apps", "replicasets", set(replicas));
        sim
    }

    fn look(sim: &mut Sim) {
        sim.look("apps", "replicasets", "web", usize::MAX);
    }

    #[test]
    fn orphans_are_adopted_strangers_left_alone_and_the_unselected_released() {
        let mut sim = sim(2);
        look(&mut sim);
        let names = sim.names("pods");
        sim.change("", "pods", &names[0], |pod| pod["metadata"]["labels"] = json!({}));
        sim.create("", "pods", labelled("orphan", "web"));
        let mut strange = labelled("strange", "web");
        strange["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "o", "controller": true}]);
        sim.create("", "pods", strange.clone());
        sim.create("", "pods", labelled("ended", "web"));
        sim.change("", "pods", "ended", |pod| pod["status"]["phase"] = "Failed".into());
        sim.show();
        look(&mut sim);
        assert_eq!(sim.names("pods").len(), 5, "none is made in the place of the one that was adopted");
        assert!(sim.get("", "pods", &names[0]).unwrap()["metadata"]["ownerReferences"].as_array().unwrap().is_empty());
        assert_eq!(sim.get("", "pods", "orphan").unwrap()["metadata"]["ownerReferences"][0]["name"], "web");
        let kept = sim.get("", "pods", "strange").unwrap();
        assert_eq!(kept["metadata"]["ownerReferences"], strange["metadata"]["ownerReferences"]);
        assert!(sim.get("", "pods", "ended").unwrap()["metadata"].get("ownerReferences").is_none());
    }

    #[test]
    fn a_set_that_is_being_deleted_does_nothing() {
        let mut sim = sim(2);
        sim.create("", "pods", labelled("orphan", "web"));
        sim.change("apps", "replicasets", "web", |set| {
            set["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        });
        look(&mut sim);
        assert_eq!(sim.names("pods"), ["orphan"]);
    }

    #[test]
    fn the_most_dispensable_pods_go_first() {
        let pod = |name: &str| Pod { name: name.into(), ..Pod::default() };
        let node = || Some("n".to_owned());
        let running = |name: &str| Pod { node: node(), phase: "Running".into(), ready_since: Some(5), ..pod(name) };
        let pods = [
            Pod { node: Some("m".into()), ..running("spread") },
            Pod { cost: 1, ..running("dear") },
            Pod { ready_since: Some(9), ..running("fresh") },
            running("steady"),
            Pod { ready_since: None, ..running("unready") },
            Pod { phase: "Pending".into(), ..running("starting") },
            pod("unbound"),
        ];
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
        let sorted = most_dispensable(&pods.iter().collect::<Vec<_>>());
        let names: Vec<&str> = sorted.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["unbound", "starting", "unready", "fresh", "steady", "spread", "dear"]);
    }

    #[test]
    fn a_failure_is_a_condition_that_keeps_its_time_and_goes_when_all_is_well() {
        let mut sim = sim(1);
        sim.refusal = Some("pods \"web-\" is forbidden: no".to_owned());
        look(&mut sim);
        let status = |sim: &Sim| sim.get("apps", "replicasets", "web").unwrap()["status"].clone();
        let first = status(&sim);
        assert_eq!(first["conditions"][0]["message"], "pods \"web-\" is forbidden: no");
        assert_eq!(first["conditions"][0]["reason"], "FailedCreate");
        sim.now += 60;
        look(&mut sim);
        assert_eq!(status(&sim), first, "so that nothing is written again");
        sim.refusal = None;
        look(&mut sim);
        sim.show();
        look(&mut sim);
        assert_eq!(status(&sim)["conditions"].as_array(), None);
    }

    proptest! {
        #[test]
        fn any_history_of_crashes_and_changes_converges_and_a_look_never_makes_too_many(
            history in World::histories(), replicas in 0usize..8,
        ) {
            let mut sim = sim(replicas);
            for event in &history {
                let active = |sim: &Sim| sim.count("pods", |pod| Pod::read(pod).is_active() && !Pod::read(pod).labels.is_empty());
                let before = active(&sim);
                match event {
                    World::Scale(replicas) => sim.change("apps", "replicasets", "web", |set| {
                        set["spec"]["replicas"] = json!(replicas % 8);
                    }),
                    other => sim.happens(other, ("apps", "replicasets", "web")),
                }
                let wanted = sim.get("apps", "replicasets", "web").unwrap()["spec"]["replicas"].as_u64().unwrap();
                prop_assert!(active(&sim) <= before.max(usize::try_from(wanted).unwrap()) + sim.adoptions());
            }
            sim.settle();
            let set = sim.get("apps", "replicasets", "web").unwrap();
            prop_assert_eq!(&set["status"]["availableReplicas"], &set["spec"]["replicas"]);
            let own = sim.count("pods", |pod| Pod::read(pod).is_active() && Pod::read(pod).controller.is_some());
            prop_assert_eq!(json!(own), set["spec"]["replicas"].clone());
            sim.stays();
        }
    }
}
