//! The cluster's certificates: made on first start, renewed at start when less than a third of their life is left.
//!
//! One CA signs everything. Private keys are files of mode 0600 under `<data-dir>/pki` and never leave it.

pub mod signer;

use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use apiserver::ClientCertificates;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};

use crate::clock;

const DAY: u64 = 86_400;
const CA_DAYS: u64 = 3650;
const LEAF_DAYS: u64 = 365;
/// Certificates are valid from a little before now, for machines whose clocks differ.
const SKEW_SECONDS: u64 = 300;

/// A certificate chain and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// Everything that this cluster's doors need.
pub struct Certificates {
    /// The CA's certificate, PEM.
    pub ca: String,
    /// The API server's serving certificate.
    pub server: Identity,
    /// The node port's serving certificate.
    pub node: Identity,
    /// The API server's client certificate towards the node port.
    pub node_client: Identity,
    /// The administrator's client certificate.
    pub admin: Identity,
    /// The private key that signs tokens of service accounts, PEM. Kept as long as the data: its tokens are in pods.
    pub service_account_key: String,
}

/// What a leaf certificate says.
struct Leaf<'a> {
    file: &'a str,
    common_name: String,
    organisation: Option<&'a str>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Certificates {
    /// Loads what is there, makes or renews the rest. `addresses` are those on which the API is reached.
    pub fn ensure(dir: &Path, node_name: &str, addresses: &[IpAddr]) -> anyhow::Result<Certificates> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let authority = Authority::ensure(dir)?;
        let mut api_addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1])];
        for address in addresses.iter().filter(|address| !address.is_unspecified()) {
            if !api_addresses.contains(address) {
                api_addresses.push(*address);
            }
        }
        let api_names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            node_name,
        ];
        let server = authority.leaf(&Leaf {
            file: "apiserver",
            common_name: "kube-apiserver".into(),
            organisation: None,
            names: api_names.map(String::from).to_vec(),
            addresses: api_addresses.clone(),
        })?;
        let node_names = vec![node_name.into(), "localhost".into()];
        let node = authority.leaf(&node_leaf(node_name, node_names, api_addresses))?;
        let client = |file, common_name: &str, organisation| {
            authority.leaf(&Leaf {
                file,
                common_name: common_name.into(),
                organisation,
                names: Vec::new(),
                addresses: Vec::new(),
            })
        };
        Ok(Certificates {
            server,
            node,
            node_client: client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", None)?,
            admin: client("admin", "kubernetes-admin", Some("system:masters"))?,
            service_account_key: service_account_key(dir)?,
            ca: authority.certificate,
        })
    }

    /// TLS of the API server: client certificates are welcome, not demanded (bearer tokens are served too). The server
    /// judges them itself, so that it can say what is wrong.
    pub fn api_tls(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let asked = ClientCertificates::of(&self.ca).map_err(anyhow::Error::msg)?;
        server_config(&self.server, Arc::new(asked))
    }

    /// TLS of the node port: client certificates are those of this CA; who shows none may show a token.
    pub fn node_tls(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        server_config(
            &self.node,
            WebPkiClientVerifier::builder(Arc::new(self.roots()?)).allow_unauthenticated().build()?,
        )
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes())?)?;
        Ok(roots)
    }
}

/// TLS of a node port that shows what it is told: who shows a certificate shows one of `clients`.
pub fn node_tls(
    shown: Arc<dyn ResolvesServerCert>,
    clients: Arc<RootCertStore>,
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let verifier = WebPkiClientVerifier::builder(clients).allow_unauthenticated().build()?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown);
    Ok(speaking_http(config))
}

/// The certificate of the authority in `dir`, PEM.
pub fn authority(dir: &Path) -> anyhow::Result<String> {
    let found = read_if_there(&dir.join("ca.crt"))?;
    found.with_context(|| format!("{} has no authority", dir.display()))
}

/// What a node on another machine is known by, as client of the API and on its node port; signed by the CA in `dir`.
pub fn for_node(dir: &Path, node_name: &str, addresses: &[IpAddr]) -> anyhow::Result<(Identity, String)> {
    let found = load(dir, "ca")?;
    let Identity { certificate, key } = found.with_context(|| {
        format!("no cluster has been started here: {} has no authority; see --data-dir", dir.display())
    })?;
    let authority = Authority { dir: dir.into(), certificate, key };
    let names = vec![node_name.into(), "localhost".into()];
    Ok((authority.sign(&node_leaf(node_name, names, addresses.to_vec()))?, authority.certificate))
}

fn node_leaf(node_name: &str, names: Vec<String>, addresses: Vec<IpAddr>) -> Leaf<'static> {
    Leaf {
        file: "node",
        common_name: format!("system:node:{node_name}"),
        organisation: Some("system:nodes"),
        names,
        addresses,
    }
}

/// The node that a client certificate is of.
pub fn node_of(certificate: &str) -> Option<String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
    let certificate = block.parse_x509().ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.strip_prefix("system:node:")?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn server_config(
    identity: &Identity,
    verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<_, _>>()?,
            PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?,
        )?;
    Ok(speaking_http(config))
}

fn speaking_http(mut config: rustls::ServerConfig) -> Arc<rustls::ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The one cryptography provider of the program.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

struct Authority {
    dir: PathBuf,
    certificate: String,
    key: String,
}

impl Authority {
    fn ensure(dir: &Path) -> anyhow::Result<Authority> {
        let identity = match load(dir, "ca")? {
            Some(identity) => identity,
            None => {
                let identity = make_authority()?;
                save(dir, "ca", &identity)?;
                identity
            }
        };
        Ok(Authority { dir: dir.into(), certificate: identity.certificate, key: identity.key })
    }

    fn leaf(&self, leaf: &Leaf) -> anyhow::Result<Identity> {
        if let Some(identity) = load(&self.dir, leaf.file)?
            && serves(&identity.certificate, leaf)
        {
            return Ok(identity);
        }
        let identity = self.sign(leaf)?;
        save(&self.dir, leaf.file, &identity)?;
        Ok(identity)
    }

    fn sign(&self, leaf: &Leaf) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let certificate = leaf_params(leaf)?.signed_by(&key, &issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

fn service_account_key(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("sa.key");
    if let Some(key) = read_if_there(&path)? {
        return Ok(key);
    }
    let key = KeyPair::generate()?.serialize_pem();
    write_private(&path, &key)?;
    Ok(key)
}

fn make_authority() -> anyhow::Result<Identity> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = name("sampan-ca", None);
    validity(&mut params, CA_DAYS);
    let key = KeyPair::generate()?;
    Ok(Identity { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn leaf_params(leaf: &Leaf) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(leaf.names.clone())?;
    params.subject_alt_names.extend(leaf.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name = name(&leaf.common_name, leaf.organisation);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, LEAF_DAYS);
    Ok(params)
}

fn name(common_name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn validity(params: &mut CertificateParams, days: u64) {
    let now = clock::wall();
    params.not_before = (now - std::time::Duration::from_secs(SKEW_SECONDS)).into();
    params.not_after = (now + std::time::Duration::from_secs(days * DAY)).into();
}

/// Whether a stored certificate still says what `leaf` asks and has a third of its life left.
fn serves(pem: &str, leaf: &Leaf) -> bool {
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok(certificate) = block.parse_x509() else { return false };
    let validity = certificate.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    let now = clock::wall().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    if (validity.not_after.timestamp() - now) * 3 < life || now < validity.not_before.timestamp() {
        return false;
    }
    let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let organisation = certificate.subject().iter_organization().next().and_then(|name| name.as_str().ok());
    let is_same = common_name == Some(leaf.common_name.as_str()) && organisation == leaf.organisation;
    is_same && covers(&certificate, leaf)
}

fn covers(certificate: &x509_parser::certificate::X509Certificate, leaf: &Leaf) -> bool {
    let Ok(extension) = certificate.subject_alternative_name() else { return false };
    let held = extension.map(|extension| &extension.value.general_names);
    let has_name = |wanted: &String| {
        held.is_some_and(|names| {
            names.iter().any(|name| matches!(name, x509_parser::extensions::GeneralName::DNSName(dns) if dns == wanted))
        })
    };
    leaf.names.iter().all(has_name) && leaf.addresses.iter().all(|address| has_address(certificate, *address))
}

fn has_address(certificate: &x509_parser::certificate::X509Certificate, wanted: IpAddr) -> bool {
    let octets = match wanted {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return false };
    let mut names = extension.value.general_names.iter();
    names.any(|name| matches!(name, x509_parser::extensions::GeneralName::IPAddress(ip) if *ip == octets))
}

fn load(dir: &Path, file: &str) -> anyhow::Result<Option<Identity>> {
    let read = |suffix: &str| -> anyhow::Result<Option<String>> {
        let path = dir.join(format!("{file}.{suffix}"));
        read_if_there(&path)
    };
    Ok(read("crt")?.zip(read("key")?).map(|(certificate, key)| Identity { certificate, key }))
}

/// The key first: a certificate without its key would be taken for whole after a crash.
fn save(dir: &Path, file: &str, identity: &Identity) -> anyhow::Result<()> {
    write_private(&dir.join(format!("{file}.key")), &identity.key)?;
    write_private(&dir.join(format!("{file}.crt")), &identity.certificate)
}

/// A file's text; None if there is no such file.
pub fn read_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes a file of mode 0600 whole or not at all.
pub fn write_private(path: &Path, content: &str) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("tmp");
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        std::io::Write::write_all(&mut file, content.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        // The name is durable only with its directory.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(directory)?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_kept_until_an_address_changes() {
        let dir = tempfile::tempdir().unwrap();
        let ip = IpAddr::from([192, 0, 2, 7]);
        let first = Certificates::ensure(dir.path(), "node-a", &[ip]).unwrap();
        let second = Certificates::ensure(dir.path(), "node-a", &[ip]).unwrap();
        assert_eq!(first.server.certificate, second.server.certificate);
        let third = Certificates::ensure(dir.path(), "node-a", &[IpAddr::from([192, 0, 2, 8])]).unwrap();
        assert_ne!(first.server.certificate, third.server.certificate);
        assert_eq!(first.ca, third.ca);
        assert_eq!(first.admin.certificate, third.admin.certificate);
        assert_eq!(first.service_account_key, third.service_account_key);
        third.api_tls().unwrap();
        third.node_tls().unwrap();
    }

    #[test]
    fn another_machine_gets_an_identity_of_the_same_authority_and_none_without_one() {
        let (dir, ip) = (tempfile::tempdir().unwrap(), IpAddr::from([192, 0, 2, 7]));
        assert!(for_node(dir.path(), "far", &[ip]).err().unwrap().to_string().contains("--data-dir"));
        let own = Certificates::ensure(dir.path(), "near", &[]).unwrap();
        let (far, ca) = for_node(dir.path(), "far", &[ip]).unwrap();
        assert_eq!(ca, own.ca);
        assert_eq!((node_of(&far.certificate).as_deref(), node_of(&own.admin.certificate)), (Some("far"), None));
        let (_, block) = x509_parser::pem::parse_x509_pem(far.certificate.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        assert!(has_address(&certificate, ip) && !has_address(&certificate, IpAddr::from([192, 0, 2, 8])));
        let again = Certificates::ensure(dir.path(), "near", &[]).unwrap();
        assert_eq!(again.node.certificate, own.node.certificate, "this machine's own stays");
    }

    #[test]
    fn private_keys_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Certificates::ensure(dir.path(), "n", &[]).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
        }
    }
}
