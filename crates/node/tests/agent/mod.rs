//! A whole agent between the scripted runtime, a directory of manifests and a real API server. Needs root, for cgroups.
#![allow(dead_code)]

use apiserver::{ApiServer, UserInfo};
use axum::{extract::Request, middleware, response::IntoResponse};
use cri::fake::{Fake, Verb};
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

const PATIENCE: Duration = Duration::from_secs(60);
/// Path of the pods of the default namespace.
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// A whole agent `n1` between the scripted runtime, a directory of manifests, and a real API server that may be away.
pub struct Lab {
    pub fake: Fake,
    pub server: ApiServer,
    pub is_away: Arc<AtomicBool>,
    pub directory: tempfile::TempDir,
    pub top: String,
    pub max_pods: u32,
    /// `runtimeClassFailurePolicy: FailPod`.
    pub fails_pod: bool,
    pub agent: Option<JoinSet<()>>,
}

impl Lab {
    pub async fn new() -> Lab {
        Lab::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut apiserver::Options)) -> Lab {
        assert!(rustix::process::geteuid().is_root(), "this test makes cgroups and needs root");
        let mut options = apiserver::Options::new(Arc::new(store::memory::MemoryStore::new()));
        change(&mut options);
        let server = ApiServer::start(options, CancellationToken::new()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("manifests")).unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        let name = directory.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let top = format!("/sampan-static-{name}");
        Lab {
            fake: Fake::new(),
            server,
            is_away: Arc::default(),
            directory,
            top,
            max_pods: 110,
            fails_pod: true,
            agent: None,
        }
    }

    /// A client of the API, which answers 503 while it is away.
    pub fn client(&self, user: UserInfo) -> Client {
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
    pub fn start(&mut self) {
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
            shutdown: node::shutdown::Policy::default(),
            logs: node::log_rotation::Policy::default(),
            status_images_max: None,
            runtime_class_fails_pod: self.fails_pod,
            credentials: node::credentials::Options::default(),
            verification: node::records::Rules::default(),
            hook_limits: Default::default(),
            crash_back_off: Default::default(),
            static_pods: static_pods::Options { path, ..static_pods::Options::default() },
        };
        let mut agent = JoinSet::new();
        agent.spawn(async move { node::run(options, CancellationToken::new()).await.unwrap() });
        self.agent = Some(agent);
    }

    /// Ends the agent where it stands.
    pub async fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.abort_all();
        assert!(agent.join_next().await.unwrap().unwrap_err().is_cancelled());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("manifests").join(name)
    }

    /// Puts a pod of one container `c` into the directory, whole.
    pub fn put(&self, name: &str, image: &str, spec: Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": image}]},
        });
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let staged = self.path(".staged");
        fs::write(&staged, pod.to_string()).unwrap();
        fs::rename(staged, self.path(&format!("{name}.json"))).unwrap();
    }

    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Option<Value> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let client = Client::new(self.server.router_as(UserInfo::admin()), "default");
        client.request(request.body(body.to_string().into_bytes()).unwrap()).await.ok()
    }

    /// The pod as the API has it.
    pub async fn pod(&self, name: &str) -> Option<Value> {
        self.ask("GET", &format!("{PODS}/{name}"), Value::Null).await
    }

    /// Waits until the API's pod is as wanted.
    pub async fn pod_when(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
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

    pub async fn running(&self, name: &str) -> Value {
        self.pod_when(name, "running", |pod| pod["status"]["phase"] == "Running").await
    }

    /// Waits for something of the runtime.
    pub async fn until(&self, what: &str, holds: impl Fn(&Fake) -> bool) {
        let wait = async {
            while !holds(&self.fake) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let calls = || self.fake.calls().into_iter().map(|recorded| recorded.call.verb()).collect::<Vec<_>>();
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not in time: {what}: {:?}", calls());
    }

    pub async fn gone(&self, name: &str) {
        let wait = async {
            while self.pod(name).await.is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "the mirror of {name} is still there");
    }

    pub fn count(&self, verb: Verb) -> usize {
        self.fake.calls_of(verb).len()
    }

    pub async fn end(mut self) {
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
