//! A watch for each Secret that a pod of this node pulls images with: as long as some pod refers to it, no longer.
//!
//! Owns the references, the watches and what they last saw; that serves readers, who ask the API itself whenever the
//! watch does not know. The node authorizer allows a node to watch single objects that its pods name, and nothing more.
//! Start at [`Watched::run`].

use crate::object::Secret;
use futures_util::StreamExt as _;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{Notify, broadcast},
    task::{AbortHandle, JoinSet},
};

/// Changes that may wait for a slow reader.
const CHANGES_MAX: usize = 256;

/// Namespace and name of a Secret.
pub(super) type Name = (String, String);

/// What is in a Secret, as a hash; `None` for one that does not exist.
type Print = Option<[u8; 32]>;

/// The references, and what is known. Clones are one.
#[derive(Clone)]
pub(super) struct Watched {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// The references have changed.
    wake: Notify,
    changes: broadcast::Sender<Name>,
}

#[derive(Default)]
struct State {
    /// The Secrets that each pod refers to, by its UID.
    by_pod: BTreeMap<String, BTreeSet<Name>>,
    /// What the watches that are in step say.
    known: BTreeMap<Name, Option<Secret>>,
    /// What was last seen of each, by a watch or by a reader.
    seen: BTreeMap<Name, Print>,
}

impl State {
    fn wanted(&self) -> BTreeSet<Name> {
        self.by_pod.values().flatten().cloned().collect()
    }
}

impl Default for Watched {
    fn default() -> Self {
        let changes = broadcast::Sender::new(CHANGES_MAX);
        Watched { shared: Arc::new(Shared { state: Mutex::default(), wake: Notify::new(), changes }) }
    }
}

impl Watched {
    /// A pod refers to these.
    pub(super) fn refer(&self, uid: &str, names: BTreeSet<Name>) {
        if !names.is_empty() {
            self.state().by_pod.insert(uid.to_owned(), names);
            self.shared.wake.notify_one();
        }
    }

    /// A pod is gone.
    pub(super) fn forget(&self, uid: &str) {
        if self.state().by_pod.remove(uid).is_some() {
            self.shared.wake.notify_one();
        }
    }

    /// Names of Secrets whose contents have changed.
    pub(super) fn changes(&self) -> broadcast::Receiver<Name> {
        self.shared.changes.subscribe()
    }

    /// What a watch in step says: the Secret, or that there is none; `None` if no watch knows.
    pub(super) fn known(&self, name: &Name) -> Option<Option<Secret>> {
        self.state().known.get(name).cloned()
    }

    /// A reader has asked the API itself; what it saw is what later news are compared with.
    pub(super) fn seen(&self, name: &Name, found: Option<&Secret>) {
        let mut state = self.state();
        if !state.known.contains_key(name) && state.by_pod.values().any(|names| names.contains(name)) {
            state.seen.insert(name.clone(), found.map(print));
        }
    }

    /// Watches whatever is referred to, until dropped.
    pub(super) async fn run(self, client: kube::Client) {
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<Name, AbortHandle> = BTreeMap::new();
        loop {
            let wanted = self.state().wanted();
            running.retain(|name, task| {
                let keep = wanted.contains(name) && !task.is_finished();
                if !keep {
                    task.abort();
                    self.lose(name, !wanted.contains(name));
                }
                keep
            });
            for name in wanted {
                let follow = || tasks.spawn(self.clone().follow(client.clone(), name.clone()));
                running.entry(name.clone()).or_insert_with(follow);
            }
            tokio::select! {
                () = self.shared.wake.notified() => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }

    /// Follows one Secret; the stream begins again by itself, ever more slowly while it fails.
    async fn follow(self, client: kube::Client, name: Name) {
        let api: Api<Secret> = Api::namespaced(client, &name.0);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", name.1));
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listed = None;
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed = None,
                Ok(watcher::Event::InitApply(secret)) => listed = Some(secret),
                Ok(watcher::Event::InitDone) => self.learn(&name, listed.take()),
                Ok(watcher::Event::Apply(secret)) => self.learn(&name, Some(secret)),
                Ok(watcher::Event::Delete(_)) => self.learn(&name, None),
                Err(error) => {
                    tracing::debug!(namespace = name.0, name = name.1, %error, "the watch of a Secret broke");
                    self.lose(&name, false);
                }
            }
        }
    }

    fn learn(&self, name: &Name, found: Option<Secret>) {
        let mut state = self.state();
        if !state.by_pod.values().any(|names| names.contains(name)) {
            return;
        }
        let now = found.as_ref().map(print);
        let before = state.seen.insert(name.clone(), now);
        state.known.insert(name.clone(), found);
        drop(state);
        if before.is_some_and(|before| before != now) {
            // Nobody listening is no error: nobody waits.
            let _ = self.shared.changes.send(name.clone());
        }
    }

    /// Readers ask the API again.
    fn lose(&self, name: &Name, for_ever: bool) {
        let mut state = self.state();
        state.known.remove(name);
        if for_ever {
            state.seen.remove(name);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn print(secret: &Secret) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update(bytes.len().to_be_bytes());
        hash.update(bytes);
    };
    add(secret.metadata.uid.as_deref().unwrap_or_default().as_bytes());
    add(secret.type_.as_bytes());
    for (key, value) in &secret.data {
        add(key.as_bytes());
        add(&value.0);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
