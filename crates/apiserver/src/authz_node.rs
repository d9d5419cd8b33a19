//! The Node authorizer: a node sees itself, its own pods, and what these refer to. Nothing else.
//!
//! Relations (pod on node, Secret in pod) are as new as the store at each request, and cost the node's own pods alone.
//! It must not change anything. Start at [`NodeAuthorizer`].

use api::certificate::{GROUP, PLURAL};
use api::look;
use async_trait::async_trait;

use crate::authz::{Attributes, Authorizer, Decision};
use crate::subresource::token::AUDIENCE_VERB;
use crate::world::World;

/// Judges requests of `system:node:<name>`.
pub struct NodeAuthorizer {
    /// Audiences for which nodes get tokens beyond those of their pods' volumes.
    pub audiences: Vec<String>,
}

fn allow_if(condition: bool, otherwise: &str) -> Decision {
    if condition { Decision::Allow } else { Decision::NoOpinion(otherwise.to_owned()) }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn decide(&self, a: &Attributes<'_>, world: &World) -> Decision {
        let Some(node) = a.user.node_name() else { return Decision::NoOpinion(String::new()) };
        if a.verb == AUDIENCE_VERB {
            return allow_if(self.audiences.iter().any(|audience| audience == a.resource), "");
        }
        match (a.group, a.resource) {
            ("authentication.k8s.io", "tokenreviews")
            | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews") => {
                allow_if(a.verb == "create", "")
            }
            ("", "nodes") => nodes(a, node),
            ("", "pods") => pods(a, node, world).await,
            ("", "secrets" | "configmaps" | "serviceaccounts") => referenced(a, node, world).await,
            ("" | "events.k8s.io", "events") => allow_if(matches!(a.verb, "create" | "update" | "patch"), ""),
            ("coordination.k8s.io", "leases") => leases(a, node),
            // NodeRestriction looks at the name that is asked for.
            (GROUP, PLURAL) => {
                allow_if(a.subresource.is_empty() && matches!(a.verb, "create" | "get" | "list" | "watch"), "")
            }
            ("node.k8s.io", "runtimeclasses") => allow_if(is_read(a), ""),
            ("", "services") => allow_if(is_read(a), ""),
            _ => Decision::NoOpinion(String::new()),
        }
    }
}

fn is_read(a: &Attributes<'_>) -> bool {
    a.subresource.is_empty() && matches!(a.verb, "get" | "list" | "watch")
}

fn nodes(a: &Attributes<'_>, node: &str) -> Decision {
    let own = a.name == node || selects(a.fields, "metadata.name", node);
    let allowed = match (a.verb, a.subresource) {
        // The name is in the body; NodeRestriction looks at it.
        ("create", "") => true,
        ("get" | "list" | "watch", "") => own,
        ("update" | "patch", "") | ("get" | "update" | "patch", "status") => own,
        _ => false,
    };
    allow_if(allowed, &format!("node {node:?} can only access its own Node object"))
}

fn leases(a: &Attributes<'_>, node: &str) -> Decision {
    let allowed = a.namespace == "kube-node-lease"
        && match a.verb {
            "create" => true,
            "get" | "update" | "patch" | "delete" => a.name == node,
            "list" | "watch" => selects(a.fields, "metadata.name", node),
            _ => false,
        };
    allow_if(allowed, "can only access node lease with the same name as the requesting node")
}

async fn pods(a: &Attributes<'_>, node: &str, world: &World) -> Decision {
    let why = format!("no relationship found between node {node:?} and this object");
    match (a.verb, a.subresource) {
        ("list" | "watch", "") => allow_if(
            selects(a.fields, "spec.nodeName", node),
            "can only list/watch pods with spec.nodeName field selector",
        ),
        // Mirror pods; NodeRestriction looks at the body.
        ("create", "") => Decision::Allow,
        ("get" | "delete", "") | ("get" | "update" | "patch", "status") | ("create", "eviction") => {
            let pod = world.pod(a.namespace, a.name).await;
            // A pod that is gone is answered with 404, not with 403: the node has to learn that it is gone.
            allow_if(pod.is_none_or(|pod| look::text_at(&pod, &["spec", "nodeName"]) == node), &why)
        }
        _ => Decision::NoOpinion(String::new()),
    }
}

async fn referenced(a: &Attributes<'_>, node: &str, world: &World) -> Decision {
    let why = format!("no relationship found between node {node:?} and this object");
    let token = a.resource == "serviceaccounts" && a.subresource == "token";
    let name = match a.verb {
        // NodeRestriction looks at what the token is to be bound to.
        "create" if token => a.name.to_owned(),
        _ if token => return Decision::NoOpinion(String::new()),
        "get" if !a.name.is_empty() => a.name.to_owned(),
        "list" | "watch" => match selected(a.fields, "metadata.name") {
            Some(name) => name.to_owned(),
            None => return Decision::NoOpinion("can only read namespaced object of this type by name".to_owned()),
        },
        _ => return Decision::NoOpinion(String::new()),
    };
    if !(a.subresource.is_empty() || token) || a.namespace.is_empty() {
        return Decision::NoOpinion(String::new());
    }
    let place = (node, a.namespace);
    match world.placement.needs(&*world.store, place, (a.resource, &name)).await {
        Ok(needed) => allow_if(needed, &why),
        Err(error) => Decision::NoOpinion(format!("{why}: {error}")),
    }
}

/// The value that a field selector demands of `field`.
fn selected<'a>(fields: &'a str, field: &str) -> Option<&'a str> {
    fields.split(',').find_map(|term| {
        let (left, right) = term.split_once("==").or_else(|| term.split_once('='))?;
        (left == field && !left.ends_with('!')).then_some(right)
    })
}

fn selects(fields: &str, field: &str, value: &str) -> bool {
    selected(fields, field) == Some(value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use store::{Entry, Error, Expect, List, MemoryStore, Page, Put, Revision, Store, Watch};

    use super::*;
    use crate::object;
    use crate::user::UserInfo;

    /// A store that counts the entries that were read out of it.
    #[derive(Default)]
    struct Counting {
        inner: MemoryStore,
        read: AtomicUsize,
    }

    #[async_trait]
    impl Store for Counting {
        async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
            self.read.fetch_add(1, Ordering::Relaxed);
            self.inner.get(key).await
        }

        async fn list(&self, list: List) -> Result<Page, Error> {
            let page = self.inner.list(list).await?;
            self.read.fetch_add(page.items.len(), Ordering::Relaxed);
            Ok(page)
        }

        async fn put(&self, put: Put) -> Result<Entry, Error> {
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
    async fn what_nodes_read_costs_each_node_its_own_pods_however_many_there_are() {
        const PODS: usize = 400;
        let store = Arc::new(Counting::default());
        let kind = api::find("", "v1", "pods").unwrap();
        let put = async |nth: usize| {
            let name = format!("p{nth}");
            let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {
                "nodeName": format!("n{}", nth % 20), "volumes": [{"configMap": {"name": format!("c{nth}")}}],
            }});
            let (key, value) = (object::key(kind, Some("default"), Some(&name)), object::encode(kind, &object, b""));
            store.put(Put { key, value, expect: Expect::Any, ttl: None }).await.unwrap();
        };
        for nth in 0..PODS {
            put(nth).await;
        }
        let world = World::new(store.clone());
        let reads = async |node: usize, map: usize| {
            let (user, name) = (UserInfo::node(&format!("n{node}")), format!("c{map}"));
            let asked = Attributes {
                user: &user,
                verb: "get",
                group: "",
                resource: "configmaps",
                subresource: "",
                namespace: "default",
                name: &name,
                fields: "",
                path: "",
            };
            matches!(NodeAuthorizer { audiences: Vec::new() }.decide(&asked, &world).await, Decision::Allow)
        };
        for nth in 0..PODS {
            assert!(reads(nth % 20, nth).await && !reads((nth + 1) % 20, nth).await, "{nth}");
        }
        assert!(!reads(0, PODS).await);
        put(PODS).await;
        assert!(reads(0, PODS).await);
        let read = store.read.load(Ordering::Relaxed);
        assert!(read <= PODS, "{read} entries were read for {} questions", 2 * PODS + 2);
    }

    #[test]
    fn only_an_equality_in_the_selector_counts() {
        assert!(selects("spec.nodeName=a,status.phase!=Failed", "spec.nodeName", "a"));
        assert!(selects("spec.nodeName==a", "spec.nodeName", "a"));
        assert!(!selects("spec.nodeName!=a", "spec.nodeName", "a"));
        assert!(!selects("", "spec.nodeName", "a"));
    }
}
