//! The one place of the binary's root where real time enters.
#![allow(clippy::disallowed_methods)]

use std::time::{Instant, SystemTime};

/// Monotonic time, for durations that a person reads.
pub fn instant() -> Instant {
    Instant::now()
}

/// Wall time, for certificates.
pub fn wall() -> SystemTime {
    SystemTime::now()
}
