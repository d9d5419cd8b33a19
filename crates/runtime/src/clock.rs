//! Wall time for the room: the one place that asks the system for it.
#![allow(clippy::disallowed_methods, reason = "the leaf through which wall time enters")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time, for durations that a person reads.
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// Nanoseconds since 1970, as CRI counts.
pub(crate) fn now_nanoseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
