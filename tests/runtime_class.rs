//! The page "Runtime Class" with the whole program and with kubectl: classes, overhead down to the cgroups, what becomes
//! of a pod whose class goes, and nodes that offer different handlers.

mod support;

use serde_json::{Value, json};
use support::{Lab, wait};

fn class(lab: &Lab, name: &str, handler: &str, more: &str) {
    lab.apply(&format!(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {name}}}\nhandler: {handler}\n{more}"
    ));
}

fn pod(lab: &Lab, name: &str, class: &str, resources: &str) {
    lab.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  runtimeClassName: {class}\n  terminationGracePeriodSeconds: 0\n  \
         imagePullSecrets: [{{name: regcred}}]\n  containers:\n  - name: c\n    image: {}\n    command: [sh, -c, \"while [ ! -e /tmp/end ]; do sleep 0.1; done\"]\n    resources: {resources}\n",
        lab.image()
    ));
}

/// A file of the pod's cgroup, of version 1.
fn cgroup(pod: &Value, controller: &str, file: &str) -> String {
    let name = format!("pod{}", pod["metadata"]["uid"].as_str().unwrap());
    let root = format!("/sys/fs/cgroup/{controller}");
    let found = xtask::shell::output("find", &[&root, "-name", &name], "").unwrap();
    let path = found.lines().next().unwrap_or_else(|| panic!("{name} has no cgroup of {controller}"));
    std::fs::read_to_string(format!("{path}/{file}")).unwrap().trim().to_owned()
}

fn numbers(pod: &Value) -> [String; 3] {
    [
        cgroup(pod, "cpu", "cpu.shares"),
        cgroup(pod, "cpu", "cpu.cfs_quota_us"),
        cgroup(pod, "memory", "memory.limit_in_bytes"),
    ]
}

/// The words of the first line of a text that begins with `head`.
fn line<'a>(text: &'a str, head: &str) -> Vec<&'a str> {
    let found = text.lines().find(|line| line.trim_start().starts_with(head));
    found.unwrap_or_else(|| panic!("no line {head:?} in {text}")).split_whitespace().collect()
}

const UNLIMITED: &str = "9223372036854771712";

#[test]
fn rtc_57_to_73_overhead_is_in_the_scheduler_the_node_and_the_cgroups_for_life() {
    let lab = Lab::new("class-overhead", 61);
    lab.up();
    lab.right_secret();
    class(&lab, "vm", "runc", "overhead: {podFixed: {cpu: 200m, memory: 140Mi}}\n");
    pod(&lab, "firm", "vm", "{limits: {cpu: 100m, memory: 100Mi}}");
    pod(&lab, "burst", "vm", "{requests: {cpu: 100m, memory: 10Mi}, limits: {memory: 60Mi}}");
    pod(&lab, "effort", "vm", "{}");
    let firm = lab.ready("firm");
    let expected = |firm: [&str; 3]| firm.map(str::to_owned);
    // RTC-63, RTC-64.
    assert_eq!(numbers(&firm), expected(["307", "30000", "251658240"]));
    // RTC-65, RTC-66.
    let (burst, effort) = (lab.ready("burst"), lab.ready("effort"));
    assert_eq!(numbers(&burst), expected(["307", "-1", "209715200"]));
    assert_eq!(numbers(&effort), expected(["2", "-1", UNLIMITED]));
    let class_of = |pod: &Value| pod["status"]["qosClass"].as_str().unwrap().to_owned();
    assert_eq!([&firm, &burst, &effort].map(class_of), ["Guaranteed", "Burstable", "BestEffort"]);
    // RTC-71: the container has what it asked for.
    assert_eq!(
        lab.ask(&["exec", "firm", "--", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]).trim(),
        "104857600"
    );

    // What kubectl makes of it: 300 + 300 + 200 thousandths, and the pod with its class.
    let node = lab.ask(&["describe", "nodes"]);
    let allocated = node.split("Allocated resources").nth(1).unwrap();
    assert_eq!(line(allocated, "cpu")[1], "800m");
    assert_eq!(line(node.split("Non-terminated Pods").nth(1).unwrap(), "default                     firm")[2], "300m");
    let described = lab.ask(&["describe", "pod", "firm"]);
    assert_eq!(line(&described, "Runtime Class Name:"), ["Runtime", "Class", "Name:", "vm"]);

    // RTC-57: it fits without its overhead and not with it.
    let shown: Value = serde_json::from_str(&lab.ask(&["get", "nodes", "-o", "json"])).unwrap();
    let cpus: u64 = shown["items"][0]["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
    pod(&lab, "large", "vm", &format!("{{requests: {{cpu: {}m}}}}", cpus * 1000 - 900));
    let large =
        lab.pod_when("large", "unschedulable", |pod| pod["status"]["conditions"][0]["reason"] == "Unschedulable");
    let text = large["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(text.starts_with("0/1 nodes are available: 1 Insufficient cpu. preemption: "), "{text}");
    lab.ask(&["delete", "pod", "large"]);

    // RTC-73: neither an edit nor the end of the class changes what runs, also not over a restart of its container.
    class(&lab, "vm", "runc", "overhead: {podFixed: {cpu: 1, memory: 1Gi}}\n");
    assert_eq!(lab.get("pod", "firm").unwrap()["spec"], firm["spec"]);
    lab.ask(&["delete", "runtimeclass", "vm"]);
    lab.ask(&["exec", "firm", "--", "touch", "/tmp/end"]);
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    let before = id(&firm);
    let again = lab.pod_when("firm", "restarted without its class", |pod| {
        id(pod) != before && pod["status"]["containerStatuses"][0]["ready"] == true
    });
    assert_eq!(numbers(&again), expected(["307", "30000", "251658240"]));
    lab.down(true);
}

#[test]
fn rtc_22_27_38_47_classes_end_in_the_words_of_the_page() {
    let lab = Lab::new("class-words", 62);
    lab.up();
    lab.right_secret();
    // RTC-47: what dockershim wanted is the default.
    class(&lab, "dockershim", "docker", "");
    pod(&lab, "old-style", "dockershim", "{}");
    lab.ready("old-style");
    // RTC-19.
    let table = lab.ask(&["get", "runtimeclass"]);
    assert_eq!(table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), ["NAME", "HANDLER", "AGE"]);
    assert_eq!(line(&table, "dockershim")[..2], ["dockershim", "docker"]);

    // The seed: "the pod will enter the Failed terminal phase. Look for a corresponding event".
    class(&lab, "nowhere", "no-such-handler", "");
    pod(&lab, "lost", "nowhere", "{}");
    let lost = lab.pod_when("lost", "failed", |pod| pod["status"]["phase"] == "Failed");
    let text = lost["status"]["message"].as_str().unwrap();
    assert_eq!(lost["status"]["reason"], "RuntimeClassUnavailable");
    assert!(text.contains("has no runtime handler \"no-such-handler\"; available: "), "{text}");
    lab.told("lost", "FailedCreatePodSandBox", text);
    assert_eq!(line(&lab.ask(&["get", "pod", "lost"]), "lost")[2], "RuntimeClassUnavailable");

    // A class that is not there is refused at the door.
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  runtimeClassName: none\n  containers: [{name: c, image: x}]\n";
    let refused = lab.kubectl_with(&["create", "-f", "-"], manifest);
    let expected = "pods \"x\" is forbidden: pod rejected: RuntimeClass \"none\" not found";
    assert!(support::text(&refused.stderr).contains(expected), "{}", support::text(&refused.stderr));

    // Upstream's way, by a setting: it waits.
    lab.kill();
    lab.up_with(&["--runtime-class-failure-policy", "Retry"]);
    pod(&lab, "waits", "nowhere", "{}");
    wait("it is told", || lab.events("waits").iter().any(|(reason, _)| reason == "FailedCreatePodSandBox"));
    let waits = lab.get("pod", "waits").unwrap();
    assert_eq!(waits["status"]["phase"], "Pending");
    assert_eq!(waits["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    assert_eq!(lab.get("pod", "lost").unwrap()["status"]["phase"], "Failed", "what has ended stays ended");
    lab.down(true);
}

#[test]
fn rtc_53_54_nodes_that_offer_a_handler_are_preferred_to_those_that_do_not() {
    let lab = Lab::new("class-nodes", 63);
    lab.up();
    // Nodes that only the API knows: with lists of handlers, and one of an older kind without.
    let node = |name: &str, handlers: Value, label: &str| {
        lab.apply(
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kind": label}}})
                .to_string(),
        );
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hollow"}]);
        let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": ready, "runtimeHandlers": handlers}});
        lab.ask(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status.to_string()]);
    };
    node("plain-1", json!([{"name": ""}, {"name": "runc"}]), "plain");
    node("plain-2", json!([{"name": ""}, {"name": "runc"}]), "plain");
    node("virtual", json!([{"name": ""}, {"name": "runc"}, {"name": "kata"}]), "virtual");
    class(&lab, "vm", "kata", "");
    class(&lab, "exotic", "nobody-has-this", "");
    class(
        &lab,
        "placed",
        "kata",
        "scheduling: {nodeSelector: {kind: plain}, tolerations: [{key: vm, operator: Exists}]}\n",
    );
    let placed = |name: &str| {
        let pod = lab.pod_when(name, "bound or refused", |pod| {
            pod["spec"]["nodeName"].is_string() || pod["status"]["conditions"][0]["reason"] == "Unschedulable"
        });
        pod["spec"]["nodeName"]
            .as_str()
            .map_or_else(|| pod["status"]["conditions"][0]["message"].as_str().unwrap().to_owned(), Into::into)
    };
    // Without `scheduling`, the list alone leads there.
    for nth in 0..6 {
        pod(&lab, &format!("vm-{nth}"), "vm", "{}");
        assert_eq!(placed(&format!("vm-{nth}")), "virtual");
    }
    // Nobody has it: it is placed all the same, and fails where it lands.
    pod(&lab, "exotic", "exotic", "{}");
    assert!(!placed("exotic").contains("nodes are available"));
    // The selector of the class and the list of handlers leave no node: that is said, node by node.
    pod(&lab, "nowhere", "placed", "{}");
    let text = placed("nowhere");
    assert!(text.contains("2 node(s) didn't offer the runtime handler \"kata\""), "{text}");
    assert!(text.contains("2 node(s) didn't match Pod's node affinity/selector"), "{text}");
    // RTC-53: an edit of the class does not change the pod; only a pod made anew has it.
    class(&lab, "placed", "kata", "scheduling: {nodeSelector: {kind: virtual}}\n");
    assert!(placed("nowhere").contains("nodes are available"));
    assert_eq!(lab.get("pod", "nowhere").unwrap()["spec"]["nodeSelector"], json!({"kind": "plain"}));
    lab.ask(&["delete", "pod", "nowhere", "--force"]);
    pod(&lab, "nowhere", "placed", "{}");
    assert_eq!(placed("nowhere"), "virtual");
    lab.ask(&["delete", "node", "plain-1", "plain-2", "virtual"]);
    lab.down(true);
}
