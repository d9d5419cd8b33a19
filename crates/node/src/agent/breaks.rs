//! How long a pod's task that broke off rests before it is begun again: a fault that comes back must not turn hot.
//!
//! Pure. Start at [`Breaks::again`].

use crate::image::doubled;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// After the first break.
const FIRST: SignedDuration = SignedDuration::from_secs(1);
/// At most.
const MAX: SignedDuration = SignedDuration::from_secs(300);
/// Who ran for so long after the rest begins anew.
const FORGET: SignedDuration = SignedDuration::from_secs(600);

/// The breaks of tasks, by pod UID.
#[derive(Debug, Default)]
pub(super) struct Breaks {
    known: BTreeMap<String, Break>,
}

#[derive(Debug)]
struct Break {
    in_a_row: u32,
    /// When the task went on after it.
    resumes_at: Timestamp,
}

impl Breaks {
    /// This task broke off now; how long it rests.
    pub(super) fn again(&mut self, uid: &str, now: Timestamp) -> SignedDuration {
        let last = self.known.get(uid).filter(|last| now.duration_since(last.resumes_at) < FORGET);
        let in_a_row = last.map_or(0, |last| last.in_a_row) + 1;
        let rest = doubled(FIRST, in_a_row - 1, MAX);
        let resumes_at = now.checked_add(rest).unwrap_or(now);
        self.known.insert(uid.to_owned(), Break { in_a_row, resumes_at });
        rest
    }

    /// The pod has gone.
    pub(super) fn forget(&mut self, uid: &str) {
        self.known.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_breaks_off_again_and_again_rests_ever_longer_and_anew_after_a_good_while() {
        let (mut breaks, mut now) = (Breaks::default(), Timestamp::from_second(1_700_000_000).unwrap());
        let mut rests = Vec::new();
        for _ in 0..11 {
            let rest = breaks.again("u", now);
            rests.push(rest.as_secs());
            // It breaks off as soon as it goes on.
            now += rest;
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(breaks.again("other", now).as_secs(), 1);
        assert_eq!(breaks.again("u", now + SignedDuration::from_secs(599)).as_secs(), 300);
        let rested = now + SignedDuration::from_secs(599 + 300 + 600);
        assert_eq!(breaks.again("u", rested).as_secs(), 1);
        breaks.again("u", rested);
        breaks.forget("u");
        assert_eq!(breaks.again("u", rested).as_secs(), 1);
    }
}
