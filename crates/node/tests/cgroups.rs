//! The cgroup tree on the real kernel. Needs root.
#![allow(clippy::disallowed_methods)] // A process of our own is what the cgroup must be able to kill.

use node::{cgroups::Cgroups, object::Pod};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

fn pod(uid: &str, resources: serde_json::Value) -> Pod {
    serde_json::from_value(json!({ "metadata": { "uid": uid },
        "spec": { "containers": [{ "name": "c", "resources": resources }] } }))
    .unwrap()
}

/// The directories of a cgroup in all hierarchies.
fn directories(path: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = table.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    mounts.map(|point| Path::new(point).join(path.trim_start_matches('/'))).filter(|d| d.is_dir()).collect()
}

fn read(path: &str, file: &str) -> Option<String> {
    let found = directories(path).into_iter().map(|d| d.join(file)).find(|f| f.exists())?;
    Some(fs::read_to_string(found).unwrap().trim().to_owned())
}

fn sleeper(path: &str) -> Child {
    let child = Command::new("/bin/busybox").args(["sleep", "600"]).spawn().unwrap();
    let inner = format!("{path}/container");
    for directory in directories(path) {
        fs::create_dir_all(directory.join("container")).unwrap();
    }
    for directory in directories(&inner) {
        fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    child
}

/// Where v1 rules, what v2 passes down could not be mounted on v1 any more (crun wants hugetlb there).
fn nothing_is_bound_to_version_2_beside_version_1() {
    let unified = Path::new("/sys/fs/cgroup/unified/cgroup.subtree_control");
    if unified.exists() {
        assert_eq!(fs::read_to_string(unified).unwrap().trim(), "");
    }
}

#[tokio::test]
async fn a_pods_cgroup_has_its_limits_and_is_removed_with_what_runs_in_it() {
    assert!(rustix::process::geteuid().is_root(), "this test makes real cgroups and must run as root");
    let top = format!("/sampan-test-{}", std::process::id());
    let cgroups = Cgroups::new(&top, 2000).unwrap();
    let firm = json!({ "limits": { "cpu": "500m", "memory": "64Mi" } });
    let path = cgroups.ensure(&pod("a", firm.clone())).unwrap();
    assert_eq!(path, format!("{top}/kubepods/poda"));
    assert_eq!(cgroups.ensure(&pod("a", firm)).unwrap(), path, "making it again changes nothing");
    let quota = read(&path, "cpu.cfs_quota_us").or_else(|| read(&path, "cpu.max"));
    assert!(quota.is_none_or(|q| q.starts_with("50000")), "quota");
    let memory = read(&path, "memory.limit_in_bytes").or_else(|| read(&path, "memory.max"));
    assert!(memory.is_none_or(|m| m == (64 << 20).to_string()), "memory limit");
    nothing_is_bound_to_version_2_beside_version_1();
    cgroups.ensure(&pod("b", json!({ "requests": { "cpu": "250m" } }))).unwrap();
    let weight = read(&format!("{top}/kubepods/burstable"), "cpu.shares");
    assert!(weight.is_none_or(|w| w == "256"), "the burstable class weighs what its pods ask for");
    // RTC-67: what the pods of the class ask for counts with their overhead.
    let mut heavy = pod("heavy", json!({ "requests": { "cpu": "100m" } }));
    heavy.spec.overhead.insert("cpu".into(), "650m".into());
    cgroups.ensure(&heavy).unwrap();
    let weight = read(&format!("{top}/kubepods/burstable"), "cpu.shares");
    assert!(weight.is_none_or(|w| w == "1024"), "250m, and 100m with 650m of overhead");
    cgroups.remove("heavy").await.unwrap();
    let weight = read(&format!("{top}/kubepods/burstable"), "cpu.shares");
    assert!(weight.is_none_or(|w| w == "256"), "who has gone weighs nothing");
    cgroups.ensure(&pod("c", json!({}))).unwrap();
    assert_eq!(cgroups.known(), BTreeSet::from(["a", "b", "c"].map(String::from)));

    let mut child = sleeper(&path);
    let reaper = tokio::task::spawn_blocking(move || child.wait());
    cgroups.remove("a").await.unwrap();
    assert!(!reaper.await.unwrap().unwrap().success(), "the process was killed");
    assert_eq!(directories(&path), Vec::<PathBuf>::new());
    cgroups.remove("a").await.unwrap();
    let removed = cgroups.sweep(&BTreeSet::from(["b".to_owned()])).await.unwrap();
    assert_eq!(removed, ["c"]);
    cgroups.remove_all().await.unwrap();
    for directory in directories(&top) {
        fs::remove_dir(directory).unwrap();
    }
}
