//! How far the node's pulls are, for `state.waiting.message` and for the node port.
//!
//! [`Board`] joins two things: which pods wait for which image (told by the pods' own tasks, so also while they wait for
//! their turn), and how many bytes have come (told by the runtime, if it can). The words are pure. Start at
//! [`Board::wait`] and [`Board::text`].

use super::{full_name as normalized, go_duration};
use crate::pod::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// What the runtime tells of one pull.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pull {
    /// The image as the runtime names it.
    pub image: String,
    /// Compressed bytes at hand.
    pub fetched_bytes: u64,
    /// Compressed bytes of all layers that are to be fetched; 0 while not known.
    pub total_bytes: u64,
    /// Bytes a second, lately.
    pub bytes_per_second: u64,
    /// Layers that are whole.
    pub layers_done: usize,
    /// All layers.
    pub layers: usize,
}

/// One pull in the list of the node port.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The image as the pod names it, or as the runtime does where no pod waits for it.
    pub image: String,
    /// `waiting` for its turn, or `pulling`.
    pub state: &'static str,
    /// Who waits for it: `namespace/name`.
    pub pods: Vec<String>,
    /// Since when somebody waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// How far it is, where the runtime tells.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Figures>,
    /// The same in words.
    pub message: String,
}

/// The numbers of a pull.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // As in `Pull`.
pub struct Figures {
    pub fetched_bytes: u64,
    pub total_bytes: u64,
    pub bytes_per_second: u64,
    pub layers_done: usize,
    pub layers: usize,
}

/// The node's pulls. Clones are one board.
#[derive(Debug, Clone)]
pub struct Board {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Inner {
    waits: BTreeMap<u64, Wait>,
    /// Pulls that have their turn: normalized names.
    turns: BTreeMap<u64, String>,
    /// By normalized name.
    pulls: BTreeMap<String, Pull>,
    last: u64,
}

#[derive(Debug, Clone)]
struct Wait {
    image: String,
    uid: String,
    pod: String,
    since: Timestamp,
}

/// As long as it lives a pod waits for an image, or a pull has its turn.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    number: u64,
}

impl Board {
    /// An empty board.
    pub fn new(clock: Clock) -> Self {
        Self { shared: Arc::new(Shared { inner: Mutex::default(), changed: watch::Sender::new(0), clock }) }
    }

    /// A pod (its UID and `namespace/name`) begins to wait for an image.
    pub fn wait(&self, uid: &str, pod: String, image: &str) -> Ticket {
        let since = self.shared.clock.now();
        let number = self.shared.change(|inner| {
            inner.last += 1;
            let wait = Wait { image: image.to_owned(), uid: uid.to_owned(), pod, since };
            inner.waits.insert(inner.last, wait);
            inner.last
        });
        Ticket { shared: self.shared.clone(), number }
    }

    /// A pull of this image has its turn.
    pub fn begin(&self, image: &str) -> Ticket {
        let number = self.shared.change(|inner| {
            inner.last += 1;
            inner.turns.insert(inner.last, normalized(image));
            inner.last
        });
        Ticket { shared: self.shared.clone(), number }
    }

    /// What the runtime pulls now; replaces what it told before.
    pub fn take(&self, pulls: Vec<Pull>) {
        let pulls = pulls.into_iter().map(|pull| (normalized(&pull.image), pull)).collect();
        self.shared.change(|inner| inner.pulls = pulls);
    }

    /// The words for a pod that waits for this image; `None` if it does not, or has only just begun to.
    pub fn text(&self, uid: &str, image: &str) -> Option<String> {
        let now = self.shared.clock.now();
        let inner = self.shared.lock();
        let wait = inner.waits.values().find(|wait| wait.uid == uid && wait.image == image)?;
        let waited = now.duration_since(wait.since);
        let name = normalized(image);
        (waited >= SignedDuration::from_secs(1))
            .then(|| text(image, waited, inner.has_turn(&name), inner.pulls.get(&name)))
    }

    /// The images that are being pulled or waited for, in full form.
    pub fn images(&self) -> Vec<String> {
        let inner = self.shared.lock();
        let waits = inner.waits.values().map(|wait| normalized(&wait.image));
        inner.pulls.keys().chain(inner.turns.values()).cloned().chain(waits).collect()
    }

    /// All pulls, by image.
    pub fn lines(&self) -> Vec<Line> {
        let now = self.shared.clock.now();
        let inner = self.shared.lock();
        lines(&inner, now)
    }

    /// Wakes with every change of the board.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }
}

impl Inner {
    fn has_turn(&self, name: &str) -> bool {
        self.turns.values().any(|turn| turn == name)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.change(|inner| {
            inner.waits.remove(&self.number);
            inner.turns.remove(&self.number);
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let answer = change(&mut self.lock());
        self.changed.send_modify(|version| *version += 1);
        answer
    }
}

fn lines(inner: &Inner, now: Timestamp) -> Vec<Line> {
    let mut by_name: BTreeMap<String, Vec<&Wait>> = BTreeMap::new();
    for name in inner.pulls.keys().chain(inner.turns.values()) {
        by_name.entry(name.clone()).or_default();
    }
    for wait in inner.waits.values() {
        by_name.entry(normalized(&wait.image)).or_default().push(wait);
    }
    by_name.into_iter().map(|(name, waits)| line(inner, &name, &waits, now)).collect()
}

fn line(inner: &Inner, name: &str, waits: &[&Wait], now: Timestamp) -> Line {
    let pull = inner.pulls.get(name);
    let image = waits.first().map_or(name, |wait| &wait.image).to_owned();
    let since = waits.iter().map(|wait| wait.since).min();
    let has_turn = pull.is_some() || inner.has_turn(name);
    let mut pods: Vec<String> = waits.iter().map(|wait| wait.pod.clone()).collect();
    pods.sort();
    pods.dedup();
    let waited = since.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
    Line {
        state: if has_turn { "pulling" } else { "waiting" },
        pods,
        since,
        progress: pull.map(|pull| Figures {
            fetched_bytes: pull.fetched_bytes,
            total_bytes: pull.total_bytes,
            bytes_per_second: pull.bytes_per_second,
            layers_done: pull.layers_done,
            layers: pull.layers,
        }),
        message: text(&image, waited, has_turn, pull),
        image,
    }
}

/// `Pulling image "registry/app:1": 62% 41.3/66.1 MB, 18 MB/s, 1.4 s left, 3/5 layers`.
fn text(image: &str, waited: SignedDuration, has_turn: bool, pull: Option<&Pull>) -> String {
    let head = format!("Pulling image {image:?}");
    let elapsed = go_duration(SignedDuration::from_secs(waited.as_secs()));
    let Some(pull) = pull.filter(|pull| pull.total_bytes > 0) else {
        return match has_turn {
            true => format!("{head}: {elapsed}"),
            false => format!("{head}: waiting for other pulls, {elapsed}"),
        };
    };
    let fetched = pull.fetched_bytes.min(pull.total_bytes);
    let percent = u128::from(fetched) * 100 / u128::from(pull.total_bytes);
    let (unit, name) = unit(pull.total_bytes);
    let amount = format!("{}/{} {name}", decimal(fetched, unit), decimal(pull.total_bytes, unit));
    let mut parts = vec![format!("{head}: {percent}% {amount}")];
    let left = pull.total_bytes - fetched;
    if let Some(seconds) = seconds_left(left, pull.bytes_per_second) {
        parts.push(format!("{}/s", rate(pull.bytes_per_second)));
        parts.push(format!("{seconds} left"));
    }
    if pull.layers > 0 {
        parts.push(format!("{}/{} layers", pull.layers_done, pull.layers));
    }
    parts.join(", ")
}

/// None when nothing is left, or nothing comes.
fn seconds_left(bytes: u64, per_second: u64) -> Option<String> {
    if bytes == 0 || per_second == 0 {
        return None;
    }
    let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(per_second));
    Some(match tenths {
        0..100 => format!("{}.{} s", tenths / 10, tenths % 10),
        100..600 => format!("{} s", tenths / 10),
        _ => go_duration(SignedDuration::from_secs(i64::try_from(tenths / 10).unwrap_or(i64::MAX))),
    })
}

const UNITS: [(u64, &str); 4] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB"), (1, "B")];

fn unit(bytes: u64) -> (u64, &'static str) {
    UNITS.into_iter().find(|(unit, _)| bytes >= *unit).unwrap_or((1, "B"))
}

fn decimal(bytes: u64, unit: u64) -> String {
    if unit == 1 {
        return bytes.to_string();
    }
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn rate(bytes: u64) -> String {
    let (unit, name) = unit(bytes);
    if bytes / unit >= 10 { format!("{} {name}", bytes / unit) } else { format!("{} {name}", decimal(bytes, unit)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(fetched_bytes: u64, bytes_per_second: u64) -> Pull {
        Pull {
            image: "registry/app:1".into(),
            fetched_bytes,
            total_bytes: 66_100_000,
            bytes_per_second,
            layers_done: 3,
            layers: 5,
        }
    }

    fn words(pull: Option<&Pull>, seconds: i64) -> String {
        text("registry/app:1", SignedDuration::from_secs(seconds), true, pull)
    }

    #[test]
    fn the_words_are_as_people_read_them() {
        let head = "Pulling image \"registry/app:1\": ";
        for (pull, rest) in [
            (pull(41_300_000, 18_000_000), "62% 41.3/66.1 MB, 18 MB/s, 1.4 s left, 3/5 layers"),
            (pull(0, 0), "0% 0.0/66.1 MB, 3/5 layers"),
            (pull(66_100_000, 18_000_000), "100% 66.1/66.1 MB, 3/5 layers"),
            (pull(99_000_000, 1), "100% 66.1/66.1 MB, 3/5 layers"),
            (pull(6_100_000, 1_250_000), "9% 6.1/66.1 MB, 1.2 MB/s, 48 s left, 3/5 layers"),
            (pull(6_100_000, 100_000), "9% 6.1/66.1 MB, 100 kB/s, 10m0s left, 3/5 layers"),
        ] {
            assert_eq!(words(Some(&pull), 7), format!("{head}{rest}"));
        }
        assert_eq!(words(None, 7), format!("{head}7s"), "a runtime that does not tell");
        assert_eq!(words(Some(&Pull::default()), 75), format!("{head}1m15s"), "no manifest yet");
        let queued = text("registry/app:1", SignedDuration::from_secs(3), false, None);
        assert_eq!(queued, format!("{head}waiting for other pulls, 3s"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_board_joins_what_pods_wait_for_with_what_the_runtime_tells() {
        let clock = Clock::virtual_from(Timestamp::from_second(1_000_000).unwrap());
        let board = Board::new(clock);
        let a = board.wait("u1", "ns/a".into(), "app");
        let _b = board.wait("u2", "ns/b".into(), "docker.io/library/app:latest");
        assert_eq!(board.text("u1", "app"), None, "what is quick is not talked of");
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        assert_eq!(board.text("u1", "app").unwrap(), "Pulling image \"app\": waiting for other pulls, 2s");
        let _turn = board.begin("app");
        assert_eq!(
            board.text("u2", "docker.io/library/app:latest").unwrap(),
            "Pulling image \"docker.io/library/app:latest\": 2s"
        );
        let told = Pull { image: "docker.io/library/app:latest".into(), ..pull(661_000, 0) };
        board.take(vec![told]);
        assert_eq!(board.text("u1", "app").unwrap(), "Pulling image \"app\": 1% 0.6/66.1 MB, 3/5 layers");
        let lines = board.lines();
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].state, lines[0].pods.join(" ")), ("pulling", "ns/a ns/b".to_owned()));
        let json = serde_json::to_value(&lines[0]).unwrap();
        assert_eq!((&json["fetchedBytes"], &json["layers"]), (&661_000.into(), &5.into()));
        drop(a);
        assert_eq!(board.text("u1", "app"), None);
        assert_eq!(board.lines()[0].pods, ["ns/b"]);
    }
}
