//! Who this machine's node is at the API: a certificate got by a bootstrap token, and each renewed before it ends.
//!
//! The key is made here and never leaves. It is on disk before anybody is asked for a certificate, so that a process that
//! is killed at any step asks for the same again. Start at [`join`] and [`NodeIdentity::renew`].

mod ask;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use kube::Client;
use rand::Rng;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use crate::certificates::{self, Certificates, Identity};
use crate::instance::Instance;
use crate::join::Membership;
use crate::kubeconfig;
use crate::wiring::{self, Reach};
use ask::Refused;

/// Certificates begin this much before they are made; their life is counted from when they were.
const BACKDATE_SECONDS: i64 = 300;
/// The pauses between two attempts at a renewal.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The kubeconfig of a node that got its certificate itself.
pub fn own_file(instance: &Instance) -> PathBuf {
    instance.data_dir.join("node.kubeconfig")
}

/// The key of a certificate that was asked for and has not come yet.
fn pending_key(instance: &Instance) -> PathBuf {
    instance.data_dir.join("pki/node-pending.key")
}

/// Gets this node a certificate by a bootstrap kubeconfig, unless it has one of that cluster already.
pub async fn join(instance: &Instance, node: &str, bootstrap: &Path) -> anyhow::Result<PathBuf> {
    let (token, own) = (Membership::read(bootstrap)?, own_file(instance));
    let ca = token.ca()?.with_context(|| format!("{} names no authority", bootstrap.display()))?;
    if own.exists() && is_good(&Membership::read(&own)?, node, &ca)? {
        return Ok(own);
    }
    let (client, _) = wiring::client_from(bootstrap).await?;
    tracing::info!(node, "asking for a certificate");
    let identity = certified(instance, &client, node)
        .await
        .with_context(|| format!("join the cluster at {} by {}", token.server(), bootstrap.display()))?;
    write(instance, &token, &identity)?;
    Ok(own)
}

/// Whether a certificate is there for this node in this cluster that has not ended.
fn is_good(held: &Membership, node: &str, ca: &[u8]) -> anyhow::Result<bool> {
    let Some(identity) = held.identity()?.filter(|_| matches!(held.ca(), Ok(Some(own)) if own == ca)) else {
        return Ok(false);
    };
    let is_own = certificates::node_of(&identity.certificate).as_deref() == Some(node);
    Ok(is_own && Life::of(&identity.certificate).is_some_and(|life| life.ends > now()))
}

/// Asks until there is a certificate or somebody refuses it for good.
async fn certified(instance: &Instance, client: &Client, node: &str) -> anyhow::Result<Identity> {
    let path = pending_key(instance);
    loop {
        let key = match certificates::read_if_there(&path)? {
            Some(key) => key,
            None => {
                let key = rcgen::KeyPair::generate()?.serialize_pem();
                std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).context("make the key's directory")?;
                certificates::write_private(&path, &key)?;
                key
            }
        };
        match ask::certificate(client, node, &key).await {
            Ok(certificate) => return Ok(Identity { certificate, key }),
            Err(refused) => {
                if refused.is_of_key() {
                    // What was said of this key holds: the next attempt is another request.
                    remove(&path)?;
                }
                match refused {
                    Refused::Gone => tracing::info!("the request for a certificate is gone: asking anew"),
                    refused => return Err(refused.into()),
                }
            }
        }
    }
}

/// The certificate first: with the key alone the same is asked again.
fn write(instance: &Instance, membership: &Membership, identity: &Identity) -> anyhow::Result<()> {
    let ca = membership.ca()?.context("the kubeconfig names no authority")?;
    let ca = String::from_utf8(ca).context("read the authority")?;
    let text = kubeconfig::whole(&instance.name(), membership.server(), &ca, identity)?;
    certificates::write_private(&own_file(instance), &text)?;
    remove(&pending_key(instance))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// From when to when a certificate is good, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    begins: i64,
    /// Its end.
    pub ends: i64,
}

impl Life {
    /// Reads it from a certificate in PEM.
    pub fn of(certificate: &str) -> Option<Life> {
        let (_, block) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
        let certificate = block.parse_x509().ok()?;
        let validity = certificate.validity();
        Some(Life { begins: validity.not_before.timestamp(), ends: validity.not_after.timestamp() })
    }

    /// When to renew it: after so many thousandths of its life.
    fn renews_at(self, share: i64) -> i64 {
        let made = (self.begins + BACKDATE_SECONDS).min(self.ends);
        made + (self.ends - made).saturating_mul(share) / 1000
    }
}

/// What the node shows on its port; changes when its certificate is renewed.
#[derive(Debug)]
struct Shown(Mutex<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn certified_key(identity: &Identity) -> anyhow::Result<Arc<CertifiedKey>> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let key = certificates::provider().key_provider.load_private_key(key)?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// The identity of a node that joined another cluster.
#[derive(Clone)]
pub struct NodeIdentity {
    instance: Instance,
    file: PathBuf,
    current: Arc<Mutex<Client>>,
    shown: Arc<Shown>,
    clients: Option<Arc<RootCertStore>>,
    reach: Reach,
    node: Option<String>,
}

impl NodeIdentity {
    /// The identity in a kubeconfig. The node port shows it too, if it is a node's: the API server knows a node by its
    /// own certificate. Else it shows one of this machine's own.
    pub async fn open(instance: &Instance, file: &Path, own: &Certificates) -> anyhow::Result<NodeIdentity> {
        let membership = Membership::read(file)?;
        let (client, reach) = wiring::client_from(file).await?;
        let identity = membership.identity()?;
        let node = identity.as_ref().and_then(|identity| certificates::node_of(&identity.certificate));
        if node.is_none() {
            tracing::info!("the kubeconfig has no certificate of a node: the node port shows its own");
        }
        let shown = identity.filter(|_| node.is_some());
        let shown = certified_key(shown.as_ref().unwrap_or(&own.node))?;
        let clients = membership.ca()?.map(|ca| roots(&ca, file)).transpose()?;
        Ok(NodeIdentity {
            instance: instance.clone(),
            file: file.into(),
            current: Arc::new(Mutex::new(client)),
            shown: Arc::new(Shown(Mutex::new(shown))),
            clients: clients.map(Arc::new),
            reach,
            node,
        })
    }

    /// A client that is always who the node is now, and where the API is for pods.
    pub fn client(&self) -> (Client, Reach) {
        let current = self.current.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let client = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move { client.send(request).await }
        });
        (Client::new(service, "default"), self.reach)
    }

    /// TLS of the node port: clients are believed by the cluster's authority, or by this machine's own without one.
    pub fn tls(&self, own: &Certificates) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        match &self.clients {
            Some(clients) => certificates::node_tls(self.shown.clone(), clients.clone()),
            None => own.node_tls(),
        }
    }

    /// Renews the certificate before it ends, for as long as the process runs. Without one there is nothing to do.
    pub async fn renew(self, cancel: CancellationToken) -> anyhow::Result<()> {
        let Some(node) = self.node.clone() else {
            cancel.cancelled().await;
            return Ok(());
        };
        let mut failures = 0_u32;
        loop {
            let file = chosen(&self.instance, &self.file)?;
            let identity =
                Membership::read(&file)?.identity()?.context("the kubeconfig has no certificate any more")?;
            let life = Life::of(&identity.certificate).context("read the node's certificate")?;
            let share = rand::rng().random_range(700..900);
            let due = Duration::from_secs(u64::try_from(life.renews_at(share) - now()).unwrap_or(0));
            let pause = PAUSE.0.saturating_mul(1 << failures.min(10)).min(PAUSE.1);
            let pause = if failures == 0 { Duration::ZERO } else { pause };
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(due.max(pause)) => {}
            }
            let renewed = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                renewed = self.renew_once(&file, &node) => renewed,
            };
            match renewed {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    let left = life.ends - now();
                    tracing::warn!(error = %format!("{error:#}"), seconds_left = left, "the node's certificate could not be renewed");
                }
            }
        }
    }

    async fn renew_once(&self, file: &Path, node: &str) -> anyhow::Result<()> {
        let client = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let identity = certified(&self.instance, &client, node).await?;
        write(&self.instance, &Membership::read(file)?, &identity)?;
        let (client, _) = wiring::client_from(&own_file(&self.instance)).await?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = client;
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = certified_key(&identity)?;
        tracing::info!(node, "the node's certificate was renewed");
        Ok(())
    }
}

fn roots(ca: &[u8], file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate?).with_context(|| format!("read the authority in {}", file.display()))?;
    }
    Ok(roots)
}

/// The file to use of the one that was given and the one with the renewed certificate: of the same node in the same
/// cluster the one that ends later, else the given one.
pub fn chosen(instance: &Instance, given: &Path) -> anyhow::Result<PathBuf> {
    let own = own_file(instance);
    if !own.exists() || own == given {
        return Ok(given.into());
    }
    let (renewed, first) = (Membership::read(&own)?, Membership::read(given)?);
    let held = (renewed.identity()?, first.identity()?);
    let (Some(new), Some(old)) = held else { return Ok(given.into()) };
    let node = |identity: &Identity| certificates::node_of(&identity.certificate);
    let same = renewed.ca()? == first.ca()? && renewed.server() == first.server() && node(&new) == node(&old);
    let later = Life::of(&new.certificate).map(|life| life.ends) > Life::of(&old.certificate).map(|life| life.ends);
    Ok(if same && later { own } else { given.into() })
}

/// Refuses a kubeconfig of another node: its pods and its Node object would be somebody else's.
pub fn refuse_other_node(file: &Path, node: &str) -> anyhow::Result<()> {
    let identity = Membership::read(file)?.identity()?;
    match identity.and_then(|identity| certificates::node_of(&identity.certificate)) {
        Some(other) if other != node => {
            bail!("{} is of node {other:?}, and this node is called {node:?}; see --node-name", file.display())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn instance(dir: &Path) -> Instance {
        Instance::new(dir.join("data"), dir.join("run"))
    }

    /// A certificate of two years.
    fn longer(pki: &Path, node: &str) -> Identity {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
        let request = params.serialize_request(&key).unwrap().der().to_vec();
        let order = controllers::certificates::Order { request, usages: vec!["client auth".to_owned()], seconds: None };
        let door = certificates::signer::door(pki, Duration::from_secs(2 * 365 * 86_400));
        let certificate = tower::ServiceExt::oneshot(door, order).now_or_never().unwrap().unwrap();
        Identity { certificate, key: key.serialize_pem() }
    }

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_life() {
        let day = Life { begins: 1_000_000 - BACKDATE_SECONDS, ends: 1_086_400 };
        assert_eq!((day.renews_at(700), day.renews_at(900)), (1_000_000 + 60_480, 1_000_000 + 77_760));
        let short = Life { begins: 1_000_000 - BACKDATE_SECONDS, ends: 1_000_060 };
        assert_eq!(short.renews_at(800), 1_000_048, "the backdating does not count");
        let odd = Life { begins: 0, ends: 10 };
        assert_eq!(odd.renews_at(800), 10, "never after its end");
    }

    #[test]
    fn of_two_files_of_one_node_in_one_cluster_the_later_one_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let instance = instance(dir.path());
        std::fs::create_dir_all(&instance.data_dir).unwrap();
        let (pki, other) = (dir.path().join("pki"), dir.path().join("other"));
        for dir in [&pki, &other] {
            Certificates::ensure(dir, "server", &[]).unwrap();
        }
        let given = dir.path().join("given");
        let (first, ca) = certificates::for_node(&pki, "n", &[]).unwrap();
        let old = kubeconfig::whole("c", "https://a", &ca, &first).unwrap();
        std::fs::write(&given, &old).unwrap();
        assert_eq!(chosen(&instance, &given).unwrap(), given, "there is no other");
        let own = own_file(&instance);
        let check = |(pki, node, server): (&Path, &str, &str), expected: &Path| {
            let ca = certificates::authority(pki).unwrap();
            std::fs::write(&own, kubeconfig::whole("c", server, &ca, &longer(pki, node)).unwrap()).unwrap();
            assert_eq!(chosen(&instance, &given).unwrap(), expected, "{node} {server}");
        };
        check((&pki, "n", "https://a"), &own_file(&instance));
        check((&pki, "m", "https://a"), &given);
        check((&other, "n", "https://a"), &given);
        check((&pki, "n", "https://b"), &given);
        std::fs::write(&own, &old).unwrap();
        assert_eq!(chosen(&instance, &given).unwrap(), given, "it does not end later");
        assert_eq!(std::fs::read_to_string(&given).unwrap(), old, "the given file is never written");
        refuse_other_node(&given, "n").unwrap();
        assert!(refuse_other_node(&given, "m").unwrap_err().to_string().contains("--node-name"));
    }
}
