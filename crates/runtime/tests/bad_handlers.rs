//! Handlers whose program is bad: at each step it fails, prints garbage, hangs or dies, before or after doing its work.
//! What it leaves goes with the sandbox, and other handlers go on.

#![allow(clippy::disallowed_methods, reason = "tests look at the clock")]

mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cri::Client;
use cri::v1::*;
use world::*;

/// Bounds a command of the bad runtimes. Good ones take a fraction of it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bounds what has no reason to take long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A runtime that is runc but for one verb. Every process that it leaves has the directory's name in its command line.
fn faulty(directory: &Path, name: &str, verb: &str, fault: &str) -> PathBuf {
    fs::create_dir_all(directory).expect("directory");
    let script = directory.join(name);
    let text = format!(
        r#"#!/bin/sh
verb=; pid_file=; previous=
for word; do
  case $previous in --pid-file) pid_file=$word;; esac
  case $word in create|start|run|state|kill|delete) verb=${{verb:-$word}};; esac
  previous=$word
done
linger() {{ setsid sh -c "sleep 1000; : {directory}" & sh -c "sleep 1000; : {directory}" & }}
if [ "$verb" = {verb} ]; then
  case {fault} in late-*) /usr/sbin/runc "$@" || exit $?;; esac
  case {fault} in
    *fails) echo "no $verb today" >&2; exit 1;;
    garbage) head -c 500 /dev/urandom; head -c 500 /dev/urandom >&2; [ -z "$pid_file" ] || echo '}}{{' > "$pid_file"; exit 0;;
    stranger) [ -z "$pid_file" ] || echo 1 > "$pid_file"; exit 0;;
    *hangs) linger; wait;;
    *dies) sh -c "sleep 1000; : {directory}" & kill -9 $$;;
  esac
fi
exec /usr/sbin/runc "$@"
"#,
        directory = directory.display()
    );
    fs::write(&script, text).expect("script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
    script
}

/// Live processes that name a directory.
fn processes(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let commands = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let texts = commands.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
    texts.filter(|text| text.contains(directory.to_str().expect("UTF-8"))).collect()
}

/// Waits for the end of those that name a directory: who was killed takes a moment to be gone.
fn none_is_left(directory: &Path) {
    let began = Instant::now();
    while !processes(directory).is_empty() {
        assert!(began.elapsed() < PATIENCE, "left behind: {:?}", processes(directory));
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn run_sandbox(client: &Client, config: &PodSandboxConfig, handler: &str) -> Result<String, tonic::Status> {
    let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
    client.runtime.clone().run_pod_sandbox(request).await.map(|answer| answer.into_inner().pod_sandbox_id)
}

async fn stop_and_remove(client: &Client, sandbox: &str) {
    let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.into() };
    client.runtime.clone().stop_pod_sandbox(stop).await.expect("stop");
    let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox.into() };
    client.runtime.clone().remove_pod_sandbox(remove).await.expect("remove");
}

/// The end of a failed start, or None if it went well.
async fn try_start(client: &Client, id: &str) -> Option<String> {
    let request = StartContainerRequest { container_id: id.into() };
    client.runtime.clone().start_container(request).await.err().map(|status| status.message().to_owned())
}

/// Every name below a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

struct Case {
    handler: String,
    verb: &'static str,
    fault: &'static str,
    directory: PathBuf,
}

/// The program's name decides between `run` and `create` with `start`.
fn cases(root: &Path) -> Vec<Case> {
    const FAULTS: [&str; 8] =
        ["fails", "garbage", "stranger", "hangs", "dies", "late-fails", "late-hangs", "late-dies"];
    let verbs = ["create", "start", "run", "state", "kill", "delete"];
    let all = verbs.iter().flat_map(|verb| FAULTS.iter().map(move |fault| (*verb, *fault)));
    // A `delete` that has worked and then fails is tried again; that is the same as one that fails.
    all.map(|(verb, fault)| {
        let handler = format!("{verb}-{fault}");
        Case { directory: root.join("faulty").join(&handler), handler, verb, fault }
    })
    .collect()
}

/// What a start has to say, if it has to fail.
fn expected(case: &Case) -> Option<&'static str> {
    if !matches!(case.verb, "create" | "start" | "run") {
        // `state` and `kill` are never called, and `delete` not by a start.
        return None;
    }
    match (case.verb, case.fault) {
        // Nobody can tell a runtime that only says that it has started the program.
        ("start", "garbage" | "stranger") => None,
        (_, "fails" | "late-fails") => Some("today"),
        (_, "garbage") => Some("the runtime ended well and told no process"),
        (_, "stranger") => Some("the runtime told 1, no process it made"),
        (_, "hangs" | "late-hangs") => Some("did not end in time and was killed"),
        _ => Some("signal: 9"),
    }
}

async fn check(client: &Client, world: &World, case: &Case) {
    let Case { handler, verb, .. } = case;
    let config = sandbox_config(world, handler);
    let sandbox = run_sandbox(client, &config, handler).await.expect("a sandbox needs no OCI runtime");
    let id = create(client, &sandbox, &config, container_config(&world.image(), "main", &["sleep", "1000"])).await;
    let start = tokio::time::timeout(2 * TIMEOUT + PATIENCE, try_start(client, &id));
    let failure = start.await.unwrap_or_else(|_| panic!("{handler}: a start ends, also if commands of it hang"));
    let root = world.run().join("oci").join(handler);
    match expected(case) {
        None => assert_eq!(failure, None, "{handler}"),
        Some(reason) => {
            let failure = failure.unwrap_or_else(|| panic!("{handler}: the start went well"));
            let begin = format!("start the container: handler \"{handler}\": {verb}: ");
            assert!(failure.starts_with(&begin) && failure.contains(reason), "{handler}: {failure}");
            assert_eq!(status(client, &id).await.reason, "StartError", "{handler}");
            // The container's record stays, its remains do not.
            assert_eq!(below(&root), [PathBuf::new(); 0], "{handler}");
            none_is_left(&case.directory);
        }
    }
    stop_and_remove(client, &sandbox).await;
    assert_eq!(below(&root), [PathBuf::new(); 0], "{handler}");
    none_is_left(&case.directory);
    let traces = world.traces();
    assert!(traces.iter().all(|trace| !trace.contains(&id) && !trace.contains(&sandbox)), "{handler}: {traces:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_runtime_is_named_with_its_step_and_leaves_nothing() {
    let world = World::new();
    let mut all = cases(world.root.path());
    // Those that hang do nothing, so they do it together.
    all.sort_by_key(|case| case.fault.ends_with("hangs"));
    let mut handlers = vec![runtime::Handler::new("runc", "/usr/sbin/runc")];
    for Case { handler, verb, fault, directory } in &all {
        let name = if *verb == "run" { "runc" } else { "faulty" };
        handlers.push(runtime::Handler::new(handler, faulty(directory, name, verb, fault)));
    }
    let runtime = world.runtime_with(handlers, TIMEOUT, world.cancel.clone()).await;
    let client = runtime.client();
    pull(&client, &world.image()).await;
    // A neighbour that has to live on.
    let neighbour = sandbox_config(&world, "neighbour");
    let beside = sandbox(&client, &neighbour).await;
    let lives =
        create(&client, &beside, &neighbour, container_config(&world.image(), "main", &["sleep", "1000"])).await;
    start(&client, &lives).await;
    // A few at a time: hangs take their time, the rest takes the machine's.
    for some in all.chunks(6) {
        let checks = some.iter().map(|case| check(&client, &world, case));
        futures_util::future::join_all(checks).await;
    }
    assert_eq!(exec(&client, &lives, &["echo", "still"]).await.stdout, b"still\n");
    runtime.tear_down().await.expect("torn down");
    assert_eq!(world.traces(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_run_is_refused_before_anything_is_made() {
    let world = World::new();
    let (missing, plain) = (world.root.path().join("missing"), world.root.path().join("plain"));
    fs::write(&plain, "#!/bin/sh\n").expect("file");
    let binary = world.root.path().join("binary");
    fs::write(&binary, [0xff; 100]).expect("file");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("mode");
    let handlers =
        [("runc", Path::new("/usr/sbin/runc")), ("missing", &missing), ("plain", &plain), ("binary", &binary)];
    let handlers = handlers.map(|(name, path)| runtime::Handler::new(name, path)).into();
    let runtime = world.runtime_with(handlers, TIMEOUT, world.cancel.clone()).await;
    let client = runtime.client();
    for (handler, path, reason) in [("missing", &missing, "does not exist"), ("plain", &plain, "is not executable")] {
        let refused = run_sandbox(&client, &sandbox_config(&world, handler), handler).await.expect_err(handler);
        let text = refused.message();
        assert!(text.contains(&format!("{handler:?}")) && text.contains(path.to_str().unwrap()), "{text}");
        assert!(text.ends_with(reason), "{text}");
        assert_eq!(below(&world.run().join("sandboxes")), [PathBuf::new(); 0]);
    }
    // A file that the kernel cannot run is found out by the step.
    pull(&client, &world.image()).await;
    let config = sandbox_config(&world, "binary");
    let sandbox = run_sandbox(&client, &config, "binary").await.expect("a sandbox");
    let id = create(&client, &sandbox, &config, container_config(&world.image(), "main", &["true"])).await;
    let failure = try_start(&client, &id).await.expect("refused");
    let begin = format!("start the container: handler \"binary\": create: starting {}: ", binary.display());
    assert!(failure.starts_with(&begin), "{failure}");
    stop_and_remove(&client, &sandbox).await;
    runtime.tear_down().await.expect("torn down");
    assert_eq!(world.traces(), [""; 0]);
}

#[test]
fn a_self_test_of_a_bad_runtime_ends_in_time_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    for (fault, reason) in
        [("fails", "no run today"), ("hangs", "did not end within 10s and was killed"), ("dies", "signal: 9")]
    {
        let place = directory.path().join(fault);
        let handler = runtime::Handler::new(fault, faulty(&place, "faulty", "run", fault));
        let scratch = place.join("scratch");
        let refused = runtime::self_test(&handler, &scratch, TIMEOUT).expect_err(fault).to_string();
        assert!(refused.contains(&format!("handler {fault:?}")) && refused.contains(reason), "{refused}");
        assert_eq!(below(&scratch), [PathBuf::new(); 0], "{fault}");
        none_is_left(&place);
    }
}
