//! The in-process door to an API server on the memory store, and what tests send through it.
#![allow(dead_code)]

use std::sync::Arc;

use apiserver::{ApiServer, Options, StaticToken, UserInfo};
use axum::body::Body;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// A door, and as whom it is entered.
pub struct Door {
    pub server: ApiServer,
    pub user: UserInfo,
}

/// A server with the default plugins.
pub async fn server() -> ApiServer {
    server_with(|_| {}).await
}

/// A server whose options are changed before it starts.
pub async fn server_with(change: impl FnOnce(&mut Options)) -> ApiServer {
    let mut options = Options::new(Arc::new(store::memory::MemoryStore::new()));
    options.tokens = vec![StaticToken { token: "secret".to_owned(), user: UserInfo::admin() }];
    change(&mut options);
    ApiServer::start(options, CancellationToken::new()).await.unwrap()
}

/// An administrator's door.
pub async fn door() -> Door {
    Door { server: server().await, user: UserInfo::admin() }
}

/// Path of the pods of the default namespace.
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// A small pod.
pub fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}})
}

impl Door {
    pub fn of(&self, user: UserInfo) -> Door {
        Door { server: self.server.clone(), user }
    }

    pub async fn send(&self, method: Method, path: &str, media: &str, body: Vec<u8>) -> (u16, Value) {
        let (status, _, value) = self.told(method, path, media, body).await;
        (status, value)
    }

    /// The same with the headers of the answer.
    pub async fn told(&self, method: Method, path: &str, media: &str, body: Vec<u8>) -> (u16, HeaderMap, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        let response = self.server.router_as(self.user.clone()).oneshot(request.body(Body::from(body)).unwrap());
        let (parts, body) = response.await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Texts of the warnings of a POST, after its code and document.
    pub async fn post_warned(&self, path: &str, body: &Value) -> (u16, Value, Vec<String>) {
        let (code, headers, value) = self.told(Method::POST, path, "application/json", body.to_string().into()).await;
        let warnings = headers.get_all("warning").iter();
        (code, value, warnings.map(|header| String::from_utf8_lossy(header.as_bytes()).into_owned()).collect())
    }

    /// PATCH with a media type.
    pub async fn patch(&self, path: &str, media: &str, body: &Value) -> (u16, Value) {
        self.send(Method::PATCH, path, media, body.to_string().into()).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, "", Vec::new()).await
    }

    /// The whole body of the answer to a GET.
    pub async fn text(&self, path: &str) -> String {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = self.server.router_as(self.user.clone()).oneshot(request).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::POST, path, "application/json", body.to_string().into()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::PUT, path, "application/json", body.to_string().into()).await
    }

    pub async fn merge(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::PATCH, path, "application/merge-patch+json", body.to_string().into()).await
    }

    pub async fn delete(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::DELETE, path, "application/json", body.to_string().into()).await
    }

    /// Creates the pod and binds it to a node.
    pub async fn bound_pod(&self, name: &str, node: &str) {
        assert_eq!(self.post(PODS, &pod(name)).await.0, 201);
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
        let (code, status) = self.post(&format!("{PODS}/{name}/binding"), &binding).await;
        assert_eq!(code, 201, "{status}");
    }
}

/// A mirror of a static pod of node `n1`, which is made with it.
pub async fn mirror(door: &Door, name: &str) -> Value {
    let node = door.of(UserInfo::node("n1"));
    if node.get("/api/v1/nodes/n1").await.0 == 404 {
        assert_eq!(node.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await.0, 201);
    }
    let (_, made) = node.get("/api/v1/nodes/n1").await;
    let mut mirror = pod(name);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    mirror["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": made["metadata"]["uid"], "controller": true,
    }]);
    mirror["spec"]["nodeName"] = json!("n1");
    mirror
}
