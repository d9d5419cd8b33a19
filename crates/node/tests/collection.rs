//! Collection of images against the scripted runtime: what goes, what stays, and what is told. The room is the real
//! file system's, so a policy whose threshold is one per cent finds it full.

mod bench;

use bench::{Bench, pod};
use cri::fake::{Fake, Fault, Verb};
use jiff::{SignedDuration, Timestamp};
use node::{
    collection::{self, Collector, Policy},
    image::queue::Limits,
    pod::{
        checkpoint::{Checkpoint, VolumeImage},
        clock::Clock,
    },
    static_pods::{Origin, StaticPod, ledger::Ledger},
};
use serde_json::json;
use std::time::Duration;
use tonic::Status;

const FULL: Policy = Policy { high_percent: 1, low_percent: 0, age_min: SignedDuration::ZERO, age_max: None };

fn bench(fake: &Fake) -> Bench {
    let clock = Clock::virtual_from(Timestamp::from_second(1_800_000_000).unwrap());
    Bench::new(fake.client(), Limits::default(), clock)
}

fn collector(bench: &Bench, policy: Policy) -> Collector {
    Collector::new(collection::Options {
        cri: bench.actor.cri.clone(),
        client: bench.actor.client.clone(),
        node_name: "n".into(),
        policy,
        checkpoints: bench.actor.checkpoints.clone(),
        static_pods: Ledger::open(bench.directory()).unwrap(),
        recorder: bench.actor.recorder.clone(),
        pulls: bench.actor.pulls.clone(),
        records: bench.actor.records.clone(),
        clock: bench.clock,
    })
}

async fn images(fake: &Fake) -> Vec<String> {
    let request = cri::v1::ListImagesRequest { filter: None };
    let listed = fake.client().images.list_images(request).await.unwrap().into_inner().images;
    let mut names: Vec<String> = listed.into_iter().flat_map(|image| image.repo_tags).collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_loses_what_nobody_needs_and_nothing_else() {
    let fake = Fake::new();
    let bench = bench(&fake);
    for name in ["r/unused:1", "r/named:1", "r/pulling:1", "r/static:1", "docker.io/library/short:latest"] {
        fake.add_image(name);
    }
    let volume = fake.add_image("r/volume:1");
    let seen = VolumeImage { reference: "r/volume:1".into(), id: volume, digest: String::new() };
    let checkpoint = Checkpoint { volume_images: [("v".into(), seen)].into(), ..Checkpoint::default() };
    bench.actor.checkpoints.save("u-other", &checkpoint).unwrap();
    let mut ended = pod("ended", json!({"containers": [{"name": "c", "image": "r/unused:1"}]}));
    ended["status"]["phase"] = json!("Succeeded");
    let about =
        pod("about", json!({"containers": [{"name": "c", "image": "r/named:1"}, {"name": "d", "image": "short"}]}));
    bench.api.pods.send_replace([("ended".to_owned(), ended), ("about".to_owned(), about)].into());
    let _pulls = bench.actor.pulls.board.wait("u-x", "ns/x".into(), "r/pulling:1");
    // Of a static pod whose mirror is refused the API knows nothing.
    let own = pod("own", json!({"containers": [{"name": "c", "image": "r/static:1"}]}));
    let own = StaticPod::new(Origin::File, "/m/own.yaml".into(), own).unwrap();
    Ledger::open(bench.directory()).unwrap().save(&own).unwrap();

    let collector = collector(&bench, FULL);
    let plan = collector.plan().await.unwrap();
    assert_eq!((plan.removals().len(), plan.stays.len()), (1, 5));
    assert_eq!(images(&fake).await.len(), 6, "a plan removes nothing");
    let error = collector.collect().await.unwrap_err().to_string();
    let left = ["docker.io/library/short:latest", "r/named:1", "r/pulling:1", "r/static:1", "r/volume:1"];
    assert_eq!(images(&fake).await, left);
    assert!(error.starts_with("Insufficient free disk space on the node's image filesystem ("), "{error}");
    assert!(error.contains("(freed 1048576 bytes)"), "{error}");
    let events = bench.events(1).await;
    assert_eq!((events[0].reason.as_str(), &events[0].message), ("FreeDiskSpaceFailed", &error));
    let metrics = bench.actor.pulls.metrics.render();
    assert!(metrics.contains("kubelet_image_garbage_collected_total{reason=\"space\"} 1"), "{metrics}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_image_of_an_ended_container_stays_until_its_record_goes() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    fake.program("c", cri::fake::Program::ends(Duration::ZERO, 0));
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [{"name": "c", "image": "r/app:1", "imagePullPolicy": "Always"}],
    });
    let _wishes = bench.begin(pod("p", spec));
    bench.until("p", Duration::from_secs(60), |status| status["phase"] == "Succeeded").await;
    let collector = collector(&bench, FULL);
    assert!(collector.collect().await.is_err());
    assert_eq!(images(&fake).await, ["r/app:1"]);
    let id = fake.containers()[0].id.clone();
    let remove = cri::v1::RemoveContainerRequest { container_id: id };
    fake.client().runtime.remove_container(remove).await.unwrap();
    assert!(collector.collect().await.is_err());
    assert_eq!(images(&fake).await, [""; 0]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_stops_no_other_and_the_second_failure_in_a_row_is_told() {
    let fake = Fake::new();
    let bench = bench(&fake);
    let first = fake.add_image("r/a:1");
    fake.add_image("r/b:1");
    fake.inject(Fault::fail(Verb::RemoveImage, Status::unknown("it is stuck")).about(&first).always());
    let cancel = tokio_util::sync::CancellationToken::new();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(collector(&bench, FULL).run(cancel.clone()));
    fake.until(|fake| fake.calls_of(Verb::RemoveImage).len() == 3).await;
    let events = bench.events(1).await;
    assert_eq!(images(&fake).await, ["r/a:1"]);
    assert_eq!(events[0].reason, "ImageGCFailed");
    assert!(events[0].message.starts_with("wanted to free "), "{:?}", events[0]);
    assert!(events[0].message.ends_with("but freed 0 bytes space with errors in image deletion: [it is stuck]"));
    let times: Vec<u64> = fake.calls_of(Verb::RemoveImage).iter().map(|recorded| recorded.at.as_secs()).collect();
    assert_eq!(times, [300, 300, 600], "the first failure is not told");
    cancel.cancel();
    task.join_next().await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_round_that_cannot_learn_who_needs_what_removes_nothing() {
    let fake = Fake::new();
    let bench = bench(&fake);
    fake.add_image("r/a:1");
    bench.api.is_down.send_replace(true);
    assert!(matches!(collector(&bench, FULL).collect().await, Err(collection::Error::Api(_))));
    bench.api.is_down.send_replace(false);
    fake.inject(Fault::fail(Verb::ListContainers, Status::unavailable("away")));
    assert!(matches!(collector(&bench, FULL).collect().await, Err(collection::Error::Runtime(_))));
    assert_eq!(images(&fake).await, ["r/a:1"]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_finds_the_disk_full_has_room_made_at_once() {
    let fake = Fake::new();
    let bench = bench(&fake);
    let room = Policy { high_percent: 99, low_percent: 98, ..FULL };
    let cancel = tokio_util::sync::CancellationToken::new();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(collector(&bench, room).run(cancel.clone()));
    let looked = |fake: &Fake, times: usize| fake.calls_of(Verb::ImageFsInfo).len() == times;
    fake.until(|fake| looked(fake, 1)).await;
    let before = tokio::time::Instant::now();
    fake.inject(Fault::fail(Verb::PullImage, Status::unknown("write /x: no space left on device")));
    bench.ensure(&bench::one("p", "r/a:1", "Always"), "c").await;
    fake.until(|fake| looked(fake, 2)).await;
    assert!(before.elapsed() < Duration::from_secs(1));
    cancel.cancel();
    task.join_next().await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_threshold_of_a_full_disk_without_an_age_switches_collection_off() {
    let fake = Fake::new();
    let bench = bench(&fake);
    collector(&bench, Policy { high_percent: 100, ..FULL }).run(tokio_util::sync::CancellationToken::new()).await;
    assert!(fake.calls().is_empty());
    bench.end().await;
}
