//! StatefulSets: pods with names that stay, one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Timestamp, look};
use serde_json::{Value, json};

use crate::view::{Pod, Served};
use crate::workload::revision::{self, HASH, Revision};
use crate::workload::{Controller, Failure, Plan, Pods, Step, View, Words, after_seconds, claim, selector};

#[cfg(test)]
mod tests;

/// The controller of StatefulSets.
pub const STATEFUL_SETS: Controller = Controller {
    of: ("apps", "statefulsets"),
    component: "statefulset-controller",
    adopts: true,
    children: Some(("apps", "controllerrevisions")),
    pods: Pods::Own,
    sees_nodes: false,
    decide,
    fail,
};

/// A StatefulSet, read.
struct Set<'a> {
    view: &'a View,
    /// Its pods by their number.
    pods: BTreeMap<i64, Arc<Pod>>,
    /// The first number.
    start: i64,
    replicas: i64,
    is_ordered: bool,
    /// From which number on pods are of the new template; None if only deleted ones are.
    partition: Option<i64>,
    min_ready: i64,
    now: i64,
    update: Revision,
    /// The name of the revision that all pods were of last, and its template.
    current: (String, Value),
}

/// What a StatefulSet needs.
pub fn decide(view: &View, now: Timestamp) -> Plan {
    let (own, mut first) = claim::pods(view, &selector(&view.object));
    let kind = Served::named("apps", "controllerrevisions");
    let (revisions, steps) = claim::children(view, kind, &selector(&view.object));
    first.extend(steps);
    let set = Set::read(view, &own, &revisions, now);
    let mut plan = Plan { status: Some(set.status(&own)), ..Plan::default() };
    if !view.is_deleting() {
        first.extend(set.update.steps.clone());
        first.extend(set.next());
        let is_live = |one: &Value| {
            let name = look::text_at(one, &["metadata", "name"]);
            [&set.update.name, &set.current.0].iter().any(|known| *known == name)
                || own.iter().any(|pod| pod.label(HASH) == Some(name))
        };
        first.extend(revision::history(view, &revisions, is_live));
    }
    plan.first = first;
    let proving = own.iter().filter_map(|pod| pod.ready_since).map(|since| since + set.min_ready);
    plan.wake_at = proving.filter(|at| *at > now.as_second()).min().and_then(after_seconds);
    plan
}

impl Set<'_> {
    fn read<'a>(view: &'a View, own: &[Arc<Pod>], revisions: &[&Value], now: Timestamp) -> Set<'a> {
        let update = revision::current(view, revisions);
        let named = |name: &str| revisions.iter().find(|one| look::text_at(one, &["metadata", "name"]) == name);
        let current = look::text(view.status(), "currentRevision");
        let current = match named(current) {
            Some(found) => (current.to_owned(), revision::template(found)),
            None => (update.name.clone(), view.template().clone()),
        };
        let spec = &view.object["spec"];
        let strategy = &spec["updateStrategy"];
        let rolls = look::text(strategy, "type") != "OnDelete";
        let partition = look::at(strategy, &["rollingUpdate", "partition"]).and_then(Value::as_i64).unwrap_or(0);
        let number = |pod: &Pod| pod.name.strip_prefix(view.name())?.strip_prefix('-')?.parse::<i64>().ok();
        Set {
            view,
            pods: own.iter().filter_map(|pod| Some((number(pod)?, pod.clone()))).collect(),
            start: look::at(spec, &["ordinals", "start"]).and_then(Value::as_i64).unwrap_or(0),
            replicas: view.number("replicas").unwrap_or(1),
            is_ordered: look::text(spec, "podManagementPolicy") != "Parallel",
            partition: rolls.then_some(partition),
            min_ready: view.number("minReadySeconds").unwrap_or(0),
            now: now.as_second(),
            update,
            current,
        }
    }

    fn ordinals(&self) -> std::ops::Range<i64> {
        self.start..self.start + self.replicas
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_active() && pod.is_available(self.min_ready, self.now)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.label(HASH) == Some(&self.update.name)
    }

    /// The next steps: one at a time in order, or all at once.
    fn next(&self) -> Vec<Step> {
        if !look::list_at(&self.view.object, &["spec", "volumeClaimTemplates"]).is_empty() {
            let message = format!(
                "create Claim for Pod {}-{} failed: PersistentVolumeClaims are not served",
                self.view.name(),
                self.start
            );
            let is_told = !self.pods.is_empty() || look::get(self.view.status(), "observedGeneration").is_some();
            let told = Step::Tell { kind: "Warning", reason: "FailedCreate", message };
            return if is_told { Vec::new() } else { vec![told] };
        }
        let mut steps = Vec::new();
        for ordinal in self.ordinals() {
            let is_steady = match self.pods.get(&ordinal) {
                None => {
                    steps.push(self.create(ordinal));
                    false
                }
                Some(pod) if pod.finished && !pod.deleting => {
                    steps.extend(self.recreate(pod));
                    false
                }
                Some(pod) => self.is_available(pod),
            };
            if self.is_ordered && !is_steady {
                return steps;
            }
        }
        let removed = self.shrink();
        let is_done = steps.is_empty() && removed.is_none();
        steps.extend(removed.into_iter().flatten());
        if is_done {
            steps.extend(self.roll());
        }
        steps
    }

    /// Pods beyond the count go, the highest number first; None if there are none.
    fn shrink(&self) -> Option<Vec<Step>> {
        let range = self.ordinals();
        let mut condemned: Vec<&Arc<Pod>> =
            self.pods.iter().filter(|(ordinal, _)| !range.contains(*ordinal)).map(|(_, pod)| pod).collect();
        condemned.reverse();
        if condemned.is_empty() {
            return None;
        }
        if self.is_ordered {
            // One that is going is waited for.
            let first = condemned[0];
            return Some(if first.deleting { Vec::new() } else { vec![self.delete(first)] });
        }
        Some(condemned.into_iter().filter(|pod| !pod.deleting).map(|pod| self.delete(pod)).collect())
    }

    /// The highest pod of an old template goes, when all above it are well.
    fn roll(&self) -> Option<Step> {
        let from = self.start + self.partition?;
        for (_, pod) in self.pods.range(from.min(self.ordinals().end)..self.ordinals().end).rev() {
            if !self.is_new(pod) && !pod.deleting {
                return Some(self.delete(pod));
            }
            if !self.is_available(pod) {
                return None;
            }
        }
        None
    }

    fn words(&self, verb: &str, pod: &str) -> Words {
        let place = format!("{verb} Pod {pod} in StatefulSet {}", self.view.name());
        let (done, failed) = match verb {
            "create" => ("SuccessfulCreate", "FailedCreate"),
            _ => ("SuccessfulDelete", "FailedDelete"),
        };
        Words { done: (done, format!("{place} successful")), failed: (failed, format!("{place} failed error: {{}}")) }
    }

    fn delete(&self, pod: &Pod) -> Step {
        Step::delete_pod(pod, self.words("delete", &pod.name))
    }

    /// A pod that has ended makes room for another of its name.
    fn recreate(&self, pod: &Pod) -> [Step; 2] {
        let (kind, reason, how) = match pod.has_succeeded() {
            true => ("Normal", "RecreatingTerminatedPod", "terminated"),
            false => ("Warning", "RecreatingFailedPod", "failed"),
        };
        let set = format!("{}/{}", pod.namespace, self.view.name());
        let message = format!("StatefulSet {set} is recreating {how} Pod {}", pod.name);
        [Step::Tell { kind, reason, message }, self.delete(pod)]
    }

    fn create(&self, ordinal: i64) -> Step {
        let name = format!("{}-{ordinal}", self.view.name());
        let is_old = self.partition.is_some_and(|partition| ordinal < self.start + partition);
        let (revision, template) = match is_old {
            true => (&self.current.0, &self.current.1),
            false => (&self.update.name, self.view.template()),
        };
        let mut pod = self.view.new_pod(template);
        let meta = look::child(&mut pod, "metadata");
        look::remove(meta, "generateName");
        look::set(meta, "name", name.clone());
        let labels = look::child(meta, "labels");
        look::set(labels, "statefulset.kubernetes.io/pod-name", name.clone());
        look::set(labels, "apps.kubernetes.io/pod-index", ordinal.to_string());
        look::set(labels, HASH, revision.clone());
        let spec = look::child(&mut pod, "spec");
        look::set(spec, "hostname", name.clone());
        let service = look::text_at(&self.view.object, &["spec", "serviceName"]);
        if !service.is_empty() {
            look::set(spec, "subdomain", service);
        }
        Step::Create { kind: Served::pods(), objects: vec![pod], words: self.words("create", &name) }
    }

    fn status(&self, own: &[Arc<Pod>]) -> Value {
        let mut status = json!({});
        look::copy(self.view.status(), &mut status, "collisionCount");
        look::copy(self.view.status(), &mut status, "conditions");
        let alive: Vec<&Arc<Pod>> = own.iter().filter(|pod| !pod.finished).collect();
        let count = |is: &dyn Fn(&Pod) -> bool| alive.iter().filter(|pod| is(pod)).count();
        let updated = count(&|pod| self.is_new(pod) && !pod.deleting);
        let ready = count(&|pod| pod.ready_since.is_some());
        let is_complete = self.partition.is_some() && updated == alive.len() && ready == alive.len();
        let current = if is_complete { &self.update.name } else { &self.current.0 };
        let counts = [
            ("replicas", alive.len()),
            ("readyReplicas", ready),
            ("availableReplicas", count(&|pod| pod.is_available(self.min_ready, self.now))),
            ("currentReplicas", count(&|pod| pod.label(HASH) == Some(current) && !pod.deleting)),
            ("updatedReplicas", updated),
        ];
        counts.iter().for_each(|(field, count)| look::set(&mut status, field, *count));
        look::set(&mut status, "observedGeneration", self.view.generation());
        look::set(&mut status, "currentRevision", current.clone());
        look::set(&mut status, "updateRevision", self.update.name.clone());
        status
    }
}

/// Another revision has the name: the next one is hashed with another salt.
fn fail(status: &mut Value, old: &Value, failure: &Failure, _now: Timestamp) {
    if failure.collided {
        look::set(status, "collisionCount", look::integer(old, "collisionCount").unwrap_or(0) + 1);
    }
}
