//! The back-off after failed pulls of one image for one pod, and what ends it early (IMG-70 … IMG-80).
//!
//! Pure: time is an argument. The back-off is in memory only (IMG-80), one entry per pod and spec image (IMG-71); a pull
//! that succeeds removes it (IMG-74). Start at [`Failures::due`].

use super::{Cause, Class, Fault, Refusal, go_duration};
use crate::object::Pod;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// First delay after a failed pull; doubles up to [`BACKOFF_MAX`] (IMG-70).
pub const BACKOFF_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest delay between two pulls.
pub const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(300);
/// A failure older than this no longer counts (IMG-73).
pub const BACKOFF_FORGET: SignedDuration = SignedDuration::from_secs(600);

/// When each cause was last heard of.
pub type Heard = BTreeMap<Cause, Timestamp>;

/// The consecutive failed pulls of one image for one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// When the last attempt began. A cause heard later is news to it.
    pub begun: Timestamp,
    /// When the last one failed.
    pub last: Timestamp,
    /// Its reason word.
    pub reason: String,
    /// Its text.
    pub message: String,
    /// What has to change.
    pub class: Class,
    /// The host that it is about.
    pub host: String,
}

impl Failures {
    /// Adds a failure of an attempt that began at `begun` to what was known.
    pub fn after(known: Option<&Self>, begun: Timestamp, now: Timestamp, refusal: &Refusal, fault: &Fault) -> Self {
        let count = known.filter(|f| now.duration_since(f.last) <= BACKOFF_FORGET).map_or(0, |f| f.count) + 1;
        let (reason, message) = (refusal.reason.to_owned(), refusal.message.clone());
        Self { count, begun, last: now, reason, message, class: fault.class, host: fault.host.clone() }
    }

    /// The delay after the last failure.
    pub fn delay(&self) -> SignedDuration {
        doubled(BACKOFF_FIRST, self.count.saturating_sub(1), BACKOFF_MAX)
    }

    /// The instant from which the registry may be asked again: the end of the delay (IMG-72: at exactly the delay it
    /// may), or at once if something changed since the last attempt began (IMG-77).
    pub fn due(&self, pod: &Pod, heard: &Heard) -> Timestamp {
        let changed =
            |(cause, at): (&Cause, &Timestamp)| *at > self.begun && cause.concerns(pod, self.class, &self.host);
        if heard.iter().any(changed) { self.last } else { self.last + self.delay() }
    }

    /// "waiting for …, next try in …". The time left goes down in steps, so that the status is not written for each
    /// second; with the instant at which the text changes next.
    pub fn outlook(&self, now: Timestamp) -> (String, Timestamp) {
        let until = self.last + self.delay();
        let left = until.duration_since(now).as_secs().max(0);
        let step = if left > 60 { 60 } else { 20 };
        let lower = (left - 1).max(0) / step * step;
        let shown = SignedDuration::from_secs(lower + step).min(self.delay());
        let text = format!("waiting for {}, next try in {}", self.class.awaited(&self.host), go_duration(shown));
        (text, until - SignedDuration::from_secs(lower))
    }
}

/// `first` doubled `times` times, at most `limit`.
pub fn doubled(first: SignedDuration, times: u32, limit: SignedDuration) -> SignedDuration {
    first.checked_mul(1 << times.min(20)).map_or(limit, |delay| delay.min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000_000 + milliseconds).unwrap()
    }

    fn failure(known: Option<&Failures>, begun: Timestamp, now: Timestamp) -> Failures {
        let status = tonic::Status::unknown("unauthorized");
        let fault = Fault::of("r.test/a:1", &status, "unauthorized".into());
        Failures::after(known, begun, now, &fault.refusal("r.test/a:1"), &fault)
    }

    fn pod() -> Pod {
        let pod = serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"imagePullSecrets": [{"name": "one"}]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_delay_doubles_from_ten_seconds_to_five_minutes() {
        let mut failures = None;
        let mut now = at(0);
        let mut delays = Vec::new();
        for _ in 0..7 {
            let next = failure(failures.as_ref(), now, now);
            let due = next.due(&pod(), &Heard::new());
            delays.push(due.duration_since(now).as_secs());
            now = due;
            failures = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn an_old_failure_is_forgotten() {
        let first = failure(None, at(0), at(0));
        assert_eq!(failure(Some(&first), at(0), at(601_000)).count, 1);
        assert_eq!(failure(Some(&first), at(0), at(600_000)).count, 2);
    }

    #[test]
    fn only_a_cause_that_concerns_the_failure_and_is_news_ends_the_delay() {
        let failures = failure(None, at(1000), at(2000));
        let secret = |name: &str| Cause::Secret { namespace: "ns".into(), name: name.into() };
        let due = |cause: Cause, heard: i64| failures.due(&pod(), &Heard::from([(cause, at(heard))]));
        assert_eq!(due(secret("one"), 5000), at(2000), "at once");
        assert_eq!(due(secret("one"), 1500), at(2000), "also while the attempt was under way");
        assert_eq!(due(secret("one"), 1000), at(12_000), "the attempt knew it");
        assert_eq!(due(secret("two"), 5000), at(12_000));
        assert_eq!(due(Cause::Registry { host: "r.test".into() }, 5000), at(12_000));
    }

    #[test]
    fn the_outlook_goes_down_in_steps() {
        let mut failures = failure(None, at(0), at(0));
        let look = |failures: &Failures, now: i64| {
            let (text, change) = failures.outlook(at(now));
            let left = text.strip_prefix("waiting for credentials that r.test accepts, next try in ").unwrap();
            (left.to_owned(), change.duration_since(at(0)).as_secs())
        };
        assert_eq!(look(&failures, 0), ("10s".into(), 10));
        failures.count = 4;
        assert_eq!(look(&failures, 0), ("1m20s".into(), 20));
        assert_eq!(look(&failures, 20_000), ("1m0s".into(), 40));
        assert_eq!(look(&failures, 40_000), ("40s".into(), 60));
        assert_eq!(look(&failures, 79_500), ("20s".into(), 80));
        failures.count = 9;
        assert_eq!(look(&failures, 0), ("5m0s".into(), 60));
        assert_eq!(look(&failures, 90_000), ("4m0s".into(), 120));
    }
}
