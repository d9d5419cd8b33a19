//! Reads the handlers anew on SIGHUP and when a file changes (RTC-80).
//!
//! Directories are watched by inotify, so that files which are not there yet count too. A configuration with a mistake
//! leaves the handlers as they are. Binaries are not watched: the runtime looks for them whenever it is asked.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Inventory, choose_default, load};
use crate::settings::Resolved;

/// Files are read at least so often, for file systems that tell nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long a writer may take for several files that belong together.
const SETTLE: Duration = Duration::from_millis(50);

/// Keeps the runtime's handlers what the files say, until cancelled.
pub async fn run(resolved: Resolved, runtime: runtime::Runtime, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut known: Option<Result<(Inventory, String), String>> = None;
    loop {
        let (settings, watched) = (resolved.clone(), watched(&resolved, known.as_ref()));
        // Listening begins before reading: what changes in between is told.
        let looked = tokio::task::spawn_blocking(move || (listen(&watched), read(&settings)));
        let (inotify, seen) = looked.await?;
        if known.as_ref() != Some(&seen) {
            apply(&runtime, known.as_ref(), &seen);
            let paths_differ = seen.is_ok() && watched_of(known.as_ref()) != watched_of(Some(&seen));
            known = Some(seen);
            if paths_differ {
                continue;
            }
        }
        let woken = cancel.run_until_cancelled(wait(inotify, &mut hang_up)).await;
        if woken.is_none() {
            return Ok(());
        }
    }
}

type Seen = Result<(Inventory, String), String>;

fn read(resolved: &Resolved) -> Seen {
    let inventory = load(resolved).map_err(|error| format!("{error:#}"))?;
    let default = choose_default(resolved, &inventory).map_err(|error| format!("{error:#}"))?;
    Ok((inventory, default))
}

fn apply(runtime: &runtime::Runtime, known: Option<&Seen>, seen: &Seen) {
    let (inventory, default) = match seen {
        Ok(seen) => seen,
        Err(error) => return tracing::error!(error, "the handlers stay as they were"),
    };
    if let Err(error) = runtime.set_handlers(inventory.handlers(), default.clone()) {
        return tracing::error!(%error, "the handlers stay as they were");
    }
    if known.is_some() {
        let names: Vec<&str> = inventory.known.iter().map(|known| known.handler.name.as_str()).collect();
        tracing::info!(handlers = names.join(", "), default, "the handlers were read anew");
    }
}

fn watched_of(seen: Option<&Seen>) -> BTreeSet<PathBuf> {
    seen.and_then(|seen| seen.as_ref().ok()).map(|(inventory, _)| inventory.watched.clone()).unwrap_or_default()
}

/// What to watch: what the last good reading names, and the places themselves.
fn watched(resolved: &Resolved, known: Option<&Seen>) -> BTreeSet<PathBuf> {
    let places = &resolved.foreign_handlers;
    let mut watched = watched_of(known);
    watched.extend(
        [&places.containerd, &places.crio, &places.crio_drop_ins].into_iter().flatten().map(|p| p.path.clone()),
    );
    watched.extend(resolved.config_file.clone());
    watched
}

/// Returns when something may have changed, or after a while.
async fn wait(inotify: std::io::Result<OwnedFd>, hang_up: &mut Signal) {
    let heard = inotify.and_then(|fd| {
        // The replacement is unsafe because a descriptor could be closed behind its back; an `OwnedFd` cannot.
        #[allow(deprecated)]
        AsyncFd::new(fd)
    });
    let changed = async {
        match &heard {
            Ok(inotify) => drain(inotify).await,
            Err(error) => {
                tracing::debug!(%error, "files are not watched, only read now and then");
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        _ = hang_up.recv() => tracing::info!("SIGHUP: the handlers are read anew"),
        () = changed => tokio::time::sleep(SETTLE).await,
        () = tokio::time::sleep(LOOK_AGAIN) => {}
    }
}

async fn drain(inotify: &AsyncFd<OwnedFd>) {
    if let Ok(mut ready) = inotify.readable().await {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(ready.get_inner(), &mut buffer);
        while reader.next().is_ok() {}
        ready.clear_ready();
    }
}

/// Listens to every directory in which something of `watched` is or may appear.
fn listen(watched: &BTreeSet<PathBuf>) -> std::io::Result<OwnedFd> {
    let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let flags = WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    let directories: BTreeSet<PathBuf> = watched.iter().flat_map(|path| directories(path)).collect();
    for directory in directories {
        // It may have gone in the meantime: then its parent tells.
        let _ = add_watch(&inotify, &directory, flags);
    }
    Ok(inotify)
}

/// The nearest directory above that is there, the one where links lead, and a directory itself.
fn directories(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        path.ancestors().skip(1).find(|above| above.is_dir()).map(Path::to_owned).into_iter().collect();
    if let Ok(real) = path.canonicalize() {
        found.extend(real.parent().map(Path::to_owned));
    }
    if path.is_dir() {
        found.push(path.to_owned());
    }
    found
}
