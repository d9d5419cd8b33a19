//! What this server bears: how long it waits for a client, and how much it holds for all of them.
//!
//! Figures are upstream's where it has one. Pure: who waits or refuses asks here. Start at [`Limits`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::status::Status;

/// How long and how much.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Until a TLS handshake is done.
    pub handshake: Duration,
    /// From the handshake to the first request, and for the header of each one (upstream's `ReadHeaderTimeout`).
    pub header: Duration,
    /// A connection without a request ends after so long (upstream's `IdleTimeout`).
    pub idle: Duration,
    /// Until the body of a request is there, and until its answer is taken (upstream's `--request-timeout`).
    pub request: Duration,
    /// Most requests that read, at a time (upstream's `--max-requests-inflight`).
    pub reads: usize,
    /// Most requests that write, at a time (upstream's `--max-mutating-requests-inflight`).
    pub writes: usize,
    /// Bodies of more than [`LIGHT_BODY_BYTES`] that are being received at a time; more are refused (429).
    pub buffered_bodies: usize,
    /// Such bodies that are worked on at a time; others wait for their turn.
    pub heavy_bodies: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 4096,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(32),
            idle: Duration::from_secs(90),
            request: Duration::from_secs(60),
            reads: 400,
            writes: 200,
            buffered_bodies: 32,
            heavy_bodies: 4,
        }
    }
}

/// The largest body this server reads, in bytes (upstream's `MaxRequestBodyBytes`).
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// The largest object that is stored, as JSON, in bytes: room for what one body brings and for the owners of its fields.
/// Upstream's bound is its store's, 1.5 MiB of a denser encoding.
pub const OBJECT_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;
/// 99 of 100 objects are smaller, upstream found.
pub const LIGHT_BODY_BYTES: usize = 256 << 10;
/// Streams of one HTTP/2 connection (upstream's `MaxConcurrentStreams`).
pub const STREAMS_MAX: u32 = 100;
/// Bytes of the header of a request. Upstream's is 1 MiB; URIs of more than 64 KiB cannot be told here anyway.
pub const HEADER_BYTES_MAX: u32 = 256 << 10;

/// Whose turn it is.
#[derive(Debug)]
pub struct Turns {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
    /// One permit a large body that is being read.
    reading: Arc<Semaphore>,
}

/// The turn of one request. It lasts as long as the answer is not taken.
#[derive(Clone, Debug)]
pub struct Turn(#[allow(dead_code)] Arc<OwnedSemaphorePermit>); // Held, never read.

impl Turns {
    /// All free.
    pub fn new(limits: &Limits) -> Turns {
        let semaphore = |count: usize| Arc::new(Semaphore::new(count));
        Turns {
            reads: semaphore(limits.reads),
            writes: semaphore(limits.writes),
            heavy: semaphore(limits.heavy_bodies),
            reading: semaphore(limits.buffered_bodies),
        }
    }

    /// A turn for a request that is no stream, or upstream's refusal.
    ///
    /// # Errors
    /// 429 when too many are in flight.
    pub fn take(&self, writes: bool) -> Result<Turn, Status> {
        let turns = if writes { &self.writes } else { &self.reads };
        let permit = turns.clone().try_acquire_owned().map_err(|_| Status::too_many_requests())?;
        Ok(Turn(Arc::new(permit)))
    }

    /// Room for a large body.
    ///
    /// # Errors
    /// 429 when there is none. Nobody waits for it: who holds it may be slow on purpose.
    pub fn room(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.reading.clone().try_acquire_owned().map_err(|_| Status::too_many_requests())
    }

    /// A turn for the work on a large body, when there is one.
    pub async fn heavy(&self) -> OwnedSemaphorePermit {
        self.heavy.clone().acquire_owned().await.expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_and_writes_have_turns_of_their_own() {
        let turns = Turns::new(&Limits { reads: 1, writes: 1, heavy_bodies: 1, ..Limits::default() });
        let read = turns.take(false).unwrap();
        assert_eq!(turns.take(false).unwrap_err().code, 429);
        let _write = turns.take(true).unwrap();
        drop(read);
        assert!(turns.take(false).is_ok());
        let heavy = turns.heavy().await;
        assert!(tokio::time::timeout(Duration::from_millis(1), turns.heavy()).await.is_err());
        drop(heavy);
        let _again = turns.heavy().await;
    }
}
