//! What the runtime last said of itself, for those who would call it (POD-4, POD-5).

use super::facts::Seen;
use std::time::Duration;

/// After how long a runtime that is not ready is asked again; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Whether the runtime can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeState {
    /// It answers and says that it is ready; until it does, nothing is begun.
    pub is_ready: bool,
    /// Why pods with an address of their own cannot be made.
    pub network_problem: Option<String>,
}

impl Default for RuntimeState {
    /// Until something else is known.
    fn default() -> Self {
        Self { is_ready: true, network_problem: None }
    }
}

impl RuntimeState {
    pub(super) fn of(seen: &Seen) -> Self {
        let condition = |kind: &str| seen.conditions.iter().find(|condition| condition.r#type == kind);
        let is_ready = !seen.runtime_version.is_empty() && condition("RuntimeReady").is_none_or(|c| c.status);
        let network = condition("NetworkReady").filter(|condition| !condition.status);
        let network_problem = network.map(|condition| {
            let (reason, message) = (&condition.reason, &condition.message);
            format!("container runtime network not ready: NetworkReady=false reason:{reason} message:{message}")
        });
        Self { is_ready, network_problem }
    }
}

/// The pause before the next question to a runtime that has not been ready so many times in a row.
pub(super) fn pause(times: u32) -> Duration {
    PAUSE.saturating_mul(1 << times.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_5_the_pauses_double_to_five_seconds() {
        let pauses: Vec<u128> = (1..9).map(|times| pause(times).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }
}
