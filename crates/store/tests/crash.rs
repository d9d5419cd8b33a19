//! What was acknowledged survives `kill -9`.
//!
//! The parent starts this very test binary again as a writing process, reads its acknowledgements from a pipe, kills it
//! after a seeded number of them, opens the store and compares it with the acknowledgements. Same directory each round.
#![allow(clippy::disallowed_methods)] // The test is about processes, so it starts some.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use store::{DiskStore, Expect, List, Put, Revision, Store};

const DIR: &str = "SAMPAN_STORE_CRASH_DIR";
const ROUND: &str = "SAMPAN_STORE_CRASH_ROUND";
const ROUNDS: u64 = 30;
const WRITERS: u64 = 6;
const KEYS: u64 = 5;

/// What a writer does at its step `i`: on one of its keys, a put of `i`, or now and then a delete.
fn step(i: u64) -> (u64, Option<String>) {
    let key = i % KEYS;
    // Never the first time a key is used: a delete needs something to remove.
    let deletes = i >= KEYS && i % 7 == 6;
    (key, (!deletes).then(|| i.to_string()))
}

fn key(round: u64, writer: u64, key: u64) -> String {
    format!("/crash/{round:03}/{writer}/{key}")
}

/// The keys of one writer after its steps `0..done`.
fn model(round: u64, writer: u64, done: u64) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for i in 0..done {
        let (k, value) = step(i);
        match value {
            Some(value) => keys.insert(key(round, writer, k), value),
            None => keys.remove(&key(round, writer, k)),
        };
    }
    keys
}

#[test]
#[ignore = "the other process of the test below, not a test of its own"]
fn the_writing_process() {
    let dir = std::env::var(DIR).expect("started by the parent");
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(DiskStore::open(Path::new(&dir)).unwrap());
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write_until_killed(store.clone(), round, writer));
        }
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
    });
}

async fn write_until_killed(store: Arc<DiskStore>, round: u64, writer: u64) {
    for i in 0.. {
        let (k, value) = step(i);
        let key = key(round, writer, k);
        let revision = match value {
            Some(value) => {
                let put = Put { key, value: Bytes::from(value), expect: Expect::Any, ttl: None };
                store.put(put).await.unwrap().modified
            }
            None if store.get(&key).await.unwrap().is_none() => continue,
            None => store.delete(&key, Expect::Any).await.unwrap().1,
        };
        if writer == 0 && i % 50 == 49 {
            store.compact(Revision(revision.0 - 20)).await.unwrap();
        }
        // One write call, so that a line is there whole or not at all.
        std::io::stderr().write_all(format!("ack {writer} {i} {revision}\n").as_bytes()).unwrap();
    }
}

fn start(dir: &Path, round: u64) -> (Child, BufReader<ChildStderr>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_writing_process", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(ROUND, round.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let acknowledgements = BufReader::new(child.stderr.take().unwrap());
    (child, acknowledgements)
}

/// Lets the child acknowledge `count` writes, kills it, and returns how many steps each writer has acknowledged, and
/// the greatest acknowledged revision.
fn kill_after(dir: &Path, round: u64, count: u64) -> (Vec<u64>, Revision) {
    let (mut child, mut acknowledgements) = start(dir, round);
    let mut done = vec![0; WRITERS as usize];
    let mut newest = Revision(0);
    let mut seen = 0;
    let mut line = String::new();
    while acknowledgements.read_line(&mut line).unwrap() > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ack", writer, i, revision] = words[..] else { panic!("the child says: {line}") };
        done[writer.parse::<usize>().unwrap()] = i.parse::<u64>().unwrap() + 1;
        newest = newest.max(Revision(revision.parse().unwrap()));
        seen += 1;
        if seen == count {
            child.kill().unwrap();
        }
        line.clear();
    }
    child.wait().unwrap();
    assert!(seen >= count, "the child ended by itself after {seen} writes");
    (done, newest)
}

async fn contents(store: &DiskStore, prefix: String) -> BTreeMap<String, String> {
    let page = store.list(List { prefix, ..List::default() }).await.unwrap();
    let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
    page.items.iter().map(|entry| (entry.key.to_string(), text(&entry.value))).collect()
}

#[tokio::test]
async fn every_acknowledged_write_survives_a_kill_at_any_point() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = Revision(0);
    let mut seed: u64 = 0x5eed;
    for round in 0..ROUNDS {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (done, newest) = kill_after(dir.path(), round, 1 + (seed >> 33) % 400);
        // Opening also checks that the log fits the objects and has no gap.
        let store = DiskStore::open(dir.path()).unwrap();
        let revision = store.revision().await.unwrap();
        assert!(newest > before && revision >= newest, "round {round}: {before} < {newest} <= {revision}");
        // Each writer may have one write under way that nobody was told about.
        assert!(revision.0 <= newest.0 + WRITERS, "round {round}: {revision} after {newest}");
        for (writer, &done) in (0..).zip(&done) {
            let found = contents(&store, format!("/crash/{round:03}/{writer}/")).await;
            let fits = (done..=done + 2).any(|steps| model(round, writer, steps) == found);
            assert!(fits, "round {round}, writer {writer}: {done} steps acknowledged, found {found:?}");
        }
        before = revision;
    }
}
