//! The stores against a model: one `BTreeMap` for each revision, never forgotten.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use store::{DiskStore, Entry, Error, Event, Expect, List, Memo, MemoryStore, Put, Revision, Store};

/// One step of a history. Numbers are taken modulo what there is when the step happens.
#[derive(Debug, Clone)]
enum Step {
    Put { key: usize, expect: Guess, value: u16 },
    Delete { key: usize, expect: Guess },
    List { prefix: usize, after: Option<usize>, limit: usize, at: Option<usize> },
    Watch { prefix: usize, after: usize },
    Compact { through: usize },
    Reopen,
}

/// A precondition: none, absent, the right revision, or a wrong one.
#[derive(Debug, Clone, Copy)]
enum Guess {
    Any,
    Absent,
    Right,
    Wrong,
}

const KEYS: &[&str] = &["/a", "/a/", "/a/b", "/a/b/c", "/a0", "/b", "/b/x", "/b/y", "/ü"];
const PREFIXES: &[&str] = &["", "/", "/a", "/a/", "/b/", "/none", "/ü"];

fn guess() -> impl Strategy<Value = Guess> {
    prop_oneof![3 => Just(Guess::Any), 1 => Just(Guess::Absent), 2 => Just(Guess::Right), 1 => Just(Guess::Wrong)]
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let prefix = 0..PREFIXES.len();
    prop_oneof![
        6 => (key.clone(), guess(), any::<u16>()).prop_map(|(key, expect, value)| Step::Put { key, expect, value }),
        3 => (key.clone(), guess()).prop_map(|(key, expect)| Step::Delete { key, expect }),
        3 => (prefix.clone(), proptest::option::of(key), 0usize..4, proptest::option::of(any::<usize>()))
            .prop_map(|(prefix, after, limit, at)| Step::List { prefix, after, limit, at }),
        2 => (prefix, any::<usize>()).prop_map(|(prefix, after)| Step::Watch { prefix, after }),
        1 => any::<usize>().prop_map(|through| Step::Compact { through }),
        1 => Just(Step::Reopen),
    ]
}

/// Every state there was, by revision, and the events between them.
struct Model {
    first: u64,
    states: Vec<BTreeMap<String, Entry>>,
    events: Vec<Event>,
    compacted: Revision,
}

impl Model {
    fn new(first: Revision) -> Model {
        Model { first: first.0, states: vec![BTreeMap::new()], events: Vec::new(), compacted: Revision(0) }
    }

    fn now(&self) -> &BTreeMap<String, Entry> {
        self.states.last().expect("there is a first state")
    }

    fn revision(&self) -> Revision {
        Revision(self.first + self.events.len() as u64)
    }

    fn at(&self, revision: Revision) -> &BTreeMap<String, Entry> {
        &self.states[(revision.0 - self.first) as usize]
    }

    /// Some revision from the first to one beyond the newest.
    fn pick(&self, number: usize) -> Revision {
        Revision(self.first + number as u64 % (self.events.len() as u64 + 2))
    }

    fn retained(&self, revision: Revision) -> Result<(), Error> {
        if revision < self.compacted {
            return Err(Error::Compacted { oldest: self.compacted });
        }
        if revision > self.revision() {
            return Err(Error::Future { requested: revision, current: self.revision() });
        }
        Ok(())
    }

    fn expect(&self, key: &str, guess: Guess) -> (Expect, Result<(), Error>) {
        let current = self.now().get(key).cloned();
        let conflict = Error::Conflict { key: key.into(), current: current.clone() };
        let newest = self.revision();
        match (guess, current) {
            (Guess::Any, _) => (Expect::Any, Ok(())),
            (Guess::Absent, None) => (Expect::Absent, Ok(())),
            (Guess::Absent, Some(_)) => (Expect::Absent, Err(conflict)),
            (Guess::Right, Some(entry)) => (Expect::Revision(entry.modified), Ok(())),
            (Guess::Right, None) => (Expect::Revision(newest), Err(conflict)),
            (Guess::Wrong, _) => (Expect::Revision(Revision(newest.0 + 7)), Err(conflict)),
        }
    }

    fn push(&mut self, event: Event) {
        let mut state = self.now().clone();
        match &event {
            Event::Put { entry, .. } => state.insert(entry.key.to_string(), entry.clone()),
            Event::Delete { previous, .. } => state.remove(&*previous.key),
        };
        self.states.push(state);
        self.events.push(event);
    }
}

async fn put(store: &dyn Store, model: &mut Model, key: &str, guess: Guess, value: u16) {
    let (expect, allowed) = model.expect(key, guess);
    let value = Bytes::from(value.to_string());
    let outcome = store.put(Put { key: key.into(), value: value.clone(), expect, ttl: None }).await;
    let previous = model.now().get(key).cloned();
    let modified = Revision(model.revision().0 + 1);
    let created = previous.as_ref().map_or(modified, |entry| entry.created);
    let entry = Entry { key: key.into(), value, created, modified, memo: Memo::default() };
    assert_eq!(outcome, allowed.map(|()| entry.clone()));
    if outcome.is_ok() {
        model.push(Event::Put { entry, previous });
    }
}

async fn delete(store: &dyn Store, model: &mut Model, key: &str, guess: Guess) {
    let (expect, allowed) = model.expect(key, guess);
    let outcome = store.delete(key, expect).await;
    let Some(previous) = model.now().get(key).cloned() else {
        assert_eq!(outcome, Err(Error::NotFound { key: key.into() }));
        return;
    };
    let revision = Revision(model.revision().0 + 1);
    assert_eq!(outcome, allowed.map(|()| (previous.clone(), revision)));
    if outcome.is_ok() {
        model.push(Event::Delete { previous, revision });
    }
}

async fn list(store: &dyn Store, model: &Model, list: List) {
    let page = store.list(list.clone()).await;
    let at = list.at.unwrap_or(model.revision());
    if let Err(error) = model.retained(at) {
        assert_eq!(page, Err(error));
        return;
    }
    let page = page.unwrap();
    let after = |key: &String| list.after.as_ref().is_none_or(|after| key > after);
    let all: Vec<Entry> = model
        .at(at)
        .iter()
        .filter(|(key, _)| key.starts_with(&list.prefix) && after(key))
        .map(|(_, e)| e.clone())
        .collect();
    let count = if list.limit == 0 { all.len() } else { all.len().min(list.limit) };
    assert_eq!(page.items, all[..count], "{list:?}");
    assert_eq!((page.revision, page.remaining), (at, (all.len() - count) as u64));
}

async fn watch(store: &dyn Store, model: &Model, prefix: &str, after: Revision) {
    let watch = store.watch(prefix, after).await;
    if let Err(error) = model.retained(after) {
        assert_eq!(watch.err(), Some(error));
        return;
    }
    let mut watch = watch.unwrap();
    let wanted = |event: &&Event| event.revision() > after && event.key().starts_with(prefix);
    let expected: Vec<Event> = model.events.iter().filter(wanted).cloned().collect();
    let mut seen: Vec<Event> = Vec::new();
    while watch.progress().is_none() {
        seen.extend(watch.next().await.unwrap().unwrap().iter().map(|event| (**event).clone()));
    }
    assert_eq!(seen, expected);
}

async fn compact(store: &dyn Store, model: &mut Model, through: usize) {
    let through = model.pick(through);
    let outcome = store.compact(through).await;
    if through > model.revision() {
        assert_eq!(outcome, Err(Error::Future { requested: through, current: model.revision() }));
    } else {
        assert_eq!(outcome, Ok(()));
        model.compacted = model.compacted.max(through);
    }
}

async fn play(steps: Vec<Step>, mut reopen: impl FnMut(Option<Box<dyn Store>>) -> Box<dyn Store>) {
    let mut store = reopen(None);
    let mut model = Model::new(store.revision().await.unwrap());
    for step in steps {
        match step {
            Step::Put { key, expect, value } => put(&*store, &mut model, KEYS[key], expect, value).await,
            Step::Delete { key, expect } => delete(&*store, &mut model, KEYS[key], expect).await,
            Step::List { prefix, after, limit, at } => {
                let after = after.map(|key| KEYS[key].to_owned());
                let at = at.map(|number| model.pick(number));
                list(&*store, &model, List { prefix: PREFIXES[prefix].into(), after, limit, at }).await;
            }
            Step::Watch { prefix, after } => watch(&*store, &model, PREFIXES[prefix], model.pick(after)).await,
            Step::Compact { through } => compact(&*store, &mut model, through).await,
            Step::Reopen => store = reopen(Some(store)),
        }
        assert_eq!(store.revision().await.unwrap(), model.revision());
    }
    for key in KEYS {
        assert_eq!(store.get(key).await.unwrap().as_ref(), model.now().get(*key));
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_store_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..80)) {
        block_on(play(steps, |store| store.unwrap_or_else(|| Box::new(MemoryStore::new()))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_disk_store_does_what_the_model_does_across_restarts(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        block_on(play(steps, |store| {
            drop(store);
            Box::new(DiskStore::open(dir.path()).unwrap())
        }));
    }
}
