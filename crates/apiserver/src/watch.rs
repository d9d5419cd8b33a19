//! Watches: the store's events as a stream of JSON frames.
//!
//! A frame is serialised once, when the first watcher comes to it, and its bytes are shared between watchers (see
//! [`Frames`]); what waits for a watcher is the store's own (see [`Queued`]). A watcher that is too slow for the store's
//! history is told 410; there is never a gap. Start at [`Watching::start`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use api::Kind;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use rand::Rng;
use serde_json::{Value, json};
use store::{Entry, Event, Revision, Store};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::answer::{self, Form};
use crate::codec::Output;
use crate::filter::Filter;
use crate::object;
use crate::query::ListOptions;
use crate::status::Status;

const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// Upstream's shortest life of a watch that names none; the longest is twice that.
const LIFE_SECONDS_MIN: u64 = 1800;
/// How many recent frames are kept for watchers that come to them a moment later.
const FRAMES_KEPT: usize = 64;

/// One event as bytes, made when first asked for.
struct Frame {
    kind: &'static Kind,
    event: Arc<Event>,
    added: OnceLock<Bytes>,
    modified: OnceLock<Bytes>,
    deleted: OnceLock<Bytes>,
}

/// The recent frames of all kinds.
#[derive(Default)]
pub struct Frames {
    recent: Mutex<VecDeque<Arc<Frame>>>,
}

impl Frames {
    fn of(&self, kind: &'static Kind, event: &Arc<Event>) -> Arc<Frame> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |frame: &&Arc<Frame>| std::ptr::eq(frame.kind, kind) && frame.event.revision() == event.revision();
        if let Some(frame) = recent.iter().rev().find(same) {
            return frame.clone();
        }
        let frame = Arc::new(Frame {
            kind,
            event: event.clone(),
            added: OnceLock::new(),
            modified: OnceLock::new(),
            deleted: OnceLock::new(),
        });
        if recent.len() == FRAMES_KEPT {
            recent.pop_front();
        }
        recent.push_back(frame.clone());
        frame
    }
}

/// What an event is to one watcher.
#[derive(Clone, Copy, PartialEq)]
enum Sort {
    Added,
    Modified,
    Deleted,
}

impl Sort {
    fn text(self) -> &'static str {
        match self {
            Sort::Added => "ADDED",
            Sort::Modified => "MODIFIED",
            Sort::Deleted => "DELETED",
        }
    }
}

/// What an event is under a filter; None if it is nothing.
fn sort(event: &Event, filter: &Filter) -> Option<Sort> {
    let before = event.previous().is_some_and(|previous| filter.shows(previous));
    let after = match event {
        Event::Put { entry, .. } => filter.shows(entry),
        Event::Delete { .. } => false,
    };
    match (before, after) {
        (false, true) => Some(Sort::Added),
        (true, true) => Some(Sort::Modified),
        (true, false) => Some(Sort::Deleted),
        (false, false) => None,
    }
}

impl Frame {
    /// Stored bytes of the object that the event shows: the last state for a deletion.
    fn stored(&self, sort: Sort) -> &Bytes {
        match (&*self.event, sort) {
            (Event::Put { previous: Some(previous), .. }, Sort::Deleted) => &previous.value,
            (Event::Put { entry, .. }, _) => &entry.value,
            (Event::Delete { previous, .. }, _) => &previous.value,
        }
    }

    fn bytes(&self, sort: Sort) -> Bytes {
        let cell = match sort {
            Sort::Added => &self.added,
            Sort::Modified => &self.modified,
            Sort::Deleted => &self.deleted,
        };
        cell.get_or_init(|| frame_bytes(self.kind, sort.text(), self.stored(sort), self.event.revision())).clone()
    }
}

fn frame_bytes(kind: &Kind, sort: &str, stored: &[u8], revision: Revision) -> Bytes {
    let mut out = Vec::with_capacity(stored.len() + 80);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(sort.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object::append_kind(&mut out, kind, stored, revision);
    out.extend_from_slice(b"}\n");
    Bytes::from(out)
}

fn line(sort: &str, document: &Value) -> Bytes {
    let mut text = json!({"type": sort, "object": document}).to_string();
    text.push('\n');
    Bytes::from(text)
}

/// What a watch is about.
pub struct Subject {
    /// Kind.
    pub kind: &'static Kind,
    /// Prefix of the keys.
    pub prefix: String,
    /// Selection.
    pub filter: Filter,
    /// Options of the request.
    pub options: ListOptions,
    /// Form of the objects.
    pub form: Form,
}

impl Subject {
    /// Only what the filter shows wakes the watch: of two hundred nodes one is concerned by a pod's change.
    fn narrow(&self, source: store::Watch) -> store::Watch {
        if self.filter.is_open() {
            return source;
        }
        let filter = self.filter.clone();
        source.only(Arc::new(move |event| sort(event, &filter).is_some()))
    }
}

/// What waits for a watcher. Nothing is rendered before he takes it: of five thousand pods a hundred watchers that do not
/// read hold no copies.
enum Queued {
    /// An object of the initial state.
    Entry(Entry),
    /// What happened to an object.
    Event(Arc<Frame>, Sort),
    /// A line that is about no object.
    Line(Bytes),
}

/// One running watch.
pub struct Watching {
    subject: Subject,
    frames: Arc<Frames>,
    source: Option<store::Watch>,
    pending: VecDeque<Queued>,
    bookmarks: Interval,
    deadline: Instant,
    cancel: CancellationToken,
    columns_sent: bool,
}

impl Watching {
    /// Opens a watch: reads the present state if the client wants it, and follows from there.
    pub async fn start(
        store: &Arc<dyn Store>,
        frames: Arc<Frames>,
        subject: Subject,
        cancel: CancellationToken,
    ) -> Result<Watching, Status> {
        let seconds = subject
            .options
            .timeout_seconds
            .unwrap_or_else(|| LIFE_SECONDS_MIN + rand::rng().random_range(0..LIFE_SECONDS_MIN));
        let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watching = Watching {
            subject,
            frames,
            source: None,
            pending: VecDeque::new(),
            bookmarks,
            deadline: Instant::now() + Duration::from_secs(seconds.min(u64::from(u32::MAX))),
            cancel,
            columns_sent: false,
        };
        let from = watching.begin(store).await?;
        match store.watch(&watching.subject.prefix, from).await {
            Ok(source) => watching.source = Some(watching.subject.narrow(source)),
            Err(error) => watching.fail(&error),
        }
        Ok(watching)
    }

    /// Queues the initial events and returns the revision to follow from.
    async fn begin(&mut self, store: &Arc<dyn Store>) -> Result<Revision, Status> {
        let options = &self.subject.options;
        let unset = options.revision.is_none_or(|r| r == 0);
        let state = options.initial_events.unwrap_or(unset);
        if !state {
            return match options.revision.filter(|r| *r > 0) {
                Some(revision) => Ok(Revision(revision)),
                None => store.revision().await.map_err(|e| Status::unavailable(e.to_string())),
            };
        }
        let wants_end = options.initial_events == Some(true);
        if let Some(wanted) = options.revision {
            let current = store.revision().await.map_err(|e| Status::unavailable(e.to_string()))?;
            if wanted > current.0 {
                return Err(Status::too_large_resource_version(wanted, current.0));
            }
        }
        let list = store::List { prefix: self.subject.prefix.clone(), ..store::List::default() };
        let page = store.list(list).await.map_err(|e| Status::unavailable(e.to_string()))?;
        let shown = page.items.into_iter().filter(|entry| self.subject.filter.shows(entry));
        self.pending.extend(shown.map(Queued::Entry));
        if wants_end {
            let end = self.bookmark(page.revision, true);
            self.pending.push_back(Queued::Line(end));
        }
        Ok(page.revision)
    }

    fn bytes(&mut self, queued: Queued) -> Bytes {
        match queued {
            Queued::Entry(entry) => self.render(Sort::Added, (&entry.value, entry.modified), None),
            Queued::Event(frame, sort) => self.render(sort, (frame.stored(sort), frame.event.revision()), Some(&frame)),
            Queued::Line(bytes) => bytes,
        }
    }

    fn render(&mut self, sort: Sort, (stored, revision): (&Bytes, Revision), shared: Option<&Frame>) -> Bytes {
        let kind = self.subject.kind;
        match (self.subject.form.format.output, shared) {
            (Output::Object, Some(frame)) => frame.bytes(sort),
            (Output::Object, None) => frame_bytes(kind, sort.text(), stored, revision),
            (output, _) => {
                let form = Form { now: crate::clock::precise(), ..self.subject.form.clone() };
                let mut document = answer::shaped(kind, object::whole_at(kind, stored, revision), &form);
                // The columns come with the first row only.
                if output == Output::Table && std::mem::replace(&mut self.columns_sent, true) {
                    document["columnDefinitions"] = Value::Null;
                }
                line(sort.text(), &document)
            }
        }
    }

    fn bookmark(&self, revision: Revision, ends_initial: bool) -> Bytes {
        let kind = self.subject.kind;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let mut document = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata});
        if self.subject.form.format.output == Output::Table {
            let row = json!({"cells": [], "object": object::partial(&document)});
            document = json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": null,
                "metadata": {"resourceVersion": revision.to_string()}, "rows": [row],
            });
        } else if self.subject.form.format.output == Output::PartialMetadata {
            document = object::partial(&document);
        }
        line("BOOKMARK", &document)
    }

    fn fail(&mut self, error: &store::Error) {
        let status = match error {
            store::Error::Compacted { oldest } => Status::expired(format!(
                "too old resource version: {} ({oldest})",
                self.subject.options.revision.unwrap_or_default()
            )),
            // A revision from another life of the store: listing again is the only cure.
            store::Error::Future { requested, current } => {
                Status::expired(format!("too large resource version: {requested}, current: {current}"))
            }
            other => Status::unavailable(other.to_string()),
        };
        self.pending.push_back(Queued::Line(line("ERROR", &status.to_value())));
        self.source = None;
    }

    fn take(&mut self, events: &[Arc<Event>]) {
        for event in events {
            if let Some(sort) = sort(event, &self.subject.filter) {
                let frame = self.frames.of(self.subject.kind, event);
                self.pending.push_back(Queued::Event(frame, sort));
            }
        }
    }

    /// The next bytes for the client; None ends the response.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(queued) = self.pending.pop_front() {
                return Some(self.bytes(queued));
            }
            let source = self.source.as_mut()?;
            let step = tokio::select! {
                biased;
                () = self.cancel.cancelled() => Step::End,
                events = source.next() => Step::Events(events),
                _ = self.bookmarks.tick(), if self.subject.options.bookmarks => Step::Bookmark,
                () = tokio::time::sleep_until(self.deadline) => Step::Last,
            };
            match step {
                Step::Events(Some(Ok(events))) => self.take(&events),
                Step::Events(Some(Err(error))) => self.fail(&error),
                Step::Bookmark => self.push_bookmark(),
                Step::Last => {
                    if self.subject.options.bookmarks {
                        self.push_bookmark();
                    }
                    self.source = None;
                }
                Step::Events(None) | Step::End => return None,
            }
        }
    }

    fn push_bookmark(&mut self) {
        if let Some(revision) = self.source.as_ref().and_then(store::Watch::progress) {
            let bytes = self.bookmark(revision, false);
            self.pending.push_back(Queued::Line(bytes));
        }
    }

    /// The response that streams this watch.
    pub fn into_response(self) -> Response {
        let stream = futures_util::stream::unfold(self, |mut watching| async move {
            let bytes = watching.next().await?;
            Some((Ok::<_, std::convert::Infallible>(bytes), watching))
        });
        answer::typed(200, "application/json", Body::from_stream(stream))
    }
}

enum Step {
    Events(Option<Result<Vec<Arc<Event>>, store::Error>>),
    Bookmark,
    Last,
    End,
}

#[cfg(test)]
mod tests {
    use store::{Expect, MemoryStore, Put};

    use super::*;
    use crate::query::Query;

    async fn put(store: &Arc<dyn Store>, kind: &Kind, name: &str) {
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {}});
        let (key, value) = (object::key(kind, Some("default"), Some(name)), object::encode(kind, &pod, b""));
        store.put(Put { key, value, expect: Expect::Any, ttl: None }).await.unwrap();
    }

    async fn watching(store: &Arc<dyn Store>, kind: &'static Kind, query: &str, output: Output) -> Watching {
        let options = ListOptions::parse(&Query::parse(Some(query))).unwrap();
        let filter = Filter::parse(kind, &options, None).unwrap();
        let format = crate::codec::Format { output, yaml: false, pretty: false };
        let (include, now) = (answer::Include::Metadata, crate::clock::precise());
        let form = Form { format, include, now, others: Arc::new([]) };
        let subject = Subject { kind, prefix: object::key(kind, Some("default"), None), filter, options, form };
        Watching::start(store, Arc::default(), subject, CancellationToken::new()).await.unwrap()
    }

    async fn next(watching: &mut Watching) -> Value {
        serde_json::from_slice(&watching.next().await.unwrap()).unwrap()
    }

    fn told(line: &Value) -> (&str, &str) {
        (line["type"].as_str().unwrap(), line["object"]["metadata"]["name"].as_str().unwrap_or_default())
    }

    const INITIAL: &str = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

    #[tokio::test]
    async fn what_waits_for_a_watcher_is_shared_with_the_store_and_comes_in_order() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let kind = api::find("", "v1", "pods").unwrap();
        for name in ["a", "b", "c"] {
            put(&store, kind, name).await;
        }
        let mut watching = watching(&store, kind, INITIAL, Output::Object).await;
        let page = store.list(store::List { prefix: "/".to_owned(), ..store::List::default() }).await.unwrap();
        for (queued, stored) in watching.pending.iter().zip(&page.items) {
            let Queued::Entry(entry) = queued else { panic!("an object is rendered before it is asked for") };
            assert_eq!(entry.value.as_ptr(), stored.value.as_ptr());
        }
        assert_eq!(watching.pending.len(), 4);
        // Later than what the bookmark ends, though the watcher has read nothing yet.
        put(&store, kind, "b").await;
        put(&store, kind, "d").await;
        for expected in ["a", "b", "c"] {
            assert_eq!(told(&next(&mut watching).await), ("ADDED", expected));
        }
        let end = next(&mut watching).await;
        assert_eq!(end["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
        assert_eq!(end["object"]["metadata"]["resourceVersion"], json!(page.revision.to_string()));
        assert_eq!(told(&next(&mut watching).await), ("MODIFIED", "b"));
        assert_eq!(told(&next(&mut watching).await), ("ADDED", "d"));
    }

    #[tokio::test]
    async fn columns_come_with_the_first_row_that_is_taken() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let kind = api::find("", "v1", "pods").unwrap();
        for name in ["a", "b"] {
            put(&store, kind, name).await;
        }
        let mut watching = watching(&store, kind, "watch=1", Output::Table).await;
        assert!(next(&mut watching).await["object"]["columnDefinitions"].is_array());
        assert!(next(&mut watching).await["object"]["columnDefinitions"].is_null());
    }
}
