//! What the settings say about eviction.
//!
//! Pure. Keys, statements and refusals are the kubelet's own (HOOK-93, IMG-265). Start at [`Settings::eviction`].

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use jiff::SignedDuration;
use node::eviction::{Given, Policy};
use serde::{Deserialize, Serialize};

use crate::settings::{Settings, duration};

/// Signal to value: a map in the configuration file, `signal<value,…` or `signal=value,…` as a flag.
#[derive(Serialize, Deserialize, Default, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct Statements(pub BTreeMap<String, String>);

impl std::str::FromStr for Statements {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Statements> {
        let mut statements = BTreeMap::new();
        for statement in text.split(',').map(str::trim).filter(|statement| !statement.is_empty()) {
            let Some((signal, value)) = statement.split_once(['<', '=']) else {
                bail!("{statement:?}: write a signal with its value, for example memory.available<100Mi");
            };
            if statements.insert(signal.trim().to_owned(), value.trim().to_owned()).is_some() {
                bail!("duplicate signal {signal}");
            }
        }
        Ok(Statements(statements))
    }
}

impl Settings {
    /// When pods are evicted.
    pub fn eviction(&self) -> anyhow::Result<Policy> {
        let map = |statements: &Option<Statements>| statements.clone().unwrap_or_default().0;
        let signed = |text: &str| SignedDuration::try_from(duration(text)?).context("the duration is too long");
        let mut soft_grace = BTreeMap::new();
        for (signal, text) in map(&self.eviction_soft_grace_period) {
            let grace =
                signed(&text).with_context(|| format!("invalid configuration: evictionSoftGracePeriod {signal}"));
            soft_grace.insert(signal, grace?);
        }
        let transition = self.eviction_transition.as_deref().map(signed).transpose();
        let given = Given {
            hard: self.eviction_hard.clone().map(|statements| statements.0),
            soft: map(&self.eviction_soft),
            soft_grace,
            reclaim: map(&self.eviction_minimum_reclaim),
            merges_defaults: self.eviction_defaults_merged.unwrap_or(false),
            pod_grace_max_seconds: self.eviction_max_pod_grace_period.unwrap_or(0).into(),
            transition: transition.context("invalid configuration: evictionPressureTransitionPeriod")?,
        };
        Policy::parse(&given).map_err(|error| anyhow::anyhow!("invalid configuration: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::given;

    fn flags(flags: &[&str]) -> Result<Policy, String> {
        given::flags(flags)?.eviction().map_err(|error| format!("{error:#}"))
    }

    fn file(text: &str) -> Policy {
        given::keys(text).unwrap().eviction().unwrap()
    }

    #[test]
    fn flags_and_file_say_the_same_in_the_words_of_the_kubelet() {
        let by_flags = flags(&[
            "--eviction-hard=memory.available<500Mi,nodefs.available<1Gi",
            "--eviction-soft=memory.available<1.5Gi",
            "--eviction-soft-grace-period=memory.available=1m30s",
            "--eviction-minimum-reclaim=nodefs.available=500Mi,memory.available=0Mi",
            "--eviction-max-pod-grace-period=60",
            "--eviction-pressure-transition-period=30s",
            "--merge-default-eviction-settings",
        ])
        .unwrap();
        let by_file = file(
            "evictionHard: {memory.available: 500Mi, nodefs.available: 1Gi}\nevictionSoft: {memory.available: 1.5Gi}\n\
             evictionSoftGracePeriod: {memory.available: 1m30s}\nevictionMaxPodGracePeriod: 60\n\
             evictionMinimumReclaim: {nodefs.available: 500Mi, memory.available: 0Mi}\n\
             evictionPressureTransitionPeriod: 30s\nmergeDefaultEvictionSettings: true\n",
        );
        assert_eq!(by_flags, by_file);
        assert_eq!((by_flags.thresholds.len(), by_flags.pod_grace_max_seconds), (6, 60));
        assert_eq!(by_flags.transition, SignedDuration::from_secs(30));
        assert_eq!(flags(&[]).unwrap(), Policy::default());
        assert!(flags(&["--eviction-hard="]).unwrap().is_off());
    }

    #[test]
    fn what_the_kubelet_refuses_is_refused_in_its_words() {
        let soft = flags(&["--eviction-soft=memory.available<1Gi"]).unwrap_err();
        let words = "grace period must be specified for the soft eviction threshold memory.available";
        assert_eq!(soft, format!("invalid configuration: {words}"));
        let signal = flags(&["--eviction-hard=disk.available<1Gi"]).unwrap_err();
        assert_eq!(signal, "invalid configuration: unsupported eviction signal disk.available");
        assert!(flags(&["--eviction-hard=memory.available"]).unwrap_err().contains("write a signal with its value"));
        assert!(flags(&["--eviction-hard=pid.available<1,pid.available<2"]).unwrap_err().contains("duplicate signal"));
        let long = flags(&["--eviction-pressure-transition-period=long"]).unwrap_err();
        assert!(long.starts_with("invalid configuration: evictionPressureTransitionPeriod: "), "{long}");
    }
}
