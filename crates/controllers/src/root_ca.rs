//! Every active namespace has a ConfigMap `kube-root-ca.crt`: by it pods know the API server.

use http::Method;
use kube::Client;
use serde_json::json;

use crate::call::{self, Error};
use crate::view::World;

/// Name of the ConfigMap, which pods mount.
pub const NAME: &str = "kube-root-ca.crt";
/// The one key in it.
pub const KEY: &str = "ca.crt";

/// The namespaces whose ConfigMap is missing or says something else, with what it should say.
pub fn decide(world: &World) -> Vec<(String, String)> {
    let Some(wanted) = &world.root_ca else { return Vec::new() };
    let active = world.namespaces.iter().filter(|(_, namespace)| !namespace.deleting).map(|(name, _)| name);
    let lacking = active.filter(|name| world.published_ca.get(*name) != Some(wanted));
    lacking.map(|name| (name.clone(), wanted.clone())).collect()
}

/// Creates the ConfigMap, or brings the one that is there in line.
pub async fn act(client: &Client, namespace: &str, certificate: &str) -> Result<(), Error> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": namespace,
            "annotations": {"kubernetes.io/description": "The certificates by which to verify the API server from within a pod."},
        },
        "data": {KEY: certificate},
    });
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    match call::call(client, Method::POST, &path, Some(&object)).await {
        Err(error) if error.status() == Some(409) => {
            let path = format!("{path}/{NAME}");
            // 404: somebody removed it just now, which the watch tells.
            call::call_unless(client, Method::PATCH, &path, Some(&object), &[404]).await
        }
        // The namespace went away.
        Err(error) if error.status() == Some(404) => Ok(()),
        outcome => outcome.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Namespace;

    #[test]
    fn active_namespaces_lack_it_until_it_says_the_right_thing() {
        let mut world = World::default();
        for (name, deleting) in [("new", false), ("right", false), ("wrong", false), ("leaving", true)] {
            world.namespaces.insert(name.into(), Namespace { deleting, finalizers: vec![] });
        }
        world.published_ca.insert("right".into(), "pem".into());
        world.published_ca.insert("wrong".into(), "old".into());
        assert_eq!(decide(&world), [], "without a certificate nothing is published");
        world.root_ca = Some("pem".into());
        let wanted = |name: &str| (name.to_owned(), "pem".to_owned());
        assert_eq!(decide(&world), [wanted("new"), wanted("wrong")]);
    }
}
