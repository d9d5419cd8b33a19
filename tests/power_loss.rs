//! What was acknowledged survives the loss of power: the store, the image store, and a node that is just being made.
//!
//! Each test starts a virtual machine with a disk whose volatile cache is lost at a cut (`xtask::vm::power`), lets this
//! very binary write in it (the `…in_the_guest` tests), cuts the power between two sectors at a seeded write, boots the
//! same disk again and compares it with what was acknowledged. `SAMPAN_POWER_CUTS` sets the number of cuts.

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use images::{Images, ProgressSink, PullRequest};
use store::{DiskStore, Expect, List, Put, Revision, Store};
use support::Lab;
use tokio_util::sync::CancellationToken;
use xtask::registry::{PASSWORD, Registry, USER};
use xtask::vm::image::{Image, Program};
use xtask::vm::power::{Dice, Disk};
use xtask::vm::{DISK_DIR, Guest, Job, run};

const LIMIT: Duration = Duration::from_secs(150);
const DISK_MB: usize = 192;
/// What the guest's tests are told: one line a fact, written by the host before the boot.
const FACTS: &str = "/job/facts";

fn cuts(usual: u64) -> u64 {
    std::env::var("SAMPAN_POWER_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A machine that has this test's binary, and what the host keeps between its boots.
struct Bench {
    /// This test's binary.
    own: PathBuf,
    image: Image,
    disk: Disk,
    dice: Dice,
}

impl Bench {
    fn new(name: &str, more: &[Program<'_>]) -> Bench {
        let own = std::env::current_exe().unwrap();
        let programs = [&[Program::Built(&own)], more].concat();
        let image = Image::build(name, &programs).unwrap();
        Bench { own, image, disk: Disk::new(DISK_MB), dice: Dice(0x5a11_5eed) }
    }

    fn job(&self, tests: &[&str], facts: &str) -> Job<'_> {
        let run = |test: &&str| format!("{} --exact {test} --ignored --nocapture", self.own.display());
        let script = format!("set -e; {}", tests.iter().map(run).collect::<Vec<_>>().join("; "));
        let files = vec![(FACTS.to_owned(), facts.as_bytes().to_vec())];
        Job { files, disk: Some(&self.disk), ..Job::new(&script, LIMIT) }
    }

    /// Boots, waits for the guest to say `begin`, lets the power fail after a number of writes below `writes`, and
    /// returns all that the guest had said.
    fn cut(&mut self, tests: &[&str], facts: &str, writes: u64) -> Vec<String> {
        let (count, seed) = (1 + self.dice.roll(writes), self.dice.roll(u64::MAX));
        let mut guest = Guest::boot(&self.image, &self.job(tests, facts)).unwrap();
        let mut said = Vec::new();
        loop {
            let line = guest.line().unwrap().unwrap_or_else(|| panic!("the guest ended: {said:#?}"));
            if line == "begin" {
                break;
            }
            assert!(!line.starts_with("@exit"), "before it began: {said:#?}");
            said.push(line);
        }
        self.disk.arm(count, seed);
        assert!(self.disk.await_cut(LIMIT), "the guest wrote less than {count} times: {said:#?}");
        let (rest, loss) = guest.cut_power(seed).unwrap();
        eprintln!("cut after {count} writes: {loss:?}, {} lines said", rest.len());
        said.extend(rest);
        said
    }

    /// Boots and lets the tests run to their end.
    fn look(&self, tests: &[&str], facts: &str) -> String {
        let done = run(&self.image, &self.job(tests, facts)).unwrap();
        assert_eq!(done.code, 0, "in the guest:\n{}", done.text);
        done.text
    }
}

/// The words of the lines that begin with a word.
fn said<'a>(lines: &'a [String], first: &str) -> Vec<Vec<&'a str>> {
    let words = lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words.first() == Some(&first)).map(|words| words[1..].to_vec()).collect()
}

/// One write call, so that a line is there whole or not at all.
fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn facts() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(FACTS).unwrap();
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

// The store.

const WRITERS: u64 = 4;
const KEYS: u64 = 6;

/// What a writer does at its step `i`: on one of its keys, a put of `i`, or now and then a delete.
fn step(i: u64) -> (u64, Option<Bytes>) {
    // Never the first time a key is used: a delete needs something to remove.
    let deletes = i >= KEYS && i % 11 == 10;
    (i % KEYS, (!deletes).then(|| value(i)))
}

/// Up to four pages, so that a transaction can tear; each byte depends on where it is.
fn value(i: u64) -> Bytes {
    let length = 1 + i.wrapping_mul(2_654_435_761) % 16_000;
    (0..length).map(|at| (i.wrapping_mul(31).wrapping_add(at * 7) % 251) as u8).collect()
}

fn key(round: u64, writer: u64, key: u64) -> String {
    format!("/power/{round:03}/{writer}/{key}")
}

/// The keys of one writer after its steps `0..done`.
fn model(round: u64, writer: u64, done: u64) -> BTreeMap<String, Bytes> {
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
fn every_acknowledged_write_to_the_store_survives_a_loss_of_power() {
    let mut bench = Bench::new("power-store", &[]);
    // By round and writer: how many steps it took at least, and at most.
    let mut steps: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    let (mut newest, mut careless_lost) = (0, 0);
    let tests = ["the_store_holds_in_the_guest", "writing_to_the_store_in_the_guest"];
    let rounds = cuts(5);
    for round in 0..rounds {
        let text = |steps: &BTreeMap<(u64, u64), (u64, u64)>, newest: u64| {
            let lines = steps.iter().map(|((r, w), (least, most))| format!("steps {r} {w} {least} {most}\n"));
            lines.collect::<String>() + &format!("newest {newest}\nround {round}\n")
        };
        let lines = bench.cut(&tests, &text(&steps, newest), 600);
        note_what_was_found(&lines, &mut steps, &mut careless_lost);
        for words in said(&lines, "ack") {
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            // One more may have been under way that nobody was told about, and a delete passes over a key.
            steps.insert((round, number(0)), (number(1) + 1, number(1) + 3));
            newest = newest.max(number(2));
        }
        for writer in 0..WRITERS {
            steps.entry((round, writer)).or_insert((0, 2));
        }
        if round + 1 == rounds {
            let found = bench.look(&tests[..1], &text(&steps, newest));
            let lines: Vec<String> = found.lines().map(str::to_owned).collect();
            note_what_was_found(&lines, &mut steps, &mut careless_lost);
        }
    }
    assert!(newest > 20 * rounds, "only {newest} writes were acknowledged");
    assert!(careless_lost > 0, "a file that nobody synced lost nothing: the power was not cut");
    eprintln!("{rounds} cuts, {newest} writes acknowledged, {careless_lost} lines of a careless file lost");
}

/// What the guest found of earlier rounds is exact from now on: nobody writes there again.
fn note_what_was_found(lines: &[String], steps: &mut BTreeMap<(u64, u64), (u64, u64)>, careless_lost: &mut u64) {
    for words in said(lines, "found") {
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        steps.insert((number(0), number(1)), (number(2), number(2)));
    }
    for words in said(lines, "careless") {
        *careless_lost += words[0].parse::<u64>().unwrap();
    }
}

#[test]
#[ignore = "runs in the guest"]
fn the_store_holds_in_the_guest() {
    block_on(async {
        // Opening also checks that the log fits the objects and has no gap.
        let store = DiskStore::open(&Path::new(DISK_DIR).join("store")).unwrap();
        let revision = store.revision().await.unwrap().0;
        let (mut acknowledged, mut newest) = (0, 0);
        for fact in facts() {
            let number = |at: usize| fact[at].parse::<u64>().unwrap();
            match fact[0].as_str() {
                "steps" => {
                    let (round, writer, least, most) = (number(1), number(2), number(3), number(4));
                    let found = contents(&store, format!("/power/{round:03}/{writer}/")).await;
                    let fits = (least..=most).find(|steps| model(round, writer, *steps) == found);
                    let lengths: Vec<_> = found.iter().map(|(key, value)| (key, value.len())).collect();
                    let fits = fits.unwrap_or_else(|| {
                        panic!("round {round}, writer {writer}: {least} to {most} steps, found {lengths:?}")
                    });
                    say(&format!("found {round} {writer} {fits}"));
                    acknowledged += least;
                }
                "newest" => newest = number(1),
                _ => {}
            }
        }
        assert!(revision >= newest, "revision {newest} was acknowledged, the store is at {revision}");
        let careless = std::fs::read_to_string(Path::new(DISK_DIR).join("careless")).unwrap_or_default();
        say(&format!("careless {}", acknowledged.saturating_sub(careless.lines().count() as u64)));
    });
}

async fn contents(store: &DiskStore, prefix: String) -> BTreeMap<String, Bytes> {
    let page = store.list(List { prefix, ..List::default() }).await.unwrap();
    page.items.iter().map(|entry| (entry.key.to_string(), entry.value.clone())).collect()
}

#[test]
#[ignore = "runs in the guest"]
fn writing_to_the_store_in_the_guest() {
    let round = facts().iter().find(|fact| fact[0] == "round").unwrap()[1].parse().unwrap();
    block_on(async {
        let store = Arc::new(DiskStore::open(&Path::new(DISK_DIR).join("store")).unwrap());
        say("begin");
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write_until_the_end(store.clone(), round, writer));
        }
        writers.join_all().await;
    });
}

async fn write_until_the_end(store: Arc<DiskStore>, round: u64, writer: u64) {
    let mut careless =
        std::fs::OpenOptions::new().create(true).append(true).open(Path::new(DISK_DIR).join("careless")).unwrap();
    for i in 0.. {
        let (k, value) = step(i);
        let key = key(round, writer, k);
        let revision = match value {
            Some(value) => store.put(Put { key, value, expect: Expect::Any, ttl: None }).await.unwrap().modified,
            None if store.get(&key).await.unwrap().is_none() => continue,
            None => store.delete(&key, Expect::Any).await.unwrap().1,
        };
        if writer == 0 && i % 20 == 19 {
            store.compact(Revision(revision.0 - 10)).await.unwrap();
        }
        careless.write_all(b"line\n").unwrap();
        say(&format!("ack {writer} {i} {revision}"));
    }
}

// The image store.

#[test]
fn an_image_is_whole_or_absent_after_a_loss_of_power() {
    let names = ["docker-registry", "skopeo", "htpasswd", "tar", "gzip"];
    let programs: Vec<Program> = names.iter().map(|name| Program::Named(name)).collect();
    let mut bench = Bench::new("power-images", &programs);
    for _ in 0..cuts(3) {
        let lines = bench.cut(&["pulling_in_the_guest"], "", 250);
        let states = ["pulled", "settled", "removing", "removed"];
        let last = lines.iter().rev().find(|line| states.contains(&line.as_str())).map_or("pulling", |line| line);
        let found = bench.look(&["the_image_is_whole_or_absent_in_the_guest"], &format!("last {last}\n"));
        eprintln!("{last}: {}", found.lines().find(|line| line.starts_with("image")).unwrap());
    }
}

fn images_root() -> PathBuf {
    Path::new(DISK_DIR).join("images")
}

#[test]
#[ignore = "runs in the guest"]
fn the_image_is_whole_or_absent_in_the_guest() {
    let last = facts()[0][1].clone();
    block_on(async {
        let images = Images::open(images::Options::new(images_root())).await.unwrap();
        let list = images.list();
        for image in &list {
            let layers = images.layers(image);
            let read = |name: &str| {
                let found = layers.iter().map(|layer| layer.join(name)).find(|path| path.exists());
                std::fs::read(found.unwrap_or_else(|| panic!("{name} is missing"))).unwrap()
            };
            assert!(read("bin/busybox") == std::fs::read("/usr/bin/busybox").unwrap(), "busybox is not whole");
            assert!(read("www/index.html").starts_with(b"Hello"), "a small file is not whole");
            assert!(!images.documents(image).unwrap().is_empty());
        }
        assert!(last != "settled" || list.len() == 1, "an image whose layers were flushed is gone");
        assert!(last != "removed" || list.is_empty(), "an image that was removed is back");
        say(&format!("image {}", if list.is_empty() { "absent" } else { "whole" }));
    });
}

#[test]
#[ignore = "runs in the guest"]
fn pulling_in_the_guest() {
    let dir = Path::new("/var/tmp/registry");
    let registry = Registry::new(dir, 5000);
    registry.ensure().unwrap();
    xtask::image::layout(&dir.join("image"), xtask::image::architecture()).unwrap();
    registry.push(&dir.join("image"), "team/box:1").unwrap();
    block_on(async {
        let images = Images::open(images::Options::new(images_root())).await.unwrap();
        say("begin");
        for _ in 0..100 {
            let credential =
                Some(images::Credential { username: USER.into(), password: PASSWORD.into(), ..Default::default() });
            let request =
                PullRequest { image: format!("{}/team/box:1", registry.address), credential, ..PullRequest::default() };
            let image = images.pull(request, ProgressSink::none(), CancellationToken::new()).await.unwrap();
            say("pulled");
            images.settle().await;
            say("settled");
            for nth in 0..10 {
                let mut other = std::fs::File::create(Path::new(DISK_DIR).join("other")).unwrap();
                other.write_all(&[nth; 20_000]).unwrap();
                other.sync_all().unwrap();
            }
            say("removing");
            images.remove(&image.id).await.unwrap();
            say("removed");
        }
    });
}

// The whole node.

#[test]
fn a_node_whose_first_start_lost_power_starts_all_the_same() {
    let sampan = PathBuf::from(env!("CARGO_BIN_EXE_sampan"));
    let names = ["runc", "docker-registry", "skopeo", "htpasswd", "kubectl", "nft", "ip", "tar", "gzip"];
    let mut programs: Vec<Program> = names.iter().map(|name| Program::Named(name)).collect();
    programs.push(Program::Built(&sampan));
    let mut bench = Bench::new("power-node", &programs);
    let mut kept = Vec::new();
    for round in 0..cuts(3) {
        // A new disk now and then: the first start writes certificates, keys and settings.
        if round % 2 == 0 {
            (bench.disk, kept) = (Disk::new(DISK_MB), Vec::new());
        }
        let fact = |kept: &[String]| format!("{}round {round}\n", kept.concat());
        let lines = bench.cut(&["a_node_that_writes_in_the_guest"], &fact(&kept), 150);
        kept.extend(said(&lines, "created").iter().map(|words| format!("created {}\n", words[0])));
        let found = bench.look(&["the_node_starts_in_the_guest"], &fact(&kept));
        assert!(found.contains("all there"), "{found}");
    }
}

#[test]
#[ignore = "runs in the guest"]
fn a_node_that_writes_in_the_guest() {
    let round = facts().iter().find(|fact| fact[0] == "round").unwrap()[1].clone();
    let lab = Lab::bare(Path::new(DISK_DIR));
    say("begin");
    lab.up();
    for nth in 0..50 {
        let name = format!("config-{round}-{nth}");
        lab.ask(&["create", "configmap", &name, &format!("--from-literal=name={name}")]);
        say(&format!("created {name}"));
    }
}

#[test]
#[ignore = "runs in the guest"]
fn the_node_starts_in_the_guest() {
    let lab = Lab::bare(Path::new(DISK_DIR));
    lab.up();
    let there = lab.ask(&["get", "configmaps", "-o", "jsonpath={range .items[*]}{.metadata.name}={.data.name} {end}"]);
    for fact in facts().iter().filter(|fact| fact[0] == "created") {
        let name = &fact[1];
        assert!(there.split_whitespace().any(|pair| pair == format!("{name}={name}")), "{name} is lost: {there}");
    }
    say("all there");
}
