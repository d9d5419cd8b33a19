//! Client certificates: asked for in the handshake, judged after it.
//!
//! A TLS alert is all that a handshake can say, and clients show it as a broken connection. So, as upstream, the handshake
//! proves only that the client has the key of what it shows; whose it is, and until when, is judged here, and a
//! certificate that proves nothing is a 401. Start at [`ClientCertificates`].

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::user::UserInfo;

/// Verifies client certificates of one authority.
#[derive(Debug)]
pub struct ClientCertificates {
    verifier: Arc<dyn ClientCertVerifier>,
}

/// What a connection's certificate is worth.
#[derive(Clone, Debug)]
pub enum Shown {
    /// It proves an identity until then, in seconds since 1970.
    Proven(UserInfo, i64),
    /// It proves nothing, for this reason.
    Refused(String),
}

impl Shown {
    /// The identity that it proves now, or why none.
    pub fn now(&self, now_seconds: i64) -> Result<&UserInfo, &str> {
        match self {
            Shown::Proven(user, until) if now_seconds <= *until => Ok(user),
            Shown::Proven(..) => Err("the certificate has expired"),
            Shown::Refused(reason) => Err(reason),
        }
    }
}

impl ClientCertificates {
    /// Judges by the certificates in the PEM text. As the verifier of a `rustls::ServerConfig` it asks every client for a
    /// certificate and lets in also who has none or a wrong one.
    ///
    /// # Errors
    /// Why the text cannot be used.
    pub fn of(ca_pem: &str) -> Result<ClientCertificates, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated();
        Ok(ClientCertificates { verifier: verifier.build().map_err(|e| e.to_string())? })
    }

    /// What the chain that a client showed proves; None if it shows nobody.
    pub fn judge(&self, chain: &[CertificateDer<'_>]) -> Option<Shown> {
        let (leaf, intermediates) = chain.split_first()?;
        if let Err(error) = self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()) {
            return Some(Shown::Refused(error.to_string()));
        }
        let until = chain.iter().map(|certificate| {
            X509Certificate::from_der(certificate).map_or(0, |(_, parsed)| parsed.validity().not_after.timestamp())
        });
        let until = until.min().unwrap_or_default();
        UserInfo::from_certificate(leaf).map(|user| Shown::Proven(user, until))
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    /// Not yet: see [`ClientCertificates::judge`].
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
