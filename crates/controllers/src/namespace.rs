//! A namespace that is being deleted loses its contents and then its finalizer `kubernetes`.
//!
//! Pods go first and are waited for, because they may need what else is there until they have ended.

use std::collections::BTreeSet;

use api::look;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::call::{self, Error};
use crate::view::{Crowd, Served, World};

/// The finalizer of this controller.
const FINALIZER: &str = "kubernetes";

/// How many objects are deleted at once.
const DELETES_AT_ONCE: usize = 16;

/// The namespaces to empty and finalize. Where all pods are on their way out there is nothing to do until they are gone.
pub fn decide(world: &World) -> Vec<String> {
    let is_waiting = |name: &str| matches!(world.pods_in(name), Crowd { live: 0, going: 1.. });
    let ours = world.namespaces.iter().filter(|(name, namespace)| {
        let is_ours = || namespace.finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        namespace.deleting && is_ours() && !is_waiting(name)
    });
    ours.map(|(name, _)| name.clone()).collect()
}

/// Deletes what the namespace holds; when nothing is left, lets it go.
pub async fn act(client: &Client, namespace: &str) -> Result<(), Error> {
    for kinds in [vec![Served::pods()], others()] {
        let mut remaining = 0;
        for kind in kinds {
            remaining += delete_all(client, &kind.path(namespace)).await?;
        }
        if remaining > 0 {
            return Err(Error::Remaining(remaining));
        }
    }
    finalize(client, namespace).await
}

/// The namespaced kinds that can be listed and deleted, but pods: of those that are kept together one.
fn others() -> Vec<Served> {
    let can = |kind: &api::Kind| ["list", "delete"].iter().all(|verb| kind.verbs.contains(verb));
    let mut kept = BTreeSet::new();
    let deletable = api::kinds().iter().filter(|kind| kind.namespaced && can(kind)).map(Served);
    let others = deletable.filter(|kind| *kind != Served::pods());
    others.filter(|kind| kept.insert((kind.0.storage.group, kind.0.storage.plural))).collect()
}

/// Asks for the deletion of every object of a collection; returns how many are still there then.
async fn delete_all(client: &Client, path: &str) -> Result<usize, Error> {
    let list = call::call(client, Method::GET, path, None).await?;
    // What is being deleted already only has to be waited for.
    let is_going = |one: &&Value| look::at(one, &["metadata", "deletionTimestamp"]).is_some();
    let (going, live): (Vec<&Value>, Vec<&Value>) = look::list(&list, "items").iter().partition(is_going);
    let paths: Vec<String> =
        live.iter().map(|one| format!("{path}/{}", look::text_at(one, &["metadata", "name"]))).collect();
    let delete = |path: String| {
        let client = client.clone();
        async move { delete(&client, &path).await }
    };
    let deletes = stream::iter(paths).map(delete).buffer_unordered(DELETES_AT_ONCE);
    let gone: Vec<bool> = deletes.try_collect().await?;
    Ok(going.len() + gone.iter().filter(|gone| !**gone).count())
}

/// Deletes one object; says whether it is gone at once.
async fn delete(client: &Client, path: &str) -> Result<bool, Error> {
    // Else what belongs to Jobs would be let go first.
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    match call::call(client, Method::DELETE, path, Some(&options)).await {
        // A Status answers for an object that is gone, the object itself for one that goes later.
        Ok(answer) => Ok(answer["kind"] == "Status" || answer["metadata"]["deletionTimestamp"].is_null()),
        Err(error) if error.status() == Some(404) => Ok(true),
        Err(error) => Err(error),
    }
}

async fn finalize(client: &Client, name: &str) -> Result<(), Error> {
    let path = format!("/api/v1/namespaces/{name}");
    let mut namespace = match call::call(client, Method::GET, &path, None).await {
        Err(error) if error.status() == Some(404) => return Ok(()),
        outcome => outcome?,
    };
    if namespace["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let finalizers = namespace["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
    let rest: Vec<Value> = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
    namespace["spec"]["finalizers"] = json!(rest);
    call::call_unless(client, Method::PUT, &format!("{path}/finalize"), Some(&namespace), &[404]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Namespace;

    #[test]
    fn only_deleted_namespaces_that_wait_for_this_controller_are_emptied() {
        let mut world = World::default();
        for (name, deleting, finalizer) in
            [("active", false, FINALIZER), ("ours", true, FINALIZER), ("others", true, "example.com/other")]
        {
            world.namespaces.insert(name.into(), Namespace { deleting, finalizers: vec![finalizer.into()] });
        }
        assert_eq!(decide(&world), ["ours"]);
    }

    #[test]
    fn while_pods_are_on_their_way_out_nothing_is_asked() {
        let mut world = World::default();
        let namespace = Namespace { deleting: true, finalizers: vec![FINALIZER.into()] };
        world.namespaces.insert("a".into(), namespace);
        let pod = |name: &str, at: Option<&str>| {
            json!({"metadata": {
                "name": name, "namespace": "a", "uid": name, "deletionTimestamp": at,
            }})
        };
        let at = Some("2026-01-01T00:00:00Z");
        let mut is = |name: &str, at| {
            match at {
                Some(at) => world.is(Served::pods(), name, &pod(name, at)),
                None => world.is_gone(name),
            }
            decide(&world).len()
        };
        assert_eq!((is("x", Some(None)), is("y", Some(None))), (1, 1), "they are to be deleted");
        assert_eq!((is("x", Some(at)), is("y", Some(at))), (1, 0));
        assert_eq!((is("x", None), is("y", None)), (0, 1), "the last of them has gone");
    }

    #[test]
    fn every_kind_of_a_namespace_is_emptied_once() {
        let kinds = others();
        let has = |group: &str, plural: &str| kinds.iter().filter(|kind| kind.is(group, plural)).count();
        assert_eq!(
            (has("", "configmaps"), has("apps", "deployments"), has("", "pods"), has("", "nodes")),
            (1, 1, 0, 0)
        );
        assert_eq!(has("", "events") + has("events.k8s.io", "events"), 1, "two kinds, kept together");
    }
}
