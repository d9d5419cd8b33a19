//! How long the groups of pods get when the machine shuts down.
//!
//! Pure. Settings and refusals are in the kubelet's words. Start at [`Policy::parse`].

use crate::image::go_duration;
use jiff::SignedDuration;

/// Pods of this priority and above are critical.
const CRITICAL: i32 = 2_000_000_000;

/// Pods from this priority on, up to the next group's, and how long they get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The least priority of the group.
    pub priority: i32,
    /// How long its pods get.
    pub seconds: i64,
}

/// Everything that is set about shutdowns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// By priority, the lowest first; none where shutdowns are not waited for.
    groups: Vec<Group>,
}

/// The settings as they were given.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// `shutdownGracePeriod`.
    pub total: SignedDuration,
    /// `shutdownGracePeriodCriticalPods`: the part of it that is kept for critical pods.
    pub critical: SignedDuration,
    /// `shutdownGracePeriodByPodPriority`.
    pub by_priority: Vec<Group>,
}

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The fields are what the texts show.
pub enum Error {
    #[error("shutdownGracePeriod {0} must be either zero or otherwise >= 1 sec")]
    Total(String),
    #[error("shutdownGracePeriodCriticalPods {0} must be either zero or otherwise >= 1 sec")]
    Critical(String),
    #[error("shutdownGracePeriod {total} must be >= shutdownGracePeriodCriticalPods {critical}")]
    Part { total: String, critical: String },
    #[error("Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time")]
    Both,
    #[error("shutdownGracePeriodByPodPriority {0}: shutdownGracePeriodSeconds must be >= 0")]
    Negative(i32),
    #[error("shutdownGracePeriodByPodPriority {0}: the priority stands twice")]
    Twice(i32),
}

impl Policy {
    /// Reads the settings.
    ///
    /// # Errors
    /// [`Error`], in the kubelet's words.
    pub fn parse(given: &Given) -> Result<Policy, Error> {
        let Given { total, critical, by_priority } = given;
        let is_short = |period: SignedDuration| !period.is_zero() && period < SignedDuration::from_secs(1);
        if is_short(*total) {
            return Err(Error::Total(go_duration(*total)));
        }
        if is_short(*critical) {
            return Err(Error::Critical(go_duration(*critical)));
        }
        if critical > total {
            return Err(Error::Part { total: go_duration(*total), critical: go_duration(*critical) });
        }
        match (by_priority.is_empty(), total.is_zero()) {
            (false, false) => Err(Error::Both),
            (false, true) => Self::by_priority(by_priority.clone()),
            (true, true) => Ok(Policy::default()),
            (true, false) => {
                let ordinary = Group { priority: 0, seconds: (*total - *critical).as_secs() };
                let critical = Group { priority: CRITICAL, seconds: critical.as_secs() };
                Ok(Policy { groups: vec![ordinary, critical] })
            }
        }
    }

    fn by_priority(mut groups: Vec<Group>) -> Result<Policy, Error> {
        groups.sort_unstable();
        if let Some(group) = groups.iter().find(|group| group.seconds < 0) {
            return Err(Error::Negative(group.priority));
        }
        if let Some(pair) = groups.windows(2).find(|pair| pair[0].priority == pair[1].priority) {
            return Err(Error::Twice(pair[0].priority));
        }
        Ok(Policy { groups })
    }

    /// True where shutdowns are not waited for.
    pub fn is_off(&self) -> bool {
        self.groups.is_empty()
    }

    /// The groups, the lowest first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// How long all groups may take.
    pub fn total(&self) -> SignedDuration {
        SignedDuration::from_secs(self.groups.iter().fold(0, |sum, group| sum.saturating_add(group.seconds)))
    }

    /// The group of pods with this priority: the highest that begins at or below it, else the lowest.
    pub fn group_of(&self, priority: i32) -> usize {
        self.groups.partition_point(|group| group.priority <= priority).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(total: i64, critical: i64) -> Given {
        let of = SignedDuration::from_secs;
        Given { total: of(total), critical: of(critical), by_priority: Vec::new() }
    }

    fn groups(groups: &[(i32, i64)]) -> Vec<Group> {
        groups.iter().map(|(priority, seconds)| Group { priority: *priority, seconds: *seconds }).collect()
    }

    #[test]
    fn tr_16_of_thirty_seconds_ten_are_kept_for_critical_pods() {
        let policy = Policy::parse(&seconds(30, 10)).unwrap();
        assert_eq!(policy.groups(), groups(&[(0, 20), (2_000_000_000, 10)]));
        assert_eq!(policy.total(), SignedDuration::from_secs(30));
        assert!(Policy::parse(&Given::default()).unwrap().is_off(), "it is off by default");
        // Parts of a second are left out, as upstream does.
        let odd = Given { total: SignedDuration::from_millis(20_900), ..seconds(0, 10) };
        assert_eq!(Policy::parse(&odd).unwrap().groups(), groups(&[(0, 10), (2_000_000_000, 10)]));
    }

    #[test]
    fn hook_97_a_pod_is_of_the_highest_group_at_or_below_its_priority() {
        let by_priority = groups(&[(100_000, 10), (0, 60), (10_000, 180), (1000, 120)]);
        let policy = Policy::parse(&Given { by_priority, ..Given::default() }).unwrap();
        assert_eq!(policy.groups(), groups(&[(0, 60), (1000, 120), (10_000, 180), (100_000, 10)]));
        let of: Vec<usize> =
            [-5, 0, 999, 1000, 99_999, 100_000, i32::MAX].map(|priority| policy.group_of(priority)).into();
        assert_eq!(of, [0, 0, 0, 1, 2, 3, 3], "below the lowest is the lowest too");
        assert_eq!(policy.total(), SignedDuration::from_secs(370));
    }

    #[test]
    fn what_the_kubelet_refuses_is_refused_in_its_words() {
        let refused = |given: Given| Policy::parse(&given).unwrap_err().to_string();
        let ms = SignedDuration::from_millis;
        for (given, text) in [
            (
                Given { total: ms(900), ..Given::default() },
                "shutdownGracePeriod 900ms must be either zero or otherwise >= 1 sec",
            ),
            (
                Given { critical: ms(1), ..seconds(5, 0) },
                "shutdownGracePeriodCriticalPods 1ms must be either zero or otherwise >= 1 sec",
            ),
            (seconds(10, 20), "shutdownGracePeriod 10s must be >= shutdownGracePeriodCriticalPods 20s"),
            (seconds(0, 20), "shutdownGracePeriod 0s must be >= shutdownGracePeriodCriticalPods 20s"),
            (
                Given { by_priority: groups(&[(0, 0)]), ..seconds(10, 0) },
                "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time",
            ),
            (
                Given { by_priority: groups(&[(7, -1)]), ..Given::default() },
                "shutdownGracePeriodByPodPriority 7: shutdownGracePeriodSeconds must be >= 0",
            ),
            (
                Given { by_priority: groups(&[(7, 1), (7, 2)]), ..Given::default() },
                "shutdownGracePeriodByPodPriority 7: the priority stands twice",
            ),
        ] {
            assert_eq!(refused(given), text);
        }
    }
}
