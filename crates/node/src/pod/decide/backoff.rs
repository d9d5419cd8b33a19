//! CrashLoopBackOff, derived from the ledger (POD-23, POD-25).
//!
//! A record carries the number of restarts since the back-off began (`step`); with the end of the record that gives the
//! instant of the next start, so that nothing is kept in memory and a restart of the agent changes nothing.

use crate::{
    image::doubled,
    pod::view::{Exit, Record},
};
use jiff::{SignedDuration, Timestamp};

/// A container that ran this long begins anew.
pub const CRASH_FORGET: SignedDuration = SignedDuration::from_secs(600);

/// How the delays between a crash and the next start grow (POD-23, POD-24).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashBackOff {
    /// The first delay.
    pub first: SignedDuration,
    /// The longest.
    pub max: SignedDuration,
}

impl Default for CrashBackOff {
    fn default() -> Self {
        Self { first: SignedDuration::from_secs(10), max: SignedDuration::from_secs(300) }
    }
}

impl CrashBackOff {
    /// With this longest delay, which lowers the first one if need be.
    pub fn capped(self, max: SignedDuration) -> Self {
        Self { first: self.first.min(max), max }
    }

    /// The delay after the end of a record whose step is `step`: 0, 10, 20, 40, 80, 160, 300 …
    pub fn delay(self, step: u32) -> SignedDuration {
        match step {
            0 => SignedDuration::ZERO,
            step => doubled(self.first, step - 1, self.max),
        }
    }
}

/// When a dead container may start again, after what delay, and with which step.
pub(super) struct Restart {
    pub at: Timestamp,
    pub delay: SignedDuration,
    pub step: u32,
}

pub(super) fn restart(back_off: CrashBackOff, record: &Record, exit: &Exit) -> Restart {
    let forgotten = exit.finished_at.duration_since(record.created_at) > CRASH_FORGET;
    let step = if forgotten { 0 } else { record.step };
    let delay = back_off.delay(step);
    Restart { at: exit.finished_at + delay, delay, step: step + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delays_double_from_ten_seconds_to_five_minutes() {
        let delays = |back_off: CrashBackOff| (0..8).map(|step| back_off.delay(step).as_secs()).collect::<Vec<_>>();
        assert_eq!(delays(CrashBackOff::default()), [0, 10, 20, 40, 80, 160, 300, 300]);
        let capped = |seconds| delays(CrashBackOff::default().capped(SignedDuration::from_secs(seconds)));
        assert_eq!(capped(20), [0, 10, 20, 20, 20, 20, 20, 20], "POD-24");
        assert_eq!(capped(3), [0, 3, 3, 3, 3, 3, 3, 3]);
    }
}
