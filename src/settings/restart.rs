//! What the settings say about how long containers wait for their next start. Pure. Start at
//! [`Settings::crash_back_off`].

use anyhow::{Context, bail};
use jiff::SignedDuration;

use crate::settings::{Settings, duration};

/// The gate under which back-offs begin with a second and end with a minute (POD-24).
pub const REDUCED_BACK_OFF: &str = "ReduceDefaultCrashLoopBackOffDecay";

impl Settings {
    /// How long containers that ended wait for their next start.
    pub fn crash_back_off(&self) -> anyhow::Result<node::CrashBackOff> {
        let mut back_off = node::CrashBackOff::default();
        if self.gate(REDUCED_BACK_OFF) {
            back_off = node::CrashBackOff { first: SignedDuration::from_secs(1), max: SignedDuration::from_secs(60) };
        }
        let Some(text) = &self.max_container_restart_period else { return Ok(back_off) };
        let flag = "--max-container-restart-period";
        let max: SignedDuration = duration(text).and_then(|max| Ok(max.try_into()?)).context(flag)?;
        if !(SignedDuration::from_secs(1)..=SignedDuration::from_secs(300)).contains(&max) {
            bail!("{flag} {text}: give 1s to 300s");
        }
        Ok(back_off.capped(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_24_the_longest_wait_for_a_restart_is_a_setting() {
        let of = |period: Option<&str>, gates: &[&str]| {
            let gates = Some(gates.iter().map(|gate| (*gate).to_owned()).collect());
            let period = period.map(str::to_owned);
            let settings =
                Settings { max_container_restart_period: period, feature_gates: gates, ..Settings::default() };
            settings
                .crash_back_off()
                .map(|back_off| (0..5).map(|step| back_off.delay(step).as_secs()).collect::<Vec<_>>())
        };
        assert_eq!(of(None, &[]).unwrap(), [0, 10, 20, 40, 80]);
        assert_eq!(of(Some("20s"), &[]).unwrap(), [0, 10, 20, 20, 20]);
        assert_eq!(of(Some("5s"), &[]).unwrap(), [0, 5, 5, 5, 5]);
        let reduced = "ReduceDefaultCrashLoopBackOffDecay=true";
        assert_eq!(of(None, &[reduced]).unwrap(), [0, 1, 2, 4, 8]);
        assert_eq!(of(Some("3s"), &[reduced]).unwrap(), [0, 1, 2, 3, 3]);
        for wrong in ["0.5s", "301s", "soon"] {
            let error = format!("{:#}", of(Some(wrong), &[]).unwrap_err());
            assert!(error.starts_with("--max-container-restart-period"), "{error}");
        }
    }
}
