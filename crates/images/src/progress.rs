//! How far a pull has come, layer by layer. Owns the words; drawing bars is the command line's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

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

/// One pull's progress in a few numbers. `fetched` and `present` together reach `total`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Canonical name of the image.
    pub image: String,
    /// Compressed bytes of all layers; 0 until the manifest is known.
    pub total: u64,
    /// Compressed bytes at hand of layers that had to be fetched.
    pub fetched: u64,
    /// Compressed bytes of layers that were there already.
    pub present: u64,
    /// Number of layers.
    pub layers: u32,
    /// How many of them are whole and unpacked.
    pub layers_done: u32,
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
pub(crate) struct Board {
    inner: Mutex<BoardInner>,
    /// Hears of each change of any pull.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct BoardInner {
    layers: BTreeMap<String, LayerProgress>,
    followers: BTreeMap<u64, ProgressSink>,
    next: u64,
}

const STEP_BYTES: u64 = 256 * 1024;

impl Board {
    pub(crate) fn new(changed: watch::Sender<()>) -> Board {
        Board { inner: Mutex::default(), changed }
    }

    /// The sum over all layers.
    pub(crate) fn sum(&self, image: &str) -> PullProgress {
        let inner = self.lock();
        let mut sum = PullProgress { image: image.to_owned(), ..PullProgress::default() };
        for layer in inner.layers.values() {
            sum.layers += 1;
            sum.total += layer.total;
            match layer.state {
                LayerState::Present => sum.present += layer.total,
                _ => sum.fetched += layer.fetched,
            }
            sum.layers_done += u32::from(matches!(layer.state, LayerState::Present | LayerState::Done));
        }
        sum
    }

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
        self.changed.send_replace(());
    }

    fn publish(&self, layer: LayerProgress) {
        let mut inner = self.lock();
        inner.followers.values().for_each(|sink| sink.send(&layer));
        inner.layers.insert(layer.digest.clone(), layer);
        self.changed.send_replace(());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BoardInner> {
        // A panic in somebody's callback must not end the pull of others.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_tells_present_layers_from_fetched_ones_and_reaches_the_total() {
        let (changed, mut heard) = watch::channel(());
        let board = Board::new(changed);
        assert_eq!(board.sum("a"), PullProgress { image: "a".into(), ..PullProgress::default() });
        board.add("one", 1_000_000);
        board.add("two", 500_000);
        assert!(heard.has_changed().unwrap());
        heard.mark_unchanged();
        board.state("one", LayerState::Present);
        board.fetched("two", 300_000);
        let sum = board.sum("a");
        assert_eq!((sum.total, sum.present, sum.fetched), (1_500_000, 1_000_000, 300_000));
        assert_eq!((sum.layers, sum.layers_done), (2, 1));
        board.state("two", LayerState::Done);
        let sum = board.sum("a");
        assert_eq!((sum.present + sum.fetched, sum.layers_done), (sum.total, 2));
        assert!(heard.has_changed().unwrap());
    }
}
