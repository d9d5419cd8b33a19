//! Taints and tolerations.

use serde::{Deserialize, Serialize};

/// A taint of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// A toleration of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Key; empty with `Exists` tolerates every key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Empty (`Equal`), `Equal` or `Exists`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// Value, for `Equal`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Effect; empty tolerates every effect.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// For `NoExecute`: how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether the taint is tolerated.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect {
            return false;
        }
        if !self.key.is_empty() && self.key != taint.key {
            return false;
        }
        match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => self.value == taint.value,
            _ => false,
        }
    }

    /// Whether everything that `other` tolerates is tolerated here too (RTC-34).
    pub fn covers(&self, other: &Toleration) -> bool {
        if self == other {
            return true;
        }
        let any_key = self.key.is_empty() && self.operator == "Exists";
        if self.key != other.key && !any_key {
            return false;
        }
        if self.effect != other.effect && !self.effect.is_empty() {
            return false;
        }
        if let Some(seconds) = self.toleration_seconds.filter(|_| self.effect == "NoExecute")
            && other.toleration_seconds.is_none_or(|other| other > seconds)
        {
            return false;
        }
        match self.operator.as_str() {
            // A quirk that is upstream's: an empty operator on the other side counts as Equal only when all is the same.
            "" | "Equal" => other.operator == "Equal" && self.value == other.value,
            "Exists" => true,
            _ => false,
        }
    }
}

/// The first taint that nothing tolerates, of those whose effect passes the filter.
pub fn first_untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effect: impl Fn(&str) -> bool,
) -> Option<&'a Taint> {
    let untolerated = |taint: &&Taint| !tolerations.iter().any(|toleration| toleration.tolerates(taint));
    taints.iter().filter(|taint| effect(&taint.effect)).find(untolerated)
}

/// Whether the effect keeps new pods away.
pub fn keeps_away(effect: &str) -> bool {
    matches!(effect, "NoSchedule" | "NoExecute")
}

/// Two lists in one, without what others cover; the order of those that stay is kept (RTC-33).
#[must_use]
pub fn merged(first: &[Toleration], second: &[Toleration]) -> Vec<Toleration> {
    let all: Vec<&Toleration> = first.iter().chain(second).collect();
    let mut out: Vec<Toleration> = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let covered_before = out.iter().any(|kept| kept.covers(one));
        let covered_after = all[index + 1..].iter().any(|later| **later != **one && later.covers(one));
        if !covered_before && !covered_after {
            out.push((*one).clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        Toleration {
            key: key.into(),
            operator: operator.into(),
            value: value.into(),
            effect: effect.into(),
            toleration_seconds: None,
        }
    }

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: value.into(), effect: effect.into() }
    }

    #[test]
    fn taints_are_tolerated() {
        let cases = [
            (toleration("", "Exists", "", ""), taint("a", "b", "NoSchedule"), true),
            (toleration("a", "Exists", "", ""), taint("a", "b", "NoExecute"), true),
            (toleration("a", "", "b", "NoSchedule"), taint("a", "b", "NoSchedule"), true),
            (toleration("a", "Equal", "c", ""), taint("a", "b", "NoSchedule"), false),
            (toleration("a", "Exists", "", "NoExecute"), taint("a", "", "NoSchedule"), false),
            (toleration("x", "Exists", "", ""), taint("a", "", "NoSchedule"), false),
        ];
        for (toleration, taint, expected) in cases {
            assert_eq!(toleration.tolerates(&taint), expected, "{toleration:?} {taint:?}");
        }
        let taints = [taint("a", "", "PreferNoSchedule"), taint("b", "", "NoSchedule")];
        assert_eq!(first_untolerated(&taints, &[], keeps_away), Some(&taints[1]));
        assert_eq!(first_untolerated(&taints, &[toleration("b", "Exists", "", "")], keeps_away), None);
    }

    #[test]
    fn rtc_34_covering() {
        let seconds =
            |n: Option<i64>| Toleration { toleration_seconds: n, ..toleration("a", "Exists", "", "NoExecute") };
        assert!(toleration("a", "Exists", "", "").covers(&toleration("a", "", "b", "NoSchedule")));
        assert!(toleration("a", "Equal", "b", "").covers(&toleration("a", "Equal", "b", "NoSchedule")));
        assert!(!toleration("a", "Equal", "b", "").covers(&toleration("a", "", "b", "NoSchedule")), "the quirk");
        assert!(!toleration("a", "Exists", "", "NoSchedule").covers(&toleration("a", "Exists", "", "")));
        assert!(seconds(None).covers(&seconds(Some(5))));
        assert!(seconds(Some(5)).covers(&seconds(Some(5))));
        assert!(!seconds(Some(5)).covers(&seconds(Some(6))));
        assert!(!seconds(Some(5)).covers(&seconds(None)));
    }

    fn any_toleration() -> impl Strategy<Value = Toleration> {
        (
            prop_oneof![Just("a"), Just("b")],
            0..3usize,
            prop_oneof![Just("x"), Just("y")],
            prop_oneof![Just(""), Just("NoSchedule"), Just("NoExecute")],
        )
            .prop_map(|(key, operator, value, effect)| match operator {
                0 => toleration(key, "Equal", value, effect),
                1 => toleration(key, "Exists", "", effect),
                _ => toleration("", "Exists", "", effect),
            })
    }

    proptest! {
        #[test]
        fn rtc_33_a_merged_list_tolerates_what_both_did(
            first in prop::collection::vec(any_toleration(), 0..5), second in prop::collection::vec(any_toleration(), 0..5)
        ) {
            let together = merged(&first, &second);
            for key in ["a", "b", "c"] {
                for value in ["x", "y", "z"] {
                    for effect in ["NoSchedule", "NoExecute", "PreferNoSchedule"] {
                        let taint = taint(key, value, effect);
                        let before = first.iter().chain(&second).any(|one| one.tolerates(&taint));
                        prop_assert_eq!(together.iter().any(|one| one.tolerates(&taint)), before);
                    }
                }
            }
            prop_assert_eq!(merged(&together, &second), together, "a second merge changes nothing");
        }
    }
}
