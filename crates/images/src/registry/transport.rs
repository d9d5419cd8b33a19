//! Sends one request to one host and follows its redirects (IMG-132, IMG-147).
//!
//! Owns connections and TLS. Credentials come as finished headers and never leave the origin they were given for.

use super::endpoint::{is_loopback, split_port};
use super::fault::{Fault, RequestError, classify};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION, PROXY_AUTHORIZATION, RANGE};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const REDIRECTS_MAX: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("sampan/", env!("CARGO_PKG_VERSION"));

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The HTTP clients, built when first needed and shared by all pulls.
#[derive(Default)]
pub(crate) struct Transport {
    verified: OnceLock<HttpClient>,
    loopback: OnceLock<HttpClient>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
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
        match tokio::time::timeout(ask.timeout, self.client_for(uri)?.request(request)).await {
            Err(_) => Err(RequestError::new(Fault::TimedOut, &host, "no answer in time")),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let (fault, detail) = classify(&error);
                Err(RequestError::new(fault, &host, detail))
            }
        }
    }

    /// Loopback certificates are not checked: nobody stands between (IMG-133).
    fn client_for(&self, uri: &Uri) -> Result<&HttpClient, RequestError> {
        let host = split_port(uri.authority().map(|a| a.as_str()).unwrap_or_default()).0;
        let loopback = is_loopback(host);
        let slot = if loopback { &self.loopback } else { &self.verified };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let config =
            tls(loopback).map_err(|error| RequestError::new(Fault::Tls, &origin_of(uri), error.to_string()))?;
        Ok(slot.get_or_init(|| client(config)))
    }
}

fn client(config: rustls::ClientConfig) -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(connector);
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(8)
        .http1_max_buf_size(1 << 20)
        .build(connector)
}

fn tls(loopback: bool) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    if loopback {
        let verifier = Arc::new(AnyCertificate(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!("no certificate authorities found on this machine: TLS to registries will fail");
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Accepts any certificate; used for loopback addresses alone.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
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
