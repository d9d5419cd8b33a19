//! An object of any served kind, and what is kept of its metadata.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use api::{Kind, look};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::discovery::ApiResource;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::pod::JOB_TRACKING;
use crate::workload;

/// A row of the table of served kinds, in an order.
#[derive(Clone, Copy, PartialEq)]
pub struct Served(pub &'static Kind);

impl Eq for Served {}

impl Ord for Served {
    fn cmp(&self, other: &Served) -> Ordering {
        (self.0.group, self.0.plural).cmp(&(other.0.group, other.0.plural))
    }
}

impl PartialOrd for Served {
    fn partial_cmp(&self, other: &Served) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.qualified())
    }
}

impl Served {
    /// The served kind of a group and a plural, in version v1.
    ///
    /// # Panics
    /// If it is not served: the names are written in this crate.
    pub fn named(group: &str, plural: &str) -> Served {
        Served(api::find(group, "v1", plural).expect("controllers name served kinds"))
    }

    /// Pods.
    pub fn pods() -> Served {
        Served::named("", "pods")
    }

    /// Whether it is this resource.
    pub fn is(self, group: &str, plural: &str) -> bool {
        (self.0.group, self.0.plural) == (group, plural)
    }

    /// Where all its objects are listed, or those of a namespace.
    pub fn path(self, namespace: &str) -> String {
        let root = if self.0.group.is_empty() { "/api" } else { "/apis" };
        let base = format!("{root}/{}", self.0.api_version());
        match namespace.is_empty() || !self.0.namespaced {
            true => format!("{base}/{}", self.0.plural),
            false => format!("{base}/namespaces/{namespace}/{}", self.0.plural),
        }
    }

    /// What `kube` watches it by.
    pub fn resource(self) -> ApiResource {
        ApiResource {
            group: self.0.group.to_owned(),
            version: self.0.version.to_owned(),
            api_version: self.0.api_version(),
            kind: self.0.kind.to_owned(),
            plural: self.0.plural.to_owned(),
        }
    }
}

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its kind.
    pub kind: Served,
    /// metadata.namespace; empty without one.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
}

impl Place {
    /// Its path in the API.
    pub fn path(&self) -> String {
        format!("{}/{}", self.kind.path(&self.namespace), self.name)
    }
}

/// A reference to an owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// apiVersion of the owner.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Whether it manages the object.
    pub controller: bool,
    /// Whether it may go only after the object when it is deleted in the foreground.
    pub blocks: bool,
}

impl Owner {
    /// Where the owner is to be looked for; None if its kind is not served, so that nothing can be said of it.
    pub fn place(&self, namespace: &str) -> Option<Place> {
        let kind = Served(api::find_kind(&self.api_version, &self.kind)?);
        let namespace = if kind.0.namespaced { namespace } else { "" };
        Some(Place { kind, namespace: namespace.to_owned(), name: self.name.clone() })
    }
}

/// What is kept of every object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Where it is.
    pub place: Place,
    /// Who owns it.
    pub owners: Vec<Owner>,
    /// metadata.labels of what can be adopted: nobody controls it, and some workload takes its kind; else none.
    pub labels: BTreeMap<String, String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether what it owns shall stay (finalizer `orphan`).
    pub orphans: bool,
    /// Whether what it owns shall go first (finalizer `foregroundDeletion`).
    pub foreground: bool,
    /// Whether a Job has to see its end (finalizer `batch.kubernetes.io/job-tracking`).
    pub tracked: bool,
}

/// The finalizer of an object whose dependents shall stay.
pub const ORPHAN: &str = "orphan";

/// The finalizer of an object whose dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";

impl Meta {
    /// Reads it from an object.
    pub fn read(kind: Served, object: &Value) -> Meta {
        let text = |field| look::text_at(object, &["metadata", field]).to_owned();
        let empty = Value::Null;
        let meta = look::get(object, "metadata").unwrap_or(&empty);
        let finalizers = look::texts(meta, "finalizers");
        let owners = owners(object);
        let is_free = workload::is_adopted(kind) && !owners.iter().any(|owner| owner.controller);
        Meta {
            place: Place { kind, namespace: text("namespace"), name: text("name") },
            owners,
            labels: if is_free { labels(object) } else { BTreeMap::new() },
            deleting: look::get(meta, "deletionTimestamp").is_some(),
            orphans: finalizers.contains(&ORPHAN),
            foreground: finalizers.contains(&FOREGROUND),
            tracked: kind.is("", "pods") && finalizers.contains(&JOB_TRACKING),
        }
    }

    /// Who manages it.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }
}

/// The labels of an object.
pub fn labels(object: &Value) -> BTreeMap<String, String> {
    let meta = look::get(object, "metadata");
    let pairs = meta.into_iter().flat_map(|meta| look::text_map(meta, "labels"));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The owners of an object.
pub fn owners(object: &Value) -> Vec<Owner> {
    let read = |one: &Value| Owner {
        api_version: look::text(one, "apiVersion").to_owned(),
        kind: look::text(one, "kind").to_owned(),
        name: look::text(one, "name").to_owned(),
        uid: look::text(one, "uid").to_owned(),
        controller: look::flag(one, "controller"),
        blocks: look::flag(one, "blockOwnerDeletion"),
    };
    look::list_at(object, &["metadata", "ownerReferences"]).iter().map(read).collect()
}

/// An object as a watch shows it.
#[derive(Debug, Clone)]
pub struct Seen {
    metadata: ObjectMeta,
    /// All of it.
    pub object: Value,
}

impl Seen {
    /// metadata.uid.
    pub fn uid(&self) -> String {
        self.metadata.uid.clone().unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Seen, D::Error> {
        let object = Value::deserialize(from)?;
        let text = |field| look::at(&object, &["metadata", field]).and_then(Value::as_str).map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Seen { metadata, object })
    }
}

impl kube::Resource for Seen {
    type DynamicType = ApiResource;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
