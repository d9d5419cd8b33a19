//! What the server does for the page "Images": pull policies, image volumes, AlwaysPullImages, accounts and secrets.
#![allow(missing_docs)]

use std::sync::{Arc, Mutex};

use api::look;
use apiserver::{ApiServer, DEFAULT_PLUGINS, DigestQuery, Options, UnresolvedTags, UserInfo};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use door::{Door, PODS, door, mirror, pod, server_with};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

mod door;

const APPLY: &str = "application/apply-patch+yaml";

/// Every kind that holds a pod template, its path and where the template is.
const HOLDERS: [(&str, &[&str]); 8] = [
    ("/api/v1/namespaces/default/podtemplates", &["template"]),
    ("/api/v1/namespaces/default/replicationcontrollers", &["spec", "template"]),
    ("/apis/apps/v1/namespaces/default/replicasets", &["spec", "template"]),
    ("/apis/apps/v1/namespaces/default/deployments", &["spec", "template"]),
    ("/apis/apps/v1/namespaces/default/statefulsets", &["spec", "template"]),
    ("/apis/apps/v1/namespaces/default/daemonsets", &["spec", "template"]),
    ("/apis/batch/v1/namespaces/default/jobs", &["spec", "template"]),
    ("/apis/batch/v1/namespaces/default/cronjobs", &["spec", "jobTemplate", "spec", "template"]),
];

fn holder(path: &str, place: &[&str], spec: &Value) -> Value {
    let mut object = json!({"metadata": {"name": "w"}});
    let template = place.iter().fold(&mut object, |value, name| look::child(value, name));
    *template = json!({"metadata": {"labels": {"app": "w"}}, "spec": spec});
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

fn spec_of<'a>(object: &'a Value, place: &[&str]) -> &'a Value {
    look::at(object, place).unwrap().get("spec").unwrap()
}

#[tokio::test]
async fn img_20_to_23_every_kind_and_list_reads_back_with_a_policy() {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let images = [
        ("nginx".to_owned(), "Always"),
        ("nginx:latest".to_owned(), "Always"),
        ("nginx:1.2".to_owned(), "IfNotPresent"),
        ("nginx:Latest".to_owned(), "IfNotPresent"),
        (format!("nginx@{digest}"), "IfNotPresent"),
        (format!("nginx:latest@{digest}"), "Always"),
        ("A B".to_owned(), "IfNotPresent"),
    ];
    let door = door().await;
    let paths = HOLDERS.iter().copied().chain([(PODS, &[][..])]);
    for (path, place) in paths {
        for (image, policy) in &images {
            let container = |name: &str| json!([{"name": name, "image": image}]);
            let spec = json!({
                "containers": container("c"), "initContainers": container("i"),
                "volumes": [{"name": "v", "image": {"reference": image}}],
            });
            let object = holder(path, place, &spec);
            let (object, place) = if path == PODS {
                (json!({"metadata": {"name": "w"}, "spec": spec}), &[][..])
            } else {
                (object, place)
            };
            let (code, made) = door.post(path, &object).await;
            // IMG-14: nobody looks at the syntax of a name here.
            assert_eq!(code, 201, "{path} {image}: {made}");
            let (_, read) = door.get(&format!("{path}/w")).await;
            let spec = if place.is_empty() { &read["spec"] } else { spec_of(&read, place) };
            for list in ["containers", "initContainers"] {
                assert_eq!(spec[list][0]["imagePullPolicy"], *policy, "{path} {list} {image}");
            }
            assert_eq!(spec["volumes"][0]["image"]["pullPolicy"], *policy, "{path} {image}");
            // A Job or a ReplicationController would wait for the collector if nothing was said.
            let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
            assert_eq!(door.delete(&format!("{path}/w"), &options).await.0, 200);
        }
    }
}

#[tokio::test]
async fn img_25_26_no_patch_of_the_image_moves_the_policy_and_a_put_without_it_does() {
    let door = door().await;
    let template = ["spec", "template"];
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let path = format!("{all}/w");
    let spec = json!({"containers": [{"name": "c", "image": "app:1"}]});
    let set = |container: Value| json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    let mut applied = set(json!({"name": "c", "image": "app:latest"}));
    applied["apiVersion"] = json!("apps/v1");
    applied["kind"] = json!("Deployment");
    let patches = [
        ("application/strategic-merge-patch+json", "", set(json!({"name": "c", "image": "app:latest"}))),
        (
            "application/merge-patch+json",
            "",
            set(json!({"name": "c", "image": "app:latest", "imagePullPolicy": "IfNotPresent"})),
        ),
        (
            "application/json-patch+json",
            "",
            json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "app:latest"}]),
        ),
        (APPLY, "?fieldManager=a&force=true", applied),
    ];
    for (media, query, patch) in patches {
        door.delete(&path, &json!({})).await;
        let (code, made) = door.post(all, &holder(all, &template, &spec)).await;
        assert_eq!(code, 201, "{made}");
        assert_eq!(spec_of(&made, &template)["containers"][0]["imagePullPolicy"], "IfNotPresent");
        let (code, patched) = door.patch(&format!("{path}{query}"), media, &patch).await;
        assert_eq!(code, 200, "{patched}");
        let container = &spec_of(&patched, &template)["containers"][0];
        assert_eq!(
            (&container["image"], &container["imagePullPolicy"]),
            (&json!("app:latest"), &json!("IfNotPresent")),
            "{media}"
        );
    }
    // IMG-26: null, or a whole object without the field, is defaulted from the image that it names now.
    let null = set(json!({"name": "c", "imagePullPolicy": null}));
    let (_, patched) = door.patch(&path, "application/strategic-merge-patch+json", &null).await;
    assert_eq!(spec_of(&patched, &template)["containers"][0]["imagePullPolicy"], "Always");
    let put = holder("/apps/", &template, &json!({"containers": [{"name": "c", "image": "app:2"}]}));
    let (code, put) = door.put(&path, &put).await;
    assert_eq!(code, 200, "{put}");
    assert_eq!(spec_of(&put, &template)["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(put["metadata"]["generation"], 4);
}

#[tokio::test]
async fn img_26_an_apply_that_drops_its_policy_is_defaulted_from_the_new_image() {
    let door = door().await;
    let template = ["spec", "template"];
    let path = "/apis/apps/v1/namespaces/default/deployments/w?fieldManager=a";
    let config = |container: Value| {
        let mut object = holder("/apps/", &template, &json!({"containers": [container]}));
        object["apiVersion"] = json!("apps/v1");
        object["kind"] = json!("Deployment");
        object
    };
    let policy = |object: &Value| spec_of(object, &template)["containers"][0]["imagePullPolicy"].clone();
    let owned = config(json!({"name": "c", "image": "app:1", "imagePullPolicy": "Never"}));
    let (code, made) = door.patch(path, APPLY, &owned).await;
    assert_eq!((code, policy(&made)), (201, json!("Never")));
    let (code, changed) = door.patch(path, APPLY, &config(json!({"name": "c", "image": "app:latest"}))).await;
    assert_eq!((code, policy(&changed)), (200, json!("Always")));
    let (code, changed) = door.patch(path, APPLY, &config(json!({"name": "c", "image": "app:2"}))).await;
    // Nobody applied the default, so nobody dropped it.
    assert_eq!((code, policy(&changed)), (200, json!("Always")));

    // On a Pod, whose policy may not change, it is refused.
    let path = format!("{PODS}/p?fieldManager=a");
    let config = |container: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}});
    let owned = config(json!({"name": "c", "image": "app:1", "imagePullPolicy": "IfNotPresent"}));
    assert_eq!(door.patch(&path, APPLY, &owned).await.0, 201);
    let (code, status) = door.patch(&path, APPLY, &config(json!({"name": "c", "image": "app:latest"}))).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("pod updates may not change fields other than"), "{status}");
    let (code, changed) = door.patch(&path, APPLY, &config(json!({"name": "c", "image": "app:2"}))).await;
    assert_eq!((code, &changed["spec"]["containers"][0]["imagePullPolicy"]), (200, &json!("IfNotPresent")));
}

#[tokio::test]
async fn img_26_28_a_pod_changes_its_image_and_nothing_else() {
    let door = door().await;
    let mut object = pod("a");
    object["spec"]["containers"][0]["image"] = json!("app:1");
    assert_eq!(door.post(PODS, &object).await.0, 201);
    let path = format!("{PODS}/a");
    let set = |container: Value| json!({"spec": {"containers": [container]}});
    let strategic = "application/strategic-merge-patch+json";
    let (code, patched) = door.patch(&path, strategic, &set(json!({"name": "c", "image": "app:latest"}))).await;
    assert_eq!(
        (code, &patched["spec"]["containers"][0]["imagePullPolicy"]),
        (200, &json!("IfNotPresent")),
        "{patched}"
    );
    let (code, status) = door.patch(&path, strategic, &set(json!({"name": "c", "imagePullPolicy": "Always"}))).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("pod updates may not change fields other than"), "{status}");
    let (_, mut put) = door.get(&path).await;
    put["spec"]["containers"][0].as_object_mut().unwrap().remove("imagePullPolicy");
    assert_eq!(door.put(&path, &put).await.0, 422, "the default of the new image differs from what is stored");
    let (code, status) = door.patch(&path, strategic, &set(json!({"name": "d", "image": "app:1"}))).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("may not add or remove containers"), "{status}");
    let secrets = json!({"spec": {"imagePullSecrets": [{"name": "x"}]}});
    assert_eq!(door.patch(&path, strategic, &secrets).await.0, 422, "IMG-184");
}

#[tokio::test]
async fn img_27_30_31_302_bad_policies_and_images_are_named() {
    let door = door().await;
    let check = async |spec: Value, field: &str, words: &str| {
        let (code, status) = door.post(PODS, &json!({"metadata": {"name": "x"}, "spec": spec})).await;
        assert_eq!(code, 422, "{status}");
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["field"], field, "{status}");
        assert!(cause["message"].as_str().unwrap().contains(words), "{status}");
    };
    let one = |container: Value| json!({"containers": [container]});
    let supported = "Unsupported value: \"always\": supported values: \"Always\", \"IfNotPresent\", \"Never\"";
    check(
        one(json!({"name": "c", "image": "x", "imagePullPolicy": "always"})),
        "spec.containers[0].imagePullPolicy",
        supported,
    )
    .await;
    check(one(json!({"name": "c"})), "spec.containers[0].image", "Required value").await;
    check(
        one(json!({"name": "c", "image": " x"})),
        "spec.containers[0].image",
        "must not have leading or trailing whitespace",
    )
    .await;
    let volume = |source: Value| json!({"containers": [{"name": "c", "image": "x"}], "volumes": [{"name": "v", "image": source}]});
    check(volume(json!({})), "spec.volumes[0].image.reference", "Required value").await;
    check(volume(json!({"reference": "x", "pullPolicy": "always"})), "spec.volumes[0].image.pullPolicy", supported)
        .await;
    let mut two = volume(json!({"reference": "x"}));
    two["volumes"][0]["emptyDir"] = json!({});
    check(two, "spec.volumes[0].image", "may not specify more than 1 volume type").await;
    // Templates may leave both open.
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let spec = json!({"containers": [{"name": "c", "image": " x"}], "volumes": [{"name": "v", "image": {}}]});
    let (code, made) = door.post(path, &holder(path, &["spec", "template"], &spec)).await;
    assert_eq!(code, 201, "{made}");
}

#[tokio::test]
async fn img_300_to_302_the_image_of_a_volume_is_fixed() {
    let door = door().await;
    let mut object = pod("a");
    object["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "data:1"}}]);
    assert_eq!(door.post(PODS, &object).await.0, 201);
    let path = format!("{PODS}/a");
    for change in [json!({"reference": "data:2"}), json!({"reference": "data:1", "pullPolicy": "Always"})] {
        let patch = json!({"spec": {"volumes": [{"name": "v", "image": change}]}});
        assert_eq!(door.merge(&path, &patch).await.0, 422, "{patch}");
    }
}

fn ephemeral(list: Value) -> Value {
    json!({"spec": {"ephemeralContainers": list}})
}

#[tokio::test]
async fn img_23_29_ephemeral_containers_come_by_their_own_door_and_stay() {
    let door = door().await;
    assert_eq!(door.post(PODS, &pod("a")).await.0, 201);
    let path = format!("{PODS}/a/ephemeralcontainers");
    let strategic = "application/strategic-merge-patch+json";
    let (code, made) = door.patch(&path, strategic, &ephemeral(json!([{"name": "e", "image": "dbg"}]))).await;
    assert_eq!(code, 200, "{made}");
    assert_eq!(made["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "Always");
    let wrong = ephemeral(json!([{"name": "f", "image": "dbg", "imagePullPolicy": "x"}]));
    assert_eq!(door.patch(&path, strategic, &wrong).await.0, 422);
    for changed in [json!({"name": "e", "image": "dbg:2"}), json!({"name": "e", "imagePullPolicy": "Never"})] {
        let (code, status) = door.patch(&path, strategic, &ephemeral(json!([changed]))).await;
        assert_eq!(code, 422);
        assert!(
            status["message"].as_str().unwrap().contains("existing ephemeral containers \"e\" may not be changed"),
            "{status}"
        );
    }
    assert_eq!(door.merge(&path, &ephemeral(json!([]))).await.0, 422);
    // The main door does not let them in.
    let (code, _) = door.patch(&format!("{PODS}/a"), strategic, &ephemeral(json!([{"name": "g", "image": "x"}]))).await;
    assert_eq!(code, 422);
    let mut whole = door.get(&format!("{PODS}/a")).await.1;
    look::set(&mut whole["spec"], "nodeName", "elsewhere");
    whole["spec"]["ephemeralContainers"].as_array_mut().unwrap().push(json!({"name": "h", "image": "x:1"}));
    let (code, put) = door.put(&path, &whole).await;
    assert_eq!((code, put["spec"].get("nodeName")), (200, None), "{put}");
    assert_eq!(put["spec"]["ephemeralContainers"][1]["imagePullPolicy"], "IfNotPresent");
}

/// A server with AlwaysPullImages over a store that one without it has filled.
async fn always() -> (Door, Door) {
    let store = Arc::new(store::memory::MemoryStore::new());
    let start = async |plugins: Vec<String>| {
        let mut options = Options::new(store.clone());
        options.admission = plugins;
        let server = ApiServer::start(options, CancellationToken::new()).await.unwrap();
        Door { server, user: UserInfo::admin() }
    };
    let default: Vec<String> = DEFAULT_PLUGINS.iter().map(|name| (*name).to_owned()).collect();
    let mut with = default.clone();
    with.push("AlwaysPullImages".to_owned());
    (start(default).await, start(with).await)
}

#[tokio::test]
async fn img_220_221_225_every_image_of_a_pod_is_pulled_always() {
    let (_, door) = always().await;
    for policy in [json!("Always"), json!("IfNotPresent"), json!("Never"), Value::Null] {
        let container = |name: &str| json!([{"name": name, "image": "x:1", "imagePullPolicy": policy}]);
        let object = json!({"metadata": {"generateName": "a-"}, "spec": {
            "containers": container("c"), "initContainers": container("i"),
            "volumes": [{"name": "v", "image": {"reference": "x:1", "pullPolicy": policy}}],
        }});
        let (code, made) = door.post(PODS, &object).await;
        assert_eq!(code, 201, "{made}");
        assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(made["spec"]["initContainers"][0]["imagePullPolicy"], "Always");
        assert_eq!(made["spec"]["volumes"][0]["image"]["pullPolicy"], "Always");
    }
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let spec = json!({"containers": [{"name": "c", "image": "x:1"}]});
    let (_, made) = door.post(path, &holder(path, &["spec", "template"], &spec)).await;
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
}

#[tokio::test]
async fn img_222_only_a_new_image_forces_the_policy_of_an_old_pod() {
    let (before, door) = always().await;
    let mut object = pod("old");
    object["spec"]["containers"][0]["image"] = json!("x:1");
    assert_eq!(before.post(PODS, &object).await.0, 201);
    let path = format!("{PODS}/old");
    let (code, kept) = door.merge(&path, &json!({"metadata": {"annotations": {"a": "b"}}})).await;
    assert_eq!((code, &kept["spec"]["containers"][0]["imagePullPolicy"]), (200, &json!("IfNotPresent")), "{kept}");
    let strategic = "application/strategic-merge-patch+json";
    let image = json!({"spec": {"containers": [{"name": "c", "image": "x:2"}]}});
    let (code, status) = door.patch(&path, strategic, &image).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("pod updates may not change fields other than"), "{status}");
    object["metadata"]["name"] = json!("new");
    assert_eq!(door.post(PODS, &object).await.0, 201);
    assert_eq!(door.patch(&format!("{PODS}/new"), strategic, &image).await.0, 200);
}

#[tokio::test]
async fn img_225_a_nodes_own_mirror_pod_stays_and_nobody_elses_does() {
    let (_, door) = always().await;
    let mut mirror = door::mirror(&door, "static").await;
    mirror["spec"]["containers"][0]["image"] = json!("x:1");
    let (code, made) = door.of(UserInfo::node("n1")).post(PODS, &mirror).await;
    assert_eq!((code, &made["spec"]["containers"][0]["imagePullPolicy"]), (201, &json!("IfNotPresent")), "{made}");
    mirror["metadata"]["name"] = json!("trick");
    let (_, made) = door.post(PODS, &mirror).await;
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
}

#[tokio::test]
async fn img_226_ephemeral_containers_do_not_pass_by() {
    let (before, door) = always().await;
    let mut object = pod("a");
    object["spec"]["containers"][0]["image"] = json!("x:1");
    assert_eq!(before.post(PODS, &object).await.0, 201);
    let path = format!("{PODS}/a/ephemeralcontainers");
    let strategic = "application/strategic-merge-patch+json";
    let first = ephemeral(json!([{"name": "e", "image": "x:1", "imagePullPolicy": "Never"}]));
    assert_eq!(before.patch(&path, strategic, &first).await.0, 200);
    let second = ephemeral(json!([{"name": "f", "image": "x:1", "imagePullPolicy": "Never"}]));
    let (code, made) = door.patch(&path, strategic, &second).await;
    assert_eq!(code, 200, "{made}");
    let of = |name: &str| {
        let all = made["spec"]["ephemeralContainers"].as_array().unwrap();
        all.iter().find(|c| c["name"] == name).unwrap()["imagePullPolicy"].clone()
    };
    assert_eq!((of("f"), of("e")), (json!("Always"), json!("Never")), "the old one stays as it is");
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
}

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

#[tokio::test]
async fn img_188_a_pod_takes_all_of_its_accounts_secrets_or_none() {
    let door = door().await;
    let account = json!({"metadata": {"name": "robot"}, "imagePullSecrets": [{"name": "b"}, {"name": "a"}]});
    assert_eq!(door.post(ACCOUNTS, &account).await.0, 201);
    let made = async |name: &str, secrets: Value| {
        let mut object = pod(name);
        object["spec"]["serviceAccountName"] = json!("robot");
        object["spec"]["imagePullSecrets"] = secrets;
        door.post(PODS, &object).await.1["spec"]["imagePullSecrets"].clone()
    };
    assert_eq!(made("none", Value::Null).await, json!([{"name": "b"}, {"name": "a"}]));
    assert_eq!(made("empty", json!([])).await, json!([{"name": "b"}, {"name": "a"}]));
    assert_eq!(made("own", json!([{"name": "mine"}])).await, json!([{"name": "mine"}]));
    // Existing pods stay, the next one follows.
    let path = format!("{ACCOUNTS}/robot");
    assert_eq!(door.merge(&path, &json!({"imagePullSecrets": [{"name": "c"}]})).await.0, 200);
    let (_, old) = door.get(&format!("{PODS}/none")).await;
    assert_eq!(old["spec"]["imagePullSecrets"], json!([{"name": "b"}, {"name": "a"}]));
    assert_eq!(made("next", Value::Null).await, json!([{"name": "c"}]));
    let mut lost = pod("lost");
    lost["spec"]["serviceAccountName"] = json!("nobody");
    let (code, status) = door.post(PODS, &lost).await;
    assert_eq!(code, 403);
    assert!(
        status["message"].as_str().unwrap().contains("error looking up service account default/nobody"),
        "{status}"
    );
}

#[tokio::test]
async fn img_189_an_account_may_demand_that_it_knows_every_secret() {
    let door = door().await;
    let account = json!({
        "metadata": {"name": "strict", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "imagePullSecrets": [{"name": "known"}], "secrets": [{"name": "mine"}],
    });
    assert_eq!(door.post(ACCOUNTS, &account).await.0, 201);
    let post = async |spec: Value| {
        let mut object = pod("a");
        object["spec"]["serviceAccountName"] = json!("strict");
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let (code, status) = door.post(&format!("{PODS}?dryRun=All"), &object).await;
        (code, status["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(post(json!({})).await.0, 201);
    assert_eq!(post(json!({"imagePullSecrets": [{"name": "known"}]})).await.0, 201);
    assert_eq!(
        post(json!({"imagePullSecrets": [{"name": "known"}, {"name": "other"}]})).await,
        (403, "pods \"a\" is forbidden: imagePullSecrets[1].name=\"other\" is not allowed because service account strict does not reference that imagePullSecret".to_owned())
    );
    let volume = json!({"volumes": [{"name": "v", "secret": {"secretName": "other"}}]});
    assert!(post(volume).await.1.contains("volume with secret.secretName=\"other\" is not allowed"));
    let env = json!({"containers": [{"name": "c", "image": "x", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "other", "key": "k"}}}]}]});
    assert!(post(env).await.1.contains("container c with envVar A referencing secret.secretName=\"other\""));
    let good = json!({"volumes": [{"name": "v", "secret": {"secretName": "mine"}}]});
    assert_eq!(post(good).await.0, 201);
}

#[tokio::test]
async fn img_190_mirror_pods_refer_to_nothing() {
    let door = door().await;
    let (node, whole) = (door.of(UserInfo::node("n1")), mirror(&door, "m").await);
    let post = async |spec: Value| {
        let mut object = whole.clone();
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let (code, status) = node.post(&format!("{PODS}?dryRun=All"), &object).await;
        (code, status["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(post(json!({})).await.0, 201);
    for (spec, what) in [
        (json!({"serviceAccountName": "x"}), "reference service accounts"),
        (json!({"imagePullSecrets": [{"name": "x"}]}), "reference secrets"),
        (json!({"volumes": [{"name": "v", "secret": {"secretName": "x"}}]}), "reference secrets"),
        (json!({"volumes": [{"name": "v", "configMap": {"name": "x"}}]}), "reference configmaps"),
    ] {
        let (code, message) = post(spec).await;
        assert_eq!(code, 403);
        assert!(message.contains(&format!("a mirror pod may not {what}")), "{message}");
    }
}

#[tokio::test]
async fn img_185_secrets_for_registries_are_json_and_keep_their_type() {
    let door = door().await;
    let path = "/api/v1/namespaces/default/secrets";
    let encode = |text: &str| STANDARD.encode(text);
    let post = async |name: &str, kind: &str, data: Value| {
        door.post(path, &json!({"metadata": {"name": name}, "type": kind, "data": data})).await
    };
    let (json_kind, cfg) = ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg");
    assert_eq!(post("a", json_kind, json!({".dockerconfigjson": encode("{\"auths\":{}}")})).await.0, 201);
    assert_eq!(post("b", json_kind, json!({".dockerconfigjson": encode("{\"nonsense\":1}")})).await.0, 201);
    assert_eq!(post("c", cfg, json!({".dockercfg": encode("{}")})).await.0, 201);
    let (code, status) = post("d", json_kind, json!({})).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("data[.dockerconfigjson]")));
    let (code, status) = post("d", cfg, json!({".dockercfg": encode("sesame")})).await;
    let message = status["message"].as_str().unwrap();
    assert!(code == 422 && message.contains("<secret contents redacted>") && !message.contains("sesame"), "{message}");
    let (code, status) = post("d", "Opaque", json!({"x": STANDARD.encode(vec![0u8; 1024 * 1024 + 1])})).await;
    assert!(code == 422 && status["message"].as_str().unwrap().contains("Too long"), "{code}");
    let kept = json!({"metadata": {"name": "a"}, "data": {".dockerconfigjson": encode("{}")}});
    let (code, kept) = door.put(&format!("{path}/a"), &kept).await;
    assert_eq!((code, &kept["type"]), (200, &json!(json_kind)));
    assert_eq!(door.merge(&format!("{path}/a"), &json!({"type": "Opaque"})).await.0, 422);
}

#[tokio::test]
async fn img_184_empty_and_repeated_secret_names_are_told() {
    let door = door().await;
    let mut object = pod("a");
    object["spec"]["imagePullSecrets"] = json!([{"name": ""}, {"name": "x"}, {"name": "x"}]);
    let (code, _, warnings) = door.post_warned(PODS, &object).await;
    assert_eq!(code, 201, "existence is not checked");
    assert_eq!(
        warnings,
        [
            "299 - \"spec.imagePullSecrets[0].name: invalid empty name \\\"\\\"\"",
            "299 - \"spec.imagePullSecrets[2].name: duplicate name \\\"x\\\"\"",
        ]
    );
    object["metadata"]["name"] = json!("b");
    object["spec"]["imagePullSecrets"] = json!([{"name": "x", "namespace": "other"}]);
    let (code, status) = door.post(&format!("{PODS}?fieldValidation=Strict"), &object).await;
    assert_eq!(code, 400, "{status}");
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A server with PinImageDigests whose tags all stand for one digest, but those of `broken.io`; what it asked comes back.
async fn pinning(unresolved: UnresolvedTags) -> (Door, Arc<Mutex<Vec<DigestQuery>>>) {
    let asked: Arc<Mutex<Vec<DigestQuery>>> = Arc::default();
    let log = asked.clone();
    let resolver = tower::service_fn(move |query: DigestQuery| {
        let log = log.clone();
        async move {
            log.lock().unwrap().push(query.clone());
            if query.image.starts_with("silent.io") {
                std::future::pending::<()>().await;
            }
            if query.image.starts_with("broken.io") {
                Err("manifest unknown".to_owned())
            } else {
                Ok(DIGEST.to_owned())
            }
        }
    });
    let server = server_with(|options| {
        options.admission.push("PinImageDigests".to_owned());
        options.digests = Some(tower::util::BoxCloneSyncService::new(resolver));
        options.unresolved_tags = unresolved;
    });
    (Door { server: server.await, user: UserInfo::admin() }, asked)
}

#[tokio::test]
async fn tags_of_pods_and_templates_are_pinned_once_when_they_are_made() {
    let (door, asked) = pinning(UnresolvedTags::Refuse).await;
    for (path, place) in HOLDERS.iter().copied().chain([(PODS, &[][..])]) {
        let spec = json!({
            "imagePullSecrets": [{"name": "reg"}],
            "containers": [{"name": "c", "image": "app"}, {"name": "d", "image": "app:1"}, {"name": "e", "image": "app:1"}],
            "initContainers": [
                {"name": "i", "image": format!("app:2@{DIGEST}")}, {"name": "j", "image": "local:1", "imagePullPolicy": "Never"},
                {"name": "k", "image": "A B"},
            ],
            "volumes": [{"name": "v", "image": {"reference": "data:1"}}],
        });
        let object =
            if path == PODS { json!({"metadata": {"name": "w"}, "spec": spec}) } else { holder(path, place, &spec) };
        asked.lock().unwrap().clear();
        let (code, made) = door.post(path, &object).await;
        assert_eq!(code, 201, "{path} {made}");
        let spec = if place.is_empty() { &made["spec"] } else { spec_of(&made, place) };
        let images =
            |list: &str| -> Vec<&str> { look::list(spec, list).iter().map(|c| look::text(c, "image")).collect() };
        let (latest, first) = (format!("app:latest@{DIGEST}"), format!("app:1@{DIGEST}"));
        assert_eq!(images("containers"), [&latest, &first, &first], "{path}");
        assert_eq!(images("initContainers"), [&format!("app:2@{DIGEST}"), "local:1", "A B"], "{path}");
        assert_eq!(spec["volumes"][0]["image"]["reference"], format!("data:1@{DIGEST}"), "{path}");
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always", "the policy is that of the tag");
        let mut queries = asked.lock().unwrap().clone();
        queries.sort_by(|a, b| a.image.cmp(&b.image));
        let names: Vec<&str> = queries.iter().map(|query| query.image.as_str()).collect();
        assert_eq!(names, ["app", "app:1", "data:1"], "{path}: each image once");
        assert_eq!((queries[0].namespace.as_str(), &queries[0].pull_secrets), ("default", &vec!["reg".to_owned()]));
    }
    // What exists is not looked up again.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "app:3"}]}}}});
    let path = "/apis/apps/v1/namespaces/default/deployments/w";
    let (code, changed) = door.patch(path, "application/strategic-merge-patch+json", &image).await;
    assert_eq!((code, &changed["spec"]["template"]["spec"]["containers"][0]["image"]), (200, &json!("app:3")));
}

#[tokio::test]
async fn a_tag_that_cannot_be_looked_up_is_refused_or_let_pass() {
    let (door, _) = pinning(UnresolvedTags::Refuse).await;
    let mut object = pod("a");
    object["spec"]["containers"][0]["image"] = json!("broken.io/x:1");
    let (code, status) = door.post(PODS, &object).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods \"a\" is forbidden: image \"broken.io/x:1\" cannot be pinned to a digest: manifest unknown"
    );
    let (door, _) = pinning(UnresolvedTags::LetPass).await;
    let (code, made, warnings) = door.post_warned(PODS, &object).await;
    assert_eq!((code, &made["spec"]["containers"][0]["image"]), (201, &json!("broken.io/x:1")));
    assert_eq!(warnings, ["299 - \"image \\\"broken.io/x:1\\\" keeps its tag: manifest unknown\""]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_silent_costs_two_seconds() {
    let (door, _) = pinning(UnresolvedTags::Refuse).await;
    let mut object = pod("a");
    object["spec"]["containers"] = json!(
        (0..40).map(|n| json!({"name": format!("c{n}"), "image": format!("silent.io/x:{n}")})).collect::<Vec<_>>()
    );
    let began = tokio::time::Instant::now();
    let (code, status) = door.post(PODS, &object).await;
    assert_eq!(code, 403, "{status}");
    assert!(status["message"].as_str().unwrap().contains("no answer within 2 s"), "{status}");
    assert!(began.elapsed() < std::time::Duration::from_millis(2500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_tag_of_a_template_is_looked_up_with_its_accounts_secrets() {
    let (door, asked) = pinning(UnresolvedTags::Refuse).await;
    let account = json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "theirs"}]});
    assert_eq!(door.post(ACCOUNTS, &account).await.0, 201);
    let (path, place) = HOLDERS[3];
    let spec = json!({"containers": [{"name": "c", "image": "app:1"}]});
    let (code, made) = door.post(path, &holder(path, place, &spec)).await;
    assert_eq!((code, spec_of(&made, place).get("imagePullSecrets")), (201, None), "{made}");
    assert_eq!(asked.lock().unwrap()[0].pull_secrets, ["theirs"]);
}
