//! Looking up credentials against an API in miniature and files of its own.

use super::*;
use axum::{Json, Router, extract::Path as UrlPath, http::StatusCode, response::IntoResponse, routing::get};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, io::Write as _, path::Path, sync::Mutex, time::Duration};

const CANARY: &str = "s3cr3t-canary";

type Objects = Arc<Mutex<BTreeMap<String, Value>>>;

/// Secrets by name; everything else is not found.
fn api(objects: &Objects) -> Sources {
    let objects = objects.clone();
    let find = move |UrlPath((_, name)): UrlPath<(String, String)>| {
        let found = objects.lock().unwrap().get(&name).cloned();
        async move {
            match found {
                Some(object) => Json(object).into_response(),
                None => missing().await,
            }
        }
    };
    let router = Router::new().route("/api/v1/namespaces/{namespace}/secrets/{name}", get(find)).fallback(missing);
    Sources::new(kube::Client::new(router, "ns"))
}

async fn missing() -> axum::response::Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
        "message": "not found", "code": 404});
    (StatusCode::NOT_FOUND, Json(status)).into_response()
}

fn secret(name: &str, kind: &str, key: &str, text: &str) -> (String, Value) {
    let data = k8s_openapi::ByteString(text.as_bytes().to_vec());
    let object = json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "data": {key: data},
        "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}")}});
    (name.to_owned(), object)
}

fn config_json(name: &str, auths: &str) -> (String, Value) {
    secret(name, "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &format!(r#"{{"auths":{auths}}}"#))
}

fn pod(secrets: &[&str]) -> Pod {
    let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"imagePullSecrets": secrets}});
    serde_json::from_value(pod).unwrap()
}

fn places(root: &Path) -> Places {
    Places { roots: vec![root.to_owned()], ..Places::default() }
}

fn users(lookup: &Lookup) -> Vec<&str> {
    lookup.tries.iter().map(|t| t.auth.as_ref().map_or("-", |auth| auth.username.as_str())).collect()
}

fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = fs::File::create(path).unwrap();
    write!(file, "#!/bin/sh\n{text}\n").unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn secrets_of_the_pods_namespace_and_the_nodes_file_are_merged_in_order() {
    let objects: Objects = Arc::default();
    objects.lock().unwrap().extend([
        config_json("one", r#"{"r.io":{"username":"one","password":"p"}}"#),
        config_json(
            "two",
            r#"{"r.io/team":{"username":"two","password":"p"},"r.io":{"username":"same","password":"p"}}"#,
        ),
        secret("old", "kubernetes.io/dockercfg", ".dockercfg", r#"{"r.io":{"username":"old","password":"p"}}"#),
        secret("opaque", "Opaque", ".dockerconfigjson", r#"{"auths":{"r.io":{"username":"no","password":"p"}}}"#),
        secret("empty", "kubernetes.io/dockercfg", ".dockercfg", ""),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let file = r#"{"auths":{"r.io":{"username":"same","password":"p"},"*.io":{"username":"file","password":"p"}},"HttpHeaders":{"X-Team":"a"}}"#;
    fs::write(directory.path().join("config.json"), file).unwrap();
    let credentials = Credentials::new(api(&objects), places(directory.path()));
    let lookup =
        credentials.for_image(&pod(&["one", "", "two", "old", "opaque", "empty", "one"]), "r.io/team/app:1").await;
    assert_eq!(users(&lookup), ["two", "one", "same", "old", "file"]);
    assert_eq!(lookup.problems, Vec::<String>::new());
    assert_eq!(lookup.warning(), None);
    let header = [("X-Team".to_owned(), "a".to_owned())];
    assert!(
        lookup.tries[1].headers.is_empty() && lookup.tries[2].headers == header && lookup.tries[4].headers == header
    );
    let two = Source::Secret { uid: "u-two".into(), namespace: "ns".into(), name: "two".into() };
    assert_eq!((&lookup.tries[0].source, &lookup.tries[4].source), (&two, &Source::NodeFile));
    assert_eq!(lookup.tries[2].also, [Source::NodeFile]);
    let other = credentials.for_image(&pod(&["one"]), "other.org/app").await;
    assert_eq!(other.tries, [Try::anonymous()]);
    assert_eq!(credentials.for_image(&pod(&[]), "NO SUCH NAME").await.tries, [Try::anonymous()]);
}

#[tokio::test]
async fn missing_secrets_are_named_in_one_warning_and_the_rest_is_used() {
    let objects: Objects = Arc::default();
    objects.lock().unwrap().extend([config_json("good", r#"{"r.io":{"username":"u","password":"p"}}"#)]);
    let directory = tempfile::tempdir().unwrap();
    let credentials = Credentials::new(api(&objects), places(directory.path()));
    let lookup = credentials.for_image(&pod(&["gone", "good", "away"]), "r.io/app").await;
    assert_eq!(users(&lookup), ["u"]);
    let text = "Unable to retrieve some image pull secrets (gone, away); attempting to pull the image may not succeed.";
    assert_eq!(lookup.warning(), Some(("FailedToRetrieveImagePullSecret", text.to_owned())));
}

#[tokio::test]
async fn one_bad_secret_or_entry_does_not_spoil_the_others() {
    let objects: Objects = Arc::default();
    objects.lock().unwrap().extend([
        secret("broken", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &format!("{{{CANARY}")),
        config_json(
            "bad",
            &format!(r#"{{"r.io":{{"auth":"!!{CANARY}"}},"r.io/app":{{"username":"good","password":"p"}}}}"#),
        ),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let credentials = Credentials::new(api(&objects), places(directory.path()));
    let lookup = credentials.for_image(&pod(&["broken", "bad"]), "r.io/app").await;
    assert_eq!(users(&lookup), ["good"]);
    assert_eq!(lookup.problems.len(), 2);
    assert!(lookup.problems[0].starts_with("secret broken: is not valid JSON"), "{:?}", lookup.problems);
    assert!(!format!("{lookup:?}").contains(CANARY));
}

#[tokio::test]
async fn edits_of_the_nodes_file_take_effect_at_once_and_headers_can_be_left_out() {
    let objects: Objects = Arc::default();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let write = |user: &str| {
        let text =
            format!(r#"{{"auths":{{"r.io":{{"username":"{user}","password":"p"}}}},"HttpHeaders":{{"A":"b"}}}}"#);
        fs::write(&file, text).unwrap();
    };
    let options = Options { headers_ignored: true, ..Options::default() };
    let credentials = Credentials::open(api(&objects), places(directory.path()), options).unwrap();
    for user in ["first", "second"] {
        write(user);
        let lookup = credentials.for_image(&pod(&[]), "r.io/app").await;
        assert_eq!((users(&lookup), lookup.tries[0].headers.len()), (vec![user], 0));
    }
}

#[tokio::test]
async fn docker_hubs_legacy_key_serves_short_names() {
    let objects: Objects = Arc::default();
    let hub = r#"{"https://index.docker.io/v1/":{"username":"hub","password":"p"},"docker.io/team":{"username":"team","password":"p"}}"#;
    objects.lock().unwrap().extend([config_json("hub", hub)]);
    let directory = tempfile::tempdir().unwrap();
    let credentials = Credentials::new(api(&objects), places(directory.path()));
    for (image, user) in [("nginx", "hub"), ("user/x", "hub"), ("team/x", "team"), ("quay.io/x", "-")] {
        assert_eq!(users(&credentials.for_image(&pod(&["hub"]), image).await), [user], "{image}");
    }
}

#[tokio::test]
async fn credential_helpers_run_only_when_that_is_allowed() {
    let objects: Objects = Arc::default();
    let directory = tempfile::tempdir().unwrap();
    let name = format!("sampan-test-{}", std::process::id());
    // A name in PATH is what Docker's protocol wants; the test's own goes to a directory that is in it.
    let program = Path::new("/usr/local/bin").join(format!("docker-credential-{name}"));
    script(
        &program,
        r#"read server; [ "$server" = r.io ] || { echo "credentials not found in native keychain"; exit 1; }
        echo "{\"ServerURL\":\"$server\",\"Username\":\"<token>\",\"Secret\":\"refresh\"}""#,
    );
    let file = format!(r#"{{"auths":{{"r.io":{{}}}},"credsStore":"{name}"}}"#);
    fs::write(directory.path().join("config.json"), file).unwrap();
    let found = |helpers_allowed, image| {
        let options = Options { helpers_allowed, ..Options::default() };
        let credentials = Credentials::open(api(&objects), places(directory.path()), options).unwrap();
        async move { credentials.for_image(&pod(&[]), image).await }
    };
    let (allowed, absent, forbidden) =
        (found(true, "r.io/x").await, found(true, "s.io/x").await, found(false, "r.io/x").await);
    fs::remove_file(&program).unwrap();
    assert_eq!(allowed.tries[0].auth.as_ref().map(|auth| auth.identity_token.as_str()), Some("refresh"));
    assert_eq!(allowed.tries[0].source, Source::NodeFile);
    assert_eq!((absent.tries.as_slice(), absent.problems.len()), (&[Try::anonymous()][..], 0));
    assert_eq!(forbidden.tries[0].auth, Some(cri::v1::AuthConfig::default()));
    let broken = found(true, "r.io/x").await;
    assert!(broken.problems[0].contains("cannot be started"), "{:?}", broken.problems);
}

#[tokio::test]
async fn a_plugins_answer_comes_last_and_its_fault_stops_nothing() {
    let objects: Objects = Arc::default();
    objects.lock().unwrap().extend([config_json("own", r#"{"r.io":{"username":"own","password":"p"}}"#)]);
    let directory = tempfile::tempdir().unwrap();
    let bin_dir = directory.path().join("bin");
    fs::create_dir(&bin_dir).unwrap();
    script(
        &bin_dir.join("good"),
        r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","auth":{"r.io":{"username":"plugin","password":"p"}}}'"#,
    );
    script(&bin_dir.join("bad"), "echo no luck >&2; exit 1");
    let provider = |name: &str| {
        json!({"name": name, "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "matchImages": ["r.io"], "defaultCacheDuration": "0s"})
    };
    let config = json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
        "providers": [provider("bad"), provider("good")]});
    fs::write(directory.path().join("plugins.json"), config.to_string()).unwrap();
    let files = plugin::Files { config: directory.path().join("plugins.json"), bin_dir };
    let options = Options { plugins: Some(files), ..Options::default() };
    let credentials = Credentials::open(api(&objects), places(directory.path()), options).unwrap();
    let lookup = credentials.for_image(&pod(&["own"]), "r.io/app").await;
    assert_eq!(users(&lookup), ["own", "plugin"]);
    assert_eq!(lookup.tries[1].source, Source::Plugin { service_account: None });
    assert_eq!(lookup.problems.len(), 1);
    assert!(
        lookup.problems[0].contains("plugin bad") && lookup.problems[0].contains("no luck"),
        "{:?}",
        lookup.problems
    );
}

/// Waits for the next change, with a limit that only a broken watch reaches.
async fn next(changes: &mut broadcast::Receiver<Change>) -> Change {
    tokio::time::timeout(Duration::from_secs(60), changes.recv()).await.expect("a change in time").unwrap()
}

#[tokio::test]
async fn creation_edit_and_removal_of_files_are_told_and_a_touch_is_not() {
    let objects: Objects = Arc::default();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // In one step, so that no look falls between the making of a file and its contents.
    let put = |path: &Path, text: &str| {
        fs::write(at("beside"), text).unwrap();
        fs::rename(at("beside"), path).unwrap();
    };
    for name in ["root", "bin", "etc"] {
        fs::create_dir(at(name)).unwrap();
    }
    script(&at("bin/p"), "exit 1");
    let config = at("plugins.yaml");
    let provider = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- {name: p, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [r.io], defaultCacheDuration: 0s}\n";
    put(&config, provider);
    let (mirrors, file) = (at("etc/certs.d"), at("root/config.json"));
    let options = Options {
        plugins: Some(plugin::Files { config: config.clone(), bin_dir: at("bin") }),
        mirrors: vec![mirrors.clone()],
        ..Options::default()
    };
    let credentials = Credentials::open(api(&objects), places(&at("root")), options).unwrap();
    let mut changes = credentials.changes();
    let mut watch = tokio::task::JoinSet::new();
    watch.spawn(credentials.clone().watch());
    // A change before the first look is none: so the file is made again until it is told.
    for count in 0.. {
        put(&file, &format!(r#"{{"count":{count}}}"#));
        if let Ok(told) = tokio::time::timeout(Duration::from_millis(200), changes.recv()).await {
            assert_eq!(told.unwrap(), Change::NodeFiles);
            break;
        }
    }
    // Whatever is still to be told of that file is told before this.
    fs::create_dir(&mirrors).unwrap();
    while next(&mut changes).await == Change::NodeFiles {}
    put(&file, &fs::read_to_string(&file).unwrap());
    fs::create_dir(mirrors.join("r.io")).unwrap();
    assert_eq!(next(&mut changes).await, Change::Mirrors, "the same contents again are no change");
    put(&mirrors.join("r.io/hosts.toml"), "server = \"https://r.io\"");
    assert_eq!(next(&mut changes).await, Change::Mirrors);
    put(&config, &provider.replace("matchImages: [r.io]", "matchImages: [s.io]"));
    assert_eq!(next(&mut changes).await, Change::Plugin);
    let problems = |image: &'static str| {
        let credentials = credentials.clone();
        async move { credentials.for_image(&pod(&[]), image).await.problems.len() }
    };
    assert_eq!((problems("r.io/x").await, problems("s.io/x").await), (0, 1), "the new configuration is in force");
    put(&config, "kind: [");
    assert_eq!(next(&mut changes).await, Change::Plugin);
    assert_eq!(problems("s.io/x").await, 1, "a bad configuration changes nothing");
    fs::remove_file(&file).unwrap();
    assert_eq!(next(&mut changes).await, Change::NodeFiles);
}
