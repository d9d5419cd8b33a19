//! The store: revisioned keys with compare-and-swap, watch and compaction.
//!
//! Owns the trait [`Store`] and its implementations: [`memory::MemoryStore`] and [`disk::DiskStore`]. It knows keys and
//! bytes only; it must not know Kubernetes. Start at [`Store`]; the contract in words is docs/walls/store.md.
//!
//! Both implementations share one pure core (`state.rs`: what a write means, what a list shows) and one hub
//! (`hub.rs`: publication and watchers); they differ in what happens between drafting a write and publishing it.

#![forbid(unsafe_code)]

mod clock;
pub mod disk;
mod hub;
mod memo;
pub mod memory;
mod state;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use disk::DiskStore;
pub use hub::{Map, Wanted, Watch};
pub use memo::Memo;
pub use memory::MemoryStore;

/// A point in the history of the whole store. Every successful write makes exactly one new revision; an empty store is
/// at revision 1, so that 0 never names a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key with its value. Cloning is cheap: key and value are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The full key.
    pub key: Arc<str>,
    /// The stored bytes.
    pub value: Bytes,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that wrote this value.
    pub modified: Revision,
    /// What readers have made of this value.
    pub memo: Memo,
}

/// What has to be true of the key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists and was last written by this revision.
    Revision(Revision),
}

/// A request to write one key.
#[derive(Debug, Clone)]
pub struct Put {
    /// The full key.
    pub key: String,
    /// The new value.
    pub value: Bytes,
    /// The precondition.
    pub expect: Expect,
    /// How long the key lives from now on; `None` = for ever. A later put replaces it, whatever it was.
    pub ttl: Option<Duration>,
}

/// A request for the entries under a prefix, in the order of their keys.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// Every key that starts with this.
    pub prefix: String,
    /// Only keys greater than this one.
    pub after: Option<String>,
    /// At most so many entries; 0 = all.
    pub limit: usize,
    /// The state at this revision; `None` = now.
    pub at: Option<Revision>,
}

/// The answer to a [`List`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries, sorted by key.
    pub items: Vec<Entry>,
    /// The revision whose state this page shows.
    pub revision: Revision,
    /// How many entries of the same list come after this page.
    pub remaining: u64,
}

/// One write, as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key was created or changed.
    Put {
        /// What is stored now.
        entry: Entry,
        /// What was stored before; `None` = the key is new.
        previous: Option<Entry>,
    },
    /// A key was removed, by a delete or because it expired.
    Delete {
        /// What was stored before.
        previous: Entry,
        /// The revision of the removal.
        revision: Revision,
    },
}

impl Event {
    /// The revision that this write made.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put { entry, .. } => entry.modified,
            Event::Delete { revision, .. } => *revision,
        }
    }

    /// The key that was written.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Event::Put { entry, .. } => &entry.key,
            Event::Delete { previous, .. } => &previous.key,
        }
    }

    /// What was stored under the key before this write.
    pub fn previous(&self) -> Option<&Entry> {
        match self {
            Event::Put { previous, .. } => previous.as_ref(),
            Event::Delete { previous, .. } => Some(previous),
        }
    }
}

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The precondition does not hold. Nothing was written.
    #[error("the precondition of the write of {key:?} does not hold")]
    Conflict {
        /// The key of the request.
        key: String,
        /// What is stored there; `None` = nothing.
        current: Option<Entry>,
    },
    /// The key to delete does not exist.
    #[error("key {key:?} does not exist")]
    NotFound {
        /// The key of the request.
        key: String,
    },
    /// The wanted history is gone; list again and watch from there.
    #[error("history up to revision {oldest} has been compacted")]
    Compacted {
        /// The oldest revision that can still be listed at or watched from.
        oldest: Revision,
    },
    /// The wanted revision has not happened yet.
    #[error("revision {requested} is in the future, the store is at {current}")]
    Future {
        /// The revision of the request.
        requested: Revision,
        /// The revision of the store.
        current: Revision,
    },
    /// A stored value cannot be read by who keeps it in a form of his own (see [`Watch::mapped`]).
    #[error("the value of {key:?} cannot be read: {reason}")]
    Unreadable {
        /// The key of the value.
        key: String,
        /// Why; never a word of the value.
        reason: String,
    },
    /// The store cannot write (disk full, disk broken, closed). Whether the write happened is unknown.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// Revisioned keys with compare-and-swap, watch and compaction.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry under `key`, if there is one. Sees every write that returned before.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// The entries under a prefix, all of one revision.
    async fn list(&self, list: List) -> Result<Page, Error>;

    /// Writes one key; durable when it returns. Dropping the future does not undo the write.
    async fn put(&self, put: Put) -> Result<Entry, Error>;

    /// Removes one key and returns what was there and the revision of the removal; durable when it returns.
    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision), Error>;

    /// Every event under `prefix` with a revision greater than `after`, in order and without a gap.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error>;

    /// The newest revision.
    async fn revision(&self) -> Result<Revision, Error>;

    /// Forgets the history up to and including `through`; the state at `through` can still be listed and watched from.
    /// Compacting what is already compacted succeeds.
    async fn compact(&self, through: Revision) -> Result<(), Error>;

    /// Leaves nothing on the disk of values that were replaced, deleted or compacted before. May take long; writes wait.
    async fn scrub(&self) -> Result<(), Error> {
        Ok(())
    }
}
