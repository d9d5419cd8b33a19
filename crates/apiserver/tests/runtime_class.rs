//! RuntimeClasses and their admission through the in-process door, and what kubectl shows of them. The numbers are those
//! of `docs/conformance/runtimeclass.md`.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apiserver::UserInfo;
use axum::body::{Body, BodyDataStream};
use door::{Door, PODS, door, pod};
use futures_util::StreamExt;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

mod cluster;
mod door;
mod pki;

const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";

fn class(name: &str, more: &Value) -> Value {
    let mut class =
        json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "kata"});
    class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    class
}

/// A pod of a class, with more in its spec.
fn of_class(name: &str, class: &str, more: &Value) -> Value {
    let mut object = pod(name);
    object["spec"]["runtimeClassName"] = json!(class);
    object["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

async fn made(door: &Door, path: &str, object: &Value) -> Value {
    let (code, made) = door.post(path, object).await;
    assert_eq!(code, 201, "{made}");
    made
}

/// What a POST of a pod is refused with: 403 or 422, and the message.
async fn refused(door: &Door, object: &Value) -> (u16, String) {
    let (code, status) = door.post(PODS, object).await;
    assert!(code >= 400, "{status}");
    (code, status["message"].as_str().unwrap().to_owned())
}

fn forbidden(pod: &str, why: &str) -> (u16, String) {
    (403, format!("pods {pod:?} is forbidden: {why}"))
}

#[tokio::test]
async fn rtc_1_to_4_a_class_is_served_at_version_1_with_every_verb() {
    let door = door().await;
    let (_, groups) = door.get("/apis").await;
    let group = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "node.k8s.io").unwrap();
    // RTC-4: the older versions, which upstream dropped with 1.25, are not served.
    assert_eq!(group["versions"], json!([{"groupVersion": "node.k8s.io/v1", "version": "v1"}]));
    assert_eq!(group["preferredVersion"]["version"], "v1");
    assert_eq!(door.get("/apis/node.k8s.io").await.1["name"], "node.k8s.io");
    for old in ["v1beta1", "v1alpha1"] {
        assert_eq!(door.get(&format!("/apis/node.k8s.io/{old}/runtimeclasses")).await.0, 404);
    }
    let (_, resources) = door.get("/apis/node.k8s.io/v1").await;
    let resources = resources["resources"].as_array().unwrap();
    assert_eq!(resources.len(), 1, "no subresource: {resources:?}");
    let resource = &resources[0];
    assert_eq!(
        (&resource["name"], &resource["singularName"], &resource["kind"], &resource["namespaced"]),
        (&json!("runtimeclasses"), &json!("runtimeclass"), &json!("RuntimeClass"), &json!(false))
    );
    assert!(resource.get("shortNames").is_none());
    let mut verbs: Vec<&str> =
        resource["verbs"].as_array().unwrap().iter().map(|verb| verb.as_str().unwrap()).collect();
    verbs.sort_unstable();
    assert_eq!(verbs, ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);

    // RTC-2: the page's own manifest comes back as it went.
    let whole = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "myclass"}, "handler": "myconfiguration",
        "overhead": {"podFixed": {"cpu": "250m", "memory": "120Mi"}},
        "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]},
    });
    made(&door, CLASSES, &whole).await;
    let (code, mut read) = door.get(&format!("{CLASSES}/myclass")).await;
    assert_eq!(code, 200);
    read["metadata"] = json!({"name": read["metadata"]["name"]});
    assert_eq!(read, whole);
}

#[tokio::test]
async fn rtc_3_9_11_each_verb_works_and_selectors_hold_for_lists_and_collections() {
    let door = door().await;
    for (name, tier) in [("a", "slow"), ("b", "slow"), ("c", "fast")] {
        made(&door, CLASSES, &class(name, &json!({"metadata": {"name": name, "labels": {"tier": tier}}}))).await;
    }
    let (code, status) = door.post(CLASSES, &class("a", &json!({}))).await;
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(status["message"], "runtimeclasses.node.k8s.io \"a\" already exists");
    let names = async |selector: &str| -> Vec<String> {
        let (code, list) = door.get(&format!("{CLASSES}?labelSelector={selector}")).await;
        assert_eq!(code, 200);
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("tier%3Dslow").await, ["a", "b"]);
    assert_eq!(names("").await, ["a", "b", "c"]);

    // RTC-9: everything but the handler may change at any time and is checked again.
    let path = format!("{CLASSES}/a");
    let (code, changed) = door.merge(&path, &json!({"overhead": {"podFixed": {"cpu": "1"}}})).await;
    assert_eq!((code, &changed["overhead"]["podFixed"]["cpu"]), (200, &json!("1")));
    let (code, status) = door.merge(&path, &json!({"overhead": {"podFixed": {"cpu": "-1"}}})).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("overhead.limits[cpu]")));
    let mut put = changed.clone();
    put["metadata"]["labels"] = json!({"tier": "fast"});
    put.as_object_mut().unwrap().remove("overhead");
    let (code, replaced) = door.put(&path, &put).await;
    assert_eq!((code, replaced.get("overhead")), (200, None), "{replaced}");

    let (code, _) = door.delete(&format!("{CLASSES}?labelSelector=tier%3Dslow"), &json!({})).await;
    assert_eq!((code, names("").await), (200, vec!["a".to_owned(), "c".into()]));
    assert_eq!(door.delete(&path, &json!({})).await.0, 200);
    assert_eq!(door.get(&path).await.0, 404);
    assert_eq!(door.delete(CLASSES, &json!({})).await.0, 200);
    assert_eq!(names("").await, Vec::<String>::new());
}

#[tokio::test]
async fn rtc_5_to_8_names_are_subdomains_and_handlers_are_labels_for_ever() {
    let door = door().await;
    let long = "a".repeat(254);
    for (name, good) in [("a.b-c", true), ("A", false), ("a_b", false), ("-a", false), ("a..b", false), (&long, false)]
    {
        let (code, status) = door.post(CLASSES, &class(name, &json!({}))).await;
        assert_eq!(code, if good { 201 } else { 422 }, "{name}: {status}");
        assert!(good || status["details"]["causes"][0]["field"] == "metadata.name", "{name}: {status}");
    }
    let long = "a".repeat(64);
    for handler in ["Kata", "kata.qemu", "kata_fc", &long] {
        let (code, status) = door.post(CLASSES, &class("x", &json!({"handler": handler}))).await;
        assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("handler")), "{handler}: {status}");
    }
    for nothing in [json!({"handler": ""}), json!({"handler": null})] {
        let (code, status) = door.post(CLASSES, &class("x", &nothing)).await;
        assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("handler")), "{status}");
        assert_eq!(status["message"], "RuntimeClass.node.k8s.io \"x\" is invalid: handler: Required value");
    }
    for handler in ["runc", "kata-qemu"] {
        made(&door, CLASSES, &class(handler, &json!({"handler": handler}))).await;
    }
    // RTC-8: by PUT and by each kind of patch.
    let path = format!("{CLASSES}/runc");
    let (_, mut put) = door.get(&path).await;
    put["handler"] = json!("crun");
    let change = json!({"handler": "crun"});
    let apply = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "runc"}, "handler": "crun"});
    let by_apply = format!("{path}?fieldManager=me&force=true");
    for (code, status) in [
        door.put(&path, &put).await,
        door.merge(&path, &change).await,
        door.patch(&path, "application/strategic-merge-patch+json", &change).await,
        door.patch(
            &path,
            "application/json-patch+json",
            &json!([{"op": "replace", "path": "/handler", "value": "crun"}]),
        )
        .await,
        door.patch(&by_apply, "application/apply-patch+yaml", &apply).await,
    ] {
        assert_eq!(code, 422, "{status}");
        let text = "handler: Invalid value: \"crun\": field is immutable";
        assert!(status["message"].as_str().unwrap().ends_with(text), "{status}");
    }
}

#[tokio::test]
async fn rtc_10_a_put_creates_and_wants_the_version_of_what_is_there() {
    let door = door().await;
    let path = format!("{CLASSES}/x");
    let (code, first) = door.put(&path, &class("x", &json!({}))).await;
    assert_eq!(code, 201, "{first}");
    let (code, status) = door.put(&path, &class("x", &json!({}))).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("metadata.resourceVersion")));
    assert!(status["message"].as_str().unwrap().contains("must be specified for an update"), "{status}");
    assert_eq!(door.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.0, 200);
    let (code, status) = door.put(&path, &first).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
}

#[tokio::test]
async fn rtc_12_to_16_overhead_and_scheduling_are_checked_at_the_door() {
    let door = door().await;
    let overhead = |list: Value| json!({"overhead": {"podFixed": list}});
    let selector = |map: Value| json!({"scheduling": {"nodeSelector": map}});
    let tolerations = |list: Value| json!({"scheduling": {"tolerations": list}});
    let same = json!({"key": "a", "operator": "Exists"});
    for (more, field) in [
        (overhead(json!({"cpu": "-1"})), "overhead.limits[cpu]"),
        (overhead(json!({"pods": "1"})), "overhead.limits[pods]"),
        (overhead(json!({"foo": "1"})), "overhead.limits[foo]"),
        (overhead(json!({"example.com/gpu": "500m"})), "overhead.limits[example.com/gpu]"),
        (selector(json!({"a b": "c"})), "scheduling.nodeSelector"),
        (selector(json!({"a": "b c"})), "scheduling.nodeSelector"),
        (tolerations(json!([{}])), "scheduling.tolerations[0].operator"),
        (tolerations(json!([{"key": "a", "operator": "In"}])), "scheduling.tolerations[0].operator"),
        (tolerations(json!([{"key": "a", "operator": "Exists", "value": "b"}])), "scheduling.tolerations[0].operator"),
        (tolerations(json!([{"key": "a", "effect": "Never"}])), "scheduling.tolerations[0].effect"),
        (
            tolerations(json!([{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}])),
            "scheduling.tolerations[0].effect",
        ),
        (tolerations(json!([same, {"key": "b", "operator": "Exists"}, same])), "scheduling.tolerations[2]"),
    ] {
        let (code, status) = door.post(CLASSES, &class("x", &more)).await;
        assert_eq!((code, status["details"]["causes"][0]["field"].as_str()), (422, Some(field)), "{more}: {status}");
    }
    // RTC-15: how long is no part of what a toleration is.
    let seconds = |n: u32| json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": n});
    let (code, status) = door.post(CLASSES, &class("x", &tolerations(json!([seconds(1), seconds(2)])))).await;
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (422, &json!("FieldValueDuplicate")), "{status}");
    made(&door, CLASSES, &class("good", &overhead(json!({"cpu": "100m", "memory": "1Mi", "hugepages-2Mi": "4Mi"}))))
        .await;

    // RTC-16.
    let old = selector(json!({"beta.kubernetes.io/arch": "amd64"}));
    let (code, _, warnings) = door.post_warned(CLASSES, &class("old", &old)).await;
    assert_eq!(code, 201);
    let text = "299 - \"scheduling.nodeSelector: deprecated since v1.14; use \\\"kubernetes.io/arch\\\" instead\"";
    assert_eq!(warnings, [text]);
}

#[tokio::test]
async fn rtc_17_a_watch_tells_what_becomes_of_classes() {
    let door = door().await;
    let (_, list) = door.get(CLASSES).await;
    let since = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = format!("{CLASSES}?watch=1&resourceVersion={since}");
    let mut told = Told::of(&door, &path).await;
    made(&door, CLASSES, &class("x", &json!({}))).await;
    let path = format!("{CLASSES}/x");
    let (_, mut put) = door.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    put["metadata"]["labels"] = json!({"a": "c"});
    assert_eq!(door.put(&path, &put).await.0, 200);
    assert_eq!(door.delete(&path, &json!({})).await.0, 200);
    let mut versions = Vec::new();
    for (kind, label) in [("ADDED", None), ("MODIFIED", Some("b")), ("MODIFIED", Some("c")), ("DELETED", Some("c"))] {
        let event = told.next().await;
        assert_eq!((event["type"].as_str(), event["object"]["metadata"]["labels"]["a"].as_str()), (Some(kind), label));
        versions.push(event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
    }
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let bookmark = Told::of(&door, &format!("{CLASSES}?{query}")).await.next().await;
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("RuntimeClass")));
}

/// The events of a watch, one a line.
struct Told {
    body: BodyDataStream,
    rest: Vec<u8>,
}

impl Told {
    async fn of(door: &Door, path: &str) -> Told {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = door.server.router_as(door.user.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Told { body: response.into_body().into_data_stream(), rest: Vec::new() }
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            self.rest.extend(self.body.next().await.expect("the watch goes on").unwrap());
        }
    }
}

#[tokio::test]
async fn rtc_18_35_a_class_goes_or_changes_and_its_pods_stay_as_they_are() {
    let door = door().await;
    let merged = json!({
        "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]},
    });
    made(&door, CLASSES, &class("x", &merged)).await;
    made(&door, CLASSES, &class("plain", &json!({}))).await;
    let pod = made(&door, PODS, &of_class("p", "x", &json!({}))).await;
    assert_eq!(pod["spec"]["overhead"], json!({"cpu": "250m"}));
    let edit = json!({"overhead": null, "scheduling": {"nodeSelector": {"a": "c"}, "tolerations": null}});
    assert_eq!(door.merge(&format!("{CLASSES}/x"), &edit).await.0, 200);
    assert_eq!(door.get(&format!("{PODS}/p")).await.1, pod);
    assert_eq!(door.delete(&format!("{CLASSES}/x"), &json!({})).await.0, 200);
    assert_eq!(door.get(&format!("{CLASSES}/x")).await.0, 404);
    assert_eq!(door.get(&format!("{PODS}/p")).await.1, pod);
    // What it had been given when it was made stays with it for life (RTC-21).
    for change in [
        json!({"spec": {"runtimeClassName": "plain"}}),
        json!({"spec": {"overhead": null}}),
        json!({"spec": {"overhead": {"cpu": "1"}}}),
        json!({"spec": {"nodeSelector": {"a": "c"}}}),
    ] {
        let (code, status) = door.merge(&format!("{PODS}/p"), &change).await;
        assert_eq!(code, 422, "{change}");
        assert!(
            status["message"].as_str().unwrap().contains("pod updates may not change fields other than"),
            "{status}"
        );
    }
    // RTC-35: without scheduling nothing is touched.
    let own = json!({"nodeSelector": {"z": "y"}, "tolerations": [{"key": "mine", "operator": "Exists"}]});
    let plain = made(&door, PODS, &of_class("q", "plain", &own)).await;
    assert_eq!(plain["spec"]["nodeSelector"], own["nodeSelector"]);
    let bare = made(&door, PODS, &{
        let mut bare = of_class("r", "plain", &own);
        bare["spec"].as_object_mut().unwrap().remove("runtimeClassName");
        bare
    })
    .await;
    assert_eq!(plain["spec"]["tolerations"], bare["spec"]["tolerations"]);
}

#[tokio::test]
async fn rtc_20_nodes_read_classes_and_only_administrators_write_them() {
    let admin = door().await;
    made(&admin, CLASSES, &class("x", &json!({}))).await;
    let path = format!("{CLASSES}/x");
    let node = admin.of(UserInfo::node("n1"));
    assert_eq!((node.get(&path).await.0, node.get(CLASSES).await.0), (200, 200));
    Told::of(&node, &format!("{CLASSES}?watch=1&resourceVersion=0")).await.next().await;
    for (code, status) in [
        node.post(CLASSES, &class("y", &json!({}))).await,
        node.put(&path, &class("x", &json!({}))).await,
        node.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await,
        node.delete(&path, &json!({})).await,
        node.delete(CLASSES, &json!({})).await,
    ] {
        assert_eq!(code, 403, "{status}");
    }
    let nobody = admin.of(UserInfo::new("somebody", &[]));
    assert_eq!((nobody.get(CLASSES).await.0, nobody.post(CLASSES, &class("y", &json!({}))).await.0), (403, 403));
    for component in ["system:kube-scheduler", "system:kube-controller-manager"] {
        let component = admin.of(UserInfo::new(component, &[]));
        assert_eq!(component.get(CLASSES).await.0, 200);
        assert_eq!(component.post(CLASSES, &class("y", &json!({}))).await.0, 403);
    }
}

#[tokio::test]
async fn rtc_21_29_the_name_of_a_class_is_a_subdomain_and_not_empty() {
    let door = door().await;
    for name in ["", "A", "a_b", "a..b"] {
        let (code, message) = refused(&door, &of_class("p", name, &json!({}))).await;

        assert!(code == 422 && message.contains("spec.runtimeClassName: Invalid value"), "{name:?}: {code} {message}");
    }
    assert_eq!(door.get(PODS).await.1["items"], json!([]));
}

#[tokio::test]
async fn rtc_22_templates_name_any_class() {
    let door = door().await;
    let template = json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"runtimeClassName": "nobody-made-this", "containers": [{"name": "c", "image": "x"}]},
    });
    let deployment =
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}});
    let stored = made(&door, "/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert_eq!(stored["spec"]["template"]["spec"]["runtimeClassName"], "nobody-made-this");
    let mut once = template;
    once["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": once}});
    made(&door, "/apis/batch/v1/namespaces/default/jobs", &job).await;
}

#[tokio::test]
async fn rtc_24_26_only_new_pods_that_name_a_class_are_looked_at() {
    let door = door().await;
    let full = json!({"overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": {"nodeSelector": {"a": "b"}}});
    made(&door, CLASSES, &class("x", &full)).await;
    // RTC-26: a pod without a class is the same with the plugin and without it.
    let stripped = |mut pod: Value| {
        pod["metadata"] = json!({});
        pod["status"] = json!({});
        pod
    };
    // The volume of a token has a random name.
    let mut plain = pod("a");
    plain["spec"]["automountServiceAccountToken"] = json!(false);
    let with = stripped(made(&door, PODS, &plain).await);
    let others: Vec<String> =
        apiserver::DEFAULT_PLUGINS.iter().filter(|name| **name != "RuntimeClass").map(|name| (*name).into()).collect();
    let server = door::server_with(|options| options.admission = others).await;
    let bare = Door { server, user: UserInfo::admin() };
    assert_eq!(with, stripped(made(&bare, PODS, &plain).await));
    // Without the plugin nobody asks for the class.
    assert!(made(&bare, PODS, &of_class("b", "x", &json!({}))).await["spec"].get("overhead").is_none());

    // RTC-24: what already is, is not looked at again, whatever became of its class.
    made(&door, PODS, &of_class("c", "x", &json!({}))).await;
    assert_eq!(door.delete(&format!("{CLASSES}/x"), &json!({})).await.0, 200);
    let path = format!("{PODS}/c");
    assert_eq!(door.merge(&path, &json!({"metadata": {"labels": {"seen": "yes"}}})).await.0, 200);
    let ephemeral = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "x"}]}});
    assert_eq!(
        door.patch(&format!("{path}/ephemeralcontainers"), "application/strategic-merge-patch+json", &ephemeral)
            .await
            .0,
        200
    );
    let binding = json!({"metadata": {"name": "c"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(door.post(&format!("{path}/binding"), &binding).await.0, 201);
    assert_eq!(door.merge(&format!("{path}/status"), &json!({"status": {"phase": "Running"}})).await.0, 200);
}

#[tokio::test]
async fn rtc_27_an_unknown_class_is_refused_in_upstreams_words() {
    let door = door().await;
    let why = "pod rejected: RuntimeClass \"none\" not found";
    assert_eq!(refused(&door, &of_class("p", "none", &json!({}))).await, forbidden("p", why));
    let (code, status) = door.post(&format!("{PODS}?dryRun=All"), &of_class("p", "none", &json!({}))).await;
    assert_eq!((code, &status["reason"], &status["details"]["kind"]), (403, &json!("Forbidden"), &json!("pods")));
    assert_eq!(status["message"], format!("pods \"p\" is forbidden: {why}"));
    let mut generated = of_class("p", "none", &json!({}));
    generated["metadata"] = json!({"generateName": "web-"});
    assert_eq!(refused(&door, &generated).await, forbidden("web-", why));
}

#[tokio::test]
async fn rtc_28_a_class_that_was_deleted_lets_no_pod_in_any_more() {
    let door = door().await;
    for round in 0..1000 {
        made(&door, CLASSES, &class("x", &json!({}))).await;
        if round % 100 == 0 {
            // It does let them in as long as it is there.
            made(&door, PODS, &of_class(&format!("p{round}"), "x", &json!({}))).await;
        }
        assert_eq!(door.delete(&format!("{CLASSES}/x"), &json!({})).await.0, 200);
        let (code, _) = door.post(PODS, &of_class("late", "x", &json!({}))).await;
        assert_eq!(code, 403, "round {round}");
    }
}

#[tokio::test]
async fn rtc_30_31_overhead_comes_from_the_class_or_is_the_same() {
    let door = door().await;
    made(&door, CLASSES, &class("x", &json!({"overhead": {"podFixed": {"cpu": "250m"}}}))).await;
    made(&door, CLASSES, &class("plain", &json!({}))).await;
    for (name, own) in [
        ("nothing", json!({})),
        ("empty", json!({"overhead": {}})),
        ("same", json!({"overhead": {"cpu": "250m"}})),
        ("equal", json!({"overhead": {"cpu": "0.25"}})),
    ] {
        let pod = made(&door, PODS, &of_class(name, "x", &own)).await;
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "250m"}), "{name}");
    }
    let mismatch = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
    for own in [json!({"cpu": "1m"}), json!({"cpu": "250m", "memory": "1Mi"}), json!({"memory": "250m"})] {
        let object = of_class("p", "x", &json!({"overhead": own}));
        assert_eq!(refused(&door, &object).await, forbidden("p", mismatch), "{own}");
    }
    // RTC-31: even an empty map counts as set where the class has none.
    let unfounded = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
    for own in [json!({"cpu": "250m"}), json!({})] {
        let object = of_class("p", "plain", &json!({"overhead": own}));
        assert_eq!(refused(&door, &object).await, forbidden("p", unfounded), "{own}");
    }
    let mut classless = pod("p");
    classless["spec"]["overhead"] = json!({"cpu": "250m"});
    assert_eq!(refused(&door, &classless).await, forbidden("p", unfounded));
}

#[tokio::test]
async fn rtc_32_33_selectors_are_intersected_and_tolerations_united() {
    let door = door().await;
    let scheduling = json!({"scheduling": {
        "nodeSelector": {"c": "3", "b": "2"},
        "tolerations": [{"key": "k", "operator": "Exists"}, {"key": "l", "operator": "Exists", "effect": "NoSchedule"}],
    }});
    made(&door, CLASSES, &class("x", &scheduling)).await;
    for (name, own, merged) in [
        ("absent", json!({}), json!({"b": "2", "c": "3"})),
        ("other", json!({"nodeSelector": {"a": "1"}}), json!({"a": "1", "b": "2", "c": "3"})),
        ("same", json!({"nodeSelector": {"b": "2"}}), json!({"b": "2", "c": "3"})),
    ] {
        assert_eq!(made(&door, PODS, &of_class(name, "x", &own)).await["spec"]["nodeSelector"], merged);
    }
    // The smallest key that conflicts is named, every time.
    let conflict = "conflict: runtimeClass.scheduling.nodeSelector[b] = 2; pod.spec.nodeSelector[b] = 9";
    for _ in 0..5 {
        let object = of_class("p", "x", &json!({"nodeSelector": {"c": "9", "b": "9"}}));
        assert_eq!(refused(&door, &object).await, forbidden("p", conflict));
    }
    // The pod's own come first; what another covers is dropped. The last two are those of the cluster's defaults.
    let own = json!({"tolerations": [
        {"key": "mine", "operator": "Exists"}, {"key": "k", "operator": "Equal", "value": "v"}, {"key": "l", "operator": "Exists"},
    ]});
    let merged = made(&door, PODS, &of_class("tolerant", "x", &own)).await["spec"]["tolerations"].clone();
    let seen: Vec<&Value> =
        merged.as_array().unwrap().iter().filter(|one| one["tolerationSeconds"] != json!(300)).collect();
    let expected = [
        json!({"key": "mine", "operator": "Exists"}),
        json!({"key": "l", "operator": "Exists"}),
        json!({"key": "k", "operator": "Exists"}),
    ];
    assert_eq!(seen, expected.iter().collect::<Vec<_>>(), "{merged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rtc_19_23_kubectl_shows_classes_and_the_class_of_a_pod() {
    let cluster = cluster::cluster().await;
    let manifest = cluster.file(
        "class.yaml",
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: myclass}\nhandler: myconfiguration\n",
    );
    assert_eq!(cluster.ok(&["apply", "-f", &manifest]).await, "runtimeclass.node.k8s.io/myclass created\n");
    assert_eq!(cluster.ok(&["apply", "-f", &manifest]).await, "runtimeclass.node.k8s.io/myclass unchanged\n");
    let table = cluster.ok(&["get", "runtimeclass"]).await;
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((&words[0][..], &words[1][..2]), (&["NAME", "HANDLER", "AGE"][..], &["myclass", "myconfiguration"][..]));
    assert_eq!((words.len(), words[1].len()), (2, 3));
    let described = cluster.ok(&["describe", "runtimeclass", "myclass"]).await;
    assert!(described.lines().any(|line| line.split_whitespace().eq(["Handler:", "myconfiguration"])), "{described}");
    let pod = cluster.file(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: mypod}\nspec:\n  runtimeClassName: myclass\n  containers: [{name: c, image: x}]\n",
    );
    cluster.ok(&["create", "-f", &pod]).await;
    let described = cluster.ok(&["describe", "pod", "mypod"]).await;
    let line = ["Runtime", "Class", "Name:", "myclass"];
    assert!(described.lines().any(|words| words.split_whitespace().eq(line)), "{described}");
    assert!(cluster.ok(&["explain", "pod.spec.runtimeClassName"]).await.contains("RuntimeClass"));
    let patch = r#"{"handler":"other"}"#;
    let said = cluster.fails(&["patch", "runtimeclass", "myclass", "--type=merge", "-p", patch]).await;
    assert!(said.contains("handler: Invalid value: \"other\": field is immutable"), "{said}");
    cluster.end().await;
}

/// A store that cannot read classes while it is told so.
struct Flaky {
    inner: store::memory::MemoryStore,
    is_broken: AtomicBool,
}

#[async_trait::async_trait]
impl store::Store for Flaky {
    async fn get(&self, key: &str) -> Result<Option<store::Entry>, store::Error> {
        if key.contains("/runtimeclasses/") && self.is_broken.load(Ordering::SeqCst) {
            return Err(store::Error::Unavailable("the disk is gone".into()));
        }
        self.inner.get(key).await
    }

    async fn list(&self, list: store::List) -> Result<store::Page, store::Error> {
        self.inner.list(list).await
    }

    async fn put(&self, put: store::Put) -> Result<store::Entry, store::Error> {
        self.inner.put(put).await
    }

    async fn delete(&self, key: &str, expect: store::Expect) -> Result<(store::Entry, store::Revision), store::Error> {
        self.inner.delete(key, expect).await
    }

    async fn watch(&self, prefix: &str, after: store::Revision) -> Result<store::Watch, store::Error> {
        self.inner.watch(prefix, after).await
    }

    async fn revision(&self) -> Result<store::Revision, store::Error> {
        self.inner.revision().await
    }

    async fn compact(&self, through: store::Revision) -> Result<(), store::Error> {
        self.inner.compact(through).await
    }
}

#[tokio::test]
async fn rtc_29_a_class_that_cannot_be_read_lets_no_pod_in() {
    let store = Arc::new(Flaky { inner: store::memory::MemoryStore::new(), is_broken: AtomicBool::new(false) });
    let given = store.clone();
    let server = door::server_with(|options| options.store = given).await;
    let door = Door { server, user: UserInfo::admin() };
    made(&door, CLASSES, &class("x", &json!({}))).await;
    store.is_broken.store(true, Ordering::SeqCst);
    let (code, message) = refused(&door, &of_class("p", "x", &json!({}))).await;
    assert!(code == 503 && message.contains("the disk is gone"), "{code} {message}");
    made(&door, PODS, &pod("classless")).await;
    store.is_broken.store(false, Ordering::SeqCst);
    made(&door, PODS, &of_class("p", "x", &json!({}))).await;
}
