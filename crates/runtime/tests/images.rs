//! What the runtime offers for images beside CRI: archives in and out, pins, pulls under way, classes of failures.
#![allow(clippy::disallowed_methods, reason = "tests may look at the machine as they like")]

mod world;

use cri::sampan::import_part::What;
use cri::sampan::{ExportRequest, ImportOptions, ImportPart, ImportResult, PinRequest, WatchPullsRequest};
use cri::v1::*;
use world::*;

async fn import(client: &cri::Client, options: ImportOptions, bytes: &[u8]) -> ImportResult {
    let first = ImportPart { what: Some(What::Options(options)) };
    let rest = bytes.chunks(100_000).map(|data| ImportPart { what: Some(What::Data(data.to_vec())) });
    let parts: Vec<ImportPart> = std::iter::once(first).chain(rest).collect();
    client.pulls.clone().import(tokio_stream::iter(parts)).await.expect("import").into_inner()
}

async fn export(client: &cri::Client, image: &str) -> Result<Vec<u8>, tonic::Status> {
    let mut parts = client.pulls.clone().export(ExportRequest { images: vec![image.into()] }).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = parts.message().await? {
        bytes.extend(part.data);
    }
    Ok(bytes)
}

async fn listed(client: &cri::Client, image: &str) -> Option<Image> {
    let spec = ImageSpec { image: image.into(), ..Default::default() };
    let request = ImageStatusRequest { image: Some(spec), verbose: true };
    client.images.clone().image_status(request).await.expect("status").into_inner().image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_for_a_handler_that_nobody_knows_is_refused() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let pull = |handler: &str| {
        let spec = ImageSpec { image: world.image(), runtime_handler: handler.into(), ..Default::default() };
        let request = PullImageRequest { image: Some(spec), ..Default::default() };
        let mut images = client.images.clone();
        async move { images.pull_image(request).await }
    };
    let refused = pull("no-such-handler").await.unwrap_err();
    assert!(refused.message().contains("no-such-handler"), "{refused}");
    assert!(listed(&client, &world.image()).await.is_none(), "nothing was pulled");
    for handler in ["", "runc"] {
        pull(handler).await.unwrap();
    }
    assert!(listed(&client, &world.image()).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_come_in_run_and_go_out_and_pins_are_told() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    // The layout that the world pushed to its registry: from the path, then as a stream of what was exported.
    let path = world.root.path().join("layout").to_str().unwrap().to_owned();
    let options = ImportOptions { path, pinned: true, name: "r.test/box".into() };
    let imported = import(&client, options, b"").await;
    assert_eq!(imported.images[0].names, ["r.test/box:1"]);
    let image = listed(&client, "r.test/box:1").await.unwrap();
    assert!(image.pinned && image.size > 0 && image.repo_digests[0].starts_with("r.test/box@sha256:"));
    let archive = export(&client, "r.test/box:1").await.unwrap();
    let error = export(&client, "r.test/none:1").await.unwrap_err();
    assert_eq!((error.code(), error.message()), (tonic::Code::NotFound, "r.test/none:1: not found"));
    client.pulls.clone().pin(PinRequest { image: "r.test/box:1".into(), pinned: false }).await.unwrap();
    assert!(!listed(&client, "r.test/box:1").await.unwrap().pinned);
    let again = import(&client, ImportOptions::default(), &archive).await;
    assert_eq!(again.images[0].names, ["r.test/box:1"], "packed anew, it may be another image, and takes the tag");
    let first = ImportPart { what: Some(What::Data(b"x".to_vec())) };
    assert!(client.pulls.clone().import(tokio_stream::iter([first])).await.is_err(), "the first message says how");

    // A container runs the image that was found for it, whatever its tag stands for by then (IMG-333).
    let pod = sandbox_config(&world, "pod");
    let sandbox = sandbox(&client, &pod).await;
    let mut config = container_config(&image.id, "main", &["cat", "/etc/passwd"]);
    config.image.as_mut().unwrap().user_specified_image = "r.test/box:1".into();
    let id = create(&client, &sandbox, &pod, config).await;
    start(&client, &id).await;
    let ended = ended(&client, &id).await;
    assert_eq!((ended.exit_code, ended.image_id.as_str()), (0, image.id.as_str()));
    assert_eq!((ended.image.unwrap().image.as_str(), &ended.image_ref), ("r.test/box:1", &image.repo_digests[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_are_watched_and_a_failed_one_tells_its_class_and_host() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let mut watch = client.pulls.clone().watch_pulls(WatchPullsRequest {}).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().pulls, [], "one snapshot at once");
    let image = world.image();
    let (pulled, seen) = tokio::join!(pull(&client, &image), watch.message());
    assert!(pulled.starts_with("sha256:") && seen.unwrap().is_some());
    let spec = ImageSpec { image: world.image().replace("busybox", "none"), ..Default::default() };
    let request = PullImageRequest { image: Some(spec), ..Default::default() };
    let error = client.images.clone().pull_image(request).await.unwrap_err();
    let word = |key| error.metadata().get(key).map(|value| value.to_str().unwrap().to_owned());
    let host = world.image().split('/').next().map(|host| format!("http://{host}"));
    assert_eq!((word("sampan-error-class").as_deref(), word("sampan-error-host")), (Some("not-found"), host));
}
