//! The source that is a directory: one manifest a file, names with a dot first passed over, nothing below it read.
//!
//! Watched by inotify and looked through now and then. A file that cannot be read or is no pod is an error in the log; the
//! pod that it held before runs on, and so do the others. A file that is being written is left until it is whole. Start
//! at [`Files::watch`].

use super::{
    Update,
    touch::{QUIET, Touch, Touches},
    view::{Origin, Reader, StaticPod, pod},
};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    io::{self, Read as _},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio::{io::unix::AsyncFd, sync::mpsc, time::Instant};

/// What belongs together is told together.
const SETTLE: Duration = Duration::from_millis(20);
/// A directory that is not there is looked for so often.
const LOOK_FOR: Duration = Duration::from_secs(1);
/// Larger files are no manifests.
const BYTES_MAX: u64 = 10 << 20;

/// The source.
pub(super) struct Files {
    path: PathBuf,
    period: Duration,
    reader: Reader,
    entries: BTreeMap<PathBuf, Entry>,
    touches: Touches,
    watched: Option<Watched>,
}

/// What is known of one file.
#[derive(Debug, Clone, Default)]
struct Entry {
    /// As it was when it was read last.
    stamp: Option<Stamp>,
    digest: Option<[u8; 32]>,
    /// The last good pod in it.
    pod: Option<StaticPod>,
    /// It changed, and since when it has been quiet.
    waits: Option<(Stamp, Instant)>,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

struct Watched {
    inotify: AsyncFd<OwnedFd>,
    directory: (u64, u64),
}

/// What one look at the directory found.
#[derive(Default)]
struct Look {
    present: BTreeSet<PathBuf>,
    read: Vec<(PathBuf, Stamp, io::Result<Vec<u8>>)>,
    waiting: Vec<(PathBuf, Stamp)>,
    is_absent: bool,
}

impl Files {
    /// A source that held `known` when an earlier agent last saw it.
    pub(super) fn new(path: PathBuf, period: Duration, reader: Reader, known: Vec<StaticPod>) -> Self {
        let entry = |pod: StaticPod| (PathBuf::from(&pod.from), Entry { pod: Some(pod), ..Entry::default() });
        let entries = known.into_iter().map(entry).collect();
        Self { path, period, reader, entries, touches: Touches::default(), watched: None }
    }

    /// Tells what the directory holds, at first and after each change.
    pub(super) async fn watch(mut self, updates: mpsc::Sender<Update>) {
        let mut is_told = false;
        loop {
            self.listen();
            let _ = self.hear();
            let (path, known, touches) = (self.path.clone(), self.entries.clone(), self.touches.clone());
            let looked = tokio::task::spawn_blocking(move || look(&path, &known, &touches)).await;
            let Ok(looked) = looked else { return };
            let has_news = self.hear();
            let (is_changed, look_again) = match looked {
                Ok(look) => self.take(look, has_news),
                Err(error) => {
                    tracing::error!(path = %self.path.display(), %error, "static pods cannot be looked for");
                    (false, self.period)
                }
            };
            if is_changed || !is_told {
                is_told = true;
                let pods = self.entries.values().filter_map(|entry| entry.pod.clone()).collect();
                if updates.send(Update { origin: Origin::File, pods }).await.is_err() {
                    return;
                }
            }
            self.wait(look_again).await;
        }
    }

    /// Takes in a look: whether something is other than before, and when to look again. With news that came meanwhile that
    /// is at once, and what was read may be old.
    fn take(&mut self, look: Look, has_news: bool) -> (bool, Duration) {
        let gone = |path: &PathBuf| !look.present.contains(path);
        let mut is_changed = self.entries.iter().any(|(path, entry)| gone(path) && entry.pod.is_some());
        self.entries.retain(|path, _| !gone(path));
        let mut is_waiting = !look.waiting.is_empty();
        let now = Instant::now();
        for (path, stamp) in look.waiting {
            let entry = self.entries.entry(path).or_default();
            entry.waits = Some(entry.waits.filter(|(known, _)| *known == stamp).unwrap_or((stamp, now)));
        }
        for (path, stamp, read) in look.read {
            let name = file_name(&path);
            if self.touches.is_open(&name) {
                // Somebody began to write it while it was read.
                is_waiting = true;
                continue;
            }
            if !has_news {
                self.touches.was_read(&name);
            }
            is_changed |= self.read(path, stamp, read);
        }
        let again = match (is_waiting, look.is_absent) {
            _ if has_news => Duration::ZERO,
            (true, _) => QUIET,
            (false, true) => LOOK_FOR.min(self.period),
            (false, false) => self.period,
        };
        (is_changed, again)
    }

    /// Takes in what a file holds: whether that is another pod.
    fn read(&mut self, path: PathBuf, stamp: Stamp, read: io::Result<Vec<u8>>) -> bool {
        let from = path.to_string_lossy().into_owned();
        let entry = self.entries.entry(path).or_default();
        (entry.stamp, entry.waits) = (Some(stamp), None);
        let digest = read.as_ref().ok().map(|bytes| Sha256::digest(bytes).into());
        if digest.is_some() && digest == entry.digest {
            return false;
        }
        entry.digest = digest;
        let place = self.reader.place(Origin::File, &from);
        let made = read.map_err(|error| error.to_string());
        match made.and_then(|bytes| pod(&bytes, place).map_err(|refused| refused.to_string())) {
            Ok((pod, unknown)) => {
                if !unknown.is_empty() {
                    tracing::warn!(file = from, fields = unknown.join(", "), "passed over in a static pod's manifest");
                }
                if entry.pod.as_ref().is_some_and(|known| known.says_the_same(&pod)) {
                    return false;
                }
                tracing::info!(file = from, pod = %pod.name(), uid = pod.uid(), "static pod read");
                entry.pod = Some(pod);
                true
            }
            Err(why) => {
                let runs_on = entry.pod.as_ref().map(|pod| pod.name().to_string());
                tracing::error!(file = from, why, runs_on, "no static pod can be made of this file");
                false
            }
        }
    }

    /// Listens to the directory that is there now.
    fn listen(&mut self) {
        let directory = directory(&self.path);
        let Ok(metadata) = std::fs::metadata(&directory) else {
            self.watched = None;
            return;
        };
        let identity = (metadata.dev(), metadata.ino());
        if self.watched.as_ref().is_some_and(|watched| watched.directory == identity) {
            return;
        }
        self.touches.forget();
        self.watched = match listen(&directory) {
            Ok(inotify) => Some(Watched { inotify, directory: identity }),
            Err(error) => {
                tracing::debug!(%error, "static pods are only looked for now and then");
                None
            }
        };
    }

    /// Takes in what was told since the last time; whether that was anything.
    fn hear(&mut self) -> bool {
        let Some(watched) = &self.watched else { return false };
        let mut has_news = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(watched.inotify.get_ref(), &mut buffer);
        while let Ok(event) = reader.next() {
            has_news = true;
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.touches.forget();
            }
            let Some(name) = event.file_name() else { continue };
            let touch = match flags {
                flags if flags.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) => Touch::Done,
                flags if flags.contains(ReadFlags::MODIFY) => Touch::Written,
                flags if flags.contains(ReadFlags::CREATE) => Touch::Made,
                _ => Touch::Gone,
            };
            self.touches.note(OsStr::from_bytes(name.to_bytes()).to_owned(), touch);
        }
        has_news
    }

    /// Returns when something was told, or after a while.
    async fn wait(&self, limit: Duration) {
        let Some(watched) = &self.watched else { return tokio::time::sleep(limit).await };
        if let Ok(Ok(mut ready)) = tokio::time::timeout(limit, watched.inotify.readable()).await {
            ready.clear_ready();
            tokio::time::sleep(SETTLE).await;
        }
    }
}

fn directory(path: &Path) -> PathBuf {
    if path.is_file() { path.parent().unwrap_or(Path::new("/")).to_owned() } else { path.to_owned() }
}

fn file_name(path: &Path) -> OsString {
    path.file_name().unwrap_or_default().to_owned()
}

fn listen(directory: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let flags = WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&inotify, directory, flags)?;
    // The replacement is unsafe because a descriptor could be closed behind its back; an `OwnedFd` cannot.
    #[allow(deprecated)]
    AsyncFd::new(inotify)
}

/// Looks through the directory and reads what is new and whole.
fn look(path: &Path, known: &BTreeMap<PathBuf, Entry>, touches: &Touches) -> io::Result<Look> {
    let mut look = Look::default();
    let paths = match list(path) {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look { is_absent: true, ..look }),
        Err(error) => return Err(error),
    };
    for path in paths {
        // A link that leads nowhere, or a file that has just gone.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        look.present.insert(path.clone());
        let (stamp, entry) = (Stamp::of(&metadata), known.get(&path));
        if entry.is_some_and(|entry| entry.stamp == Some(stamp)) {
            continue;
        }
        let waits = entry.and_then(|entry| entry.waits).filter(|(known, _)| *known == stamp);
        let quiet_here = waits.map_or(Duration::ZERO, |(_, since)| since.elapsed());
        if touches.is_whole(&file_name(&path), stamp.age().max(quiet_here)) {
            let bytes = read(&path, metadata.len());
            look.read.push((path, stamp, bytes));
        } else {
            look.waiting.push((path, stamp));
        }
    }
    Ok(look)
}

fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    if std::fs::metadata(path)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    let visible = |path: &PathBuf| !file_name(path).as_bytes().starts_with(b".");
    Ok(entries.into_iter().map(|entry| entry.path()).filter(visible).collect())
}

fn read(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    if bytes > BYTES_MAX {
        return Err(io::Error::other(format!("it has {bytes} bytes; a manifest has at most {BYTES_MAX}")));
    }
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long ago it was written; nothing for a time to come.
    fn age(&self) -> Duration {
        let (seconds, nanoseconds) = self.modified;
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
        // A file's times are the machine's.
        #[allow(clippy::disallowed_methods)]
        let now = SystemTime::now();
        now.duration_since(SystemTime::UNIX_EPOCH + since).unwrap_or(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::clock::Clock;
    use std::{fs, io::Write as _};
    use tokio::task::JoinSet;

    struct Bench {
        directory: tempfile::TempDir,
        updates: mpsc::Receiver<Update>,
        _task: JoinSet<()>,
    }

    fn manifest(name: &str, image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    }

    impl Bench {
        fn new(known: Vec<StaticPod>) -> Bench {
            Bench::with(tempfile::tempdir().unwrap(), "", known)
        }

        fn with(directory: tempfile::TempDir, below: &str, known: Vec<StaticPod>) -> Bench {
            let (sender, updates) = mpsc::channel(16);
            let reader = Reader { node_name: "n".into(), clock: Clock::System };
            let path = directory.path().join(below);
            // The period is longer than a test may take: what is seen was told.
            let files = Files::new(path, Duration::from_secs(600), reader, known);
            let mut task = JoinSet::new();
            task.spawn(files.watch(sender));
            Bench { directory, updates, _task: task }
        }

        fn put(&self, name: &str, text: &str) {
            fs::write(self.directory.path().join(name), text).unwrap();
        }

        /// Names and images of the next update.
        async fn next(&mut self) -> Vec<(String, String)> {
            let next = tokio::time::timeout(Duration::from_secs(60), self.updates.recv()).await;
            let pods = next.expect("an update in time").unwrap().pods;
            pods.iter().map(|p| (p.pod.name().to_owned(), p.pod.spec.containers[0].image.clone())).collect()
        }
    }

    fn pods(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect()
    }

    #[tokio::test]
    async fn files_come_change_and_go_and_a_broken_one_harms_nobody() {
        let mut bench = Bench::new(Vec::new());
        assert_eq!(bench.next().await, pods(&[]));
        bench.put("a.yaml", &manifest("a", "x:1"));
        assert_eq!(bench.next().await, pods(&[("a-n", "x:1")]));
        bench.put(".hidden.yaml", &manifest("h", "x:1"));
        bench.put("broken.yaml", "kind: [");
        fs::create_dir(bench.directory.path().join("below")).unwrap();
        bench.put("b.json", &manifest("b", "x:2"));
        assert_eq!(bench.next().await, pods(&[("a-n", "x:1"), ("b-n", "x:2")]));
        // A file that turns bad keeps the pod that it held.
        bench.put("a.yaml", "kind: [");
        bench.put("b.json", &manifest("b", "x:3"));
        assert_eq!(bench.next().await, pods(&[("a-n", "x:1"), ("b-n", "x:3")]));
        fs::remove_file(bench.directory.path().join("a.yaml")).unwrap();
        assert_eq!(bench.next().await, pods(&[("b-n", "x:3")]));
    }

    #[tokio::test]
    async fn a_file_is_not_read_before_its_writer_is_done() {
        let mut bench = Bench::new(Vec::new());
        assert_eq!(bench.next().await, pods(&[]));
        let text = manifest("a", "x:1").replace("}]}", "}, {name: d, image: z}]}");
        let mut file = fs::File::create(bench.directory.path().join("a.yaml")).unwrap();
        // What is there so far would be a good manifest of another pod.
        file.write_all(manifest("a", "half").as_bytes()).unwrap();
        file.flush().unwrap();
        bench.put("b.yaml", &manifest("b", "x:1"));
        assert_eq!(bench.next().await, pods(&[("b-n", "x:1")]), "the other one was read, this one is open");
        file.set_len(0).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        drop(file);
        assert_eq!(bench.next().await, pods(&[("a-n", "x:1"), ("b-n", "x:1")]));
        let staged = bench.directory.path().join(".staged");
        fs::write(&staged, manifest("a", "x:2")).unwrap();
        fs::rename(staged, bench.directory.path().join("a.yaml")).unwrap();
        assert_eq!(bench.next().await, pods(&[("a-n", "x:2"), ("b-n", "x:1")]));
    }

    #[tokio::test]
    async fn a_directory_that_comes_later_goes_and_comes_again_is_found() {
        let mut bench = Bench::with(tempfile::tempdir().unwrap(), "manifests", Vec::new());
        assert_eq!(bench.next().await, pods(&[]));
        let path = bench.directory.path().join("manifests");
        for image in ["x:1", "x:2"] {
            let staged = bench.directory.path().join("staged");
            fs::create_dir(&staged).unwrap();
            fs::write(staged.join("a.yaml"), manifest("a", image)).unwrap();
            fs::rename(&staged, &path).unwrap();
            assert_eq!(bench.next().await, pods(&[("a-n", image)]));
            fs::remove_dir_all(&path).unwrap();
            assert_eq!(bench.next().await, pods(&[]));
        }
    }

    #[tokio::test]
    async fn one_file_may_be_the_whole_source_and_a_link_may_lead_to_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("real"), manifest("a", "x:1")).unwrap();
        std::os::unix::fs::symlink("real", directory.path().join("one.yaml")).unwrap();
        let mut bench = Bench::with(directory, "one.yaml", Vec::new());
        let mut first = bench.next().await;
        while first.is_empty() {
            first = bench.next().await;
        }
        assert_eq!(first, pods(&[("a-n", "x:1")]));
    }

    #[tokio::test]
    async fn after_a_restart_a_broken_file_still_means_its_last_good_pod_and_a_missing_one_none() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let known = |name: &str| {
            let reader = Reader { node_name: "n".into(), clock: Clock::System };
            let from = place(&format!("{name}.yaml"));
            pod(manifest(name, "x:1").as_bytes(), reader.place(Origin::File, &from)).unwrap().0
        };
        let (kept, gone) = (known("kept"), known("gone"));
        fs::write(place("kept.yaml"), "kind: [").unwrap();
        let mut bench = Bench::with(directory, "", vec![kept, gone]);
        assert_eq!(bench.next().await, pods(&[("kept-n", "x:1")]));
    }
}
