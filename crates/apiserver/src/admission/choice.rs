//! Which plugins run: upstream's names in upstream's order, what each is by default, and what two lists of names make of it.
//!
//! Pure. Start at [`ORDER`] and [`choose`].

use super::{pin_image_digests, resource_quota, webhook};

/// What becomes of a plugin that nobody names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    /// It runs unless it is switched off.
    On,
    /// It runs when it is switched on.
    Off,
    /// It is about what this server does not have: it may be named, without effect.
    Idle,
    /// It would do something here and is not there: it cannot be switched on.
    Absent,
}
use Is::{Absent, Idle, Off, On};

/// Every plugin of upstream and ours, in the order in which they run.
static ORDER: &[(&str, Is)] = &[
    ("AlwaysAdmit", Idle),
    ("NamespaceAutoProvision", Absent),
    ("NamespaceLifecycle", On),
    // What it asks for, NamespaceLifecycle does.
    ("NamespaceExists", Idle),
    ("LimitPodHardAntiAffinityTopology", Absent),
    ("LimitRanger", On),
    ("ServiceAccount", On),
    // Off upstream; here nodes are never without it.
    ("NodeRestriction", On),
    ("TaintNodesByCondition", On),
    ("AlwaysPullImages", Off),
    ("ImagePolicyWebhook", Absent),
    ("PodSecurity", On),
    ("PodNodeSelector", Absent),
    ("Priority", On),
    ("DefaultTolerationSeconds", On),
    ("PodTolerationRestriction", Absent),
    ("EventRateLimit", Absent),
    ("ExtendedResourceToleration", Absent),
    ("DefaultStorageClass", Idle),
    ("StorageObjectInUseProtection", Idle),
    ("PodGroupProtection", Idle),
    ("OwnerReferencesPermissionEnforcement", Absent),
    ("PersistentVolumeClaimResize", Idle),
    ("RuntimeClass", On),
    ("CertificateApproval", On),
    ("CertificateSigning", On),
    ("ClusterTrustBundleAttest", Idle),
    ("CertificateSubjectRestriction", On),
    ("DefaultIngressClass", Idle),
    ("DenyServiceExternalIPs", Idle),
    ("PodTopologyLabels", Idle),
    ("PodGroupWorkloadExists", Idle),
    ("NodeDeclaredFeatureValidator", Idle),
    ("JobValidation", Idle),
    ("PodResizeValidator", Idle),
    (pin_image_digests::NAME, Off),
    ("MutatingAdmissionPolicy", Idle),
    (webhook::MUTATING, On),
    ("ValidatingAdmissionPolicy", Idle),
    (webhook::VALIDATING, On),
    (resource_quota::NAME, On),
    ("AlwaysDeny", Absent),
];

/// Names of the plugins that run unless they are switched off.
pub static DEFAULT_PLUGINS: &[&str] = &defaults();

const fn defaults() -> [&'static str; count()] {
    let mut names = [""; count()];
    let (mut from, mut to) = (0, 0);
    while from < ORDER.len() {
        if matches!(ORDER[from].1, On) {
            names[to] = ORDER[from].0;
            to += 1;
        }
        from += 1;
    }
    names
}

const fn count() -> usize {
    let (mut from, mut on) = (0, 0);
    while from < ORDER.len() {
        if matches!(ORDER[from].1, On) {
            on += 1;
        }
        from += 1;
    }
    on
}

/// Why names cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody knows this one.
    #[error("{name:?}: unknown plugin; {}", near.map_or_else(known, |near| format!("did you mean {near}?")))]
    Unknown {
        /// As it was written.
        name: String,
        /// What it may have been meant for.
        near: Option<&'static str>,
    },
    /// Upstream has it and we do not.
    #[error("the plugin {0} is not there in this version")]
    Absent(String),
    /// It is asked for both ways.
    #[error("the plugin {0} is both switched on and off")]
    Both(String),
}

/// The plugins that run.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// Their names, in their order.
    pub enabled: Vec<String>,
    /// Those that were named and are without effect here.
    pub idle: Vec<String>,
}

/// The defaults, with some switched on and some off.
///
/// # Errors
/// The first name that cannot be followed.
pub fn choose(on: &[String], off: &[String]) -> Result<Choice, Error> {
    for name in on.iter().chain(off) {
        if !ORDER.iter().any(|(known, _)| known == name) {
            return Err(Error::Unknown { name: name.clone(), near: near(name) });
        }
    }
    let lists = |list: &[String], name: &str| list.iter().any(|one| one == name);
    if let Some(both) = on.iter().find(|name| lists(off, name)) {
        return Err(Error::Both(both.clone()));
    }
    let mut choice = Choice { enabled: Vec::new(), idle: Vec::new() };
    for (name, is) in ORDER {
        match is {
            Absent if lists(on, name) => return Err(Error::Absent((*name).to_owned())),
            On if !lists(off, name) => choice.enabled.push((*name).to_owned()),
            Off if lists(on, name) => choice.enabled.push((*name).to_owned()),
            Idle if lists(on, name) || lists(off, name) => choice.idle.push((*name).to_owned()),
            _ => {}
        }
    }
    Ok(choice)
}

/// The names of all plugins that can run, in their order.
pub fn names() -> impl Iterator<Item = &'static str> {
    ORDER.iter().filter(|(_, is)| matches!(is, On | Off)).map(|(name, _)| *name)
}

fn known() -> String {
    format!("known are {}", names().collect::<Vec<_>>().join(", "))
}

/// The known name that is most like a wrong one, if any is like it at all.
fn near(name: &str) -> Option<&'static str> {
    let distance = |known: &str| distance(&name.to_lowercase(), &known.to_lowercase());
    let best = ORDER.iter().map(|(known, _)| (distance(known), *known)).min()?;
    (best.0 <= name.chars().count().div_ceil(3)).then_some(best.1)
}

/// How many letters have to be put in, taken out or changed to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, known) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *known);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(on: &[&str], off: &[&str]) -> Result<Choice, String> {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        choose(&list(on), &list(off)).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_word_upstreams_plugins_run_in_upstreams_order() {
        let choice = of(&[], &[]).unwrap();
        assert_eq!(choice.enabled, DEFAULT_PLUGINS);
        assert_eq!(
            choice.enabled,
            [
                "NamespaceLifecycle",
                "LimitRanger",
                "ServiceAccount",
                "NodeRestriction",
                "TaintNodesByCondition",
                "PodSecurity",
                "Priority",
                "DefaultTolerationSeconds",
                "RuntimeClass",
                "CertificateApproval",
                "CertificateSigning",
                "CertificateSubjectRestriction",
                "MutatingAdmissionWebhook",
                "ValidatingAdmissionWebhook",
                "ResourceQuota",
            ]
        );
    }

    #[test]
    fn what_is_switched_on_comes_to_its_place_and_what_is_switched_off_goes() {
        let choice = of(&["PinImageDigests", "AlwaysPullImages"], &["ResourceQuota", "PodSecurity"]).unwrap();
        let at = |name: &str| choice.enabled.iter().position(|one| one == name);
        assert!(at("TaintNodesByCondition") < at("AlwaysPullImages") && at("AlwaysPullImages") < at("Priority"));
        assert!(at("RuntimeClass") < at("PinImageDigests") && at("PinImageDigests") < at("MutatingAdmissionWebhook"));
        assert_eq!((at("ResourceQuota"), at("PodSecurity")), (None, None));
        assert_eq!(of(&["LimitRanger"], &[]), of(&[], &["AlwaysPullImages"]), "as it is already");
    }

    #[test]
    fn names_that_cannot_be_followed_are_refused_with_what_may_be_meant() {
        for (on, off, error) in [
            (&["PodSecurty"][..], &[][..], "\"PodSecurty\": unknown plugin; did you mean PodSecurity?"),
            (&["alwayspullimages"], &[], "\"alwayspullimages\": unknown plugin; did you mean AlwaysPullImages?"),
            (&[], &["Nonsense"], &format!("\"Nonsense\": unknown plugin; {}", known())),
            (&["EventRateLimit"], &[], "the plugin EventRateLimit is not there in this version"),
            (&["LimitRanger"], &["LimitRanger"], "the plugin LimitRanger is both switched on and off"),
        ] {
            assert_eq!(of(on, off).unwrap_err(), error);
        }
    }

    #[test]
    fn upstreams_names_without_anything_to_do_here_are_told() {
        let choice = of(&["DefaultStorageClass", "AlwaysAdmit"], &["DefaultIngressClass", "EventRateLimit"]).unwrap();
        assert_eq!(choice.idle, ["AlwaysAdmit", "DefaultStorageClass", "DefaultIngressClass"]);
        assert_eq!(choice.enabled, DEFAULT_PLUGINS);
    }
}
