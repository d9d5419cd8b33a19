//! What pods ask of other pods: tables in upstream's words, and a property against the plain meaning of the terms.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decide::{Verdict, place};
use crate::view::{NodeObject, PodObject};

const ZONE: &str = "zone";
const HOST: &str = "kubernetes.io/hostname";

fn node(name: &str, zone: &str, spec: Value) -> Node {
    let mut labels = json!({HOST: name});
    if !zone.is_empty() {
        labels[ZONE] = zone.into();
    }
    let status = json!({"allocatable": {"cpu": "100", "memory": "100Gi", "pods": "100"}});
    let object = json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status});
    serde_json::from_value::<NodeObject>(object).unwrap().into()
}

/// Two nodes in zone `x`, one in zone `y`, one without a zone.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "")] {
        cluster.apply_node(node(name, zone, json!({})));
    }
    cluster
}

fn pod(name: &str, app: &str, spec: Value) -> Pod {
    pod_in("ns", name, json!({"app": app}), spec)
}

fn pod_in(namespace: &str, name: &str, labels: Value, spec: Value) -> Pod {
    let metadata = json!({"name": name, "namespace": namespace, "uid": name, "labels": labels});
    let object = json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}});
    serde_json::from_value::<PodObject>(object).unwrap().into()
}

fn term(key: &str, app: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

fn near(term: Value) -> Value {
    json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn far(term: Value) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn spread(more: Value) -> Value {
    let mut one = json!({
        "maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        one[key] = value.clone();
    }
    json!({"topologySpreadConstraints": [one]})
}

/// The nodes that would take the pod, and why the others would not.
fn judged(pod: &Pod, cluster: &Cluster) -> (String, BTreeSet<&'static str>) {
    let survey = Survey::of(pod, cluster);
    let refusal = |node: &Node| survey.as_ref().and_then(|survey| survey.refusal(node));
    let taken: Vec<&str> =
        cluster.nodes().filter(|node| refusal(node).is_none()).map(|node| node.name.as_str()).collect();
    (taken.concat(), cluster.nodes().filter_map(refusal).map(|(reason, _)| reason).collect())
}

#[track_caller]
fn check(pod: &Pod, cluster: &Cluster, taken: &str, reasons: &[&'static str]) {
    assert_eq!(judged(pod, cluster), (taken.to_owned(), reasons.iter().copied().collect()));
}

#[test]
fn a_pod_is_kept_away_from_those_it_must_be_far_from_and_they_from_it() {
    let mut cluster = cluster();
    cluster.place(&pod("old", "web", json!({})), "a");
    check(&pod("p", "x", far(term(ZONE, "web"))), &cluster, "cd", &[NOT_FAR]);
    check(&pod("p", "x", far(term(HOST, "web"))), &cluster, "bcd", &[NOT_FAR]);
    check(&pod("p", "x", far(term(ZONE, "other"))), &cluster, "abcd", &[]);
    cluster.place(&pod("shy", "x", far(term(ZONE, "db"))), "c");
    check(&pod("p", "db", json!({})), &cluster, "abd", &[SHUNNED]);
    check(&pod("p", "db", far(term(ZONE, "web"))), &cluster, "d", &[NOT_FAR, SHUNNED]);
    cluster.release("shy");
    assert!(Survey::of(&pod("p", "db", json!({})), &cluster).is_none(), "who has no wishes costs nothing");
}

#[test]
fn a_pod_is_near_those_it_must_be_near_to_unless_it_is_the_first_of_its_group() {
    let mut cluster = cluster();
    check(&pod("p", "x", near(term(ZONE, "web"))), &cluster, "", &[NOT_NEAR]);
    check(&pod("p", "web", near(term(ZONE, "web"))), &cluster, "abc", &[NOT_NEAR]);
    cluster.place(&pod("old", "web", json!({})), "a");
    check(&pod("p", "web", near(term(ZONE, "web"))), &cluster, "ab", &[NOT_NEAR]);
    check(&pod("p", "x", near(term(HOST, "web"))), &cluster, "a", &[NOT_NEAR]);
    let both = [term(ZONE, "web"), term(HOST, "db")];
    let spec = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": both}}});
    cluster.place(&pod("db", "db", json!({})), "a");
    check(&pod("p", "x", spec), &cluster, "", &[NOT_NEAR]);
}

#[test]
fn terms_are_about_their_own_namespace_or_those_that_they_name_or_select() {
    let mut cluster = cluster();
    cluster.apply_namespace("ns".into(), [("team".into(), "own".into())].into());
    cluster.apply_namespace("other".into(), [("team".into(), "red".into())].into());
    cluster.place(&pod_in("other", "old", json!({"app": "web"}), json!({})), "a");
    let with = |field: &str, value: Value| {
        let mut term = term(HOST, "web");
        term[field] = value;
        pod("p", "x", far(term))
    };
    check(&with("namespaces", json!([])), &cluster, "abcd", &[]);
    check(&with("namespaces", json!(["other"])), &cluster, "bcd", &[NOT_FAR]);
    check(&with("namespaceSelector", json!({})), &cluster, "bcd", &[NOT_FAR]);
    check(&with("namespaceSelector", json!({"matchLabels": {"team": "red"}})), &cluster, "bcd", &[NOT_FAR]);
    check(&with("namespaceSelector", json!({"matchLabels": {"team": "own"}})), &cluster, "abcd", &[]);
}

#[test]
fn keys_of_labels_tell_revisions_and_tenants_apart() {
    let mut cluster = cluster();
    cluster.place(&pod_in("ns", "old", json!({"app": "web", "rev": "1"}), json!({})), "a");
    let new = |field: &str, rev: &str| {
        let mut term = term(HOST, "web");
        term[field] = json!(["rev", "none"]);
        pod_in("ns", "p", json!({"app": "web", "rev": rev}), far(term))
    };
    check(&new("matchLabelKeys", "1"), &cluster, "bcd", &[NOT_FAR]);
    check(&new("matchLabelKeys", "2"), &cluster, "abcd", &[]);
    check(&new("mismatchLabelKeys", "1"), &cluster, "abcd", &[]);
    check(&new("mismatchLabelKeys", "2"), &cluster, "bcd", &[NOT_FAR]);
    let labels = |rev: &str| json!({"app": "web", "rev": rev});
    let even = |rev: &str| pod_in("ns", "p", labels(rev), spread(json!({"matchLabelKeys": ["rev"]})));
    check(&even("1"), &cluster, "c", &[NOT_SPREAD, NO_DOMAIN]);
    check(&even("2"), &cluster, "abc", &[NO_DOMAIN]);
}

#[test]
fn pods_are_spread_over_domains_that_count() {
    let mut cluster = cluster();
    let web = |more: Value| pod("p", "web", spread(more));
    check(&web(json!({})), &cluster, "abc", &[NO_DOMAIN]);
    cluster.place(&pod("one", "web", json!({})), "a");
    check(&web(json!({})), &cluster, "c", &[NO_DOMAIN, NOT_SPREAD]);
    check(&web(json!({"maxSkew": 2})), &cluster, "abc", &[NO_DOMAIN]);
    check(&web(json!({"topologyKey": HOST})), &cluster, "bcd", &[NOT_SPREAD]);
    let mut elsewhere = pod("p", "x", spread(json!({})));
    check(&elsewhere, &cluster, "abc", &[NO_DOMAIN]);
    elsewhere.namespace = "other".into();
    check(&elsewhere, &cluster, "abc", &[NO_DOMAIN]);
    // Who is going does not count.
    let going = Pod { deleting: true, ..pod("one", "web", json!({})) };
    cluster.place(&going, "a");
    check(&web(json!({})), &cluster, "abc", &[NO_DOMAIN]);
    // With fewer domains than asked for the least is none.
    cluster.place(&pod("one", "web", json!({})), "a");
    cluster.place(&pod("two", "web", json!({})), "c");
    check(&web(json!({})), &cluster, "abc", &[NO_DOMAIN]);
    check(&web(json!({"minDomains": 3})), &cluster, "", &[NO_DOMAIN, NOT_SPREAD]);
}

#[test]
fn nodes_that_are_closed_to_the_pod_count_as_its_policies_say() {
    let mut cluster = cluster();
    cluster.place(&pod("one", "web", json!({})), "a");
    // Nothing is in zone `y`, but the selector takes none of its nodes.
    let limited = |more: Value| {
        let mut spec = spread(more);
        spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["x"]}]}],
        }}});
        pod("p", "web", spec)
    };
    check(&limited(json!({})), &cluster, "abc", &[NO_DOMAIN]);
    check(&limited(json!({"nodeAffinityPolicy": "Ignore"})), &cluster, "c", &[NO_DOMAIN, NOT_SPREAD]);
    cluster.apply_node(node("c", "y", json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})));
    check(&pod("p", "web", spread(json!({}))), &cluster, "c", &[NO_DOMAIN, NOT_SPREAD]);
    check(&pod("p", "web", spread(json!({"nodeTaintsPolicy": "Honor"}))), &cluster, "abc", &[NO_DOMAIN]);
}

#[test]
fn the_message_counts_reasons_and_says_whether_preemption_would_help() {
    let mut cluster = cluster();
    cluster.place(&pod("old", "web", json!({})), "a");
    cluster.place(&pod("older", "web", json!({})), "c");
    let Verdict::Unschedulable(message) = place(&pod("p", "web", spread(json!({"minDomains": 3}))), &cluster) else {
        panic!("there is no node for it");
    };
    let expect = "0/4 nodes are available: \
        1 node(s) didn't match pod topology spread constraints (missing required label), \
        3 node(s) didn't match pod topology spread constraints. preemption: 0/4 nodes are available: \
        1 Preemption is not helpful for scheduling, 3 No preemption victims found for incoming pod.";
    assert_eq!(message, expect);
}

#[test]
fn less_important_pods_that_are_in_the_way_are_displaced() {
    let mut cluster = Cluster::default();
    cluster.apply_node(node("a", "x", json!({})));
    let old = |name: &str, app: &str, spec: Value| Pod { priority: 1, ..pod(name, app, spec) };
    cluster.place(&old("rival", "web", json!({})), "a");
    cluster.place(&old("shy", "x", far(term(HOST, "new"))), "a");
    cluster.place(&old("harmless", "x", json!({})), "a");
    let new = Pod { priority: 9, ..pod("p", "new", far(term(HOST, "web"))) };
    let Verdict::Preempt { plan, .. } = place(&new, &cluster) else { panic!("room can be made") };
    let victims: BTreeSet<&str> = plan.victims.iter().map(|victim| victim.name.as_str()).collect();
    assert_eq!(victims, BTreeSet::from(["rival", "shy"]));
    // What it needs beside it does not come by displacing others.
    let new = Pod { priority: 9, ..pod("p", "new", near(term(HOST, "none"))) };
    assert!(matches!(place(&new, &cluster), Verdict::Unschedulable(_)));
}

#[test]
fn room_that_is_kept_for_a_pod_counts_as_if_it_were_there() {
    let mut cluster = cluster();
    cluster.nominate(&Pod { priority: 9, ..pod("kept", "web", far(term(ZONE, "x"))) }, "c");
    let bind = |pod: &Pod, cluster: &Cluster| place(pod, cluster);
    let only_c = |spec: Value| {
        let mut spec = spec;
        spec["nodeSelector"] = json!({ZONE: "y"});
        pod("p", "x", spec)
    };
    assert!(matches!(bind(&only_c(json!({})), &cluster), Verdict::Unschedulable(_)));
    assert!(matches!(bind(&only_c(far(term(ZONE, "web"))), &cluster), Verdict::Unschedulable(_)));
    cluster.denominate("kept");
    assert_eq!(bind(&only_c(far(term(ZONE, "web"))), &cluster), Verdict::Bind("c".into()));
}

#[test]
fn preferences_decide_between_nodes_that_would_do() {
    let mut cluster = Cluster::default();
    for (name, zone) in [("a", "x"), ("b", "y"), ("c", "z")] {
        cluster.apply_node(node(name, zone, json!({})));
    }
    cluster.place(&pod("old", "web", json!({})), "b");
    let liking = |which: &str| {
        let preferred = json!([{"weight": 10, "podAffinityTerm": term(ZONE, "web")}]);
        json!({"affinity": {which: {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}})
    };
    let bind = |pod: &Pod, cluster: &Cluster| match place(pod, cluster) {
        Verdict::Bind(node) => node,
        other => panic!("{other:?}"),
    };
    assert_eq!(bind(&pod("p", "x", liking("podAffinity")), &cluster), "b");
    cluster.place(&pod("second", "x", json!({})), "a");
    cluster.place(&pod("third", "x", json!({})), "c");
    assert_ne!(bind(&pod("p", "x", liking("podAntiAffinity")), &cluster), "b");
    // Who is there already likes to have it near, or does not.
    cluster.place(&pod("second", "x", json!({})), "a");
    cluster.release("third");
    cluster.place(&pod("third", "x", near(term(ZONE, "new"))), "c");
    assert_eq!(bind(&pod("p", "new", json!({})), &cluster), "c");
    // Spread where that is possible, wherever else there is room.
    let soft = spread(json!({"whenUnsatisfiable": "ScheduleAnyway"}));
    cluster.release("third");
    cluster.place(&pod("fourth", "web", json!({})), "a");
    assert_eq!(bind(&pod("p", "web", soft), &cluster), "c");
}

/// A pod with at most one wish, as the property makes it.
#[derive(Debug, Clone)]
struct Made {
    app: &'static str,
    about: &'static str,
    key: &'static str,
    wish: Wish,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Wish {
    None,
    Near,
    Far,
    Spread(i64, usize),
}

fn made() -> impl Strategy<Value = Made> {
    let app = || prop_oneof![Just("red"), Just("blue")];
    let key = prop_oneof![Just(ZONE), Just(HOST)];
    let wish = prop_oneof![
        Just(Wish::None),
        Just(Wish::Near),
        Just(Wish::Far),
        (1i64..3, 1usize..4).prop_map(|(skew, domains)| Wish::Spread(skew, domains)),
    ];
    (app(), app(), key, wish).prop_map(|(app, about, key, wish)| Made { app, about, key, wish })
}

impl Made {
    fn pod(&self, name: &str) -> Pod {
        let term = term(self.key, self.about);
        let spec = match self.wish {
            Wish::None => json!({}),
            Wish::Near => near(term),
            Wish::Far => far(term),
            Wish::Spread(skew, domains) => spread(json!({
                "maxSkew": skew, "minDomains": domains, "topologyKey": self.key, "labelSelector": term["labelSelector"],
            })),
        };
        pod(name, self.app, spec)
    }

    /// Whether it may be on a node, said as the API's documentation says it.
    fn may(&self, at: &Node, there: &[(Made, Node)], nodes: &[Node]) -> bool {
        let same = |key: &str, one: &Node, other: &Node| {
            one.labels.contains_key(key) && one.labels.get(key) == other.labels.get(key)
        };
        let shuns =
            |other: &Made, node: &Node| other.wish == Wish::Far && other.about == self.app && same(other.key, node, at);
        if there.iter().any(|(other, node)| shuns(other, node)) {
            return false;
        }
        let meant: Vec<&Node> =
            there.iter().filter(|(other, _)| other.app == self.about).map(|(_, node)| node).collect();
        match self.wish {
            Wish::None => true,
            Wish::Far => !meant.iter().any(|node| same(self.key, node, at)),
            Wish::Near => {
                let is_known = meant.iter().any(|node| node.labels.contains_key(self.key));
                let is_first = !is_known && self.app == self.about && at.labels.contains_key(self.key);
                is_first || meant.iter().any(|node| same(self.key, node, at))
            }
            Wish::Spread(skew, domains_min) => {
                let Some(domain) = at.labels.get(self.key) else { return false };
                let domains: BTreeSet<&String> = nodes.iter().filter_map(|node| node.labels.get(self.key)).collect();
                let count = |domain: &String| {
                    i64::try_from(meant.iter().filter(|node| node.labels.get(self.key) == Some(domain)).count())
                        .unwrap()
                };
                let least = domains.iter().map(|domain| count(domain)).min().unwrap_or(0);
                let least = if domains.len() < domains_min { 0 } else { least };
                count(domain) + i64::from(self.app == self.about) - least <= skew
            }
        }
    }
}

proptest! {
    /// Pods that come one after the other are where they may be, or may be nowhere.
    #[test]
    fn any_pods_in_any_order_are_bound_where_the_words_of_their_terms_allow(
        zones in proptest::collection::vec(prop_oneof![Just(""), Just("x"), Just("y"), Just("z")], 1..5),
        pods in proptest::collection::vec(made(), 1..14),
    ) {
        let nodes: Vec<Node> =
            zones.iter().enumerate().map(|(index, zone)| node(&format!("n{index}"), zone, json!({}))).collect();
        let mut cluster = Cluster::default();
        for node in &nodes {
            cluster.apply_node(node.clone());
        }
        let mut there: Vec<(Made, Node)> = Vec::new();
        for (index, made) in pods.iter().enumerate() {
            let pod = made.pod(&format!("p{index}"));
            let allowed: Vec<&Node> = nodes.iter().filter(|node| made.may(node, &there, &nodes)).collect();
            match place(&pod, &cluster) {
                Verdict::Bind(name) => {
                    let node = allowed.iter().find(|node| node.name == name);
                    prop_assert!(node.is_some(), "{:?} is not to be on {}", made, name);
                    cluster.place(&pod, &name);
                    there.push((made.clone(), (*node.unwrap()).clone()));
                }
                other => prop_assert!(allowed.is_empty(), "{:?} may be on {:?}: {:?}", made, allowed, other),
            }
        }
    }
}
