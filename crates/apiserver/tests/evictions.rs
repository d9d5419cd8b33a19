//! HOOK-95: evictions and disruption budgets through the in-process door, on the memory store.
#![allow(missing_docs)]

use std::sync::Arc;

use door::{Door, PODS, door, pod};
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use tokio::task::JoinSet;

mod door;

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// A running pod with a grace period, so that it is seen while it goes.
async fn running(door: &Door, name: &str, ready: bool) {
    let mut new = pod(name);
    new["metadata"]["labels"] = json!({"app": "web"});
    assert_eq!(door.post(PODS, &new).await.0, 201);
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(door.post(&format!("{PODS}/{name}/binding"), &binding).await.0, 201);
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    let (code, told) = door.merge(&format!("{PODS}/{name}/status"), &status).await;
    assert_eq!(code, 200, "{told}");
}

/// A budget that is counted so.
async fn budget(door: &Door, name: &str, allowed: i64, healthy: [i64; 2]) {
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    let (code, made) = door.post(BUDGETS, &json!({"metadata": {"name": name}, "spec": spec})).await;
    assert_eq!(code, 201, "{made}");
    let status = json!({
        "observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": healthy[0],
        "desiredHealthy": healthy[1], "expectedPods": healthy[0],
    });
    let (code, told) = door.merge(&format!("{BUDGETS}/{name}/status"), &json!({"status": status})).await;
    assert_eq!(code, 200, "{told}");
}

async fn evict_with(door: &Door, name: &str, options: Value) -> (u16, HeaderMap, Value) {
    let body = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options,
    });
    let path = format!("{PODS}/{name}/eviction");
    door.told(Method::POST, &path, "application/json", body.to_string().into()).await
}

async fn evict(door: &Door, name: &str) -> (u16, Value) {
    let (code, _, told) = evict_with(door, name, json!({})).await;
    (code, told)
}

async fn find(door: &Door, name: &str) -> Value {
    door.get(&format!("{PODS}/{name}")).await.1
}

fn target(pod: &Value) -> Option<&Value> {
    pod["status"]["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "DisruptionTarget")
}

#[tokio::test]
async fn hook_95_an_eviction_is_charged_told_and_graceful_until_the_budget_is_used_up() {
    let door = door().await;
    for name in ["a", "b"] {
        running(&door, name, true).await;
    }
    budget(&door, "web", 1, [2, 1]).await;
    let (code, told) = evict(&door, "a").await;
    assert_eq!((code, &told["status"]), (201, &json!("Success")), "{told}");
    let going = find(&door, "a").await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    let why = target(&going).unwrap();
    assert_eq!(why["reason"], "EvictionByEvictionAPI");
    assert_eq!((&why["status"], &why["message"]), (&json!("True"), &json!("Eviction API: evicting")));
    let (_, after) = door.get(&format!("{BUDGETS}/web")).await;
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["a"].is_string(), "{after}");
    assert_eq!(after["status"]["conditions"][0]["reason"], "InsufficientPods");

    let (code, headers, told) = evict_with(&door, "b", json!({})).await;
    assert_eq!((code, &told["reason"], &told["message"]), (429, &json!("TooManyRequests"), &json!(REFUSAL)));
    let cause = "The disruption budget web does not allow evicting pods currently";
    assert_eq!(told["details"]["causes"], json!([{"reason": "DisruptionBudget", "message": cause}]));
    // As upstream: no time is promised, so clients decide themselves when to ask again.
    assert!(headers.get("retry-after").is_none());
    let kept = find(&door, "b").await;
    assert!(kept["metadata"].get("deletionTimestamp").is_none() && target(&kept).is_none(), "{kept}");
    // What is going already is no further disruption.
    assert_eq!(evict_with(&door, "a", json!({"gracePeriodSeconds": 0})).await.0, 201);
    assert_eq!(door.get(&format!("{PODS}/a")).await.0, 404);
}

#[tokio::test]
async fn hook_95_a_budget_that_is_not_counted_yet_asks_for_patience() {
    let door = door().await;
    running(&door, "a", true).await;
    let spec = json!({"minAvailable": 0, "selector": {}});
    assert_eq!(door.post(BUDGETS, &json!({"metadata": {"name": "new"}, "spec": spec})).await.0, 201);
    let (code, headers, told) = evict_with(&door, "a", json!({})).await;
    assert_eq!((code, &told["details"]["retryAfterSeconds"]), (429, &json!(10)), "{told}");
    assert_eq!(headers["retry-after"], "10");
    let cause = "The disruption budget new is still being processed by the server.";
    assert_eq!(told["details"]["causes"][0]["message"], cause);
}

#[tokio::test]
async fn hook_95_pods_that_nothing_depends_on_go_without_a_charge() {
    let door = door().await;
    budget(&door, "web", 0, [1, 1]).await;
    let mut waiting = pod("pending");
    waiting["metadata"]["labels"] = json!({"app": "web"});
    assert_eq!(door.post(PODS, &waiting).await.0, 201);
    running(&door, "ended", true).await;
    let ended = json!({"status": {"phase": "Failed"}});
    assert_eq!(door.merge(&format!("{PODS}/ended/status"), &ended).await.0, 200);
    running(&door, "broken", false).await;
    for name in ["pending", "ended", "broken"] {
        let (code, told) = evict(&door, name).await;
        assert_eq!(code, 201, "{name}: {told}");
        let (code, left) = door.get(&format!("{PODS}/{name}")).await;
        assert!(code == 404 || left["metadata"].get("deletionTimestamp").is_some(), "{name}: {left}");
    }
    let (_, after) = door.get(&format!("{BUDGETS}/web")).await;
    assert!(after["status"].get("disruptedPods").is_none(), "{after}");
    assert_eq!(evict(&door, "nobody").await.0, 404);
}

#[tokio::test]
async fn hook_95_too_few_healthy_pods_keep_also_broken_ones_unless_the_budget_lets_them_go() {
    let door = door().await;
    running(&door, "broken", false).await;
    budget(&door, "web", 0, [1, 2]).await;
    assert_eq!(evict(&door, "broken").await.0, 429);
    let lets = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    assert_eq!(door.merge(&format!("{BUDGETS}/web"), &lets).await.0, 200);
    assert_eq!(evict(&door, "broken").await.0, 201);
}

#[tokio::test]
async fn hook_95_two_budgets_for_one_pod_are_refused_in_upstreams_words() {
    let door = door().await;
    running(&door, "a", true).await;
    budget(&door, "one", 1, [2, 1]).await;
    budget(&door, "two", 1, [2, 1]).await;
    let (code, told) = evict(&door, "a").await;
    assert_eq!(code, 500);
    assert_eq!(
        told["message"],
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
}

#[tokio::test]
async fn hook_95_a_dry_run_and_a_wrong_name_change_nothing() {
    let door = door().await;
    running(&door, "a", true).await;
    budget(&door, "web", 1, [2, 1]).await;
    let before = (find(&door, "a").await, door.get(&format!("{BUDGETS}/web")).await.1);
    assert_eq!(evict_with(&door, "a", json!({"dryRun": ["All"]})).await.0, 201);
    let other = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b"}});
    let (code, told) = door.post(&format!("{PODS}/a/eviction"), &other).await;
    assert_eq!((code, &told["message"]), (400, &json!("name in URL does not match name in Eviction object")));
    for (version, kind, expected) in
        [("policy/v1beta1", "Eviction", 201), ("policy/v2", "Eviction", 400), ("policy/v1", "Pod", 400)]
    {
        let sent = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "deleteOptions": {"dryRun": ["All"]}});
        assert_eq!(door.post(&format!("{PODS}/a/eviction"), &sent).await.0, expected, "{version} {kind}");
    }
    let stale = json!({"dryRun": ["All"], "preconditions": {"resourceVersion": "1"}});
    assert_eq!(evict_with(&door, "a", stale).await.0, 409);
    assert_eq!((find(&door, "a").await, door.get(&format!("{BUDGETS}/web")).await.1), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_95_evictions_at_the_same_time_never_exceed_the_budget() {
    let door = Arc::new(door().await);
    for n in 0..24 {
        running(&door, &format!("p{n}"), true).await;
    }
    budget(&door, "web", 5, [24, 19]).await;
    let mut evictions = JoinSet::new();
    for n in 0..24 {
        let door = door.clone();
        evictions.spawn(async move { evict(&door, &format!("p{n}")).await.0 });
    }
    let codes = evictions.join_all().await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 5, "{codes:?}");
    assert!(codes.iter().all(|code| [201, 429].contains(code)), "{codes:?}");
    let (_, after) = door.get(&format!("{BUDGETS}/web")).await;
    assert_eq!(after["status"]["disruptedPods"].as_object().unwrap().len(), 5);
}
