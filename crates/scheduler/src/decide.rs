//! The choice: filter the nodes, score what is left, or say why nothing is.
//!
//! Pure. [`Cluster`] is the snapshot that it decides on; `shell.rs` keeps it up to date. Reasons are in upstream's words,
//! because people and tools match them (RTC-55, 56, 60).

use std::collections::{BTreeMap, BTreeSet};

use api::pod::affinity::node_matches;
use api::pod::toleration::{Taint, first_untolerated, keeps_away};

use crate::fit::{self, Resources};
use crate::neighbours::Survey;
use crate::preempt::{self, Plan};
use crate::view::{Budget, Node, Placement, Pod};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// The verdict on one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Bind it to this node.
    Bind(String),
    /// No node has room, and these pods are to make some.
    Preempt {
        /// Who goes.
        plan: Plan,
        /// Why no node has room.
        message: String,
    },
    /// No node will have it; the message says why.
    Unschedulable(String),
}

/// Nodes with what their pods take, and the handlers of the runtime classes.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<String, Node>,
    /// Pods that hold something on a node, by uid, with the node. Also for nodes that are not known (yet).
    placed: BTreeMap<String, (String, Pod)>,
    used: BTreeMap<String, Used>,
    classes: BTreeMap<String, String>,
    /// The labels of namespaces.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// The uids of counted pods whose wishes concern others.
    wishing: BTreeSet<String>,
    /// By namespace and name.
    budgets: BTreeMap<(String, String), Budget>,
    /// Pods that wait for others to go from a node, by uid, with the node.
    nominated: BTreeMap<String, (String, Pod)>,
    /// The uids of those pods, by the node.
    awaiting: BTreeMap<String, BTreeSet<String>>,
}

/// What the pods of one node take.
#[derive(Debug, Default)]
struct Used {
    requests: Resources,
    /// As `requests`, but pods that ask for nothing count a little; for scores only.
    scored_cpu: i64,
    scored_memory: i64,
    pods: BTreeSet<String>,
}

impl Cluster {
    /// Adds or replaces a node; says whether anything that matters here changed.
    pub fn apply_node(&mut self, node: Node) -> bool {
        self.nodes.get(&node.name) != Some(&node) && {
            self.nodes.insert(node.name.clone(), node);
            true
        }
    }

    /// Removes a node.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// The names of all nodes.
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Sets the handler of a runtime class; says whether that changed anything.
    pub fn apply_class(&mut self, name: String, handler: String) -> bool {
        self.classes.insert(name, handler.clone()) != Some(handler)
    }

    /// Removes a runtime class.
    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// Keeps only these runtime classes; says whether others were there.
    pub fn retain_classes(&mut self, stays: impl Fn(&str) -> bool) -> bool {
        let before = self.classes.len();
        self.classes.retain(|name, _| stays(name));
        self.classes.len() < before
    }

    /// Sets the labels of a namespace; says whether that changed anything.
    pub fn apply_namespace(&mut self, name: String, labels: BTreeMap<String, String>) -> bool {
        self.namespaces.insert(name, labels.clone()) != Some(labels)
    }

    /// Keeps only these namespaces.
    pub fn retain_namespaces(&mut self, stays: impl Fn(&str) -> bool) {
        self.namespaces.retain(|name, _| stays(name));
    }

    /// The labels of namespaces.
    pub fn namespaces(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.namespaces
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The counted pods with their nodes, as far as these are known.
    pub fn located(&self) -> impl Iterator<Item = (&Pod, &Node)> {
        self.placed.values().filter_map(|(node, pod)| Some((pod, self.nodes.get(node)?)))
    }

    /// Those whose wishes concern others.
    pub fn wishing(&self) -> impl Iterator<Item = (&Pod, &Node)> {
        let placed = self.wishing.iter().filter_map(|uid| self.placed.get(uid));
        placed.filter_map(|(node, pod)| Some((pod, self.nodes.get(node)?)))
    }

    /// Whether some pod that is counted, or for which room is kept, has wishes that concern others.
    pub fn has_wishes(&self) -> bool {
        !self.wishing.is_empty() || self.nominated.values().any(|(_, pod)| concerns_others(pod))
    }

    /// Sets a disruption budget.
    pub fn apply_budget(&mut self, budget: Budget) {
        self.budgets.insert((budget.namespace.clone(), budget.name.clone()), budget);
    }

    /// Keeps only these disruption budgets.
    pub fn retain_budgets(&mut self, stays: impl Fn(&str, &str) -> bool) {
        self.budgets.retain(|(namespace, name), _| stays(namespace, name));
    }

    /// The disruption budgets of a namespace.
    pub fn budgets_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Budget> {
        let from = (namespace.to_owned(), String::new());
        let here = self.budgets.range(from..).take_while(move |((place, _), _)| place == namespace);
        here.map(|(_, budget)| budget)
    }

    /// Counts a pod on a node, bound or only assumed to be; says whether it counts otherwise than before.
    pub fn place(&mut self, pod: &Pod, node: &str) -> bool {
        let same = |old: &Pod| {
            (&old.requests, old.deleting, &old.started, &old.labels)
                == (&pod.requests, pod.deleting, &pod.started, &pod.labels)
        };
        if self.placed.get(&pod.uid).is_some_and(|(at, old)| at == node && same(old)) {
            return false;
        }
        self.release(&pod.uid);
        let used = self.used.entry(node.to_owned()).or_default();
        used.requests.add(&pod.requests);
        used.scored_cpu += fit::scored_request(pod, "cpu");
        used.scored_memory += fit::scored_request(pod, "memory");
        used.pods.insert(pod.uid.clone());
        if concerns_others(pod) {
            self.wishing.insert(pod.uid.clone());
        }
        self.placed.insert(pod.uid.clone(), (node.to_owned(), pod.clone()));
        true
    }

    /// Stops counting a pod; says on which node it was counted.
    pub fn release(&mut self, uid: &str) -> Option<String> {
        let (node, pod) = self.placed.remove(uid)?;
        self.wishing.remove(uid);
        if let Some(used) = self.used.get_mut(&node) {
            used.requests.subtract(&pod.requests);
            used.scored_cpu -= fit::scored_request(&pod, "cpu");
            used.scored_memory -= fit::scored_request(&pod, "memory");
            used.pods.remove(uid);
            if used.pods.is_empty() {
                self.used.remove(&node);
            }
        }
        Some(node)
    }

    /// Keeps room on a node for a pod that waits for others to go from there.
    pub fn nominate(&mut self, pod: &Pod, node: &str) {
        self.denominate(&pod.uid);
        self.awaiting.entry(node.to_owned()).or_default().insert(pod.uid.clone());
        self.nominated.insert(pod.uid.clone(), (node.to_owned(), pod.clone()));
    }

    /// Keeps no room for a pod any more; says on which node some was kept.
    pub fn denominate(&mut self, uid: &str) -> Option<String> {
        let (node, _) = self.nominated.remove(uid)?;
        if let Some(uids) = self.awaiting.get_mut(&node) {
            uids.remove(uid);
            if uids.is_empty() {
                self.awaiting.remove(&node);
            }
        }
        Some(node)
    }

    /// The uids of the pods that wait for others to go from a node.
    pub fn awaiting(&self, node: &str) -> impl Iterator<Item = &String> {
        self.awaiting.get(node).into_iter().flatten()
    }

    /// The node on which room is kept for a pod.
    pub fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(node, _)| node.as_str())
    }

    /// The pods for which room is kept on a node, and that `pod` has to leave it to.
    pub fn nominated_on<'a>(&'a self, node: &'a str, pod: &'a Pod) -> impl Iterator<Item = &'a Pod> {
        let here = self.awaiting(node).filter_map(|uid| self.nominated.get(uid)).map(|(_, other)| other);
        here.filter(|other| other.uid != pod.uid && other.priority >= pod.priority)
    }

    /// The node on which a pod is counted.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(|(node, _)| node.as_str())
    }

    /// The uids of all counted pods.
    pub fn placed(&self) -> impl Iterator<Item = &str> {
        self.placed.keys().map(String::as_str)
    }

    /// The pods of a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Pod> {
        let uids = self.used.get(node).into_iter().flat_map(|used| &used.pods);
        uids.filter_map(|uid| self.placed.get(uid)).map(|(_, pod)| pod)
    }

    fn used(&self, node: &str, resource: &str) -> i64 {
        self.used.get(node).map_or(0, |used| used.requests.get(resource))
    }
}

fn concerns_others(pod: &Pod) -> bool {
    pod.wishes.as_ref().is_some_and(|wishes| wishes.concern_others())
}

/// Why one node will not have the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    reasons: Vec<String>,
    /// Whether the pod could run here if the pods of the node went away.
    others_are_in_the_way: bool,
}

/// Chooses a node.
pub fn place(pod: &Pod, cluster: &Cluster) -> Verdict {
    if cluster.nodes.is_empty() {
        return Verdict::Unschedulable("no nodes available to schedule pods".into());
    }
    let handler = wanted_handler(pod, cluster);
    let survey = Survey::of(pod, cluster);
    let mut fitting = Vec::new();
    let mut refusals = Vec::new();
    for node in cluster.nodes.values() {
        match refusal(pod, node, cluster, handler).or_else(|| disharmony(pod, node, cluster, survey.as_ref())) {
            None => fitting.push(node),
            Some(refusal) => refusals.push((node, refusal)),
        }
    }
    if let Some(node) = kept(pod, &fitting, cluster).or_else(|| best(pod, &fitting, (cluster, survey.as_ref()))) {
        return Verdict::Bind(node.name.clone());
    }
    let reasons = explain(&refusals);
    if let Some(why) = preempt::ineligible(pod, cluster) {
        return Verdict::Unschedulable(format!("{reasons} preemption: {why}"));
    }
    let crowded = refusals.iter().filter(|(_, refusal)| refusal.others_are_in_the_way).map(|(node, _)| *node);
    match preempt::plan(pod, crowded, (cluster, survey.as_ref())) {
        Some(plan) => Verdict::Preempt { plan, message: reasons },
        None => Verdict::Unschedulable(format!("{reasons} preemption: {}", helplessness(&refusals))),
    }
}

/// The node that was emptied for this pod.
fn kept<'a>(pod: &Pod, fitting: &[&'a Node], cluster: &Cluster) -> Option<&'a Node> {
    let kept = cluster.nomination(&pod.uid)?;
    fitting.iter().find(|node| node.name == kept).copied()
}

/// The handler that nodes are filtered by, if some node is known to offer it (RTC-53 as decided for sampan).
fn wanted_handler<'a>(pod: &Pod, cluster: &'a Cluster) -> Option<&'a str> {
    let handler = cluster.classes.get(pod.runtime_class.as_ref()?)?;
    let offers = |node: &Node| node.handlers.as_ref().is_some_and(|handlers| handlers.contains(handler));
    cluster.nodes.values().any(offers).then_some(handler)
}

fn refusal(pod: &Pod, node: &Node, cluster: &Cluster, handler: Option<&str>) -> Option<Refusal> {
    let for_good = |reason: &str| Some(Refusal { reasons: vec![reason.into()], others_are_in_the_way: false });
    let tolerations = &pod.placement.tolerations;
    let cordon = Taint { key: UNSCHEDULABLE_TAINT.into(), value: String::new(), effect: "NoSchedule".into() };
    if node.unschedulable && first_untolerated(&[cordon], tolerations, keeps_away).is_some() {
        return for_good("node(s) were unschedulable");
    }
    if first_untolerated(&node.taints, tolerations, keeps_away).is_some() {
        return for_good("node(s) had untolerated taint(s)");
    }
    let Placement { selector, required, .. } = &pod.placement;
    if !node_matches(selector, required.as_deref(), &node.name, &node.labels) {
        return for_good("node(s) didn't match Pod's node affinity/selector");
    }
    if let (Some(handler), Some(offered)) = (handler, &node.handlers)
        && !offered.contains(handler)
    {
        return for_good(&format!("node(s) didn't offer the runtime handler \"{handler}\""));
    }
    let collides =
        |other: &Pod| other.ports.iter().any(|theirs| pod.ports.iter().any(|ours| fit::collide(ours, theirs)));
    if !pod.ports.is_empty() && cluster.pods_on(&node.name).any(collides) {
        let reasons = vec!["node(s) didn't have free ports for the requested pod ports".into()];
        return Some(Refusal { reasons, others_are_in_the_way: true });
    }
    shortage(pod, node, cluster)
}

/// The resources that do not suffice (RTC-57).
fn shortage(pod: &Pod, node: &Node, cluster: &Cluster) -> Option<Refusal> {
    let mut reasons = Vec::new();
    let mut others_are_in_the_way = true;
    let kept_for: Vec<&Pod> = cluster.nominated_on(&node.name, pod).collect();
    let pods = cluster.used.get(&node.name).map_or(0, |used| used.pods.len()) + kept_for.len();
    let pods = pods as i64;
    if pods + 1 > node.allocatable.get("pods") {
        reasons.push("Too many pods".into());
        others_are_in_the_way = node.allocatable.get("pods") > 0;
    }
    for (name, &wanted) in pod.requests.0.iter().filter(|(_, wanted)| **wanted > 0) {
        let allocatable = node.allocatable.get(name);
        let kept: i64 = kept_for.iter().map(|other| other.requests.get(name)).sum();
        if wanted > allocatable - cluster.used(&node.name, name) - kept {
            reasons.push(format!("Insufficient {name}"));
            others_are_in_the_way &= wanted <= allocatable;
        }
    }
    (!reasons.is_empty()).then_some(Refusal { reasons, others_are_in_the_way })
}

/// What other pods have against it, or it against them: those that are there, and then with those for which room is kept.
fn disharmony<'a>(pod: &'a Pod, node: &'a Node, cluster: &'a Cluster, survey: Option<&Survey<'a>>) -> Option<Refusal> {
    let survey = survey?;
    let with_kept = || {
        let mut kept_for = cluster.nominated_on(&node.name, pod).peekable();
        kept_for.peek()?;
        let mut survey = survey.clone();
        kept_for.for_each(|other| survey.count(other, node, 1));
        survey.refusal(node)
    };
    let (reason, others_are_in_the_way) = survey.refusal(node).or_else(with_kept)?;
    Some(Refusal { reasons: vec![reason.into()], others_are_in_the_way })
}

/// The node with the highest score; of equals the one with the fewest pods, then the first by name.
fn best<'a>(pod: &Pod, nodes: &[&'a Node], (cluster, survey): (&Cluster, Option<&Survey<'_>>)) -> Option<&'a Node> {
    if let [only] = nodes {
        return Some(only);
    }
    let preference = |node: &Node| {
        let preferred = pod.placement.preferred.iter();
        preferred.filter(|(_, term)| term.matches(&node.name, &node.labels)).map(|(weight, _)| weight).sum::<i64>()
    };
    let dislikes = |node: &Node| {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        let tolerated = |taint: &Taint| pod.placement.tolerations.iter().any(|one| one.tolerates(taint));
        soft.filter(|taint| !tolerated(taint)).count() as i64
    };
    let most_preferred = nodes.iter().map(|node| preference(node)).max().unwrap_or(0);
    let most_disliked = nodes.iter().map(|node| dislikes(node)).max().unwrap_or(0);
    let among_others = survey.map(|survey| survey.scores(nodes)).unwrap_or_default();
    // The weights are upstream's: taints 3, affinity, other pods and spread 2, free resources 1; each part goes from 0 to
    // 100.
    let score = |node: &Node| {
        let (near, spread) = among_others.get(&node.name).copied().unwrap_or_default();
        2 * (near + spread)
            + 3 * (100 - percent(dislikes(node), most_disliked))
            + 2 * percent(preference(node), most_preferred)
            + free_percent(pod, node, cluster)
    };
    let pods = |node: &Node| cluster.used.get(&node.name).map_or(0, |used| used.pods.len());
    let rank = |node: &&Node| (std::cmp::Reverse(score(node)), pods(node));
    nodes.iter().copied().min_by_key(rank)
}

fn percent(part: i64, whole: i64) -> i64 {
    if whole <= 0 { 0 } else { part * 100 / whole }
}

/// How much of cpu and memory would stay free, on average.
fn free_percent(pod: &Pod, node: &Node, cluster: &Cluster) -> i64 {
    let used = cluster.used.get(&node.name);
    let free = |resource: &str, used: i64| {
        let allocatable = node.allocatable.get(resource);
        percent((allocatable - used - fit::scored_request(pod, resource)).max(0), allocatable)
    };
    let cpu = free("cpu", used.map_or(0, |used| used.scored_cpu));
    let memory = free("memory", used.map_or(0, |used| used.scored_memory));
    (cpu + memory) / 2
}

/// The message of the event and of the condition (RTC-60), but for preemption.
fn explain(refusals: &[(&Node, Refusal)]) -> String {
    let reasons = histogram(refusals.iter().flat_map(|(_, refusal)| refusal.reasons.iter().map(String::as_str)));
    format!("0/{} nodes are available: {reasons}.", refusals.len())
}

/// What preemption would do on each node.
fn helplessness(refusals: &[(&Node, Refusal)]) -> String {
    let helpless = |(_, refusal): &(&Node, Refusal)| match refusal.others_are_in_the_way {
        true => "No preemption victims found for incoming pod",
        false => "Preemption is not helpful for scheduling",
    };
    format!("0/{} nodes are available: {}.", refusals.len(), histogram(refusals.iter().map(helpless)))
}

/// `2 Insufficient cpu, 1 Too many pods`: each reason with its count, sorted as text.
fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{NodeObject, PodObject};
    use serde_json::{Value, json};

    fn node(name: &str, rest: Value) -> Node {
        let mut object = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "3"}},
        });
        merge(&mut object, rest);
        serde_json::from_value::<NodeObject>(object).unwrap().into()
    }

    fn pod(name: &str, spec: Value) -> Pod {
        let metadata = json!({"name": name, "namespace": "ns", "uid": name});
        let object = json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}});
        serde_json::from_value::<PodObject>(object).unwrap().into()
    }

    fn asking(name: &str, requests: Value) -> Pod {
        pod(name, json!({"containers": [{"resources": {"requests": requests}}]}))
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, from) => *into = from,
        }
    }

    fn cluster(nodes: Vec<Node>) -> Cluster {
        let mut cluster = Cluster::default();
        for node in nodes {
            cluster.apply_node(node);
        }
        cluster
    }

    #[track_caller]
    fn check(pod: &Pod, cluster: &Cluster, expect: &str) {
        let verdict = match place(pod, cluster) {
            Verdict::Bind(node) => format!("bind {node}"),
            Verdict::Preempt { plan, .. } => format!("preempt on {}", plan.node),
            Verdict::Unschedulable(message) => message,
        };
        assert_eq!(verdict, expect);
    }

    const HELPLESS: &str = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    const NO_VICTIMS: &str = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

    #[test]
    fn a_pod_without_wishes_goes_to_the_only_node() {
        check(&pod("p", json!({})), &cluster(vec![node("n", json!({}))]), "bind n");
    }

    #[test]
    fn without_nodes_the_message_says_so() {
        check(&pod("p", json!({})), &Cluster::default(), "no nodes available to schedule pods");
    }

    #[test]
    fn a_selector_that_no_node_satisfies_is_named() {
        let reason =
            format!("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. {HELPLESS}");
        check(&pod("p", json!({"nodeSelector": {"a": "b"}})), &cluster(vec![node("n", json!({}))]), &reason);
    }

    #[test]
    fn taints_need_tolerations() {
        let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
        let cluster = cluster(vec![node("n", tainted)]);
        let reason = format!("0/1 nodes are available: 1 node(s) had untolerated taint(s). {HELPLESS}");
        check(&pod("p", json!({})), &cluster, &reason);
        for toleration in [
            json!({"key": "k", "value": "v"}),
            json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}),
            json!({"operator": "Exists"}),
        ] {
            check(&pod("p", json!({"tolerations": [toleration]})), &cluster, "bind n");
        }
        for toleration in [
            json!({"key": "k", "value": "other"}),
            json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
            json!({"key": "other", "operator": "Exists"}),
        ] {
            check(&pod("p", json!({"tolerations": [toleration]})), &cluster, &reason);
        }
    }

    #[test]
    fn a_cordoned_node_is_left_alone() {
        let cluster = cluster(vec![node("n", json!({"spec": {"unschedulable": true}}))]);
        let reason = format!("0/1 nodes are available: 1 node(s) were unschedulable. {HELPLESS}");
        check(&pod("p", json!({})), &cluster, &reason);
        let toleration = json!([{"key": UNSCHEDULABLE_TAINT, "operator": "Exists"}]);
        check(&pod("p", json!({"tolerations": toleration})), &cluster, "bind n");
    }

    #[test]
    fn overhead_counts_toward_the_fit() {
        // RTC-57: 900m + 200m does not fit one core.
        let spec = json!({"containers": [{"resources": {"requests": {"cpu": "900m"}}}], "overhead": {"cpu": "200m"}});
        let reason = format!("0/1 nodes are available: 1 Insufficient cpu. {HELPLESS}");
        check(&pod("p", spec), &cluster(vec![node("n", json!({}))]), &reason);
    }

    #[test]
    fn what_others_hold_is_not_free() {
        let mut cluster = cluster(vec![node("n", json!({}))]);
        let first = asking("first", json!({"cpu": "600m", "memory": "900Mi"}));
        cluster.place(&first, "n");
        let reason = format!("0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. {NO_VICTIMS}");
        check(&asking("p", json!({"cpu": "500m", "memory": "200Mi"})), &cluster, &reason);
        cluster.release("first");
        check(&asking("p", json!({"cpu": "500m", "memory": "200Mi"})), &cluster, "bind n");
        assert!(cluster.used.is_empty());
    }

    #[test]
    fn the_number_of_pods_is_bounded() {
        let mut cluster = cluster(vec![node("n", json!({}))]);
        for name in ["a", "b", "c"] {
            cluster.place(&pod(name, json!({})), "n");
        }
        let reason = format!("0/1 nodes are available: 1 Too many pods. {NO_VICTIMS}");
        check(&pod("p", json!({})), &cluster, &reason);
    }

    #[test]
    fn extended_resources_are_counted() {
        let reason = format!("0/1 nodes are available: 1 Insufficient example.com/gpu. {HELPLESS}");
        check(&asking("p", json!({"example.com/gpu": "1"})), &cluster(vec![node("n", json!({}))]), &reason);
    }

    #[test]
    fn host_ports_are_taken_once() {
        let spec = |ip: &str| json!({"containers": [{"ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]});
        let mut cluster = cluster(vec![node("n", json!({}))]);
        cluster.place(&pod("first", spec("127.0.0.1")), "n");
        check(&pod("p", spec("127.0.0.2")), &cluster, "bind n");
        let reason = "node(s) didn't have free ports for the requested pod ports";
        check(&pod("p", spec("")), &cluster, &format!("0/1 nodes are available: 1 {reason}. {NO_VICTIMS}"));
    }

    #[test]
    fn reasons_are_counted_over_nodes() {
        let cordoned = json!({"spec": {"unschedulable": true}});
        let nodes = vec![node("a", cordoned.clone()), node("b", cordoned), node("c", json!({}))];
        let expect = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. preemption: \
                      0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
        check(&asking("p", json!({"cpu": "2"})), &cluster(nodes), expect);
    }

    #[test]
    fn a_pod_that_never_preempts_says_so() {
        let spec = json!({"nodeSelector": {"a": "b"}, "preemptionPolicy": "Never"});
        let expect = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
                      preemption: not eligible due to preemptionPolicy=Never.";
        check(&pod("p", spec), &cluster(vec![node("n", json!({}))]), expect);
    }

    #[test]
    fn required_affinity_understands_every_operator() {
        let labels = json!({"metadata": {"labels": {"zone": "a", "size": "5"}}});
        let cluster = cluster(vec![node("n", labels)]);
        let with = |field: &str, key: &str, operator: &str, values: Value| {
            let term = json!({field: [{"key": key, "operator": operator, "values": values}]});
            let required = json!({"nodeSelectorTerms": [{}, term]});
            let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
            place(&pod("p", json!({"affinity": affinity})), &cluster) == Verdict::Bind("n".into())
        };
        let label = |key, operator, values| with("matchExpressions", key, operator, values);
        assert!(label("zone", "In", json!(["a", "b"])) && !label("zone", "In", json!(["b"])));
        assert!(label("zone", "NotIn", json!(["b"])) && !label("zone", "NotIn", json!(["a"])));
        assert!(label("none", "NotIn", json!(["a"])) && !label("none", "In", json!(["a"])));
        assert!(label("zone", "Exists", json!([])) && !label("none", "Exists", json!([])));
        assert!(label("none", "DoesNotExist", json!([])) && !label("zone", "DoesNotExist", json!([])));
        assert!(label("size", "Gt", json!(["4"])) && !label("size", "Gt", json!(["5"])));
        assert!(label("size", "Lt", json!(["6"])) && !label("zone", "Lt", json!(["6"])));
        let field = |operator, values| with("matchFields", "metadata.name", operator, values);
        assert!(field("In", json!(["n"])) && !field("NotIn", json!(["n"])));
    }

    #[test]
    fn preferences_and_free_room_decide_between_nodes() {
        let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        let labels = json!({"metadata": {"labels": {"disk": "fast"}}});
        check(&pod("p", json!({})), &cluster(vec![node("a", soft), node("b", json!({}))]), "bind b");
        let preference = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]});
        let preferred = json!([{"weight": 10, "preference": preference}]);
        let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
        let nodes = vec![node("a", json!({})), node("b", labels)];
        check(&pod("p", json!({"affinity": affinity})), &cluster(nodes), "bind b");
        let mut cluster = cluster(vec![node("a", json!({})), node("b", json!({}))]);
        cluster.place(&asking("first", json!({"cpu": "500m"})), "a");
        check(&asking("p", json!({"cpu": "100m"})), &cluster, "bind b");
    }

    #[test]
    fn a_handler_that_some_node_offers_is_looked_for() {
        let offers = |names: &[&str]| {
            let handlers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"status": {"runtimeHandlers": handlers}})
        };
        let gpu = pod("p", json!({"runtimeClassName": "gvisor"}));
        let mut without = cluster(vec![node("a", offers(&["runc"]))]);
        without.apply_class("gvisor".into(), "runsc".into());
        check(&gpu, &without, "bind a");
        let cordoned = json!({"spec": {"unschedulable": true}, "status": {"runtimeHandlers": [{"name": "runsc"}]}});
        without.apply_node(node("b", cordoned));
        let expect = "0/2 nodes are available: 1 node(s) didn't offer the runtime handler \"runsc\", 1 node(s) were \
                      unschedulable. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
        check(&gpu, &without, expect);
        without.apply_node(node("c", json!({})));
        check(&gpu, &without, "bind c");
        without.apply_node(node("b", offers(&["runc", "runsc"])));
        without.remove_node("c");
        check(&gpu, &without, "bind b");
    }

    #[test]
    fn requests_follow_the_order_of_the_init_steps() {
        // RTC-57, 58: the second step runs beside the sidecar that was started before it.
        let ask = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = ask("100m");
        merge(&mut sidecar, json!({"restartPolicy": "Always"}));
        let spec = json!({
            "initContainers": [ask("300m"), sidecar, ask("800m")],
            "containers": [ask("200m"), ask("300m")],
            "overhead": {"cpu": "50m"},
        });
        assert_eq!(pod("p", spec.clone()).requests.get("cpu"), 950);
        // RTC-59: pod-level requests take the place of the containers', not of the overhead.
        let mut with_pod_level = spec;
        merge(&mut with_pod_level, json!({"resources": {"requests": {"cpu": "1"}}}));
        assert_eq!(pod("p", with_pod_level).requests.get("cpu"), 1050);
    }

    #[test]
    fn only_free_pods_of_this_scheduler_want_a_node() {
        assert!(pod("p", json!({})).wants_node);
        assert!(!pod("p", json!({"nodeName": "n"})).wants_node);
        assert!(!pod("p", json!({"schedulerName": "other"})).wants_node);
        assert!(!pod("p", json!({"schedulingGates": [{"name": "wait"}]})).wants_node);
    }
}
