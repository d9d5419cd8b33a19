//! What the settings say about admission plugins and about how patient the cluster is with nodes. Pure, but for what is
//! told of names without effect.

use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::{AdmissionChoice, DefaultTolerationSeconds};
use controllers::NodePolicy;

use crate::settings::{Settings, duration};

impl Settings {
    /// The admission plugins that run, in their order.
    pub fn admission(&self) -> anyhow::Result<Vec<String>> {
        let (on, off) = (list(&self.enable_admission_plugins), list(&self.disable_admission_plugins));
        let choice = apiserver::choose_admission(on, off);
        let AdmissionChoice { enabled, idle } =
            choice.context("--enable-admission-plugins, --disable-admission-plugins")?;
        for name in idle {
            crate::output::complain(&format!(
                "admission plugin {name}: there is nothing for it to do here; it has no effect"
            ));
        }
        Ok(enabled)
    }

    /// What new pods tolerate.
    pub fn default_tolerations(&self) -> DefaultTolerationSeconds {
        let usual = DefaultTolerationSeconds::default();
        DefaultTolerationSeconds {
            not_ready: self.default_not_ready_toleration_seconds.unwrap_or(usual.not_ready),
            unreachable: self.default_unreachable_toleration_seconds.unwrap_or(usual.unreachable),
        }
    }

    /// How patient the controllers are with nodes.
    pub fn node_policy(&self) -> anyhow::Result<NodePolicy> {
        let usual = NodePolicy::default();
        let period = |flag: &str, given: &Option<String>, usual: Duration| match given {
            Some(text) => duration(text).with_context(|| flag.to_owned()),
            None => Ok(usual),
        };
        let rate = |flag: &str, given: Option<f64>, usual: f64| match given.unwrap_or(usual) {
            rate if rate.is_finite() && rate >= 0.0 => Ok(rate),
            rate => bail!("{flag} {rate}: write a number that is not negative"),
        };
        Ok(NodePolicy {
            grace: period("--node-monitor-grace-period", &self.node_monitor_grace_period, usual.grace)?,
            startup_grace: period("--node-startup-grace-period", &self.node_startup_grace_period, usual.startup_grace)?,
            eviction_rate: rate("--node-eviction-rate", self.node_eviction_rate, usual.eviction_rate)?,
            secondary_eviction_rate: rate(
                "--secondary-node-eviction-rate",
                self.secondary_node_eviction_rate,
                usual.secondary_eviction_rate,
            )?,
            large_zone: self.large_cluster_size_threshold.unwrap_or(usual.large_zone),
            unhealthy_share: rate("--unhealthy-zone-threshold", self.unhealthy_zone_threshold, usual.unhealthy_share)?,
            ended_pods_max: self.terminated_pod_gc_threshold.unwrap_or(usual.ended_pods_max),
        })
    }
}

fn list(names: &Option<Vec<String>>) -> &[String] {
    names.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_switched_by_their_names_and_wrong_names_are_errors() {
        let of = |on: &[&str], off: &[&str]| {
            let list = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            let settings = Settings {
                enable_admission_plugins: list(on),
                disable_admission_plugins: list(off),
                ..Settings::default()
            };
            settings.admission().map_err(|error| format!("{error:#}"))
        };
        let chosen = of(&["AlwaysPullImages", "DefaultStorageClass"], &["LimitRanger"]).unwrap();
        assert!(chosen.contains(&"AlwaysPullImages".to_owned()) && !chosen.contains(&"LimitRanger".to_owned()));
        let error = of(&[], &["LimitRangr"]).unwrap_err();
        assert!(
            error.contains("--disable-admission-plugins") && error.contains("did you mean LimitRanger?"),
            "{error}"
        );
    }

    #[test]
    fn patience_with_nodes_is_upstreams_unless_it_is_set() {
        assert_eq!(Settings::default().node_policy().unwrap(), NodePolicy::default());
        let settings = Settings {
            node_monitor_grace_period: Some("15s".into()),
            node_eviction_rate: Some(2.0),
            terminated_pod_gc_threshold: Some(0),
            ..Settings::default()
        };
        let policy = settings.node_policy().unwrap();
        assert_eq!((policy.grace, policy.eviction_rate, policy.ended_pods_max), (Duration::from_secs(15), 2.0, 0));
        for settings in [
            Settings { node_eviction_rate: Some(-1.0), ..Settings::default() },
            Settings { unhealthy_zone_threshold: Some(f64::NAN), ..Settings::default() },
            Settings { node_startup_grace_period: Some("soon".into()), ..Settings::default() },
        ] {
            assert!(format!("{:#}", settings.node_policy().unwrap_err()).starts_with("--"));
        }
        let seconds = Settings { default_not_ready_toleration_seconds: Some(7), ..Settings::default() };
        let expected = DefaultTolerationSeconds { not_ready: 7, unreachable: 300 };
        assert_eq!(seconds.default_tolerations(), expected);
    }
}
