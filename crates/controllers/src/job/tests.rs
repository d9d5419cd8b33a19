//! Jobs in a faulty world.

use proptest::prelude::*;

use super::*;
use crate::workload::sim::{Sim, World, template};

const OF: (&str, &str, &str) = ("batch", "jobs", "work");

fn sim(more: &Value) -> Sim {
    let mut template = template("work");
    template["spec"]["restartPolicy"] = "Never".into();
    let mut spec = json!({"template": template});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let mut sim = Sim::default();
    let object = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"}, "spec": spec});
    sim.create("batch", "jobs", object);
    sim
}

fn status(sim: &Sim) -> Value {
    sim.get("batch", "jobs", "work").map_or(Value::Null, |job| job["status"].clone())
}

fn look(sim: &mut Sim) {
    sim.show();
    sim.look("batch", "jobs", "work", usize::MAX);
}

/// All pods that run end like this, and what follows of it is counted.
fn end_all(sim: &mut Sim, well: impl Fn(&Pod) -> bool) {
    look(sim);
    sim.run();
    let active: Vec<Pod> = sim.all("pods").into_iter().map(Pod::read).filter(Pod::is_active).collect();
    active.iter().for_each(|pod| sim.end(&pod.name, well(pod)));
    (0..3).for_each(|_| look(sim));
}

fn reason(sim: &Sim, kind: &str) -> String {
    condition::find(&status(sim), kind).map_or(String::new(), |one| look::text(one, "reason").to_owned())
}

fn indexes_of(sim: &Sim) -> Vec<u32> {
    let pods = sim.all("pods").into_iter().map(Pod::read).filter(Pod::is_active);
    let mut all: Vec<u32> = pods.filter_map(|pod| pod.job.index).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_job_makes_as_many_pods_at_once_as_asked_until_enough_have_succeeded() {
    let mut sim = sim(&json!({"completions": 3, "parallelism": 2}));
    end_all(&mut sim, |_| true);
    assert_eq!((status(&sim)["succeeded"].clone(), status(&sim)["active"].clone()), (json!(2), json!(1)));
    assert_eq!(sim.all("pods").len(), 3, "one more is enough");
    end_all(&mut sim, |_| true);
    assert_eq!((status(&sim)["succeeded"].clone(), reason(&sim, "Complete")), (json!(3), "CompletionsReached".into()));
    assert!(sim.all("pods").iter().all(|pod| !Pod::read(pod).job.tracked), "nothing holds them any more");
    assert!(sim.told.contains(&("Completed".into(), "Job completed".into())));
}

#[test]
fn failures_are_counted_paused_for_and_limited() {
    let mut sim = sim(&json!({"backoffLimit": 1}));
    end_all(&mut sim, |_| false);
    look(&mut sim);
    assert_eq!((sim.all("pods").len(), status(&sim)["failed"].clone()), (1, json!(1)), "it waits ten seconds");
    sim.now += 10;
    end_all(&mut sim, |_| false);
    assert_eq!((sim.all("pods").len(), reason(&sim, "Failed")), (2, "BackoffLimitExceeded".into()));
    assert_eq!(reason(&sim, "FailureTarget"), "BackoffLimitExceeded");
    sim.settle();
    assert_eq!(status(&sim)["failed"], 2);
}

#[test]
fn indexed_pods_have_numbers_and_their_ends_are_kept() {
    let mut sim = sim(&json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"}));
    look(&mut sim);
    assert_eq!(indexes_of(&sim), [0, 1, 2]);
    let first = sim.all("pods")[0];
    assert_eq!(first["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    assert!(first["spec"]["hostname"].as_str().unwrap().starts_with("work-"));
    end_all(&mut sim, |pod| pod.job.index != Some(1));
    assert_eq!(status(&sim)["completedIndexes"], "0,2");
    sim.now += 10;
    look(&mut sim);
    assert_eq!(indexes_of(&sim), [1, 3]);
    end_all(&mut sim, |_| true);
    assert_eq!(
        (status(&sim)["completedIndexes"].clone(), reason(&sim, "Complete")),
        (json!("0-3"), "CompletionsReached".into())
    );
}

#[test]
fn two_billion_indexes_are_no_more_work_than_two() {
    let mut sim = sim(&json!({
        "completions": i32::MAX, "parallelism": 2, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0-2147483646"}]},
    }));
    sim.change("batch", "jobs", "work", |job| job["status"] = json!({"completedIndexes": "0-2147483643"}));
    look(&mut sim);
    assert_eq!(indexes_of(&sim), [2_147_483_644, 2_147_483_645]);
    end_all(&mut sim, |_| true);
    assert_eq!(
        (status(&sim)["completedIndexes"].clone(), reason(&sim, "Complete")),
        (json!("0-2147483645"), String::new())
    );
    end_all(&mut sim, |_| true);
    assert_eq!(
        (status(&sim)["completedIndexes"].clone(), reason(&sim, "Complete")),
        (json!("0-2147483646"), "SuccessPolicy".into())
    );
}

#[test]
fn each_index_has_failures_of_its_own() {
    let mut sim = sim(&json!({
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
    }));
    end_all(&mut sim, |pod| pod.job.index == Some(0));
    sim.now += 10;
    end_all(&mut sim, |_| false);
    let shown = status(&sim);
    assert_eq!((shown["completedIndexes"].clone(), shown["failedIndexes"].clone()), (json!("0"), json!("1")));
    assert_eq!(reason(&sim, "Failed"), "FailedIndexes");
}

#[test]
fn rules_say_which_failures_count() {
    let rule = |action: &str, code: i64| json!({"action": action, "onExitCodes": {"containerName": "c", "operator": "In", "values": [code]}});
    let ignore = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    let mut sim = sim(&json!({"podFailurePolicy": {"rules": [ignore, rule("FailJob", 42), rule("Ignore", 1)]}}));
    end_all(&mut sim, |_| false);
    assert_eq!(status(&sim)["failed"], 0, "exit code 1 is not counted");
    sim.now += 10;
    look(&mut sim);
    sim.run();
    let active: Vec<Pod> = sim.all("pods").into_iter().map(Pod::read).filter(Pod::is_active).collect();
    sim.end(&active[0].name, false);
    sim.change("", "pods", &active[0].name, |pod| {
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] = 42.into();
    });
    (0..3).for_each(|_| look(&mut sim));
    assert_eq!(reason(&sim, "Failed"), "PodFailurePolicy");
    let message = condition::find(&status(&sim), "Failed").unwrap()["message"].clone();
    let name = &active[0].name;
    let words = format!("Container c for pod a/{name} failed with exit code 42 matching FailJob rule at index 1");
    assert_eq!(message, words);
}

#[test]
fn a_suspended_job_has_no_pods_and_no_time_runs() {
    let mut sim = sim(&json!({"activeDeadlineSeconds": 100}));
    look(&mut sim);
    sim.change("batch", "jobs", "work", |job| job["spec"]["suspend"] = true.into());
    sim.settle();
    assert_eq!((sim.all("pods").len(), reason(&sim, "Suspended")), (0, "JobSuspended".into()));
    assert!(status(&sim).get("startTime").is_none());
    sim.now += 1_000;
    sim.change("batch", "jobs", "work", |job| job["spec"]["suspend"] = false.into());
    look(&mut sim);
    assert_eq!((sim.all("pods").len(), reason(&sim, "Suspended")), (1, "JobResumed".into()));
    sim.now += 101;
    sim.settle();
    assert_eq!(reason(&sim, "Failed"), "DeadlineExceeded");
}

#[test]
fn a_success_policy_ends_it_early() {
    let mut sim = sim(&json!({
        "completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
    }));
    look(&mut sim);
    sim.run();
    let first = sim.all("pods").into_iter().map(Pod::read).find(|pod| pod.job.index == Some(0)).unwrap();
    sim.end(&first.name, true);
    sim.settle();
    assert_eq!(reason(&sim, "Complete"), "SuccessPolicy");
}

#[test]
fn a_job_that_has_ended_goes_after_its_time() {
    let mut sim = sim(&json!({"ttlSecondsAfterFinished": 50}));
    end_all(&mut sim, |_| true);
    sim.now += 49;
    look(&mut sim);
    assert!(sim.get("batch", "jobs", "work").is_some());
    sim.now += 1;
    look(&mut sim);
    assert!(sim.get("batch", "jobs", "work").is_none());
}

fn kinds() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"completions": 3, "parallelism": 2})),
        Just(json!({"parallelism": 3})),
        Just(json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"})),
        Just(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1})),
        Just(json!({"completions": 3, "parallelism": 2, "podReplacementPolicy": "Failed"})),
    ]
}

proptest! {
    /// Whatever happens, every end is counted once, and a Job ends once.
    #[test]
    fn any_history_of_crashes_and_ends_is_counted_right(history in World::histories(), kind in kinds()) {
        let mut sim = sim(&kind);
        sim.change("batch", "jobs", "work", |job| job["spec"]["backoffLimit"] = json!(1_000));
        let (mut made, mut late) = (BTreeSet::new(), BTreeSet::new());
        let mut note = |sim: &Sim| {
            let pods = sim.all("pods").into_iter().map(Pod::read).filter(Pod::has_succeeded);
            // Who ended well after it was deleted may have been counted as a failure.
            for pod in pods {
                if pod.deleting { &mut late } else { &mut made }.insert(pod.uid);
            }
        };
        for event in &history {
            // A pod that loses its labels is let go, and then nobody counts it.
            if !matches!(event, World::Relabel(_)) {
                sim.happens(event, OF);
            }
            note(&sim);
        }
        for _ in 0..60 {
            let ended = ["Complete", "Failed"].iter().any(|kind| condition::holds(&status(&sim), kind));
            if ended {
                break;
            }
            sim.now += 600;
            end_all(&mut sim, |_| true);
            sim.run();
            note(&sim);
        }
        sim.settle();
        let shown = status(&sim);
        let ended: Vec<&str> = ["Complete", "Failed"].into_iter().filter(|kind| condition::holds(&shown, kind)).collect();
        prop_assert_eq!(ended.len(), 1);
        let succeeded = shown["succeeded"].as_i64().unwrap_or(0);
        if kind.get("completionMode").is_none() {
            let most: BTreeSet<&String> = made.iter().chain(&late).collect();
            prop_assert!(succeeded >= i64::try_from(made.len()).unwrap());
            prop_assert!(succeeded <= i64::try_from(most.len()).unwrap());
        } else if ended == ["Complete"] {
            prop_assert_eq!(succeeded, kind["completions"].as_i64().unwrap());
        }
        prop_assert!(sim.all("pods").iter().all(|pod| !Pod::read(pod).job.tracked));
        sim.stays();
    }
}
