//! A lab for tests of the whole program: an instance of its own, a private registry, kubectl, and what the machine shows.
#![allow(dead_code, clippy::disallowed_methods)]

pub mod hub;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use xtask::registry::{PASSWORD, Registry, USER};
use xtask::{image, shell};

/// Longest wait for anything that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How long the machine may take to show what has ended already.
const SETTLED: Duration = Duration::from_secs(10);

/// One instance in a directory of its own; everything is stopped and removed at the end, also of a failed test.
pub struct Lab {
    dir: PathBuf,
    listen: String,
    pod_cidr: String,
    /// The default handler of `up`.
    pub handler: &'static str,
    /// The private registry, with `team/box:1` in it.
    pub registry: Registry,
    /// Words before each command, for an instance in a network of its own.
    pub enter: Vec<String>,
    /// Environment of the instance beyond the usual.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether the directory stays, for a lab on a disk of its own.
    is_kept: bool,
}

impl Lab {
    /// Makes directories and registry; `nth` keeps the addresses of tests apart.
    pub fn new(name: &str, nth: u8) -> Lab {
        assert!(
            rustix::process::geteuid().is_root(),
            "tests of the whole program make namespaces and mounts: run them as root"
        );
        let dir = PathBuf::from(format!("/var/tmp/sampan-test-{name}"));
        let registry = Registry::new(&dir.join("registry"), free_port());
        let listen = format!("127.0.0.1:{}", free_port());
        let pod_cidr = format!("10.90.{nth}.0/24");
        let lab = Lab {
            listen,
            pod_cidr,
            handler: "runc",
            dir,
            registry,
            enter: Vec::new(),
            environment: Vec::new(),
            is_kept: false,
        };
        lab.clean();
        // An instance gives this back as it was: it must not take it from those beside it.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::create_dir_all(&lab.dir).unwrap();
        lab.registry.ensure().unwrap();
        image::layout(&lab.dir.join("image"), image::architecture()).unwrap();
        lab.registry.push(&lab.dir.join("image"), "team/box:1").unwrap();
        lab
    }

    /// An instance in a directory that stays as it is, without a registry.
    pub fn bare(dir: &Path) -> Lab {
        Lab {
            listen: format!("127.0.0.1:{}", free_port()),
            pod_cidr: "10.90.99.0/24".into(),
            handler: "runc",
            dir: dir.into(),
            registry: Registry::new(&dir.join("registry"), 1),
            enter: Vec::new(),
            environment: Vec::new(),
            is_kept: true,
        }
    }

    /// The image's name.
    pub fn image(&self) -> String {
        format!("{}/team/box:1", self.registry.address)
    }

    /// The directory of everything; `data`, `run`, `image` and `registry` in it are taken.
    pub fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// The OCI layout of [`Lab::image`].
    pub fn layout(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// A command where the instance is.
    fn command(&self, program: &str) -> Command {
        let Some((first, more)) = self.enter.split_first() else { return Command::new(program) };
        let mut command = Command::new(first);
        command.args(more).arg(program);
        command
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// What stands for `~/.kube/config`.
    pub fn user_kubeconfig(&self) -> PathBuf {
        self.dir.join("user-kubeconfig")
    }

    /// Runs `sampan` with this lab's directories.
    pub fn sampan(&self, words: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_sampan"))
            .args(words)
            // A machine whose disk is nearly full is no matter here; who is tested for it says so by a flag.
            .env("SAMPAN_EVICTION_HARD", "memory.available<50Mi,nodefs.available<1%,imagefs.available<1%")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .env("KUBECONFIG", self.user_kubeconfig())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// `sampan up --detach`, which must succeed.
    pub fn up(&self) {
        self.up_with(&[]);
    }

    /// `sampan up --detach` with more flags.
    pub fn up_with(&self, more: &[&str]) {
        let (listen, handler) = (&self.listen, self.handler);
        let words = ["up", "--detach", "--listen", listen, "--pod-cidr", &self.pod_cidr, "--default-handler", handler];
        let output = self.sampan(&[&words, more].concat());
        assert!(output.status.success(), "up failed: {}\n{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains("ready in"), "up did not start: {}", text(&output.stdout));
    }

    /// `sampan down`, which must succeed.
    pub fn down(&self, purge: bool) {
        let output = self.sampan(if purge { &["down", "--purge"] } else { &["down"] });
        assert!(output.status.success(), "down failed: {}\n{}", text(&output.stdout), text(&output.stderr));
    }

    /// The process of the running instance.
    pub fn pid(&self) -> u32 {
        std::fs::read_to_string(self.run_dir().join("sampan.pid")).unwrap().trim().parse().unwrap()
    }

    /// Ends the instance the hard way and waits until it is gone.
    pub fn kill(&self) {
        let pid = self.pid();
        shell::run("kill", &["-9", &pid.to_string()]).unwrap();
        wait("the killed process is gone", || self.is_gone(pid));
    }

    /// Whether a process has ended.
    pub fn is_gone(&self, pid: u32) -> bool {
        !Path::new(&format!("/proc/{pid}")).exists() || zombie(pid)
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self, words: &[&str]) -> Output {
        self.kubectl_with(words, "")
    }

    /// kubectl with standard input.
    pub fn kubectl_with(&self, words: &[&str], input: &str) -> Output {
        let mut command = self.client(Path::new("kubectl"));
        let mut child =
            command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// A program that takes kubectl's flags, as the administrator.
    pub fn client(&self, program: &Path) -> Command {
        let mut command = self.command(program.to_str().unwrap());
        command.arg("--kubeconfig").arg(self.data_dir().join("admin.kubeconfig")).env("HOME", &self.dir);
        command
    }

    /// What kubectl prints; it must succeed.
    pub fn ask(&self, words: &[&str]) -> String {
        let output = self.kubectl(words);
        assert!(output.status.success(), "kubectl {}: {}", words.join(" "), text(&output.stderr));
        text(&output.stdout)
    }

    /// Applies a manifest; it must be accepted.
    pub fn apply(&self, manifest: &str) {
        let output = self.kubectl_with(&["apply", "-f", "-"], manifest);
        assert!(output.status.success(), "apply: {}\n{manifest}", text(&output.stderr));
    }

    /// The Secret `regcred` with the registry's user and a password.
    pub fn secret(&self, password: &str) {
        let server = format!("--docker-server={}", self.registry.address);
        let (user, password) = (format!("--docker-username={USER}"), format!("--docker-password={password}"));
        let words = [
            "create",
            "secret",
            "docker-registry",
            "regcred",
            "--dry-run=client",
            "-o",
            "yaml",
            &server,
            &user,
            &password,
        ];
        let manifest = self.ask(&words);
        self.apply(&manifest);
    }

    /// The Secret with the right password.
    pub fn right_secret(&self) {
        self.secret(PASSWORD);
    }

    /// An object as JSON, or None if it does not exist.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let output = self.kubectl(&["get", kind, name, "-o", "json"]);
        if !output.status.success() {
            assert!(text(&output.stderr).contains("NotFound"), "get {kind} {name}: {}", text(&output.stderr));
            return None;
        }
        Some(serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Waits until a pod has a condition, and returns it.
    pub fn pod_when(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(pod) = self.get("pod", name) {
                if is(&pod) {
                    return pod;
                }
                last = pod;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("pod {name} is not {what}; its status: {:#}\nlog: {}", last["status"], self.log_tail());
    }

    /// Waits until a pod is Ready.
    pub fn ready(&self, name: &str) -> Value {
        self.pod_when(name, "Ready", |pod| condition(pod, "Ready") == Some("True"))
    }

    /// The reasons and messages of a pod's events, oldest first.
    pub fn events(&self, name: &str) -> Vec<(String, String)> {
        let selector = format!("involvedObject.name={name}");
        let list: Value =
            serde_json::from_str(&self.ask(&["get", "events", "--field-selector", &selector, "-o", "json"])).unwrap();
        let mut items = list["items"].as_array().unwrap().clone();
        items.sort_by_key(|event| {
            event["metadata"]["resourceVersion"].as_str().unwrap_or_default().parse::<u64>().unwrap_or(0)
        });
        let field = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_string();
        items.iter().map(|event| (field(event, "reason"), field(event, "message"))).collect()
    }

    /// Waits for an event of a pod; events come by another way than the status and often after it.
    pub fn told(&self, pod: &str, reason: &str, part: &str) {
        let is = |(known, message): &(String, String)| known == reason && message.contains(part);
        let began = Instant::now();
        while !self.events(pod).iter().any(is) {
            assert!(began.elapsed() < PATIENCE, "no event {reason} with {part:?}: {:#?}", self.events(pod));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a pod's log is this and no more: a container that is ready need not have said anything yet.
    pub fn says(&self, pod: &str, wanted: &str) {
        let began = Instant::now();
        loop {
            let said = self.ask(&["logs", pod]);
            if said == wanted {
                return;
            }
            assert!(began.elapsed() < PATIENCE && wanted.starts_with(&said), "{pod} says {said:?}, not {wanted:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a pod is gone.
    pub fn gone(&self, pod: &str) {
        wait(&format!("{pod} is gone"), || self.get("pod", pod).is_none());
    }

    /// The recorded runs of a pod's hooks, as the command line shows them.
    pub fn hook_runs(&self, pod: &str) -> Vec<Value> {
        let answer = self.sampan(&["hooks", pod, "-o", "json"]);
        assert!(answer.status.success(), "{}", text(&answer.stderr));
        let list: Value = serde_json::from_slice(&answer.stdout).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.data_dir().join("sampan.log")).unwrap_or_default();
        text[text.len().saturating_sub(3000)..].to_string()
    }

    fn clean(&self) {
        if self.dir.exists() {
            let _ = self.sampan(&["down", "--purge"]);
            let _ = self.registry.stop();
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the instance ---\n{}", self.log_tail());
        }
        if !self.is_kept {
            self.clean();
        }
    }
}

/// A condition's status.
pub fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a str> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}

/// Waits for something that needs no event to be seen.
pub fn wait(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// A port that nobody listens at, below those that the kernel gives to clients: an instance comes back to its port after
/// a kill, and until then no client may have got it.
pub fn free_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    let below = first - 8000..first;
    let start = std::process::id() as usize * 37 % below.len();
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    loop {
        let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let port = below.start + ((start + nth) % below.len()) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What this machine shows of its containers: everything that `down` must leave as it was.
#[derive(PartialEq, Debug)]
pub struct Machine {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    links: BTreeSet<String>,
    rules: String,
    processes: BTreeSet<String>,
    sysctls: Vec<String>,
}

impl Machine {
    /// Looks at the machine.
    pub fn look() -> Machine {
        let lines = |program: &str, words: &[&str]| shell::output(program, words, "").unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        Machine {
            mounts: mounts.lines().filter_map(|line| line.split(' ').nth(4).map(String::from)).collect(),
            // One that goes away meanwhile is no failure of the look.
            cgroups: lines("sh", &["-c", "find /sys/fs/cgroup -type d 2>/dev/null || true"])
                .lines()
                .filter(|path| path.split('/').any(could_be_ours))
                .map(String::from)
                .collect(),
            links: lines("ip", &["-o", "link"])
                .lines()
                .filter_map(|line| line.split(": ").nth(1).map(String::from))
                .collect(),
            rules: lines("nft", &["list", "ruleset"]),
            processes: processes(),
            sysctls: ["ip_forward", "conf/all/route_localnet"]
                .iter()
                .map(|key| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{key}")).unwrap_or_default())
                .collect(),
        }
    }

    /// Fails with what is there now and was not, or the other way round.
    pub fn assert_back(&self) {
        self.assert_back_within(SETTLED);
    }

    /// The same for what is given up only after a while.
    pub fn assert_back_within(&self, patience: Duration) {
        let began = Instant::now();
        let mut now = Machine::look();
        while now != *self && began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(100));
            now = Machine::look();
        }
        now.assert_same(self);
    }

    fn assert_same(&self, before: &Machine) {
        let more = |now: &BTreeSet<String>, then: &BTreeSet<String>| -> Vec<String> {
            now.symmetric_difference(then).cloned().collect()
        };
        assert!(self.mounts == before.mounts, "mounts differ: {:#?}", more(&self.mounts, &before.mounts));
        assert!(self.cgroups == before.cgroups, "cgroups differ: {:#?}", more(&self.cgroups, &before.cgroups));
        assert!(self.links == before.links, "links differ: {:#?}", more(&self.links, &before.links));
        assert_eq!(self.rules, before.rules, "netfilter rules differ");
        assert!(
            self.processes == before.processes,
            "processes differ: {:#?}",
            more(&self.processes, &before.processes)
        );
        assert_eq!(self.sysctls, before.sysctls, "kernel settings differ");
    }
}

/// Whether a node or a runtime would name a cgroup so; a machine makes others for itself at any time.
fn could_be_ours(part: &str) -> bool {
    let is_id = part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id || ["sampan", "kubepods", "runc", "crun", "runsc"].iter().any(|ours| part.starts_with(ours))
}

/// Processes that a node could have left behind.
fn processes() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let program = std::fs::read_link(entry.path().join("exe")).ok()?;
            let name = program.file_name()?.to_string_lossy().into_owned();
            ["sampan", "runc", "runsc", "crun", "busybox"]
                .iter()
                .any(|ours| name.starts_with(ours))
                .then(|| format!("{pid} {name}"))
        })
        .collect()
}
