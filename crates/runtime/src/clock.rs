//! Wall time for the room: the one place that asks the system for it.
#![allow(clippy::disallowed_methods, reason = "the leaf through which wall time enters")]

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970, as CRI counts.
pub(crate) fn now_nanoseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
