//! From a RuntimeClass to the call of CRI, against the scripted runtime: with a pod's task on virtual time, and with a
//! whole agent and a real API server. The numbers are those of `docs/conformance/runtimeclass.md`. Needs root, for cgroups.

mod agent;
mod bench;

use agent::{Lab, PODS};
use bench::{Bench, Told, pod};
use cri::{
    fake::{Call, Fake, Fault, Verb},
    v1,
};
use jiff::Timestamp;
use node::{
    object::Pod,
    pod::{act::Outcome, clock::Clock, decide::Action},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, sync::atomic::Ordering, time::Duration};
use tokio::time::Instant;

const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const LONG: Duration = Duration::from_secs(3600);

fn clock() -> Clock {
    Clock::virtual_from(Timestamp::from_second(1_800_000_000).unwrap())
}

/// A handler with what it can do.
fn handler(name: &str, recursive_read_only_mounts: bool, user_namespaces: bool) -> v1::RuntimeHandler {
    let features = v1::RuntimeHandlerFeatures { recursive_read_only_mounts, user_namespaces };
    v1::RuntimeHandler { name: name.into(), features: Some(features) }
}

fn handlers(names: &[&str]) -> Vec<v1::RuntimeHandler> {
    names.iter().map(|name| handler(name, false, false)).collect()
}

/// A pod of one container `c`, of this class.
fn of_class(name: &str, class: &str, more: Value) -> Value {
    let mut spec = json!({
        "runtimeClassName": class,
        "containers": [{"name": "c", "image": "registry.test/web:1", "imagePullPolicy": "IfNotPresent"}],
    });
    json_patch::merge(&mut spec, &more);
    pod(name, spec)
}

/// What the runtime was asked to make.
fn sandboxes(fake: &Fake) -> Vec<v1::RunPodSandboxRequest> {
    let runs = fake.calls_of(Verb::RunPodSandbox).into_iter().map(|recorded| recorded.call);
    runs.map(|call| if let Call::RunPodSandbox(request) = call { request } else { unreachable!() }).collect()
}

fn handlers_asked(fake: &Fake) -> Vec<String> {
    sandboxes(fake).into_iter().map(|request| request.runtime_handler).collect()
}

/// Has a pod's first sandbox made.
async fn make_sandbox(bench: &Bench, pod: Value) -> Outcome {
    let pod: Arc<Pod> = Arc::new(serde_json::from_value(pod).unwrap());
    bench.run(&pod, &Action::CreateSandbox { attempt: 0 }).await
}

/// What was told of a sandbox that could not be made, once it was.
async fn told(bench: &Bench) -> Told {
    let mut events = bench.api.events.subscribe();
    let is_it = |event: &&Told| event.reason == "FailedCreatePodSandBox";
    let wait = events.wait_for(|events| events.iter().any(|event| is_it(&event)));
    let events = tokio::time::timeout(LONG, wait).await.expect("it is told").unwrap();
    events.iter().find(is_it).unwrap().clone()
}

fn failed_in_the_end(status: &Value) -> bool {
    status["phase"] == "Failed"
}

#[tokio::test(start_paused = true)]
async fn rtc_36_40_68_the_handler_of_the_class_goes_to_the_runtime_as_it_is_and_overhead_beside_the_sum() {
    for (class, wanted) in [(Some("known"), "special"), (Some("odd"), "0-a--b-9"), (Some(""), ""), (None, "")] {
        let fake = Fake::new();
        fake.set_handlers(handlers(&["", "special", "0-a--b-9"]));
        let bench = Bench::with_policy(fake.client(), clock(), true);
        bench.api.classes.lock().unwrap().insert("odd".into(), "0-a--b-9".into());
        let resources = json!({"limits": {"cpu": "100m", "memory": "100Mi"}});
        let spec = json!({
            "runtimeClassName": class,
            "overhead": {"cpu": "200m", "memory": "140Mi"},
            "containers": [{"name": "c", "image": "x", "resources": resources}, {"name": "d", "image": "x", "resources": resources}],
        });
        let Outcome::Sandbox(made, handler) = make_sandbox(&bench, pod("p", spec)).await else { panic!() };
        assert!(made.ready);
        assert_eq!((&*handler, handlers_asked(&fake)), (wanted, vec![wanted.to_owned()]));
        // RTC-45: the runtime says what it was made with.
        assert_eq!(fake.sandboxes()[0].runtime_handler, wanted);
        let looked_up = usize::from(class.is_some_and(|class| !class.is_empty()));
        assert_eq!(bench.api.lookups.lock().unwrap().len(), looked_up, "no name, no look-up");
        let linux = sandboxes(&fake)[0].config.clone().unwrap().linux.unwrap();
        let numbers = |r: v1::LinuxContainerResources| (r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes);
        assert_eq!(numbers(linux.overhead.unwrap()), (204, 20_000, 140 << 20));
        assert_eq!(numbers(linux.resources.unwrap()), (204, 20_000, 200 << 20));
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rtc_37_38_a_class_that_is_not_there_fails_its_pod_for_good() {
    let fake = Fake::new();
    let mut bench = Bench::with_policy(fake.client(), clock(), true);
    let _wishes = bench.begin(of_class("p", "gone", json!({})));
    let status = bench.until("p", LONG, failed_in_the_end).await;
    let text = "Failed to create pod sandbox: runtimeclass.node.k8s.io \"gone\" not found";
    assert_eq!((&status["reason"], &status["message"]), (&json!("RuntimeClassUnavailable"), &json!(text)));
    let event = told(&bench).await;
    assert_eq!((&*event.kind, &*event.message), ("Warning", text));
    // Nothing is tried again, even when the class comes.
    bench.api.classes.lock().unwrap().insert("gone".into(), "special".into());
    tokio::time::sleep(LONG).await;
    assert_eq!(bench.api.lookups.lock().unwrap().len(), 1);
    assert!(sandboxes(&fake).is_empty(), "the runtime is not asked for anything");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn rtc_38_with_retry_a_pod_waits_for_its_class_and_runs_when_it_comes() {
    for (inits, reason) in [
        (json!([]), "ContainerCreating"),
        (json!([{"name": "i", "image": "registry.test/i:1", "imagePullPolicy": "IfNotPresent"}]), "PodInitializing"),
    ] {
        let fake = Fake::new();
        fake.set_handlers(handlers(&["", "special"]));
        let mut bench = Bench::with_policy(fake.client(), clock(), false);
        let began = Instant::now();
        let _wishes = bench.begin(of_class("p", "gone", json!({"initContainers": inits})));
        let waits = |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"] == *reason;
        let status = bench.until("p", LONG, waits).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let status_later = bench.until("p", LONG, waits).await;
        assert_eq!((&status["phase"], &status_later["phase"]), (&json!("Pending"), &json!("Pending")));
        let conditions = status_later["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|one| one["type"] == "PodReadyToStartContainers").unwrap();
        assert_eq!(ready["status"], "False");
        let lookups = bench.api.lookups.lock().unwrap().clone();
        let gaps: Vec<u64> = lookups.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert!(gaps.len() >= 40 && gaps.iter().all(|gap| (10..=15).contains(gap)), "{gaps:?}");
        assert!(sandboxes(&fake).is_empty());
        bench.api.classes.lock().unwrap().insert("gone".into(), "special".into());
        let came = Instant::now();
        let first = if reason == "PodInitializing" { "initContainerStatuses" } else { "containerStatuses" };
        bench.until("p", LONG, |status| status[first][0]["state"]["running"].is_object()).await;
        assert!(came.elapsed() <= Duration::from_secs(17), "{:?} after {:?}", came.elapsed(), began.elapsed());
        assert_eq!(handlers_asked(&fake), ["special"]);
        bench.end().await;
    }
}

/// What runtimes without a list say of a handler that they do not know.
const UNKNOWN: [&str; 3] = [
    "failed to get sandbox runtime: no runtime for \"special\" is configured",
    "unable to get OCI runtime for sandbox \"0a1b\": no runtime for \"special\" is configured",
    "failed to find runtime handler special from runtime list map[crun:0xc000 runc:0xc001]",
];

#[tokio::test(start_paused = true)]
async fn rtc_41_a_runtime_that_does_not_know_the_handler_fails_the_pod_in_its_words() {
    for text in UNKNOWN {
        let fake = Fake::new();
        fake.set_handlers(Vec::new());
        fake.inject(Fault::fail(Verb::RunPodSandbox, tonic::Status::unknown(text)).always());
        let mut bench = Bench::with_policy(fake.client(), clock(), true);
        let _wishes = bench.begin(of_class("p", "known", json!({})));
        let status = bench.until("p", LONG, failed_in_the_end).await;
        let message = format!("Failed to create pod sandbox: rpc error: code = Unknown desc = {text}");
        assert_eq!((&status["reason"], &status["message"]), (&json!("RuntimeClassUnavailable"), &json!(message)));
        assert_eq!(told(&bench).await.message, message);
        assert_eq!((handlers_asked(&fake).len(), fake.calls_of(Verb::CreateContainer).len()), (1, 0));
        bench.end().await;
    }
    // What else goes wrong is tried again; so is everything under Retry.
    for (text, fails_pod) in [("failed to set up the network", true), (UNKNOWN[0], false)] {
        let fake = Fake::new();
        fake.set_handlers(Vec::new());
        fake.inject(Fault::fail(Verb::RunPodSandbox, tonic::Status::unknown(text)).always());
        let mut bench = Bench::with_policy(fake.client(), clock(), fails_pod);
        let _wishes = bench.begin(of_class("p", "known", json!({})));
        tokio::time::sleep(Duration::from_secs(300)).await;
        let status = bench.api.pods.borrow()["p"]["status"].clone();
        assert_eq!(status["phase"], "Pending");
        assert_eq!(fake.calls_of(Verb::CreateContainer).len(), 0);
        let runs = fake.calls_of(Verb::RunPodSandbox);
        let gaps: Vec<u64> = runs.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs()).collect();
        assert!(gaps.len() >= 20 && gaps.iter().all(|gap| (10..=15).contains(gap)), "one call a try: {gaps:?}");
        fake.heal();
        fake.set_handlers(handlers(&["", "special"]));
        bench.until("p", LONG, |status| status["phase"] == "Running").await;
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rtc_52_a_handler_that_is_not_on_the_list_is_named_with_those_that_are() {
    let fake = Fake::new();
    fake.set_handlers(handlers(&["", "runc", "kata"]));
    let mut bench = Bench::with_policy(fake.client(), clock(), true);
    let _wishes = bench.begin(of_class("p", "known", json!({})));
    let status = bench.until("p", LONG, failed_in_the_end).await;
    let text = "Failed to create pod sandbox: node n has no runtime handler \"special\"; available: runc, kata";
    assert_eq!((&status["reason"], &status["message"]), (&json!("RuntimeClassUnavailable"), &json!(text)));
    assert_eq!(told(&bench).await.message, text);
    assert!(sandboxes(&fake).is_empty());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn rtc_42_a_sandbox_has_four_minutes_and_wants_an_id() {
    let fake = Fake::new();
    let bench = Bench::with_policy(fake.client(), clock(), true);
    fake.inject(Fault::hang(Verb::RunPodSandbox));
    let began = Instant::now();
    let Outcome::Failed(text) = make_sandbox(&bench, of_class("p", "", json!({}))).await else { panic!() };
    assert!(text.contains("DeadlineExceeded"), "{text}");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(240) && took < Duration::from_secs(241), "{took:?}");
    fake.inject(Fault::blank(Verb::RunPodSandbox));
    let Outcome::Failed(text) = make_sandbox(&bench, of_class("p", "", json!({}))).await else { panic!() };
    assert!(text.contains("empty sandbox id"), "{text}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn rtc_43_nobody_is_told_of_the_sandbox_of_a_pod_that_is_being_deleted() {
    for is_deleted in [false, true] {
        let fake = Fake::new();
        // It takes a while and then fails, because nobody knows the handler.
        fake.set_handlers(Vec::new());
        fake.inject(Fault::delay(Verb::RunPodSandbox, Duration::from_secs(20)));
        let mut bench = Bench::with_policy(fake.client(), clock(), false);
        let mut object = of_class("p", "known", json!({"terminationGracePeriodSeconds": 60}));
        let wishes = bench.begin(object.clone());
        fake.until(|fake| !fake.calls_of(Verb::RunPodSandbox).is_empty()).await;
        if is_deleted {
            let at = Timestamp::from_second(1_800_000_060).unwrap().to_string();
            object["metadata"]["deletionTimestamp"] = json!(at);
            object["metadata"]["deletionGracePeriodSeconds"] = json!(60);
            object["metadata"]["resourceVersion"] = json!("9");
            bench.api.pods.send_modify(|pods| json_patch::merge(pods.get_mut("p").unwrap(), &object));
            let seen: Pod = serde_json::from_value(object).unwrap();
            wishes.send_modify(|wish| wish.pod = Arc::new(seen));
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let told = bench.api.events.borrow().iter().any(|event| event.reason == "FailedCreatePodSandBox");
        assert_eq!(told, !is_deleted, "{:?}", bench.api.events.borrow());
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rtc_50_a_pod_whose_users_are_to_be_mapped_is_not_run_without() {
    for (class, text) in [
        ("", "can't set `spec.hostUsers: false`, runtime does not support user namespaces"),
        (
            "known",
            "can't set `spec.hostUsers: false`, RuntimeClass handler \"special\" does not support user namespaces",
        ),
    ] {
        let fake = Fake::new();
        fake.set_handlers(handlers(&["", "special"]));
        let bench = Bench::with_policy(fake.client(), clock(), true);
        let outcome = make_sandbox(&bench, of_class("p", class, json!({"hostUsers": false}))).await;
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
        assert_eq!(told(&bench).await.message, format!("Failed to create pod sandbox: {text}"));
        assert!(sandboxes(&fake).is_empty());
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rtc_51_recursive_read_only_is_what_the_handler_can_do_and_the_status_says_what_became_of_it() {
    for (mode, is_possible, expected) in [
        ("Disabled", true, Some("Disabled")),
        ("IfPossible", true, Some("Enabled")),
        ("Enabled", true, Some("Enabled")),
        ("Disabled", false, Some("Disabled")),
        ("IfPossible", false, Some("Disabled")),
        ("Enabled", false, None),
    ] {
        let fake = Fake::new();
        fake.set_handlers(vec![handler("", false, false), handler("special", is_possible, false)]);
        let mut bench = Bench::with_policy(fake.client(), clock(), true);
        let mount = json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": mode});
        let more = json!({
            "volumes": [{"name": "v", "hostPath": {"path": bench.directory().display().to_string()}}],
            "containers": [{"name": "c", "image": "registry.test/web:1", "imagePullPolicy": "IfNotPresent", "volumeMounts": [mount]}],
        });
        let _wishes = bench.begin(of_class("p", "known", more));
        let Some(expected) = expected else {
            let refused = |status: &Value| {
                status["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
            };
            let status = bench.until("p", LONG, refused).await;
            let text = status["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
            assert!(text.contains("the runtime handler does not support it"), "{text}");
            assert!(fake.calls_of(Verb::CreateContainer).is_empty());
            bench.end().await;
            continue;
        };
        let status = bench.until("p", LONG, |status| status["phase"] == "Running").await;
        let shown = &status["containerStatuses"][0]["volumeMounts"];
        let wanted = json!([{"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": expected}]);
        assert_eq!(*shown, wanted, "{mode} {is_possible}");
        let mount = fake.containers()[0].mounts.iter().find(|mount| mount.container_path == "/v").unwrap().clone();
        assert_eq!((mount.readonly, mount.recursive_read_only), (true, expected == "Enabled"));
        bench.end().await;
    }
}

async fn class(lab: &Lab, name: &str, handler: &str) {
    let class = json!({"metadata": {"name": name}, "handler": handler});
    lab.ask("POST", CLASSES, class).await.expect("the class is made");
}

fn bound(name: &str, class: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": "n1", "runtimeClassName": class, "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "r.test/web:1"}],
    }})
}

async fn events(lab: &Lab, reason: &str) -> Vec<Value> {
    let list = lab.ask("GET", EVENTS, Value::Null).await.unwrap();
    list["items"].as_array().unwrap().iter().filter(|event| event["reason"] == reason).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rtc_39_a_class_made_just_before_its_pod_is_always_found() {
    const PAIRS: usize = 500;
    let mut lab = Lab::new().await;
    lab.max_pods = 1000;
    let names: Vec<String> = (0..PAIRS).map(|nth| format!("h{nth}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).chain([""]).collect();
    lab.fake.set_handlers(handlers(&all));
    lab.start();
    for name in &names {
        class(&lab, name, name).await;
        lab.ask("POST", PODS, bound(&format!("p-{name}"), name)).await.expect("the pod is let in");
    }
    for name in &names {
        lab.running(&format!("p-{name}")).await;
    }
    assert_eq!(events(&lab, "FailedCreatePodSandBox").await, [] as [Value; 0]);
    let asked: BTreeSet<String> = handlers_asked(&lab.fake).into_iter().collect();
    assert_eq!((asked.len(), lab.count(Verb::RunPodSandbox)), (PAIRS, PAIRS), "each has its own, at the first try");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rtc_44_45_a_pod_keeps_the_handler_that_it_began_with_whatever_becomes_of_its_class() {
    let mut lab = Lab::new().await;
    lab.fake.set_handlers(handlers(&["", "kata", "other"]));
    class(&lab, "vm", "kata").await;
    lab.start();
    lab.ask("POST", PODS, bound("old", "vm")).await.unwrap();
    lab.running("old").await;
    let sandbox = lab.fake.sandboxes()[0].id.clone();
    let restarted = |count: u64| {
        move |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            status["restartCount"] == count && status["state"]["running"].is_object()
        }
    };

    // The class goes: a container that ends is started again in the same sandbox.
    lab.ask("DELETE", &format!("{CLASSES}/vm"), json!({})).await.unwrap();
    lab.fake.exit("c", 1);
    lab.pod_when("old", "restarted without its class", restarted(1)).await;
    // The class comes back with another handler: that is for later pods.
    class(&lab, "vm", "other").await;
    lab.fake.exit("c", 1);
    lab.pod_when("old", "restarted with another class", restarted(2)).await;
    let now = lab.fake.sandboxes();
    assert_eq!((now.len(), &now[0].id, &*now[0].runtime_handler), (1, &sandbox, "kata"));
    let mut young = bound("young", "vm");
    young["spec"]["containers"][0]["name"] = json!("d");
    lab.ask("POST", PODS, young).await.unwrap();
    lab.running("young").await;
    assert_eq!(handlers_asked(&lab.fake), ["kata", "other"]);

    // The sandbox dies while no agent is there, and the class is gone: the next agent knows the handler.
    lab.kill().await;
    lab.ask("DELETE", &format!("{CLASSES}/vm"), json!({})).await.unwrap();
    lab.fake.kill_sandbox(&sandbox);
    lab.start();
    lab.until("the sandbox is made anew", |fake| fake.calls_of(Verb::RunPodSandbox).len() == 3).await;
    assert_eq!(handlers_asked(&lab.fake)[2], "kata");
    lab.running("old").await;
    assert_eq!(events(&lab, "FailedCreatePodSandBox").await, [] as [Value; 0]);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rtc_38_a_class_that_went_after_admission_ends_as_the_policy_says() {
    for fails_pod in [true, false] {
        let mut lab = Lab::new().await;
        lab.fails_pod = fails_pod;
        class(&lab, "vm", "kata").await;
        lab.ask("POST", PODS, bound("p", "vm")).await.unwrap();
        lab.ask("DELETE", &format!("{CLASSES}/vm"), json!({})).await.unwrap();
        lab.start();
        let text = "Failed to create pod sandbox: runtimeclass.node.k8s.io \"vm\" not found";
        if fails_pod {
            let pod = lab.pod_when("p", "failed", |pod| pod["status"]["phase"] == "Failed").await;
            assert_eq!(
                (&pod["status"]["reason"], &pod["status"]["message"]),
                (&json!("RuntimeClassUnavailable"), &json!(text))
            );
        }
        let told = async {
            loop {
                match events(&lab, "FailedCreatePodSandBox").await.first() {
                    Some(event) if fails_pod || event["count"].as_u64() >= Some(2) => return event.clone(),
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let event = tokio::time::timeout(Duration::from_secs(80), told).await.expect("it is told, and told again");
        assert_eq!((&event["type"], &event["message"]), (&json!("Warning"), &json!(text)));
        assert_eq!(lab.count(Verb::RunPodSandbox), 0);
        if !fails_pod {
            let pod = lab.pod("p").await.unwrap();
            assert_eq!(pod["status"]["phase"], "Pending");
        }
        lab.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rtc_49_the_node_shows_the_runtimes_handlers_in_their_order_and_follows_them() {
    let mut lab = Lab::new().await;
    lab.fake.set_handlers(vec![handler("", true, false), handler("zebra", true, true), handler("ant", false, false)]);
    lab.start();
    let shown = async |what: &str, wanted: Value| {
        let wait = async {
            loop {
                let node = lab.ask("GET", "/api/v1/nodes/n1", Value::Null).await.unwrap_or_default();
                if node["status"]["runtimeHandlers"] == wanted {
                    return node;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("not shown: {what}"))
    };
    let features = |rro: bool, users: bool| json!({"recursiveReadOnlyMounts": rro, "userNamespaces": users});
    let node = shown(
        "all three",
        json!([
            {"name": "", "features": features(true, false)},
            {"name": "zebra", "features": features(true, true)},
            {"name": "ant", "features": features(false, false)},
        ]),
    )
    .await;
    assert_eq!(node["status"]["features"]["supplementalGroupsPolicy"], true);
    lab.fake.set_handlers(vec![handler("", false, false)]);
    let changed = Instant::now();
    shown("only the default", json!([{"name": "", "features": features(false, false)}])).await;
    assert!(changed.elapsed() < Duration::from_secs(30), "{:?}", changed.elapsed());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rtc_69_a_pod_that_fits_only_without_its_overhead_is_refused_by_the_node() {
    let mut lab = Lab::new().await;
    lab.fake.set_handlers(handlers(&["", "kata"]));
    let class = json!({"metadata": {"name": "vm"}, "handler": "kata", "overhead": {"podFixed": {"memory": "900Ti"}}});
    lab.ask("POST", CLASSES, class).await.unwrap();
    lab.start();
    lab.ask("POST", PODS, bound("heavy", "vm")).await.unwrap();
    let heavy = lab.pod_when("heavy", "refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(heavy["status"]["reason"], "OutOfmemory");
    let text = heavy["status"]["message"].as_str().unwrap();
    assert!(text.starts_with("Pod was rejected: Node didn't have enough resource: memory, requested: "), "{text}");
    assert_eq!(lab.count(Verb::RunPodSandbox), 0);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rtc_46_a_static_pod_of_a_class_waits_for_an_api_that_knows_it() {
    let mut lab = Lab::new().await;
    lab.fake.set_handlers(handlers(&["", "kata"]));
    class(&lab, "vm", "kata").await;
    lab.is_away.store(true, Ordering::SeqCst);
    lab.put("plain", "r.test/web:1", json!({}));
    lab.put("boxed", "r.test/web:1", json!({"runtimeClassName": "vm"}));
    lab.start();
    lab.until("the plain one runs", |fake| !fake.calls_of(Verb::StartContainer).is_empty()).await;
    assert_eq!(handlers_asked(&lab.fake), [""], "whoever asks for a class runs with it or not at all");
    lab.is_away.store(false, Ordering::SeqCst);
    lab.running("boxed-n1").await;
    assert_eq!(handlers_asked(&lab.fake), ["", "kata"]);
    lab.end().await;
}
