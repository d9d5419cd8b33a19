//! HOOK-97 on real parts: a dbus-daemon with a double of logind on it, the whole program, pods in runc with hooks. The
//! machine's shutdown is announced, goes its way, is cancelled; agent, bus and logind die in the middle of it.

#![allow(clippy::disallowed_methods)] // Doubles run on threads.

mod support;

#[path = "support/logind.rs"]
mod logind;

use std::path::PathBuf;

use logind::{Bus, Logind};
use serde_json::Value;
use support::{Lab, Machine, condition, text, wait};
use xtask::registry::{PASSWORD, USER};

const NODE: &str = "n1";
const ORDER: &str = "order";

struct Node {
    lab: Lab,
}

impl Node {
    fn words(&self) -> Vec<String> {
        let manifests = self.lab.dir().join("manifests").display().to_string();
        let groups = "--shutdown-grace-period-by-pod-priority=0=40,1000=15";
        ["--node-name", NODE, "--static-pod-path", &manifests, groups].map(str::to_owned).into()
    }

    fn up(&self) {
        let words = self.words();
        self.lab.up_with(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.lab.dir().join("marks").join(name)
    }

    /// Lets the hook of a pod end.
    fn let_go(&self, name: &str) {
        std::fs::write(self.mark(&format!("{name}-go")), "").unwrap();
    }

    /// What happened in the pods, in order.
    fn order(&self) -> Vec<String> {
        std::fs::read_to_string(self.mark(ORDER)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn has_happened(&self, what: &str) -> bool {
        self.order().iter().any(|line| line == what)
    }

    /// A pod whose preStop hook ends when it is let go.
    fn manifest(&self, name: &str, spec: &str) -> String {
        let hook = format!(
            "echo {name}-hook >> /v/{ORDER}; while [ ! -f /v/{name}-go ]; do sleep 0.1; done; echo {name}-over >> /v/{ORDER}"
        );
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{spec}\n  containers:\n  - name: c\n    image: {}\n    \
             command: [sh, -c, 'trap \"echo {name}-term >> /v/{ORDER}; exit 0\" TERM; while true; do sleep 0.1; done']\n    \
             lifecycle: {{preStop: {{exec: {{command: [sh, -c, '{hook}']}}}}}}\n    volumeMounts: [{{name: v, mountPath: /v}}]\n  \
             volumes: [{{name: v, hostPath: {{path: {}}}}}]\n",
            self.lab.image(),
            self.lab.dir().join("marks").display(),
        )
    }

    fn begin(&self, name: &str, spec: &str) {
        self.lab.apply(&self.manifest(name, spec));
        self.lab.ready(name);
    }

    /// The Node's Ready condition: status, reason, message.
    fn ready(&self) -> (String, String, String) {
        let node = self.lab.get("node", NODE).unwrap();
        let all = node["status"]["conditions"].as_array().unwrap();
        let ready = all.iter().find(|condition| condition["type"] == "Ready").unwrap();
        let field = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
        (field("status"), field("reason"), field("message"))
    }

    fn is_ready(&self) -> bool {
        self.ready().0 == "True"
    }

    fn assert_terminated(&self, pod: &Value) {
        let status = &pod["status"];
        assert_eq!((&status["phase"], &status["reason"]), (&"Failed".into(), &"Terminated".into()), "{status:#}");
        assert_eq!(status["message"], "Pod was terminated in response to imminent node shutdown.");
        let all = status["conditions"].as_array().unwrap();
        let target = all.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
        assert_eq!((&target["status"], &target["reason"]), (&"True".into(), &"TerminationByKubelet".into()));
        assert_eq!(target["message"], status["message"]);
        assert!(pod["metadata"]["deletionTimestamp"].is_null(), "it stays in the API");
    }

    /// A pod that comes now is refused, whoever bound it.
    fn assert_refused(&self, name: &str) {
        self.lab.apply(&self.manifest(name, &format!("  nodeName: {NODE}")));
        let late = self.lab.pod_when(name, "refused", |pod| pod["status"]["phase"] == "Failed");
        assert_eq!(late["status"]["reason"], "NodeShutdown");
        assert_eq!(late["status"]["message"], "Pod was rejected as the node is shutting down.");
        assert!(condition(&late, "DisruptionTarget").is_none());
    }
}

fn lab() -> (Node, Bus) {
    let mut lab = Lab::new("shutdown", 97);
    std::fs::create_dir(lab.dir().join("manifests")).unwrap();
    std::fs::create_dir(lab.dir().join("marks")).unwrap();
    std::fs::create_dir_all(lab.data_dir()).unwrap();
    let server = &lab.registry.address;
    let login = format!("{{\"auths\": {{\"{server}\": {{\"username\": \"{USER}\", \"password\": \"{PASSWORD}\"}}}}}}");
    std::fs::write(lab.data_dir().join("config.json"), login).unwrap();
    // Whether the disk of the machine that tests is full is no matter here.
    lab.environment.push(("SAMPAN_EVICTION_HARD".into(), "memory.available<50Mi".into()));
    lab.environment.push(("DBUS_SYSTEM_BUS_ADDRESS".into(), Bus::address(&lab.dir()).into()));
    let node = Node { lab };
    check_says(&node, "the system bus cannot be reached");
    let bus = Bus::start(&node.lab.dir());
    (node, bus)
}

/// `sampan check` says what logind would do.
fn check_says(node: &Node, words: &str) {
    let said = node.lab.sampan(&["check", "--shutdown-grace-period=55s"]);
    let said = text(&said.stdout);
    let line = said.lines().find(|line| line.contains("machine's shutdown")).unwrap_or_default();
    assert!(line.contains(words), "{said}");
}

#[test]
fn hook_97_an_announced_shutdown_stops_pods_by_priority_and_a_cancelled_one_lets_them_be() {
    let before = Machine::look();
    let (node, bus) = lab();
    let logind = Logind::start(&bus, 5, false);
    check_says(&node, "less  machine's shutdown");
    check_says(&node, "InhibitDelayMaxSec=55");
    drop(logind);
    let logind = Logind::start(&bus, 60, false);
    check_says(&node, "ok    machine's shutdown");
    node.up();
    wait("the lock is taken", || logind.locks() == 1);
    node.lab.apply("apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1500\n");
    a_whole_shutdown(&node, &logind);
    a_shutdown_in_which_the_agent_dies(&node, &logind);
    let (bus, logind) = a_bus_and_a_logind_that_die(&node, bus, logind);
    a_signal_is_no_announcement(&node, &logind);
    node.let_go("second-high");
    node.let_go("fixed");
    node.lab.down(true);
    wait("nobody holds a lock", || logind.locks() == 0);
    drop((logind, bus));
    before.assert_back();
}

/// HOOK-97, TR-16: order, statuses, refusal, the lock; then it is cancelled.
fn a_whole_shutdown(node: &Node, logind: &Logind) {
    let lab = &node.lab;
    node.begin("low", "  terminationGracePeriodSeconds: 35");
    node.begin("high", "  priorityClassName: high\n  terminationGracePeriodSeconds: 600");
    let fixed = node.manifest("fixed", "  terminationGracePeriodSeconds: 30");
    std::fs::write(lab.dir().join("manifests/fixed.yaml"), fixed).unwrap();
    let mirror = lab.ready("fixed-n1");
    logind.announce(true);
    wait("the hooks of the lower group run", || node.has_happened("low-hook") && node.has_happened("fixed-hook"));
    wait("the node is not ready", || !node.is_ready());
    let words = ("False".into(), "KubeletNotReady".into(), "node is shutting down".into());
    assert_eq!(node.ready(), words);
    node.assert_refused("late");
    assert_eq!(condition(&lab.get("pod", "high").unwrap(), "Ready"), Some("True"), "its turn has not come");
    assert!(!node.has_happened("high-hook") && logind.locks() == 1);
    node.let_go("low");
    let low = lab.pod_when("low", "ended", |pod| pod["status"]["phase"] == "Failed");
    node.assert_terminated(&low);
    assert!(!node.has_happened("high-hook"), "the static pod is of the same group");
    node.let_go("fixed");
    wait("the higher group's turn comes", || node.has_happened("high-hook"));
    assert_eq!(logind.locks(), 1);
    node.assert_terminated(&lab.get("pod", "fixed-n1").unwrap());
    node.let_go("high");
    wait("the lock is released", || logind.locks() == 0);
    // The API knew before the machine was let go.
    node.assert_terminated(&lab.get("pod", "high").unwrap());
    let order = node.order();
    let at = |what: &str| order.iter().position(|line| line == what).unwrap_or_else(|| panic!("{what}: {order:?}"));
    assert!(at("low-over") < at("low-term") && at("low-term") < at("high-hook"), "{order:?}");
    assert!(at("fixed-term") < at("high-hook") && at("high-over") < at("high-term"), "{order:?}");
    assert!(!node.has_happened("late-term"));
    let runs = lab.hook_runs("high");
    assert_eq!(runs[0]["hook"], "preStop", "{runs:?}");
    assert!(!node.is_ready(), "the machine may go down, and takes no pods");

    logind.announce(false);
    wait("the lock is taken again", || logind.locks() == 1);
    wait("the node is ready again", || node.is_ready());
    let anew = lab.pod_when("fixed-n1", "begun anew", |pod| {
        condition(pod, "Ready") == Some("True") && pod["metadata"]["uid"] != mirror["metadata"]["uid"]
    });
    assert!(condition(&anew, "DisruptionTarget").is_none() && anew["status"]["reason"].is_null());
    node.assert_terminated(&lab.get("pod", "low").unwrap());
}

/// The agent is killed in the middle; the next one goes on. It is cancelled before the second group's turn comes.
fn a_shutdown_in_which_the_agent_dies(node: &Node, logind: &Logind) {
    let lab = &node.lab;
    node.begin("second-low", "  terminationGracePeriodSeconds: 35");
    node.begin("second-high", "  priorityClassName: high");
    logind.announce(true);
    wait("its hook runs", || node.has_happened("second-low-hook"));
    lab.kill();
    wait("a lock ends with who held it, though pods run on", || logind.locks() == 0);
    std::thread::scope(|scope| {
        // It waits until the node is ready.
        let up = scope.spawn(|| node.up());
        wait("the hook that was interrupted runs again", || {
            node.order().iter().filter(|line| *line == "second-low-hook").count() == 2
        });
        node.assert_refused("second-late");
        assert!(!node.is_ready() && !node.has_happened("second-high-hook"));
        logind.announce(false);
        up.join().unwrap();
    });
    wait("the lock is taken again", || logind.locks() == 1);
    node.let_go("second-low");
    let low = lab.pod_when("second-low", "ended", |pod| pod["status"]["phase"] == "Failed");
    node.assert_terminated(&low);
    assert_eq!(condition(&lab.get("pod", "second-high").unwrap(), "Ready"), Some("True"), "its turn never came");
    assert!(!node.has_happened("second-high-hook"));
    node.begin("third", "  terminationGracePeriodSeconds: 1");
    node.let_go("third");
    lab.ready("fixed-n1");
}

/// Bus and logind come back, and the lock with them; what was announced meanwhile counts.
fn a_bus_and_a_logind_that_die(node: &Node, bus: Bus, logind: Logind) -> (Bus, Logind) {
    drop(logind);
    let logind = Logind::start(&bus, 60, false);
    wait("another logind has the lock", || logind.locks() == 1);
    drop(bus);
    drop(logind);
    let bus = Bus::start(&node.lab.dir());
    let logind = Logind::start(&bus, 60, false);
    wait("another bus carries the lock", || logind.locks() == 1);
    assert!(node.is_ready());
    (bus, logind)
}

/// SIGTERM ends the agent, not the pods.
fn a_signal_is_no_announcement(node: &Node, logind: &Logind) {
    let lab = &node.lab;
    let before = lab.ready("second-high");
    let pid = lab.pid();
    xtask::shell::run("kill", &[&pid.to_string()]).unwrap();
    wait("the agent has ended", || lab.is_gone(pid));
    wait("the lock has ended with it", || logind.locks() == 0);
    node.up();
    wait("the lock is taken", || logind.locks() == 1);
    let after = lab.ready("second-high");
    let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(container(&after), container(&before));
    assert!(!node.has_happened("second-high-hook") && after["status"]["containerStatuses"][0]["restartCount"] == 0);
}
