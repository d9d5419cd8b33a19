//! Static pods: a whole agent between the scripted runtime, a directory, and a real API server that may be away. Needs
//! root, for cgroups.

use apiserver::{ApiServer, UserInfo};
use axum::{extract::Request, middleware, response::IntoResponse};
use cri::fake::{Call, Fake, OnStop, Program, Verb};
use http::StatusCode;
use kube::Client;
use node::{Options, static_pods};
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);
const PODS: &str = "/api/v1/namespaces/default/pods";

struct Lab {
    fake: Fake,
    server: ApiServer,
    is_away: Arc<AtomicBool>,
    directory: tempfile::TempDir,
    top: String,
    max_pods: u32,
    agent: Option<JoinSet<()>>,
}

impl Lab {
    async fn new() -> Lab {
        Lab::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut apiserver::Options)) -> Lab {
        assert!(rustix::process::geteuid().is_root(), "this test makes cgroups and needs root");
        let mut options = apiserver::Options::new(Arc::new(store::memory::MemoryStore::new()));
        change(&mut options);
        let server = ApiServer::start(options, CancellationToken::new()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("manifests")).unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        let name = directory.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let top = format!("/sampan-static-{name}");
        Lab { fake: Fake::new(), server, is_away: Arc::default(), directory, top, max_pods: 110, agent: None }
    }

    /// A client of the API, which answers 503 while it is away.
    fn client(&self, user: UserInfo) -> Client {
        let is_away = self.is_away.clone();
        let gate = middleware::from_fn(move |request: Request, next: middleware::Next| {
            let is_away = is_away.clone();
            async move {
                match is_away.load(Ordering::SeqCst) {
                    true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                    false => next.run(request).await,
                }
            }
        });
        Client::new(self.server.router_as(user).layer(gate), "default")
    }

    /// Starts an agent on what the last one left.
    fn start(&mut self) {
        let data_dir = self.directory.path().join("data");
        let resolver = rustls::server::ResolvesServerCertUsingSni::new();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let path = Some(self.directory.path().join("manifests"));
        let options = Options {
            node_name: "n1".into(),
            client: self.client(UserInfo::node("n1")),
            cri: self.fake.client(),
            run_dir: self.directory.path().join("run"),
            log_dir: self.directory.path().join("log"),
            data_dir,
            cgroup_top: self.top.clone(),
            node_ip: [127, 0, 0, 1].into(),
            node_external_ip: None,
            listener,
            tls: Arc::new(tls.with_no_client_auth().with_cert_resolver(Arc::new(resolver))),
            max_pods: self.max_pods,
            pod_cidr: "10.1.0.0/24".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            api_address: None,
            api_address_of_host: None,
            images_with_handler: false,
            pull_limits: node::image::queue::Limits::default(),
            collection: node::collection::Policy {
                high_percent: 100,
                low_percent: 99,
                age_min: jiff::SignedDuration::ZERO,
                age_max: None,
            },
            // Whether the machine that tests is full is nobody's business.
            eviction: node::eviction::Policy { thresholds: Vec::new(), ..node::eviction::Policy::default() },
            logs: node::log_rotation::Policy::default(),
            status_images_max: None,
            runtime_class_fails_pod: true,
            credentials: node::credentials::Options::default(),
            verification: node::records::Rules::default(),
            static_pods: static_pods::Options { path, ..static_pods::Options::default() },
        };
        let mut agent = JoinSet::new();
        agent.spawn(async move { node::run(options, CancellationToken::new()).await.unwrap() });
        self.agent = Some(agent);
    }

    /// Ends the agent where it stands.
    async fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.abort_all();
        assert!(agent.join_next().await.unwrap().unwrap_err().is_cancelled());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("manifests").join(name)
    }

    /// Puts a pod of one container `c` into the directory, whole.
    fn put(&self, name: &str, image: &str, spec: Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": image}]},
        });
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let staged = self.path(".staged");
        fs::write(&staged, pod.to_string()).unwrap();
        fs::rename(staged, self.path(&format!("{name}.json"))).unwrap();
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Option<Value> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let client = Client::new(self.server.router_as(UserInfo::admin()), "default");
        client.request(request.body(body.to_string().into_bytes()).unwrap()).await.ok()
    }

    /// The pod as the API has it.
    async fn pod(&self, name: &str) -> Option<Value> {
        self.ask("GET", &format!("{PODS}/{name}"), Value::Null).await
    }

    /// Waits until the API's pod is as wanted.
    async fn pod_when(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let wait = async {
            loop {
                last = self.pod(name).await;
                if let Some(pod) = last.clone().filter(|pod| is(pod)) {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(pod) => pod,
            Err(_) => panic!("pod {name} is not {what}: {last:#?}"),
        }
    }

    async fn running(&self, name: &str) -> Value {
        self.pod_when(name, "running", |pod| pod["status"]["phase"] == "Running").await
    }

    /// Waits for something of the runtime.
    async fn until(&self, what: &str, holds: impl Fn(&Fake) -> bool) {
        let wait = async {
            while !holds(&self.fake) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let calls = || self.fake.calls().into_iter().map(|recorded| recorded.call.verb()).collect::<Vec<_>>();
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not in time: {what}: {:?}", calls());
    }

    async fn gone(&self, name: &str) {
        let wait = async {
            while self.pod(name).await.is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "the mirror of {name} is still there");
    }

    fn count(&self, verb: Verb) -> usize {
        self.fake.calls_of(verb).len()
    }

    async fn end(mut self) {
        self.kill().await;
        assert_eq!(self.fake.violations(), [""; 0]);
        remove_cgroups(&self.top);
    }
}

/// Removes the agent's cgroups in every hierarchy, children first.
fn remove_cgroups(top: &str) {
    fn remove(directory: &std::path::Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(directory);
    }
    let top = top.trim_start_matches('/');
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    hierarchies.chain(["/sys/fs/cgroup".into()]).for_each(|hierarchy| remove(&hierarchy.join(top)));
}

fn starts(fake: &Fake) -> usize {
    fake.calls_of(Verb::StartContainer).len()
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
    lab.fake.program(
        "c",
        Program { on_stop: OnStop::Exit { after: Duration::from_millis(300), code: 0 }, ..Program::forever() },
    );
    lab.start();
    lab.put("web", "r.test/web:1", json!({"terminationGracePeriodSeconds": 17}));
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
    fs::remove_file(lab.path("web.json")).unwrap();
    lab.until("it is being stopped", |fake| !fake.calls_of(Verb::StopContainer).is_empty()).await;
    let stopping = lab.pod("web-n1").await.expect("the mirror is there until its pod has ended");
    assert_eq!((uid(&stopping), &stopping["metadata"]["labels"]["by"]), (uid(&second), &json!("hand")));
    let Call::StopContainer(stop) = lab.fake.calls_of(Verb::StopContainer)[0].call.clone() else { unreachable!() };
    assert!((15..=17).contains(&stop.timeout), "{}", stop.timeout);
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
    lab.put("gone", "r.test/web:1", json!({"terminationGracePeriodSeconds": 23}));
    let (kept, gone) = (lab.running("kept-n1").await, lab.running("gone-n1").await);
    lab.kill().await;
    fs::remove_file(lab.path("gone.json")).unwrap();
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
    assert!(stops.len() == 1 && (20..=23).contains(&stop.timeout), "with its own grace: {stops:?}");
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
    let pod =
        json!({"metadata": {"name": "guest"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]}});
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
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]}})
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
