//! PodDisruptionBudgets: how many pods of an application may be taken away now (HOOK-95).
//!
//! The API server's eviction takes one off `disruptionsAllowed` and notes the pod in `disruptedPods`. Here the count is
//! made anew after each change of the pods; a noted pod is no longer healthy, whether its deletion has been seen or not,
//! until it has gone or two minutes are over. Start at [`decide`].

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::label::LabelSelector;
use api::{Timestamp, look};
use serde_json::{Value, json};

use crate::view::Pod;
use crate::view::pod::seconds;
use crate::workload::{Controller, Failure, Plan, Pods, Step, View, after_seconds, condition, share};

/// The controller of budgets.
pub const BUDGETS: Controller = Controller {
    of: ("policy", "poddisruptionbudgets"),
    component: "controllermanager",
    adopts: false,
    children: None,
    pods: Pods::Selected,
    sees_nodes: false,
    decide,
    fail,
};

/// How long an evicted pod may take to be deleted.
const DELETION_SECONDS: i64 = 120;

/// When what could not be counted is counted again, because nobody tells when its reason has gone.
const RECOUNT_SECONDS: i64 = 10;

/// Which pods a budget is about: an empty selector takes all, none at all takes none.
pub fn selector(budget: &Value) -> LabelSelector {
    let nothing = LabelSelector { requirements: Vec::new(), nothing: true };
    LabelSelector::from_object(look::at(budget, &["spec", "selector"])).unwrap_or(nothing)
}

/// What a budget says.
pub fn decide(view: &View, now: Timestamp) -> Plan {
    let expected = match expected(view) {
        Ok(expected) => expected,
        Err(why) => return uncounted(view, &why, now),
    };
    let (disrupted, until) = disrupted(view, now);
    let is_healthy =
        |pod: &&Arc<Pod>| !pod.deleting && pod.ready_since.is_some() && !disrupted.contains_key(&*pod.name);
    let healthy = count(view.pods.iter().filter(is_healthy).count());
    let allowed = if expected.pods > 0 { (healthy - expected.healthy).max(0) } else { 0 };
    let mut status = json!({
        "observedGeneration": view.generation(), "disruptionsAllowed": allowed, "currentHealthy": healthy,
        "desiredHealthy": expected.healthy, "expectedPods": expected.pods,
    });
    if !disrupted.is_empty() {
        look::set(&mut status, "disruptedPods", json!(disrupted));
    }
    let (holds, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    say(view, &mut status, (holds, reason, ""), now);
    let is_new = !condition::is_same_status(view.status(), &status);
    let then = if is_new { warnings(view, expected.is_scaled) } else { Vec::new() };
    Plan { status: Some(status), then, wake_at: until.and_then(after_seconds), ..Plan::default() }
}

/// How many pods there should be, and how many of them healthy.
struct Expected {
    pods: i64,
    healthy: i64,
    /// Whether that is as their workloads say.
    is_scaled: bool,
}

fn expected(view: &View) -> Result<Expected, String> {
    let bound = |field| look::at(&view.object, &["spec", field]);
    Ok(match (bound("maxUnavailable"), bound("minAvailable")) {
        (Some(max), _) => {
            let pods = scale(view)?;
            Expected { pods, healthy: (pods - share(Some(max), pods, true)).max(0), is_scaled: true }
        }
        (None, Some(min @ Value::String(_))) => {
            let pods = scale(view)?;
            Expected { pods, healthy: share(Some(min), pods, true), is_scaled: true }
        }
        (None, Some(min)) => {
            Expected { pods: count(view.pods.len()), healthy: min.as_i64().unwrap_or(0), is_scaled: false }
        }
        (None, None) => Expected { pods: 0, healthy: 0, is_scaled: false },
    })
}

/// The sum of what the workloads of the pods ask for; pods that nobody controls do not count.
fn scale(view: &View) -> Result<i64, String> {
    let mut scales: BTreeMap<&str, i64> = BTreeMap::new();
    for pod in &view.pods {
        let Some(owner) = &pod.controller else { continue };
        let Some(maker) = view.makers.get(&owner.uid) else {
            return Err(format!("found no controllers for pod {:?}", pod.name));
        };
        let kind = api::find_kind(look::text(maker, "apiVersion"), look::text(maker, "kind"));
        if let Some(kind) = kind.filter(|kind| kind.subresource("scale").is_none()) {
            return Err(format!("{} does not implement the scale subresource", kind.qualified()));
        }
        let replicas = look::at(maker, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(1);
        scales.insert(look::text_at(maker, &["metadata", "uid"]), replicas);
    }
    Ok(scales.values().sum())
}

/// The noted pods that are still there and not yet being deleted, with the time of their eviction; and when the first of
/// them counts again.
fn disrupted(view: &View, now: Timestamp) -> (BTreeMap<&str, &str>, Option<i64>) {
    let noted = |name: &str| look::at(view.status(), &["disruptedPods", name]).and_then(Value::as_str);
    let here = view.pods.iter().filter(|pod| !pod.deleting);
    let noted = here.filter_map(|pod| Some((&*pod.name, noted(&pod.name)?)));
    let until = |at: &str| seconds(at).unwrap_or(0) + DELETION_SECONDS;
    let waiting: BTreeMap<&str, &str> = noted.filter(|(_, at)| until(at) > now.as_second()).collect();
    let first = waiting.values().map(|at| until(at)).min();
    (waiting, first)
}

fn say(view: &View, status: &mut Value, (holds, reason, message): (&str, &str, &str), now: Timestamp) {
    look::copy(view.status(), status, "conditions");
    let mut told = condition::new("DisruptionAllowed", holds, reason, message, now);
    look::copy(status, &mut told, "observedGeneration");
    condition::set(status, told);
}

/// What cannot be counted lets no pod go.
fn uncounted(view: &View, why: &str, now: Timestamp) -> Plan {
    let mut status = if view.status().is_object() { view.status().clone() } else { json!({}) };
    look::set(&mut status, "disruptionsAllowed", 0);
    say(view, &mut status, ("False", "SyncFailed", why), now);
    let message = format!("Failed to calculate the number of expected pods: {why}");
    let told = Step::Tell { kind: "Warning", reason: "CalculateExpectedPodCountFailed", message };
    let is_new = !condition::is_same_status(view.status(), &status);
    Plan {
        status: Some(status),
        then: if is_new { vec![told] } else { Vec::new() },
        wake_at: after_seconds(now.as_second() + RECOUNT_SECONDS),
        ..Plan::default()
    }
}

fn warnings(view: &View, is_scaled: bool) -> Vec<Step> {
    if view.pods.is_empty() {
        let message = "No matching pods found".to_owned();
        return vec![Step::Tell { kind: "Normal", reason: "NoPods", message }];
    }
    if !is_scaled || view.pods.iter().all(|pod| pod.controller.is_some()) {
        return Vec::new();
    }
    let message = format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of \
         the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please \
         set \".spec.minAvailable\" field of the PDB to an integer value.",
        selector(&view.object)
    );
    vec![Step::Tell { kind: "Warning", reason: "UnmanagedPods", message }]
}

fn count(pods: usize) -> i64 {
    i64::try_from(pods).unwrap_or(i64::MAX)
}

/// Its plans have no first steps that could fail.
fn fail(_: &mut Value, _: &Value, _: &Failure, _: Timestamp) {}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn at(second: i64) -> String {
        api::time::seconds(Timestamp::from_second(second).unwrap())
    }

    /// A pod of a workload; nobody's if that is empty.
    fn pod(name: &str, of: &str, ready: bool) -> Value {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        if !of.is_empty() {
            pod["metadata"]["ownerReferences"] = json!([
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": of, "uid": of, "controller": true},
            ]);
        }
        pod
    }

    fn maker(kind: &str, uid: &str, replicas: i64) -> Value {
        let api = if kind == "Job" { "batch/v1" } else { "apps/v1" };
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": uid, "uid": uid}, "spec": {"replicas": replicas}})
    }

    /// Ready pods and others of the set `rs` of Deployment `d` with five replicas.
    fn view(spec: Value, ready: usize, others: usize) -> View {
        let name = |n: usize| format!("p{n}");
        let pods = (0..ready + others).map(|n| Arc::new(Pod::read(&pod(&name(n), "rs", n < ready))));
        View {
            object: json!({"metadata": {"name": "b", "generation": 3}, "spec": spec}),
            pods: pods.collect(),
            makers: [("rs".to_owned(), maker("Deployment", "d", 5))].into(),
            ..View::default()
        }
    }

    fn status(view: &View) -> Value {
        let plan = decide(view, now());
        assert!(plan.first.is_empty());
        plan.status.unwrap()
    }

    /// Expected, desired, healthy, allowed.
    fn counts(view: &View) -> [i64; 4] {
        let status = status(view);
        ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"]
            .map(|field| status[field].as_i64().unwrap())
    }

    #[test]
    fn hook_95_numbers_and_percentages_are_of_what_there_should_be() {
        for (spec, expected) in [
            (json!({"minAvailable": 3}), [4, 3, 4, 1]),
            (json!({"minAvailable": 0}), [4, 0, 4, 4]),
            (json!({"minAvailable": 9}), [4, 9, 4, 0]),
            // Of five, as the Deployment asks, rounded up: 50 % are three.
            (json!({"minAvailable": "50%"}), [5, 3, 4, 1]),
            (json!({"minAvailable": "100%"}), [5, 5, 4, 0]),
            (json!({"maxUnavailable": 1}), [5, 4, 4, 0]),
            (json!({"maxUnavailable": 2}), [5, 3, 4, 1]),
            (json!({"maxUnavailable": "50%"}), [5, 2, 4, 2]),
            (json!({"maxUnavailable": 9}), [5, 0, 4, 4]),
            (json!({}), [0, 0, 4, 0]),
        ] {
            assert_eq!(counts(&view(spec.clone(), 4, 0)), expected, "{spec}");
        }
        assert_eq!(counts(&view(json!({"minAvailable": 1}), 2, 2)), [4, 1, 2, 1], "what is not ready is not healthy");
        assert_eq!(counts(&view(json!({"minAvailable": 0}), 0, 0)), [0, 0, 0, 0], "no pods, nothing to disrupt");
    }

    #[test]
    fn hook_95_workloads_are_counted_once_and_pods_of_nobody_not_at_all() {
        let mut view = view(json!({"maxUnavailable": 1}), 2, 0);
        view.pods.push(Arc::new(Pod::read(&pod("old", "rs-old", true))));
        view.makers.insert("rs-old".to_owned(), maker("Deployment", "d", 5));
        assert_eq!(counts(&view)[0], 5, "two sets of one Deployment");
        view.pods.push(Arc::new(Pod::read(&pod("db-0", "db", true))));
        view.makers.insert("db".to_owned(), maker("StatefulSet", "db", 3));
        assert_eq!(counts(&view)[0], 8);
        view.pods.push(Arc::new(Pod::read(&pod("bare", "", true))));
        assert_eq!(counts(&view), [8, 7, 5, 0]);
        let told = decide(&view, now()).then;
        assert!(matches!(&told[..], [Step::Tell { reason: "UnmanagedPods", .. }]), "{told:?}");
    }

    #[test]
    fn hook_95_what_cannot_be_counted_lets_no_pod_go_and_is_tried_again() {
        let mut of_job = view(json!({"maxUnavailable": 1}), 3, 0);
        of_job.makers.insert("rs".to_owned(), maker("Job", "j", 3));
        let mut of_nobody = of_job.clone();
        of_nobody.makers.clear();
        for (mut view, why) in [
            (of_job, "jobs.batch does not implement the scale subresource"),
            (of_nobody, "found no controllers for pod \"p0\""),
        ] {
            look::set(&mut view.object, "status", json!({"disruptionsAllowed": 2, "expectedPods": 3}));
            let plan = decide(&view, now());
            let status = plan.status.unwrap();
            assert_eq!((&status["disruptionsAllowed"], &status["expectedPods"]), (&json!(0), &json!(3)));
            let condition = condition::find(&status, "DisruptionAllowed").unwrap();
            assert_eq!((&condition["reason"], &condition["message"]), (&json!("SyncFailed"), &json!(why)));
            assert_eq!(plan.wake_at.unwrap().as_second(), NOW + RECOUNT_SECONDS);
            assert!(matches!(&plan.then[..], [Step::Tell { reason: "CalculateExpectedPodCountFailed", .. }]));
        }
        // A number of pods needs no workload.
        let mut bare = view(json!({"minAvailable": 1}), 3, 0);
        bare.makers.clear();
        assert_eq!(counts(&bare), [3, 1, 3, 2]);
    }

    #[test]
    fn hook_95_an_evicted_pod_is_not_healthy_until_it_has_gone_or_two_minutes_are_over() {
        let mut view = view(json!({"minAvailable": 1}), 4, 0);
        let noted = json!({"p0": at(NOW - 20), "p1": at(NOW - 120), "p2": at(NOW - 5), "gone": at(NOW)});
        look::set(&mut view.object, "status", json!({"disruptedPods": noted}));
        let mut going = pod("p2", "rs", true);
        going["metadata"]["deletionTimestamp"] = json!(at(NOW));
        view.pods[2] = Arc::new(Pod::read(&going));
        let plan = decide(&view, now());
        let status = plan.status.unwrap();
        assert_eq!(status["disruptedPods"], json!({"p0": at(NOW - 20)}));
        assert_eq!((&status["currentHealthy"], &status["disruptionsAllowed"]), (&json!(2), &json!(1)));
        assert_eq!(plan.wake_at.unwrap().as_second(), NOW + 100, "then it counts again");
        let later = Timestamp::from_second(NOW + 100).unwrap();
        let status = decide(&view, later).status.unwrap();
        assert_eq!((status.get("disruptedPods"), &status["currentHealthy"]), (None, &json!(3)));
    }

    #[test]
    fn hook_95_the_condition_follows_what_is_allowed_and_nothing_is_told_twice() {
        let mut view = view(json!({"minAvailable": 1}), 2, 0);
        let first = status(&view);
        let condition = condition::find(&first, "DisruptionAllowed").unwrap();
        assert_eq!(
            *condition,
            json!({"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "message": "",
                "lastTransitionTime": at(NOW), "observedGeneration": 3})
        );
        assert_eq!(first["observedGeneration"], 3);
        let kind = api::find("policy", "v1", "poddisruptionbudgets").unwrap();
        let whole = json!({"status": first});
        assert_eq!(kind.rules.validate_update(&whole, &view.object, Some("status")), []);
        look::set(&mut view.object, "status", first.clone());
        view.pods.truncate(1);
        let later = Timestamp::from_second(NOW + 7).unwrap();
        let second = decide(&view, later).status.unwrap();
        let condition = condition::find(&second, "DisruptionAllowed").unwrap();
        assert_eq!(
            (&condition["reason"], &condition["lastTransitionTime"]),
            (&json!("InsufficientPods"), &json!(at(NOW + 7)))
        );
        view.pods.clear();
        assert!(matches!(&decide(&view, later).then[..], [Step::Tell { reason: "NoPods", .. }]));
        let last = decide(&view, later).status.unwrap();
        look::set(&mut view.object, "status", last);
        assert!(decide(&view, later).then.is_empty());
    }
}
