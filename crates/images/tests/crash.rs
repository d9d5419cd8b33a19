//! kill -9 at random moments of a pull: the image is absent or complete, and what came is not asked for again.

mod support;

use images::{Images, Options, ProgressSink, PullRequest};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::double::Double;
use support::{Layer, Made, noise, tar_of};
use tokio_util::sync::CancellationToken;

const CHILD_ROOT: &str = "SAMPAN_TEST_PULL_ROOT";
const CHILD_IMAGE: &str = "SAMPAN_TEST_PULL_IMAGE";
const KILLS: u64 = 40;

/// The victim: does nothing unless this program started it.
#[tokio::test(flavor = "multi_thread")]
async fn the_victim_pulls() {
    let (Ok(root), Ok(image)) = (std::env::var(CHILD_ROOT), std::env::var(CHILD_IMAGE)) else { return };
    let images = Images::open(Options::new(root)).await.unwrap();
    let request = PullRequest { image, ..PullRequest::default() };
    images.pull(request, ProgressSink::none(), CancellationToken::new()).await.unwrap();
}

#[allow(clippy::disallowed_methods)] // Reason: starts this test program again, to be killed.
fn victim(root: &Path, image: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_victim_pulls"])
        .env(CHILD_ROOT, root)
        .env(CHILD_IMAGE, image)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_leaves_nothing_half_and_is_resumed() {
    assert!(rustix::process::geteuid().is_root(), "these tests unpack layers and need root");
    let double = Double::start().await;
    let layers = (1..=3).map(|seed| Layer::gzip(&tar_of(&[(&format!("file{seed}"), &noise(4_000_000, seed))])));
    let image = Made::new(layers.collect());
    double.serve("app", "v1", &image);
    let name = double.name("app:v1");
    let (mut absent, mut complete, mut resumed) = (0, 0, 0);
    for seed in 1..=KILLS {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("images");
        let mut child = victim(&root, &name);
        // The moment is drawn from the seed; it waits for nothing, it is where the axe falls.
        let moment = Duration::from_micros(5_000 + u64::from_le_bytes(noise(8, seed).try_into().unwrap()) % 350_000);
        tokio::time::sleep(moment).await;
        child.kill().unwrap();
        child.wait().unwrap();

        let images = Images::open(Options::new(&root)).await.unwrap();
        match images.resolve(&name) {
            Some(found) => {
                complete += 1;
                check_whole(&images, &found);
            }
            None => absent += 1,
        }
        let partials: Vec<(String, u64)> = std::fs::read_dir(root.join("partial"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect();
        double.forget();
        let request = PullRequest { image: name.clone(), ..PullRequest::default() };
        let pulled = images.pull(request, ProgressSink::none(), CancellationToken::new()).await.unwrap();
        check_whole(&images, &pulled);
        let seen = double.seen();
        for (hex, length) in partials.iter().filter(|(_, length)| *length > 0) {
            for asked in seen.iter().filter(|seen| seen.path.ends_with(hex)) {
                assert_eq!(asked.range, format!("bytes={length}-"), "what is here is not asked for again");
                resumed += 1;
            }
        }
        assert_eq!(std::fs::read_dir(root.join("partial")).unwrap().count(), 0);
        let unwanted = |name: &str| name.starts_with("tmp-");
        let names =
            std::fs::read_dir(root.join("layers")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| unwanted(name)).count(), 0);
        images.settle().await;
    }
    eprintln!("{KILLS} kills: {absent} absent, {complete} complete, {resumed} layers resumed");
}

fn check_whole(images: &Images, image: &images::Image) {
    for (layer, seed) in images.layers(image).iter().rev().zip(1..) {
        assert!(std::fs::read(layer.join(format!("file{seed}"))).unwrap() == noise(4_000_000, seed));
    }
}
