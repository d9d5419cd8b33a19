//! Streams of every client of the field against the whole program: today's kubectl on WebSockets, the same on SPDY, and
//! Debian's old kubectl that knows nothing else. Commands, terminals, files, attaching, ports.

#![allow(clippy::disallowed_methods, reason = "tests start programs")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Lab, text, wait};
use xtask::tools;

/// The WebSockets of today's kubectl, off.
const SPDY: &[(&str, &str)] =
    &[("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

/// One of the clients.
struct Client<'a> {
    lab: &'a Lab,
    name: &'static str,
    program: PathBuf,
    variables: &'static [(&'static str, &'static str)],
}

impl Client<'_> {
    fn all(lab: &Lab) -> [Client<'_>; 3] {
        let old = tools::old_kubectl();
        assert!(old.is_file(), "{} is missing: run cargo xtask setup", old.display());
        [
            Client { lab, name: "kubectl", program: "kubectl".into(), variables: &[] },
            Client { lab, name: "kubectl-spdy", program: "kubectl".into(), variables: SPDY },
            Client { lab, name: "old-kubectl", program: old, variables: SPDY },
        ]
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.lab.client(&self.program);
        command.args(words).envs(self.variables.iter().copied());
        command
    }

    fn with(&self, words: &[&str], input: &str) -> Output {
        let mut command = self.command(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // Fed beside the reading: more than a pipe holds goes both ways.
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output().unwrap()
        })
    }

    fn ask(&self, words: &[&str], input: &str) -> String {
        let output = self.with(words, input);
        assert!(output.status.success(), "{} {words:?}: {}", self.name, text(&output.stderr));
        text(&output.stdout)
    }

    /// Begins to forward a port; returns the local one.
    fn forward(&self, pod: &str, port: u16) -> Forwarding {
        let mut command = self.command(&["port-forward", "-v=4", pod, &format!(":{port}")]);
        let log = self.lab.run_dir().join(format!("{}-{pod}.log", self.name));
        let errors = std::fs::File::create(&log).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let local = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
        let local = local.and_then(|port| port.parse().ok());
        let local = local.unwrap_or_else(|| panic!("{}: {line}{}", self.name, std::fs::read_to_string(&log).unwrap()));
        Forwarding { child, local, log }
    }
}

/// A `kubectl port-forward` that runs.
struct Forwarding {
    child: Child,
    local: u16,
    log: PathBuf,
}

impl Forwarding {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.local)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends, says that nothing more follows, and reads to the end.
    fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        let mut other = stream.try_clone().unwrap();
        let mut answer = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                other.write_all(bytes).unwrap();
                other.shutdown(std::net::Shutdown::Write).unwrap();
            });
            stream.read_to_end(&mut answer).unwrap();
        });
        answer
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pod of one container that runs a shell script.
fn pod(lab: &Lab, name: &str, script: &str, more: &Value) -> String {
    let mut spec = json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "imagePullSecrets": [{"name": "regcred"}],
        "containers": [{"name": "c", "image": lab.image(), "stdin": true, "stdinOnce": true,
            "command": ["sh", "-c", script]}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

/// Serves `cat`, once per connection, and a page on the loopback alone.
const SERVERS: &str = "nc -ll -p 7007 -e cat & httpd -p 127.0.0.1:7008 -h /www; ";
const UNTIL_TERM: &str = "trap 'exit 0' TERM; while true; do sleep 0.05; done";

#[test]
fn every_client_runs_commands_and_copies_files() {
    let lab = Lab::new("streams", 40);
    lab.up();
    lab.right_secret();
    lab.apply(&pod(&lab, "box", UNTIL_TERM, &json!({})));
    lab.ready("box");
    let big = "0123456789abcdef".repeat(300_000);
    for client in Client::all(&lab) {
        let name = client.name;
        assert_eq!(client.ask(&["exec", "box", "--", "echo", "hello"], ""), "hello\n");
        assert!(client.ask(&["exec", "-i", "box", "--", "cat"], &big) == big, "{name}: input comes back whole");
        let failed = client.with(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 42"], "");
        assert_eq!(failed.status.code(), Some(42), "{name}");
        assert_eq!(text(&failed.stdout), "out\n", "{name}");
        assert!(text(&failed.stderr).starts_with("err\n"), "{name}: {}", text(&failed.stderr));
        let loud = client.with(&["exec", "-v=4", "box", "--", "true"], "");
        assert!(!text(&loud.stderr).contains("fallback"), "{name}: {}", text(&loud.stderr));
        let missing = client.with(&["exec", "box", "--", "no-such-program"], "");
        assert!(text(&missing.stderr).contains("executable file not found"), "{name}: {}", text(&missing.stderr));
        a_terminal_has_the_clients_size(&client);
        files_are_copied(&client, &big);
        streams_are_attached(&client);
    }
}

fn a_terminal_has_the_clients_size(client: &Client) {
    let words = ["exec", "-it", "box", "--", "sh", "-c", "'until stty size | grep 77; do sleep 0.05; done; exit 3'"];
    let command = client.command(&words);
    let line: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let line = line.join(" ".as_ref());
    let line = format!("stty rows 33 cols 77; {}", line.to_str().unwrap());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).envs(client.variables.iter().copied()).stdin(Stdio::null());
    let output = script.output().unwrap();
    assert!(text(&output.stdout).contains("33 77"), "{}: {}", client.name, text(&output.stdout));
    assert_eq!(output.status.code(), Some(3), "{}", client.name);
}

fn files_are_copied(client: &Client, big: &str) {
    let lab = client.lab;
    let (here, back) = (lab.run_dir().join("copied"), lab.run_dir().join(format!("back-{}", client.name)));
    std::fs::write(&here, big).unwrap();
    let there = format!("box:/tmp/{}", client.name);
    client.ask(&["cp", here.to_str().unwrap(), &there], "");
    client.ask(&["cp", &there, back.to_str().unwrap()], "");
    assert!(std::fs::read_to_string(&back).unwrap() == big, "{}: a file comes back as it went", client.name);
}

fn streams_are_attached(client: &Client) {
    let name = format!("ear-{}", client.name);
    let script = "while read line; do echo got $line; done; echo end";
    client.lab.apply(&pod(client.lab, &name, script, &json!({})));
    client.lab.ready(&name);
    assert_eq!(client.ask(&["attach", "-i", &name], "one\ntwo\n"), "got one\ngot two\nend\n", "{}", client.name);
}

#[test]
fn every_client_forwards_ports() {
    let lab = Lab::new("ports", 41);
    lab.up();
    lab.right_secret();
    lab.apply(&pod(&lab, "box", &format!("{SERVERS}{UNTIL_TERM}"), &json!({})));
    // The host's loopback is the pod's.
    let free = support::free_port();
    let server = format!("httpd -p 127.0.0.1:{free} -h /www; {UNTIL_TERM}");
    lab.apply(&pod(&lab, "host", &server, &json!({"hostNetwork": true})));
    lab.ready("box");
    lab.ready("host");
    for (name, port) in [("box", 7007_u16), ("box", 7008), ("host", free)] {
        let listens = format!("grep -q :{port:04X} /proc/net/tcp /proc/net/tcp6");
        wait("the pod's servers listen", || lab.kubectl(&["exec", name, "--", "sh", "-c", &listens]).status.success());
    }
    let big = vec![7_u8; 3 << 20];
    for client in Client::all(&lab) {
        let name = client.name;
        let forwarding = client.forward("box", 7007);
        assert_eq!(forwarding.exchange(b"hello"), b"hello", "{name}");
        // kubectl says so when it tunnels, and says nothing of the kind on SPDY alone.
        let said = std::fs::read_to_string(&forwarding.log).unwrap();
        assert_eq!(said.contains("negotiated protocol: "), client.variables.is_empty(), "{name}: {said}");
        assert!(forwarding.exchange(&big) == big, "{name}: everything comes back");
        // Several connections at a time, ended in another order than begun.
        let mut open: Vec<_> = (0..8).map(|_| forwarding.connect()).collect();
        for (number, stream) in open.iter_mut().enumerate() {
            stream.write_all(&[u8::try_from(number).unwrap()]).unwrap();
        }
        for (number, mut stream) in open.into_iter().enumerate().rev() {
            let mut answer = [255];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(usize::from(answer[0]), number, "{name}");
        }
        assert_eq!(forwarding.exchange(b"again"), b"again", "{name}");
        drop(forwarding);
        for (pod, port) in [("box", 7008), ("host", free)] {
            // Here the server ends the connection, and the client only then.
            let forwarding = client.forward(pod, port);
            let mut stream = forwarding.connect();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut page = String::new();
            stream.read_to_string(&mut page).unwrap();
            assert!(page.contains("Hello from a Pod"), "{name}: {page}");
        }
        nobody_listens(&client);
    }
}

fn nobody_listens(client: &Client) {
    let forwarding = client.forward("box", 9);
    let mut stream = forwarding.connect();
    let mut answer = Vec::new();
    // The client breaks the connection off, with a reset if it comes to that.
    let _ = stream.write_all(b"x").and_then(|()| stream.read_to_end(&mut answer).map(drop));
    assert_eq!(answer, b"", "{}", client.name);
    wait("the client says that the port was refused", || {
        let said = std::fs::read_to_string(&forwarding.log).unwrap();
        said.contains("an error occurred forwarding") && said.contains("Connection refused")
    });
}
