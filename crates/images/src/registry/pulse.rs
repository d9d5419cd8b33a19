//! Whether a pull still gets bytes (IMG-151).
//!
//! Counts the time in which at least one request waits and no byte comes. Time in which nobody waits for the network,
//! such as that of unpacking, does not count: when the first one waits again, the clock begins anew.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The heartbeat of a session.
pub(crate) struct Pulse {
    inner: Mutex<Inner>,
}

struct Inner {
    waiting: usize,
    last: Instant,
    host: String,
}

impl Pulse {
    pub(super) fn new() -> Pulse {
        Pulse { inner: Mutex::new(Inner { waiting: 0, last: Instant::now(), host: String::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits for the network until the returned value is dropped.
    pub(crate) fn active(&self) -> Active<'_> {
        let mut inner = self.lock();
        inner.waiting += 1;
        if inner.waiting == 1 {
            inner.last = Instant::now();
        }
        Active(self)
    }

    /// Bytes came.
    pub(crate) fn beat(&self) {
        self.lock().last = Instant::now();
    }

    /// Who is asked now, for the message.
    pub(super) fn note_host(&self, host: &str) {
        host.clone_into(&mut self.lock().host);
    }

    /// Returns when nothing has come for so long; tells who was asked last.
    pub(crate) async fn silence(&self, limit: Duration) -> String {
        loop {
            let until = {
                let inner = self.lock();
                let since = if inner.waiting == 0 { Instant::now() } else { inner.last };
                since + limit
            };
            if until <= Instant::now() {
                return self.lock().host.clone();
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Somebody who waits.
pub(crate) struct Active<'a>(&'a Pulse);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn silence_counts_while_somebody_waits_and_begins_anew_after_a_rest() {
        let pulse = Pulse::new();
        pulse.note_host("https://r.io");
        let begun = Instant::now();
        let story = async {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            {
                let _active = pulse.active();
                tokio::time::sleep(Duration::from_secs(299)).await;
                pulse.beat();
                tokio::time::sleep(Duration::from_secs(299)).await;
            }
            // Unpacking.
            tokio::time::sleep(Duration::from_secs(1000)).await;
            let _active = pulse.active();
            let _another = pulse.active();
            std::future::pending::<()>().await;
        };
        let host = tokio::select! {
            host = pulse.silence(LIMIT) => host,
            () = story => unreachable!("the story does not end"),
        };
        assert_eq!((host.as_str(), begun.elapsed().as_secs()), ("https://r.io", 1000 + 299 + 299 + 1000 + 300));
    }
}
