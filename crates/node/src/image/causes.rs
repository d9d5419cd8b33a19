//! What may have changed so that a failed pull is worth a try before its back-off is over (IMG-77).
//!
//! Owns the channel by which whoever watches Secrets, credential files, mirrors, plugins or registries tells all pods.
//! Must not carry contents: a cause says what changed, and the next pull reads it anew. Start at [`Causes::tell`].

use super::fault::Class;
use crate::{credentials::Change, object::Pod};
use tokio::sync::broadcast;

/// Causes that may wait for a slow reader; one that falls behind tries again whatever changed.
const QUEUE_LENGTH: usize = 256;

/// Something that pulls depend on changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A Secret appeared or was edited.
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A credential file of the node was edited.
    NodeFiles,
    /// The configuration of registry hosts was edited.
    Mirrors,
    /// A credential plugin gives another answer.
    Plugin,
    /// A registry that did not serve answers again.
    Registry {
        /// `host` or `host:port`.
        host: String,
    },
}

impl Cause {
    /// True if a pull for this pod that failed so may go better now.
    pub fn concerns(&self, pod: &Pod, class: Class, failed_host: &str) -> bool {
        match self {
            Self::Secret { namespace, name } => {
                let named = pod.pull_secrets().iter().any(|secret| secret.name == *name);
                named && pod.namespace() == namespace && class.may_lack_credentials()
            }
            Self::NodeFiles | Self::Plugin => class.may_lack_credentials(),
            Self::Mirrors => class != Class::Disk,
            Self::Registry { host } => host == failed_host && class.is_unreachable(),
        }
    }
}

/// Where causes are told and heard. Clones are one channel.
#[derive(Debug, Clone)]
pub struct Causes {
    sender: broadcast::Sender<Cause>,
}

impl Default for Causes {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(QUEUE_LENGTH) }
    }
}

impl Causes {
    /// Tells everybody who listens.
    pub fn tell(&self, cause: Cause) {
        tracing::debug!(?cause, "pulls may go better");
        // Nobody listening is no error: nobody waits.
        let _ = self.sender.send(cause);
    }

    /// Tells on what the credentials see change, until nobody tells them any more. After a gap everything may have.
    pub async fn pass_on(self, mut changes: broadcast::Receiver<Change>) {
        loop {
            match changes.recv().await {
                Ok(Change::Secret { namespace, name }) => self.tell(Cause::Secret { namespace, name }),
                Ok(Change::NodeFiles) => self.tell(Cause::NodeFiles),
                Ok(Change::Mirrors) | Err(broadcast::error::RecvError::Lagged(_)) => self.tell(Cause::Mirrors),
                Ok(Change::Plugin) => self.tell(Cause::Plugin),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Hears what is told from now on.
    pub fn listen(&self) -> broadcast::Receiver<Cause> {
        self.sender.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        let pod = serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"imagePullSecrets": [{"name": "one"}]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_secret_concerns_the_pods_that_name_it_and_lack_credentials() {
        let secret = |namespace: &str, name: &str| Cause::Secret { namespace: namespace.into(), name: name.into() };
        assert!(secret("ns", "one").concerns(&pod(), Class::Credentials, "r"));
        assert!(secret("ns", "one").concerns(&pod(), Class::NotFound, "r"));
        assert!(!secret("ns", "one").concerns(&pod(), Class::Refused, "r"));
        assert!(!secret("ns", "two").concerns(&pod(), Class::Credentials, "r"));
        assert!(!secret("other", "one").concerns(&pod(), Class::Credentials, "r"));
    }

    #[test]
    fn a_registry_concerns_only_what_failed_at_it() {
        let host = Cause::Registry { host: "r:5000".into() };
        assert!(host.concerns(&pod(), Class::Refused, "r:5000"));
        assert!(!host.concerns(&pod(), Class::Refused, "r"));
        assert!(!host.concerns(&pod(), Class::Credentials, "r:5000"));
        assert!(Cause::Mirrors.concerns(&pod(), Class::Dns, "r"));
        assert!(!Cause::Mirrors.concerns(&pod(), Class::Disk, "r"));
        assert!(Cause::NodeFiles.concerns(&pod(), Class::RateLimit, "r"));
    }

    #[tokio::test]
    async fn what_the_credentials_see_is_passed_on() {
        let (changes, causes) = (broadcast::Sender::new(4), Causes::default());
        let mut heard = causes.listen();
        let (namespace, name) = ("ns".to_owned(), "one".to_owned());
        let all = [
            (Change::Secret { namespace: namespace.clone(), name: name.clone() }, Cause::Secret { namespace, name }),
            (Change::NodeFiles, Cause::NodeFiles),
            (Change::Mirrors, Cause::Mirrors),
            (Change::Plugin, Cause::Plugin),
        ];
        let passing = causes.pass_on(changes.subscribe());
        for (change, _) in &all {
            changes.send(change.clone()).unwrap();
        }
        drop(changes);
        passing.await;
        for (_, cause) in all {
            assert_eq!(heard.recv().await.unwrap(), cause);
        }
    }

    #[tokio::test]
    async fn everybody_who_listens_hears() {
        let causes = Causes::default();
        causes.tell(Cause::Plugin);
        let (mut a, mut b) = (causes.listen(), causes.clone().listen());
        causes.tell(Cause::Mirrors);
        assert_eq!((a.recv().await.unwrap(), b.recv().await.unwrap()), (Cause::Mirrors, Cause::Mirrors));
    }
}
