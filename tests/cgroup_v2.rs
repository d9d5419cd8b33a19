//! The main job on cgroup v2 alone, in a virtual machine: what most users have and this project's machines have not.
//!
//! The host's test builds the machine and starts this very binary again inside it, where the `…in_the_guest` tests run.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cri::v1::{ListContainerStatsRequest, ListPodSandboxStatsRequest};
use serde_json::Value;
use support::{Lab, Machine, text, wait};
use xtask::vm::image::{Image, Program};
use xtask::vm::{Job, run};

/// What the lab and sampan start.
const PROGRAMS: &[&str] = &[
    "runc",
    "crun",
    "docker-registry",
    "skopeo",
    "htpasswd",
    "kubectl",
    "nft",
    "ip",
    "tar",
    "gzip",
    "find",
    "unshare",
];

fn in_a_guest(name: &str, tests: &str) {
    let own = std::env::current_exe().unwrap();
    let sampan = PathBuf::from(env!("CARGO_BIN_EXE_sampan"));
    let mut programs: Vec<Program> = PROGRAMS.iter().map(|name| Program::Named(name)).collect();
    programs.extend([Program::Built(&own), Program::Built(&sampan)]);
    let began = Instant::now();
    let image = Image::build(name, &programs).unwrap();
    eprintln!("image after {:?}", began.elapsed());
    let script = format!("set -e; for t in {tests}; do {} --exact $t --ignored --nocapture; done", own.display());
    let done = run(&image, &Job { memory_mb: 3072, ..Job::new(&script, Duration::from_secs(280)) }).unwrap();
    assert_eq!(done.code, 0, "in the guest:\n{}", done.text);
    eprintln!("{}\ndone after {:?}", done.text, began.elapsed());
}

#[test]
fn the_main_job_works_on_cgroup_v2_alone_with_runc() {
    in_a_guest("v2-runc", "check_in_the_guest the_main_job_with_runc_in_the_guest");
}

#[test]
fn the_main_job_works_on_cgroup_v2_alone_with_crun() {
    in_a_guest("v2-crun", "the_main_job_with_crun_in_the_guest");
}

#[test]
#[ignore = "runs in the guest that the test above starts"]
fn the_main_job_with_runc_in_the_guest() {
    main_job("runc");
}

#[test]
#[ignore = "runs in the guest that the test above starts"]
fn the_main_job_with_crun_in_the_guest() {
    main_job("crun");
}

/// A Pod of each class, and one that eats more memory than it may.
fn manifests(image: &str) -> String {
    let pod = |name: &str, resources: &str, command: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  restartPolicy: Never\n  \
             imagePullSecrets: [{{name: regcred}}]\n  containers:\n  - name: c\n    image: {image}\n    command: [sh, -c, '{command}']\n    \
             resources: {resources}\n    volumeMounts: [{{name: m, mountPath: /m}}]\n  \
             volumes: [{{name: m, emptyDir: {{medium: Memory, sizeLimit: 24Mi}}}}]\n---\n"
        )
    };
    let stay = "trap \"exit 0\" TERM; while true; do sleep 0.2; done";
    [
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: heavy}\nhandler: docker\n\
         overhead: {podFixed: {cpu: 200m, memory: 140Mi}}\n---\n"
            .into(),
        pod("firm", "{limits: {cpu: 500m, memory: 64Mi}}", stay),
        pod("loaded", "{limits: {cpu: 100m, memory: 100Mi}}", stay).replacen(
            "spec:\n",
            "spec:\n  runtimeClassName: heavy\n",
            1,
        ),
        pod("burst", "{requests: {cpu: 250m, memory: 16Mi}, limits: {memory: 96Mi}}", stay),
        pod("effort", "{}", stay),
        pod("eater", "{limits: {memory: 32Mi}}", "dd if=/dev/zero of=/dev/null bs=100M count=1; sleep 600"),
    ]
    .concat()
}

/// A pod's cgroup and its only container's.
fn cgroups(pod: &Value) -> (PathBuf, PathBuf) {
    let name = format!("pod{}", pod["metadata"]["uid"].as_str().unwrap());
    let found = xtask::shell::output("find", &["/sys/fs/cgroup", "-name", &name], "").unwrap();
    let path = PathBuf::from(found.trim());
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().rsplit('/').next().unwrap();
    let container = path.join(id);
    assert!(container.is_dir(), "{} is no cgroup", container.display());
    (path, container)
}

fn read(cgroup: &Path, file: &str) -> String {
    let path = cgroup.join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

fn class_of(pod: &Path) -> &str {
    pod.parent().unwrap().file_name().unwrap().to_str().unwrap()
}

/// RTC-63 to RTC-67 on version 2's files.
fn limits_are_as_the_rules_say(lab: &Lab) {
    let (firm, inner) = cgroups(&lab.ready("firm"));
    assert_eq!(class_of(&firm), "kubepods");
    for cgroup in [&firm, &inner] {
        assert_eq!(read(cgroup, "cpu.max"), "50000 100000");
        assert_eq!(read(cgroup, "memory.max"), (64u64 << 20).to_string());
        assert_eq!(read(cgroup, "pids.max"), "max");
    }
    assert_eq!(read(&firm, "cpu.weight"), "20", "512 shares");
    // Newer OCI runtimes spread shares over weights by a curve.
    assert!(["20", "59"].contains(&&*read(&inner, "cpu.weight")), "{}", read(&inner, "cpu.weight"));
    assert_eq!(read(&inner, "memory.oom.group"), "1");
    for controller in ["cpu", "memory", "pids"] {
        assert!(read(&firm, "cgroup.subtree_control").contains(controller), "{controller} is not passed down");
    }

    let (burst, inner) = cgroups(&lab.ready("burst"));
    assert_eq!(class_of(&burst), "burstable");
    assert_eq!([read(&burst, "cpu.weight"), read(&burst, "cpu.max")], ["10", "max 100000"], "256 shares, no quota");
    assert_eq!(read(&burst, "memory.max"), (96u64 << 20).to_string());
    assert_eq!(read(&inner, "memory.max"), (96u64 << 20).to_string());
    let class = burst.parent().unwrap();
    assert_eq!(read(class, "cpu.weight"), "10", "the class weighs what its pods ask for");

    // With overhead: on the pod's cgroup, not on its container's.
    let (loaded, inner) = cgroups(&lab.ready("loaded"));
    assert_eq!(
        [read(&loaded, "cpu.max"), read(&loaded, "memory.max")],
        ["30000 100000".into(), (240u64 << 20).to_string()]
    );
    assert_eq!(read(&loaded, "cpu.weight"), "12", "307 shares");
    assert_eq!(
        [read(&inner, "cpu.max"), read(&inner, "memory.max")],
        ["10000 100000".into(), (100u64 << 20).to_string()]
    );

    let (effort, _) = cgroups(&lab.ready("effort"));
    assert_eq!(class_of(&effort), "besteffort");
    assert_eq!([read(&effort, "cpu.weight"), read(&effort, "memory.max")], ["1", "max"]);
    assert_eq!(read(effort.parent().unwrap(), "cpu.weight"), "1");
}

/// What a container sees and is charged for.
fn a_container_lives_in_its_cgroup(lab: &Lab) {
    let write = "cat /proc/self/cgroup; cat /sys/fs/cgroup/memory.max; dd if=/dev/zero of=/m/f bs=1M count=12 2>/dev/null; stat -f -c %T /m; id -u";
    let said = lab.ask(&["exec", "firm", "--", "sh", "-c", write]);
    assert_eq!(said.lines().collect::<Vec<_>>(), ["0::/", "67108864", "tmpfs", "0"]);
    let (_, container) = cgroups(&lab.ready("firm"));
    let stat = read(&container, "memory.stat");
    let shared: u64 = stat.lines().find_map(|line| line.strip_prefix("shmem ")).unwrap().parse().unwrap();
    assert!(shared >= 12 << 20, "files in memory are charged to who wrote them: {shared}");
    let read_only = lab.kubectl(&["exec", "firm", "--", "sh", "-c", "echo 1 > /sys/fs/cgroup/pids.max"]);
    assert!(!read_only.status.success(), "a container changed its own limits");
}

fn too_much_memory_is_told_as_such(lab: &Lab) {
    let eater = lab.pod_when("eater", "ended", |pod| pod["status"]["phase"] == "Failed");
    let ended = &eater["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["reason"], "OOMKilled", "{ended}");
    assert_eq!(ended["exitCode"], 137, "{ended}");
}

fn stats_are_read_from_version_2(lab: &Lab) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (containers, sandboxes) = runtime.block_on(async {
        let mut client = cri::connect(&lab.run_dir().join("cri.sock")).await.unwrap();
        let containers = client.runtime.list_container_stats(ListContainerStatsRequest::default()).await.unwrap();
        let sandboxes = client.runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).await.unwrap();
        (containers.into_inner().stats, sandboxes.into_inner().stats)
    });
    let firm = |labels: &std::collections::BTreeMap<String, String>| labels["io.kubernetes.pod.name"] == "firm";
    let container = containers.into_iter().find(|c| firm(&c.attributes.as_ref().unwrap().labels)).unwrap();
    assert!(container.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    let memory = container.memory.unwrap();
    let used = memory.working_set_bytes.unwrap().value;
    assert!((12 << 20..64 << 20).contains(&used), "{used}");
    assert_eq!(memory.available_bytes.unwrap().value, (64 << 20) - used);
    assert!(memory.rss_bytes.unwrap().value > 0 && memory.page_faults.unwrap().value > 0);
    let sandbox = sandboxes.into_iter().find(|s| firm(&s.attributes.as_ref().unwrap().labels)).unwrap();
    let linux = sandbox.linux.unwrap();
    assert!(linux.process.unwrap().process_count.unwrap().value > 0);
    assert!(linux.memory.unwrap().working_set_bytes.unwrap().value >= 12 << 20);
    assert!(linux.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
}

fn line_about<'a>(report: &'a str, subject: &str) -> &'a str {
    report.lines().find(|line| line[4..].trim_start().starts_with(subject)).unwrap_or_else(|| panic!("{report}"))
}

/// Runs `sampan check` in a cgroup namespace whose root holds processes, as containers have it.
fn check_when_nested() -> String {
    let sampan = env!("CARGO_BIN_EXE_sampan");
    let script = format!(
        "set -e; mkdir -p /sys/fs/cgroup/box; echo $$ > /sys/fs/cgroup/box/cgroup.procs; \
         /usr/bin/unshare -C -m sh -c 'umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; {sampan} check || true; {sampan} up --detach 2>&1 || true'; \
         echo $$ > /sys/fs/cgroup/cgroup.procs; rmdir /sys/fs/cgroup/box"
    );
    xtask::shell::output("sh", &["-c", &script], "").unwrap()
}

fn check_says_the_truth(lab: &Lab) {
    let report = text(&lab.sampan(&["check"]).stdout);
    let cgroups = line_about(&report, "cgroups");
    assert!(cgroups.starts_with("ok") && cgroups.contains("passed to pods:"), "{cgroups}");
    for controller in ["cpu", "memory", "pids"] {
        assert!(cgroups.split("passed to pods:").nth(1).unwrap().contains(controller), "{cgroups}");
    }
    for handler in ["runc", "crun"] {
        assert!(report.lines().any(|l| l.starts_with("ok") && l.contains(handler) && l.contains("ran")), "{report}");
    }
}

#[test]
#[ignore = "runs in the guest"]
fn check_in_the_guest() {
    let lab = Lab::new("v2-check", 1);
    let report = text(&lab.sampan(&["check"]).stdout);
    let cgroups = line_about(&report, "cgroups");
    assert!(cgroups.starts_with("ok") && cgroups.contains("up turns them on"), "{cgroups}");
    // Controllers that nobody passes down cannot be had by a child either.
    std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids").unwrap();
    let nested = check_when_nested();
    let cgroups = line_about(&nested, "cgroups");
    assert!(cgroups.starts_with("FAIL") && cgroups.contains("cpu, memory, pids cannot be passed to pods"), "{nested}");
    assert!(nested.contains("sampan cannot start here") && !Path::new("/run/sampan").exists(), "{nested}");
    std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "-cpu -memory -pids").unwrap();
}

fn main_job(handler: &'static str) {
    let mut lab = Lab::new("v2", 1);
    lab.handler = handler;
    let before = Machine::look();
    let mut began = Instant::now();
    let mut step = |what: &str| {
        eprintln!("{what}: {:?}", began.elapsed());
        began = Instant::now();
    };
    lab.up();
    step("up");
    lab.right_secret();
    step("secret");
    lab.apply(&manifests(&lab.image()));
    step("apply");
    let first = lab.ready("firm");
    step("ready");
    limits_are_as_the_rules_say(&lab);
    step("limits");
    a_container_lives_in_its_cgroup(&lab);
    step("exec");
    too_much_memory_is_told_as_such(&lab);
    step("oom");
    stats_are_read_from_version_2(&lab);
    step("stats");

    lab.kill();
    let (_, container) = cgroups(&first);
    assert!(!read(&container, "cgroup.procs").is_empty(), "the container ended with sampan");
    lab.up();
    step("kill and up");
    let again = lab.ready("firm");
    let status = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    assert_eq!(status(&first)["containerID"], status(&again)["containerID"], "the container ran on");
    assert_eq!(status(&again)["restartCount"], 0);
    let (pod, _) = cgroups(&again);
    lab.ask(&["delete", "pod", "firm", "burst", "loaded"]);
    assert!(!pod.exists(), "the cgroup of a deleted pod is left");
    wait("the class weighs nothing again", || read(&pod.parent().unwrap().join("burstable"), "cpu.weight") == "1");
    step("delete");
    check_says_the_truth(&lab);
    lab.down(true);
    before.assert_back();
    step("down");
}
