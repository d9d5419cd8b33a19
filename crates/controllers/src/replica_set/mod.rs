//! ReplicaSets and ReplicationControllers: so many pods of one template.
//!
//! The view knows only of which sets something has happened. Everything else is read from the API when a set is looked at,
//! by one action at a time, so no slow watch can double pods and no pod is held twice in memory. Start at `decide.rs`.

mod act;
mod decide;

pub use act::act;
pub use decide::{Pod, Set, Step, plan};

use crate::view::{SetKey, World};

/// The sets to look at.
pub fn decide(world: &World) -> Vec<SetKey> {
    world.sets.iter().filter(|(_, set)| set.happened > set.seen).map(|(key, _)| key.clone()).collect()
}

/// Notes that a look at a set begins: what happens from now on may escape it.
pub fn look_begins(world: &mut World, key: &SetKey) {
    if let Some(set) = world.sets.get_mut(key) {
        set.looking = set.happened;
    }
}

/// Notes that a set was brought in order.
pub fn look_ends(world: &mut World, key: &SetKey) {
    if let Some(set) = world.sets.get_mut(key) {
        set.seen = set.looking;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{SetKind, TrackedSet};

    #[test]
    fn what_happens_during_a_look_asks_for_another_one() {
        let mut world = World::default();
        let key = SetKey { kind: SetKind::ReplicaSet, namespace: "a".into(), name: "web".into() };
        world.sets.insert(key.clone(), TrackedSet { uid: "u".into(), happened: 1, looking: 0, seen: 0 });
        assert_eq!(decide(&world).len(), 1);
        look_begins(&mut world, &key);
        world.note_pod("a", Some("u"));
        look_ends(&mut world, &key);
        assert_eq!(decide(&world).len(), 1);
        look_begins(&mut world, &key);
        look_ends(&mut world, &key);
        world.note_pod("a", Some("another's"));
        world.note_pod("b", None);
        assert_eq!(decide(&world), [], "asleep when nothing concerns it");
        world.note_pod("a", None);
        assert_eq!(decide(&world), [key], "an orphan may be adopted");
    }
}
