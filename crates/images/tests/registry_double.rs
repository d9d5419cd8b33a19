//! The registry wall against a scripted registry: faults, logins, resuming, and what must never happen.

mod support;

use images::{Credential, Images, LayerState, Options, ProgressSink, PullError, PullRequest};
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::double::{Double, Login, Turn};
use support::{Layer, Made, digest, noise, tar_of};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

struct Bench {
    double: Double,
    images: Images,
    directory: TempDir,
}

async fn bench() -> Bench {
    assert!(rustix::process::geteuid().is_root(), "these tests unpack layers and need root");
    let directory = tempfile::tempdir().unwrap();
    let images = Images::open(Options::new(directory.path().join("images"))).await.unwrap();
    Bench { double: Double::start().await, images, directory }
}

impl Bench {
    async fn pull(&self, name: &str) -> Result<Arc<images::Image>, PullError> {
        self.pull_as(name, None).await
    }

    async fn pull_as(&self, name: &str, credential: Option<Credential>) -> Result<Arc<images::Image>, PullError> {
        let request = PullRequest {
            image: self.double.name(name),
            credential,
            headers: vec![("X-Custom".into(), "mine".into()), ("Authorization".into(), "evil".into())],
        };
        let pull = self.images.pull(request, ProgressSink::none(), CancellationToken::new());
        tokio::time::timeout(Duration::from_secs(60), pull).await.expect("a pull ends")
    }

    fn root(&self) -> std::path::PathBuf {
        self.directory.path().join("images")
    }

    /// What lies in the store besides whole things.
    fn leftovers(&self) -> Vec<String> {
        let list = |part: &str| -> Vec<String> {
            let entries = std::fs::read_dir(self.root().join(part)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let half = |name: &String| name.starts_with("tmp-");
        list("layers").into_iter().filter(half).chain(list("partial")).collect()
    }
}

fn password(username: &str, password: &str) -> Option<Credential> {
    Some(Credential { username: username.into(), password: password.into(), ..Credential::default() })
}

fn small() -> Made {
    Made::new(vec![Layer::gzip(&tar_of(&[("etc/one", b"1"), ("bin/sh", b"#!")]))])
}

fn big(seed: u64) -> Made {
    Made::new(vec![Layer::gzip(&tar_of(&[("big", &noise(600_000, seed))]))])
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_with_its_names_and_config() {
    let bench = bench().await;
    bench.double.serve("team/app", "v1", &small());
    let image = bench.pull("team/app:v1").await.unwrap();
    assert_eq!(image.tags, [bench.double.name("team/app:v1")]);
    assert_eq!(image.digests, [bench.double.name(&format!("team/app@{}", digest(&small().manifest)))]);
    assert_eq!((image.config.user.as_str(), image.config.cmd.len()), ("7", 1));
    let layers = bench.images.layers(&image);
    assert_eq!(read(&layers[0].join("etc/one")), b"1");
    for name in [image.tags[0].as_str(), &image.digests[0], &image.id, &image.id[7..], &image.id[7..27]] {
        assert_eq!(bench.images.resolve(name).map(|found| found.id.clone()), Some(image.id.clone()), "{name}");
    }
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert!(bench.double.seen().iter().all(|seen| seen.custom == "mine" && seen.authorization.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pull_asks_for_the_name_only() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    bench.pull("app:v1").await.unwrap();
    bench.double.forget();
    bench.pull("app:v1").await.unwrap();
    let asked: Vec<String> = bench.double.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect();
    assert_eq!(asked, ["HEAD /v2/app/manifests/v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_leaves_the_old_image_without_it() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    let old = bench.pull("app:v1").await.unwrap();
    bench.double.serve("app", "v1", &big(1));
    let new = bench.pull("app:v1").await.unwrap();
    assert_ne!(old.id, new.id);
    assert_eq!(bench.images.resolve(&bench.double.name("app:v1")).unwrap().id, new.id);
    assert_eq!(bench.images.resolve(&old.id).unwrap().tags, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_decides_and_registers_no_tag() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    let pinned = format!("app:v9@{}", digest(&small().manifest));
    let image = bench.pull(&pinned).await.unwrap();
    assert_eq!(image.tags, Vec::<String>::new());
    assert_eq!(bench.double.count("HEAD", "v9"), 0);
    assert!(bench.images.resolve(&bench.double.name(&pinned)).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found_at_every_host() {
    let bench = bench().await;
    let error = bench.pull("app:nope").await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("{}: not found", bench.double.name("app:nope"))), "{text}");
    assert!(text.contains(&format!("http://{}: 404 Not Found", bench.double.address)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_refused() {
    let bench = bench().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let request = PullRequest { image: format!("{address}/a:b"), ..PullRequest::default() };
    let error = bench.images.pull(request, ProgressSink::none(), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, PullError::Refused { .. }) && error.is_registry_unavailable(), "{error:?}");
    assert!(error.to_string().contains(&format!("https://{address}")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_login_is_sent_only_when_asked_for() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    bench.double.login(Login::Basic("dTpw".into()));
    bench.pull_as("app:v1", password("u", "p")).await.unwrap();
    let seen = bench.double.seen();
    assert_eq!(seen[0].authorization, "");
    assert!(seen[1..].iter().all(|seen| seen.authorization == "Basic dTpw"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_denied_in_the_registrys_words_without_the_password() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    bench.double.login(Login::Basic("dTpw".into()));
    let error = bench.pull_as("app:v1", password("u", "hunter2")).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(matches!(error, PullError::AccessDenied { .. }), "{text}");
    assert!(text.contains("pull access denied, repository does not exist or may require authorization"), "{text}");
    assert!(text.contains("authentication required") && !text.contains("hunter2"), "{text}");
    let anonymous = bench.pull("app:v1").await.unwrap_err().to_string();
    assert!(anonymous.contains("no basic auth credentials"), "{anonymous}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_from_the_realm_for_passwords_and_identity_tokens() {
    let bench = bench().await;
    bench.double.serve("team/app", "v1", &small());
    let realm = format!("http://{}/token", bench.double.address);
    bench.double.login(Login::Bearer { realm, token: "t0k".into() });
    bench.double.put("/token", "application/json", br#"{"access_token":"t0k","token":"other","expires_in":60}"#);
    bench.pull_as("team/app:v1", password("u", "p")).await.unwrap();
    let token: Vec<_> = bench.double.seen().into_iter().filter(|seen| seen.path == "/token").collect();
    assert_eq!(token.len(), 1, "{token:?}");
    assert_eq!((token[0].method.as_str(), token[0].authorization.as_str()), ("GET", "Basic dTpw"));
    assert_eq!(token[0].query, "service=double&scope=repository:team/app:pull");
    bench.double.forget();
    let identity = Credential { identity_token: "refresh me".into(), ..Credential::default() };
    bench.pull_as("team/app:v1", Some(identity)).await.unwrap();
    let token: Vec<_> = bench.double.seen().into_iter().filter(|seen| seen.path == "/token").collect();
    assert_eq!((token[0].method.as_str(), token[0].authorization.as_str()), ("POST", ""));
    assert!(token[0].query.contains("grant_type=refresh_token&client_id=sampan"), "{token:?}");
    assert!(token[0].query.contains("refresh_token=refresh%20me"), "{token:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_replaced_in_the_middle_and_a_bad_one_ends_it() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    let realm = format!("http://{}/token", bench.double.address);
    bench.double.login(Login::Bearer { realm, token: "never".into() });
    bench.double.put("/token", "application/json", br#"{"token":"bad"}"#);
    let error = bench.pull_as("app:v1", password("u", "p")).await.unwrap_err();
    assert!(matches!(error, PullError::AccessDenied { .. }), "{error:?}");
    assert!(bench.double.count("GET", "/token") <= 2, "{:?}", bench.double.seen());
    bench.double.put("/token", "application/json", b"{}");
    let error = bench.pull_as("app:v1", password("u", "p")).await.unwrap_err().to_string();
    assert!(error.contains("did not include a token in the response"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_elsewhere_sees_no_credential_even_if_it_asks() {
    let bench = bench().await;
    let evil = Double::start().await;
    let image = small();
    bench.double.serve("app", "v1", &image);
    bench.double.login(Login::Basic("dTpw".into()));
    let blob = format!("/v2/app/blobs/{}", image.layers[0].digest());
    let target = format!("http://{}{blob}", evil.address);
    bench.double.next(&blob, Turn::Status(307, vec![("location", target.clone())], String::new()));
    evil.put(&blob, "application/octet-stream", &image.layers[0].blob);
    bench.pull_as("app:v1", password("u", "p")).await.unwrap();
    assert_eq!(evil.seen().len(), 1);
    assert!(
        evil.seen().iter().all(|seen| seen.authorization.is_empty() && seen.custom.is_empty()),
        "{:?}",
        evil.seen()
    );
    // The same, asking for a login: the pull fails, and still nothing is told.
    bench.images.remove(&bench.double.name("app:v1")).await.unwrap();
    evil.login(Login::Basic("dTpw".into()));
    bench.double.next(&blob, Turn::Status(307, vec![("location", target)], String::new()));
    let error = bench.pull_as("app:v1", password("u", "p")).await.unwrap_err();
    assert!(matches!(error, PullError::AccessDenied { .. }), "{error:?}");
    assert!(evil.seen().iter().all(|seen| seen.authorization.is_empty()), "{:?}", evil.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_rate_is_waited_out() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    for _ in 0..2 {
        let wait = vec![("retry-after", "1".to_owned())];
        bench.double.next("HEAD /v2/app/manifests/v1", Turn::Status(429, wait, String::new()));
    }
    let started = tokio::time::Instant::now();
    bench.pull("app:v1").await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(bench.double.count("HEAD", "manifests/v1"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_registry_is_asked_twice_and_named() {
    let bench = bench().await;
    for _ in 0..3 {
        bench.double.next("HEAD /v2/app/manifests/v1", Turn::Status(503, Vec::new(), String::new()));
    }
    let error = bench.pull("app:v1").await.unwrap_err();
    assert!(matches!(error, PullError::ServerError { .. }), "{error:?}");
    assert_eq!(bench.double.count("HEAD", "manifests/v1"), 2);
    assert!(error.to_string().contains(&format!("http://{}: 503", bench.double.address)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_again_and_again_still_brings_the_layer() {
    let bench = bench().await;
    let image = big(2);
    bench.double.serve("app", "v1", &image);
    bench.double.cut_always(Some(64 * 1024));
    let blob = image.layers[0].digest().to_string();
    bench.pull("app:v1").await.unwrap();
    let ranges: Vec<String> =
        bench.double.seen().into_iter().filter(|s| s.path.contains(&blob)).map(|s| s.range).collect();
    assert!(ranges.len() >= 9 && ranges[0].is_empty() && ranges[1].starts_with("bytes="), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_ranges_costs_bytes_but_not_the_pull() {
    let bench = bench().await;
    let image = big(3);
    bench.double.serve("app", "v1", &image);
    let blob = image.layers[0].digest().to_string();
    bench.double.next(&blob, Turn::Cut(100_000));
    bench.double.next(&blob, Turn::IgnoreRange);
    let pulled = bench.pull("app:v1").await.unwrap();
    let unpacked = read(&bench.images.layers(&pulled)[0].join("big"));
    assert!(unpacked == noise(600_000, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_leaves_nothing() {
    let bench = bench().await;
    let image = small();
    bench.double.serve("app", "v1", &image);
    bench.double.next(&image.layers[0].digest().to_string(), Turn::Corrupt);
    let error = bench.pull("app:v1").await.unwrap_err();
    assert!(matches!(error, PullError::DigestMismatch { .. }), "{error:?}");
    assert!(error.to_string().starts_with("unexpected commit digest sha256:"), "{error}");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert!(bench.images.list().is_empty());
    bench.pull("app:v1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_ends_early_is_truncated_and_resumed_later() {
    let bench = bench().await;
    let image = big(4);
    bench.double.serve("app", "v1", &image);
    let (blob, path) = (&image.layers[0].blob, format!("/v2/app/blobs/{}", image.layers[0].digest()));
    bench.double.put(&path, "application/octet-stream", &blob[..200_000]);
    let error = bench.pull("app:v1").await.unwrap_err();
    assert!(matches!(error, PullError::Truncated { received: 200_000, .. }), "{error:?}");
    assert_eq!(bench.leftovers(), [image.layers[0].digest().hex().to_owned()], "the bytes that came are kept");
    bench.double.put(&path, "application/octet-stream", blob);
    bench.double.forget();
    bench.pull("app:v1").await.unwrap();
    let asked = bench.double.seen().into_iter().find(|seen| seen.path == path).unwrap();
    assert_eq!(asked.range, "bytes=200000-");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoilt_partial_file_is_fetched_anew() {
    let bench = bench().await;
    let image = big(5);
    bench.double.serve("app", "v1", &image);
    let partial = bench.root().join("partial").join(image.layers[0].digest().hex());
    std::fs::write(&partial, vec![0; 150_000]).unwrap();
    bench.pull("app:v1").await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_content_are_found() {
    let bench = bench().await;
    let mut wrong = small();
    wrong.layers[0].diff_id = digest(b"other");
    bench.double.serve("diff", "v1", &Made::new(wrong.layers));
    let error = bench.pull("diff:v1").await.unwrap_err();
    assert!(matches!(error, PullError::WrongDiffId { .. }), "{error:?}");
    let mut zstd = small();
    zstd.layers[0].media_type = "application/vnd.oci.image.layer.v1.tar+zstd".into();
    let layer = zstd.layers[0].digest().to_string();
    bench.double.serve("type", "v1", &Made::new(zstd.layers));
    let error = bench.pull("type:v1").await.unwrap_err();
    assert!(matches!(error, PullError::InvalidContent { .. }) && error.to_string().contains(&layer), "{error:?}");
    let single = Made::for_platform(small().layers, "s390x");
    bench.double.serve("arch", "v1", &single);
    let error = bench.pull("arch:v1").await.unwrap_err().to_string();
    assert!(error.starts_with("image offers linux/s390x only; node is linux/"), "{error}");
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for name in ["v1", &digest(b"{}")] {
        bench.double.put(&format!("/v2/old/manifests/{name}"), schema1, b"{}");
    }
    let error = bench.pull("old:v1").await.unwrap_err().to_string();
    assert!(error.contains(schema1), "{error}");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert!(bench.images.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_may_be_plain_gzip_or_zstd() {
    let bench = bench().await;
    let kinds: Vec<Layer> = [("tar", "plain"), ("tar+zstd", "zstd"), ("tar+gzip", "gzip")]
        .into_iter()
        .map(|(suffix, name)| {
            let tar = tar_of(&[(name, &noise(300_000, 9))]);
            let blob = match name {
                "zstd" => zstd::encode_all(tar.as_slice(), 1).unwrap(),
                "gzip" => support::gzip(&tar),
                _ => tar.clone(),
            };
            Layer { diff_id: digest(&tar), blob, media_type: format!("application/vnd.oci.image.layer.v1.{suffix}") }
        })
        .collect();
    let mut kinds = kinds;
    let docker = tar_of(&[("docker", b"x")]);
    let media_type = "application/vnd.docker.image.rootfs.diff.tar".to_owned();
    kinds.push(Layer { diff_id: digest(&docker), blob: support::gzip(&docker), media_type });
    bench.double.serve("app", "v1", &Made::new(kinds));
    let image = bench.pull("app:v1").await.unwrap();
    let tops: Vec<bool> = bench
        .images
        .layers(&image)
        .iter()
        .zip(["docker", "gzip", "zstd", "plain"])
        .map(|(l, n)| l.join(n).exists())
        .collect();
    assert_eq!(tops, [true; 4], "topmost first");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_this_nodes_manifest_through_two_levels() {
    let bench = bench().await;
    let (own, foreign) = (small(), Made::for_platform(big(6).layers, "arm64"));
    bench.double.serve("app", "own", &own);
    bench.double.serve("app", "foreign", &foreign);
    let entry = |media_type: &str, body: &[u8], platform: serde_json::Value| json!({ "mediaType": media_type, "digest": digest(body), "size": body.len(), "platform": platform });
    let (manifest, index) = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json");
    let node = reference::Platform::compiled_for();
    let here = json!({ "os": "linux", "architecture": node.architecture });
    let inner = json!({ "schemaVersion": 2, "mediaType": index, "manifests": [
        entry(manifest, &foreign.manifest, json!({ "os": "linux", "architecture": "s390x" })),
        entry(manifest, &foreign.manifest, json!({ "os": "unknown", "architecture": "unknown" })),
        entry(manifest, &own.manifest, here.clone()),
    ]});
    let inner = inner.to_string().into_bytes();
    bench.double.put(&format!("/v2/app/manifests/{}", digest(&inner)), index, &inner);
    let outer = json!({ "schemaVersion": 2, "mediaType": index, "manifests": [entry(index, &inner, here)] });
    let outer = outer.to_string().into_bytes();
    bench.double.put("/v2/app/manifests/v1", index, &outer);
    bench.double.put(&format!("/v2/app/manifests/{}", digest(&outer)), index, &outer);
    let image = bench.pull("app:v1").await.unwrap();
    assert_eq!(image.id, digest(&own.config));
    assert_eq!(image.digests, [bench.double.name(&format!("app@{}", digest(&outer)))]);
    let none = json!({ "schemaVersion": 2, "mediaType": index, "manifests": [
        entry(manifest, &foreign.manifest, json!({ "os": "linux", "architecture": "s390x" })) ] });
    bench.double.put("/v2/app/manifests/none", index, none.to_string().as_bytes());
    bench.double.put(
        &format!("/v2/app/manifests/{}", digest(none.to_string().as_bytes())),
        index,
        none.to_string().as_bytes(),
    );
    let error = bench.pull("app:none").await.unwrap_err().to_string();
    assert!(error.contains("no match for platform in manifest sha256:") && error.contains("linux/s390x"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn joined_and_overlapping_pulls_fetch_each_layer_once() {
    let bench = bench().await;
    let base = || Layer::gzip(&tar_of(&[("base", &noise(400_000, 7))]));
    bench.double.serve("a", "v1", &Made::new(vec![base(), Layer::gzip(&tar_of(&[("a", b"a")]))]));
    bench.double.serve("b", "v1", &Made::new(vec![base(), Layer::gzip(&tar_of(&[("b", b"b")]))]));
    let (one, two, three) = tokio::join!(bench.pull("a:v1"), bench.pull("a:v1"), bench.pull("b:v1"));
    assert_eq!(one.unwrap().id, two.unwrap().id);
    three.unwrap();
    assert_eq!(bench.double.count("GET", &base().digest().to_string()), 1);
    assert_eq!(bench.double.count("HEAD", "/a/manifests/v1"), 1, "identical pulls are one");
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_an_image_keeps_what_others_and_holders_use() {
    let bench = bench().await;
    let base = || Layer::gzip(&tar_of(&[("base", b"base")]));
    bench.double.serve("a", "v1", &Made::new(vec![base(), Layer::gzip(&tar_of(&[("a", b"a")]))]));
    bench.double.serve("b", "v1", &Made::new(vec![base(), Layer::gzip(&tar_of(&[("b", b"b")]))]));
    let (a, b) = (bench.pull("a:v1").await.unwrap(), bench.pull("b:v1").await.unwrap());
    let (layers_a, layers_b) = (bench.images.layers(&a), bench.images.layers(&b));
    assert_eq!(layers_a[1], layers_b[1]);
    let hold = bench.images.hold(&a);
    bench.images.remove(&bench.double.name("a:v1")).await.unwrap();
    assert!(bench.images.resolve(&a.id).is_none() && layers_a[0].exists(), "held");
    drop(hold);
    bench.images.settle().await;
    assert!(!layers_a[0].exists() && layers_b.iter().all(|layer| layer.exists()));
    bench.images.remove(&b.id).await.unwrap();
    assert!(!layers_b[1].exists());
    assert!(bench.images.remove(&b.id).await.is_err());
    assert_eq!(bench.images.usage().inodes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_tells_of_every_layer_up_to_its_end() {
    let bench = bench().await;
    let image = big(8);
    bench.double.serve("app", "v1", &image);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = ProgressSink::new({
        let heard = heard.clone();
        move |progress| heard.lock().unwrap().push(progress.clone())
    });
    let request = PullRequest { image: bench.double.name("app:v1"), ..PullRequest::default() };
    bench.images.pull(request, sink, CancellationToken::new()).await.unwrap();
    let heard = heard.lock().unwrap();
    let last = heard.last().unwrap();
    assert_eq!((last.state, last.fetched), (LayerState::Done, image.layers[0].blob.len() as u64));
    assert!(heard.iter().any(|progress| progress.unpacked > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opened_again_has_its_images_and_keeps_others_out() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    let image = bench.pull("app:v1").await.unwrap();
    assert!(Images::open(Options::new(bench.root())).await.is_err(), "one process at a time");
    let Bench { double, images, directory } = bench;
    images.settle().await;
    drop(images);
    std::fs::create_dir(directory.path().join("images/layers/tmp-9")).unwrap();
    let images = Images::open(Options::new(directory.path().join("images"))).await.unwrap();
    assert_eq!(images.list(), [image]);
    assert!(!directory.path().join("images/layers/tmp-9").exists());
    drop(double);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pulls_under_way_are_told_and_gone_at_their_end() {
    let bench = bench().await;
    let shared = || Layer::gzip(&tar_of(&[("base", &noise(600_000, 8))]));
    let image = Made::new(vec![shared(), Layer::gzip(&tar_of(&[("b", &noise(300_000, 9))]))]);
    bench.double.serve("base", "v1", &Made::new(vec![shared()]));
    bench.double.serve("app", "v1", &image);
    bench.pull("base:v1").await.unwrap();
    let mut changes = bench.images.pull_changes();
    assert_eq!(bench.images.pulls(), []);
    bench.double.next(&image.layers[1].digest().to_string(), Turn::Cut(100_000));
    let mut seen = Vec::new();
    let watching = async {
        loop {
            changes.changed().await.unwrap();
            let pulls = bench.images.pulls();
            let ended = pulls.is_empty();
            seen.extend(pulls);
            if ended {
                return;
            }
        }
    };
    let (pulled, ()) = tokio::join!(bench.pull("app:v1"), watching);
    pulled.unwrap();
    let sizes: Vec<u64> = image.layers.iter().map(|layer| layer.blob.len() as u64).collect();
    let best = seen.iter().max_by_key(|pull| (pull.total, pull.present + pull.fetched)).unwrap();
    assert_eq!(best.image, bench.double.name("app:v1"));
    assert_eq!((best.total, best.present, best.layers), (sizes[0] + sizes[1], sizes[0], 2));
    assert!(seen.iter().all(|pull| pull.present + pull.fetched <= pull.total), "{seen:?}");
}
