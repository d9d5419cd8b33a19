//! Sends one request to one host and follows its redirects (IMG-132, IMG-147).
//!
//! Owns the HTTP clients. Credentials come as finished headers and never leave the origin they were given for.

use super::connect::{Connector, InTime, Proxies, ProxyOptions};
use super::endpoint::{is_loopback, split_port};
use super::fault::{Fault, RequestError, classify};
use super::trust::{Trust, system_roots};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION, PROXY_AUTHORIZATION, RANGE};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

const REDIRECTS_MAX: usize = 10;
/// What TLS may take beyond the time for connecting.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Clients that are kept; a machine has a few trusts, and each change of a certificate makes a new one.
const CLIENTS_MAX: usize = 32;
const USER_AGENT: &str = concat!("sampan/", env!("CARGO_PKG_VERSION"));

type HttpClient = Client<InTime<HttpsConnector<Connector>>, Full<Bytes>>;

/// The HTTP clients, built when first needed and shared by all pulls.
pub(crate) struct Transport {
    proxies: Arc<Proxies>,
    system: OnceLock<RootCertStore>,
    clients: Mutex<BTreeMap<(String, bool, bool), HttpClient>>,
}

/// One request.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) trust: Arc<Trust>,
    /// Sent to the first origin only.
    pub(crate) private: HeaderMap,
    /// Sent to redirect targets too.
    pub(crate) public: HeaderMap,
    pub(crate) form: Option<String>,
    /// How long the head of each answer may take, connecting included.
    pub(crate) timeout: Duration,
}

/// An answer, and whether another origin gave it.
pub(crate) struct Reply {
    pub(crate) response: Response<Incoming>,
    /// Scheme and host that answered, for messages.
    pub(crate) host: String,
    pub(crate) elsewhere: bool,
}

impl Transport {
    pub(crate) fn new(proxy: &ProxyOptions) -> Transport {
        Transport { proxies: Arc::new(Proxies::new(proxy)), system: OnceLock::new(), clients: Mutex::default() }
    }

    /// Sends a request and follows redirects. A status of 400 and above is a reply, not an error.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Reply, RequestError> {
        let origin = origin_of(&ask.uri);
        let mut uri = ask.uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let here = origin_of(&uri);
            let elsewhere = here != origin;
            let response = self.send_once(ask, &uri, elsewhere).await?;
            if !is_redirect(&response) {
                return Ok(Reply { response, host: here, elsewhere });
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let next = resolve(&uri, location)
                .ok_or_else(|| RequestError::new(Fault::Protocol, &here, "redirect without a usable location"))?;
            let downgrade = ask.uri.scheme_str() == Some("https") && next.scheme_str() != Some("https");
            if downgrade {
                let target = origin_of(&next);
                return Err(RequestError::new(Fault::Protocol, &here, format!("refusing redirect to {target}")));
            }
            uri = next;
        }
        Err(RequestError::new(Fault::Protocol, &origin, format!("more than {REDIRECTS_MAX} redirects")))
    }

    async fn send_once(&self, ask: &Ask, uri: &Uri, elsewhere: bool) -> Result<Response<Incoming>, RequestError> {
        let host = origin_of(uri);
        let mut request = Request::new(Full::new(Bytes::from(ask.form.clone().unwrap_or_default())));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() =
            without_userinfo(uri).ok_or_else(|| RequestError::new(Fault::Protocol, &host, "not a usable address"))?;
        let headers = request.headers_mut();
        headers.insert(http::header::USER_AGENT, http::HeaderValue::from_static(USER_AGENT));
        // Range requests count bytes of the blob itself, so no coding may stand between (IMG-143).
        headers.insert(http::header::ACCEPT_ENCODING, http::HeaderValue::from_static("identity"));
        if ask.form.is_some() {
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        headers.extend(ask.public.clone());
        if !elsewhere {
            headers.extend(ask.private.clone());
        }
        debug_assert!(
            !elsewhere || [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].iter().all(|h| !headers.contains_key(h))
        );
        headers.extend(self.proxies.authorization(uri).map(|value| (PROXY_AUTHORIZATION, value)));
        let client = self.client_for(uri, &ask.trust, elsewhere)?;
        match tokio::time::timeout(ask.timeout, client.request(request)).await {
            Err(_) => Err(RequestError::new(Fault::TimedOut, &host, "no answer in time")),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let (fault, detail) = classify(&error);
                Err(RequestError::new(fault, &host, detail))
            }
        }
    }

    /// The client for an address under a trust. Only the origin that was asked for sees this node's certificate.
    fn client_for(&self, uri: &Uri, trust: &Trust, elsewhere: bool) -> Result<HttpClient, RequestError> {
        let host = split_port(uri.authority().map(|a| a.as_str()).unwrap_or_default()).0;
        let loopback = is_loopback(host);
        let key = (trust.fingerprint.clone(), loopback, elsewhere);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let failed = |error: rustls::Error| RequestError::new(Fault::Tls, &origin_of(uri), error.to_string());
        let system = self.system.get_or_init(system_roots);
        let to_registry = trust.config(system, (loopback, !elsewhere)).map_err(failed)?;
        let plain = Trust::load(&Default::default(), trust.dial_timeout).expect("no file is read");
        let to_proxy = plain.config(system, (false, false)).map_err(failed)?;
        let client = self.client(to_registry, to_proxy, trust.dial_timeout);
        if clients.len() >= CLIENTS_MAX {
            // Those in use live on in the requests that use them.
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn client(
        &self,
        to_registry: rustls::ClientConfig,
        to_proxy: rustls::ClientConfig,
        dial_timeout: Duration,
    ) -> HttpClient {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_connect_timeout(Some(dial_timeout));
        let connector = Connector { direct, proxies: self.proxies.clone(), proxy_tls: Arc::new(to_proxy) };
        let inner = HttpsConnectorBuilder::new()
            .with_tls_config(to_registry)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector);
        let limit = dial_timeout.saturating_add(HANDSHAKE_TIMEOUT);
        Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_max_idle_per_host(8)
            .http1_max_buf_size(512 << 10)
            .http2_adaptive_window(true)
            .build(InTime { inner, limit })
    }
}

fn is_redirect(response: &Response<Incoming>) -> bool {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Scheme, host and port: what credentials are bound to, and all of an address that messages show (IMG-146).
pub(crate) fn origin_of(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("https");
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    match uri.port_u16() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

fn without_userinfo(uri: &Uri) -> Option<Uri> {
    let authority = uri.authority()?.as_str();
    let bare = authority.rsplit('@').next().unwrap_or(authority);
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(bare.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Resolves a `Location` against the address that sent it.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    if location.is_empty() {
        return None;
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let absolute = if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    let uri: Uri = absolute.parse().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri).filter(|uri| uri.host().is_some())
}

/// A `Range` header from an offset to the end.
pub(crate) fn range_from(offset: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if offset > 0 {
        let value = format!("bytes={offset}-").parse().expect("digits make a header value");
        headers.insert(RANGE, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_against_their_base() {
        let base: Uri = "https://r.io:5000/v2/a/blobs/x?y".parse().unwrap();
        for (location, expected) in [
            ("https://cdn.io/b?sig=1#f", Some("https://cdn.io/b?sig=1")),
            ("//cdn.io/b", Some("https://cdn.io/b")),
            ("/b", Some("https://r.io:5000/b")),
            ("b", Some("https://r.io:5000/v2/a/blobs/b")),
            ("?z", Some("https://r.io:5000/v2/a/blobs/x?z")),
            ("ftp://cdn.io/b", None),
            ("", None),
        ] {
            assert_eq!(resolve(&base, location).map(|uri| uri.to_string()).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn messages_show_neither_user_nor_query() {
        let uri: Uri = "https://user:secret@R.io:5000/x?sig=1".parse().unwrap();
        assert_eq!(origin_of(&uri), "https://r.io:5000");
        assert_eq!(without_userinfo(&uri).unwrap().to_string(), "https://R.io:5000/x?sig=1");
    }
}
