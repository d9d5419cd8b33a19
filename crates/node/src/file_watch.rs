//! Tells that files may have changed: directories by inotify, so that a file which is not there yet counts too.
//!
//! Owns the listening alone. What has changed, and whether at all, is for the caller to find by reading; so nothing is
//! lost on file systems that tell nothing. Start at [`FileWatch::listen`].

use std::{
    collections::BTreeSet,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

/// Callers look at least so often, for file systems that tell nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long a writer may take for several files that belong together.
const SETTLE: Duration = Duration::from_millis(50);

/// A watch of some paths, from the moment it was made.
pub struct FileWatch(Option<AsyncFd<OwnedFd>>);

impl FileWatch {
    /// Listens to every directory in which something of `paths` is or may appear. It touches the disk, and must be called
    /// within a tokio runtime. To miss nothing, listen first and read then.
    pub fn listen<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> FileWatch {
        let watch = inotify(paths).and_then(|fd| {
            // The replacement is unsafe because a descriptor could be closed behind its back; an `OwnedFd` cannot.
            #[allow(deprecated)]
            AsyncFd::new(fd)
        });
        match watch {
            Ok(watch) => FileWatch(Some(watch)),
            Err(error) => {
                tracing::debug!(%error, "files are not watched, only read now and then");
                FileWatch(None)
            }
        }
    }

    /// Returns when something may have changed and the writer had a moment to finish, or after half a minute.
    pub async fn changed(&self) {
        let told = async {
            match &self.0 {
                Some(watch) => drain(watch).await,
                None => std::future::pending().await,
            }
        };
        if tokio::time::timeout(LOOK_AGAIN, told).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

async fn drain(watch: &AsyncFd<OwnedFd>) {
    if let Ok(mut ready) = watch.readable().await {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(ready.get_inner(), &mut buffer);
        while reader.next().is_ok() {}
        ready.clear_ready();
    }
}

fn inotify<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> io::Result<OwnedFd> {
    let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let flags = WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    let directories: BTreeSet<PathBuf> = paths.into_iter().flat_map(|path| directories(path)).collect();
    for directory in directories {
        // It may have gone in the meantime: then its parent tells.
        let _ = add_watch(&inotify, &directory, flags);
    }
    Ok(inotify)
}

/// The directories whose news can be about this path: the nearest one that is there, where links lead, and for a
/// directory itself and those in it.
fn directories(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    found.extend(path.ancestors().skip(1).find(|ancestor| ancestor.is_dir()).map(Path::to_owned));
    if let Ok(real) = path.canonicalize() {
        found.extend(real.parent().map(Path::to_owned));
    }
    if path.is_dir() {
        let below = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(below.filter(|path| path.is_dir()));
        found.push(path.to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_not_there_is_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("late").join("file");
        let watch = FileWatch::listen([&file]);
        let began = tokio::time::Instant::now();
        std::fs::create_dir(directory.path().join("late")).unwrap();
        watch.changed().await;
        assert!(began.elapsed() < LOOK_AGAIN, "nothing was told");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let began = tokio::time::Instant::now();
        FileWatch::listen([&directory.path().to_owned()]).changed().await;
        assert_eq!(began.elapsed(), LOOK_AGAIN);
    }

    #[test]
    fn links_are_watched_where_they_lead() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("file"), "").unwrap();
        std::os::unix::fs::symlink(real.join("file"), &link).unwrap();
        let real = real.canonicalize().unwrap();
        assert!(directories(&link).contains(&real), "{:?}", directories(&link));
    }
}
