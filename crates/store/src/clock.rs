//! The clocks of this room. Nothing else in it may ask for the time.
#![allow(clippy::disallowed_methods)] // This is the leaf module through which time enters.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall time in milliseconds since 1970: what persisted expiry is measured by.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}

/// Monotonic time: what intervals are measured by.
pub(crate) fn instant() -> Instant {
    Instant::now()
}
