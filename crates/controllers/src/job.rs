//! Jobs: pods that end, so many of them, with so many failures at most.
//!
//! Every end of a pod is counted once: a pod keeps a finalizer until the status says that its end is known, and leaves the
//! status' list of those to be counted when the finalizer is gone. Start at [`decide`]; `ledger` counts, `policy` judges,
//! `pods` makes and removes.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Timestamp, look, time};
use serde_json::{Value, json};

use crate::view::pod::{JOB_TRACKING, seconds};
use crate::view::{Pod, Served};
use crate::workload::{Controller, Failure, Plan, Pods, Step, View, Words, after_seconds, claim, condition, selector};

mod indexes;
mod ledger;
mod pods;
mod policy;
#[cfg(test)]
mod tests;

use ledger::Ledger;

/// The controller of Jobs.
pub const JOBS: Controller = Controller {
    of: ("batch", "jobs"),
    component: "job-controller",
    adopts: true,
    children: None,
    pods: Pods::Own,
    sees_nodes: false,
    decide,
    fail,
};

/// Who manages Jobs that name nobody.
const MANAGER: &str = "kubernetes.io/job-controller";

/// A Job, read.
#[derive(Debug)]
pub struct Job<'a> {
    /// What the look sees.
    pub view: &'a View,
    /// Its pods.
    pub own: Vec<Arc<Pod>>,
    /// Whether each pod has a number.
    pub is_indexed: bool,
    /// spec.completions.
    pub completions: Option<i64>,
    /// spec.parallelism.
    pub parallelism: i64,
    /// spec.backoffLimitPerIndex.
    pub per_index: Option<i64>,
    /// Whether a pod is replaced only when it has ended (podReplacementPolicy Failed).
    pub replaces_ended: bool,
    /// spec.suspend.
    pub is_suspended: bool,
}

impl Job<'_> {
    fn read(view: &View, own: Vec<Arc<Pod>>) -> Job<'_> {
        let spec = &view.object["spec"];
        Job {
            view,
            own,
            is_indexed: look::text(spec, "completionMode") == "Indexed",
            completions: view.number("completions"),
            parallelism: view.number("parallelism").unwrap_or(1),
            per_index: view.number("backoffLimitPerIndex"),
            replaces_ended: look::text(spec, "podReplacementPolicy") == "Failed",
            is_suspended: look::flag(spec, "suspend"),
        }
    }

    /// Whether a pod has failed: also one that is being deleted, unless its end is waited for.
    pub fn has_failed(&self, pod: &Pod) -> bool {
        !pod.has_succeeded() && (pod.finished || (pod.deleting && !self.replaces_ended))
    }

    /// The pods that run or may still run.
    pub fn active(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.own.iter().filter(|pod| pod.is_active())
    }

    /// How many are being deleted and have not ended.
    pub fn terminating(&self) -> usize {
        self.own.iter().filter(|pod| pod.deleting && !pod.finished).count()
    }
}

/// How a Job is to end, before it has: `FailureTarget` or `SuccessCriteriaMet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it fails.
    pub fails: bool,
    /// Upstream's reason.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

impl Verdict {
    /// A failure.
    pub fn failure(reason: &str, message: impl Into<String>) -> Option<Verdict> {
        Some(Verdict { fails: true, reason: reason.to_owned(), message: message.into() })
    }

    /// A success.
    pub fn success(reason: &str, message: impl Into<String>) -> Option<Verdict> {
        Some(Verdict { fails: false, reason: reason.to_owned(), message: message.into() })
    }

    fn of(status: &Value) -> Option<Verdict> {
        let found = |kind| condition::find(status, kind).filter(|one| look::text(one, "status") == "True");
        let read = |one: &Value, fails| Verdict {
            fails,
            reason: look::text(one, "reason").to_owned(),
            message: look::text(one, "message").to_owned(),
        };
        let failed = found("FailureTarget").map(|one| read(one, true));
        failed.or_else(|| found("SuccessCriteriaMet").map(|one| read(one, false)))
    }
}

/// What a Job needs.
pub fn decide(view: &View, now: Timestamp) -> Plan {
    let manager = look::text_at(&view.object, &["spec", "managedBy"]);
    if !manager.is_empty() && manager != MANAGER {
        return Plan::default();
    }
    let (own, first) = claim::pods(view, &selector(&view.object));
    let job = Job::read(view, own);
    if let Some(ended) = ["Complete", "Failed"].iter().find(|kind| condition::holds(view.status(), kind)) {
        return after_end(&job, ended, first, now);
    }
    let mut plan = Plan { first, ..Plan::default() };
    let mut status = view.status().clone();
    if look::text(&status, "startTime").is_empty() && !job.is_suspended {
        look::set(&mut status, "startTime", time::seconds(now));
    }
    let mut ledger = Ledger::read(&status);
    let news = ledger.take(&job);
    let verdict = Verdict::of(&status).or_else(|| policy::judge(&job, &ledger, &news, &status, now));
    match &verdict {
        Some(verdict) => {
            plan.first.extend(job.active().map(|pod| Step::delete_pod(pod, Words::of_deleted_pod())));
            let kind = if verdict.fails { "FailureTarget" } else { "SuccessCriteriaMet" };
            set_condition(&mut status, kind, (&verdict.reason, &verdict.message), now);
        }
        None if view.is_deleting() => {}
        None if job.is_suspended => suspend(&job, &mut plan, &mut status, now),
        None => {
            resume(&mut plan, &mut status, now);
            plan.wake_at = pods::manage(&job, &ledger, &mut plan.first, now);
        }
    }
    ledger.write(&job, &mut status);
    count(&job, &mut status);
    if let Some(verdict) = verdict.filter(|_| ledger.is_settled() && job.active().count() + job.terminating() == 0) {
        end(&verdict, &mut plan, &mut status, now);
    }
    plan.wake_at = [plan.wake_at, policy::deadline(&job, &status)].into_iter().flatten().min();
    plan.then.extend(news.known.iter().map(|pod| untrack(pod)));
    plan.status = Some(status);
    plan
}

fn set_condition(status: &mut Value, kind: &str, (reason, message): (&str, &str), now: Timestamp) {
    if condition::holds(status, kind) {
        return;
    }
    let mut wanted = condition::new(kind, "True", reason, message, now);
    look::set(&mut wanted, "lastProbeTime", time::seconds(now));
    condition::set(status, wanted);
}

/// The counts of pods as they are.
fn count(job: &Job<'_>, status: &mut Value) {
    look::set(status, "active", job.active().count());
    look::set(status, "ready", job.active().filter(|pod| pod.ready_since.is_some()).count());
    look::set(status, "terminating", job.terminating());
}

/// The last thing that is said of a Job.
fn end(verdict: &Verdict, plan: &mut Plan, status: &mut Value, now: Timestamp) {
    let kind = if verdict.fails { "Failed" } else { "Complete" };
    set_condition(status, kind, (&verdict.reason, &verdict.message), now);
    if look::text(status, "startTime").is_empty() {
        look::set(status, "startTime", time::seconds(now));
    }
    let told = match verdict.fails {
        true => Step::Tell { kind: "Warning", reason: reason(&verdict.reason), message: verdict.message.clone() },
        false => {
            look::set(status, "completionTime", time::seconds(now));
            Step::Tell { kind: "Normal", reason: "Completed", message: "Job completed".to_owned() }
        }
    };
    plan.then.push(told);
}

/// Reasons of events are of a closed set.
fn reason(text: &str) -> &'static str {
    const ALL: [&str; 5] =
        ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes"];
    ALL.into_iter().find(|one| *one == text).unwrap_or("Failed")
}

fn suspend(job: &Job<'_>, plan: &mut Plan, status: &mut Value, now: Timestamp) {
    plan.first.extend(job.active().map(|pod| Step::delete_pod(pod, Words::of_deleted_pod())));
    if job.active().next().is_some() || condition::holds(status, "Suspended") {
        return;
    }
    set_condition(status, "Suspended", ("JobSuspended", "Job suspended"), now);
    look::remove(status, "startTime");
    plan.then.push(Step::Tell { kind: "Normal", reason: "Suspended", message: "Job suspended".to_owned() });
}

fn resume(plan: &mut Plan, status: &mut Value, now: Timestamp) {
    if !condition::holds(status, "Suspended") {
        return;
    }
    let mut wanted = condition::new("Suspended", "False", "JobResumed", "Job resumed", now);
    look::set(&mut wanted, "lastProbeTime", time::seconds(now));
    condition::set(status, wanted);
    look::set(status, "startTime", time::seconds(now));
    plan.then.push(Step::Tell { kind: "Normal", reason: "Resumed", message: "Job resumed".to_owned() });
}

/// A Job that has ended lets its pods go, and goes itself when its time is over.
fn after_end(job: &Job<'_>, ended: &str, first: Vec<Step>, now: Timestamp) -> Plan {
    let mut plan = Plan { first, ..Plan::default() };
    let tracked = job.own.iter().filter(|pod| pod.job.tracked);
    plan.first.extend(tracked.map(|pod| untrack(pod)));
    let at = condition::find(job.view.status(), ended).map(|one| look::text(one, "lastTransitionTime"));
    let lives = job.view.number("ttlSecondsAfterFinished").filter(|_| !job.view.is_deleting());
    if let (Some(at), Some(lives)) = (at.and_then(seconds), lives) {
        if at + lives <= now.as_second() {
            let kind = Served::named("batch", "jobs");
            plan.first.push(Step::delete_child(kind, &job.view.object, Words::default()));
        } else {
            plan.wake_at = after_seconds(at + lives);
        }
    }
    plan
}

/// The end of the pod is known: nothing holds it any more.
fn untrack(pod: &Pod) -> Step {
    let patch = json!({"metadata": {"uid": pod.uid, "$deleteFromPrimitiveList/finalizers": [JOB_TRACKING]}});
    Step::Patch { kind: Served::pods(), name: pod.name.clone(), patch }
}

/// What the look found that the status did not say.
#[derive(Debug, Default)]
pub struct News {
    /// Pods whose end the status knows when it is written.
    pub known: Vec<Arc<Pod>>,
    /// Those of them that failed just now.
    pub failed: Vec<Arc<Pod>>,
    /// Those of the failed that a rule says not to count.
    pub ignored: BTreeSet<String>,
}

/// A pod that could not be made is no failure of the Job.
fn fail(_status: &mut Value, _old: &Value, _failure: &Failure, _now: Timestamp) {}
