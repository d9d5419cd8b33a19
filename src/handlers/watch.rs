//! Reads the handlers anew on SIGHUP and when a file changes (RTC-80).
//!
//! A configuration with a mistake leaves the handlers as they are. Binaries are not watched: the runtime looks for them whenever it is asked.

use std::collections::BTreeSet;
use std::path::PathBuf;

use node::file_watch::FileWatch;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Inventory, choose_default, load};
use crate::settings::Resolved;

/// Keeps the runtime's handlers what the files say, until cancelled.
pub async fn run(resolved: Resolved, runtime: runtime::Runtime, cancel: CancellationToken) -> anyhow::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut known: Option<Result<(Inventory, String), String>> = None;
    loop {
        let (settings, watched) = (resolved.clone(), watched(&resolved, known.as_ref()));
        // Listening begins before reading: what changes in between is told.
        let looked = tokio::task::spawn_blocking(move || (FileWatch::listen(&watched), read(&settings)));
        let (files, seen) = looked.await?;
        if known.as_ref() != Some(&seen) {
            apply(&runtime, known.as_ref(), &seen);
            let paths_differ = seen.is_ok() && watched_of(known.as_ref()) != watched_of(Some(&seen));
            known = Some(seen);
            if paths_differ {
                continue;
            }
        }
        let woken = cancel.run_until_cancelled(wait(&files, &mut hang_up)).await;
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
async fn wait(files: &FileWatch, hang_up: &mut Signal) {
    tokio::select! {
        _ = hang_up.recv() => tracing::info!("SIGHUP: the handlers are read anew"),
        () = files.changed() => {}
    }
}
