//! Who looks up tags for the admission plugin `PinImageDigests`: the image store's registry client, with the credentials
//! that a node would use.
//!
//! Only here do API server, image store and credential search meet. A registry name is the word of whoever makes a pod,
//! so loopback and link-local targets are refused unless a setting allows them. Start at [`Pins::resolve`].

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use apiserver::{DigestQuery, DigestResolver};
use images::{Credential, Images, PullRequest};
use node::credentials::{Credentials, Places};
use node::object::{LocalObjectReference, Pod};
use node::volumes::Sources;
use reference::Reference;
use tower::util::BoxCloneSyncService;

use crate::settings::Resolved;

const HTTPS_PORT: u16 = 443;

/// What a look-up needs.
pub struct Pins {
    /// The registry client.
    pub images: Images,
    /// Pull secrets and node files.
    pub credentials: Credentials,
    /// Whether loopback and link-local registries may be asked.
    pub local_allowed: bool,
}

/// The place for [`Pins`], which are there only after the API server that asks them.
pub type Slot = Arc<OnceLock<Pins>>;

/// The service over a slot.
pub fn service(slot: &Slot) -> DigestResolver {
    let slot = slot.clone();
    BoxCloneSyncService::new(tower::service_fn(move |query: DigestQuery| {
        let slot = slot.clone();
        async move {
            let pins = slot.get().ok_or("this process runs no container runtime that could look up tags")?;
            pins.resolve(query).await
        }
    }))
}

/// The credential search of this machine's node, with an identity that may read pull secrets.
///
/// # Errors
/// When the configuration of credential plugins is not good.
pub fn credentials(client: kube::Client, resolved: &Resolved) -> anyhow::Result<Credentials> {
    let places = Places::of_node(&resolved.instance.data_dir);
    Ok(Credentials::open(Sources::new(client), places, resolved.credentials.clone())?)
}

impl Pins {
    /// The digest that a tag stands for now.
    async fn resolve(&self, query: DigestQuery) -> Result<String, String> {
        let name = Reference::parse(&query.image).map_err(|error| error.to_string())?;
        if !self.local_allowed {
            refuse_local(name.domain()).await?;
        }
        let mut pod = Pod::default();
        pod.metadata.namespace = Some(query.namespace);
        let secret = |name: String| LocalObjectReference { name };
        pod.spec.image_pull_secrets = query.pull_secrets.into_iter().map(secret).collect();
        let found = self.credentials.for_image(&pod, &query.image).await;
        // IMG-180, IMG-181: one after another until one works; without any, nameless.
        let mut last = String::new();
        for attempt in found.tries {
            let credential = attempt.auth.map(of);
            let request = PullRequest { image: query.image.clone(), credential, headers: attempt.headers };
            match self.images.resolve_remote(&request).await {
                Ok(digest) => return Ok(digest.to_string()),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }
}

fn of(auth: cri::v1::AuthConfig) -> Credential {
    Credential {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        server_address: auth.server_address,
    }
}

/// Refuses a registry whose name leads to this machine or its link.
async fn refuse_local(domain: &str) -> Result<(), String> {
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => domain,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = tokio::net::lookup_host((host, HTTPS_PORT)).await;
    let mut addresses = addresses.map_err(|error| format!("{host} cannot be looked up: {error}"))?;
    match addresses.find(|address| is_local(address.ip())) {
        Some(address) => Err(format!(
            "registry {domain} leads to {}, and loopback and link-local registries are not asked unless \
             --pin-image-digests-allow-local is set",
            address.ip()
        )),
        None => Ok(()),
    }
}

fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_link_local() || address.is_unspecified() || address.is_broadcast()
        }
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local() || address.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_its_link_are_local() {
        for text in ["127.0.0.1", "127.8.8.8", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "::ffff:127.0.0.1", "::"]
        {
            assert!(is_local(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "8.8.8.8", "2001:db8::1"] {
            assert!(!is_local(text.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn a_local_registry_is_refused_however_it_is_spelled() {
        for domain in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "169.254.169.254"] {
            let refusal = refuse_local(domain).await.unwrap_err();
            assert!(refusal.contains("are not asked unless"), "{refusal}");
        }
    }
}
