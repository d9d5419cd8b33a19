//! StatefulSets in a faulty world.

use proptest::prelude::*;

use super::*;
use crate::workload::sim::{Sim, World, template};

const OF: (&str, &str, &str) = ("apps", "statefulsets", "db");

fn sim(replicas: i64, more: &Value) -> Sim {
    let mut spec = json!({
        "replicas": replicas, "selector": {"matchLabels": {"app": "db"}}, "template": template("db"), "serviceName": "s",
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let mut sim = Sim::default();
    let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec});
    sim.create("apps", "statefulsets", object);
    sim
}

fn look(sim: &mut Sim) {
    sim.show();
    sim.look("apps", "statefulsets", "db", usize::MAX);
}

fn status(sim: &Sim) -> Value {
    sim.get("apps", "statefulsets", "db").unwrap()["status"].clone()
}

fn roll_to(sim: &mut Sim, image: &str) {
    sim.change("apps", "statefulsets", "db", |object| {
        object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    });
}

/// The images of the pods in the order of their names.
fn images(sim: &Sim) -> Vec<String> {
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
    sim.all("pods").into_iter().map(image).collect()
}

#[test]
fn pods_come_one_after_the_other_and_go_in_the_other_order() {
    let mut sim = sim(3, &json!({}));
    (0..3).for_each(|_| look(&mut sim));
    assert_eq!(sim.names("pods"), ["db-0"], "the next one waits until this one is ready");
    sim.run();
    look(&mut sim);
    assert_eq!(sim.names("pods"), ["db-0", "db-1"]);
    sim.settle();
    assert_eq!(sim.names("pods"), ["db-0", "db-1", "db-2"]);
    let pod = sim.get("", "pods", "db-1").unwrap();
    assert_eq!((pod["spec"]["hostname"].clone(), pod["spec"]["subdomain"].clone()), (json!("db-1"), json!("s")));
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
    assert!(sim.told.contains(&("SuccessfulCreate".into(), "create Pod db-0 in StatefulSet db successful".into())));
    sim.change("apps", "statefulsets", "db", |object| object["spec"]["replicas"] = json!(0));
    look(&mut sim);
    look(&mut sim);
    let going = |sim: &Sim| sim.count("pods", |pod| Pod::read(pod).deleting);
    assert_eq!(going(&sim), 1, "the highest goes first and is waited for");
    assert!(Pod::read(sim.get("", "pods", "db-2").unwrap()).deleting);
    sim.settle();
    assert!(sim.names("pods").is_empty());
}

#[test]
fn parallel_pods_come_and_go_at_once() {
    let mut sim = sim(3, &json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}));
    look(&mut sim);
    assert_eq!(sim.names("pods"), ["db-5", "db-6", "db-7"]);
    sim.settle();
    sim.change("apps", "statefulsets", "db", |object| object["spec"]["replicas"] = json!(1));
    look(&mut sim);
    assert_eq!(sim.count("pods", |pod| Pod::read(pod).deleting), 2);
}

#[test]
fn a_partition_keeps_lower_pods_as_they_were_even_when_they_are_made_anew() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    let mut sim = sim(3, &json!({"updateStrategy": strategy}));
    sim.settle();
    roll_to(&mut sim, "new");
    sim.settle();
    assert_eq!(images(&sim), ["i", "i", "new"]);
    sim.happens(&World::Delete(0), OF);
    sim.settle();
    assert_eq!(images(&sim), ["i", "i", "new"]);
    let shown = status(&sim);
    assert_ne!(shown["currentRevision"], shown["updateRevision"]);
    assert_eq!((shown["currentReplicas"].clone(), shown["updatedReplicas"].clone()), (json!(2), json!(1)));
    sim.change("apps", "statefulsets", "db", |object| {
        object["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(0);
    });
    sim.settle();
    assert_eq!(images(&sim), ["new", "new", "new"]);
    assert_eq!(status(&sim)["currentRevision"], status(&sim)["updateRevision"]);
}

#[test]
fn on_delete_only_deleted_pods_change() {
    let mut sim = sim(2, &json!({"updateStrategy": {"type": "OnDelete"}}));
    sim.settle();
    roll_to(&mut sim, "new");
    sim.settle();
    assert_eq!(images(&sim), ["i", "i"]);
    sim.happens(&World::Delete(1), OF);
    sim.settle();
    assert_eq!(images(&sim), ["i", "new"]);
}

#[test]
fn a_pod_that_failed_is_made_anew_under_its_name() {
    let mut sim = sim(1, &json!({}));
    sim.settle();
    let uid = sim.get("", "pods", "db-0").unwrap()["metadata"]["uid"].clone();
    sim.end("db-0", false);
    sim.settle();
    assert_ne!(sim.get("", "pods", "db-0").unwrap()["metadata"]["uid"], uid);
    assert!(sim.told.iter().any(|(reason, _)| reason == "RecreatingFailedPod"));
}

proptest! {
    #[test]
    fn any_history_ends_with_the_right_names_and_the_last_template(
        history in World::histories(), replicas in 0i64..5, parallel in any::<bool>(),
    ) {
        let policy = if parallel { "Parallel" } else { "OrderedReady" };
        let mut sim = sim(replicas, &json!({"podManagementPolicy": policy}));
        for event in &history {
            match event {
                World::Scale(replicas) => sim.change("apps", "statefulsets", "db", |object| {
                    object["spec"]["replicas"] = json!(replicas % 5);
                }),
                World::Template(number) => roll_to(&mut sim, &format!("i{}", number % 3)),
                // A pod that is let go keeps its name, and nobody can have it.
                World::Relabel(_) => {}
                other => sim.happens(other, OF),
            }
        }
        sim.settle();
        let object = sim.get("apps", "statefulsets", "db").unwrap().clone();
        let wanted = object["spec"]["replicas"].as_i64().unwrap();
        let names: Vec<String> = (0..wanted).map(|ordinal| format!("db-{ordinal}")).collect();
        prop_assert_eq!(sim.names("pods"), names);
        let image = object["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap();
        prop_assert!(images(&sim).iter().all(|found| found == image));
        prop_assert_eq!(look::integer(&object["status"], "availableReplicas").unwrap_or(0), wanted);
        prop_assert_eq!(&object["status"]["currentRevision"], &object["status"]["updateRevision"]);
        sim.stays();
    }

    /// In order, no pod begins before all below it are ready.
    #[test]
    fn order_holds_at_every_moment(order in proptest::collection::vec(0u8..4, 0..40)) {
        let mut sim = sim(4, &json!({}));
        for step in order {
            let before = sim.names("pods").len();
            match step {
                0 | 1 => sim.look("apps", "statefulsets", "db", usize::MAX),
                2 => sim.show(),
                _ => sim.run(),
            }
            if sim.names("pods").len() > before {
                let ready = sim.count("pods", |pod| Pod::read(pod).ready_since.is_some());
                prop_assert_eq!(ready, before);
            }
        }
    }
}
