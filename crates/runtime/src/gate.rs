//! How many OCI runtimes start a container at the same time.
//!
//! Fifty at once take a third longer than the same fifty a few at a time: they fight for the processors and for the
//! kernel's locks. Start with [`Gate::pass`].

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// How long one waits for its turn. A start that hangs (on a dead network file system) delays others by no more.
const PATIENCE: Duration = Duration::from_secs(2);
/// Starts at once for each processor: while one waits for the kernel, another computes.
const EACH: usize = 3;

/// Lets a few through at a time.
pub(crate) struct Gate(Semaphore);

impl Gate {
    /// A gate for this machine.
    pub(crate) fn new() -> Gate {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Gate(Semaphore::new(processors * EACH))
    }

    /// Returns at one's turn, with a place to be held for as long as the start takes; or when patience ends, without.
    pub(crate) async fn pass(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(PATIENCE, self.0.acquire()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_hang_do_not_stop_the_others() {
        let gate = Gate(Semaphore::new(1));
        let hangs = gate.pass().await;
        assert!(hangs.is_some());
        let began = tokio::time::Instant::now();
        assert!(gate.pass().await.is_none());
        assert_eq!(began.elapsed(), PATIENCE);
        drop(hangs);
        assert!(gate.pass().await.is_some());
    }
}
