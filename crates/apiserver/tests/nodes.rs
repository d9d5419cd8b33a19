//! What a node may: itself, its own pods, and what these refer to. On the memory store.
#![allow(missing_docs)]

use apiserver::UserInfo;
use door::{Door, PODS, door, mirror, pod};
use serde_json::{Value, json};

mod door;

const NODE: &str = "/api/v1/nodes/n1";

/// An administrator's door, and that of a registered node `n1`.
async fn registered() -> (Door, Door) {
    let admin = door().await;
    let node = admin.of(UserInfo::node("n1"));
    let labels = json!({"kubernetes.io/hostname": "n1", "beta.kubernetes.io/os": "linux", "example.com/x": "y"});
    let (code, made) = node.post("/api/v1/nodes", &json!({"metadata": {"name": "n1", "labels": labels}})).await;
    assert_eq!(code, 201, "{made}");
    (admin, node)
}

fn refused((code, status): (u16, Value)) -> String {
    assert_eq!(code, 403, "{status}");
    status["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_node_does_not_set_labels_that_are_for_others() {
    let (admin, node) = registered().await;
    let label = |key: &str, value: Value| json!({"metadata": {"labels": {key: value}}});
    for key in ["example.com/x", "topology.kubernetes.io/zone", "node.kubernetes.io/own"] {
        assert_eq!(node.merge(NODE, &label(key, json!("new"))).await.0, 200, "{key}");
    }
    let text = refused(node.merge(NODE, &label("node-restriction.kubernetes.io/x", json!("a"))).await);
    assert_eq!(text, "nodes \"n1\" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/x");
    let key = "node-role.kubernetes.io/control-plane";
    assert_eq!(admin.merge(NODE, &label(key, json!(""))).await.0, 200);
    assert!(refused(node.merge(NODE, &label(key, Value::Null)).await).ends_with(key));
    assert!(refused(node.merge(NODE, &label("b.k8s.io/b", json!("x"))).await).contains("modify labels: b.k8s.io/b"));
    let other = json!({"metadata": {"name": "n2", "labels": {"x.k8s.io/a": "b"}}});
    let text = refused(admin.of(UserInfo::node("n2")).post("/api/v1/nodes", &other).await);
    assert!(text.ends_with("node \"n2\" is not allowed to set the following labels: x.k8s.io/a"), "{text}");
}

#[tokio::test]
async fn a_node_does_not_take_its_taints_away_nor_change_its_owners() {
    let (admin, node) = registered().await;
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    assert!(refused(node.merge(NODE, &taint).await).ends_with("node \"n1\" is not allowed to modify taints"));
    assert_eq!(admin.merge(NODE, &taint).await.0, 200);
    let (_, mut whole) = node.get(NODE).await;
    whole["spec"]["taints"] = json!([]);
    assert!(refused(node.put(NODE, &whole).await).ends_with("is not allowed to modify taints"));
    let owned =
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u"}]}});
    assert!(refused(node.merge(NODE, &owned).await).ends_with("is not allowed to modify ownerReferences"));
    let unschedulable = json!({"spec": {"unschedulable": true}});
    assert_eq!(node.merge(NODE, &unschedulable).await.0, 200);
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(node.merge(&format!("{NODE}/status"), &status).await.0, 200);
}

#[tokio::test]
async fn a_node_writes_no_other_node_nor_its_lease() {
    let (admin, node) = registered().await;
    assert_eq!(admin.post("/api/v1/nodes", &json!({"metadata": {"name": "n2"}})).await.0, 201);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    for path in ["/api/v1/nodes/n2", "/api/v1/nodes/n2/status"] {
        assert_eq!(node.merge(path, &label).await.0, 403, "{path}");
        assert_eq!(node.get(path).await.0, 403, "{path}");
    }
    assert_eq!((node.delete(NODE, &json!({})).await.0, node.get("/api/v1/nodes").await.0), (403, 403));
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"leaseDurationSeconds": 40}});
    assert_eq!(node.post(leases, &lease("n1")).await.0, 201);
    assert_eq!(node.post(leases, &lease("n2")).await.0, 403);
    assert_eq!(node.post("/apis/coordination.k8s.io/v1/namespaces/default/leases", &lease("n1")).await.0, 403);
    assert_eq!(node.get(&format!("{leases}/n1")).await.0, 200);
    assert_eq!(node.get(&format!("{leases}/n2")).await.0, 403);
}

#[tokio::test]
async fn a_node_reads_what_its_own_pods_refer_to_and_nothing_else() {
    let (admin, node) = registered().await;
    for name in ["used", "other"] {
        for kind in ["secrets", "configmaps"] {
            let made =
                admin.post(&format!("/api/v1/namespaces/default/{kind}"), &json!({"metadata": {"name": name}})).await;
            assert_eq!(made.0, 201, "{}", made.1);
        }
    }
    let path = |kind: &str, name: &str| format!("/api/v1/namespaces/default/{kind}/{name}");
    let mut user = pod("p");
    user["spec"]["containers"][0]["envFrom"] =
        json!([{"secretRef": {"name": "used"}}, {"configMapRef": {"name": "used"}}]);
    assert_eq!(admin.post(PODS, &user).await.0, 201);
    for kind in ["secrets", "configmaps"] {
        assert_eq!(node.get(&path(kind, "used")).await.0, 403, "the pod is not bound yet");
    }
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(admin.post(&format!("{PODS}/p/binding"), &binding).await.0, 201);
    for kind in ["secrets", "configmaps"] {
        assert_eq!(node.get(&path(kind, "used")).await.0, 200);
        assert_eq!(node.get(&path(kind, "other")).await.0, 403);
        assert_eq!(node.get(&format!("/api/v1/namespaces/default/{kind}")).await.0, 403);
        assert_eq!(node.merge(&path(kind, "used"), &json!({"data": {}})).await.0, 403);
        assert_eq!(admin.of(UserInfo::node("n2")).get(&path(kind, "used")).await.0, 403);
    }
    // A name like a node's, without the group of nodes, is nobody's.
    let forged = admin.of(UserInfo::new("system:node:n1", &[]));
    assert_eq!(forged.get(&path("secrets", "used")).await.0, 403);
    assert_eq!(node.delete(&format!("{PODS}/p"), &json!({"gracePeriodSeconds": 0})).await.0, 200);
    assert_eq!(node.get(&path("secrets", "used")).await.0, 403, "the pod is gone");
}

#[tokio::test]
async fn a_node_changes_the_status_of_its_pods_and_nothing_else_of_them() {
    let (admin, node) = registered().await;
    admin.bound_pod("p", "n1").await;
    let status = format!("{PODS}/p/status");
    assert_eq!(node.merge(&status, &json!({"status": {"phase": "Running"}})).await.0, 200);
    let label = json!({"metadata": {"labels": {"app": "stolen"}}});
    let (code, text) = node.merge(&status, &label).await;
    let kept = admin.get(&format!("{PODS}/p")).await.1["metadata"]["labels"]["app"].clone();
    assert!(code == 403 || kept == "p", "{code} {text}");
    assert_eq!(kept, "p");
    assert_eq!(node.merge(&format!("{PODS}/p"), &label).await.0, 403);
    assert_eq!(admin.of(UserInfo::node("n2")).merge(&status, &json!({"status": {}})).await.0, 403);
    let plain =
        json!({"metadata": {"name": "own"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    assert!(refused(node.post(PODS, &plain).await).contains("can only create mirror pods"));
    let whole = mirror(&admin, "m").await;
    assert_eq!(node.post(PODS, &whole).await.0, 201);
}

#[tokio::test]
async fn a_node_asks_whether_others_may_and_grants_nothing() {
    let (admin, node) = registered().await;
    let review = json!({"spec": {"user": "ann", "resourceAttributes": {"verb": "get", "resource": "nodes", "subresource": "proxy"}}});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let (code, answer) = node.post(path, &review).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(false)));
    let grant = json!({
        "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "system:kubelet-api-admin"},
        "subjects": [{"kind": "User", "name": "ann"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(node.post(bindings, &grant).await.0, 403);
    assert_eq!(admin.post(bindings, &grant).await.0, 201);
    assert_eq!(node.post(path, &review).await.1["status"]["allowed"], true);
}
