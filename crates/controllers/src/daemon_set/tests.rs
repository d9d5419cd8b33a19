//! DaemonSets in a faulty world.

use proptest::prelude::*;

use super::*;
use crate::workload::sim::{Sim, World, template};

const OF: (&str, &str, &str) = ("apps", "daemonsets", "agent");

fn node(name: &str, taints: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {"taints": taints}})
}

fn sim(strategy: &Value, nodes: usize) -> Sim {
    let mut sim = Sim::default();
    let spec = json!({
        "selector": {"matchLabels": {"app": "agent"}}, "template": template("agent"), "updateStrategy": strategy,
    });
    let object = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": spec});
    sim.create("apps", "daemonsets", object);
    let all: Vec<Value> = (0..nodes).map(|index| node(&format!("n{index}"), &json!([]))).collect();
    sim.set_nodes(&all);
    sim
}

fn status(sim: &Sim, field: &str) -> i64 {
    look::integer(&sim.get("apps", "daemonsets", "agent").unwrap()["status"], field).unwrap_or(0)
}

fn roll_to(sim: &mut Sim, image: &str) {
    sim.change("apps", "daemonsets", "agent", |object| {
        object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    });
}

#[test]
fn each_node_that_takes_it_has_one_pod() {
    let mut sim = sim(&Value::Null, 2);
    let taint = |effect: &str| json!([{"key": "own", "effect": effect}]);
    let ill = json!([{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]);
    sim.set_nodes(&[node("a", &json!([])), node("b", &taint("NoSchedule")), node("c", &ill)]);
    sim.settle();
    let on: Vec<String> = sim.all("pods").into_iter().filter_map(|pod| Pod::read(pod).node).collect();
    assert_eq!(on, ["a", "c"], "an ill node too, but not one that is kept free");
    assert_eq!((status(&sim, "desiredNumberScheduled"), status(&sim, "numberAvailable")), (2, 2));
    sim.set_nodes(&[node("a", &taint("NoExecute")), node("b", &taint("NoSchedule")), node("c", &taint("NoSchedule"))]);
    sim.settle();
    let on: Vec<String> = sim.all("pods").into_iter().filter_map(|pod| Pod::read(pod).node).collect();
    assert_eq!(on, ["c"], "who is there stays unless it is driven out");
    assert_eq!((status(&sim, "desiredNumberScheduled"), status(&sim, "numberMisscheduled")), (0, 1));
}

#[test]
fn a_pod_that_ends_is_replaced() {
    let mut sim = sim(&Value::Null, 1);
    sim.settle();
    let name = sim.names("pods")[0].clone();
    sim.end(&name, false);
    sim.settle();
    assert_ne!(sim.names("pods"), [name]);
    assert!(sim.told.iter().any(|(reason, _)| reason == "FailedDaemonPod"));
}

#[test]
fn pods_that_fail_one_after_the_other_are_replaced_ever_more_slowly() {
    let mut sim = sim(&Value::Null, 2);
    let on = |sim: &Sim, node: &str| {
        let pods = sim.all("pods").into_iter().map(Pod::read).filter(|pod| pod.node.as_deref() == Some(node));
        pods.filter(|pod| !pod.finished && !pod.deleting).map(|pod| pod.name).next()
    };
    let (start, mut made) = (sim.now, Vec::new());
    while sim.now < start + 1_100 {
        sim.show();
        sim.look("apps", "daemonsets", "agent", usize::MAX);
        sim.run();
        if let Some(name) = on(&sim, "n0") {
            made.push(sim.now - start);
            sim.end(&name, false);
        }
        let is_fine = on(&sim, "n1").is_some();
        assert!(is_fine, "the other node has its pod all the time");
        // What wakes it is time, or a pod.
        let wake_at = sim.plan("apps", "daemonsets", "agent").wake_at;
        sim.show();
        if let Some(at) = wake_at.filter(|_| sim.plan("apps", "daemonsets", "agent").first.is_empty()) {
            sim.now = sim.now.max(at.as_second());
        }
    }
    assert_eq!(made, [0, 0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023]);
    roll_to(&mut sim, "other");
    sim.settle();
    assert_eq!(status(&sim, "numberAvailable"), 2, "another template is tried at once");
}

#[test]
fn pauses_end_at_a_quarter_of_an_hour() {
    assert_eq!([1, 2, 3, 10, 11, u32::MAX].map(pause), [1, 2, 4, 512, 900, 900]);
}

#[test]
fn on_delete_only_deleted_pods_change_and_history_is_kept() {
    let mut sim = sim(&json!({"type": "OnDelete"}), 2);
    sim.settle();
    let before = sim.names("pods");
    roll_to(&mut sim, "other");
    sim.settle();
    assert_eq!((sim.names("pods"), status(&sim, "updatedNumberScheduled")), (before.clone(), 0));
    assert_eq!(sim.all("controllerrevisions").len(), 2);
    sim.happens(&World::Delete(0), OF);
    sim.settle();
    assert_eq!(status(&sim, "updatedNumberScheduled"), 1);
}

fn strategies() -> impl Strategy<Value = Value> {
    let rolling = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    prop_oneof![
        Just(rolling(json!(0), json!(1))),
        Just(rolling(json!(0), json!("50%"))),
        Just(rolling(json!(1), json!(0))),
    ]
}

proptest! {
    #[test]
    fn any_history_ends_with_one_new_pod_on_each_node(
        history in World::histories(), strategy in strategies(), nodes in 0usize..4,
    ) {
        let mut sim = sim(&strategy, nodes);
        for event in &history {
            match event {
                World::Template(number) => roll_to(&mut sim, &format!("i{}", number % 3)),
                other => sim.happens(other, OF),
            }
        }
        // Whatever rests has rested.
        sim.now += 2 * PAUSE_MAX_SECONDS;
        sim.settle();
        let wanted = i64::try_from(nodes).unwrap();
        for field in ["desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"] {
            prop_assert_eq!(status(&sim, field), wanted, "{}", field);
        }
        let own = sim.count("pods", |pod| Pod::read(pod).controller.is_some());
        prop_assert_eq!(own, nodes);
        sim.stays();
    }

    #[test]
    fn a_rollout_keeps_its_bounds(order in proptest::collection::vec(0u8..4, 0..60), strategy in strategies()) {
        let mut sim = sim(&strategy, 4);
        sim.settle();
        roll_to(&mut sim, "other");
        let surges = strategy["rollingUpdate"]["maxSurge"] == 1;
        let lacking = if surges { 0 } else if strategy["rollingUpdate"]["maxUnavailable"] == 1 { 1 } else { 2 };
        for step in order {
            match step {
                0 | 1 => sim.look("apps", "daemonsets", "agent", usize::MAX),
                2 => sim.show(),
                _ => sim.run(),
            }
            let ready = |pod: &Value| Pod::read(pod).is_active() && Pod::read(pod).ready_since.is_some();
            let nodes: std::collections::BTreeSet<String> =
                sim.all("pods").into_iter().filter(|pod| ready(pod)).filter_map(|pod| Pod::read(pod).node).collect();
            prop_assert!(nodes.len() + lacking >= 4);
            prop_assert!(sim.count("pods", |pod| Pod::read(pod).is_active()) <= 4 + usize::from(surges));
        }
    }
}
