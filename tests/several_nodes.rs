//! Several nodes: agents in networks of their own, each with its handlers, under one API server.

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::{Lab, condition, text, wait};
use xtask::shell;

/// Where the API is for all of them.
const SERVER: &str = "10.97.0.1";

/// A bridge of this machine with the API's address.
struct Street;

impl Street {
    const NAME: &str = "sampan-street";

    fn build() -> Street {
        let _ = Command::new("ip").args(["link", "del", Self::NAME]).stderr(Stdio::null()).status();
        // An address of its own: else it changes with its ports, and neighbours keep the old one.
        shell::run("ip", &["link", "add", Self::NAME, "address", "02:00:00:61:00:01", "type", "bridge"]).unwrap();
        shell::run("ip", &["addr", "add", &format!("{SERVER}/24"), "dev", Self::NAME]).unwrap();
        shell::run("ip", &["link", "set", Self::NAME, "up"]).unwrap();
        Street
    }
}

impl Drop for Street {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", Self::NAME]).status();
    }
}

/// A machine of its own as far as the network goes, with a node agent.
struct Agent {
    name: String,
    address: String,
    dir: PathBuf,
    process: Option<Child>,
}

impl Agent {
    /// Makes the network and joins the cluster; `config` is the file of its settings.
    fn join(lab: &Lab, name: &str, nth: u8, config: &Value) -> Agent {
        let address = format!("10.97.0.{}", nth + 10);
        let dir = lab.dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut agent = Agent { name: name.into(), address, dir, process: None };
        agent.connect(nth);
        let file = lab.sampan(&["kubeconfig", name, "--address", &agent.address]);
        assert!(file.status.success(), "{}", text(&file.stderr));
        std::fs::write(agent.file("kubeconfig"), &file.stdout).unwrap();
        std::fs::write(agent.file("config"), config.to_string()).unwrap();
        agent.start(nth);
        agent
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn namespace(&self) -> String {
        format!("sampan-test-{}", self.name)
    }

    fn connect(&self, nth: u8) {
        let (namespace, near, far) = (self.namespace(), format!("spnear{nth}"), format!("spfar{nth}"));
        let _ = Command::new("ip").args(["netns", "del", &namespace]).stderr(Stdio::null()).status();
        let ip = |words: &[&str]| shell::run("ip", words).unwrap();
        ip(&["netns", "add", &namespace]);
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &namespace]);
        ip(&["link", "set", &near, "master", Street::NAME, "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["-n", &namespace, "addr", "add", &format!("{}/24", self.address), "dev", &far]);
        ip(&["-n", &namespace, "link", "set", &far, "up"]);
        ip(&["-n", &namespace, "route", "add", "default", "via", SERVER]);
    }

    fn start(&mut self, nth: u8) {
        let log = std::fs::File::create(self.file("log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace()))
            .arg(env!("CARGO_BIN_EXE_sampan"))
            .arg("node")
            .arg("--kubeconfig")
            .arg(self.file("kubeconfig"))
            .arg("--config")
            .arg(self.file("config"))
            .args(["--node-name", &self.name, "--node-ip", &self.address])
            .args(["--pod-cidr", &format!("10.98.{nth}.0/24")])
            .args(["--eviction-hard", "memory.available<50Mi,nodefs.available<1%,imagefs.available<1%"])
            .arg("--data-dir")
            .arg(self.file("data"))
            .arg("--run-dir")
            .arg(self.file("run"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }
}

impl Agent {
    /// Takes it off its machine, as a user would; what that prints.
    fn down(&mut self) -> String {
        self.stop();
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace()))
            .arg(env!("CARGO_BIN_EXE_sampan"))
            .args(["down", "--purge", "--data-dir"])
            .arg(self.file("data"))
            .arg("--run-dir")
            .arg(self.file("run"))
            .output()
            .unwrap();
        assert!(output.status.success(), "down of {}: {}", self.name, text(&output.stderr));
        text(&output.stdout)
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Agent {
    /// Sends the agent's process a signal, by `kill`'s name for it.
    fn signal(&self, name: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        shell::run("kill", &["-s", name, &pid]).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.file("log")).unwrap_or_default();
            eprintln!("--- log of {} ---\n{log}", self.name);
        }
        self.down();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace()]).status();
    }
}

/// A cluster whose API every agent reaches, and a registry that they all pull from.
struct Cluster {
    lab: Lab,
    server: Child,
    image: String,
    registry: xtask::registry::Registry,
    _street: Street,
}

impl Cluster {
    fn found() -> Cluster {
        Cluster::found_with(&[])
    }

    /// The same with more words for the server.
    fn found_with(more: &[&str]) -> Cluster {
        let (street, lab) = (Street::build(), Lab::new("several-nodes", 66));
        let mut registry = xtask::registry::Registry::open(&lab.dir().join("shared-registry"), 1);
        registry.address = format!("{SERVER}:{}", support::free_port());
        registry.ensure().unwrap();
        registry.push(&lab.layout(), "team/box:1").unwrap();
        let image = format!("{}/team/box:1", registry.address);
        let log = std::fs::File::create(lab.dir().join("server-log")).unwrap();
        let server = Command::new(env!("CARGO_BIN_EXE_sampan"))
            .args(["server", "--listen", &format!("{SERVER}:{}", support::free_port()), "--data-dir"])
            .arg(lab.data_dir())
            .arg("--run-dir")
            .arg(lab.run_dir())
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        wait("the API answers", || {
            lab.data_dir().join("admin.kubeconfig").exists() && lab.kubectl(&["get", "ns", "default"]).status.success()
        });
        Cluster { lab, server, image, registry, _street: street }
    }

    /// Lets a node join that has these handlers.
    fn node(&self, name: &str, nth: u8, handlers: &Value) -> Agent {
        let trust = self.lab.dir().join(name).join("data/certs.d").join(&self.registry.address);
        std::fs::create_dir_all(&trust).unwrap();
        let plain = format!("server = \"http://{}\"\n", self.registry.address);
        std::fs::write(trust.join("hosts.toml"), plain).unwrap();
        let config =
            json!({"apiVersion": "sampan.dev/v1", "kind": "Config", "defaultHandler": "classic", "handlers": handlers});
        let agent = Agent::join(&self.lab, name, nth, &config);
        wait(&format!("{name} is Ready"), || {
            self.lab.get("node", name).is_some_and(|node| condition(&node, "Ready") == Some("True"))
        });
        agent
    }

    fn class(&self, name: &str, handler: &str, more: &str) {
        self.lab.apply(&format!(
            "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {name}}}\nhandler: {handler}\n{more}"
        ));
    }

    fn pod(&self, name: &str, class: &str) {
        self.lab.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  runtimeClassName: {class}\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: {}\n    \
             command: [sh, -c, \"echo from {name}; trap 'exit 0' TERM; while true; do sleep 0.1; done\"]\n",
            self.image
        ));
    }

    /// The node of a pod that is Ready.
    fn home(&self, name: &str) -> String {
        self.lab.ready(name)["spec"]["nodeName"].as_str().unwrap().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.lab.dir().join("server-log")).unwrap_or_default();
            eprintln!("--- log of the server ---\n{log}");
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = self.registry.stop();
    }
}

fn handlers_of(lab: &Lab, node: &str) -> Vec<String> {
    let node = lab.get("node", node).unwrap();
    let handlers = node["status"]["runtimeHandlers"].as_array().unwrap().iter();
    handlers.map(|handler| handler["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn rtc_49_53_to_57_pods_find_the_node_that_has_their_handler_among_several() {
    let machine = support::Machine::look();
    let mut cluster = Cluster::found();
    let lab = &cluster.lab;
    let (classic, swift) = (json!({"binary": "runc"}), json!({"binary": "crun"}));
    let gvisor = json!({"binary": "runsc", "arguments": ["--platform=ptrace", "--network=host"]});
    let plain = cluster.node("plain", 1, &json!({"classic": classic}));
    let quick = cluster.node("quick", 2, &json!({"classic": classic, "swift": swift}));
    let mut guarded = cluster.node("guarded", 3, &json!({"classic": classic, "gvisor": gvisor}));
    assert!(!handlers_of(lab, "plain").contains(&"swift".into()));
    assert!(handlers_of(lab, "quick").contains(&"swift".into()));
    assert!(handlers_of(lab, "guarded").contains(&"gvisor".into()));
    lab.ask(&["taint", "node", "guarded", "sandboxed=only:NoSchedule"]);
    lab.ask(&["label", "node", "guarded", "kernel=gvisor"]);

    // Homogeneous: every node has the handler, but one wants to be tolerated.
    cluster.class("classic", "classic", "");
    (0..4).for_each(|nth| cluster.pod(&format!("any-{nth}"), "classic"));
    // Heterogeneous: the node's list alone leads there, or the class's own rules.
    cluster.class("swift", "swift", "");
    (0..3).for_each(|nth| cluster.pod(&format!("swift-{nth}"), "swift"));
    let rules = "scheduling:\n  nodeSelector: {kernel: gvisor}\n  tolerations: [{key: sandboxed, operator: Exists}]\n";
    cluster.class("vm", "gvisor", rules);
    cluster.pod("vm", "vm");
    cluster.class("exotic", "nobody-has-this", "");
    cluster.pod("exotic", "exotic");
    let homes: std::collections::BTreeSet<String> = (0..4).map(|nth| cluster.home(&format!("any-{nth}"))).collect();
    assert!(homes.iter().eq(["plain", "quick"]), "spread, but not where it is tainted: {homes:?}");
    (0..3).for_each(|nth| assert_eq!(cluster.home(&format!("swift-{nth}")), "quick"));
    assert_eq!(cluster.home("vm"), "guarded");
    let exotic = lab.pod_when("exotic", "failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(exotic["status"]["reason"], "RuntimeClassUnavailable");

    // Each node is reached through the API, and runs what its handler says.
    for name in ["any-0", "swift-0", "vm"] {
        lab.says(name, &format!("from {name}\n"));
    }
    let kernel = |pod: &str| lab.ask(&["exec", pod, "--", "cat", "/proc/version"]).trim().to_owned();
    assert_eq!(kernel("swift-0"), kernel("any-0"));
    assert_ne!(kernel("vm"), kernel("any-0"), "gVisor has a kernel of its own");

    overhead_decides_where_there_is_room(&cluster);

    // An agent that dies takes nothing with it, and finds its pods again.
    let before = lab.get("pod", "vm").unwrap();
    guarded.stop();
    guarded.start(3);
    wait("logs again", || lab.kubectl(&["exec", "vm", "--", "true"]).status.success());
    let after = lab.get("pod", "vm").unwrap();
    assert_eq!(after["status"]["containerStatuses"], before["status"]["containerStatuses"]);

    // A machine comes off also when its control plane is gone, and says what that costs.
    drop((plain, quick));
    cluster.server.kill().unwrap();
    let said = guarded.down();
    assert!(said.contains("stopped without their hooks") && said.contains("down in"), "{said}");
    drop(guarded);
    drop(cluster);
    machine.assert_back();
}

/// RTC-57: what a class adds is looked for on every node.
fn overhead_decides_where_there_is_room(cluster: &Cluster) {
    let lab = &cluster.lab;
    let node = lab.get("node", "plain").unwrap();
    let cpus: u64 = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
    let most = format!("overhead: {{podFixed: {{cpu: {}m}}}}\n", cpus * 1000 - 100);
    cluster.class("heavy", "classic", &most);
    ["heavy-0", "heavy-1"].iter().for_each(|name| cluster.pod(name, "heavy"));
    let homes: std::collections::BTreeSet<String> = ["heavy-0", "heavy-1"].map(|name| cluster.home(name)).into();
    assert_eq!(homes.len(), 2, "one on each: {homes:?}");
    cluster.pod("heavy-2", "heavy");
    let third =
        lab.pod_when("heavy-2", "unschedulable", |pod| pod["status"]["conditions"][0]["reason"] == "Unschedulable");
    let text = third["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(text.contains("2 Insufficient cpu") && text.contains("untolerated taint"), "{text}");
    lab.ask(&["delete", "pod", "heavy-0", "--wait=true"]);
    assert!(homes.contains(&cluster.home("heavy-2")), "it goes where room was made");
}

fn taints(lab: &Lab, node: &str) -> Vec<String> {
    let node = lab.get("node", node).unwrap();
    let list = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let text = |taint: &Value| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap());
    list.iter().map(text).collect()
}

#[test]
fn pods_are_driven_off_a_node_of_which_nothing_is_heard_until_it_is_heard_again() {
    let cluster = Cluster::found_with(&["--node-monitor-grace-period", "25s"]);
    let lab = &cluster.lab;
    let classic = json!({"classic": {"binary": "runc"}});
    let (_steady, frozen) = (cluster.node("steady", 1, &classic), cluster.node("frozen", 2, &classic));
    wait("new nodes take pods", || taints(lab, "frozen").is_empty() && taints(lab, "steady").is_empty());
    let pod = |name: &str, seconds: u32| {
        let tolerated = format!(
            "{{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: {seconds}}}"
        );
        lab.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: frozen\n  tolerations: [{tolerated}]\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: {}\n    command: [sh, -c, 'sleep 1000']\n",
            cluster.image
        ));
        lab.ready(name)
    };
    let (_, before) = (pod("short", 1), pod("long", 600));

    frozen.signal("STOP");
    wait("the node is unknown", || condition(&lab.get("node", "frozen").unwrap(), "Ready") == Some("Unknown"));
    wait("it is tainted", || {
        let now = taints(lab, "frozen");
        now.contains(&"node.kubernetes.io/unreachable:NoSchedule".into())
            && now.contains(&"node.kubernetes.io/unreachable:NoExecute".into())
    });
    assert!(taints(lab, "steady").is_empty());
    let going = lab.pod_when("short", "deleted", |pod| !pod["metadata"]["deletionTimestamp"].is_null());
    let conditions = going["status"]["conditions"].as_array().unwrap();
    let disrupted = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&disrupted["status"], &disrupted["reason"]), (&json!("True"), &json!("DeletionByTaintManager")));
    let long = lab.pod_when("long", "not ready", |pod| condition(pod, "Ready") == Some("False"));
    assert!(long["metadata"]["deletionTimestamp"].is_null());
    let told = |pod: &str, reason: &str| lab.events(pod).iter().any(|(known, _)| known == reason);
    wait("it is told", || told("short", "TaintManagerEviction") && told("long", "NodeNotReady"));

    frozen.signal("CONT");
    wait("the node is ready", || condition(&lab.get("node", "frozen").unwrap(), "Ready") == Some("True"));
    wait("it takes pods again", || taints(lab, "frozen").is_empty());
    wait("the pod that had to go is gone", || lab.get("pod", "short").is_none());
    let after = lab.pod_when("long", "ready", |pod| condition(pod, "Ready") == Some("True"));
    assert_eq!(after["status"]["containerStatuses"], before["status"]["containerStatuses"], "it was left alone");
}
