//! Every active namespace has a ServiceAccount `default`.

use http::Method;
use kube::Client;
use serde_json::json;

use crate::call::{self, Error};
use crate::view::World;

/// Name of the account.
pub const NAME: &str = "default";

/// The namespaces that lack the account.
pub fn decide(world: &World) -> Vec<String> {
    let lacking = |name: &&String| !world.with_default_account.contains(*name);
    let active = world.namespaces.iter().filter(|(_, namespace)| !namespace.deleting).map(|(name, _)| name);
    active.filter(lacking).cloned().collect()
}

/// Creates the account.
pub async fn act(client: &Client, namespace: &str) -> Result<(), Error> {
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": NAME, "namespace": namespace},
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    // 409: it exists. 404: the namespace went away.
    call::call_unless(client, Method::POST, &path, Some(&account), &[404, 409]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Namespace;

    #[test]
    fn only_active_namespaces_without_the_account_get_one() {
        let mut world = World::default();
        for (name, deleting) in [("new", false), ("old", false), ("leaving", true)] {
            world.namespaces.insert(name.into(), Namespace { deleting, finalizers: vec![] });
        }
        world.with_default_account.insert("old".into());
        assert_eq!(decide(&world), ["new"]);
    }
}
