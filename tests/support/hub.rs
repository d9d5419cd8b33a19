//! A network of its own in which the names of Docker Hub lead to doubles: DNS, registry and token server.
//!
//! Everything runs in this process, on a thread that has entered a network namespace; what is to see this Hub enters the
//! namespace too ([`Hub::enter`]). The machine's resolver configuration stays as it is: the double answers at the address
//! that it names.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use xtask::shell;

/// Where Docker Hub's registry is (IMG-120).
const REGISTRY: &str = "registry-1.docker.io";
/// Where its tokens come from.
const AUTH: &str = "auth.docker.io";
/// The one account.
pub const USER: &str = "someone";
pub const PASSWORD: &str = "hub-canary-3141";

/// One request as a double saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub host: String,
    pub method: String,
    pub path: String,
    pub query: String,
    pub authorization: String,
}

/// What the doubles share.
struct Doubles {
    /// An OCI layout whose one image is served under every name.
    layout: PathBuf,
    seen: Mutex<Vec<Seen>>,
}

/// The network; removed at the end.
pub struct Hub {
    namespace: String,
    /// PEM of the authority that signed the doubles' certificate.
    pub authority: PathBuf,
    doubles: Arc<Doubles>,
}

impl Hub {
    /// Makes the network and starts the doubles; `dir` is for files, `layout` holds the image to be served.
    pub fn start(name: &str, dir: &Path, layout: PathBuf) -> Hub {
        let namespace = format!("sampan-test-{name}");
        if Path::new("/run/netns").join(&namespace).exists() {
            shell::run("ip", &["netns", "del", &namespace]).unwrap();
        }
        shell::run("ip", &["netns", "add", &namespace]).unwrap();
        let resolver = resolver();
        let inside = |words: &[&str]| shell::run("ip", &[&["-n", namespace.as_str()][..], words].concat()).unwrap();
        inside(&["link", "set", "lo", "up"]);
        for address in [resolver, IpAddr::from([127, 0, 0, 1])] {
            if !address.is_loopback() {
                inside(&["addr", "add", &address.to_string(), "dev", "lo"]);
            }
        }
        let doubles = Arc::new(Doubles { layout, seen: Mutex::default() });
        let authority = dir.join("hub-authority.pem");
        let acceptor = certificate(&authority);
        let (shared, path) = (doubles.clone(), format!("/run/netns/{namespace}"));
        let (started, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let door = std::fs::File::open(path).unwrap();
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&door),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let tcp = TcpListener::bind((resolver, 443)).await.unwrap();
                let dns = UdpSocket::bind((resolver, 53)).await.unwrap();
                started.send(()).unwrap();
                let router = Router::new().fallback(answer).with_state(shared);
                let web = axum::serve(Tls { tcp, acceptor }, router);
                tokio::join!(async { web.await.unwrap() }, resolve(dns, resolver));
            });
        });
        wait.recv_timeout(super::PATIENCE).expect("the doubles start");
        Hub { namespace, authority, doubles }
    }

    /// The words before a command that is to run in this network.
    pub fn enter(&self) -> Vec<String> {
        ["nsenter".to_owned(), format!("--net=/run/netns/{}", self.namespace)].into()
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.doubles.seen.lock().unwrap().clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

/// The first name server of this machine, or where programs look when there is none.
fn resolver() -> IpAddr {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = text.lines().find_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok());
    named.unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

fn certificate(authority: &Path) -> TlsAcceptor {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    std::fs::write(authority, root.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let names = vec![REGISTRY.to_owned(), AUTH.to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], leaf_key.serialize_der().try_into().unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, peer) = self.tcp.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Answers A questions for the Hub's names with `address`; nothing else exists.
async fn resolve(socket: UdpSocket, address: IpAddr) {
    let mut packet = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
        if let Some(reply) = reply(&packet[..length], address) {
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

/// One DNS answer (RFC 1035, section 4): the question repeated, and a record if there is one.
fn reply(query: &[u8], address: IpAddr) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while *query.get(at)? != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let end = at + 5;
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let known = [REGISTRY, AUTH].contains(&labels.join(".").as_str());
    let IpAddr::V4(address) = address else { return None };
    let answers = u8::from(known && kind == 1);
    let code = if known { 0 } else { 3 };
    let mut reply = vec![query[0], query[1], 0x85, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0];
    reply.extend_from_slice(query.get(12..end)?);
    if answers == 1 {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend_from_slice(&address.octets());
    }
    Some(reply)
}

async fn answer(State(doubles): State<Arc<Doubles>>, request: Request) -> Response<Body> {
    let headers = request.headers();
    let text = |name: header::HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let seen = Seen {
        host: text(header::HOST),
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        authorization: text(header::AUTHORIZATION),
    };
    doubles.seen.lock().unwrap().push(seen.clone());
    match seen.host.as_str() {
        AUTH => token(&seen),
        REGISTRY => content(&doubles.layout, &seen),
        _ => status(StatusCode::MISDIRECTED_REQUEST, HeaderMap::new()),
    }
}

fn status(code: StatusCode, headers: HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    response
}

/// Whose token it is stands in it.
fn token(seen: &Seen) -> Response<Body> {
    let account = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let holder = match seen.authorization.as_str() {
        "" => "anonymous",
        basic if basic == format!("Basic {account}") => USER,
        _ => return status(StatusCode::UNAUTHORIZED, HeaderMap::new()),
    };
    Response::new(Body::from(json!({"token": format!("token-of-{holder}"), "expires_in": 300}).to_string()))
}

/// `library/…` for everybody with a token, the rest for the account.
fn content(layout: &Path, seen: &Seen) -> Response<Body> {
    let Some((repository, kind, name)) = split(&seen.path) else {
        return status(StatusCode::NOT_FOUND, HeaderMap::new());
    };
    let allowed = match seen.authorization.as_str() {
        "Bearer token-of-anonymous" => repository.starts_with("library/"),
        other => other == format!("Bearer token-of-{USER}"),
    };
    if !allowed {
        let challenge = format!(
            "Bearer realm=\"https://{AUTH}/token\",service=\"registry.docker.io\",scope=\"repository:{repository}:pull\""
        );
        let headers = HeaderMap::from_iter([(header::WWW_AUTHENTICATE, challenge.parse().unwrap())]);
        return status(StatusCode::UNAUTHORIZED, headers);
    }
    let digest = if name.starts_with("sha256:") { name.to_owned() } else { manifest_digest(layout) };
    let Ok(bytes) = std::fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))) else {
        return status(StatusCode::NOT_FOUND, HeaderMap::new());
    };
    let media = match kind {
        "manifests" => "application/vnd.oci.image.manifest.v1+json",
        _ => "application/octet-stream",
    };
    let response = Response::builder()
        .header(header::CONTENT_TYPE, media)
        .header("docker-content-digest", digest)
        .header(header::CONTENT_LENGTH, bytes.len());
    response.body(if seen.method == "HEAD" { Body::empty() } else { Body::from(bytes) }).unwrap()
}

/// `/v2/REPOSITORY/KIND/NAME`.
fn split(path: &str) -> Option<(&str, &str, &str)> {
    let (rest, name) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    Some((repository, kind, name))
}

fn manifest_digest(layout: &Path) -> String {
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}
