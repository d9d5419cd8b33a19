//! kill -9 of the runtime's process, and the next one: what ran runs on, what ended is known, what was half made is gone.

mod world;

use std::fs;
use std::time::Duration;

use cri::v1::*;
use tokio_stream::StreamExt as _;
use world::*;

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_runtime_and_the_next_one_knows_how_they_ended() {
    let mut world = World::new();
    let client = world.serve().await;
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "survivor");
    let sandbox = sandbox(&client, &pod).await;
    let counter = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
    let runs = create(&client, &sandbox, &pod, container_config(&image, "runs", &["sh", "-c", counter])).await;
    let ends = "while ! test -e /work/go; do sleep 0.02; done; exit 7";
    let ends = create(&client, &sandbox, &pod, container_config(&image, "ends", &["sh", "-c", ends])).await;
    start(&client, &runs).await;
    start(&client, &ends).await;

    world.kill_server();
    fs::write(world.run().join("containers").join(&ends).join("rootfs/work/go"), "").expect("let it end");
    let exit = world.data().join("runtime/containers").join(&ends).join("exit");
    let wait = async {
        while !exit.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the monitor writes the exit down");

    let client = world.serve().await;
    let end = status(&client, &ends).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (7, "Error"));
    assert_eq!(status(&client, &runs).await.state, ContainerState::ContainerRunning as i32);
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let shown = client.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(shown.state, PodSandboxState::SandboxReady as i32);
    assert!(!shown.network.unwrap().ip.is_empty(), "the address is still known");
    assert_eq!(exec(&client, &runs, &["echo", "here"]).await.stdout, b"here\n");

    let request = StopContainerRequest { container_id: runs.clone(), timeout: 0 };
    client.runtime.clone().stop_container(request).await.unwrap();
    let lines = log_lines(&world.logs().join("survivor/runs/0.log"));
    let gap = lines.iter().enumerate().find(|(expected, (_, text))| text.parse() != Ok(*expected));
    assert_eq!(gap, None, "the log has no gap in {} lines", lines.len());
    assert_eq!(world.down(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_in_a_container_is_in_nobodys_way_and_its_stop_signal_comes_once() {
    let mut world = World::new();
    let client = world.serve().await;
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "begun");
    let sandbox = sandbox(&client, &pod).await;
    let deaf = "trap 'echo told' TERM; echo ready; while :; do sleep 0.02; done";
    let id = create(&client, &sandbox, &pod, container_config(&image, "main", &["sh", "-c", deaf])).await;
    start(&client, &id).await;
    let log = world.logs().join("begun/main/0.log");
    said(&log, "ready").await;
    let cmd = ["sh", "-c", "echo hook > /proc/1/fd/1; sleep 1000"].map(str::to_owned).into();
    let request = ExecSyncRequest { container_id: id.clone(), cmd, timeout: 0 };
    let stop = StopContainerRequest { container_id: id.clone(), timeout: 1000 };
    let (mut runtime, mut other) = (client.runtime.clone(), client.runtime.clone());
    let mark = world.data().join("runtime/containers").join(&id).join("signalled");
    let begun = async {
        said(&log, "hook").await;
        said(&log, "told").await;
        within("the mark of the signal", || mark.exists()).await;
    };
    tokio::select! {
        ended = runtime.exec_sync(request) => panic!("{ended:?}"),
        ended = other.stop_container(stop) => panic!("{ended:?}"),
        () = begun => {}
    }

    world.kill_server();
    let client = world.serve().await;
    // The command of before still runs and has its name.
    assert_eq!(exec(&client, &id, &["echo", "here"]).await.stdout, b"here\n");
    let request = StopContainerRequest { container_id: id.clone(), timeout: 1 };
    client.runtime.clone().stop_container(request).await.unwrap();
    assert_eq!(status(&client, &id).await.exit_code, 137);
    let told = log_lines(&log).iter().filter(|(_, text)| text == "told").count();
    assert_eq!(told, 1, "the stop signal was sent once");
    assert_eq!(world.down(), [""; 0]);
}

async fn said(log: &std::path::Path, wanted: &str) {
    within(wanted, || log.exists() && log_lines(log).iter().any(|(_, text)| text == wanted)).await;
}

async fn within(what: &str, is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_monitor_ends_its_sandbox_and_its_containers() {
    let mut world = World::new();
    let client = world.serve().await;
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "orphan");
    let sandbox = sandbox(&client, &pod).await;
    let id = create(&client, &sandbox, &pod, container_config(&image, "main", &["sleep", "1000"])).await;
    start(&client, &id).await;
    let mut events = client.runtime.clone().get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
    let info = client.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(info["pid"].as_i64().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap().unwrap();
        if event.container_id == sandbox
            && event.container_event_type == ContainerEventType::ContainerStoppedEvent as i32
        {
            assert_eq!(event.pod_sandbox_status.unwrap().state, PodSandboxState::SandboxNotready as i32);
            break;
        }
    }
    let end = status(&client, &id).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (255, "Unknown"));
    let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    client.runtime.clone().remove_pod_sandbox(request).await.unwrap();
    assert_eq!(world.down(), [""; 0]);
}

/// What a verbose status of a sandbox or a container tells beside the status.
fn told(info: &std::collections::BTreeMap<String, String>) -> i32 {
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    i32::try_from(info["pid"].as_i64().unwrap()).unwrap()
}

async fn monitor(client: &cri::Client, sandbox: &str) -> i32 {
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.into(), verbose: true };
    told(&client.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner().info)
}

async fn process(client: &cri::Client, container: &str) -> i32 {
    let request = ContainerStatusRequest { container_id: container.into(), verbose: true };
    let shown = client.runtime.clone().container_status(request).await.unwrap().into_inner();
    assert_eq!(shown.status.unwrap().state, ContainerState::ContainerRunning as i32);
    told(&shown.info)
}

fn is_alive(pid: i32) -> bool {
    // A zombie has no command line any more.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// As the node makes a pod's cgroup: in every hierarchy, before any sandbox.
fn make_cgroup(path: &str) -> Vec<std::path::PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let v1 = hierarchies.filter(|path| path.is_dir() && path.join("cgroup.procs").exists());
    let mut made: Vec<_> = v1.map(|root| root.join(path.trim_start_matches('/'))).collect();
    made.retain(|directory| fs::create_dir_all(directory).is_ok());
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn the_living_attempt_of_a_pod_outlives_the_end_of_the_dead_one() {
    let mut world = World::new();
    let client = world.serve().await;
    let image = pull(&client, &world.image()).await;
    let parent = format!("{}/pod", world.cgroup());
    let directories = make_cgroup(&parent);
    let mut pod = sandbox_config(&world, "twice");
    pod.linux.as_mut().unwrap().cgroup_parent = parent;
    let dead = sandbox(&client, &pod).await;
    let sleeps = ["sleep", "1000"];
    let old = create(&client, &dead, &pod, container_config(&image, "main", &sleeps)).await;
    start(&client, &old).await;
    let old_pid = process(&client, &old).await;
    pod.metadata.as_mut().unwrap().attempt = 1;
    let living = sandbox(&client, &pod).await;
    let new = create(&client, &living, &pod, container_config(&image, "main", &sleeps)).await;
    start(&client, &new).await;
    let pid = process(&client, &new).await;

    let monitor = rustix::process::Pid::from_raw(monitor(&client, &dead).await).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    assert_eq!(ended(&client, &old).await.exit_code, 255);
    within("the end of the dead sandbox's container", || !is_alive(old_pid)).await;
    assert_eq!(process(&client, &new).await, pid);
    assert!(is_alive(pid), "the dead monitor's end is not the other's");

    world.kill_server();
    let client = world.serve().await;
    assert_eq!(process(&client, &new).await, pid);
    assert!(is_alive(pid), "taking over");
    assert_eq!(exec(&client, &new, &["echo", "here"]).await.stdout, b"here\n");

    let request = StopPodSandboxRequest { pod_sandbox_id: dead.clone() };
    client.runtime.clone().stop_pod_sandbox(request).await.unwrap();
    assert!(is_alive(pid), "stopping the dead one");
    let request = RemovePodSandboxRequest { pod_sandbox_id: dead };
    client.runtime.clone().remove_pod_sandbox(request).await.unwrap();
    assert_eq!(process(&client, &new).await, pid);
    assert!(is_alive(pid), "removing the dead one");

    let request = RemovePodSandboxRequest { pod_sandbox_id: living };
    client.runtime.clone().remove_pod_sandbox(request).await.unwrap();
    assert!(!is_alive(pid), "its own end");
    assert_eq!(world.down(), [""; 0]);
    for directory in directories {
        fs::remove_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_half_made_is_swept() {
    let mut world = World::new();
    let client = world.serve().await;
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "half");
    let sandbox = sandbox(&client, &pod).await;
    let id = create(&client, &sandbox, &pod, container_config(&image, "main", &["sleep", "1000"])).await;
    start(&client, &id).await;
    world.kill_server();
    // As if the runtime had died just before it finished both.
    fs::remove_file(world.data().join("runtime/containers").join(&id).join("made")).unwrap();
    fs::remove_file(world.data().join("runtime/sandboxes").join(&sandbox).join("made")).unwrap();
    let client = world.serve().await;
    let left = client.runtime.clone().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap();
    assert!(left.into_inner().items.is_empty());
    for directory in ["containers", "sandboxes"] {
        assert_eq!(fs::read_dir(world.run().join(directory)).unwrap().count(), 0, "{directory}");
        assert_eq!(fs::read_dir(world.data().join("runtime").join(directory)).unwrap().count(), 0, "{directory}");
    }
    assert_eq!(world.down(), [""; 0]);
}
