//! One pull for all who want the same at the same time (IMG-255).
//!
//! The pull is a shared future: whoever waits drives it, and when the last one drops it, it ends. Start at
//! [`Flights::join`].

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

type Flight<T> = BoxFuture<'static, T>;

/// The work under way, by what it is. Clones share it.
#[derive(Clone)]
pub struct Flights<K, T> {
    inner: Arc<Mutex<BTreeMap<K, WeakShared<Flight<T>>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { inner: Arc::default() }
    }
}

impl<K: Ord, T: Clone> Flights<K, T> {
    /// Joins the work of this key, or begins it.
    pub fn join(&self, key: K, begin: impl FnOnce() -> Flight<T>) -> Shared<Flight<T>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.retain(|_, flight| flight.upgrade().is_some());
        // What has ended is not joined: its answer is about the past.
        let under_way = inner.get(&key).and_then(WeakShared::upgrade).filter(|flight| flight.peek().is_none());
        if let Some(flight) = under_way {
            return flight;
        }
        let flight = begin().shared();
        if let Some(weak) = flight.downgrade() {
            inner.insert(key, weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn who_wants_the_same_shares_one_and_the_next_begins_anew() {
        let flights: Flights<&str, usize> = Flights::default();
        let (count, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let begin = || {
            let (count, gate) = (count.clone(), gate.clone());
            async move {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                gate.notified().await;
                number
            }
            .boxed()
        };
        let (a, b) = (flights.join("k", begin), flights.join("k", begin));
        gate.notify_one();
        assert_eq!(tokio::join!(a.clone(), b), (1, 1));
        gate.notify_one();
        assert_eq!(flights.join("k", begin).await, 2, "an answer is not kept, even while somebody holds it");
        drop(a);
    }

    #[tokio::test]
    async fn it_ends_when_the_last_one_leaves_and_not_before() {
        let flights: Flights<&str, ()> = Flights::default();
        let alive = Arc::new(());
        let begin = || {
            let alive = alive.clone();
            async move {
                let _alive = alive;
                std::future::pending().await
            }
            .boxed()
        };
        let (a, b) = (flights.join("k", begin), flights.join("k", begin));
        drop(a);
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(b);
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
