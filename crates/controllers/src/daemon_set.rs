//! DaemonSets: one pod on each node that takes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::pod::affinity::{Term, node_matches};
use api::pod::toleration::{Taint, Toleration, first_untolerated};
use api::{Timestamp, look};
use serde_json::{Value, json};

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

/// A DaemonSet in the making.
struct Daemons<'a> {
    view: &'a View,
    revision: Revision,
    /// Its pods by the node that they are on or meant for, the oldest first.
    on: BTreeMap<String, Vec<Arc<Pod>>>,
    /// What each node says.
    nodes: Vec<(Arc<Node>, (bool, bool))>,
    min_ready: i64,
    now: i64,
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
    let nodes = view.nodes.iter().map(|node| (node.clone(), demands.judge(node))).collect();
    let min_ready = view.number("minReadySeconds").unwrap_or(0);
    let daemons = Daemons { view, revision, on, nodes, min_ready, now: now.as_second() };
    if !view.is_deleting() {
        first.extend(daemons.revision.steps.clone());
        let placed = daemons.place();
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
    let wake_at = proving.filter(|at| *at > now.as_second()).min().and_then(after_seconds);
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

    /// How many nodes may lack a pod, and how many may have two.
    fn bounds(&self) -> (usize, usize) {
        let wanted = i64::try_from(self.nodes.iter().filter(|(_, (runs, _))| *runs).count()).unwrap_or(0);
        let of = |field| {
            let value = look::at(&self.view.object, &["spec", "updateStrategy", "rollingUpdate", field]);
            usize::try_from(share(value, wanted, true)).unwrap_or(0)
        };
        (of("maxUnavailable"), of("maxSurge"))
    }

    /// One pod for each node that wants one, and none where none may be.
    fn place(&self) -> Vec<Step> {
        let (mut steps, mut made) = (Vec::new(), Vec::new());
        for (node, (runs, stays)) in &self.nodes {
            let pods = self.pods_on(&node.name);
            if *runs && pods.is_empty() && made.len() < BURST {
                made.push(self.new_pod(&node.name));
            }
            steps.extend(self.remove(node, pods, *stays));
        }
        if !made.is_empty() {
            steps.push(Step::Create { kind: Served::pods(), objects: made, words: Words::of_created_pod() });
        }
        steps
    }

    fn remove(&self, node: &Node, pods: &[Arc<Pod>], stays: bool) -> Vec<Step> {
        let alive = pods.iter().filter(|pod| !pod.deleting);
        if !stays {
            return alive.map(|pod| Step::delete_pod(pod, Words::of_deleted_pod())).collect();
        }
        let (ended, running): (Vec<_>, Vec<_>) = alive.partition(|pod| pod.finished);
        let mut steps = Vec::new();
        for pod in ended {
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
        let is_surge = self.bounds().1 > 0;
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.into_iter().partition(|pod| self.is_new(pod));
        let doubled: Vec<&Arc<Pod>> = match is_surge {
            true => new.into_iter().skip(1).chain(old.into_iter().skip(1)).collect(),
            false => new.into_iter().chain(old).skip(1).collect(),
        };
        steps.extend(doubled.into_iter().map(|pod| Step::delete_pod(pod, Words::of_deleted_pod())));
        steps
    }

    /// Replaces pods of old templates, as many at a time as may be.
    fn roll(&self) -> Vec<Step> {
        let (unavailable_max, surge_max) = self.bounds();
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
                    made.push(self.new_pod(&node.name));
                }
                _ => {}
            }
        }
        if !made.is_empty() {
            steps.push(Step::Create { kind: Served::pods(), objects: made, words: Words::of_created_pod() });
        }
        steps
    }

    fn new_pod(&self, node: &str) -> Value {
        let mut pod = self.view.new_pod(self.view.template());
        let labels = look::child(look::child(&mut pod, "metadata"), "labels");
        look::set(labels, HASH, self.revision.hash.clone());
        let generation = look::text_at(&self.view.object, &["metadata", "annotations", TEMPLATE_GENERATION]);
        if !generation.is_empty() {
            look::set(labels, GENERATION, generation);
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
