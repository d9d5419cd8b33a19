//! The registry wall where the machine's files speak: mirrors, certificates, headers, proxies.

mod support;

use images::{Credential, Images, Options, ProgressSink, ProxyOptions, PullError, PullRequest};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use support::double::{Double, Login, Turn};
use support::tls::{Identity, Tunnel};
use support::{Layer, Made, digest, noise, tar_of};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

struct Bench {
    images: Images,
    directory: TempDir,
}

async fn bench_with(change: impl FnOnce(&mut Options)) -> Bench {
    assert!(rustix::process::geteuid().is_root(), "these tests unpack layers and need root");
    let directory = tempfile::tempdir().unwrap();
    let mut options = Options::new(directory.path().join("images"));
    options.hosts_directories = vec![directory.path().join("certs.d")];
    options.registries_files = vec![directory.path().join("registries.yaml")];
    options.proxy = ProxyOptions::default();
    change(&mut options);
    Bench { images: Images::open(options).await.unwrap(), directory }
}

async fn bench() -> Bench {
    bench_with(|_| ()).await
}

impl Bench {
    fn hosts(&self, registry: &str, text: &str) -> PathBuf {
        let directory = self.directory.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
        directory
    }

    async fn pull(&self, image: &str) -> Result<Arc<images::Image>, PullError> {
        self.pull_as(image, None).await
    }

    async fn pull_as(&self, image: &str, credential: Option<Credential>) -> Result<Arc<images::Image>, PullError> {
        let headers = vec![("X-Custom".to_owned(), "mine".to_owned())];
        let request = PullRequest { image: image.to_owned(), credential, headers };
        let pull = self.images.pull(request, ProgressSink::none(), CancellationToken::new());
        tokio::time::timeout(Duration::from_secs(60), pull).await.expect("a pull ends")
    }
}

fn password() -> Option<Credential> {
    Some(Credential { username: "u".into(), password: "hunter2".into(), ..Credential::default() })
}

fn image(seed: u64) -> Made {
    Made::new(vec![Layer::gzip(&tar_of(&[("file", &noise(100_000, seed))]))])
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_their_order_and_every_hosts_own_error_is_told() {
    let bench = bench().await;
    let (failing, lacking, whole) = (Double::start().await, Double::start().await, Double::start().await);
    whole.serve("app", "v1", &image(1));
    for _ in 0..9 {
        failing.next("HEAD /v2/app/manifests/v1", Turn::Status(500, Vec::new(), String::new()));
    }
    let text = |last: &Double| {
        format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n",
            last.address, failing.address, lacking.address
        )
    };
    bench.hosts("reg.test", &text(&whole));
    let pulled = bench.pull("reg.test/app:v1").await.unwrap();
    assert_eq!(pulled.tags, ["reg.test/app:v1"]);
    assert_eq!(
        (failing.count("HEAD", "v1"), lacking.count("HEAD", "v1")),
        (1, 1),
        "no second try before the last host"
    );
    for (double, at) in [(&failing, "mirror"), (&lacking, "mirror"), (&whole, "server")] {
        assert!(double.seen().iter().all(|seen| seen.query == "ns=reg.test"), "{at}: {:?}", double.seen());
    }
    // The file is read anew.
    let empty = Double::start().await;
    bench.hosts("reg.test", &text(&empty));
    let error = bench.pull("reg.test/app:v1").await.unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, PullError::ServerError { .. }), "{error:?}");
    for (double, status) in [(&failing, "500"), (&lacking, "404"), (&empty, "404")] {
        assert!(told.contains(&format!("http://{}: {status}", double.address)), "{told}");
    }
    assert_eq!(error.host(), Some(format!("http://{}", failing.address).as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_say_who_is_asked_for_tags_and_who_for_content() {
    let bench = bench().await;
    let (puller, resolver, other) = (Double::start().await, Double::start().await, Double::start().await);
    [&puller, &resolver].iter().for_each(|double| double.serve("app", "v1", &image(2)));
    bench.hosts(
        "reg.test",
        &format!(
            "server = \"http://{}\"\ncapabilities = []\n\
             [host.\"http://{}\"]\ncapabilities = [\"pull\"]\n[host.\"http://{}\"]\ncapabilities = [\"resolve\"]\n",
            other.address, puller.address, resolver.address
        ),
    );
    bench.pull("reg.test/app:v1").await.unwrap();
    assert!(puller.seen().iter().all(|seen| !seen.path.ends_with("/v1")), "{:?}", puller.seen());
    assert_eq!(resolver.seen().len(), 1, "{:?}", resolver.seen());
    assert!(other.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_sees_neither_credential_nor_headers_unless_a_file_says_so() {
    let bench = bench().await;
    let (mirror, registry) = (Double::start().await, Double::start().await);
    registry.serve("app", "v1", &image(3));
    for double in [&mirror, &registry] {
        double.login(Login::Basic("dTpodW50ZXIy".into()));
    }
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\".header]\nx-custom = \"of the mirror\"\n",
        registry.address, mirror.address
    );
    bench.hosts("reg.test", &text);
    bench.pull_as("reg.test/app:v1", password()).await.unwrap();
    assert!(!mirror.seen().is_empty());
    assert!(
        mirror.seen().iter().all(|s| s.authorization.is_empty() && s.custom == "of the mirror"),
        "{:?}",
        mirror.seen()
    );
    assert!(registry.seen().iter().all(|seen| seen.custom == "mine"));
    // A login of its own.
    mirror.serve("app", "v2", &image(4));
    mirror.login(Login::Basic("bTpvd24=".into()));
    let yaml = format!("configs: {{\"{}\": {{auth: {{username: m, password: own}}}}}}", mirror.address);
    std::fs::write(bench.directory.path().join("registries.yaml"), yaml).unwrap();
    bench.pull_as("reg.test/app:v2", password()).await.unwrap();
    assert!(
        mirror.seen().iter().all(|s| !s.authorization.contains("aHVudGVy") && s.authorization != "Basic dTpodW50ZXIy")
    );
    // Trusted by the file.
    mirror.forget();
    mirror.serve("app", "v3", &image(5));
    mirror.login(Login::Basic("dTpodW50ZXIy".into()));
    bench.hosts("reg.test", &format!("[host.\"http://{}\"]\ngets_credential = true\n", mirror.address));
    bench.pull_as("reg.test/app:v3", password()).await.unwrap();
    assert!(mirror.seen().iter().any(|seen| seen.authorization == "Basic dTpodW50ZXIy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_yaml_rewrites_the_repository_at_the_mirror() {
    let bench = bench().await;
    let mirror = Double::start().await;
    mirror.serve("cache/hub/nginx", "1", &image(6));
    let yaml = format!(
        "mirrors:\n  docker.io:\n    endpoint: [\"http://{}\"]\n    rewrite: {{\"^library/(.*)\": \"cache/hub/$1\"}}\n",
        mirror.address
    );
    std::fs::write(bench.directory.path().join("registries.yaml"), yaml).unwrap();
    let pulled = bench.pull("nginx:1").await.unwrap();
    assert_eq!(pulled.tags, ["docker.io/library/nginx:1"]);
    assert!(mirror.seen().iter().all(|s| s.query == "ns=docker.io" && s.path.starts_with("/v2/cache/hub/nginx/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_file_ends_the_pull_and_is_named_with_its_line() {
    let bench = bench().await;
    let registry = Double::start().await;
    registry.serve("app", "v1", &image(7));
    let name = registry.name("app:v1");
    let directory = bench.hosts(&registry.address.to_string(), "\n\nserver = nonsense\n");
    let error = bench.pull(&name).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}/hosts.toml:3: ", directory.display())), "{error}");
    bench.hosts(
        &registry.address.to_string(),
        &format!("server = \"http://{}\"\nca = \"missing.pem\"\n", registry.address),
    );
    let error = bench.pull(&name).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}/missing.pem: ", directory.display())), "{error}");
    assert!(registry.seen().is_empty(), "a mandatory mirror is not passed over");
    bench.hosts(&registry.address.to_string(), "");
    std::fs::write(bench.directory.path().join("registries.yaml"), "mirrors:\n - x\n").unwrap();
    let error = bench.pull(&name).await.unwrap_err();
    assert!(error.to_string().contains("registries.yaml:2: ") && error.class() == "other", "{error}");
    std::fs::remove_file(bench.directory.path().join("registries.yaml")).unwrap();
    bench.pull(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_authorities_are_believed_and_client_certificates_shown() {
    let bench = bench().await;
    let (identity, client) = (Identity::new(&["127.0.0.1"]), Identity::new(&["node"]));
    let registry = Double::start_tls(&identity, Some(&client)).await;
    registry.serve("app", "v1", &image(8));
    let stranger = Identity::new(&["127.0.0.1"]);
    let text = format!(
        "server = \"https://{}\"\nca = \"ca.pem\"\nclient = [[\"client/node.pem\", \"client/node.key\"]]\n",
        registry.address
    );
    let directory = bench.hosts("reg.test", &text);
    std::fs::create_dir(directory.join("client")).unwrap();
    stranger.write(&directory);
    client.write(&directory.join("client"));
    let error = bench.pull("reg.test/app:v1").await.unwrap_err();
    assert!(matches!(error, PullError::Tls { .. }) && error.class() == "tls", "{error:?}");
    identity.write(&directory);
    bench.pull("reg.test/app:v1").await.unwrap();
    assert!(registry.seen().iter().all(|seen| seen.certified && seen.version == "HTTP/2.0"), "{:?}", registry.seen());
    // Without a certificate of its own, the node is refused; with skip_verify the registry needs none that is known.
    let open = Double::start_tls(&stranger, None).await;
    open.serve("app", "v1", &image(9));
    bench.hosts("open.test", &format!("server = \"https://{}\"\nskip_verify = true\n", open.address));
    bench.pull("open.test/app:v1").await.unwrap();
    assert!(open.seen().iter().all(|seen| !seen.certified));
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_layout_of_certificates_serves_where_there_is_no_hosts_file() {
    let bench = bench().await;
    let (identity, client) = (Identity::new(&["127.0.0.1"]), Identity::new(&["node"]));
    let registry = Double::start_tls(&identity, Some(&client)).await;
    registry.serve("app", "v1", &image(10));
    let directory = bench.directory.path().join("certs.d").join(registry.address.to_string());
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("ca.crt"), &identity.authority).unwrap();
    std::fs::write(directory.join("client.cert"), &client.certificate).unwrap();
    std::fs::write(directory.join("client.key"), &client.key).unwrap();
    bench.pull(&registry.name("app:v1")).await.unwrap();
    assert!(registry.seen().iter().all(|seen| seen.certified));
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_tunnel_https_and_ask_for_http_by_its_whole_address() {
    let identity = Identity::new(&["secure.test"]);
    let secure = Double::start_tls(&identity, None).await;
    let tunnel = Tunnel::to(secure.address).await;
    let plain = Double::start().await;
    let bench = bench_with(|options| {
        options.proxy = ProxyOptions {
            http: format!("http://me:pw@{}", plain.address),
            https: format!("http://me:pw@{}", tunnel.address),
            no: "direct.test".into(),
        };
    })
    .await;
    secure.serve("app", "v1", &image(11));
    plain.serve("app", "v1", &image(12));
    let directory = bench.hosts("secure.test", "server = \"https://secure.test\"\nca = \"ca.pem\"\n");
    identity.write(&directory);
    bench.pull("secure.test/app:v1").await.unwrap();
    let heads = tunnel.heads.lock().unwrap().clone();
    assert!(heads[0].starts_with("CONNECT secure.test:443 ") && heads[0].contains("Basic bWU6cHc="), "{heads:?}");
    assert!(secure.seen().iter().all(|seen| seen.proxy_authorization.is_empty()));

    bench.hosts("plain.test:5000", "server = \"http://plain.test:5000\"\n");
    bench.pull("plain.test:5000/app:v1").await.unwrap();
    assert!(
        plain.seen().iter().all(|s| s.authority == "plain.test:5000" && s.proxy_authorization == "Basic bWU6cHc="),
        "{:?}",
        plain.seen()
    );
    plain.forget();
    // Neither what is excepted nor this machine itself takes the proxy.
    bench.hosts("direct.test", "server = \"http://direct.test\"\ndial_timeout = \"2s\"\n");
    let error = bench.pull("direct.test/app:v1").await.unwrap_err();
    assert!(matches!(error, PullError::Dns { .. }), "{error:?}");
    bench.pull(&plain.name("app:v1")).await.unwrap();
    assert!(plain.seen().iter().all(|seen| seen.authority == plain.address.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_breaks_off_gives_way_to_the_next_host() {
    let bench = bench().await;
    let (mirror, registry) = (Double::start().await, Double::start().await);
    let made = image(13);
    [&mirror, &registry].iter().for_each(|double| double.serve("app", "v1", &made));
    mirror.cut_always(Some(0));
    bench.hosts(
        "reg.test",
        &format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", registry.address, mirror.address),
    );
    bench.pull("reg.test/app:v1").await.unwrap();
    assert_eq!(registry.count("GET", &digest(&made.layers[0].blob)), 1);
}
