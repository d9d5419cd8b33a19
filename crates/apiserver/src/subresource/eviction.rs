//! `pods/eviction`: a polite deletion, as far as the pod's disruption budget allows it (HOOK-95).
//!
//! A budget is charged by compare-and-swap before the pod is deleted: one off `disruptionsAllowed`, and the pod noted in
//! `disruptedPods`, so that the controller that counts the budget knows of it before it sees the deletion. What
//! [`charged`] and [`right`] decide is pure. Start at [`evict`].

use api::selector::label::LabelSelector;
use api::{Kind, Timestamp, look};
use serde_json::{Value, json};
use store::List;

use crate::admission::Operation;
use crate::delete::{self, DeleteOptions};
use crate::object;
use crate::query::Query;
use crate::registry::{Call, Registry};
use crate::status::{Status, from_store};

/// How often a write is tried again that somebody else was faster than.
const TRIES: usize = 20;

/// How many pods may be noted in a budget before the controller has to have seen some of them go.
const NOTED_MAX: usize = 2000;

/// When a client may try again that came before the controller had counted the budget.
const UNCOUNTED_RETRY_SECONDS: i64 = 10;

/// kubectl before 1.22 sends v1beta1, which Kubernetes still takes here.
const VERSIONS: [&str; 3] = ["", "policy/v1", "policy/v1beta1"];

const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

const SEVERAL: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

/// Deletes the pod of an Eviction with its delete options, if admission lets it and it may go.
pub async fn evict(registry: &Registry, call: &Call<'_>, eviction: Value, query: &Query) -> Result<Value, Status> {
    let (version, kind) = (look::text(&eviction, "apiVersion"), look::text(&eviction, "kind"));
    if !VERSIONS.contains(&version) || !["", "Eviction"].contains(&kind) {
        let why =
            format!("no kind {kind:?} is registered for version {version:?} at this path: an Eviction is expected");
        return Err(Status::bad_request(why));
    }
    if object::name(&eviction) != call.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = |eviction: &Value| DeleteOptions::parse(look::get(eviction, "deleteOptions"), query);
    let call = Call { dry_run: call.dry_run || options(&eviction)?.dry_run, ..*call };
    let options = options(&registry.admit(&call, Operation::Create, eviction).await?)?;
    let call = Call { subresource: None, dry_run: call.dry_run || options.dry_run, ..call };
    let mut refusal = Status::modified(call.kind, call.name);
    for _ in 0..TRIES {
        match attempt(registry, &call, &options).await {
            Err(Refused { status, is_overtaken: true }) if options.resource_version.is_none() => refusal = status,
            Err(Refused { status, .. }) => return Err(status),
            Ok(()) => {
                let success = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
                });
                return Ok(success);
            }
        }
    }
    Err(refusal)
}

/// Why an eviction came to nothing.
struct Refused {
    status: Status,
    /// Whether only because the pod has changed meanwhile, so that it is to be judged again.
    is_overtaken: bool,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Refused {
        Refused { status, is_overtaken: false }
    }
}

/// By what right a pod goes.
#[derive(Debug, PartialEq)]
enum Right {
    /// It has ended, or is ending.
    Ended,
    /// It has not begun, which has to be so still when it goes.
    Pending,
    /// No budget is about it.
    Free,
    /// It takes nothing from the budget of this name while it is not ready.
    Unready(String),
    /// The budget of this name has to be charged.
    Charge(String),
}

async fn attempt(registry: &Registry, call: &Call<'_>, options: &DeleteOptions) -> Result<(), Refused> {
    let pod = object::decode(call.kind, &registry.entry(call).await?);
    let budgets = budgets(registry, call).await?;
    let right = right(&pod, &budgets)?;
    if let Right::Charge(budget) = &right {
        charge(registry, call, budget).await?;
    }
    let pins = matches!(right, Right::Pending | Right::Unready(_)) && options.resource_version.is_none();
    let mut options = options.clone();
    if pins {
        options.resource_version = Some(object::meta(&pod, "resourceVersion").to_owned());
    }
    remove(registry, call, options).await.map_err(|status| match (status.reason == "Conflict", right) {
        (true, Right::Unready(budget)) if pins => uncounted(&budget).into(),
        (is_conflict, Right::Ended | Right::Pending) => Refused { status, is_overtaken: is_conflict },
        _ => status.into(),
    })
}

/// The kind of budgets.
fn budget_kind() -> &'static Kind {
    api::find("policy", "v1", "poddisruptionbudgets").expect("the table of kinds has budgets")
}

/// All budgets of the namespace. A store that does not answer is no store without budgets.
async fn budgets(registry: &Registry, call: &Call<'_>) -> Result<Vec<Value>, Status> {
    let kind = budget_kind();
    let list = List { prefix: object::key(kind, call.namespace, None), ..List::default() };
    let page = registry.world.store.list(list).await.map_err(|error| from_store(kind, "", &error))?;
    Ok(page.items.iter().map(|entry| object::decode(kind, entry)).collect())
}

fn right(pod: &Value, budgets: &[Value]) -> Result<Right, Status> {
    let phase = look::text_at(pod, &["status", "phase"]);
    if api::pod::is_terminal_phase(phase) || look::at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        return Ok(Right::Ended);
    }
    if phase == "Pending" {
        return Ok(Right::Pending);
    }
    let selects = |budget: &&Value| {
        let selector = LabelSelector::from_object(look::at(budget, &["spec", "selector"]));
        selector.is_ok_and(|selector| selector.matches_object(pod))
    };
    let mut about = budgets.iter().filter(selects);
    let budget = match (about.next(), about.next()) {
        (None, _) => return Ok(Right::Free),
        (Some(one), None) => one,
        (Some(_), Some(_)) => return Err(Status::plain(500, "", SEVERAL)),
    };
    let name = object::name(budget).to_owned();
    let status = &budget["status"];
    let (current, desired) = (number(status, "currentHealthy"), number(status, "desiredHealthy"));
    let always = look::text_at(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    Ok(match is_ready(pod) {
        false if always || (current >= desired && desired > 0) => Right::Unready(name),
        _ => Right::Charge(name),
    })
}

fn is_ready(pod: &Value) -> bool {
    let conditions = look::list_at(pod, &["status", "conditions"]);
    conditions.iter().any(|one| look::text(one, "type") == "Ready" && look::text(one, "status") == "True")
}

fn number(status: &Value, field: &str) -> i64 {
    look::integer(status, field).unwrap_or(0)
}

/// Takes the pod from its budget.
async fn charge(registry: &Registry, call: &Call<'_>, name: &str) -> Result<(), Status> {
    let budget_call = Call { kind: budget_kind(), name, subresource: Some("status"), ..*call };
    for _ in 0..TRIES {
        match registry.rewrite(&budget_call, &|budget| charged(budget, call.name, call.now)).await {
            Err(status) if status.reason == "Conflict" => {}
            outcome => return outcome.map(drop),
        }
    }
    let message = format!("Timeout: couldn't update PodDisruptionBudget {name:?} due to conflicts");
    Err(Status { details: json!({"retryAfterSeconds": 10}), ..Status::plain(504, "Timeout", message) })
}

/// The budget after the eviction of one of its pods; or why there can be none.
fn charged(budget: &Value, pod: &str, now: Timestamp) -> Result<Value, Status> {
    let (name, status) = (object::name(budget), &budget["status"]);
    let generation = look::at(budget, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
    if number(status, "observedGeneration") < generation {
        return Err(uncounted(name));
    }
    let allowed = number(status, "disruptionsAllowed");
    if look::map(status, "disruptedPods").count() > NOTED_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(budget_kind(), name, why));
    }
    if allowed <= 0 {
        return Err(too_many(exhausted(name, status), None));
    }
    let mut new = budget.clone();
    let status = look::child(&mut new, "status");
    look::set(status, "disruptionsAllowed", allowed - 1);
    look::set(look::child(status, "disruptedPods"), pod, object::timestamp(now));
    if allowed == 1 {
        let observed = number(status, "observedGeneration");
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "lastTransitionTime": object::timestamp(now), "observedGeneration": observed,
        });
        set_condition(status, condition);
    }
    Ok(new)
}

/// Why nothing is left of a budget.
fn exhausted(name: &str, status: &Value) -> String {
    let refuses = |one: &&Value| {
        look::text(one, "type") == "DisruptionAllowed"
            && look::text(one, "status") == "False"
            && !look::text(one, "message").is_empty()
    };
    let condition = look::list(status, "conditions").iter().find(refuses);
    let of = |field| condition.map_or("", |condition| look::text(condition, field));
    let (desired, current) = (number(status, "desiredHealthy"), number(status, "currentHealthy"));
    let opening = format!("The disruption budget {name} does not allow evicting pods currently");
    match of("reason") {
        // What could not be counted says nothing by its numbers.
        "SyncFailed" => format!("{opening} because it failed sync: {}", of("message")),
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        _ if condition.is_none() => opening,
        reason => format!("{opening} ({reason}): {}", of("message")),
    }
}

/// The budget is not counted as it is now, or the pod not as it was.
fn uncounted(budget: &str) -> Status {
    let cause = format!("The disruption budget {budget} is still being processed by the server.");
    too_many(cause, Some(UNCOUNTED_RETRY_SECONDS))
}

fn too_many(cause: String, retry_after_seconds: Option<i64>) -> Status {
    let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]});
    if let Some(seconds) = retry_after_seconds {
        look::set(&mut details, "retryAfterSeconds", seconds);
    }
    Status { details, ..Status::plain(429, "TooManyRequests", REFUSAL) }
}

/// Says on the pod why it goes, then deletes it.
async fn remove(registry: &Registry, call: &Call<'_>, mut options: DeleteOptions) -> Result<(), Status> {
    if !call.dry_run {
        let told = |pod: &Value| {
            delete::check_preconditions(call, &options, pod)?;
            Ok(doomed(pod, call.now))
        };
        let written = registry.rewrite(call, &told).await?;
        if written.removed {
            return Ok(());
        }
        if options.resource_version.is_some() {
            options.resource_version = written.revision.map(|revision| revision.to_string());
        }
    }
    delete::delete(registry, call, &options).await.map(drop)
}

/// HOOK-95: the pod with the condition that tells what ends it.
fn doomed(pod: &Value, now: Timestamp) -> Value {
    let mut new = pod.clone();
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": object::timestamp(now),
    });
    set_condition(look::child(&mut new, "status"), condition);
    new
}

/// Sets a condition: its time of transition changes only with its status.
fn set_condition(status: &mut Value, mut wanted: Value) {
    let mut all = look::list(status, "conditions").to_vec();
    match all.iter_mut().find(|one| look::text(one, "type") == look::text(&wanted, "type")) {
        Some(known) => {
            if look::text(known, "status") == look::text(&wanted, "status") {
                look::copy(known, &mut wanted, "lastTransitionTime");
            }
            *known = wanted;
        }
        None => all.push(wanted),
    }
    look::set(status, "conditions", all);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, ready: bool) -> Value {
        let ready = if ready { "True" } else { "False" };
        json!({
            "metadata": {"name": "p", "labels": {"app": "web"}},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn budget(name: &str, status: Value) -> Value {
        json!({
            "metadata": {"name": name, "generation": 2}, "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": status,
        })
    }

    #[test]
    fn hook_95_only_pods_that_run_and_have_a_budget_are_charged() {
        let budgets = [budget("b", json!({}))];
        for (pod, expected) in [
            (pod("Succeeded", false), Right::Ended),
            (pod("Failed", false), Right::Ended),
            (pod("Pending", false), Right::Pending),
            (pod("Running", true), Right::Charge("b".to_owned())),
            (pod("Running", false), Right::Charge("b".to_owned())),
        ] {
            assert_eq!(right(&pod, &budgets), Ok(expected), "{pod}");
        }
        assert_eq!(right(&pod("Running", true), &[]), Ok(Right::Free));
        let mut going = pod("Running", true);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(right(&going, &budgets), Ok(Right::Ended));
        let several = right(&pod("Running", true), &[budgets[0].clone(), budget("c", json!({}))]).unwrap_err();
        assert_eq!((several.code, &*several.message), (500, SEVERAL));
        // An empty selector takes all pods, none at all takes none.
        for (selector, expected) in [(json!({}), Right::Charge("b".to_owned())), (Value::Null, Right::Free)] {
            let mut budget = budget("b", json!({}));
            budget["spec"]["selector"] = selector;
            assert_eq!(right(&pod("Running", true), &[budget]), Ok(expected));
        }
    }

    #[test]
    fn hook_95_a_pod_that_is_not_ready_goes_while_enough_others_are_or_always_if_said() {
        let healthy = |current: i64, desired: i64| json!({"currentHealthy": current, "desiredHealthy": desired});
        let of = |budget: Value| right(&pod("Running", false), &[budget]).unwrap();
        assert_eq!(of(budget("b", healthy(2, 2))), Right::Unready("b".to_owned()));
        assert_eq!(of(budget("b", healthy(1, 2))), Right::Charge("b".to_owned()));
        assert_eq!(of(budget("b", healthy(0, 0))), Right::Charge("b".to_owned()));
        let mut always = budget("b", healthy(1, 2));
        always["spec"]["unhealthyPodEvictionPolicy"] = json!("AlwaysAllow");
        assert_eq!(of(always.clone()), Right::Unready("b".to_owned()));
        assert_eq!(right(&pod("Running", true), &[always]), Ok(Right::Charge("b".to_owned())));
    }

    #[test]
    fn hook_95_a_budget_gives_what_it_has_and_then_says_why_not() {
        let now = Timestamp::from_second(60).unwrap();
        let status = json!({
            "observedGeneration": 2, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1,
            "conditions": [{"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods"}],
        });
        let after = charged(&budget("b", status.clone()), "p", now).unwrap();
        assert_eq!(after["status"]["disruptionsAllowed"], 0);
        assert_eq!(after["status"]["disruptedPods"], json!({"p": "1970-01-01T00:01:00Z"}));
        let condition = &after["status"]["conditions"][0];
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("InsufficientPods")));
        let causes = |budget: &Value| {
            let refused = charged(budget, "q", now).unwrap_err();
            assert_eq!((refused.code, &*refused.reason, &*refused.message), (429, "TooManyRequests", REFUSAL));
            (refused.details["causes"][0]["message"].clone(), refused.details.get("retryAfterSeconds").cloned())
        };
        let used_up = "The disruption budget b does not allow evicting pods currently";
        assert_eq!(causes(&after), (json!(used_up), None));
        let mut told = after.clone();
        told["status"]["conditions"][0]["message"] = json!("why");
        assert_eq!(causes(&told).0, format!("{used_up} (InsufficientPods): why"));
        let mut short = after.clone();
        short["status"]["currentHealthy"] = json!(1);
        let needs = "The disruption budget b needs 1 healthy pods and has 1 currently";
        assert_eq!(causes(&short), (json!(needs), None));
        let mut stale = status.clone();
        stale["observedGeneration"] = json!(1);
        let waits = "The disruption budget b is still being processed by the server.";
        assert_eq!(causes(&budget("b", stale)), (json!(waits), Some(json!(10))));
        let mut broken = after;
        broken["status"]["conditions"][0]["reason"] = json!("SyncFailed");
        broken["status"]["conditions"][0]["message"] = json!("why");
        let failed = "The disruption budget b does not allow evicting pods currently because it failed sync: why";
        assert_eq!(causes(&broken).0, failed);
        let mut full = status;
        full["disruptedPods"] = (0..=NOTED_MAX).map(|n| (n.to_string(), json!("x"))).collect();
        assert_eq!(charged(&budget("b", full), "p", now).unwrap_err().code, 403);
    }
}
