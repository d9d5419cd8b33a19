//! The node port: the HTTPS server through which the API server reaches a node's pods.
//!
//! Owns the connections, who may use them (`guard`: whom the API vouches for), and the answers of `/healthz`, `/pods`, `/containerLogs`, `/exec`, `/attach`,
//! `/portForward`, `/run`, `/metrics`, `/hooks`, `/pulls`, `/images/collection` (POD-67..72). Streams are not understood here: the
//! runtime gives a URL and bytes are passed both ways. Must not start, stop or change anything, but for a round of
//! collection that is asked for. Start at [`serve`]; `route` is the table of paths.

mod asked;
mod cache;
mod guard;
mod hooks;
mod identity;
mod images;
mod logs;
mod metrics;
mod protocol;
mod query;
mod route;
mod seek;
mod stream;

use crate::{
    collection::Collector,
    hooks::Hooks,
    image::{metrics::Metrics, progress::Board},
    records::Records,
};
use bytes::Bytes;
use guard::Guard;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use identity::Caller;
use std::{convert::Infallible, io, net::TcpListener, sync::Arc, time::Duration};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A client that has not finished its handshake by then is no client.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// At most so many connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// Accepting can fail for want of file descriptors; it is tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the node port needs.
pub struct Options {
    /// The socket, listening.
    pub listener: TcpListener,
    /// TLS with our server certificate that asks for client certificates of our CA.
    pub tls: Arc<rustls::ServerConfig>,
    /// The API, with the node's identity: `/pods`, and what a pod is waiting for.
    pub client: kube::Client,
    /// The runtime.
    pub cri: cri::Client,
    /// The name of the Node object.
    pub node_name: String,
    /// How far pulls are.
    pub board: Board,
    /// The numbers of pulls and of collection.
    pub metrics: Arc<Metrics>,
    /// The numbers of evictions.
    pub evictions: crate::eviction::Metrics,
    /// Who may use an image.
    pub records: Records,
    /// What would be collected.
    pub collector: Collector,
    /// The runs of hooks and their numbers.
    pub hooks: Hooks,
}

/// Why the node port cannot be served at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be used.
    #[error("cannot use the node port's socket")]
    Socket(#[source] io::Error),
}

/// The body of every answer.
type Body = BoxBody<Bytes, Infallible>;
/// An answer; failures are answers too.
type Answer = Response<Body>;

/// Everything that a request may look at.
struct Node {
    client: kube::Client,
    cri: cri::Client,
    name: String,
    board: Board,
    metrics: Arc<Metrics>,
    evictions: crate::eviction::Metrics,
    records: Records,
    collector: Collector,
    hooks: Hooks,
}

/// Serves until cancelled. Garbage on a connection ends that connection only.
///
/// # Errors
/// [`Error::Socket`] when the listener cannot be used.
pub async fn serve(options: Options, cancel: CancellationToken) -> Result<(), Error> {
    options.listener.set_nonblocking(true).map_err(Error::Socket)?;
    let listener = tokio::net::TcpListener::from_std(options.listener).map_err(Error::Socket)?;
    let Options { tls, client, cri, node_name: name, board, metrics, evictions, records, collector, hooks, .. } =
        options;
    let guard = Arc::new(Guard::new(client.clone(), &name));
    let node = Arc::new(Node { client, cri, name, board, metrics, evictions, records, collector, hooks });
    let mut tls = tls;
    Arc::make_mut(&mut tls).alpn_protocols = protocol::PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(acceptor.clone(), stream, (node.clone(), guard.clone())));
                }
                Err(error) => {
                    tracing::warn!(%error, "node port: connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.shutdown().await;
    Ok(())
}

/// One connection from handshake to end. Dropping the task ends it, streams included.
async fn connection(acceptor: TlsAcceptor, stream: TcpStream, (node, guard): (Arc<Node>, Arc<Guard>)) {
    let Ok(_) = stream.set_nodelay(true) else { return };
    let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else {
        return tracing::debug!("node port: no TLS handshake");
    };
    let caller = Arc::new(identity::caller(stream.get_ref().1.peer_certificates()));
    let upgrades = stream::Upgrades::default();
    let service = service_fn(|request| {
        let (node, guard, caller, upgrades) = (node.clone(), guard.clone(), caller.clone(), upgrades.clone());
        async move { Ok::<_, Infallible>(answer(&node, &guard, (&caller, &upgrades), request).await) }
    });
    let serving = protocol::builder().serve_connection(TokioIo::new(stream), service).with_upgrades();
    if let Err(error) = serving.await {
        tracing::debug!(%error, "node port: connection ended");
    }
    upgrades.finish().await;
}

/// One request: what it asks for is judged by the parts of its path, by which it is served too.
async fn answer(
    node: &Node,
    guard: &Guard,
    (caller, upgrades): (&Option<Caller>, &stream::Upgrades),
    request: http::Request<hyper::body::Incoming>,
) -> Answer {
    let parts = route::parts(request.uri().path());
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match guard.admit(caller.as_ref(), request.headers(), (request.method(), &parts)).await {
        Ok(()) => route::answer(node, &parts, request, upgrades).await,
        Err(refusal) => *refusal,
    }
}

/// A plain text answer.
fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", text)
}

fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => typed(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}
