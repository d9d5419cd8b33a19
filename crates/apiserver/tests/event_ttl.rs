//! How long events live: the lease with which the store is asked to keep them (POD-53).
#![allow(missing_docs)]

mod door;

use async_trait::async_trait;
use door::{Door, PODS, pod, server_with};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use store::{Entry, Error, Expect, List, MemoryStore, Page, Put, Revision, Store, Watch};

/// A store that notes how long each key is to live.
struct Noting {
    inner: MemoryStore,
    leases: Arc<Mutex<BTreeMap<String, Option<Duration>>>>,
}

#[async_trait]
impl Store for Noting {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }

    async fn list(&self, list: List) -> Result<Page, Error> {
        self.inner.list(list).await
    }

    async fn put(&self, put: Put) -> Result<Entry, Error> {
        self.leases.lock().unwrap().insert(put.key.clone(), put.ttl);
        self.inner.put(put).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision), Error> {
        self.inner.delete(key, expect).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.inner.watch(prefix, after).await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        self.inner.compact(through).await
    }
}

#[tokio::test]
async fn pod_53_an_event_is_kept_for_an_hour_or_as_long_as_is_set() {
    for (setting, expected) in [(None, 3600), (Some(1800), 1800)] {
        let leases = Arc::<Mutex<BTreeMap<String, Option<Duration>>>>::default();
        let noting = Noting { inner: MemoryStore::new(), leases: leases.clone() };
        let server = server_with(|options| {
            options.store = Arc::new(noting);
            options.event_ttl = setting.map_or(options.event_ttl, Duration::from_secs);
        });
        let door = Door { server: server.await, user: apiserver::UserInfo::admin() };
        assert_eq!(door.post(PODS, &pod("p")).await.0, 201);
        let event = json!({"metadata": {"name": "e"}, "reason": "Started", "type": "Normal",
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
        let events = "/api/v1/namespaces/default/events";
        assert_eq!(door.post(events, &event).await.0, 201);
        let of = |end: &str| {
            let leases = leases.lock().unwrap();
            let (_, lease) = leases.iter().find(|(key, _)| key.ends_with(end)).unwrap();
            *lease
        };
        assert_eq!(of("events/default/e"), Some(Duration::from_secs(expected)));
        assert_eq!(of("pods/default/p"), None, "nothing else ends by itself");
        // Each further count of the event prolongs its life.
        leases.lock().unwrap().clear();
        assert_eq!(door.merge(&format!("{events}/e"), &json!({"count": 2})).await.0, 200);
        assert_eq!(of("events/default/e"), Some(Duration::from_secs(expected)));
    }
}
