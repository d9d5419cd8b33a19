//! Reading the ConfigMaps and Secrets that pods of this node name.
//!
//! Owns the calls to the API: one GET per object, bounded in time, not cached: volumes and environments ask when they
//! need the truth, and a GET is cheap beside what they do with it. Only pull Secrets are watched (`watched`), because a
//! pull that waits is to hear of them. The node authorizer allows only objects that a pod bound to this node names. Start
//! at [`Sources::objects`].

use super::watched::Watched;
use crate::config::{Objects, references};
use crate::object::{ConfigMap, Container, Pod, Secret};
use futures_util::future::join_all;
use kube::{Api, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};
use tokio::sync::broadcast;

/// A GET takes no longer than this.
const GET_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads ConfigMaps and Secrets with the node's identity.
#[derive(Clone)]
pub struct Sources {
    client: kube::Client,
    watched: Watched,
}

impl Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sources")
    }
}

/// Why an object could not be read; absence is not an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The API answered with an error.
    #[error("{0}")]
    Refused(String),
    /// No answer in time.
    #[error("failed to sync {kind} cache: timed out waiting for the condition")]
    TimedOut {
        /// `configmap` or `secret`.
        kind: &'static str,
    },
}

/// Objects by name: there, absent, or unreadable.
pub type Found<K> = BTreeMap<String, Result<Option<K>, SourceError>>;

/// What a pod's volumes need: each object or why it is not there.
#[derive(Debug, Default)]
pub struct Answers {
    /// ConfigMaps by name.
    pub config_maps: Found<ConfigMap>,
    /// Secrets by name.
    pub secrets: Found<Secret>,
    /// Tokens of the pod's service account.
    pub(super) tokens: super::tokens::Given,
}

impl Sources {
    /// Reads through a client that carries the node's identity.
    pub fn new(client: kube::Client) -> Sources {
        Sources { client, watched: Watched::default() }
    }

    /// The client, for calls of another room of the node.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// A pull Secret, from its watch if that has it; None when it does not exist. Absence is asked for again: it is what
    /// a user is about to mend.
    ///
    /// # Errors
    /// [`SourceError`] when the API refuses or does not answer.
    pub async fn pull_secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, SourceError> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(Some(secret)) = self.watched.known(&key) {
            return Ok(Some(secret));
        }
        let found = self.secret(namespace, name).await;
        if let Ok(found) = &found {
            self.watched.seen(&key, found.as_ref());
        }
        found
    }

    /// From now on the pull Secrets of this pod are watched, if [`Sources::watch_secrets`] runs.
    pub fn refer<'a>(&self, uid: &str, namespace: &str, names: impl Iterator<Item = &'a str>) {
        self.watched.refer(uid, names.map(|name| (namespace.to_owned(), name.to_owned())).collect());
    }

    /// The pod is gone; what no other pod refers to is not watched any more.
    pub fn forget(&self, uid: &str) {
        self.watched.forget(uid);
    }

    /// Namespace and name of each watched Secret whose contents change from now on.
    pub fn secret_changes(&self) -> broadcast::Receiver<(String, String)> {
        self.watched.changes()
    }

    /// Keeps the watches, until dropped.
    pub async fn watch_secrets(self) {
        self.watched.run(self.client).await;
    }

    /// One Secret; None when it does not exist.
    ///
    /// # Errors
    /// [`SourceError`] when the API refuses or does not answer.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, SourceError> {
        self.get("secret", namespace, name).await
    }

    /// One ConfigMap; None when it does not exist.
    ///
    /// # Errors
    /// [`SourceError`] when the API refuses or does not answer.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, SourceError> {
        self.get("configmap", namespace, name).await
    }

    /// Objects by name, all asked for at once.
    pub async fn objects(
        &self,
        namespace: &str,
        config_maps: &BTreeSet<String>,
        secrets: &BTreeSet<String>,
    ) -> Answers {
        let (mut maps_asked, mut secrets_asked) = (Vec::new(), Vec::new());
        for name in config_maps {
            maps_asked.push(self.config_map(namespace, name));
        }
        for name in secrets {
            secrets_asked.push(self.secret(namespace, name));
        }
        let (maps_found, secrets_found) = tokio::join!(join_all(maps_asked), join_all(secrets_asked));
        Answers {
            config_maps: config_maps.iter().cloned().zip(maps_found).collect(),
            secrets: secrets.iter().cloned().zip(secrets_found).collect(),
            tokens: BTreeMap::new(),
        }
    }

    /// The objects that a container's environment names, for `config::Inputs`.
    ///
    /// # Errors
    /// The first [`SourceError`]; absent objects are left to `config::container` to judge.
    pub async fn environment(&self, pod: &Pod, container: &Container) -> Result<Objects, SourceError> {
        let (config_maps, secrets) = references(container);
        let answers = self.objects(pod.namespace(), &config_maps, &secrets).await;
        Ok(Objects { config_maps: present(answers.config_maps)?, secrets: present(answers.secrets)? })
    }

    async fn get<K>(&self, kind: &'static str, namespace: &str, name: &str) -> Result<Option<K>, SourceError>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        match tokio::time::timeout(GET_TIMEOUT, api.get_opt(name)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(kube::Error::Api(status))) => Err(SourceError::Refused(status.message.clone())),
            Ok(Err(error)) => Err(SourceError::Refused(error.to_string())),
            Err(_) => Err(SourceError::TimedOut { kind }),
        }
    }
}

fn present<K>(found: Found<K>) -> Result<BTreeMap<String, K>, SourceError> {
    let mut out = BTreeMap::new();
    for (name, answer) in found {
        if let Some(object) = answer? {
            out.insert(name, object);
        }
    }
    Ok(out)
}
