//! Volumes: making a pod's volumes exist on the host, and taking them away.
//!
//! Owns everything below `<data_dir>/pods/<uid>/volumes` and `…/volume-subpaths`, the fetching of ConfigMaps and
//! Secrets ([`Sources`]) and of tokens, and the removal of a pod's directory. Must not talk to the runtime: a container's mounts are
//! written by `crate::config` from what [`Volumes::prepare`] returns. Planning (`plan`, `payload`) is pure; `act`,
//! `writer`, `mounts`, `host_path` and `sub_path` do it, idempotently, so that a crash anywhere is followed by the same
//! call again. Start at [`Volumes`].

mod act;
mod host_path;
mod mounts;
mod payload;
mod plan;
mod sources;
mod sub_path;
mod tokens;
mod watched;
mod writer;

pub use sources::{SourceError, Sources};
pub use sub_path::{SubPath, bind as bind_sub_path};
pub use tokens::{request as request_token, said};

use crate::config::{Context, pod_directory};
use crate::object::Pod;
use cri::v1;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
};
use tokens::{Given, Tokens, Wanted};

/// A pod's volumes as they are on the host, by volume name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mounted {
    /// Only volumes that some container mounts.
    pub volumes: BTreeMap<String, MountedVolume>,
}

/// One volume that is ready.
#[derive(Debug, Clone, PartialEq)]
pub enum MountedVolume {
    /// A directory or file of the host.
    Path {
        /// Where it is.
        path: PathBuf,
        /// True for volumes that containers may never write (Secrets, ConfigMaps, downward API, projected).
        read_only: bool,
    },
    /// An image that the runtime mounts itself. The caller replaces `image` by the pulled reference.
    Image(v1::ImageSpec),
}

/// Volumes that could not be set up; the others of the pod are ready.
#[derive(Debug, thiserror::Error)]
#[error("{}", .failures.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub struct Error {
    /// One entry per volume, each the message of a `FailedMount` event.
    pub failures: Vec<Failure>,
}

/// One volume that could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {cause}")]
pub struct Failure {
    /// The volume's name in the pod.
    pub volume: String,
    /// What is wrong, in words.
    pub cause: String,
}

/// Why a pod's directory could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum TearDownError {
    /// The UID cannot be a directory name.
    #[error("{0:?} is not a pod uid")]
    Uid(String),
    /// Something is still mounted below it, so that removing would reach out of it.
    #[error("{0} is still mounted")]
    StillMounted(PathBuf),
    /// A file system call failed.
    #[error("cannot {attempt} {path}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// On which path.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The blocking task was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// The volumes of all pods of a node.
#[derive(Debug, Clone)]
pub struct Volumes {
    sources: Sources,
    tokens: Tokens,
    ctx: Arc<Context>,
}

impl Volumes {
    /// Volumes below `ctx.data_dir`, with ConfigMaps and Secrets read through `sources`.
    pub fn new(sources: Sources, ctx: Arc<Context>) -> Volumes {
        Volumes { sources, tokens: Tokens::default(), ctx }
    }

    /// Where ConfigMaps and Secrets are read.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Makes every volume that a container of the pod mounts ready, and brings the contents of those with files from
    /// the API up to date. Idempotent; call it again about once a minute for updates.
    ///
    /// # Errors
    /// [`Error`] with all volumes that failed, each worth a `FailedMount` event.
    pub async fn prepare(&self, pod: &Pod) -> Result<Mounted, Error> {
        let references = plan::references(pod);
        let (mut objects, tokens) = tokio::join!(
            self.sources.objects(pod.namespace(), &references.config_maps, &references.secrets),
            self.tokens(pod, &references.tokens),
        );
        objects.tokens = tokens;
        let (plans, mut failures) = plan::plan(pod, &self.ctx, &objects);
        let directory = pod_directory(&self.ctx.data_dir, pod.uid());
        let group = pod.spec.security_context.fs_group.and_then(|g| u32::try_from(g).ok());
        let task = tokio::task::spawn_blocking(move || act::realise_all(&directory, plans, group));
        let (volumes, failed) = task.await.unwrap_or_else(|e| {
            let cause = e.to_string();
            (BTreeMap::new(), vec![Failure { volume: String::new(), cause }])
        });
        failures.extend(failed);
        if failures.is_empty() { Ok(Mounted { volumes }) } else { Err(Error { failures }) }
    }

    /// The tokens that the pod's volumes ask for, all at once.
    async fn tokens(&self, pod: &Pod, wanted: &BTreeSet<Wanted>) -> Given {
        let client = self.sources.client();
        let now = jiff::Timestamp::now().as_second();
        let asked = wanted.iter().map(|wanted| self.tokens.get(&client, pod, wanted, now));
        let given = futures_util::future::join_all(asked).await;
        wanted.iter().cloned().zip(given).collect()
    }

    /// Unmounts all that is mounted below the pod's directory and removes it. Succeeds when there is none.
    ///
    /// # Errors
    /// [`TearDownError`]; worth trying again.
    pub async fn tear_down(&self, uid: &str) -> Result<(), TearDownError> {
        if uid.is_empty() || uid.contains('/') || uid.starts_with('.') {
            return Err(TearDownError::Uid(uid.to_owned()));
        }
        self.tokens.forget(uid);
        let directory = pod_directory(&self.ctx.data_dir, uid);
        let task = tokio::task::spawn_blocking(move || mounts::remove_tree(&directory));
        task.await.map_err(|_| TearDownError::Interrupted)?
    }

    /// The UIDs of all pods that have a directory on this node, living or left over.
    pub fn known(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.ctx.data_dir.join("pods")).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }
}
