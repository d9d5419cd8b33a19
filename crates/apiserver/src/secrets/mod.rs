//! Secrets at rest: a layer over the store that seals their values on the way in and opens them on the way out.
//!
//! Everything above it sees plain objects, everything below it ciphertext. A value that was written before there were
//! keys is read as it is. It must not know what a Secret says. Start at [`SealedStore`]; `rotate.rs` changes keys.

mod keys;
mod rotate;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use store::{Entry, Error, Event, Expect, List, Page, Put, Revision, Store, Watch};

use keys::{Keys, OpenError};

pub use keys::KeysError;
pub use rotate::{PATH, RotateError, respond};

/// How many opened events are kept for watchers that come to them a moment later.
const EVENTS_KEPT: usize = 64;

/// Puts the text of the key file in its place, whole or not at all, and durable when it returns.
pub type SaveKeys = Box<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// The key file, as whoever owns it hands it in.
pub struct SecretKeys {
    /// What is in it; None = there is none yet.
    pub text: Option<String>,
    /// Writes it.
    pub save: SaveKeys,
}

impl std::fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretKeys").finish_non_exhaustive()
    }
}

/// A store in which the values of Secrets are sealed.
pub struct SealedStore {
    inner: Arc<dyn Store>,
    prefix: String,
    opener: Arc<Opener>,
    save: SaveKeys,
    /// Read while a value is sealed and written, so that none that is sealed with an older key comes after a new one.
    sealing: tokio::sync::RwLock<()>,
    /// One change of keys at a time.
    rotating: tokio::sync::Mutex<()>,
}

/// Opens values.
struct Opener {
    prefix: String,
    keys: RwLock<Arc<Keys>>,
    /// The last opened events: many watchers, one decryption.
    recent: Mutex<VecDeque<Arc<Event>>>,
}

fn unreadable(key: &str, error: &OpenError) -> Error {
    Error::Unreadable { key: key.to_owned(), reason: error.to_string() }
}

impl Opener {
    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn entry(&self, mut entry: Entry) -> Result<Entry, Error> {
        if entry.key.starts_with(&self.prefix) {
            entry.value = self.keys().open(&entry.key, &entry.value).map_err(|error| unreadable(&entry.key, &error))?;
        }
        Ok(entry)
    }

    fn event(&self, event: Arc<Event>) -> Result<Arc<Event>, Error> {
        if !event.key().starts_with(&self.prefix) {
            return Ok(event);
        }
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = recent().iter().rev().find(|known| known.revision() == event.revision()) {
            return Ok(known.clone());
        }
        let opened = Arc::new(match (*event).clone() {
            Event::Put { entry, previous } => {
                Event::Put { entry: self.entry(entry)?, previous: previous.map(|p| self.entry(p)).transpose()? }
            }
            Event::Delete { previous, revision } => Event::Delete { previous: self.entry(previous)?, revision },
        });
        let mut recent = recent();
        if recent.len() == EVENTS_KEPT {
            recent.pop_front();
        }
        recent.push_back(opened.clone());
        Ok(opened)
    }
}

impl SealedStore {
    fn keys(&self) -> Arc<Keys> {
        self.opener.keys()
    }

    fn concerns(&self, prefix: &str) -> bool {
        prefix.starts_with(&self.prefix) || self.prefix.starts_with(prefix)
    }

    /// What a refused write shows of the present value; one that cannot be opened stays closed.
    fn conflict(&self, error: Error) -> Error {
        match error {
            Error::Conflict { key, current: Some(current) } => {
                let current = self.opener.entry(current.clone()).unwrap_or(current);
                Error::Conflict { key, current: Some(current) }
            }
            other => other,
        }
    }
}

#[async_trait]
impl Store for SealedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await?.map(|entry| self.opener.entry(entry)).transpose()
    }

    async fn list(&self, list: List) -> Result<Page, Error> {
        let is_sealed = self.concerns(&list.prefix);
        let mut page = self.inner.list(list).await?;
        if is_sealed {
            page.items = page.items.into_iter().map(|entry| self.opener.entry(entry)).collect::<Result<_, _>>()?;
        }
        Ok(page)
    }

    async fn put(&self, put: Put) -> Result<Entry, Error> {
        if !put.key.starts_with(&self.prefix) {
            return self.inner.put(put).await;
        }
        let _sealing = self.sealing.read().await;
        let plain = put.value;
        let value = self.keys().seal(&put.key, &plain).map_err(|error| Error::Unavailable(error.to_string()))?;
        let written = self.inner.put(Put { value, ..put }).await.map_err(|error| self.conflict(error))?;
        Ok(Entry { value: plain, ..written })
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision), Error> {
        let (entry, revision) = self.inner.delete(key, expect).await.map_err(|error| self.conflict(error))?;
        // It is gone whether or not it can be read.
        let shown = self.opener.entry(entry.clone()).unwrap_or(entry);
        Ok((shown, revision))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let watch = self.inner.watch(prefix, after).await?;
        if !self.concerns(prefix) {
            return Ok(watch);
        }
        let opener = self.opener.clone();
        Ok(watch.mapped(Arc::new(move |event| opener.event(event))))
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        self.inner.compact(through).await
    }

    async fn scrub(&self) -> Result<(), Error> {
        self.inner.scrub().await
    }
}
