//! The suite that every implementation of the trait has to pass.
//!
//! [`run`] takes a way to make an empty store and asserts each sentence of docs/walls/store.md on a fresh one. It
//! panics at the first sentence that does not hold.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{Entry, Error, Event, Expect, List, Page, Put, Revision, Store, Wanted, Watch};

/// How long an event may take to arrive before the suite calls it lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs everything. `make` is called once for each part and returns an empty store.
pub async fn run<S: Store, F: Future<Output = S>>(mut make: impl FnMut() -> F) {
    an_empty_store_has_a_revision_and_nothing_else(&make().await).await;
    a_write_is_read_back_with_its_revisions(&make().await).await;
    preconditions_decide_and_a_refused_write_leaves_no_gap(&make().await).await;
    a_delete_has_a_revision_of_its_own(&make().await).await;
    a_list_is_sorted_and_pages_show_one_revision(&make().await).await;
    a_watch_returns_every_later_event_of_its_prefix(&make().await).await;
    a_watch_from_the_past_replays_it(&make().await).await;
    a_watch_of_some_events_is_not_woken_by_others(&make().await).await;
    compaction_ends_what_needed_the_history(&make().await).await;
    an_idle_watch_survives_the_compaction_of_others_history(&make().await).await;
    the_future_is_refused(&make().await).await;
    a_key_with_a_time_to_live_is_deleted(&make().await).await;
    a_put_without_a_time_to_live_keeps_the_key(&make().await).await;
    concurrent_writers_of_one_key_lose_no_update(Arc::new(make().await)).await;
    a_closed_store_ends_its_watches(make().await).await;
}

fn put(key: &str, value: &str, expect: Expect) -> Put {
    Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), expect, ttl: None }
}

async fn write(store: &impl Store, key: &str, value: &str) -> Entry {
    store.put(put(key, value, Expect::Any)).await.expect("an unconditional put succeeds")
}

async fn list(store: &impl Store, prefix: &str, at: Option<Revision>) -> Result<Page, Error> {
    store.list(List { prefix: prefix.into(), at, ..List::default() }).await
}

fn keys(page: &Page) -> Vec<&str> {
    page.items.iter().map(|entry| &*entry.key).collect()
}

async fn next(watch: &mut Watch) -> Option<Result<Vec<Arc<Event>>, Error>> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch has something to say in time")
}

/// Whether the watch has nothing to say at this moment.
async fn quiet(watch: &mut Watch) -> bool {
    let mut next = std::pin::pin!(watch.next());
    std::future::poll_fn(|context| std::task::Poll::Ready(next.as_mut().poll(context).is_pending())).await
}

/// The next `count` events.
async fn events(watch: &mut Watch, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(next(watch).await.expect("the watch goes on").expect("the watch is healthy"));
    }
    assert_eq!(events.len(), count, "no more events than expected");
    events
}

async fn an_empty_store_has_a_revision_and_nothing_else(store: &impl Store) {
    assert!(store.revision().await.unwrap() >= Revision(1));
    assert_eq!(store.get("/a").await.unwrap(), None);
    let page = list(store, "/", None).await.unwrap();
    assert_eq!((page.items.len(), page.remaining), (0, 0));
    assert_eq!(page.revision, store.revision().await.unwrap());
}

async fn a_write_is_read_back_with_its_revisions(store: &impl Store) {
    let before = store.revision().await.unwrap();
    let first = write(store, "/a", "1").await;
    assert_eq!((first.created, first.modified), (Revision(before.0 + 1), Revision(before.0 + 1)));
    let second = write(store, "/a", "2").await;
    assert_eq!((second.created, second.modified), (first.created, Revision(before.0 + 2)));
    assert_eq!(store.get("/a").await.unwrap(), Some(second.clone()));
    assert_eq!(store.revision().await.unwrap(), second.modified);
    let empty = write(store, "/empty", "").await;
    assert_eq!(store.get("/empty").await.unwrap(), Some(empty));
}

async fn preconditions_decide_and_a_refused_write_leaves_no_gap(store: &impl Store) {
    let absent = store.put(put("/a", "1", Expect::Revision(Revision(1)))).await;
    assert_eq!(absent, Err(Error::Conflict { key: "/a".into(), current: None }));
    let first = store.put(put("/a", "1", Expect::Absent)).await.unwrap();
    let conflict = Err(Error::Conflict { key: "/a".into(), current: Some(first.clone()) });
    assert_eq!(store.put(put("/a", "2", Expect::Absent)).await, conflict);
    assert_eq!(store.put(put("/a", "2", Expect::Revision(Revision(first.modified.0 - 1)))).await, conflict);
    let second = store.put(put("/a", "2", Expect::Revision(first.modified))).await.unwrap();
    assert_eq!(second.modified.0, first.modified.0 + 1);
    let stale = store.delete("/a", Expect::Revision(first.modified)).await;
    assert_eq!(stale, Err(Error::Conflict { key: "/a".into(), current: Some(second.clone()) }));
    assert_eq!(store.delete("/b", Expect::Any).await, Err(Error::NotFound { key: "/b".into() }));
    assert_eq!(store.revision().await.unwrap(), second.modified);
}

async fn a_delete_has_a_revision_of_its_own(store: &impl Store) {
    let entry = write(store, "/a", "1").await;
    let (removed, revision) = store.delete("/a", Expect::Revision(entry.modified)).await.unwrap();
    assert_eq!((removed, revision), (entry.clone(), Revision(entry.modified.0 + 1)));
    assert_eq!(store.get("/a").await.unwrap(), None);
    let again = store.put(put("/a", "2", Expect::Absent)).await.unwrap();
    assert_eq!(again.created, Revision(revision.0 + 1), "a key that comes back is a new one");
}

async fn a_list_is_sorted_and_pages_show_one_revision(store: &impl Store) {
    for key in ["/p/c", "/p/a", "/q/a", "/p/b", "/p/d", "/o"] {
        write(store, key, "1").await;
    }
    let first = store.list(List { prefix: "/p/".into(), limit: 2, ..List::default() }).await.unwrap();
    assert_eq!((keys(&first), first.remaining), (vec!["/p/a", "/p/b"], 2));
    store.delete("/p/c", Expect::Any).await.unwrap();
    write(store, "/p/bb", "new").await;
    write(store, "/p/d", "changed").await;
    let after = Some("/p/b".to_owned());
    let rest = List { prefix: "/p/".into(), after, limit: 2, at: Some(first.revision) };
    let second = store.list(rest.clone()).await.unwrap();
    assert_eq!((keys(&second), second.remaining, second.revision), (vec!["/p/c", "/p/d"], 0, first.revision));
    assert_eq!(&second.items[1].value[..], b"1", "a snapshot shows old values");
    let now = store.list(List { at: None, limit: 0, ..rest }).await.unwrap();
    assert_eq!(keys(&now), ["/p/bb", "/p/d"]);
}

async fn a_watch_returns_every_later_event_of_its_prefix(store: &impl Store) {
    let old = write(store, "/p/a", "0").await;
    let mut watch = store.watch("/p/", old.modified).await.unwrap();
    assert_eq!(watch.progress(), Some(old.modified));
    let created = write(store, "/p/b", "1").await;
    write(store, "/q/b", "other").await;
    let changed = write(store, "/p/b", "2").await;
    let (removed, revision) = store.delete("/p/b", Expect::Any).await.unwrap();
    assert_eq!(watch.progress(), None, "unread events are no progress");
    let seen: Vec<Event> = events(&mut watch, 3).await.iter().map(|event| (**event).clone()).collect();
    let expected = [
        Event::Put { entry: created.clone(), previous: None },
        Event::Put { entry: changed, previous: Some(created) },
        Event::Delete { previous: removed, revision },
    ];
    assert_eq!(seen, expected);
    assert_eq!(watch.progress(), Some(revision));
}

async fn a_watch_from_the_past_replays_it(store: &impl Store) {
    let first = write(store, "/p/a", "0").await;
    let mut expected = Vec::new();
    for round in 0..1500 {
        expected.push(write(store, &format!("/p/{}", round % 7), &round.to_string()).await.modified);
    }
    let mut watch = store.watch("/p/", first.modified).await.unwrap();
    expected.push(write(store, "/p/a", "late").await.modified);
    let seen = events(&mut watch, expected.len()).await;
    assert_eq!(seen.iter().map(|event| event.revision()).collect::<Vec<_>>(), expected);
}

async fn a_watch_of_some_events_is_not_woken_by_others(store: &impl Store) {
    let start = store.revision().await.unwrap();
    write(store, "/a/odd", "1").await;
    let even: Wanted = Arc::new(|event| event.key().ends_with("even"));
    let mut watch = store.watch("/a/", start).await.unwrap().only(even);
    assert!(quiet(&mut watch).await, "an unwanted event of the past is none");
    let odd = write(store, "/a/odd", "2").await;
    assert_eq!(watch.progress(), Some(odd.modified), "an unwanted event counts as returned");
    let first = write(store, "/a/even", "3").await;
    let odd = write(store, "/a/odd", "4").await;
    let second = write(store, "/a/even", "5").await;
    let found = events(&mut watch, 2).await;
    assert_eq!(found.iter().map(|event| event.revision()).collect::<Vec<_>>(), [first.modified, second.modified]);
    assert!(first.modified < odd.modified && odd.modified < second.modified);
    assert!(quiet(&mut watch).await);
}

async fn compaction_ends_what_needed_the_history(store: &impl Store) {
    let first = write(store, "/p/a", "1").await;
    let second = write(store, "/p/a", "2").await;
    let third = write(store, "/p/a", "3").await;
    let mut slow = store.watch("/p/", first.modified).await.unwrap();
    store.compact(second.modified).await.unwrap();
    store.compact(first.modified).await.expect("compacting the compacted again is nothing");
    let compacted = Error::Compacted { oldest: second.modified };
    assert_eq!(next(&mut slow).await, Some(Err(compacted.clone())));
    assert_eq!(next(&mut slow).await, None, "nothing follows the error");
    assert_eq!(store.watch("/p/", first.modified).await.err(), Some(compacted.clone()));
    assert_eq!(list(store, "/", Some(first.modified)).await, Err(compacted));
    assert_eq!(&list(store, "/", Some(second.modified)).await.unwrap().items[0].value[..], b"2");
    let mut watch = store.watch("/p/", second.modified).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].revision(), third.modified);
}

async fn an_idle_watch_survives_the_compaction_of_others_history(store: &impl Store) {
    let first = write(store, "/p/a", "1").await;
    let mut idle = store.watch("/p/", first.modified).await.unwrap();
    let other = write(store, "/q/a", "1").await;
    store.compact(other.modified).await.unwrap();
    let late = write(store, "/p/a", "2").await;
    assert_eq!(events(&mut idle, 1).await[0].revision(), late.modified);
}

async fn the_future_is_refused(store: &impl Store) {
    let current = write(store, "/a", "1").await.modified;
    let requested = Revision(current.0 + 1);
    let future = Error::Future { requested, current };
    assert_eq!(store.watch("/", requested).await.err(), Some(future.clone()));
    assert_eq!(list(store, "/", Some(requested)).await, Err(future.clone()));
    assert_eq!(store.compact(requested).await, Err(future));
}

async fn a_key_with_a_time_to_live_is_deleted(store: &impl Store) {
    let mut watch = store.watch("/", store.revision().await.unwrap()).await.unwrap();
    let ttl = Some(Duration::from_millis(20));
    let entry = store.put(Put { ttl, ..put("/event", "1", Expect::Any) }).await.unwrap();
    let seen = events(&mut watch, 2).await;
    assert_eq!(seen[0].revision(), entry.modified);
    assert_eq!(*seen[1], Event::Delete { previous: entry.clone(), revision: Revision(entry.modified.0 + 1) });
    assert_eq!(store.get("/event").await.unwrap(), None);
}

async fn a_put_without_a_time_to_live_keeps_the_key(store: &impl Store) {
    let with_ttl =
        |key, milliseconds| Put { ttl: Some(Duration::from_millis(milliseconds)), ..put(key, "1", Expect::Any) };
    loop {
        let expiring = store.put(with_ttl("/kept", 100)).await.unwrap();
        // On a stalled machine the key is gone before it is made permanent; then it is another key, and we try again.
        if write(store, "/kept", "2").await.created == expiring.created {
            break;
        }
    }
    let mut watch = store.watch("/", store.revision().await.unwrap()).await.unwrap();
    store.put(with_ttl("/gone", 110)).await.unwrap();
    let seen = events(&mut watch, 2).await;
    assert_eq!((&**seen[1].key(), matches!(*seen[1], Event::Delete { .. })), ("/gone", true));
    assert!(store.get("/kept").await.unwrap().is_some());
}

async fn concurrent_writers_of_one_key_lose_no_update<S: Store>(store: Arc<S>) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 20;
    write(&*store, "/counter", "0").await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for _ in 0..ROUNDS {
                while increment(&*store).await.is_err() {}
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("no writer panics");
    }
    let counter = store.get("/counter").await.unwrap().expect("the counter exists");
    assert_eq!(&counter.value[..], (WRITERS * ROUNDS).to_string().as_bytes());
    assert_eq!(counter.modified.0 - counter.created.0, (WRITERS * ROUNDS) as u64, "conflicts leave no gap");
}

async fn increment(store: &impl Store) -> Result<Entry, Error> {
    let entry = store.get("/counter").await?.expect("the counter exists");
    let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
    store.put(put("/counter", &(count + 1).to_string(), Expect::Revision(entry.modified))).await
}

async fn a_closed_store_ends_its_watches(store: impl Store) {
    let entry = write(&store, "/a", "1").await;
    let mut watch = store.watch("/", entry.modified).await.unwrap();
    drop(store);
    assert_eq!(next(&mut watch).await, None);
}
