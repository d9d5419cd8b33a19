//! The durable store: SQLite underneath, all reads from memory.
//!
//! Owns the front ([`DiskStore`]) and opening. `disk/writer.rs` is the one thread that writes; `disk/schema.rs` is the
//! only place that speaks SQL. SQLite is never read after opening: what a reader sees was published after its commit.

mod schema;
mod writer;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use crate::hub::{Hub, Watch};
use crate::{Entry, Error, Expect, List, Page, Put, Revision, Store};
use schema::Database;
use writer::{Request, Work, Writer};

/// How many writes may wait for the writer thread; more callers than that wait for their turn.
const QUEUE_LENGTH: usize = 1024;

/// How the durable store keeps itself in order.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often the history is compacted.
    pub compact_every: Duration,
    /// How long history is kept at least, unless it outgrows `history_bytes_max`.
    pub keep_history: Duration,
    /// How many bytes of replaced values the history may hold in memory; beyond it the older half is compacted.
    pub history_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Options { compact_every: minutes(5), keep_history: minutes(5), history_bytes_max: 32 << 20 }
    }
}

/// Why a durable store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made.
    #[error("cannot prepare {}", path.display())]
    Prepare {
        /// The directory or file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process has this store open.
    #[error("the store in {} is in use by another process", dir.display())]
    InUse {
        /// The store's directory.
        dir: PathBuf,
    },
    /// SQLite cannot open or read the database.
    #[error("cannot read the database {}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// The database was written by a newer version of this program.
    #[error("the database {} has schema version {found}, this program knows versions up to {known}", path.display())]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The tables contradict each other.
    #[error("the database {} is damaged: {detail}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What contradicts what.
        detail: String,
    },
    /// The writer thread could not be started.
    #[error("cannot start the thread that writes")]
    StartWriter(#[source] io::Error),
}

/// A [`Store`] in a directory. Dropping it finishes the writes under way, closes the database and ends all watches.
#[derive(Debug)]
pub struct DiskStore {
    hub: Arc<Hub>,
    /// One permit for each place in the queue, so that sending never blocks an async caller.
    places: Arc<Semaphore>,
    requests: Option<SyncSender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl DiskStore {
    /// Opens the store in `dir` with the default [`Options`]; creates both if they are missing. Blocks while it reads
    /// the database.
    pub fn open(dir: &Path) -> Result<DiskStore, OpenError> {
        DiskStore::open_with(dir, Options::default())
    }

    /// Opens the store in `dir`.
    pub fn open_with(dir: &Path, options: Options) -> Result<DiskStore, OpenError> {
        let lock = lock(dir)?;
        let path = dir.join(schema::FILE);
        // SQLite gives its other files the mode of this one.
        create_private(&path)?;
        let mut database = Database::open(&path)?;
        let hub = Hub::new(database.load()?);
        sync_directories(dir).map_err(|source| OpenError::Prepare { path: dir.to_owned(), source })?;
        let (requests, queue) = sync_channel(QUEUE_LENGTH);
        let writer = Writer::new(database, hub.clone(), queue, options);
        let work = move || {
            writer.run();
            drop(lock);
        };
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(work);
        let writer = Some(thread.map_err(OpenError::StartWriter)?);
        Ok(DiskStore { hub, places: Arc::new(Semaphore::new(QUEUE_LENGTH)), requests: Some(requests), writer })
    }

    /// Hands work to the writer thread and waits until it is durable.
    async fn submit<T>(&self, work: impl FnOnce(writer::Reply<T>) -> Work) -> Result<T, Error> {
        let closed = || Error::Unavailable("the store is closed".into());
        let place = self.places.clone().acquire_owned().await.map_err(|_| closed())?;
        let (reply, outcome) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(closed)?;
        requests.try_send(Request { work: work(reply), _place: place }).map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(Err(_)) = self.writer.take().map(JoinHandle::join) {
            tracing::error!("the store's writer thread had panicked");
        }
        self.hub.close();
    }
}

#[async_trait]
impl Store for DiskStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        Ok(self.hub.read().get(key).cloned())
    }

    async fn list(&self, list: List) -> Result<Page, Error> {
        self.hub.read().list(&list)
    }

    async fn put(&self, put: Put) -> Result<Entry, Error> {
        self.submit(|reply| Work::Put(put, reply)).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision), Error> {
        self.submit(|reply| Work::Delete(key.to_owned(), expect, reply)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.hub.watch(prefix, after)
    }

    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.hub.read().revision())
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        self.submit(|reply| Work::Compact(through, reply)).await
    }

    async fn scrub(&self) -> Result<(), Error> {
        self.submit(Work::Scrub).await
    }
}

/// Makes the directory, readable by its owner alone (it holds Secrets), and takes the lock on it.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let prepare = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Prepare { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(prepare(dir))?;
    let path = dir.join("lock");
    let file = create_private(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(prepare(&path)(source)),
    }
}

fn create_private(path: &Path) -> Result<File, OpenError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    file.map_err(|source| OpenError::Prepare { path: path.to_owned(), source })
}

/// Makes the names of the files durable; SQLite takes care of what is in them.
fn sync_directories(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()?;
    let absolute = dir.canonicalize()?;
    absolute.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;
    use bytes::Bytes;

    fn put(key: &str, value: &str) -> Put {
        Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), expect: Expect::Any, ttl: None }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_disk_store_keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let mut count = 0;
        crate::suite::run(|| {
            count += 1;
            let path = dir.path().join(count.to_string());
            async move { DiskStore::open(&path).unwrap() }
        })
        .await;
    }

    #[tokio::test]
    async fn a_reopened_store_has_the_same_entries_and_the_same_history() {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        let start = store.revision().await.unwrap();
        for round in 0..50 {
            store.put(put(&format!("/k/{}", round % 5), &round.to_string())).await.unwrap();
        }
        store.delete("/k/3", Expect::Any).await.unwrap();
        store.put(put("/k/3", "back")).await.unwrap();
        let list = List { prefix: "/".into(), ..List::default() };
        let (before, mut watch) = (store.list(list.clone()).await.unwrap(), store.watch("/", start).await.unwrap());
        let history = watch.next().await.unwrap().unwrap();
        drop(store);
        let store = DiskStore::open(dir.path()).unwrap();
        assert_eq!(store.list(list).await.unwrap(), before);
        assert_eq!(store.watch("/", start).await.unwrap().next().await.unwrap().unwrap(), history);
    }

    #[tokio::test]
    async fn nothing_that_was_replaced_or_deleted_is_on_the_disk_after_a_scrub() {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        for nth in 0..300 {
            let key = format!("/k/{}", nth % 40);
            store.put(put(&key, &format!("forgotten {}", "x".repeat(nth * 30)))).await.unwrap();
        }
        for nth in 0..20 {
            store.delete(&format!("/k/{nth}"), Expect::Any).await.unwrap();
            store.put(put(&format!("/k/{}", nth + 20), "known")).await.unwrap();
        }
        let holds = |word: &str| {
            let files =
                std::fs::read_dir(dir.path()).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
            files.into_iter().any(|bytes| bytes.windows(word.len()).any(|window| window == word.as_bytes()))
        };
        assert!(holds("forgotten"));
        store.compact(store.revision().await.unwrap()).await.unwrap();
        store.scrub().await.unwrap();
        assert!(!holds("forgotten") && holds("known"));
        let list = List { prefix: "/".into(), ..List::default() };
        let before = store.list(list.clone()).await.unwrap();
        store.put(put("/k/20", "again")).await.unwrap();
        drop(store);
        let after = DiskStore::open(dir.path()).unwrap().list(list).await.unwrap();
        assert_eq!((before.items.len(), after.items.len(), after.revision.0), (20, 20, before.revision.0 + 1));
    }

    #[tokio::test]
    async fn compaction_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        let mut last = store.put(put("/a", "0")).await.unwrap();
        for round in 0..600 {
            last = store.put(put("/a", &round.to_string())).await.unwrap();
        }
        store.compact(last.modified).await.unwrap();
        drop(store);
        let store = DiskStore::open(dir.path()).unwrap();
        assert_eq!(store.revision().await.unwrap(), last.modified);
        assert_eq!(store.get("/a").await.unwrap().as_ref(), Some(&last));
        let earlier = Revision(last.modified.0 - 1);
        assert_eq!(store.watch("/", earlier).await.err(), Some(Error::Compacted { oldest: last.modified }));
        assert_eq!(store.put(put("/a", "x")).await.unwrap().modified.0, last.modified.0 + 1);
    }

    #[tokio::test]
    async fn a_key_that_expired_while_the_store_was_closed_is_deleted_after_opening() {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        let ttl = Some(Duration::from_millis(1));
        let entry = store.put(Put { ttl, ..put("/e", "1") }).await.unwrap();
        drop(store);
        let store = DiskStore::open(dir.path()).unwrap();
        let mut watch = store.watch("/", entry.modified).await.unwrap();
        let events = watch.next().await.unwrap().unwrap();
        assert!(matches!(&*events[0], Event::Delete { previous, .. } if *previous == entry));
    }

    #[tokio::test]
    async fn history_is_compacted_in_time_without_being_asked() {
        let dir = tempfile::tempdir().unwrap();
        let every = Duration::from_millis(10);
        let options = Options { compact_every: every, keep_history: every, ..Options::default() };
        let store = DiskStore::open_with(dir.path(), options).unwrap();
        let first = store.put(put("/a", "0")).await.unwrap();
        store.put(put("/a", "1")).await.unwrap();
        // A watch that does not read is told when its history goes.
        let mut watch = store.watch("/", first.modified).await.unwrap();
        while watch.progress().is_none() && store.watch("/", first.modified).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(watch.next().await, Some(Err(Error::Compacted { .. }))));
        assert!(store.get("/a").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn history_that_outgrows_its_bound_loses_its_older_half() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { history_bytes_max: 100_000, ..Options::default() };
        let store = DiskStore::open_with(dir.path(), options).unwrap();
        let start = store.revision().await.unwrap();
        for _ in 0..200 {
            store.put(put("/a", &"x".repeat(1000))).await.unwrap();
        }
        assert!(matches!(store.watch("/", start).await, Err(Error::Compacted { .. })));
        assert!(store.hub.read().history_bytes() < 110_000);
    }

    #[test]
    fn a_directory_is_opened_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        assert!(matches!(DiskStore::open(dir.path()), Err(OpenError::InUse { .. })));
        drop(store);
        DiskStore::open(dir.path()).unwrap();
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(DiskStore::open(dir.path()).unwrap());
        let raise = |version: i64| {
            let database = rusqlite::Connection::open(dir.path().join(schema::FILE)).unwrap();
            database.execute("UPDATE meta SET value = ?1 WHERE name = 'schema'", [version]).unwrap();
        };
        raise(99);
        let refused = DiskStore::open(dir.path()).unwrap_err();
        assert!(matches!(refused, OpenError::NewerSchema { found: 99, known: 1, .. }), "{refused}");
        raise(1);
        DiskStore::open(dir.path()).unwrap();
    }

    #[test]
    fn garbage_is_refused_with_the_name_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(schema::FILE), "garbage".repeat(1000)).unwrap();
        let refused = DiskStore::open(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("store.db"), "{refused}");
    }

    #[test]
    fn only_the_owner_can_read_the_files() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("store");
        let _store = DiskStore::open(&inner).unwrap();
        assert_eq!(inner.metadata().unwrap().mode() & 0o777, 0o700);
        for file in std::fs::read_dir(&inner).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().mode() & 0o077, 0);
        }
    }
}
