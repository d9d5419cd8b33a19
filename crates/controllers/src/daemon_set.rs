//! DaemonSets: one pod on each node that takes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::pod::affinity::{Term, node_matches};
use api::pod::toleration::{Taint, Toleration, first_untolerated};
use api::{Timestamp, look};
use serde_json::{Value, json};

use crate::view::pod::FAILED_BEFORE;
use crate::view::{Node, Pod, Served};
use crate::workload::revision::{self, HASH, Revision};
use crate::workload::{Controller, Failure, Plan, Pods, Step, View, Words, after_seconds, claim, selector, share};

#[cfg(test)]
mod tests;

/// The controller of DaemonSets.
pub const DAEMON_SETS: Controller = Controller {
    of: ("apps", "daemonsets"),
    component: "daemonset-controller",
    adopts: true,
    children: Some(("apps", "controllerrevisions")),
    pods: Pods::Own,
    sees_nodes: true,
    decide,
    fail,
};

/// How many pods are made by one look.
const BURST: usize = 250;

/// The pause after which the second pod in a row that fails is replaced; it doubles with each further one.
const PAUSE_FIRST_SECONDS: i64 = 1;
/// The longest pause. Who ran for twice as long had not failed in a row.
const PAUSE_MAX_SECONDS: i64 = 900;

fn pause(failed_before: u32) -> i64 {
    (PAUSE_FIRST_SECONDS << failed_before.saturating_sub(1).min(10)).min(PAUSE_MAX_SECONDS)
}

/// The label of pods that counts templates; old clients read it.
const GENERATION: &str = "pod-template-generation";
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Which nodes take the pods.
struct Demands {
    selector: BTreeMap<String, String>,
    required: Option<Vec<Term>>,
    tolerations: Vec<Toleration>,
}

/// What pods of DaemonSets tolerate beside what they say: they shall run on nodes that are ill.
fn tolerations(spec: &Value) -> Vec<Value> {
    let mut all = look::list(spec, "tolerations").to_vec();
    let mut add = |key: &str, effect: &str| {
        let one = json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": effect});
        if !all.contains(&one) {
            all.push(one);
        }
    };
    add("not-ready", "NoExecute");
    add("unreachable", "NoExecute");
    for key in ["disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"] {
        add(key, "NoSchedule");
    }
    if look::flag(spec, "hostNetwork") {
        add("network-unavailable", "NoSchedule");
    }
    all
}

impl Demands {
    fn of(template: &Value) -> Demands {
        let spec = &template["spec"];
        let required =
            ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
        let terms = look::at(spec, &required).cloned();
        Demands {
            selector: look::text_map(spec, "nodeSelector").map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            required: terms.map(|terms| serde_json::from_value(terms).unwrap_or_default()),
            tolerations: serde_json::from_value(tolerations(spec).into()).unwrap_or_default(),
        }
    }

    /// Whether a pod is to be made on the node, and whether one that is there may stay.
    fn judge(&self, node: &Node) -> (bool, bool) {
        if !node_matches(&self.selector, self.required.as_deref(), &node.name, &node.labels) {
            return (false, false);
        }
        let taints: Vec<Taint> = serde_json::from_value(node.taints.clone().into()).unwrap_or_default();
        let refuses = |of: fn(&str) -> bool| first_untolerated(&taints, &self.tolerations, of).is_some();
        let stays = !refuses(|effect| effect == "NoExecute");
        (stays && !refuses(|effect| effect == "NoSchedule"), stays)
    }
}

/// How many nodes may lack a pod, and how many may have two, where so many are to have one.
fn bounds(view: &View, wanted: usize) -> (usize, usize) {
    let wanted = i64::try_from(wanted).unwrap_or(0);
    let of = |field| {
        let value = look::at(&view.object, &["spec", "updateStrategy", "rollingUpdate", field]);
        usize::try_from(share(value, wanted, true)).unwrap_or(0)
    };
    (of("maxUnavailable"), of("maxSurge"))
}

/// A DaemonSet in the making.
struct Daemons<'a> {
    view: &'a View,
    revision: Revision,
    /// Its pods by the node that they are on or meant for, the oldest first.
    on: BTreeMap<String, Vec<Arc<Pod>>>,
    /// What each node says.
    nodes: Vec<(Arc<Node>, (bool, bool))>,
    /// How many nodes may lack a pod, and how many may have two.
    bounds: (usize, usize),
    min_ready: i64,
    now: i64,
}

/// What is to be done about the pods of one node.
#[derive(Default)]
struct Removal {
    steps: Vec<Step>,
    /// Everything there has ended and goes: how many pods have failed in a row.
    failed: Option<u32>,
    /// When a pod that failed is to be replaced.
    rests_until: Option<i64>,
}

/// What a DaemonSet needs.
pub fn decide(view: &View, now: Timestamp) -> Plan {
    let (own, mut first) = claim::pods(view, &selector(&view.object));
    let kind = Served::named("apps", "controllerrevisions");
    let (revisions, steps) = claim::children(view, kind, &selector(&view.object));
    first.extend(steps);
    let revision = revision::current(view, &revisions);
    let demands = Demands::of(view.template());
    let mut on: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in &own {
        let node = pod.node.clone().or_else(|| pod.meant_for.clone()).unwrap_or_default();
        on.entry(node).or_default().push(pod.clone());
    }
    on.values_mut().for_each(|pods| pods.sort_by_key(|pod| (pod.created, pod.name.clone())));
    let nodes: Vec<_> = view.nodes.iter().map(|node| (node.clone(), demands.judge(node))).collect();
    let min_ready = view.number("minReadySeconds").unwrap_or(0);
    let bounds = bounds(view, nodes.iter().filter(|(_, (runs, _))| *runs).count());
    let daemons = Daemons { view, revision, on, nodes, bounds, min_ready, now: now.as_second() };
    let mut rests_until = None;
    if !view.is_deleting() {
        first.extend(daemons.revision.steps.clone());
        let (placed, until) = daemons.place();
        rests_until = until;
        let settled = placed.is_empty();
        first.extend(placed);
        if settled && look::text_at(&view.object, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
            first.extend(daemons.roll());
        }
        let is_live = |one: &Value| {
            let hash = look::text_at(one, &["metadata", "labels", HASH]);
            hash == daemons.revision.hash || own.iter().any(|pod| pod.label(HASH) == Some(hash))
        };
        first.extend(revision::history(view, &revisions, is_live));
    }
    let proving = own.iter().filter_map(|pod| pod.ready_since).map(|since| since + min_ready);
    let wakes = proving.chain(rests_until).filter(|at| *at > now.as_second());
    let wake_at = wakes.min().and_then(after_seconds);
    Plan { first, status: Some(daemons.status()), wake_at, ..Plan::default() }
}

impl Daemons<'_> {
    fn pods_on(&self, node: &str) -> &[Arc<Pod>] {
        self.on.get(node).map_or(&[], Vec::as_slice)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.label(HASH) == Some(&self.revision.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_active() && pod.is_available(self.min_ready, self.now)
    }

    /// When a pod that failed is to be replaced: at once, but ever later when one after the other of a template fails. Each
    /// was made when the one before was deleted, so upstream's pause since then is one since its own beginning.
    fn replaced_at(&self, pod: &Pod) -> i64 {
        let is_first = pod.failed_before == 0 || pod.has_succeeded() || !self.is_new(pod);
        if is_first { i64::MIN } else { pod.created + pause(pod.failed_before) }
    }

    /// How many pods have failed in a row, this one included.
    fn failed_in_a_row(&self, pod: &Pod) -> u32 {
        match pod.has_succeeded() || !self.is_new(pod) {
            true => 0,
            false if self.now - pod.created > 2 * PAUSE_MAX_SECONDS => 1,
            false => pod.failed_before.saturating_add(1),
        }
    }

    /// One pod for each node that wants one, and none where none may be; and when to replace those that rest.
    fn place(&self) -> (Vec<Step>, Option<i64>) {
        let (mut steps, mut made, mut rests_until) = (Vec::new(), Vec::new(), None);
        for (node, (runs, stays)) in &self.nodes {
            let pods = self.pods_on(&node.name);
            let removal = self.remove(node, pods, *stays);
            let failed = if pods.is_empty() { Some(0) } else { removal.failed };
            if let Some(failed) = failed.filter(|_| *runs && made.len() < BURST) {
                made.push(self.new_pod(&node.name, failed));
            }
            steps.extend(removal.steps);
            rests_until = [rests_until, removal.rests_until].into_iter().flatten().min();
        }
        if !made.is_empty() {
            steps.push(Step::Create { kind: Served::pods(), objects: made, words: Words::of_created_pod() });
        }
        (steps, rests_until)
    }

    fn remove(&self, node: &Node, pods: &[Arc<Pod>], stays: bool) -> Removal {
        let alive = pods.iter().filter(|pod| !pod.deleting);
        if !stays {
            let steps = alive.map(|pod| Step::delete_pod(pod, Words::of_deleted_pod())).collect();
            return Removal { steps, ..Removal::default() };
        }
        let (ended, running): (Vec<_>, Vec<_>) = alive.partition(|pod| pod.finished);
        let (resting, going): (Vec<_>, Vec<_>) = ended.into_iter().partition(|pod| self.replaced_at(pod) > self.now);
        let mut steps = Vec::new();
        for pod in &going {
            let (kind, reason, how) = match pod.has_succeeded() {
                true => ("Normal", "SucceededDaemonPod", "succeeded"),
                false => ("Warning", "FailedDaemonPod", "failed"),
            };
            let place = format!("{}/{}", pod.namespace, pod.name);
            let message = format!("Found {how} daemon pod {place} on node {}, will try to delete it", node.name);
            steps.push(Step::Tell { kind, reason, message });
            steps.push(Step::delete_pod(pod, Words::of_deleted_pod()));
        }
        // Of each template one: while one follows another there may be two.
        let is_surge = self.bounds.1 > 0;
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.into_iter().partition(|pod| self.is_new(pod));
        let doubled: Vec<&Arc<Pod>> = match is_surge {
            true => new.into_iter().skip(1).chain(old.into_iter().skip(1)).collect(),
            false => new.into_iter().chain(old).skip(1).collect(),
        };
        steps.extend(doubled.into_iter().map(|pod| Step::delete_pod(pod, Words::of_deleted_pod())));
        Removal {
            steps,
            failed: going.iter().map(|pod| self.failed_in_a_row(pod)).max().filter(|_| going.len() == pods.len()),
            rests_until: resting.iter().map(|pod| self.replaced_at(pod)).min(),
        }
    }

    /// Replaces pods of old templates, as many at a time as may be.
    fn roll(&self) -> Vec<Step> {
        let (unavailable_max, surge_max) = self.bounds;
        let wanted = || self.nodes.iter().filter(|(_, (runs, _))| *runs).map(|(node, _)| self.pods_on(&node.name));
        let mut steps = Vec::new();
        let delete = |pod: &Arc<Pod>| Step::delete_pod(pod, Words::of_deleted_pod());
        if surge_max == 0 {
            let lacking = wanted().filter(|pods| !pods.iter().any(|pod| self.is_available(pod))).count();
            let mut spare = unavailable_max.saturating_sub(lacking);
            for pod in wanted().flatten().filter(|pod| pod.is_active() && !self.is_new(pod)) {
                // Who serves nobody can go at once.
                if !self.is_available(pod) {
                    steps.push(delete(pod));
                } else if spare > 0 {
                    spare -= 1;
                    steps.push(delete(pod));
                }
            }
            return steps;
        }
        let is_doubled = |pods: &[Arc<Pod>]| pods.iter().filter(|pod| !pod.finished).count() > 1;
        let mut spare = surge_max.saturating_sub(wanted().filter(|pods| is_doubled(pods)).count());
        let mut made = Vec::new();
        for (node, _) in self.nodes.iter().filter(|(_, (runs, _))| *runs) {
            let pods = self.pods_on(&node.name);
            let old = pods.iter().find(|pod| pod.is_active() && !self.is_new(pod));
            let new = pods.iter().find(|pod| pod.is_active() && self.is_new(pod));
            match (old, new) {
                (Some(old), Some(new)) if self.is_available(new) => steps.push(delete(old)),
                (Some(old), None) if !self.is_available(old) || spare > 0 => {
                    spare = spare.saturating_sub(usize::from(self.is_available(old)));
                    made.push(self.new_pod(&node.name, 0));
                }
                _ => {}
            }
        }
        if !made.is_empty() {
            steps.push(Step::Create { kind: Served::pods(), objects: made, words: Words::of_created_pod() });
        }
        steps
    }

    fn new_pod(&self, node: &str, failed_before: u32) -> Value {
        let mut pod = self.view.new_pod(self.view.template());
        let labels = look::child(look::child(&mut pod, "metadata"), "labels");
        look::set(labels, HASH, self.revision.hash.clone());
        let generation = look::text_at(&self.view.object, &["metadata", "annotations", TEMPLATE_GENERATION]);
        if !generation.is_empty() {
            look::set(labels, GENERATION, generation);
        }
        if failed_before > 0 {
            let annotations = look::child(look::child(&mut pod, "metadata"), "annotations");
            look::set(annotations, FAILED_BEFORE, failed_before.to_string());
        }
        let spec = look::child(&mut pod, "spec");
        look::set(spec, "tolerations", tolerations(spec));
        let field = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
        let affinity = look::child(look::child(spec, "affinity"), "nodeAffinity");
        let required = look::child(affinity, "requiredDuringSchedulingIgnoredDuringExecution");
        let mut terms = look::list(required, "nodeSelectorTerms").to_vec();
        if terms.is_empty() {
            terms.push(json!({}));
        }
        terms.iter_mut().for_each(|term| look::set(term, "matchFields", field.clone()));
        look::set(required, "nodeSelectorTerms", terms);
        pod
    }

    fn status(&self) -> Value {
        let mut status = json!({});
        look::copy(self.view.status(), &mut status, "collisionCount");
        look::copy(self.view.status(), &mut status, "conditions");
        let wanted: Vec<&[Arc<Pod>]> =
            self.nodes.iter().filter(|(_, (runs, _))| *runs).map(|(node, _)| self.pods_on(&node.name)).collect();
        let with = |is: &dyn Fn(&Pod) -> bool| wanted.iter().filter(|pods| pods.iter().any(|pod| is(pod))).count();
        let strays = self.nodes.iter().filter(|(node, (runs, _))| !runs && !self.pods_on(&node.name).is_empty());
        let available = with(&|pod| self.is_available(pod));
        let counts = [
            ("desiredNumberScheduled", wanted.len()),
            ("currentNumberScheduled", with(&|_| true)),
            ("numberMisscheduled", strays.count()),
            ("numberReady", with(&|pod| pod.is_active() && pod.ready_since.is_some())),
            ("updatedNumberScheduled", with(&|pod| self.is_new(pod))),
            ("numberAvailable", available),
            ("numberUnavailable", wanted.len() - available),
        ];
        counts.iter().for_each(|(field, count)| look::set(&mut status, field, *count));
        look::set(&mut status, "observedGeneration", self.view.generation());
        status
    }
}

/// Another revision has the name: the next one is hashed with another salt.
fn fail(status: &mut Value, old: &Value, failure: &Failure, _now: Timestamp) {
    if failure.collided {
        look::set(status, "collisionCount", look::integer(old, "collisionCount").unwrap_or(0) + 1);
    }
}
