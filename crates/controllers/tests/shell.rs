//! All controllers against a scripted API that keeps a few objects: what they call, and in which order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a call may be awaited before the test calls it missing.
const PATIENCE: Duration = Duration::from_secs(20);

/// The objects by path, and the events of the pod watch.
struct Api {
    objects: Mutex<BTreeMap<String, Value>>,
    pods: Mutex<Option<mpsc::Receiver<Value>>>,
    told: mpsc::Sender<(String, Value)>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn answer_with(status: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(UnsyncBoxBody::new(Full::new(Bytes::from(value.to_string()))));
    *response.status_mut() = status;
    response
}

impl Api {
    async fn answer(self: Arc<Api>, request: Request<kube::client::Body>) -> Result<Answer, Infallible> {
        let (parts, body) = request.into_parts();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let body = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(match parts.method {
            Method::GET if query.contains("watch=true") => self.watch(&path),
            Method::GET => self.get(&path),
            method => {
                let found = if method == Method::DELETE { self.delete(&path) } else { json!({"kind": "Status"}) };
                let _ = self.told.send((format!("{method} {path}"), body)).await;
                answer_with(StatusCode::OK, &found)
            }
        })
    }

    fn watch(&self, path: &str) -> Answer {
        let feed = if path == "/api/v1/pods" { self.pods.lock().unwrap().take() } else { None };
        let events = stream::unfold(feed, |feed| async move {
            let Some(mut open) = feed else { return std::future::pending().await };
            open.recv().await.map(|event| (Ok(Frame::data(Bytes::from(format!("{event}\n")))), Some(open)))
        });
        Response::new(UnsyncBoxBody::new(StreamBody::new(events.boxed())))
    }

    fn get(&self, path: &str) -> Answer {
        let verbs = json!(["get", "list", "delete"]);
        let kind = |name: &str, kind: &str| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs});
        let found = match path {
            "/api" => json!({"versions": ["v1"], "serverAddressByClientCIDRs": []}),
            "/apis" => json!({"groups": []}),
            "/api/v1" => {
                json!({"groupVersion": "v1", "resources": [kind("configmaps", "ConfigMap"), kind("pods", "Pod")]})
            }
            path => return self.get_object(path),
        };
        answer_with(StatusCode::OK, &found)
    }

    fn get_object(&self, path: &str) -> Answer {
        let objects = self.objects.lock().unwrap();
        if let Some(object) = objects.get(path) {
            return answer_with(StatusCode::OK, object);
        }
        // A list of one namespace or of all.
        let plural = path.rsplit('/').next().unwrap_or_default();
        let of_plural = |key: &str| key.rsplit('/').nth(1) == Some(plural);
        let items: Vec<&Value> = objects.iter().filter(|(key, _)| of_plural(key)).map(|(_, object)| object).collect();
        answer_with(StatusCode::OK, &json!({"metadata": {"resourceVersion": "1"}, "items": items}))
    }

    /// Pods linger; everything else goes at once.
    fn delete(&self, path: &str) -> Value {
        let mut objects = self.objects.lock().unwrap();
        match objects.get_mut(path) {
            Some(pod) if path.contains("/pods/") => {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                pod.clone()
            }
            _ => {
                objects.remove(path);
                json!({"kind": "Status", "status": "Success"})
            }
        }
    }
}

struct Script {
    api: Arc<Api>,
    pods: mpsc::Sender<Value>,
    calls: mpsc::Receiver<(String, Value)>,
    cancel: CancellationToken,
    running: JoinSet<Result<(), controllers::Error>>,
}

impl Script {
    fn start(objects: &[(&str, Value)]) -> Script {
        let (pods, feed) = mpsc::channel(16);
        let (told, calls) = mpsc::channel(64);
        let objects = objects.iter().map(|(path, object)| ((*path).to_owned(), object.clone())).collect();
        let api = Arc::new(Api { objects: Mutex::new(objects), pods: Mutex::new(Some(feed)), told });
        let served = api.clone();
        let client = kube::Client::new(tower::service_fn(move |request| served.clone().answer(request)), "default");
        let cancel = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(controllers::run(
            client,
            controllers::Options { root_ca: Some("a certificate".to_owned()), ..Default::default() },
            cancel.clone(),
        ));
        Script { api, pods, calls, cancel, running }
    }

    async fn call(&mut self) -> (String, Value) {
        tokio::time::timeout(PATIENCE, self.calls.recv()).await.expect("a call comes in time").expect("it runs")
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.running.join_next()).await.expect("it ends in time");
        ended.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_new_namespace_gets_its_default_account() {
    let mut script = Script::start(&[("/api/v1/namespaces/new", json!({"metadata": {"name": "new"}}))]);
    // Beside it the namespace gets the certificate of its authority.
    let account = loop {
        let (call, body) = script.call().await;
        if call == "POST /api/v1/namespaces/new/serviceaccounts" {
            break body;
        }
    };
    assert_eq!(account["metadata"]["name"], "default");
    script.stop().await;
}

#[tokio::test]
async fn a_deleted_namespace_loses_its_pods_then_the_rest_then_its_finalizer() {
    let metadata = |name: &str| json!({"name": name, "namespace": "old", "uid": name, "resourceVersion": "1"});
    let pod = json!({"metadata": metadata("web"), "spec": {"nodeName": "n"}});
    let namespace = json!({
        "metadata": {"name": "old", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"finalizers": ["kubernetes", "example.com/other"]},
    });
    let mut script = Script::start(&[
        ("/api/v1/namespaces/old", namespace),
        ("/api/v1/namespaces/old/pods/web", pod.clone()),
        ("/api/v1/namespaces/old/configmaps/settings", json!({"metadata": metadata("settings")})),
        ("/api/v1/nodes/n", json!({"metadata": {"name": "n"}})),
    ]);
    assert_eq!(script.call().await.0, "DELETE /api/v1/namespaces/old/pods/web");
    // The pod has ended: only now the rest goes.
    script.api.objects.lock().unwrap().remove("/api/v1/namespaces/old/pods/web");
    script.pods.send(json!({"type": "DELETED", "object": pod})).await.unwrap();
    assert_eq!(script.call().await.0, "DELETE /api/v1/namespaces/old/configmaps/settings");
    let (call, namespace) = script.call().await;
    assert_eq!(call, "PUT /api/v1/namespaces/old/finalize");
    assert_eq!(namespace["spec"]["finalizers"], json!(["example.com/other"]));
    script.stop().await;
}
