//! The TLS listener: connections in, requests to the router.
//!
//! Whatever a connection does, it ends alone: garbage, a stalled handshake or a slow header closes that connection and
//! nothing else. It must not look into requests. Start at [`ApiServer::serve`].

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::audit::Peer;
use crate::server::{ApiServer, Error};
use crate::user::UserInfo;

const CONNECTIONS_MAX: usize = 4096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may take to end after the cancellation.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, so that a lack of file descriptors is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl ApiServer {
    /// Serves until `cancel`; then stops accepting, lets running requests end for some seconds and returns.
    ///
    /// `tls` decides whether client certificates are asked for and by which CA they are judged; a verified one names the
    /// user.
    pub async fn serve(
        &self,
        listener: TcpListener,
        mut tls: Arc<rustls::ServerConfig>,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        if tls.alpn_protocols.is_empty() {
            Arc::make_mut(&mut tls).alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let acceptor = TlsAcceptor::from(tls);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tasks = TaskTracker::new();
        let router = self.router();
        loop {
            let permit = tokio::select! {
                () = cancel.cancelled() => break,
                permit = permits.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, peer)) => (stream, Peer(peer)),
                Err(error) if is_fatal(&error) => return Err(Error::Accept(error)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (acceptor, router, cancel) = (acceptor.clone(), router.clone(), cancel.clone());
            tasks.spawn(async move {
                connection(acceptor, stream, router, cancel).await;
                drop(permit);
            });
        }
        tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::info!(connections = tasks.len(), "connections were cut at the end");
        }
        Ok(())
    }
}

fn is_fatal(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::NotConnected)
}

async fn connection(
    acceptor: TlsAcceptor,
    (stream, peer): (TcpStream, Peer),
    router: Router,
    cancel: CancellationToken,
) {
    // Frames of watches are small and urgent.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection closed at once");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS handshake"),
        Err(_) => return tracing::debug!("the TLS handshake took too long"),
    };
    let chain = stream.get_ref().1.peer_certificates();
    let user = chain.and_then(|chain| chain.first()).and_then(|leaf| UserInfo::from_certificate(leaf));
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        if let Some(user) = &user {
            request.extensions_mut().insert(user.clone());
        }
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(30)));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = cancel.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
