//! What pods ask of other pods: to be near some, far from others, and spread over domains.
//!
//! Pure. A domain is all nodes with the same value of a label, the topology key. [`Wishes`] are what a pod says,
//! [`Survey`] is what the cluster means for one pod: how many pods count in which domain. A pod without wishes needs a
//! survey only when pods that are there have some, and then only of those. What is required is upstream's
//! InterPodAffinity and PodTopologySpread with their words; what is preferred are scores.

use std::collections::{BTreeMap, BTreeSet};

use api::pod::affinity::node_matches;
use api::pod::toleration::{first_untolerated, keeps_away};
use api::selector::label::{LabelSelector, Operator, Requirement};
use serde::Deserialize;
use serde_json::Value;

use crate::decide::Cluster;
use crate::view::{Node, Pod, null_as_default};

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const NOT_FAR: &str = "node(s) didn't match pod anti-affinity rules";
const SHUNNED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
const NOT_SPREAD: &str = "node(s) didn't match pod topology spread constraints";
const NO_DOMAIN: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// How much a pod that must be near others likes to have them near it, when they come later.
const REQUIRED_WEIGHT: i64 = 1;

/// What a pod asks of other pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    near: Vec<Term>,
    far: Vec<Term>,
    /// Preferred terms with their weights; those of who is to be far have negative ones.
    liked: Vec<(i64, Term)>,
    spread: Vec<Spread>,
    /// The constraints that only count when nodes are compared.
    spread_liked: Vec<Spread>,
}

/// Which pods are meant, and what counts as the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    key: String,
    selector: LabelSelector,
    namespaces: BTreeSet<String>,
    /// Namespaces beside those that are named.
    namespace_selector: LabelSelector,
}

/// How evenly the pods of a selector are to be spread.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spread {
    key: String,
    selector: LabelSelector,
    skew_max: i64,
    domains_min: usize,
    /// Whether only nodes count that the pod's selector and affinity take.
    by_affinity: bool,
    /// Whether only nodes count whose taints the pod tolerates.
    by_taints: bool,
}

/// Affinity to pods on the wire, or its contrary.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodAffinity {
    #[serde(deserialize_with = "null_as_default")]
    required_during_scheduling_ignored_during_execution: Vec<TermObject>,
    #[serde(deserialize_with = "null_as_default")]
    preferred_during_scheduling_ignored_during_execution: Vec<WeightedTerm>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WeightedTerm {
    weight: i64,
    pod_affinity_term: TermObject,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TermObject {
    topology_key: String,
    label_selector: Option<Value>,
    #[serde(deserialize_with = "null_as_default")]
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Value>,
    #[serde(deserialize_with = "null_as_default")]
    match_label_keys: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    mismatch_label_keys: Vec<String>,
}

/// A topology spread constraint on the wire.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpreadObject {
    max_skew: i64,
    topology_key: String,
    when_unsatisfiable: String,
    label_selector: Option<Value>,
    min_domains: Option<usize>,
    node_affinity_policy: Option<String>,
    node_taints_policy: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    match_label_keys: Vec<String>,
}

type Labels = BTreeMap<String, String>;

fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.matches(|key| labels.get(key).map(String::as_str))
}

/// A selector of the API; the API server has refused what is none.
fn selector(object: Option<&Value>) -> LabelSelector {
    let nothing = LabelSelector { requirements: Vec::new(), nothing: true };
    LabelSelector::from_object(object).unwrap_or(nothing)
}

/// Demands that others have the pod's own values of these labels, or other ones.
fn with_own(selector: &mut LabelSelector, keys: &[String], operator: Operator, own: &Labels) {
    let known = keys.iter().filter_map(|key| Some((key, own.get(key)?)));
    let demand =
        |(key, value): (&String, &String)| Requirement { key: key.clone(), operator, values: vec![value.clone()] };
    selector.requirements.extend(known.map(demand));
}

impl TermObject {
    fn read(self, namespace: &str, own: &Labels) -> Term {
        let mut taken = selector(self.label_selector.as_ref());
        with_own(&mut taken, &self.match_label_keys, Operator::In, own);
        with_own(&mut taken, &self.mismatch_label_keys, Operator::NotIn, own);
        let mut namespaces = self.namespaces;
        if namespaces.is_empty() && self.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        let namespace_selector = selector(self.namespace_selector.as_ref());
        Term { key: self.topology_key, selector: taken, namespaces, namespace_selector }
    }
}

impl Term {
    fn takes(&self, pod: &Pod, namespaces: &BTreeMap<String, Labels>) -> bool {
        let none = Labels::new();
        let is_there = || matches(&self.namespace_selector, namespaces.get(&pod.namespace).unwrap_or(&none));
        matches(&self.selector, &pod.labels) && (self.namespaces.contains(&pod.namespace) || is_there())
    }
}

impl SpreadObject {
    fn read(self, own: &Labels) -> Spread {
        let mut taken = selector(self.label_selector.as_ref());
        with_own(&mut taken, &self.match_label_keys, Operator::In, own);
        Spread {
            key: self.topology_key,
            selector: taken,
            skew_max: self.max_skew,
            domains_min: self.min_domains.unwrap_or(1),
            by_affinity: self.node_affinity_policy.as_deref() != Some("Ignore"),
            by_taints: self.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

impl Spread {
    fn takes_node(&self, pod: &Pod, node: &Node) -> bool {
        let placement = &pod.placement;
        let is_allowed = || node_matches(&placement.selector, placement.required.as_deref(), &node.name, &node.labels);
        let is_tolerated = || first_untolerated(&node.taints, &placement.tolerations, keeps_away).is_none();
        (!self.by_affinity || is_allowed()) && (!self.by_taints || is_tolerated())
    }

    /// Pods that are going do not count, nor does a selector that takes everything.
    fn counts(&self, other: &Pod, pod: &Pod) -> bool {
        let is_here = !other.deleting && other.namespace == pod.namespace;
        is_here && !self.selector.is_empty() && matches(&self.selector, &other.labels)
    }
}

impl Wishes {
    /// What a pod of a namespace with these labels asks; None if it asks nothing.
    pub fn read(
        [near, far]: [PodAffinity; 2],
        spread: Vec<SpreadObject>,
        (namespace, own): (&str, &Labels),
    ) -> Option<Wishes> {
        let terms = |list: Vec<TermObject>| list.into_iter().map(|one| one.read(namespace, own)).collect();
        let liked = |list: Vec<WeightedTerm>, sign: i64| {
            list.into_iter().map(move |one| (sign * one.weight, one.pod_affinity_term.read(namespace, own)))
        };
        let (firm, soft): (Vec<_>, Vec<_>) =
            spread.into_iter().partition(|one| one.when_unsatisfiable != "ScheduleAnyway");
        let spreads = |list: Vec<SpreadObject>| list.into_iter().map(|one| one.read(own)).collect();
        let wishes = Wishes {
            near: terms(near.required_during_scheduling_ignored_during_execution),
            far: terms(far.required_during_scheduling_ignored_during_execution),
            liked: liked(near.preferred_during_scheduling_ignored_during_execution, 1)
                .chain(liked(far.preferred_during_scheduling_ignored_during_execution, -1))
                .collect(),
            spread: spreads(firm),
            spread_liked: spreads(soft),
        };
        (wishes != Wishes::default()).then_some(wishes)
    }

    /// Whether they concern pods that come later.
    pub fn concern_others(&self) -> bool {
        !(self.near.is_empty() && self.far.is_empty() && self.liked.is_empty())
    }
}

/// A topology key and its value.
type Domain<'a> = (&'a str, &'a str);

/// Counts by domain; what counts nothing is not there.
type Counts<'a> = BTreeMap<Domain<'a>, i64>;

fn domain<'a>(key: &'a str, node: &'a Node) -> Option<Domain<'a>> {
    Some((key, node.labels.get(key)?))
}

fn add<'a>(counts: &mut Counts<'a>, domain: Option<Domain<'a>>, by: i64) {
    let Some(domain) = domain else { return };
    let count = counts.entry(domain).or_insert(0);
    *count += by;
    if *count == 0 {
        counts.remove(&domain);
    }
}

/// How the pods of one constraint are spread.
#[derive(Debug, Clone)]
struct Spreading<'a> {
    of: &'a Spread,
    /// The nodes that count.
    nodes: BTreeSet<&'a str>,
    /// How many pods each domain has; those without pods are here, too.
    counts: BTreeMap<&'a str, i64>,
}

impl<'a> Spreading<'a> {
    /// Only nodes count that have a domain for each of the constraints.
    fn over(of: &'a Spread, all: &'a [Spread], (pod, cluster): (&Pod, &'a Cluster)) -> Spreading<'a> {
        let has_all = |node: &&Node| all.iter().all(|one| node.labels.contains_key(&one.key));
        let nodes = cluster.nodes().filter(has_all).filter(|node| of.takes_node(pod, node));
        let named = nodes.map(|node| (node.name.as_str(), node.labels[&of.key].as_str()));
        let (nodes, domains): (BTreeSet<&str>, BTreeSet<&str>) = named.unzip();
        Spreading { of, nodes, counts: domains.into_iter().map(|domain| (domain, 0)).collect() }
    }

    fn count(&mut self, other: &Pod, pod: &Pod, (node, by): (&'a Node, i64)) {
        if self.nodes.contains(node.name.as_str())
            && self.of.counts(other, pod)
            && let Some(count) = self.counts.get_mut(node.labels[&self.of.key].as_str())
        {
            *count += by;
        }
    }

    fn refusal(&self, pod: &Pod, node: &Node) -> Option<(&'static str, bool)> {
        let Some(domain) = node.labels.get(&self.of.key) else { return Some((NO_DOMAIN, false)) };
        let least = match self.counts.len() < self.of.domains_min {
            true => 0,
            false => self.counts.values().copied().min().unwrap_or(i64::from(i32::MAX)),
        };
        let here = self.counts.get(domain.as_str()).copied().unwrap_or(0);
        let own = i64::from(matches(&self.of.selector, &pod.labels));
        (here + own - least > self.of.skew_max).then_some((NOT_SPREAD, true))
    }

    /// The more pods there are in the domain of the node, the more; in the fewer domains, the less each of them weighs.
    fn weight(&self, node: &Node) -> Option<f64> {
        let here = self.counts.get(node.labels.get(&self.of.key)?.as_str()).copied().unwrap_or(0);
        let domains = self.counts.len() as f64;
        Some(here as f64 * (domains + 2.0).ln() + (self.of.skew_max - 1) as f64)
    }
}

/// What the pods of the cluster mean for one pod.
#[derive(Debug, Clone)]
pub struct Survey<'a> {
    pod: &'a Pod,
    wishes: &'a Wishes,
    namespaces: &'a BTreeMap<String, Labels>,
    /// Pods that it must be near to, all terms at once.
    near: Counts<'a>,
    /// Pods that it must be far from.
    far: Counts<'a>,
    /// Pods that must be far from it.
    shunned: Counts<'a>,
    /// The weights of pods that like it or that it likes.
    liked: Counts<'a>,
    spread: Vec<Spreading<'a>>,
    spread_liked: Vec<Spreading<'a>>,
}

static NO_WISHES: Wishes =
    Wishes { near: Vec::new(), far: Vec::new(), liked: Vec::new(), spread: Vec::new(), spread_liked: Vec::new() };

impl<'a> Survey<'a> {
    /// Looks around for a pod; None if neither it nor others have wishes.
    pub fn of(pod: &'a Pod, cluster: &'a Cluster) -> Option<Survey<'a>> {
        if pod.wishes.is_none() && !cluster.has_wishes() {
            return None;
        }
        let wishes = pod.wishes.as_deref().unwrap_or(&NO_WISHES);
        let over = |all: &'a [Spread]| all.iter().map(|of| Spreading::over(of, all, (pod, cluster))).collect();
        let mut survey = Survey {
            pod,
            wishes,
            namespaces: cluster.namespaces(),
            near: Counts::new(),
            far: Counts::new(),
            shunned: Counts::new(),
            liked: Counts::new(),
            spread: over(&wishes.spread),
            spread_liked: over(&wishes.spread_liked),
        };
        match pod.wishes {
            Some(_) => cluster.located().for_each(|(other, node)| survey.count(other, node, 1)),
            None => cluster.wishing().for_each(|(other, node)| survey.count(other, node, 1)),
        }
        Some(survey)
    }

    /// Counts a pod on a node so many times: once, or minus once if it goes in thought.
    pub fn count(&mut self, other: &'a Pod, node: &'a Node, by: i64) {
        let (pod, namespaces) = (self.pod, self.namespaces);
        if let Some(theirs) = &other.wishes {
            for term in theirs.far.iter().filter(|term| term.takes(pod, namespaces)) {
                add(&mut self.shunned, domain(&term.key, node), by);
            }
            let required = theirs.near.iter().map(|term| (REQUIRED_WEIGHT, term));
            let liked = theirs.liked.iter().map(|(weight, term)| (*weight, term));
            for (weight, term) in required.chain(liked).filter(|(_, term)| term.takes(pod, namespaces)) {
                add(&mut self.liked, domain(&term.key, node), by * weight);
            }
        }
        let wishes = self.wishes;
        if wishes.near.iter().all(|term| term.takes(other, namespaces)) {
            wishes.near.iter().for_each(|term| add(&mut self.near, domain(&term.key, node), by));
        }
        for term in wishes.far.iter().filter(|term| term.takes(other, namespaces)) {
            add(&mut self.far, domain(&term.key, node), by);
        }
        for (weight, term) in wishes.liked.iter().filter(|(_, term)| term.takes(other, namespaces)) {
            add(&mut self.liked, domain(&term.key, node), by * weight);
        }
        let spreadings = self.spread.iter_mut().chain(&mut self.spread_liked);
        spreadings.for_each(|spreading| spreading.count(other, pod, (node, by)));
    }

    /// Why the pod may not be on a node, and whether that would be otherwise without some of the pods there.
    pub fn refusal(&self, node: &Node) -> Option<(&'static str, bool)> {
        let unspread = self.spread.iter().find_map(|spreading| spreading.refusal(self.pod, node));
        if unspread.is_some() {
            return unspread;
        }
        if !self.is_near(node) {
            return Some((NOT_NEAR, false));
        }
        let has = |counts: &Counts<'_>| {
            counts.iter().any(|((key, value), _)| node.labels.get(*key).is_some_and(|at| at == value))
        };
        if has(&self.far) {
            return Some((NOT_FAR, true));
        }
        has(&self.shunned).then_some((SHUNNED, true))
    }

    /// The first pod of a group that is to be near itself may be anywhere where there is a domain for it.
    fn is_near(&self, node: &Node) -> bool {
        let near = &self.wishes.near;
        let domains: Option<Vec<Domain<'_>>> = near.iter().map(|term| domain(&term.key, node)).collect();
        let Some(domains) = domains else { return false };
        let is_first = || self.near.is_empty() && near.iter().all(|term| term.takes(self.pod, self.namespaces));
        domains.iter().all(|domain| self.near.contains_key(domain)) || is_first()
    }

    /// How much the pod likes each of these nodes, from 0 to 100: for who is near, and for how it is spread.
    pub fn scores(&self, nodes: &[&Node]) -> BTreeMap<String, (i64, i64)> {
        let liking = |node: &Node| -> i64 {
            let here =
                self.liked.iter().filter(|((key, value), _)| node.labels.get(*key).is_some_and(|at| at == value));
            here.map(|(_, weight)| weight).sum()
        };
        let likings: Vec<i64> = nodes.iter().map(|node| liking(node)).collect();
        let (least, most) = (likings.iter().min().copied().unwrap_or(0), likings.iter().max().copied().unwrap_or(0));
        let weight = |node: &Node| -> Option<i64> {
            let weights: Option<Vec<f64>> = self.spread_liked.iter().map(|spreading| spreading.weight(node)).collect();
            Some(weights?.iter().sum::<f64>().round() as i64)
        };
        let weights: Vec<Option<i64>> = nodes.iter().map(|node| weight(node)).collect();
        let known = || weights.iter().flatten().copied();
        let (lightest, heaviest) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
        let score = |liking: i64, weight: Option<i64>| {
            let near = if most > least { 100 * (liking - least) / (most - least) } else { 0 };
            let spread = match weight {
                // Who has no domain is liked least.
                None => 0,
                Some(_) if heaviest == 0 => 100,
                Some(weight) => 100 * (heaviest + lightest - weight) / heaviest,
            };
            (near, spread)
        };
        let each = nodes.iter().zip(likings.iter().zip(&weights));
        each.map(|(node, (liking, weight))| (node.name.clone(), score(*liking, *weight))).collect()
    }
}

#[cfg(test)]
mod tests;
