//! What users touch: kubectl against the real program, credentials of every kind, garbage on every socket, and refusals
//! of `up` that say how to mend them.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Lab, condition, text};
use xtask::shell;

/// A pod of one container that runs a shell script.
fn pod(lab: &Lab, name: &str, script: &str, more: &Value) -> String {
    let mut spec = json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "imagePullSecrets": [{"name": "regcred"}],
        "containers": [{"name": "c", "image": lab.image(), "command": ["sh", "-c", script]}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
        .to_string()
}

const UNTIL_TERM: &str = "trap 'exit 0' TERM; while true; do sleep 0.05; done";

/// What kubectl says when it refuses.
fn refused(lab: &Lab, words: &[&str], input: &str) -> String {
    let output = lab.kubectl_with(words, input);
    assert_eq!(output.status.code(), Some(1), "kubectl {} was not refused: {}", words.join(" "), text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn kubectl_does_its_daily_work() {
    let lab = Lab::new("kubectl", 8);
    lab.up();
    lab.right_secret();
    objects_are_applied_shown_and_changed(&lab);
    logs_are_read_in_every_way(&lab);
    commands_run_in_containers(&lab);
    pods_are_deleted(&lab);
    wrong_manifests_are_refused(&lab);
}

fn objects_are_applied_shown_and_changed(lab: &Lab) {
    let kubeconfig = lab.data_dir().join("admin.kubeconfig");
    let mut watch = Command::new("kubectl")
        .args([
            "--kubeconfig",
            kubeconfig.to_str().unwrap(),
            "get",
            "pods",
            "-w",
            "-o",
            "jsonpath={.metadata.name}={.status.phase}{'\\n'}",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let first = pod(lab, "web", UNTIL_TERM, &json!({}));
    assert_eq!(text(&lab.kubectl_with(&["apply", "-f", "-"], &first).stdout), "pod/web created\n");
    assert_eq!(text(&lab.kubectl_with(&["apply", "-f", "-"], &first).stdout), "pod/web unchanged\n");
    lab.ask(&["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"]);
    let changed = first.replace(r#""labels":{"app":"web"}"#, r#""labels":{"tier":"front"}"#);
    assert_eq!(text(&lab.kubectl_with(&["apply", "-f", "-"], &changed).stdout), "pod/web configured\n");
    assert_eq!(
        lab.ask(&["get", "pod", "web", "-o", "jsonpath={.metadata.labels}"]),
        r#"{"tier":"front"}"#,
        "the old label is pruned"
    );
    lab.ask(&["wait", "--for=jsonpath={.status.phase}=Running", "pod/web", "--timeout=10s"]);
    assert_eq!(lab.ask(&["get", "pods", "-o", "name"]), "pod/web\n");
    assert!(lab.ask(&["get", "pods", "-o", "wide"]).contains("NOMINATED NODE"));
    assert!(lab.ask(&["get", "pod", "web", "-o", "yaml"]).contains("\n  restartPolicy: Never\n"));
    lab.told("web", "Scheduled", "Successfully assigned default/web");
    assert!(lab.ask(&["describe", "pod", "web"]).contains("Successfully assigned default/web"));
    assert!(lab.ask(&["describe", "nodes"]).contains("KubeletReady"));
    lab.ask(&["label", "pod", "web", "x=y"]);
    lab.ask(&["annotate", "pod", "web", "a=b"]);
    assert_eq!(lab.ask(&["get", "pods", "-l", "x=y,tier", "-o", "jsonpath={.items[*].metadata.annotations.a}"]), "b");
    lab.told("web", "Started", "Container started");
    for words in [&["events", "--for", "pod/web"][..], &["get", "events.events.k8s.io"], &["get", "events"]] {
        assert!(lab.ask(words).contains("Started"), "{words:?}");
    }
    assert!(lab.ask(&["explain", "pod.spec.containers.image"]).contains("Container image name"));
    assert!(lab.ask(&["api-resources"]).contains("runtimeclasses"));
    lab.ask(&["run", "marker", "--image=x", "--dry-run=server"]);
    assert!(lab.get("pod", "marker").is_none(), "a dry run stores nothing");
    lab.ask(&["delete", "pod", "web"]);
    watch.kill().unwrap();
    let mut seen = String::new();
    watch.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    watch.wait().unwrap();
    assert!(seen.contains("web=Pending\n") && seen.contains("web=Running\n"), "{seen}");
    kustomize_and_lists(lab);
}

fn kustomize_and_lists(lab: &Lab) {
    let dir = lab.data_dir().join("kustomize-test");
    std::fs::create_dir_all(&dir).unwrap();
    let map =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}});
    std::fs::write(dir.join("map.yaml"), map("inner").to_string()).unwrap();
    std::fs::write(dir.join("kustomization.yaml"), "namePrefix: k-\nresources: [map.yaml]\n").unwrap();
    assert_eq!(lab.ask(&["apply", "-k", dir.to_str().unwrap()]), "configmap/k-inner created\n");
    lab.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [map("one"), map("two")]}).to_string());
    assert!(lab.get("configmap", "two").is_some());
    let unknown =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}}).to_string();
    assert!(refused(lab, &["apply", "-f", "-"], &unknown).contains("no matches for kind \"Ingress\""));
}

fn logs_are_read_in_every_way(lab: &Lab) {
    let two = json!({"containers": [
        {"name": "c", "image": lab.image(), "command": ["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done"]},
        {"name": "d", "image": lab.image(), "command": ["sh", "-c", "echo other"]},
    ]});
    lab.apply(&pod(lab, "talk", "", &two));
    lab.apply(&pod(lab, "crash", "echo once; exit 1", &json!({"restartPolicy": "Always"})));
    lab.apply(&pod(
        lab,
        "waits",
        "",
        &json!({"containers": [{"name": "c", "image": format!("{}/team/none:1", lab.registry.address)}]}),
    ));
    lab.pod_when("talk", "started", |pod| pod["status"]["phase"] != "Pending");
    assert_eq!(lab.ask(&["logs", "talk", "-c", "c", "-f"]).lines().count(), 5, "following ends with the container");
    assert_eq!(lab.ask(&["logs", "talk", "-c", "c", "--tail=2"]), "line 4\nline 5\n");
    assert_eq!(lab.ask(&["logs", "talk", "-c", "d"]), "other\n");
    assert!(lab.ask(&["logs", "talk", "-c", "d", "--timestamps"]).starts_with("20"));
    assert_eq!(lab.ask(&["logs", "talk", "-c", "d", "--since-time=2099-01-01T00:00:00Z"]), "");
    assert_eq!(lab.ask(&["logs", "talk", "-c", "d", "--since=1h"]), "other\n");
    lab.pod_when("crash", "restarted", |pod| pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1));
    assert_eq!(lab.ask(&["logs", "crash", "--previous"]), "once\n");
    let waiting = refused(lab, &["logs", "waits"], "");
    assert!(waiting.contains("(BadRequest): container \"c\" in pod \"waits\" is waiting to start: "), "{waiting}");
    let none = refused(lab, &["logs", "talk", "-c", "d", "--previous"], "");
    assert!(none.contains("previous terminated container \"d\" in pod \"talk\" not found"), "{none}");
    lab.ask(&["delete", "pods", "--all", "--now"]);
}

fn commands_run_in_containers(lab: &Lab) {
    let listens = json!({"containers": [{"name": "c", "image": lab.image(), "stdin": true, "stdinOnce": true,
        "command": ["sh", "-c", "while read line; do echo got $line; done; echo end"]}]});
    lab.apply(&pod(lab, "box", UNTIL_TERM, &json!({})));
    lab.apply(&pod(lab, "ear", "", &listens));
    lab.ready("box");
    lab.ready("ear");
    let big = "0123456789abcdef".repeat(100_000);
    assert!(
        text(&lab.kubectl_with(&["exec", "-i", "box", "--", "cat"], &big).stdout) == big,
        "standard input arrives whole"
    );
    assert_eq!(lab.kubectl(&["exec", "box", "--", "sh", "-c", "exit 42"]).status.code(), Some(42));
    assert!(refused(lab, &["exec", "box", "--", "no-such-program"], "").contains("executable file not found"));
    assert!(refused(lab, &["exec", "box", "-c", "x", "--", "ls"], "").contains("container x is not valid for pod box"));
    let kubeconfig = lab.data_dir().join("admin.kubeconfig");
    let line = format!(
        "stty rows 33 cols 77; kubectl --kubeconfig {} exec -it box -- sh -c 'until stty size | grep 77; do sleep 0.05; done; exit 3'",
        kubeconfig.display()
    );
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    assert!(text(&output.stdout).contains("33 77"), "the terminal has the client's size: {}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(3));
    let (here, back) = (lab.run_dir().join("copied"), lab.run_dir().join("back"));
    std::fs::write(&here, &big).unwrap();
    lab.ask(&["cp", here.to_str().unwrap(), "box:/tmp/there"]);
    lab.ask(&["cp", "box:/tmp/there", back.to_str().unwrap()]);
    assert!(std::fs::read_to_string(&back).unwrap() == big, "a file comes back as it went");
    let attached = text(&lab.kubectl_with(&["attach", "-i", "ear"], "one\ntwo\n").stdout);
    assert_eq!(attached, "got one\ngot two\nend\n");
    let overrides = r#"--overrides={"spec":{"imagePullSecrets":[{"name":"regcred"}]}}"#;
    let image = format!("--image={}", lab.image());
    let output = lab.kubectl(&[
        "run",
        "once",
        &image,
        overrides,
        "--restart=Never",
        "--rm",
        "-i",
        "--command",
        "--",
        "sh",
        "-c",
        "sleep 0.3; exit 4",
    ]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(lab.get("pod", "once").is_none());
}

fn pods_are_deleted(lab: &Lab) {
    let deaf = "trap '' TERM; while true; do sleep 0.05; done";
    for name in ["slow", "now", "forced"] {
        lab.apply(&pod(lab, name, deaf, &json!({"terminationGracePeriodSeconds": 100})));
    }
    for name in ["slow", "now", "forced"] {
        lab.ready(name);
    }
    lab.ask(&["delete", "pod", "slow", "--grace-period=1"]);
    lab.ask(&["delete", "pod", "now", "--now"]);
    lab.ask(&["delete", "pod", "forced", "--force"]);
    for name in ["slow", "now", "forced"] {
        assert!(lab.get("pod", name).is_none(), "{name}");
    }
    lab.ask(&["delete", "pod", "box", "--wait=false"]);
    lab.ask(&["wait", "--for=delete", "pod/box", "--timeout=20s"]);
    assert!(refused(lab, &["delete", "pod", "box"], "").contains("pods \"box\" not found"));
    lab.ask(&["delete", "pods", "--all", "--now"]);
}

fn wrong_manifests_are_refused(lab: &Lab) {
    let cases = [
        ("/spec/containers/0/imagez", json!("x"), "strict decoding error: unknown field \"spec.containers[0].imagez\""),
        ("/spec/containers/0/image", json!(3), "Pod.spec.containers.image"),
        ("/spec/containers", json!([]), "spec.containers: Required value"),
        ("/spec/containers/0/name", json!("Bad_Name"), "spec.containers[0].name: Invalid value: \"Bad_Name\""),
        ("/spec/restartPolicy", json!("Sometimes"), "spec.restartPolicy: Unsupported value: \"Sometimes\""),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 99999}]),
            "spec.containers[0].ports[0].containerPort: Invalid value: 99999",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "z", "mountPath": "/x"}]),
            "spec.containers[0].volumeMounts[0].name: Not found: \"z\"",
        ),
        ("/spec/runtimeClassName", json!("nope"), "RuntimeClass \"nope\" not found"),
        (
            "/spec/containers/0/resources",
            json!({"requests": {"cpu": "two"}}),
            "quantities must match the regular expression",
        ),
    ];
    let good: Value = serde_json::from_str(&pod(lab, "wrong", "true", &json!({}))).unwrap();
    for (path, value, expected) in cases {
        let mut manifest = good.clone();
        let (parent, key) = path.rsplit_once('/').unwrap();
        manifest.pointer_mut(parent).unwrap()[key] = value;
        let said = refused(lab, &["apply", "-f", "-"], &manifest.to_string());
        assert!(said.contains(expected), "{path}: {said}");
    }
    assert!(lab.get("pod", "wrong").is_none(), "nothing is stored");
}

/// One request to the API with curl: the status code and the body.
fn curl(lab: &Lab, words: &[&str], path: &str) -> (u16, String) {
    let ca = lab.data_dir().join("pki/ca.crt");
    let config = std::fs::read_to_string(lab.data_dir().join("admin.kubeconfig")).unwrap();
    let server = config.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap();
    let url = format!("{server}{path}");
    let fixed = ["-s", "-m", "10", "-w", "\n%{http_code}", "--cacert", ca.to_str().unwrap(), &url];
    let printed = shell::output("curl", &[&fixed, words].concat(), "").unwrap();
    let (body, code) = printed.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), body.into())
}

#[test]
fn everybody_is_who_they_prove_to_be_and_may_do_no_more() {
    let lab = Lab::new("kubectl-who", 9);
    let tokens = lab.data_dir().with_extension("tokens");
    std::fs::write(&tokens, "tok-a,alice,1001,\"dev,qa\"\n").unwrap();
    lab.up_with(&["--token-auth-file", tokens.to_str().unwrap()]);
    let pods = "/api/v1/namespaces/default/pods";
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(curl(&lab, &[], path).0, 200, "{path}");
    }
    for path in [pods, "/api", "/", "/nope", "/openapi/v2"] {
        assert_eq!(curl(&lab, &[], path).0, 401, "{path}");
    }
    assert_eq!(curl(&lab, &["-H", "Authorization: Bearer wrong"], "/version").0, 401);
    let alice = ["-H", "Authorization: Bearer tok-a"];
    let (code, body) = curl(&lab, &alice, pods);
    assert_eq!(code, 403);
    let expected = r#"pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""#;
    assert!(body.contains(expected), "{body}");
    for _ in 0..20 {
        let (code, _) = curl(&lab, &[&alice[..], &["-X", "POST", "-d", "{}"]].concat(), pods);
        assert_eq!(code, 403, "the answer arrives although nobody reads the body");
    }
    a_node_reads_only_what_its_pods_name(&lab);
}

fn a_node_reads_only_what_its_pods_name(lab: &Lab) {
    let node = lab.ask(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let script = format!(
        "cd {} && openssl ecparam -genkey -name prime256v1 -noout -out n.key && openssl req -new -key n.key \
         -subj /O=system:nodes/CN=system:node:{node} -out n.csr && echo extendedKeyUsage=clientAuth > n.ext && openssl x509 -req -in n.csr \
         -CA pki/ca.crt -CAkey pki/ca.key -days 1 -set_serial 7 -extfile n.ext -out n.crt",
        lab.data_dir().display()
    );
    shell::output("sh", &["-c", &script], "").unwrap();
    let (certificate, key) = (lab.data_dir().join("n.crt"), lab.data_dir().join("n.key"));
    let proof = ["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
    lab.ask(&["create", "secret", "generic", "mine", "--from-literal=a=b"]);
    lab.ask(&["create", "secret", "generic", "other", "--from-literal=a=b"]);
    let names = json!({"volumes": [{"name": "v", "secret": {"secretName": "mine"}}]});
    lab.apply(&pod(lab, "user", "true", &names));
    lab.pod_when("user", "bound", |pod| pod["spec"]["nodeName"] == node.as_str());
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(curl(lab, &proof, &format!("{secrets}/mine")).0, 200);
    let (code, body) = curl(lab, &proof, &format!("{secrets}/other"));
    assert!(code == 403 && body.contains("no relationship found between node"), "{body}");
    assert_eq!(curl(lab, &proof, secrets).0, 403);
    assert_eq!(curl(lab, &proof, "/api/v1/pods").0, 403);
    assert_eq!(curl(lab, &[&proof[..], &["-X", "DELETE"]].concat(), &format!("/api/v1/nodes/{node}")).0, 403);
}

/// Bytes without meaning, the same at every run.
fn garbage(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// What is sent to every socket, whatever is spoken there.
fn nonsense() -> Vec<Vec<u8>> {
    vec![
        garbage(64 << 10),
        b"GET / HTTP/1.1\r\nHost: x".to_vec(),
        [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 1 << 20]].concat(),
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), garbage(4096)].concat(),
        vec![0xff; 4096],
        vec![0; 4096],
        [vec![0x16, 3, 1, 0xff, 0xff], garbage(70_000)].concat(),
    ]
}

/// Sends, and reads what comes back until the other side ends or half a second passes.
fn throw(mut stream: impl Read + Write, bytes: &[u8]) {
    // The other side may hang up in the middle, which is its good right.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 256]);
}

#[test]
fn garbage_on_any_socket_ends_the_connection_and_nothing_else() {
    let lab = Lab::new("kubectl-garbage", 10);
    lab.up();
    lab.right_secret();
    lab.apply(&pod(&lab, "before", UNTIL_TERM, &json!({})));
    let before = lab.ready("before");
    let ports = shell::output("ss", &["-ltnpH"], "").unwrap();
    let mine = format!("pid={},", lab.pid());
    let addresses: Vec<&str> =
        ports.lines().filter(|line| line.contains(&mine)).filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert!(addresses.len() >= 3, "API port, node port and streaming port: {ports}");
    let monitor = std::fs::read_dir(lab.run_dir().join("sandboxes"))
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path()
        .join("monitor.sock");
    for bytes in nonsense() {
        for address in &addresses {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
            throw(stream, &bytes);
        }
        for path in [lab.run_dir().join("cri.sock"), monitor.clone()] {
            throw(unix(&path), &bytes);
        }
    }
    too_much_is_refused(&lab);
    let pid = lab.pid();
    lab.apply(&pod(&lab, "after", UNTIL_TERM, &json!({})));
    lab.ready("after");
    let still = lab.ready("before");
    assert_eq!(lab.kubectl(&["exec", "before", "--", "true"]).status.code(), Some(0));
    assert_eq!(still["status"]["containerStatuses"], before["status"]["containerStatuses"]);
    assert_eq!(condition(&still, "Ready"), Some("True"));
    assert_eq!(pid, lab.pid());
}

fn unix(path: &Path) -> UnixStream {
    // A socket's path is short for the kernel, however deep its directory lies.
    let dir = std::fs::File::open(path.parent().unwrap()).unwrap();
    let short = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), path.file_name().unwrap().display());
    let stream = UnixStream::connect(short).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

fn too_much_is_refused(lab: &Lab) {
    let big = lab.data_dir().join("big.json");
    std::fs::write(&big, format!("{{\"kind\": \"{}\"}}", "x".repeat(8 << 20))).unwrap();
    let (certificate, key) = (lab.data_dir().join("pki/admin.crt"), lab.data_dir().join("pki/admin.key"));
    let body = format!("@{}", big.display());
    let proof = ["--http1.1", "--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let words = [&proof[..], &["-H", "Content-Type: application/json", "--data-binary", &body]].concat();
    assert_eq!(curl(lab, &words, "/api/v1/namespaces/default/configmaps").0, 413);
    let header = format!("X-Long: {}", "a".repeat(100_000));
    assert_eq!(curl(lab, &["--http1.1", "-H", &header], "/healthz").0, 200);
}

#[test]
fn up_says_what_is_wrong_and_how_to_mend_it() {
    let lab = Lab::new("kubectl-refuse", 11);
    let free = ["--listen", "127.0.0.1:0"];
    let file = lab.data_dir().with_extension("file");
    std::fs::write(&file, "apiVersion: sampan.dev/v1\nkind: Config\nmaxPodz: 3\n").unwrap();
    let file = file.to_str().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--pod-cidr", "10.1.1"], "--pod-cidr"),
        (&["--pod-cidr", "10.1.1.0/31"], "give a /29 or larger"),
        (&["--enable-admission-plugins", "Nope"], "unknown plugin; known are NamespaceLifecycle"),
        (&["--token-auth-file", "/nothing/here"], "--token-auth-file"),
        (&["--token-auth-file", file], "line 1: write token,user,uid"),
        (&["--config", file], "unknown field `maxPodz`"),
        (&["--default-handler", "nope"], "choose another handler"),
        (&["--event-ttl", "3"], "--event-ttl"),
        (&["--pod-cidr", "127.0.0.0/8"], "--pod-cidr"),
    ];
    for (words, expected) in cases {
        let output = lab.sampan(&[&["up", "--detach"], &free[..], words].concat());
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{words:?}: {said}");
        assert!(!lab.data_dir().exists() && !lab.run_dir().exists(), "{words:?} made directories");
    }
    let program = |command: &mut Command, data: &str| {
        let words = [
            "up",
            "--detach",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            data,
            "--run-dir",
            "/var/tmp/sampan-test-never",
        ];
        let output = command.args(words).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(!Path::new("/var/tmp/sampan-test-never").exists());
        text(&output.stderr)
    };
    let binary = env!("CARGO_BIN_EXE_sampan");
    let said = program(&mut Command::new(binary), file);
    assert!(said.contains("is not a directory; choose another with --data-dir"), "{said}");
    let said = program(Command::new(binary).env("PATH", "/nowhere"), "/var/tmp/sampan-test-never/data");
    assert!(said.contains("neither crun nor runc was found in PATH; install one"), "{said}");
    let copy = lab.data_dir().with_extension("binary");
    std::fs::hard_link(binary, &copy).or_else(|_| std::fs::copy(binary, &copy).map(drop)).unwrap();
    let said = program(
        Command::new("setpriv").args(["--reuid", "65534", "--clear-groups"]).arg(&copy),
        "/var/tmp/sampan-test-never/data",
    );
    assert!(said.contains("needs root; try: sudo sampan up"), "{said}");
}

#[test]
fn the_other_verbs_answer() {
    let lab = Lab::new("kubectl-verbs", 12);
    let run = |words: &[&str]| Command::new(env!("CARGO_BIN_EXE_sampan")).args(words).output().unwrap();
    let version: Value = serde_json::from_slice(&run(&["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(text(&run(&["completion", "bash"]).stdout).contains("complete -F _sampan"));
    assert_eq!(run(&["nonsense"]).status.code(), Some(2));
    let checked = lab.sampan(&["check", "--listen", "127.0.0.1:0"]);
    assert!(checked.status.success() && text(&checked.stdout).contains("ok    root"), "{}", text(&checked.stdout));
    assert!(!lab.data_dir().exists(), "check only looks");
}
