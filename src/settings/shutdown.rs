//! What the settings say about how long pods get when the machine shuts down.
//!
//! Pure. Keys and refusals are the kubelet's own (HOOK-97). Start at [`Settings::shutdown`].

use anyhow::{Context, bail};
use jiff::SignedDuration;
use node::shutdown::{Given, Group, Policy};
use serde::{Deserialize, Serialize};

use crate::settings::{Settings, duration};

/// Groups of pods: a list in the configuration file, `priority=seconds,…` as a flag.
#[derive(Serialize, Deserialize, Default, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct Groups(Vec<Entry>);

/// Pods from this priority on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    priority: i32,
    shutdown_grace_period_seconds: i64,
}

impl std::str::FromStr for Groups {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Groups> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(|entry| {
            let Some((priority, seconds)) = entry.split_once('=') else {
                bail!("{entry:?}: write a priority with its seconds, for example 0=60,2000000000=10");
            };
            let priority = priority.trim().parse().with_context(|| format!("{priority:?} is no priority"))?;
            let seconds = seconds.trim();
            let whole = seconds.strip_suffix('s').unwrap_or(seconds);
            let seconds = whole.parse().with_context(|| format!("{seconds:?} is no number of seconds"))?;
            Ok(Entry { priority, shutdown_grace_period_seconds: seconds })
        });
        Ok(Groups(entries.collect::<anyhow::Result<_>>()?))
    }
}

impl Settings {
    /// How long pods get when the machine shuts down.
    pub fn shutdown(&self) -> anyhow::Result<Policy> {
        let period = |key: &str, text: Option<&str>| {
            let period = duration(text.unwrap_or("0")).and_then(|period| Ok(SignedDuration::try_from(period)?));
            period.with_context(|| format!("invalid configuration: {key}"))
        };
        let entries = self.shutdown_grace_period_by_pod_priority.iter().flat_map(|groups| &groups.0);
        let group = |entry: &Entry| Group { priority: entry.priority, seconds: entry.shutdown_grace_period_seconds };
        let critical = self.shutdown_grace_period_critical_pods.as_deref();
        let given = Given {
            total: period("shutdownGracePeriod", self.shutdown_grace_period.as_deref())?,
            critical: period("shutdownGracePeriodCriticalPods", critical)?,
            by_priority: entries.map(group).collect(),
        };
        Policy::parse(&given).map_err(|error| anyhow::anyhow!("invalid configuration: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::given;

    fn flags(flags: &[&str]) -> Result<Vec<(i32, i64)>, String> {
        given::flags(flags)?.shutdown().map(|policy| shown(&policy)).map_err(|error| format!("{error:#}"))
    }

    fn file(text: &str) -> anyhow::Result<Vec<(i32, i64)>> {
        Ok(shown(&given::keys(text)?.shutdown()?))
    }

    fn shown(policy: &Policy) -> Vec<(i32, i64)> {
        policy.groups().iter().map(|group| (group.priority, group.seconds)).collect()
    }

    #[test]
    fn hook_97_flags_and_file_say_the_same_in_the_words_of_the_kubelet() {
        let two = [(0, 20), (2_000_000_000, 10)];
        let words = ["--shutdown-grace-period=30s", "--shutdown-grace-period-critical-pods=10s"];
        assert_eq!(flags(&words).unwrap(), two);
        let text = "shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s\n";
        assert_eq!(file(text).unwrap(), two);
        let many = [(-10, 5), (0, 60), (100_000, 10)];
        assert_eq!(flags(&["--shutdown-grace-period-by-pod-priority=100000=10,-10=5s,0=60"]).unwrap(), many);
        let text = "shutdownGracePeriodByPodPriority:\n- {priority: 0, shutdownGracePeriodSeconds: 60}\n\
            - {priority: 100000, shutdownGracePeriodSeconds: 10}\n- {priority: -10, shutdownGracePeriodSeconds: 5}\n";
        assert_eq!(file(text).unwrap(), many);
        for nothing in [&[][..], &["--shutdown-grace-period=0"], &["--shutdown-grace-period-by-pod-priority="]] {
            assert_eq!(flags(nothing).unwrap(), []);
        }
    }

    #[test]
    fn hook_97_what_makes_no_sense_is_refused() {
        let both = flags(&["--shutdown-grace-period=30s", "--shutdown-grace-period-by-pod-priority=0=1"]).unwrap_err();
        let words = "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time";
        assert_eq!(both, format!("invalid configuration: {words}"));
        let part = flags(&["--shutdown-grace-period-critical-pods=10s"]).unwrap_err();
        assert!(part.contains("must be >= shutdownGracePeriodCriticalPods 10s"), "{part}");
        let soon = flags(&["--shutdown-grace-period=soon"]).unwrap_err();
        assert!(soon.starts_with("invalid configuration: shutdownGracePeriod: "), "{soon}");
        assert!(flags(&["--shutdown-grace-period-by-pod-priority=5"]).unwrap_err().contains("0=60,2000000000=10"));
        assert!(flags(&["--shutdown-grace-period-by-pod-priority=high=5"]).unwrap_err().contains("no priority"));
        assert!(file("shutdownGracePeriodByPodPriority:\n- {priority: 0, seconds: 60}\n").is_err());
    }
}
