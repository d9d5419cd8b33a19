//! The Kubernetes objects that the node reads, as slim structs of its own.
//!
//! Owns the shapes only: which fields a kubelet needs of a Pod, Secret, ConfigMap, RuntimeClass and ServiceAccount, and
//! their `kube::Resource` implementations. Must not hold rules (those are in `api` and in the rooms that use the
//! shapes). Field names and meanings are Kubernetes' own; quantities stay strings (`api::quantity` parses them), absent
//! lists are empty, absent strings are "". Start at [`Pod`].
#![allow(missing_docs)] // The fields are Kubernetes' own and documented there.

use k8s_openapi::ByteString;
use kube::core::{ClusterResourceScope, NamespaceResourceScope, ObjectMeta};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap, fmt};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

mod spec;
mod status;
pub use spec::*;
pub use status::*;

/// True for a value that an object may leave out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A struct whose absent fields are defaults, in camelCase, serialised without its defaults.
macro_rules! object {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $(#[serde(skip_serializing_if = "super::is_default")] $(#[$field_meta])* pub $field: $type,)*
        }
    )*};
}
use object;

/// Makes a struct with `metadata` usable with `kube::Api` and watchers.
macro_rules! resource {
    ($type:ident, $group:literal, $version:literal, $plural:literal, $scope:ty) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;
            fn kind(_: &()) -> Cow<'_, str> {
                stringify!($type).into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                $version.into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

/// A Pod with all that a kubelet needs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: PodSpec,
    pub status: PodStatus,
    /// It comes from the node's own sources, not from the API.
    #[serde(skip)]
    pub is_static: bool,
}

/// A Secret. `Debug` shows key names, never values.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    pub metadata: ObjectMeta,
    pub data: BTreeMap<String, ByteString>,
    #[serde(rename = "type")]
    pub type_: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("namespace", &self.metadata.namespace)
            .field("name", &self.metadata.name)
            .field("type", &self.type_)
            .field("keys", &self.data.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    pub metadata: ObjectMeta,
    pub data: BTreeMap<String, String>,
    pub binary_data: BTreeMap<String, ByteString>,
}

/// A RuntimeClass (`node.k8s.io/v1`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeClass {
    pub metadata: ObjectMeta,
    pub handler: String,
}

/// A ServiceAccount, as far as image pulls need it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceAccount {
    pub metadata: ObjectMeta,
    pub image_pull_secrets: Vec<LocalObjectReference>,
}

resource!(Pod, "", "v1", "pods", NamespaceResourceScope);
resource!(Secret, "", "v1", "secrets", NamespaceResourceScope);
resource!(ConfigMap, "", "v1", "configmaps", NamespaceResourceScope);
resource!(ServiceAccount, "", "v1", "serviceaccounts", NamespaceResourceScope);
resource!(RuntimeClass, "node.k8s.io", "v1", "runtimeclasses", ClusterResourceScope);

impl Pod {
    /// The pod's UID; "" only for an object that never came from an API.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// `name_namespace(uid)`, the way in which Kubernetes' messages name a pod.
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    /// All containers with the kind of each: init containers, containers, ephemeral containers, in spec order.
    pub fn containers(&self) -> impl Iterator<Item = (ContainerKind, &Container)> {
        let init = self
            .spec
            .init_containers
            .iter()
            .map(|c| (if c.restart_policy == "Always" { ContainerKind::Sidecar } else { ContainerKind::Init }, c));
        let app = self.spec.containers.iter().map(|c| (ContainerKind::App, c));
        let ephemeral = self.spec.ephemeral_containers.iter().map(|c| (ContainerKind::Ephemeral, c));
        init.chain(app).chain(ephemeral)
    }

    /// The container of that name and its kind.
    pub fn container(&self, name: &str) -> Option<(ContainerKind, &Container)> {
        self.containers().find(|(_, c)| c.name == name)
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// True for an object of the API that shows a static pod of some node.
    pub fn is_mirror(&self) -> bool {
        self.annotation(crate::static_pods::view::MIRROR).is_some()
    }

    /// The pull Secrets that count: a static pod's are never read (IMG-190).
    pub fn pull_secrets(&self) -> &[LocalObjectReference] {
        if self.is_static { &[] } else { &self.spec.image_pull_secrets }
    }

    pub fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Succeeded or Failed.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// Which list of the spec a container stands in; a sidecar is an init container with `restartPolicy: Always`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerKind {
    Init,
    Sidecar,
    App,
    Ephemeral,
}

impl ContainerKind {
    /// The `involvedObject.fieldPath` of events about this container (IMG-56).
    pub fn field_path(self, name: &str) -> String {
        let list = match self {
            Self::Init | Self::Sidecar => "initContainers",
            Self::App => "containers",
            Self::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{name}}}")
    }
}
