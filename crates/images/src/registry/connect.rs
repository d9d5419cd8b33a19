//! Connections: directly, or through the proxy that the environment names (IMG-145).
//!
//! Owns the choice of the way and the bytes of a connection; TLS to the registry is laid over it in `transport.rs`.
//! Through a proxy, https is tunnelled by CONNECT and http is asked for by its whole address. Loopback is never proxied.

use super::endpoint::{is_loopback, split_port};
use super::transport::origin_of;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn StdError + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Proxies in the words of the environment variables; empty for none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyOptions {
    /// `HTTP_PROXY`: for registries without TLS.
    pub http: String,
    /// `HTTPS_PROXY`: for registries with TLS.
    pub https: String,
    /// `NO_PROXY`: hosts, domains and networks that are reached directly.
    pub no: String,
}

impl std::fmt::Debug for ProxyOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The addresses may hold a password.
        formatter.debug_struct("ProxyOptions").field("no", &self.no).finish_non_exhaustive()
    }
}

impl ProxyOptions {
    /// What this process was started with; upper case before lower case.
    pub fn from_environment() -> ProxyOptions {
        let read = |name: &str| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.or_else(|| std::env::var(name.to_ascii_lowercase()).ok()).unwrap_or_default()
        };
        ProxyOptions { http: read("HTTP_PROXY"), https: read("HTTPS_PROXY"), no: read("NO_PROXY") }
    }
}

/// Which requests take which proxy.
pub(super) struct Proxies(Matcher);

impl Proxies {
    pub(super) fn new(options: &ProxyOptions) -> Proxies {
        let builder = Matcher::builder().http(options.http.clone()).https(options.https.clone());
        Proxies(builder.no(options.no.clone()).build())
    }

    fn intercept(&self, target: &Uri) -> Option<Intercept> {
        let host = split_port(target.authority()?.as_str()).0;
        if is_loopback(host) { None } else { self.0.intercept(target) }
    }

    /// What a request without TLS must show to its proxy; with TLS the tunnel shows it.
    pub(super) fn authorization(&self, target: &Uri) -> Option<HeaderValue> {
        if target.scheme_str() != Some("http") {
            return None;
        }
        self.intercept(target)?.basic_auth().cloned()
    }
}

/// A connection failed on its way through a proxy.
#[derive(Debug, thiserror::Error)]
#[error("proxy {proxy}")]
struct ProxyError {
    proxy: String,
    source: BoxError,
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) direct: HttpConnector,
    pub(super) proxies: Arc<Proxies>,
    /// For a proxy that is itself spoken to with TLS.
    pub(super) proxy_tls: Arc<rustls::ClientConfig>,
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Connecting<Stream>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Connecting<Stream> {
        let mut direct = self.direct.clone();
        let Some(way) = self.proxies.intercept(&target) else {
            return Box::pin(async move {
                let stream = direct.call(target).await?;
                Ok(Stream { inner: MaybeHttpsStream::Http(stream), is_proxied: false })
            });
        };
        let to_proxy = HttpsConnector::from((direct, self.proxy_tls.clone()));
        Box::pin(async move {
            let proxy = origin_of(way.uri());
            through(way, to_proxy, target).await.map_err(|source| ProxyError { proxy, source }.into())
        })
    }
}

async fn through(way: Intercept, mut to_proxy: HttpsConnector<HttpConnector>, target: Uri) -> Result<Stream, BoxError> {
    if !matches!(way.uri().scheme_str(), Some("http" | "https")) {
        return Err("only http and https proxies are known".into());
    }
    if target.scheme_str() == Some("http") {
        let inner = to_proxy.call(way.uri().clone()).await?;
        return Ok(Stream { inner, is_proxied: true });
    }
    let mut tunnel = Tunnel::new(way.uri().clone(), to_proxy);
    if let Some(authorization) = way.basic_auth() {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    Ok(Stream { inner: tunnel.call(target).await?, is_proxied: false })
}

/// The bytes of a connection, before TLS to the registry.
pub(super) struct Stream {
    inner: MaybeHttpsStream<TokioIo<TcpStream>>,
    /// Requests must carry the whole address.
    is_proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self.is_proxied {
            true => Connected::new().proxy(true),
            false => self.inner.connected(),
        }
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, cursor)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Gives a connection up that is not there in time, TLS included (IMG-147).
#[derive(Clone)]
pub(super) struct InTime<C> {
    pub(super) inner: C,
    pub(super) limit: Duration,
}

impl<C> Service<Uri> for InTime<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
    C::Response: 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Connecting<C::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let (connecting, limit) = (self.inner.call(target), self.limit);
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time").into()),
            }
        })
    }
}
