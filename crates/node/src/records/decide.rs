//! Whether a pod may use an image that is on the node without asking the registry (IMG-232 … IMG-238).
//!
//! Pure. Start at [`decide`]; what a pull adds to a record is in [`Record::granted`].

use super::record::{AccountEntry, Grants, Record, SecretEntry};
use reference::{ParseError, Reference};

/// At so many secrets in a record, looking at it does not make it longer any more (IMG-237).
pub(super) const ENTRIES_MAX: usize = 100;

/// `imagePullCredentialsVerificationPolicy` (IMG-232).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// Whatever is on the node may be used by every pod.
    NeverVerify,
    /// What the node itself has pulled is verified.
    #[default]
    NeverVerifyPreloadedImages,
    /// Everything is verified but these.
    NeverVerifyAllowlistedImages(Allowlist),
    /// Everything is verified.
    AlwaysVerify,
}

/// Why the policy's settings are not good, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The policy has an unknown name.
    #[error(
        "invalid configuration: option {0:?} specified for imagePullCredentialsVerificationPolicy. Valid options are \
         \"NeverVerify\", \"NeverVerifyPreloadedImages\", \"NeverVerifyAllowlistedImages\" or \"AlwaysVerify\""
    )]
    Unknown(String),
    /// A list without the policy that reads it.
    #[error(
        "invalid configuration: can't set `preloadedImagesVerificationAllowlist` if \
         `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\""
    )]
    ListWithoutPolicy,
    /// An entry of the list.
    #[error("invalid configuration: invalid image pattern in `preloadedImagesVerificationAllowlist`: {0}")]
    Pattern(#[from] PatternError),
}

/// Why an entry of the list is not good, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Around the entry.
    #[error("leading/trailing spaces are not allowed: {0}")]
    Spaces(String),
    /// Empty.
    #[error("the supplied pattern is too short: {0}")]
    Short(String),
    /// A star elsewhere.
    #[error("not a valid wildcard pattern, only patterns ending with '/*' are allowed: {0}")]
    Wildcard(String),
    /// `/*` alone.
    #[error("at least registry hostname is required")]
    NoHost,
    /// No image name.
    #[error("failed to parse as an image name: {0}")]
    Name(ParseError),
    /// More or less than a canonical repository.
    #[error("neither tag nor digest is accepted in an image reference: {0}")]
    NotCanonical(String),
}

impl Policy {
    /// From the settings' words; `None` is the default policy.
    ///
    /// # Errors
    /// [`PolicyError`], with which a node does not start.
    pub fn parse(name: Option<&str>, list: &[String]) -> Result<Policy, PolicyError> {
        let policy = match name.unwrap_or("NeverVerifyPreloadedImages") {
            "NeverVerify" => Policy::NeverVerify,
            "NeverVerifyPreloadedImages" => Policy::NeverVerifyPreloadedImages,
            "NeverVerifyAllowlistedImages" => return Ok(Policy::NeverVerifyAllowlistedImages(Allowlist::parse(list)?)),
            "AlwaysVerify" => Policy::AlwaysVerify,
            other => return Err(PolicyError::Unknown(other.to_owned())),
        };
        if list.is_empty() { Ok(policy) } else { Err(PolicyError::ListWithoutPolicy) }
    }

    /// IMG-232: whether credentials have to be verified.
    fn verifies(&self, repository: Option<&str>, pulled: bool, list_needs_preloaded: bool) -> bool {
        match self {
            Policy::NeverVerify => false,
            Policy::NeverVerifyPreloadedImages => pulled,
            Policy::NeverVerifyAllowlistedImages(list) => {
                let listed = repository.is_some_and(|repository| list.holds(repository));
                !listed || (list_needs_preloaded && pulled)
            }
            Policy::AlwaysVerify => true,
        }
    }
}

/// `preloadedImagesVerificationAllowlist` (IMG-233).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowlist {
    names: Vec<String>,
    /// With the slash at their end.
    prefixes: Vec<String>,
}

impl Allowlist {
    /// Reads all entries.
    ///
    /// # Errors
    /// What is wrong with the first bad one.
    pub fn parse(entries: &[String]) -> Result<Allowlist, PatternError> {
        let mut list = Allowlist::default();
        for entry in entries {
            if entry.trim() != entry {
                return Err(PatternError::Spaces(entry.clone()));
            }
            let prefix = entry.ends_with("/*").then(|| &entry[..entry.len() - 1]);
            let text = prefix.unwrap_or(entry);
            if text.is_empty() {
                return Err(PatternError::Short(entry.clone()));
            }
            if text.contains('*') {
                return Err(PatternError::Wildcard(entry.clone()));
            }
            match prefix {
                Some("/") => return Err(PatternError::NoHost),
                Some(prefix) => list.prefixes.push(prefix.to_owned()),
                None => {
                    let name = Reference::parse(text).map_err(PatternError::Name)?.repository();
                    if name != text {
                        return Err(PatternError::NotCanonical(entry.clone()));
                    }
                    list.names.push(name);
                }
            }
        }
        Ok(list)
    }

    fn holds(&self, repository: &str) -> bool {
        self.names.iter().any(|name| name == repository)
            || self.prefixes.iter().any(|prefix| repository.starts_with(prefix.as_str()))
    }
}

/// How records are judged beyond the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The policy.
    pub policy: Policy,
    /// A Secret with new contents asks the registry again, although the same Secret once pulled the image (IMG-237).
    pub rotated_secret_requires_pull: bool,
    /// The allow list holds only for images that the node has not pulled itself (IMG-233).
    pub list_needs_preloaded: bool,
}

/// A pull Secret of the pod that fits the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Presented {
    pub(super) secret: SecretEntry,
    /// The credential's hash as older records write it.
    pub(super) old_hash: String,
}

impl Presented {
    /// An empty hash never fits (IMG-242).
    fn has_hash_of(&self, entry: &SecretEntry) -> bool {
        let hash = entry.credential_hash.as_str();
        !hash.is_empty() && (hash == self.secret.credential_hash || hash == self.old_hash)
    }
}

/// What is known when an image is there.
pub(super) struct Facts<'a> {
    /// The image's repository; `None` if its name cannot be read.
    pub(super) repository: Option<&'a str>,
    /// Its record, or that the record cannot be read.
    pub(super) record: Result<Option<&'a Record>, ()>,
    /// A pull of it is under way or was interrupted.
    pub(super) intended: bool,
    /// It was there under this name before the node pulled it under another (IMG-246).
    pub(super) preloaded: bool,
    /// What the pod has.
    pub(super) secrets: &'a [Presented],
    pub(super) accounts: &'a [AccountEntry],
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The policy asks for no verification.
    PolicyAllows,
    /// The pod has what once pulled the image.
    RecordFound,
    /// The registry has to be asked.
    MustAuthenticate,
    /// The records cannot be read: the registry has to be asked.
    Unreadable,
}

impl Verdict {
    /// Whether the image may not simply be used.
    pub fn must_pull(self) -> bool {
        matches!(self, Self::MustAuthenticate | Self::Unreadable)
    }

    /// Its name in metrics (IMG-247).
    pub fn label(self) -> &'static str {
        match self {
            Self::PolicyAllows => "credentialPolicyAllowed",
            Self::RecordFound => "credentialRecordFound",
            Self::MustAuthenticate => "mustAuthenticate",
            Self::Unreadable => "error",
        }
    }
}

/// The table of IMG-236, and what is to be added to the record (IMG-237).
#[must_use]
pub(super) fn decide(rules: &Rules, facts: &Facts<'_>) -> (Verdict, Option<SecretEntry>) {
    let Ok(record) = facts.record else { return (Verdict::Unreadable, None) };
    let pulled = (record.is_some() && !facts.preloaded) || facts.intended;
    if !rules.policy.verifies(facts.repository, pulled, rules.list_needs_preloaded) {
        return (Verdict::PolicyAllows, None);
    }
    let grants = match (record, facts.repository) {
        (Some(record), Some(repository)) => record.credential_mapping.get(repository),
        _ => None,
    };
    let Some(grants) = grants else { return (Verdict::MustAuthenticate, None) };
    if grants.node_pods_accessible {
        return (Verdict::RecordFound, None);
    }
    let room = grants.kubernetes_secrets.len() < ENTRIES_MAX;
    for presented in facts.secrets {
        if let Some(answer) = by_secret(presented, grants, room, rules.rotated_secret_requires_pull) {
            return (Verdict::RecordFound, answer);
        }
    }
    if facts.accounts.iter().any(|account| grants.kubernetes_service_accounts.contains(account)) {
        return (Verdict::RecordFound, None);
    }
    (Verdict::MustAuthenticate, None)
}

/// Whether a secret opens the image, and if so what the record is to learn of it.
fn by_secret(presented: &Presented, grants: &Grants, room: bool, strict: bool) -> Option<Option<SecretEntry>> {
    let by_hash = grants.kubernetes_secrets.iter().any(|entry| presented.has_hash_of(entry));
    let known = grants.kubernetes_secrets.iter().find(|entry| entry.same_object(&presented.secret));
    let learned = || Some(presented.secret.clone());
    match (by_hash, known) {
        (true, Some(entry)) if entry.credential_hash == presented.secret.credential_hash => Some(None),
        // New coordinates, or the old way of hashing.
        (true, _) => Some(room.then(learned).flatten()),
        (false, Some(_)) if room && !strict => Some(learned()),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const REPOSITORY: &str = "r.io/team/app";

    fn entry(name: &str, hash: &str) -> SecretEntry {
        SecretEntry {
            uid: format!("u-{name}"),
            namespace: "ns".into(),
            name: name.into(),
            credential_hash: hash.into(),
        }
    }

    fn presented(name: &str, hash: &str) -> Presented {
        Presented { secret: entry(name, hash), old_hash: format!("old-{hash}") }
    }

    fn account(name: &str) -> AccountEntry {
        AccountEntry { uid: format!("u-{name}"), namespace: "ns".into(), name: name.into() }
    }

    fn record(repository: &str, grants: Grants) -> Record {
        let mut record = Record::default();
        record.credential_mapping = BTreeMap::from([(repository.to_owned(), grants)]);
        record
    }

    fn facts<'a>(record: Option<&'a Record>, secrets: &'a [Presented], accounts: &'a [AccountEntry]) -> Facts<'a> {
        Facts { repository: Some(REPOSITORY), record: Ok(record), intended: false, preloaded: false, secrets, accounts }
    }

    fn always() -> Rules {
        Rules { policy: Policy::AlwaysVerify, ..Rules::default() }
    }

    #[test]
    fn the_twelve_rows_of_the_table_are_as_specified() {
        use Verdict::{MustAuthenticate, RecordFound, Unreadable};
        let secrets = |entries: &[SecretEntry]| Grants { kubernetes_secrets: entries.to_vec(), ..Grants::default() };
        let accounts = Grants { kubernetes_service_accounts: vec![account("sa")], ..Grants::default() };
        let open = Grants { node_pods_accessible: true, ..Grants::default() };
        let here = |grants| Some(record(REPOSITORY, grants));
        let (a, none) = (vec![presented("a", "h1")], Vec::new());
        let rows = [
            (1, None, &a, vec![], MustAuthenticate),
            (2, Some(record("r.io/other", open.clone())), &a, vec![], MustAuthenticate),
            (3, here(open), &none, vec![], RecordFound),
            (4, here(Grants::default()), &a, vec![account("sa")], MustAuthenticate),
            (5, here(secrets(&[entry("a", "h1")])), &a, vec![], RecordFound),
            (6, here(secrets(&[entry("b", "h1")])), &a, vec![], RecordFound),
            (7, here(secrets(&[entry("a", "h2")])), &a, vec![], RecordFound),
            (8, here(secrets(&[entry("b", "h2")])), &a, vec![], MustAuthenticate),
            (9, here(secrets(&[entry("a", "h1")])), &none, vec![account("sa")], MustAuthenticate),
            (10, here(accounts.clone()), &none, vec![account("sa")], RecordFound),
            (11, here(accounts), &a, vec![account("other")], MustAuthenticate),
        ];
        for (row, record, secrets, accounts, wanted) in rows {
            assert_eq!(decide(&always(), &facts(record.as_ref(), secrets, &accounts)).0, wanted, "row {row}");
        }
        let unreadable = Facts { record: Err(()), ..facts(None, &a, &[]) };
        assert_eq!(decide(&Rules::default(), &unreadable).0, Unreadable, "row 12");
    }

    #[test]
    fn an_empty_hash_never_fits_and_an_old_one_does() {
        let with =
            |hash: &str| record(REPOSITORY, Grants { kubernetes_secrets: vec![entry("b", hash)], ..Grants::default() });
        let (old, empty) = (with("old-h1"), with(""));
        let answer = decide(&always(), &facts(Some(&old), &[presented("a", "h1")], &[]));
        assert_eq!(answer, (Verdict::RecordFound, Some(entry("a", "h1"))));
        let answer = decide(&always(), &facts(Some(&empty), &[presented("a", "")], &[]));
        assert_eq!(answer.0, Verdict::MustAuthenticate);
    }

    #[test]
    fn policies_differ_in_what_they_verify() {
        let list = Allowlist::parse(&["r.io/team/app".into(), "docker.io/library/*".into()]).unwrap();
        let listed = || Policy::NeverVerifyAllowlistedImages(list.clone());
        let of = |policy: Policy| Rules { policy, ..Rules::default() };
        let bare = Record::default();
        for (rules, repository, preloaded, pulled) in [
            (of(Policy::NeverVerify), REPOSITORY, false, false),
            (of(Policy::NeverVerifyPreloadedImages), REPOSITORY, false, true),
            (of(listed()), REPOSITORY, false, false),
            (of(listed()), "r.io/team/app2", true, true),
            (of(listed()), "docker.io/library/alpine", false, false),
            (of(Policy::AlwaysVerify), REPOSITORY, true, true),
            (Rules { list_needs_preloaded: true, ..of(listed()) }, REPOSITORY, false, true),
        ] {
            for (record, verified) in [(None, preloaded), (Some(&bare), pulled)] {
                let facts = Facts { repository: Some(repository), ..facts(record, &[], &[]) };
                assert_eq!(decide(&rules, &facts).0.must_pull(), verified, "{rules:?} {repository}");
            }
        }
    }

    #[test]
    fn an_intent_alone_makes_an_image_the_nodes_own() {
        let facts = Facts { intended: true, ..facts(None, &[], &[]) };
        assert_eq!(decide(&Rules::default(), &facts).0, Verdict::MustAuthenticate);
    }

    #[test]
    fn a_record_learns_from_what_fits_until_it_has_a_hundred_entries() {
        for (count, by_hash, by_name) in [
            (99, (Verdict::RecordFound, true), (Verdict::RecordFound, true)),
            (100, (Verdict::RecordFound, false), (Verdict::MustAuthenticate, false)),
            (101, (Verdict::RecordFound, false), (Verdict::MustAuthenticate, false)),
        ] {
            let entries = (0..count).map(|n| entry(&n.to_string(), &format!("h{n}"))).collect();
            let record = record(REPOSITORY, Grants { kubernetes_secrets: entries, ..Grants::default() });
            for (secret, wanted) in [(presented("new", "h7"), by_hash), (presented("7", "new"), by_name)] {
                let (verdict, learned) = decide(&always(), &facts(Some(&record), std::slice::from_ref(&secret), &[]));
                assert_eq!((verdict, learned.is_some()), wanted, "{count} entries, {secret:?}");
            }
        }
    }

    #[test]
    fn a_rotated_secret_asks_the_registry_when_that_is_wanted() {
        let record = record(REPOSITORY, Grants { kubernetes_secrets: vec![entry("a", "h1")], ..Grants::default() });
        let rules = Rules { rotated_secret_requires_pull: true, ..always() };
        assert_eq!(decide(&rules, &facts(Some(&record), &[presented("a", "h2")], &[])).0, Verdict::MustAuthenticate);
        assert_eq!(decide(&rules, &facts(Some(&record), &[presented("a", "h1")], &[])).0, Verdict::RecordFound);
    }

    #[test]
    fn the_settings_words_are_checked() {
        assert_eq!(Policy::parse(None, &[]), Ok(Policy::NeverVerifyPreloadedImages));
        let unknown = Policy::parse(Some("Sometimes"), &[]).unwrap_err().to_string();
        assert!(unknown.starts_with("invalid configuration: option \"Sometimes\" specified for"), "{unknown}");
        let list = ["r.io/a".to_owned()];
        assert_eq!(Policy::parse(Some("AlwaysVerify"), &list), Err(PolicyError::ListWithoutPolicy));
        assert!(Policy::parse(Some("NeverVerifyAllowlistedImages"), &list).is_ok());
    }

    #[test]
    fn entries_of_the_allow_list_are_canonical_names_or_whole_segments() {
        let refused = |entry: &str| Allowlist::parse(&[entry.to_owned()]).unwrap_err();
        assert!(matches!(refused(" r.io/a"), PatternError::Spaces(_)));
        assert!(matches!(refused(""), PatternError::Short(_)));
        for entry in ["r.io/a*", "*.io/a", "r.io/*/a", "r.io/**"] {
            assert!(matches!(refused(entry), PatternError::Wildcard(_)), "{entry}");
        }
        assert_eq!(refused("/*"), PatternError::NoHost);
        assert!(matches!(refused("r.io/A"), PatternError::Name(_)));
        for entry in ["alpine", "r.io/a:1", "docker.io/alpine"] {
            assert!(matches!(refused(entry), PatternError::NotCanonical(_)), "{entry}");
        }
        let list = Allowlist::parse(&["r.io/a/*".into(), "docker.io/library/alpine".into()]).unwrap();
        let holds = |image: &str| list.holds(&Reference::parse(image).unwrap().repository());
        assert!(holds("alpine") && holds("docker.io/library/alpine:3") && holds("r.io/a/b"));
        assert!(!holds("r.io/a") && !holds("r.io/ab/c") && !holds("alpine2"));
    }
}
