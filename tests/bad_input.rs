//! Clients without manners against `sampan server`: the memory of its process stays where it was, and others are served.
#![allow(clippy::disallowed_methods)]

mod support;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use support::{PATIENCE, free_port, wait};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MIB: usize = 1 << 20;

/// A control plane alone, in a process of its own.
struct Server {
    process: Child,
    port: u16,
    client: kube::Client,
    tls: Arc<rustls::ClientConfig>,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, or ends now.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    async fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_sampan"))
            .args(["server", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(dir.path().join("data"))
            .arg("--run-dir")
            .arg(dir.path().join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let file = dir.path().join("data/admin.kubeconfig");
        wait("the API is served", || file.exists() && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let config = kube::config::Kubeconfig::read_from(&file).unwrap();
        let tls = Arc::new(tls(&config));
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let server = Server { process, port, client, tls, _dir: dir };
        server.others_are_served().await;
        server
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, stream).await.unwrap()
    }

    async fn sender(&self) -> hyper::client::conn::http2::SendRequest<Body> {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(self.connect().await));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Another client reads and writes as ever.
    async fn others_are_served(&self) {
        let began = Instant::now();
        let name = format!("other-{}", began.elapsed().as_nanos() + u128::from(rand()));
        let made = json!({"metadata": {"name": name}}).to_string();
        let made: Value = self.client.request(Request::post(MAPS).body(made.into_bytes()).unwrap()).await.unwrap();
        assert_eq!(made["metadata"]["name"], name.as_str());
        let path = format!("{MAPS}/{name}");
        let read: Value = self.client.request(Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
        assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    /// Bytes of the process that are of itself: neither of its file nor shared.
    fn memory(&self) -> usize {
        self.number("smaps_rollup", "Anonymous:")
    }

    /// Forgets the peak until now.
    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
    }

    /// The most bytes that the process has had in memory.
    fn peak(&self) -> usize {
        self.number("status", "VmHWM:")
    }

    fn now(&self) -> usize {
        self.number("status", "VmRSS:")
    }

    fn number(&self, file: &str, name: &str) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }
}

fn rand() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u32
}

/// TLS of the administrator, HTTP/2 first.
fn tls(config: &kube::config::Kubeconfig) -> rustls::ClientConfig {
    let pem = |text: &str| STANDARD.decode(text).unwrap();
    let cluster = config.clusters[0].cluster.as_ref().unwrap();
    let user = serde_json::to_value(&config.auth_infos[0].auth_info).unwrap();
    let field = |name: &str| pem(user[name].as_str().unwrap());
    let mut roots = rustls::RootCertStore::empty();
    let ca = pem(cluster.certificate_authority_data.as_ref().unwrap());
    roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&field("client-certificate-data")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&field("client-key-data")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.unwrap().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn https(path: &str) -> String {
    format!("https://127.0.0.1{path}")
}

/// A hundred megabytes that are made as they are sent.
fn hundred_megabytes() -> Body {
    let chunk = bytes::Bytes::from(vec![b' '; 256 << 10]);
    Body::from_stream(futures_util::stream::iter((0..400).map(move |_| Ok::<_, std::io::Error>(chunk.clone()))))
}

async fn large_bodies(server: &Server) {
    server.forget_peak();
    let before = server.now();
    let sends = futures_util::future::join_all((0..3).map(|i| async move {
        let mut request = Request::post(https(MAPS)).header("content-type", "application/json");
        if i > 0 {
            request = request.header("content-length", 100 * MIB);
        }
        let answer = server.sender().await.send_request(request.body(hundred_megabytes()).unwrap());
        tokio::time::timeout(PATIENCE, answer).await.unwrap().map(|answer| answer.status().as_u16())
    }));
    let (codes, ()) = tokio::join!(sends, server.others_are_served());
    for code in codes {
        assert_eq!(code.unwrap(), 413);
    }
    let growth = server.peak().saturating_sub(before);
    assert!(growth < 48 * MIB, "300 MiB of bodies took {} MiB", growth / MIB);
}

/// Objects of 3 MiB that are as large in memory as they can be.
async fn large_objects(server: &Server) {
    let maps: Vec<String> =
        (0..9000).map(|i| format!("\"k{i}\":{}0{}", "{\"a\":".repeat(40), "}".repeat(40))).collect();
    let maps = format!("{{\"metadata\":{{\"name\":\"maps\"}},\"x\":{{{}}}}}", maps.join(","));
    let labels: Vec<String> = (0..100_000).map(|i| format!("\"k{i}\":\"v{i}\"")).collect();
    let labels = format!("{{\"metadata\":{{\"name\":\"labels\",\"labels\":{{{}}}}}}}", labels.join(","));
    server.forget_peak();
    let before = server.now();
    let sends = futures_util::future::join_all((0..12).map(|i| {
        let body = if i % 3 == 0 { labels.clone() } else { maps.clone() };
        async move {
            let path = https(&format!("{MAPS}?dryRun=All"));
            let request = Request::post(path).header("content-type", "application/json").body(Body::from(body));
            let answer = server.sender().await.send_request(request.unwrap());
            tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().status().as_u16()
        }
    }));
    let (codes, ()) = tokio::join!(sends, server.others_are_served());
    for (i, code) in codes.into_iter().enumerate() {
        assert_eq!(code, if i % 3 == 0 { 201 } else { 413 }, "{i}");
    }
    let growth = server.peak().saturating_sub(before);
    assert!(growth < 250 * MIB, "12 large objects took {} MiB", growth / MIB);
}

/// Changes fifty objects again and again, or makes them.
async fn write_events(server: &Server, count: usize) {
    let mut sender = server.sender().await;
    for batch in 0..count / 50 {
        let writes = (0..50).map(|i| {
            let body = match count {
                50 => json!({"metadata": {"name": format!("e{i}")}}),
                _ => json!({"data": {"n": format!("{batch}")}}),
            };
            let request = match count {
                50 => Request::post(https(MAPS)).header("content-type", "application/json"),
                _ => Request::patch(https(&format!("{MAPS}/e{i}")))
                    .header("content-type", "application/merge-patch+json"),
            };
            sender.send_request(request.body(Body::from(body.to_string())).unwrap())
        });
        for answer in futures_util::future::join_all(writes.collect::<Vec<_>>()).await {
            let answer = answer.unwrap();
            assert!(answer.status().is_success(), "{answer:?}");
        }
    }
}

/// The memory that ten thousand events take with forty watchers that never read is that of their history.
async fn deaf_watchers(server: &Server) {
    write_events(server, 50).await;
    let mut deaf = Vec::new();
    for _ in 0..40 {
        let mut stream = server.connect().await;
        // Windows of nothing, and a watch.
        let path = format!("{MAPS}?watch=true");
        let length = u8::try_from(path.len()).unwrap();
        let block = [&[0x82, 0x87, 0x04, length][..], path.as_bytes(), &[0x01, 1, b'x']].concat();
        let head = [0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1];
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
        let all = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &head, &block].concat();
        stream.write_all(&all).await.unwrap();
        deaf.push(stream);
    }
    server.others_are_served().await;
    let before = server.memory();
    write_events(server, 10_000).await;
    server.others_are_served().await;
    let growth = server.memory().saturating_sub(before);
    // 10,000 events of 600 bytes and what they replaced; for each watcher that would be 240 MB.
    assert!(growth < 60 * MIB, "10,000 events took {} MiB", growth / MIB);
    drop(deaf);
}

async fn idle_connections(server: &Server) {
    let before = server.memory();
    let idle = futures_util::future::join_all((0..1000).map(|_| server.connect())).await;
    let growth = server.memory().saturating_sub(before);
    assert!(growth < 80 * MIB, "1,000 connections took {} MiB", growth / MIB);
    server.others_are_served().await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_the_server_is_bounded_whatever_clients_do() {
    let server = Server::start().await;
    idle_connections(&server).await;
    deaf_watchers(&server).await;
    large_bodies(&server).await;
    large_objects(&server).await;
}
