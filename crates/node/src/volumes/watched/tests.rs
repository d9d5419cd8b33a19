//! Watches against an API in miniature that lists and streams one Secret at a time.

use super::*;
use crate::volumes::Sources;
use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    http::StatusCode,
    response::IntoResponse,
    routing::get,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;

/// Secrets by name, and how many watches are open.
#[derive(Clone)]
struct Server {
    secrets: watch::Sender<BTreeMap<String, Value>>,
    open: watch::Sender<usize>,
    gets: watch::Sender<usize>,
}

/// Counts a stream for as long as it lives.
struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Server {
    fn new() -> Server {
        Server { secrets: watch::Sender::default(), open: watch::Sender::new(0), gets: watch::Sender::new(0) }
    }

    fn sources(&self) -> Sources {
        let router = Router::new()
            .route("/api/v1/namespaces/ns/secrets", get(list))
            .route("/api/v1/namespaces/ns/secrets/{name}", get(one))
            .with_state(self.clone());
        Sources::new(kube::Client::new(router, "ns"))
    }

    fn put(&self, name: &str, value: &str) {
        let version = self.secrets.borrow().len() + value.len() + 1;
        let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "t", "metadata": {"name": name, "namespace": "ns",
            "uid": "u", "resourceVersion": version.to_string()}, "data": {"k": k8s_openapi::ByteString(value.into())}});
        self.secrets.send_modify(|all| drop(all.insert(name.to_owned(), object)));
    }

    async fn watches(&self, wanted: usize) {
        let mut open = self.open.subscribe();
        let reached = open.wait_for(|count| *count == wanted);
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("watches in time").unwrap();
    }
}

async fn one(
    State(server): State<Server>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> axum::response::Response {
    server.gets.send_modify(|count| *count += 1);
    match server.secrets.borrow().get(&name) {
        Some(secret) => Json(secret.clone()).into_response(),
        None => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": "not found", "code": 404});
            (StatusCode::NOT_FOUND, Json(status)).into_response()
        }
    }
}

async fn list(State(server): State<Server>, Query(query): Query<BTreeMap<String, String>>) -> axum::response::Response {
    let name = query["fieldSelector"].strip_prefix("metadata.name=").expect("one Secret by name").to_owned();
    if !query.contains_key("watch") {
        let items: Vec<Value> = server.secrets.borrow().get(&name).cloned().into_iter().collect();
        let list =
            json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
        return Json(list).into_response();
    }
    server.open.send_modify(|count| *count += 1);
    let open = Open(server.open.clone());
    // From here on: what differs from the moment of the list, in which a test of order would be interested.
    let mut changes = server.secrets.subscribe();
    let before = changes.borrow_and_update().get(&name).cloned();
    let state = (changes, before, name, open);
    let stream = futures_util::stream::unfold(state, |(mut changes, before, name, open)| async move {
        loop {
            changes.changed().await.ok()?;
            let now = changes.borrow_and_update().get(&name).cloned();
            let event = match (&before, &now) {
                (a, b) if a == b => continue,
                (None, Some(object)) => json!({"type": "ADDED", "object": object}),
                (Some(_), Some(object)) => json!({"type": "MODIFIED", "object": object}),
                (Some(object), None) => json!({"type": "DELETED", "object": object}),
                (None, None) => continue,
            };
            let line = Ok::<_, std::io::Error>(format!("{event}\n"));
            return Some((line, (changes, now, name, open)));
        }
    });
    Body::from_stream(stream).into_response()
}

async fn told(changes: &mut broadcast::Receiver<Name>) -> Name {
    tokio::time::timeout(Duration::from_secs(60), changes.recv()).await.expect("a change in time").unwrap()
}

fn value(secret: Option<Secret>) -> Option<String> {
    secret.map(|secret| String::from_utf8(secret.data["k"].0.clone()).unwrap())
}

#[tokio::test]
async fn a_secret_is_watched_while_a_pod_refers_to_it() {
    let server = Server::new();
    server.put("s", "1");
    let sources = server.sources();
    let mut tasks = JoinSet::new();
    tasks.spawn(sources.clone().watch_secrets());
    sources.refer("pod-a", "ns", ["s", "t"].into_iter());
    sources.refer("pod-b", "ns", ["s"].into_iter());
    server.watches(2).await;
    sources.forget("pod-a");
    server.watches(1).await;
    sources.forget("pod-b");
    server.watches(0).await;
    sources.refer("pod-c", "ns", ["s"].into_iter());
    server.watches(1).await;
}

#[tokio::test]
async fn readers_are_served_by_the_watch_and_changes_of_contents_are_told() {
    let server = Server::new();
    server.put("s", "1");
    let sources = server.sources();
    let mut changes = sources.secret_changes();
    assert_eq!(value(sources.pull_secret("ns", "s").await.unwrap()), Some("1".into()), "without any watch");
    let mut tasks = JoinSet::new();
    tasks.spawn(sources.clone().watch_secrets());
    sources.refer("pod", "ns", ["s"].into_iter());
    server.watches(1).await;
    let asked = *server.gets.borrow();
    assert_eq!(value(sources.pull_secret("ns", "s").await.unwrap()), Some("1".into()));
    assert_eq!(*server.gets.borrow(), asked, "the watch served it");
    server.put("s", "22");
    assert_eq!(told(&mut changes).await, ("ns".to_owned(), "s".to_owned()));
    assert_eq!(value(sources.pull_secret("ns", "s").await.unwrap()), Some("22".into()));
    // A change of metadata alone is none: the next that is told is the removal.
    server.secrets.send_modify(|all| all.get_mut("s").unwrap()["metadata"]["labels"] = json!({"a": "b"}));
    server.secrets.send_modify(|all| drop(all.remove("s")));
    told(&mut changes).await;
    assert_eq!(value(sources.pull_secret("ns", "s").await.unwrap()), None);
    assert!(changes.try_recv().is_err());
}

#[tokio::test]
async fn a_secret_that_appears_after_a_reader_missed_it_is_told() {
    let server = Server::new();
    let sources = server.sources();
    let mut changes = sources.secret_changes();
    sources.refer("pod", "ns", ["late"].into_iter());
    assert_eq!(value(sources.pull_secret("ns", "late").await.unwrap()), None);
    // It appears before the watch has begun: the first listing tells it all the same.
    server.put("late", "1");
    let mut tasks = JoinSet::new();
    tasks.spawn(sources.clone().watch_secrets());
    assert_eq!(told(&mut changes).await.1, "late");
    server.watches(1).await;
    server.put("late", "22");
    assert_eq!(told(&mut changes).await.1, "late");
}
