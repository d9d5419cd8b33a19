//! Kubernetes' feature gates: those that switch something here, and those that long have nothing to switch.

use anyhow::{Context, bail};

use crate::settings::Settings;

/// Gates whose feature has long been part of Kubernetes: accepted, without effect, and said so.
const GRADUATED_GATES: &[&str] =
    &["PodOverhead", "RuntimeClass", "SidecarContainers", "PodLifecycleSleepAction", "ProbeTerminationGracePeriod"];

/// Gates that switch something, with what they are without a word.
const GATES: &[(&str, bool)] =
    &[("RuntimeClassInImageCriApi", false), (crate::settings::restart::REDUCED_BACK_OFF, false)];

impl Settings {
    /// Whether a gate is on; the last word counts.
    pub fn gate(&self, wanted: &str) -> bool {
        let given = self.feature_gates.iter().flatten().rev().filter_map(|gate| gate.split_once('='));
        let said = given.filter(|(name, _)| *name == wanted).find_map(|(_, value)| value.parse().ok());
        let default = GATES.iter().find(|(name, _)| *name == wanted).is_some_and(|(_, on)| *on);
        said.unwrap_or(default)
    }
}

/// Refuses gates that nobody knows, and tells of those without effect.
pub fn known(gates: &[String]) -> anyhow::Result<()> {
    for gate in gates {
        let Some((name, value)) = gate.split_once('=') else {
            bail!("--feature-gates {gate}: write NAME=true or NAME=false")
        };
        let on: bool = value.parse().with_context(|| format!("--feature-gates {gate}"))?;
        if GATES.iter().any(|(known, _)| *known == name) {
            continue;
        }
        if !GRADUATED_GATES.contains(&name) {
            let known: Vec<&str> = GATES.iter().map(|(name, _)| *name).chain(GRADUATED_GATES.iter().copied()).collect();
            bail!("--feature-gates {gate}: unknown gate; known are {}", known.join(", "));
        }
        let effect = if on { "is always on; the gate has no effect" } else { "cannot be switched off any more" };
        crate::output::complain(&format!("feature gate {name}: {effect}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtc_72_the_gate_of_overhead_is_known_and_has_no_effect() {
        for gate in ["PodOverhead=true", "PodOverhead=false"] {
            assert!(known(&[gate.to_owned()]).is_ok(), "{gate}");
        }
        assert!(known(&["PodOverhead".to_owned()]).is_err());
    }

    #[test]
    fn a_gate_is_what_was_said_last() {
        let gates = |gates: &[&str]| {
            let gates = gates.iter().map(|gate| (*gate).to_owned()).collect();
            Settings { feature_gates: Some(gates), ..Settings::default() }.gate("RuntimeClassInImageCriApi")
        };
        assert!(!gates(&[]) && !gates(&["RuntimeClassInImageCriApi=false"]));
        assert!(gates(&["RuntimeClassInImageCriApi=false", "PodOverhead=true", "RuntimeClassInImageCriApi=true"]));
        assert!(known(&["RuntimeClassInImageCriApi=true".to_owned()]).is_ok());
        assert!(known(&["NoSuchGate=true".to_owned()]).unwrap_err().to_string().contains("RuntimeClassInImageCriApi"));
    }
}
