//! One watch for each served kind, and what they tell in one stream.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll};
use kube::runtime::utils::StreamBackoff;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Api, Client};

use crate::view::{Seen, Served, World};

/// What a watch says, and of which kind.
pub type Event = (Served, Result<watcher::Event<Seen>, watcher::Error>);

/// The kinds that are watched: all that can be, once each. Events belong to nobody and are many.
pub fn kinds() -> Vec<Served> {
    let can = |verb: &str, kind: &api::Kind| kind.verbs.contains(&verb);
    let watched = api::kinds().iter().filter(|kind| can("list", kind) && can("watch", kind));
    watched.filter(|kind| kind.storage.plural != "events").map(Served).collect()
}

/// Watches all of them.
pub fn all(client: &Client) -> SelectAll<BoxStream<'static, Event>> {
    let one = |kind: Served| {
        let api = Api::<Seen>::all_with(client.clone(), &kind.resource());
        let stream = StreamBackoff::new(watcher(api, Config::default()), watcher::DefaultBackoff::default());
        stream.map(move |event| (kind, event)).boxed()
    };
    kinds().into_iter().map(one).collect()
}

/// How far the lists of all kinds have come.
#[derive(Default)]
pub struct Listings {
    /// What a list has shown so far, between Init and InitDone.
    seen: BTreeMap<Served, BTreeSet<String>>,
    complete: BTreeSet<Served>,
}

impl Listings {
    /// Whether everything was listed once.
    pub fn are_complete(&self) -> bool {
        self.complete.len() == kinds().len()
    }

    /// Brings the world up to date.
    pub fn take(&mut self, (kind, event): Event, world: &mut World) {
        match event {
            Ok(watcher::Event::Init) => drop(self.seen.insert(kind, BTreeSet::new())),
            Ok(watcher::Event::InitApply(seen)) => {
                self.seen.entry(kind).or_default().insert(seen.uid());
                world.is(kind, &seen.uid(), &seen.object);
            }
            Ok(watcher::Event::Apply(seen)) => world.is(kind, &seen.uid(), &seen.object),
            Ok(watcher::Event::Delete(seen)) => {
                world.note_version(kind, &seen.object);
                world.is_gone(&seen.uid());
            }
            Ok(watcher::Event::InitDone) => {
                self.complete.insert(kind);
                world.are_all(kind, &self.seen.remove(&kind).unwrap_or_default());
            }
            Err(error) => tracing::warn!(?kind, error = %crate::shell::chain(&error), "cannot watch"),
        }
    }
}
