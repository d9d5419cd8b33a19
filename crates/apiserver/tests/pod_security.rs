//! The levels of Pod Security through the in-process door (HOOK-8).
#![allow(missing_docs)]

mod door;

use door::{Door, PODS, door, pod};
use http::Method;
use serde_json::{Value, json};

const NAMESPACES: &str = "/api/v1/namespaces";

/// Warnings as they are meant, not as a header has them.
async fn warned(door: &Door, path: &str, object: &Value) -> (u16, String) {
    let (code, _, warnings) = door.post_warned(path, object).await;
    (code, warnings.join("\n").replace("\\\"", "\""))
}

async fn namespace(door: &Door, name: &str, labels: Value) -> String {
    let (code, made) = door.post(NAMESPACES, &json!({"metadata": {"name": name, "labels": labels}})).await;
    assert_eq!(code, 201, "{made}");
    format!("{NAMESPACES}/{name}/pods")
}

fn asking(host: &str) -> Value {
    let mut pod = pod("p");
    pod["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"httpGet": {"host": host, "port": 80}}});
    pod
}

#[tokio::test]
async fn hook_8_a_namespace_that_enforces_the_baseline_refuses_hooks_that_ask_others() {
    let door = door().await;
    let metadata = asking("169.254.169.254");
    assert_eq!(door.post(PODS, &metadata).await.0, 201, "a namespace without labels lets everything in");
    let pods = namespace(&door, "safe", json!({"pod-security.kubernetes.io/enforce": "baseline"})).await;
    let (code, refused) = door.post(&pods, &metadata).await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        refused["message"],
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": probe or lifecycle host (container \"c\" uses \
         probe or lifecycle host \"169.254.169.254\")"
    );
    assert_eq!(door.post(&pods, &asking("")).await.0, 201);
    let dated = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.33"});
    let pods = namespace(&door, "older", dated).await;
    assert_eq!(door.post(&pods, &metadata).await.0, 201, "as it was before the rule");
}

#[tokio::test]
async fn what_is_only_warned_of_is_told_of_pods_and_of_templates() {
    let door = door().await;
    let labels =
        json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"});
    let pods = namespace(&door, "warned", labels).await;
    let wanted = "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set \
                  securityContext.allowPrivilegeEscalation=false)";
    let (code, warnings) = warned(&door, &pods, &pod("p")).await;
    assert!(code == 201 && warnings.contains(wanted), "{warnings}");
    let labels = json!({"app": "x"});
    let template =
        json!({"metadata": {"labels": labels}, "spec": {"hostPID": true, "containers": [{"name": "c", "image": "i"}]}});
    let deployment =
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}, "template": template}});
    let (code, warnings) = warned(&door, "/apis/apps/v1/namespaces/warned/deployments", &deployment).await;
    let told = "would violate PodSecurity \"restricted:latest\": host namespaces (hostPID=true)";
    assert!(code == 201 && warnings.contains(told), "{warnings}");
    // Its pods are refused, not the deployment.
    let mut shared = pod("q");
    shared["spec"]["hostPID"] = json!(true);
    assert_eq!(door.post(&pods, &shared).await.0, 403);
}

#[tokio::test]
async fn labels_that_nobody_can_read_are_not_let_in_and_ephemeral_containers_are_judged() {
    let door = door().await;
    let wrong = json!({"pod-security.kubernetes.io/enforce": "strict"});
    let (code, refused) = door.post(NAMESPACES, &json!({"metadata": {"name": "n", "labels": wrong}})).await;
    assert_eq!(code, 422);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("must be one of privileged, baseline, restricted"), "{message}");
    let pods = namespace(&door, "safe", json!({"pod-security.kubernetes.io/enforce": "baseline"})).await;
    assert_eq!(door.merge(&format!("{NAMESPACES}/safe"), &json!({"metadata": {"labels": wrong}})).await.0, 422);
    assert_eq!(door.post(&pods, &pod("p")).await.0, 201);
    let debug = json!({"name": "e", "image": "i", "securityContext": {"privileged": true}});
    let change = json!({"spec": {"ephemeralContainers": [debug]}}).to_string().into_bytes();
    let path = format!("{pods}/p/ephemeralcontainers");
    let media = "application/strategic-merge-patch+json";
    assert_eq!(door.send(Method::PATCH, &path, media, change).await.0, 403);
}
