//! What is to be looked at, because something has happened to it, and whose turn it is.
//!
//! A thing is due from the moment something happens to it until a look that began later has ended well. Those that wait
//! have their turns in the order in which they became due; one that is looked at, or rests after a failure, has none.
//! Only what is due is kept, so a quiet world costs nothing, and no step here walks over all of it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

/// What is due.
#[derive(Debug)]
pub struct Due<K> {
    things: BTreeMap<K, Thing>,
    /// Those that wait for their turns.
    queue: BTreeMap<u64, K>,
    /// Those that rest, by the end of it.
    resting: BTreeSet<(Instant, K)>,
    arrivals: u64,
    turns: u64,
}

#[derive(Debug)]
struct Thing {
    state: State,
    /// How many looks have failed since the last one that went well.
    failures: u32,
    /// Whether something has happened since the look under way began.
    again: bool,
}

/// ```text
///   happened         next              fails, waits
///  ─────────► Waiting ───► UnderWay ──────────────► Resting
///               ▲             │  └─ ends ─► (not due)  │
///               └── ends, but happened again ──────────┴─ the rest is over, hurry
/// ```
#[derive(Debug, Clone, Copy)]
enum State {
    Waiting,
    UnderWay,
    Resting(Instant),
}

impl<K> Default for Due<K> {
    fn default() -> Due<K> {
        Due { things: BTreeMap::new(), queue: BTreeMap::new(), resting: BTreeSet::new(), arrivals: 0, turns: 0 }
    }
}

impl<K: Ord + Clone> Due<K> {
    /// Something has happened to it.
    pub fn happened(&mut self, thing: K) {
        match self.things.get_mut(&thing) {
            Some(known) => known.again = true,
            None => {
                self.things.insert(thing.clone(), Thing { state: State::Waiting, failures: 0, again: false });
                self.enqueue(thing);
            }
        }
    }

    fn enqueue(&mut self, thing: K) {
        self.arrivals += 1;
        self.queue.insert(self.arrivals, thing);
    }

    /// The one whose turn it is; a look at it begins, and what happens from now on may escape that.
    pub fn next(&mut self, now: Instant) -> Option<K> {
        while self.resting.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, thing)) = self.resting.pop_first() else { break };
            self.rise(thing);
        }
        let (_, thing) = self.queue.pop_first()?;
        if let Some(known) = self.things.get_mut(&thing) {
            (known.state, known.again) = (State::UnderWay, false);
        }
        self.turns += 1;
        Some(thing)
    }

    fn rise(&mut self, thing: K) {
        if let Some(known) = self.things.get_mut(&thing) {
            known.state = State::Waiting;
        }
        self.enqueue(thing);
    }

    /// The look has ended well.
    pub fn ends(&mut self, thing: &K) {
        let Some(known) = self.things.get_mut(thing).filter(|known| matches!(known.state, State::UnderWay)) else {
            return;
        };
        known.failures = 0;
        if known.again {
            self.rise(thing.clone());
        } else {
            self.things.remove(thing);
        }
    }

    /// The look has failed; it rests as long as `until` says, which is told how many have failed in a row.
    pub fn fails(&mut self, thing: &K, until: impl FnOnce(u32) -> Instant) {
        let Some(known) = self.things.get_mut(thing) else { return };
        known.failures += 1;
        let until = until(known.failures);
        self.waits(thing, until);
    }

    /// The look cannot begin before this, unless it is hurried.
    pub fn waits(&mut self, thing: &K, until: Instant) {
        let Some(known) = self.things.get_mut(thing).filter(|known| matches!(known.state, State::UnderWay)) else {
            return;
        };
        known.state = State::Resting(until);
        self.resting.insert((until, thing.clone()));
    }

    /// Its rest is over.
    pub fn hurry(&mut self, thing: &K) {
        if let Some(State::Resting(until)) = self.things.get(thing).map(|known| known.state) {
            self.resting.remove(&(until, thing.clone()));
            self.rise(thing.clone());
        }
    }

    /// When the next rest is over.
    pub fn wake_at(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// What is due.
    pub fn all(&self) -> impl Iterator<Item = &K> {
        self.things.keys()
    }

    /// How many turns there have been.
    pub fn turns(&self) -> u64 {
        self.turns
    }
}

/// When to look at things though nothing happens to them.
#[derive(Debug)]
pub struct Alarms<K> {
    at: BTreeMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
}

impl<K> Default for Alarms<K> {
    fn default() -> Alarms<K> {
        Alarms { at: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Alarms<K> {
    /// Looks at it then, and not at the time that was set before.
    pub fn set(&mut self, thing: &K, at: Option<Instant>) {
        if let Some(before) = self.at.remove(thing) {
            self.order.remove(&(before, thing.clone()));
        }
        if let Some(at) = at {
            self.at.insert(thing.clone(), at);
            self.order.insert((at, thing.clone()));
        }
    }

    /// One whose time has come.
    pub fn next(&mut self, now: Instant) -> Option<K> {
        let (_, thing) = self.order.first().filter(|(at, _)| *at <= now)?.clone();
        self.set(&thing, None);
        Some(thing)
    }

    /// When the next time comes.
    pub fn first(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_happens_during_a_look_asks_for_another_one() {
        let (mut due, now) = (Due::default(), Instant::now());
        due.happened("web");
        assert_eq!((due.next(now), due.next(now)), (Some("web"), None), "one look at a time");
        due.happened("web");
        assert_eq!(due.next(now), None, "one look at a time");
        due.ends(&"web");
        assert_eq!(due.next(now), Some("web"));
        due.ends(&"web");
        assert_eq!(due.all().count(), 0, "asleep when nothing concerns it");
    }

    #[test]
    fn turns_are_in_the_order_of_what_happened() {
        let (mut due, now) = (Due::default(), Instant::now());
        ["b", "a", "b", "c"].into_iter().for_each(|one| due.happened(one));
        assert_eq!([(); 4].map(|()| due.next(now)), [Some("b"), Some("a"), Some("c"), None]);
    }

    #[test]
    fn a_look_that_fails_rests_longer_each_time_and_leaves_it_due() {
        let (mut due, now) = (Due::default(), Instant::now());
        let rest = |failures: u32| now + Duration::from_secs(failures.into());
        due.happened("web");
        for failures in 1..3 {
            assert_eq!(due.next(rest(failures - 1)), Some("web"));
            due.fails(&"web", rest);
            due.happened("web");
            assert_eq!((due.wake_at(), due.next(now)), (Some(rest(failures)), None));
        }
        due.hurry(&"web");
        assert_eq!(due.next(now), Some("web"));
        due.ends(&"web");
        assert_eq!((due.all().count(), due.wake_at()), (0, None));
    }

    #[test]
    fn an_alarm_rings_once_at_the_time_that_was_set_last() {
        let (mut alarms, now) = (Alarms::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        alarms.set(&"web", Some(now));
        alarms.set(&"web", Some(later));
        assert_eq!((alarms.first(), alarms.next(now)), (Some(later), None));
        assert_eq!((alarms.next(later), alarms.next(later), alarms.first()), (Some("web"), None, None));
    }
}
