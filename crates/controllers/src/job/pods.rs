//! Which pods a Job makes and removes while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{Timestamp, look};
use serde_json::{Value, json};

use super::indexes::Indexes;
use super::{Job, Ledger};
use crate::view::pod::JOB_TRACKING;
use crate::view::{Pod, Served};
use crate::workload::{Step, Words, after_seconds};

/// How many pods are made or removed by one look.
const BURST: i64 = 500;
/// The pause after the first failure; it doubles with each further one.
const PAUSE_FIRST_SECONDS: i64 = 10;
/// The longest pause.
const PAUSE_MAX_SECONDS: i64 = 600;
/// The number of a pod, as annotation and label.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index has failed before, as annotation.
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

fn pause(failures: u32) -> i64 {
    let doubled = failures.saturating_sub(1).min(10);
    (PAUSE_FIRST_SECONDS << doubled).min(PAUSE_MAX_SECONDS)
}

/// Makes and removes pods; says when to look again.
pub fn manage(job: &Job<'_>, ledger: &Ledger, steps: &mut Vec<Step>, now: Timestamp) -> Option<Timestamp> {
    let active: Vec<&Arc<Pod>> = job.active().collect();
    let count = i64::try_from(active.len()).unwrap_or(0);
    let wanted = wanted(job, ledger, count);
    let (mut removed, kept) = superfluous(job, &active, ledger);
    let excess = usize::try_from(count - wanted).unwrap_or(0).saturating_sub(removed.len());
    removed.extend(least_ready(&kept).into_iter().take(excess));
    removed.truncate(usize::try_from(BURST).unwrap_or(0));
    if !removed.is_empty() {
        steps.extend(removed.iter().map(|pod| Step::delete_pod(pod, Words::of_deleted_pod())));
        return None;
    }
    let terminating = if job.replaces_ended { i64::try_from(job.terminating()).unwrap_or(0) } else { 0 };
    let missing = (wanted - count - terminating).min(BURST);
    if missing <= 0 {
        return None;
    }
    if let Some(at) = resumes_at(job).filter(|at| *at > now.as_second()) {
        return after_seconds(at);
    }
    let (objects, wake_at) = match job.is_indexed {
        true => indexed(job, ledger, usize::try_from(missing).unwrap_or(0), now),
        false => (vec![new_pod(job); usize::try_from(missing).unwrap_or(0)], None),
    };
    if !objects.is_empty() {
        steps.push(Step::Create { kind: Served::pods(), objects, words: Words::of_created_pod() });
    }
    wake_at
}

/// How many pods are to run.
fn wanted(job: &Job<'_>, ledger: &Ledger, active: i64) -> i64 {
    let Some(completions) = job.completions else {
        // Once one has succeeded no further one is begun.
        return if ledger.succeeded(job) > 0 { active.min(job.parallelism) } else { job.parallelism };
    };
    let lost = ledger.failed_indexes.len();
    (completions - ledger.succeeded(job) - lost).min(job.parallelism).max(0)
}

/// Pods with a number that is not wanted, or that another one has; and the others.
fn superfluous<'a>(job: &Job<'_>, active: &[&'a Arc<Pod>], ledger: &Ledger) -> (Vec<&'a Arc<Pod>>, Vec<&'a Arc<Pod>>) {
    if !job.is_indexed {
        return (Vec::new(), active.to_vec());
    }
    let mut taken = BTreeSet::new();
    let mut sorted = active.to_vec();
    sorted.sort_by_key(|pod| (pod.created, pod.name.clone()));
    sorted.into_iter().partition(|pod| {
        let is_wanted = |index: &u32| {
            job.completions.is_some_and(|all| i64::from(*index) < all)
                && !ledger.completed.contains(*index)
                && !ledger.failed_indexes.contains(*index)
        };
        pod.job.index.is_none_or(|index| !is_wanted(&index) || !taken.insert(index))
    })
}

/// Those that have come least far first.
fn least_ready<'a>(pods: &[&'a Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
    let mut sorted = pods.to_vec();
    sorted.sort_by_key(|pod| {
        let age = (std::cmp::Reverse(pod.ready_since), std::cmp::Reverse(pod.created));
        (pod.node.is_some(), pod.phase == "Running", pod.ready_since.is_some(), age)
    });
    sorted
}

/// When the pause after the failures since the last success is over.
fn resumes_at(job: &Job<'_>) -> Option<i64> {
    if job.per_index.is_some() {
        return None;
    }
    let ended = |well: bool| {
        let pods = job.own.iter().filter(move |pod| pod.finished && pod.has_succeeded() == well);
        pods.filter_map(|pod| pod.job.ended)
    };
    let success = ended(true).max().unwrap_or(i64::MIN);
    let failures: Vec<i64> = ended(false).filter(|at| *at > success).collect();
    Some(*failures.iter().max()? + pause(u32::try_from(failures.len()).unwrap_or(u32::MAX)))
}

/// Pods for the lowest indexes that lack one.
fn indexed(job: &Job<'_>, ledger: &Ledger, count: usize, now: Timestamp) -> (Vec<Value>, Option<Timestamp>) {
    let held = |pod: &&Arc<Pod>| pod.is_active() || (job.replaces_ended && !pod.finished);
    let taken: BTreeSet<u32> = job.own.iter().filter(held).filter_map(|pod| pod.job.index).collect();
    let mut failures: BTreeMap<u32, (u32, i64)> = BTreeMap::new();
    for pod in job.own.iter().filter(|pod| job.per_index.is_some() && job.has_failed(pod)) {
        let (Some(index), at) = (pod.job.index, pod.job.ended.unwrap_or(pod.created)) else { continue };
        let known = failures.entry(index).or_insert((0, at));
        *known = (known.0.max(pod.job.index_failures + 1), known.1.max(at));
    }
    let (mut objects, mut wake_at) = (Vec::new(), None);
    let all = u32::try_from(job.completions.unwrap_or(0)).unwrap_or(0);
    let closed = [&ledger.completed, &ledger.failed_indexes];
    let open = |from| Indexes::first_outside(from, closed).filter(|index| *index < all);
    let open = std::iter::successors(open(0), |index| open(index + 1));
    for index in open.filter(|index| !taken.contains(index)) {
        if objects.len() >= count {
            break;
        }
        let (failed, at) = failures.get(&index).copied().unwrap_or((0, i64::MIN));
        let due = if failed > 0 { at + pause(failed) } else { i64::MIN };
        if due > now.as_second() {
            wake_at = [wake_at, after_seconds(due)].into_iter().flatten().min();
            continue;
        }
        objects.push(new_indexed_pod(job, index, failed));
    }
    (objects, wake_at)
}

fn new_pod(job: &Job<'_>) -> Value {
    let mut pod = job.view.new_pod(job.view.template());
    let mut finalizers = look::list_at(&pod, &["metadata", "finalizers"]).to_vec();
    finalizers.push(JOB_TRACKING.into());
    look::set(&mut pod["metadata"], "finalizers", finalizers);
    pod
}

fn new_indexed_pod(job: &Job<'_>, index: u32, failures: u32) -> Value {
    let mut pod = new_pod(job);
    let name = job.view.name();
    let meta = &mut pod["metadata"];
    look::set(meta, "generateName", format!("{name}-{index}-"));
    look::set(look::child(meta, "annotations"), INDEX, index.to_string());
    look::set(look::child(meta, "labels"), INDEX, index.to_string());
    if job.per_index.is_some() {
        look::set(look::child(meta, "annotations"), INDEX_FAILURES, failures.to_string());
    }
    let spec = look::child(&mut pod, "spec");
    look::set_empty(spec, "hostname", &format!("{name}-{index}"));
    let variable = json!({
        "name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": format!("metadata.labels['{INDEX}']")}},
    });
    for list in ["initContainers", "containers"] {
        for container in look::list_mut(spec, list) {
            let mut env = look::list(container, "env").to_vec();
            if !env.iter().any(|one| look::text(one, "name") == "JOB_COMPLETION_INDEX") {
                env.push(variable.clone());
                look::set(container, "env", env);
            }
        }
    }
    pod
}
