//! Whom TLS to a host believes, and who this node says it is (IMG-135, IMG-145).
//!
//! Owns the reading of certificates from files, at each pull, and the TLS configuration made of them.

use super::hosts::{HostsError, TlsFiles};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What counts for TLS to one host.
pub(crate) struct Trust {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    skips_verification: bool,
    pub(super) dial_timeout: Duration,
    /// Tells one trust from another, without holding a key.
    pub(super) fingerprint: String,
}

impl Trust {
    /// Reads the files of a host.
    pub(crate) fn load(files: &TlsFiles, dial_timeout: Duration) -> Result<Trust, HostsError> {
        let mut hash = Sha256::new();
        hash.update([u8::from(files.skips_verification)]);
        hash.update(dial_timeout.as_nanos().to_le_bytes());
        let mut authorities = Vec::new();
        for path in &files.authorities {
            let bytes = read(path, &mut hash)?;
            authorities.extend(certificates(path, &bytes)?);
        }
        let mut client = None;
        if let Some((certificate, key)) = &files.client {
            let chain = certificates(certificate, &read(certificate, &mut hash)?)?;
            let private = PrivateKeyDer::from_pem_slice(&read(key, &mut hash)?);
            client = Some((chain, private.map_err(|_| wrong(key, "holds no private key"))?));
        }
        let fingerprint = hex::encode(hash.finalize());
        Ok(Trust { authorities, client, skips_verification: files.skips_verification, dial_timeout, fingerprint })
    }

    /// The configuration for TLS. Nobody stands between this machine and itself, so loopback is believed unless a file
    /// names its authorities (IMG-133); this node's own certificate is for the host itself alone.
    pub(super) fn config(
        &self,
        system: &RootCertStore,
        (is_loopback, shows_certificate): (bool, bool),
    ) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = if self.skips_verification || (is_loopback && self.authorities.is_empty()) {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            let mut roots = system.clone();
            roots.add_parsable_certificates(self.authorities.iter().cloned());
            builder.with_root_certificates(roots)
        };
        match self.client.as_ref().filter(|_| shows_certificate) {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()),
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

/// The authorities of this machine.
pub(super) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        tracing::warn!("no certificate authorities found on this machine: TLS to registries needs a `ca` of its own");
    }
    roots
}

fn read(path: &Path, hash: &mut Sha256) -> Result<Vec<u8>, HostsError> {
    let bytes = std::fs::read(path).map_err(|error| wrong(path, &error.to_string()))?;
    hash.update(bytes.len().to_le_bytes());
    hash.update(&bytes);
    Ok(bytes)
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, HostsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| wrong(path, "holds no certificate"))
}

fn wrong(path: &Path, detail: &str) -> HostsError {
    HostsError { path: path.to_owned(), line: 0, detail: detail.to_owned() }
}

/// Accepts any certificate.
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
