//! Bootstrap tokens go when their time is over.

use api::{Timestamp, look, time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::call::{self, Error};
use crate::view::World;

/// The namespace of the tokens.
pub const NAMESPACE: &str = "kube-system";

/// What is kept of a token: nothing that is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// metadata.uid.
    pub uid: String,
    /// When it ends; the first moment of all if nobody can read that.
    pub ends: Timestamp,
}

/// A token to remove: name and uid of its Secret.
pub type Removal = (String, String);

impl Facts {
    /// Reads them from a Secret; None for what is no token, or one without an end.
    pub fn read(secret: &Value) -> Option<Facts> {
        if look::text(secret, "type") != "bootstrap.kubernetes.io/token" {
            return None;
        }
        let text = look::text_at(secret, &["data", "expiration"]);
        if text.is_empty() {
            return None;
        }
        let text = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let ends = time::parse(&text).unwrap_or(Timestamp::MIN);
        Some(Facts { uid: look::text_at(secret, &["metadata", "uid"]).to_owned(), ends })
    }
}

/// The tokens to remove, and when to look again.
pub fn decide(world: &World, now: Timestamp) -> (Vec<Removal>, Option<Timestamp>) {
    let over = world.tokens.iter().filter(|(_, facts)| facts.ends <= now);
    let removals = over.map(|(name, facts)| (name.clone(), facts.uid.clone())).collect();
    (removals, world.tokens.values().map(|facts| facts.ends).filter(|ends| *ends > now).min())
}

/// Removes a token.
pub async fn act(client: &Client, (name, uid): &Removal) -> Result<(), Error> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}");
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
    call::call_unless(client, Method::DELETE, &path, Some(&options), &[404, 409]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(kind: &str, expiration: &str) -> Value {
        json!({"metadata": {"uid": "u"}, "type": kind, "data": {"expiration": STANDARD.encode(expiration)}})
    }

    #[test]
    fn tokens_go_at_their_end_or_when_nobody_can_read_it() {
        let kind = "bootstrap.kubernetes.io/token";
        assert_eq!(Facts::read(&token("Opaque", "2026-01-01T00:00:00Z")), None);
        assert_eq!(Facts::read(&token(kind, "")), None);
        let mut world = World::default();
        for (name, expiration) in [
            ("over", "2026-01-01T00:00:00Z"),
            ("good", "2026-01-03T02:00:00+02:00"),
            ("later", "2026-01-04T00:00:00Z"),
            ("broken", "tomorrow"),
        ] {
            world.tokens.insert(name.into(), Facts::read(&token(kind, expiration)).unwrap());
        }
        let (removals, wake_at) = decide(&world, "2026-01-02T00:00:00Z".parse().unwrap());
        let names: Vec<&str> = removals.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, wake_at), (vec!["broken", "over"], Some("2026-01-03T00:00:00Z".parse().unwrap())));
    }
}
