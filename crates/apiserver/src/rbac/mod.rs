//! Access control by roles: the authorizer, the roles that every cluster has, and who may give rights away.
//!
//! What rules mean is in `api::rbac`. [`Rbac`] keeps the roles and bindings of the store at hand and is brought up to date
//! before each question, so that a write counts for the next request. Start at [`RoleAuthorizer`].

pub mod controllers;
pub mod defaults;
pub mod escalation;
pub mod gathering;
mod index;

use std::ops::ControlFlow;

use api::rbac::{Asked, Rule};
use async_trait::async_trait;
use store::{Entry, Store};

use crate::authz::{Attributes, Authorizer, Decision};
use crate::follow::{self, Followed};
use crate::user::UserInfo;
use crate::world::World;
use index::Index;

/// Beginning of the keys of all roles and bindings.
const PREFIX: &str = "/registry/rbac.authorization.k8s.io/";

/// The roles and bindings of the store.
#[derive(Default)]
pub struct Rbac {
    kept: Followed<Index>,
}

/// What the roles say to a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Allowed, by which binding.
    Allowed(String),
    /// Not allowed; roles that bindings name and that are not there.
    Missing(Vec<String>),
}

/// The rights of a user.
#[derive(Debug, Default)]
pub struct Rights {
    /// All rules.
    pub rules: Vec<Rule>,
    /// Roles that bindings name and that are not there.
    pub missing: Vec<String>,
}

impl follow::Index for Index {
    const PREFIX: &str = PREFIX;

    fn put(&mut self, entry: &Entry) {
        if let Some(key) = entry.key.strip_prefix(PREFIX) {
            Index::put(self, key, &entry.value);
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(key) = key.strip_prefix(PREFIX) {
            Index::remove(self, key);
        }
    }
}

impl Rbac {
    /// Whether a role allows it.
    pub async fn answer(&self, store: &dyn Store, a: &Attributes<'_>) -> Result<Answer, store::Error> {
        let (asked, mut missing) = (asked(a), Vec::new());
        let allowed = self.kept.ask(store, |index| {
            index.visit(a.user, a.namespace, |visit| {
                match visit.rules {
                    Some(rules) if rules.iter().any(|rule| rule.allows(&asked)) => {
                        return ControlFlow::Break(visit.binding.describe(a.user));
                    }
                    Some(_) => {}
                    None => missing.push(visit.binding.role_missing()),
                }
                ControlFlow::Continue(())
            })
        });
        Ok(match allowed.await? {
            Some(binding) => Answer::Allowed(binding),
            None => Answer::Missing(missing),
        })
    }

    /// Whether a role allows it, without the words.
    pub async fn allows(&self, store: &dyn Store, a: &Attributes<'_>) -> Result<bool, store::Error> {
        let asked = asked(a);
        let found = self.kept.ask(store, |index| {
            index.visit(a.user, a.namespace, |visit| {
                match visit.rules.is_some_and(|rules| rules.iter().any(|rule| rule.allows(&asked))) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })
        });
        Ok(found.await?.is_some())
    }

    /// Everything that a user may in a namespace.
    pub async fn rights(&self, store: &dyn Store, user: &UserInfo, namespace: &str) -> Result<Rights, store::Error> {
        self.kept
            .ask(store, |index| {
                let mut rights = Rights::default();
                index.visit(user, namespace, |visit| {
                    match visit.rules {
                        Some(rules) => rights.rules.extend_from_slice(rules),
                        None => rights.missing.push(visit.binding.role_missing()),
                    }
                    ControlFlow::<()>::Continue(())
                });
                rights
            })
            .await
    }

    /// The rules of a role by its key.
    async fn rules(&self, store: &dyn Store, key: &str) -> Result<Option<Vec<Rule>>, store::Error> {
        self.kept.ask(store, |index| index.rules(key).map(<[Rule]>::to_vec)).await
    }
}

fn asked<'a>(a: &Attributes<'a>) -> Asked<'a> {
    Asked { verb: a.verb, group: a.group, resource: a.resource, subresource: a.subresource, name: a.name, path: a.path }
}

/// Allows what a role allows that is bound to who asks.
pub struct RoleAuthorizer;

#[async_trait]
impl Authorizer for RoleAuthorizer {
    async fn decide(&self, attributes: &Attributes<'_>, world: &World) -> Decision {
        let (rbac, store) = (&world.rbac, &*world.store);
        match rbac.allows(store, attributes).await {
            Ok(true) => Decision::Allow,
            Ok(false) => match rbac.answer(store, attributes).await {
                Ok(Answer::Missing(missing)) if !missing.is_empty() => Decision::NoOpinion(reason(&missing)),
                _ => Decision::NoOpinion(String::new()),
            },
            Err(error) => Decision::NoOpinion(format!("RBAC: {error}")),
        }
    }
}

/// What bindings lack, as the reason of a refusal.
fn reason(missing: &[String]) -> String {
    match missing {
        [one] => format!("RBAC: {one}"),
        several => format!("RBAC: [{}]", several.join(", ")),
    }
}
