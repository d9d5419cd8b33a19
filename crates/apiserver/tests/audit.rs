//! The audit log as its reader sees it, with kubectl on the other side.
#![allow(missing_docs)]

mod cluster;
mod pki;

use std::path::PathBuf;

use apiserver::AuditLog;
use cluster::{Cluster, cluster_with};
use serde_json::{Value, json};

/// Base64 of what no line may say.
const HIDDEN: &str = "Y2FuYXJ5LWF1ZGl0";
const TOKEN: &str = "canary-token-41c7";

async fn audited(path: PathBuf, bytes_max: u64) -> Cluster {
    cluster_with(|options| {
        options.audit_log = Some(AuditLog { path, bytes_max, backups_max: 3 });
        let user = apiserver::UserInfo::new("tom", &["dev"]);
        options.tokens = vec![apiserver::StaticToken { token: TOKEN.to_owned(), user }];
    })
    .await
}

fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn find<'a>(events: &'a [Value], what: &str, is: impl Fn(&Value) -> bool) -> &'a Value {
    events.iter().find(|event| is(event)).unwrap_or_else(|| panic!("no event of {what}: {events:#?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_one_event_of_upstreams_form_without_body_and_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let cluster = audited(path.clone(), 100 << 20).await;
    let manifest = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": HIDDEN}});
    let file = cluster.file("secret.json", &manifest.to_string());
    cluster.ok(&["create", "-f", &file]).await;
    cluster.ok(&["get", "secret", "s", "-o", "yaml"]).await;
    let bad = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Bad Name"}, "data": {"k": HIDDEN}});
    let file = cluster.file("bad.json", &bad.to_string());
    cluster.fails(&["create", "-f", &file]).await;
    cluster.fails(&["get", "pods", "--as", "ann", "--as-group", "dev"]).await;
    let (_, said) = cluster.anonymous(&["get", "pods", "--token", TOKEN]).await;
    assert!(said.contains("tom"), "{said}");
    cluster.anonymous(&["get", "pods", "--token", "wrong-canary-token"]).await;
    cluster.run(&["get", "configmaps", "--watch-only", "--request-timeout", "5s"]).await;
    cluster.end().await;

    let text = std::fs::read_to_string(&path).unwrap();
    for word in [HIDDEN, TOKEN, "canary"] {
        assert!(!text.contains(word), "{word}");
    }
    let events = events(&text);
    let made = find(&events, "the secret's creation", |event| {
        event["verb"] == "create"
            && event["objectRef"]["resource"] == "secrets"
            && event["user"]["username"] == "kubernetes-admin"
    });
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
    assert_eq!((&made["level"], &made["stage"]), (&json!("Metadata"), &json!("ResponseComplete")));
    let object = &made["objectRef"];
    assert_eq!(
        (&object["namespace"], &object["name"], &object["apiVersion"]),
        (&json!("default"), &json!("s"), &json!("v1"))
    );
    assert_eq!(object["uid"].as_str().unwrap().len(), 36);
    assert!(made["requestURI"].as_str().unwrap().starts_with("/api/v1/namespaces/default/secrets"));
    assert_eq!((&made["sourceIPs"], &made["responseStatus"]["code"]), (&json!(["127.0.0.1"]), &json!(201)));
    assert!(made["userAgent"].as_str().unwrap().starts_with("kubectl/"));
    assert!(made["user"]["groups"].as_array().unwrap().contains(&json!("system:masters")));
    assert!(made["requestReceivedTimestamp"].as_str().unwrap() <= made["stageTimestamp"].as_str().unwrap());
    assert!(made["requestReceivedTimestamp"].as_str().unwrap().ends_with('Z'));
    let read = find(&events, "the read", |e| e["verb"] == "get" && e["objectRef"]["resource"] == "secrets");
    assert_ne!(read["auditID"], made["auditID"]);
    let refused = find(&events, "the refusal", |event| event["responseStatus"]["code"] == 422);
    assert_eq!(
        (&refused["responseStatus"]["reason"], &refused["responseStatus"]["message"]),
        (&json!("Invalid"), &Value::Null)
    );
    let as_ann = find(&events, "ann", |event| event["impersonatedUser"]["username"] == "ann");
    assert_eq!(
        (&as_ann["user"]["username"], &as_ann["responseStatus"]["code"]),
        (&json!("kubernetes-admin"), &json!(403))
    );
    assert_eq!(
        (&as_ann["responseStatus"]["reason"], &as_ann["responseStatus"]["status"]),
        (&json!("Forbidden"), &json!("Failure"))
    );
    find(&events, "tom", |event| event["user"]["username"] == "tom" && event["responseStatus"]["code"] == 403);
    let nobody = find(&events, "nobody", |event| event["responseStatus"]["code"] == 401);
    assert_eq!(nobody["user"], json!({}));
    let watches: Vec<&Value> = events.iter().filter(|event| event["verb"] == "watch").collect();
    let stages: Vec<&str> = watches.iter().map(|event| event["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
    assert_eq!(watches[0]["auditID"], watches[1]["auditID"]);
    assert!(watches[0]["stageTimestamp"].as_str().unwrap() < watches[1]["stageTimestamp"].as_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_does_not_stop_the_api() {
    let cluster = audited("/dev/full".into(), 100 << 20).await;
    for _ in 0..3 {
        cluster.ok(&["get", "namespaces"]).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_log_has_whole_lines_in_each_of_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = audited(dir.path().join("audit.log"), 1500).await;
    for _ in 0..4 {
        cluster.ok(&["get", "namespaces"]).await;
    }
    cluster.end().await;
    let files: Vec<PathBuf> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!((2..=4).contains(&files.len()), "{files:?}");
    for file in files {
        assert!(file.metadata().unwrap().len() <= 1500, "{}", file.display());
        assert!(!events(&std::fs::read_to_string(&file).unwrap()).is_empty());
    }
}
