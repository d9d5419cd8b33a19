//! Whether what a token is bound to still exists: an account, pod, secret or node that is gone takes its tokens along.
//!
//! Reads the store at each request, so that a deletion counts at once. Must not write. Start at [`holds`].

use api::{Timestamp, look};
use serde_json::Value;

use super::claims::{Claims, Named, user_name};
use crate::object;
use crate::user::UserInfo;
use crate::world::World;

/// How long after its deletion time an object's tokens are still taken, for clocks that differ.
const LEEWAY_SECONDS: i64 = 60;
const EXTRA: &str = "authentication.kubernetes.io/";

/// The identity that the claims prove, or why they do not any more.
pub async fn holds(claims: &Claims, world: &World, now: Timestamp) -> Result<UserInfo, String> {
    let place = &claims.place;
    let namespace = Some(place.namespace.as_str());
    let account = &place.serviceaccount;
    alive(world, ("serviceaccounts", "service account"), (namespace, account), now).await?;
    if let Some(secret) = &place.secret {
        alive(world, ("secrets", "secret"), (namespace, secret), now).await?;
    }
    match (&place.pod, &place.node) {
        // The node of a pod is only told: it may go and come while the pod lives.
        (Some(pod), _) => alive(world, ("pods", "pod"), (namespace, pod), now).await?,
        (None, Some(node)) => alive(world, ("nodes", "node"), (None, node), now).await?,
        (None, None) => {}
    }
    Ok(user(claims))
}

async fn alive(
    world: &World,
    (plural, word): (&str, &str),
    (namespace, named): (Option<&str>, &Named),
    now: Timestamp,
) -> Result<(), String> {
    let Some(found) = world.find("", plural, namespace, &named.name).await else {
        return Err(format!("the {word} of the token has been deleted"));
    };
    if object::meta(&found, "uid") != named.uid {
        return Err(format!("the {word} of the token has another UID"));
    }
    if deleted_before(&found, now) { Err(format!("the {word} of the token has been deleted")) } else { Ok(()) }
}

fn deleted_before(found: &Value, now: Timestamp) -> bool {
    let deleted: Option<Timestamp> = look::text_at(found, &["metadata", "deletionTimestamp"]).parse().ok();
    deleted.is_some_and(|deleted| deleted.as_second() + LEEWAY_SECONDS < now.as_second())
}

/// Who it is, in upstream's words.
fn user(claims: &Claims) -> UserInfo {
    let place = &claims.place;
    let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{}", place.namespace)];
    let mut user = UserInfo::new(&user_name(&place.namespace, &place.serviceaccount.name), &groups);
    user.uid = place.serviceaccount.uid.clone();
    let mut tell = |name: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("{EXTRA}{name}"), vec![value.to_owned()]);
        }
    };
    for (named, name, uid) in [(&place.pod, "pod-name", "pod-uid"), (&place.node, "node-name", "node-uid")] {
        if let Some(named) = named {
            tell(name, &named.name);
            tell(uid, &named.uid);
        }
    }
    if !claims.jti.is_empty() {
        tell("credential-id", &format!("JTI={}", claims.jti));
    }
    user
}
