//! Pods against the scripted runtime on virtual time: what is called, told and published. Needs root, for cgroups.
#![allow(clippy::disallowed_methods)]

mod bench;

use bench::{Bench, Told, pod};
use cri::{
    fake::{Exec, ExecOutcome, Fake, Fault, OnStop, Program, Verb},
    v1,
};
use jiff::{SignedDuration, Timestamp};
use node::{
    image::queue::Limits,
    log_rotation,
    pod::{act::Outcome, clock::Clock, decide::Action, shell::Wish},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

const LIMIT: Duration = Duration::from_secs(3600);
/// Where the scripted runtime's clock begins.
const ORIGIN: i64 = 1_700_000_000;

fn bench(fake: &Fake) -> Bench {
    let clock = Clock::virtual_from(Timestamp::from_second(ORIGIN).unwrap());
    Bench::new(fake.client(), Limits::default(), clock)
}

/// A pod whose container `c` has these fields too.
fn with(container: Value, spec: Value) -> Value {
    let mut whole = json!({"name": "c", "image": "registry.test/a:1", "imagePullPolicy": "IfNotPresent"});
    json_patch::merge(&mut whole, &container);
    let mut all = json!({"containers": [whole], "terminationGracePeriodSeconds": 30});
    json_patch::merge(&mut all, &spec);
    pod("p", all)
}

async fn event(bench: &Bench, reason: &str) -> Told {
    let mut events = bench.api.events.subscribe();
    let wait = events.wait_for(|events| events.iter().any(|told| told.reason == reason));
    let Ok(seen) = tokio::time::timeout(LIMIT, wait).await else {
        panic!("no {reason}: {:#?}", bench.api.events.borrow())
    };
    seen.unwrap().iter().find(|told| told.reason == reason).unwrap().clone()
}

async fn running(bench: &Bench) -> Value {
    bench.until("p", LIMIT, |status| status["containerStatuses"][0]["state"]["running"].is_object()).await
}

/// The pod is changed in the API, and the node hears of it.
fn renew(bench: &Bench, wishes: &watch::Sender<Wish>, change: &Value) {
    bench.api.pods.send_modify(|pods| {
        let pod = pods.get_mut("p").unwrap();
        json_patch::merge(pod, change);
        bench::bump(pod);
    });
    let pod = bench.api.pods.borrow()["p"].clone();
    wishes.send_modify(|wish| wish.pod = Arc::new(serde_json::from_value(pod).unwrap()));
}

/// The pod is deleted in the API.
fn delete(bench: &Bench, wishes: &watch::Sender<Wish>, grace: i64) {
    let at = (bench.clock.now() + SignedDuration::from_secs(grace)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    renew(bench, wishes, &json!({"metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}}));
}

/// Waits until nothing of the pod is left on the node.
async fn gone(bench: &Bench, wishes: &watch::Sender<Wish>) {
    bench.until("p", LIMIT, |status| matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"))).await;
    wishes.send_modify(|wish| wish.removed = true);
    tokio::time::timeout(LIMIT, wishes.closed()).await.expect("the pod goes");
}

fn commands(fake: &Fake) -> Vec<Vec<String>> {
    let calls = fake.calls_of(Verb::ExecSync).into_iter();
    calls
        .map(|recorded| match recorded.call {
            cri::fake::Call::ExecSync(request) => request.cmd,
            _ => Vec::new(),
        })
        .collect()
}

/// The time-outs of the stops so far.
fn stops(fake: &Fake) -> Vec<i64> {
    let calls = fake.calls_of(Verb::StopContainer).into_iter();
    calls
        .map(|recorded| match recorded.call {
            cri::fake::Call::StopContainer(request) => request.timeout,
            _ => 0,
        })
        .collect()
}

/// What the status and the event say of a postStart that fails.
async fn failed_post_start(fake: Fake, handler: Value) -> (String, Told) {
    let mut bench = bench(&fake);
    fake.program(
        "c",
        Program { on_stop: OnStop::Exit { after: Duration::from_secs(5), code: 143 }, ..Program::forever() },
    );
    let _wishes = bench.begin(with(json!({"lifecycle": {"postStart": handler}}), json!({"restartPolicy": "Always"})));
    let waits = |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PostStartHookError";
    let status = bench.until("p", LIMIT, waits).await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    let told = event(&bench, "FailedPostStartHook").await;
    // HOOK-39: the dead instance is there to be seen.
    let status = bench
        .until("p", LIMIT, |status| status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 143)
        .await;
    assert!(status["containerStatuses"][0]["state"]["waiting"].is_object(), "{status:#}");
    bench.end().await;
    (message, told)
}

fn exec() -> Value {
    json!({"exec": {"command": ["hook", "$(FOO)", "me"]}})
}

#[tokio::test(start_paused = true)]
async fn hook_9_a_tcp_socket_is_no_handler_that_can_be_run() {
    let handler = json!({"tcpSocket": {"port": 80}});
    let (message, told) = failed_post_start(Fake::new(), handler).await;
    assert_eq!(message, "Cannot run handler: invalid handler: tcpSocket");
    assert!(told.message.starts_with("PostStartHook failed (invalid handler after "), "{told:?}");
    assert_eq!(told.field_path, "spec.containers{c}");
}

#[tokio::test(start_paused = true)]
async fn hook_12_a_command_is_run_as_it_stands() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let container =
        json!({"env": [{"name": "FOO", "value": "bar"}], "args": ["$(FOO)"], "lifecycle": {"postStart": exec()}});
    let _wishes = bench.begin(with(container, json!({})));
    running(&bench).await;
    assert_eq!(commands(&fake), [["hook", "$(FOO)", "me"]]);
    let created = fake.calls_of(Verb::CreateContainer);
    let cri::fake::Call::CreateContainer(request) = &created[0].call else { panic!() };
    assert_eq!(request.config.as_ref().unwrap().args, ["bar"], "unlike the container's own");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn hook_13_14_the_message_of_a_failed_command() {
    let whose = "for Container \"c\" in Pod \"p_ns(u-p)\" failed - error:";
    let fake = Fake::new();
    fake.on_exec(|_| ExecOutcome {
        exit_code: 7,
        stdout: b"out\n".to_vec(),
        stderr: b"err".to_vec(),
        ..ExecOutcome::default()
    });
    let (message, _) = failed_post_start(fake, exec()).await;
    let command = "command 'hook $(FOO) me' exited with 7: err";
    assert_eq!(message, format!("Exec lifecycle hook ([hook $(FOO) me]) {whose} {command}, message: \"out\\nerr\""));
    // A program that is not there: the runtime's own words.
    let text = "OCI runtime exec failed: exec: \"hook\": executable file not found in $PATH";
    let fake = Fake::new();
    fake.inject(Fault::fail(Verb::ExecSync, tonic::Status::unknown(text)).always());
    let (message, told) = failed_post_start(fake, exec()).await;
    assert_eq!(message, format!("Exec lifecycle hook ([hook $(FOO) me]) {whose} {text}, message: \"\""));
    assert!(told.message.starts_with("PostStartHook failed (not run after "), "{told:?}");
    // Nothing is said of one that went well.
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let _wishes = bench.begin(with(json!({"lifecycle": {"postStart": exec()}}), json!({})));
    let status = running(&bench).await;
    assert!(!status.to_string().contains("hook"), "{status:#}");
    bench.end().await;
}

#[tokio::test]
async fn hook_28_the_message_of_a_failed_request() {
    // Taken for as long as this lasts, and nobody listens there.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = socket.local_addr().unwrap().port();
    let fake = Fake::new();
    let mut bench = Bench::new(fake.client(), Limits::default(), Clock::System);
    let get = json!({"path": "/a?b=c", "port": free, "host": "127.0.0.1", "scheme": "HTTP"});
    let pod = with(json!({"lifecycle": {"postStart": {"httpGet": get}}}), json!({}));
    let _wishes = bench.begin(pod);
    let waits = |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PostStartHookError";
    let status = bench.until("p", LIMIT, waits).await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    let wanted = format!(
        "HTTP lifecycle hook (/a?b=c) for Container \"c\" in Pod \"p_ns(u-p)\" failed - error: Get \
         \"http://127.0.0.1:{free}/a?b=c\": dial tcp 127.0.0.1:{free}: connect: "
    );
    assert!(message.starts_with(&wanted), "{message}");
    drop(socket);
    bench.end().await;
}

#[tokio::test]
async fn hook_30_a_failed_call_is_not_repeated() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(Mutex::new(0));
    let counted = connections.clone();
    let server = tokio::spawn(async move {
        loop {
            // Who connects is hung up on.
            drop(listener.accept().await.unwrap());
            *counted.lock().unwrap() += 1;
        }
    });
    let fake = Fake::new();
    let mut bench = Bench::new(fake.client(), Limits::default(), Clock::System);
    let get = json!({"httpGet": {"path": "/", "port": port, "host": "127.0.0.1", "scheme": "HTTP"}});
    let wishes = bench.begin(with(json!({"lifecycle": {"preStop": get}}), json!({})));
    running(&bench).await;
    delete(&bench, &wishes, 30);
    let told = event(&bench, "FailedPreStopHook").await;
    assert!(told.message.starts_with("PreStopHook failed (no HTTP response after "), "{told:?}");
    gone(&bench, &wishes).await;
    assert_eq!(*connections.lock().unwrap(), 1);
    assert_eq!(bench.actor.hooks.journal.runs("ns", "p").len(), 1);
    server.abort();
    bench.end().await;
}

/// A running container of a pod with a preStop hook, and its id.
async fn hooked(bench: &mut Bench, fake: &Fake) -> (Arc<node::object::Pod>, String) {
    let pod = with(json!({"lifecycle": {"preStop": exec()}}), json!({}));
    let _wishes = bench.begin(pod.clone());
    running(bench).await;
    (Arc::new(serde_json::from_value(pod).unwrap()), fake.containers()[0].id.clone())
}

#[tokio::test(start_paused = true)]
async fn hook_53_nobody_is_told_that_a_hook_missed_a_container_that_had_just_ended() {
    for status in [tonic::Status::not_found("no such container"), tonic::Status::unknown("container is not running")] {
        let fake = Fake::new();
        let mut bench = bench(&fake);
        let (pod, id) = hooked(&mut bench, &fake).await;
        let hook = Action::RunPreStop { id: id.clone(), container: "c".into() };
        fake.inject(Fault::fail(Verb::ExecSync, status.clone()).times(2));
        // As long as it runs, its hook's failure is news.
        assert!(matches!(bench.run(&pod, &hook).await, Outcome::Hook(Some(_))));
        event(&bench, "FailedPreStopHook").await;
        let told = || bench.api.events.borrow().iter().filter(|told| told.reason == "FailedPreStopHook").count();
        assert_eq!(told(), 1);
        fake.exit(&id, 0);
        assert!(matches!(bench.run(&pod, &hook).await, Outcome::Hook(Some(_))));
        // A later event comes after all that were recorded before.
        bench.actor.recorder.normal(node::event::Target::pod(&pod), "Later", "x");
        event(&bench, "Later").await;
        assert_eq!(told(), 1);
        bench.end().await;
    }
}

/// When which command came, in seconds, while a log is kept.
type Calls = Arc<Mutex<Vec<(u64, String)>>>;

fn noting(fake: &Fake, answer: impl Fn(&Exec, u64) -> ExecOutcome + Send + Sync + 'static) -> Calls {
    let calls = Calls::default();
    let (noted, began) = (calls.clone(), Instant::now());
    fake.on_exec(move |exec| {
        let at = began.elapsed().as_secs();
        noted.lock().unwrap().push((at, exec.command.concat()));
        answer(exec, at)
    });
    calls
}

fn of(calls: &Calls, command: &str) -> Vec<u64> {
    calls.lock().unwrap().iter().filter(|(_, seen)| seen == command).map(|(at, _)| *at).collect()
}

fn probe(command: &str) -> Value {
    json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1})
}

#[tokio::test(start_paused = true)]
async fn hook_58_pod_62_while_a_pod_ends_it_is_asked_for_its_readiness_alone() {
    let fake = Fake::new();
    // Ready until the tenth second; what starts up never does.
    let calls = noting(&fake, |exec, at| match exec.command[0].as_str() {
        "ready" if at >= 14 => ExecOutcome::exits(1),
        "startup" => ExecOutcome::exits(1),
        _ => ExecOutcome::default(),
    });
    let mut bench = bench(&fake);
    let slow_to_fail = json!({"exec": {"command": ["startup"]}, "periodSeconds": 1, "failureThreshold": 1000});
    let hook = json!({"preStop": {"sleep": {"seconds": 10}}});
    let spec = json!({
        "initContainers": [{"name": "s", "image": "registry.test/a:1", "restartPolicy": "Always",
            "livenessProbe": probe("sidecar"), "lifecycle": hook}],
        "containers": [
            {"name": "c", "image": "registry.test/a:1", "livenessProbe": probe("alive"), "readinessProbe": probe("ready"),
                "lifecycle": hook},
            {"name": "d", "image": "registry.test/a:1", "startupProbe": slow_to_fail, "lifecycle": hook},
        ],
    });
    let wishes = bench.begin(with(json!({}), spec));
    let ready = |status: &Value| status["containerStatuses"][0]["ready"] == true;
    bench.until("p", LIMIT, ready).await;
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    for command in ["alive", "ready", "sidecar", "startup"] {
        assert!(of(&calls, command).len() >= 9, "{command}: {:?}", calls.lock().unwrap());
    }
    let deleted_at = *of(&calls, "ready").last().unwrap();
    delete(&bench, &wishes, 30);
    gone(&bench, &wishes).await;
    for command in ["alive", "sidecar", "startup"] {
        assert!(*of(&calls, command).last().unwrap() <= deleted_at, "{command}: {:?}", calls.lock().unwrap());
    }
    let during = of(&calls, "ready").into_iter().filter(|at| *at > deleted_at).count();
    assert!((9..=11).contains(&during), "{during} of readiness in ten seconds of a hook");
    // POD-62: that it is no longer ready is there to be seen while it still runs.
    let patches = bench.api.patches.lock().unwrap().clone();
    let unready = patches.iter().any(|(_, patch)| {
        let status = &patch["status"];
        let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "False";
        let conditions = status["conditions"].as_array().is_some_and(|all| all.iter().any(is_ready));
        conditions && status["containerStatuses"][0]["state"]["running"].is_object() && status["phase"].is_null()
    });
    assert!(unready, "{patches:#?}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn hook_75_a_termination_is_never_taken_back() {
    let fake = Fake::new();
    fake.program(
        "c",
        Program { on_stop: OnStop::Exit { after: Duration::from_secs(5), code: 0 }, ..Program::forever() },
    );
    let mut bench = bench(&fake);
    let wishes = bench.begin(with(json!({}), json!({})));
    running(&bench).await;
    delete(&bench, &wishes, 30);
    fake.until(|fake| !fake.calls_of(Verb::StopContainer).is_empty()).await;
    // Somebody restores the object as it was.
    let restored = json!({"metadata": {"deletionTimestamp": null, "deletionGracePeriodSeconds": null}});
    renew(&bench, &wishes, &restored);
    gone(&bench, &wishes).await;
    assert_eq!(fake.calls_of(Verb::CreateContainer).len(), 1);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn hook_82_84_a_stop_that_comes_to_nothing_is_told_and_tried_again() {
    let lie = "error killing pod: detected running containers after a successful KillPod, CRI violation: [c]";
    for (fault, text) in [
        (Fault::fail(Verb::StopContainer, tonic::Status::unknown("no way")), "error killing pod: no way"),
        (Fault::blank(Verb::StopContainer), lie),
    ] {
        let fake = Fake::new();
        let calls = noting(&fake, |_, _| ExecOutcome::default());
        let mut bench = bench(&fake);
        let wishes = bench.begin(with(json!({"lifecycle": {"preStop": exec()}}), json!({})));
        running(&bench).await;
        fake.inject(fault);
        delete(&bench, &wishes, 30);
        let told = event(&bench, "FailedKillPod").await;
        assert_eq!((told.message.as_str(), told.kind.as_str(), told.field_path.as_str()), (text, "Warning", ""));
        gone(&bench, &wishes).await;
        // Whole seconds of a deletion's time: what is left is rounded up.
        let stops = stops(&fake);
        assert!(stops.len() == 2 && (29..=30).contains(&stops[0]) && (14..=20).contains(&stops[1]), "{stops:?}");
        assert_eq!(calls.lock().unwrap().len(), 1, "a hook that has ended is not repeated");
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn hook_79_who_is_not_there_to_be_stopped_has_ended() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let wishes = bench.begin(with(json!({}), json!({})));
    running(&bench).await;
    let id = fake.containers()[0].id.clone();
    let mut runtime = fake.client().runtime;
    runtime.remove_container(v1::RemoveContainerRequest { container_id: id }).await.unwrap();
    fake.inject(Fault::fail(Verb::StopContainer, tonic::Status::not_found("no such container")));
    let began = Instant::now();
    delete(&bench, &wishes, 30);
    gone(&bench, &wishes).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn hook_99_a_pod_that_is_gone_from_the_api_ends_with_its_hook_and_its_whole_grace() {
    let fake = Fake::new();
    let calls = noting(&fake, |_, _| ExecOutcome { takes: Duration::from_secs(2), ..ExecOutcome::default() });
    let mut bench = bench(&fake);
    let wishes = bench.begin(with(json!({"lifecycle": {"preStop": exec()}}), json!({})));
    running(&bench).await;
    wishes.send_modify(|wish| wish.removed = true);
    tokio::time::timeout(LIMIT, wishes.closed()).await.expect("the pod goes");
    assert_eq!((calls.lock().unwrap().len(), stops(&fake)), (1, vec![28]));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_1_of_many_updates_only_the_last_counts_and_steps_do_not_overlap() {
    let fake = Fake::new();
    fake.inject(Fault::delay(Verb::RunPodSandbox, Duration::from_secs(5)));
    let mut bench = bench(&fake);
    let env = json!([{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['n']"}}}]);
    let wishes = bench.begin(with(json!({"env": env}), json!({})));
    fake.until(|fake| !fake.calls_of(Verb::RunPodSandbox).is_empty()).await;
    for n in 0..100 {
        renew(&bench, &wishes, &json!({"metadata": {"annotations": {"n": n.to_string()}}}));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running(&bench).await;
    for verb in [Verb::RunPodSandbox, Verb::CreateContainer, Verb::StartContainer] {
        assert_eq!(fake.calls_of(verb).len(), 1, "{verb:?}");
    }
    let created = fake.calls_of(Verb::CreateContainer);
    let cri::fake::Call::CreateContainer(request) = &created[0].call else { panic!() };
    let envs = &request.config.as_ref().unwrap().envs;
    assert_eq!(envs.iter().find(|env| env.key == "N").unwrap().value.to_vec(), b"99".to_vec());
    assert_eq!(fake.violations(), [""; 0]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_2_what_cannot_be_seen_is_told_and_looked_at_again() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    fake.inject(Fault::fail(Verb::ListPodSandbox, tonic::Status::unavailable("away")));
    let wishes = bench.begin(with(json!({}), json!({})));
    let told = event(&bench, "FailedSync").await;
    assert_eq!(told.message, "error determining status: rpc error: code = Unavailable desc = away");
    assert_eq!((told.kind.as_str(), told.field_path.as_str()), ("Warning", ""));
    assert!(fake.calls_of(Verb::RunPodSandbox).is_empty(), "nothing is done before it is seen");
    running(&bench).await;
    // Later too; and what ended meanwhile is seen once it can be, without another word from outside.
    fake.inject(Fault::fail(Verb::ContainerStatus, tonic::Status::unknown("broken")));
    fake.exit("c", 1);
    wishes.send_modify(|wish| wish.relist += 1);
    fake.until(|fake| fake.calls_of(Verb::CreateContainer).len() == 2).await;
    let seen = bench.api.events.borrow().clone();
    let texts = seen.iter().filter(|told| told.reason == "FailedSync").map(|told| told.message.as_str());
    assert_eq!(
        texts.collect::<Vec<_>>(),
        ["error determining status: rpc error: code = Unavailable desc = away", "error determining status: broken"]
    );
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_20_attempts_go_on_after_the_highest_that_has_a_log() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let logs = bench.directory().join("log/ns_p_u-p/c");
    std::fs::create_dir_all(&logs).unwrap();
    for name in ["0.log", "3.log", "2.log.20240101-000000.gz", "x.log"] {
        std::fs::write(logs.join(name), "").unwrap();
    }
    let _wishes = bench.begin(with(json!({}), json!({})));
    let status = running(&bench).await;
    assert_eq!(fake.containers()[0].metadata.as_ref().unwrap().attempt, 4);
    assert_eq!(status["containerStatuses"][0]["restartCount"], 4);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_22_the_texts_of_a_start() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let _wishes = bench.begin(with(json!({}), json!({})));
    let text = |told: Told| (told.kind, told.message, told.field_path);
    let about = |kind: &str, message: &str| (kind.to_owned(), message.to_owned(), "spec.containers{c}".to_owned());
    assert_eq!(text(event(&bench, "Created").await), about("Normal", "Container created"));
    assert_eq!(text(event(&bench, "Started").await), about("Normal", "Container started"));
    bench.end().await;
    // A runtime speaks of ids, which nobody knows.
    let fake = Fake::new();
    let mut bench = bench_of_ids(&fake);
    let _wishes = bench.begin(with(json!({}), json!({"restartPolicy": "Never"})));
    let (kind, message, path) = text(event(&bench, "Failed").await);
    assert_eq!((kind.as_str(), path.as_str()), ("Warning", "spec.containers{c}"));
    assert_eq!(message, "Error: cannot start c");
    bench.end().await;
}

/// The first container that is started fails in words that have its id in them.
fn bench_of_ids(fake: &Fake) -> Bench {
    let bench = bench(fake);
    // Ids of the scripted runtime are numbers in order: sandbox 1, container 2.
    let text = format!("cannot start {:064x}", 2);
    fake.program("c", Program { start_error: Some(text), ..Program::forever() });
    bench
}

#[tokio::test(start_paused = true)]
async fn pod_28_65_logs_have_links_and_both_go_with_the_pod() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let wishes = bench.begin(with(json!({}), json!({})));
    running(&bench).await;
    let links = || -> Vec<_> {
        let entries = std::fs::read_dir(bench.directory().join("containers")).unwrap().flatten();
        let mut links: Vec<_> = entries
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read_link(entry.path()).unwrap()))
            .collect();
        links.sort();
        links
    };
    let logs = bench.directory().join("log/ns_p_u-p");
    let link = |attempt: usize| {
        let id = &fake.containers()[attempt].id;
        (format!("p_ns_c-{id}.log"), logs.join(format!("c/{attempt}.log")))
    };
    assert_eq!(links(), [link(0)]);
    std::fs::write(logs.join("c/0.log"), "x").unwrap();
    assert_eq!(std::fs::read_to_string(bench.directory().join("containers").join(link(0).0)).unwrap(), "x");
    fake.exit("c", 1);
    wishes.send_modify(|wish| wish.relist += 1);
    fake.until(|fake| fake.calls_of(Verb::StartContainer).len() == 2).await;
    bench.until("p", LIMIT, |status| status["containerStatuses"][0]["restartCount"] == 1).await;
    let mut both = [link(0), link(1)];
    both.sort();
    assert_eq!(links(), both);
    delete(&bench, &wishes, 1);
    gone(&bench, &wishes).await;
    assert_eq!(links(), []);
    assert!(!logs.exists());
    assert!(fake.containers().is_empty() && fake.sandboxes().is_empty());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_40_a_status_that_revives_who_ended_is_not_published() {
    let fake = Fake::new();
    fake.program("a", Program::ends(Duration::from_secs(1), 0));
    let mut bench = bench(&fake);
    let container = |name: &str| json!({"name": name, "image": "registry.test/a:1"});
    let wishes =
        bench.begin(with(json!({}), json!({"restartPolicy": "Never", "containers": [container("a"), container("b")]})));
    bench.until("p", LIMIT, |status| status["containerStatuses"][1]["state"]["running"].is_object()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    wishes.send_modify(|wish| wish.relist += 1);
    bench.until("p", LIMIT, |status| status["containerStatuses"][0]["state"]["terminated"].is_object()).await;
    // Somebody starts a container that nobody asked for.
    let first = fake.calls_of(Verb::CreateContainer).into_iter().next().unwrap();
    let cri::fake::Call::CreateContainer(mut request) = first.call else { panic!() };
    request.config.as_mut().unwrap().metadata.as_mut().unwrap().attempt = 1;
    fake.program("a", Program::forever());
    let mut runtime = fake.client().runtime;
    let container_id = runtime.create_container(request).await.unwrap().into_inner().container_id;
    runtime.start_container(v1::StartContainerRequest { container_id }).await.unwrap();
    let patches = bench.api.patches.lock().unwrap().len();
    let lists = fake.calls_of(Verb::ListContainers).len();
    wishes.send_modify(|wish| wish.relist += 1);
    fake.until(|fake| fake.calls_of(Verb::ListContainers).len() > lists).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.api.patches.lock().unwrap().len(), patches, "it is dropped");
    // What is true of the others is told once it can be.
    delete(&bench, &wishes, 5);
    gone(&bench, &wishes).await;
    for (_, patch) in &bench.api.patches.lock().unwrap()[patches..] {
        let status = &patch["status"]["containerStatuses"][0];
        assert!(status.is_null() || status["state"]["terminated"].is_object(), "{patch:#}");
    }
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_49_changes_join_in_one_patch_and_another_pod_of_the_name_gets_none() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let value = with(json!({}), json!({}));
    let wishes = bench.begin(value.clone());
    running(&bench).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let patches = || bench.api.patches.lock().unwrap().clone();
    let newer = |generation: i64| renew(&bench, &wishes, &json!({"metadata": {"generation": generation}}));
    // Three changes before anybody could look.
    let before = patches().len();
    (2..5).for_each(newer);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let news = patches().split_off(before);
    assert_eq!(news.len(), 1, "{news:#?}");
    assert_eq!(news[0].1["status"]["observedGeneration"], 4);
    // Three more while a patch is on its way: one more.
    *bench.api.slow.lock().unwrap() = Duration::from_secs(1);
    for generation in 5..9 {
        newer(generation);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let generations: Vec<Value> = patches()
        .split_off(before + 1)
        .iter()
        .map(|(_, patch)| patch["status"]["observedGeneration"].clone())
        .collect();
    assert_eq!(generations, [5, 8]);
    // The pod is made anew under its name before this node hears of it.
    let before = patches().len();
    let mut other = value;
    other["metadata"]["uid"] = json!("u-other");
    bench.api.pods.send_modify(|pods| drop(pods.insert("p".into(), other.clone())));
    wishes.send_modify(|wish| {
        let mut pod = (*wish.pod).clone();
        pod.metadata.generation = Some(9);
        pod.metadata.resource_version = Some("999".into());
        wish.pod = Arc::new(pod);
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    let news = patches().split_off(before);
    assert!(news.iter().all(|(_, patch)| patch["metadata"]["uid"] == "u-p"), "each says whom it means: {news:#?}");
    assert_eq!(news.len(), 1, "and is not repeated");
    assert_eq!(bench.api.pods.borrow()["p"], other);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn hook_76_a_grace_and_a_deadline_beyond_the_calendar_harm_nobody() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let spec = json!({"terminationGracePeriodSeconds": i64::MAX, "activeDeadlineSeconds": i64::MAX});
    let wishes = bench.begin(with(json!({}), spec));
    running(&bench).await;
    // A container that is killed alone has it too.
    fake.program("c", Program::stubborn());
    wishes.send_modify(|wish| wish.removed = true);
    tokio::time::timeout(LIMIT, wishes.closed()).await.expect("the pod goes");
    let (first, all) = (stops(&fake)[0], stops(&fake).len());
    assert!(all == 1 && first > 1 << 32, "{first}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_49_a_conflict_with_somebody_elses_write_is_tried_again_and_mutes_nobody() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    *bench.api.conflicts.lock().unwrap() = (3, 2);
    let wishes = bench.begin(with(json!({}), json!({})));
    running(&bench).await;
    assert_eq!(*bench.api.conflicts.lock().unwrap(), (0, 2));
    delete(&bench, &wishes, 5);
    tokio::time::timeout(LIMIT, wishes.closed()).await.expect("the pod goes");
    assert_eq!((*bench.api.deletions.borrow(), *bench.api.conflicts.lock().unwrap()), (3, (0, 0)));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_66_logs_are_looked_at_as_often_as_the_policy_says() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let _wishes = bench.begin(with(json!({}), json!({})));
    running(&bench).await;
    std::fs::write(bench.directory().join("log/ns_p_u-p/c/0.log"), [b'x'; 100]).unwrap();
    for seconds in [3, 10, 60] {
        fake.forget_calls();
        let policy = log_rotation::Policy { bytes_max: 99, files_max: 2, period: Duration::from_secs(seconds) };
        let (mut rotating, began) = (tokio::task::JoinSet::new(), Instant::now());
        rotating.spawn(log_rotation::run(policy, bench.actor.clone(), Default::default()));
        fake.until(|fake| !fake.calls_of(Verb::ReopenContainerLog).is_empty()).await;
        assert_eq!(began.elapsed().as_secs(), seconds);
        rotating.shutdown().await;
        std::fs::write(bench.directory().join("log/ns_p_u-p/c/0.log"), [b'x'; 100]).unwrap();
    }
    assert_eq!(log_rotation::Policy::default().period, Duration::from_secs(10));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_50_an_event_says_who_tells_it_and_of_what() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let _wishes = bench.begin(with(json!({}), json!({})));
    event(&bench, "Created").await;
    let events = bench.api.raw_events.lock().unwrap().clone();
    let mut created = events.iter().find(|event| event["reason"] == "Created").unwrap().clone();
    let name = created["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("p."), "{name}");
    let told_at = created["firstTimestamp"].take();
    assert_eq!(created["lastTimestamp"].take(), told_at);
    assert!(told_at.as_str().unwrap().parse::<Timestamp>().is_ok());
    assert_eq!(
        created,
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "ns"},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "ns", "uid": "u-p",
                "fieldPath": "spec.containers{c}"},
            "reason": "Created",
            "message": "Container created",
            "type": "Normal",
            "source": {"component": "kubelet", "host": "n"},
            "reportingComponent": "kubelet",
            "reportingInstance": "n",
            "firstTimestamp": null,
            "lastTimestamp": null,
            "count": 1,
        })
    );
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_56_an_initial_delay_counts_from_the_start_and_a_hook_is_part_of_it() {
    for (hook_seconds, expected) in [(20, 20), (4, 10), (0, 10)] {
        let fake = Fake::new();
        let calls = noting(&fake, move |exec, _| {
            let takes = if exec.command[0] == "hook" { hook_seconds } else { 0 };
            ExecOutcome { takes: Duration::from_secs(takes), ..ExecOutcome::default() }
        });
        let mut bench = bench(&fake);
        let mut readiness = probe("ready");
        readiness["initialDelaySeconds"] = json!(10);
        let container = json!({"readinessProbe": readiness, "lifecycle": {"postStart": exec()}});
        let _wishes = bench.begin(with(container, json!({})));
        bench.until("p", LIMIT, |status| status["containerStatuses"][0]["ready"] == true).await;
        let first = of(&calls, "ready")[0];
        assert!((expected..=expected + 1).contains(&first), "a hook of {hook_seconds}: {first}");
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn pod_57_before_the_start_only_startup_is_probed_and_after_it_no_more() {
    let fake = Fake::new();
    let calls = noting(&fake, |exec, at| match exec.command[0].as_str() {
        "startup" if at < 30 => ExecOutcome::exits(1),
        _ => ExecOutcome::default(),
    });
    let mut bench = bench(&fake);
    let startup = json!({"exec": {"command": ["startup"]}, "periodSeconds": 1, "failureThreshold": 1000});
    let container = json!({"startupProbe": startup, "livenessProbe": probe("alive"), "readinessProbe": probe("ready")});
    let _wishes = bench.begin(with(container, json!({})));
    let status = running(&bench).await;
    let first = &status["containerStatuses"][0];
    assert_eq!((&first["started"], &first["ready"]), (&json!(false), &json!(false)));
    bench.until("p", LIMIT, |status| status["containerStatuses"][0]["ready"] == true).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let (startup, alive, ready) = (of(&calls, "startup"), of(&calls, "alive"), of(&calls, "ready"));
    let started_at = *startup.last().unwrap();
    assert!((30..=31).contains(&started_at) && startup.len() >= 30, "{startup:?}");
    assert!(alive[0] >= started_at && alive.len() >= 29, "{alive:?}");
    assert!(ready[0] >= started_at && ready.len() >= 29, "{ready:?}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_63_an_agent_that_comes_back_leaves_ready_who_was() {
    let fake = Fake::new();
    let calls = noting(&fake, |_, at| if at >= 60 { ExecOutcome::exits(1) } else { ExecOutcome::default() });
    let mut bench = bench(&fake);
    let mut readiness = probe("ready");
    readiness["periodSeconds"] = json!(30);
    let value = with(json!({"readinessProbe": readiness}), json!({}));
    bench.api.pods.send_modify(|pods| drop(pods.insert("p".into(), value.clone())));
    let (_first, cancel) = bench.resume(value);
    bench.until("p", LIMIT, |status| status["containerStatuses"][0]["ready"] == true).await;
    cancel.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (patches, probes) = (bench.api.patches.lock().unwrap().len(), calls.lock().unwrap().len());
    let known = bench.api.pods.borrow()["p"].clone();
    let _second = bench.resume(known);
    bench.until("p", LIMIT, |status| status["containerStatuses"][0]["ready"] == false).await;
    assert!(calls.lock().unwrap().len() > probes, "its probe said so");
    assert!(calls.lock().unwrap().last().unwrap().0 >= 60);
    let unready = bench.api.patches.lock().unwrap()[patches..]
        .iter()
        .filter(|(_, patch)| patch["status"]["containerStatuses"][0]["ready"] == false)
        .count();
    assert_eq!(unready, 1, "and once");
    bench.end().await;
}

/// Seconds between the calls of a verb.
fn gaps(fake: &Fake, verb: Verb) -> Vec<f64> {
    let times: Vec<f64> = fake.calls_of(verb).iter().map(|recorded| recorded.at.as_secs_f64()).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn pod_4_what_failed_and_what_went_well_is_done_again_in_its_time() {
    // What failed: after ten seconds and up to half as much again, for each pod in its own time.
    let mut all = Vec::new();
    for _ in 0..20 {
        let fake = Fake::new();
        fake.inject(Fault::fail(Verb::RunPodSandbox, tonic::Status::unknown("no")).times(3));
        let mut bench = bench(&fake);
        let _wishes = bench.begin(with(json!({}), json!({})));
        running(&bench).await;
        let gaps = gaps(&fake, Verb::RunPodSandbox);
        assert!(gaps.len() == 3 && gaps.iter().all(|gap| (10.0..15.1).contains(gap)), "{gaps:?}");
        all.push(gaps[0]);
        bench.end().await;
    }
    all.sort_by(f64::total_cmp);
    assert!(all[19] - all[0] > 1.0, "they are spread: {all:?}");

    // What went well: after a minute, and up to half as much again.
    let fake = Fake::new();
    let mut quiet = bench(&fake);
    let _wishes = quiet.begin(with(json!({}), json!({})));
    running(&quiet).await;
    tokio::time::sleep(Duration::from_secs(1000)).await;
    let looks = gaps(&fake, Verb::ListContainers);
    assert!((11..=17).contains(&looks.len()) && looks.iter().all(|gap| (60.0..90.1).contains(gap)), "{looks:?}");
    // A look that failed: as all that failed.
    fake.inject(Fault::fail(Verb::ListContainers, tonic::Status::unknown("no")).times(2));
    tokio::time::sleep(Duration::from_secs(200)).await;
    let short = gaps(&fake, Verb::ListContainers).into_iter().filter(|gap| (10.0..15.1).contains(gap)).count();
    assert_eq!(short, 2);
    quiet.end().await;

    // A network that is not ready: after a second.
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let problem = "container runtime network not ready: NetworkReady=false reason:R message:m".to_owned();
    let state = bench.actor.runtime_state.clone();
    state.send_modify(|state| state.network_problem = Some(problem.clone()));
    let _wishes = bench.begin(with(json!({}), json!({})));
    let told = event(&bench, "NetworkNotReady").await;
    assert_eq!((told.kind.as_str(), told.message), ("Warning", format!("network is not ready: {problem}")));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(fake.calls_of(Verb::RunPodSandbox).is_empty());
    let began = Instant::now();
    state.send_modify(|state| state.network_problem = None);
    running(&bench).await;
    assert!(began.elapsed() <= Duration::from_millis(1600), "{:?}", began.elapsed());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_4_a_pod_on_the_host_network_does_not_wait_for_it() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    bench.actor.runtime_state.send_modify(|state| state.network_problem = Some("x".into()));
    let _wishes = bench.begin(with(json!({}), json!({"hostNetwork": true})));
    running(&bench).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_5_a_runtime_that_is_not_ready_is_left_alone_until_it_is() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let state = bench.actor.runtime_state.clone();
    let wishes = bench.begin(with(json!({}), json!({})));
    running(&bench).await;
    state.send_modify(|state| state.is_ready = false);
    fake.forget_calls();
    delete(&bench, &wishes, 30);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let acts = [Verb::StopContainer, Verb::StopPodSandbox, Verb::CreateContainer, Verb::ExecSync];
    assert!(acts.iter().all(|verb| fake.calls_of(*verb).is_empty()), "{:?}", fake.calls());
    state.send_modify(|state| state.is_ready = true);
    gone(&bench, &wishes).await;
    assert_eq!(stops(&fake).len(), 1);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pod_6_each_step_stands_on_the_one_before_and_says_when_it_fails() {
    let fake = Fake::new();
    fake.inject(Fault::delay(Verb::RunPodSandbox, Duration::from_secs(1)));
    fake.inject(Fault::delay(Verb::CreateContainer, Duration::from_secs(1)));
    fake.inject(Fault::delay(Verb::StartContainer, Duration::from_secs(1)));
    let calls = noting(&fake, |_, _| ExecOutcome::default());
    let mut bench = bench(&fake);
    let container = json!({"readinessProbe": probe("ready"), "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let _wishes = bench.begin(with(container, json!({"volumes": [{"name": "v", "emptyDir": {}}]})));
    let asked = |verb: Verb| fake.until(move |fake| !fake.calls_of(verb).is_empty());
    asked(Verb::RunPodSandbox).await;
    assert!(bench.actor.cgroups.known().contains("u-p"), "the cgroup comes before the sandbox");
    assert!(bench.directory().join("log/ns_p_u-p").is_dir(), "and so does the directory of logs");
    asked(Verb::CreateContainer).await;
    let created = fake.calls_of(Verb::CreateContainer);
    let cri::fake::Call::CreateContainer(request) = &created[0].call else { panic!() };
    let mount = request.config.as_ref().unwrap().mounts.iter().find(|mount| mount.container_path == "/v").unwrap();
    assert!(std::path::Path::new(&mount.host_path).is_dir(), "volumes come before containers");
    let status = bench.until("p", LIMIT, |status| status["podIP"].is_string()).await;
    assert!(status["containerStatuses"][0]["state"]["running"].is_null(), "the address does not wait for containers");
    asked(Verb::StartContainer).await;
    assert!(calls.lock().unwrap().is_empty(), "probes come last");
    bench.until("p", LIMIT, |status| status["containerStatuses"][0]["ready"] == true).await;
    bench.end().await;

    // A volume that cannot be had.
    let fake = Fake::new();
    let mut bench = bench_of(&fake);
    let volume = json!({"name": "v", "secret": {"secretName": "none"}});
    let container = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let _wishes = bench.begin(with(container, json!({"volumes": [volume]})));
    let told = event(&bench, "FailedMount").await;
    assert!(told.kind == "Warning" && told.message.contains("none"), "{told:?}");
    assert!(fake.calls_of(Verb::CreateContainer).is_empty());
    bench.end().await;

    // A cgroup that cannot be made.
    let fake = Fake::new();
    let mut bench = bench_of(&fake);
    let mut value = with(json!({}), json!({}));
    value["metadata"]["uid"] = json!("u\0");
    let _wishes = bench.begin(value);
    let told = event(&bench, "FailedCreatePodContainer").await;
    assert!(told.message.starts_with("unable to ensure pod container exists: "), "{told:?}");
    assert!(fake.calls_of(Verb::RunPodSandbox).is_empty());
    bench.end().await;
}

fn bench_of(fake: &Fake) -> Bench {
    bench(fake)
}
