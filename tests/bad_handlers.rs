//! Handlers whose program is bad, seen from outside: the pod's event names handler, step and reason, nothing half made
//! stays on the machine, and the node goes on serving other pods. The whole matrix of steps and faults is in
//! `crates/runtime/tests/bad_handlers.rs`.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use support::{Lab, Machine, text, wait};

/// What one command may take; a good one takes a fraction.
const TIMEOUT: &str = "5s";

/// A handler's name, its bad verb, what happens there, and what the pod's event has to say of it.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("create-fails", "create", "fails", "create: the runtime ended with exit status: 1: no create today"),
    ("create-garbage", "create", "garbage", "create: the runtime ended well and told no process"),
    ("create-hangs", "create", "hangs", "create: the runtime did not end in time and was killed"),
    ("create-dies", "create", "dies", "create: the runtime ended with signal: 9 (SIGKILL)"),
    ("start-fails", "start", "fails", "start: the runtime ended with exit status: 1: no start today"),
    ("start-hangs", "start", "hangs", "start: the runtime did not end in time and was killed"),
    ("start-dies", "start", "dies", "start: the runtime ended with signal: 9 (SIGKILL)"),
    ("run-hangs", "run", "hangs", "run: the runtime did not end in time and was killed"),
    ("run-dies", "run", "dies", "run: the runtime ended with signal: 9 (SIGKILL)"),
    ("delete-hangs", "delete", "hangs", ""),
    ("delete-fails", "delete", "fails", ""),
];

/// runc but for one verb.
fn faulty(directory: &Path, (name, verb, fault): (&str, &str, &str)) -> PathBuf {
    let own = directory.join(name);
    fs::create_dir_all(&own).unwrap();
    // The program's name decides between `run` and `create` with `start`.
    let script = own.join(if verb == "run" { "runc" } else { "faulty" });
    let body = format!(
        "#!/bin/sh\nverb=\nfor word; do case $word in create|start|run|kill|delete) verb=${{verb:-$word}};; esac; done\n\
         if [ \"$verb\" = {verb} ]; then case {fault} in\n\
         fails) echo 'no {verb} today' >&2; exit 1;;\n\
         garbage) head -c 300 /dev/urandom; head -c 300 /dev/urandom >&2; exit 0;;\n\
         hangs) setsid sleep 1000 & sleep 1000;;\n\
         dies) kill -9 $$;;\n\
         esac; fi\nexec /usr/sbin/runc \"$@\"\n"
    );
    fs::write(&script, body).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn configure(lab: &Lab) -> PathBuf {
    let mut handlers = String::new();
    for (name, verb, fault, _) in CASES {
        let binary = faulty(&lab.dir().join("faulty"), (name, verb, fault));
        handlers += &format!("  {name}: {{binary: {}}}\n", binary.display());
    }
    let plain = lab.dir().join("faulty/plain");
    fs::write(&plain, "").unwrap();
    handlers += &format!("  missing: {{binary: {}}}\n", lab.dir().join("faulty/missing").display());
    handlers += &format!("  plain: {{binary: {}}}\n", plain.display());
    let path = lab.dir().join("config.yaml");
    let text = format!("apiVersion: sampan.dev/v1\nkind: Config\nhandlerTimeout: {TIMEOUT}\nhandlers:\n{handlers}");
    fs::write(&path, text).unwrap();
    path
}

fn class_and_pod(lab: &Lab, name: &str, class: &str) -> String {
    format!(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {class}}}\nhandler: {class}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  runtimeClassName: {class}\n  \
         terminationGracePeriodSeconds: 0\n  imagePullSecrets: [{{name: regcred}}]\n  \
         containers:\n  - {{name: c, image: {}, command: [sleep, '3600']}}\n---\n",
        lab.image()
    )
}

/// Whether an event of a pod says all of these.
fn told(lab: &Lab, pod: &str, words: &[&str]) -> bool {
    lab.events(pod).iter().any(|(_, message)| words.iter().all(|word| message.contains(word)))
}

#[test]
fn bad_programs_are_named_in_events_and_leave_nothing() {
    let lab = Lab::new("bad-handlers", 47);
    let before = Machine::look();
    let config = configure(&lab);
    lab.up_with(&["--config", config.to_str().unwrap()]);
    lab.right_secret();
    lab.apply(&class_and_pod(&lab, "neighbour", "runc"));
    lab.ready("neighbour");
    wait("each handler was tried out", || {
        let nodes: serde_json::Value = serde_json::from_str(&lab.ask(&["get", "nodes", "-o", "json"])).unwrap();
        let text = nodes["items"][0]["metadata"]["annotations"]["sampan.dev/handlers"].as_str().unwrap_or("{}");
        let known: serde_json::Value = serde_json::from_str(text).unwrap();
        CASES.iter().all(|(name, ..)| known[name]["works"] == true || known[name]["reason"].is_string())
    });
    let idle = Machine::look();

    let manifests: String = CASES.iter().map(|(name, ..)| class_and_pod(&lab, name, name)).collect();
    lab.apply(&manifests);
    for (name, _, _, reason) in CASES {
        if reason.is_empty() {
            lab.ready(name);
            continue;
        }
        let handler = format!("handler {name:?}");
        wait(&format!("an event of {name} says why"), || told(&lab, name, &[&handler, reason]));
        lab.told(name, "Failed", "");
    }
    for name in ["missing", "plain"] {
        lab.apply(&class_and_pod(&lab, name, name));
        let failed = lab.pod_when(name, "Failed", |pod| pod["status"]["phase"] == "Failed");
        let message = failed["status"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains(name), "{message}");
        lab.told(name, "FailedCreatePodSandBox", name);
    }
    // The whole path and what is wrong with it are known before a pod needs them.
    let checked = text(&lab.sampan(&["check", "--config", config.to_str().unwrap()]).stdout);
    for (name, reason) in [("missing", "does not exist"), ("plain", "is not executable")] {
        assert!(checked_line(&checked, name).contains(&format!("faulty/{name} {reason}")), "{checked}");
    }
    for (name, verb, fault, _) in CASES {
        // A test container is run by `run`; when it ended well, a `delete` that fails is nothing.
        let is_bad = *verb == "run";
        let line = checked_line(&checked, name);
        assert_eq!(line.starts_with("less"), is_bad, "{name}, {fault}: {line}");
    }

    // All of them in one go, with those whose `delete` hangs or fails.
    let names: Vec<&str> = CASES.iter().map(|(name, ..)| *name).chain(["missing", "plain"]).collect();
    lab.ask(&[&["delete", "pod", "--wait=false"], &names[..]].concat());
    for name in &names {
        wait(&format!("{name} is gone"), || lab.get("pod", name).is_none());
    }
    // Housekeeping comes every ten seconds, and a `delete` that hangs takes its time.
    idle.assert_back_within(support::PATIENCE);
    assert_eq!(lab.ask(&["exec", "neighbour", "--", "echo", "still"]), "still\n");
    lab.apply(&class_and_pod(&lab, "late", "runc"));
    lab.ready("late");
    lab.down(true);
    before.assert_back();
}

/// What `check` says of a handler.
fn checked_line<'a>(checked: &'a str, name: &str) -> &'a str {
    checked.lines().find(|line| line.contains(&format!(" {name} (from "))).unwrap_or_default()
}
