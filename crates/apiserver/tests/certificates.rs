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
