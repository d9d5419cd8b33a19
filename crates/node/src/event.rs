//! Events about pods and the node, as `kubectl describe` shows them (POD-50 … POD-52).
//!
//! Owns the shape of the Event objects, their compaction (equal events become one with a count) and the limit per
//! object. Recording never waits and never fails the caller: the queue is bounded and a full one drops the event. Must
//! not decide what is worth an event. Start at [`Recorder`].

use crate::object::{ContainerKind, Pod};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

const QUEUE_LENGTH: usize = 1024;
const REMEMBERED: usize = 4096;
/// POD-51: so many events of one object and reason at once, then one per `REFILL`.
const BURST: u32 = 25;
const REFILL_SECONDS: i64 = 300;
/// How the events begin that say why a pull failed. They have a limit of their own: back-off lets one come every five
/// minutes and image, so that the latest is always there to be read (IMG-57).
const PULL_FAILED: &str = "Failed to pull image";
const PULL_REFILL_SECONDS: i64 = 60;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The object's kind.
    pub kind: &'static str,
    /// Its namespace; "" for a cluster-wide object.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The part of the object, for example `spec.containers{web}`; "" for the whole.
    pub field_path: String,
}

impl Target {
    /// The Node, whose events bear its name for a UID.
    pub fn node(name: &str) -> Self {
        Self {
            kind: "Node",
            namespace: String::new(),
            name: name.to_owned(),
            uid: name.to_owned(),
            field_path: String::new(),
        }
    }

    /// The pod as a whole.
    pub fn pod(pod: &Pod) -> Self {
        Self {
            kind: "Pod",
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            field_path: String::new(),
        }
    }

    /// One container of the pod (IMG-56).
    pub fn container(pod: &Pod, container: &str) -> Self {
        let kind = pod.container(container).map_or(ContainerKind::App, |(kind, _)| kind);
        Self { field_path: kind.field_path(container), ..Self::pod(pod) }
    }
}

/// One thing to tell.
#[derive(Debug, Clone)]
struct Told {
    target: Target,
    warning: bool,
    reason: String,
    message: String,
    notes: BTreeMap<String, String>,
    at: Timestamp,
}

/// Where events are handed in. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Told>,
}

/// The other end: writes to the API until all recorders are gone.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<Told>,
    client: Arc<str>,
}

impl Recorder {
    /// A recorder and the writer that somebody has to run.
    pub fn new(node_name: &str) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
        (Self { queue: sender }, Writer { queue: receiver, client: node_name.into() })
    }

    /// A Normal event.
    pub fn normal(&self, target: Target, reason: &str, message: impl Into<String>) {
        self.record(told(target, false, reason, message.into()));
    }

    /// A Warning event.
    pub fn warning(&self, target: Target, reason: &str, message: impl Into<String>) {
        self.record(told(target, true, reason, message.into()));
    }

    /// A Warning event with annotations.
    pub fn warning_with(&self, target: Target, reason: &str, message: String, notes: BTreeMap<String, String>) {
        self.record(Told { notes, ..told(target, true, reason, message) });
    }

    fn record(&self, told: Told) {
        if let Err(error) = self.queue.try_send(told) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

fn told(target: Target, warning: bool, reason: &str, message: String) -> Told {
    Told { target, warning, reason: reason.to_owned(), message, notes: BTreeMap::new(), at: Timestamp::now() }
}

/// What has been written and may be counted up.
struct Written {
    name: String,
    count: u32,
    first: Timestamp,
}

struct Bucket {
    tokens: u32,
    refilled: Timestamp,
}

/// What shares a limit: the object's UID, the part of it and the reason.
type Limited = (String, String, String);
type Same = (Target, bool, String, String);

/// The compaction's memory: bounded, oldest first out.
#[derive(Default)]
struct Memory {
    written: BTreeMap<Same, Written>,
    order: VecDeque<Same>,
    buckets: BTreeMap<Limited, Bucket>,
}

impl Memory {
    /// IMG-57: the limit is per object *and reason*, so that a repeated `BackOff` never starves `Failed`.
    fn admits(&mut self, told: &Told) -> bool {
        if self.buckets.len() > REMEMBERED {
            self.buckets.clear();
        }
        let is_pull = told.message.starts_with(PULL_FAILED);
        let part = if is_pull { format!("{PULL_FAILED} {}", told.target.field_path) } else { String::new() };
        let refill = if is_pull { PULL_REFILL_SECONDS } else { REFILL_SECONDS };
        let key = (told.target.uid.clone(), part, told.reason.clone());
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: BURST, refilled: told.at });
        let due = told.at.duration_since(bucket.refilled).as_secs() / refill;
        if due > 0 {
            bucket.tokens = BURST.min(bucket.tokens + u32::try_from(due).unwrap_or(BURST));
            bucket.refilled = told.at;
        }
        bucket.tokens = match bucket.tokens.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }

    fn remember(&mut self, same: Same, written: Written) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.written.remove(&oldest);
        }
        self.order.push_back(same.clone());
        self.written.insert(same, written);
    }
}

impl Writer {
    /// Writes events until the last recorder is gone.
    pub async fn run(mut self, client: kube::Client) {
        let mut memory = Memory::default();
        while let Some(told) = self.queue.recv().await {
            if !memory.admits(&told) {
                continue;
            }
            let attempt = tokio::time::timeout(CALL_TIMEOUT, self.write(&client, &mut memory, &told)).await;
            match attempt {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, reason = told.reason, "event not written"),
                Err(_) => tracing::debug!(reason = told.reason, "event not written in time"),
            }
        }
    }

    async fn write(&self, client: &kube::Client, memory: &mut Memory, told: &Told) -> Result<(), kube::Error> {
        let same = (told.target.clone(), told.warning, told.reason.clone(), told.message.clone());
        if let Some(written) = memory.written.get_mut(&same) {
            written.count += 1;
            let patch = json!({ "count": written.count, "lastTimestamp": seconds(told.at) });
            let path = format!("{}/{}", collection(&told.target), written.name);
            if send(client, "PATCH", &path, &patch).await.is_ok() {
                return Ok(());
            }
        }
        let name = format!("{}.{:x}", told.target.name, told.at.as_nanosecond());
        let (count, first) = memory.written.get(&same).map_or((1, told.at), |known| (known.count, known.first));
        send(client, "POST", &collection(&told.target), &self.object(told, &name, count, first)).await?;
        memory.remember(same, Written { name, count, first });
        Ok(())
    }

    fn object(&self, told: &Told, name: &str, count: u32, first: Timestamp) -> Value {
        let target = &told.target;
        let mut involved = json!({
            "kind": target.kind, "name": target.name, "uid": target.uid, "apiVersion": "v1",
        });
        if !target.namespace.is_empty() {
            involved["namespace"] = json!(target.namespace);
        }
        if !target.field_path.is_empty() {
            involved["fieldPath"] = json!(target.field_path);
        }
        let namespace = if target.namespace.is_empty() { "default" } else { &target.namespace };
        let mut metadata = json!({ "name": name, "namespace": namespace });
        if !told.notes.is_empty() {
            metadata["annotations"] = json!(told.notes);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": metadata,
            "involvedObject": involved,
            "reason": told.reason,
            "message": told.message.chars().take(1024).collect::<String>(),
            "type": if told.warning { "Warning" } else { "Normal" },
            "source": { "component": "kubelet", "host": &*self.client },
            "reportingComponent": "kubelet",
            "reportingInstance": &*self.client,
            "firstTimestamp": seconds(first),
            "lastTimestamp": seconds(told.at),
            "count": count,
        })
    }
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn collection(target: &Target) -> String {
    let namespace = if target.namespace.is_empty() { "default" } else { &target.namespace };
    format!("/api/v1/namespaces/{namespace}/events")
}

async fn send(client: &kube::Client, method: &str, path: &str, body: &Value) -> Result<(), kube::Error> {
    let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_pull_error_is_never_starved_by_the_noise_around_it() {
        let mut memory = Memory::default();
        // Two containers whose images fail for two hours: each attempt is told with two more words.
        let (mut second, mut delay) = (0, 10);
        while second < 7200 {
            for container in ["a", "b"] {
                let about = |message: &str| {
                    let mut told = told("Failed", second);
                    told.target.field_path = format!("spec.containers{{{container}}}");
                    told.message = message.into();
                    told
                };
                assert!(memory.admits(&about("Failed to pull image \"x\": not found")), "at {second}");
                memory.admits(&about("Error: ErrImagePull"));
                memory.admits(&about("Error: ImagePullBackOff"));
            }
            second += delay;
            delay = (delay * 2).min(300);
        }
        assert!(!memory.admits(&told("Failed", 7201)), "the noise itself is limited");
    }

    fn told(reason: &str, second: i64) -> Told {
        let target = Target {
            kind: "Pod",
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            field_path: String::new(),
        };
        let at = Timestamp::from_second(second).unwrap();
        Told { target, warning: true, reason: reason.into(), message: "m".into(), notes: BTreeMap::new(), at }
    }

    #[test]
    fn a_flood_is_limited_and_does_not_starve_another_reason() {
        let mut memory = Memory::default();
        let admitted = (0..100).filter(|_| memory.admits(&told("BackOff", 0))).count();
        assert_eq!(admitted, 25);
        assert!(memory.admits(&told("Failed", 0)));
        assert!(memory.admits(&told("BackOff", 300)));
        assert!(!memory.admits(&told("BackOff", 301)));
    }
}
