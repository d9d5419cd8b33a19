//! Nobody gives away rights that they do not have, by writing a role or by binding one.
//!
//! Who may `escalate` a role or `bind` it may all the same, and so may administrators. Texts are upstream's. Start at
//! [`check`].

use api::rbac::Rule;
use api::rbac::cover::{describe, everything, missing, quoted};
use api::{Kind, look};
use serde_json::Value;

use super::Rights;
use super::index::role_key;
use crate::authz::Attributes;
use crate::object;
use crate::registry::Call;
use crate::status::Status;
use crate::user::MASTERS;
use crate::world::World;

/// Refuses a role or a binding that gives more than its writer has.
pub async fn check(world: &World, call: &Call<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    let exempt = call.kind.group != api::kind::RBAC || call.user.is_in(MASTERS);
    if exempt || old.is_some_and(|old| differ_for_collection_alone(new, old)) {
        return Ok(());
    }
    match call.kind.plural {
        "roles" | "clusterroles" => role(world, call, new, old).await,
        _ => binding(world, call, new).await,
    }
}

/// Whoever only lets an object go does not give anything.
fn differ_for_collection_alone(new: &Value, old: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        let metadata = object::metadata_mut(&mut object);
        for field in ["finalizers", "ownerReferences", "managedFields", "selfLink", "resourceVersion"] {
            look::remove(metadata, field);
        }
        object
    };
    look::same(Some(&bare(new)), Some(&bare(old)))
}

async fn role(world: &World, call: &Call<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    if may(world, call, ("escalate", call.kind.plural, call.name)).await? {
        return Ok(());
    }
    let rights = rights(world, call).await?;
    confirm(call, new, &rights, &Rule::all_of(new))?;
    let gathers = |role: Option<&Value>| role.is_some_and(|role| look::get(role, "aggregationRule").is_some());
    // A role that gathers others may come to hold anything.
    if (gathers(Some(new)) || gathers(old)) && !missing(&rights.rules, &everything()).is_empty() {
        let why = "must have cluster-admin privileges to use the aggregationRule";
        return Err(Status::forbidden(call.kind, object::name(new), why));
    }
    Ok(())
}

async fn binding(world: &World, call: &Call<'_>, new: &Value) -> Result<(), Status> {
    let nothing = Value::Null;
    let reference = look::get(new, "roleRef").unwrap_or(&nothing);
    let namespace = call.namespace.unwrap_or_default();
    // Other kinds are refused by the rules of bindings.
    let Some(key) = role_key(reference, namespace) else { return Ok(()) };
    let plural = key.split('/').next().unwrap_or_default();
    let name = look::text(reference, "name");
    if may(world, call, ("bind", plural, name)).await? {
        return Ok(());
    }
    let rules = world.rbac.rules(&*world.store, &key).await.map_err(unavailable)?;
    let rules = rules.ok_or_else(|| Status::not_found(kind(plural).unwrap_or(call.kind), name))?;
    confirm(call, new, &rights(world, call).await?, &rules)
}

fn kind(plural: &str) -> Option<&'static Kind> {
    api::find(api::kind::RBAC, "v1", plural)
}

fn unavailable(error: store::Error) -> Status {
    Status::internal(error.to_string())
}

async fn may(world: &World, call: &Call<'_>, (verb, resource, name): (&str, &str, &str)) -> Result<bool, Status> {
    let attributes = Attributes {
        user: call.user,
        verb,
        group: api::kind::RBAC,
        resource,
        subresource: "",
        namespace: call.namespace.unwrap_or_default(),
        name,
        fields: "",
        path: "",
    };
    world.rbac.allows(&*world.store, &attributes).await.map_err(unavailable)
}

async fn rights(world: &World, call: &Call<'_>) -> Result<Rights, Status> {
    let rights = world.rbac.rights(&*world.store, call.user, call.namespace.unwrap_or_default());
    rights.await.map_err(unavailable)
}

fn confirm(call: &Call<'_>, new: &Value, held: &Rights, wanted: &[Rule]) -> Result<(), Status> {
    let missing = missing(&held.rules, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        call.user.name,
        quoted(&call.user.groups),
        describe(missing)
    );
    if !held.missing.is_empty() {
        why = format!("{why}; resolution errors: [{}]", held.missing.join(", "));
    }
    Err(Status::forbidden(call.kind, object::name(new), &why))
}
