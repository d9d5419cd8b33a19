//! The collector: what belongs to an object goes with it, before it, or is let go, as its deletion says.
//!
//! An object whose owners are all gone is deleted (background). An object that is deleted in the foreground waits until
//! what blocks it is gone. An object that is deleted with `orphan` lets go what it owns first. The view may lag behind, so
//! the API is asked about the owners before anything is deleted. Start at [`decide`].

use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::call::{self, Error};
use crate::view::object::{self, FOREGROUND, ORPHAN};
use crate::view::pod::JOB_TRACKING;
use crate::view::{Meta, Owner, Place, World};

/// Something to do about an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deed {
    /// metadata.uid: another object of the same name is not meant.
    pub uid: String,
    /// Where it is.
    pub place: Place,
    /// What to do.
    pub what: What,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Ask about its owners; delete it if they are gone or wait for it.
    Judge {
        /// Whether it owns something itself.
        owns: bool,
        /// Whether something that it owns waits for it, which would be a ring.
        is_awaited: bool,
    },
    /// Let these go, then the object.
    LetGo(Vec<Place>),
    /// Nothing blocks its deletion any more.
    Unblock,
    /// The Job that was to see its end is gone, or has let it go.
    Untrack,
}

/// What to do about an object that something has happened to; nothing, if all is well with it.
pub fn decide(world: &World, uid: &str) -> Option<Deed> {
    let meta = world.meta(uid)?;
    let deed = |what| Some(Deed { uid: uid.to_owned(), place: meta.place.clone(), what });
    if meta.tracked && meta.controller().is_none_or(|owner| world.meta(&owner.uid).is_none()) {
        return deed(What::Untrack);
    }
    // There may be many, and each of their changes leads here: only who needs them all walks over them all.
    let mut dependents = world.dependents(uid).filter_map(|uid| world.meta(uid)).peekable();
    if !meta.deleting {
        if meta.owners.iter().all(|owner| is_well(world, meta, owner)) {
            return None;
        }
        let owns = dependents.peek().is_some();
        return deed(What::Judge { owns, is_awaited: dependents.any(|one| one.deleting && one.foreground) });
    }
    if meta.orphans {
        return deed(What::LetGo(dependents.map(|one| one.place.clone()).collect()));
    }
    let blocks = |one: &Meta| one.owners.iter().any(|owner| owner.uid == uid && owner.blocks);
    if meta.foreground && !dependents.any(blocks) { deed(What::Unblock) } else { None }
}

/// Whether an owner is there, as far as is known, and does not wait for what it owns to go.
fn is_well(world: &World, meta: &Meta, owner: &Owner) -> bool {
    match world.meta(&owner.uid) {
        Some(found) => !(found.deleting && found.foreground),
        // Of kinds that are not served nothing is known, and an object without namespace cannot belong to one with.
        None => owner.place(&meta.place.namespace).is_none_or(|place| is_out_of_reach(&meta.place, &place)),
    }
}

fn is_out_of_reach(place: &Place, owner: &Place) -> bool {
    owner.kind.0.namespaced && place.namespace.is_empty()
}

/// Does it.
pub async fn act(client: &Client, deed: &Deed) -> Result<(), Error> {
    let path = deed.place.path();
    let found = match call::call(client, Method::GET, &path, None).await {
        Err(error) if error.status() == Some(404) => return Ok(()),
        outcome => outcome?,
    };
    if found["metadata"]["uid"] != *deed.uid {
        return Ok(());
    }
    match &deed.what {
        What::Judge { owns, is_awaited } => judge(client, deed, &found, (*owns, *is_awaited)).await,
        What::LetGo(dependents) => {
            for place in dependents {
                let_go(client, place, &[deed.uid.as_str()]).await?;
            }
            without_finalizer(client, &path, found, ORPHAN).await
        }
        What::Unblock => without_finalizer(client, &path, found, FOREGROUND).await,
        What::Untrack => {
            let controller = object::owners(&found).into_iter().find(|owner| owner.controller);
            if let Some(owner) = &controller
                && !matches!(standing(client, &deed.place, owner).await?, Standing::Gone)
            {
                return Ok(());
            }
            without_finalizer(client, &path, found, JOB_TRACKING).await
        }
    }
}

/// How an owner stands.
enum Standing {
    /// It is there.
    Solid,
    /// It waits for what it owns to go.
    Waiting,
    /// It is gone.
    Gone,
}

async fn judge(client: &Client, deed: &Deed, found: &Value, (owns, is_awaited): (bool, bool)) -> Result<(), Error> {
    if !found["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let (mut solid, mut waiting, mut lost) = (0, 0, Vec::new());
    let owners = object::owners(found);
    for owner in &owners {
        match standing(client, &deed.place, owner).await? {
            Standing::Solid => solid += 1,
            Standing::Waiting => {
                waiting += 1;
                lost.push(owner.uid.as_str());
            }
            Standing::Gone => lost.push(owner.uid.as_str()),
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    if solid > 0 {
        return let_go(client, &deed.place, &lost).await;
    }
    if waiting > 0 && is_awaited {
        let refs: Vec<Value> = owners.iter().map(|one| json!({"uid": one.uid, "blockOwnerDeletion": false})).collect();
        let patch = json!({"metadata": {"uid": deed.uid, "ownerReferences": refs}});
        call::call_unless(client, Method::PATCH, &deed.place.path(), Some(&patch), &[404, 409]).await?;
    }
    let finalizers = found["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let policy = match (waiting > 0 && owns, finalizers) {
        (true, _) => "Foreground",
        (false, all) if all.iter().any(|one| one == ORPHAN) => "Orphan",
        (false, all) if all.iter().any(|one| one == FOREGROUND) => "Foreground",
        _ => "Background",
    };
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy, "preconditions": {"uid": deed.uid},
    });
    call::call_unless(client, Method::DELETE, &deed.place.path(), Some(&options), &[404, 409]).await
}

async fn standing(client: &Client, place: &Place, owner: &Owner) -> Result<Standing, Error> {
    let Some(at) = owner.place(&place.namespace).filter(|at| !is_out_of_reach(place, at)) else {
        return Ok(Standing::Solid);
    };
    match call::call(client, Method::GET, &at.path(), None).await {
        Ok(found) if found["metadata"]["uid"] == *owner.uid => {
            let meta = Meta::read(at.kind, &found);
            Ok(if meta.deleting && meta.foreground { Standing::Waiting } else { Standing::Solid })
        }
        Err(error) if error.status() != Some(404) => Err(error),
        _ => Ok(Standing::Gone),
    }
}

/// Removes references to owners.
async fn let_go(client: &Client, place: &Place, owners: &[&str]) -> Result<(), Error> {
    let refs: Vec<Value> = owners.iter().map(|uid| json!({"$patch": "delete", "uid": uid})).collect();
    let patch = json!({"metadata": {"ownerReferences": refs}});
    call::call_unless(client, Method::PATCH, &place.path(), Some(&patch), &[404]).await
}

async fn without_finalizer(client: &Client, path: &str, mut object: Value, finalizer: &str) -> Result<(), Error> {
    let finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let rest: Vec<Value> = finalizers.into_iter().filter(|one| one != finalizer).collect();
    object["metadata"]["finalizers"] = json!(rest);
    call::call_unless(client, Method::PUT, path, Some(&object), &[404]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Served;

    fn set(uid: &str, finalizers: &[&str], deleting: bool) -> Value {
        let at = deleting.then_some("2026-01-01T00:00:00Z");
        json!({"metadata": {
            "name": "web", "namespace": "a", "uid": uid, "finalizers": finalizers, "deletionTimestamp": at,
        }})
    }

    fn pod(name: &str, owner: &str, blocks: bool) -> Value {
        let owner = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": owner, "controller": true,
            "blockOwnerDeletion": blocks,
        });
        json!({"metadata": {"name": name, "namespace": "a", "uid": name, "ownerReferences": [owner]}})
    }

    fn world(objects: &[(Served, Value)]) -> World {
        let mut world = World::default();
        for (kind, object) in objects {
            world.is(*kind, object["metadata"]["uid"].as_str().unwrap(), object);
        }
        world
    }

    fn deeds(world: &World) -> Vec<(String, What)> {
        let deeds = world.deeds.all().filter_map(|uid| decide(world, uid));
        deeds.map(|deed| (deed.uid, deed.what)).collect()
    }

    const JUDGE: What = What::Judge { owns: false, is_awaited: false };

    #[test]
    fn only_what_lost_its_very_owner_is_judged() {
        let (sets, pods) = (Served::named("apps", "replicasets"), Served::pods());
        let strange = json!({"metadata": {"name": "s", "namespace": "a", "uid": "s", "ownerReferences": [
            {"apiVersion": "example.com/v1", "kind": "Thing", "name": "t", "uid": "t"},
        ]}});
        let mut world = world(&[
            (sets, set("new", &[], false)),
            (pods, pod("kept", "new", true)),
            (pods, pod("lost", "old", true)),
            (pods, strange),
        ]);
        assert_eq!(deeds(&world), [("lost".into(), JUDGE)], "a set of the same name with another uid is another set");
        world.is_gone("new");
        assert_eq!(deeds(&world), [("kept".into(), JUDGE), ("lost".into(), JUDGE)]);
    }

    #[test]
    fn in_the_foreground_what_blocks_goes_first() {
        let (sets, pods) = (Served::named("apps", "replicasets"), Served::pods());
        let mut world = world(&[
            (sets, set("s", &[FOREGROUND], true)),
            (pods, pod("blocks", "s", true)),
            (pods, pod("free", "s", false)),
        ]);
        assert_eq!(deeds(&world), [("blocks".into(), JUDGE), ("free".into(), JUDGE)]);
        world.is_gone("blocks");
        assert_eq!(deeds(&world), [("free".into(), JUDGE), ("s".into(), What::Unblock)]);
    }

    #[test]
    fn what_a_job_was_to_see_the_end_of_is_let_go_when_the_job_is_gone() {
        let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true});
        let pod = json!({"metadata": {
            "name": "p", "namespace": "a", "uid": "p", "ownerReferences": [owner], "finalizers": [JOB_TRACKING],
        }});
        let job = json!({"metadata": {"name": "j", "namespace": "a", "uid": "j"}});
        let mut world = world(&[(Served::named("batch", "jobs"), job), (Served::pods(), pod)]);
        assert_eq!(deeds(&world), []);
        world.is_gone("j");
        assert_eq!(deeds(&world), [("p".into(), What::Untrack)]);
    }

    #[test]
    fn orphans_are_let_go_before_their_owner_goes() {
        let (sets, pods) = (Served::named("apps", "replicasets"), Served::pods());
        let world = world(&[(sets, set("s", &[ORPHAN], true)), (pods, pod("kept", "s", true))]);
        let place = world.meta("kept").unwrap().place.clone();
        assert_eq!(deeds(&world), [("s".into(), What::LetGo(vec![place]))]);
    }
}
