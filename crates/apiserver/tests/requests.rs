//! The HTTP surface through the in-process door, on the memory store.
#![allow(missing_docs)]

use apiserver::UserInfo;
use axum::body::Body;
use door::{Door, PODS, door, pod, server};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

mod door;

#[tokio::test]
async fn only_health_and_version_are_open_to_strangers() {
    let router = server().await.router();
    let ask = async |path: &str, token: Option<&str>| {
        let mut request = Request::builder().uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    };
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(ask(path, None).await, StatusCode::OK, "{path}");
    }
    for path in ["/api", "/apis", PODS, "/", "/openapi/v2", "/nonsense"] {
        assert_eq!(ask(path, None).await, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(ask(path, Some("wrong")).await, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(ask(PODS, Some("secret")).await, StatusCode::OK);
}

#[tokio::test]
async fn objects_get_their_system_fields_and_lists_their_revision() {
    let door = door().await;
    let (code, created) = door.post(PODS, &pod("a")).await;
    assert_eq!(code, 201, "{created}");
    let meta = &created["metadata"];
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    let (_, list) = door.get(PODS).await;
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PodList"), &json!("v1")));
    assert_eq!(list["items"][0]["metadata"], created["metadata"]);
    let (code, status) = door.post(PODS, &pod("a")).await;
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(status["message"], "pods \"a\" already exists");
    assert_eq!(door.get(&format!("{PODS}/b")).await.1["message"], "pods \"b\" not found");
}

#[tokio::test]
async fn names_are_generated() {
    let door = door().await;
    let mut object = pod("");
    object["metadata"] = json!({"generateName": "web-"});
    let (code, created) = door.post(PODS, &object).await;
    assert_eq!(code, 201, "{created}");
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let door = door().await;
    assert_eq!(door.post(&format!("{PODS}?dryRun=All"), &pod("a")).await.0, 201);
    assert_eq!(door.get(&format!("{PODS}/a")).await.0, 404);
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_in_upstreams_words() {
    let door = door().await;
    let (_, created) = door.post(PODS, &pod("a")).await;
    let path = format!("{PODS}/a");
    let mut changed = created.clone();
    changed["metadata"]["labels"] = json!({"app": "new"});
    assert_eq!(door.put(&path, &changed).await.0, 200);
    let (code, status) = door.put(&path, &changed).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the \
         latest version and try again"
    );
    let patch = json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"], "labels": {"x": "y"}}});
    assert_eq!(door.merge(&path, &patch).await.0, 409);
    changed["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(door.put(&path, &changed).await.0, 200);
}

#[tokio::test]
async fn a_change_that_changes_nothing_makes_no_revision() {
    let door = door().await;
    let (_, created) = door.post(PODS, &pod("a")).await;
    let (code, patched) = door.merge(&format!("{PODS}/a"), &json!({"metadata": {"labels": {"app": "a"}}})).await;
    assert_eq!(code, 200);
    assert_eq!(patched["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn runtime_classes_are_created_by_put_and_need_a_version_to_change() {
    let door = door().await;
    let path = "/apis/node.k8s.io/v1/runtimeclasses/fast";
    let class = json!({"metadata": {"name": "fast"}, "handler": "crun"});
    assert_eq!(door.put(path, &class).await.0, 201);
    let (code, status) = door.put(path, &class).await;
    assert_eq!(code, 422, "{status}");
    assert!(status["message"].as_str().unwrap().contains("must be specified for an update"), "{status}");
}

#[tokio::test]
async fn pages_show_one_revision() {
    let door = door().await;
    for name in ["a", "b", "c"] {
        door.post(PODS, &pod(name)).await;
    }
    let (_, first) = door.get(&format!("{PODS}?limit=2")).await;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    door.post(PODS, &pod("d")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = door.get(&format!("{PODS}?limit=2&continue={token}")).await;
    let names: Vec<&Value> = second["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["c"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (_, some) = door.get(&format!("{PODS}?labelSelector=app%20in%20(a,d)&limit=1")).await;
    assert_eq!(some["items"][0]["metadata"]["name"], "a");
    let token = some["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = door.get(&format!("{PODS}?labelSelector=app%20in%20(a,d)&limit=9&continue={token}")).await;
    assert_eq!(rest["items"][0]["metadata"]["name"], "d");
    assert_eq!(door.get(&format!("{PODS}?fieldSelector=spec.nonsense%3Dx")).await.0, 400);
    assert_eq!(door.get(&format!("{PODS}?resourceVersion=99999")).await.0, 504);
}

#[tokio::test]
async fn a_pod_is_bound_once_and_lingers_until_the_node_lets_it_go() {
    let door = door().await;
    door.bound_pod("a", "n1").await;
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n2"}});
    let (code, status) = door.post(&format!("{PODS}/a/binding"), &binding).await;
    assert_eq!(code, 409);
    assert!(status["message"].as_str().unwrap().contains("already assigned to node \"n1\""), "{status}");
    let path = format!("{PODS}/a");
    let (code, going) = door.delete(&path, &json!({})).await;
    assert_eq!((code, &going["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    // HOOK-71: the grace only shrinks.
    let (_, longer) = door.delete(&path, &json!({"gracePeriodSeconds": 60})).await;
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 30);
    let (_, shorter) = door.delete(&path, &json!({"gracePeriodSeconds": 5})).await;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let (code, _) = door.delete(&path, &json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}})).await;
    assert_eq!(code, 409);
    assert_eq!(door.delete(&path, &json!({"gracePeriodSeconds": 0})).await.0, 200);
    assert_eq!(door.get(&path).await.0, 404);
}

#[tokio::test]
async fn finalizers_keep_an_object_until_they_go() {
    let door = door().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let object = json!({"metadata": {"name": "a", "finalizers": ["x.io/y"]}});
    assert_eq!(door.post(path, &object).await.0, 201);
    let path = format!("{path}/a");
    let (_, going) = door.delete(&path, &json!({})).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    assert_eq!(door.merge(&path, &json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(door.get(&path).await.0, 404);
}

#[tokio::test]
async fn a_namespace_terminates_and_takes_nothing_new() {
    let door = door().await;
    assert_eq!(door.post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.0, 201);
    let (code, going) = door.delete("/api/v1/namespaces/x", &json!({})).await;
    assert_eq!((code, &going["status"]["phase"]), (200, &json!("Terminating")));
    let (code, status) = door.post("/api/v1/namespaces/x/configmaps", &json!({"metadata": {"name": "a"}})).await;
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    let (_, mut namespace) = door.get("/api/v1/namespaces/x").await;
    namespace["spec"]["finalizers"] = json!([]);
    assert_eq!(door.put("/api/v1/namespaces/x/finalize", &namespace).await.0, 200);
    assert_eq!(door.get("/api/v1/namespaces/x").await.0, 404);
}

#[tokio::test]
async fn invalid_objects_name_their_fields() {
    let door = door().await;
    let mut object = pod("a");
    object["spec"]["containers"][0]["name"] = json!("Bad_Name");
    let (code, status) = door.post(PODS, &object).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(status["details"]["causes"][0]["field"], "spec.containers[0].name");
    assert!(status["message"].as_str().unwrap().starts_with("Pod \"a\" is invalid: spec.containers[0].name"));
    let media = "application/apply-patch+cbor";
    assert_eq!(door.send(Method::PATCH, &format!("{PODS}/a"), media, b"{}".to_vec()).await.0, 415);
    let large = vec![b' '; 4 * 1024 * 1024];
    assert_eq!(door.send(Method::POST, PODS, "application/json", large).await.0, 413);
    let yaml = "metadata: {name: yam}\nspec: {containers: [{name: c, image: nginx}]}\n";
    assert_eq!(door.send(Method::POST, PODS, "application/yaml", yaml.into()).await.0, 201);
}

#[tokio::test]
async fn runtime_classes_are_merged_into_pods() {
    let door = door().await;
    let class = json!({
        "metadata": {"name": "vm"}, "handler": "kata", "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
    });
    assert_eq!(door.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.0, 201);
    let mut object = pod("a");
    object["spec"]["runtimeClassName"] = json!("vm");
    let (code, created) = door.post(PODS, &object).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(created["spec"]["overhead"], json!({"cpu": "250m"}));
    assert_eq!(created["spec"]["nodeSelector"], json!({"vm": "yes"}));
    object["metadata"]["name"] = json!("b");
    object["spec"]["overhead"] = json!({"cpu": "1"});
    let (code, status) = door.post(PODS, &object).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods \"b\" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
    );
    object["spec"]["runtimeClassName"] = json!("none");
    let (code, status) = door.post(PODS, &object).await;
    assert_eq!(code, 403);
    assert_eq!(status["message"], "pods \"b\" is forbidden: pod rejected: RuntimeClass \"none\" not found");
}

#[tokio::test]
async fn pods_take_the_pull_secrets_of_their_account_and_a_priority() {
    let door = door().await;
    let account = json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "reg"}]});
    assert_eq!(door.post("/api/v1/namespaces/default/serviceaccounts", &account).await.0, 201);
    let (_, created) = door.post(PODS, &pod("a")).await;
    assert_eq!(created["spec"]["imagePullSecrets"], json!([{"name": "reg"}]));
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    let mut own = pod("b");
    own["spec"]["imagePullSecrets"] = json!([{"name": "mine"}]);
    own["spec"]["priorityClassName"] = json!("system-node-critical");
    let (_, created) = door.post(PODS, &own).await;
    assert_eq!(created["spec"]["imagePullSecrets"], json!([{"name": "mine"}]));
    assert_eq!(created["spec"]["priority"], 2_000_001_000);
}

#[tokio::test]
async fn a_node_lists_and_watches_single_secrets_that_its_pods_name() {
    let admin = door().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["used", "other"] {
        assert_eq!(admin.post(secrets, &json!({"metadata": {"name": name}})).await.0, 201);
    }
    let mut object = pod("a");
    object["spec"]["imagePullSecrets"] = json!([{"name": "used"}]);
    assert_eq!(admin.post(PODS, &object).await.0, 201);
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(admin.post(&format!("{PODS}/a/binding"), &binding).await.0, 201);
    let node = admin.of(UserInfo::node("n1"));
    let of = |selector: &str| format!("{secrets}?fieldSelector={selector}");
    let (code, list) = node.get(&of("metadata.name%3Dused")).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
    for refused in ["metadata.name%3Dother", "metadata.name!%3Dused", "type%3DOpaque", ""] {
        assert_eq!(node.get(&of(refused)).await.0, 403, "{refused}");
        assert_eq!(node.get(&format!("{}&watch=1", of(refused))).await.0, 403, "{refused}");
    }
    assert_eq!(admin.of(UserInfo::node("n2")).get(&of("metadata.name%3Dused")).await.0, 403);
    assert_eq!(node.get("/api/v1/secrets?fieldSelector=metadata.name%3Dused").await.0, 403);
    let (mut body, first) = frames(&node, &format!("{}&watch=1", of("metadata.name%3Dused")), 1).await;
    assert_eq!((&first[0]["type"], &first[0]["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("used")));
    for name in ["other", "used"] {
        let edit = json!({"metadata": {"labels": {"edited": "yes"}}});
        assert_eq!(admin.merge(&format!("{secrets}/{name}"), &edit).await.0, 200);
    }
    let next = more(&mut body, 1).await;
    assert_eq!((&next[0]["type"], &next[0]["object"]["metadata"]["name"]), (&json!("MODIFIED"), &json!("used")));
}

#[tokio::test]
async fn a_node_sees_itself_its_pods_and_their_secrets_only() {
    let admin = door().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["used", "other"] {
        assert_eq!(admin.post(secrets, &json!({"metadata": {"name": name}})).await.0, 201);
    }
    let mut object = pod("a");
    object["spec"]["imagePullSecrets"] = json!([{"name": "used"}]);
    assert_eq!(admin.post(PODS, &object).await.0, 201);
    let node = admin.of(UserInfo::node("n1"));
    assert_eq!(node.get(&format!("{secrets}/used")).await.0, 403);
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(admin.post(&format!("{PODS}/a/binding"), &binding).await.0, 201);
    assert_eq!(node.get(&format!("{secrets}/used")).await.0, 200);
    assert_eq!(admin.of(UserInfo::node("n2")).get(&format!("{secrets}/used")).await.0, 403);
    let (code, status) = node.get(&format!("{secrets}/other")).await;
    assert_eq!(code, 403);
    assert!(
        status["message"].as_str().unwrap().starts_with(
            "secrets \"other\" is forbidden: User \"system:node:n1\" cannot get resource \"secrets\" in API group \"\" \
             in the namespace \"default\""
        ),
        "{status}"
    );
    assert_eq!(node.get(secrets).await.0, 403);
    assert_eq!(node.get("/api/v1/pods").await.0, 403);
    assert_eq!(node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.0, 200);
    assert_eq!(node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2").await.0, 403);
    assert_eq!(node.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await.0, 201);
    assert_eq!(node.post("/api/v1/nodes", &json!({"metadata": {"name": "n2"}})).await.0, 403);
    let ready = json!({"status": {"phase": "Running"}});
    assert_eq!(node.merge(&format!("{PODS}/a/status"), &ready).await.0, 200);
    assert_eq!(node.post(PODS, &pod("b")).await.0, 403);
    assert_eq!(admin.of(UserInfo::new("nobody", &[])).get(PODS).await.0, 403);
    assert_eq!(admin.of(UserInfo::new("nobody", &[])).get("/api").await.0, 200);
}

#[tokio::test]
async fn both_kinds_of_events_are_the_same_objects() {
    let door = door().await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"}, "reason": "Pulled", "message": "m", "type": "Normal",
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"}, "source": {"component": "kubelet"},
    });
    let (code, created) = door.post("/api/v1/namespaces/default/events", &event).await;
    assert_eq!(code, 201, "{created}");
    let (_, other) = door.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!((&other["note"], &other["regarding"]["name"]), (&json!("m"), &json!("a")));
    assert_eq!(other["apiVersion"], "events.k8s.io/v1");
    let (_, list) = door.get("/api/v1/events?fieldSelector=involvedObject.name%3Da,involvedObject.kind%3DPod").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let (_, list) = door.get("/api/v1/events?fieldSelector=involvedObject.name%3Db").await;
    assert!(list["items"].as_array().unwrap().is_empty());
}

/// Reads frames of a watch until `count` are there.
async fn frames(door: &Door, path: &str, count: usize) -> (http_body_util::BodyStream<Body>, Vec<Value>) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = door.server.router_as(door.user.clone()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = http_body_util::BodyStream::new(response.into_body());
    let seen = more(&mut body, count).await;
    (body, seen)
}

async fn more(body: &mut http_body_util::BodyStream<Body>, count: usize) -> Vec<Value> {
    use futures_util::StreamExt;
    let mut seen = Vec::new();
    while seen.len() < count {
        let frame = body.next().await.expect("the watch goes on").unwrap().into_data().unwrap();
        seen.push(serde_json::from_slice(&frame).unwrap());
    }
    seen
}

#[tokio::test]
async fn a_watch_shows_what_enters_changes_and_leaves_its_selection() {
    let door = door().await;
    door.post(PODS, &pod("a")).await;
    let path = format!("{PODS}?watch=1&labelSelector=app%3Da&allowWatchBookmarks=true");
    let (mut body, first) = frames(&door, &path, 1).await;
    assert_eq!((&first[0]["type"], &first[0]["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    door.post(PODS, &pod("b")).await;
    door.merge(&format!("{PODS}/a"), &json!({"metadata": {"labels": {"x": "y"}}})).await;
    door.merge(&format!("{PODS}/b"), &json!({"metadata": {"labels": {"app": "a"}}})).await;
    door.merge(&format!("{PODS}/a"), &json!({"metadata": {"labels": {"app": "z"}}})).await;
    door.delete(&format!("{PODS}/b"), &json!({})).await;
    let seen = more(&mut body, 4).await;
    let told: Vec<(&str, &str)> =
        seen.iter().map(|f| (f["type"].as_str().unwrap(), f["object"]["metadata"]["name"].as_str().unwrap())).collect();
    assert_eq!(told, [("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a"), ("DELETED", "b")]);
    let versions: Vec<u64> =
        seen.iter().map(|f| f["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()).collect();
    assert!(versions.is_sorted(), "{versions:?}");
}

#[tokio::test]
async fn a_streaming_list_ends_with_its_bookmark() {
    let door = door().await;
    door.post(PODS, &pod("a")).await;
    let path =
        format!("{PODS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let (mut body, seen) = frames(&door, &path, 2).await;
    assert_eq!(seen[1]["type"], "BOOKMARK");
    assert_eq!(seen[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    door.post(PODS, &pod("b")).await;
    assert_eq!(more(&mut body, 1).await[0]["object"]["metadata"]["name"], "b");
    let (_, last) = frames(&door, &format!("{PODS}?watch=1&resourceVersion=99999"), 1).await;
    assert_eq!((&last[0]["type"], &last[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
}

#[tokio::test]
async fn tables_have_rows_for_every_kind() {
    let door = door().await;
    door.post(PODS, &pod("a")).await;
    for path in [PODS, "/api/v1/namespaces", "/apis/scheduling.k8s.io/v1/priorityclasses"] {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let request = Request::builder().uri(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = door.server.router_as(UserInfo::admin()).oneshot(request).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let table: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(table["kind"], "Table", "{path}");
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns, "{path}");
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }
}

#[tokio::test]
async fn a_kube_client_lists_and_watches_through_the_door() {
    use futures_util::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{Api, PostParams, WatchEvent, WatchParams};

    let server = server().await;
    let client = kube::Client::new(server.router_as(UserInfo::admin()), "default");
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let list = maps.list(&Default::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let mut events = maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let map = ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some("a".into()), ..Default::default() },
        ..Default::default()
    };
    maps.create(&PostParams::default(), &map).await.unwrap();
    let event = events.next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("a")));
}

#[tokio::test]
async fn a_deletion_asks_the_collector_by_finalizers_for_what_becomes_of_dependents() {
    let door = door().await;
    let template = json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"},
    });
    let job =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}});
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let settings = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let maps = "/api/v1/namespaces/default/configmaps";
    let cases = [
        (maps, "m", &settings, json!({}), None),
        (maps, "m", &settings, json!({"propagationPolicy": "Foreground"}), Some("foregroundDeletion")),
        (maps, "m", &settings, json!({"propagationPolicy": "Orphan"}), Some("orphan")),
        (maps, "m", &settings, json!({"orphanDependents": true}), Some("orphan")),
        // What is older than the collector keeps its ways.
        (jobs, "j", &job, json!({}), Some("orphan")),
        (jobs, "j", &job, json!({"propagationPolicy": "Background"}), None),
    ];
    for (path, name, object, options, finalizer) in cases {
        assert_eq!(door.post(path, object).await.0, 201);
        let at = format!("{path}/{name}");
        assert_eq!(door.delete(&at, &options).await.0, 200, "{options}");
        let (code, mut left) = door.get(&at).await;
        let Some(finalizer) = finalizer else {
            assert_eq!(code, 404, "{path} {options}");
            continue;
        };
        assert_eq!(left["metadata"]["finalizers"], json!([finalizer]), "{path} {options}");
        assert!(left["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(door.delete(&at, &options).await.0, 200, "another time changes nothing");
        left["metadata"]["finalizers"] = json!([]);
        assert_eq!(door.put(&at, &left).await.0, 200);
        assert_eq!(door.get(&at).await.0, 404, "the last finalizer was all that held it");
    }
    assert_eq!(door.post(maps, &settings).await.0, 201);
    let wrong = door.delete(&format!("{maps}/m"), &json!({"propagationPolicy": "Sideways"})).await;
    assert_eq!(wrong.0, 422);
}
