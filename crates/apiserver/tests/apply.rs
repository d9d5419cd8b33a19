//! Server-side apply and the owners of fields, over HTTP.
#![allow(missing_docs)]

use apiserver::UserInfo;
use axum::body::Body;
use door::{Door, PODS, door, pod};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

mod door;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const APPLY: &str = "application/apply-patch+yaml";

fn deployment(spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"},
        "spec": {
            "selector": {"matchLabels": {"app": "w"}},
            "template": {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c", "image": "app:1"}]}},
        },
    });
    for (name, value) in spec.as_object().unwrap() {
        object["spec"][name] = value.clone();
    }
    object
}

/// A configuration that says nothing but this.
fn only(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"}, "spec": spec})
}

async fn apply(door: &Door, path: &str, query: &str, config: &Value) -> (u16, Value) {
    door.patch(&format!("{path}?{query}"), APPLY, config).await
}

/// The entry of a manager; null when it has none.
fn entry<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().find(|entry| entry["manager"] == manager).unwrap_or(&Value::Null)
}

fn managers(object: &Value) -> Vec<(&str, &str)> {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().map(|e| (e["manager"].as_str().unwrap(), e["operation"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn an_object_is_made_changed_and_left_alone_by_apply() {
    let door = door().await;
    let path = format!("{DEPLOYMENTS}/w");
    let (code, made) = apply(&door, &path, "fieldManager=a", &deployment(json!({"replicas": 2}))).await;
    assert_eq!(code, 201, "{made}");
    let owned = entry(&made, "a");
    assert_eq!(
        (&owned["operation"], &owned["apiVersion"], &owned["fieldsType"]),
        (&json!("Apply"), &json!("apps/v1"), &json!("FieldsV1"))
    );
    assert_eq!(
        owned["fieldsV1"],
        json!({"f:spec": {
            "f:replicas": {}, "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}},
            },
        }})
    );
    // The same again changes nothing, not even a time.
    let (code, again) = apply(&door, &path, "fieldManager=a", &deployment(json!({"replicas": 2}))).await;
    assert_eq!((code, &again), (200, &made));
    // A field that is applied no more is defaulted.
    let (code, changed) = apply(&door, &path, "fieldManager=a", &deployment(json!({"paused": true}))).await;
    assert_eq!((code, &changed["spec"]["replicas"], &changed["spec"]["paused"]), (200, &json!(1), &json!(true)));
    assert_eq!(door.get(&path).await.1, changed);
}

#[tokio::test]
async fn conflicts_are_told_in_upstreams_words_and_force_takes_over() {
    let door = door().await;
    let path = format!("{DEPLOYMENTS}/w");
    let created = door
        .post(&format!("{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply"), &deployment(json!({"replicas": 2})))
        .await;
    assert_eq!(created.0, 201);
    let (code, status) = apply(&door, &path, "fieldManager=a", &only(json!({"replicas": 3}))).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        status["details"],
        json!({"causes": [{
            "reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1",
        }]})
    );
    let (code, dry) = apply(&door, &path, "fieldManager=a&force=true&dryRun=All", &only(json!({"replicas": 3}))).await;
    assert_eq!((code, &dry["spec"]["replicas"]), (200, &json!(3)));
    assert_eq!(door.get(&path).await.1["spec"]["replicas"], 2);
    let (code, forced) = apply(&door, &path, "fieldManager=a&force=true", &only(json!({"replicas": 3}))).await;
    assert_eq!((code, &forced["spec"]["replicas"]), (200, &json!(3)));
    assert_eq!(entry(&forced, "a")["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(entry(&forced, "kubectl-client-side-apply")["fieldsV1"]["f:spec"].get("f:replicas"), None);
    // Now it is the other way round.
    let (code, _) = apply(&door, &path, "fieldManager=b", &only(json!({"replicas": 4}))).await;
    assert_eq!(code, 409);
}

#[tokio::test]
async fn wrong_applies_are_refused_as_upstream_refuses_them() {
    let door = door().await;
    let path = format!("{DEPLOYMENTS}/w");
    let told = |(code, status): (u16, Value)| (code, status["message"].as_str().unwrap_or_default().to_owned());
    let good = deployment(json!({}));
    assert_eq!(
        told(apply(&door, &path, "", &good).await),
        (
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
                .to_owned()
        )
    );
    assert_eq!(
        told(door.patch(&format!("{path}?force=true"), "application/merge-patch+json", &json!({})).await).0,
        422
    );
    let mut unnamed = good.clone();
    unnamed["metadata"] = json!({});
    assert_eq!(
        told(apply(&door, &path, "fieldManager=a", &unnamed).await),
        (400, "the name of the object (w based on URL) was undeterminable: name must be provided".to_owned())
    );
    assert_eq!(
        told(apply(&door, &path, "fieldManager=a", &json!({"metadata": {"name": "w"}})).await),
        (400, "invalid object type: /, Kind=".to_owned())
    );
    let mut other = good.clone();
    other["metadata"]["name"] = json!("x");
    assert_eq!(told(apply(&door, &path, "fieldManager=a", &other).await).0, 400);
    let mut owners = good.clone();
    owners["metadata"]["managedFields"] = json!([]);
    assert_eq!(
        told(apply(&door, &path, "fieldManager=a", &owners).await),
        (400, "metadata.managedFields must be nil".to_owned())
    );
    let (code, message) = told(apply(&door, &path, "fieldManager=a", &deployment(json!({"foo": 1}))).await);
    assert_eq!(
        (code, message.as_str()),
        (
            500,
            "failed to create typed patch object (/w; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
        )
    );
    let mut known = good.clone();
    known["metadata"]["uid"] = json!("u");
    let (code, message) = told(apply(&door, &path, "fieldManager=a", &known).await);
    assert!(
        code == 409
            && message.ends_with("uid mismatch: the provided object specified uid u, and no existing object was found"),
        "{message}"
    );
    assert_eq!(told(apply(&door, &path, "fieldManager=a", &json!([])).await).0, 400);
    // What fits the schema but not the rules.
    assert_eq!(told(apply(&door, &path, "fieldManager=a", &deployment(json!({"replicas": -1}))).await).0, 422);
    assert_eq!(door.get(&path).await.0, 404);
    // A stale version is a conflict; no subresource is made of nothing.
    assert_eq!(apply(&door, &path, "fieldManager=a", &good).await.0, 201);
    let mut stale = good.clone();
    stale["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(told(apply(&door, &path, "fieldManager=a", &stale).await).0, 409);
    let missing = format!("{DEPLOYMENTS}/no/status");
    assert_eq!(told(apply(&door, &missing, "fieldManager=a", &good).await).0, 404);
}

#[tokio::test]
async fn yaml_is_applied_and_repeated_fields_are_told() {
    let door = door().await;
    let path = "/api/v1/namespaces/default/configmaps/c";
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  a: b\n";
    let (code, made) = door.send(Method::PATCH, &format!("{path}?fieldManager=a"), APPLY, yaml.into()).await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "b"})));
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1","a":"2"}}"#;
    let strict = format!("{path}?fieldManager=a&fieldValidation=Strict");
    let (code, status) = door.send(Method::PATCH, &strict, APPLY, twice.into()).await;
    assert_eq!((code, &status["message"]), (400, &json!("error strict decoding YAML: duplicate field \"data.a\"")));
    let (code, headers, _) = door.told(Method::PATCH, &format!("{path}?fieldManager=a"), APPLY, twice.into()).await;
    assert!(code == 200 && headers["warning"].to_str().unwrap().contains("duplicate field"), "{headers:?}");
    let (code, status) = door.send(Method::PATCH, &format!("{path}?fieldManager=a"), APPLY, b"a: [".to_vec()).await;
    assert!(code == 400 && status["message"].as_str().unwrap().starts_with("error decoding YAML"), "{status}");
}

#[tokio::test]
async fn an_apply_that_creates_needs_leave_to_create() {
    let door = door().await;
    let node = door.of(UserInfo::node("n"));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let (code, _) = apply(&node, "/api/v1/namespaces/default/configmaps/c", "fieldManager=a", &config).await;
    assert_eq!(code, 403);
    // A node may patch the status of its pods, but not make pods of other nodes by it.
    let config = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}});
    assert_eq!(apply(&node, "/api/v1/nodes/other", "fieldManager=a", &config).await.0, 403);
}

#[tokio::test]
async fn other_writes_own_what_they_change() {
    let door = door().await;
    assert_eq!(door.post(PODS, &pod("a")).await.0, 201);
    let path = format!("{PODS}/a");
    let made = door.get(&path).await.1;
    let owned = &entry(&made, "unknown")["fieldsV1"];
    assert_eq!(owned["f:metadata"], json!({"f:labels": {".": {}, "f:app": {}}}));
    let spec = owned["f:spec"].as_object().unwrap();
    let container = &spec["f:containers"]["k:{\"name\":\"c\"}"];
    for name in [".", "f:name", "f:image", "f:imagePullPolicy", "f:terminationMessagePath"] {
        assert!(container.get(name).is_some(), "{name}: {owned}");
    }
    // Defaults count; what plugins added does not, nor does the status.
    assert!(spec.contains_key("f:restartPolicy") && !spec.contains_key("f:tolerations") && !spec.contains_key("."));
    assert_eq!(owned.get("f:status"), None);
    let merge = json!({"metadata": {"labels": {"x": "y"}}});
    let (_, patched) =
        door.patch(&format!("{path}?fieldManager=labeller"), "application/merge-patch+json", &merge).await;
    assert_eq!(entry(&patched, "labeller")["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:x": {}}}}));
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let (code, patched) = door
        .patch(&format!("{path}/status?fieldManager=kubelet"), "application/strategic-merge-patch+json", &status)
        .await;
    assert_eq!(code, 200, "{patched}");
    let owned = entry(&patched, "kubelet");
    assert_eq!((&owned["subresource"], &owned["operation"]), (&json!("status"), &json!("Update")));
    let conditions = &owned["fieldsV1"]["f:status"]["f:conditions"]["k:{\"type\":\"Ready\"}"];
    assert_eq!(conditions, &json!({".": {}, "f:type": {}, "f:status": {}}));
    // A PUT of what was read changes no owner.
    let (_, put) = door.put(&format!("{path}?fieldManager=putter"), &patched).await;
    assert_eq!(put["metadata"]["managedFields"], patched["metadata"]["managedFields"]);
    assert_eq!(put["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn the_user_agents_first_word_is_the_manager() {
    let door = door().await;
    let request =
        Request::post(PODS).header("content-type", "application/json").header("user-agent", "kubectl/v1.32.0 (linux)");
    let request = request.body(Body::from(pod("a").to_string())).unwrap();
    let response = door.server.router_as(UserInfo::admin()).oneshot(request).await.unwrap();
    let made: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(managers(&made), [("kubectl", "Update")]);
    let (code, status) = door.post(&format!("{PODS}?fieldManager={}", "x".repeat(200)), &pod("b")).await;
    assert!(code == 422 && status["message"].as_str().unwrap().starts_with("CreateOptions.meta.k8s.io"), "{status}");
}

#[tokio::test]
async fn owners_are_reset_by_an_empty_entry_and_by_nothing_else() {
    let door = door().await;
    let path = format!("{DEPLOYMENTS}/w");
    let (_, made) = apply(&door, &path, "fieldManager=a", &deployment(json!({"replicas": 2}))).await;
    let owners = &made["metadata"]["managedFields"];
    let merge = "application/merge-patch+json";
    // Neither an absent nor an empty nor a broken list is taken; nor is one through a subresource.
    let mut put = made.clone();
    put["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(&door.put(&path, &put).await.1["metadata"]["managedFields"], owners);
    for bad in [json!([]), json!([{"manager": "x", "operation": "Nonsense"}]), json!(null)] {
        let (code, after) = door.patch(&path, merge, &json!({"metadata": {"managedFields": bad}})).await;
        assert_eq!((code, &after["metadata"]["managedFields"]), (200, owners), "{bad}");
    }
    let reset = json!({"metadata": {"managedFields": [{}]}});
    let (_, after) = door.patch(&format!("{path}/status"), merge, &reset).await;
    assert_eq!(&after["metadata"]["managedFields"], owners);
    let (code, after) = door.patch(&path, merge, &reset).await;
    assert_eq!((code, after["metadata"].get("managedFields")), (200, None), "{after}");
    assert_ne!(after["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    // Nobody owns anything until the next apply, which finds that somebody was there before.
    let (_, after) = door.patch(&path, merge, &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(after["metadata"].get("managedFields"), None);
    let (code, status) = apply(&door, &path, "fieldManager=a", &only(json!({"replicas": 2}))).await;
    assert!(
        code == 409 && status["message"].as_str().unwrap().contains("\"before-first-apply\" using apps/v1"),
        "{status}"
    );
    // A new object's owners are not for its maker to say.
    let mut foreign = deployment(json!({}));
    foreign["metadata"] = json!({"name": "v", "managedFields": owners});
    let (code, made) = door.post(&format!("{DEPLOYMENTS}?fieldManager=maker"), &foreign).await;
    assert_eq!((code, managers(&made)), (201, vec![("maker", "Update")]));
}

#[tokio::test]
async fn a_json_patch_moves_fields_from_one_owner_to_another() {
    let door = door().await;
    let path = format!("{DEPLOYMENTS}/w");
    let (_, made) = door
        .post(&format!("{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply"), &deployment(json!({"replicas": 2})))
        .await;
    let mut owners = made["metadata"]["managedFields"].clone();
    owners[0]["manager"] = json!("kubectl");
    owners[0]["operation"] = json!("Apply");
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": owners},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]},
    ]);
    let (code, moved) = door.patch(&path, "application/json-patch+json", &patch).await;
    assert_eq!((code, managers(&moved)), (200, vec![("kubectl", "Apply")]), "{moved}");
    assert_eq!(entry(&moved, "kubectl")["fieldsV1"], made["metadata"]["managedFields"][0]["fieldsV1"]);
    let (code, _) = door.patch(&path, "application/json-patch+json", &patch).await;
    assert_eq!(code, 409);
    // What it owned and applies no more goes.
    let (code, after) = apply(&door, &path, "fieldManager=kubectl", &deployment(json!({}))).await;
    assert_eq!((code, &after["spec"]["replicas"]), (200, &json!(1)));
}

#[tokio::test]
async fn the_replicas_are_owned_through_the_scale() {
    let door = door().await;
    let path = format!("{DEPLOYMENTS}/w");
    assert_eq!(apply(&door, &path, "fieldManager=a", &deployment(json!({"replicas": 2}))).await.0, 201);
    let scale =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "w"}, "spec": {"replicas": 4}});
    let (code, _) = door.put(&format!("{path}/scale?fieldManager=hpa"), &scale).await;
    assert_eq!(code, 200);
    let (_, object) = door.get(&path).await;
    let owned = entry(&object, "hpa");
    assert_eq!((&owned["subresource"], &owned["fieldsV1"]), (&json!("scale"), &json!({"f:spec": {"f:replicas": {}}})));
    let (code, status) = apply(&door, &path, "fieldManager=a", &deployment(json!({"replicas": 2}))).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas"
        )
    );
    // Whoever leaves the replicas out leaves them as they are.
    let (code, object) = apply(&door, &path, "fieldManager=a", &deployment(json!({}))).await;
    assert_eq!((code, &object["spec"]["replicas"]), (200, &json!(4)));
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = json!(6);
    let (code, _) = apply(&door, &format!("{path}/scale"), "fieldManager=b", &wanted).await;
    assert_eq!(code, 409);
    let (code, shown) = apply(&door, &format!("{path}/scale"), "fieldManager=b&force=true", &wanted).await;
    assert_eq!((code, &shown["kind"], &shown["spec"]["replicas"]), (200, &json!("Scale"), &json!(6)));
    let object = door.get(&path).await.1;
    assert_eq!(entry(&object, "b")["operation"], "Apply");
    let (code, status) = apply(&door, &format!("{path}/scale"), "fieldManager=b", &deployment(json!({}))).await;
    assert_eq!((code, &status["message"]), (400, &json!("invalid object type: apps/v1, Kind=Deployment")));
}

#[tokio::test]
async fn the_status_is_applied_through_its_subresource_only() {
    let door = door().await;
    door.bound_pod("a", "n").await;
    let path = format!("{PODS}/a");
    let config =
        |status: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": status});
    let (_, before) = door.get(&path).await;
    let (code, after) = apply(&door, &path, "fieldManager=a", &config(json!({"reason": "Odd"}))).await;
    assert_eq!((code, after["status"].get("reason"), entry(&after, "a")), (200, None, &Value::Null));
    assert_eq!(after["metadata"]["managedFields"], before["metadata"]["managedFields"]);
    let gate = json!({"conditions": [{"type": "example.com/gate", "status": "True"}]});
    let (code, after) = apply(&door, &format!("{path}/status"), "fieldManager=a", &config(gate)).await;
    assert_eq!(code, 200, "{after}");
    let owned = entry(&after, "a");
    assert_eq!(owned["subresource"], "status");
    assert_eq!(
        owned["fieldsV1"],
        json!({"f:status": {"f:conditions": {"k:{\"type\":\"example.com/gate\"}": {".": {}, "f:type": {}, "f:status": {}}}}})
    );
    // The binding's own condition is nobody's, and stays.
    let types = |object: &Value| object["status"]["conditions"].as_array().map_or(0, Vec::len);
    assert_eq!(types(&after), types(&before) + 1);
    let (_, after) = apply(&door, &format!("{path}/status"), "fieldManager=a", &config(json!({}))).await;
    assert_eq!(types(&after), types(&before), "{after}");
}
