//! The same decisions with Debian's containerd behind CRI instead of our own runtime, and a private docker-registry.
//!
//! What containerd 1.6 lacks (events, progress, image volumes) is not asked for here. Needs root, containerd, runc,
//! docker-registry, skopeo and a static busybox.
#![allow(clippy::disallowed_methods)]

mod bench;

use bench::{Bench, one, pod};
use node::{
    image::{Cause, Class, queue::Limits},
    pod::{act::Outcome, clock::Clock, shell::Wish},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use xtask::{
    image,
    registry::{PASSWORD, Registry, USER},
};

/// containerd with a root, a state and a socket of its own.
struct Containerd {
    process: Child,
    directory: tempfile::TempDir,
}

impl Containerd {
    fn start() -> Containerd {
        Containerd::with("")
    }

    /// With more in its configuration.
    fn with(more: &str) -> Containerd {
        let directory = tempfile::Builder::new().prefix("ctrd").tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n[grpc]\naddress = \"{}\"\n[ttrpc]\naddress = \"{}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"localhost/pause:1\"\n\
             restrict_oom_score_adj = true\nstream_server_address = \"127.0.0.1\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{}\"\nconf_dir = \"{}\"\n{more}",
            at("root"),
            at("state"),
            at("c.sock"),
            at("t.sock"),
            at("cni-bin"),
            at("cni"),
        );
        fs::write(directory.path().join("config.toml"), config).unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let process = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("containerd is needed");
        let containerd = Containerd { process, directory };
        containerd.import_pause();
        containerd
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The image of sandboxes: one that only waits.
    fn import_pause(&self) {
        let layout = self.at("pause");
        image::layout(&layout, image::architecture()).unwrap();
        with_command(&layout, json!(["sleep", "1000000"]));
        run("tar", &["-C", layout.to_str().unwrap(), "-cf", self.at("pause.tar").to_str().unwrap(), "."]);
        let (socket, tar) = (self.at("c.sock"), self.at("pause.tar"));
        let words =
            ["-a", socket.to_str().unwrap(), "-n", "k8s.io", "images", "import", "--base-name", "localhost/pause"];
        let began = Instant::now();
        loop {
            let output = Command::new("ctr").args(words).arg(&tar).output().unwrap();
            if output.status.success() {
                return;
            }
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(began.elapsed() < Duration::from_secs(120), "{text}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    async fn client(&self) -> cri::Client {
        cri::connect(&self.at("c.sock")).await.unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let root = self.directory.path().to_string_lossy().into_owned();
        end_shims(&root);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| at.starts_with(&root));
        for mount in ours.collect::<Vec<_>>().into_iter().rev() {
            let _ = Command::new("umount").args(["-l", mount]).status();
        }
    }
}

/// A test that fails leaves its pods, and containerd leaves the shims that keep them: later tests compare the machine.
fn end_shims(root: &str) {
    let numbered = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    let all: Vec<i32> = fs::read_dir("/proc").unwrap().flatten().filter_map(numbered).collect();
    let command = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let shims: Vec<_> =
        all.into_iter().filter(|pid| command(pid).contains("containerd-shim") && command(pid).contains(root)).collect();
    for shim in shims {
        let threads = fs::read_dir(format!("/proc/{shim}/task")).into_iter().flatten().flatten();
        let children: Vec<_> =
            threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()).collect();
        let children = children.iter().flat_map(|line| line.split_whitespace()).filter_map(|child| child.parse().ok());
        for pid in children.chain([shim]).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Changes the command of a layout's only image.
fn with_command(layout: &Path, command: Value) {
    let blobs = layout.join("blobs/sha256");
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let hex = |descriptor: &Value| descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let store = |value: &Value| -> Value {
        let bytes = serde_json::to_vec(value).unwrap();
        let digest = hex::encode(Sha256::digest(&bytes));
        fs::write(blobs.join(&digest), &bytes).unwrap();
        json!({"digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let mut index = read(&layout.join("index.json"));
    let mut manifest = read(&blobs.join(hex(&index["manifests"][0])));
    let mut config = read(&blobs.join(hex(&manifest["config"])));
    config["config"]["Cmd"] = command;
    json_patch::merge(&mut manifest["config"], &store(&config));
    json_patch::merge(&mut index["manifests"][0], &store(&manifest));
    index["manifests"][0]["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

/// A port that nobody listens at, below those that the kernel gives to whoever asks for any.
fn free_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    let below = first - 4000..first;
    let start = usize::try_from(std::process::id()).unwrap() * 37 % below.len();
    let mut ports = below.clone().cycle().skip(start).take(below.len());
    ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port is free")
}

fn private(containerd: &Containerd) -> Registry {
    let registry = Registry::new(&containerd.at("registry"), free_port());
    registry.ensure().unwrap();
    let layout = containerd.at("layout");
    image::layout(&layout, image::architecture()).unwrap();
    registry.push(&layout, "team/box:1").unwrap();
    registry
}

fn class(outcome: &Outcome) -> (&'static str, Class) {
    match outcome {
        Outcome::Refused(refusal) => (refusal.reason, refusal.fault.as_ref().unwrap().class),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_decided_about_pulled_and_refused_with_containerd() {
    let containerd = Containerd::start();
    let registry = private(&containerd);
    let bench = Bench::new(containerd.client().await, Limits::default(), Clock::System);
    let name = format!("{}/team/box:1", registry.address);
    let with = |pod_name: &str, image: &str, policy: &str| {
        let spec = json!({
            "containers": [{"name": "c", "image": image, "imagePullPolicy": policy}],
            "imagePullSecrets": [{"name": "regcred"}],
        });
        Arc::new(serde_json::from_value(pod(pod_name, spec)).unwrap())
    };

    // Without credentials, with wrong ones, with right ones; what is absent; what is there.
    assert_eq!(class(&bench.ensure(&one("a", &name, "IfNotPresent"), "c").await), ("ErrImagePull", Class::Credentials));
    bench.secret("regcred", &registry.address, USER, "wrong");
    assert_eq!(class(&bench.ensure(&with("b", &name, "Always"), "c").await), ("ErrImagePull", Class::Credentials));
    bench.secret("regcred", &registry.address, USER, PASSWORD);
    let Outcome::Image(ready) = bench.ensure(&with("c", &name, "Always"), "c").await else {
        panic!("{}", containerd.log())
    };
    assert!(
        ready.id.starts_with("sha256:") && ready.digest.starts_with(&format!("{}/team/box@sha256:", registry.address))
    );
    let absent = format!("{}/team/none:1", registry.address);
    assert_eq!(class(&bench.ensure(&with("d", &absent, "IfNotPresent"), "c").await), ("ErrImagePull", Class::NotFound));
    let Outcome::Refused(never) = bench.ensure(&with("e", &absent, "Never"), "c").await else { panic!() };
    assert_eq!(never.reason, "ErrImageNeverPull");

    // The registry is gone: what is there is used, and Always asks all the same (IMG-43).
    registry.stop().unwrap();
    while std::net::TcpStream::connect(&registry.address).is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(bench.ensure(&with("f", &name, "IfNotPresent"), "c").await, Outcome::Image(_)));
    assert!(matches!(bench.ensure(&with("g", &name, "Never"), "c").await, Outcome::Image(_)));
    // It was pulled with a credential: to a pod without one it is as if it were not there (IMG-244).
    let Outcome::Refused(stranger) = bench.ensure(&one("j", &name, "Never"), "c").await else { panic!() };
    assert_eq!(stranger.reason, "ErrImageNeverPull");
    assert_eq!(class(&bench.ensure(&with("h", &name, "Always"), "c").await), ("ErrImagePull", Class::Refused));
    let nowhere = bench.ensure(&one("i", "no-such-host.invalid/a:1", "Always"), "c").await;
    assert_eq!(class(&nowhere), ("ErrImagePull", Class::Dns), "{nowhere:?}");

    let events = bench.events(20).await;
    let told = |reason: &str, part: &str| events.iter().any(|e| e.reason == reason && e.message.contains(part));
    assert!(told("Pulled", &format!("Successfully pulled image {name:?} in ")), "{events:#?}");
    assert!(told("Pulled", &format!("Container image {name:?} already present on machine")), "{events:#?}");
    assert!(told("Failed", &format!("Failed to pull image {absent:?}: ")), "{events:#?}");
    assert!(told("ErrImageNeverPull", &format!("Container image {absent:?} is not present")), "{events:#?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_backs_off_and_runs_when_its_secret_is_repaired_with_containerd() {
    let containerd = Containerd::start();
    let registry = private(&containerd);
    let mut bench = Bench::new(containerd.client().await, Limits::default(), Clock::System);
    let name = format!("{}/team/box:1", registry.address);
    bench.secret("regcred", &registry.address, USER, "wrong");
    let spec = json!({
        "hostNetwork": true,
        "containers": [
            {"name": "c", "image": name, "imagePullPolicy": "Always", "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]},
        ],
        "imagePullSecrets": [{"name": "regcred"}],
    });
    let wishes = bench.begin(pod("p", spec));
    let waiting = |status: &Value| status["containerStatuses"][0]["state"]["waiting"].clone();
    let patience = Duration::from_secs(120);
    // The second failure or a later one: it waits for twenty seconds or more.
    let waits_long = |message: &str| message.contains("next try in ") && !message.contains("next try in 10s");
    let status = bench.until("p", patience, |status| waiting(status)["message"].as_str().is_some_and(waits_long)).await;
    assert_eq!(waiting(&status)["reason"], "ImagePullBackOff");
    let text = waiting(&status)["message"].as_str().unwrap().to_owned();
    assert!(text.contains(&format!("waiting for credentials that {} accepts", registry.address)), "{text}");
    bench.secret("regcred", &registry.address, USER, PASSWORD);
    let repaired = Instant::now();
    bench.actor.pulls.causes.tell(Cause::Secret { namespace: "ns".into(), name: "regcred".into() });
    let status = bench.until("p", patience, |status| status["phase"] == "Running").await;
    assert!(repaired.elapsed() < Duration::from_secs(15), "{:?}", repaired.elapsed());
    let container = &status["containerStatuses"][0];
    assert!(container["imageID"].as_str().unwrap().contains("sha256:"), "{container}");
    assert_eq!(container["image"], json!(name));

    wishes.send_modify(|wish| wish.removed = true);
    let gone = async {
        let request = cri::v1::ListPodSandboxRequest { filter: None };
        let mut runtime = containerd.client().await.runtime;
        while !runtime.list_pod_sandbox(request.clone()).await.unwrap().into_inner().items.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(patience, gone).await.expect("the pod leaves containerd");
    registry.stop().unwrap();
    bench.end().await;
}

/// The table of a handler as the page "Runtime Class" shows it.
fn runtime(name: &str, binary: &str, root: &str) -> String {
    let table = format!("plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}");
    format!(
        "[{table}]\nruntime_type = \"io.containerd.runc.v2\"\n[{table}.options]\nBinaryName = \"{binary}\"\nRoot = \"{root}\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rtc_41_74_81_a_class_for_each_handler_of_containerd_and_one_that_it_does_not_know() {
    let roots = tempfile::tempdir().unwrap();
    let root = |name: &str| roots.path().join(name).display().to_string();
    let handlers = [("classic", "runc"), ("swift", "crun"), ("apart", "runc")];
    let tables: String = handlers.iter().map(|(name, binary)| runtime(name, binary, &root(name))).collect();
    let head = "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"classic\"\n";
    let more = format!("{head}{tables}");
    let containerd = Containerd::with(&more);
    let registry = private(&containerd);
    let mut bench = Bench::new(containerd.client().await, Limits::default(), Clock::System);
    bench.secret("regcred", &registry.address, USER, PASSWORD);
    bench
        .api
        .classes
        .lock()
        .unwrap()
        .extend(["classic", "swift", "apart", "nowhere"].map(|name| (format!("class-of-{name}"), name.to_owned())));
    let image = format!("{}/team/box:1", registry.address);
    let of_class = |name: &str| {
        let container = json!({
            "name": "c", "image": image, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"],
        });
        json!({"hostNetwork": true, "runtimeClassName": format!("class-of-{name}"), "containers": [container],
            "imagePullSecrets": [{"name": "regcred"}]})
    };
    let patience = PATIENCE;
    let mut wishes = Vec::new();
    for (name, _) in handlers {
        wishes.push(bench.begin(pod(name, of_class(name))));
    }
    for (name, _) in handlers {
        bench.until(name, patience, |status| status["phase"] == "Running").await;
    }
    // Each keeps its state where its own options say: the sandbox and the container of its pod.
    for (name, _) in handlers {
        let below = fs::read_dir(roots.path().join(name).join("k8s.io")).unwrap().count();
        assert_eq!(below, 2, "{name}");
    }
    let mut client = containerd.client().await.runtime;
    let listed = client.list_pod_sandbox(cri::v1::ListPodSandboxRequest { filter: None }).await.unwrap().into_inner();
    let made: std::collections::BTreeMap<String, String> =
        listed.items.into_iter().map(|one| (one.metadata.unwrap().name, one.runtime_handler)).collect();
    assert_eq!(made, handlers.map(|(name, _)| (name.to_owned(), name.to_owned())).into());

    // This containerd has no list of handlers: its words are known.
    let _wish = bench.begin(pod("lost", of_class("nowhere")));
    let status = bench.until("lost", patience, |status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "RuntimeClassUnavailable");
    let text = status["message"].as_str().unwrap();
    assert!(text.starts_with("Failed to create pod sandbox: rpc error: code = Unknown desc = "), "{text}");
    assert!(text.contains("no runtime for \"nowhere\" is configured"), "{text}");

    for wish in &wishes {
        wish.send_modify(|wish| wish.removed = true);
    }
    let gone = async {
        let request = cri::v1::ListPodSandboxRequest { filter: None };
        while !client.list_pod_sandbox(request.clone()).await.unwrap().into_inner().items.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(patience, gone).await.expect("the pods leave containerd");
    registry.stop().unwrap();
    bench.end().await;
}

/// Ends at its first stop signal.
const GOOD: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
/// Says that it lives, and takes each stop signal down without heeding it.
const STUBBORN: &str =
    "trap 'echo >> /v/term' TERM; while true; do read now rest < /proc/uptime; echo $now >> /v/alive; sleep 0.1; done";
/// A hook that ends when it is told to.
const WAITS: &str = "echo >> /v/begun; while [ ! -e /v/go ]; do sleep 0.1; done";

/// Pods with hooks on containerd, which leave their marks on the host.
struct Hooked<'a> {
    bench: Bench,
    containerd: &'a Containerd,
    image: String,
    marks: tempfile::TempDir,
    tasks: std::collections::BTreeMap<&'static str, (tokio::sync::watch::Sender<Wish>, tokio::task::AbortHandle)>,
}

impl Hooked<'_> {
    fn begin(&mut self, name: &'static str, grace: i64, main: &str, lifecycle: Value) {
        let place = self.marks.path().join(name);
        fs::create_dir(&place).unwrap();
        let container = json!({
            "name": "c", "image": self.image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", main],
            "lifecycle": lifecycle, "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        });
        let value = pod(
            name,
            json!({
                "hostNetwork": true, "terminationGracePeriodSeconds": grace, "containers": [container],
                "imagePullSecrets": [{"name": "regcred"}], "volumes": [{"name": "v", "hostPath": {"path": place}}],
            }),
        );
        let wish = Wish { pod: Arc::new(serde_json::from_value(value.clone()).unwrap()), ..Wish::default() };
        self.bench.api.pods.send_modify(|pods| drop(pods.insert(name.to_owned(), value)));
        self.tasks.insert(name, self.bench.begin_wish(wish));
    }

    async fn running(&self, name: &str) {
        let is = |status: &Value| status["phase"] == "Running" && status["containerStatuses"][0]["started"] == true;
        self.bench.until(name, PATIENCE, is).await;
    }

    fn remove(&self, name: &str) {
        self.tasks[name].0.send_modify(|wish| wish.removed = true);
    }

    /// The agent ends where it is, and another one begins on what it left.
    fn crash(&mut self, name: &'static str) {
        let (wishes, task) = self.tasks.remove(name).unwrap();
        task.abort();
        let wish = wishes.borrow().clone();
        self.tasks.insert(name, self.bench.begin_wish(wish));
    }

    fn mark(&self, name: &str, what: &str) -> PathBuf {
        self.marks.path().join(name).join(what)
    }

    fn count(&self, name: &str, what: &str) -> usize {
        fs::read_to_string(self.mark(name, what)).map_or(0, |text| text.lines().count())
    }

    async fn counted(&self, name: &str, what: &str, number: usize) {
        self.wait(&format!("{name}: {what} {number} times"), || self.count(name, what) >= number).await;
    }

    async fn told(&self, reason: &str, beginning: &str) {
        let is =
            || self.bench.api.events.borrow().iter().any(|e| e.reason == reason && e.message.starts_with(beginning));
        self.wait(beginning, is).await;
    }

    async fn wait(&self, what: &str, is: impl Fn() -> bool) {
        let began = Instant::now();
        while !is() {
            assert!(began.elapsed() < PATIENCE, "{what}\n{:#?}", self.bench.api.events.borrow());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn gone(&self, name: &str) {
        let mut runtime = self.containerd.client().await.runtime;
        let began = Instant::now();
        loop {
            let request = cri::v1::ListPodSandboxRequest { filter: None };
            let listed = runtime.list_pod_sandbox(request).await.unwrap().into_inner().items;
            if !listed.iter().any(|one| one.metadata.as_ref().is_some_and(|metadata| metadata.name == name)) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{name} is not gone\n{:#?}", self.bench.api.events.borrow());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Results of the recorded runs.
    fn results(&self, name: &str) -> Vec<&'static str> {
        self.bench.actor.hooks.journal.runs("ns", name).iter().map(|run| run.ended.result.label()).collect()
    }
}

const PATIENCE: Duration = Duration::from_secs(120);

fn uptime() -> f64 {
    fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn exec(script: &str) -> Value {
    json!({"exec": {"command": ["sh", "-c", script]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_keep_their_rules_with_containerd_whatever_becomes_of_the_agent() {
    let containerd = Containerd::start();
    let registry = private(&containerd);
    let bench = Bench::new(containerd.client().await, Limits::default(), Clock::System);
    bench.secret("regcred", &registry.address, USER, PASSWORD);
    let image = format!("{}/team/box:1", registry.address);
    let (marks, tasks) = (tempfile::tempdir().unwrap(), Default::default());
    let mut pods = Hooked { bench, containerd: &containerd, image, marks, tasks };
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let get = json!({"httpGet": {"host": "127.0.0.1", "port": server.local_addr().unwrap().port(), "path": "/", "scheme": "HTTP"}});

    let both = json!({"postStart": exec("echo $HOSTNAME >> /v/start"), "preStop": exec("echo >> /v/stop")});
    pods.begin("good", 30, GOOD, both);
    pods.begin("fails", 5, GOOD, json!({"postStart": exec("echo SECRET; exit 7"), "preStop": exec("echo >> /v/stop")}));
    pods.begin("late", 2, GOOD, json!({"preStop": exec("sleep 1000")}));
    pods.begin("endless", 2, GOOD, json!({"postStart": exec("echo >> /v/begun; sleep 1000")}));
    pods.begin("again", 1, GOOD, json!({"postStart": exec(WAITS)}));
    pods.begin("twice", 60, GOOD, json!({"preStop": exec(WAITS)}));
    pods.begin("stubborn", 8, STUBBORN, json!({"preStop": exec("echo >> /v/stop")}));
    pods.begin("pauses", 30, GOOD, json!({"postStart": get, "preStop": {"sleep": {"seconds": 1}}}));

    // postStart: once a start, before Running; one that fails is told and ends the container (HOOK-33, 34, 37, 38).
    let (mut asked, _) = tokio::task::spawn_blocking(move || server.accept().unwrap()).await.unwrap();
    // An answer before the question is none.
    assert!(std::io::Read::read(&mut asked, &mut [0; 4096]).unwrap() > 0);
    std::io::Write::write_all(&mut asked, b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").unwrap();
    for name in ["good", "late", "twice", "stubborn", "pauses"] {
        pods.running(name).await;
    }
    assert_eq!((pods.count("good", "start"), pods.count("good", "stop")), (1, 0));
    pods.told("FailedPostStartHook", "PostStartHook failed (exit code 7 after ").await;
    pods.told("Killing", "FailedPostStartHook").await;
    pods.counted("fails", "stop", 1).await;
    // A created container waits without a reason, one whose hook runs with it (POD-33, HOOK-34).
    pods.counted("endless", "begun", 1).await;
    let creating = |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating";
    pods.bench.until("endless", PATIENCE, |status| status["podIP"].is_string() && creating(status)).await;

    // All at once: each ends as its hook and its grace let it.
    let removed = uptime();
    for name in ["good", "late", "twice", "stubborn", "pauses", "endless"] {
        pods.remove(name);
    }
    pods.counted("again", "begun", 1).await;
    pods.counted("twice", "begun", 1).await;
    pods.counted("stubborn", "term", 1).await;
    for name in ["again", "twice", "stubborn"] {
        pods.crash(name);
    }
    pods.counted("again", "begun", 2).await;
    pods.counted("twice", "begun", 2).await;
    for name in ["again", "twice"] {
        fs::write(pods.mark(name, "go"), "").unwrap();
    }
    pods.running("again").await;
    pods.remove("again");
    pods.remove("fails");
    for name in ["good", "late", "twice", "stubborn", "pauses", "endless", "again", "fails"] {
        pods.gone(name).await;
    }
    pods.told("FailedPreStopHook", "PreStopHook not completed in grace period").await;
    assert_eq!(pods.count("good", "stop"), 1);
    let lived = fs::read_to_string(pods.mark("stubborn", "alive")).unwrap();
    let lived = lived.lines().last().unwrap().parse::<f64>().unwrap() - removed;
    // At least its grace, and not another one from when the second agent began.
    assert!((7.0..16.0).contains(&lived), "a grace of 8 s was {lived:.1} s");
    assert_eq!((pods.count("stubborn", "stop"), pods.count("stubborn", "term")), (1, 1), "neither is repeated");
    assert_eq!(pods.results("good"), ["succeeded", "succeeded"]);
    assert_eq!(pods.results("late"), ["graceExceeded"]);
    assert_eq!(pods.results("endless"), ["abandoned"]);
    assert_eq!(pods.results("again"), ["abandoned", "succeeded"]);
    assert_eq!(pods.results("twice"), ["abandoned", "succeeded"]);
    assert_eq!(pods.results("pauses"), ["succeeded", "succeeded"]);
    let events = pods.bench.api.events.borrow().clone();
    assert!(events.iter().all(|event| !event.message.contains("SECRET")), "{events:#?}");
    registry.stop().unwrap();
    pods.bench.end().await;
}
