//! A node that joins by a bootstrap token: it gets a certificate, runs pods, renews it, and outlives the token. Needs root.
#![allow(clippy::disallowed_methods)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Lab, condition, text, wait};

/// How long certificates live: each is renewed while the test runs.
const LIFE: &str = "60s";

/// A control plane alone.
struct Server {
    lab: Lab,
    url: String,
    process: Child,
}

impl Server {
    fn start(name: &str, nth: u8) -> Server {
        let lab = Lab::new(name, nth);
        let address = format!("127.0.0.1:{}", support::free_port());
        let log = std::fs::File::create(lab.dir().join("server-log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_sampan"))
            .args(["server", "--listen", &address, "--cluster-signing-duration", LIFE, "--log", "debug", "--data-dir"])
            .arg(lab.data_dir())
            .arg("--run-dir")
            .arg(lab.run_dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Server { lab, url: format!("https://{address}"), process };
        wait("the API answers", || {
            server.lab.data_dir().join("admin.kubeconfig").exists()
                && server.lab.kubectl(&["get", "ns", "default"]).status.success()
        });
        server
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.lab.dir().join("server-log")).unwrap_or_default()
    }

    /// Makes a token: its id, its secret, and the file to join by.
    fn token(&self, name: &str, ttl: &str) -> (String, String, PathBuf) {
        let made = self.lab.sampan(&["token", "create", "-o", "kubeconfig", "--server", &self.url, "--ttl", ttl]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let config = text(&made.stdout);
        let token = config.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap().trim_matches('"');
        let (id, secret) = token.split_once('.').unwrap();
        let file = self.lab.dir().join(name);
        std::fs::write(&file, &config).unwrap();
        (id.to_owned(), secret.to_owned(), file)
    }

    fn requests(&self) -> Vec<Value> {
        let list = self.lab.ask(&["get", "csr", "-o", "json"]);
        serde_json::from_str::<Value>(&list).unwrap()["items"].as_array().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- log of the server ---\n{}", &log[log.len().saturating_sub(6000)..]);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A node agent in directories of its own.
struct Agent {
    name: String,
    dir: PathBuf,
    /// The flag and the file by which it is a member.
    by: (&'static str, PathBuf),
    process: Option<Child>,
}

impl Agent {
    fn new(lab: &Lab, name: &str, bootstrap: &Path) -> Agent {
        let dir = lab.dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Agent { name: name.into(), dir, by: ("--bootstrap-kubeconfig", bootstrap.into()), process: None }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sampan"));
        command
            .arg("node")
            .arg(self.by.0)
            .arg(&self.by.1)
            .args(["--node-name", &self.name, "--node-ip", "127.0.0.1", "--pod-cidr", "10.90.67.0/24"])
            .args(["--default-handler", "runc"])
            .args(["--eviction-hard", "memory.available<50Mi,nodefs.available<1%,imagefs.available<1%"])
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .arg("--run-dir")
            .arg(self.dir.join("run"))
            .stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        self.process = Some(self.command().stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Kills it as hard as it goes.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Waits until it ends by itself; with what words.
    fn refused(&self) -> String {
        let Output { status, stderr, .. } = self.command().output().unwrap();
        assert!(!status.success(), "{} joined", self.name);
        text(&stderr)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("data/node.kubeconfig")
    }

    fn held(&self) -> String {
        std::fs::read_to_string(self.kubeconfig()).unwrap_or_default()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, self.log());
        }
        self.kill();
        let _ = Command::new(env!("CARGO_BIN_EXE_sampan"))
            .args(["down", "--purge", "--data-dir"])
            .arg(self.dir.join("data"))
            .arg("--run-dir")
            .arg(self.dir.join("run"))
            .output();
    }
}

/// Longer than certificates live.
fn wait_for_renewal(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(120), "not within two minutes: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn pod(lab: &Lab, name: &str) {
    lab.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         imagePullSecrets: [{{name: regcred}}]\n  containers:\n  - name: c\n    image: {}\n    \
         command: [sh, -c, \"echo from {name}; trap 'exit 0' TERM; while true; do sleep 0.1; done\"]\n",
        lab.image()
    ));
}

#[test]
fn a_node_joins_by_a_token_runs_pods_renews_its_certificate_and_outlives_the_token() {
    let machine = support::Machine::look();
    let server = Server::start("node-join", 67);
    let lab = &server.lab;
    assert!(
        !lab.kubectl(&["get", "clusterrolebinding", "kubeadm:kubelet-bootstrap"]).status.success(),
        "nothing is open"
    );
    let (id, secret, file) = server.token("join.kubeconfig", "1h");
    let listed = text(&lab.sampan(&["token", "list"]).stdout);
    assert!(listed.contains(&id) && !listed.contains(&secret), "{listed}");

    let mut node = Agent::new(lab, "edge", &file);
    node.start();
    wait("the node is Ready", || lab.get("node", "edge").is_some_and(|node| condition(&node, "Ready") == Some("True")));
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0]["spec"]["username"], format!("system:bootstrap:{id}"));
    let mode = std::fs::metadata(node.kubeconfig()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert!(!node.held().contains(&secret) && !node.dir.join("data/pki/node-pending.key").exists());

    // Its certificate is for clients alone, and the API server knows the node by it all the same.
    lab.right_secret();
    pod(lab, "app");
    lab.ready("app");
    lab.says("app", "from app\n");
    lab.ask(&["exec", "app", "--", "true"]);
    let before = lab.get("pod", "app").unwrap()["status"]["containerStatuses"].clone();

    // The token goes, the node stays: also when it is killed, and while its certificate is renewed.
    let deleted = lab.sampan(&["token", "delete", &id]);
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
    node.kill();
    let first = node.held();
    node.start();
    wait_for_renewal("the certificate is renewed", || node.held() != first && !node.held().is_empty());
    let own = server.requests().into_iter().find(|one| one["spec"]["username"] == "system:node:edge").unwrap();
    assert_eq!(
        own["status"]["conditions"][0]["message"],
        "Auto approving self kubelet client certificate after SubjectAccessReview."
    );
    lab.ask(&["exec", "app", "--", "true"]);
    assert_eq!(lab.get("pod", "app").unwrap()["status"]["containerStatuses"], before);
    pod(lab, "later");
    lab.ready("later");

    // Nobody else gets in by it.
    let late = Agent::new(lab, "late", &file);
    let told = late.refused();
    assert!(told.contains("a token has expired or was deleted"), "{told}");
    let (short, other, file) = server.token("short.kubeconfig", "1s");
    let name = format!("bootstrap-token-{short}");
    wait("the expired token is cleaned up", || {
        !lab.kubectl(&["-n", "kube-system", "get", "secret", &name]).status.success()
    });
    let told = Agent::new(lab, "later", &file).refused();
    assert!(told.contains("a token has expired or was deleted"), "{told}");
    for log in [server.log(), node.log(), told] {
        assert!(!log.contains(&secret) && !log.contains(&other), "a token is in a log");
    }
    drop((node, late));
    drop(server);
    machine.assert_back();
}

#[test]
fn a_node_that_is_killed_while_people_think_asks_for_the_same_and_a_no_is_told() {
    let server = Server::start("node-join-slow", 68);
    let lab = &server.lab;
    let (_, _, file) = server.token("join.kubeconfig", "1h");
    // Without this, each request waits for a person.
    lab.ask(&["delete", "clusterrolebinding", "kubeadm:node-autoapprove-bootstrap"]);
    let mut node = Agent::new(lab, "slow", &file);
    let pending = node.dir.join("data/pki/node-pending.key");
    node.start();
    wait("it has asked", || !server.requests().is_empty());
    let (key, asked) = (std::fs::read_to_string(&pending).unwrap(), server.requests());
    node.kill();
    node.start();
    wait("it waits again", || node.log().matches("asking for a certificate").count() == 2);
    let name = asked[0]["metadata"]["name"].as_str().unwrap();
    let table = lab.ask(&["get", "csr", name]);
    assert!(table.contains("Pending") && table.contains("system:bootstrap:"), "{table}");
    lab.ask(&["certificate", "approve", name]);
    wait("it has joined", || !node.held().is_empty());
    assert_eq!(server.requests().len(), 1, "it asked for the same");
    let first: Vec<&str> = key.lines().collect();
    assert!(!pending.exists() && first[0].contains("PRIVATE KEY"));
    wait("it is a node", || lab.get("node", "slow").is_some());
    a_given_file_is_renewed_beside_it(&mut node);

    let mut other = Agent::new(lab, "unwanted", &file);
    other.start();
    let mut found = None;
    // The first node asks for itself by now.
    let by_token = |one: &Value| one["spec"]["username"].as_str().unwrap().starts_with("system:bootstrap:");
    wait("it has asked", || {
        found = server.requests().into_iter().find(|one| by_token(one) && one["metadata"]["name"] != *name);
        found.is_some()
    });
    let name = found.unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    lab.ask(&["certificate", "deny", &name]);
    wait("it has ended", || other.process.as_mut().unwrap().try_wait().unwrap().is_some());
    assert!(other.log().contains("was denied: This CSR was denied by kubectl certificate deny."), "{}", other.log());
    assert!(!other.dir.join("data/pki/node-pending.key").exists(), "the next attempt is another request");

    // Another cluster's API is not given the token.
    let strange = lab.dir().join("strange.kubeconfig");
    let mut config = std::fs::read_to_string(&file).unwrap();
    let line = config.lines().find(|line| line.contains("certificate-authority-data")).unwrap().to_owned();
    let own = std::fs::read(other.dir.join("data/pki/ca.crt")).unwrap();
    use base64::Engine;
    let foreign = base64::engine::general_purpose::STANDARD.encode(own);
    let indent: String = line.chars().take_while(|c| *c == ' ').collect();
    config = config.replace(&line, &format!("{indent}certificate-authority-data: {foreign}"));
    std::fs::write(&strange, config).unwrap();
    let told = Agent::new(lab, "strange", &strange).refused();
    assert!(told.contains("the API server is not of the authority in the kubeconfig"), "{told}");
}

/// A node that was given a file with a certificate renews that too, and the file stays as it is.
fn a_given_file_is_renewed_beside_it(node: &mut Agent) {
    node.kill();
    let (given, held) = (node.dir.join("given.kubeconfig"), node.held());
    std::fs::rename(node.kubeconfig(), &given).unwrap();
    node.by = ("--kubeconfig", given.clone());
    node.start();
    wait_for_renewal("the given certificate is renewed", || node.kubeconfig().exists());
    assert_eq!(std::fs::read_to_string(given).unwrap(), held);
    assert_ne!(node.held(), held);
}
