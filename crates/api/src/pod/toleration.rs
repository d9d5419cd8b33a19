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

    /// `key operator value effect seconds`, with `-` for nothing.
    fn read(text: &str) -> Toleration {
        let words: Vec<&str> = text.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
        let [key, operator, value, effect, seconds] = words[..] else { panic!("{text}") };
        Toleration { toleration_seconds: seconds.parse().ok(), ..toleration(key, operator, value, effect) }
    }

    #[test]
    fn rtc_34_covering() {
        for (covering, covered, expected) in [
            // The same.
            ("a Equal x NoSchedule -", "a Equal x NoSchedule -", true),
            ("a - x NoSchedule -", "a - x NoSchedule -", true),
            ("a Exists - NoExecute 5", "a Exists - NoExecute 5", true),
            // Keys.
            ("a Exists - - -", "b Exists - - -", false),
            ("- Exists - - -", "b Exists - - -", true),
            ("- Exists - - -", "b Equal x NoExecute 5", true),
            ("a Exists - - -", "- Exists - - -", false),
            // Effects.
            ("a Exists - - -", "a Exists - NoSchedule -", true),
            ("a Exists - NoSchedule -", "a Exists - - -", false),
            ("a Exists - NoSchedule -", "a Exists - NoExecute -", false),
            ("- Exists - NoSchedule -", "a Equal x NoSchedule -", true),
            ("- Exists - NoSchedule -", "a Equal x PreferNoSchedule -", false),
            // Operators and values.
            ("a Exists - - -", "a Equal x - -", true),
            ("a Exists - - -", "a - x - -", true),
            ("a Equal x - -", "a Exists - - -", false),
            ("a Equal x - -", "a Equal x NoSchedule -", true),
            ("a Equal x - -", "a Equal y NoSchedule -", false),
            ("a - x - -", "a Equal x NoSchedule -", true),
            ("a Gt 5 - -", "a Gt 6 - -", false),
            // The quirk: who says Equal by saying nothing is covered by an Equal only when all is the same.
            ("a Equal x - -", "a - x - -", false),
            ("a - x - -", "a - x NoSchedule -", false),
            // How long.
            ("a Exists - NoExecute -", "a Exists - NoExecute 5", true),
            ("a Exists - NoExecute 5", "a Exists - NoExecute 4", true),
            ("a Exists - NoExecute 5", "a Exists - NoExecute 6", false),
            ("a Exists - NoExecute 5", "a Exists - NoExecute -", false),
            ("a Exists - NoExecute -5", "a Exists - NoExecute 0", false),
            ("a Exists - - -", "a Exists - NoExecute 5", true),
        ] {
            assert_eq!(read(covering).covers(&read(covered)), expected, "{covering} | {covered}");
        }
    }

    fn any_toleration() -> impl Strategy<Value = Toleration> {
        (
            prop_oneof![Just("a"), Just("b")],
            0..4usize,
            prop_oneof![Just("x"), Just("y")],
            prop_oneof![Just(""), Just("NoSchedule"), Just("NoExecute")],
            prop::option::of(0..3i64),
        )
            .prop_map(|(key, operator, value, effect, seconds)| {
                let one = match operator {
                    0 => toleration(key, "Equal", value, effect),
                    1 => toleration(key, "", value, effect),
                    2 => toleration(key, "Exists", "", effect),
                    _ => toleration("", "Exists", "", effect),
                };
                Toleration { toleration_seconds: seconds.filter(|_| effect == "NoExecute"), ..one }
            })
    }

    proptest! {
        #[test]
        fn rtc_33_a_merged_list_tolerates_what_both_did(
            first in prop::collection::vec(any_toleration(), 0..5), second in prop::collection::vec(any_toleration(), 0..5)
        ) {
            let together = merged(&first, &second);
            let all: Vec<&Toleration> = first.iter().chain(&second).collect();
            let mut order = all.iter();
            prop_assert!(together.iter().all(|kept| order.any(|one| *one == kept)), "those that stay keep their order");
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
