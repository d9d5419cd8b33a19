//! What is to be looked at, because something has happened to it.
//!
//! A thing is due from the moment something happens to it until a look that began later has ended well. Only what is due
//! is kept, so a quiet world costs nothing.

use std::collections::BTreeMap;

/// What is due.
#[derive(Debug)]
pub struct Due<K> {
    /// With whether something has happened since the last look began.
    things: BTreeMap<K, bool>,
}

impl<K> Default for Due<K> {
    fn default() -> Due<K> {
        Due { things: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Due<K> {
    /// Something has happened to it.
    pub fn happened(&mut self, thing: K) {
        self.things.insert(thing, true);
    }

    /// A look begins: what happens from now on may escape it.
    pub fn begins(&mut self, thing: &K) {
        if let Some(again) = self.things.get_mut(thing) {
            *again = false;
        }
    }

    /// A look has ended well.
    pub fn ends(&mut self, thing: &K) {
        if self.things.get(thing) == Some(&false) {
            self.things.remove(thing);
        }
    }

    /// What is due.
    pub fn all(&self) -> impl Iterator<Item = &K> {
        self.things.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_during_a_look_asks_for_another_one() {
        let mut due = Due::default();
        due.happened("web");
        due.begins(&"web");
        due.happened("web");
        due.ends(&"web");
        assert_eq!(due.all().count(), 1);
        due.begins(&"web");
        assert_eq!(due.all().count(), 1, "a look that fails leaves it due");
        due.ends(&"web");
        assert_eq!(due.all().count(), 0, "asleep when nothing concerns it");
    }
}
