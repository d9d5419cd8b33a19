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
    // Whatever the tag stands for by now (IMG-16).
    bench.double.serve("app", "v9", &big(2));
    assert_eq!(bench.pull(&pinned).await.unwrap().id, image.id);
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
async fn a_secret_with_blanks_that_a_server_echoes_is_shown_in_no_spelling() {
    let bench = bench().await;
    let echo = async |credential: Credential, told: &str| {
        let body = json!({ "errors": [{ "code": "DENIED", "message": told }] }).to_string();
        bench.double.next("HEAD /v2/app/manifests/v1", Turn::Status(403, Vec::new(), String::new()));
        bench.double.next("/v2/app/manifests/v1", Turn::Status(403, Vec::new(), body));
        let error = bench.pull_as("app:v1", Some(credential)).await.unwrap_err();
        assert!(matches!(error, PullError::AccessDenied { .. }), "{error:?}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("[redacted] is wrong"), "the server's other words stay: {text}");
        for word in ["correct", "horse", "staple", "bold"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
    };
    let secret = "correct horse staple";
    echo(password("u", secret).unwrap(), &format!("{secret} is wrong")).await;
    echo(password("u", secret).unwrap(), "correct%20horse%20staple is wrong").await;
    echo(password("u", "correct horse x").unwrap(), "correct horse x is wrong").await;
    let identity = Credential { identity_token: "bold+horse/staple=".into(), ..Credential::default() };
    echo(identity.clone(), "bold%2Bhorse/staple%3D is wrong").await;
    echo(identity, "bold+horse/staple= is wrong").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn encodings_that_were_not_asked_for_are_undone_before_hashing() {
    let bench = bench().await;
    for (coding, seed) in [("gzip", 21), ("zstd", 22), ("deflate", 23)] {
        let image = big(seed);
        let repository = format!("app{seed}");
        bench.double.serve(&repository, "v1", &image);
        let blob = &image.layers[0].blob;
        let coded = match coding {
            "gzip" => support::gzip(blob),
            "zstd" => zstd::encode_all(blob.as_slice(), 1).unwrap(),
            _ => support::zlib(blob),
        };
        // First a piece in the clear, so that the encoded answer comes to a request for a range.
        bench.double.next(&image.layers[0].digest().to_string(), Turn::Cut(50_000));
        bench.double.next(&image.layers[0].digest().to_string(), Turn::Encoded(coding, coded));
        bench.pull(&format!("{repository}:v1")).await.unwrap();
    }
    let image = big(24);
    bench.double.serve("odd", "v1", &image);
    bench.double.next(&image.layers[0].digest().to_string(), Turn::Encoded("br", Vec::new()));
    let error = bench.pull("odd:v1").await.unwrap_err().to_string();
    assert!(error.contains("unknown content encoding \"br\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_change_nothing() {
    let bench = bench().await;
    bench.double.always("warning", "299 - \"this registry is going away\"");
    bench.double.always("warning", "299 - broken");
    bench.double.serve("app", "v1", &small());
    bench.pull("app:v1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_never_serves_ends_after_two_tries_in_the_servers_words() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    let realm = format!("http://{}/token\",error=\"insufficient_scope", bench.double.address);
    bench.double.login(Login::Bearer { realm, token: "never".into() });
    bench.double.put("/token", "application/json", br#"{"token":"bad-token-value"}"#);
    let error = bench.pull_as("app:v1", password("u", "p")).await.unwrap_err();
    assert!(matches!(error, PullError::AccessDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("server message: insufficient_scope"), "{error}");
    assert_eq!((bench.double.count("GET", "/token"), bench.double.count("HEAD", "v1")), (2, 2));
    assert!(!error.to_string().contains("bad-token-value"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_registry_is_given_up_within_the_no_progress_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = Options::new(directory.path().join("images"));
    options.no_progress = Duration::from_secs(3);
    let images = Images::open(options).await.unwrap();
    let double = Double::start().await;
    let image = big(25);
    double.serve("app", "v1", &image);
    let blob = image.layers[0].digest().to_string();
    (0..20).for_each(|_| double.next(&blob, Turn::Stall(0)));
    let request = PullRequest { image: double.name("app:v1"), ..PullRequest::default() };
    let started = tokio::time::Instant::now();
    let pull = images.pull(request.clone(), ProgressSink::none(), CancellationToken::new());
    let error = tokio::time::timeout(Duration::from_secs(60), pull).await.unwrap().unwrap_err();
    assert!(matches!(error, PullError::TimedOut { .. }) && error.class() == "timeout", "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(error.host(), Some(format!("http://{}", double.address).as_str()));
    // A pause that is shorter does no harm.
    let double = Double::start().await;
    double.serve("app", "v1", &image);
    double.next(&blob, Turn::Stall(100_000));
    let request = PullRequest { image: double.name("app:v1"), ..PullRequest::default() };
    images.pull(request, ProgressSink::none(), CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_three_layers_of_a_pull_come_at_once() {
    let bench = bench().await;
    let layers = (30..38).map(|seed| Layer::gzip(&tar_of(&[("f", &noise(400_000, seed))])));
    let image = Made::new(layers.collect());
    bench.double.serve("app", "v1", &image);
    bench.double.cut_always(Some(150_000));
    // However slow the machine is: the first ones wait for the third.
    bench.double.gather(3, &image);
    bench.pull("app:v1").await.unwrap();
    assert_eq!(bench.double.most_under_way(), 3);
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Serves a document under a tag and its digest.
fn document(bench: &Bench, repository: &str, tag: &str, media_type: &str, body: &[u8]) {
    for name in [tag, &digest(body)] {
        bench.double.put(&format!("/v2/{repository}/manifests/{name}"), media_type, body);
    }
}

fn entry(media_type: &str, body: &[u8], platform: &serde_json::Value) -> serde_json::Value {
    let mut entry = json!({ "mediaType": media_type, "digest": digest(body), "size": body.len() });
    if !platform.is_null() {
        entry["platform"] = platform.clone();
    }
    entry
}

fn index_of(entries: &[serde_json::Value]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_bounded_in_depth_and_entries() {
    let bench = bench().await;
    let here = json!({ "os": "linux", "architecture": reference::Platform::compiled_for().architecture });
    bench.double.serve("app", "own", &small());
    let mut body = small().manifest;
    let mut media_type = MANIFEST;
    for depth in 1..=9 {
        body = index_of(&[entry(media_type, &body, &here)]);
        media_type = INDEX;
        document(&bench, "app", &format!("deep{depth}"), INDEX, &body);
    }
    bench.pull("app:deep2").await.unwrap();
    bench.pull("app:deep8").await.unwrap();
    let error = bench.pull("app:deep9").await.unwrap_err();
    assert!(error.to_string().contains("nested too deeply") && error.class() == "invalid", "{error}");
    let many = vec![entry(MANIFEST, &small().manifest, &here); 1025];
    document(&bench, "app", "many", INDEX, &index_of(&many));
    let error = bench.pull("app:many").await.unwrap_err().to_string();
    assert!(error.contains("too many entries"), "{error}");
    document(&bench, "app", "most", INDEX, &index_of(&many[..1024]));
    bench.pull("app:most").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_a_platform_is_taken_last_and_its_config_must_fit() {
    let bench = bench().await;
    let (own, foreign) = (small(), Made::for_platform(big(40).layers, "s390x"));
    bench.double.serve("app", "own", &own);
    bench.double.serve("app", "foreign", &foreign);
    let null = serde_json::Value::Null;
    let elsewhere = json!({ "os": "linux", "architecture": "s390x" });
    let good = index_of(&[entry(MANIFEST, &foreign.manifest, &elsewhere), entry(MANIFEST, &own.manifest, &null)]);
    document(&bench, "app", "good", INDEX, &good);
    assert_eq!(bench.pull("app:good").await.unwrap().id, digest(&own.config));
    let bad = index_of(&[entry(MANIFEST, &foreign.manifest, &null)]);
    document(&bench, "app", "bad", INDEX, &bad);
    let error = bench.pull("app:bad").await.unwrap_err();
    assert!(error.to_string().starts_with("image offers linux/s390x only; node is linux/"), "{error}");
    assert_eq!(error.class(), "platform");
    // The same below an entry that fits: the inner one still says nothing.
    let here = json!({ "os": "linux", "architecture": reference::Platform::compiled_for().architecture });
    document(&bench, "app", "outer", INDEX, &index_of(&[entry(INDEX, &bad, &here)]));
    assert!(matches!(bench.pull("app:outer").await.unwrap_err(), PullError::PlatformMismatch { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_docker_format_is_refused_however_it_comes() {
    let bench = bench().await;
    let old = br#"{"schemaVersion":1,"fsLayers":[{"blobSum":"sha256:x"}]}"#;
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for (tag, media_type, words) in [
        ("signed", signed, signed),
        ("text", "text/plain; charset=utf-8", "text/plain"),
        ("body", "application/json", "application/json"),
    ] {
        document(&bench, "old", tag, media_type, old);
        let error = bench.pull(&format!("old:{tag}")).await.unwrap_err();
        assert!(matches!(error, PullError::Schema1 { .. }) && error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("no longer supported"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_not_believed() {
    let bench = bench().await;
    let made = small();
    bench.double.serve("app", "v1", &made);
    let path = format!("/v2/app/manifests/{}", digest(&made.manifest));
    // Other bytes of the same length, under the digest that HEAD has told.
    bench.double.next(&path, Turn::Corrupt);
    let error = bench.pull("app:v1").await.unwrap_err();
    assert!(matches!(error, PullError::DigestMismatch { .. }), "{error:?}");
    // A GET that computes the digest, beside a header that says something else.
    bench.double.next("HEAD /v2/app/manifests/v1", Turn::Status(405, Vec::new(), String::new()));
    let lie = vec![("docker-content-digest", digest(b"other")), ("content-type", MANIFEST.to_owned())];
    let body = String::from_utf8(made.manifest.clone()).unwrap();
    bench.double.next("/v2/app/manifests/v1", Turn::Status(200, lie, body.clone()));
    let error = bench.pull("app:v1").await.unwrap_err().to_string();
    assert!(error.starts_with("unexpected commit digest"), "{error}");
    // No digest, or none that is one: computed.
    for header in [Vec::new(), vec![("docker-content-digest", "not a valid digest".to_owned())]] {
        bench.double.next("HEAD /v2/app/manifests/v1", Turn::Status(200, header, String::new()));
        bench.pull("app:v1").await.unwrap();
    }
    // Too large.
    document(&bench, "large", "v1", MANIFEST, &vec![b' '; 5 << 20]);
    let error = bench.pull("large:v1").await.unwrap_err().to_string();
    assert_eq!(error, format!("rejecting {} byte manifest for {}", 5 << 20, bench.double.name("large:v1")));
    assert!(bench.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_and_counts_must_be_those_of_the_manifest() {
    let bench = bench().await;
    let made = big(41);
    let change = |tag: &str, change: &dyn Fn(&mut serde_json::Value)| {
        bench.double.serve("app", tag, &made);
        let mut manifest = serde_json::from_slice(&made.manifest).unwrap();
        change(&mut manifest);
        document(&bench, "app", tag, MANIFEST, manifest.to_string().as_bytes());
    };
    let length = made.layers[0].blob.len();
    change("long", &|m| m["layers"][0]["size"] = json!(length - 1));
    change("short", &|m| m["layers"][0]["size"] = json!(length + 1));
    change("config", &|m| m["config"]["size"] = json!(3));
    change("count", &|m| m["layers"] = json!([]));
    change("type", &|m| m["layers"][0]["mediaType"] = json!("application/vnd.example.layer"));
    change("kind", &|m| m["config"]["mediaType"] = json!("application/vnd.example.config"));
    for (tag, words) in [
        ("long", "unexpected commit size"),
        ("short", "unexpected commit size"),
        ("config", "unexpected commit size"),
        ("count", "number of layers and diffIDs don't match: 0 != 1"),
        ("type", "unrecognised mediatype \"application/vnd.example.layer\""),
        ("kind", "unrecognised mediatype \"application/vnd.example.config\""),
    ] {
        let error = bench.pull(&format!("app:{tag}")).await.unwrap_err().to_string();
        assert!(error.contains(words), "{tag}: {error}");
    }
    assert!(bench.images.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_no_image_is_refused_by_the_name_of_what_it_is() {
    let bench = bench().await;
    // As `oras push` writes it: an empty config, and a file with its title.
    let (config, file) = (b"{}".as_slice(), b"a: 1\n".as_slice());
    let empty = "application/vnd.oci.empty.v1+json";
    for body in [config, file] {
        bench.double.put(&format!("/v2/chart/blobs/{}", digest(body)), "application/octet-stream", body);
    }
    let mut layer = entry("application/vnd.example.chart.v1", file, &serde_json::Value::Null);
    layer["annotations"] = json!({ "org.opencontainers.image.title": "values.yaml" });
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.chart",
        "config": entry(empty, config, &serde_json::Value::Null), "layers": [layer] });
    document(&bench, "chart", "v1", MANIFEST, manifest.to_string().as_bytes());
    let error = bench.pull("chart:v1").await.unwrap_err();
    assert!(error.to_string().contains(empty), "{error}");
    assert!(error.to_string().contains("this is no container image"), "{error}");
    assert!(bench.images.list().is_empty() && bench.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_config_is_one_image_with_several_names() {
    let bench = bench().await;
    bench.double.serve("a", "v1", &small());
    bench.double.serve("b", "v2", &small());
    let first = bench.pull("a:v1").await.unwrap();
    bench.double.forget();
    let second = bench.pull("b:v2").await.unwrap();
    assert_eq!((first.id.as_str(), bench.images.list().len()), (second.id.as_str(), 1));
    assert_eq!(second.tags, [bench.double.name("a:v1"), bench.double.name("b:v2")]);
    assert_eq!(second.digests.len(), 2);
    assert_eq!(bench.double.count("GET", "/blobs/"), 0, "what is here is not fetched from another repository");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_come_from_their_own_addresses_without_any_login() {
    let bench = bench().await;
    let (lacking, other) = (Double::start().await, Double::start().await);
    let mut made = small();
    made.layers[0].media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    let made = Made::new(made.layers);
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    manifest["layers"][0]["urls"] = json!([
        "ftp://nowhere.test/layer",
        format!("http://{}/layer", lacking.address),
        format!("http://{}/layer", other.address)
    ]);
    bench.double.serve("app", "v1", &made);
    document(&bench, "app", "v1", MANIFEST, manifest.to_string().as_bytes());
    bench.double.login(Login::Basic("dTpw".into()));
    other.put("/layer", "application/octet-stream", &made.layers[0].blob);
    bench.pull_as("app:v1", password("u", "p")).await.unwrap();
    assert_eq!((lacking.seen().len(), other.seen().len()), (1, 1));
    for seen in lacking.seen().iter().chain(&other.seen()) {
        assert!(seen.authorization.is_empty() && seen.custom.is_empty(), "{seen:?}");
    }
    assert_eq!(bench.double.count("GET", &made.layers[0].digest().to_string()), 0);
    // Any other answer than 404 ends it; where none of them has it, the registry is asked.
    bench.images.remove(&bench.double.name("app:v1")).await.unwrap();
    other.next("/layer", Turn::Status(403, Vec::new(), String::new()));
    assert!(matches!(bench.pull_as("app:v1", password("u", "p")).await.unwrap_err(), PullError::AccessDenied { .. }));
    other.next("/layer", Turn::Status(404, Vec::new(), String::new()));
    bench.pull_as("app:v1", password("u", "p")).await.unwrap();
    assert_eq!(bench.double.count("GET", &made.layers[0].digest().to_string()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_content_is_used_if_it_is_right_and_fetched_if_not() {
    use base64::Engine as _;
    let bench = bench().await;
    let made = small();
    bench.double.serve("app", "v1", &made);
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    manifest["config"]["data"] = json!(encode(&made.config));
    document(&bench, "app", "right", MANIFEST, manifest.to_string().as_bytes());
    bench.pull("app:right").await.unwrap();
    assert_eq!(bench.double.count("GET", &digest(&made.config)), 0);
    bench.images.remove(&bench.double.name("app:right")).await.unwrap();
    manifest["config"]["data"] = json!(encode(&vec![b'x'; made.config.len()]));
    document(&bench, "app", "wrong", MANIFEST, manifest.to_string().as_bytes());
    let image = bench.pull("app:wrong").await.unwrap();
    assert_eq!(
        (image.id.as_str(), bench.double.count("GET", &digest(&made.config))),
        (digest(&made.config).as_str(), 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_looked_for_among_blobs_after_a_404_only() {
    let bench = bench().await;
    let made = small();
    bench.double.serve("app", "v1", &made);
    let digest = digest(&made.manifest);
    let pinned = format!("app@{digest}");
    for status in [500, 500] {
        bench.double.next(&format!("HEAD /v2/app/manifests/{digest}"), Turn::Status(status, Vec::new(), String::new()));
    }
    assert!(matches!(bench.pull(&pinned).await.unwrap_err(), PullError::ServerError { .. }));
    assert_eq!(bench.double.count("GET", "/blobs/"), 0);
    bench.double.next(&format!("HEAD /v2/app/manifests/{digest}"), Turn::Status(404, Vec::new(), String::new()));
    bench.double.put(&format!("/v2/app/blobs/{digest}"), MANIFEST, &made.manifest);
    bench.pull(&pinned).await.unwrap();
    assert_eq!(bench.double.count("GET", &format!("/blobs/{digest}")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_keep_ranges_are_bounded_and_never_lose_tls() {
    let bench = bench().await;
    let made = big(42);
    bench.double.serve("app", "v1", &made);
    let store = Double::start().await;
    let path = format!("/v2/app/blobs/{}", made.layers[0].digest());
    store.put("/signed", "application/octet-stream", &made.layers[0].blob);
    for status in [301, 302, 303, 307, 308] {
        let target = vec![("location", format!("http://{}/signed?X-Signature=sssecret", store.address))];
        bench.double.next(&path, Turn::Status(status, target, String::new()));
        store.next("/signed", Turn::Cut(80_000));
    }
    // A new address each time: after a break the registry is asked again, with what is at hand as the range's start.
    bench.pull("app:v1").await.unwrap();
    let ranges: Vec<String> = store.seen().into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges.len(), 5, "{ranges:?}");
    assert!(ranges[0].is_empty() && ranges[1..].iter().all(|range| range.starts_with("bytes=")), "{ranges:?}");
    bench.images.remove(&bench.double.name("app:v1")).await.unwrap();
    for _ in 0..11 {
        bench.double.next(&path, Turn::Status(302, vec![("location", path.clone())], String::new()));
    }
    let error = bench.pull("app:v1").await.unwrap_err().to_string();
    assert!(error.contains("more than 10 redirects"), "{error}");
    let target = vec![("location", format!("http://{}/signed?X-Signature=sssecret", store.address))];
    bench.double.next(&path, Turn::Status(302, target, String::new()));
    store.next("/signed", Turn::Status(403, Vec::new(), "{}".into()));
    let error = bench.pull("app:v1").await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("sssecret"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_leaves_bytes_that_the_next_one_takes_up() {
    let bench = bench().await;
    let image = big(50);
    bench.double.serve("app", "v1", &image);
    let blob = image.layers[0].digest().to_string();
    bench.double.next(&blob, Turn::Stall(200_000));
    let cancel = CancellationToken::new();
    let request = PullRequest { image: bench.double.name("app:v1"), ..PullRequest::default() };
    let (mut changes, partial) = (bench.images.pull_changes(), bench.root().join("partial"));
    let watching = async {
        while bench.images.pulls().first().is_none_or(|pull| pull.fetched == 0) {
            changes.changed().await.unwrap();
        }
        cancel.cancel();
    };
    let (pulled, ()) = tokio::join!(bench.images.pull(request, ProgressSink::none(), cancel.clone()), watching);
    assert!(matches!(pulled, Err(PullError::Cancelled { .. })), "{pulled:?}");
    bench.images.settle().await;
    let kept = std::fs::metadata(partial.join(image.layers[0].digest().hex())).unwrap().len();
    assert!(kept > 0 && bench.images.pulls().is_empty());
    bench.double.forget();
    bench.pull("app:v1").await.unwrap();
    let asked = bench.double.seen().into_iter().find(|seen| seen.path.contains(&blob)).unwrap();
    assert_eq!(asked.range, format!("bytes={kept}-"));
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_image_is_not_kept_waiting_by_a_huge_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = Options::new(directory.path().join("images"));
    (options.layers_at_once, options.layers_in_all) = (2, 3);
    let images = Images::open(options).await.unwrap();
    let double = Double::start().await;
    let huge: Vec<Layer> = (60..64).map(|seed| Layer::gzip(&tar_of(&[("f", &noise(500_000, seed))]))).collect();
    for layer in &huge {
        double.next(&layer.digest().to_string(), Turn::Stall(1000));
    }
    double.serve("huge", "v1", &Made::new(huge));
    double.serve("small", "v1", &small());
    let pull = |name: &str| {
        let request = PullRequest { image: double.name(name), ..PullRequest::default() };
        images.pull(request, ProgressSink::none(), CancellationToken::new())
    };
    let mut waiting = Box::pin(pull("huge:v1"));
    let (mut changes, mut both) = (images.pull_changes(), 0);
    while both < 2 {
        tokio::select! {
            pulled = &mut waiting => panic!("{pulled:?}"),
            changed = changes.changed() => changed.unwrap(),
        }
        both = double.most_under_way();
    }
    tokio::select! {
        pulled = &mut waiting => panic!("{pulled:?}"),
        pulled = pull("small:v1") => drop(pulled.unwrap()),
    }
    assert!(double.most_under_way() <= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_not_removed_while_it_is_pulled() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    let image = bench.pull("app:v1").await.unwrap();
    bench.double.next("HEAD /v2/app/manifests/v1", Turn::Hang);
    let again = bench.pull("app:v1");
    tokio::pin!(again);
    let mut changes = bench.images.pull_changes();
    tokio::select! {
        pulled = &mut again => panic!("{pulled:?}"),
        changed = changes.changed() => changed.unwrap(),
    }
    let error = bench.images.remove(&image.id).await.unwrap_err();
    assert!(matches!(error, images::RemoveError::BeingPulled { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_and_removals_at_once_never_break_an_image() {
    let bench = bench().await;
    bench.double.serve("app", "v1", &small());
    let name = bench.double.name("app:v1");
    let pulls = async {
        for _ in 0..1000 {
            let image = bench.pull("app:v1").await.unwrap();
            let hold = bench.images.hold(&image);
            if bench.images.resolve(&name).is_some() {
                assert!(bench.images.layers(&image)[0].join("etc/one").exists());
            }
            drop(hold);
        }
    };
    let removals = async {
        for _ in 0..1000 {
            match bench.images.remove(&name).await {
                Ok(()) | Err(images::RemoveError::NotFound { .. } | images::RemoveError::BeingPulled { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(pulls, removals);
}

/// A small file system of its own, gone with this value.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn new(directory: &Path, size: &str) -> Tmpfs {
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        rustix::mount::mount("tmpfs", directory, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())
            .unwrap();
        Tmpfs(directory.to_owned())
    }

    fn grow(&self, size: &str) {
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        rustix::mount::mount_remount(&self.0, rustix::mount::MountFlags::empty(), options.as_c_str()).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_pull_clearly_leaves_nothing_and_is_no_matter_later() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Tmpfs::new(directory.path(), "3m");
    let images = Images::open(Options::new(directory.path().join("images"))).await.unwrap();
    let double = Double::start().await;
    double.serve("small", "v1", &small());
    let layers = (70..73).map(|seed| Layer::gzip(&tar_of(&[("f", &noise(2_000_000, seed))])));
    double.serve("app", "v1", &Made::new(layers.collect()));
    let pull = |name: &str| {
        let request = PullRequest { image: double.name(name), ..PullRequest::default() };
        images.pull(request, ProgressSink::none(), CancellationToken::new())
    };
    pull("small:v1").await.unwrap();
    let error = pull("app:v1").await.unwrap_err();
    assert!(matches!(error, PullError::DiskFull { .. }) && error.class() == "disk", "{error:?}");
    assert!(error.to_string().starts_with("no space left on the file system of the image store while"), "{error}");
    images.settle().await;
    assert_eq!(images.list().len(), 1);
    let left = |part: &str| std::fs::read_dir(directory.path().join("images").join(part)).unwrap().count();
    assert!(left("layers") <= 2, "the small image's layer, and one that was whole");
    assert!(images.resolve(&double.name("small:v1")).is_some(), "what was there is whole");
    disk.grow("64m");
    let image = pull("app:v1").await.unwrap();
    assert!(images.layers(&image).iter().all(|layer| layer.join("f").metadata().unwrap().len() == 2_000_000));
    assert_eq!(left("partial"), 0);
    images.settle().await;
}

/// Makes a file or directory look as if it was written that long ago.
fn age(path: &Path, seconds: u64) {
    let then = std::time::SystemTime::now() - Duration::from_secs(seconds);
    std::fs::File::open(path).unwrap().set_modified(then).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_pull_has_left_goes_when_space_is_short_or_it_is_old() {
    const DAY: u64 = 24 * 60 * 60;
    let directory = tempfile::tempdir().unwrap();
    let _disk = Tmpfs::new(directory.path(), "16m");
    let images = Images::open(Options::new(directory.path().join("images"))).await.unwrap();
    let double = Double::start().await;
    let image = Made::new(vec![Layer::gzip(&tar_of(&[("f", &noise(100_000, 90))])), big(91).layers.remove(0)]);
    double.serve("app", "v1", &image);
    double.next(&image.layers[1].digest().to_string(), Turn::Stall(100_000));
    let at = |part: &str, name: &str| directory.path().join("images").join(part).join(name);
    let layer = at("layers", &image.layers[0].diff_id[7..]);
    let partial = at("partial", image.layers[1].digest().hex());
    let cancel = CancellationToken::new();
    let request = PullRequest { image: double.name("app:v1"), ..PullRequest::default() };
    let under_way = async {
        while !layer.exists() || std::fs::metadata(&partial).map_or(0, |file| file.len()) < 100_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let fill = directory.path().join("fill");
        std::fs::write(&fill, vec![1; 14 << 20]).unwrap();
        age(&layer, 2 * DAY);
        age(&partial, 2 * DAY);
        images.relieve().unwrap();
        assert!(layer.exists() && partial.exists(), "a pull needs them");
        cancel.cancel();
        fill
    };
    let (pulled, fill) = tokio::join!(images.pull(request, ProgressSink::none(), cancel.clone()), under_way);
    assert!(matches!(pulled, Err(PullError::Cancelled { .. })), "{pulled:?}");
    images.settle().await;

    age(&layer, 60);
    age(&partial, DAY / 2);
    images.relieve().unwrap();
    assert!(layer.exists() && partial.exists(), "the pull may just be made again");
    age(&layer, 600);
    images.relieve().unwrap();
    assert!(!layer.exists() && partial.exists(), "space is short");
    age(&partial, 2 * DAY);
    images.relieve().unwrap();
    assert!(!partial.exists(), "nobody has come for it");

    std::fs::remove_file(fill).unwrap();
    double.next(&image.layers[1].digest().to_string(), Turn::Corrupt);
    let pull = || {
        let request = PullRequest { image: double.name("app:v1"), ..PullRequest::default() };
        images.pull(request, ProgressSink::none(), CancellationToken::new())
    };
    pull().await.unwrap_err();
    pull().await.unwrap();
    images.settle().await;
    age(&layer, 2 * DAY);
    images.relieve().unwrap();
    assert!(layer.exists(), "an image has it");
    images.remove(&double.name("app:v1")).await.unwrap();
    assert_eq!(images.usage().bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_runs_out_in_the_middle_is_renewed_without_a_refusal() {
    let bench = bench().await;
    let layers = (80..84).map(|seed| Layer::gzip(&tar_of(&[("f", &noise(1000, seed))])));
    bench.double.serve("app", "v1", &Made::new(layers.collect()));
    let realm = format!("http://{}/token", bench.double.address);
    bench.double.login(Login::Bearer { realm, token: "t0k".into() });
    bench.double.put("/token", "application/json", br#"{"token":"t0k","expires_in":0}"#);
    bench.pull_as("app:v1", password("u", "p")).await.unwrap();
    let seen = bench.double.seen();
    assert!(bench.double.count("GET", "/token") >= 6, "a token for each request");
    let bare = seen.iter().filter(|seen| seen.path != "/token" && seen.authorization.is_empty()).count();
    assert_eq!(bare, 1, "only the first request meets a challenge");
}
