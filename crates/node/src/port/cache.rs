//! Answers that hold for a while.
//!
//! Pure: time is an argument. It never holds more than it was made for; the answer that ends first makes room.

use std::collections::BTreeMap;
use tokio::time::Instant;

/// At most so many answers, each until its own moment.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    entries: BTreeMap<K, (V, Instant)>,
    entries_max: usize,
}

impl<K: Ord + Clone, V: Clone> Cache<K, V> {
    pub(super) fn new(entries_max: usize) -> Self {
        assert!(entries_max > 0, "a cache has room for something");
        Self { entries: BTreeMap::new(), entries_max }
    }

    /// What is known of `key` and still holds.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        self.entries.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    /// Keeps an answer until then.
    pub(super) fn put(&mut self, key: K, value: V, until: Instant, now: Instant) {
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&key) {
            self.entries.retain(|_, (_, until)| now < *until);
        }
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&key) {
            let first = self.entries.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| key.clone());
            first.and_then(|key| self.entries.remove(&key));
        }
        self.entries.insert(key, (value, until));
        assert!(self.entries.len() <= self.entries_max, "a cache is bounded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn it_says_what_was_put_last_while_that_holds_and_never_holds_too_much(
            steps in proptest::collection::vec((0_u8..6, 0_u32..100, 1_u64..20, 0_u64..8), 0..80),
        ) {
            let mut now = Instant::now();
            let mut cache = Cache::new(3);
            let mut last: BTreeMap<u8, (u32, Instant)> = BTreeMap::new();
            for (key, value, seconds, passed) in steps {
                now += Duration::from_secs(passed);
                let until = now + Duration::from_secs(seconds);
                cache.put(key, value, until, now);
                last.insert(key, (value, until));
                prop_assert_eq!(cache.get(&key, now), Some(value));
                prop_assert!(cache.entries.len() <= 3);
                for (key, (value, until)) in &last {
                    if let Some(said) = cache.get(key, now) {
                        prop_assert!(said == *value && now < *until);
                    }
                }
            }
        }
    }
}
