//! The journal of hook runs: one file of lines a pod, appended to before a run begins and after it ended.
//!
//! Owns the files below `<data-dir>/node/hooks` (0600: they hold what hooks printed), their bounds and their age. A run is
//! on disk before its hook is called, so that a `kill -9` leaves a trace of it; nothing is flushed, as with checkpoints.
//! Writing must not fail a hook: what cannot be written is told in the log and the hook goes on. Start at
//! [`Journal::begin`].

use super::{
    page::{Line, Page},
    run::{Begun, Ended, Moment, Result as Outcome, Run},
};
use crate::{object::Pod, pod::clock::Clock};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How much is kept and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Runs of one pod.
    pub pod_runs: usize,
    /// Bytes of one pod.
    pub pod_bytes: u64,
    /// Pods.
    pub pods: usize,
    /// Bytes of all pods.
    pub bytes: u64,
    /// How long a pod's runs stay after it has gone.
    pub keep: SignedDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pod_runs: 64, pod_bytes: 256 << 10, pods: 2048, bytes: 32 << 20, keep: SignedDuration::from_hours(1) }
    }
}

/// The runs of all pods. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    limits: Limits,
    clock: Clock,
    pods: Mutex<BTreeMap<String, Known>>,
}

/// What is known of a pod's file without reading it.
#[derive(Debug, Clone)]
struct Known {
    namespace: String,
    name: String,
    bytes: u64,
    runs: usize,
    next: u64,
    busy: BTreeSet<u64>,
    /// How often which hook of which container was delivered.
    deliveries: BTreeMap<(String, Moment), u32>,
    last: Timestamp,
    gone_at: Option<Timestamp>,
}

/// A run under way.
#[derive(Debug)]
#[must_use]
pub struct Running {
    shared: Arc<Shared>,
    uid: String,
    seq: u64,
    started_at: Timestamp,
    deadline: Option<Timestamp>,
}

impl Journal {
    /// Opens a directory, creating it. What it has of pods that are not among the living ages from now on as if they
    /// had gone when they were last written.
    pub fn open(directory: &Path, limits: Limits, living: &BTreeSet<String>, clock: Clock) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut pods = BTreeMap::new();
        for entry in fs::read_dir(directory)?.flatten() {
            let name = entry.file_name();
            let Some(uid) = name.to_str().and_then(|name| name.strip_suffix(".jsonl")) else {
                let _ = fs::remove_file(entry.path());
                continue;
            };
            match Known::read(&entry.path(), living.contains(uid), clock) {
                Ok(Some(known)) => drop(pods.insert(uid.to_owned(), known)),
                Ok(None) => fs::remove_file(entry.path())?,
                Err(error) => tracing::warn!(uid, %error, "the runs of a pod's hooks cannot be read"),
            }
        }
        let shared = Shared { directory: directory.to_owned(), limits, clock, pods: Mutex::new(pods) };
        let journal = Self { shared: Arc::new(shared) };
        journal.expire();
        Ok(journal)
    }

    /// Writes down that a run begins; which delivery it is is counted here.
    pub fn begin(&self, pod: &Pod, begun: Begun, deadline: Option<Timestamp>) -> Running {
        let (shared, uid) = (&self.shared, pod.uid());
        let mut pods = shared.lock();
        let known = pods.entry(uid.to_owned()).or_insert_with(|| Known::of(pod, begun.started_at));
        known.gone_at = None;
        known.last = begun.started_at;
        let (started_at, mut run) = (begun.started_at, begun);
        let deliveries = known.deliveries.entry((run.container_id.clone(), run.hook)).or_default();
        *deliveries += 1;
        run.attempt = *deliveries;
        let seq = known.next;
        (known.next, known.runs) = (seq + 1, known.runs + 1);
        known.busy.insert(seq);
        let mut lines = Vec::new();
        if known.bytes == 0 {
            lines = Line::Pod { namespace: known.namespace.clone(), name: known.name.clone() }.bytes();
        }
        lines.extend(Line::Begun { seq, run }.bytes());
        shared.append(uid, known, &lines);
        shared.bound(&mut pods, uid);
        Running { shared: shared.clone(), uid: uid.to_owned(), seq, started_at, deadline }
    }

    /// The pod has gone from this node: its runs stay for a while.
    pub fn gone(&self, uid: &str) {
        let now = self.shared.clock.now();
        if let Some(known) = self.shared.lock().get_mut(uid) {
            known.gone_at = Some(now);
            known.last = now;
            // So that an agent that begins later knows it too.
            let touched = fs::File::options().append(true).open(self.shared.path(uid));
            let _ = touched.and_then(|file| file.set_modified(now.into()));
        }
    }

    /// Removes what is too old.
    pub fn expire(&self) {
        let (now, keep) = (self.shared.clock.now(), self.shared.limits.keep);
        let mut pods = self.shared.lock();
        let old = |known: &Known| known.gone_at.is_some_and(|gone_at| gone_at + keep <= now);
        let old: Vec<String> = pods.iter().filter(|(_, known)| old(known)).map(|(uid, _)| uid.clone()).collect();
        old.iter().for_each(|uid| self.shared.remove(&mut pods, uid));
    }

    /// The runs of all pods that have or had this name, oldest first. Reads files.
    pub fn runs(&self, namespace: &str, name: &str) -> Vec<Run> {
        self.expire();
        let pods = self.shared.lock();
        let named = pods.iter().filter(|(_, known)| known.namespace == namespace && known.name == name);
        let found: Vec<(String, BTreeSet<u64>)> = named.map(|(uid, known)| (uid.clone(), known.busy.clone())).collect();
        drop(pods);
        let mut runs: Vec<Run> = found
            .iter()
            .flat_map(|(uid, busy)| Page::parse(&fs::read(self.shared.path(uid)).unwrap_or_default()).told(uid, busy))
            .collect();
        runs.sort_by_key(|run| run.begun.started_at);
        runs
    }
}

impl Known {
    /// From a file; `None` if it does not even say whose it is. What a crash cut off is removed, so that the next line
    /// begins where it should.
    fn read(path: &Path, is_living: bool, clock: Clock) -> io::Result<Option<Self>> {
        let bytes = fs::read(path)?;
        let written = fs::metadata(path)?.modified()?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let length = u64::try_from(whole).unwrap_or(u64::MAX);
        if whole < bytes.len() {
            let file = fs::File::options().write(true).open(path)?;
            file.set_len(length)?;
            file.set_modified(written)?;
        }
        let page = Page::parse(&bytes[..whole]);
        let last = Timestamp::try_from(written).unwrap_or_else(|_| clock.now());
        Ok((!page.name.is_empty()).then(|| Self {
            bytes: length,
            runs: page.runs.len(),
            next: page.runs.keys().next_back().map_or(0, |seq| seq + 1),
            deliveries: page.deliveries(),
            namespace: page.namespace,
            name: page.name,
            busy: BTreeSet::new(),
            last,
            gone_at: (!is_living).then_some(last),
        }))
    }

    fn of(pod: &Pod, now: Timestamp) -> Self {
        Self {
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            bytes: 0,
            runs: 0,
            next: 0,
            busy: BTreeSet::new(),
            deliveries: BTreeMap::new(),
            last: now,
            gone_at: None,
        }
    }
}

impl Running {
    /// Writes down how it ended, and how long it took; `None` when nobody waited for its end.
    pub fn end(self, ended: Option<Ended>) -> (Outcome, Duration) {
        let now = self.shared.clock.now();
        let late = self.deadline.is_some_and(|deadline| now >= deadline);
        let unheard = if late { Outcome::GraceExceeded } else { Outcome::Abandoned };
        let ended = ended.unwrap_or_else(|| Ended::with(unheard));
        let told = (ended.result, now.duration_since(self.started_at).try_into().unwrap_or(Duration::ZERO));
        let mut pods = self.shared.lock();
        // The pod's page may have been given up for want of room.
        let Some(known) = pods.get_mut(&self.uid) else { return told };
        known.busy.remove(&self.seq);
        let line = Line::Ended { seq: self.seq, run: Ended { finished_at: Some(now), ..ended } };
        self.shared.append(&self.uid, known, &line.bytes());
        self.shared.bound(&mut pods, &self.uid);
        told
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.jsonl"))
    }

    fn append(&self, uid: &str, known: &mut Known, lines: &[u8]) {
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(self.path(uid));
        match file.and_then(|mut file| file.write_all(lines)) {
            Ok(()) => known.bytes += u64::try_from(lines.len()).unwrap_or(u64::MAX),
            Err(error) => tracing::warn!(uid, %error, "a hook's run is not written down"),
        }
    }

    /// Holds the bounds after something was written for `uid`.
    fn bound(&self, pods: &mut BTreeMap<String, Known>, uid: &str) {
        let Limits { pod_runs, pod_bytes, .. } = self.limits;
        if let Some(known) = pods.get_mut(uid)
            && (known.bytes > pod_bytes || known.runs > pod_runs)
        {
            self.shorten(uid, known);
        }
        loop {
            let bytes: u64 = pods.values().map(|known| known.bytes).sum();
            if bytes <= self.limits.bytes && pods.len() <= self.limits.pods {
                return;
            }
            // Pods that have gone go first, and of each kind the one that was quiet for longest.
            let rank = |(_, known): &(&String, &Known)| (known.gone_at.is_none(), known.last);
            let others = pods.iter().filter(|(other, known)| *other != uid && known.busy.is_empty());
            let Some(oldest) = others.min_by_key(rank).map(|(uid, _)| uid.clone()) else { return };
            self.remove(pods, &oldest);
        }
    }

    /// Leaves three quarters of what one pod may have, so that this is not done with every run.
    fn shorten(&self, uid: &str, known: &mut Known) {
        let path = self.path(uid);
        let page = Page::parse(&fs::read(&path).unwrap_or_default());
        let bytes = page.shortened(self.limits.pod_runs * 3 / 4, self.limits.pod_bytes * 3 / 4, &known.busy);
        let staged = self.directory.join(format!(".{uid}.new"));
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged);
        match file.and_then(|mut file| file.write_all(&bytes)).and_then(|()| fs::rename(&staged, &path)) {
            Ok(()) => {
                let left = Page::parse(&bytes);
                known.bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                known.runs = left.runs.len();
                // Of a container whose runs have all gone there is none to come.
                let left = left.deliveries();
                known.deliveries.retain(|whose, _| left.contains_key(whose));
            }
            Err(error) => tracing::warn!(uid, %error, "the runs of a pod's hooks are not shortened"),
        }
    }

    fn remove(&self, pods: &mut BTreeMap<String, Known>, uid: &str) {
        pods.remove(uid);
        match fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(uid, %error, "the runs of a pod's hooks are not removed");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
