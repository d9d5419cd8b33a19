//! No sequence of API calls by somebody without the right to read Secrets reads one.
//!
//! Properties over random sequences, each against a server of its own; whoever may write roles and bindings, label
//! ClusterRoles, impersonate accounts or ask for tokens tries all of it.
#![allow(missing_docs)]

use apiserver::UserInfo;
use axum::body::Body;
use door::{Door, PODS, door};
use http::{Method, Request};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

mod door;

const GROUP: &str = "/apis/rbac.authorization.k8s.io/v1";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// Base64 of what nobody may see; it looks like nothing else.
const HIDDEN: &str = "aGlkZGVuLXZhbHVl";

/// One call: method, path, media type, body, more headers.
#[derive(Clone, Debug)]
struct Call {
    method: &'static str,
    path: String,
    media: &'static str,
    accept: &'static str,
    body: Value,
    header: Option<(&'static str, &'static str)>,
}

/// Who tries. Each has rights, but none on Secrets, nor any that lead to them.
const INTRUDERS: [&str; 5] = ["nobody", "viewer", "role-writer", "cluster-role-writer", "node"];

fn user(name: &str) -> UserInfo {
    match name {
        "node" => UserInfo::node("n1"),
        name => UserInfo::new(name, &[]),
    }
}

fn grant(rules: Value, subject: &str) -> (Value, Value) {
    let role = json!({"metadata": {"name": subject}, "rules": rules});
    let binding = json!({
        "metadata": {"name": subject}, "roleRef": {"kind": "ClusterRole", "name": subject},
        "subjects": [{"kind": "User", "name": subject}],
    });
    (role, binding)
}

async fn prepared() -> Door {
    let admin = door().await;
    let post = async |path: &str, body: Value| {
        let (code, answer) = admin.post(path, &body).await;
        assert_eq!(code, 201, "{answer}");
    };
    post(SECRETS, json!({"metadata": {"name": "s", "labels": {"a": "b"}}, "data": {"k": HIDDEN}})).await;
    post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    post(PODS, door::pod("p")).await;
    let viewer = json!({
        "metadata": {"name": "viewer"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "viewer"}],
    });
    post(&format!("{GROUP}/clusterrolebindings"), viewer).await;
    let verbs = json!(["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]);
    let group = "rbac.authorization.k8s.io";
    let local = json!([{"verbs": verbs, "apiGroups": [group], "resources": ["roles", "rolebindings"]}]);
    let everywhere = json!([{"verbs": verbs, "apiGroups": [group], "resources": ["*"]}]);
    for (rules, name) in [(local, "role-writer"), (everywhere, "cluster-role-writer")] {
        let (role, binding) = grant(rules, name);
        post(&format!("{GROUP}/clusterroles"), role).await;
        post(&format!("{GROUP}/clusterrolebindings"), binding).await;
    }
    admin
}

fn reads() -> impl Strategy<Value = Call> {
    let paths = [
        SECRETS,
        "/api/v1/secrets",
        "/api/v1/namespaces/default/secrets/s",
        "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Ds",
        "/api/v1/namespaces/default/secrets?labelSelector=a%3Db&limit=1",
        "/api/v1/namespaces/default/secrets?watch=1&timeoutSeconds=1",
        "/api/v1/namespaces/default/secrets/s?watch=1&timeoutSeconds=1",
        "/api/v1//namespaces/default/secrets/s",
        "/api/v1/namespaces/default/secrets/s/",
        "/api/v1/namespaces/default/%73ecrets/s",
        "/api/v1/namespaces/default/secrets/s/status",
        "/api/v1/namespaces/default/pods/../secrets/s",
        PODS,
        "/api/v1/namespaces/default/serviceaccounts/robot",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/view",
    ];
    let accepts = [
        "",
        "application/json;as=Table;g=meta.k8s.io;v=v1",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        "application/yaml",
    ];
    let path = prop::sample::select(paths.to_vec());
    let method = prop::sample::select(vec!["GET", "HEAD"]);
    (path, prop::sample::select(accepts.to_vec()), method).prop_map(|(path, accept, method)| Call {
        method,
        path: path.to_owned(),
        media: "",
        accept,
        body: Value::Null,
        header: None,
    })
}

/// Writes whose answers would show the Secret.
fn writes() -> impl Strategy<Value = Call> {
    let calls = [
        ("PATCH", "/s", "application/merge-patch+json", json!({})),
        ("PATCH", "/s?dryRun=All", "application/merge-patch+json", json!({"metadata": {"labels": {"x": "y"}}})),
        ("PATCH", "/s", "application/json-patch+json", json!([])),
        (
            "PATCH",
            "/s?fieldManager=m&force=true",
            "application/apply-patch+yaml",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
        ),
        ("PUT", "/s", "application/json", json!({"metadata": {"name": "s"}})),
        ("DELETE", "/s?dryRun=All", "application/json", json!({})),
        ("DELETE", "?dryRun=All", "application/json", json!({})),
        ("POST", "", "application/json", json!({"metadata": {"name": "s"}})),
    ];
    prop::sample::select(calls.to_vec()).prop_map(|(method, suffix, media, body)| Call {
        method,
        path: format!("{SECRETS}{suffix}"),
        media,
        accept: "",
        body,
        header: None,
    })
}

/// Attempts to get the right first.
fn grabs() -> impl Strategy<Value = Call> {
    prop_oneof![grabbed_roles(), grabbed_bindings(), other_grabs()]
}

fn grabbed_roles() -> impl Strategy<Value = Call> {
    let rules = [
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]),
        json!([{"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["secrets"]}]),
        json!([{"verbs": ["bind", "escalate", "impersonate"], "apiGroups": ["*"], "resources": ["*"]}]),
        json!([{"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"]}]),
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]),
        json!([]),
    ];
    (prop::sample::select(rules.to_vec()), any::<bool>(), any::<bool>(), 0..2_usize, 0..3_usize).prop_map(
        |(rules, cluster, labelled, verb, gathers)| {
            let (kind, base) = match cluster {
                true => ("ClusterRole", format!("{GROUP}/clusterroles")),
                false => ("Role", format!("{GROUP}/namespaces/default/roles")),
            };
            let mut body = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
                                  "metadata": {"name": "grab"}, "rules": rules});
            if labelled {
                body["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
            }
            if cluster && gathers == 0 {
                body["aggregationRule"] = json!({"clusterRoleSelectors": [{}]});
            }
            let (method, path) = [("POST", base.clone()), ("PUT", format!("{base}/grab"))][verb].clone();
            Call { method, path, media: "application/json", accept: "", body, header: None }
        },
    )
}

fn grabbed_bindings() -> impl Strategy<Value = Call> {
    let roles = ["cluster-admin", "admin", "edit", "grab", "view", "system:node", "system:kube-controller-manager"];
    (prop::sample::select(roles.to_vec()), any::<bool>(), prop::sample::select(INTRUDERS.to_vec()), any::<bool>())
        .prop_map(|(role, cluster, subject, own_kind)| {
            let base = match cluster {
                true => format!("{GROUP}/clusterrolebindings"),
                false => format!("{GROUP}/namespaces/default/rolebindings"),
            };
            let kind = if own_kind && !cluster { "Role" } else { "ClusterRole" };
            let body = json!({
                "metadata": {"name": format!("grab-{role}-{kind}")}, "roleRef": {"kind": kind, "name": role},
                "subjects": [{"kind": "User", "name": user(subject).name}, {"kind": "Group", "name": "system:authenticated"}],
            });
            Call { method: "POST", path: base, media: "application/json", accept: "", body, header: None }
        })
}

fn other_grabs() -> impl Strategy<Value = Call> {
    let others = [
        ("POST", "/api/v1/namespaces/default/serviceaccounts/robot/token", json!({"spec": {}})),
        (
            "PATCH",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/viewer",
            json!({"subjects": [{"kind": "Group", "name": "system:authenticated"}]}),
        ),
        (
            "PATCH",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/view",
            json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}),
        ),
        ("DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:basic-user", json!({})),
        ("POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}})),
        (
            "POST",
            PODS,
            json!({"metadata": {"name": "thief"}, "spec": {"nodeName": "n1", "containers": [
            {"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}}),
        ),
        (
            "POST",
            "/api/v1/namespaces/default/pods/p/binding",
            json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}),
        ),
        ("PATCH", "/api/v1/namespaces/default/pods/p", json!({"spec": {"nodeName": "n1"}})),
    ];
    prop::sample::select(others.to_vec()).prop_map(|(method, path, body)| Call {
        method,
        path: path.to_owned(),
        media: if method == "PATCH" { "application/merge-patch+json" } else { "application/json" },
        accept: "",
        body,
        header: None,
    })
}

fn calls() -> impl Strategy<Value = Vec<(&'static str, Call)>> {
    let headers = [
        ("Impersonate-User", "kubernetes-admin"),
        ("Impersonate-User", "system:kube-controller-manager"),
        ("Impersonate-User", "system:serviceaccount:default:robot"),
        ("Impersonate-Group", "system:masters"),
        ("Authorization", "Bearer secret2"),
    ];
    let header = prop::option::weighted(0.2, prop::sample::select(headers.to_vec()));
    let call = (prop_oneof![3 => reads(), 2 => writes(), 4 => grabs()], header)
        .prop_map(|(call, header)| Call { header, ..call });
    prop::collection::vec((prop::sample::select(INTRUDERS.to_vec()), call), 1..30)
}

async fn send(door: &Door, who: &str, call: &Call) -> Vec<u8> {
    let mut request = Request::builder().method(Method::from_bytes(call.method.as_bytes()).unwrap()).uri(&call.path);
    for (name, value) in [("content-type", call.media), ("accept", call.accept)] {
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    if let Some((name, value)) = call.header {
        request = request.header(name, value);
    }
    let body = if call.body.is_null() { Body::empty() } else { Body::from(call.body.to_string()) };
    let response = door.server.router_as(user(who)).oneshot(request.body(body).unwrap()).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_calls_without_rights_reads_a_secret(calls in calls()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let door = prepared().await;
            for (who, call) in &calls {
                let answer = send(&door, who, call).await;
                let shown = String::from_utf8_lossy(&answer);
                assert!(!shown.contains(HIDDEN) && !shown.contains("hidden-value"), "{who}: {call:?}: {shown}");
            }
            // The property can fail: an administrator sees it, and it is as it was.
            let (code, secret) = door.get(&format!("{SECRETS}/s")).await;
            assert_eq!((code, &secret["data"]["k"]), (200, &json!(HIDDEN)));
        });
    }
}
