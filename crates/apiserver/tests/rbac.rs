//! Roles and bindings on the memory store: what they allow, what they gather, and what nobody may give away.
#![allow(missing_docs)]

use std::sync::Arc;

use apiserver::{ApiServer, Options, UserInfo};
use axum::body::Body;
use door::{Door, PODS, door};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

mod door;

const GROUP: &str = "/apis/rbac.authorization.k8s.io/v1";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const CLUSTER_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const ACCESS: &str = "/apis/authorization.k8s.io/v1";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn role(name: &str, verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"metadata": {"name": name}, "rules": [{"verbs": verbs, "apiGroups": [group], "resources": resources}]})
}

fn binding(name: &str, role: (&str, &str), user: &str) -> Value {
    json!({
        "metadata": {"name": name}, "roleRef": {"kind": role.0, "name": role.1},
        "subjects": [{"kind": "User", "name": user}],
    })
}

async fn made(door: &Door, path: &str, object: &Value) -> Value {
    let (code, answer) = door.post(path, object).await;
    assert_eq!(code, 201, "{answer}");
    answer
}

/// The message of a refusal.
fn refused((code, status): (u16, Value), expected: u16) -> String {
    assert_eq!(code, expected, "{status}");
    status["message"].as_str().unwrap_or_default().to_owned()
}

fn user(door: &Door, name: &str) -> Door {
    door.of(UserInfo::new(name, &[]))
}

/// An administrator's door, and one of ann's, who has these rules in the default namespace.
async fn with_ann(rules: Value) -> (Door, Door) {
    let admin = door().await;
    made(&admin, ROLES, &json!({"metadata": {"name": "anns"}, "rules": rules})).await;
    made(&admin, BINDINGS, &binding("anns", ("Role", "anns"), "ann")).await;
    let ann = user(&admin, "ann");
    (admin, ann)
}

#[tokio::test]
async fn a_binding_counts_at_once_in_its_namespace_alone_and_so_does_its_end() {
    let admin = door().await;
    let ann = user(&admin, "ann");
    let text = refused(ann.get(PODS).await, 403);
    assert_eq!(
        text,
        "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    made(&admin, BINDINGS, &binding("b", ("ClusterRole", "view"), "ann")).await;
    assert_eq!(ann.get(PODS).await.0, 200);
    assert_eq!(ann.get("/api/v1/namespaces/kube-system/pods").await.0, 403);
    assert_eq!((ann.get("/api/v1/pods").await.0, ann.get(SECRETS).await.0), (403, 403));
    assert_eq!(ann.post(PODS, &door::pod("p")).await.0, 403);
    assert_eq!(admin.delete(&format!("{BINDINGS}/b"), &json!({})).await.0, 200);
    assert_eq!(ann.get(PODS).await.0, 403);
    made(&admin, CLUSTER_BINDINGS, &binding("b", ("ClusterRole", "view"), "ann")).await;
    assert_eq!((ann.get("/api/v1/pods").await.0, ann.get("/api/v1/secrets").await.0), (200, 403));
}

#[tokio::test]
async fn accounts_and_groups_are_bound_too() {
    let admin = door().await;
    let mut object = binding("b", ("ClusterRole", "view"), "nobody");
    object["subjects"] = json!([
        {"kind": "ServiceAccount", "name": "robot"},
        {"kind": "ServiceAccount", "name": "other", "namespace": "kube-system"},
        {"kind": "Group", "name": "dev"},
    ]);
    made(&admin, BINDINGS, &object).await;
    for (name, groups, code) in [
        ("system:serviceaccount:default:robot", &[][..], 200),
        ("system:serviceaccount:kube-system:robot", &[], 403),
        ("system:serviceaccount:kube-system:other", &[], 200),
        ("x", &["dev"], 200),
        ("dev", &[], 403),
        ("robot", &[], 403),
    ] {
        assert_eq!(admin.of(UserInfo::new(name, groups)).get(PODS).await.0, code, "{name}");
    }
}

#[tokio::test]
async fn one_name_is_read_listed_and_watched_under_that_name_alone() {
    let rules = json!([{"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["secrets"],
                        "resourceNames": ["mine"]}]);
    let (admin, ann) = with_ann(rules).await;
    for name in ["mine", "other"] {
        made(&admin, SECRETS, &json!({"metadata": {"name": name}})).await;
    }
    assert_eq!(ann.get(&format!("{SECRETS}/mine")).await.0, 200);
    assert_eq!((ann.get(&format!("{SECRETS}/other")).await.0, ann.get(SECRETS).await.0), (403, 403));
    let (code, list) = ann.get(&format!("{SECRETS}?fieldSelector=metadata.name%3Dmine")).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
    for selector in ["metadata.name%3Dother", "metadata.name!%3Dmine", "metadata.name%3Dother,metadata.name%3Dmine"] {
        assert_eq!(ann.get(&format!("{SECRETS}?fieldSelector={selector}")).await.0, 403, "{selector}");
    }
    let both = format!("{SECRETS}?fieldSelector=metadata.name%3Dmine&fieldSelector=metadata.name%3Dother");
    assert!(!ann.get(&both).await.1.to_string().contains("\"other\""));
}

#[tokio::test]
async fn a_role_that_is_not_there_is_told_and_counts_when_it_comes() {
    let admin = door().await;
    made(&admin, BINDINGS, &binding("b", ("Role", "late"), "ann")).await;
    let ann = user(&admin, "ann");
    let text = refused(ann.get(PODS).await, 403);
    assert!(text.ends_with(": RBAC: role.rbac.authorization.k8s.io \"late\" not found"), "{text}");
    made(&admin, ROLES, &role("late", &["list"], "", &["pods"])).await;
    assert_eq!(ann.get(PODS).await.0, 200);
}

#[tokio::test]
async fn nobody_writes_a_role_with_more_than_he_has() {
    let write = json!({"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]});
    let read = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]});
    let (admin, ann) = with_ann(json!([
        {"verbs": ["create", "update", "patch"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]},
        read,
    ]))
    .await;
    made(&ann, ROLES, &role("fine", &["list"], "", &["pods"])).await;
    let text = refused(ann.post(ROLES, &role("more", &["get", "delete"], "", &["pods", "secrets"])).await, 403);
    assert_eq!(
        text,
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) is \
         attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"
    );
    let path = format!("{ROLES}/fine");
    let more = role("fine", &["list"], "", &["secrets"]);
    assert_eq!((ann.put(&path, &more).await.0, ann.merge(&path, &more).await.0), (403, 403));
    let applied = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "x"},
                         "rules": more["rules"]});
    let apply = "application/apply-patch+yaml";
    assert_eq!(ann.patch(&format!("{ROLES}/x?fieldManager=m"), apply, &applied).await.0, 403);
    assert_eq!(ann.put(&format!("{ROLES}/new"), &role("new", &["list"], "", &["secrets"])).await.0, 403);
    // A role that somebody else made is hers to change only as far as she could have made it.
    made(&admin, ROLES, &role("theirs", &["get"], "", &["secrets"])).await;
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(ann.merge(&format!("{ROLES}/theirs"), &label).await.0, 403);
    let release = json!({"metadata": {"finalizers": ["a.b/c"]}});
    assert_eq!(ann.merge(&format!("{ROLES}/theirs"), &release).await.0, 200);
    let (_, mut own) = admin.get(&format!("{ROLES}/anns")).await;
    own["rules"] = json!([read, write]);
    assert_eq!(admin.put(&format!("{ROLES}/anns"), &own).await.0, 200);
    made(&ann, ROLES, &role("more", &["get"], "", &["secrets"])).await;
}

#[tokio::test]
async fn nobody_binds_a_role_with_more_than_he_has_unless_he_may_bind_it() {
    let (admin, ann) = with_ann(json!([
        {"verbs": ["create", "update"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
         "resourceNames": ["view"]},
    ]))
    .await;
    made(&admin, ROLES, &role("little", &["get"], "", &["pods"])).await;
    made(&ann, BINDINGS, &binding("little", ("Role", "little"), "bob")).await;
    made(&ann, BINDINGS, &binding("view", ("ClusterRole", "view"), "bob")).await;
    let text = refused(ann.post(BINDINGS, &binding("edit", ("ClusterRole", "edit"), "ann")).await, 403);
    assert!(
        text.starts_with("rolebindings.rbac.authorization.k8s.io \"edit\" is forbidden: user \"ann\" (groups="),
        "{text}"
    );
    assert!(text.contains("is attempting to grant RBAC permissions not currently held:\n{APIGroups:"), "{text}");
    let text = refused(ann.post(BINDINGS, &binding("x", ("ClusterRole", "nowhere"), "ann")).await, 404);
    assert_eq!(text, "clusterroles.rbac.authorization.k8s.io \"nowhere\" not found");
    assert_eq!(ann.post(CLUSTER_BINDINGS, &binding("x", ("ClusterRole", "view"), "ann")).await.0, 403);
    // Whoever is added to a binding gets what it gives.
    made(&admin, BINDINGS, &binding("edit", ("ClusterRole", "edit"), "bob")).await;
    let (_, mut edit) = admin.get(&format!("{BINDINGS}/edit")).await;
    edit["subjects"][0]["name"] = "ann".into();
    assert_eq!(ann.put(&format!("{BINDINGS}/edit"), &edit).await.0, 403);
    assert_eq!(ann.get(SECRETS).await.0, 403);
}

#[tokio::test]
async fn roles_gather_what_is_labelled_at_once_and_only_administrators_make_such_roles() {
    let admin = door().await;
    made(&admin, BINDINGS, &binding("b", ("ClusterRole", "admin"), "ann")).await;
    let ann = user(&admin, "ann");
    let leases = "/apis/node.k8s.io/v1/runtimeclasses";
    made(&admin, CLUSTER_BINDINGS, &binding("b", ("ClusterRole", "view"), "bob")).await;
    let bob = user(&admin, "bob");
    assert_eq!(bob.get(leases).await.0, 403);
    let mut extra = role("extra", &["list"], "node.k8s.io", &["runtimeclasses"]);
    extra["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    made(&admin, CLUSTER_ROLES, &extra).await;
    assert_eq!(bob.get(leases).await.0, 200);
    for name in ["view", "edit", "admin"] {
        let (_, role) = admin.get(&format!("{CLUSTER_ROLES}/{name}")).await;
        assert!(role["rules"].as_array().unwrap().contains(&extra["rules"][0]), "{name}: {role}");
    }
    // What somebody writes into such a role does not stay.
    let (_, before) = admin.get(&format!("{CLUSTER_ROLES}/view")).await;
    assert_eq!(admin.merge(&format!("{CLUSTER_ROLES}/view"), &json!({"rules": []})).await.0, 200);
    assert_eq!(admin.get(&format!("{CLUSTER_ROLES}/view")).await.1["rules"], before["rules"]);
    assert_eq!(admin.delete(&format!("{CLUSTER_ROLES}/extra"), &json!({})).await.0, 200);
    assert_eq!(bob.get(leases).await.0, 403);
    let gathering =
        json!({"metadata": {"name": "g"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let rights = json!({"metadata": {"name": "rights"}, "rules": [
        {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"]},
    ]});
    made(&admin, CLUSTER_ROLES, &rights).await;
    made(&admin, CLUSTER_BINDINGS, &binding("c", ("ClusterRole", "rights"), "ann")).await;
    // Verb * holds `escalate` too.
    made(&ann, CLUSTER_ROLES, &gathering).await;
    let (_, mut rights) = admin.get(&format!("{CLUSTER_ROLES}/rights")).await;
    rights["rules"][0]["verbs"] = json!(["create", "update"]);
    assert_eq!(admin.put(&format!("{CLUSTER_ROLES}/rights"), &rights).await.0, 200);
    let text = refused(
        ann.post(CLUSTER_ROLES, &json!({"metadata": {"name": "h"}, "aggregationRule": gathering["aggregationRule"]}))
            .await,
        403,
    );
    assert!(text.ends_with("must have cluster-admin privileges to use the aggregationRule"), "{text}");
    assert_eq!(
        ann.post(&format!("{GROUP}/namespaces/kube-system/roles"), &role("x", &["get"], "", &["pods"])).await.0,
        403
    );
}

#[tokio::test]
async fn questions_about_rights_are_answered_as_requests_are() {
    let admin = door().await;
    made(&admin, BINDINGS, &binding("b", ("ClusterRole", "view"), "ann")).await;
    let ann = user(&admin, "ann");
    let list = |resource: &str| json!({"verb": "list", "resource": resource, "namespace": "default"});
    let own = async |attributes: Value| {
        let spec = json!({"spec": {"resourceAttributes": attributes}});
        made(&ann, &format!("{ACCESS}/selfsubjectaccessreviews"), &spec).await["status"].clone()
    };
    assert_eq!(
        own(list("pods")).await,
        json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"b/default\" of ClusterRole \"view\" to User \"ann\""})
    );
    assert_eq!(own(list("secrets")).await, json!({"allowed": false}));
    let of = |name: &str, groups: Value| json!({"spec": {"user": name, "groups": groups, "resourceAttributes": list("pods")}});
    let path = format!("{ACCESS}/subjectaccessreviews");
    assert_eq!(made(&admin, &path, &of("ann", json!([]))).await["status"]["allowed"], true);
    assert_eq!(made(&admin, &path, &of("bob", json!([]))).await["status"]["allowed"], false);
    assert_eq!(made(&admin, &path, &of("", json!(["system:masters"]))).await["status"]["allowed"], true);
    assert_eq!(ann.post(&path, &of("ann", json!([]))).await.0, 403);
    let text = refused(admin.post(&path, &of("", json!([]))).await, 422);
    assert!(text.contains("spec.user: Invalid value: \"\": at least one of user or group must be specified"), "{text}");
    let text = refused(admin.post(&path, &json!({"spec": {"user": "x"}})).await, 422);
    assert!(text.contains("exactly one of nonResourceAttributes or resourceAttributes must be specified"), "{text}");
    let local = format!("{ACCESS}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(made(&admin, &local, &of("ann", json!([]))).await["status"]["allowed"], true);
    let other = format!("{ACCESS}/namespaces/kube-system/localsubjectaccessreviews");
    let text = refused(admin.post(&other, &of("ann", json!([]))).await, 422);
    assert!(text.contains("must match metadata.namespace"), "{text}");
    // A path is asked about as a path.
    let path = |path: &str| json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": path}}});
    for (asked, allowed) in [("/apis/apps", true), ("/metrics", false), ("/", false)] {
        let review = made(&ann, &format!("{ACCESS}/selfsubjectaccessreviews"), &path(asked)).await;
        assert_eq!(review["status"]["allowed"], allowed, "{asked}");
    }
}

#[tokio::test]
async fn the_list_of_rights_is_that_of_the_roles() {
    let (admin, ann) = with_ann(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])).await;
    let path = format!("{ACCESS}/selfsubjectrulesreviews");
    let status = made(&ann, &path, &json!({"spec": {"namespace": "default"}})).await["status"].clone();
    let rules = status["resourceRules"].as_array().unwrap();
    assert!(rules.contains(&json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})), "{status}");
    assert!(status["nonResourceRules"].to_string().contains("/openapi/*"), "{status}");
    assert_eq!(status["incomplete"], false);
    let elsewhere = made(&ann, &path, &json!({"spec": {"namespace": "kube-system"}})).await;
    assert!(!elsewhere["status"]["resourceRules"].to_string().contains("pods"), "{elsewhere}");
    let all = made(&admin, &path, &json!({"spec": {"namespace": "default"}})).await;
    assert!(all["status"]["resourceRules"].to_string().contains("[\"*\"]"), "{all}");
    let node = admin.of(UserInfo::node("n1"));
    let node = made(&node, &path, &json!({"spec": {"namespace": "default"}})).await;
    assert_eq!(node["status"]["incomplete"], true);
    assert_eq!(refused(ann.post(&path, &json!({"spec": {}})).await, 400), "no namespace on request");
}

/// Code and document of a GET as somebody else.
async fn as_other(door: &Door, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = Request::builder().method(Method::GET).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response =
        door.server.router_as(door.user.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

#[tokio::test]
async fn only_who_may_impersonate_is_somebody_else_and_then_nobody_more() {
    let admin = door().await;
    made(&admin, BINDINGS, &binding("b", ("ClusterRole", "view"), "ann")).await;
    let ann = &[("Impersonate-User", "ann")][..];
    assert_eq!(as_other(&admin, PODS, ann).await.0, 200);
    assert_eq!(as_other(&admin, SECRETS, ann).await.0, 403);
    let bob = user(&admin, "bob");
    let text = refused(as_other(&bob, PODS, ann).await, 403);
    assert_eq!(
        text,
        "users \"ann\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    let rules = json!({"metadata": {"name": "i"}, "rules": [
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["ann"]},
    ]});
    made(&admin, CLUSTER_ROLES, &rules).await;
    made(&admin, CLUSTER_BINDINGS, &binding("i", ("ClusterRole", "i"), "bob")).await;
    assert_eq!(as_other(&bob, PODS, ann).await.0, 200);
    assert_eq!(as_other(&bob, PODS, &[("Impersonate-User", "kubernetes-admin")]).await.0, 403);
    let masters = [("Impersonate-User", "ann"), ("Impersonate-Group", "system:masters")];
    assert_eq!(as_other(&bob, SECRETS, &masters).await.0, 403);
    assert_eq!(as_other(&admin, SECRETS, &masters).await.0, 200);
    assert_eq!(as_other(&admin, PODS, &[("Impersonate-Group", "system:masters")]).await.0, 500);
    let robot = [("Impersonate-User", "system:serviceaccount:default:robot")];
    assert_eq!(as_other(&admin, "/openid/v1/jwks", &robot).await.0, 200);
    assert_eq!(as_other(&admin, PODS, &robot).await.0, 403);
}

#[tokio::test]
async fn the_defaults_are_mended_at_the_next_start_unless_people_keep_them() {
    let store: Arc<dyn store::Store> = Arc::new(store::memory::MemoryStore::new());
    let start = async || {
        let server = ApiServer::start(Options::new(store.clone()), CancellationToken::new()).await.unwrap();
        Door { server, user: UserInfo::admin() }
    };
    let first = start().await;
    let revision = store.revision().await.unwrap();
    let _ = start().await;
    assert_eq!(store.revision().await.unwrap(), revision, "a start over what is there writes nothing");
    let path = |name: &str| format!("{CLUSTER_ROLES}/{name}");
    let added = json!({"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]});
    assert_eq!(first.merge(&path("system:discovery"), &json!({"rules": [added]})).await.0, 200);
    let kept =
        json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": []});
    assert_eq!(first.merge(&path("system:monitoring"), &kept).await.0, 200);
    assert_eq!(first.delete(&path("view"), &json!({})).await.0, 200);
    assert_eq!(first.delete(&format!("{CLUSTER_BINDINGS}/system:discovery"), &json!({})).await.0, 200);
    let somebody = user(&first, "somebody");
    assert_eq!(somebody.get("/api").await.0, 403);
    let second = start().await;
    assert_eq!(user(&second, "somebody").get("/api").await.0, 200);
    let discovery = second.get(&path("system:discovery")).await.1["rules"].clone();
    assert!(discovery.as_array().unwrap().contains(&added) && discovery.to_string().contains("/openapi/*"));
    assert_eq!(second.get(&path("system:monitoring")).await.1["rules"], json!([]));
    let (code, view) = second.get(&path("view")).await;
    assert!(code == 200 && view["rules"].to_string().contains("pods/log"), "{view}");
}

#[tokio::test]
async fn the_roles_of_controllers_and_of_namespaces_come_later_and_are_mended_too() {
    let store: Arc<dyn store::Store> = Arc::new(store::memory::MemoryStore::new());
    let start = async || {
        let server = ApiServer::start(Options::new(store.clone()), CancellationToken::new()).await.unwrap();
        server.ensure_other_roles().await.unwrap();
        Door { server, user: UserInfo::admin() }
    };
    let first = start().await;
    let revision = store.revision().await.unwrap();
    let _ = start().await;
    assert_eq!(store.revision().await.unwrap(), revision, "a start over what is there writes nothing");
    let in_system =
        |kind: &str, name: &str| format!("/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/{kind}/{name}");
    let reader = in_system("roles", "extension-apiserver-authentication-reader");
    let binding = in_system("rolebindings", "system::leader-locking-kube-scheduler");
    let of_jobs = format!("{CLUSTER_ROLES}/system:controller:job-controller");
    for path in [&reader, &binding, &of_jobs] {
        let (code, found) = first.get(path).await;
        assert_eq!((code, &found["metadata"]["labels"]["kubernetes.io/bootstrapping"]), (200, &json!("rbac-defaults")));
        assert_eq!(first.delete(path, &json!({})).await.0, 200, "{path}");
    }
    let second = start().await;
    for path in [&reader, &binding, &of_jobs] {
        assert_eq!(second.get(path).await.0, 200, "{path}");
    }
    let account = "system:serviceaccount:kube-system:job-controller";
    let asked = json!({"spec": {"user": account, "resourceAttributes":
        {"verb": "update", "group": "batch", "resource": "jobs", "subresource": "status", "namespace": "any"}}});
    let review = second.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &asked).await.1;
    assert_eq!(review["status"]["allowed"], true, "{review}");
}

#[tokio::test]
async fn rtc_20_view_edit_and_admin_give_nothing_on_runtime_classes() {
    let admin = door().await;
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    let class = json!({"metadata": {"name": "x"}, "handler": "runc"});
    made(&admin, classes, &class).await;
    for name in ["view", "edit", "admin"] {
        made(&admin, CLUSTER_BINDINGS, &binding(name, ("ClusterRole", name), name)).await;
        let bound = user(&admin, name);
        assert_eq!(bound.get("/api/v1/pods").await.0, 200, "{name} is bound");
        let path = format!("{classes}/x");
        assert_eq!((bound.get(classes).await.0, bound.get(&path).await.0), (403, 403), "{name}");
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        let codes = [
            bound.post(classes, &class).await.0,
            bound.put(&path, &class).await.0,
            bound.merge(&path, &label).await.0,
            bound.delete(&path, &json!({})).await.0,
            bound.delete(classes, &json!({})).await.0,
        ];
        assert_eq!(codes, [403; 5], "{name}");
    }
    made(&admin, CLUSTER_BINDINGS, &binding("root", ("ClusterRole", "cluster-admin"), "root")).await;
    assert_eq!(user(&admin, "root").delete(&format!("{classes}/x"), &json!({})).await.0, 200);
}
