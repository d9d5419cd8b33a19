//! Each admission plugin does something that it does not do when it is switched off.
#![allow(missing_docs)]

use std::sync::Arc;

use apiserver::{ApiServer, DEFAULT_PLUGINS, DefaultTolerationSeconds, Options, UserInfo, choose_admission};
use door::{Door, PODS, pod, server_with};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

mod door;

/// A door of a server with the defaults and these switched on and off.
async fn door(on: &[&str], off: &[&str]) -> Door {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let enabled = choose_admission(&list(on), &list(off)).unwrap().enabled;
    let server = server_with(|options| options.admission = enabled).await;
    Door { server, user: UserInfo::admin() }
}

async fn made(door: &Door, path: &str, object: Value) -> Value {
    let (code, made) = door.post(path, &object).await;
    assert_eq!(code, 201, "{path}: {made}");
    made
}

fn with_spec(name: &str, spec: Value) -> Value {
    let mut pod = pod(name);
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

/// Whether the plugin of this name acts.
async fn acts(door: &Door, plugin: &str) -> bool {
    let is_refused = async |object: Value| door.post(PODS, &object).await.0 == 403;
    let limits = "/api/v1/namespaces/default/limitranges";
    match plugin {
        "NamespaceLifecycle" => {
            let path = "/api/v1/namespaces/absent/configmaps";
            door.post(path, &json!({"metadata": {"name": "a"}})).await.0 == 404
        }
        "LimitRanger" => {
            let range = json!({"limits": [{"type": "Container", "min": {"cpu": "1"}}]});
            made(door, limits, json!({"metadata": {"name": "a"}, "spec": range})).await;
            let mut object = pod("a");
            object["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
            is_refused(object).await
        }
        "ServiceAccount" => is_refused(with_spec("a", json!({"serviceAccountName": "absent"}))).await,
        "NodeRestriction" => {
            let node = door.of(UserInfo::node("n1"));
            made(&node, "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
            let label = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/a": "b"}}});
            node.merge("/api/v1/nodes/n1", &label).await.0 == 403
        }
        "TaintNodesByCondition" => {
            let node = made(door, "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
            node["spec"]["taints"] == json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
        }
        "AlwaysPullImages" => {
            let mut object = pod("a");
            object["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
            made(door, PODS, object).await["spec"]["containers"][0]["imagePullPolicy"] == "Always"
        }
        "PodSecurity" => {
            let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
            assert_eq!(door.merge("/api/v1/namespaces/default", &label).await.0, 200);
            is_refused(pod("a")).await
        }
        "Priority" => is_refused(with_spec("a", json!({"priorityClassName": "absent"}))).await,
        "DefaultTolerationSeconds" => {
            made(door, PODS, pod("a")).await["spec"]["tolerations"].as_array().is_some_and(|list| list.len() == 2)
        }
        "RuntimeClass" => {
            let class = json!({"metadata": {"name": "c"}, "handler": "c", "overhead": {"podFixed": {"cpu": "1"}}});
            made(door, "/apis/node.k8s.io/v1/runtimeclasses", class).await;
            let made = made(door, PODS, with_spec("a", json!({"runtimeClassName": "c"}))).await;
            made["spec"]["overhead"] == json!({"cpu": "1"})
        }
        "PinImageDigests" => door.post(PODS, &pod("a")).await.0 != 201,
        "MutatingAdmissionWebhook" | "ValidatingAdmissionWebhook" => {
            let (kind, plural) = match plugin.starts_with("Mutating") {
                true => ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
                false => ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
            };
            let rules =
                json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]);
            // Nobody is there, and that fails the request.
            let webhook = json!({"name": "a.example.com", "clientConfig": {"url": "https://127.0.0.1:1/"}, "rules": rules,
                "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail"});
            let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
            made(door, &path, json!({"kind": kind, "metadata": {"name": "a"}, "webhooks": [webhook]})).await;
            door.post(PODS, &pod("a")).await.0 == 500
        }
        "ResourceQuota" => {
            let quota = json!({"metadata": {"name": "a"}, "spec": {"hard": {"pods": "0"}}});
            made(door, "/api/v1/namespaces/default/resourcequotas", quota).await;
            is_refused(pod("a")).await
        }
        other => panic!("{other} is not tried"),
    }
}

#[tokio::test]
async fn each_plugin_acts_when_it_is_on_and_not_when_it_is_off() {
    // Those of certificates act on requests with keys and signatures, and are tried with them.
    for plugin in DEFAULT_PLUGINS.iter().filter(|name| !name.starts_with("Certificate")) {
        assert!(acts(&door(&[], &[]).await, plugin).await, "{plugin} acts by default");
        assert!(!acts(&door(&[], &[plugin]).await, plugin).await, "{plugin} is off");
    }
    for plugin in ["AlwaysPullImages", "PinImageDigests"] {
        assert!(acts(&door(&[plugin], &[]).await, plugin).await, "{plugin} is on");
        assert!(!acts(&door(&[], &[]).await, plugin).await, "{plugin} is off by default");
    }
}

#[tokio::test]
async fn new_pods_tolerate_bad_nodes_as_long_as_is_set_unless_they_say_themselves() {
    let seconds = DefaultTolerationSeconds { not_ready: 7, unreachable: 0 };
    let server = server_with(|options| options.default_tolerations = seconds).await;
    let door = Door { server, user: UserInfo::admin() };
    let exists = |key: &str, seconds: i64| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let of = async |name: &str, tolerations: Value| {
        made(&door, PODS, with_spec(name, json!({"tolerations": tolerations}))).await["spec"]["tolerations"].clone()
    };
    assert_eq!(of("none", json!([])).await, json!([exists("not-ready", 7), exists("unreachable", 0)]));
    let own = exists("unreachable", 3);
    assert_eq!(of("one", json!([own])).await, json!([own, exists("not-ready", 7)]));
    let all = json!({"operator": "Exists"});
    assert_eq!(of("all", json!([all])).await, json!([all]));
    let other = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"});
    assert_eq!(of("other", json!([other])).await.as_array().unwrap().len(), 3, "another effect");
}

#[tokio::test]
async fn a_name_that_cannot_run_is_no_plugin_of_a_server() {
    for name in ["Nonsense", "AlwaysAdmit", "EventRateLimit"] {
        let mut options = Options::new(Arc::new(store::memory::MemoryStore::new()));
        options.admission.push(name.to_owned());
        assert!(ApiServer::start(options, CancellationToken::new()).await.is_err(), "{name}");
    }
}
