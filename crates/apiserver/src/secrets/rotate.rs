//! The change of keys: begun on request, finished at the latest by the next start.
//!
//! The key file always holds every key that a value on the disk may need. A new key is in it before the first value is
//! sealed with it; the old ones leave it after every value was sealed anew, the history of the old ones was compacted,
//! and the disk was scrubbed of both. The word `rewriting` in it says that this is not finished. So a crash at any step
//! leaves everything readable, and the next start goes on. Start at [`SealedStore::open`].

use std::sync::{Arc, PoisonError};

use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use store::{Entry, Error, Expect, List, Put, Revision, Store};

use super::keys::Keys;
use super::{KeysError, Opener, SealedStore, SecretKeys, unreadable};
use crate::answer;
use crate::server::Core;
use crate::status::Status;

/// Where a change of keys is asked for.
pub const PATH: &str = "/sampan.dev/v1/secrets/rotate";

/// How many values are sealed anew at once.
const PARALLEL: usize = 64;

/// What a change of keys did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Name of the key that everything is sealed with now.
    pub key: String,
    /// How many values were sealed anew.
    pub rewritten: usize,
    /// How many keys were dropped.
    pub dropped: usize,
}

/// Why keys are as they were, or the change is not finished.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The key file says no keys.
    #[error("cannot read the key file of Secrets")]
    Keys(#[from] KeysError),
    /// The key file cannot be written.
    #[error("cannot write the key file of Secrets")]
    Save(#[source] std::io::Error),
    /// The store refuses, or holds what cannot be opened.
    #[error("cannot encrypt the Secrets anew")]
    Store(#[from] Error),
}

impl SealedStore {
    /// Opens the layer over a store. Makes the first key, and finishes what an earlier process began.
    pub async fn open(
        inner: Arc<dyn Store>,
        prefix: String,
        file: SecretKeys,
    ) -> Result<Arc<SealedStore>, RotateError> {
        let keys = match &file.text {
            Some(text) => Keys::parse(text)?,
            None => {
                // Nothing was ever written to a store at its first revision.
                let keys = Keys::fresh(inner.revision().await? != Revision(1))?;
                (file.save)(&keys.text()).map_err(RotateError::Save)?;
                keys
            }
        };
        let opener = Opener { prefix: prefix.clone(), keys: Arc::new(keys).into(), recent: Default::default() };
        let store = SealedStore {
            inner,
            prefix,
            opener: Arc::new(opener),
            save: file.save,
            sealing: Default::default(),
            rotating: Default::default(),
        };
        match store.finish().await {
            // Such values are refused one by one; everything else works, and no key is dropped.
            Err(RotateError::Store(error @ Error::Unreadable { .. })) => {
                tracing::error!(%error, "a Secret cannot be decrypted; restore pki/secrets.key, or delete it with the data");
            }
            other => {
                let Rotated { key, rewritten, dropped } = other?;
                tracing::debug!(key, rewritten, dropped, "Secrets are encrypted at rest");
            }
        }
        Ok(Arc::new(store))
    }

    /// Adds a key, seals every value with it, and drops the older keys.
    pub async fn rotate(&self) -> Result<Rotated, RotateError> {
        {
            let _rotating = self.rotating.lock().await;
            self.use_keys(self.keys().with_new()?).await?;
        }
        self.finish().await
    }

    /// Writes the key file, then uses what is in it. No value is sealed meanwhile.
    async fn use_keys(&self, keys: Keys) -> Result<(), RotateError> {
        let _sealing = self.sealing.write().await;
        (self.save)(&keys.text()).map_err(RotateError::Save)?;
        *self.opener.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    /// Brings every value under the newest key, and keeps that one alone.
    async fn finish(&self) -> Result<Rotated, RotateError> {
        let _rotating = self.rotating.lock().await;
        let mut rewritten = 0;
        let mut stale = self.stale().await?;
        let keys = self.keys();
        let done = |rewritten, dropped| Rotated { key: keys.newest().to_owned(), rewritten, dropped };
        if stale.is_empty() && !keys.is_pending && keys.count() == 1 {
            return Ok(done(0, 0));
        }
        if !keys.is_pending {
            self.use_keys(keys.pending()).await?;
        }
        loop {
            rewritten += stale.len();
            stream::iter(stale).map(Ok).try_for_each_concurrent(PARALLEL, |entry| self.rewrite(entry)).await?;
            self.inner.compact(self.inner.revision().await?).await?;
            self.inner.scrub().await?;
            // A write whose caller had gone may have come in between; all of those are before the scrub.
            stale = self.stale().await?;
            if stale.is_empty() {
                break;
            }
        }
        let keys = self.keys();
        self.use_keys(keys.newest_alone()).await?;
        Ok(done(rewritten, keys.count() - 1))
    }

    /// The stored entries that are not sealed with the newest key.
    async fn stale(&self) -> Result<Vec<Entry>, Error> {
        let keys = self.keys();
        let list = List { prefix: self.prefix.clone(), ..List::default() };
        let mut items = self.inner.list(list).await?.items;
        items.retain(|entry| !keys.is_current(&entry.value));
        Ok(items)
    }

    /// Seals one value anew. Whoever changed or removed it meanwhile has done so with the newest key.
    async fn rewrite(&self, entry: Entry) -> Result<(), Error> {
        let keys = self.keys();
        let plain = keys.open(&entry.key, &entry.value).map_err(|error| unreadable(&entry.key, &error))?;
        let value = keys.seal(&entry.key, &plain).map_err(|error| unreadable(&entry.key, &error))?;
        let put = Put { key: entry.key.to_string(), value, expect: Expect::Revision(entry.modified), ttl: None };
        match self.inner.put(put).await {
            Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Answers the request for a change of keys; who asks is authorized already.
pub async fn respond(core: &Core) -> Result<Response, Status> {
    let Some(secrets) = &core.secrets else { return Err(Status::no_such_path()) };
    match secrets.rotate().await {
        Ok(Rotated { key, rewritten, dropped }) => {
            let answer = json!({"key": key, "secretsRewritten": rewritten, "keysDropped": dropped});
            Ok(answer::json_bytes(200, answer.to_string()))
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Ok(Status::internal(format!("{error}{cause}")).into_response())
        }
    }
}
