//! The way to a node's port: address from the Node object, TLS with this server's client certificate, one HTTP/1.1
//! connection for each request. It must not read the bodies. The contract is docs/walls/node-port.md.

use std::sync::Arc;
use std::time::Duration;

use api::look;
use axum::body::Body;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::status::Status;
use crate::user::UserInfo;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the response headers: the node may have to ask its runtime first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Who this server is at the node port, and which nodes it believes.
#[derive(Clone)]
pub struct NodeTls {
    /// CA of the nodes' serving certificates, PEM.
    pub ca_pem: String,
    /// Client certificate (chain), PEM.
    pub certificate_pem: String,
    /// Its key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeTls(..)")
    }
}

impl NodeTls {
    fn config(&self) -> Result<Trust, String> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| e.to_string())?;
        let (provider, roots) = (Arc::new(rustls::crypto::ring::default_provider()), Arc::new(roots));
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
        let servers = servers.build().map_err(|e| e.to_string())?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let clients = clients.build().map_err(|e| e.to_string())?;
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.map_err(|e| e.to_string())?, key)
            .map_err(|e| e.to_string())?;
        // Each connection shows anew which node it leads to.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Trust { config, servers, clients })
    }
}

/// How nodes are told from others.
struct Trust {
    config: rustls::ClientConfig,
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    fn connector(&self, node: &str) -> TlsConnector {
        let (servers, clients) = (self.servers.clone(), self.clients.clone());
        let mut config = self.config.clone();
        let verifier = NodeVerifier { servers, clients, node: node.to_owned() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        TlsConnector::from(Arc::new(config))
    }
}

/// A node is believed that shows a certificate for its address, or the one by which it is that node as client of the API:
/// who may speak for a node there may answer for it here, and nobody else gets such a certificate.
#[derive(Debug)]
struct NodeVerifier {
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
    node: String,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        address: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refusal = match self.servers.verify_server_cert(shown, chain, address, stapled, now) {
            Err(refusal) => refusal,
            believed => return believed,
        };
        let is_node = || UserInfo::from_certificate(shown).is_some_and(|user| user.node_name() == Some(&self.node));
        match self.clients.verify_client_cert(shown, chain, now) {
            Ok(_) if is_node() => Ok(ServerCertVerified::assertion()),
            _ => Err(refusal),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.servers.verify_tls12_signature(message, shown, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.servers.verify_tls13_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.servers.supported_verify_schemes()
    }
}

/// Where a node listens.
#[derive(Debug, PartialEq)]
pub struct Target {
    node: String,
    host: String,
    port: u16,
}

impl Target {
    /// Reads it from a Node: the first InternalIP (else any other address) and the daemon endpoint.
    pub fn of_node(node: &Value) -> Result<Target, Status> {
        let name = look::text_at(node, &["metadata", "name"]);
        let addresses = look::list_at(node, &["status", "addresses"]);
        let of_type = |wanted: &str| addresses.iter().find(|a| look::text(a, "type") == wanted);
        let order = ["InternalIP", "ExternalIP", "Hostname"];
        let address = order.iter().find_map(|wanted| of_type(wanted)).map(|a| look::text(a, "address"));
        let address = address.filter(|a| !a.is_empty());
        let host =
            address.ok_or_else(|| Status::internal(format!("no preferred addresses found for node {name:?}")))?;
        let port = look::at(node, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64);
        let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0).unwrap_or(10250);
        Ok(Target { node: name.to_owned(), host: host.to_owned(), port })
    }
}

/// The client side of all node ports.
pub struct NodePort {
    tls: Option<Trust>,
    /// Connections and joined streams; whoever stops the server waits for them or drops them.
    pub tasks: TaskTracker,
}

impl NodePort {
    /// Without an identity every request is refused with 503.
    pub fn new(tls: Option<&NodeTls>) -> Result<NodePort, String> {
        let config = tls.map(NodeTls::config).transpose()?;
        Ok(NodePort { tls: config, tasks: TaskTracker::new() })
    }

    /// Sends one request on a connection of its own.
    pub async fn send(&self, target: &Target, mut request: Request<Body>) -> Result<Response<Incoming>, Status> {
        let Some(tls) = &self.tls else {
            return Err(Status::unavailable("this server has no identity for the node port"));
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect(&tls.connector(&target.node), target)).await;
        let stream = stream.map_err(|_| dialing(target, "i/o timeout"))??;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| dialing(target, e))?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "the connection to a node ended");
            }
        });
        let host = HeaderValue::from_str(&authority(target)).map_err(Status::internal)?;
        request.headers_mut().insert(header::HOST, host);
        match tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await {
            Ok(response) => response.map_err(|e| dialing(target, e)),
            Err(_) => Err(Status::plain(504, "Timeout", format!("node {} does not answer", authority(target)))),
        }
    }
}

fn authority(target: &Target) -> String {
    if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    }
}

fn dialing(target: &Target, error: impl std::fmt::Display) -> Status {
    Status::plain(500, "InternalError", format!("error dialing backend: dial tcp {}: {error}", authority(target)))
}

async fn connect(tls: &TlsConnector, target: &Target) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Status> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|e| dialing(target, e))?;
    stream.set_nodelay(true).map_err(|e| dialing(target, e))?;
    let name = ServerName::try_from(target.host.clone()).map_err(|e| dialing(target, e))?;
    tls.connect(name, stream).await.map_err(|e| dialing(target, e))
}
