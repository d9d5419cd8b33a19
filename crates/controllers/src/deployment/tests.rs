//! Deployments in a faulty world, with the real controller of their sets.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::view::Pod;
use crate::workload::sim::{Sim, World, template};

const OF: (&str, &str, &str) = ("apps", "deployments", "web");

fn deployment(replicas: i64, strategy: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "a"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web"),
            "strategy": strategy,
        },
    })
}

fn sim(replicas: i64, strategy: &Value) -> Sim {
    let mut sim = Sim::default();
    sim.create("apps", "deployments", deployment(replicas, strategy));
    sim
}

fn rolling(surge: &Value, unavailable: &Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn roll_to(sim: &mut Sim, image: &str) {
    sim.change("apps", "deployments", "web", |object| {
        object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    });
}

fn get(sim: &Sim) -> Value {
    sim.get("apps", "deployments", "web").unwrap().clone()
}

fn reason(sim: &Sim, kind: &str) -> String {
    condition::find(&get(sim)["status"], kind).map_or(String::new(), |one| look::text(one, "reason").to_owned())
}

/// Active pods, and those of them that are available.
fn pods(sim: &Sim) -> (usize, usize) {
    let active = |pod: &Value| Pod::read(pod).is_active();
    let ready = |pod: &Value| active(pod) && Pod::read(pod).ready_since.is_some();
    (sim.count("pods", active), sim.count("pods", ready))
}

#[test]
fn a_template_gets_a_set_with_its_hash_and_a_revision() {
    let mut sim = sim(2, &Value::Null);
    sim.settle();
    let set = sim.all("replicasets")[0].clone();
    let hash = set["metadata"]["labels"]["pod-template-hash"].as_str().unwrap();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(set["spec"]["selector"]["matchLabels"]["pod-template-hash"], hash);
    assert_eq!(set["metadata"]["annotations"][revision::REVISION], "1");
    assert_eq!(get(&sim)["metadata"]["annotations"][revision::REVISION], "1");
    assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable");
    assert_eq!(reason(&sim, "Available"), "MinimumReplicasAvailable");
    assert_eq!(sim.told[0], ("ScalingReplicaSet".into(), format!("Scaled up replica set web-{hash} from 0 to 2")));
}

#[test]
fn a_template_that_comes_back_gets_its_set_back_with_a_new_revision() {
    let mut sim = sim(2, &Value::Null);
    sim.settle();
    roll_to(&mut sim, "other");
    sim.settle();
    roll_to(&mut sim, "i");
    sim.settle();
    let sets = sim.all("replicasets");
    assert_eq!(sets.len(), 2);
    let back = sets.iter().find(|set| set["spec"]["replicas"] == 2).unwrap();
    assert_eq!(back["metadata"]["annotations"][revision::REVISION], "3");
    assert_eq!(back["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(get(&sim)["metadata"]["annotations"][revision::REVISION], "3");
}

#[test]
fn history_is_as_long_as_asked() {
    let mut sim = sim(1, &Value::Null);
    sim.change("apps", "deployments", "web", |object| object["spec"]["revisionHistoryLimit"] = json!(2));
    for image in ["a", "b", "c", "d", "e"] {
        roll_to(&mut sim, image);
        sim.settle();
    }
    assert_eq!(sim.all("replicasets").len(), 3);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut sim = sim(2, &Value::Null);
    sim.settle();
    sim.change("apps", "deployments", "web", |object| {
        object["spec"]["paused"] = true.into();
        object["spec"]["replicas"] = 3.into();
    });
    roll_to(&mut sim, "other");
    sim.settle();
    assert_eq!((sim.all("replicasets").len(), pods(&sim).0), (1, 3));
    assert_eq!(reason(&sim, "Progressing"), "DeploymentPaused");
    sim.change("apps", "deployments", "web", |object| drop(look::remove(&mut object["spec"], "paused")));
    sim.settle();
    assert_eq!((sim.all("replicasets").len(), pods(&sim).0), (2, 3));
    assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn when_nothing_gets_on_until_the_deadline_that_is_said() {
    let mut sim = sim(2, &rolling(&json!(1), &json!(0)));
    sim.settle();
    roll_to(&mut sim, "never-runs");
    let name = "web";
    let look = |sim: &mut Sim| {
        sim.look("apps", "deployments", name, usize::MAX);
        for set in [sim.names("replicasets"), sim.names("replicasets")].concat() {
            sim.look("apps", "replicasets", &set, usize::MAX);
        }
        sim.look("apps", "deployments", name, usize::MAX);
    };
    look(&mut sim);
    sim.now += 590;
    look(&mut sim);
    assert_eq!(reason(&sim, "Progressing"), "ReplicaSetUpdated");
    assert_eq!(pods(&sim), (3, 2), "the old ones stay while the new one does not run");
    sim.now += 20;
    look(&mut sim);
    assert_eq!(reason(&sim, "Progressing"), "ProgressDeadlineExceeded");
    sim.settle();
    assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable", "late is better than never");
}

#[test]
fn a_set_of_somebody_else_with_the_name_makes_another_name() {
    let mut sim = sim(1, &Value::Null);
    let view = View { object: get(&sim), ..View::default() };
    let plan = decide(&view, sim.time());
    let Some(Step::Create { objects, .. }) = plan.first.first() else { panic!("{plan:?}") };
    let mut strange = objects[0].clone();
    look::remove(&mut strange["metadata"], "ownerReferences");
    strange["metadata"]["labels"] = json!({"app": "strange"});
    strange["spec"]["selector"] = json!({"matchLabels": {"app": "strange"}});
    strange["spec"]["template"]["metadata"]["labels"] = json!({"app": "strange"});
    strange["spec"]["replicas"] = json!(0);
    sim.create("apps", "replicasets", strange);
    sim.settle();
    assert_eq!(sim.all("replicasets").len(), 2);
    assert_eq!(get(&sim)["status"]["collisionCount"], 1);
    assert_eq!(pods(&sim), (1, 1));
}

#[test]
fn several_sets_grow_and_shrink_in_proportion() {
    let set = |name: &str, replicas: i64| {
        let object = json!({"metadata": {"name": name, "annotations": {(revision::MAX): "12"}}});
        Set { object, replicas, available: replicas, age: (String::new(), name.into()) }
    };
    let check = |replicas: i64, old: &[i64], new: i64, expect: (&[i64], i64)| {
        let strategy = rolling(&json!(2), &json!(0));
        let view = View { object: deployment(replicas, &strategy), ..View::default() };
        let old = old.iter().enumerate().map(|(index, count)| set(&format!("o{index}"), *count)).collect();
        let mut sets = Sets { new: Some(set("new", new)), old };
        rolling::resize(&Deployment::read(&view), &mut sets);
        let counts: Vec<i64> = sets.old.iter().map(|set| set.replicas).collect();
        assert_eq!((counts.as_slice(), sets.new.unwrap().replicas), expect);
    };
    check(20, &[8], 4, (&[15], 7));
    check(5, &[8], 4, (&[5], 2));
    check(0, &[8], 4, (&[0], 0));
    check(10, &[6, 2], 4, (&[6, 2], 4));
}

fn strategies() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"type": "Recreate"})),
        Just(rolling(&json!("25%"), &json!("25%"))),
        Just(rolling(&json!(1), &json!(0))),
        Just(rolling(&json!(0), &json!(2))),
        Just(rolling(&json!("100%"), &json!("50%"))),
    ]
}

fn happens(sim: &mut Sim, event: &World) {
    match event {
        World::Scale(replicas) => {
            sim.change("apps", "deployments", "web", |object| object["spec"]["replicas"] = json!(replicas % 8));
        }
        World::Template(number) => roll_to(sim, &format!("i{}", number % 3)),
        World::Look(limit) if limit % 2 == 0 => {
            for set in sim.names("replicasets") {
                sim.look("apps", "replicasets", &set, *limit);
            }
        }
        other => sim.happens(other, OF),
    }
}

proptest! {
    #[test]
    fn any_history_of_crashes_and_changes_ends_with_one_set_of_the_last_template(
        history in World::histories(), replicas in 0i64..8, strategy in strategies(),
    ) {
        let mut sim = sim(replicas, &strategy);
        history.iter().for_each(|event| happens(&mut sim, event));
        sim.settle();
        let object = get(&sim);
        let wanted = object["spec"]["replicas"].as_i64().unwrap();
        let mut active: Vec<&Value> = sim.all("replicasets");
        active.retain(|set| set["spec"]["replicas"] != 0);
        prop_assert!(active.len() <= 1);
        for set in active {
            prop_assert_eq!(&set["spec"]["template"]["spec"], &object["spec"]["template"]["spec"]);
            prop_assert_eq!(&set["spec"]["replicas"], &object["spec"]["replicas"]);
        }
        prop_assert_eq!(count(&object, "availableReplicas"), wanted);
        prop_assert_eq!(count(&object, "updatedReplicas"), wanted);
        prop_assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable");
        sim.stays();
    }

    /// While one template follows another and nothing else happens, the bounds of the strategy hold at every moment.
    #[test]
    fn a_rollout_keeps_its_bounds(
        order in proptest::collection::vec(0u8..5, 0..60), replicas in 1i64..8, strategy in strategies(),
    ) {
        let mut sim = sim(replicas, &strategy);
        sim.settle();
        roll_to(&mut sim, "other");
        let object = get(&sim);
        let view = View { object, ..View::default() };
        let bounds = Deployment::read(&view);
        for step in order {
            match step {
                0 => sim.look("apps", "deployments", "web", usize::MAX),
                1 => sim.names("replicasets").iter().for_each(|set| sim.look("apps", "replicasets", set, usize::MAX)),
                2 => sim.show(),
                3 => sim.run(),
                _ => sim.look("apps", "deployments", "web", 1),
            }
            let (active, available) = pods(&sim);
            prop_assert!(i64::try_from(active).unwrap() <= bounds.replicas_max());
            if !bounds.recreates {
                prop_assert!(i64::try_from(available).unwrap() >= bounds.replicas - bounds.unavailable);
            } else {
                let images = |pod: &&Value| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
                let kinds: std::collections::BTreeSet<String> = sim.all("pods").iter().map(images).collect();
                prop_assert!(kinds.len() <= 1, "old and new pods never meet");
            }
        }
        sim.settle();
        prop_assert_eq!(reason(&sim, "Progressing"), "NewReplicaSetAvailable");
    }
}
