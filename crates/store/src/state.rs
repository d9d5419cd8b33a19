//! The pure core: what is stored, what a write means, what a list shows.
//!
//! Owns [`State`] (current entries, retained history, expiry) and [`Draft`] (writes that are decided but not yet
//! published). No clock, no lock, no I/O: `disk.rs` and `memory.rs` bring those. Start at [`Draft`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Entry, Error, Event, Expect, List, Memo, Page, Put, Revision};

/// The revision of a store in which nothing was ever written.
pub(crate) const FIRST: Revision = Revision(1);

/// What one event is taken to cost beside the value that it keeps alive, in bytes.
const EVENT_BYTES: usize = 256;

/// One decided write.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) event: Arc<Event>,
    /// When the key shall expire, in milliseconds of the implementation's clock.
    pub(crate) expires_ms: Option<u64>,
}

/// Everything that readers see.
#[derive(Debug)]
pub(crate) struct State {
    current: BTreeMap<Arc<str>, Entry>,
    /// Every event with `compacted < revision <= self.revision`, ascending and without a gap.
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    compacted: Revision,
    revision: Revision,
    deadlines: BTreeMap<Arc<str>, u64>,
    by_deadline: BTreeSet<(u64, Arc<str>)>,
}

impl State {
    pub(crate) fn empty() -> State {
        State {
            current: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            compacted: Revision(0),
            revision: FIRST,
            deadlines: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
        }
    }

    /// A state as it was persisted: entries with their deadlines, and the history in ascending order.
    pub(crate) fn restore(
        entries: BTreeMap<Arc<str>, Entry>,
        deadlines: Vec<(Arc<str>, u64)>,
        history: VecDeque<Arc<Event>>,
        compacted: Revision,
    ) -> State {
        let revision = history.back().map_or(compacted.max(FIRST), |event| event.revision());
        let history_bytes = history.iter().map(|event| event_bytes(event)).sum();
        let mut state = State { current: entries, history, history_bytes, compacted, revision, ..State::empty() };
        for (key, deadline) in deadlines {
            state.set_deadline(&key, Some(deadline));
        }
        state
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// About how many bytes the retained history keeps in memory.
    pub(crate) fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// The revision in the middle of the retained history: compacting through it halves the history.
    pub(crate) fn history_middle(&self) -> Revision {
        self.history.get(self.history.len() / 2).map_or(self.revision, |event| event.revision())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.current.get(key)
    }

    /// Checks that history after `revision` is complete here.
    pub(crate) fn check_retained(&self, revision: Revision) -> Result<(), Error> {
        if revision < self.compacted {
            return Err(Error::Compacted { oldest: self.compacted });
        }
        if revision > self.revision {
            return Err(Error::Future { requested: revision, current: self.revision });
        }
        Ok(())
    }

    /// The retained events with a revision of at least `from`, ascending.
    pub(crate) fn events_from(&self, from: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.history.partition_point(|event| event.revision() < from);
        self.history.range(start..)
    }

    pub(crate) fn list(&self, list: &List) -> Result<Page, Error> {
        let at = list.at.unwrap_or(self.revision);
        self.check_retained(at)?;
        let visible = self.visible(&list.prefix, list.after.as_deref(), at);
        let limit = if list.limit == 0 { visible.len() } else { list.limit.min(visible.len()) };
        let items = visible[..limit].iter().map(|entry| (*entry).clone()).collect();
        Ok(Page { items, revision: at, remaining: (visible.len() - limit) as u64 })
    }

    /// The entries under `prefix` beyond `after` as they were at `at`, sorted by key.
    fn visible(&self, prefix: &str, after: Option<&str>, at: Revision) -> Vec<&Entry> {
        // Undoing the younger events, newest first, leaves for each changed key what it was at `at`.
        let mut undone: BTreeMap<&str, Option<&Entry>> = BTreeMap::new();
        for event in self.history.iter().rev().take_while(|event| event.revision() > at) {
            if event.key().starts_with(prefix) {
                undone.insert(event.key(), event.previous());
            }
        }
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let unchanged = self
            .current
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(|entry| entry.key.starts_with(prefix))
            .filter(|entry| !undone.contains_key(&*entry.key));
        let mut visible: Vec<&Entry> = unchanged.collect();
        if !undone.is_empty() {
            let is_after = |entry: &&Entry| after.is_none_or(|after| &*entry.key > after);
            visible.extend(undone.values().flatten().copied().filter(is_after));
            visible.sort_by(|a, b| a.key.cmp(&b.key));
        }
        visible
    }

    /// Keys whose deadline has passed, the oldest deadline first.
    pub(crate) fn due(&self, now_ms: u64, limit: usize) -> Vec<Arc<str>> {
        let due = self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now_ms);
        due.take(limit).map(|(_, key)| key.clone()).collect()
    }

    /// When the next key expires, in milliseconds of the implementation's clock.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Makes drafted changes visible. They must follow the current revision without a gap.
    pub(crate) fn publish(&mut self, changes: Vec<Change>) {
        for Change { event, expires_ms } in changes {
            assert_eq!(event.revision().0, self.revision.0 + 1, "revisions are published in order and without a gap");
            self.revision = event.revision();
            match &*event {
                Event::Put { entry, .. } => self.current.insert(entry.key.clone(), entry.clone()),
                Event::Delete { previous, .. } => self.current.remove(&previous.key),
            };
            self.set_deadline(event.key(), expires_ms);
            self.history_bytes += event_bytes(&event);
            self.history.push_back(event);
        }
    }

    /// Forgets the events up to and including `through`.
    pub(crate) fn compact(&mut self, through: Revision) {
        self.compacted = self.compacted.max(through.min(self.revision));
        while self.history.front().is_some_and(|event| event.revision() <= self.compacted) {
            if let Some(event) = self.history.pop_front() {
                self.history_bytes -= event_bytes(&event);
            }
        }
    }

    fn set_deadline(&mut self, key: &Arc<str>, deadline: Option<u64>) {
        if let Some(old) = self.deadlines.remove(key) {
            self.by_deadline.remove(&(old, key.clone()));
        }
        if let Some(new) = deadline {
            self.deadlines.insert(key.clone(), new);
            self.by_deadline.insert((new, key.clone()));
        }
    }
}

/// What the history alone keeps in memory for one event: the value that was replaced.
fn event_bytes(event: &Event) -> usize {
    EVENT_BYTES + event.previous().map_or(0, |entry| entry.value.len())
}

/// Writes decided on top of a [`State`] and of each other, with their revisions, but not yet visible to anyone.
///
/// A draft that is dropped leaves no trace: its revisions are given to the next one.
#[derive(Debug)]
#[must_use]
pub(crate) struct Draft {
    revision: Revision,
    touched: BTreeMap<Arc<str>, Option<Entry>>,
    changes: Vec<Change>,
}

impl Draft {
    pub(crate) fn on(state: &State) -> Draft {
        Draft { revision: state.revision, touched: BTreeMap::new(), changes: Vec::new() }
    }

    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    pub(crate) fn put(&mut self, state: &State, put: Put, now_ms: u64) -> Result<Entry, Error> {
        let previous = self.current(state, &put.key);
        check(&put.key, put.expect, previous.as_ref())?;
        let modified = Revision(self.revision.0 + 1);
        let entry = Entry {
            key: previous.as_ref().map_or_else(|| Arc::from(&*put.key), |entry| entry.key.clone()),
            // A copy of its own: the caller's bytes may be a slice of a much larger buffer.
            value: Bytes::copy_from_slice(&put.value),
            created: previous.as_ref().map_or(modified, |entry| entry.created),
            modified,
            memo: Memo::default(),
        };
        let expires_ms = put.ttl.map(|ttl| now_ms.saturating_add(ttl.as_millis().min(i64::MAX as u128) as u64));
        self.push(Event::Put { entry: entry.clone(), previous }, Some(entry.clone()), expires_ms);
        Ok(entry)
    }

    pub(crate) fn delete(&mut self, state: &State, key: &str, expect: Expect) -> Result<(Entry, Revision), Error> {
        let Some(previous) = self.current(state, key) else {
            return Err(Error::NotFound { key: key.to_owned() });
        };
        check(key, expect, Some(&previous))?;
        let revision = Revision(self.revision.0 + 1);
        self.push(Event::Delete { previous: previous.clone(), revision }, None, None);
        Ok((previous, revision))
    }

    fn current(&self, state: &State, key: &str) -> Option<Entry> {
        self.touched.get(key).cloned().unwrap_or_else(|| state.get(key).cloned())
    }

    fn push(&mut self, event: Event, now: Option<Entry>, expires_ms: Option<u64>) {
        self.revision = event.revision();
        self.touched.insert(event.key().clone(), now);
        self.changes.push(Change { event: Arc::new(event), expires_ms });
    }
}

fn check(key: &str, expect: Expect, current: Option<&Entry>) -> Result<(), Error> {
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Revision(revision) => current.is_some_and(|entry| entry.modified == revision),
    };
    if holds { Ok(()) } else { Err(Error::Conflict { key: key.to_owned(), current: current.cloned() }) }
}
