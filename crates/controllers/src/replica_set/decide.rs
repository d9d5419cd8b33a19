//! What a set of replicas needs: which pods are its own, which come, which go.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use api::look;
use api::selector::label::LabelSelector;
use serde_json::Value;

/// How many pods are made or removed by one look at a set.
pub const BURST: usize = 500;

/// A set, as far as it matters.
#[derive(Debug, Clone)]
pub struct Set {
    /// metadata.uid.
    pub uid: String,
    /// spec.replicas.
    pub replicas: usize,
    /// Which pods are meant.
    pub selector: LabelSelector,
    /// Whether it is being deleted: then it makes, removes and adopts nothing.
    pub deleting: bool,
}

/// A pod of the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// metadata.name.
    pub name: String,
    /// metadata.uid.
    pub uid: String,
    /// metadata.labels.
    pub labels: BTreeMap<String, String>,
    /// The uid of its controller.
    pub controller: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it has ended.
    pub finished: bool,
    /// spec.nodeName.
    pub node: String,
    /// status.phase.
    pub phase: String,
    /// When it became ready, in seconds, if it is.
    pub ready_since: Option<i64>,
    /// The annotation controller.kubernetes.io/pod-deletion-cost.
    pub cost: i64,
    /// Restarts of its containers.
    pub restarts: i64,
    /// When it was made, in seconds.
    pub created: i64,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Become the controller of this pod.
    Adopt(String),
    /// Stop being the controller of this pod: it is not selected any more.
    Release(String),
    /// Make so many pods.
    Create(usize),
    /// Delete this pod.
    Delete(String),
}

/// What to do, and the names of the active pods that belong to the set when that is done.
#[must_use]
pub fn plan<'a>(set: &Set, pods: &'a [Pod]) -> (Vec<Step>, Vec<&'a Pod>) {
    let (mut steps, mut own) = (Vec::new(), Vec::new());
    for pod in pods {
        let selected = set.selector.matches(|key| pod.labels.get(key).map(String::as_str));
        match (&pod.controller, selected) {
            (Some(uid), true) if *uid == set.uid => own.push(pod),
            // Who is being deleted is left to the collector.
            (Some(uid), false) if *uid == set.uid && !pod.deleting && !set.deleting => {
                steps.push(Step::Release(pod.name.clone()));
            }
            (None, true) if !pod.deleting && !pod.finished && !set.deleting => {
                steps.push(Step::Adopt(pod.name.clone()));
                own.push(pod);
            }
            _ => {}
        }
    }
    let active: Vec<&Pod> = own.into_iter().filter(|pod| !pod.deleting && !pod.finished).collect();
    if set.deleting {
        return (steps, active);
    }
    if active.len() < set.replicas {
        steps.push(Step::Create((set.replicas - active.len()).min(BURST)));
    } else {
        let excess = (active.len() - set.replicas).min(BURST);
        steps.extend(most_dispensable(&active).into_iter().take(excess).map(|pod| Step::Delete(pod.name.clone())));
    }
    (steps, active)
}

/// The pods in the order in which they may go: without a node, not running, not ready, cheap, doubled on a node, ready for
/// a short time, often restarted, young.
fn most_dispensable<'a>(pods: &[&'a Pod]) -> Vec<&'a Pod> {
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        *on_node.entry(&pod.node).or_default() += 1;
    }
    let phase = |pod: &Pod| match pod.phase.as_str() {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let mut sorted = pods.to_vec();
    sorted.sort_by_key(|pod| {
        let doubled = on_node.get(pod.node.as_str()).copied().unwrap_or(0);
        (
            (!pod.node.is_empty(), phase(pod), pod.ready_since.is_some(), pod.cost),
            (Reverse(doubled), Reverse(pod.ready_since), Reverse(pod.restarts), Reverse(pod.created)),
        )
    });
    sorted
}

impl Set {
    /// Reads a ReplicaSet or a ReplicationController.
    pub fn read(object: &Value) -> Set {
        let selector = look::at(object, &["spec", "selector"]);
        let parsed = match look::text(object, "kind") {
            "ReplicationController" => LabelSelector::from_object(Some(&serde_json::json!({"matchLabels": selector}))),
            _ => LabelSelector::from_object(selector),
        };
        let nothing = LabelSelector { requirements: Vec::new(), nothing: true };
        let replicas = look::at(object, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(1);
        Set {
            uid: look::text_at(object, &["metadata", "uid"]).to_owned(),
            replicas: usize::try_from(replicas).unwrap_or(0),
            selector: parsed.unwrap_or(nothing),
            deleting: look::at(object, &["metadata", "deletionTimestamp"]).is_some(),
        }
    }
}

impl Pod {
    /// Reads a pod.
    pub fn read(object: &Value) -> Pod {
        let empty = Value::Null;
        let meta = look::get(object, "metadata").unwrap_or(&empty);
        let status = look::get(object, "status").unwrap_or(&empty);
        let seconds = |text: &str| api::time::parse(text).map(|time| time.as_second());
        let ready = look::list(status, "conditions")
            .iter()
            .find(|one| look::text(one, "type") == "Ready" && look::text(one, "status") == "True");
        let owners = look::list(meta, "ownerReferences").iter();
        let restarts = look::list(status, "containerStatuses").iter();
        let cost = look::text_at(meta, &["annotations", "controller.kubernetes.io/pod-deletion-cost"]);
        Pod {
            name: look::text(meta, "name").to_owned(),
            uid: look::text(meta, "uid").to_owned(),
            labels: look::text_map(meta, "labels").map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            controller: owners
                .into_iter()
                .find(|one| look::flag(one, "controller"))
                .map(|one| look::text(one, "uid").to_owned()),
            deleting: look::get(meta, "deletionTimestamp").is_some(),
            finished: api::pod::is_terminal_phase(look::text(status, "phase")),
            node: look::text_at(object, &["spec", "nodeName"]).to_owned(),
            phase: look::text(status, "phase").to_owned(),
            ready_since: ready.map(|one| seconds(look::text(one, "lastTransitionTime")).unwrap_or(0)),
            cost: cost.parse().unwrap_or(0),
            restarts: restarts.map(|one| look::integer(one, "restartCount").unwrap_or(0)).sum(),
            created: seconds(look::text(meta, "creationTimestamp")).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(replicas: usize) -> Set {
        let selector = LabelSelector::parse("app=web").unwrap();
        Set { uid: "s".into(), replicas, selector, deleting: false }
    }

    fn pod(name: &str) -> Pod {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        Pod { name: name.into(), uid: name.into(), labels, controller: Some("s".into()), ..Pod::default() }
    }

    #[test]
    fn orphans_are_adopted_strangers_left_alone_and_the_unselected_released() {
        let orphan = Pod { controller: None, ..pod("orphan") };
        let strange = Pod { controller: Some("other".into()), ..pod("strange") };
        let lost = Pod { labels: BTreeMap::new(), ..pod("lost") };
        let ended = Pod { controller: None, finished: true, ..pod("ended") };
        let pods = [orphan, strange, lost, ended];
        let (steps, own) = plan(&set(2), &pods);
        assert_eq!(steps, [Step::Adopt("orphan".into()), Step::Release("lost".into()), Step::Create(1)]);
        assert_eq!(own.len(), 1);
    }

    #[test]
    fn a_set_that_is_being_deleted_does_nothing() {
        let going = Set { deleting: true, ..set(2) };
        assert_eq!(plan(&going, &[pod("a"), Pod { controller: None, ..pod("b") }]).0, []);
    }

    #[test]
    fn the_most_dispensable_pods_go_first() {
        let running = |name: &str| Pod { node: "n".into(), phase: "Running".into(), ready_since: Some(5), ..pod(name) };
        let pods = [
            Pod { node: "m".into(), ..running("spread") },
            Pod { cost: 1, ..running("dear") },
            Pod { ready_since: Some(9), ..running("fresh") },
            running("steady"),
            Pod { ready_since: None, ..running("unready") },
            Pod { phase: "Pending".into(), ..running("starting") },
            pod("unbound"),
        ];
        let sorted = most_dispensable(&pods.iter().collect::<Vec<_>>());
        let names: Vec<&str> = sorted.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["unbound", "starting", "unready", "fresh", "steady", "spread", "dear"]);
    }

    /// What may happen between two looks at a set, and how far a look gets before the process dies.
    #[derive(Debug, Clone)]
    enum Happening {
        Look { steps_done: usize },
        Scale(usize),
        End(usize),
        Relabel(usize),
        Orphan(usize),
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            3 => (0usize..6).prop_map(|steps_done| Happening::Look { steps_done }),
            1 => (0usize..8).prop_map(Happening::Scale),
            1 => any::<usize>().prop_map(Happening::End),
            1 => any::<usize>().prop_map(Happening::Relabel),
            1 => any::<usize>().prop_map(Happening::Orphan),
        ]
    }

    /// The world: carries out at most `limit` single effects of a plan.
    fn carry_out(set: &Set, pods: &mut Vec<Pod>, limit: usize, next: &mut usize) {
        let (steps, _) = plan(set, pods);
        let mut left = limit;
        for step in steps {
            let count = if let Step::Create(count) = step { count } else { 1 };
            for _ in 0..count {
                if left == 0 {
                    return;
                }
                left -= 1;
                let at = |name: &String, pods: &[Pod]| pods.iter().position(|pod| pod.name == *name).unwrap();
                match &step {
                    Step::Create(_) => {
                        *next += 1;
                        pods.push(pod(&format!("p{next}")));
                    }
                    Step::Delete(name) => {
                        let index = at(name, pods);
                        pods.remove(index);
                    }
                    Step::Adopt(name) => {
                        let index = at(name, pods);
                        assert_eq!(pods[index].controller, None, "nobody's pod is taken from another");
                        pods[index].controller = Some(set.uid.clone());
                    }
                    Step::Release(name) => {
                        let index = at(name, pods);
                        assert_eq!(pods[index].controller.as_ref(), Some(&set.uid));
                        pods[index].controller = None;
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_history_of_crashes_and_changes_converges_and_a_look_never_makes_too_many(
            history in proptest::collection::vec(happening(), 0..40), replicas in 0usize..8,
        ) {
            let (mut set, mut pods, mut next) = (set(replicas), Vec::new(), 0);
            let active = |pods: &[Pod]| {
                pods.iter().filter(|pod| pod.controller.is_some() && !pod.finished).count()
            };
            for event in history {
                let count = pods.len();
                match event {
                    Happening::Look { steps_done } => {
                        let before = active(&pods);
                        carry_out(&set, &mut pods, steps_done, &mut next);
                        prop_assert!(active(&pods) <= before.max(set.replicas).max(count));
                    }
                    Happening::Scale(replicas) => set.replicas = replicas,
                    Happening::End(index) if count > 0 => pods[index % count].finished = true,
                    Happening::Relabel(index) if count > 0 => pods[index % count].labels.clear(),
                    Happening::Orphan(index) if count > 0 => pods[index % count].controller = None,
                    _ => {}
                }
            }
            carry_out(&set, &mut pods, usize::MAX, &mut next);
            prop_assert_eq!(active(&pods), set.replicas);
            prop_assert_eq!(plan(&set, &pods).0, vec![], "and then it is quiet");
        }
    }
}
