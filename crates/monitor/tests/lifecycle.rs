//! The monitor with real OCI runtimes. As root; needs runc, crun and busybox-static.
#![allow(clippy::disallowed_methods, reason = "tests start processes and read the clock")]

mod world;

use monitor::wire::{
    Attach, Create, Exec, ReopenLog, Reply, Request, Resize, Shutdown, Signal, Start, State, code, status,
};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use world::World;

/// Runs a test with both runtimes.
macro_rules! with_both {
    ($($name:ident),* $(,)?) => {
        mod runc { $(#[test] fn $name() { super::$name(super::World::new("runc")); })* }
        mod crun { $(#[test] fn $name() { super::$name(super::World::new("crun")); })* }
    };
}

with_both!(
    a_container_lives_from_create_to_delete,
    exec_gives_output_and_exit_code,
    a_terminal_container_logs_attaches_and_resizes,
    an_exec_with_a_terminal_gets_the_master,
    a_failing_runtime_says_why,
    a_killed_container_reports_its_signal,
    a_container_begins_with_no_signal_blocked,
    running_out_of_memory_is_noticed,
);

fn a_container_lives_from_create_to_delete(mut world: World) {
    world.subscribe();
    let pid = world.create(world.request("c1", "echo out; echo err >&2; hostname; ip link show lo; exit 3", false));
    assert!(fs::metadata(format!("/proc/{pid}")).is_ok());
    world.start("c1");
    let exited = world.exited();
    assert_eq!((exited.exit_code, exited.signal, exited.oom), (3, 0, false));
    let record = world.record("c1");
    assert_eq!((record.exit_code, record.finished_at), (3, exited.finished_at));
    assert!(record.started_at > 0);
    let log = world.log("c1");
    for expected in ["stdout F out", "stderr F err", "stdout F pod"] {
        assert!(log.iter().any(|line| line == expected), "{expected} in {log:?}");
    }
    assert!(log.iter().any(|line| line.contains("LOOPBACK,UP")), "{log:?}");
    world.delete("c1");
    world.delete("c1");
    let Ok(Reply::State(state)) = world.client.ask(&Request::State(State {})) else { panic!("state") };
    assert!(state.containers.is_empty());
    world.shut_down();
}

fn exec_gives_output_and_exit_code(mut world: World) {
    world.run("c1", "sleep 1000");
    assert_eq!(world.exec("c1", "e1", "echo o; echo e >&2; exit 7"), (7, "o\n".into(), "e\n".into()));
    assert_eq!(world.exec("c1", "e2", "kill -9 $$").0, 137);
    for number in 0..10 {
        assert_eq!(world.exec("c1", &format!("f{number}"), "true").0, 0);
    }
    let no_descriptors = Exec { exec: "e3".into(), container: "c1".into(), ..Exec::default() };
    assert_eq!(world.client.ask(&Request::Exec(no_descriptors)).expect_err("refused").code, code::INVALID);
    world.shut_down();
}

fn a_terminal_container_logs_attaches_and_resizes(mut world: World) {
    world.subscribe();
    let script = "read line; echo got $line; stty size; exit 0";
    world.create(Create { stdin: true, ..world.request("c1", script, true) });
    world.done(&Request::Resize(Resize { container: "c1".into(), columns: 91, rows: 37 }));
    let ask = Request::Attach(Attach { container: "c1".into(), stdin: true, stdout: true, stderr: true });
    let (reply, mut descriptors) = world.client.call(&ask, &[]).expect("connection");
    let Ok(Reply::Attached(attached)) = reply else { panic!("{reply:?}") };
    assert_eq!((attached.stdin, attached.stdout, attached.stderr), (true, true, false));
    let output = descriptors.pop().expect("stdout");
    let mut input = fs::File::from(descriptors.pop().expect("stdin"));
    world.start("c1");
    input.write_all(b"hello\n").expect("write");
    assert_eq!(world.exited().exit_code, 0);
    drop(input);
    let seen = std::io::read_to_string(fs::File::from(output)).expect("ends with the container");
    assert!(seen.contains("got hello\r\n37 91\r\n"), "{seen:?}");
    assert!(world.log("c1").iter().any(|line| line == "stdout F got hello\r" || line == "stdout F got hello"));
    world.shut_down();
}

fn an_exec_with_a_terminal_gets_the_master(mut world: World) {
    world.run("c1", "sleep 1000");
    let path = world.path("tty.json");
    fs::write(&path, world::process("tty; exit 5", true)).expect("process.json");
    let request = Exec { exec: "t".into(), container: "c1".into(), process: path, terminal: true, ..Exec::default() };
    let (reply, mut descriptors) = world.client.call(&Request::Exec(request), &[]).expect("connection");
    assert!(matches!(reply, Ok(Reply::Exec(_))), "{reply:?}");
    let text = world::read_terminal(descriptors.pop().expect("master"));
    assert!(text.starts_with("/dev/"), "{text:?}");
    loop {
        if let monitor::wire::Event::ExecExited(exited) = world.client.event().expect("event") {
            assert_eq!(exited.exit_code, 5);
            break;
        }
    }
    world.shut_down();
}

fn a_failing_runtime_says_why(mut world: World) {
    let request = world.request("c1", "true", false);
    let config = request.bundle.join("config.json");
    let text = fs::read_to_string(&config).expect("config").replace("/bin/sh", "/bin/missing");
    fs::write(&config, text).expect("config");
    // runc sees it at create, crun too: the path is looked up before the container waits.
    let failure = match world.client.ask(&Request::Create(request)) {
        Err(failure) => failure,
        Ok(_) => world
            .client
            .ask(&Request::Start(Start { container: "c1".into(), ..Start::default() }))
            .expect_err("start fails"),
    };
    assert_eq!(failure.code, code::RUNTIME_FAILED);
    assert!(failure.runtime_message.contains("/bin/missing"), "{failure:?}");
    assert_ne!(failure.exit_code, 0);
    // The name is free again, and nothing of the attempt is in the way.
    world.delete("c1");
    world.run("c1", "sleep 1000");
    let missing = Exec {
        exec: "e".into(),
        container: "c1".into(),
        process: world.path("nowhere.json"),
        terminal: true,
        ..Exec::default()
    };
    let failure = world.client.ask(&Request::Exec(missing)).expect_err("no such file");
    assert_eq!((failure.code, failure.step.as_str()), (code::RUNTIME_FAILED, "exec"));
    assert!(failure.runtime_message.contains("nowhere.json"), "{failure:?}");
    let unknown = Create { binary: "/nonexistent/runtime".into(), ..world.request("c2", "true", false) };
    let failure = world.client.ask(&Request::Create(unknown)).expect_err("no such runtime");
    assert!(failure.message.contains("/nonexistent/runtime"), "{failure:?}");
    world.shut_down();
}

// Not with crun: its `run` waits for a program that ends at once, and the exit code is lost to us.
#[test]
fn one_step_creates_and_starts() {
    let mut world = World::new("runc");
    world.subscribe();
    // The shortest program there is: it has ended before anybody could look, many times in a row.
    for number in 0..20 {
        let id = format!("c{number}");
        let request = Create { and_start: true, ..world.request(&id, &format!("echo out; exit {number}"), false) };
        let Ok(Reply::Created(created)) = world.client.ask(&Request::Create(request)) else { panic!("not created") };
        assert!(created.pid > 0 && created.started_at > 0, "{created:?}");
        let exited = world.exited();
        assert_eq!((exited.container.as_str(), exited.exit_code), (id.as_str(), number));
        assert_eq!(world.log(&id), ["stdout F out"]);
        assert_eq!(world.record(&id).started_at, created.started_at);
        world.delete(&id);
    }
    let request = Create { and_start: true, ..world.request("t", "tty; read line; echo read $line", true) };
    assert!(matches!(world.client.ask(&Request::Create(request)), Ok(Reply::Created(it)) if it.started_at > 0));
    let attach = Attach { container: "t".into(), stdin: true, ..Attach::default() };
    let (_, mut descriptors) = world.client.call(&Request::Attach(attach), &[]).expect("connection");
    fs::File::from(descriptors.remove(0)).write_all(b"typed\n").expect("write");
    assert_eq!(world.exited().exit_code, 0);
    assert!(world.log("t").iter().any(|line| line.contains("/dev/")), "{:?}", world.log("t"));
    assert!(world.log("t").iter().any(|line| line.ends_with("read typed")), "{:?}", world.log("t"));
    world.shut_down();
}

#[test]
fn one_step_that_fails_leaves_nothing() {
    let mut world = World::new("runc");
    let request = Create { and_start: true, ..world.request("c1", "true", false) };
    let config = request.bundle.join("config.json");
    let text = fs::read_to_string(&config).expect("config").replace("/bin/sh", "/bin/missing");
    fs::write(&config, text).expect("config");
    let failure = world.client.ask(&Request::Create(request)).expect_err("no such program");
    assert_eq!((failure.code, failure.step.as_str()), (code::RUNTIME_FAILED, "run"));
    assert!(failure.runtime_message.contains("/bin/missing"), "{failure:?}");
    let Ok(Reply::State(state)) = world.client.ask(&Request::State(State {})) else { panic!("state") };
    assert!(state.containers.is_empty());
    assert_eq!(fs::read_dir(world.path("oci")).expect("the runtime's directory").count(), 0);
    world.run("c1", "sleep 1000");
    world.shut_down();
}

fn a_killed_container_reports_its_signal(mut world: World) {
    world.subscribe();
    world.run("c1", "sleep 1000");
    world.kill("c1", 9);
    let exited = world.exited();
    assert_eq!((exited.exit_code, exited.signal), (137, 9));
    let again = Request::Signal(Signal { container: "c1".into(), signal: 9, ..Signal::default() });
    assert_eq!(world.client.ask(&again).expect_err("it has ended").code, code::WRONG_STATE);
    world.run("c2", "trap 'exit 42' TERM; echo ready; while true; do sleep 0.01; done");
    while world.log("c2").is_empty() {
        std::thread::yield_now();
    }
    world.kill("c2", 15);
    assert_eq!(world.exited().exit_code, 42);
    world.run("c3", "sleep 1000");
    world.done(&Request::Signal(Signal { container: "c3".into(), signal: 9, all: true, ..Signal::default() }));
    assert_eq!(world.exited().exit_code, 137);
    world.shut_down();
}

/// The monitor blocks signals for itself alone: who starts with SIGTERM blocked could not be stopped with it.
fn a_container_begins_with_no_signal_blocked(mut world: World) {
    world.subscribe();
    world.run("c1", "cat /proc/self/status");
    world.exited();
    let is_free = |line: &str| line.trim_end().ends_with("SigBlk:\t0000000000000000");
    assert!(world.log("c1").iter().any(|line| is_free(line)), "{:?}", world.log("c1"));
    world.run("c2", "sleep 1000");
    let (_, status, _) = world.exec("c2", "e", "cat /proc/self/status");
    assert!(status.lines().any(is_free), "{status}");
    world.shut_down();
}

fn running_out_of_memory_is_noticed(mut world: World) {
    world.subscribe();
    world.run("c1", "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 9");
    let exited = world.exited();
    assert!(exited.oom, "{exited:?}");
    assert!(world.record("c1").oom);
    world.shut_down();
}

#[test]
fn deleting_a_running_container_reports_its_exit_first() {
    let mut world = World::new("runc");
    world.subscribe();
    world.run("c1", "sleep 1000");
    world.delete("c1");
    assert_eq!(world.exited().exit_code, 137);
    world.shut_down();
}

#[test]
fn a_lost_client_loses_no_line_and_no_state() {
    let mut world = World::new("runc");
    world.run("c1", "for i in $(seq 2000); do echo line $i; done; cat; exit 4");
    // The first client goes in the middle of it; another comes later.
    world.client = world.reconnect();
    let ask = Request::State(State {});
    loop {
        let Ok(Reply::State(state)) = world.client.ask(&ask) else { panic!("state") };
        if state.containers[0].status == status::EXITED {
            assert_eq!(state.containers[0].exit_code, 4);
            assert!(state.containers[0].log_bytes > 2000 * 40);
            break;
        }
        world.client = world.reconnect();
    }
    let expected: Vec<String> = (1..=2000).map(|number| format!("stdout F line {number}")).collect();
    assert_eq!(world.log("c1"), expected);
    world.shut_down();
}

#[test]
fn stdin_is_closed_after_the_first_client_when_asked_for() {
    let mut world = World::new("runc");
    world.subscribe();
    world.create(Create { stdin: true, stdin_once: true, ..world.request("c1", "cat; echo end", false) });
    world.start("c1");
    let ask = Request::Attach(Attach { container: "c1".into(), stdin: true, stdout: true, stderr: true });
    let (reply, mut descriptors) = world.client.call(&ask, &[]).expect("connection");
    assert!(matches!(reply, Ok(Reply::Attached(ref it)) if it.stdin && it.stdout && it.stderr), "{reply:?}");
    let mut input = fs::File::from(descriptors.remove(0));
    input.write_all(b"typed\n").expect("write");
    drop(input);
    world.exited();
    assert_eq!(world.log("c1"), ["stdout F typed", "stdout F end"]);
    let seen = std::io::read_to_string(fs::File::from(descriptors.remove(0))).expect("stdout");
    assert_eq!(seen, "typed\nend\n");
    world.shut_down();
}

#[test]
fn a_reader_that_does_not_read_never_stops_the_container() {
    let mut world = World::new("runc");
    world.subscribe();
    world.create(world.request("c1", "head -c 4000000 /dev/zero | dd bs=1M 2>/dev/null; exit 6", false));
    let ask = Request::Attach(Attach { container: "c1".into(), stdout: true, ..Attach::default() });
    let (_, descriptors) = world.client.call(&ask, &[]).expect("connection");
    world.start("c1");
    let exited = world.exited();
    assert_eq!(exited.exit_code, 6, "it ends though nobody reads");
    let mut seen = Vec::new();
    fs::File::from(descriptors.into_iter().next().expect("stdout")).read_to_end(&mut seen).expect("read");
    assert!(seen.len() < 4_000_000, "the reader was cut off");
    assert!(fs::metadata(world.path("c1.log")).expect("log").len() > 4_000_000);
    world.shut_down();
}

#[test]
fn a_rotated_log_has_every_line_once() {
    let mut world = World::new("runc");
    world.subscribe();
    world.run("c1", "for i in $(seq 3000); do echo $i; done");
    let mut parts = Vec::new();
    for number in 0..3 {
        let part = world.path(&format!("part{number}"));
        fs::rename(world.path("c1.log"), &part).expect("rename");
        world.done(&Request::ReopenLog(ReopenLog { container: "c1".into(), ..ReopenLog::default() }));
        parts.push(part);
    }
    world.exited();
    parts.push(world.path("c1.log"));
    let text: String = parts.iter().map(|part| fs::read_to_string(part).expect("part")).collect();
    let numbers: Vec<u32> = text.lines().map(|line| line.rsplit(' ').next().expect("n").parse().expect("n")).collect();
    assert_eq!(numbers, (1..=3000).collect::<Vec<_>>());
    world.shut_down();
}

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    let mut world = World::new("runc");
    world.run("c1", "sleep 1000");
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[255; 4096]] {
        let mut socket = monitor::wire::socket::connect(&world.path("s")).expect("connect");
        socket.write_all(garbage).expect("write");
        let mut rest = Vec::new();
        // Reset or end of file: both mean closed.
        let _ = socket.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    // A request of the far future is refused, and the connection lives on.
    let mut socket = monitor::wire::socket::connect(&world.path("s")).expect("connect");
    let header = monitor::wire::codec::Header { version: 9, descriptors: 0, kind: 4000, length: 3, id: 5 };
    socket.write_all(&[&header.encode()[..], b"abc"].concat()).expect("write");
    socket.write_all(&Request::State(State {}).encode(6, 0).expect("short")).expect("write");
    let mut inbox = monitor::wire::socket::Inbox::default();
    let mut ids = Vec::new();
    while ids.len() < 2 {
        inbox.fill(&socket).expect("read");
        while let Some(frame) = inbox.next().expect("well-formed") {
            ids.push((frame.header.id, frame.header.kind));
        }
    }
    assert_eq!(ids, [(5, 0x8007), (6, 0x8006)]);
    let idle: Vec<UnixStream> =
        (0..40).map(|_| monitor::wire::socket::connect(&world.path("s")).expect("connect")).collect();
    assert_eq!(world.exec("c1", "e", "echo alive").1, "alive\n");
    drop(idle);
    world.shut_down();
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let mut world = World::new("runc");
    world.run("c1", "sleep 1000");
    let mut socket = monitor::wire::socket::connect(&world.path("s")).expect("connect");
    let ask = Request::State(State {}).encode(1, 0).expect("short");
    let dropped = (0..1_000_000).any(|_| socket.write_all(&ask).is_err());
    assert!(dropped);
    assert_eq!(world.exec("c1", "e", "echo alive").1, "alive\n");
    world.shut_down();
}

#[test]
fn a_step_that_hangs_is_killed_and_told() {
    let mut world = World::new("runc");
    let script = world.path("hang");
    fs::write(&script, "#!/bin/sh\ncase \"$*\" in *create*) sleep 1000;; esac\n").expect("script");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let request = Create { binary: script, timeout_milliseconds: 50, ..world.request("c1", "true", false) };
    assert_eq!(world.client.ask(&Request::Create(request)).expect_err("killed").code, code::TIMED_OUT);
    world.run("c1", "sleep 1000");
    world.shut_down();
}

/// What a runtime leaves behind in a session of its own comes to the monitor.
#[test]
fn a_stray_is_reaped_when_it_ends_and_nothing_else_happens() {
    let mut world = World::new("runc");
    let (script, pid, go) = (world.path("strays"), world.path("pid"), world.path("go"));
    let stray = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; while [ ! -e {1} ]; do sleep 0.05; done",
        pid.display(),
        go.display()
    );
    let text = format!(
        "#!/bin/sh\nsetsid sh -c '{stray}' > /dev/null 2>&1 < /dev/null &\nwhile [ ! -e {} ]; do sleep 0.05; done\nexit 1\n",
        pid.display()
    );
    fs::write(&script, text).expect("script");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let request = Create { binary: script, ..world.request("c1", "true", false) };
    world.client.ask(&Request::Create(request)).expect_err("this runtime makes nothing");
    let pid = fs::read_to_string(pid).expect("the stray lives");
    let stat = format!("/proc/{}/stat", pid.trim());
    let parent = |stat: &str| stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
    assert_eq!(parent(&fs::read_to_string(&stat).expect("the stray lives")), Some(world.pid));
    fs::write(go, "").expect("go");
    within_a_minute("it is reaped", || !fs::exists(&stat).expect("proc"));
    world.shut_down();
}

#[test]
fn a_step_of_a_client_that_died_is_joined_by_the_next_one() {
    let world = World::new("runc");
    let create = Request::Create(world.request("c1", "sleep 1000", false));
    let dying = monitor::wire::socket::connect(&world.path("s")).expect("connect");
    monitor::wire::socket::send_all(&dying, &create.encode(1, 0).expect("a frame"), &[]).expect("send");
    drop(dying);
    let mut next = world.reconnect();
    let Reply::Created(first) = next.ask(&create).expect("joined or done") else { panic!("an odd reply") };
    let Reply::Created(second) = next.ask(&create).expect("done") else { panic!("an odd reply") };
    assert!(first.pid > 0 && first.pid == second.pid);
    let start = Request::Start(Start { container: "c1".into(), timeout_milliseconds: 0 });
    for _ in 0..2 {
        assert_eq!(next.ask(&start).expect("started once"), Reply::Done(monitor::wire::Done {}));
    }
}

#[test]
fn shutdown_is_refused_while_containers_are_left() {
    let mut world = World::new("runc");
    world.run("c1", "sleep 1000");
    let failure = world.client.ask(&Request::Shutdown(Shutdown { force: false })).expect_err("refused");
    assert_eq!(failure.code, code::WRONG_STATE);
    world.delete("c1");
    world.done(&Request::Shutdown(Shutdown { force: false }));
}

#[test]
fn a_nursery_makes_monitors_that_need_nobody() {
    let (own, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .expect("socket pair");
    let mut nursery = std::process::Command::new(env!("CARGO_BIN_EXE_sampan-monitor"))
        .args(monitor::nursery::arguments())
        .stdin(theirs)
        .spawn()
        .expect("nursery");
    let directory = tempfile::tempdir().expect("tempdir");
    let ask = |name: &str, directory: &str| {
        let words = ["--id", name, "--dir", directory, "--hostname", name].map(std::ffi::OsString::from);
        monitor::nursery::ask(&own, &words)
    };
    let place = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let pids: Vec<u32> = ["a", "b"]
        .map(|name| {
            fs::create_dir(place(name)).expect("directory");
            ask(name, &place(name)).expect("a monitor")
        })
        .into();
    let failed = ask("c", "/nonexistent/place").expect_err("no such directory");
    assert!(
        matches!(&failed, monitor::nursery::Refusal::Failed(why) if why.contains("/nonexistent/place: No such file")),
        "{failed:?}"
    );
    // A process list shows which is which.
    let shown = fs::read_to_string(format!("/proc/{}/cmdline", pids[0])).expect("a process");
    assert!(shown.contains(&format!("monitor\0--id\0a\0--dir\0{}\0", place("a"))), "{shown:?}");
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).expect("a process");
    assert_ne!(namespace(pids[0]), namespace(pids[1]));
    assert_ne!(namespace(pids[0]), namespace(std::process::id()));
    // Its starter's end is its own, and not the monitors'.
    drop(own);
    assert!(nursery.wait().expect("nursery").success());
    for name in ["a", "b"] {
        let mut client = monitor::client::Client::connect(directory.path().join(name).as_path()).expect("connect");
        assert_eq!(client.welcome.sandbox, name);
        client.ask(&Request::Shutdown(Shutdown { force: true })).expect("shutdown");
    }
}

#[test]
fn a_second_monitor_does_not_take_the_place() {
    let mut world = World::new("runc");
    let output = world::start(world.directory.path(), &[]);
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "sampan monitor: socket: another monitor serves here\n");
    assert!(matches!(world.client.ask(&Request::State(State {})), Ok(Reply::State(_))));
    world.shut_down();
}

#[test]
fn a_start_that_fails_names_the_step() {
    let directory = tempfile::tempdir().expect("tempdir");
    let output = world::start(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.starts_with("sampan monitor: directory /"), "{text}");
    std::fs::create_dir(directory.path().join("s")).expect("directory");
    let output = world::start(directory.path(), &["--namespaces", "net,time"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown namespace time"), "{output:?}");
}

/// Leaves an orphan in the namespace of a pause process, has it end, and waits until nothing is left of it.
fn orphans_are_reaped(pause: u32, go: &Path) {
    let script =
        format!("setsid sh -c 'while [ ! -e {} ]; do sleep 0.05; done' > /dev/null 2>&1 < /dev/null &", go.display());
    let entered = Command::new("nsenter").args(["-t", &pause.to_string(), "-p", "sh", "-c", &script]).status();
    assert!(entered.expect("nsenter").success());
    let children = || fs::read_to_string(format!("/proc/{pause}/task/{pause}/children")).expect("children");
    within_a_minute("the orphan comes", || !children().is_empty());
    fs::write(go, "").expect("go");
    within_a_minute("it is reaped", || children().is_empty());
}

fn within_a_minute(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_shared_pid_namespace_has_a_pause_process() {
    let directory = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir(directory.path().join("s")).expect("directory");
    let sysctl = ["--namespaces", "net,ipc,uts,pid", "--sysctl", "net.ipv4.ip_unprivileged_port_start=80"];
    let output = world::start(directory.path(), &sysctl);
    assert!(output.status.success(), "{output:?}");
    let mut client = monitor::client::Client::connect(&directory.path().join("s")).expect("connect");
    let (monitor, pause) = (client.welcome.pid, client.welcome.pause_pid);
    let namespace = |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("namespace");
    assert_ne!(namespace(pause, "pid"), namespace(monitor, "pid"));
    assert_eq!(namespace(std::process::id(), "pid"), namespace(monitor, "pid"));
    for name in ["net", "ipc", "uts"] {
        assert_ne!(namespace(std::process::id(), name), namespace(monitor, name));
        assert_eq!(namespace(pause, name), namespace(monitor, name));
    }
    orphans_are_reaped(pause, &directory.path().join("go"));
    assert!(matches!(client.ask(&Request::Shutdown(Shutdown { force: true })), Ok(Reply::Done(_))));
    let _ = client.event();
    while fs::read_to_string(format!("/proc/{pause}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::yield_now();
    }
}
