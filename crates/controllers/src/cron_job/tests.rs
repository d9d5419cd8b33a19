//! CronJobs in a faulty world.

use proptest::prelude::*;

use super::*;
use crate::workload::sim::{Sim, World, template};

const OF: (&str, &str, &str) = ("batch", "cronjobs", "tick");

fn sim(more: &Value) -> Sim {
    let mut template = template("tick");
    template["spec"]["restartPolicy"] = "Never".into();
    let mut spec = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    // On the minute, so that the first time is a minute away.
    let mut sim = Sim::default();
    sim.now = 1_000_020;
    sim.create(
        "batch",
        "cronjobs",
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": spec}),
    );
    sim
}

fn look(sim: &mut Sim) {
    sim.look("batch", "cronjobs", "tick", usize::MAX);
}

fn get(sim: &Sim) -> Value {
    sim.get("batch", "cronjobs", "tick").unwrap().clone()
}

fn finish(sim: &mut Sim, job: &str, well: bool) {
    let kind = if well { "Complete" } else { "Failed" };
    let time = time::seconds(sim.time());
    sim.change("batch", "jobs", job, |job| {
        job["status"] = json!({"conditions": [{"type": kind, "status": "True"}]});
        if well {
            job["status"]["completionTime"] = time.into();
        }
    });
}

#[test]
fn each_time_begins_one_job_named_by_its_minute() {
    let mut sim = sim(&json!({}));
    look(&mut sim);
    assert!(sim.names("jobs").is_empty());
    sim.now += 65;
    look(&mut sim);
    look(&mut sim);
    assert_eq!(sim.names("jobs"), ["tick-16668"]);
    let object = get(&sim);
    assert_eq!(object["status"]["active"][0]["name"], "tick-16668");
    assert_eq!(object["status"]["lastScheduleTime"], "1970-01-12T13:48:00Z");
    let job = sim.get("batch", "jobs", "tick-16668").unwrap();
    assert_eq!(job["metadata"]["annotations"][SCHEDULED_AT], "1970-01-12T13:48:00Z");
    assert!(sim.told.contains(&("SuccessfulCreate".into(), "Created job tick-16668".into())));
    finish(&mut sim, "tick-16668", true);
    look(&mut sim);
    assert!(get(&sim)["status"]["active"].as_array().is_none_or(Vec::is_empty));
    assert!(sim.told.iter().any(|(_, message)| message == "Saw completed job: tick-16668, condition: Complete"));
    assert!(get(&sim)["status"]["lastSuccessfulTime"].is_string());
}

#[test]
fn of_missed_times_only_the_last_is_made_up_for() {
    let mut sim = sim(&json!({}));
    sim.now += 3_600;
    (0..3).for_each(|_| look(&mut sim));
    assert_eq!(sim.names("jobs").len(), 1);
    let mut late = self::sim(&json!({"schedule": "0 0 * * *", "startingDeadlineSeconds": 60}));
    late.now = 1_000_000 / 86_400 * 86_400 + 86_400 + 61;
    look(&mut late);
    assert!(late.names("jobs").is_empty(), "it is too late");
}

#[test]
fn what_runs_at_the_same_time_is_as_said() {
    for (policy, expect) in [("Allow", 2), ("Forbid", 1), ("Replace", 1)] {
        let mut sim = sim(&json!({"concurrencyPolicy": policy}));
        sim.now += 60;
        look(&mut sim);
        let first = sim.names("jobs");
        sim.now += 60;
        look(&mut sim);
        assert_eq!(sim.names("jobs").len(), expect, "{policy}");
        assert_eq!(sim.names("jobs").contains(&first[0]), policy != "Replace", "{policy}");
    }
}

#[test]
fn a_job_made_by_hand_stands_in_no_schedules_way() {
    let mut sim = sim(&json!({"concurrencyPolicy": "Forbid"}));
    sim.now += 60;
    look(&mut sim);
    let first = sim.names("jobs").remove(0);
    // `kubectl create job --from` makes a Job like this one, but for the mark.
    sim.change("batch", "jobs", &first, |job| {
        job["metadata"]["annotations"] = json!({"cronjob.kubernetes.io/instantiate": "manual"});
    });
    sim.now += 60;
    look(&mut sim);
    assert_eq!(sim.names("jobs").len(), 2, "it runs, and the next one is begun");
    let active: Vec<Value> = look::list_at(&get(&sim), &["status", "active"]).to_vec();
    assert_eq!(active.iter().map(|job| &job["name"]).filter(|name| **name == first).count(), 0, "{active:?}");
}

#[test]
fn a_suspended_one_begins_nothing_and_history_is_kept_short() {
    let mut sim = sim(&json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0}));
    for round in 0..5 {
        sim.now += 60;
        look(&mut sim);
        let newest = sim.names("jobs").last().unwrap().clone();
        finish(&mut sim, &newest, round % 4 != 3);
        look(&mut sim);
    }
    assert_eq!(sim.names("jobs").len(), 2);
    sim.change("batch", "cronjobs", "tick", |object| object["spec"]["suspend"] = true.into());
    sim.now += 600;
    look(&mut sim);
    assert_eq!(sim.names("jobs").len(), 2);
}

proptest! {
    /// Wherever the controller dies, each time begins at most one Job, and none twice.
    #[test]
    fn any_history_of_crashes_begins_each_job_once(
        history in proptest::collection::vec((0usize..4, 0u8..90), 1..40), policy in 0usize..3,
    ) {
        let policy = ["Allow", "Forbid", "Replace"][policy];
        let mut sim = sim(&json!({"concurrencyPolicy": policy, "failedJobsHistoryLimit": 100, "successfulJobsHistoryLimit": 100}));
        let mut last = String::new();
        for (limit, seconds) in history {
            sim.happens(&World::Wait(seconds), OF);
            sim.look("batch", "cronjobs", "tick", limit);
            let newest = sim.names("jobs").last().cloned().unwrap_or_default();
            // A replaced one is gone before the next one comes.
            prop_assert!(newest.is_empty() || newest >= last, "never back in time");
            last = newest.max(last);
        }
        look(&mut sim);
        look(&mut sim);
        let minutes = (sim.now - 1_000_020) / 60;
        let made = i64::try_from(sim.names("jobs").len()).unwrap();
        prop_assert!(made <= minutes);
        prop_assert_eq!(made > 0, minutes > 0);
    }
}
