//! Requests for certificates on the memory store: who asks, who may approve, who may sign, and what nobody gets.
#![allow(missing_docs)]

use apiserver::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use door::{Door, door, server_with};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

mod door;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";

fn pem(common_name: &str, organisation: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organisation);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn request(name: &str, signer: &str, (common_name, organisation): (&str, &str)) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "request": STANDARD.encode(pem(common_name, organisation)), "signerName": signer, "usages": ["client auth"],
    }})
}

/// Gives ann these rights.
async fn grant(admin: &Door, rules: Value) {
    let (code, role) = admin.post(ROLES, &json!({"metadata": {"name": "anns"}, "rules": rules})).await;
    assert_eq!(code, 201, "{role}");
    let binding = json!({
        "metadata": {"name": "anns"}, "roleRef": {"kind": "ClusterRole", "name": "anns"},
        "subjects": [{"kind": "User", "name": "ann"}],
    });
    assert_eq!(admin.post(BINDINGS, &binding).await.0, 201);
}

fn requests(verbs: &[&str]) -> Value {
    let resources =
        ["certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"];
    json!({"verbs": verbs, "apiGroups": ["certificates.k8s.io"], "resources": resources})
}

fn signers(verb: &str, name: &str) -> Value {
    json!({"verbs": [verb], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [name]})
}

fn approved(mut object: Value) -> Value {
    object["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Test"}]);
    object
}

fn message((code, answer): (u16, Value), expected: u16) -> String {
    assert_eq!(code, expected, "{answer}");
    answer["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_request_names_who_sent_it_whatever_it_says() {
    let admin = door().await;
    grant(&admin, json!([requests(&["create"])])).await;
    let mut user = UserInfo::new("ann", &["dev"]);
    user.uid = "7".into();
    user.extra.insert("example.com/k".into(), vec!["v".into()]);
    let ann = admin.of(user);
    let mut forged = approved(request("a", CLIENT, ("ann", "dev")));
    forged["spec"]["username"] = "kubernetes-admin".into();
    forged["spec"]["groups"] = json!(["system:masters"]);
    let (code, made) = ann.post(REQUESTS, &forged).await;
    assert_eq!(code, 201, "{made}");
    let spec = &made["spec"];
    assert_eq!((&spec["username"], &spec["uid"]), (&"ann".into(), &"7".into()));
    assert_eq!(spec["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(spec["extra"], json!({"example.com/k": ["v"]}));
    assert_eq!(made["status"], json!({}));
    assert_eq!(ann.post(REQUESTS, &request("b", CLIENT, ("ann", "dev"))).await.0, 201);
    assert_eq!(ann.get(&format!("{REQUESTS}/a")).await.0, 403, "who asks may not read all the same");
}

#[tokio::test]
async fn to_approve_takes_the_right_on_the_request_and_on_its_signer() {
    let admin = door().await;
    grant(&admin, json!([requests(&["create", "get", "update", "patch"])])).await;
    let ann = admin.of(UserInfo::new("ann", &[]));
    let (_, made) = ann.post(REQUESTS, &request("a", NODE_CLIENT, ("system:node:n", "system:nodes"))).await;
    let path = format!("{REQUESTS}/a/approval");
    let text = message(ann.put(&path, &approved(made.clone())).await, 403);
    assert_eq!(
        text,
        "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: user not permitted to approve requests with \
         signerName \"kubernetes.io/kube-apiserver-client-kubelet\""
    );
    // Another signer in the body does not help, nor does another path.
    let mut lied = approved(made.clone());
    lied["spec"]["signerName"] = "example.com/mine".into();
    assert_eq!(ann.put(&path, &lied).await.0, 403);
    let patch = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
    assert_eq!(ann.merge(&path, &patch).await.0, 403);
    assert_eq!(ann.merge(&format!("{REQUESTS}/a"), &patch).await.1["status"], json!({}));
    // The right to sign.
    let text = message(ann.put(&format!("{REQUESTS}/a/status"), &approved(made.clone())).await, 422);
    assert!(text.contains("updates may not add a condition of type \"Approved\""), "{text}");
    let role = json!({"rules": [requests(&["get", "update"]), signers("approve", "kubernetes.io/*")]});
    assert_eq!(admin.merge(&format!("{ROLES}/anns"), &role).await.0, 200);
    let (code, stored) = ann.put(&path, &approved(made)).await;
    assert_eq!((code, &stored["status"]["conditions"][0]["type"]), (200, &"Approved".into()), "{stored}");
    let mut denied = stored.clone();
    denied["status"]["conditions"] = json!([{"type": "Denied", "status": "True"}]);
    let text = message(ann.put(&path, &denied).await, 422);
    assert!(text.contains("updates may not remove a condition of type \"Approved\""), "{text}");
}

#[tokio::test]
async fn to_issue_takes_the_right_to_sign_and_is_done_once() {
    let admin = door().await;
    grant(&admin, json!([requests(&["create", "get", "update"]), signers("sign", "example.com/other")])).await;
    let ann = admin.of(UserInfo::new("ann", &[]));
    let (_, mut made) = ann.post(REQUESTS, &request("a", "example.com/mine", ("x", "y"))).await;
    let key = KeyPair::generate().unwrap();
    let certificate = STANDARD.encode(CertificateParams::default().self_signed(&key).unwrap().pem());
    made["status"]["certificate"] = certificate.clone().into();
    let path = format!("{REQUESTS}/a/status");
    let text = message(ann.put(&path, &made).await, 403);
    assert!(text.ends_with("user not permitted to sign requests with signerName \"example.com/mine\""), "{text}");
    let role = json!({"rules": [requests(&["get", "update"]), signers("sign", "example.com/mine")]});
    assert_eq!(admin.merge(&format!("{ROLES}/anns"), &role).await.0, 200);
    let (code, stored) = ann.put(&path, &made).await;
    assert_eq!((code, &stored["status"]["certificate"]), (200, &certificate.into()), "{stored}");
    let mut other = stored.clone();
    let again = CertificateParams::default().self_signed(&key).unwrap().pem();
    other["status"]["certificate"] = STANDARD.encode(again).into();
    let text = message(ann.put(&path, &other).await, 422);
    assert!(text.contains("updates may not modify existing certificate content"), "{text}");
}

#[tokio::test]
async fn nobody_asks_to_be_an_administrator_and_no_node_for_another() {
    let admin = door().await;
    let text = message(admin.post(REQUESTS, &request("a", CLIENT, ("eve", "system:masters"))).await, 403);
    assert!(
        text.ends_with("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed")
    );
    let node = admin.of(UserInfo::node("mine"));
    let theirs = request("b", NODE_CLIENT, ("system:node:theirs", "system:nodes"));
    let text = message(node.post(REQUESTS, &theirs).await, 403);
    assert!(text.ends_with("can only create a node CSR with CN=system:node:mine"), "{text}");
    let mine = request("c", NODE_CLIENT, ("system:node:mine", "system:nodes"));
    let (code, made) = node.post(REQUESTS, &mine).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(node.get(&format!("{REQUESTS}/c")).await.0, 200);
    assert_eq!(node.put(&format!("{REQUESTS}/c/approval"), &approved(made)).await.0, 403);
    assert_eq!(node.delete(&format!("{REQUESTS}/c"), &json!({})).await.0, 403);
}

#[tokio::test]
async fn each_plugin_can_be_left_out() {
    for (plugin, code) in [("CertificateSubjectRestriction", 201), ("CertificateApproval", 403)] {
        let server = server_with(|options| options.admission.retain(|name| name != plugin)).await;
        let admin = Door { server, user: UserInfo::admin() };
        assert_eq!(admin.post(REQUESTS, &request("a", CLIENT, ("eve", "system:masters"))).await.0, code, "{plugin}");
    }
}

#[tokio::test]
async fn requests_are_selected_by_signer_and_shown_as_a_table() {
    let admin = door().await;
    for (name, signer) in [("a", CLIENT), ("b", "example.com/mine")] {
        assert_eq!(admin.post(REQUESTS, &request(name, signer, ("x", "y"))).await.0, 201);
    }
    let (_, list) = admin.get(&format!("{REQUESTS}?fieldSelector=spec.signerName%3Dexample.com%2Fmine")).await;
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|one| &one["metadata"]["name"]).collect();
    assert_eq!(names, ["b"]);
}

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

/// Asks with nothing but a token.
async fn with_token(door: &Door, method: &str, path: &str, (token, body): (&str, Value)) -> (u16, Value) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(axum::body::Body::from(body.to_string()))
        .unwrap();
    let response = tower::ServiceExt::oneshot(door.server.router(), request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn bootstrap_token(change: Value) -> Value {
    let mut data = json!({
        "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:test", "expiration": "2999-01-01T00:00:00Z",
    });
    data.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": data})
}

const TOKEN: &str = "abcdef.0123456789abcdef";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn who(door: &Door, token: &str) -> (u16, Value) {
    with_token(door, "POST", WHO, (token, json!({}))).await
}

#[tokio::test]
async fn a_bootstrap_token_counts_while_its_secret_says_so() {
    let admin = door().await;
    assert_eq!(who(&admin, TOKEN).await.0, 401, "there is none yet");
    assert_eq!(admin.post(SECRETS, &bootstrap_token(json!({}))).await.0, 201);
    let (code, answer) = who(&admin, TOKEN).await;
    let user = &answer["status"]["userInfo"];
    assert_eq!((code, &user["username"]), (201, &"system:bootstrap:abcdef".into()), "{answer}");
    assert_eq!(user["groups"], json!(["system:bootstrappers", "system:bootstrappers:test", "system:authenticated"]));
    for forged in ["abcdef.0123456789abcdeg", "abcdeg.0123456789abcdef", "abcdef.", "abcdef.0123456789abcdef0"] {
        assert_eq!(who(&admin, forged).await.0, 401, "{forged}");
    }
    let review = json!({"spec": {"token": TOKEN}});
    let (_, reviewed) = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(reviewed["status"]["user"]["username"], "system:bootstrap:abcdef");
    for change in [
        json!({"expiration": "2020-01-01T00:00:00Z"}),
        json!({"usage-bootstrap-authentication": "false"}),
        json!({"auth-extra-groups": "system:masters"}),
    ] {
        let patch = json!({"stringData": change});
        assert_eq!(admin.merge(&format!("{SECRETS}/bootstrap-token-abcdef"), &patch).await.0, 200);
        assert_eq!(who(&admin, TOKEN).await.0, 401, "{change}");
        let good = bootstrap_token(json!({}))["stringData"].clone();
        admin.merge(&format!("{SECRETS}/bootstrap-token-abcdef"), &json!({"stringData": good})).await;
        assert_eq!(who(&admin, TOKEN).await.0, 201);
    }
    assert_eq!(admin.delete(&format!("{SECRETS}/bootstrap-token-abcdef"), &json!({})).await.0, 200);
    assert_eq!(who(&admin, TOKEN).await.0, 401, "and at once");
}

#[tokio::test]
async fn a_token_elsewhere_or_of_another_type_proves_nothing() {
    let admin = door().await;
    let mut opaque = bootstrap_token(json!({}));
    opaque["type"] = "Opaque".into();
    assert_eq!(admin.post(SECRETS, &opaque).await.0, 201);
    let elsewhere = "/api/v1/namespaces/default/secrets";
    assert_eq!(admin.post(elsewhere, &bootstrap_token(json!({}))).await.0, 201);
    assert_eq!(who(&admin, TOKEN).await.0, 401);
}

#[tokio::test]
async fn nothing_is_open_to_a_token_until_it_is_bound() {
    let admin = door().await;
    assert_eq!(admin.post(SECRETS, &bootstrap_token(json!({}))).await.0, 201);
    let asked = request("a", NODE_CLIENT, ("system:node:n", "system:nodes"));
    assert_eq!(with_token(&admin, "POST", REQUESTS, (TOKEN, asked.clone())).await.0, 403);
    let binding = json!({
        "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "system:node-bootstrapper"},
        "subjects": [{"kind": "Group", "name": "system:bootstrappers:test"}],
    });
    assert_eq!(admin.post(BINDINGS, &binding).await.0, 201);
    let (code, made) = with_token(&admin, "POST", REQUESTS, (TOKEN, asked)).await;
    assert_eq!((code, &made["spec"]["username"]), (201, &"system:bootstrap:abcdef".into()), "{made}");
    let secrets = with_token(&admin, "GET", SECRETS, (TOKEN, json!({}))).await;
    assert_eq!(secrets.0, 403, "it reads no tokens");
    let approval = format!("{REQUESTS}/a/approval");
    assert_eq!(with_token(&admin, "PUT", &approval, (TOKEN, approved(made))).await.0, 403);
}

#[tokio::test]
async fn nodes_may_have_their_own_certificate_renewed_and_nobody_elses() {
    let admin = door().await;
    let may = |user: &str, group: &str, right: &str| {
        json!({"spec": {"user": user, "groups": [group], "resourceAttributes": {
            "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "subresource": right, "verb": "create",
        }}})
    };
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    for (user, group, right, allowed) in [
        ("system:node:n", "system:nodes", "selfnodeclient", true),
        ("system:node:n", "system:nodes", "nodeclient", false),
        ("system:bootstrap:abcdef", "system:bootstrappers", "nodeclient", false),
        ("system:bootstrap:abcdef", "system:bootstrappers", "selfnodeclient", false),
    ] {
        let (_, answer) = admin.post(reviews, &may(user, group, right)).await;
        assert_eq!(answer["status"]["allowed"], allowed, "{user} {right}");
    }
}
