//! What pulls depend on and may change under them: Secrets, the node's files, mirrors, plugins (IMG-77, IMG-162).
//!
//! Owns the comparison of files by their contents, so that a touch changes nothing. Must not carry contents. Start at [`Credentials::watch`].

use super::{Credentials, plugin::Plugins};
use crate::file_watch::FileWatch;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};
use tokio::{sync::broadcast, task::JoinSet};

/// So much of a file is compared.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Something that pulls depend on changed; contents are read anew by the next pull.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A pull Secret of a pod of this node appeared, was edited or vanished.
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A credential file of the node.
    NodeFiles,
    /// The configuration of registry hosts.
    Mirrors,
    /// The plugins' configuration or one of their programs.
    Plugin,
}

/// What stood in the watched files.
type Prints = BTreeMap<Change, [u8; 32]>;

/// The paths of one cause: files, and directories with what is in them and one level below.
type Watched = BTreeMap<Change, Vec<PathBuf>>;

impl Credentials {
    /// What changes from now on. Whoever falls behind has to assume that everything changed.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Watches files and the pull Secrets of the pods that were told by [`Credentials::refer`], until dropped.
    pub async fn watch(self) {
        let mut secrets = self.sources.secret_changes();
        let mut parts = JoinSet::new();
        parts.spawn(self.sources.clone().watch_secrets());
        let tell = self.changes.clone();
        parts.spawn(async move {
            loop {
                match secrets.recv().await {
                    // Nobody listening is no error: nobody waits.
                    Ok((namespace, name)) => drop(tell.send(Change::Secret { namespace, name })),
                    Err(broadcast::error::RecvError::Lagged(_)) => drop(tell.send(Change::NodeFiles)),
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        parts.spawn(self.watch_files());
        while parts.join_next().await.is_some() {}
    }

    /// A pod of this node has begun: its pull Secrets are watched until [`Credentials::forget`].
    pub fn refer(&self, pod: &crate::object::Pod) {
        let names = pod.pull_secrets().iter().map(|secret| secret.name.as_str()).filter(|n| !n.is_empty());
        self.sources.refer(pod.uid(), pod.namespace(), names);
    }

    /// The pod of this UID is gone from the node.
    pub fn forget(&self, uid: &str) {
        self.sources.forget(uid);
    }

    async fn watch_files(self) {
        let watched = self.watched();
        let mut known: Option<Prints> = None;
        loop {
            let paths = watched.clone();
            let look = move || (FileWatch::listen(paths.values().flatten()), prints(&paths));
            let Ok((watch, seen)) = tokio::task::spawn_blocking(look).await else { return };
            for cause in changed(known.as_ref(), &seen) {
                self.tell(cause);
            }
            known = Some(seen);
            watch.changed().await;
        }
    }

    fn watched(&self) -> Watched {
        let mut watched = Watched::new();
        watched.insert(Change::NodeFiles, self.places.list().into_iter().map(|(path, _)| path).collect());
        watched.insert(Change::Mirrors, self.options.mirrors.clone());
        if let Some(files) = &self.options.plugins {
            watched.insert(Change::Plugin, vec![files.config.clone(), files.bin_dir.clone()]);
        }
        watched
    }

    fn tell(&self, cause: Change) {
        if cause == Change::Plugin {
            self.reload_plugins();
        }
        tracing::info!(?cause, "what pulls depend on has changed");
        // Nobody listening is no error: nobody waits.
        let _ = self.changes.send(cause);
    }

    /// A configuration that is not good leaves the old one in force.
    fn reload_plugins(&self) {
        let Some(files) = &self.options.plugins else { return };
        match files.load() {
            Ok(providers) => {
                let plugins = Arc::new(Plugins::new(providers, files.bin_dir.clone()));
                *self.plugins.write().unwrap_or_else(PoisonError::into_inner) = plugins;
            }
            Err(error) => tracing::error!(%error, "the credential plugins stay as they were"),
        }
    }
}

/// The causes whose files differ; none when nothing was known before.
fn changed(known: Option<&Prints>, seen: &Prints) -> Vec<Change> {
    let Some(known) = known else { return Vec::new() };
    seen.iter().filter(|(cause, print)| known.get(*cause) != Some(*print)).map(|(cause, _)| cause.clone()).collect()
}

fn prints(watched: &Watched) -> Prints {
    let print = |paths: &Vec<PathBuf>| {
        let mut hash = Sha256::new();
        paths.iter().for_each(|path| add(&mut hash, path, 2));
        hash.finalize().into()
    };
    watched.iter().map(|(cause, paths)| (cause.clone(), print(paths))).collect()
}

/// Adds what stands at a path, and for a directory what is in it, `depth` levels down.
fn add(hash: &mut Sha256, path: &Path, depth: u8) {
    use std::io::Read as _;
    use std::os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _};
    let Ok(metadata) = std::fs::metadata(path) else { return };
    hash.update(path.as_os_str().as_bytes());
    if metadata.is_dir() && depth > 0 {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let sorted: BTreeSet<PathBuf> = entries.collect();
        sorted.iter().for_each(|path| add(hash, path, depth - 1));
    } else if metadata.is_file() && metadata.len() <= FILE_BYTES_MAX {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        // A file that cannot be read is another thing than an empty one.
        hash.update([u8::from(read.is_ok())]);
        hash.update(&bytes);
        hash.update((metadata.mode() & 0o111).to_be_bytes());
    } else if metadata.is_file() {
        // A program: what it is made of is not read, when it was replaced is.
        hash.update(metadata.len().to_be_bytes());
        hash.update(metadata.mtime().to_be_bytes());
        hash.update(metadata.ino().to_be_bytes());
    }
}
