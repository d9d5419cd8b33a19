//! The way to a webhook: HTTPS, judged by the bundle that its configuration names or by the machine's own roots.
//!
//! It must not know what travels. Bodies are bounded, calls are timed by the caller. Start at [`https`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tower::util::BoxCloneSyncService;

use crate::limits::BODY_BYTES_MAX;

/// Bundles whose connections are kept; more of them are connected anew.
const BUNDLES_MAX: usize = 64;

/// One call.
#[derive(Clone, Debug)]
pub struct WebhookCall {
    /// Where to, with its query.
    pub url: String,
    /// Who may answer, PEM; empty for the machine's own roots.
    pub ca_bundle: Bytes,
    /// JSON to send.
    pub body: Bytes,
}

/// A service that calls webhooks; the error says why there is no answer.
pub type WebhookClient = BoxCloneSyncService<WebhookCall, Bytes, String>;

type Pool = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The client over real HTTPS. Connections are kept and used again.
pub fn https() -> WebhookClient {
    let pools: Arc<Mutex<HashMap<Bytes, Pool>>> = Arc::default();
    let service = tower::service_fn(move |call: WebhookCall| {
        let pools = pools.clone();
        async move {
            let pool = pool(&pools, &call.ca_bundle).await?;
            send(&pool, call).await
        }
    });
    BoxCloneSyncService::new(service)
}

async fn pool(pools: &Mutex<HashMap<Bytes, Pool>>, bundle: &Bytes) -> Result<Pool, String> {
    let known = pools.lock().unwrap_or_else(PoisonError::into_inner).get(bundle).cloned();
    if let Some(pool) = known {
        return Ok(pool);
    }
    let roots = if bundle.is_empty() { own_roots().await? } else { roots_in(bundle)? };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    let pool = Client::builder(TokioExecutor::new()).build(connector);
    let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
    if pools.len() >= BUNDLES_MAX {
        pools.clear();
    }
    pools.insert(bundle.clone(), pool.clone());
    Ok(pool)
}

fn roots_in(bundle: &[u8]) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|error| format!("unable to load root certificates: {error}"))?;
        roots.add(certificate).map_err(|error| format!("unable to load root certificates: {error}"))?;
    }
    if roots.is_empty() {
        return Err("unable to load root certificates: the caBundle holds none".to_owned());
    }
    Ok(roots)
}

async fn own_roots() -> Result<rustls::RootCertStore, String> {
    static ROOTS: OnceLock<rustls::RootCertStore> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let load = || {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    let roots = tokio::task::spawn_blocking(load).await.map_err(|error| error.to_string())?;
    Ok(ROOTS.get_or_init(|| roots).clone())
}

async fn send(pool: &Pool, call: WebhookCall) -> Result<Bytes, String> {
    let request = Request::post(&call.url)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(call.body))
        .map_err(|error| error.to_string())?;
    let response = pool.request(request).await.map_err(|error| innermost(&error))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err("the server could not find the requested resource".to_owned()),
        status if status.is_server_error() => {
            return Err("an error on the server (\"unknown\") has prevented the request from succeeding".to_owned());
        }
        status => return Err(format!("the server answered {status}")),
    }
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| format!("the answer could not be read: {error}"))
}

/// The cause at the bottom: what people need to know.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
