//! CrashLoopBackOff, derived from the ledger (POD-23, POD-25).
//!
//! A record carries the number of restarts since the back-off began (`step`); with the end of the record that gives the
//! instant of the next start, so that nothing is kept in memory and a restart of the agent changes nothing.

use crate::{
    image::doubled,
    pod::view::{Exit, Record},
};
use jiff::{SignedDuration, Timestamp};

/// The longest delay between a crash and the next start.
pub const CRASH_MAX: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long begins anew.
pub const CRASH_FORGET: SignedDuration = SignedDuration::from_secs(600);
const CRASH_FIRST: SignedDuration = SignedDuration::from_secs(10);

/// The delay after the end of a record whose step is `step`: 0, 10, 20, 40, 80, 160, 300 …
pub fn crash_delay(step: u32) -> SignedDuration {
    match step {
        0 => SignedDuration::ZERO,
        step => doubled(CRASH_FIRST, step - 1, CRASH_MAX),
    }
}

/// When a dead container may start again, after what delay, and with which step.
pub(super) struct Restart {
    pub at: Timestamp,
    pub delay: SignedDuration,
    pub step: u32,
}

pub(super) fn restart(record: &Record, exit: &Exit) -> Restart {
    let forgotten = exit.finished_at.duration_since(record.created_at) > CRASH_FORGET;
    let step = if forgotten { 0 } else { record.step };
    let delay = crash_delay(step);
    Restart { at: exit.finished_at + delay, delay, step: step + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delays_double_from_ten_seconds_to_five_minutes() {
        let delays: Vec<i64> = (0..8).map(|step| crash_delay(step).as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }
}
