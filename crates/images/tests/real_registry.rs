//! The registry wall against Debian's docker-registry, with a password, and an image that skopeo pushed.

mod support;

use images::{Credential, Images, Options, ProgressSink, PullError, PullRequest};
use serde_json::json;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Layer, Made, digest, noise, tar_of};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

struct Registry {
    process: Child,
    address: String,
    directory: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[allow(clippy::disallowed_methods)] // Reason: this test starts the registry and its tools.
fn command(program: &str) -> Command {
    Command::new(program)
}

async fn registry() -> Registry {
    assert!(rustix::process::geteuid().is_root(), "these tests unpack layers and need root");
    for _ in 0..5 {
        match try_registry().await {
            Ok(registry) => return registry,
            // Somebody else may have taken the port meanwhile.
            Err(said) => eprintln!("docker-registry does not listen: {said}"),
        }
    }
    panic!("docker-registry does not listen");
}

/// A registry on a port that was free a moment ago; or what it says if it does not come to listen there.
async fn try_registry() -> Result<Registry, String> {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let entry = command("htpasswd").args(["-Bbn", "anna", "secret"]).output().expect("htpasswd is installed");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("htpasswd"), entry.stdout).unwrap();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n\
         auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        at("data").display(),
        at("htpasswd").display()
    );
    std::fs::write(at("config.yml"), config).unwrap();
    let log_file = std::fs::File::create(at("log")).unwrap();
    let process = command("/usr/bin/docker-registry")
        .args(["serve", at("config.yml").to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(log_file)
        .spawn()
        .expect("docker-registry is installed");
    let log = at("log");
    let mut registry = Registry { process, address, directory };
    for _ in 0..1200 {
        if registry.process.try_wait().unwrap().is_some() {
            break;
        }
        if registry.is_listening() {
            return Ok(registry);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(std::fs::read_to_string(log).unwrap())
}

impl Registry {
    /// Whether it is this process that listens at the address, and not whoever was quicker.
    fn is_listening(&self) -> bool {
        let port: u16 = self.address.rsplit(':').next().unwrap().parse().unwrap();
        let listens = format!(":{port:04X} 00000000:0000 0A ");
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let inodes = sockets.lines().filter(|line| line.contains(&listens)).filter_map(|l| l.split_whitespace().nth(9));
        let links: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).into_iter().flatten().flatten();
        let mut targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
    }

    fn push(&self, name: &str, image: &Made) {
        let layout = self.directory.path().join("layout");
        write_layout(&layout, image);
        let target = format!("docker://{}/{name}", self.address);
        let output = command("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", "anna:secret"])
            .args([&format!("oci:{}:latest", layout.display()), &target])
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn request(&self, name: &str, password: &str) -> PullRequest {
        let (username, password) = ("anna".to_owned(), password.to_owned());
        let credential = Some(Credential { username, password, ..Credential::default() });
        PullRequest { image: format!("{}/{name}", self.address), credential, headers: Vec::new() }
    }
}

fn write_layout(layout: &Path, image: &Made) {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    for blob in image.layers.iter().map(|layer| &layer.blob).chain([&image.config, &image.manifest]) {
        std::fs::write(blobs.join(&digest(blob)[7..]), blob).unwrap();
    }
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(&image.manifest), "size": image.manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": "latest" },
    }]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

async fn store(directory: &TempDir) -> (Images, PathBuf) {
    let root = directory.path().join("images");
    (Images::open(Options::new(&root)).await.unwrap(), root)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_from_a_private_registry_with_its_password_only() {
    let registry = registry().await;
    let busybox = std::fs::read("/bin/busybox").expect("busybox is installed");
    let image = Made::new(vec![
        Layer::gzip(&tar_of(&[("bin/busybox", &busybox)])),
        Layer::gzip(&tar_of(&[("etc/motd", b"hello")])),
    ]);
    registry.push("team/box:1", &image);
    let directory = tempfile::tempdir().unwrap();
    let (images, _) = store(&directory).await;
    let pull = |request| images.pull(request, ProgressSink::none(), CancellationToken::new());
    let pulled = pull(registry.request("team/box:1", "secret")).await.unwrap();
    let layers = images.layers(&pulled);
    assert_eq!(std::fs::read(layers[0].join("etc/motd")).unwrap(), b"hello");
    assert!(std::fs::read(layers[1].join("bin/busybox")).unwrap() == busybox);
    assert_eq!(pulled.id, digest(&image.config));

    let error = pull(registry.request("team/box:1", "wrong")).await.unwrap_err();
    assert!(matches!(error, PullError::AccessDenied { .. }), "{error:?}");
    assert!(error.to_string().contains(&registry.address) && !error.to_string().contains("wrong"), "{error}");
    let anonymous = PullRequest { credential: None, ..registry.request("team/box:1", "") };
    assert!(matches!(pull(anonymous).await.unwrap_err(), PullError::AccessDenied { .. }));
    let error = pull(registry.request("team/box:2", "secret")).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&format!("{}/team/box:2: not found", registry.address)), "{error}");
}

/// A measurement, not a check: `cargo test -p images --test real_registry -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of some seconds"]
async fn a_big_image_is_pulled_at_this_speed() {
    let registry = registry().await;
    // Half noise, half zeros: compresses to about half, as programs do.
    let layer = |seed: u64| {
        let files: Vec<(String, Vec<u8>)> = (0..100)
            .map(|n| {
                (
                    format!("usr/l{seed}/f{n}"),
                    noise(500_000, seed * 1000 + n).into_iter().chain(vec![0; 500_000]).collect(),
                )
            })
            .collect();
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
        Layer::gzip(&tar_of(&files))
    };
    let image = Made::new((1..=4).map(layer).collect());
    let compressed: usize = image.layers.iter().map(|layer| layer.blob.len()).sum();
    registry.push("big:1", &image);
    let directory = tempfile::tempdir().unwrap();
    let (images, _) = store(&directory).await;
    let started = tokio::time::Instant::now();
    images.pull(registry.request("big:1", "secret"), ProgressSink::none(), CancellationToken::new()).await.unwrap();
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "pulled 4 layers, {:.0} MB compressed, 400 MB plain, in {seconds:.2} s: {:.0} MB/s compressed, {:.0} MB/s plain",
        compressed as f64 / 1e6,
        compressed as f64 / 1e6 / seconds,
        400.0 / seconds
    );
}
