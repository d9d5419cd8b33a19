//! Whom a pod displaces: the pods of one node with lower priorities, as few and as unimportant as can be.
//!
//! Pure. Asked only when no node has room. The order in which nodes and victims are preferred is upstream's (HOOK-94):
//! on each node all lower pods go in thought, then as many as possible come back, first those whose disruption budget is
//! used up, then the important ones; of the nodes the one that breaks the fewest budgets wins, then the one whose most
//! important victim is least important. Start at [`plan`].

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::decide::Cluster;
use crate::fit::{self, Resources};
use crate::neighbours::Survey;
use crate::view::{Budget, Node, Pod};

/// Who has to go, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The node that the pod waits for.
    pub node: String,
    /// The pods to delete, the most important first.
    pub victims: Vec<Victim>,
}

/// A pod that has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
    /// metadata.uid.
    pub uid: String,
}

/// Why a pod displaces nobody, in upstream's words; None if it may.
pub fn ineligible(pod: &Pod, cluster: &Cluster) -> Option<&'static str> {
    if !pod.preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = cluster.nomination(&pod.uid)?;
    let goes = |other: &Pod| other.deleting && other.priority < pod.priority;
    cluster.pods_on(nominated).any(goes).then_some("not eligible due to terminating pod on the nominated node.")
}

/// The best choice among nodes on which others are in the way.
pub fn plan<'a>(
    pod: &'a Pod,
    nodes: impl Iterator<Item = &'a Node>,
    (cluster, survey): (&'a Cluster, Option<&Survey<'a>>),
) -> Option<Plan> {
    let choices = nodes.filter_map(|node| Some((node, victims(pod, node, (cluster, survey))?)));
    let (node, (_, victims)) = choices.min_by_key(|(_, (broken, victims))| {
        let highest = victims.first().map_or(i64::MIN, |victim| victim.priority);
        let sum: i64 = victims.iter().map(|victim| victim.priority + i64::from(i32::MAX) + 1).sum();
        let started = victims.iter().filter(|victim| victim.priority == highest).map(|victim| &victim.started).min();
        (*broken, highest, sum, victims.len(), Reverse(started.cloned().unwrap_or_default()))
    })?;
    let victims = victims.into_iter().map(|victim| Victim {
        namespace: victim.namespace.clone(),
        name: victim.name.clone(),
        uid: victim.uid.clone(),
    });
    Some(Plan { node: node.name.clone(), victims: victims.collect() })
}

/// Who would have to go from this node, after how many of them break a budget; None if that would not help, or nobody
/// has to.
fn victims<'a>(
    pod: &'a Pod,
    node: &'a Node,
    (cluster, survey): (&'a Cluster, Option<&Survey<'a>>),
) -> Option<(usize, Vec<&'a Pod>)> {
    let (mut lower, mut staying): (Vec<&Pod>, Vec<&Pod>) =
        cluster.pods_on(&node.name).partition(|other| other.priority < pod.priority);
    let kept_for: Vec<&Pod> = cluster.nominated_on(&node.name, pod).collect();
    // What its neighbours would mean for it without those that go.
    let mut survey = survey.cloned();
    let count = |survey: &mut Option<Survey<'a>>, other: &'a Pod, by: i64| {
        survey.iter_mut().for_each(|survey| survey.count(other, node, by));
    };
    lower.iter().for_each(|other| count(&mut survey, other, -1));
    kept_for.iter().for_each(|other| count(&mut survey, other, 1));
    staying.extend(kept_for);
    let fits = |staying: &[&Pod], survey: &Option<Survey<'_>>| {
        has_room(pod, node, staying) && survey.as_ref().is_none_or(|survey| survey.refusal(node).is_none())
    };
    if lower.is_empty() || !fits(&staying, &survey) {
        return None;
    }
    // The important and, of those, the old ones come back first.
    lower.sort_by(|a, b| importance(a).cmp(&importance(b)));
    let (protected, free) = by_budget(lower, cluster);
    let (mut going, mut broken) = (Vec::new(), 0);
    for (candidate, breaks) in protected.into_iter().map(|pod| (pod, 1)).chain(free.into_iter().map(|pod| (pod, 0))) {
        staying.push(candidate);
        count(&mut survey, candidate, 1);
        if !fits(&staying, &survey) {
            staying.pop();
            count(&mut survey, candidate, -1);
            going.push(candidate);
            broken += breaks;
        }
    }
    going.sort_by(|a, b| importance(a).cmp(&importance(b)));
    (!going.is_empty()).then_some((broken, going))
}

/// The order in which pods stay.
fn importance(pod: &Pod) -> (Reverse<i64>, &str) {
    (Reverse(pod.priority), &pod.started)
}

/// Those whose end would break a disruption budget, if all of these went in this order; then the others.
fn by_budget<'a>(pods: Vec<&'a Pod>, cluster: &Cluster) -> (Vec<&'a Pod>, Vec<&'a Pod>) {
    let mut left: BTreeMap<(String, String), i64> = BTreeMap::new();
    pods.into_iter().partition(|pod| {
        let takes = |budget: &&Budget| {
            !budget.noted.contains(&pod.name) && budget.selector.matches(|key| pod.labels.get(key).map(String::as_str))
        };
        let mut breaks = false;
        for budget in cluster.budgets_in(&pod.namespace).filter(takes) {
            let key = (budget.namespace.clone(), budget.name.clone());
            let left = left.entry(key).or_insert(budget.allowed);
            *left -= 1;
            breaks |= *left < 0;
        }
        breaks
    })
}

fn has_room(pod: &Pod, node: &Node, others: &[&Pod]) -> bool {
    let mut sum = Resources::default();
    others.iter().for_each(|other| sum.add(&other.requests));
    let fits = |(name, wanted): (&String, &i64)| *wanted <= 0 || *wanted <= node.allocatable.get(name) - sum.get(name);
    let collides =
        |other: &&Pod| other.ports.iter().any(|theirs| pod.ports.iter().any(|ours| fit::collide(ours, theirs)));
    (others.len() as i64) < node.allocatable.get("pods")
        && pod.requests.0.iter().all(fits)
        && !others.iter().any(collides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Verdict, place};
    use crate::view::{BudgetObject, NodeObject, PodObject};
    use serde_json::json;

    fn pod(name: &str, priority: i64, cpu: &str, started: &str) -> Pod {
        let object = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]},
            "status": {"phase": "Running", "startTime": started},
        });
        serde_json::from_value::<PodObject>(object).unwrap().into()
    }

    fn cluster(nodes: &[(&str, &[Pod])]) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, pods) in nodes {
            let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}});
            cluster.apply_node(serde_json::from_value::<NodeObject>(node).unwrap().into());
            for pod in *pods {
                cluster.place(pod, name);
            }
        }
        cluster
    }

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-01-02T00:00:00Z";

    #[track_caller]
    fn check(pod: &Pod, cluster: &Cluster, expect: &str) {
        let said = match place(pod, cluster) {
            Verdict::Bind(node) => format!("bind {node}"),
            Verdict::Preempt { plan, message } => {
                let names: Vec<&str> = plan.victims.iter().map(|victim| &*victim.name).collect();
                assert!(message.ends_with("Insufficient cpu."), "{message}");
                format!("{}: {}", plan.node, names.join(" "))
            }
            Verdict::Unschedulable(message) => message,
        };
        assert_eq!(said, expect);
    }

    #[test]
    fn hook_94_as_few_go_as_make_room_the_least_important_and_youngest() {
        let pods = [
            pod("low-old", 1, "300m", OLD),
            pod("low-new", 1, "300m", NEW),
            pod("middle", 5, "300m", OLD),
            pod("equal", 10, "100m", OLD),
        ];
        let cluster = cluster(&[("a", &pods)]);
        check(&pod("in", 10, "300m", NEW), &cluster, "a: low-new");
        check(&pod("in", 10, "600m", NEW), &cluster, "a: low-old low-new");
        check(&pod("in", 10, "900m", NEW), &cluster, "a: middle low-old low-new");
        let helpless = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        check(&pod("in", 10, "950m", NEW), &cluster, helpless);
        check(&pod("in", 1, "300m", NEW), &cluster, helpless);
    }

    #[test]
    fn the_node_whose_most_important_victim_is_the_least_important_is_taken_then_the_one_with_fewer() {
        let full = |name: &str, priority| pod(name, priority, "1", OLD);
        let halves = [pod("x", 1, "500m", OLD), pod("y", 1, "500m", OLD)];
        let nodes: &[(&str, &[Pod])] = &[("a", &[full("dear", 5)]), ("b", &halves), ("c", &[full("cheap", 1)])];
        check(&pod("in", 10, "800m", NEW), &cluster(nodes), "c: cheap");
        let nodes: &[(&str, &[Pod])] = &[("a", &[full("since-long", 1)]), ("b", &[pod("young", 1, "1", NEW)])];
        check(&pod("in", 10, "800m", NEW), &cluster(nodes), "b: young");
    }

    fn budget(name: &str, app: &str, allowed: i64, noted: &[&str]) -> Budget {
        let noted: serde_json::Map<String, serde_json::Value> =
            noted.iter().map(|pod| ((*pod).to_owned(), json!(OLD))).collect();
        let object = json!({
            "metadata": {"name": name, "namespace": "ns"}, "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {"disruptionsAllowed": allowed, "disruptedPods": noted},
        });
        serde_json::from_value::<BudgetObject>(object).unwrap().into()
    }

    fn of(app: &str, mut pod: Pod) -> Pod {
        pod.labels = [("app".to_owned(), app.to_owned())].into();
        pod
    }

    #[test]
    fn hook_95_victims_are_taken_where_no_budget_is_broken_if_that_is_possible() {
        let guarded = |name: &str| of("web", pod(name, 1, "500m", OLD));
        let pods = [guarded("x"), guarded("y")];
        let mut cluster = cluster(&[("a", &pods), ("b", &[pod("dearer", 5, "1", OLD)])]);
        let asks = pod("in", 10, "400m", NEW);
        check(&asks, &cluster, "a: y");
        cluster.apply_budget(budget("web", "web", 1, &[]));
        check(&asks, &cluster, "a: x");
        check(&pod("in", 10, "900m", NEW), &cluster, "b: dearer");
        cluster.apply_budget(budget("web", "web", 0, &[]));
        check(&asks, &cluster, "b: dearer");
        // What is on its way out already breaks nothing.
        cluster.apply_budget(budget("web", "web", 0, &["x"]));
        check(&asks, &cluster, "a: x");
        cluster.apply_budget(budget("web", "other", 0, &[]));
        check(&asks, &cluster, "a: y");
        cluster.retain_budgets(|_, _| false);
        assert_eq!(cluster.budgets_in("ns").count(), 0);
    }

    #[test]
    fn hook_95_a_broken_budget_is_better_than_no_place_for_the_more_important_pod() {
        let pods = [of("web", pod("young", 1, "500m", NEW)), pod("old", 1, "500m", OLD)];
        let mut cluster = cluster(&[("a", &pods)]);
        check(&pod("in", 10, "400m", NEW), &cluster, "a: young");
        cluster.apply_budget(budget("web", "web", 0, &[]));
        check(&pod("in", 10, "400m", NEW), &cluster, "a: old");
        check(&pod("in", 10, "900m", NEW), &cluster, "a: old young");
    }

    #[test]
    fn who_waits_for_a_place_keeps_it_from_lower_pods_and_does_not_displace_twice() {
        let mut cluster = cluster(&[("a", &[pod("victim", 1, "800m", OLD)])]);
        let first = pod("first", 10, "800m", NEW);
        check(&first, &cluster, "a: victim");
        cluster.nominate(&first, "a");
        let mut going = pod("victim", 1, "800m", OLD);
        going.deleting = true;
        cluster.release("victim");
        cluster.place(&going, "a");
        let waiting = "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to terminating pod on the nominated node.";
        check(&first, &cluster, waiting);
        cluster.release("victim");
        let second = pod("second", 5, "400m", NEW);
        assert!(matches!(place(&second, &cluster), Verdict::Unschedulable(_)), "the place is kept");
        check(&pod("tiny", 5, "100m", NEW), &cluster, "bind a");
        check(&pod("more-important", 20, "400m", NEW), &cluster, "bind a");
        check(&first, &cluster, "bind a");
    }
}
