//! Roles that gather the rules of others: they are written anew when one of the others changes.
//!
//! It happens before the writer gets its answer, so that whoever labels a role can count on it; a start makes good what a
//! crash left undone. Start at [`refresh`].

use api::{Kind, look};
use serde_json::Value;

use crate::object;
use crate::registry::{Registry, Server};
use crate::status::Status;

/// Other writers may come between; each of them comes here too, so that somebody is last.
const ROUNDS_MAX: usize = 16;

/// Whether objects of this kind gather or are gathered.
pub fn concerns(kind: &Kind) -> bool {
    kind.group == api::kind::RBAC && kind.plural == "clusterroles"
}

/// Writes the rules of all roles that gather others.
pub async fn refresh(registry: &Registry) -> Result<(), Status> {
    let Some(kind) = api::find(api::kind::RBAC, "v1", "clusterroles") else { return Ok(()) };
    for _ in 0..ROUNDS_MAX {
        let stale = stale(registry.world.all(kind.group, kind.plural).await);
        if stale.is_empty() {
            return Ok(());
        }
        for (name, rules) in stale {
            match write(registry, kind, &name, &rules).await {
                Err(status) if status.code == 404 => {}
                other => other?,
            }
        }
    }
    tracing::warn!("roles that gather the rules of others did not settle");
    Ok(())
}

/// The roles whose rules are not what they gather, with what they should be.
fn stale(mut all: Vec<Value>) -> Vec<(String, Vec<Value>)> {
    let mut found: Vec<(String, Vec<Value>)> = Vec::new();
    // One round for each role is enough for the longest chain of roles that gather roles.
    for _ in 0..all.len() {
        let mut settled = true;
        for at in 0..all.len() {
            let others: Vec<&Value> = all.iter().collect();
            let Some(rules) = api::rbac::gather(&all[at], &others) else { continue };
            if look::list(&all[at], "rules") == rules.as_slice() {
                continue;
            }
            settled = false;
            let name = object::name(&all[at]).to_owned();
            found.retain(|(known, _)| *known != name);
            found.push((name, rules.clone()));
            look::set(&mut all[at], "rules", rules);
        }
        if settled {
            break;
        }
    }
    found
}

async fn write(registry: &Registry, kind: &'static Kind, name: &str, rules: &[Value]) -> Result<(), Status> {
    let server = Server::new();
    let call = server.call(kind, name);
    let rewrite = |old: &Value| {
        let mut new = old.clone();
        if look::get(old, "aggregationRule").is_some() {
            look::set(&mut new, "rules", rules);
        }
        Ok(new)
    };
    registry.rewrite(&call, &rewrite).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(name: &str, label: &str, gathers: &str, verbs: &[&str]) -> Value {
        let rules: Vec<Value> = verbs.iter().map(|verb| json!({"verbs": [verb]})).collect();
        let mut role = json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
        if !gathers.is_empty() {
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {gathers: "true"}}]});
        }
        role
    }

    #[test]
    fn a_chain_of_roles_settles_and_each_is_written_once() {
        let roles = vec![role("a", "x", "b", &[]), role("b", "b", "c", &["old"]), role("c", "c", "", &["get"])];
        let found = stale(roles);
        let rules = vec![json!({"verbs": ["get"]})];
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.contains(&("a".to_owned(), rules.clone())) && found.contains(&("b".to_owned(), rules)));
    }

    #[test]
    fn what_is_settled_is_left_alone_and_circles_end() {
        let settled = vec![role("a", "x", "b", &["get"]), role("b", "b", "", &["get"])];
        assert!(stale(settled).is_empty());
        let circle = vec![role("a", "a", "b", &["get"]), role("b", "b", "a", &["list"])];
        assert!(stale(circle).len() <= 2);
    }
}
