//! The task of one pod against the scripted runtime and an API in miniature. Needs root, for cgroups.

use axum::{
    Json, Router,
    extract::State,
    routing::{delete, patch, post},
};
use cri::fake::{Fake, OnStop, Program, Verb};
use node::{
    cgroups::Cgroups,
    config::{Context, ResolvConf},
    credentials::{Credentials, Places},
    event::Recorder,
    hooks::{Hooks, journal},
    image::{Pulls, queue::Limits},
    object::Pod,
    pod::{
        act::Actor,
        checkpoint::Checkpoints,
        clock::Clock,
        shell::{Task, Wish},
    },
    probes::Probes,
    records::{Records, Rules},
    volumes::{Sources, Volumes},
};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The API: one pod, and the events and deletions it was sent.
#[derive(Clone)]
struct Api {
    pod: watch::Sender<Value>,
    events: mpsc::UnboundedSender<String>,
    deleted: watch::Sender<u32>,
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/namespaces/ns/pods/p/status", patch(status))
        .route("/api/v1/namespaces/ns/pods/p", delete(remove))
        .route("/api/v1/namespaces/ns/events", post(event))
        .with_state(api)
}

async fn status(State(api): State<Api>, Json(change): Json<Value>) -> Json<Value> {
    assert_eq!(change["metadata"]["uid"], "u-driver", "every patch carries the UID");
    api.pod.send_modify(|pod| json_patch::merge(pod, &change));
    Json(api.pod.borrow().clone())
}

async fn remove(State(api): State<Api>) -> Json<Value> {
    api.deleted.send_modify(|count| *count += 1);
    Json(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
}

async fn event(State(api): State<Api>, Json(event): Json<Value>) -> Json<Value> {
    let _ = api.events.send(event["reason"].as_str().unwrap_or_default().to_owned());
    Json(event)
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "u-driver", "resourceVersion": "1"},
        "spec": {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "c", "image": "registry.test/web:1", "imagePullPolicy": "IfNotPresent"}],
        },
        "status": {"phase": "Pending"},
    })
}

fn hooks(directory: &Path, clock: Clock) -> Hooks {
    let (path, limits) = (directory.join("hooks"), journal::Limits::default());
    Hooks::new(journal::Journal::open(&path, limits, &std::collections::BTreeSet::new(), clock).unwrap())
}

fn context(data: &Path, top: &str) -> Context {
    Context {
        node_name: "n".into(),
        host_name: "h".into(),
        node_ips: vec![[192, 0, 2, 1].into()],
        data_dir: data.join("data"),
        log_dir: data.join("log"),
        cgroup_top: top.into(),
        cgroup_v2: false,
        resolv_conf: ResolvConf::default(),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        cpu_milli: 1000,
        memory_bytes: 1 << 30,
        storage_bytes: 1 << 30,
        api_address: None,
        api_address_of_host: None,
    }
}

fn actor(directory: &Path, top: &str, cri: cri::Client, client: kube::Client, recorder: Recorder) -> Arc<Actor> {
    let ctx = Arc::new(context(directory, top));
    let sources = Sources::new(client.clone());
    Arc::new(Actor {
        runtime_name: "sampan".into(),
        cri,
        client,
        ctx: ctx.clone(),
        volumes: Volumes::new(sources.clone(), ctx),
        cgroups: Cgroups::new(top, 1000).unwrap(),
        credentials: Credentials::new(sources, Places::of_node(directory)),
        checkpoints: Checkpoints::open(&directory.join("node")).unwrap(),
        recorder,
        pulls: Pulls::new(Limits::default(), Clock::System).0,
        records: Records::open(&directory.join("image_manager"), Rules::default(), Clock::System).unwrap(),
        images_with_handler: false,
        clock: Clock::System,
        runtime_class_fails_pod: true,
        hooks: hooks(directory, Clock::System),
        crash_back_off: Default::default(),
        pulse: node::heartbeat::Pulse::new(Clock::System.now()),
        runtime_state: watch::Sender::new(Default::default()),
    })
}

#[tokio::test]
async fn a_pod_comes_up_is_reported_and_leaves_in_order() {
    assert!(rustix_is_root(), "this test makes cgroups and needs root");
    let directory = tempfile::tempdir().unwrap();
    let top = format!("/sampan-driver-test-{}", std::process::id());
    let (events, mut told) = mpsc::unbounded_channel();
    let api = Api { pod: watch::Sender::new(pod()), events, deleted: watch::Sender::new(0) };
    let client = kube::Client::new(router(api.clone()), "default");
    let fake = Fake::new();
    fake.program("c", Program { on_stop: OnStop::Exit { after: Duration::ZERO, code: 0 }, ..Program::forever() });

    let (recorder, writer) = Recorder::new("n");
    let mut background = tokio::task::JoinSet::new();
    background.spawn(writer.run(client.clone()));
    let (probes, _reports) = Probes::new(fake.client(), Clock::System, recorder.clone());
    let actor = actor(directory.path(), &top, fake.client(), client, recorder);
    let seen: Pod = serde_json::from_value(pod()).unwrap();
    let wish = Wish { pod: Arc::new(seen), ..Wish::default() };
    let (wishes, inbox) = watch::channel(wish);
    let (_news, news) = mpsc::channel(16);
    let task = Task::new(actor.clone(), probes, inbox, news);
    background.spawn(async move {
        assert!(task.run(CancellationToken::new()).await);
    });

    let mut published = api.pod.subscribe();
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, published.wait_for(|pod| pod["status"]["phase"] == "Running")).await.unwrap().unwrap();
    let status = published.borrow_and_update()["status"].clone();
    assert_eq!(status["containerStatuses"][0]["ready"], true);
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);

    let mut deleting = api.pod.borrow().clone();
    let at = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json_patch::merge(
        &mut deleting,
        &json!({"metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": 30, "resourceVersion": "9"}}),
    );
    api.pod.send_replace(deleting.clone());
    wishes.send_modify(|wish| wish.pod = Arc::new(serde_json::from_value(deleting).unwrap()));
    let mut deleted = api.deleted.subscribe();
    tokio::time::timeout(limit, deleted.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    assert_eq!(api.pod.borrow()["status"]["phase"], "Succeeded");
    assert!(fake.sandboxes().is_empty() && fake.containers().is_empty());
    assert_eq!(fake.violations(), Vec::<String>::new());
    let order = [Verb::RunPodSandbox, Verb::CreateContainer, Verb::StartContainer, Verb::StopContainer];
    let verbs: Vec<Verb> =
        fake.calls().iter().map(|recorded| recorded.call.verb()).filter(|v| order.contains(v)).collect();
    assert_eq!(verbs, order);
    assert!(!directory.path().join("data/pods/u-driver").exists());

    let mut reasons = Vec::new();
    for _ in 0..5 {
        reasons.push(tokio::time::timeout(limit, told.recv()).await.unwrap().unwrap());
    }
    assert_eq!(reasons, ["Pulling", "Pulled", "Created", "Started", "Killing"]);
    actor.cgroups.remove_all().await.unwrap();
    // The top belongs to whoever starts the instance; here that is this test.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = std::fs::remove_dir(hierarchy.path().join(top.trim_start_matches('/')));
    }
    let _ = std::fs::remove_dir(format!("/sys/fs/cgroup{top}"));
}

fn rustix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}
