//! How far a pull has come, layer by layer. Owns the words; drawing bars is the command line's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Where a layer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Known from the manifest, not begun.
    Waiting,
    /// Bytes are coming in and are unpacked as they come.
    Fetching,
    /// Everything came; the rest is being unpacked.
    Unpacking,
    /// Whole and in the store.
    Done,
    /// Was already in the store.
    Present,
}

/// One layer's progress. Counts in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of the compressed layer.
    pub digest: String,
    /// Compressed size.
    pub total: u64,
    /// Compressed bytes at hand, those of an earlier attempt included.
    pub fetched: u64,
    /// Uncompressed bytes unpacked.
    pub unpacked: u64,
    /// Where it stands.
    pub state: LayerState,
}

type Callback = dyn Fn(&LayerProgress) + Send + Sync;

/// Where progress goes: a cheap callback that must not block, called a few times per megabyte and on each change of state.
#[derive(Clone, Default)]
pub struct ProgressSink(Option<Arc<Callback>>);

impl ProgressSink {
    /// Progress that nobody looks at.
    pub fn none() -> ProgressSink {
        ProgressSink(None)
    }

    /// Progress into a callback.
    pub fn new(callback: impl Fn(&LayerProgress) + Send + Sync + 'static) -> ProgressSink {
        ProgressSink(Some(Arc::new(callback)))
    }

    fn send(&self, progress: &LayerProgress) {
        if let Some(callback) = &self.0 {
            callback(progress);
        }
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ProgressSink")
    }
}

/// The progress of one pull, with everybody who follows it.
#[derive(Default)]
pub(crate) struct Board {
    inner: Mutex<BoardInner>,
}

#[derive(Default)]
struct BoardInner {
    layers: BTreeMap<String, LayerProgress>,
    followers: BTreeMap<u64, ProgressSink>,
    next: u64,
}

const STEP_BYTES: u64 = 256 * 1024;

impl Board {
    /// Adds a follower, who first hears how things stand.
    pub(crate) fn follow(&self, sink: ProgressSink) -> u64 {
        let mut inner = self.lock();
        inner.layers.values().for_each(|layer| sink.send(layer));
        inner.next += 1;
        let number = inner.next;
        inner.followers.insert(number, sink);
        number
    }

    pub(crate) fn unfollow(&self, number: u64) {
        self.lock().followers.remove(&number);
    }

    pub(crate) fn add(&self, digest: &str, total: u64) {
        let layer =
            LayerProgress { digest: digest.to_owned(), total, fetched: 0, unpacked: 0, state: LayerState::Waiting };
        self.publish(layer);
    }

    pub(crate) fn state(&self, digest: &str, state: LayerState) {
        self.change(digest, |layer| {
            layer.state = state;
            if matches!(state, LayerState::Done | LayerState::Present) {
                layer.fetched = layer.total;
            }
            true
        });
    }

    pub(crate) fn fetched(&self, digest: &str, bytes: u64) {
        self.change(digest, |layer| {
            let step = bytes / STEP_BYTES != layer.fetched / STEP_BYTES || bytes == layer.total;
            layer.fetched = bytes;
            step
        });
    }

    pub(crate) fn unpacked(&self, digest: &str, bytes: u64) {
        self.change(digest, |layer| {
            let step = bytes / STEP_BYTES != layer.unpacked / STEP_BYTES;
            layer.unpacked = bytes;
            step
        });
    }

    fn change(&self, digest: &str, apply: impl FnOnce(&mut LayerProgress) -> bool) {
        let mut inner = self.lock();
        let Some(layer) = inner.layers.get_mut(digest) else { return };
        if apply(layer) {
            let layer = layer.clone();
            inner.followers.values().for_each(|sink| sink.send(&layer));
        }
    }

    fn publish(&self, layer: LayerProgress) {
        let mut inner = self.lock();
        inner.followers.values().for_each(|sink| sink.send(&layer));
        inner.layers.insert(layer.digest.clone(), layer);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BoardInner> {
        // A panic in somebody's callback must not end the pull of others.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
