//! Eviction on real parts: a small disk that fills up, memory that is never enough; registry, runc, kubectl.
#![allow(clippy::disallowed_methods)]

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::{Lab, condition, free_port, text, wait};
use xtask::registry::Registry;
use xtask::{image, shell};

const MI: u64 = 1 << 20;
/// The small disk, and what must be left on it.
const DISK_MI: u64 = 320;
const LEFT_MI: u64 = 96;

/// An instance, perhaps on a small file system of its own, and an open registry beside it.
struct Story {
    lab: Lab,
    registry: Registry,
    disk: Option<PathBuf>,
    beside: PathBuf,
}

impl Story {
    /// On a small disk.
    fn on_a_disk(name: &str) -> Story {
        let disk = PathBuf::from(format!("/var/tmp/sampan-test-{name}"));
        let story = Story::with(Lab::bare(&disk), Some(disk.clone()), name);
        std::fs::create_dir_all(&disk).unwrap();
        let size = format!("size={DISK_MI}m");
        shell::run("mount", &["-t", "tmpfs", "-o", &size, "sampan-test", disk.to_str().unwrap()]).unwrap();
        story
    }

    fn with(lab: Lab, disk: Option<PathBuf>, name: &str) -> Story {
        let beside = PathBuf::from(format!("/var/tmp/sampan-test-{name}-beside"));
        let registry = Registry::open(&beside.join("registry"), free_port());
        let story = Story { lab, registry, disk, beside };
        story.clean();
        story.registry.ensure().unwrap();
        story
    }

    fn clean(&self) {
        if let Some(disk) = self.disk.as_ref().filter(|disk| disk.exists()) {
            let _ = self.lab.sampan(&["down", "--purge"]);
            let _ = shell::run("umount", &["-l", disk.to_str().unwrap()]);
            let _ = std::fs::remove_dir_all(disk);
        }
        let _ = self.registry.stop();
        let _ = std::fs::remove_dir_all(&self.beside);
    }

    /// Pushes an image with a page of so many incompressible mebibytes; its name.
    fn push(&self, name: &str, page_mi: u64) -> String {
        let layout = self.beside.join("made");
        image::layout_with_page(&layout, &noise(page_mi * MI)).unwrap();
        self.registry.push(&layout, name).unwrap();
        std::fs::remove_dir_all(&layout).unwrap();
        format!("{}/{name}", self.registry.address)
    }

    fn node(&self) -> Value {
        let list: Value = serde_json::from_str(&self.lab.ask(&["get", "nodes", "-o", "json"])).unwrap();
        list["items"][0].clone()
    }

    fn pressure(&self, kind: &str) -> bool {
        condition(&self.node(), kind) == Some("True")
    }

    fn is_tainted(&self, key: &str) -> bool {
        let node = self.node();
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.iter().any(|taint| taint["key"] == key && taint["effect"] == "NoSchedule")
    }

    fn has_image(&self, name: &str) -> bool {
        text(&self.lab.sampan(&["images", "ls", "-o", "name"]).stdout).contains(name)
    }

    fn must(&self, words: &[&str]) {
        let output = self.lab.sampan(words);
        assert!(output.status.success(), "sampan {}: {}", words.join(" "), text(&output.stderr));
    }

    fn available(&self) -> u64 {
        let fs = rustix::fs::statvfs(self.lab.data_dir()).unwrap();
        fs.f_bavail * fs.f_frsize
    }

    /// Has a pod write so many mebibytes into a file of its own.
    fn fill(&self, pod: &str, file: &str, mebibytes: u64) {
        let (of, count) = (format!("of=/{file}"), format!("count={mebibytes}"));
        self.lab.ask(&["exec", pod, "--", "dd", "if=/dev/zero", &of, "bs=1M", &count]);
    }

    /// The pod as it is once it has failed.
    fn failed(&self, name: &str) -> Value {
        self.lab.pod_when(name, "Failed", |pod| pod["status"]["phase"] == "Failed")
    }

    fn is_running(&self, name: &str) -> bool {
        self.lab.get("pod", name).is_some_and(|pod| condition(&pod, "Ready") == Some("True"))
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.lab.data_dir().join("sampan.log")).unwrap_or_default();
            eprintln!("--- log of the instance ---\n{}", &log[log.len().saturating_sub(6000)..]);
        }
        self.clean();
    }
}

/// Letters that do not compress much, always the same ones.
fn noise(length: u64) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let letters = (0..length).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + (state >> 32) as u8 % 64)
    });
    letters.collect()
}

fn pod(name: &str, image: &str, change: Value) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": image, "command": ["sleep", "3600"]}],
        },
    });
    for (field, value) in change["spec"].as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod.to_string()
}

/// What stands between two texts.
fn between<'a>(message: &'a str, before: &str, after: &str) -> &'a str {
    let start = message.find(before).unwrap_or_else(|| panic!("no {before:?} in {message:?}")) + before.len();
    let length = message[start..].find(after).unwrap_or_else(|| panic!("no {after:?} in {message:?}"));
    &message[start..start + length]
}

fn bytes(quantity: &str) -> u64 {
    let end = quantity.find(|c: char| !c.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(end);
    let scale = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => MI,
        "Gi" => 1 << 30,
        other => panic!("{other} in {quantity}"),
    };
    number.parse::<u64>().unwrap() * scale
}

fn at(time: &Value) -> jiff::Timestamp {
    time.as_str().unwrap().parse().unwrap()
}

/// IMG-265, HOOK-93, RTC-70, TR-15.
#[test]
fn a_full_disk_costs_unused_images_first_and_then_the_pod_that_uses_most_beyond_its_request() {
    let story = Story::on_a_disk("eviction-disk");
    let signal = format!("imagefs.available<{LEFT_MI}Mi");
    let hard = ["--eviction-hard", &signal, "--eviction-pressure-transition-period", "15s"];
    let collection = ["--image-gc-high-threshold", "100", "--image-minimum-gc-age", "0"];
    story.lab.up_with(&[&hard[..], &collection].concat());
    let app = story.push("open/app:1", 1);
    let kept = story.push("open/kept:1", 12);
    let spare = story.push("open/spare:1", 24);
    story.must(&["images", "pull", &kept]);
    story.must(&["images", "pin", &kept]);
    let before = story.available();
    story.must(&["images", "pull", &spare]);
    let spare_takes = before - story.available();
    assert!(spare_takes > 20 * MI, "{spare_takes}");
    let request = json!([{"name": "c", "image": app, "command": ["sleep", "3600"],
        "resources": {"requests": {"ephemeral-storage": "64Mi"}}}]);
    story.lab.apply(&pod("modest", &app, json!({"spec": {"containers": request}})));
    let hook = json!([{"name": "c", "image": app, "command": ["sleep", "3600"],
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "40"]}}}}]);
    let spec = json!({"terminationGracePeriodSeconds": 60, "containers": hook});
    story.lab.apply(&pod("greedy", &app, json!({"spec": spec})));
    for name in ["modest", "greedy"] {
        story.lab.ready(name);
    }
    assert!(!story.pressure("DiskPressure"));

    // Enough is to be had from the image that nobody uses.
    story.fill("modest", "own", 16);
    let write = story.available() + spare_takes / 2 - LEFT_MI * MI;
    story.fill("greedy", "first", write / MI);
    wait("the unused image is gone", || !story.has_image("open/spare:1"));
    wait("the pressure is shown", || story.pressure("DiskPressure"));
    wait("the node is tainted", || story.is_tainted("node.kubernetes.io/disk-pressure"));
    assert!(story.has_image("open/kept:1") && story.has_image("open/app:1"), "pinned and used images stay");
    wait("the pressure has gone", || !story.pressure("DiskPressure"));
    wait("the taint has gone", || !story.is_tainted("node.kubernetes.io/disk-pressure"));
    assert!(story.is_running("greedy") && story.is_running("modest"), "no pod had to go");
    assert!(story.available() >= LEFT_MI * MI);

    // Now only a pod can give something.
    let write = story.available() - (LEFT_MI - 16) * MI;
    story.fill("greedy", "second", write / MI);
    let greedy = story.failed("greedy");
    the_evicted_pod_says_why(&story, &greedy);
    wait("the pressure has gone", || !story.pressure("DiskPressure"));
    assert!(story.available() >= LEFT_MI * MI, "what the pod wrote is free again");
    assert!(story.has_image("open/kept:1") && story.is_running("modest"));
    for (reason, message) in [
        ("EvictionThresholdMet", "Attempting to reclaim ephemeral-storage"),
        ("NodeHasDiskPressure", "NodeHasDiskPressure"),
        ("NodeHasNoDiskPressure", "NodeHasNoDiskPressure"),
    ] {
        story.lab.told(story.node()["metadata"]["name"].as_str().unwrap(), reason, message);
    }
    wait("the taint has gone", || !story.is_tainted("node.kubernetes.io/disk-pressure"));
    story.lab.apply(&pod("next", &app, json!({})));
    story.lab.ready("next");
    story.lab.down(true);
}

fn the_evicted_pod_says_why(story: &Story, greedy: &Value) {
    let status = &greedy["status"];
    assert_eq!(status["reason"], "Evicted");
    let message = status["message"].as_str().unwrap();
    let available = between(message, "available: ", ". ");
    let used = between(message, "was using ", ", ");
    assert_eq!(
        message,
        format!(
            "The node was low on resource: ephemeral-storage. Threshold quantity: {LEFT_MI}Mi, available: {available}. \
             Container c was using {used}, request is 0, has larger consumption of ephemeral-storage. "
        )
    );
    assert!(bytes(available) < LEFT_MI * MI && bytes(used) > 32 * MI, "{message}");
    let told = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("TerminationByKubelet")));
    assert_eq!(told["message"], message);
    let events: Value = serde_json::from_str(&story.lab.ask(&["get", "events", "-o", "json"])).unwrap();
    let event = events["items"].as_array().unwrap().iter().find(|event| event["reason"] == "Evicted").unwrap().clone();
    assert_eq!((&event["type"], &event["message"]), (&json!("Warning"), &status["message"]));
    assert_eq!(event["involvedObject"]["name"], "greedy");
    let notes = &event["metadata"]["annotations"];
    assert_eq!(
        (&notes["offending_containers"], &notes["starved_resource"]),
        (&json!("c"), &json!("ephemeral-storage"))
    );
    assert_eq!(notes["offending_containers_usage"], used);
    // The hook would have taken forty seconds: it gets one, and the process, which never heeds its signal, two.
    let ended = at(&status["containerStatuses"][0]["state"]["terminated"]["finishedAt"]);
    let took = ended.duration_since(at(&event["firstTimestamp"])).as_secs();
    assert!(took < 30, "the hook gets a second of the grace, not its own forty: {took} s");
}

/// HOOK-93, RTC-70: the threshold is beyond what the machine has, so that every round finds memory short.
#[test]
fn memory_that_is_never_enough_costs_one_pod_after_the_other_but_no_critical_one() {
    let story = Story::with(Lab::new("eviction-memory", 145), None, "eviction-memory");
    story.lab.up_with(&["--eviction-hard", ""]);
    let app = story.push("open/app:1", 1);
    let with = |priority: Option<&str>, memory: Option<&str>| {
        let requests = memory.map_or(json!({}), |memory| json!({"memory": memory}));
        let container =
            json!({"name": "c", "image": app, "command": ["sleep", "3600"], "resources": {"requests": requests}});
        json!({"spec": {"priorityClassName": priority, "containers": [container]}})
    };
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"},
        "value": 1000});
    story.lab.apply(&class.to_string());
    let critical = pod("critical", &app, with(Some("system-node-critical"), None));
    let output = story.lab.kubectl_with(&["apply", "-n", "kube-system", "-f", "-"], &critical);
    assert!(output.status.success(), "{}", text(&output.stderr));
    story.lab.apply(&pod("greedy", &app, with(Some("high"), None)));
    story.lab.apply(&pod("modest", &app, with(None, Some("256Mi"))));
    for name in ["greedy", "modest"] {
        story.lab.ready(name);
    }
    let critical = || -> Value {
        serde_json::from_str(&story.lab.ask(&["get", "pod", "critical", "-n", "kube-system", "-o", "json"])).unwrap()
    };
    wait("the critical pod runs", || condition(&critical(), "Ready") == Some("True"));
    story.lab.kill();

    story.lab.up_with(&["--eviction-hard", "memory.available<99.9%"]);
    let greedy = story.failed("greedy");
    wait("the pressure is shown", || story.pressure("MemoryPressure"));
    assert!(!story.pressure("DiskPressure"));
    let message = greedy["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: "), "{message}");
    let used = between(message, "Container c was using ", ", ");
    assert!(
        message.ends_with(&format!("was using {used}, request is 0, has larger consumption of memory. ")),
        "{message}"
    );
    assert!((1..64 * MI).contains(&bytes(used)), "{message}");

    let modest = story.failed("modest");
    let ended = |pod: &Value| at(&pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]);
    assert!(ended(&greedy) <= ended(&modest), "one pod a round, and the one beyond its request first");
    let message = modest["status"]["message"].as_str().unwrap();
    assert!(!message.contains("Container c"), "it kept to its request: {message}");
    assert_eq!((&modest["status"]["reason"], &greedy["status"]["reason"]), (&json!("Evicted"), &json!("Evicted")));

    // Nobody new who asks for nothing is let in, however he comes.
    wait("the node is tainted", || story.is_tainted("node.kubernetes.io/memory-pressure"));
    let node = story.node()["metadata"]["name"].clone();
    story.lab.apply(&pod("pushed", &app, json!({"spec": {"nodeName": node}})));
    let pushed = story.failed("pushed");
    assert_eq!(pushed["status"]["reason"], "Evicted");
    assert_eq!(pushed["status"]["message"], "Pod was rejected: The node had condition: [MemoryPressure]. ");
    assert_eq!(condition(&critical(), "Ready"), Some("True"));
    story.lab.down(true);
}
