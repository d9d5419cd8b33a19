//! Logs and upgraded streams through the TLS listener to a node port and back; and what garbage does to the listener.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods)] // Servers of these tests end with the tests' runtime.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, NodeTls, Options, UserInfo};
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

mod pki;

/// A node port: tells the path that it was asked for, and echoes upgraded bytes.
async fn node_port(pki: &pki::Pki) -> SocketAddr {
    node_port_with(pki.server_config()).await
}

async fn node_port_with(tls: Arc<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who does not believe what is shown goes.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let user = stream.get_ref().1.peer_certificates().map(|c| c.len());
            assert_eq!(user, Some(1), "the API server shows its certificate");
            let service = hyper::service::service_fn(answer);
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    address
}

async fn answer(mut request: Request<hyper::body::Incoming>) -> Result<Response<Body>, std::convert::Infallible> {
    let asked = request.uri().to_string();
    if request.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
            write.write_all(asked.as_bytes()).await.unwrap();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        let mut response = Response::builder().status(101).header("connection", "upgrade");
        for name in ["upgrade", "sec-websocket-protocol", "x-stream-protocol-version"] {
            if let Some(value) = request.headers().get(name) {
                response = response.header(name, value);
            }
        }
        return Ok(response.body(Body::empty()).unwrap());
    }
    if asked.starts_with("/hooks/") {
        let list = json!({ "kind": "HookRunList", "items": [{ "asked": asked }] });
        return Ok(Response::new(Body::from(list.to_string())));
    }
    let status = if asked.contains("previous=true") { 400 } else { 200 };
    Ok(Response::builder().status(status).body(Body::from(asked)).unwrap())
}

struct Cluster {
    server: ApiServer,
    pki: pki::Pki,
    address: SocketAddr,
    cancel: CancellationToken,
}

async fn post(server: &ApiServer, path: &str, body: Value) {
    let request = Request::builder().method("POST").uri(path).body(Body::from(body.to_string())).unwrap();
    let response = server.router_as(UserInfo::admin()).oneshot(request).await.unwrap();
    let status = response.status();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(status, StatusCode::CREATED, "{path}: {}", String::from_utf8_lossy(&text));
}

async fn cluster() -> Cluster {
    let pki = pki::Pki::new();
    let node = node_port(&pki).await;
    cluster_with(pki, node).await
}

async fn cluster_with(pki: pki::Pki, node: SocketAddr) -> Cluster {
    let identity = pki.client("kube-apiserver-kubelet-client", "system:masters");
    let mut options = Options::new(Arc::new(store::memory::MemoryStore::new()));
    options.node_tls =
        Some(NodeTls { ca_pem: pki.ca_pem(), certificate_pem: identity.certificate_pem, key_pem: identity.key_pem });
    options.client_ca_pem = Some(pki.ca_pem());
    let cancel = CancellationToken::new();
    let server = ApiServer::start(options, cancel.clone()).await.unwrap();
    let status = json!({
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node.port()}},
    });
    post(&server, "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let patch = Request::builder()
        .method("PATCH")
        .uri("/api/v1/nodes/n1/status")
        .header("content-type", "application/merge-patch+json")
        .body(Body::from(json!({"status": status}).to_string()))
        .unwrap();
    let patched = server.router_as(UserInfo::admin()).oneshot(patch).await.unwrap();
    assert_eq!(patched.status(), StatusCode::OK);
    let pods = "/api/v1/namespaces/default/pods";
    let spec = json!({"containers": [{"name": "c", "image": "x"}]});
    post(&server, pods, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    post(&server, &format!("{pods}/p/binding"), binding).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (serving, tls, ending) = (server.clone(), pki.api_config(), cancel.clone());
    tokio::spawn(async move { serving.serve(listener, tls, ending).await.unwrap() });
    Cluster { server, pki, address, cancel }
}

async fn get(server: &ApiServer, path: &str) -> (u16, String) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = server.router_as(UserInfo::admin()).oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn the_runs_of_hooks_are_for_those_who_may_read_the_pods_log() {
    let cluster = cluster().await;
    let path = "/api/v1/namespaces/default/pods/p/log?hooks=true&container=c";
    let (code, text) = get(&cluster.server, path).await;
    assert_eq!(code, 200, "{text}");
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["items"], json!([{ "asked": "/hooks/default/p?container=c" }]));
    let gone = "/api/v1/namespaces/default/pods/gone/log?hooks=true";
    let (code, text) = get(&cluster.server, gone).await;
    assert!(code == 200 && text.contains("/hooks/default/gone"), "the nodes remember it: {code} {text}");
    for path in [path, gone] {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let stranger = cluster.server.router_as(UserInfo::new("somebody", &["system:authenticated"]));
        let answer = stranger.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("pods/log"), "{text:?}");
    }
    cluster.cancel.cancel();
}

#[tokio::test]
async fn logs_come_from_the_node_and_its_refusals_too() {
    let cluster = cluster().await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    let (code, text) = get(&cluster.server, &format!("{log}?tailLines=5&follow=true")).await;
    assert_eq!((code, text.as_str()), (200, "/containerLogs/default/p/c?follow=true&tailLines=5"));
    let (code, text) = get(&cluster.server, &format!("{log}?previous=true")).await;
    assert_eq!(code, 400);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["reason"], "BadRequest");
    let (code, _) = get(&cluster.server, &format!("{log}?container=nope")).await;
    assert_eq!(code, 400);
    let (code, text) = get(&cluster.server, "/api/v1/namespaces/default/pods/p/exec?command=sh").await;
    assert_eq!(code, 400, "{text}");
}

/// Asks over TLS to leave HTTP; returns the answer's head after seeing that bytes pass both ways.
async fn upgraded(cluster: &Cluster, request: &str, expect: &str) -> String {
    let mut roots = rustls::RootCertStore::empty();
    let identity = cluster.pki.client("kubernetes-admin", "system:masters");
    use rustls_pki_types::pem::PemObject;
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(cluster.pki.ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![rustls_pki_types::CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()],
            rustls_pki_types::PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let stream = TcpStream::connect(cluster.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(expect) {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "{}", String::from_utf8_lossy(&seen));
    }
    stream.write_all(b"\x80raw \xff bytes").await.unwrap();
    let mut echo = [0; 12];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"\x80raw \xff bytes");
    let head = String::from_utf8_lossy(&seen).to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    head
}

#[tokio::test]
async fn an_upgraded_stream_passes_through_raw() {
    let cluster = cluster().await;
    let request = "GET /api/v1/namespaces/default/pods/p/exec?command=sh&stdin=true&stdout=true HTTP/1.1\r\nhost: x\r\n\
                   connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n";
    let head = upgraded(&cluster, request, "/exec/default/p/c?command=sh&input=1&output=1").await;
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("sec-websocket-protocol: v5.channel.k8s.io"));
}

#[tokio::test]
async fn a_spdy_stream_passes_through_raw() {
    let cluster = cluster().await;
    let request = "POST /api/v1/namespaces/default/pods/p/portforward HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\
                   connection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: portforward.k8s.io\r\n\r\n";
    let head = upgraded(&cluster, request, "/portForward/default/p").await;
    assert!(head.contains("upgrade: spdy/3.1\r\n"), "{head}");
    assert!(head.contains("x-stream-protocol-version: portforward.k8s.io\r\n"), "{head}");
}

#[tokio::test]
async fn garbage_ends_its_connection_and_nothing_else() {
    let cluster = cluster().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 600], b"\x16\x03\x01\xff\xff\x01"] {
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection ends");
    }
    assert_eq!(get(&cluster.server, "/version").await.0, 200);
    assert!(TcpStream::connect(cluster.address).await.is_ok());
    cluster.cancel.cancel();
}

/// What a log of the pod on `n1` comes to when its node shows an identity.
async fn log_of_a_node_that_shows(identity: impl FnOnce(&pki::Pki) -> pki::Identity) -> (StatusCode, String) {
    let pki = pki::Pki::new();
    let node = node_port_with(pki.server_config_with(&identity(&pki))).await;
    let cluster = cluster_with(pki, node).await;
    let request = Request::builder().uri("/api/v1/namespaces/default/pods/p/log").body(Body::empty()).unwrap();
    let response = cluster.server.router_as(UserInfo::admin()).oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    cluster.cancel.cancel();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_node_is_known_by_its_own_client_certificate_and_by_no_other() {
    let (status, text) = log_of_a_node_that_shows(|pki| pki.client("system:node:n1", "system:nodes")).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "/containerLogs/default/p/c?"));
    for (name, group) in [
        ("system:node:n2", "system:nodes"),
        ("system:node:n1", "system:masters"),
        ("system:node:n1", ""),
        ("kubernetes-admin", "system:masters"),
    ] {
        let (status, text) = log_of_a_node_that_shows(|pki| pki.client(name, group)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{name} {group}");
        assert!(text.contains("error dialing backend"), "{text}");
    }
    // The right name from another authority.
    let stranger = |_: &pki::Pki| pki::Pki::new().client("system:node:n1", "system:nodes");
    assert_eq!(log_of_a_node_that_shows(stranger).await.0, StatusCode::INTERNAL_SERVER_ERROR);
}
