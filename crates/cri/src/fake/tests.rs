//! The fake keeps the contracts that the node relies on (POD-73, POD-74).

use std::time::Duration;

use tokio_stream::StreamExt as _;

use super::*;
use crate::v1::*;

async fn running(fake: &Fake, program: Program) -> (Client, String, String) {
    fake.program("app", program);
    fake.add_image("img");
    let mut client = fake.client();
    let metadata = PodSandboxMetadata { name: "pod".into(), ..Default::default() };
    let config = PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    let sandbox = client.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(ContainerConfig {
            metadata: Some(ContainerMetadata { name: "app".into(), attempt: 0 }),
            image: Some(ImageSpec { image: "img".into(), ..Default::default() }),
            ..Default::default()
        }),
        sandbox_config: Some(config),
    };
    let container = client.runtime.create_container(request).await.unwrap().into_inner().container_id;
    let request = StartContainerRequest { container_id: container.clone() };
    client.runtime.start_container(request).await.unwrap();
    (client, sandbox, container)
}

async fn stop(client: &Client, id: &str, timeout: i64) {
    let request = StopContainerRequest { container_id: id.into(), timeout };
    client.runtime.clone().stop_container(request).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_stop_with_a_shorter_timeout_takes_effect_without_a_second_signal() {
    let fake = Fake::new();
    let (client, _, id) = running(&fake, Program::stubborn()).await;
    let first = stop(&client, &id, 300);
    let second = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop(&client, &id, 5).await;
    };
    let began = Instant::now();
    tokio::join!(first, second);
    assert_eq!(began.elapsed().as_secs(), 6);
    assert_eq!(fake.signals(&id).iter().map(|(_, signal)| *signal).collect::<Vec<_>>(), [15, 9]);
    assert_eq!(fake.containers()[0].exit_code, 137);
}

#[tokio::test(start_paused = true)]
async fn stopping_what_is_unknown_succeeds() {
    let fake = Fake::new();
    let mut client = fake.client();
    stop(&client, "nobody", 30).await;
    client.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: "nobody".into() }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_container_ends_at_its_time_and_says_so() {
    let fake = Fake::new();
    let mut events = fake.client().runtime.get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
    let (_, _, id) = running(&fake, Program::ends(Duration::from_secs(300), 3)).await;
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.container_id, id);
        kinds.push(event.container_event_type);
    }
    assert_eq!(kinds, [0, 1, 2]);
    let status = &fake.containers()[0];
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert_eq!(status.finished_at - status.started_at, 300_000_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_command_beyond_its_timeout_is_killed() {
    let fake = Fake::new();
    fake.on_exec(|_| ExecOutcome { takes: Duration::from_secs(3600), ..Default::default() });
    let (mut client, _, id) = running(&fake, Program::forever()).await;
    let request = ExecSyncRequest { container_id: id, cmd: vec!["sleep".into()], timeout: 2 };
    let error = client.runtime.exec_sync(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn faults_strike_once_and_only_whom_they_are_about() {
    let fake = Fake::new();
    fake.inject(Fault::fail(Verb::PullImage, tonic::Status::unknown("refused")).about("bad"));
    let mut client = fake.client();
    let pull = |name: &str| PullImageRequest {
        image: Some(ImageSpec { image: name.into(), ..Default::default() }),
        ..Default::default()
    };
    client.images.pull_image(pull("good")).await.unwrap();
    assert_eq!(client.images.pull_image(pull("bad")).await.unwrap_err().message(), "refused");
    client.images.pull_image(pull("bad")).await.unwrap();
    assert_eq!(fake.calls_of(Verb::PullImage).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_takes_its_containers_along_and_refuses_new_ones() {
    let fake = Fake::new();
    let (mut client, sandbox, _) = running(&fake, Program::forever()).await;
    fake.kill_sandbox(&sandbox);
    assert_eq!((fake.containers()[0].exit_code, fake.containers()[0].reason.as_str()), (255, "Unknown"));
    let request = CreateContainerRequest { pod_sandbox_id: sandbox, ..Default::default() };
    client.runtime.create_container(request).await.unwrap_err();
    assert_eq!(fake.violations().len(), 1);
}
