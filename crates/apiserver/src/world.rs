//! Reading the stored objects by kind and name: what admission, authorization and subresources look up.
//!
//! It must not write. Start at [`World`].

use std::sync::Arc;

use api::Kind;
use serde_json::Value;
use store::{Entry, List, Store};

use crate::object;
use crate::placement::Placement;
use crate::rbac::Rbac;

/// Read access to the stored objects.
#[derive(Clone)]
pub struct World {
    /// The store itself.
    pub store: Arc<dyn Store>,
    /// Its roles and bindings, at hand.
    pub rbac: Arc<Rbac>,
    /// Which pods are on which node.
    pub placement: Arc<Placement>,
}

impl World {
    /// What is in a store.
    pub fn new(store: Arc<dyn Store>) -> World {
        World { store, rbac: Arc::default(), placement: Arc::default() }
    }

    /// The stored entry of an object.
    pub async fn entry(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<Option<Entry>, store::Error> {
        self.store.get(&object::key(kind, namespace, Some(name))).await
    }

    /// An object of a served kind; None if it is not there or cannot be read.
    pub async fn find(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        let kind = api::find(group, "v1", plural)?;
        let entry = self.entry(kind, namespace, name).await.ok()??;
        Some(object::decode(kind, &entry))
    }

    /// All objects of a cluster-scoped kind or of all namespaces.
    pub async fn all(&self, group: &str, plural: &str) -> Vec<Value> {
        let Some(kind) = api::find(group, "v1", plural) else { return Vec::new() };
        let list = List { prefix: object::key(kind, None, None), ..List::default() };
        let page = self.store.list(list).await;
        page.map(|page| page.items.iter().map(|entry| object::decode(kind, entry)).collect()).unwrap_or_default()
    }

    /// All objects of a namespaced kind in one namespace, with their entries, in order of name.
    pub async fn all_in(&self, group: &str, plural: &str, namespace: &str) -> Vec<(Entry, Value)> {
        let Some(kind) = api::find(group, "v1", plural) else { return Vec::new() };
        let list = List { prefix: object::key(kind, Some(namespace), None), ..List::default() };
        let Ok(page) = self.store.list(list).await else { return Vec::new() };
        page.items.into_iter().map(|entry| (entry.clone(), object::decode(kind, &entry))).collect()
    }

    /// A pod.
    pub async fn pod(&self, namespace: &str, name: &str) -> Option<Value> {
        self.find("", "pods", Some(namespace), name).await
    }
}
