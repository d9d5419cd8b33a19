//! Admission webhooks against a real HTTPS server, and what happens when it misbehaves.
#![allow(missing_docs)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::look;
use apiserver::{DEFAULT_PLUGINS, UserInfo};
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use door::{Door, PODS, pod, server_with};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

mod door;
mod pki;

/// Path of the request and the question → HTTP status and body.
type Judge = dyn Fn(&str, &Value) -> (u16, String) + Send + Sync;

/// A webhook over TLS that remembers what it was asked.
struct Webhook {
    url: String,
    ca: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Webhook {
    async fn start(judge: impl Fn(&str, &Value) -> (u16, String) + Send + Sync + 'static) -> Webhook {
        let pki = pki::Pki::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let acceptor = tokio_rustls::TlsAcceptor::from(pki.server_config());
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (log, judge): (_, Arc<Judge>) = (asked.clone(), Arc::new(judge));
        let serve = async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, log, judge) = (acceptor.clone(), log.clone(), judge.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                        let (log, judge) = (log.clone(), judge.clone());
                        async move {
                            let path = request.uri().to_string();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let review: Value = serde_json::from_slice(&body).unwrap();
                            log.lock().unwrap().push((path.clone(), review.clone()));
                            let (code, text) = judge(&path, &review);
                            if code == 0 {
                                std::future::pending::<()>().await;
                            }
                            let response = hyper::Response::builder().status(code).body(Body::from(text)).unwrap();
                            Ok::<_, std::convert::Infallible>(response)
                        }
                    });
                    let serving =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    let _ = serving.await;
                });
            }
        };
        #[allow(clippy::disallowed_methods)] // Aborted when the webhook is dropped.
        let serving = AbortOnDropHandle::new(tokio::spawn(serve));
        Webhook { url, ca: STANDARD.encode(pki.ca_pem()), asked, _serving: serving }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().iter().map(|(_, review)| review["request"].clone()).collect()
    }

    /// A configuration with one webhook on all kinds that hold pods, changed by `more`.
    fn configuration(&self, name: &str, path: &str, more: Value) -> Value {
        let mut webhook = json!({
            "name": format!("{name}.policy.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("{}{path}", self.url), "caBundle": self.ca},
            "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": [
                "pods", "podtemplates", "replicationcontrollers", "replicasets", "deployments", "statefulsets", "daemonsets", "jobs", "cronjobs",
            ]}],
        });
        webhook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": name}, "webhooks": [webhook]})
    }
}

fn answer(review: &Value, more: Value) -> (u16, String) {
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    response.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    (200, json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).to_string())
}

fn patch(review: &Value, operations: &Value) -> (u16, String) {
    answer(review, json!({"patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())}))
}

async fn door() -> Door {
    Door { server: server_with(|_| {}).await, user: UserInfo::admin() }
}

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn register(door: &Door, path: &str, configuration: &Value) {
    let (code, made) = door.post(path, configuration).await;
    assert_eq!(code, 201, "{made}");
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Writes a digest behind every tag of a pod spec, wherever the object keeps it.
fn pin(review: &Value) -> (u16, String) {
    let object = &review["request"]["object"];
    let places: [&[&str]; 4] = [
        &["spec", "jobTemplate", "spec", "template", "spec"],
        &["spec", "template", "spec"],
        &["template", "spec"],
        &["spec"],
    ];
    let place = places
        .into_iter()
        .find(|place| look::at(object, place).is_some_and(|spec| look::get(spec, "containers").is_some()))
        .unwrap();
    let mut operations = Vec::new();
    for list in ["containers", "initContainers"] {
        for (index, container) in look::list(look::at(object, place).unwrap(), list).iter().enumerate() {
            let image = look::text(container, "image");
            if !image.contains('@') {
                let path = format!("/{}/{list}/{index}/image", place.join("/"));
                operations.push(json!({"op": "replace", "path": path, "value": format!("{image}@{DIGEST}")}));
            }
        }
    }
    if operations.is_empty() { answer(review, json!({})) } else { patch(review, &json!(operations)) }
}

const HOLDERS: [(&str, &[&str]); 9] = [
    (PODS, &[]),
    ("/api/v1/namespaces/default/podtemplates", &["template"]),
    ("/api/v1/namespaces/default/replicationcontrollers", &["spec", "template"]),
    ("/apis/apps/v1/namespaces/default/replicasets", &["spec", "template"]),
    (DEPLOYMENTS, &["spec", "template"]),
    ("/apis/apps/v1/namespaces/default/statefulsets", &["spec", "template"]),
    ("/apis/apps/v1/namespaces/default/daemonsets", &["spec", "template"]),
    ("/apis/batch/v1/namespaces/default/jobs", &["spec", "template"]),
    ("/apis/batch/v1/namespaces/default/cronjobs", &["spec", "jobTemplate", "spec", "template"]),
];

fn holder(path: &str, place: &[&str]) -> Value {
    let mut object = json!({"metadata": {"name": "w", "labels": {"app": "w"}}});
    let template = place.iter().fold(&mut object, |value, name| look::child(value, name));
    let spec = json!({"containers": [{"name": "c", "image": "reg.io/app:1"}], "initContainers": [{"name": "i", "image": "reg.io/init"}]});
    look::set(template, "spec", spec);
    if !place.is_empty() {
        template["metadata"] = json!({"labels": {"app": "w"}});
    }
    if path.contains("/batch/") {
        template["spec"]["restartPolicy"] = json!("Never");
    }
    if path.contains("/apps/") {
        object["spec"]["selector"] = json!({"matchLabels": {"app": "w"}});
    }
    if path.ends_with("cronjobs") {
        object["spec"]["schedule"] = json!("@daily");
    }
    object
}

#[tokio::test]
async fn a_webhook_pins_digests_in_pods_and_every_template_on_create_and_update() {
    let webhook = Webhook::start(|_, review| pin(review)).await;
    let door = door().await;
    register(&door, MUTATING, &webhook.configuration("pin", "/", json!({}))).await;
    for (path, place) in HOLDERS {
        let (code, made) = door.post(path, &holder(path, place)).await;
        assert_eq!(code, 201, "{path} {made}");
        let spec = |object: &Value| {
            if place.is_empty() { object["spec"].clone() } else { look::at(object, place).unwrap()["spec"].clone() }
        };
        let (_, stored) = door.get(&format!("{path}/w")).await;
        let pinned = spec(&stored);
        assert_eq!(pinned["containers"][0]["image"], format!("reg.io/app:1@{DIGEST}"), "{path}");
        assert_eq!(pinned["initContainers"][0]["image"], format!("reg.io/init@{DIGEST}"), "{path}");
        // The policy was chosen before the digest came (IMG-20).
        assert_eq!(pinned["initContainers"][0]["imagePullPolicy"], "Always", "{path}");
        if path.ends_with("jobs") && !path.ends_with("cronjobs") {
            continue; // The template of a Job is fixed.
        }
        let mut new = spec(&stored)["containers"].clone();
        new[0]["image"] = json!("reg.io/app:2");
        let change = place.iter().rev().fold(json!({"spec": {"containers": new}}), |inner, name| json!({*name: inner}));
        let (code, changed) = door.merge(&format!("{path}/w"), &change).await;
        assert_eq!(code, 200, "{path} {changed}");
        assert_eq!(spec(&changed)["containers"][0]["image"], format!("reg.io/app:2@{DIGEST}"), "{path}");
        assert_eq!(changed["metadata"]["generation"], 2, "{path}: what the webhook wrote counts once");
    }
    let asked = webhook.asked();
    let deployment = asked.iter().find(|request| request["kind"]["kind"] == "Deployment").unwrap();
    assert_eq!(deployment["resource"], json!({"group": "apps", "version": "v1", "resource": "deployments"}));
    assert_eq!((&deployment["operation"], &deployment["namespace"]), (&json!("CREATE"), &json!("default")));
    assert_eq!(deployment["userInfo"]["username"], "kubernetes-admin");
    assert_eq!((&deployment["oldObject"], &deployment["dryRun"]), (&Value::Null, &json!(false)));
    assert_eq!(deployment["options"]["kind"], "CreateOptions");
    let update = asked.iter().find(|request| request["operation"] == "UPDATE").unwrap();
    assert!(update["oldObject"]["spec"].is_object() && update["options"]["kind"] == "UpdateOptions", "{update}");
    assert!(webhook.asked.lock().unwrap().iter().all(|(path, _)| path == "/?timeout=10s"));
}

#[tokio::test]
async fn a_validating_webhook_refuses_in_its_own_words_and_warns() {
    let webhook = Webhook::start(|path, review| match path.split('?').next() {
        Some("/deny") => answer(
            review,
            json!({"allowed": false, "status": {"code": 403, "message": "not today"}, "warnings": ["think again"]}),
        ),
        Some("/plain") => answer(review, json!({"allowed": false})),
        _ => answer(review, json!({"warnings": ["think again"], "auditAnnotations": {"a": "b"}})),
    })
    .await;
    let door = door().await;
    register(&door, VALIDATING, &webhook.configuration("warn", "/warn", json!({}))).await;
    let (code, _, warnings) = door.post_warned(PODS, &pod("a")).await;
    assert_eq!((code, warnings), (201, vec!["299 - \"think again\"".to_owned()]));
    register(&door, VALIDATING, &webhook.configuration("deny", "/deny", json!({}))).await;
    let (code, status, warnings) = door.post_warned(PODS, &pod("b")).await;
    assert_eq!(code, 403);
    assert_eq!(status["message"], "admission webhook \"deny.policy.example.com\" denied the request: not today");
    assert_eq!(warnings, ["299 - \"think again\""], "each text once, also with a refusal");
    let plain = webhook.configuration("deny", "/plain", json!({}));
    assert_eq!(door.put(&format!("{VALIDATING}/deny"), &plain).await.0, 200);
    let (code, status) = door.post(PODS, &pod("b")).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "admission webhook \"deny.policy.example.com\" denied the request without explanation"
    );
    // Configurations are exempt: the broken one can go.
    assert_eq!(door.delete(&format!("{VALIDATING}/deny"), &json!({})).await.0, 200);
    assert_eq!(door.post(PODS, &pod("b")).await.0, 201);
}

#[tokio::test]
async fn a_webhook_that_cannot_be_asked_refuses_or_is_ignored_as_it_says() {
    let webhook = Webhook::start(|path, review| match path.split('?').next() {
        Some("/slow") => (0, String::new()),
        Some("/broken") => (500, "x".to_owned()),
        Some("/absent") => (404, String::new()),
        Some("/garbage") => (200, "<html>".to_owned()),
        Some("/large") => (200, "x".repeat(4 * 1024 * 1024)),
        Some("/other") => (200, answer(review, json!({"uid": "y"})).1),
        _ => answer(review, json!({"patch": "W10="})),
    })
    .await;
    let door = door().await;
    let path = format!("{MUTATING}/x");
    register(&door, MUTATING, &webhook.configuration("x", "/", json!({}))).await;
    for (place, words) in [
        ("/slow", "failed to call webhook: Post \"https://127.0.0.1:PORT/slow?timeout=1s\": context deadline exceeded"),
        ("/broken", "an error on the server (\"unknown\") has prevented the request from succeeding"),
        ("/absent", "the server could not find the requested resource"),
        ("/garbage", "received invalid webhook response: couldn't decode the answer"),
        ("/large", "the answer could not be read: length limit exceeded"),
        ("/other", "received invalid webhook response: expected response.uid="),
        ("/", "received invalid webhook response: webhook returned response.patch but not response.patchType"),
    ] {
        let fail = webhook.configuration("x", place, json!({"timeoutSeconds": 1}));
        assert_eq!(door.put(&path, &fail).await.0, 200);
        let (code, status) = door.post(PODS, &pod("a")).await;
        assert_eq!((code, &status["reason"]), (500, &json!("InternalError")), "{place} {status}");
        let message = status["message"].as_str().unwrap();
        let port = webhook.url.rsplit(':').next().unwrap();
        assert!(
            message.starts_with("Internal error occurred: failed calling webhook \"x.policy.example.com\": "),
            "{message}"
        );
        assert!(message.contains(&words.replace("PORT", port)), "{message}\nwanted: {words}");
        let ignore = webhook.configuration("x", place, json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"}));
        assert_eq!(door.put(&path, &ignore).await.0, 200);
        let (code, status) = door.post(&format!("{PODS}?dryRun=All"), &pod("a")).await;
        assert_eq!(code, 201, "{place} {status}");
    }
    // Another authority's certificate is not believed.
    let mut stranger = webhook.configuration("x", "/warn", json!({}));
    stranger["webhooks"][0]["clientConfig"]["caBundle"] = json!(STANDARD.encode(pki::Pki::new().ca_pem()));
    assert_eq!(door.put(&path, &stranger).await.0, 200);
    let (code, status) = door.post(PODS, &pod("a")).await;
    assert!(code == 500 && status["message"].as_str().unwrap().contains("invalid peer certificate"), "{status}");
}

#[tokio::test]
async fn rules_and_selectors_decide_who_is_asked() {
    let webhook = Webhook::start(|_, review| answer(review, json!({}))).await;
    let door = door().await;
    let rule = |resources: Value, operations: Value, scope: &str| json!([{"operations": operations, "apiGroups": ["", "apps"], "apiVersions": ["*"], "resources": resources, "scope": scope}]);
    let path = format!("{VALIDATING}/x");
    register(&door, VALIDATING, &webhook.configuration("x", "/", json!({}))).await;
    let namespace = json!({"metadata": {"name": "other", "labels": {"team": "red"}}});
    assert_eq!(door.post("/api/v1/namespaces", &namespace).await.0, 201);
    let other = "/api/v1/namespaces/other/pods?dryRun=All";
    let here = &format!("{PODS}?dryRun=All");
    assert_eq!(door.post(DEPLOYMENTS, &holder(DEPLOYMENTS, &["spec", "template"])).await.0, 201);
    let check = async |more: Value, method: &str, path_of: &str, expected: usize| {
        assert_eq!(door.put(&path, &webhook.configuration("x", "/", more.clone())).await.0, 200);
        let before = webhook.asked().len();
        let code = match method {
            "create" => door.post(path_of, &pod("a")).await.0,
            "scale" => door.merge(path_of, &json!({"spec": {"replicas": 3}})).await.0,
            "status" => door.merge(path_of, &json!({"status": {"replicas": 1}})).await.0,
            _ => door.delete(path_of, &json!({"dryRun": ["All"]})).await.0,
        };
        assert!(code < 300, "{more} {method} {path_of}: {code}");
        assert_eq!(webhook.asked().len() - before, expected, "{more} {method} {path_of}");
    };
    let deployment = &format!("{DEPLOYMENTS}/w");
    check(json!({"rules": rule(json!(["pods"]), json!(["CREATE"]), "*")}), "create", here, 1).await;
    check(json!({"rules": rule(json!(["pods"]), json!(["UPDATE"]), "*")}), "create", here, 0).await;
    check(json!({"rules": rule(json!(["pods"]), json!(["*"]), "Cluster")}), "create", here, 0).await;
    check(json!({"rules": rule(json!(["*"]), json!(["*"]), "Namespaced")}), "create", here, 1).await;
    check(json!({"rules": rule(json!(["deployments"]), json!(["DELETE"]), "*")}), "delete", deployment, 1).await;
    check(
        json!({"rules": rule(json!(["deployments"]), json!(["*"]), "*")}),
        "scale",
        &format!("{deployment}/scale"),
        0,
    )
    .await;
    check(
        json!({"rules": rule(json!(["deployments/*"]), json!(["*"]), "*")}),
        "status",
        &format!("{deployment}/status"),
        1,
    )
    .await;
    check(json!({"rules": rule(json!(["*/scale"]), json!(["*"]), "*")}), "scale", &format!("{deployment}/scale"), 1)
        .await;
    let scaled = webhook.asked().pop().unwrap();
    assert_eq!((&scaled["kind"]["kind"], &scaled["subResource"]), (&json!("Scale"), &json!("scale")));
    assert_eq!((&scaled["object"]["kind"], &scaled["object"]["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    let red = json!({"namespaceSelector": {"matchLabels": {"team": "red"}}});
    check(red.clone(), "create", other, 1).await;
    check(red, "create", here, 0).await;
    check(json!({"objectSelector": {"matchLabels": {"app": "a"}}}), "create", here, 1).await;
    check(json!({"objectSelector": {"matchLabels": {"app": "b"}}}), "create", here, 0).await;
    let asked = webhook.asked();
    assert!(asked.iter().any(|request| request["dryRun"] == true && request["options"]["dryRun"] == json!(["All"])));
    let deleted = asked.iter().find(|request| request["operation"] == "DELETE").unwrap();
    assert!(deleted["object"].is_null() && deleted["oldObject"]["kind"] == "Deployment", "{deleted}");
}

#[tokio::test]
async fn webhooks_go_in_order_of_name_and_once_more_when_they_ask_for_it() {
    // Each counts its calls in an annotation; the second also adds a sidecar.
    let webhook = Webhook::start(|path, review| {
        let place = path.split('?').next().unwrap().trim_start_matches('/').to_owned();
        let annotations = &review["request"]["object"]["metadata"]["annotations"];
        let before = annotations["trail"].as_str().unwrap_or_default();
        let mut operations =
            vec![json!({"op": "add", "path": "/metadata/annotations/trail", "value": format!("{before}{place}")})];
        if annotations.is_null() {
            operations.insert(0, json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
        }
        patch(review, &json!(operations))
    })
    .await;
    let door = door().await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    register(&door, MUTATING, &webhook.configuration("b", "/b", json!({}))).await;
    register(&door, MUTATING, &webhook.configuration("a", "/a", again.clone())).await;
    let (code, made) = door.post(PODS, &pod("x")).await;
    assert_eq!((code, &made["metadata"]["annotations"]["trail"]), (201, &json!("aba")), "{made}");
    assert_eq!(door.put(&format!("{MUTATING}/a"), &webhook.configuration("a", "/a", json!({}))).await.0, 200);
    assert_eq!(door.put(&format!("{MUTATING}/b"), &webhook.configuration("b", "/b", again)).await.0, 200);
    let (_, made) = door.post(PODS, &pod("y")).await;
    assert_eq!(made["metadata"]["annotations"]["trail"], "ab", "nothing changed after the last one");
}

#[tokio::test]
async fn img_223_a_webhook_cannot_take_the_policy_back() {
    let webhook = Webhook::start(|_, review| {
        let operations = json!([
            {"op": "replace", "path": "/spec/containers/0/imagePullPolicy", "value": "Never"},
            {"op": "replace", "path": "/spec/volumes/0/image/pullPolicy", "value": "IfNotPresent"},
        ]);
        patch(review, &operations)
    })
    .await;
    let server = server_with(|options| {
        options.admission =
            DEFAULT_PLUGINS.iter().chain(&["AlwaysPullImages"]).map(|name| (*name).to_owned()).collect();
    });
    let door = Door { server: server.await, user: UserInfo::admin() };
    let mut object = pod("a");
    object["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "x"}}]);
    register(&door, MUTATING, &webhook.configuration("flip", "/", json!({}))).await;
    let (code, made) = door.post(PODS, &object).await;
    assert_eq!(
        (code, &made["spec"]["containers"][0]["imagePullPolicy"]),
        (201, &json!("Always")),
        "the plugin has the last word"
    );
    let stubborn = webhook.configuration("flip", "/", json!({"reinvocationPolicy": "IfNeeded"}));
    assert_eq!(door.put(&format!("{MUTATING}/flip"), &stubborn).await.0, 200);
    object["metadata"]["name"] = json!("b");
    let (code, status) = door.post(PODS, &object).await;
    assert_eq!(code, 403, "{status}");
    assert_eq!(
        status["message"],
        "[pods \"b\" is forbidden: spec.containers[0].imagePullPolicy: Unsupported value: \"Never\": supported values: \"Always\", \
         pods \"b\" is forbidden: spec.volumes[0].image.pullPolicy: Unsupported value: \"IfNotPresent\": supported values: \"Always\"]"
    );
}

#[tokio::test]
async fn a_patch_makes_an_object_or_nothing() {
    let webhook = Webhook::start(|path, review| match path.split('?').next() {
        Some("/kind") => patch(review, &json!([{"op": "replace", "path": "/kind", "value": "Secret"}])),
        Some("/type") => patch(review, &json!([{"op": "replace", "path": "/spec/containers", "value": 7}])),
        Some("/test") => patch(review, &json!([{"op": "test", "path": "/kind", "value": "x"}])),
        Some("/empty") => patch(review, &json!([{"op": "replace", "path": "/spec/containers/0/name", "value": ""}])),
        _ => patch(review, &json!([
            {"op": "add", "path": "/metadata/uid", "value": "forged"}, {"op": "add", "path": "/nonsense", "value": 1},
            {"op": "add", "path": "/status", "value": {"phase": "Running"}},
            {"op": "add", "path": "/spec/containers/-", "value": {"name": "side", "image": "side"}},
        ])),
    })
    .await;
    let door = door().await;
    let path = format!("{MUTATING}/x");
    register(&door, MUTATING, &webhook.configuration("x", "/", json!({}))).await;
    let (code, made) = door.post(PODS, &pod("a")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert_eq!((&made["status"]["phase"], made.get("nonsense")), (&json!("Pending"), None));
    // What a webhook adds is defaulted like anything else.
    assert_eq!(made["spec"]["containers"][1]["imagePullPolicy"], "Always");
    for (place, code) in [("/kind", 500), ("/type", 500), ("/test", 500), ("/empty", 422)] {
        assert_eq!(door.put(&path, &webhook.configuration("x", place, json!({}))).await.0, 200);
        let (found, status) = door.post(PODS, &pod("b")).await;
        assert_eq!(found, code, "{place} {status}");
    }
}

#[tokio::test]
async fn validating_webhooks_are_asked_at_the_same_time() {
    let webhook = Webhook::start(|_, review| answer(review, json!({}))).await;
    let barrier = Arc::new(tokio::sync::Barrier::new(2));
    let client = {
        let barrier = barrier.clone();
        tower::util::BoxCloneSyncService::new(tower::service_fn(move |call: apiserver::WebhookCall| {
            let barrier = barrier.clone();
            async move {
                barrier.wait().await;
                let review: Value = serde_json::from_slice(&call.body).unwrap();
                Ok::<_, String>(answer(&review, json!({})).1.into())
            }
        }))
    };
    let door = Door { server: server_with(|options| options.webhooks = client).await, user: UserInfo::admin() };
    register(&door, VALIDATING, &webhook.configuration("a", "/a", json!({}))).await;
    register(&door, VALIDATING, &webhook.configuration("b", "/b", json!({}))).await;
    // One after the other would wait for ever.
    let made = tokio::time::timeout(Duration::from_secs(9), door.post(PODS, &pod("a"))).await;
    assert_eq!(made.expect("both are asked at once").0, 201);
}

#[tokio::test]
async fn rtc_25_a_class_that_a_webhook_chooses_is_merged_and_what_it_breaks_is_refused() {
    let webhook = Webhook::start(|path, review| {
        let operations = match path.starts_with("/choose") {
            true => json!([{"op": "add", "path": "/spec/runtimeClassName", "value": "vm"}]),
            false => json!([{"op": "add", "path": "/spec/overhead", "value": {"cpu": "9"}}]),
        };
        patch(review, &operations)
    })
    .await;
    let door = door().await;
    let class = json!({
        "metadata": {"name": "vm"}, "handler": "kata", "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
    });
    register(&door, "/apis/node.k8s.io/v1/runtimeclasses", &class).await;
    register(&door, MUTATING, &webhook.configuration("x", "/choose", json!({}))).await;
    let (code, made) = door.post(PODS, &pod("a")).await;
    assert_eq!(code, 201, "{made}");
    let spec = &made["spec"];
    assert_eq!((&spec["overhead"], &spec["nodeSelector"]), (&json!({"cpu": "250m"}), &json!({"vm": "yes"})));
    // The cluster's own tolerations were there before; the class's come once, after them.
    let keys: Vec<&str> =
        spec["tolerations"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "vm"]);

    // The plugin has the last word: on another overhead, and on one without a class.
    assert_eq!(door.put(&format!("{MUTATING}/x"), &webhook.configuration("x", "/load", json!({}))).await.0, 200);
    let mut classed = pod("b");
    classed["spec"]["runtimeClassName"] = json!("vm");
    for (object, why) in [
        (classed, "Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
        (pod("b"), "Pod Overhead set without corresponding RuntimeClass defined Overhead"),
    ] {
        let (code, status) = door.post(PODS, &object).await;
        assert_eq!((code, &status["message"]), (403, &json!(format!("pods \"b\" is forbidden: pod rejected: {why}"))));
    }
}

/// A configuration about what is sent to subresources.
fn on_ways_in(webhook: &Webhook, name: &str, more: Value) -> Value {
    let rules = json!([
        {"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/*", "nodes/proxy"]},
        {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/binding", "pods/eviction"]},
    ]);
    let mut configuration = webhook.configuration(name, "/", json!({"rules": rules}));
    configuration["webhooks"][0].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    configuration
}

#[tokio::test]
async fn every_way_into_a_pod_and_off_its_node_is_asked_about_before_it_is_gone() {
    let webhook = Webhook::start(|_, review| {
        answer(review, json!({"allowed": false, "status": {"code": 403, "message": "closed"}, "warnings": ["careful"]}))
    })
    .await;
    let door = door().await;
    door.bound_pod("p", "n").await;
    assert_eq!(door.post(PODS, &pod("free")).await.0, 201);
    assert_eq!(door.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.0, 201);
    register(&door, VALIDATING, &on_ways_in(&webhook, "deny", json!({}))).await;
    let binding = json!({"metadata": {"name": "free", "labels": {"a": "b"}}, "target": {"kind": "Node", "name": "n"}});
    let eviction = json!({"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 3}});
    let exec = json!({"container": "c", "command": ["sh", "-c"], "stdout": true, "tty": true});
    let requested = |kind: Value, more: Value| (kind, more);
    let core = |kind: &str| json!({"group": "", "version": "v1", "kind": kind});
    for (path, body, (kind, object)) in [
        (
            "p/exec?container=c&command=sh&command=-c&stdout=1&tty=true",
            json!({}),
            requested(core("PodExecOptions"), exec),
        ),
        ("p/attach?stdin=1", json!({}), requested(core("PodAttachOptions"), json!({"stdin": true}))),
        ("p/portforward?ports=80", json!({}), requested(core("PodPortForwardOptions"), json!({"ports": [80]}))),
        ("free/binding", binding.clone(), requested(core("Binding"), binding.clone())),
        (
            "p/eviction",
            eviction.clone(),
            requested(json!({"group": "policy", "version": "v1", "kind": "Eviction"}), eviction.clone()),
        ),
    ] {
        let (code, status, warnings) = door.post_warned(&format!("{PODS}/{path}"), &body).await;
        let message = "admission webhook \"deny.policy.example.com\" denied the request: closed";
        assert_eq!((code, &status["message"]), (403, &json!(message)), "{path}");
        if !path.contains('?') {
            assert_eq!(warnings, ["299 - \"careful\""], "{path}");
        }
        let asked = webhook.asked().pop().unwrap();
        let (name, sub) = path.split('?').next().unwrap().split_once('/').unwrap();
        assert_eq!((&asked["kind"], &asked["requestKind"]), (&kind, &kind), "{path}");
        assert_eq!(asked["resource"], json!({"group": "", "version": "v1", "resource": "pods"}), "{path}");
        assert_eq!((&asked["subResource"], &asked["name"]), (&json!(sub), &json!(name)), "{path}");
        assert_eq!((&asked["namespace"], &asked["oldObject"]), (&json!("default"), &Value::Null), "{path}");
        let connects = path.contains('?');
        assert_eq!(asked["operation"], if connects { "CONNECT" } else { "CREATE" }, "{path}");
        assert_eq!(asked["options"].is_null(), connects, "{path}");
        let mut shown = asked["object"].clone();
        assert_eq!(look::remove(&mut shown, "kind"), Some(kind["kind"].clone()), "{path}");
        let version = look::remove(&mut shown, "apiVersion").unwrap();
        assert_eq!(version, if kind["group"] == "" { "v1" } else { "policy/v1" }, "{path}");
        assert_eq!(shown, object, "{path}");
    }
    // A GET is a way in as well.
    assert_eq!(door.get(&format!("{PODS}/p/exec?command=sh")).await.0, 403);
    let (code, status) = door.get("/api/v1/nodes/n/proxy/pods/a?b=c").await;
    assert_eq!(code, 403, "{status}");
    let asked = webhook.asked().pop().unwrap();
    assert_eq!((&asked["kind"], &asked["subResource"]), (&core("NodeProxyOptions"), &json!("proxy")));
    assert_eq!((&asked["object"]["path"], asked.get("namespace")), (&json!("/pods/a"), None));
    let dry = json!({"metadata": {"name": "p"}, "deleteOptions": {"dryRun": ["All"]}});
    assert_eq!(door.post(&format!("{PODS}/p/eviction"), &dry).await.0, 403);
    assert_eq!(webhook.asked().pop().unwrap()["dryRun"], true);
    let (_, left) = door.get(&format!("{PODS}/p")).await;
    assert!(look::at(&left, &["metadata", "deletionTimestamp"]).is_none(), "{left}");
    let (_, left) = door.get(&format!("{PODS}/free")).await;
    assert_eq!(look::text_at(&left, &["spec", "nodeName"]), "");
    // Logs are read, not entered; and what has no labels is selected by none.
    let before = webhook.asked().len();
    door.get(&format!("{PODS}/p/log")).await;
    let labelled = json!({"objectSelector": {"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}});
    assert_eq!(door.put(&format!("{VALIDATING}/deny"), &on_ways_in(&webhook, "deny", labelled)).await.0, 200);
    assert_ne!(door.post(&format!("{PODS}/p/exec?command=sh"), &json!({})).await.0, 403);
    assert_eq!(webhook.asked().len(), before);
    assert_eq!(door.post(&format!("{PODS}/free/binding"), &binding).await.0, 403);
}

#[tokio::test]
async fn what_is_sent_is_taken_as_a_webhook_left_it() {
    let webhook = Webhook::start(|_, review| match review["request"]["subResource"].as_str() {
        Some("binding") => {
            patch(review, &json!([{"op": "add", "path": "/metadata/annotations", "value": {"why": "told"}}]))
        }
        Some("eviction") => {
            patch(review, &json!([{"op": "add", "path": "/deleteOptions", "value": {"dryRun": ["All"]}}]))
        }
        Some("exec") => patch(review, &json!([{"op": "replace", "path": "/container", "value": "other"}])),
        _ => patch(review, &json!([{"op": "replace", "path": "/kind", "value": "Pod"}])),
    })
    .await;
    let door = door().await;
    register(&door, MUTATING, &on_ways_in(&webhook, "change", json!({}))).await;
    door.bound_pod("p", "n").await;
    let (_, bound) = door.get(&format!("{PODS}/p")).await;
    assert_eq!((&bound["spec"]["nodeName"], &bound["metadata"]["annotations"]["why"]), (&json!("n"), &json!("told")));
    assert_eq!(door.post(&format!("{PODS}/p/eviction"), &json!({"metadata": {"name": "p"}})).await.0, 201);
    assert_eq!(door.get(&format!("{PODS}/p")).await.1["metadata"].get("deletionTimestamp"), None);
    let (code, status) = door.post(&format!("{PODS}/p/exec?container=c&command=sh"), &json!({})).await;
    assert_eq!((code, &status["message"]), (400, &json!("container other is not valid for pod p")));
    let (code, status) = door.post(&format!("{PODS}/p/attach"), &json!({})).await;
    assert_eq!(code, 500, "{status}");
}

#[tokio::test]
async fn nothing_is_bound_or_evicted_in_a_namespace_that_goes_but_its_pods_can_be_entered() {
    let door = door().await;
    let namespace = json!({"metadata": {"name": "going"}, "spec": {"finalizers": ["kubernetes"]}});
    assert_eq!(door.post("/api/v1/namespaces", &namespace).await.0, 201);
    let pods = "/api/v1/namespaces/going/pods";
    assert_eq!(door.post(pods, &pod("p")).await.0, 201);
    assert_eq!(door.delete("/api/v1/namespaces/going", &json!({})).await.0, 200);
    let binding = json!({"metadata": {"name": "p"}, "target": {"name": "n"}});
    for (sub, body) in [("binding", binding), ("eviction", json!({"metadata": {"name": "p"}}))] {
        let (code, status) = door.post(&format!("{pods}/p/{sub}"), &body).await;
        assert_eq!(
            (code, &status["details"]["causes"][0]["reason"]),
            (403, &json!("NamespaceTerminating")),
            "{status}"
        );
    }
    let (code, status) = door.post(&format!("{pods}/p/exec?command=sh"), &json!({})).await;
    assert_eq!((code, &status["message"]), (400, &json!("pod p does not have a host assigned")));
}
