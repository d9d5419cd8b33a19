//! What one client costs others is bounded: how large an object gets, and that a crowd is let in. In process.
#![allow(missing_docs)]

use std::sync::Arc;

use door::{Door, PODS, door, pod, server_with};
use serde_json::{Value, json};
use tokio::task::JoinSet;

mod door;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const LIMIT: usize = 6 << 20;
const TOO_LARGE: &str = "Request entity too large: limit is 6291456";

/// Writes piece after piece until it is refused; what the server holds of the object then.
async fn filled(door: &Door, path: &str, piece: impl Fn(usize) -> Value, media: &str) -> usize {
    for nth in 0..20 {
        let (code, answer) = door.patch(&format!("{path}?fieldManager=m{nth}"), media, &piece(nth)).await;
        if code == 200 {
            continue;
        }
        assert_eq!(
            (code, &answer["reason"], &answer["message"]),
            (413, &json!("RequestEntityTooLarge"), &json!(TOO_LARGE))
        );
        return door.get(path).await.1.to_string().len();
    }
    panic!("{path} grows without a bound");
}

#[tokio::test]
async fn no_patch_and_no_apply_makes_an_object_larger_than_two_bodies() {
    const PIECE: usize = 600 << 10;
    let door = door().await;
    let (strategic, applied) = ("application/strategic-merge-patch+json", "application/apply-patch+yaml");
    let status = |nth: usize| {
        let condition = json!({"type": format!("t{nth}"), "status": "True", "message": "x".repeat(PIECE)});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": {"conditions": [condition]}})
    };
    let path = format!("{PODS}/p/status");
    for media in [strategic, applied] {
        assert_eq!(door.post(PODS, &pod("p")).await.0, 201);
        let held = filled(&door, &path, status, media).await;
        assert!((LIMIT - 2 * PIECE..=LIMIT + 100).contains(&held), "{media}: {held}");
        let dry = format!("{path}?dryRun=All&fieldManager=dry");
        let (code, refused) = door.patch(&dry, media, &status(99)).await;
        assert_eq!((code, &refused["message"]), (413, &json!(TOO_LARGE)), "{media}");
        // What there is of it can be made smaller.
        let less = json!({"status": {"conditions": [{"type": "t0", "status": "True", "message": ""}]}});
        assert_eq!(door.patch(&path, strategic, &less).await.0, 200);
        assert_eq!(door.delete(&format!("{PODS}/p"), &json!({"gracePeriodSeconds": 0})).await.0, 200);
    }
}

#[tokio::test]
async fn an_object_that_is_full_takes_no_binding_and_can_go() {
    let door = door().await;
    assert_eq!(door.post(PODS, &pod("p")).await.0, 201);
    let held = door.get(&format!("{PODS}/p")).await.1.to_string().len();
    let media = "application/merge-patch+json";
    let text = "x".repeat((LIMIT - held) / 2 - 400);
    for (path, body) in [
        ("p", json!({"metadata": {"finalizers": ["a.b/c"]}})),
        ("p/status", json!({"status": {"message": text}})),
        ("p/status", json!({"status": {"reason": text}})),
    ] {
        let (code, answer) = door.patch(&format!("{PODS}/{path}"), media, &body).await;
        assert_eq!(code, 200, "{}", answer["message"]);
    }
    let binding = json!({"metadata": {"name": "p", "annotations": {"a": "x".repeat(2000)}}, "target": {"name": "n"}});
    let (code, answer) = door.post(&format!("{PODS}/p/binding"), &binding).await;
    assert_eq!((code, &answer["message"]), (413, &json!(TOO_LARGE)));
    let (code, going) = door.delete(&format!("{PODS}/p"), &json!({"propagationPolicy": "Foreground"})).await;
    assert!(code == 200 && going["metadata"]["deletionTimestamp"].is_string(), "{code}");
}

#[tokio::test]
async fn a_scale_cannot_outgrow_its_object() {
    let door = door().await;
    let labels = json!({"app": "a"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(door.post(DEPLOYMENTS, &deployment).await.0, 201);
    let path = format!("{DEPLOYMENTS}/d");
    let media = "application/strategic-merge-patch+json";
    let condition = |name: &str, bytes: usize| json!({"status": {"conditions": [{"type": name, "status": "True", "message": "x".repeat(bytes)}]}});
    for name in ["a", "b", "c"] {
        assert_eq!(door.patch(&format!("{path}/status"), media, &condition(name, 1900 << 10)).await.0, 200);
    }
    let left = LIMIT - door.get(&path).await.1.to_string().len();
    assert_eq!(door.patch(&format!("{path}/status"), media, &condition("z", left - 400)).await.0, 200);
    // Each who applies the same is one more owner of the replicas.
    let scale =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 1}});
    let mut codes = Vec::new();
    for nth in 0..8 {
        let asked = format!("{path}/scale?force=true&fieldManager={nth}{}", "m".repeat(120));
        codes.push(door.patch(&asked, "application/apply-patch+yaml", &scale).await.0);
    }
    assert!(codes.contains(&413) && codes.iter().all(|code| [200, 413].contains(code)), "{codes:?}");
    assert!(door.get(&path).await.1.to_string().len() <= LIMIT + 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_comes_at_once_is_charged_one_after_the_other_and_let_in() {
    const CROWD: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let store = store::DiskStore::open(dir.path()).unwrap();
    let server = server_with(|options| options.store = Arc::new(store)).await;
    let door = Arc::new(Door { server, user: apiserver::UserInfo::admin() });
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    for name in ["a", "b"] {
        let quota = json!({"metadata": {"name": name}, "spec": {"hard": {"pods": (CROWD - 10).to_string()}}});
        assert_eq!(door.post(quotas, &quota).await.0, 201);
    }
    let mut crowd = JoinSet::new();
    for nth in 0..CROWD {
        let door = door.clone();
        crowd.spawn(async move { door.post(PODS, &pod(&format!("p{nth}"))).await });
    }
    let answers = crowd.join_all().await;
    let codes = |code: u16| answers.iter().filter(|(found, _)| *found == code).count();
    assert_eq!(
        (codes(201), codes(403)),
        (CROWD - 10, 10),
        "{:?}",
        answers.iter().find(|(code, _)| ![201, 403].contains(code))
    );
    for name in ["a", "b"] {
        let used = door.get(&format!("{quotas}/{name}")).await.1["status"]["used"]["pods"].clone();
        assert_eq!(used, json!((CROWD - 10).to_string()), "{name}");
    }
}
