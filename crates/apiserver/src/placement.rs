//! What the pods of a node need: asked at each read of a node, so it must not cost the pods of all others.
//!
//! Which node a pod is on is read once for all who look at its fields, what it needs when its node first asks for something.
//! Start at [`Placement::needs`].

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use api::pod::reference;
use api::{Kind, look};
use bytes::Bytes;
use serde_json::Value;
use store::{Entry, Revision, Store};

use crate::filter;
use crate::follow::{self, Followed};
use crate::object;

/// Beginning of the keys of all pods.
const PREFIX: &str = "/registry/core/pods/";

/// The pods of the store that are on nodes.
#[derive(Default)]
pub struct Placement {
    kept: Followed<Index>,
}

#[derive(Default)]
struct Index {
    /// By key of the pod.
    nodes: HashMap<Arc<str>, Arc<str>>,
    /// By node, then by key.
    pods: HashMap<Arc<str>, BTreeMap<Arc<str>, Placed>>,
}

/// A pod on a node.
enum Placed {
    Stored(Bytes),
    /// Resources and names.
    Read(Box<[(&'static str, Box<str>)]>),
}

impl Placed {
    fn needs(&mut self, resource: &str, name: &str) -> bool {
        if let Placed::Stored(stored) = self {
            let pod = object::decode_at(pod(), stored, Revision(0));
            let named = reference::named(look::get(&pod, "spec").unwrap_or(&Value::Null));
            *self = Placed::Read(named.into_iter().map(|(resource, name)| (resource, name.into())).collect());
        }
        match self {
            Placed::Stored(_) => false,
            Placed::Read(named) => named.iter().any(|(of, known)| *of == resource && &**known == name),
        }
    }
}

impl follow::Index for Index {
    const PREFIX: &str = PREFIX;

    fn put(&mut self, entry: &Entry) {
        self.remove(&entry.key);
        let node = filter::field(pod(), entry, "spec.nodeName");
        if node.is_empty() {
            return;
        }
        let node = self.pods.get_key_value(&*node).map_or_else(|| Arc::from(&*node), |(known, _)| known.clone());
        self.nodes.insert(entry.key.clone(), node.clone());
        self.pods.entry(node).or_default().insert(entry.key.clone(), Placed::Stored(entry.value.clone()));
    }

    fn remove(&mut self, key: &str) {
        let Some(node) = self.nodes.remove(key) else { return };
        let Some(pods) = self.pods.get_mut(&node) else { return };
        pods.remove(key);
        if pods.is_empty() {
            self.pods.remove(&node);
        }
    }
}

impl Placement {
    /// Whether a pod of a namespace that is on a node needs the object of a resource and a name.
    pub async fn needs(
        &self,
        store: &dyn Store,
        (node, namespace): (&str, &str),
        (resource, name): (&str, &str),
    ) -> Result<bool, store::Error> {
        let prefix = object::key(pod(), Some(namespace), None);
        let found = self.kept.ask(store, |index| {
            let Some(pods) = index.pods.get_mut(node) else { return false };
            let from = pods.range_mut::<str, _>((Bound::Included(&*prefix), Bound::Unbounded));
            let mut there = from.take_while(|(key, _)| key.starts_with(&prefix));
            there.any(|(_, placed)| placed.needs(resource, name))
        });
        found.await
    }
}

fn pod() -> &'static Kind {
    api::find("", "v1", "pods").expect("the table of kinds has pods")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use store::{Expect, MemoryStore, Put};

    use super::*;

    /// A pod with a ConfigMap of its name.
    async fn put(store: &dyn Store, place: (&str, &str), node: Option<&str>) {
        let (namespace, name) = place;
        let spec = json!({"nodeName": node, "volumes": [{"configMap": {"name": name}}]});
        let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        let (key, value) = (object::key(pod(), Some(namespace), Some(name)), object::encode(pod(), &object, b""));
        store.put(Put { key, value, expect: Expect::Any, ttl: None }).await.unwrap();
    }

    #[tokio::test]
    async fn pods_are_found_where_they_are_now_and_nowhere_else() {
        let (store, placement) = (MemoryStore::new(), Placement::default());
        put(&store, ("a", "before"), Some("n1")).await;
        let needed = async |node: &str, namespace: &str| {
            let mut found = Vec::new();
            for name in ["before", "later", "new", "other", "there"] {
                if placement.needs(&store, (node, namespace), ("configmaps", name)).await.unwrap() {
                    found.push(name);
                }
                assert!(!placement.needs(&store, (node, namespace), ("secrets", name)).await.unwrap());
            }
            found
        };
        assert_eq!(needed("n1", "a").await, ["before"]);
        put(&store, ("a", "later"), None).await;
        put(&store, ("a-b", "other"), Some("n1")).await;
        put(&store, ("b", "there"), Some("n2")).await;
        assert_eq!(needed("n1", "a").await, ["before"]);
        put(&store, ("a", "later"), Some("n1")).await;
        assert_eq!(needed("n1", "a").await, ["before", "later"]);
        assert_eq!((needed("n1", "a-b").await, needed("n2", "a").await), (vec!["other"], Vec::new()));
        put(&store, ("a", "later"), Some("n2")).await;
        store.delete("/registry/core/pods/a/before", Expect::Any).await.unwrap();
        assert_eq!((needed("n1", "a").await, needed("n2", "a").await), (Vec::new(), vec!["later"]));
        // Too much happened to be followed: everything is read again.
        put(&store, ("a", "new"), Some("n1")).await;
        store.compact(store.revision().await.unwrap()).await.unwrap();
        assert_eq!(needed("n1", "a").await, ["new"]);
    }
}
