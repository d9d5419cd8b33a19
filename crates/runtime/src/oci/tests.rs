//! Documents of containers as a whole.

use super::*;
use cri::v1::{Int64Value, LinuxContainerConfig, Mount, SecurityProfile};

/// Annotations that the handler of the tests passes through.
const TOLD: [(&str, &str); 2] = [("dev.example/mode", "fast"), ("io.kubernetes.cri.sandbox-name", "another")];

fn check(config: ContainerConfig, image: images::ImageConfig, expect: impl FnOnce(&Value)) {
    let machine = Machine {
        capabilities: capabilities::of_mask(0x1ff_feff_ffff),
        oom_score_floor: Some(0),
        ..Machine::default()
    };
    let sandbox = PodSandboxConfig::default();
    let inputs = Inputs {
        config: &config,
        sandbox: &sandbox,
        image: &image,
        machine: &machine,
        identity: Identity::default(),
        rootfs: "/r".into(),
        volumes: [(1, PathBuf::from("/run/volumes/1"))].into(),
        cgroup: "/pod/c".into(),
        namespaces: Namespaces { network: Some("/proc/7/ns/net".into()), ..Namespaces::default() },
        shm: "/s/shm".into(),
        sandbox_files: "/s".into(),
        hostname: "h".into(),
        devices: Vec::new(),
        localhost_seccomp: None,
        annotations: BTreeMap::from(TOLD.map(|(key, value)| (key.into(), value.into()))),
    };
    expect(&spec(&inputs).unwrap());
}

#[test]
fn annotations_that_pass_through_are_told_and_cannot_take_the_place_of_ours() {
    check(ContainerConfig::default(), image(), |document| {
        assert_eq!(document["annotations"]["dev.example/mode"], "fast");
        assert_eq!(document["annotations"]["io.kubernetes.cri.sandbox-name"], "");
    });
}

fn image() -> images::ImageConfig {
    images::ImageConfig {
        entrypoint: vec!["/entry".into()],
        cmd: vec!["a".into()],
        env: vec!["PATH=/x".into(), "A=1".into()],
        working_dir: "/work".into(),
        ..Default::default()
    }
}

fn secured(security: LinuxContainerSecurityContext) -> ContainerConfig {
    let linux = LinuxContainerConfig { security_context: Some(security), resources: None };
    ContainerConfig { linux: Some(linux), ..Default::default() }
}

#[test]
fn the_image_is_run_as_it_says() {
    check(ContainerConfig::default(), image(), |spec| {
        assert_eq!(spec["process"]["args"], json!(["/entry", "a"]));
        assert_eq!(spec["process"]["env"], json!(["PATH=/x", "HOSTNAME=h", "A=1"]));
        assert_eq!(spec["process"]["cwd"], "/work");
        assert_eq!(spec["process"].get("rlimits"), None);
        assert_eq!(spec["process"].get("oomScoreAdj"), None);
    });
}

#[test]
fn a_command_drops_the_images_arguments() {
    check(ContainerConfig { command: vec!["sh".into()], ..Default::default() }, image(), |spec| {
        assert_eq!(spec["process"]["args"], json!(["sh"]));
    });
    check(ContainerConfig { args: vec!["b".into()], ..Default::default() }, image(), |spec| {
        assert_eq!(spec["process"]["args"], json!(["/entry", "b"]));
    });
}

#[test]
fn a_privileged_container_has_no_masks_and_no_filter() {
    let seccomp = Some(SecurityProfile::default());
    let security = LinuxContainerSecurityContext { privileged: true, seccomp, ..Default::default() };
    check(secured(security), image(), |spec| {
        assert_eq!(spec["linux"].get("maskedPaths"), None);
        assert_eq!(spec["linux"].get("seccomp"), None);
        assert_eq!(spec["linux"]["resources"]["devices"], json!([{ "allow": true, "access": "rwm" }]));
    });
}

#[test]
fn what_is_not_asked_for_is_not_there() {
    let user = Some(Int64Value { value: 1 });
    check(secured(LinuxContainerSecurityContext { run_as_user: user, ..Default::default() }), image(), |spec| {
        assert_eq!(spec.get("hostname"), None);
        assert_eq!(spec.get("hooks"), None);
        assert_eq!(spec["linux"]["resources"].get("memory"), None);
        assert_eq!(spec["root"]["readonly"], false);
        let kinds: Vec<&str> =
            spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["mount", "pid", "network"]);
    });
}

#[test]
fn own_mounts_replace_defaults_and_parents_come_first() {
    let mount = |target: &str| Mount { container_path: target.into(), host_path: "/h".into(), ..Default::default() };
    let mounts = vec![mount("/data/deep"), mount("/etc/hostname"), mount("/data")];
    check(ContainerConfig { mounts, ..Default::default() }, image(), |spec| {
        let targets: Vec<&str> =
            spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
        assert_eq!(targets.iter().filter(|target| **target == "/etc/hostname").count(), 1);
        assert_eq!(targets[targets.len() - 3..], ["/data", "/data/deep", "/etc/hostname"]);
    });
}

#[test]
fn an_image_volume_is_bound_where_it_is_asked_for_and_has_no_power() {
    let mount = |path: &str| Mount { container_path: path.into(), host_path: "/h".into(), ..Default::default() };
    let config = ContainerConfig { mounts: vec![mount("/a/b"), mount("/data/")], ..Default::default() };
    check(config, image(), |spec| {
        let all = spec["mounts"].as_array().unwrap();
        let found = all.iter().find(|mount| mount["destination"] == "/data").unwrap();
        assert_eq!(found["source"], "/run/volumes/1");
        assert_eq!(found["options"], json!(["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"]));
        assert_eq!(all.iter().find(|mount| mount["destination"] == "/a/b").unwrap()["source"], "/h");
    });
}
