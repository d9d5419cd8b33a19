//! Secrets at rest: what the store holds, what is refused, and a change of keys that is cut off at each step.
#![allow(missing_docs)]

mod door;

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver::{ApiServer, Options, ROTATE_SECRETS, SecretKeys, UserInfo};
use async_trait::async_trait;
use door::Door;
use serde_json::{Value, json};
use store::{DiskStore, Entry, Error, Expect, List, MemoryStore, Page, Put, Revision, Store, Watch};
use tokio_util::sync::CancellationToken;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PREFIX: &str = "/registry/core/secrets/";
/// Base64 of what no file may say; it looks like nothing else.
const HIDDEN: &str = "Y2FuYXJ5LWF0LXJlc3Q=";

/// A store over another one, and a key file, that together do so many steps and then no more.
struct Machine {
    inner: Arc<MemoryStore>,
    file: Arc<Mutex<Option<String>>>,
}

/// One life of a process on the machine.
#[derive(Clone)]
struct Life {
    inner: Arc<MemoryStore>,
    steps_left: Arc<AtomicUsize>,
}

impl Life {
    fn step(&self) -> Result<(), Error> {
        let left = self.steps_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| Error::Unavailable("killed".into()))
    }
}

#[async_trait]
impl Store for Life {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }

    async fn list(&self, list: List) -> Result<Page, Error> {
        self.inner.list(list).await
    }

    async fn put(&self, put: Put) -> Result<Entry, Error> {
        self.step()?;
        self.inner.put(put).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision), Error> {
        self.inner.delete(key, expect).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.inner.watch(prefix, after).await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        self.step()?;
        self.inner.compact(through).await
    }

    async fn scrub(&self) -> Result<(), Error> {
        self.step()?;
        self.inner.scrub().await
    }
}

impl Machine {
    fn new() -> Machine {
        Machine { inner: Arc::default(), file: Arc::default() }
    }

    fn options(&self, steps: usize) -> (Options, Arc<AtomicUsize>) {
        let life = Life { inner: self.inner.clone(), steps_left: Arc::new(AtomicUsize::new(steps)) };
        let (steps_left, file, saving) = (life.steps_left.clone(), self.file.clone(), life.clone());
        let mut options = Options::new(Arc::new(life));
        let save = move |text: &str| {
            saving.step().map_err(std::io::Error::other)?;
            *file.lock().unwrap() = Some(text.to_owned());
            Ok(())
        };
        options.secret_keys = Some(SecretKeys { text: self.text(), save: Box::new(save) });
        (options, steps_left)
    }

    fn text(&self) -> Option<String> {
        self.file.lock().unwrap().clone()
    }

    /// Starts a server that lives for so many steps; None when they do not suffice for the start.
    async fn start(&self, steps: usize) -> Option<(Door, Arc<AtomicUsize>)> {
        let (options, steps_left) = self.options(steps);
        let server = ApiServer::start(options, CancellationToken::new()).await.ok()?;
        Some((Door { server, user: UserInfo::admin() }, steps_left))
    }

    async fn stored(&self) -> Vec<Entry> {
        self.inner.list(List { prefix: PREFIX.into(), ..List::default() }).await.unwrap().items
    }

    /// Names of the keys in the file.
    fn keys(&self) -> Vec<String> {
        let text = self.text().unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
    }
}

fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": HIDDEN}})
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[tokio::test]
async fn secrets_are_stored_encrypted_and_served_plain() {
    let machine = Machine::new();
    let (door, _) = machine.start(usize::MAX).await.unwrap();
    let (_, list) = door.get(SECRETS).await;
    let from: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let (code, made) = door.post(SECRETS, &secret("a")).await;
    assert_eq!((code, &made["data"]["k"]), (201, &json!(HIDDEN)));
    assert_eq!(door.get(&format!("{SECRETS}/a")).await.1, made);
    let (_, list) = door.get(SECRETS).await;
    assert_eq!(list["items"][0]["data"]["k"], HIDDEN);
    let (code, changed) = door.merge(&format!("{SECRETS}/a"), &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!((code, &changed["data"]["k"]), (200, &json!(HIDDEN)));
    let watched = format!("{SECRETS}?watch=true&resourceVersion={from}&timeoutSeconds=1");
    let frames = door.text(&watched).await;
    assert_eq!(frames.matches(HIDDEN).count(), 2, "{frames}");
    let stored = machine.stored().await;
    assert!(stored.iter().all(|entry| entry.value.starts_with(b"enc:aes256gcm:v1:")), "{stored:?}");
    assert!(!stored.iter().any(|entry| contains(&entry.value, HIDDEN)));
    assert_eq!(door.delete(&format!("{SECRETS}/a"), &json!({})).await.0, 200);
}

#[tokio::test]
async fn a_value_in_the_place_of_another_is_refused_and_harms_no_other() {
    let machine = Machine::new();
    let (door, _) = machine.start(usize::MAX).await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(door.post(SECRETS, &secret(name)).await.0, 201);
    }
    let stored = machine.stored().await;
    let [first, second] = ["a", "b"].map(|name| stored.iter().find(|entry| entry.key.ends_with(name)).unwrap());
    let swap = Put { key: first.key.to_string(), value: second.value.clone(), expect: Expect::Any, ttl: None };
    machine.inner.put(swap).await.unwrap();
    let (code, status) = door.get(&format!("{SECRETS}/a")).await;
    assert_eq!((code, &status["reason"]), (500, &json!("InternalError")), "{status}");
    assert!(status["message"].as_str().unwrap().contains("belongs to another object"), "{status}");
    assert!(!status.to_string().contains(HIDDEN));
    assert_eq!(door.get(SECRETS).await.0, 500, "a list of it is not silently shorter");
    assert_eq!(door.get(&format!("{SECRETS}/b")).await.0, 200);
    assert_eq!(door.get("/api/v1/namespaces/default/configmaps").await.0, 200);
    let before = machine.keys();
    let (code, status) = door.post(ROTATE_SECRETS, &Value::Null).await;
    assert_eq!(code, 500, "{status}");
    assert!(before.iter().all(|key| machine.keys().contains(key)), "no key is dropped while a value needs it");
    assert!(machine.start(usize::MAX).await.is_some(), "the rest of the cluster starts");
}

#[tokio::test]
async fn a_store_without_encryption_is_read_and_rewritten_at_the_start() {
    let machine = Machine::new();
    let plain = Options::new(machine.inner.clone());
    let server = ApiServer::start(plain, CancellationToken::new()).await.unwrap();
    let door = Door { server, user: UserInfo::admin() };
    let mut before = Vec::new();
    for name in ["a", "b", "c"] {
        before.push(door.post(SECRETS, &secret(name)).await.1);
    }
    assert!(contains(&machine.stored().await[0].value, HIDDEN));
    let (door, _) = machine.start(usize::MAX).await.unwrap();
    assert!(machine.stored().await.iter().all(|entry| entry.value.starts_with(b"enc:")));
    for old in before {
        let (code, new) = door.get(&format!("{SECRETS}/{}", old["metadata"]["name"].as_str().unwrap())).await;
        assert_eq!((code, &new["data"], &new["metadata"]["uid"]), (200, &old["data"], &old["metadata"]["uid"]));
    }
}

#[tokio::test]
async fn a_change_of_keys_survives_an_end_at_each_step() {
    let mut cut_off = 0;
    for steps in 0.. {
        let machine = Machine::new();
        let (door, steps_left) = machine.start(usize::MAX).await.unwrap();
        for name in ["a", "b", "c", "d"] {
            assert_eq!(door.post(SECRETS, &secret(name)).await.0, 201);
        }
        let first = machine.keys();
        assert_eq!(first.len(), 1);
        steps_left.store(steps, Ordering::SeqCst);
        let (code, answer) = door.post(ROTATE_SECRETS, &Value::Null).await;
        // The process goes on, or another one begins: either reads everything.
        let (next, _) = match machine.start(usize::MAX).await {
            Some(next) => next,
            None => panic!("no start after {steps} steps"),
        };
        for door in [&door, &next] {
            let (_, list) = door.get(SECRETS).await;
            let values: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|s| &s["data"]["k"]).collect();
            assert_eq!(values, [HIDDEN; 4], "after {steps} steps");
        }
        let keys = machine.keys();
        assert_eq!(keys.len(), 1, "the next start has finished what was begun with {steps} steps");
        let used = format!("enc:aes256gcm:v1:{}:", keys[0]);
        assert!(machine.stored().await.iter().all(|entry| entry.value.starts_with(used.as_bytes())), "{steps}");
        if code == 200 {
            assert_eq!((&answer["secretsRewritten"], &answer["keysDropped"]), (&json!(4), &json!(1)));
            assert_ne!(keys, first);
            break;
        }
        cut_off += 1;
    }
    // The new key, four values, compaction, scrubbing, the old key.
    assert_eq!(cut_off, 8);
}

#[tokio::test]
async fn the_first_encryption_survives_an_end_at_each_step() {
    for steps in 0.. {
        let machine = Machine::new();
        let plain = ApiServer::start(Options::new(machine.inner.clone()), CancellationToken::new()).await.unwrap();
        let door = Door { server: plain, user: UserInfo::admin() };
        assert_eq!(door.post(SECRETS, &secret("a")).await.0, 201);
        let finished = machine.start(steps).await.is_some();
        let (door, _) = machine.start(usize::MAX).await.unwrap();
        assert_eq!(door.get(&format!("{SECRETS}/a")).await.1["data"]["k"], HIDDEN, "{steps} steps");
        assert!(machine.stored().await.iter().all(|entry| entry.value.starts_with(b"enc:")), "{steps} steps");
        if finished {
            break;
        }
    }
}

#[tokio::test]
async fn writes_go_on_while_keys_change() {
    let machine = Machine::new();
    let (door, _) = machine.start(usize::MAX).await.unwrap();
    let writes = async {
        for nth in 0..40 {
            assert_eq!(door.post(SECRETS, &secret(&format!("s{nth}"))).await.0, 201);
        }
    };
    let rotations = async {
        for _ in 0..5 {
            assert_eq!(door.post(ROTATE_SECRETS, &Value::Null).await.0, 200);
        }
    };
    tokio::join!(writes, rotations);
    let (door, _) = machine.start(usize::MAX).await.unwrap();
    let (_, list) = door.get(SECRETS).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 40);
    assert_eq!(machine.keys().len(), 1);
}

#[tokio::test]
async fn keys_are_changed_by_administrators_only() {
    let machine = Machine::new();
    let (door, _) = machine.start(usize::MAX).await.unwrap();
    let before = machine.text();
    for user in [UserInfo::new("ann", &[]), UserInfo::node("n1"), UserInfo::new("system:kube-controller-manager", &[])]
    {
        assert_eq!(door.of(user).post(ROTATE_SECRETS, &Value::Null).await.0, 403);
    }
    assert_eq!(door.get(ROTATE_SECRETS).await.0, 404, "only a POST changes them");
    assert_eq!(machine.text(), before);
}

fn holders(dir: &Path, word: &str) -> Vec<String> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| contains(&std::fs::read(path).unwrap(), word)).map(|path| path.display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_of_the_store_says_a_secret_after_the_first_encryption() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new();
    let data: Vec<Value> = (0..30).map(|nth| json!({"k": HIDDEN, "padding": "QUFB".repeat(nth * 100)})).collect();
    {
        let store = Arc::new(DiskStore::open(dir.path()).unwrap());
        let server = ApiServer::start(Options::new(store), CancellationToken::new()).await.unwrap();
        let door = Door { server, user: UserInfo::admin() };
        for (nth, data) in data.iter().enumerate() {
            let object = json!({"metadata": {"name": format!("s{nth}")}, "data": data});
            assert_eq!(door.post(SECRETS, &object).await.0, 201);
            if nth % 3 == 0 {
                assert_eq!(door.delete(&format!("{SECRETS}/s{nth}"), &json!({})).await.0, 200);
            }
        }
    }
    assert!(!holders(dir.path(), HIDDEN).is_empty(), "the look finds what is there");
    let (mut options, _) = machine.options(usize::MAX);
    options.store = Arc::new(DiskStore::open(dir.path()).unwrap());
    let server = ApiServer::start(options, CancellationToken::new()).await.unwrap();
    let door = Door { server, user: UserInfo::admin() };
    assert_eq!(holders(dir.path(), HIDDEN), [""; 0], "while the store is open, as a kill would leave it");
    let (_, list) = door.get(SECRETS).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 20);
    let old = machine.keys()[0].clone();
    assert!(!holders(dir.path(), &old).is_empty());
    assert_eq!(door.post(ROTATE_SECRETS, &Value::Null).await.0, 200);
    assert_eq!(holders(dir.path(), &old), [""; 0], "nothing is left that the old key opens");
}
