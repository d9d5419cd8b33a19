//! A namespace that is being deleted loses its contents and then its finalizer `kubernetes`.
//!
//! Pods go first and are waited for, because they may need what else is there until they have ended.

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use kube::api::DynamicObject;
use kube::core::discovery::{ApiResource, Scope};
use kube::discovery::{Discovery, verbs};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::call::{self, Error};
use crate::view::World;

/// The finalizer of this controller.
const FINALIZER: &str = "kubernetes";

/// How many objects are deleted at once.
const DELETES_AT_ONCE: usize = 16;

/// The namespaces to empty and finalize.
pub fn decide(world: &World) -> Vec<String> {
    let ours = world.namespaces.iter().filter(|(_, namespace)| {
        namespace.deleting && namespace.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
    });
    ours.map(|(name, _)| name.clone()).collect()
}

/// Deletes what the namespace holds; when nothing is left, lets it go.
pub async fn act(client: &Client, namespace: &str) -> Result<(), Error> {
    let (pods, others) = contents(client).await?;
    for resources in [pods, others] {
        let mut remaining = 0;
        for resource in &resources {
            remaining += delete_all(client, namespace, resource).await?;
        }
        if remaining > 0 {
            return Err(Error::Remaining(remaining));
        }
    }
    finalize(client, namespace).await
}

/// The namespaced kinds that can be listed and deleted: pods, and everything else.
async fn contents(client: &Client) -> Result<(Vec<ApiResource>, Vec<ApiResource>), Error> {
    let discovery = Discovery::new(client.clone()).run().await.map_err(|source| Error::Discover(Box::new(source)))?;
    let resources = discovery.groups().flat_map(|group| group.recommended_resources());
    let deletable = resources.filter(|(_, can)| {
        can.scope == Scope::Namespaced && can.supports_operation(verbs::LIST) && can.supports_operation(verbs::DELETE)
    });
    Ok(deletable.map(|(resource, _)| resource).partition(|one| one.group.is_empty() && one.plural == "pods"))
}

/// Asks for the deletion of every object of one kind; returns how many are still there then.
async fn delete_all(client: &Client, namespace: &str, resource: &ApiResource) -> Result<usize, Error> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, resource);
    let list = api.list(&Default::default()).await;
    let path = api.resource_url().to_owned();
    let list = list.map_err(|source| Error::Call { call: format!("GET {path}"), source: Box::new(source) })?;
    // What is being deleted already only has to be waited for.
    let alive = list.items.into_iter().map(|object| object.metadata);
    let (deleting, alive): (Vec<_>, Vec<_>) = alive.partition(|meta| meta.deletion_timestamp.is_some());
    let gone: Vec<bool> = stream::iter(alive)
        .map(|meta| {
            let path = format!("{path}/{}", meta.name.unwrap_or_default());
            let client = client.clone();
            async move { delete(&client, &path).await }
        })
        .buffer_unordered(DELETES_AT_ONCE)
        .try_collect()
        .await?;
    Ok(deleting.len() + gone.iter().filter(|gone| !**gone).count())
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
}
