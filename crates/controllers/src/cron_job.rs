//! CronJobs: a Job at each of set times. `schedule` says when those are.

use api::{Timestamp, look, time};
use serde_json::{Value, json};

use crate::view::Served;
use crate::view::object::owners;
use crate::view::pod::seconds;
use crate::workload::{Controller, Failure, Plan, Pods, Step, View, Words, condition};

mod schedule;
#[cfg(test)]
mod tests;

use schedule::Schedule;

/// The controller of CronJobs.
pub const CRON_JOBS: Controller = Controller {
    of: ("batch", "cronjobs"),
    component: "cronjob-controller",
    adopts: false,
    children: Some(("batch", "jobs")),
    pods: Pods::None,
    sees_nodes: false,
    decide,
    fail,
};

/// When a Job was meant to begin, on the Job.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

fn jobs() -> Served {
    Served::named("batch", "jobs")
}

/// How a Job has ended, if it has.
fn end(job: &Value) -> Option<&'static str> {
    ["Complete", "Failed"].into_iter().find(|kind| condition::holds(&job["status"], kind))
}

/// Whether people made it from the template, as `kubectl create job --from` does. It stands in no schedule's way.
fn is_by_hand(job: &Value) -> bool {
    look::text_at(job, &["metadata", "annotations", "cronjob.kubernetes.io/instantiate"]) == "manual"
}

fn name(job: &Value) -> &str {
    look::text_at(job, &["metadata", "name"])
}

/// What a CronJob needs.
pub fn decide(view: &View, now: Timestamp) -> Plan {
    let is_own = |job: &&Value| owners(job).iter().any(|owner| owner.controller && owner.uid == view.uid());
    let mut own: Vec<&Value> = view.children.iter().filter(is_own).collect();
    own.sort_by_key(|job| look::text_at(job, &["metadata", "creationTimestamp"]).to_owned());
    let mut status = view.status().clone();
    let mut plan = Plan { first: note_ends(view, &own), ..Plan::default() };
    let active: Vec<&Value> = own.iter().filter(|job| end(job).is_none() && !is_by_hand(job)).copied().collect();
    look::set(&mut status, "active", active.iter().map(|job| reference(job)).collect::<Vec<Value>>());
    let succeeded = own.iter().map(|job| look::text_at(job, &["status", "completionTime"]));
    let latest = succeeded.chain([look::text(&status, "lastSuccessfulTime")]).max().unwrap_or_default().to_owned();
    if !latest.is_empty() {
        look::set(&mut status, "lastSuccessfulTime", latest);
    }
    if !view.is_deleting() {
        plan.first.extend(history(view, &own));
        if !look::flag(&view.object["spec"], "suspend") {
            begin(view, &own, &active, (&mut plan, &mut status), now);
        }
    }
    plan.status = Some(status);
    plan
}

/// Tells of Jobs that ended, or that are gone, since the status was written.
fn note_ends(view: &View, own: &[&Value]) -> Vec<Step> {
    let mut steps = Vec::new();
    for known in look::list(view.status(), "active") {
        let job = own.iter().find(|job| look::text_at(job, &["metadata", "uid"]) == look::text(known, "uid"));
        let (reason, message) = match job.map(|job| end(job)) {
            Some(None) => continue,
            Some(Some(end)) => {
                ("SawCompletedJob", format!("Saw completed job: {}, condition: {end}", look::text(known, "name")))
            }
            None => ("MissingJob", format!("Active job went missing: {}", look::text(known, "name"))),
        };
        steps.push(Step::Tell { kind: "Normal", reason, message });
    }
    steps
}

fn reference(job: &Value) -> Value {
    let text = |field| look::text_at(job, &["metadata", field]);
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "name": text("name"), "namespace": text("namespace"),
        "uid": text("uid"), "resourceVersion": text("resourceVersion"),
    })
}

/// Jobs that ended longest ago go, beyond as many as are to be kept.
fn history(view: &View, own: &[&Value]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (kind, field, kept) in [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)]
    {
        let limit = usize::try_from(view.number(field).unwrap_or(kept)).unwrap_or(0);
        let ended: Vec<&&Value> = own.iter().filter(|job| end(job) == Some(kind)).collect();
        let gone = ended.iter().take(ended.len().saturating_sub(limit));
        steps.extend(gone.map(|job| delete(job)));
    }
    steps
}

fn delete(job: &Value) -> Step {
    let words = Words {
        done: ("SuccessfulDelete", "Deleted job {}".to_owned()),
        failed: ("FailedDelete", "Deleted job: {}".to_owned()),
    };
    Step::delete_child(jobs(), job, words)
}

/// Begins the Job whose time has come.
fn begin(view: &View, own: &[&Value], active: &[&Value], (plan, status): (&mut Plan, &mut Value), now: Timestamp) {
    let spec = &view.object["spec"];
    let schedule = match Schedule::read(look::text(spec, "schedule"), look::text(spec, "timeZone")) {
        Ok(schedule) => schedule,
        Err((reason, message)) => {
            if look::get(status, "active").is_some_and(|active| !look::is_empty(active)) || !active.is_empty() {
                return;
            }
            plan.first.push(Step::Tell { kind: "Warning", reason, message });
            return;
        }
    };
    plan.wake_at = schedule.after(now);
    let created = look::text_at(&view.object, &["metadata", "creationTimestamp"]);
    let last = seconds(look::text(status, "lastScheduleTime")).or_else(|| seconds(created)).unwrap_or(0);
    let deadline = view.number("startingDeadlineSeconds");
    let earliest = deadline.map_or(last, |deadline| last.max(now.as_second() - deadline));
    let Some(at) = schedule.latest(earliest, now) else { return };
    let wanted = format!("{}-{}", view.name(), at.as_second() / 60);
    let policy = look::text(spec, "concurrencyPolicy");
    let is_begun = own.iter().any(|job| name(job) == wanted);
    if !is_begun && policy == "Forbid" && !active.is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid".to_owned();
        plan.first.push(Step::Tell { kind: "Normal", reason: "JobAlreadyActive", message });
        return;
    }
    if !is_begun {
        if policy == "Replace" {
            plan.first.extend(active.iter().map(|job| delete(job)));
        }
        let words = Words {
            done: ("SuccessfulCreate", "Created job {}".to_owned()),
            failed: ("FailedCreate", "Error creating job: {}".to_owned()),
        };
        plan.first.push(Step::Create { kind: jobs(), objects: vec![new_job(view, &wanted, at)], words });
    }
    look::set(status, "lastScheduleTime", time::seconds(at));
}

fn new_job(view: &View, name: &str, at: Timestamp) -> Value {
    let template = &view.object["spec"]["jobTemplate"];
    let mut metadata = json!({"name": name, "ownerReferences": [view.owner_reference()]});
    for field in ["labels", "annotations"] {
        look::copy(&template["metadata"], &mut metadata, field);
    }
    look::set(look::child(&mut metadata, "annotations"), SCHEDULED_AT, time::seconds(at));
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
}

/// What was not begun is begun at the next look: the time of the last one stays.
fn fail(status: &mut Value, old: &Value, _failure: &Failure, _now: Timestamp) {
    look::copy(old, status, "lastScheduleTime");
}
