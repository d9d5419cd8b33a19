//! Containers through both doors, with a real registry, real runc and the real kernel.

mod world;

use std::time::Duration;

use cri::Client;
use cri::v1::*;
use tonic::Code;
use world::*;

async fn story(world: &World, client: &Client) {
    let image = pull(client, &world.image()).await;
    let pod = sandbox_config(world, "story");
    let sandbox = sandbox(client, &pod).await;
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
    let shown = client.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(shown.state, PodSandboxState::SandboxReady as i32);
    assert!(shown.network.unwrap().ip.starts_with("10."));

    let script = "echo out; echo err >&2; pwd; echo $FROM_IMAGE $HOSTNAME; hostname; id -u; exit 3";
    let config = container_config(&image, "main", &["sh", "-c", script]);
    let id = create(client, &sandbox, &pod, config).await;
    assert_eq!(status(client, &id).await.state, ContainerState::ContainerCreated as i32);
    start(client, &id).await;
    let end = ended(client, &id).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (3, "Error"));
    assert!(end.created_at <= end.started_at && end.started_at <= end.finished_at, "{end:?}");
    let lines = log_lines(&world.logs().join("story/main/0.log"));
    let of = |stream: &str| -> Vec<&str> {
        lines.iter().filter(|(s, _)| s == stream).map(|(_, text)| text.as_str()).collect()
    };
    assert_eq!(of("stderr"), ["err"]);
    assert_eq!(of("stdout"), ["out", "/work", "yes story", "story", "0"]);

    let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    client.runtime.clone().remove_pod_sandbox(request.clone()).await.unwrap();
    client.runtime.clone().remove_pod_sandbox(request).await.unwrap();
    let left = client.runtime.clone().list_containers(ListContainersRequest::default()).await.unwrap();
    assert!(left.into_inner().containers.is_empty());
    assert_eq!(std::fs::read_dir(world.run().join("containers")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(world.run().join("sandboxes")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_ends_inside_the_process() {
    let world = World::new();
    let runtime = world.runtime().await;
    story(&world, &runtime.client()).await;
    runtime.tear_down().await.unwrap();
    runtime.tear_down().await.unwrap();
    assert_eq!(world.traces(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_ends_over_the_socket() {
    let mut world = World::new();
    let client = world.serve().await;
    story(&world, &client).await;
    assert_eq!(world.down(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_in_a_container_and_end_in_time() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "exec");
    let sandbox = sandbox(&client, &pod).await;
    let mut config = container_config(&image, "main", &["sleep", "1000"]);
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().run_as_username = "web".into();
    let id = create(&client, &sandbox, &pod, config).await;
    start(&client, &id).await;

    let done = exec(&client, &id, &["sh", "-c", "id -u; id -g; id -G; echo oops >&2; exit 7"]).await;
    assert_eq!(String::from_utf8_lossy(&done.stdout), "33\n34\n34 40\n");
    assert_eq!((done.stderr.as_slice(), done.exit_code), (&b"oops\n"[..], 7));

    let much = exec(&client, &id, &["sh", "-c", "yes | head -c 20000000"]).await;
    assert_eq!((much.stdout.len(), much.exit_code), (16 << 20, 0));

    let request = ExecSyncRequest { container_id: id.clone(), cmd: vec!["sleep".into(), "100".into()], timeout: 1 };
    let error = client.runtime.clone().exec_sync(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    let left = exec(&client, &id, &["sh", "-c", "ps | grep -c 'sleep 100$'"]).await;
    assert_eq!(String::from_utf8_lossy(&left.stdout), "0\n", "the command was killed");

    let request = ExecSyncRequest { container_id: id.clone(), cmd: vec!["/no/such".into()], timeout: 5 };
    let error = client.runtime.clone().exec_sync(request).await.unwrap_err();
    assert!(error.message().contains("/no/such"), "{error}");

    let request = ContainerStatsRequest { container_id: id.clone() };
    let stats = client.runtime.clone().container_stats(request).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    runtime.tear_down().await.unwrap();
    assert_eq!(world.traces(), [""; 0]);
}

async fn stop(client: &Client, id: &str, timeout: i64) {
    let request = StopContainerRequest { container_id: id.into(), timeout };
    client.runtime.clone().stop_container(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_keeps_its_contracts() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "stop");
    let sandbox = sandbox(&client, &pod).await;
    stop(&client, "nobody", 5).await;

    let polite = "trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.05; done";
    let id = create(&client, &sandbox, &pod, container_config(&image, "polite", &["sh", "-c", polite])).await;
    stop(&client, &id, 5).await;
    start(&client, &id).await;
    up(&world, "stop/polite/0.log").await;
    stop(&client, &id, 30).await;
    assert_eq!(status(&client, &id).await.exit_code, 5);
    stop(&client, &id, 30).await;

    let deaf = "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done";
    let id = create(&client, &sandbox, &pod, container_config(&image, "deaf", &["sh", "-c", deaf])).await;
    start(&client, &id).await;
    up(&world, "stop/deaf/0.log").await;
    let (long, short) = (stop(&client, &id, 600), stop(&client, &id, 1));
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(long, short) })
        .await
        .expect("the shorter one counts");
    let end = status(&client, &id).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "Error"));
    let asked = log_lines(&world.logs().join("stop/deaf/0.log")).iter().filter(|(_, text)| text == "asked").count();
    assert_eq!(asked, 1, "the stop signal is sent once");
    runtime.tear_down().await.unwrap();
}

/// Waits for a container's first line, by the log's own growth.
async fn up(world: &World, log: &str) {
    let path = world.logs().join(log);
    let wait = async {
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains(" up\n")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the container says up");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_its_reason() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "bad");

    let request = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: "ghost".into() };
    let error = client.runtime.clone().run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("no runtime for \"ghost\" is configured"), "{error}");

    let sandbox = sandbox(&client, &pod).await;
    let id = create(&client, &sandbox, &pod, container_config(&image, "main", &["/no/such"])).await;
    let request = StartContainerRequest { container_id: id.clone() };
    let error = client.runtime.clone().start_container(request).await.unwrap_err();
    assert!(error.message().contains("/no/such"), "{error}");
    let end = status(&client, &id).await;
    assert_eq!(
        (end.state, end.exit_code, end.reason.as_str()),
        (ContainerState::ContainerExited as i32, 128, "StartError")
    );

    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(container_config("127.0.0.1:1/absent:1", "second", &["true"])),
        sandbox_config: Some(pod.clone()),
    };
    assert_eq!(client.runtime.clone().create_container(request).await.unwrap_err().code(), Code::NotFound);
    let request = ContainerStatusRequest { container_id: "nobody".into(), verbose: false };
    assert_eq!(client.runtime.clone().container_status(request).await.unwrap_err().code(), Code::NotFound);

    let spec = ImageSpec { image: "127.0.0.1:1/absent:1".into(), ..Default::default() };
    let request = PullImageRequest { image: Some(spec), ..Default::default() };
    let error = client.images.clone().pull_image(request).await.unwrap_err();
    assert!(error.message().starts_with("RegistryUnavailable: "), "{error}");
    runtime.tear_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_are_made_while_their_sandbox_goes_leave_nothing() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let mut pod = sandbox_config(&world, "brief");
    for round in 0..6 {
        pod.metadata.as_mut().unwrap().attempt = round;
        let sandbox = sandbox(&client, &pod).await;
        let creations = (0..8).map(|number| {
            let config = container_config(&image, &format!("c{number}"), &["sleep", "1000"]);
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(config),
                sandbox_config: Some(pod.clone()),
            };
            let mut runtime = client.runtime.clone();
            async move { runtime.create_container(request).await.map(|answer| answer.into_inner().container_id) }
        });
        let mut runtime = client.runtime.clone();
        let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        let (created, removed) =
            tokio::join!(futures_util::future::join_all(creations), runtime.remove_pod_sandbox(request));
        removed.expect("removed");
        for refused in created.into_iter().filter_map(Result::err) {
            let code = refused.code();
            assert!(matches!(code, tonic::Code::FailedPrecondition | tonic::Code::NotFound), "{refused}");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let run = world.run().join("containers");
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(run.to_str().unwrap())).collect();
        assert_eq!(left, [""; 0], "round {round}");
        assert_eq!(std::fs::read_dir(run).map_or(0, Iterator::count), 0, "round {round}");
    }
    let request = ListContainersRequest::default();
    assert_eq!(client.runtime.clone().list_containers(request).await.unwrap().into_inner().containers, []);
    runtime.tear_down().await.unwrap();
    assert_eq!(world.traces(), [""; 0]);
}
