//! The TLS listener: connections in, requests to the router.
//!
//! Whatever a connection does, it ends alone: garbage, a stalled handshake or a slow header closes that connection and
//! nothing else. What it bears is in `limits`. It must not look into requests. Start at [`ApiServer::serve`].

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::audit::Peer;
use crate::limits::{HEADER_BYTES_MAX, Limits, STREAMS_MAX};
use crate::pulse::{Pulse, Verdict};
use crate::server::{ApiServer, Core, Error};

/// How long requests may take to end after the cancellation.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that is cut may take to say good-bye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a client of HTTP/2 is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Pause after a failed accept, so that a lack of file descriptors is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl ApiServer {
    /// Serves until `cancel`; then stops accepting, lets running requests end for some seconds and returns.
    ///
    /// `tls` decides whether client certificates are asked for ([`crate::ClientCertificates`]); they are judged by the
    /// authority in the options, and one that holds names the user.
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
        let permits = Arc::new(Semaphore::new(self.core.limits.connections));
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
            let door = Door { acceptor: acceptor.clone(), router: router.clone(), core: self.core.clone() };
            let (seat, cancel) = (Seat(Arc::new(permit)), cancel.clone());
            tasks.spawn(connection(door, stream, seat, cancel));
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

/// A place among the connections, also of what a connection becomes by an upgrade.
#[derive(Clone, Debug)]
pub struct Seat(#[allow(dead_code)] Arc<OwnedSemaphorePermit>); // Held, never read.

/// What every connection needs.
struct Door {
    acceptor: TlsAcceptor,
    router: Router,
    core: Arc<Core>,
}

async fn connection(door: Door, (stream, peer): (TcpStream, Peer), seat: Seat, cancel: CancellationToken) {
    let Door { acceptor, router, core } = door;
    let limits = &core.limits;
    // Frames of watches are small and urgent.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection closed at once");
    }
    let stream = match tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS handshake"),
        Err(_) => return tracing::debug!("the TLS handshake took too long"),
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown = core.certificates.as_ref().and_then(|certificates| certificates.judge(chain));
    let pulse = Pulse::new(limits.clone(), Instant::now());
    let counted = pulse.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        let extensions = request.extensions_mut();
        extensions.insert(peer);
        extensions.insert(seat.clone());
        if let Some(shown) = &shown {
            extensions.insert(shown.clone());
        }
        let running = counted.request();
        let answer = router.clone().oneshot(request.map(Body::new));
        async move { answer.await.map(|response| running.answer(response)) }
    });
    let builder = http(limits, stream.get_ref().1.alpn_protocol() == Some(b"h2"));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = cancel.cancelled() => {
            serving.as_mut().graceful_shutdown();
            Some(serving.await)
        }
        verdict = end_of(&pulse) => {
            tracing::debug!(?verdict, "a connection is cut");
            serving.as_mut().graceful_shutdown();
            // A client that only was idle is told so.
            tokio::time::timeout(GOODBYE_TIMEOUT, serving).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Waits until a connection should end.
async fn end_of(pulse: &Pulse) -> Verdict {
    loop {
        match pulse.judge(Instant::now()) {
            Verdict::Lives(until) => tokio::time::sleep_until(until).await,
            verdict => return verdict,
        }
    }
}

/// The protocol that the handshake agreed on. To guess it from the first bytes would be to wait for them.
fn http(limits: &Limits, two: bool) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if two { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING_INTERVAL))
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX);
    builder
}
