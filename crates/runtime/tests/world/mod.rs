//! A machine of a test's own: directories, bridge, cgroup, and a private registry with one small image.
//!
//! Needs root, runc, docker-registry, skopeo and a static busybox; what is missing fails with its name.
#![allow(dead_code, clippy::disallowed_methods, reason = "each test file uses a part; tests start processes")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cri::Client;
use cri::v1::*;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// The executable that is server and monitor.
pub const SERVER: &str = env!("CARGO_BIN_EXE_criserver");

pub struct World {
    pub root: tempfile::TempDir,
    pub tag: String,
    pub cidr: String,
    pub handler: &'static str,
    registry: Registry,
    server: Option<Child>,
    /// Ends what runs in this process, so that nobody holds the image store when the machine is cleaned.
    pub cancel: CancellationToken,
}

impl World {
    pub fn new() -> World {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let number = SERIAL.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let root = tempfile::Builder::new().prefix("rt").tempdir_in("/tmp").expect("make a directory");
        let registry = Registry::start(root.path());
        World {
            root,
            tag: format!("rt{:x}{number:x}", process % 0xfffff),
            cidr: format!("10.{}.{}.0/24", 100 + process % 100, (process / 100 + number * 7) % 250),
            handler: "runc",
            registry,
            server: None,
            cancel: CancellationToken::new(),
        }
    }

    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn run(&self) -> PathBuf {
        self.root.path().join("run")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.path().join("logs")
    }

    pub fn cgroup(&self) -> String {
        format!("/sampan-{}", self.tag)
    }

    pub fn image(&self) -> String {
        format!("127.0.0.1:{}/busybox:1", self.registry.port)
    }

    /// An image of two layers, of which the upper one hides a file of the lower one.
    pub fn data_image(&self) -> String {
        format!("127.0.0.1:{}/data:1", self.registry.port)
    }

    /// A runtime in this process.
    pub async fn runtime(&self) -> runtime::Runtime {
        let handlers = ["runc", "crun"].map(|name| runtime::Handler::new(name, format!("/usr/bin/{name}"))).into();
        self.runtime_with(handlers, runtime::COMMAND_TIMEOUT, self.cancel.clone()).await
    }

    /// A runtime in this process with handlers of a test's own.
    pub async fn runtime_with(
        &self,
        handlers: Vec<runtime::Handler>,
        command_timeout: Duration,
        cancel: CancellationToken,
    ) -> runtime::Runtime {
        let data_dir = self.data();
        let images = images::Images::open(images::Options::new(data_dir.join("images"))).await.expect("open images");
        let options = runtime::Options {
            run_dir: self.run(),
            cgroup_top: self.cgroup(),
            handlers,
            default_handler: self.handler.into(),
            command_timeout,
            network: network::Options {
                bridge: self.tag.clone(),
                pod_cidr: self.cidr.parse().expect("a network"),
                state_dir: data_dir.join("network"),
                table: self.tag.clone(),
            },
            images,
            monitor_command: vec![SERVER.into(), "monitor".into()],
            data_dir,
        };
        runtime::Runtime::start(options, cancel).await.expect("start the runtime")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(SERVER);
        command.args([self.data(), self.run()]);
        command.args([&self.cgroup(), &self.tag, &self.cidr, self.handler]);
        command
    }

    /// A runtime in a process of its own, and a client on its socket.
    pub async fn serve(&mut self) -> Client {
        let mut child = self.command().stdout(Stdio::piped()).spawn().expect("start the server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n", "the server did not start");
        self.server = Some(child);
        cri::connect(&self.run().join("cri.sock")).await.expect("connect")
    }

    /// kill -9 of the server.
    pub fn kill_server(&mut self) {
        let mut child = self.server.take().expect("a server runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// What lies on the machine that is ours: mounts, cgroups, links.
    pub fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        let root = self.root.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
        found.extend(mounts.lines().filter(|line| line.contains(&root)).map(str::to_owned));
        for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("read").flatten() {
            for below in ["monitors", "sandboxes"] {
                let path = hierarchy.path().join(self.cgroup().trim_start_matches('/')).join(below);
                found.extend(path.exists().then(|| path.display().to_string()));
            }
        }
        let link = Path::new("/sys/class/net").join(&self.tag);
        found.extend(link.exists().then(|| link.display().to_string()));
        found
    }

    /// Takes everything down, and says what was left.
    pub fn down(&mut self) -> Vec<String> {
        if self.server.is_some() {
            self.kill_server();
        }
        let done = self.command().arg("down").status().expect("run down");
        assert!(done.success(), "down failed");
        self.traces()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        // Whatever the test did, the machine is left clean. A runtime of this process takes a moment to let go.
        self.cancel.cancel();
        for _ in 0..50 {
            if self.command().arg("down").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(self.cgroup().trim_start_matches('/')));
        }
    }
}

struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    fn start(root: &Path) -> Registry {
        // Somebody else may take a port between its choice and its use.
        let registry = (0..5).find_map(|_| Registry::try_start(root)).expect("docker-registry listens");
        push(root, registry.port);
        registry
    }

    /// A registry on a port that was free a moment ago; none if it does not come to listen there.
    fn try_start(root: &Path) -> Option<Registry> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = free.local_addr().expect("address").port();
        drop(free);
        let config = root.join("registry.yml");
        let storage = root.join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            storage.display()
        );
        fs::write(&config, text).expect("write");
        let process = Command::new("docker-registry")
            .args(["serve".as_ref(), config.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is needed");
        let mut registry = Registry { process, port };
        for _ in 0..6000 {
            if registry.process.try_wait().expect("wait").is_some() {
                return None;
            }
            if registry.is_listening() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Whether it is this process that listens at the address, and not whoever was quicker.
    fn is_listening(&self) -> bool {
        let listens = format!(":{:04X} 00000000:0000 0A ", self.port);
        let sockets = fs::read_to_string("/proc/net/tcp").expect("read");
        let inodes = sockets.lines().filter(|line| line.contains(&listens)).filter_map(|l| l.split_whitespace().nth(9));
        let links: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
        let open = fs::read_dir(format!("/proc/{}/fd", self.process.id())).into_iter().flatten().flatten();
        let mut targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn shell(directory: &Path, script: &str) -> String {
    let output = Command::new("sh").current_dir(directory).args(["-euc", script]).output().expect("run sh");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Makes an OCI layout of busybox and pushes it; skopeo tries again until the registry listens.
fn push(root: &Path, port: u16) {
    shell(
        root,
        "mkdir -p rootfs/bin rootfs/etc rootfs/tmp rootfs/work layout/blobs/sha256
         cp /bin/busybox rootfs/bin/busybox
         for name in sh echo cat sleep id env ls true false kill yes head stty test mount grep tr wc ps hostname; do ln -s busybox rootfs/bin/$name; done
         printf 'root:x:0:0::/:/bin/sh\\nweb:x:33:34::/:/bin/sh\\n' > rootfs/etc/passwd
         printf 'root:x:0:\\nweb:x:34:\\nlogs:x:40:web\\n' > rootfs/etc/group
         tar --numeric-owner --owner=0 --group=0 -C rootfs -cf layer.tar .",
    );
    let diff_id = shell(root, "sha256sum layer.tar | cut -d' ' -f1");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["PATH=/bin","FROM_IMAGE=yes"],"Cmd":["/bin/sh"],"WorkingDir":"/work"}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
    );
    fs::write(root.join("config.json"), config).expect("write");
    let blob = |file: &str| {
        let digest = shell(root, &format!("sha256sum {file} | cut -d' ' -f1"));
        let size = fs::metadata(root.join(file)).expect("stat").len();
        fs::copy(root.join(file), root.join("layout/blobs/sha256").join(&digest)).expect("copy");
        (digest, size)
    };
    let ((config, config_size), (layer, layer_size)) = (blob("config.json"), blob("layer.tar"));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{layer}","size":{layer_size}}}]}}"#
    );
    fs::write(root.join("manifest.json"), manifest).expect("write");
    let (manifest, manifest_size) = blob("manifest.json");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{manifest}","size":{manifest_size},"annotations":{{"org.opencontainers.image.ref.name":"1"}}}}]}}"#
    );
    fs::write(root.join("layout/index.json"), index).expect("write");
    fs::write(root.join("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
    let copy = format!(
        "skopeo copy --retry-times 10 --insecure-policy --dest-tls-verify=false oci:layout:1 docker://127.0.0.1:{port}/busybox:1"
    );
    shell(root, &copy);
    push_data(root, port, (&diff_id, &layer, layer_size));
}

/// Pushes an image of busybox's layer and another one upon it.
fn push_data(root: &Path, port: u16, (diff_id, layer, layer_size): (&str, &str, u64)) {
    shell(
        root,
        "cp -r layout data-layout && mkdir -p upper/etc upper/files && echo payload > upper/files/data && touch upper/etc/.wh.group
         ln -s /etc upper/files/absolute && ln -s ../../../../../../../../../etc upper/files/up
         tar --numeric-owner --owner=0 --group=0 -C upper -cf upper.tar .",
    );
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let upper_diff = shell(root, "sha256sum upper.tar | cut -d' ' -f1");
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}","sha256:{upper_diff}"]}}}}"#
    );
    fs::write(root.join("config.json"), config).expect("write");
    let blob = |file: &str| {
        let digest = shell(root, &format!("sha256sum {file} | cut -d' ' -f1"));
        let size = fs::metadata(root.join(file)).expect("stat").len();
        fs::copy(root.join(file), root.join("data-layout/blobs/sha256").join(&digest)).expect("copy");
        (digest, size)
    };
    let ((config, config_size), (upper, upper_size)) = (blob("config.json"), blob("upper.tar"));
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{config}","size":{config_size}}},"layers":[{{"mediaType":"{tar}","digest":"sha256:{layer}","size":{layer_size}}},{{"mediaType":"{tar}","digest":"sha256:{upper}","size":{upper_size}}}]}}"#
    );
    fs::write(root.join("manifest.json"), manifest).expect("write");
    let (manifest, manifest_size) = blob("manifest.json");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{manifest}","size":{manifest_size},"annotations":{{"org.opencontainers.image.ref.name":"2"}}}}]}}"#
    );
    fs::write(root.join("data-layout/index.json"), index).expect("write");
    let copy = format!(
        "skopeo copy --insecure-policy --dest-tls-verify=false oci:data-layout:2 docker://127.0.0.1:{port}/data:1"
    );
    shell(root, &copy);
}

pub async fn pull(client: &Client, image: &str) -> String {
    let spec = ImageSpec { image: image.into(), ..Default::default() };
    let request = PullImageRequest { image: Some(spec), ..Default::default() };
    client.images.clone().pull_image(request).await.expect("pull").into_inner().image_ref
}

pub fn sandbox_config(world: &World, name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: "ns".into(), attempt: 0 }),
        hostname: name.into(),
        log_directory: world.logs().join(name).to_string_lossy().into_owned(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub async fn sandbox(client: &Client, config: &PodSandboxConfig) -> String {
    let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    client.runtime.clone().run_pod_sandbox(request).await.expect("run a sandbox").into_inner().pod_sandbox_id
}

pub fn container_config(image: &str, name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: image.into(), ..Default::default() }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}/0.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() }),
                seccomp: Some(SecurityProfile::default()),
                ..Default::default()
            }),
            resources: Some(LinuxContainerResources { oom_score_adj: -997, ..Default::default() }),
        }),
        ..Default::default()
    }
}

pub async fn create(client: &Client, sandbox: &str, pod: &PodSandboxConfig, config: ContainerConfig) -> String {
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.into(),
        config: Some(config),
        sandbox_config: Some(pod.clone()),
    };
    client.runtime.clone().create_container(request).await.expect("create").into_inner().container_id
}

pub async fn start(client: &Client, id: &str) {
    client.runtime.clone().start_container(StartContainerRequest { container_id: id.into() }).await.expect("start");
}

pub async fn status(client: &Client, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
    client.runtime.clone().container_status(request).await.expect("status").into_inner().status.expect("a status")
}

/// Waits until a container has ended, by events; returns its status.
pub async fn ended(client: &Client, id: &str) -> ContainerStatus {
    let mut events =
        client.runtime.clone().get_container_events(GetEventsRequest {}).await.expect("events").into_inner();
    let wait = async {
        loop {
            let now = status(client, id).await;
            if now.state == ContainerState::ContainerExited as i32 {
                return now;
            }
            events.next().await.expect("events go on").expect("no lag");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the container ends")
}

pub async fn exec(client: &Client, id: &str, command: &[&str]) -> ExecSyncResponse {
    let cmd = command.iter().map(|word| (*word).to_owned()).collect();
    let request = ExecSyncRequest { container_id: id.into(), cmd, timeout: 30 };
    client.runtime.clone().exec_sync(request).await.expect("exec").into_inner()
}

/// Stream and text of the lines of a CRI log.
pub fn log_lines(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).expect("read the log");
    let split = |line: &str| {
        let mut parts = line.splitn(4, ' ').skip(1);
        let stream = parts.next().expect("a stream").to_owned();
        (stream, parts.nth(1).expect("a text").to_owned())
    };
    text.lines().map(split).collect()
}
