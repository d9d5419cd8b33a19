//! A certificate authority for tests: server and client certificates, TLS configurations and kubeconfigs.
#![allow(dead_code, missing_docs)] // Each test uses its part of it.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Pki {
    pub fn new() -> Pki {
        Pki::named("test-ca")
    }

    /// Another authority may have the same name.
    pub fn named(name: &str) -> Pki {
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let ca = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        Pki { ca }
    }

    pub fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    pub fn client(&self, name: &str, group: &str) -> Identity {
        self.sign(Pki::client_of(name, group))
    }

    /// What is certified of a client.
    pub fn client_of(name: &str, group: &str) -> CertificateParams {
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        if !group.is_empty() {
            parameters.distinguished_name.push(DnType::OrganizationName, group);
        }
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        parameters
    }

    /// An authority of this one.
    pub fn below(&self, name: &str) -> Pki {
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Pki { ca: CertifiedIssuer::signed_by(parameters, key, &self.ca).unwrap() }
    }

    pub fn sign(&self, parameters: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.ca).unwrap();
        Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// What a server shows.
    fn serving(&self) -> Identity {
        let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(parameters)
    }

    /// TLS of an API server that judges clients by this authority.
    pub fn api_config(&self) -> Arc<rustls::ServerConfig> {
        let verifier = apiserver::ClientCertificates::of(&self.ca_pem()).unwrap();
        config(&self.serving(), Arc::new(verifier))
    }

    pub fn server_config(&self) -> Arc<rustls::ServerConfig> {
        self.server_config_with(&self.serving())
    }

    /// A server that shows some identity.
    pub fn server_config_with(&self, identity: &Identity) -> Arc<rustls::ServerConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .unwrap();
        config(identity, verifier)
    }

    pub fn kubeconfig(&self, address: SocketAddr, user: &str, group: &str) -> String {
        let identity = self.client(user, group);
        let encode = |text: &str| STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    server: \
             https://{address}\n    certificate-authority-data: {}\ncontexts:\n- name: test\n  context:\n    cluster: \
             test\n    user: test\nusers:\n- name: test\n  user:\n    client-certificate-data: {}\n    \
             client-key-data: {}\n",
            encode(&self.ca_pem()),
            encode(&identity.certificate_pem),
            encode(&identity.key_pem),
        )
    }
}

fn config(
    identity: &Identity,
    verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}
