//! A node's actor between some runtime and an API in miniature: Secrets in, events and statuses out. Needs root, for cgroups.
#![allow(dead_code)]

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, patch, post},
};
use node::{
    cgroups::Cgroups,
    config::{Context, ResolvConf},
    credentials::{Credentials, Places},
    event::Recorder,
    hooks::{Hooks, journal},
    image::{Pulls, probe, queue::Limits},
    object::Pod,
    pod::{
        act::{Actor, Outcome, Scene},
        checkpoint::Checkpoints,
        clock::Clock,
        decide::Action,
        shell::{News, Task, Wish},
    },
    probes::Probes,
    records::{Records, Rules},
    volumes::{Sources, Volumes},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// What was told of an event: type, reason, message, field path.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub kind: String,
    pub reason: String,
    pub message: String,
    pub field_path: String,
}

/// The API: pods by name, Secrets by name, and the events.
#[derive(Clone)]
pub struct Api {
    pub pods: watch::Sender<BTreeMap<String, Value>>,
    pub secrets: Arc<Mutex<BTreeMap<String, Value>>>,
    /// RuntimeClasses: name → handler; at first `known` with `special`.
    pub classes: Arc<Mutex<BTreeMap<String, String>>>,
    /// When somebody asked for a class.
    pub lookups: Arc<Mutex<Vec<tokio::time::Instant>>>,
    pub events: watch::Sender<Vec<Told>>,
    /// The events as they came.
    pub raw_events: Arc<Mutex<Vec<Value>>>,
    /// The patches of statuses, with the pod's name.
    pub patches: Arc<Mutex<Vec<(String, Value)>>>,
    /// How long the API thinks about a status.
    pub slow: Arc<Mutex<Duration>>,
    /// It does not say which pods there are.
    pub is_down: watch::Sender<bool>,
    /// So many of the next writes of a status, and of the next deletions, meet somebody else's.
    pub conflicts: Arc<Mutex<(u32, u32)>>,
    /// How often a pod was to be deleted.
    pub deletions: watch::Sender<u32>,
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/pods", get(pods))
        .route("/api/v1/namespaces/ns/pods/{name}", get(one_pod).delete(delete))
        .route("/api/v1/namespaces/ns/pods/{name}/status", patch(status))
        .route("/api/v1/namespaces/ns/secrets/{name}", get(secret))
        .route("/apis/node.k8s.io/v1/runtimeclasses/{name}", get(runtime_class))
        .route("/api/v1/namespaces/{namespace}/events", post(event))
        .route("/api/v1/namespaces/{namespace}/events/{name}", patch(|| async { Json(json!({})) }))
        .with_state(api)
}

async fn pods(State(api): State<Api>) -> Result<Json<Value>, StatusCode> {
    if *api.is_down.borrow() {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let items: Vec<Value> = api.pods.borrow().values().cloned().collect();
    Ok(Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})))
}

async fn status(State(api): State<Api>, Path(name): Path<String>, Json(change): Json<Value>) -> Found {
    let slow = *api.slow.lock().unwrap();
    tokio::time::sleep(slow).await;
    api.patches.lock().unwrap().push((name.clone(), change.clone()));
    conflict(&mut api.conflicts.lock().unwrap().0)?;
    let known = api.pods.borrow().get(&name).cloned().ok_or_else(|| not_found(&name))?;
    if known["metadata"]["uid"] != change["metadata"]["uid"] {
        return Err(refused("the UID in the precondition does not match the UID in record"));
    }
    api.pods.send_modify(|pods| {
        let pod = pods.entry(name.clone()).or_default();
        json_patch::merge(pod, &change);
        bump(pod);
    });
    Ok(Json(api.pods.borrow()[&name].clone()))
}

fn refused(message: &str) -> (StatusCode, Json<Value>) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 409,
        "reason": "Conflict", "message": message});
    (StatusCode::CONFLICT, Json(status))
}

/// Refuses while there are conflicts left.
fn conflict(left: &mut u32) -> Result<(), (StatusCode, Json<Value>)> {
    match left.checked_sub(1) {
        None => Ok(()),
        Some(rest) => {
            *left = rest;
            Err(refused("Operation cannot be fulfilled on pods: the object has been modified"))
        }
    }
}

async fn one_pod(State(api): State<Api>, Path(name): Path<String>) -> Found {
    api.pods.borrow().get(&name).cloned().map(Json).ok_or_else(|| not_found(&name))
}

/// What is deleted stays to be looked at: that it is gone is what the answer says.
async fn delete(State(api): State<Api>, Path(name): Path<String>) -> Found {
    api.deletions.send_modify(|count| *count += 1);
    conflict(&mut api.conflicts.lock().unwrap().1)?;
    Err(not_found(&name))
}

/// The object has been written once more.
pub fn bump(object: &mut Value) {
    let version = object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok()).unwrap_or(0);
    object["metadata"]["resourceVersion"] = json!((version + 1_u64).to_string());
}

type Found = Result<Json<Value>, (StatusCode, Json<Value>)>;

fn not_found(name: &str) -> (StatusCode, Json<Value>) {
    let message = format!("{name:?} not found");
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404,
        "reason": "NotFound", "message": message});
    (StatusCode::NOT_FOUND, Json(status))
}

async fn secret(State(api): State<Api>, Path(name): Path<String>) -> Found {
    api.secrets.lock().unwrap().get(&name).cloned().map(Json).ok_or_else(|| not_found(&name))
}

async fn runtime_class(State(api): State<Api>, Path(name): Path<String>) -> Found {
    api.lookups.lock().unwrap().push(tokio::time::Instant::now());
    let handler = api.classes.lock().unwrap().get(&name).cloned().ok_or_else(|| not_found(&name))?;
    Ok(Json(json!({"kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler})))
}

async fn event(State(api): State<Api>, Json(event): Json<Value>) -> Json<Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = Told {
        kind: text(&event["type"]),
        reason: text(&event["reason"]),
        message: text(&event["message"]),
        field_path: text(&event["involvedObject"]["fieldPath"]),
    };
    api.raw_events.lock().unwrap().push(event.clone());
    api.events.send_modify(|events| events.push(told));
    Json(event)
}

/// A node's actor with all that it needs.
pub struct Bench {
    pub actor: Arc<Actor>,
    pub api: Api,
    pub clock: Clock,
    probes: Probes,
    /// The tasks' inboxes by UID.
    news: Arc<Mutex<BTreeMap<String, mpsc::Sender<News>>>>,
    directory: tempfile::TempDir,
    top: String,
    background: JoinSet<()>,
    failed: Option<probe::Failed>,
}

impl Bench {
    /// An actor for this runtime.
    pub fn new(cri: cri::Client, limits: Limits, clock: Clock) -> Bench {
        Bench::with_handlers(cri, limits, clock, false)
    }

    /// Likewise, with images asked for with the handler of the pod's RuntimeClass.
    pub fn with_handlers(cri: cri::Client, limits: Limits, clock: Clock, images_with_handler: bool) -> Bench {
        Bench::built(cri, limits, clock, (images_with_handler, true))
    }

    /// One that fails pods whose RuntimeClass or handler is not there, or tries them for ever.
    pub fn with_policy(cri: cri::Client, clock: Clock, runtime_class_fails_pod: bool) -> Bench {
        Bench::built(cri, Limits::default(), clock, (false, runtime_class_fails_pod))
    }

    fn built(
        cri: cri::Client,
        limits: Limits,
        clock: Clock,
        (images_with_handler, runtime_class_fails_pod): (bool, bool),
    ) -> Bench {
        assert!(rustix::process::geteuid().is_root(), "this test makes cgroups and needs root");
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let top = format!("/sampan-bench-{name}");
        let api = Api {
            pods: watch::Sender::new(BTreeMap::new()),
            secrets: Arc::default(),
            classes: Arc::new(Mutex::new([("known".to_owned(), "special".to_owned())].into())),
            lookups: Arc::default(),
            events: watch::Sender::new(Vec::new()),
            raw_events: Arc::default(),
            patches: Arc::default(),
            slow: Arc::default(),
            is_down: watch::Sender::new(false),
            conflicts: Arc::default(),
            deletions: watch::Sender::new(0),
        };
        let client = kube::Client::new(router(api.clone()), "default");
        let ctx = Arc::new(context(directory.path(), &top));
        let (recorder, writer) = Recorder::new("n");
        let mut background = JoinSet::new();
        background.spawn(writer.run(client.clone()));
        let sources = Sources::new(client.clone());
        let (probes, mut reports) = Probes::new(cri.clone(), clock, recorder.clone());
        let news = Arc::<Mutex<BTreeMap<String, mpsc::Sender<News>>>>::default();
        let inboxes = news.clone();
        background.spawn(async move {
            while let Some(report) = reports.recv().await {
                let inbox = inboxes.lock().unwrap().get(&report.uid).cloned();
                if let Some(inbox) = inbox {
                    let _ = inbox.send(News::Probe(report)).await;
                }
            }
        });
        let (pulls, failed) = Pulls::new(limits, clock);
        let places = Places { roots: vec![directory.path().to_owned()], ..Places::default() };
        let actor = Arc::new(Actor {
            runtime_name: "test".into(),
            cri,
            client,
            ctx: ctx.clone(),
            volumes: Volumes::new(sources.clone(), ctx.clone()),
            cgroups: Cgroups::new(&top, 1000).unwrap(),
            credentials: Credentials::new(sources, places),
            checkpoints: Checkpoints::open(&directory.path().join("node")).unwrap(),
            recorder,
            pulls,
            records: Records::open(&directory.path().join("image_manager"), Rules::default(), clock).unwrap(),
            images_with_handler,
            clock,
            runtime_class_fails_pod,
            hooks: hooks(directory.path(), clock),
            crash_back_off: Default::default(),
            pulse: node::heartbeat::Pulse::new(clock.now()),
            runtime_state: watch::Sender::new(Default::default()),
        });
        Bench { actor, api, clock, probes, news, directory, top, background, failed: Some(failed) }
    }

    /// Asks registries that failed whether they answer again, as the agent does.
    pub fn ask_registries(&mut self) {
        let (causes, failed) = (self.actor.pulls.causes.clone(), self.failed.take().unwrap());
        self.background.spawn(probe::run(failed, causes, self.clock, CancellationToken::new()));
    }

    /// A dockerconfigjson Secret.
    pub fn secret(&self, name: &str, server: &str, user: &str, password: &str) {
        let config = json!({"auths": {server: {"username": user, "password": password}}}).to_string();
        self.raw_secret(name, &config);
    }

    /// A dockerconfigjson Secret with any content.
    pub fn raw_secret(&self, name: &str, config: &str) {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(config);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "ns"},
            "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data},
        });
        self.api.secrets.lock().unwrap().insert(name.into(), secret);
    }

    /// Has the image of one container ensured.
    pub async fn ensure(&self, pod: &Arc<Pod>, container: &str) -> Outcome {
        self.run(pod, &Action::EnsureImage { container: container.into(), attempt: 0 }).await
    }

    /// Carries out one action.
    pub async fn run(&self, pod: &Arc<Pod>, action: &Action) -> Outcome {
        let scene = Scene {
            pod: pod.clone(),
            mounted: Arc::default(),
            sandbox: None,
            image: None,
            handler: None,
            volume_images: BTreeMap::new(),
            target_id: None,
            deletion: CancellationToken::new(),
            restart: 0,
            deadline: None,
        };
        self.actor.run(&scene, action).await
    }

    /// Begins the task of a pod; its end of the wishes.
    pub fn begin(&mut self, value: Value) -> watch::Sender<Wish> {
        let name = value["metadata"]["name"].as_str().unwrap().to_owned();
        self.api.pods.send_modify(|pods| drop(pods.insert(name, value.clone())));
        self.resume(value).0
    }

    /// Begins the task of a pod that the API has; cancelling it ends it as the end of the agent does.
    pub fn resume(&mut self, value: Value) -> (watch::Sender<Wish>, CancellationToken) {
        let seen: Pod = serde_json::from_value(value).unwrap();
        let cancel = CancellationToken::new();
        (self.begin_task(Wish { pod: Arc::new(seen), ..Wish::default() }, cancel.clone()).0, cancel)
    }

    /// Begins a task for what is wanted of a pod that the API has; its end of the wishes, and what ends the task where it
    /// is, as a crash of the agent would.
    pub fn begin_wish(&mut self, wish: Wish) -> (watch::Sender<Wish>, AbortHandle) {
        self.begin_task(wish, CancellationToken::new())
    }

    fn begin_task(&mut self, wish: Wish, cancel: CancellationToken) -> (watch::Sender<Wish>, AbortHandle) {
        let uid = wish.pod.uid().to_owned();
        let (wishes, inbox) = watch::channel(wish);
        let (news, inner) = mpsc::channel(16);
        self.news.lock().unwrap().insert(uid, news);
        let task = Task::new(self.actor.clone(), self.probes.clone(), inbox, inner);
        let task = self.background.spawn(async move {
            task.run(cancel).await;
        });
        (wishes, task)
    }

    /// Waits until a pod's status is as wanted.
    pub async fn until(&self, pod: &str, limit: Duration, holds: impl Fn(&Value) -> bool) -> Value {
        let mut pods = self.api.pods.subscribe();
        let wait = pods.wait_for(|pods| pods.get(pod).is_some_and(|pod| holds(&pod["status"])));
        match tokio::time::timeout(limit, wait).await {
            Ok(pods) => pods.unwrap()[pod]["status"].clone(),
            Err(_) => panic!(
                "{pod} did not get there: {:#}\n{:#?}",
                self.api.pods.borrow()[pod]["status"],
                self.api.events.borrow()
            ),
        }
    }

    /// The events so far, once there are so many.
    pub async fn events(&self, count: usize) -> Vec<Told> {
        let mut events = self.api.events.subscribe();
        let limit = Duration::from_secs(60);
        match tokio::time::timeout(limit, events.wait_for(|events| events.len() >= count)).await {
            Ok(events) => events.unwrap().clone(),
            Err(_) => panic!("fewer than {count} events: {:#?}", self.api.events.borrow()),
        }
    }

    /// Takes away what the bench made on the machine.
    pub async fn end(mut self) {
        self.background.shutdown().await;
        self.actor.cgroups.remove_all().await.unwrap();
        let top = self.top.trim_start_matches('/');
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(top));
        }
        let _ = std::fs::remove_dir(format!("/sys/fs/cgroup/{top}"));
    }

    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }
}

fn hooks(directory: &std::path::Path, clock: Clock) -> Hooks {
    let (path, limits) = (directory.join("hooks"), journal::Limits::default());
    Hooks::new(journal::Journal::open(&path, limits, &std::collections::BTreeSet::new(), clock).unwrap())
}

fn context(data: &std::path::Path, top: &str) -> Context {
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

/// A pod with this spec.
pub fn pod(name: &str, spec: Value) -> Value {
    let mut whole = json!({
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 1,
        "containers": [],
    });
    json_patch::merge(&mut whole, &spec);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "ns", "uid": format!("u-{name}"), "resourceVersion": "1",
            "annotations": {"note": "hello"},
        },
        "spec": whole,
        "status": {"phase": "Pending"},
    })
}

/// A pod of one container `c`.
pub fn one(name: &str, image: &str, policy: &str) -> Arc<Pod> {
    let spec = json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": policy}]});
    Arc::new(serde_json::from_value(pod(name, spec)).unwrap())
}

/// An event about container `c`.
pub fn told(kind: &str, reason: &str, message: &str) -> Told {
    let field_path = "spec.containers{c}".to_owned();
    Told { kind: kind.into(), reason: reason.into(), message: message.into(), field_path }
}
