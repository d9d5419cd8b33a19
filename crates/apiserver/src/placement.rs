//! Which pods are on a node: asked at each read of a node, so it must not cost the pods of all others.
//!
//! It keeps the store's own entries and must not decode them; which node a pod is on is read once for all who look at its
//! fields. Start at [`Placement::pods`].

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use api::Kind;
use store::{Entry, Store};

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
    pods: HashMap<Arc<str>, BTreeMap<Arc<str>, Entry>>,
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
        self.pods.entry(node).or_default().insert(entry.key.clone(), entry.clone());
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
    /// The pods of a namespace that are on a node.
    pub async fn pods(&self, store: &dyn Store, node: &str, namespace: &str) -> Result<Vec<Entry>, store::Error> {
        let prefix = object::key(pod(), Some(namespace), None);
        let found = self.kept.ask(store, |index| {
            let Some(pods) = index.pods.get(node) else { return Vec::new() };
            let from = pods.range::<str, _>((Bound::Included(&*prefix), Bound::Unbounded));
            from.take_while(|(key, _)| key.starts_with(&prefix)).map(|(_, entry)| entry.clone()).collect()
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

    async fn put(store: &dyn Store, place: (&str, &str), node: Option<&str>) {
        let (namespace, name) = place;
        let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"nodeName": node}});
        let (key, value) = (object::key(pod(), Some(namespace), Some(name)), object::encode(pod(), &object, b""));
        store.put(Put { key, value, expect: Expect::Any, ttl: None }).await.unwrap();
    }

    #[tokio::test]
    async fn pods_are_found_where_they_are_now_and_nowhere_else() {
        let (store, placement) = (MemoryStore::new(), Placement::default());
        put(&store, ("a", "before"), Some("n1")).await;
        let names = async |node: &str, namespace: &str| -> Vec<String> {
            let found = placement.pods(&store, node, namespace).await.unwrap();
            found.iter().filter_map(|entry| entry.key.rsplit('/').next().map(str::to_owned)).collect()
        };
        assert_eq!(names("n1", "a").await, ["before"]);
        put(&store, ("a", "later"), None).await;
        put(&store, ("a-b", "other"), Some("n1")).await;
        put(&store, ("b", "there"), Some("n2")).await;
        assert_eq!(names("n1", "a").await, ["before"]);
        put(&store, ("a", "later"), Some("n1")).await;
        assert_eq!(names("n1", "a").await, ["before", "later"]);
        assert_eq!((names("n1", "a-b").await, names("n2", "a").await), (vec!["other".to_owned()], Vec::new()));
        put(&store, ("a", "later"), Some("n2")).await;
        store.delete("/registry/core/pods/a/before", Expect::Any).await.unwrap();
        assert_eq!((names("n1", "a").await, names("n2", "a").await), (Vec::new(), vec!["later".to_owned()]));
        // Too much happened to be followed: everything is read again.
        put(&store, ("a", "new"), Some("n1")).await;
        store.compact(store.revision().await.unwrap()).await.unwrap();
        assert_eq!(names("n1", "a").await, ["new"]);
    }
}
