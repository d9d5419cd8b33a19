//! How much a peer lets us send (SPDY/3.1, section 2.6.8). Pure.
//!
//! The Go library that Kubernetes' clients are made of knows no windows: it never opens one, so who kept to them would
//! stop for ever after 64 KiB. Therefore a peer's windows count from when it speaks of them, by SETTINGS or by
//! WINDOW_UPDATE; what was sent before counts then too.

use std::collections::BTreeMap;

/// Of a stream, and of all together, until somebody says otherwise.
pub(super) const INITIAL: i64 = 64 << 10;
/// No window may become larger.
const LARGEST: i64 = 0x7fff_ffff;

/// The windows of one connection.
#[derive(Debug)]
pub(super) struct Windows {
    count: bool,
    initial: i64,
    all: i64,
    streams: BTreeMap<u32, i64>,
}

impl Windows {
    pub(super) fn new() -> Windows {
        Windows { count: false, initial: INITIAL, all: INITIAL, streams: BTreeMap::new() }
    }

    pub(super) fn open(&mut self, stream: u32) {
        self.streams.insert(stream, self.initial);
    }

    pub(super) fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// Takes leave to send; how many bytes of the wanted may go now.
    #[must_use]
    pub(super) fn take(&mut self, stream: u32, wanted: usize) -> usize {
        let Some(own) = self.streams.get_mut(&stream) else { return 0 };
        let open = if self.count { (*own).min(self.all).max(0) } else { LARGEST };
        let taken = wanted.min(usize::try_from(open).unwrap_or_default());
        let bytes = i64::try_from(taken).unwrap_or(LARGEST);
        // Below the largest loss no sum is needed: a peer without windows may take bytes for ever.
        *own = (*own - bytes).max(-LARGEST);
        self.all = (self.all - bytes).max(-LARGEST);
        taken
    }

    /// The peer has read; stream 0 is all together.
    pub(super) fn credit(&mut self, stream: u32, bytes: u32) {
        self.count = true;
        let window = if stream == 0 { Some(&mut self.all) } else { self.streams.get_mut(&stream) };
        if let Some(window) = window {
            *window = (*window + i64::from(bytes)).min(LARGEST);
        }
    }

    /// The peer sets the first window of its streams, of those that are open too.
    pub(super) fn set_initial(&mut self, bytes: u32) {
        self.count = true;
        let initial = i64::from(bytes).min(LARGEST);
        for window in self.streams.values_mut() {
            *window = (*window + initial - self.initial).min(LARGEST);
        }
        self.initial = initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_peer_that_knows_no_windows_is_sent_everything() {
        let mut windows = Windows::new();
        windows.open(1);
        for _ in 0..1000 {
            assert_eq!(windows.take(1, 32 << 10), 32 << 10);
        }
        assert_eq!(windows.take(3, 1), 0, "a stream that is not open takes nothing");
    }

    #[test]
    fn windows_count_once_the_peer_speaks_of_them() {
        let mut windows = Windows::new();
        windows.open(1);
        assert_eq!(windows.take(1, 60 << 10), 60 << 10);
        windows.credit(1, 1 << 10);
        assert_eq!(windows.take(1, 60 << 10), 4 << 10, "the window of all together is the narrow one");
        windows.credit(0, 10 << 10);
        assert_eq!(windows.take(1, 60 << 10), 1 << 10, "now it is the stream's");
        windows.set_initial((64 << 10) + 7);
        assert_eq!(windows.take(1, 60 << 10), 7);
    }

    proptest! {
        /// Never more is sent than the peer allowed, once it began to allow.
        #[test]
        fn the_sum_of_what_is_sent_stays_within_what_was_allowed(
            steps in prop::collection::vec((0_u32..3, 1_u32..100_000, any::<bool>()), 1..100),
        ) {
            let mut windows = Windows::new();
            windows.set_initial(1000);
            let mut allowed = [INITIAL, 1000, 1000];
            let mut sent = [0_i64; 3];
            windows.open(1);
            windows.open(2);
            for (stream, bytes, is_credit) in steps {
                if is_credit {
                    windows.credit(stream, bytes);
                    allowed[stream as usize] += i64::from(bytes);
                } else if stream != 0 {
                    let taken = windows.take(stream, bytes as usize) as i64;
                    sent[stream as usize] += taken;
                    sent[0] += taken;
                }
                for (sent, allowed) in sent.iter().zip(allowed) {
                    prop_assert!(*sent <= allowed);
                }
            }
        }
    }
}
