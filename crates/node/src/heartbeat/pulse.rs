//! Whether the runtime can still be listed: a node whose runtime does not say what it has is not ready (POD-3).
//!
//! Start at [`Pulse::problem`].

use crate::image::go_duration;
use jiff::{SignedDuration, Timestamp};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

/// So long may no listing succeed.
const PATIENCE: SignedDuration = SignedDuration::from_secs(180);

/// When the runtime was last listed as a whole. Clones are one.
#[derive(Debug, Clone)]
pub struct Pulse {
    last_ms: Arc<AtomicI64>,
}

impl Pulse {
    /// As if it had been listed now: who has just begun is given time.
    pub fn new(now: Timestamp) -> Self {
        Self { last_ms: Arc::new(AtomicI64::new(now.as_millisecond())) }
    }

    /// It has been listed.
    pub fn beat(&self, now: Timestamp) {
        self.last_ms.store(now.as_millisecond(), Ordering::Relaxed);
    }

    /// Why the node is not ready, in the kubelet's words.
    pub fn problem(&self, now: Timestamp) -> Option<String> {
        let past = SignedDuration::from_millis(now.as_millisecond() - self.last_ms.load(Ordering::Relaxed));
        (past >= PATIENCE).then(|| {
            let (past, patience) = (go_duration(past), go_duration(PATIENCE));
            format!("PLEG is not healthy: pleg was last seen active {past} ago; threshold is {patience}")
        })
    }
}
