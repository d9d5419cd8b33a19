//! Pods that the agent does not know, and pods of one name: a whole agent, the scripted runtime, a real API server. Needs
//! root, for cgroups.

mod agent;

use agent::{Lab, PODS};
use cri::{
    fake::{Call, Fault, Verb},
    v1,
};
use serde_json::{Value, json};
use std::{fs, time::Duration};
use tokio::time::Instant;

const UID: &str = "7c1f0f10-0000-4000-8000-000000000001";

/// A pod in the runtime with one running container that has a hook, of which the API knows nothing.
async fn stray(lab: &Lab) {
    let mut runtime = lab.fake.client().runtime;
    let labels: std::collections::BTreeMap<String, String> = [
        ("io.kubernetes.pod.uid", UID),
        ("io.kubernetes.pod.name", "stray"),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.container.name", "c"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let metadata =
        v1::PodSandboxMetadata { name: "stray".into(), uid: UID.into(), namespace: "default".into(), attempt: 0 };
    let config = v1::PodSandboxConfig { metadata: Some(metadata), labels: labels.clone(), ..Default::default() };
    let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let pod_sandbox_id = runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    lab.fake.add_image("img");
    let hook = json!({"exec": {"command": ["hook"]}}).to_string();
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "img".into(), ..Default::default() }),
        labels,
        annotations: [("io.kubernetes.container.preStopHandler".to_owned(), hook)].into(),
        ..Default::default()
    };
    let request = v1::CreateContainerRequest { pod_sandbox_id, config: Some(config), sandbox_config: None };
    let container_id = runtime.create_container(request).await.unwrap().into_inner().container_id;
    runtime.start_container(v1::StartContainerRequest { container_id }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_100_what_nobody_knows_is_stopped_soon_after_the_start_without_hooks() {
    let mut lab = Lab::new().await;
    stray(&lab).await;
    let logs = lab.directory.path().join(format!("log/default_stray_{UID}"));
    fs::create_dir_all(&logs).unwrap();
    let began = Instant::now();
    lab.start();
    lab.until("it is stopped", |fake| !fake.calls_of(Verb::StopContainer).is_empty()).await;
    // Long before any round that comes of itself could have found it.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    lab.until("nothing is left of it", |fake| fake.sandboxes().is_empty() && fake.containers().is_empty()).await;
    let stops: Vec<i64> = lab
        .fake
        .calls_of(Verb::StopContainer)
        .into_iter()
        .map(|recorded| match recorded.call {
            Call::StopContainer(request) => request.timeout,
            _ => unreachable!(),
        })
        .collect();
    assert_eq!((stops, lab.count(Verb::ExecSync)), (vec![2], 0));
    // POD-28: its logs go with it.
    lab.until("its logs are gone", |_| !logs.exists()).await;
    lab.end().await;
}

async fn bound(lab: &Lab, name: &str) -> Value {
    let body = json!({"metadata": {"name": name}, "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 30,
        "automountServiceAccountToken": false, "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "img"}]}});
    lab.ask("POST", PODS, body).await.expect("the pod is made")
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_102_a_pod_of_the_api_does_not_wait_for_one_that_had_its_name() {
    let mut lab = Lab::new().await;
    lab.start();
    let first = bound(&lab, "p").await;
    lab.running("p").await;
    // It ends when this test lets it.
    let container = lab.fake.containers()[0].id.clone();
    lab.fake.inject(Fault::hang(Verb::StopContainer).about(&container).always());
    lab.ask("DELETE", &format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await.unwrap();
    let second = bound(&lab, "p").await;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    let of_first = |fake: &cri::fake::Fake| {
        let uid = first["metadata"]["uid"].as_str().unwrap().to_owned();
        let mine = |status: &v1::ContainerStatus| status.labels.get("io.kubernetes.pod.uid") == Some(&uid);
        fake.containers().into_iter().find(mine).map(|status| status.state)
    };
    lab.running("p").await;
    assert_eq!(of_first(&lab.fake), Some(v1::ContainerState::ContainerRunning as i32), "the first still ends");
    lab.fake.exit(&container, 0);
    lab.until("the first has gone", |fake| of_first(fake).is_none()).await;
    let left: Vec<String> =
        lab.fake.containers().iter().map(|status| status.labels["io.kubernetes.pod.uid"].clone()).collect();
    assert_eq!(left, [second["metadata"]["uid"].as_str().unwrap()]);
    assert_eq!(lab.running("p").await["metadata"]["uid"], second["metadata"]["uid"]);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_3_a_node_whose_runtime_lists_nothing_is_not_ready() {
    let lab = Lab::new().await;
    let (_pressed, pressure) = tokio::sync::watch::channel(node::eviction::Pressure::new());
    let pulse = node::heartbeat::Pulse::new(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(200));
    let options = node::heartbeat::Options {
        client: lab.client(apiserver::UserInfo::node("n1")),
        cri: lab.fake.client(),
        node_name: "n1".into(),
        node_ip: [127, 0, 0, 1].into(),
        node_external_ip: None,
        port: 1,
        pod_cidr: String::new(),
        max_pods: 10,
        images_max: None,
        pressure,
        shutdown: tokio::sync::watch::channel(false).1,
        pulse: pulse.clone(),
        state: tokio::sync::watch::Sender::new(Default::default()),
        clock: node::pod::clock::Clock::System,
        data_dir: lab.directory.path().into(),
    };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(node::heartbeat::run(options, tokio::sync::watch::Sender::new(false), Default::default()));
    let lab = &lab;
    let ready = move || async move {
        let node = lab.ask("GET", "/api/v1/nodes/n1", Value::Null).await?;
        node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready").cloned()
    };
    let until = |state: &'static str| async move {
        let wait = async {
            loop {
                if let Some(condition) = ready().await.filter(|condition| condition["status"] == state) {
                    return condition;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the node gets there")
    };
    let sick = until("False").await;
    assert_eq!(sick["reason"], "KubeletNotReady");
    let message = sick["message"].as_str().unwrap();
    let past = message.strip_prefix("PLEG is not healthy: pleg was last seen active ");
    let past = past.and_then(|rest| rest.strip_suffix(" ago; threshold is 3m0s")).expect(message);
    let past: jiff::SignedDuration = past.parse().unwrap();
    assert!(past >= jiff::SignedDuration::from_secs(200), "{message}");
    pulse.beat(jiff::Timestamp::now());
    assert_eq!(until("True").await["reason"], "KubeletReady");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_5_a_runtime_that_is_not_ready_is_asked_ever_more_slowly_and_nothing_is_begun() {
    let mut lab = Lab::new().await;
    lab.fake.set_condition("RuntimeReady", false, "R", "m");
    lab.start();
    lab.until("it is known", |fake| fake.calls_of(Verb::Status).len() >= 3).await;
    lab.put("web", "r.test/web:1", json!({}));
    lab.until("it was asked often", |fake| fake.calls_of(Verb::Status).len() >= 6).await;
    let times: Vec<f64> = lab.fake.calls_of(Verb::Status).iter().map(|call| call.at.as_secs_f64()).collect();
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, least) in gaps.iter().zip([0.1, 0.2, 0.4, 0.8, 1.6]) {
        assert!(*gap >= least, "{gaps:?}");
    }
    assert_eq!(lab.count(Verb::RunPodSandbox), 0);
    lab.fake.set_condition("RuntimeReady", true, "", "");
    lab.until("it runs", |fake| fake.calls_of(Verb::StartContainer).len() == 1).await;
    lab.end().await;
}
