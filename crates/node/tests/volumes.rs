//! Volumes on a real file system with real mounts. Needs root.

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};
use node::{
    config::{Context, ResolvConf},
    object::Pod,
    volumes::{MountedVolume, Sources, SubPath, Volumes, bind_sub_path},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "this test makes real mounts and must run as root");
}

fn context(data_dir: &Path) -> Context {
    Context {
        node_name: "n1".into(),
        host_name: "host".into(),
        node_ips: vec!["10.0.0.1".parse().unwrap()],
        data_dir: data_dir.to_owned(),
        log_dir: data_dir.join("log"),
        cgroup_top: "/none".into(),
        cgroup_v2: false,
        resolv_conf: ResolvConf::default(),
        cluster_dns: vec![],
        cluster_domain: String::new(),
        cpu_milli: 1000,
        memory_bytes: 1 << 30,
        storage_bytes: 1 << 30,
        api_address: None,
        api_address_of_host: None,
    }
}

/// An API with one Secret and one ConfigMap, whose value is what the cell holds; everything else is not found.
fn volumes(data_dir: &Path, value: Arc<Mutex<String>>) -> Volumes {
    let secret =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "data": { "key": "djE=" } });
    let map = move || {
        let value = value.lock().unwrap().clone();
        Json(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "a": value } }))
    };
    let router = Router::new()
        .route("/api/v1/namespaces/ns/secrets/s", get(|| async move { Json(secret) }))
        .route("/api/v1/namespaces/ns/configmaps/m", get(|| async move { map() }))
        .fallback(|| async {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": "not found", "code": 404 });
            (StatusCode::NOT_FOUND, Json(status)).into_response()
        });
    Volumes::new(Sources::new(kube::Client::new(router, "ns")), Arc::new(context(data_dir)))
}

fn pod(volumes: Value, group: Option<i64>) -> Pod {
    let mounts: Vec<Value> = volumes
        .as_array()
        .unwrap()
        .iter()
        .map(|v| json!({ "name": v["name"], "mountPath": format!("/{}", v["name"].as_str().unwrap()) }))
        .collect();
    serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "ns", "uid": "u1", "labels": { "app": "web" } },
        "spec": { "volumes": volumes, "containers": [{ "name": "c", "volumeMounts": mounts }],
            "securityContext": { "fsGroup": group } } }))
    .unwrap()
}

fn path(mounted: &node::volumes::Mounted, name: &str) -> PathBuf {
    match &mounted.volumes[name] {
        MountedVolume::Path { path, .. } => path.clone(),
        other => panic!("{other:?}"),
    }
}

fn mounts_below(directory: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.split(' ').nth(4).is_some_and(|p| Path::new(p).starts_with(directory))).count()
}

#[tokio::test]
async fn every_kind_of_volume_is_prepared_twice_and_torn_down_without_a_trace() {
    need_root();
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "1").unwrap();
    let value = Arc::new(Mutex::new("one".to_owned()));
    let volumes = volumes(directory.path(), value.clone());
    let pod = pod(
        json!([
            { "name": "disk", "emptyDir": {} },
            { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "secret", "secret": { "secretName": "s", "defaultMode": 0o400 } },
            { "name": "map", "configMap": { "name": "m", "items": [{ "key": "a", "path": "deep/a" }] } },
            { "name": "down", "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
            { "name": "all", "projected": { "sources": [{ "secret": { "name": "s" } }, { "configMap": { "name": "m" } }] } },
            { "name": "host", "hostPath": { "path": outside, "type": "Directory" } } ]),
        Some(1234),
    );
    for _ in 0..2 {
        let mounted = volumes.prepare(&pod).await.unwrap();
        let read = |volume: &str, file: &str| fs::read_to_string(path(&mounted, volume).join(file)).unwrap();
        assert_eq!(read("secret", "key"), "v1");
        assert_eq!(read("map", "deep/a"), "one");
        assert_eq!(read("down", "labels"), "app=\"web\"");
        assert_eq!((read("all", "key"), read("all", "a")), ("v1".into(), "one".into()));
        let of = |volume: &str, file: &str| fs::metadata(path(&mounted, volume).join(file)).unwrap();
        assert_eq!((of("disk", ".").mode() & 0o7777, of("disk", ".").gid()), (0o2777, 1234));
        assert_eq!((of("secret", "key").permissions().mode() & 0o777, of("secret", "key").gid()), (0o440, 1234));
        assert_eq!(path(&mounted, "host"), outside);
        assert_eq!(mounts_below(&directory.path().join("pods/u1")), 4, "memory, secret, downward API, projected");
        let too_much = fs::write(path(&mounted, "memory").join("big"), vec![1; 2 << 20]);
        assert_eq!(too_much.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }
    *value.lock().unwrap() = "two".to_owned();
    let mounted = volumes.prepare(&pod).await.unwrap();
    assert_eq!(fs::read_to_string(path(&mounted, "map").join("deep/a")).unwrap(), "two");

    let disk = path(&mounted, "disk");
    fs::create_dir(disk.join("logs")).unwrap();
    fs::write(disk.join("logs/a"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, disk.join("out")).unwrap();
    let pod_directory = directory.path().join("pods/u1");
    let bind = |sub_path: &str, index| {
        bind_sub_path(&SubPath {
            pod_directory: &pod_directory,
            volume: "disk",
            volume_path: &disk,
            container: "c",
            index,
            sub_path,
            read_only: false,
        })
    };
    assert_eq!(fs::read_to_string(bind("logs", 0).unwrap().join("a")).unwrap(), "x");
    assert_eq!(fs::read_to_string(bind("logs/a", 1).unwrap()).unwrap(), "x");
    assert_eq!(fs::read_to_string(bind("logs", 0).unwrap().join("a")).unwrap(), "x", "a bind is replaced");
    assert!(bind("out", 2).is_err(), "a symlink out of the volume is refused");

    volumes.tear_down("u1").await.unwrap();
    assert_eq!(mounts_below(directory.path()), 0);
    assert!(!pod_directory.exists());
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "1");
    volumes.tear_down("u1").await.unwrap();
}

#[tokio::test]
async fn a_missing_object_fails_its_volume_in_kubernetes_words_and_no_other() {
    need_root();
    let directory = tempfile::tempdir().unwrap();
    let volumes = volumes(directory.path(), Arc::default());
    let pod = pod(
        json!([{ "name": "x", "configMap": { "name": "y" } }, { "name": "z", "secret": { "secretName": "s" } },
            { "name": "o", "secret": { "secretName": "none", "optional": true } }]),
        None,
    );
    let error = volumes.prepare(&pod).await.unwrap_err();
    let messages: Vec<_> = error.failures.iter().map(ToString::to_string).collect();
    assert_eq!(messages, ["MountVolume.SetUp failed for volume \"x\" : configmap \"y\" not found"]);
    assert!(directory.path().join("pods/u1/volumes/kubernetes.io~secret/z/key").exists());
    volumes.tear_down("u1").await.unwrap();
    assert_eq!(mounts_below(directory.path()), 0);
    assert!(volumes.tear_down("../x").await.is_err());
}

/// An API that gives tokens of the account `robot`, counted, which live for `life_seconds`; after `tokens_max` it refuses.
fn issuing(data_dir: &Path, life_seconds: i64, tokens_max: usize) -> (Volumes, Arc<Mutex<Vec<Value>>>) {
    let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
    let noted = asked.clone();
    let issue = move |Json(request): Json<Value>| async move {
        let mut noted = noted.lock().unwrap();
        noted.push(request.clone());
        if noted.len() > tokens_max {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden",
                "message": "no more tokens", "code": 403 });
            return (StatusCode::FORBIDDEN, Json(status)).into_response();
        }
        let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(life_seconds);
        let status = json!({ "token": format!("token-{}", noted.len()), "expirationTimestamp": ends.to_string() });
        Json(json!({ "spec": request["spec"], "status": status })).into_response()
    };
    let path = "/api/v1/namespaces/ns/serviceaccounts/robot/token";
    let router = Router::new().route(path, axum::routing::post(issue));
    (Volumes::new(Sources::new(kube::Client::new(router, "ns")), Arc::new(context(data_dir))), asked)
}

fn pod_of_account(security: Value) -> Pod {
    let token = json!({ "path": "token", "audience": "vault", "expirationSeconds": 3600 });
    serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "ns", "uid": "u1" },
        "spec": { "serviceAccountName": "robot", "securityContext": security,
            "volumes": [{ "name": "t", "projected": { "defaultMode": 0o644, "sources": [{ "serviceAccountToken": token }] } }],
            "containers": [{ "name": "c", "volumeMounts": [{ "name": "t", "mountPath": "/t" }] }] } }))
    .unwrap()
}

#[tokio::test]
async fn a_token_is_bound_to_the_pod_and_asked_for_again_only_when_it_ages() {
    need_root();
    let directory = tempfile::tempdir().unwrap();
    let (volumes, asked) = issuing(directory.path(), 3600, usize::MAX);
    let pod = pod_of_account(json!({}));
    for _ in 0..3 {
        let mounted = volumes.prepare(&pod).await.unwrap();
        let file = path(&mounted, "t").join("token");
        assert_eq!(fs::read_to_string(&file).unwrap(), "token-1");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    }
    let request = asked.lock().unwrap()[0]["spec"].clone();
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert_eq!((&request["audiences"], &request["expirationSeconds"]), (&json!(["vault"]), &json!(3600)));
    let bound = json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u1" });
    assert_eq!(request["boundObjectRef"], bound);
    volumes.tear_down("u1").await.unwrap();
    volumes.prepare(&pod).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 2, "a torn down pod's token is forgotten");
    volumes.tear_down("u1").await.unwrap();
}

#[tokio::test]
async fn a_token_is_private_where_the_pod_has_one_user_and_a_refusal_is_told() {
    need_root();
    let directory = tempfile::tempdir().unwrap();
    let (volumes, _) = issuing(directory.path(), 3600, 1);
    for (security, owner) in [(json!({ "runAsUser": 1000 }), 1000), (json!({ "fsGroup": 2000 }), 0)] {
        let mounted = volumes.prepare(&pod_of_account(security)).await.unwrap();
        let metadata = fs::metadata(path(&mounted, "t").join("token")).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o707, metadata.uid()), (0o600, owner));
    }
    volumes.tear_down("u1").await.unwrap();
    let refused = volumes.prepare(&pod_of_account(json!({}))).await.unwrap_err().to_string();
    assert!(refused.contains("failed to fetch token") && refused.contains("no more tokens"), "{refused}");
    volumes.tear_down("u1").await.unwrap();
}
