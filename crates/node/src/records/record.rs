//! What is written about a pull: the intent before it, the record after it, in upstream's kinds (IMG-238 … IMG-241).
//!
//! Pure. Owns the shapes, their strict reading and the merge of what a pull grants. Start at [`Record`].

use crate::credentials::Source;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version that is written.
const VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// The version that is read as well.
const OLD_VERSION: &str = "kubelet.config.k8s.io/v1alpha1";
const INTENT: &str = "ImagePullIntent";
const RECORD: &str = "ImagePulledRecord";
const PRELOADED: &str = "ImagePreloadedRecord";

/// A pull was about to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Intent {
    kind: String,
    api_version: String,
    pub(super) image: String,
}

/// An image was pulled, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Record {
    kind: String,
    api_version: String,
    pub(super) last_updated_time: Timestamp,
    pub(super) image_ref: String,
    /// By repository, canonical, without tag and digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) credential_mapping: BTreeMap<String, Grants>,
}

/// Names under which an image was on the node before the node itself pulled it (IMG-246).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Preloaded {
    kind: String,
    api_version: String,
    pub(super) last_updated_time: Timestamp,
    pub(super) image_ref: String,
    /// Repositories, canonical, without tag and digest.
    pub(super) observed_images: BTreeSet<String>,
}

impl Preloaded {
    pub(super) fn new(image_ref: &str, observed_images: BTreeSet<String>, now: Timestamp) -> Preloaded {
        Preloaded {
            kind: PRELOADED.into(),
            api_version: VERSION.into(),
            last_updated_time: seconds(now),
            image_ref: image_ref.into(),
            observed_images,
        }
    }

    /// Reads strictly; `None` if it is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Preloaded> {
        let read: Preloaded = serde_json::from_slice(bytes).ok()?;
        (read.kind == PRELOADED && read.api_version == VERSION).then_some(read)
    }
}

/// Who may use the image under one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Grants {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub(super) kubernetes_secrets: Vec<SecretEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub(super) kubernetes_service_accounts: Vec<AccountEntry>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) node_pods_accessible: bool,
}

fn null_is_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

/// A pull Secret that opened the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SecretEntry {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) credential_hash: String,
}

impl SecretEntry {
    pub(super) fn same_object(&self, other: &SecretEntry) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// A service account whose token opened the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AccountEntry {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What a pull that went well grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grant {
    Secret(SecretEntry),
    Account(AccountEntry),
    Node,
}

impl Grant {
    /// IMG-238: from where the credential came, and its hash.
    pub(super) fn of(source: &Source, credential_hash: String) -> Grant {
        match source {
            Source::Secret { uid, namespace, name } => Grant::Secret(SecretEntry {
                uid: uid.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                credential_hash,
            }),
            Source::Plugin { service_account: Some(account) } => Grant::Account(AccountEntry {
                uid: account.uid.clone(),
                namespace: account.namespace.clone(),
                name: account.name.clone(),
            }),
            Source::NodeFile | Source::Plugin { service_account: None } | Source::Anonymous => Grant::Node,
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        Record::bare("", Timestamp::UNIX_EPOCH)
    }
}

impl Intent {
    pub(super) fn new(image: &str) -> Intent {
        Intent { kind: INTENT.into(), api_version: VERSION.into(), image: image.into() }
    }

    /// Reads strictly; `None` if it is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Intent> {
        let read: Intent = serde_json::from_slice(bytes).ok()?;
        (read.kind == INTENT && is_known(&read.api_version)).then_some(read)
    }
}

impl Record {
    /// The image is the node's own, and nobody may use it without asking the registry.
    pub(super) fn bare(image_ref: &str, now: Timestamp) -> Record {
        Record {
            kind: RECORD.into(),
            api_version: VERSION.into(),
            last_updated_time: seconds(now),
            image_ref: image_ref.into(),
            credential_mapping: BTreeMap::new(),
        }
    }

    /// Reads strictly; `None` if it is none. The second part is true if it is written in an older version.
    pub(super) fn read(bytes: &[u8]) -> Option<(Record, bool)> {
        let mut read: Record = serde_json::from_slice(bytes).ok()?;
        if read.kind != RECORD || !is_known(&read.api_version) {
            return None;
        }
        let old = read.api_version == OLD_VERSION;
        read.api_version = VERSION.into();
        Some((read, old))
    }

    /// This record with what a pull under `repository` grants; `None` if it says so already (IMG-238). What is open to
    /// the whole node stays so.
    pub(super) fn granted(&self, repository: &str, grant: &Grant, now: Timestamp) -> Option<Record> {
        let mut next = self.clone();
        let grants = next.credential_mapping.entry(repository.to_owned()).or_default();
        if grants.node_pods_accessible {
            return None;
        }
        match grant {
            Grant::Node => *grants = Grants { node_pods_accessible: true, ..Grants::default() },
            Grant::Secret(secret) => {
                grants.kubernetes_secrets.retain(|known| !known.same_object(secret));
                grants.kubernetes_secrets.push(secret.clone());
                grants
                    .kubernetes_secrets
                    .sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
            }
            Grant::Account(account) => {
                grants.kubernetes_service_accounts.retain(|known| known != account);
                grants.kubernetes_service_accounts.push(account.clone());
                grants
                    .kubernetes_service_accounts
                    .sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
            }
        }
        if next == *self {
            return None;
        }
        next.last_updated_time = seconds(now);
        Some(next)
    }
}

fn is_known(version: &str) -> bool {
    version == VERSION || version == OLD_VERSION
}

/// Kubernetes writes times in whole seconds.
pub(super) fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Account;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_729_513_600 + second).unwrap()
    }

    fn secret(namespace: &str, name: &str, hash: &str) -> Grant {
        let source = Source::Secret { uid: "u".into(), namespace: namespace.into(), name: name.into() };
        Grant::of(&source, hash.into())
    }

    #[test]
    fn files_are_written_as_upstream_writes_them() {
        let intent = serde_json::to_string(&Intent::new("r.io/a:1")).unwrap();
        assert_eq!(
            intent,
            r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"r.io/a:1"}"#
        );
        let record = Record::bare("testimage-anonpull", at(0) + jiff::SignedDuration::from_millis(300));
        let record = record.granted("docker.io/testing/test", &Grant::Node, at(0)).unwrap();
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"testimage-anonpull","credentialMapping":{"docker.io/testing/test":{"nodePodsAccessible":true}}}"#
        );
        let record = Record::bare("i", at(0)).granted("r.io/a", &secret("ns", "s", "h"), at(0)).unwrap();
        assert!(serde_json::to_string(&record).unwrap().ends_with(
            r#"{"r.io/a":{"kubernetesSecrets":[{"uid":"u","namespace":"ns","name":"s","credentialHash":"h"}]}}}"#
        ));
    }

    #[test]
    fn a_record_survives_writing_and_reading_and_older_ones_are_read() {
        let record = Record::bare("i", at(0)).granted("r.io/a", &secret("ns", "s", "h"), at(1)).unwrap();
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(Record::read(text.as_bytes()), Some((record.clone(), false)));
        assert_eq!(Record::read(text.replace("v1beta1", "v1alpha1").as_bytes()), Some((record, true)));
        for bad in [text.replace("v1beta1", "v2"), text.replace("imageRef", "imageRev"), text.replace("Pulled", "Pull")]
        {
            assert_eq!(Record::read(bad.as_bytes()), None);
        }
        assert_eq!(Intent::read(b"{}"), None);
        assert_eq!(Intent::read(text.as_bytes()), None);
    }

    #[test]
    fn each_kind_of_source_grants_what_it_may() {
        let account = Account { namespace: "ns".into(), name: "sa".into(), uid: "u".into() };
        let plugin = |service_account| Grant::of(&Source::Plugin { service_account }, "h".into());
        assert!(matches!(plugin(Some(account)), Grant::Account(_)));
        assert_eq!(plugin(None), Grant::Node);
        assert_eq!(Grant::of(&Source::NodeFile, "h".into()), Grant::Node);
        assert_eq!(Grant::of(&Source::Anonymous, "h".into()), Grant::Node);
    }

    #[test]
    fn entries_are_unique_and_sorted_and_node_wide_access_is_never_taken_back() {
        let record = Record::bare("i", at(0));
        let record = record.granted("r", &secret("b", "s", "h"), at(1)).unwrap();
        let record = record.granted("r", &secret("a", "z", "h"), at(2)).unwrap();
        let record = record.granted("r", &secret("a", "s", "h"), at(3)).unwrap();
        assert_eq!(record.granted("r", &secret("a", "s", "h"), at(4)), None);
        let record = record.granted("r", &secret("a", "s", "h2"), at(5)).unwrap();
        let names: Vec<String> = record.credential_mapping["r"]
            .kubernetes_secrets
            .iter()
            .map(|s| format!("{}/{} {}", s.namespace, s.name, s.credential_hash))
            .collect();
        assert_eq!(names, ["a/s h2", "a/z h", "b/s h"]);
        assert_eq!(record.last_updated_time, at(5));
        let open = record.granted("r", &Grant::Node, at(6)).unwrap();
        assert_eq!(open.credential_mapping["r"], Grants { node_pods_accessible: true, ..Grants::default() });
        assert_eq!(open.granted("r", &secret("a", "s", "h"), at(7)), None);
    }
}
