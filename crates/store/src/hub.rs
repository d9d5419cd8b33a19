//! Publication: the state behind its lock, and the watchers of it.
//!
//! A watcher has no buffer of its own. It remembers the first matching event that it has not returned yet and reads on
//! in the shared history; when that event is compacted before it was read, the watcher gets [`Error::Compacted`].
//! So memory does not grow with slow watchers, and there is never a gap. Only watchers that an event concerns are woken:
//! a node that waits for its own pods sleeps through the pods of all others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use crate::state::{Change, State};
use crate::{Error, Event, Revision};

/// How many events one call of [`Watch::next`] returns at most.
const EVENTS_PER_CALL: usize = 512;

/// Nothing unread: no event has revision 0.
const NOTHING: u64 = 0;

/// Whether a watcher wants an event. It is asked for each event under the watch's prefix, while writers wait; readers
/// wait for it only when the watch has just been opened.
pub type Wanted = Arc<dyn Fn(&Event) -> bool + Send + Sync>;

struct Slot {
    prefix: Box<str>,
    /// See [`Watch::only`].
    wanted: OnceLock<Wanted>,
    /// The revision of the first matching event that was not returned yet. Raised from [`NOTHING`] only under the write
    /// lock, changed by the watcher only under the read lock.
    unread: AtomicU64,
    wake: Notify,
}

impl Slot {
    fn concerns(&self, event: &Event) -> bool {
        event.key().starts_with(&*self.prefix) && self.wanted.get().is_none_or(|wanted| wanted(event))
    }

    /// The first of the changes that the watcher wants to hear of.
    fn first_of(&self, changes: &[Change]) -> Option<Revision> {
        changes.iter().find(|change| self.concerns(&change.event)).map(|change| change.event.revision())
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("prefix", &self.prefix).field("unread", &self.unread).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Inner {
    state: State,
    slots: Vec<Arc<Slot>>,
    open: bool,
}

/// The shared state of one store.
#[derive(Debug)]
pub(crate) struct Hub {
    inner: RwLock<Inner>,
}

/// Read access to the state.
pub(crate) struct Reading<'a>(RwLockReadGuard<'a, Inner>);

impl std::ops::Deref for Reading<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0.state
    }
}

impl Hub {
    pub(crate) fn new(state: State) -> Arc<Hub> {
        Arc::new(Hub { inner: RwLock::new(Inner { state, slots: Vec::new(), open: true }) })
    }

    pub(crate) fn read(&self) -> Reading<'_> {
        // Only `State::publish` can panic under the lock, by its assert; nobody trusts the state after that.
        Reading(self.inner.read().expect("the state is intact"))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect("the state is intact")
    }

    /// Makes changes visible and wakes the watchers that they concern. Nobody else publishes meanwhile.
    ///
    /// Whom they concern takes a look into objects, so it is found out while readers go on reading.
    pub(crate) fn publish(&self, changes: Vec<Change>) {
        let slots = self.read().0.slots.clone();
        let judged: Vec<_> = slots.into_iter().map(|slot| (slot.first_of(&changes), slot)).collect();
        let mut inner = self.write();
        // Slots come at the end and go from anywhere, so those that are still there stand in the same order.
        let mut judged = judged.into_iter();
        for slot in &inner.slots {
            let known = judged.find(|(_, known)| Arc::ptr_eq(known, slot));
            let first = known.map_or_else(|| slot.first_of(&changes), |(first, _)| first);
            if let Some(first) = first.filter(|_| slot.unread.load(Ordering::Relaxed) == NOTHING) {
                slot.unread.store(first.0, Ordering::Relaxed);
                slot.wake.notify_one();
            }
        }
        inner.state.publish(changes);
    }

    /// Forgets the history up to and including `through` and lets watchers that still needed it know.
    pub(crate) fn compact(&self, through: Revision) {
        let mut inner = self.write();
        inner.state.compact(through);
        let compacted = inner.state.compacted().0;
        for slot in &inner.slots {
            if (1..=compacted).contains(&slot.unread.load(Ordering::Relaxed)) {
                slot.wake.notify_one();
            }
        }
    }

    pub(crate) fn watch(self: &Arc<Hub>, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let mut inner = self.write();
        inner.state.check_retained(after)?;
        let unread = inner.state.events_from(Revision(after.0 + 1)).find(|event| event.key().starts_with(prefix));
        let slot = Arc::new(Slot {
            prefix: prefix.into(),
            wanted: OnceLock::new(),
            unread: AtomicU64::new(unread.map_or(NOTHING, |event| event.revision().0)),
            wake: Notify::new(),
        });
        inner.slots.push(slot.clone());
        Ok(Watch { hub: self.clone(), slot, map: None, ended: false })
    }

    /// Ends every watch: nothing will be published any more.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.open = false;
        for slot in &inner.slots {
            slot.wake.notify_one();
        }
    }
}

/// How a watcher sees an event that is stored in another form.
pub type Map = Arc<dyn Fn(Arc<Event>) -> Result<Arc<Event>, Error> + Send + Sync>;

/// The events under one prefix from one revision on.
pub struct Watch {
    hub: Arc<Hub>,
    slot: Arc<Slot>,
    map: Option<Map>,
    ended: bool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("slot", &self.slot).field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// What a watcher finds when it looks.
enum Found {
    Events(Vec<Arc<Event>>),
    Nothing,
    Failed(Error),
    Closed,
}

impl Watch {
    /// The same watch whose events pass through `map` on their way out. Its error ends the watch.
    #[must_use]
    pub fn mapped(self, map: Map) -> Watch {
        // `Watch` has a destructor, so the field is set in place.
        let mut watch = self;
        watch.map = Some(map);
        watch
    }

    /// The same watch without the events that `wanted` says no to; they do not wake it. To be said once, at the start.
    ///
    /// A mapped watch returns all events: only in their mapped form can they be judged.
    #[must_use]
    pub fn only(self, wanted: Wanted) -> Watch {
        if self.map.is_none() {
            let _ = self.slot.wanted.set(wanted);
        }
        self
    }

    fn seen(&self, events: Vec<Arc<Event>>) -> Result<Vec<Arc<Event>>, Error> {
        match &self.map {
            Some(map) => events.into_iter().map(|event| map(event)).collect(),
            None => Ok(events),
        }
    }

    /// The next events, ascending by revision, at least one; waits until there are some.
    ///
    /// An error is the last thing but `None`; `None` says that the store was closed or that the error was returned
    /// already. Cancel-safe: a dropped call has taken nothing.
    pub async fn next(&mut self) -> Option<Result<Vec<Arc<Event>>, Error>> {
        while !self.ended {
            match self.look() {
                Found::Events(events) => {
                    let seen = self.seen(events);
                    self.ended = seen.is_err();
                    return Some(seen);
                }
                Found::Nothing => self.slot.wake.notified().await,
                Found::Failed(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                Found::Closed => self.ended = true,
            }
        }
        None
    }

    /// The newest revision up to which this watch has returned everything, if nothing is unread. A bookmark may say it.
    pub fn progress(&self) -> Option<Revision> {
        let inner = self.hub.read();
        (self.slot.unread.load(Ordering::Relaxed) == NOTHING).then(|| inner.revision())
    }

    fn look(&self) -> Found {
        let reading = self.hub.read();
        let unread = self.slot.unread.load(Ordering::Relaxed);
        if unread == NOTHING {
            return if reading.0.open { Found::Nothing } else { Found::Closed };
        }
        if unread <= reading.compacted().0 {
            return Found::Failed(Error::Compacted { oldest: reading.compacted() });
        }
        let mut unread_events = reading.events_from(Revision(unread)).filter(|event| self.slot.concerns(event));
        let events: Vec<_> = unread_events.by_ref().take(EVENTS_PER_CALL).cloned().collect();
        let rest = unread_events.next().map_or(NOTHING, |event| event.revision().0);
        self.slot.unread.store(rest, Ordering::Relaxed);
        match events.is_empty() {
            // What was found before the watcher said what it wants.
            true => Found::Nothing,
            false => Found::Events(events),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;

    use super::*;
    use crate::state::Draft;
    use crate::{Expect, Put};

    fn publish(hub: &Hub, keys: &[&str]) {
        let draft = {
            let state = hub.read();
            let mut draft = Draft::on(&state);
            for key in keys {
                let put = Put { key: (*key).into(), value: Bytes::new(), expect: Expect::Any, ttl: None };
                draft.put(&state, put, 0).unwrap();
            }
            draft
        };
        hub.publish(draft.into_changes());
    }

    fn keys(found: Found) -> Vec<String> {
        let Found::Events(events) = found else { return Vec::new() };
        events.iter().map(|event| event.key().to_string()).collect()
    }

    #[test]
    fn readers_read_while_watchers_are_asked_what_they_want() {
        let hub = Hub::new(State::empty());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, same) = (asked.clone(), Arc::downgrade(&hub));
        let watch = hub.watch("/", Revision(1)).unwrap().only(Arc::new(move |event| {
            seen.lock().unwrap().push(same.upgrade().is_some_and(|hub| hub.inner.try_read().is_ok()));
            &**event.key() == "/b"
        }));
        publish(&hub, &["/a", "/b", "/c"]);
        assert_eq!(*asked.lock().unwrap(), [true, true]);
        assert_eq!(keys(watch.look()), ["/b"]);
    }

    #[test]
    fn a_watch_that_opens_or_ends_while_others_are_asked_leaves_nobody_without_his_events() {
        let hub = Hub::new(State::empty());
        let (first, last) = (hub.watch("/a", Revision(1)).unwrap(), hub.watch("/c", Revision(1)).unwrap());
        let going = Mutex::new(Some(hub.watch("/b", Revision(1)).unwrap()));
        let came: Arc<Mutex<Option<Watch>>> = Arc::default();
        let (coming, same) = (came.clone(), Arc::downgrade(&hub));
        let _busy = hub.watch("/", Revision(1)).unwrap().only(Arc::new(move |_| {
            // The second time is under the lock that writes.
            if let (Some(gone), Some(hub)) = (going.lock().unwrap().take(), same.upgrade()) {
                drop(gone);
                *coming.lock().unwrap() = Some(hub.watch("/b", Revision(1)).unwrap());
            }
            false
        }));
        publish(&hub, &["/c", "/b", "/a"]);
        assert_eq!((keys(first.look()), keys(last.look())), (vec!["/a".to_owned()], vec!["/c".to_owned()]));
        assert_eq!(keys(came.lock().unwrap().take().unwrap().look()), ["/b"]);
    }
}
