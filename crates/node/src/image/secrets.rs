//! Watching the pull Secrets that waiting pods name, so that a repaired one is tried at once (IMG-77, IMG-79).
//!
//! One watch per Secret, however many pods wait, and only as long as one of them does. What the first listing shows is
//! no news: the pull reads the Secret itself. Must not keep or look into a Secret. Start at [`Secrets::follow`].

use super::{Cause, Causes};
use crate::object::{Pod, Secret};
use futures_util::StreamExt as _;

use kube::{
    Api,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use std::collections::BTreeMap;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// Namespace and name.
type Name = (String, String);

/// Who wants which Secrets to be watched. Clones are one.
#[derive(Debug, Clone)]
pub struct Secrets {
    wanted: watch::Sender<BTreeMap<Name, usize>>,
}

/// As long as it lives these Secrets are watched.
#[derive(Debug)]
pub struct Follow {
    secrets: Secrets,
    names: Vec<Name>,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { wanted: watch::Sender::new(BTreeMap::new()) }
    }
}

impl Secrets {
    /// Watches the pull Secrets that the pod names; `None` if it names none.
    pub fn follow(&self, pod: &Pod) -> Option<Follow> {
        let named = pod.spec.image_pull_secrets.iter().filter(|secret| !secret.name.is_empty());
        let names: Vec<Name> = named.map(|secret| (pod.namespace().to_owned(), secret.name.clone())).collect();
        if names.is_empty() {
            return None;
        }
        self.wanted.send_modify(|wanted| {
            for name in &names {
                *wanted.entry(name.clone()).or_default() += 1;
            }
        });
        Some(Follow { secrets: self.clone(), names })
    }

    /// Watches until cancelled.
    pub async fn run(self, client: kube::Client, causes: Causes, cancel: CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        let mut watches: BTreeMap<Name, AbortHandle> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let names = wanted.borrow_and_update().clone();
            watches.retain(|name, watch| {
                let stays = names.contains_key(name);
                if !stays {
                    watch.abort();
                }
                stays
            });
            for name in names.into_keys() {
                let (client, causes, own) = (client.clone(), causes.clone(), name.clone());
                watches.entry(name).or_insert_with(|| tasks.spawn(follow(client, own, causes)));
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() { return },
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.secrets.wanted.send_modify(|wanted| {
            for name in &self.names {
                if let Some(count) = wanted.get_mut(name) {
                    *count -= 1;
                }
            }
            wanted.retain(|_, count| *count > 0);
        });
    }
}

async fn follow(client: kube::Client, (namespace, name): Name, causes: Causes) {
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client, &namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    // Only the metadata: the contents are nobody's business here.
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut seen = Seen::default();
    while let Some(event) = events.next().await {
        let is_news = match event {
            Ok(watcher::Event::InitApply(secret) | watcher::Event::Apply(secret)) => {
                seen.take(secret.metadata.resource_version)
            }
            Ok(watcher::Event::Delete(_)) => {
                seen.version = None;
                false
            }
            Ok(watcher::Event::InitDone) => {
                seen.is_listed = true;
                false
            }
            Ok(watcher::Event::Init) => false,
            Err(error) => {
                tracing::debug!(namespace, name, %error, "the watch of a pull secret broke; it is begun again");
                false
            }
        };
        if is_news {
            causes.tell(Cause::Secret { namespace: namespace.clone(), name: name.clone() });
        }
    }
}

/// What was seen of one Secret.
#[derive(Debug, Default)]
struct Seen {
    version: Option<String>,
    is_listed: bool,
}

impl Seen {
    /// True if this version is news.
    fn take(&mut self, version: Option<String>) -> bool {
        let is_other = self.version != version;
        self.version = version;
        is_other && self.is_listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_listing_is_no_news_and_every_other_version_is() {
        let mut seen = Seen::default();
        assert!(!seen.take(Some("1".into())));
        seen.is_listed = true;
        assert!(!seen.take(Some("1".into())), "a broken watch lists again");
        assert!(seen.take(Some("2".into())));
        let mut absent = Seen { is_listed: true, ..Seen::default() };
        assert!(absent.take(Some("7".into())), "it appeared");
    }

    #[test]
    fn a_secret_is_watched_as_long_as_somebody_waits_for_it() {
        let pod = |secrets: serde_json::Value| -> Pod {
            let pod = serde_json::json!({"metadata": {"namespace": "ns"}, "spec": {"imagePullSecrets": secrets}});
            serde_json::from_value(pod).unwrap()
        };
        let secrets = Secrets::default();
        assert!(secrets.follow(&pod(serde_json::json!([{"name": ""}]))).is_none());
        let one = secrets.follow(&pod(serde_json::json!([{"name": "a"}, {"name": "b"}])));
        let two = secrets.follow(&pod(serde_json::json!([{"name": "a"}])));
        let watched = || secrets.wanted.borrow().keys().map(|(_, name)| name.clone()).collect::<Vec<_>>();
        assert_eq!(watched(), ["a", "b"]);
        drop(one);
        assert_eq!(watched(), ["a"]);
        drop(two);
        assert!(watched().is_empty());
    }
}
