//! Image volumes on real parts: a registry, runc, the kernel's overlay. What critest asks of them, and more.

mod world;

use cri::Client;
use cri::v1::*;
use tonic::Code;
use world::*;

fn volume(image: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: "/data".into(),
        readonly: true,
        image: Some(ImageSpec { image: image.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

/// The answer to creating a container with this mount.
async fn try_create(
    client: &Client,
    of: (&str, &PodSandboxConfig, &str),
    mount: Mount,
) -> Result<String, tonic::Status> {
    let (sandbox, pod, image) = of;
    let mut config = container_config(image, &format!("c{}", rand_name()), &["sleep", "1000"]);
    config.mounts = vec![mount];
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.into(),
        config: Some(config),
        sandbox_config: Some(pod.clone()),
    };
    Ok(client.runtime.clone().create_container(request).await?.into_inner().container_id)
}

fn rand_name() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn say(client: &Client, id: &str, script: &str) -> (i32, String) {
    let answer = exec(client, id, &["sh", "-c", script]).await;
    let text = [&answer.stdout[..], &answer.stderr[..]].concat();
    (answer.exit_code, String::from_utf8_lossy(&text).trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_mounted_for_reading_and_stays_as_long_as_it_is_used() {
    let mut world = World::new();
    let client = world.serve().await;
    let image = pull(&client, &world.image()).await;
    let data = pull(&client, &world.data_image()).await;
    let pod = sandbox_config(&world, "volumes");
    let sandbox = sandbox(&client, &pod).await;
    let of = (sandbox.as_str(), &pod, image.as_str());

    let whole = try_create(&client, of, volume(&world.data_image(), "")).await.unwrap();
    start(&client, &whole).await;
    assert_eq!(say(&client, &whole, "cat /data/files/data").await, (0, "payload".into()));
    let (code, hidden) = say(&client, &whole, "ls /data/etc").await;
    assert_eq!((code, hidden.as_str()), (0, "passwd"), "a layer hides what lies below");
    let (code, text) = say(&client, &whole, "echo x > /data/files/data").await;
    assert!(code != 0 && text.contains("Read-only file system"), "{text}");
    let (code, text) = say(&client, &whole, "mount -o remount,rw /data").await;
    assert!(code != 0, "{text}");
    let (code, text) = say(&client, &whole, "/data/bin/busybox true").await;
    assert!(code != 0 && text.contains("ermission denied"), "nothing runs from it: {text}");
    let (_, options) = say(&client, &whole, "grep ' /data ' /proc/self/mounts").await;
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options.split([' ', ',']).any(|word| word == option), "{option}: {options}");
    }

    let seen = status(&client, &whole).await;
    let spec = seen.mounts[0].image.clone().unwrap();
    assert!(spec.image_ref.contains("/data@sha256:"), "the status tells the digest: {spec:?}");
    let remove = |image: &str| {
        let spec = ImageSpec { image: image.into(), ..Default::default() };
        let (mut images, request) = (client.images.clone(), RemoveImageRequest { image: Some(spec) });
        async move { images.remove_image(request).await }
    };
    assert_eq!(remove(&data).await.unwrap_err().code(), Code::FailedPrecondition, "a mounted image is in use");

    // The runtime dies and comes back: the mount and the claim on it are still there.
    world.kill_server();
    let client = world.serve().await;
    assert_eq!(say(&client, &whole, "cat /data/files/data").await, (0, "payload".into()));
    let spec = ImageSpec { image: data.clone(), ..Default::default() };
    let mut images = client.images.clone();
    let refused = images.remove_image(RemoveImageRequest { image: Some(spec.clone()) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    client.runtime.clone().remove_pod_sandbox(remove).await.unwrap();
    images.remove_image(RemoveImageRequest { image: Some(spec) }).await.unwrap();
    assert_eq!(world.down(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sub_path_is_a_part_of_the_image_and_never_of_the_node() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    pull(&client, &world.data_image()).await;
    let pod = sandbox_config(&world, "paths");
    let sandbox = sandbox(&client, &pod).await;
    let of = (sandbox.as_str(), &pod, image.as_str());

    for (sub_path, script, wanted) in [
        ("files", "cat /data/data", "payload"),
        ("files/data", "cat /data", "payload"),
        ("files/absolute", "ls /data", "passwd"),
        ("files/up", "ls /data", "passwd"),
    ] {
        let id = try_create(&client, of, volume(&world.data_image(), sub_path)).await.unwrap();
        start(&client, &id).await;
        assert_eq!(say(&client, &id, script).await, (0, wanted.into()), "{sub_path}");
    }
    let texts = [
        (volume(&world.data_image(), "gone"), "ImageVolumeMountFailed: subPath gone: "),
        (volume(&world.data_image(), "../../etc"), "leads out of the image"),
        (Mount { readonly: false, ..volume(&world.data_image(), "") }, "must be read-only"),
        (volume("127.0.0.1:1/none:1", ""), "image \"127.0.0.1:1/none:1\" not found"),
    ];
    for (mount, wanted) in texts {
        let text = try_create(&client, of, mount).await.unwrap_err().message().to_owned();
        assert!(text.contains(wanted) && text.contains("ImageVolumeMountFailed"), "{text}");
    }
    runtime.tear_down().await.unwrap();
    assert_eq!(world.traces(), [""; 0], "also of what could not be made");
}
