//! Static pods: a whole agent between the scripted runtime, a directory, and a real API server that may be away. Needs
//! root, for cgroups.

mod agent;

use agent::{Lab, PODS};
use apiserver::UserInfo;
use cri::fake::{Call, Fake, OnStop, Program, Verb};
use kube::Client;
use serde_json::{Value, json};
use std::{fs, ops::RangeInclusive, sync::atomic::Ordering, time::Duration};
use tokio::time::Instant;

fn starts(fake: &Fake) -> usize {
    fake.calls_of(Verb::StartContainer).len()
}

/// What a stop can have as its time-out when a grace of so many seconds began at `since` or later and has not ended.
fn rest_of(grace_seconds: i64, since: Instant) -> RangeInclusive<i64> {
    grace_seconds - i64::try_from(since.elapsed().as_secs()).unwrap() - 1..=grace_seconds
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_pod_runs_without_an_api_and_is_mirrored_when_there_is_one() {
    let mut lab = Lab::new().await;
    let class = json!({"metadata": {"name": "boxed"}, "handler": "kata"});
    lab.ask("POST", "/apis/node.k8s.io/v1/runtimeclasses", class).await.unwrap();
    lab.fake.set_handlers(vec![cri::v1::RuntimeHandler { name: "kata".into(), ..Default::default() }]);
    lab.is_away.store(true, Ordering::SeqCst);
    lab.put("web", "r.test/web:1", json!({}));
    lab.put("boxed", "r.test/web:1", json!({"runtimeClassName": "boxed"}));
    lab.start();
    lab.until("the pod runs", |fake| starts(fake) == 1).await;
    // RTC-46: whoever asks for a class runs with it or not at all.
    assert_eq!(lab.count(Verb::RunPodSandbox), 1);
    lab.is_away.store(false, Ordering::SeqCst);
    let mirror = lab.running("web-n1").await;
    let annotations = &mirror["metadata"]["annotations"];
    let hash = annotations["kubernetes.io/config.hash"].as_str().unwrap();
    assert_eq!(annotations["kubernetes.io/config.mirror"], hash);
    assert_ne!(uid(&mirror), hash);
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(mirror["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(lab.fake.sandboxes()[0].metadata.as_ref().unwrap().uid, hash, "what runs has the manifest's UID");
    // The class can be asked for now.
    lab.running("boxed-n1").await;
    let handlers: Vec<String> = lab
        .fake
        .calls_of(Verb::RunPodSandbox)
        .into_iter()
        .map(|run| match run.call {
            Call::RunPodSandbox(run) => run.runtime_handler,
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(handlers, ["", "kata"]);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_101_a_mirror_is_only_a_mirror_and_a_removed_manifest_ends_the_pod_with_its_grace() {
    // IMG-225: the plugin that would change every pod leaves the mirror alone.
    let mut lab = Lab::with(|options| options.admission.push("AlwaysPullImages".into())).await;
    // It heeds no signal, so that it is still there when the mirror is looked at.
    lab.fake.program("c", Program::stubborn());
    lab.start();
    lab.put("web", "r.test/web:1", json!({"terminationGracePeriodSeconds": 600}));
    let first = lab.running("web-n1").await;
    assert_eq!(first["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    lab.ask("DELETE", &format!("{PODS}/web-n1"), json!({"gracePeriodSeconds": 30})).await.unwrap();
    let second =
        lab.pod_when("web-n1", "made anew", |pod| uid(pod) != uid(&first) && pod["status"]["phase"] == "Running").await;
    assert_eq!(second["status"]["startTime"], first["status"]["startTime"]);
    assert_eq!(second["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!((lab.count(Verb::StopContainer), lab.count(Verb::StartContainer)), (0, 1));
    // An edit of a mirror's metadata is the user's; what the mirror shows is the same, so it stays.
    let merge = json!({"metadata": {"labels": {"by": "hand"}}});
    let request = http::Request::patch(format!("{PODS}/web-n1")).header("content-type", "application/merge-patch+json");
    let client = Client::new(lab.server.router_as(UserInfo::admin()), "default");
    client.request::<Value>(request.body(merge.to_string().into_bytes()).unwrap()).await.unwrap();
    let removed = Instant::now();
    fs::remove_file(lab.path("web.json")).unwrap();
    lab.until("it is being stopped", |fake| !fake.calls_of(Verb::StopContainer).is_empty()).await;
    let stopping = lab.pod("web-n1").await.expect("the mirror is there until its pod has ended");
    assert_eq!((uid(&stopping), &stopping["metadata"]["labels"]["by"]), (uid(&second), &json!("hand")));
    let Call::StopContainer(stop) = lab.fake.calls_of(Verb::StopContainer)[0].call.clone() else { unreachable!() };
    assert!(rest_of(600, removed).contains(&stop.timeout), "{}", stop.timeout);
    lab.fake.exit("c", 0);
    lab.gone("web-n1").await;
    assert_eq!((lab.fake.sandboxes().len(), lab.fake.containers().len()), (0, 0), "the mirror goes last");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_102_an_edited_manifest_begins_when_the_old_pod_has_gone() {
    let mut lab = Lab::new().await;
    lab.fake.program(
        "c",
        Program { on_stop: OnStop::Exit { after: Duration::from_millis(200), code: 0 }, ..Program::forever() },
    );
    lab.start();
    lab.put("web", "r.test/web:1", json!({}));
    let first = lab.running("web-n1").await;
    lab.put("web", "r.test/web:2", json!({}));
    let second = lab
        .pod_when("web-n1", "the new one", |pod| {
            pod["spec"]["containers"][0]["image"] == "r.test/web:2" && pod["status"]["phase"] == "Running"
        })
        .await;
    assert_ne!(uid(&first), uid(&second));
    let order: Vec<Verb> = lab.fake.calls().iter().map(|recorded| recorded.call.verb()).collect();
    let last = |verb: Verb| order.iter().rposition(|seen| *seen == verb).unwrap();
    assert!(last(Verb::RemovePodSandbox) < last(Verb::RunPodSandbox), "{order:?}");
    assert_eq!(lab.fake.sandboxes().len(), 1);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_takes_static_pods_over_and_ends_those_whose_manifest_went() {
    let mut lab = Lab::new().await;
    lab.start();
    lab.put("kept", "r.test/web:1", json!({}));
    lab.put("gone", "r.test/web:1", json!({"terminationGracePeriodSeconds": 623}));
    let (kept, gone) = (lab.running("kept-n1").await, lab.running("gone-n1").await);
    lab.kill().await;
    fs::remove_file(lab.path("gone.json")).unwrap();
    let removed = Instant::now();
    lab.start();
    lab.gone("gone-n1").await;
    let again = lab.running("kept-n1").await;
    assert_eq!(uid(&again), uid(&kept), "the mirror stayed");
    assert_eq!(again["status"]["startTime"], kept["status"]["startTime"]);
    assert_eq!(
        again["metadata"]["annotations"]["kubernetes.io/config.seen"],
        kept["metadata"]["annotations"]["kubernetes.io/config.seen"]
    );
    assert_eq!(lab.count(Verb::StartContainer), 2, "nothing was started again");
    let stops = lab.fake.calls_of(Verb::StopContainer);
    let Call::StopContainer(stop) = stops[0].call.clone() else { unreachable!() };
    assert!(stops.len() == 1 && rest_of(623, removed).contains(&stop.timeout), "with its own grace: {stops:?}");
    let bare = gone["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().split_once("://").unwrap().1;
    assert_eq!(stop.container_id, bare);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn img_190_pull_secrets_of_a_static_pod_keep_its_mirror_away_and_the_nodes_credentials_count() {
    let mut lab = Lab::new().await;
    let login = json!({"auths": {"r.test": {"username": "node", "password": "p"}}});
    fs::write(lab.directory.path().join("data/config.json"), login.to_string()).unwrap();
    lab.put("web", "r.test/web:1", json!({"imagePullSecrets": [{"name": "regcred"}]}));
    lab.put("free", "r.test/web:2", json!({}));
    lab.start();
    lab.running("free-n1").await;
    lab.until("both run", |fake| starts(fake) == 2).await;
    for pull in lab.fake.calls_of(Verb::PullImage) {
        let Call::PullImage(pull) = pull.call else { unreachable!() };
        assert_eq!(pull.auth.map(|auth| auth.username).as_deref(), Some("node"));
    }
    assert!(lab.pod("web-n1").await.is_none(), "the API refuses it");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_still_lets_its_own_pods_in() {
    let mut lab = Lab::new().await;
    lab.max_pods = 1;
    lab.start();
    lab.put("one", "r.test/web:1", json!({}));
    lab.running("one-n1").await;
    lab.put("two", "r.test/web:1", json!({"priorityClassName": "system-node-critical"}));
    let critical = lab.running("two-n1").await;
    assert_eq!(critical["spec"]["priority"], 2_000_001_000);
    let pod = json!({"metadata": {"name": "guest"}, "spec": {"nodeName": "n1", "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "x"}]}});
    lab.ask("POST", PODS, pod).await.unwrap();
    let guest = lab.pod_when("guest", "refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(guest["status"]["reason"], "OutOfpods");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_a_pod_of_the_api_static_or_a_mirror_gains_nothing_by_it() {
    let mut lab = Lab::new().await;
    lab.start();
    lab.put("web", "r.test/web:1", json!({}));
    lab.running("web-n1").await;
    let pod = |name: &str, annotation: &str| {
        json!({"metadata": {"name": name, "annotations": {annotation: "file"}},
            "spec": {"nodeName": "n1", "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "x"}]}})
    };
    lab.ask("POST", PODS, pod("so-called", "kubernetes.io/config.source")).await.unwrap();
    lab.running("so-called").await;
    lab.ask("DELETE", &format!("{PODS}/so-called"), json!({})).await.unwrap();
    lab.gone("so-called").await;
    lab.ask("POST", PODS, pod("no-mirror", "kubernetes.io/config.mirror")).await.unwrap();
    lab.gone("no-mirror").await;
    assert_eq!(lab.count(Verb::StartContainer), 2, "a mirror of nothing is not run");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_94_a_critical_pod_has_another_end_for_it_in_the_nodes_words() {
    let mut lab = Lab::new().await;
    lab.max_pods = 1;
    lab.start();
    let body = json!({"metadata": {"name": "victim"}, "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 617,
        "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "r.test/web:1",
        "lifecycle": {"preStop": {"exec": {"command": ["save"]}}}}]}});
    lab.ask("POST", PODS, body).await.expect("the pod is made");
    lab.running("victim").await;
    let preempted = Instant::now();
    lab.put("critical", "r.test/web:1", json!({}));
    lab.running("critical-n1").await;
    let status = lab.pod_when("victim", "preempted", |pod| pod["status"]["phase"] == "Failed").await["status"].clone();
    assert_eq!(status["reason"], "Preempting");
    assert_eq!(status["message"], "Preempted in order to admit critical pod");
    let conditions = status["conditions"].as_array().unwrap();
    let disruption = conditions.iter().find(|one| one["type"] == "DisruptionTarget").unwrap();
    assert_eq!([&disruption["status"], &disruption["reason"]], ["True", "TerminationByKubelet"]);
    assert_eq!(disruption["message"], "Pod was preempted by Kubelet to accommodate a critical pod.");
    assert_eq!(lab.count(Verb::ExecSync), 1, "its hook ran");
    let stops = lab.fake.calls_of(Verb::StopContainer);
    let Call::StopContainer(stop) = &stops[0].call else { unreachable!() };
    assert!(rest_of(617, preempted).contains(&stop.timeout), "{stops:?}");
    let told = |event: &&Value| event["reason"] == "Preempting" && event["involvedObject"]["name"] == "victim";
    let event = loop {
        // Events come in their own time.
        let events = lab.ask("GET", "/api/v1/namespaces/default/events", Value::Null).await.unwrap();
        if let Some(event) = events["items"].as_array().unwrap().iter().find(told) {
            break event.clone();
        }
        assert!(preempted.elapsed() < Duration::from_secs(120), "it is not told: {events:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!([&event["type"], &event["message"]], ["Warning", "Preempted in order to admit critical pod"]);
    lab.end().await;
}
