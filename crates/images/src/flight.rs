//! One pull for many callers: identical requests join, and the work ends when the last caller has gone.
//!
//! Owns who waits for what; the work itself is a future given by `images.rs`.

use crate::error::PullError;
use crate::progress::{Board, ProgressSink};
use crate::store::Image;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Outcome = Result<Arc<Image>, PullError>;

/// One piece of work in flight.
pub(crate) struct Flight {
    pub(crate) board: Board,
    pub(crate) cancel: CancellationToken,
    result: watch::Sender<Option<Outcome>>,
}

/// All work in flight, by what was asked for.
pub(crate) struct Flights<K> {
    inner: Mutex<HashMap<K, (Arc<Flight>, usize)>>,
    /// Hears of each beginning, end and progress.
    changed: watch::Sender<()>,
}

impl<K: Hash + Eq + Clone + Send + 'static> Flights<K> {
    pub(crate) fn new() -> Arc<Flights<K>> {
        Arc::new(Flights { inner: Mutex::new(HashMap::new()), changed: watch::Sender::new(()) })
    }

    /// Hears of each beginning, end and progress of any work.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// All work under way.
    pub(crate) fn under_way(&self) -> Vec<(K, Arc<Flight>)> {
        self.lock().iter().map(|(key, (flight, _))| (key.clone(), flight.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (Arc<Flight>, usize)>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the work for a key, or begins it. Dropping the returned seat leaves it.
    pub(crate) fn join<F>(
        self: &Arc<Self>,
        key: K,
        sink: ProgressSink,
        tasks: &TaskTracker,
        work: impl FnOnce(Arc<Flight>) -> F,
    ) -> Seat<K>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut inner = self.lock();
        let flight = match inner.get_mut(&key) {
            Some((flight, seats)) => {
                *seats += 1;
                flight.clone()
            }
            None => {
                let board = Board::new(self.changed.clone());
                let (cancel, result) = (CancellationToken::new(), watch::Sender::new(None));
                let flight = Arc::new(Flight { board, cancel, result });
                inner.insert(key.clone(), (flight.clone(), 1));
                let job = tasks.spawn(work(flight.clone()));
                let (flights, landing, own_key) = (self.clone(), flight.clone(), key.clone());
                tasks.spawn(async move {
                    let outcome = job.await.unwrap_or_else(|error| {
                        Err(PullError::Broken { reference: "image".to_owned(), detail: error.to_string() })
                    });
                    flights.forget(&own_key, &landing);
                    landing.result.send_replace(Some(outcome));
                });
                flight
            }
        };
        drop(inner);
        self.changed.send_replace(());
        let follower = flight.board.follow(sink);
        Seat { flights: self.clone(), key, flight, follower }
    }

    fn forget(&self, key: &K, flight: &Arc<Flight>) {
        let mut inner = self.lock();
        if inner.get(key).is_some_and(|(own, _)| Arc::ptr_eq(own, flight)) {
            inner.remove(key);
            self.changed.send_replace(());
        }
    }

    fn leave(&self, key: &K, flight: &Arc<Flight>) {
        let mut inner = self.lock();
        let Some((own, seats)) = inner.get_mut(key) else { return };
        if Arc::ptr_eq(own, flight) {
            *seats -= 1;
            if *seats == 0 {
                flight.cancel.cancel();
                inner.remove(key);
                self.changed.send_replace(());
            }
        }
    }
}

/// A caller's share in a flight.
pub(crate) struct Seat<K: Hash + Eq + Clone + Send + 'static> {
    flights: Arc<Flights<K>>,
    key: K,
    flight: Arc<Flight>,
    follower: u64,
}

impl<K: Hash + Eq + Clone + Send + 'static> Seat<K> {
    /// Waits for the outcome.
    pub(crate) async fn outcome(&self) -> Outcome {
        let mut result = self.flight.result.subscribe();
        let settled = result.wait_for(Option::is_some).await;
        let outcome = settled.expect("the flight holds the sender for as long as the seat holds the flight").clone();
        outcome.expect("wait_for returns when there is an outcome")
    }
}

impl<K: Hash + Eq + Clone + Send + 'static> Drop for Seat<K> {
    fn drop(&mut self) {
        self.flight.board.unfollow(self.follower);
        self.flights.leave(&self.key, &self.flight);
    }
}

/// Locks by name, each for as long as somebody holds or awaits it.
#[derive(Default)]
pub(crate) struct NamedLocks {
    inner: Mutex<HashMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>,
}

impl NamedLocks {
    pub(crate) async fn lock(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        self.named(name).lock_owned().await
    }

    /// The lock if nobody has it.
    pub(crate) fn try_lock(&self, name: &str) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        self.named(name).try_lock_owned().ok()
    }

    fn named(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.retain(|_, mutex| mutex.strong_count() > 0);
        if let Some(mutex) = inner.get(name).and_then(std::sync::Weak::upgrade) {
            return mutex;
        }
        let mutex = Arc::new(tokio::sync::Mutex::new(()));
        inner.insert(name.to_owned(), Arc::downgrade(&mutex));
        mutex
    }
}
