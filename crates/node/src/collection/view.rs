//! What collection knows: the images, who uses them, the room there is.
//!
//! Pure: the shell hands in what it was told. Must not decide. Start at [`Inventory::see`].

use crate::image::full_name;
use cri::v1;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The file system of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its bytes.
    pub capacity_bytes: u64,
    /// Bytes that may still be written.
    pub available_bytes: u64,
}

/// Who needs images, as names and ids of any form.
#[derive(Debug, Clone, Default)]
pub struct Users {
    /// Images of containers that the runtime knows, running or ended, and of the pods' image volumes (IMG-261).
    pub containers: BTreeSet<String>,
    /// Images that pods of this node name and may start at any time, and images being pulled, in full form.
    pub wanted: BTreeSet<String>,
}

/// One image.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// The runtime's id.
    pub id: String,
    /// The handler that it was pulled for, where the runtime keeps images apart by it (IMG-320).
    pub handler: String,
    /// Its names, for people.
    pub names: Vec<String>,
    /// What its removal frees, at most.
    pub size_bytes: u64,
    /// The runtime itself needs it.
    pub is_pinned: bool,
    /// Somebody needs it now.
    pub is_used: bool,
    /// When it was first seen; at the beginning of time for what was there before the node.
    pub first_seen: Timestamp,
    /// When it was last seen in use.
    pub last_used: Option<Timestamp>,
}

/// All images with what is remembered of them. In memory: a restart makes every image old and unused, and the maximum
/// age counts from there.
#[derive(Debug, Default)]
pub struct Inventory {
    /// By id and handler.
    known: BTreeMap<(String, String), Known>,
    has_looked: bool,
}

impl Inventory {
    /// Takes in a complete listing.
    pub fn see(&mut self, images: &[v1::Image], users: &Users, now: Timestamp) {
        let first_seen = if self.has_looked { now } else { Timestamp::UNIX_EPOCH };
        self.has_looked = true;
        let before = std::mem::take(&mut self.known);
        for image in images {
            let handler = image.spec.as_ref().map(|spec| spec.runtime_handler.clone()).unwrap_or_default();
            let key = (image.id.clone(), handler.clone());
            let old = before.get(&key);
            let is_used = users.need(image);
            let known = Known {
                id: image.id.clone(),
                handler,
                names: image.repo_tags.iter().chain(&image.repo_digests).cloned().collect(),
                size_bytes: image.size,
                is_pinned: image.pinned,
                is_used,
                first_seen: old.map_or(first_seen, |old| old.first_seen),
                last_used: if is_used { Some(now) } else { old.and_then(|old| old.last_used) },
            };
            self.known.insert(key, known);
        }
    }

    /// All images.
    pub fn images(&self) -> Vec<Known> {
        self.known.values().cloned().collect()
    }
}

impl Users {
    fn need(&self, image: &v1::Image) -> bool {
        let names = || image.repo_tags.iter().chain(&image.repo_digests);
        self.containers.contains(&image.id)
            || names().any(|name| self.containers.contains(name) || self.wanted.contains(&full_name(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn image(id: &str, tag: &str) -> v1::Image {
        v1::Image { id: id.into(), repo_tags: vec![tag.into()], size: 1, ..Default::default() }
    }

    fn look(inventory: &Inventory, id: &str) -> Known {
        inventory.images().into_iter().find(|known| known.id == id).unwrap()
    }

    #[test]
    fn what_was_there_before_is_old_and_what_comes_is_seen_now() {
        let mut inventory = Inventory::default();
        let (a, b) = (image("a", "r/a:1"), image("b", "r/b:1"));
        inventory.see(std::slice::from_ref(&a), &Users::default(), at(0));
        inventory.see(&[a.clone(), b], &Users::default(), at(10));
        assert_eq!(look(&inventory, "a").first_seen, Timestamp::UNIX_EPOCH);
        assert_eq!(look(&inventory, "b").first_seen, at(10));
        inventory.see(&[a], &Users::default(), at(20));
        assert_eq!(inventory.images().len(), 1);
    }

    #[test]
    fn an_image_is_used_by_containers_by_pods_that_name_it_and_by_pulls() {
        let image = v1::Image {
            id: "sha256:1".into(),
            repo_tags: vec!["docker.io/library/app:latest".into()],
            repo_digests: vec!["docker.io/library/app@sha256:2".into()],
            ..Default::default()
        };
        let is_used = |containers: &[&str], wanted: &[&str]| {
            let users = Users {
                containers: containers.iter().map(|c| (*c).to_owned()).collect(),
                wanted: wanted.iter().map(|w| full_name(w)).collect(),
            };
            let mut inventory = Inventory::default();
            inventory.see(std::slice::from_ref(&image), &users, at(0));
            look(&inventory, "sha256:1").is_used
        };
        assert!(is_used(&["sha256:1"], &[]));
        assert!(is_used(&["docker.io/library/app@sha256:2"], &[]));
        assert!(is_used(&[], &["app"]));
        assert!(!is_used(&["sha256:3"], &["app:2", "other"]));
    }

    #[test]
    fn one_image_for_two_handlers_is_two() {
        let with = |handler: &str| {
            let spec = v1::ImageSpec { runtime_handler: handler.into(), ..Default::default() };
            v1::Image { spec: Some(spec), ..image("a", "r/a:1") }
        };
        let mut inventory = Inventory::default();
        inventory.see(&[with(""), with("sandboxed")], &Users::default(), at(0));
        let handlers: Vec<String> = inventory.images().into_iter().map(|known| known.handler).collect();
        assert_eq!(handlers, ["", "sandboxed"]);
    }

    #[test]
    fn the_last_use_is_remembered() {
        let mut inventory = Inventory::default();
        let used = Users { containers: ["a".to_owned()].into(), ..Users::default() };
        inventory.see(&[image("a", "r/a:1")], &used, at(0));
        inventory.see(&[image("a", "r/a:1")], &Users::default(), at(10));
        let known = look(&inventory, "a");
        assert_eq!((known.is_used, known.last_used), (false, Some(at(0))));
    }
}
