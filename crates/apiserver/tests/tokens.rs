//! Tokens of service accounts: asked for, believed, and refused. On the memory store, with tokens over the open door.
#![allow(missing_docs)]

use apiserver::UserInfo;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use door::{Door, PODS, door, server_with};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

mod door;

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1";

async fn with_account(door: &Door, name: &str) {
    let (code, answer) = door.post(ACCOUNTS, &json!({"metadata": {"name": name}})).await;
    assert_eq!(code, 201, "{answer}");
}

async fn ask(door: &Door, account: &str, spec: Value) -> (u16, Value) {
    door.post(&format!("{ACCOUNTS}/{account}/token"), &json!({"spec": spec})).await
}

async fn token(door: &Door, account: &str, spec: Value) -> String {
    let (code, answer) = ask(door, account, spec).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"]["token"].as_str().unwrap().to_owned()
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// GET as the bearer of a token, over the door that knows nobody.
async fn bear(door: &Door, token: &str, path: &str) -> (u16, Value) {
    let request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
    let response = door.server.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn review(door: &Door, token: &str, audiences: &[&str]) -> Value {
    let body = json!({"spec": {"token": token, "audiences": audiences}});
    let (code, answer) = door.post(&format!("{REVIEWS}/tokenreviews"), &body).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"].clone()
}

/// A pod of an account, bound to a node.
async fn bound_pod(door: &Door, name: &str, account: &str, node: &str) -> Value {
    let mut pod = door::pod(name);
    pod["spec"]["serviceAccountName"] = account.into();
    assert_eq!(door.post(PODS, &pod).await.0, 201);
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
    assert_eq!(door.post(&format!("{PODS}/{name}/binding"), &binding).await.0, 201);
    door.get(&format!("{PODS}/{name}")).await.1
}

fn bound_to(pod: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]})
}

async fn refused(door: &Door, token: &str, what: &str) {
    let (code, status) = bear(door, token, "/api").await;
    assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")), "{what}: {status}");
    assert_eq!((&status["kind"], &status["message"]), (&json!("Status"), &json!("Unauthorized")), "{what}");
}

#[tokio::test]
async fn a_token_says_whose_it_is_and_proves_it_but_allows_nothing_more() {
    let door = door().await;
    with_account(&door, "robot").await;
    let pod = bound_pod(&door, "p", "robot", "n1").await;
    let (code, answer) = ask(&door, "robot", json!({"boundObjectRef": bound_to(&pod)})).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!((&answer["kind"], &answer["spec"]["expirationSeconds"]), (&json!("TokenRequest"), &json!(3600)));
    assert!(answer["status"]["expirationTimestamp"].as_str().unwrap().ends_with('Z'));
    let token = answer["status"]["token"].as_str().unwrap();
    let said = claims(token);
    assert_eq!((&said["iss"], &said["aud"]), (&json!(ISSUER), &json!([ISSUER])));
    assert_eq!(said["sub"], "system:serviceaccount:default:robot");
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 3600);
    let place = &said["kubernetes.io"];
    assert_eq!((&place["namespace"], &place["node"]), (&json!("default"), &json!({"name": "n1"})));
    assert_eq!(place["pod"], json!({"name": "p", "uid": pod["metadata"]["uid"]}));
    assert_eq!(said["jti"].as_str().unwrap().len(), 36);

    let status = review(&door, token, &[]).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!([ISSUER])));
    let user = &status["user"];
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(user["uid"], place["serviceaccount"]["uid"]);
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["n1"]));

    for path in ["/api", "/apis", "/openid/v1/jwks", "/.well-known/openid-configuration"] {
        assert_eq!(bear(&door, token, path).await.0, 200, "{path}");
    }
    for path in [PODS, "/api/v1/namespaces/default/secrets/s", "/api/v1/nodes"] {
        let (code, status) = bear(&door, token, path).await;
        assert_eq!(code, 403, "{path}");
        assert!(status["message"].as_str().unwrap().contains("system:serviceaccount:default:robot"), "{status}");
    }
}

#[tokio::test]
async fn who_asks_is_told_who_and_what_is_allowed() {
    let door = door().await;
    with_account(&door, "robot").await;
    let robot = door.of(UserInfo::new("system:serviceaccount:default:robot", &["system:serviceaccounts"]));
    let (code, answer) = robot.post(&format!("{REVIEWS}/selfsubjectreviews"), &json!({})).await;
    assert_eq!((code, &answer["kind"]), (201, &json!("SelfSubjectReview")), "{answer}");
    assert_eq!(answer["status"]["userInfo"]["username"], "system:serviceaccount:default:robot");
    let may = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let question =
        json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}});
    assert_eq!(robot.post(may, &question).await.1["status"]["allowed"], false);
    assert_eq!(door.post(may, &question).await.1["status"]["allowed"], true);
    let path = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/apis"}}});
    assert_eq!(robot.post(may, &path).await.1["status"]["allowed"], true);
    assert_eq!(robot.post(may, &json!({"spec": {}})).await.0, 422);
    let (code, _) = robot.post(&format!("{REVIEWS}/tokenreviews"), &json!({"spec": {"token": "x"}})).await;
    assert_eq!(code, 403, "tokens are judged for those who may");
    assert_eq!(door.get(&format!("{REVIEWS}/selfsubjectreviews")).await.0, 405);
    let (_, list) = door.get(REVIEWS).await;
    assert_eq!(list["resources"].as_array().unwrap().len(), 2, "{list}");
}

#[tokio::test]
async fn forged_and_foreign_tokens_are_nobodys() {
    let door = door().await;
    with_account(&door, "robot").await;
    let good = token(&door, "robot", json!({})).await;
    assert_eq!(bear(&door, &good, "/api").await.0, 200);
    let parts: Vec<&str> = good.split('.').collect();
    let mut changed = claims(&good);
    changed["sub"] = "system:serviceaccount:kube-system:root".into();
    let changed = URL_SAFE_NO_PAD.encode(changed.to_string());
    let unsigned = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "typ": "JWT"}).to_string());
    let other = Door { server: door::server().await, user: UserInfo::admin() };
    with_account(&other, "robot").await;
    for (what, forged) in [
        ("alg none", format!("{unsigned}.{}.", parts[1])),
        ("alg none with a signature", format!("{unsigned}.{}.{}", parts[1], parts[2])),
        ("a changed claim", format!("{}.{changed}.{}", parts[0], parts[2])),
        ("another key", token(&other, "robot", json!({})).await),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("no token", "x".to_owned()),
        ("another audience", token(&door, "robot", json!({"audiences": ["vault"]})).await),
    ] {
        refused(&door, &forged, what).await;
        let status = review(&door, &forged, &[]).await;
        assert_ne!(status["authenticated"], true, "{what}");
        assert!(!status.to_string().contains(&forged) && status["error"].is_string(), "{what}: {status}");
    }
}

#[tokio::test]
async fn a_token_is_for_its_audiences_alone() {
    let door = door().await;
    with_account(&door, "robot").await;
    let vault = token(&door, "robot", json!({"audiences": ["vault", "bank"]})).await;
    let status = review(&door, &vault, &["bank", "shop"]).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["bank"])));
    assert_ne!(review(&door, &vault, &["shop"]).await["authenticated"], true);
    assert_ne!(review(&door, &vault, &[]).await["authenticated"], true);
    assert_eq!(review(&door, "secret", &[]).await["user"]["username"], "kubernetes-admin");
    assert_ne!(review(&door, "secret", &["shop"]).await["authenticated"], true);
    assert_eq!(door.post(&format!("{REVIEWS}/tokenreviews"), &json!({"spec": {"token": ""}})).await.0, 400);
}

#[tokio::test]
async fn what_a_token_is_bound_to_takes_it_along() {
    let door = door().await;
    with_account(&door, "robot").await;
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(door.post(secrets, &json!({"metadata": {"name": "s"}})).await.0, 201);
    assert_eq!(door.post("/api/v1/nodes", &json!({"metadata": {"name": "n2"}})).await.0, 201);
    let pod = bound_pod(&door, "p", "robot", "n1").await;
    let reference = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "name": name});
    for (kind, name, path) in [
        ("Pod", "p", format!("{PODS}/p")),
        ("Secret", "s", format!("{secrets}/s")),
        ("Node", "n2", "/api/v1/nodes/n2".to_owned()),
    ] {
        let bound = token(&door, "robot", json!({"boundObjectRef": reference(kind, name)})).await;
        assert_eq!(bear(&door, &bound, "/api").await.0, 200, "{kind}");
        let now = json!({"gracePeriodSeconds": 0});
        assert_eq!(door.delete(&path, &now).await.0, 200, "{kind}");
        refused(&door, &bound, kind).await;
    }
    let again = bound_pod(&door, "p", "robot", "n1").await;
    assert_ne!(again["metadata"]["uid"], pod["metadata"]["uid"]);
    let (code, status) = ask(&door, "robot", json!({"boundObjectRef": bound_to(&pod)})).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");

    let free = token(&door, "robot", json!({})).await;
    assert_eq!(door.delete(&format!("{ACCOUNTS}/robot"), &json!({})).await.0, 200);
    refused(&door, &free, "a deleted account").await;
    with_account(&door, "robot").await;
    refused(&door, &free, "an account of the same name").await;
}

#[tokio::test]
async fn bad_requests_for_tokens_are_refused_in_upstreams_words() {
    let door = door().await;
    with_account(&door, "robot").await;
    bound_pod(&door, "p", "default", "n1").await;
    let seconds = "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: ";
    for (spec, code, words) in [
        (
            json!({"expirationSeconds": 599}),
            422,
            format!("{seconds}599: may not specify a duration less than 10 minutes"),
        ),
        (
            json!({"expirationSeconds": 4_294_967_297_i64}),
            422,
            format!("{seconds}4294967297: may not specify a duration larger than 2^32 seconds"),
        ),
        (
            json!({"boundObjectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}),
            400,
            "cannot bind token to object of type apps/v1, Kind=Deployment".to_owned(),
        ),
        (
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}),
            400,
            "cannot bind token for serviceaccount \"robot\" to pod running with different serviceaccount name."
                .to_owned(),
        ),
        (
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "q"}}),
            404,
            "pods \"q\" not found".to_owned(),
        ),
    ] {
        let (got, status) = ask(&door, "robot", spec).await;
        assert_eq!((got, status["message"].as_str().unwrap()), (code, words.as_str()));
    }
    assert_eq!(ask(&door, "nobody", json!({})).await.0, 404);
    let path = format!("{ACCOUNTS}/robot/token");
    assert_eq!(door.get(&path).await.0, 405);
    let kept = token(&door, "robot", json!({"expirationSeconds": 4_294_967_296_i64})).await;
    assert_eq!(bear(&door, &kept, "/api").await.0, 200);
}

#[tokio::test]
async fn img_208_a_node_gets_tokens_for_its_own_pods_and_known_audiences_alone() {
    let server = server_with(|options| options.node_audiences = vec!["registry".to_owned()]).await;
    let door = Door { server, user: UserInfo::admin() };
    with_account(&door, "robot").await;
    with_account(&door, "other").await;
    let mut object = door::pod("p");
    object["spec"]["serviceAccountName"] = "robot".into();
    object["spec"]["volumes"] =
        json!([{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}}]);
    assert_eq!(door.post(PODS, &object).await.0, 201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(door.post(&format!("{PODS}/p/binding"), &binding).await.0, 201);
    let pod = door.get(&format!("{PODS}/p")).await.1;
    let foreign = bound_pod(&door, "q", "robot", "n2").await;
    let node = door.of(UserInfo::node("n1"));
    let own = bound_to(&pod);
    let mut stale = own.clone();
    stale["uid"] = "other".into();
    for (account, spec, code, words) in [
        ("robot", json!({"boundObjectRef": own, "audiences": ["vault"]}), 201, ""),
        ("robot", json!({"boundObjectRef": own, "audiences": ["registry"]}), 201, ""),
        (
            "robot",
            json!({"boundObjectRef": own, "audiences": ["shop"]}),
            403,
            "audience \"shop\" not found in pod spec volume",
        ),
        (
            "robot",
            json!({"boundObjectRef": own, "audiences": ["vault", "registry"]}),
            403,
            "node may only request 0 or 1 audiences",
        ),
        ("robot", json!({"audiences": ["vault"]}), 403, "node requested token not bound to a pod"),
        (
            "robot",
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}),
            403,
            "node requested token with a pod binding without a uid",
        ),
        ("robot", json!({"boundObjectRef": stale}), 403, "does not match the UID in record"),
        (
            "robot",
            json!({"boundObjectRef": bound_to(&foreign)}),
            403,
            "node requested token bound to a pod scheduled on a different node",
        ),
        ("other", json!({"boundObjectRef": own}), 403, "no relationship found between node \"n1\" and this object"),
    ] {
        let (got, answer) = ask(&node, account, spec.clone()).await;
        assert_eq!(got, code, "{spec}: {answer}");
        assert!(answer["message"].as_str().unwrap_or_default().contains(words), "{spec}: {answer}");
    }
}

#[tokio::test]
async fn an_expired_token_is_refused_and_one_key_serves_every_start() {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let start = || async {
        let key = pem.clone();
        Door {
            server: server_with(|options| options.service_account_key_pem = Some(key)).await,
            user: UserInfo::admin(),
        }
    };
    let door = start().await;
    with_account(&door, "robot").await;
    let mut said = claims(&token(&door, "robot", json!({})).await);
    let (_, keys) = door.get("/openid/v1/jwks").await;
    assert_eq!(start().await.get("/openid/v1/jwks").await.1, keys);
    let (_, configuration) = door.get("/.well-known/openid-configuration").await;
    assert_eq!(configuration["issuer"], ISSUER);
    // Signed with the server's own key, so that nothing but the time is wrong.
    let sign = |said: &Value| {
        use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
        let der = rcgen::KeyPair::from_pem(&pem).unwrap().serialize_der();
        let random = ring::rand::SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random).unwrap();
        let head = json!({"alg": "ES256", "kid": keys["keys"][0]["kid"]}).to_string();
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(said.to_string()));
        let signature = pair.sign(&random, text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    assert_eq!(bear(&door, &sign(&said), "/api").await.0, 200);
    let now = said["iat"].as_i64().unwrap();
    for (field, value) in [("exp", json!(now - 1)), ("nbf", json!(now + 3000)), ("iss", json!("https://elsewhere"))] {
        let before = said[field].take();
        said[field] = value;
        refused(&door, &sign(&said), field).await;
        said[field] = before;
    }
    said.as_object_mut().unwrap().remove("kubernetes.io");
    refused(&door, &sign(&said), "no claims of Kubernetes").await;
}
