//! Planted credentials are looked for in all that the rooms of credentials and records say, at every level.

use axum::{Json, Router, extract::Path as UrlPath, routing::get};
use cri::v1;
use node::{
    credentials::{Credentials, Options, Places, Source, Try, plugin},
    object::Pod,
    pod::clock::Clock,
    records::{Records, Rules},
    volumes::Sources,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

const CANARY: &str = "s3cr3t-canary";

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Good, broken and misplaced secrets, all with the canary.
fn secret(name: &str) -> Value {
    let text = match name {
        "good" => {
            format!(r#"{{"auths":{{"r.io":{{"username":"u","password":"{CANARY}","identitytoken":"{CANARY}"}}}}}}"#)
        }
        "entry" => format!(r#"{{"auths":{{"u:{CANARY}@r.io":{{"auth":"!{CANARY}"}}}}}}"#),
        _ => format!("{{{CANARY}"),
    };
    let data = k8s_openapi::ByteString(text.into_bytes());
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}")}, "data": {".dockerconfigjson": data}})
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn plugins(root: &Path) -> plugin::Files {
    let bin_dir = root.join("bin");
    fs::create_dir(&bin_dir).unwrap();
    let head = r#""kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1""#;
    let auth = format!(r#""auth":{{"r.io":{{"username":"p","password":"{CANARY}"}}}}"#);
    script(&bin_dir.join("good"), &format!("echo '{{{head},\"cacheKeyType\":\"Image\",{auth}}}'"));
    script(&bin_dir.join("strange"), &format!("echo '{{{head},\"cacheKeyType\":\"{CANARY}\",{auth}}}'"));
    script(&bin_dir.join("unreadable"), &format!("echo '{{{head},{auth}'"));
    script(&bin_dir.join("fails"), "echo \"no luck with $KEY\" >&2; echo $KEY; exit 1");
    let provider = |name: &str| {
        json!({"name": name, "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "matchImages": ["r.io"], "defaultCacheDuration": "0s", "env": [{"name": "KEY", "value": CANARY}]})
    };
    let providers: Vec<Value> = ["good", "strange", "unreadable", "fails"].map(provider).into();
    let config =
        json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": providers});
    fs::write(root.join("plugins.json"), config.to_string()).unwrap();
    plugin::Files { config: root.join("plugins.json"), bin_dir }
}

#[tokio::test]
async fn no_credential_is_said_logged_or_recorded() {
    let log = Log::default();
    let to = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || to.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = format!(
        r#"{{"auths":{{"r.io":{{"registrytoken":"{CANARY}"}},"s.io":{{"auth":"{CANARY}"}}}},"HttpHeaders":{{"X-Team":"{CANARY}"}}}}"#
    );
    fs::write(directory.path().join("config.json"), file).unwrap();
    let find = get(|UrlPath(name): UrlPath<String>| async move { Json(secret(&name)) });
    let router = Router::new().route("/api/v1/namespaces/ns/secrets/{name}", find);
    let places = Places { roots: vec![directory.path().to_owned()], ..Places::default() };
    let options = Options { plugins: Some(plugins(directory.path())), ..Options::default() };
    let sources = Sources::new(kube::Client::new(router, "ns"));
    let credentials = Credentials::open(sources, places, options).unwrap();
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"imagePullSecrets": [{"name": "good"}, {"name": "entry"}, {"name": "broken"}]}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let lookup = credentials.for_image(&pod, "r.io/app:1").await;
    assert_eq!((lookup.tries.len(), lookup.problems.len()), (3, 6), "{:?}", lookup.problems);
    let held = lookup
        .tries
        .iter()
        .filter_map(|one| one.auth.as_ref())
        .filter(|auth| format!("{}{}", auth.password, auth.registry_token).contains(CANARY));
    assert_eq!(held.count(), 3, "the search looks for something that is there");

    let place = directory.path().join("image_manager");
    let records = Records::open(&place, Rules::default(), Clock::System).unwrap();
    let mut said = format!("{credentials:?} {lookup:?} {records:?}");
    for one in &lookup.tries {
        let intended = records.intent("r.io/app:1").await.unwrap();
        said += &format!("{intended:?} {one:?}");
        records.pulled("r.io/app:1", "sha256:1", one).await.unwrap();
        records.ended(intended).await;
        said += &format!("{:?}", records.must_pull("r.io/app:1", "sha256:1", &lookup).await);
    }
    fs::remove_dir_all(place.join("pulled")).unwrap();
    let auth = v1::AuthConfig { username: "u".into(), password: CANARY.into(), ..Default::default() };
    let source = Source::Secret { uid: "u".into(), namespace: "ns".into(), name: "n".into() };
    let one = Try { auth: Some(auth), source, ..Try::anonymous() };
    said += &format!("{:?}", records.pulled("r.io/app:2", "sha256:2", &one).await.unwrap_err());
    assert!(!said.contains(CANARY), "{said}");
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!logged.contains(CANARY), "{logged}");
    for entry in walk(&place) {
        let text = String::from_utf8_lossy(&fs::read(&entry).unwrap()).into_owned();
        assert!(!text.contains(CANARY), "{}: {text}", entry.display());
    }
}

fn walk(place: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
