//! A server behind TLS on a real socket, and clients that behave or do not.
#![allow(dead_code, missing_docs)] // Each test uses its part of it.
#![allow(clippy::disallowed_methods)] // Connections of clients end with the tests' runtime.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Options};
use axum::body::Body;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::pki::{Identity, Pki};

pub mod frames;

/// Nobody waits longer for an answer while others misbehave.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Path of the config maps of the default namespace.
pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Path of the pods of the default namespace.
pub const PODS: &str = "/api/v1/namespaces/default/pods";

pub struct Wire {
    pub server: ApiServer,
    pub pki: Pki,
    pub address: SocketAddr,
    pub admin: Identity,
    cancel: CancellationToken,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

pub type Answer = (u16, HeaderMap, Value);

impl Wire {
    pub async fn start(change: impl FnOnce(&mut Options)) -> Wire {
        let pki = Pki::new();
        let mut options = Options::new(Arc::new(store::memory::MemoryStore::new()));
        options.client_ca_pem = Some(pki.ca_pem());
        change(&mut options);
        let cancel = CancellationToken::new();
        let server = ApiServer::start(options, cancel.clone()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (serving, tls, ending) = (server.clone(), pki.api_config(), cancel.clone());
        tokio::spawn(async move { serving.serve(listener, tls, ending).await.unwrap() });
        let admin = pki.client("kubernetes-admin", "system:masters");
        Wire { server, pki, address, admin, cancel }
    }

    /// A TLS connection, with a certificate or none, that speaks a protocol.
    pub async fn connect(&self, who: Option<&Identity>, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let builder = client_config(&self.pki.ca_pem());
        let mut config = match who {
            None => builder.with_no_client_auth(),
            Some(who) => {
                let key = PrivateKeyDer::from_pem_slice(who.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain(&who.certificate_pem), key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        self.connect_with(config).await
    }

    pub async fn connect_with(&self, config: rustls::ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// One request on a connection of its own.
    pub async fn send(&self, who: Option<&Identity>, request: Request<Body>) -> Answer {
        let stream = self.connect(who, b"http/1.1").await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time");
        read(answer.unwrap()).await
    }

    /// The same over HTTP/2.
    pub async fn send_h2(&self, who: Option<&Identity>, mut request: Request<Body>) -> Result<Answer, hyper::Error> {
        let stream = self.connect(who, b"h2").await.unwrap();
        let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(16 << 20)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let path = request.uri().path_and_query().unwrap().clone();
        *request.uri_mut() =
            http::Uri::builder().scheme("https").authority("localhost").path_and_query(path).build().unwrap();
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time")?;
        Ok(read(answer).await)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let (code, _, value) = self.send(Some(&self.admin), Request::get(path).body(Body::empty()).unwrap()).await;
        (code, value)
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> (u16, Value) {
        self.write(Method::POST, path, "application/json", body).await
    }

    /// A write by the administrator.
    pub async fn write(&self, method: Method, path: &str, media: &str, body: impl Into<Body>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        let (code, _, value) = self.send(Some(&self.admin), request.body(body.into()).unwrap()).await;
        (code, value)
    }

    /// Another client is served as ever.
    pub async fn others_are_served(&self) {
        let began = std::time::Instant::now();
        let name = format!("other-{}", uuid::Uuid::new_v4());
        let (code, made) = self.post(MAPS, json!({"metadata": {"name": name}}).to_string()).await;
        assert_eq!(code, 201, "{made}");
        assert_eq!(self.get(&format!("{MAPS}/{name}")).await.0, 200);
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }
}

pub fn client_config(ca_pem: &str) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.unwrap().with_root_certificates(roots)
}

pub fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

async fn read(answer: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let value = serde_json::from_slice(&bytes);
    let value = value.unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
    (parts.status.as_u16(), parts.headers, value)
}

/// What a refusal says: code, reason, message; the rest of the Status is checked.
pub fn refusal((code, status): &(u16, Value)) -> (u16, &str, &str) {
    let text = |name: &str| status[name].as_str().unwrap_or_default();
    assert_eq!((text("kind"), text("apiVersion"), text("status")), ("Status", "v1", "Failure"), "{code} {status}");
    assert_eq!(status["code"], *code, "{status}");
    (*code, text("reason"), text("message"))
}

/// Sends bytes as they are; what the server says until it closes the connection.
pub async fn talk(mut stream: TlsStream<TcpStream>, bytes: &[u8]) -> String {
    let mut said = Vec::new();
    let all = async {
        // A server that has closed already has said what it had to say.
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut said).await;
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the connection ends in time");
    String::from_utf8_lossy(&said).into_owned()
}
