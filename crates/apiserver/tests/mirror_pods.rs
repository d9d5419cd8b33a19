//! What a node may make in the API: mirrors of its static pods, and nothing that leads further.

mod door;

use apiserver::UserInfo;
use door::{PODS, door, mirror, pod, server_with};
use serde_json::{Value, json};

#[tokio::test]
async fn a_node_makes_mirrors_that_it_owns_and_no_other_pods() {
    let door = door().await;
    let (node, whole) = (door.of(UserInfo::node("n1")), mirror(&door, "m").await);
    let refused = async |pod: &Value| {
        let (code, status) = node.post(&format!("{PODS}?dryRun=All"), pod).await;
        assert_eq!(code, 403, "{status}");
        let message = status["message"].as_str().unwrap().to_owned();
        message.strip_prefix("pods \"m\" is forbidden: ").unwrap_or_else(|| panic!("{message}")).to_owned()
    };
    let with = |path: &str, value: Value| {
        let mut changed = whole.clone();
        *changed.pointer_mut(path).unwrap() = value;
        changed
    };
    assert_eq!(
        refused(&pod("m")).await,
        "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods"
    );
    let only = "node \"n1\" can only create pods with";
    assert_eq!(refused(&with("/spec/nodeName", json!("n2"))).await, format!("{only} spec.nodeName set to itself"));
    let owners = "/metadata/ownerReferences";
    assert_eq!(refused(&with(owners, json!([]))).await, format!("{only} an owner reference set to itself"));
    let two =
        json!([whole["metadata"]["ownerReferences"][0], {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]);
    assert_eq!(refused(&with(owners, two)).await, format!("{only} a single owner reference set to itself"));
    let one = |field: &str, value: Value| {
        let mut owner = whole["metadata"]["ownerReferences"][0].clone();
        owner[field] = value;
        with(owners, json!([owner]))
    };
    assert_eq!(refused(&one("name", json!("n2"))).await, format!("{only} an owner reference set to itself"));
    assert_eq!(
        refused(&one("controller", json!(false))).await,
        format!("{only} a controller owner reference set to itself")
    );
    assert_eq!(
        refused(&one("blockOwnerDeletion", json!(true))).await,
        "node \"n1\" must not set blockOwnerDeletion on an owner reference"
    );
    let uid = whole["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap();
    assert_eq!(refused(&one("uid", json!("other"))).await, format!("node n1 UID mismatch: expected other got {uid}"));
    assert_eq!(node.post(PODS, &whole).await.0, 201);
}

#[tokio::test]
async fn without_the_account_plugin_a_mirror_still_refers_to_nothing() {
    let server = server_with(|options| options.admission.retain(|name| name != "ServiceAccount")).await;
    let door = door::Door { server, user: UserInfo::admin() };
    let (node, whole) = (door.of(UserInfo::node("n1")), mirror(&door, "m").await);
    let bundle = json!({"clusterTrustBundle": {"name": "b", "path": "p"}});
    for (spec, what) in [
        (json!({"serviceAccountName": "x"}), "a service account"),
        (json!({"imagePullSecrets": [{"name": "x"}]}), "secrets"),
        (json!({"volumes": [{"name": "v", "configMap": {"name": "x"}}]}), "configmaps"),
        (json!({"volumes": [{"name": "v", "projected": {"sources": [bundle]}}]}), "clustertrustbundles"),
        (json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]}), "persistentvolumeclaims"),
    ] {
        let mut object = whole.clone();
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let (code, status) = node.post(PODS, &object).await;
        let message = status["message"].as_str().unwrap_or_default();
        assert_eq!(code, 403, "{status}");
        assert!(message.ends_with(&format!("node \"n1\" can not create pods that reference {what}")), "{message}");
    }
}

#[tokio::test]
async fn a_node_removes_its_own_mirror_and_no_other() {
    let door = door().await;
    let whole = mirror(&door, "m").await;
    assert_eq!(door.of(UserInfo::node("n1")).post(PODS, &whole).await.0, 201);
    let options = json!({"gracePeriodSeconds": 0});
    let path = format!("{PODS}/m");
    assert_eq!(door.of(UserInfo::node("n2")).delete(&path, &options).await.0, 403);
    assert_eq!(door.of(UserInfo::node("n1")).delete(&path, &options).await.0, 200);
    assert_eq!(door.get(&path).await.0, 404);
}
