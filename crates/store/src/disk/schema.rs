//! The tables, and every SQL statement of this room.
//!
//! `object` holds what is stored now. `log` holds one row for each retained revision with what the write *replaced*,
//! so that history costs the old value only: walking the log backwards from the current state gives back every event.
//! `meta` holds the schema version and the revision through which history is compacted.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::OpenError;
use crate::state::{Change, State};
use crate::{Entry, Event, Memo, Revision};

/// The database file in the store's directory.
pub(super) const FILE: &str = "store.db";

/// The schema that this program writes. Raise it with every change of the tables, and migrate older ones in `prepare`.
const SCHEMA_VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE object (
        key TEXT NOT NULL UNIQUE,
        created INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        expires_ms INTEGER,
        value BLOB NOT NULL
    );
    CREATE TABLE log (
        revision INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        deleted INTEGER NOT NULL,
        previous_created INTEGER,
        previous_modified INTEGER,
        previous_value BLOB
    );
    INSERT INTO meta (name, value) VALUES ('compacted', 0);
";

const PUT_OBJECT: &str = "
    INSERT INTO object (key, created, modified, expires_ms, value) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (key) DO UPDATE SET created = ?2, modified = ?3, expires_ms = ?4, value = ?5";

const APPEND_LOG: &str = "
    INSERT INTO log (revision, key, deleted, previous_created, previous_modified, previous_value)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// The open database.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
}

impl Database {
    /// Opens the database and makes its tables if it is empty.
    pub(super) fn open(path: &Path) -> Result<Database, OpenError> {
        let failed = |source| OpenError::Database { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(failed)?;
        let mut database = Database { connection, path: path.to_owned() };
        database.configure().map_err(failed)?;
        let found = database.prepare().map_err(failed)?;
        if found > SCHEMA_VERSION {
            return Err(OpenError::NewerSchema { path: path.to_owned(), found, known: SCHEMA_VERSION });
        }
        Ok(database)
    }

    fn configure(&self) -> rusqlite::Result<()> {
        let set = |name: &str, value: &str| self.connection.pragma_update_and_check(None, name, value, |_| Ok(()));
        // One process, one connection: no shared-memory file is needed beside the log.
        set("locking_mode", "EXCLUSIVE")?;
        set("journal_mode", "WAL")?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        // Reads come from our own index, so SQLite's cache only serves the upper pages of its trees.
        self.connection.pragma_update(None, "cache_size", -512)?;
        set("journal_size_limit", "8388608")?;
        self.connection.set_prepared_statement_cache_capacity(16);
        Ok(())
    }

    /// Makes the tables of an empty database; returns the schema version that the file has now.
    fn prepare(&mut self) -> rusqlite::Result<i64> {
        let transaction = self.connection.transaction()?;
        let exists: bool =
            transaction.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get(0))?;
        if !exists {
            transaction.execute_batch(TABLES)?;
            transaction.execute("INSERT INTO meta (name, value) VALUES ('schema', ?1)", [SCHEMA_VERSION])?;
        }
        let found = transaction.query_row("SELECT value FROM meta WHERE name = 'schema'", [], |row| row.get(0))?;
        transaction.commit()?;
        Ok(found)
    }

    /// Reads everything.
    pub(super) fn load(&mut self) -> Result<State, OpenError> {
        let path = self.path.clone();
        let failed = |source| OpenError::Database { path: path.clone(), source };
        let compacted = self.compacted().map_err(failed)?;
        let (entries, deadlines) = self.load_objects().map_err(failed)?;
        let rows = self.load_log(compacted).map_err(failed)?;
        let damaged = |detail| OpenError::Damaged { path: path.clone(), detail };
        let history = replay_backwards(rows, &entries, compacted).map_err(damaged)?;
        let newest = history.back().map_or(compacted, |event| event.revision());
        if let Some(entry) = entries.values().find(|entry| entry.modified > newest) {
            return Err(damaged(format!("{} has revision {}, the log ends at {newest}", entry.key, entry.modified)));
        }
        Ok(State::restore(entries, deadlines, history, compacted))
    }

    fn compacted(&self) -> rusqlite::Result<Revision> {
        let value = self.connection.query_row("SELECT value FROM meta WHERE name = 'compacted'", [], |row| row.get(0));
        value.optional().map(|value| revision(value.unwrap_or(0)))
    }

    fn load_objects(&self) -> rusqlite::Result<Objects> {
        let mut entries = BTreeMap::new();
        let mut deadlines = Vec::new();
        let mut statement = self.connection.prepare("SELECT key, created, modified, value, expires_ms FROM object")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key: Arc<str> = row.get_ref(0)?.as_str()?.into();
            let entry = entry(&key, row, 1)?;
            if let Some(expires_ms) = row.get::<_, Option<i64>>(4)? {
                deadlines.push((key.clone(), expires_ms as u64));
            }
            entries.insert(key, entry);
        }
        Ok((entries, deadlines))
    }

    /// The log after `compacted`, newest first.
    fn load_log(&self, compacted: Revision) -> rusqlite::Result<Vec<LogRow>> {
        let mut statement = self.connection.prepare(
            "SELECT key, previous_created, previous_modified, previous_value, revision, deleted
             FROM log WHERE revision > ?1 ORDER BY revision DESC",
        )?;
        let rows = statement.query_map([compacted.0 as i64], |row| {
            let key: Arc<str> = row.get_ref(0)?.as_str()?.into();
            let has_previous = row.get::<_, Option<i64>>(2)?.is_some();
            let previous = if has_previous { Some(entry(&key, row, 1)?) } else { None };
            Ok(LogRow { previous, revision: revision(row.get(4)?), deleted: row.get(5)?, key })
        })?;
        rows.collect()
    }

    /// Writes the changes in one transaction. When it returns, they are on the disk.
    pub(super) fn commit(&mut self, changes: &[Change], compacted: Option<Revision>) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for change in changes {
            write(&transaction, change)?;
        }
        if let Some(compacted) = compacted {
            let mut statement = transaction.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'compacted'")?;
            statement.execute([compacted.0 as i64])?;
        }
        transaction.commit()
    }

    /// Removes up to `limit` of the oldest log rows that are compacted; returns how many there were.
    pub(super) fn trim(&mut self, compacted: Revision, limit: usize) -> rusqlite::Result<usize> {
        let mut statement = self.connection.prepare_cached(
            "DELETE FROM log WHERE revision IN
             (SELECT revision FROM log WHERE revision <= ?1 ORDER BY revision LIMIT ?2)",
        )?;
        statement.execute([compacted.0 as i64, limit as i64])
    }

    /// Writes the database anew, without the pages that earlier values lie in, and empties the write-ahead log.
    pub(super) fn rebuild(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("VACUUM")?;
        self.connection.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))
    }
}

type Objects = (BTreeMap<Arc<str>, Entry>, Vec<(Arc<str>, u64)>);

struct LogRow {
    key: Arc<str>,
    revision: Revision,
    deleted: bool,
    previous: Option<Entry>,
}

fn write(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    let event = &*change.event;
    let key = &**event.key();
    match event {
        Event::Put { entry, .. } => transaction.prepare_cached(PUT_OBJECT)?.execute(params![
            key,
            entry.created.0 as i64,
            entry.modified.0 as i64,
            change.expires_ms.map(|expires_ms| expires_ms as i64),
            &entry.value[..],
        ])?,
        Event::Delete { .. } => transaction.prepare_cached("DELETE FROM object WHERE key = ?1")?.execute([key])?,
    };
    let previous = event.previous();
    transaction.prepare_cached(APPEND_LOG)?.execute(params![
        event.revision().0 as i64,
        key,
        matches!(event, Event::Delete { .. }),
        previous.map(|entry| entry.created.0 as i64),
        previous.map(|entry| entry.modified.0 as i64),
        previous.map(|entry| &entry.value[..]),
    ])?;
    Ok(())
}

/// The entry whose `created`, `modified` and `value` are three columns from `first` on.
fn entry(key: &Arc<str>, row: &Row<'_>, first: usize) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: key.clone(),
        created: revision(row.get(first)?),
        modified: revision(row.get(first + 1)?),
        value: Bytes::copy_from_slice(row.get_ref(first + 2)?.as_blob()?),
        memo: Memo::default(),
    })
}

fn revision(column: i64) -> Revision {
    Revision(column as u64)
}

/// Rebuilds the events, ascending, from the log rows, which come newest first.
fn replay_backwards(
    rows: Vec<LogRow>,
    entries: &BTreeMap<Arc<str>, Entry>,
    compacted: Revision,
) -> Result<VecDeque<Arc<Event>>, String> {
    let mut history = VecDeque::with_capacity(rows.len());
    let mut undone: BTreeMap<Arc<str>, Option<Entry>> = BTreeMap::new();
    let oldest = rows.last().map(|row| row.revision.0);
    // Revision 1 is the empty store: it has no row.
    let expected = if compacted.0 == 0 { 2 } else { compacted.0 + 1 };
    if oldest.is_some_and(|oldest| oldest != expected) {
        return Err(format!("the log begins at {} and not at {expected}", oldest.unwrap_or(0)));
    }
    if let Some(pair) = rows.windows(2).find(|pair| pair[0].revision.0 != pair[1].revision.0 + 1) {
        return Err(format!("the log has a gap between {} and {}", pair[1].revision, pair[0].revision));
    }
    for LogRow { key, revision, deleted, previous } in rows {
        let now = undone.get(&key).cloned().unwrap_or_else(|| entries.get(&key).cloned());
        let event = match (deleted, now, previous.clone()) {
            (false, Some(entry), previous) if entry.modified == revision => Event::Put { entry, previous },
            (true, None, Some(previous)) => Event::Delete { previous, revision },
            _ => return Err(format!("the log row {revision} does not fit what is stored under {key}")),
        };
        undone.insert(key, previous);
        history.push_front(Arc::new(event));
    }
    Ok(history)
}
