//! What hooks do on real parts: whom HTTP hooks ask and from where, what annotations change, what deadlines leave of them,
//! what `kubectl describe` tells, and that a runtime which hangs in one hook costs nobody else anything.

#![allow(clippy::disallowed_methods)] // A double of a proxy listens on a thread.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Lab, Machine, free_port, text, wait};

/// The node's address: one that no interface but loopback has.
const NODE: &str = "127.0.0.9";
/// The node's side of the pod network of this lab.
const GATEWAY: &str = "10.90.93.1";
const GOOD: &str = "[sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.1; done']";
/// Serves `/v`; a test that reads what it says waits for its probe.
const SERVES: &str = "[httpd, -f, -p, '8080', -h, /v]\n    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}";

/// A pod of one container `c` with `/v` from the host: more of its metadata, of its spec, its command, its hooks.
struct Wanted<'a> {
    name: &'a str,
    metadata: &'a str,
    spec: &'a str,
    command: &'a str,
    lifecycle: &'a str,
}

fn pod(lab: &Lab, wanted: &Wanted<'_>) {
    let Wanted { name, metadata, spec, command, lifecycle } = wanted;
    let mark = mark(lab, name, "");
    fs::create_dir_all(&mark).unwrap();
    lab.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n{metadata}\nspec:\n  imagePullSecrets: [{{name: regcred}}]\n{spec}\n  \
         containers:\n  - name: c\n    image: {}\n    command: {command}\n    lifecycle: {lifecycle}\n    \
         volumeMounts: [{{name: v, mountPath: /v}}]\n  volumes: [{{name: v, hostPath: {{path: {}}}}}]\n",
        lab.image(),
        mark.display(),
    ));
}

fn mark(lab: &Lab, pod: &str, what: &str) -> PathBuf {
    lab.dir().join("marks").join(pod).join(what)
}

fn lines(lab: &Lab, pod: &str, what: &str) -> usize {
    fs::read_to_string(mark(lab, pod, what)).map_or(0, |text| text.lines().count())
}

/// A proxy that counts who comes, and answers nobody.
fn proxy() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, visits) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = visits.clone();
    std::thread::spawn(move || {
        for _visitor in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, visits)
}

#[test]
fn hooks_keep_their_rules_on_real_parts() {
    let mut lab = Lab::new("hooks", 93);
    let before = Machine::look();
    let (port, visits) = proxy();
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        lab.environment.push((name.into(), format!("http://127.0.0.1:{port}").into()));
    }
    lab.environment.push(("NO_PROXY".into(), "127.0.0.1".into()));
    lab.up_with(&["--node-ip", NODE]);
    lab.right_secret();
    let example = begin_with_deadlines(&lab);
    begin_with_failures(&lab);
    http_hooks_ask_the_pod_from_the_node(&lab);
    assert_eq!(visits.load(Ordering::SeqCst), 0, "HOOK-24: no hook goes through a proxy");
    annotations_bound_hooks(&lab);
    failures_are_told(&lab);
    deadlines_hold(&lab, example);
    down_goes_by_priority(&lab);
    before.assert_back();
}

/// HOOK-17, HOOK-18, HOOK-20.
fn http_hooks_ask_the_pod_from_the_node(lab: &Lab) {
    let script = mark(lab, "from", "cgi-bin/tell");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    let says =
        "#!/bin/sh\necho \"$REMOTE_ADDR $QUERY_STRING\" >> /v/told\nprintf 'Content-Type: text/plain\\r\\n\\r\\nok'\n";
    fs::write(&script, says).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    // The server may not listen yet when the hook runs: entrypoint and hook race.
    let patient = "  annotations: {sampan.dev/post-start-retries: '5'}";
    let lifecycle = "{postStart: {httpGet: {port: 8080, path: '/cgi-bin/tell?a=b&c=d'}}}";
    pod(lab, &Wanted { name: "from", metadata: patient, spec: "", command: SERVES, lifecycle });
    let port = free_port();
    let command = format!("[httpd, -f, -p, '{NODE}:{port}', -h, /v]");
    let lifecycle = format!("{{postStart: {{httpGet: {{port: {port}}}}}, preStop: {{httpGet: {{port: {port}}}}}}}");
    let spec = "  hostNetwork: true";
    pod(lab, &Wanted { name: "host", metadata: patient, spec, command: &command, lifecycle: &lifecycle });
    lab.ready("from");
    let told = fs::read_to_string(mark(lab, "from", "told")).unwrap();
    let told = told.replace(['[', ']'], "");
    assert_eq!(told.trim().trim_start_matches("::ffff:"), format!("{GATEWAY} a=b&c=d"));
    assert_eq!(lab.ready("host")["status"]["podIP"], NODE);
    lab.ask(&["delete", "pod", "host", "from", "--grace-period=2", "--wait=false"]);
    lab.gone("host");
    let runs = lab.hook_runs("host");
    let answers: Vec<&Value> = runs.iter().filter(|run| run["result"] == "succeeded").collect();
    assert_eq!(answers.len(), 2, "{runs:#?}");
    assert!(answers.iter().all(|run| run["httpStatus"].is_u64()), "{runs:#?}");
}

/// HOOK-62, HOOK-64.
fn annotations_bound_hooks(lab: &Lab) {
    let get = "{preStop: {httpGet: {port: 8080, path: /none}}}";
    let strict = "  annotations: {sampan.dev/http-hooks: strict}";
    let spec = "  terminationGracePeriodSeconds: 1";
    pod(lab, &Wanted { name: "strict", metadata: strict, spec, command: SERVES, lifecycle: get });
    pod(lab, &Wanted { name: "lenient", metadata: "", spec, command: SERVES, lifecycle: get });
    let third = "{preStop: {exec: {command: [sh, -c, 'echo >> /v/tries; test $(wc -l < /v/tries) -ge 3']}}}";
    let again = "  annotations: {sampan.dev/pre-stop-retries: '2'}";
    pod(lab, &Wanted { name: "again", metadata: again, spec: "", command: GOOD, lifecycle: third });
    for name in ["strict", "lenient", "again"] {
        lab.ready(name);
    }
    lab.ask(&["delete", "pod", "strict", "lenient", "again", "--wait=false"]);
    for name in ["strict", "lenient", "again"] {
        lab.gone(name);
    }
    lab.told("strict", "FailedPreStopHook", "PreStopHook failed (HTTP status 404 after ");
    let of = |name: &str| -> Vec<(String, Value)> {
        let result = |run: &Value| (run["result"].as_str().unwrap().to_owned(), run["httpStatus"].clone());
        lab.hook_runs(name).iter().map(result).collect()
    };
    assert_eq!(of("strict"), [("failed".to_owned(), 404.into())]);
    assert_eq!(of("lenient"), [("succeeded".to_owned(), 404.into())]);
    let results: Vec<String> = of("again").into_iter().map(|(result, _)| result).collect();
    assert_eq!(results, ["failed", "failed", "succeeded"]);
    assert_eq!(lines(lab, "again", "tries"), 3);
    for name in ["lenient", "again"] {
        assert!(lab.events(name).iter().all(|(reason, _)| reason != "FailedPreStopHook"), "{:?}", lab.events(name));
    }
}

/// Begins a pod whose hooks all fail, and one whose sidecar's does.
fn begin_with_failures(lab: &Lab) {
    let lifecycle = "{postStart: {exec: {command: [sh, -c, 'echo SECRET; exit 7']}}, preStop: {exec: {command: [sh, -c, 'echo SECRET >&2; exit 8']}}}";
    let spec = "  terminationGracePeriodSeconds: 3";
    pod(lab, &Wanted { name: "story", metadata: "", spec, command: GOOD, lifecycle });
    let spec = format!(
        "  terminationGracePeriodSeconds: 3\n  initContainers:\n  - name: side\n    image: {}\n    command: {GOOD}\n    \
         restartPolicy: Always\n    lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'exit 9']}}}}}}",
        lab.image()
    );
    pod(lab, &Wanted { name: "sidecar", metadata: "", spec: &spec, command: GOOD, lifecycle: "{}" });
}

/// HOOK-67, HOOK-31: who asks what is wrong is told, and nobody is told what a hook printed but who may read the log.
fn failures_are_told(lab: &Lab) {
    lab.told("story", "BackOff", "Back-off restarting failed container c in pod story_default(");
    lab.told("story", "FailedPreStopHook", "PreStopHook failed (exit code 8 after ");
    lab.told("sidecar", "FailedPostStartHook", "PostStartHook failed (exit code 9 after ");
    let described = lab.ask(&["describe", "pod", "story"]);
    let (_, events) = described.split_once("Events:").unwrap();
    for words in [
        "FailedPostStartHook",
        "PostStartHook failed (exit code 7 after ",
        "FailedPreStopHook",
        "PreStopHook failed (exit code 8 after ",
        "Killing",
        "Back-off restarting failed container c in pod story_default(",
    ] {
        assert!(events.contains(words), "{words:?} is not in:\n{described}");
    }
    assert!(!events.contains("SECRET"), "{described}");
    let list: Value = serde_json::from_str(&lab.ask(&["get", "events", "-o", "json"])).unwrap();
    let path = |pod: &str, reason: &str| -> String {
        let is = |event: &&Value| event["involvedObject"]["name"] == pod && event["reason"] == reason;
        let event = list["items"].as_array().unwrap().iter().find(is).unwrap();
        event["involvedObject"]["fieldPath"].as_str().unwrap().to_owned()
    };
    assert_eq!(path("story", "FailedPostStartHook"), "spec.containers{c}");
    assert_eq!(path("story", "FailedPreStopHook"), "spec.containers{c}");
    assert_eq!(path("sidecar", "FailedPostStartHook"), "spec.initContainers{side}");
    let runs = text(&lab.sampan(&["hooks", "story", "-o", "wide"]).stdout);
    assert!(runs.contains("failed (exit code 7)") && runs.contains("stdout: SECRET"), "{runs}");
    assert!(!lab.ask(&["logs", "story", "-c", "c"]).contains("SECRET"));
    lab.ask(&["delete", "pod", "story", "sidecar", "--wait=false"]);
    lab.gone("story");
    lab.gone("sidecar");
}

/// Begins the page's example at a fifth of its size, and a pod with a deadline of its own. When the example was deleted.
fn begin_with_deadlines(lab: &Lab) -> Instant {
    let kept = "  finalizers: [example.dev/look]";
    let slow = "[sh, -c, 'trap \"sleep 10; exit 0\" TERM; while true; do sleep 0.1; done']";
    let nine = "{preStop: {exec: {command: [sleep, '9']}}}";
    let spec = "  restartPolicy: Never\n  terminationGracePeriodSeconds: 12";
    pod(lab, &Wanted { name: "example", metadata: kept, spec, command: slow, lifecycle: nine });
    let spec = "  restartPolicy: Never\n  activeDeadlineSeconds: 3";
    let leaves_a_mark = "{preStop: {exec: {command: [sh, -c, 'echo >> /v/begun']}}}";
    pod(lab, &Wanted { name: "limited", metadata: "", spec, command: GOOD, lifecycle: leaves_a_mark });
    lab.ready("example");
    lab.ask(&["delete", "pod", "example", "--wait=false"]);
    Instant::now()
}

/// HOOK-48, HOOK-96.
fn deadlines_hold(lab: &Lab, deleted: Instant) {
    let phase = |pod: &Value| pod["status"]["phase"] == "Failed";
    let limited = lab.pod_when("limited", "Failed", phase);
    assert_eq!(limited["status"]["reason"], "DeadlineExceeded");
    assert_eq!(limited["status"]["message"], "Pod was active on the node longer than the specified deadline");
    lab.told("limited", "DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
    assert_eq!(lines(lab, "limited", "begun"), 1, "its hook was called");

    // The hook took nine seconds and the process needs ten: of twelve it does not get them.
    let example = lab.pod_when("example", "Failed", phase);
    let ended = &example["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&137.into(), &"Error".into()), "{ended}");
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let late = time(&ended["finishedAt"]).duration_since(time(&example["metadata"]["deletionTimestamp"]));
    assert!((-2..=8).contains(&late.as_secs()), "it ended {late:#} after the end of its grace");
    assert!(deleted.elapsed() >= Duration::from_secs(9), "not before its hook");
    assert_eq!(lab.hook_runs("example")[0]["result"], "succeeded");
    lab.ask(&["patch", "pod", "example", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    lab.gone("example");
    lab.ask(&["delete", "pod", "limited", "--wait=false"]);
    lab.gone("limited");
}

/// HOOK-97: `down` stops the lowest priority first, each pod with its hook, and says so of each.
fn down_goes_by_priority(lab: &Lab) {
    let order = [("low", -5), ("plain", 0), ("high", 1000)];
    let hook = "{preStop: {exec: {command: [sh, -c, 'read now rest < /proc/uptime; echo $now > /v/begun; sleep 1']}}}";
    let leaves = "[sh, -c, 'trap \"read now rest < /proc/uptime; echo \\$now > /v/ended; exit 0\" TERM; while true; do sleep 0.1; done']";
    for (name, value) in order {
        lab.apply(&format!(
            "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {{name: {name}}}\nvalue: {value}\n"
        ));
        let spec = format!("  priorityClassName: {name}");
        pod(lab, &Wanted { name, metadata: "", spec: &spec, command: leaves, lifecycle: hook });
    }
    for (name, _) in order {
        lab.ready(name);
    }
    let down = lab.sampan(&["down"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    let said = text(&down.stdout);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| line.contains("pod")).collect();
    for (nth, (name, value)) in order.into_iter().enumerate() {
        assert!(lines[2 * nth].starts_with(&format!("pods of priority {value}: 1, ")), "{said}");
        assert!(lines[2 * nth + 1].starts_with(&format!("stopped pod default/{name} after ")), "{said}");
    }
    let at =
        |name: &str, what: &str| -> f64 { fs::read_to_string(mark(lab, name, what)).unwrap().trim().parse().unwrap() };
    for name in ["low", "plain", "high"] {
        assert!(at(name, "ended") >= at(name, "begun") + 0.9, "{name} was stopped before its hook had ended");
    }
    assert!(at("low", "ended") <= at("plain", "begun") && at("plain", "ended") <= at("high", "begun"), "{said}");
    lab.down(true);
}

/// runc, but `exec` never comes back.
fn frozen(lab: &Lab) -> PathBuf {
    let script = lab.dir().join("frozen");
    let body = "#!/bin/sh\nfor word; do if [ \"$word\" = exec ]; then exec sleep 100000; fi; done\nexec runc \"$@\"\n";
    fs::write(&script, body).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let path = lab.dir().join("config.yaml");
    // A command is given up after a while; here that is later than all the rest.
    let head = "apiVersion: sampan.dev/v1\nkind: Config\nhandlerTimeout: 55s\n";
    fs::write(&path, format!("{head}handlers:\n  frozen: {{binary: {}}}\n", script.display())).unwrap();
    path
}

/// Starts so many pods at once; how long until all run.
fn wave(lab: &Lab, name: &str, number: usize) -> Duration {
    let one = |nth: usize| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-{nth}, labels: {{wave: {name}}}}}\nspec:\n  \
             terminationGracePeriodSeconds: 0\n  hostNetwork: true\n  imagePullSecrets: [{{name: regcred}}]\n  containers:\n  - name: c\n    \
             image: {}\n    command: [sh, -c, 'trap \"exit 0\" TERM; sleep 100000 & wait']\n---\n",
            lab.image()
        )
    };
    let manifests: String = (0..number).map(one).collect();
    let began = Instant::now();
    lab.apply(&manifests);
    let words = ["get", "pods", "-l", &format!("wave={name}"), "-o", "jsonpath={.items[*].status.phase}"];
    wait("all run", || lab.ask(&words).split(' ').filter(|phase| *phase == "Running").count() == number);
    began.elapsed()
}

#[test]
fn hook_110_a_runtime_that_hangs_in_a_hook_holds_up_nobody_else() {
    const FEW: usize = 10;
    const MANY: usize = 100;
    let lab = Lab::new("hooks-frozen", 94);
    let before = Machine::look();
    let config = frozen(&lab);
    lab.up_with(&["--config", config.to_str().unwrap(), "--max-pods", "150"]);
    lab.right_secret();
    lab.apply("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: frozen}\nhandler: frozen\n");
    let spec = "  runtimeClassName: frozen\n  terminationGracePeriodSeconds: 600";
    let hook = |moment: &str| format!("{{{moment}: {{exec: {{command: ['true']}}}}}}");
    let stops = hook("preStop");
    pod(&lab, &Wanted { name: "stops", metadata: "", spec, command: GOOD, lifecycle: &stops });
    lab.ready("stops");
    let usual = wave(&lab, "before", FEW);

    lab.ask(&["delete", "pod", "stops", "--wait=false"]);
    let starts = hook("postStart");
    pod(&lab, &Wanted { name: "starts", metadata: "", spec, command: GOOD, lifecycle: &starts });
    let hangs = |name: &str| lab.hook_runs(name).iter().any(|run| run["result"] == "running");
    wait("both hooks hang", || hangs("starts") && hangs("stops"));
    let frozen = wave(&lab, "after", MANY);
    eprintln!("{FEW} pods ran after {usual:?}; {MANY}, while the runtime hangs in two hooks, after {frozen:?}");
    assert!(hangs("starts") && hangs("stops"), "they still hang");

    // Nor does it hold up a deletion with little grace (HOOK-61, HOOK-78).
    lab.ask(&["delete", "pod", "stops", "starts", "--grace-period=1", "--wait=false"]);
    let deleted = Instant::now();
    lab.gone("starts");
    lab.gone("stops");
    assert!(deleted.elapsed() < Duration::from_secs(25), "they were gone after {:?}", deleted.elapsed());
    lab.down(true);
    before.assert_back();
}
