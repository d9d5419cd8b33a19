//! LimitRanger and ResourceQuota through the in-process door, on the memory store.
#![allow(missing_docs)]

use std::sync::Arc;

use door::{Door, PODS, door, pod};
use serde_json::{Value, json};
use tokio::task::JoinSet;

mod door;

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const RANGES: &str = "/api/v1/namespaces/default/limitranges";

async fn quota(door: &Door, spec: Value) {
    let (code, made) = door.post(QUOTAS, &json!({"metadata": {"name": "q"}, "spec": spec})).await;
    assert_eq!(code, 201, "{made}");
}

fn sized(name: &str, cpu: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    pod
}

#[tokio::test]
async fn a_quota_is_charged_and_refuses_in_upstreams_words() {
    let door = door().await;
    assert_eq!(door.post(PODS, &sized("before", "500m")).await.0, 201);
    quota(&door, json!({"hard": {"requests.cpu": "1", "limits.cpu": "2", "pods": "3"}})).await;
    let (code, status) = door.post(PODS, &pod("silent")).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods \"silent\" is forbidden: failed quota: q: must specify limits.cpu for: c; requests.cpu for: c"
    );
    // What was there before the quota counts, though no controller has counted it.
    assert_eq!(door.post(PODS, &sized("fits", "250m")).await.0, 201);
    let (code, status) = door.post(PODS, &sized("over", "300m")).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods \"over\" is forbidden: exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=750m, \
         limited: requests.cpu=1"
    );
    let (_, shown) = door.get(&format!("{QUOTAS}/q")).await;
    assert_eq!(shown["status"]["used"], json!({"limits.cpu": "750m", "pods": "2", "requests.cpu": "750m"}));
    assert_eq!(door.post(&format!("{PODS}?dryRun=All"), &sized("dry", "100m")).await.0, 201);
    assert_eq!(door.get(&format!("{QUOTAS}/q")).await.1, shown, "a dry run is judged and not charged");
    assert_eq!(door.post(&format!("{PODS}?dryRun=All"), &sized("dry", "1")).await.0, 403);
}

#[tokio::test]
async fn rtc_61_overhead_is_charged() {
    let door = door().await;
    let class = json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "250m"}}});
    assert_eq!(door.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.0, 201);
    quota(&door, json!({"hard": {"requests.cpu": "1"}})).await;
    let mut pod = sized("a", "500m");
    pod["spec"]["runtimeClassName"] = json!("vm");
    assert_eq!(door.post(PODS, &pod).await.0, 201);
    let (_, shown) = door.get(&format!("{QUOTAS}/q")).await;
    assert_eq!(shown["status"]["used"]["requests.cpu"], "750m");
    pod["metadata"]["name"] = json!("b");
    let message = door.post(PODS, &pod).await.1["message"].as_str().unwrap().to_owned();
    assert!(message.contains("exceeded quota: q, requested: requests.cpu=750m, used: requests.cpu=750m"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_at_the_same_time_never_exceed_a_quota() {
    let door = Arc::new(door().await);
    quota(&door, json!({"hard": {"count/configmaps": "7", "configmaps": "100"}})).await;
    let mut creates = JoinSet::new();
    for n in 0..30 {
        let door = door.clone();
        creates.spawn(async move {
            let map = json!({"metadata": {"name": format!("m{n}")}});
            door.post("/api/v1/namespaces/default/configmaps", &map).await.0
        });
    }
    let codes = creates.join_all().await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 7, "{codes:?}");
    assert!(codes.iter().all(|code| [201, 403].contains(code)), "{codes:?}");
    let (_, shown) = door.get(&format!("{QUOTAS}/q")).await;
    assert_eq!(shown["status"]["used"]["count/configmaps"], "7");
}

#[tokio::test]
async fn a_scoped_quota_is_about_its_pods_only() {
    let door = door().await;
    quota(&door, json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})).await;
    assert_eq!(door.post(PODS, &pod("idle")).await.0, 201);
    assert_eq!(door.post(PODS, &pod("idle-2")).await.0, 403);
    assert_eq!(door.post(PODS, &sized("busy", "1")).await.0, 201);
}

#[tokio::test]
async fn a_limit_range_fills_what_is_open_and_refuses_what_is_out_of_bounds() {
    let door = door().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "1"}, "defaultRequest": {"cpu": "250m"}}]}});
    assert_eq!(door.post(RANGES, &range).await.0, 201);
    // The limit range comes before the quota, so what it fills is what is charged.
    quota(&door, json!({"hard": {"requests.cpu": "1"}})).await;
    let (code, made) = door.post(PODS, &pod("open")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "250m"}})
    );
    assert_eq!(door.get(&format!("{QUOTAS}/q")).await.1["status"]["used"]["requests.cpu"], "250m");
    let (code, status) = door.post(PODS, &sized("large", "1500m")).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods \"large\" is forbidden: maximum cpu usage per Container is 1, but limit is 1500m"
    );
}
