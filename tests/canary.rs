//! Planted credentials are looked for wherever somebody could read them who may not.

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::json;
use support::{Lab, text, wait};
use xtask::registry::{PASSWORD, USER};
use xtask::shell;

/// A password that no registry takes.
const WRONG: &str = "canary-wrong-6f1d";
/// In a header that the node's file wants to be sent.
const HEADER: &str = "canary-header-77b2";
/// In the user part of a key, where it does not belong.
const IN_KEY: &str = "canary-key-19ae";
/// In Secrets alone, so at rest in no file at all.
const AT_REST: &str = "canary-at-rest-5c0b";

/// All planted texts, plain and as they travel in Basic authentication.
fn canaries() -> Vec<String> {
    let basic = |password: &str| base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    [WRONG, HEADER, IN_KEY, PASSWORD, AT_REST]
        .iter()
        .flat_map(|text| [(*text).to_owned(), basic(text), encoded(text).trim_end_matches('=').to_owned()])
        .collect()
}

fn find<'a>(haystack: &[u8], canaries: &'a [String]) -> Option<&'a String> {
    canaries.iter().find(|canary| haystack.windows(canary.len()).any(|window| window == canary.as_bytes()))
}

fn pod(name: &str, image: &str, secret: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0, "imagePullSecrets": [{"name": secret}],
            "containers": [{"name": "c", "image": image, "imagePullPolicy": "Always", "command": ["sleep", "3600"]}],
        },
    })
    .to_string()
}

#[test]
fn planted_credentials_stay_where_they_belong() {
    let lab = Lab::new("canary", 33);
    plant_in_the_nodes_file(&lab);
    lab.up_with(&["--log", "trace"]);
    lab.secret(WRONG);
    lab.apply(&pod("refused", &lab.image(), "regcred"));
    lab.apply(&pod("broken", "127.0.0.1:1/team/box:1", "regcred"));
    let waits = |pod: &serde_json::Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] != "ContainerCreating"
    };
    lab.pod_when("refused", "refused", waits);
    lab.pod_when("broken", "without a registry", waits);
    lab.right_secret();
    lab.apply(&pod("runs", &lab.image(), "regcred"));
    lab.ready("runs");
    lab.ask(&["create", "secret", "generic", "at-rest", &format!("--from-literal=k={AT_REST}")]);

    let canaries = canaries();
    for words in [
        &["get", "events", "-A", "-o", "json"][..],
        &["get", "pods,nodes", "-A", "-o", "yaml"],
        &["describe", "pods"],
        &["describe", "secrets"],
        &["describe", "nodes"],
    ] {
        let shown = lab.ask(words);
        assert_eq!(find(shown.as_bytes(), &canaries), None, "kubectl {}:\n{shown}", words.join(" "));
    }
    let log = std::fs::read(lab.data_dir().join("sampan.log")).unwrap();
    assert!(log.len() > 10_000, "the log at the level `trace` says much");
    assert_eq!(find(&log, &canaries), None, "in the log");
    let mut holders = Vec::new();
    for place in [lab.data_dir(), lab.run_dir(), PathBuf::from("/var/log/pods")] {
        files(&place, &mut holders, &canaries);
    }
    for holder in &holders {
        let mode = holder.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} holds a credential and has mode {mode:o}", holder.display());
        assert_eq!(
            *holder,
            lab.data_dir().join("config.json"),
            "{} holds a credential; docs/walls/files.md does not say so",
            holder.display()
        );
    }
    assert!(!holders.is_empty(), "the search finds nothing where something is");
    keys_change_while_the_instance_runs_and_while_it_does_not(&lab);
    lab.down(true);
}

fn keys_change_while_the_instance_runs_and_while_it_does_not(lab: &Lab) {
    let file = lab.data_dir().join("pki/secrets.key");
    let read = || {
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        let keys: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        assert_eq!(keys.len(), 1, "one key, and nothing left to do");
        keys
    };
    let rotate = || {
        let before = read();
        let output = lab.sampan(&["secrets", "rotate"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("1 older keys dropped"), "{}", text(&output.stdout));
        assert_ne!(read(), before);
    };
    let encoded = base64::engine::general_purpose::STANDARD.encode(AT_REST);
    let is_there = || assert_eq!(lab.get("secret", "at-rest").unwrap()["data"]["k"], encoded.as_str());
    rotate();
    is_there();
    lab.kill();
    rotate();
    lab.up();
    is_there();
    keys_change_though_the_instance_is_killed_in_the_middle(lab, &is_there);
    // Whatever was left undone is done by the next change.
    let settled = lab.sampan(&["secrets", "rotate"]);
    assert!(settled.status.success(), "{}", text(&settled.stderr));
    read();
    is_there();
}

/// At several moments after a change has begun the process is killed; each start after it serves every Secret.
#[allow(clippy::disallowed_methods)] // The change runs beside the kill; the pauses spread the moments of the kills.
fn keys_change_though_the_instance_is_killed_in_the_middle(lab: &Lab, is_there: &dyn Fn()) {
    let value = |nth: u32| base64::engine::general_purpose::STANDARD.encode(format!("value {nth}"));
    let secret = |nth: u32| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("many-{nth}")}, "data": {"k": value(nth)}});
    let many: Vec<serde_json::Value> = (0..200).map(secret).collect();
    lab.apply(&json!({"apiVersion": "v1", "kind": "List", "items": many}).to_string());
    let file = lab.data_dir().join("pki/secrets.key");
    let mut in_the_middle = 0;
    for wait_ms in [0, 1, 2, 4, 7, 11, 16, 24] {
        let before = std::fs::read(&file).unwrap();
        let mut change = std::process::Command::new(env!("CARGO_BIN_EXE_sampan"))
            .args(["secrets", "rotate", "--data-dir"])
            .arg(lab.data_dir())
            .arg("--run-dir")
            .arg(lab.run_dir())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // The change has begun when its new key is on the disk; then it is cut off.
        wait("the change has begun", || std::fs::read(&file).unwrap() != before);
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        lab.kill();
        let is_cut_off = !change.wait().unwrap().success();
        in_the_middle += usize::from(is_cut_off);
        lab.up();
        is_there();
        let all = lab.ask(&["get", "secrets", "-o", "jsonpath={range .items[*]}{.metadata.name}={.data.k} {end}"]);
        for nth in [0, 99, 199] {
            assert!(all.contains(&format!("many-{nth}={} ", value(nth))), "after {wait_ms} ms: {all}");
        }
    }
    assert!(in_the_middle > 0, "no change was cut off");
}

/// `config.json` with a wrong password, a header, a malformed entry and a key that holds a password.
fn plant_in_the_nodes_file(lab: &Lab) {
    use std::os::unix::fs::PermissionsExt as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{WRONG}"));
    let text = json!({
        "auths": {
            lab.registry.address.clone(): {"auth": auth},
            format!("https://{USER}:{IN_KEY}@127.0.0.1:1"): {"auth": auth},
            "127.0.0.1:1": {"auth": format!("!{WRONG}!")},
        },
        "HttpHeaders": {"X-Team": HEADER},
    });
    std::fs::create_dir_all(lab.data_dir()).unwrap();
    let path = lab.data_dir().join("config.json");
    std::fs::write(&path, text.to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Files below a place that hold a canary. Root file systems of containers are the image's.
fn files(place: &Path, found: &mut Vec<PathBuf>, canaries: &[String]) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && path.file_name().is_none_or(|name| name != "rootfs" && name != "fs") {
            files(&path, found, canaries);
        } else if kind.is_file() && std::fs::read(&path).is_ok_and(|bytes| find(&bytes, canaries).is_some()) {
            found.push(path);
        }
    }
}

#[test]
fn a_crash_leaves_no_memory_on_the_disk() {
    let mut lab = Lab::new("core", 34);
    let dir = lab.dir().join("cores");
    std::fs::create_dir_all(&dir).unwrap();
    let enter = format!("cd {} && ulimit -c unlimited && exec \"$@\"", dir.display());
    lab.enter = ["sh", "-c", &enter, "sh"].map(str::to_owned).into();
    lab.up();
    let cores = || std::fs::read_dir(&dir).unwrap().count();
    let pid = lab.pid();
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), dir, "a core would lie there");
    shell::run("kill", &["-ABRT", &pid.to_string()]).unwrap();
    wait("the aborted process is gone", || lab.is_gone(pid));
    assert_eq!(cores(), 0, "the instance left its memory");
    // The same signal leaves a core of a program that does not mind, unless this machine sends cores elsewhere.
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if !pattern.starts_with(['|', '/']) {
        let script = format!("cd {}; ulimit -c unlimited; kill -ABRT $$", dir.display());
        let _ = shell::run("sh", &["-c", &script]);
        assert_eq!(cores(), 1, "cores are written here");
    }
    lab.up();
    lab.down(true);
}
