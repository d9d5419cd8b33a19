//! The store that forgets everything with its process: for tests and simulations.
//!
//! Expiry follows tokio's clock, so that it works under paused time. There is no automatic compaction; ask for it.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::hub::{Hub, Watch};
use crate::state::{Draft, State};
use crate::{Entry, Error, Expect, List, Page, Put, Revision, Store};

/// How many keys are expired in one step.
const EXPIRE_BATCH: usize = 256;

/// A [`Store`] in memory. Dropping it ends its watches.
#[derive(Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    /// The task that expires keys; started by the first put with a time to live.
    expiry: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    hub: Arc<Hub>,
    /// Serialises writers: a draft must be published before the next one is made.
    writing: Mutex<()>,
    started: std::sync::OnceLock<Instant>,
    deadlines_changed: Notify,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        let shared = Shared {
            hub: Hub::new(State::empty()),
            writing: Mutex::new(()),
            started: std::sync::OnceLock::new(),
            deadlines_changed: Notify::new(),
        };
        MemoryStore { shared: Arc::new(shared), expiry: Mutex::new(JoinSet::new()) }
    }

    fn start_expiry(&self) {
        let mut expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
        if expiry.is_empty() {
            expiry.spawn(expire(Arc::downgrade(&self.shared)));
        }
        self.shared.deadlines_changed.notify_one();
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.shared.hub.close();
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        self.started.get_or_init(Instant::now).elapsed().as_millis() as u64
    }

    fn write<T>(&self, decide: impl FnOnce(&State, &mut Draft) -> Result<T, Error>) -> Result<T, Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (draft, outcome) = {
            let state = self.hub.read();
            let mut draft = Draft::on(&state);
            let outcome = decide(&state, &mut draft)?;
            (draft, outcome)
        };
        self.hub.publish(draft.into_changes());
        Ok(outcome)
    }

    fn expire_due(&self) {
        let now_ms = self.now_ms();
        let expired = self.write(|state, draft| {
            for key in state.due(now_ms, EXPIRE_BATCH) {
                draft.delete(state, &key, Expect::Any)?;
            }
            Ok(())
        });
        expired.expect("a key with a deadline exists");
    }
}

async fn expire(shared: Weak<Shared>) {
    while let Some(strong) = shared.upgrade() {
        strong.expire_due();
        let now_ms = strong.now_ms();
        let next = strong.hub.read().next_deadline();
        let wait = next.map_or(Duration::MAX, |next| Duration::from_millis(next.saturating_sub(now_ms)));
        let _ = tokio::time::timeout(wait, strong.deadlines_changed.notified()).await;
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        Ok(self.shared.hub.read().get(key).cloned())
    }

    async fn list(&self, list: List) -> Result<Page, Error> {
        self.shared.hub.read().list(&list)
    }

    async fn put(&self, put: Put) -> Result<Entry, Error> {
        let expires = put.ttl.is_some();
        let now_ms = self.shared.now_ms();
        let entry = self.shared.write(|state, draft| draft.put(state, put, now_ms))?;
        if expires {
            self.start_expiry();
        }
        Ok(entry)
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision), Error> {
        self.shared.write(|state, draft| draft.delete(state, key, expect))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.shared.hub.watch(prefix, after)
    }

    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.shared.hub.read().revision())
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        let current = self.shared.hub.read().revision();
        if through > current {
            return Err(Error::Future { requested: through, current });
        }
        self.shared.hub.compact(through);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_memory_store_keeps_the_contract() {
        crate::suite::run(|| async { MemoryStore::new() }).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_store_keeps_the_contract_under_paused_time() {
        crate::suite::run(|| async { MemoryStore::new() }).await;
    }
}
