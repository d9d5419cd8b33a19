//! Hooks that mean no good, on runc: the pod's life goes on by the rules, and the node's memory stays where it was.

#![allow(clippy::disallowed_methods)] // A server that drips has to sleep.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use support::{Lab, wait};

/// How much larger the node may be after all of it than before.
const GROWTH_KILOBYTES_MAX: u64 = 64 << 10;

fn pss_kilobytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// An HTTP server of the test's that answers each connection with this, and then goes on as it is told.
fn server(head: String, then: impl Fn(&mut std::net::TcpStream) + Send + Sync + Clone + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, head, then) = (stream.unwrap(), head.clone(), then.clone());
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                if stream.write_all(head.as_bytes()).is_ok() {
                    then(&mut stream);
                }
            });
        }
    });
    port
}

fn pod(lab: &Lab, name: &str, grace: u32, lifecycle: &str) {
    lab.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
         spec:\n  terminationGracePeriodSeconds: {grace}\n  imagePullSecrets: [{{name: regcred}}]\n  \
         containers:\n  - name: c\n    image: {}\n    command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.1; done']\n    \
         lifecycle: {lifecycle}\n",
        lab.image()
    ));
}

/// Whether a process of this pod is left anywhere.
fn has_processes(uid: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .map(|entry| entry.path().join("cgroup"))
        .any(|path: std::path::PathBuf| std::fs::read_to_string(Path::new(&path)).is_ok_and(|text| text.contains(uid)))
}

#[test]
fn bad_hooks_hurt_nobody_but_their_own_container() {
    let lab = Lab::new("bad-hooks", 91);
    lab.up();
    lab.right_secret();
    pod(&lab, "warm", 1, "{}");
    lab.ready("warm");
    let before = pss_kilobytes(lab.pid());

    // A gigabyte of output: read, dropped, and no failure.
    pod(&lab, "loud", 1, "{postStart: {exec: {command: [sh, -c, 'yes SECRET | head -c 1000000000; echo end']}}}");
    // For ever: the pod is not Running, and can be deleted all the same (HOOK-61).
    pod(&lab, "endless", 2, "{postStart: {exec: {command: [sleep, '100000']}}}");
    // A thousand children that outlive their parent.
    let forks = "i=0; while [ $i -lt 1000 ]; do sleep 100000 & i=$((i+1)); done";
    pod(&lab, "forks", 2, &format!("{{postStart: {{exec: {{command: [sh, -c, '{forks}']}}}}}}"));
    // Its own container's end.
    pod(&lab, "suicide", 1, "{postStart: {exec: {command: [sh, -c, 'kill -TERM 1; sleep 100000']}}}");

    let loop_port = server("HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n".into(), |_| {});
    let drip_port = server(String::new(), |stream| {
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let endless_port =
        server("HTTP/1.1 200 OK\r\n\r\n".into(), |stream| while stream.write_all(&[b'x'; 65536]).is_ok() {});
    let get = |port: u16| format!("httpGet: {{host: 127.0.0.1, port: {port}}}");
    pod(&lab, "redirects", 1, &format!("{{postStart: {{{}}}}}", get(loop_port)));
    pod(&lab, "drips", 2, &format!("{{preStop: {{{}}}}}", get(drip_port)));
    pod(&lab, "body", 1, &format!("{{postStart: {{{}}}}}", get(endless_port)));

    lab.ready("body");
    assert_eq!(lab.hook_runs("body")[0]["httpStatus"], 200);
    lab.told("redirects", "FailedPostStartHook", "PostStartHook failed (stopped after 10 redirects after ");
    lab.told("suicide", "FailedPostStartHook", "PostStartHook failed (");
    lab.ready("drips");
    lab.ask(&["delete", "pod", "drips", "--wait=false"]);
    lab.told("drips", "FailedPreStopHook", "PreStopHook not completed in grace period");
    lab.gone("drips");
    let drips = lab.hook_runs("drips");
    assert_eq!(drips[0]["result"], "graceExceeded", "it is remembered after its pod: {drips:?}");

    lab.ready("forks");
    lab.ready("loud");
    let loud = lab.hook_runs("loud").remove(0);
    assert_eq!(
        (&loud["result"], loud["stdout"]["bytes"].as_u64()),
        (&"succeeded".into(), Some(1_000_000_004)),
        "{loud}"
    );
    assert!(loud["stdout"]["tail"].as_str().unwrap().ends_with("end\n"));
    assert!(lab.events("loud").iter().all(|(_, words)| !words.contains("SECRET")));

    // The container is there all the same (HOOK-34, POD-72).
    lab.pod_when("endless", "held by its hook", |pod| {
        let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        reason == "ContainerCreating" && pod["status"]["podIP"].as_str().is_some_and(|ip| !ip.is_empty())
    });
    wait("its hook runs", || lab.hook_runs("endless").iter().any(|run| run["result"] == "running"));
    assert_eq!(lab.ask(&["exec", "endless", "--", "echo", "here"]), "here\n");
    lab.ask(&["logs", "endless"]);
    for name in ["endless", "forks", "redirects", "suicide", "loud", "body"] {
        let uid = lab.get("pod", name).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        lab.ask(&["delete", "pod", name, "--wait=false"]);
        lab.gone(name);
        wait("no process of it is left", || !has_processes(&uid));
    }
    assert_eq!(lab.hook_runs("endless")[0]["result"], "abandoned");
    let after = pss_kilobytes(lab.pid());
    assert!(after <= before + GROWTH_KILOBYTES_MAX, "the node grew from {before} to {after} kB");
    lab.down(true);
}
