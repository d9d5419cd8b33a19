//! The door of this room: [`Images`].

use crate::archive::{self, ArchiveError, ImportOptions, ImportSource};
use crate::credential::Credential;
use crate::error::{OpenError, PullError, RemoveError};
use crate::flight::{Flights, NamedLocks};
use crate::machine;
use crate::progress::{ProgressSink, PullProgress};
use crate::pull;
use crate::queue::Queue;
use crate::registry::{ProxyOptions, Transport};
use crate::store::{Image, Store};
use reference::{Digest, Platform, Reference};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const NO_PROGRESS: Duration = Duration::from_secs(300);
const LAYERS_AT_ONCE: usize = 3;
const LAYERS_IN_ALL: usize = 6;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// `<data-dir>/images`.
    pub root: PathBuf,
    /// Directories with a directory for each registry, read at each pull; the first that knows it counts (IMG-134).
    pub hosts_directories: Vec<PathBuf>,
    /// `registries.yaml` files in k3s' form, read at each pull; the first that exists counts.
    pub registries_files: Vec<PathBuf>,
    /// Proxies on the way to registries (IMG-145).
    pub proxy: ProxyOptions,
    /// What this node runs.
    pub platform: Platform,
    /// How long a pull may go without a byte; zero for as long as its connections live (IMG-151).
    pub no_progress: Duration,
    /// How many layers of one pull are fetched at once (IMG-142).
    pub layers_at_once: usize,
    /// How many layers of all pulls are fetched at once.
    pub layers_in_all: usize,
}

impl Options {
    /// The defaults for `<data-dir>/images`, on the machine this program was built for, with this process's environment.
    pub fn new(root: impl Into<PathBuf>) -> Options {
        let root = root.into();
        let beside = |name: &str| root.parent().map(|data| data.join(name));
        let system = |path: &str| Some(PathBuf::from(path));
        let directories = [beside("certs.d"), system("/etc/containerd/certs.d"), system("/etc/docker/certs.d")];
        let files = [beside("registries.yaml"), system("/etc/rancher/k3s/registries.yaml")];
        Options {
            hosts_directories: directories.into_iter().flatten().collect(),
            registries_files: files.into_iter().flatten().collect(),
            proxy: ProxyOptions::from_environment(),
            root,
            platform: machine::platform(),
            no_progress: NO_PROGRESS,
            layers_at_once: LAYERS_AT_ONCE,
            layers_in_all: LAYERS_IN_ALL,
        }
    }
}

/// What to pull.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PullRequest {
    /// The name, in any form a user may write.
    pub image: String,
    /// What to present if the registry asks.
    pub credential: Option<Credential>,
    /// Extra headers for the registry itself; never shown.
    pub headers: Vec<(String, String)>,
}

/// What the store takes on its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of layers and partial blobs.
    pub bytes: u64,
    /// Inodes of layers.
    pub inodes: u64,
}

/// What all pulls of a store share.
pub(crate) struct Core {
    pub(crate) store: Store,
    pub(crate) transport: Arc<Transport>,
    pub(crate) options: Options,
    /// One fetch per layer, by diff id and by blob digest (IMG-109).
    pub(crate) layer_locks: NamedLocks,
    pub(crate) queue: Arc<Queue>,
    /// Tells one pull from another in the queue.
    pub(crate) numbers: AtomicU64,
    pub(crate) tasks: TaskTracker,
}

/// The image store of a node. Cloning is cheap; all clones are one store.
#[derive(Clone)]
pub struct Images {
    core: Arc<Core>,
    flights: Arc<Flights<PullRequest>>,
}

impl Images {
    /// Opens the store, removes what a crash has left, and loads what is whole.
    pub async fn open(options: Options) -> Result<Images, OpenError> {
        let root = options.root.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&root))
            .await
            .map_err(|error| OpenError::Io { path: options.root.clone(), source: std::io::Error::other(error) })??;
        let core = Core {
            store,
            transport: Arc::new(Transport::new(&options.proxy)),
            layer_locks: NamedLocks::default(),
            queue: Queue::new(options.layers_at_once, options.layers_in_all),
            numbers: AtomicU64::new(0),
            options,
            tasks: TaskTracker::new(),
        };
        Ok(Images { core: Arc::new(core), flights: Flights::new() })
    }

    /// Pulls an image; joins an identical pull in flight. Whoever cancels, or drops the future, leaves; the work itself
    /// ends when nobody is left.
    pub async fn pull(
        &self,
        request: PullRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<Arc<Image>, PullError> {
        let reference = Reference::parse(&request.image)
            .map_err(|source| PullError::InvalidName { image: request.image.clone(), source })?
            .stored();
        let name = reference.canonical();
        let key = PullRequest { image: name.clone(), ..request.clone() };
        let (core, tasks) = (self.core.clone(), self.core.tasks.clone());
        let seat = self.flights.join(key, progress, &tasks, |flight| async move {
            let cancelled = PullError::Cancelled { reference: reference.canonical() };
            tokio::select! {
                outcome = pull::pull(&core, reference, request, &flight.board) => outcome,
                () = flight.cancel.cancelled() => Err(cancelled),
            }
        });
        tokio::select! {
            outcome = seat.outcome() => outcome,
            () = cancel.cancelled() => Err(PullError::Cancelled { reference: name }),
        }
    }

    /// Every pull under way, by the name of its image.
    pub fn pulls(&self) -> Vec<PullProgress> {
        let flights = self.flights.under_way();
        let mut pulls: Vec<PullProgress> =
            flights.iter().map(|(request, flight)| flight.board.sum(&request.image)).collect();
        pulls.sort_by(|a, b| a.image.cmp(&b.image));
        pulls
    }

    /// Hears of each beginning, end and progress of any pull; [`Images::pulls`] then tells how they stand.
    pub fn pull_changes(&self) -> watch::Receiver<()> {
        self.flights.changes()
    }

    /// Asks the registry what a name stands for now. Nothing is fetched or kept.
    pub async fn resolve_remote(&self, request: &PullRequest) -> Result<Digest, PullError> {
        let reference = Reference::parse(&request.image)
            .map_err(|source| PullError::InvalidName { image: request.image.clone(), source })?
            .stored();
        Ok(pull::session(&self.core, &reference, request.clone()).await?.resolve().await?.digest)
    }

    /// The image of a familiar or canonical name, `name@digest`, id, or unambiguous beginning of an id (IMG-231).
    pub fn resolve(&self, name_or_id: &str) -> Option<Arc<Image>> {
        self.core.store.resolve(name_or_id)
    }

    /// All images.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.core.store.list()
    }

    /// Removes an image with all its names, and the layers that neither another image nor a [`Hold`] needs. An image
    /// that is being pulled is left alone (IMG-267).
    pub async fn remove(&self, name_or_id: &str) -> Result<(), RemoveError> {
        let image = self.resolve(name_or_id);
        if image.is_some_and(|image| self.is_being_pulled(&image)) {
            return Err(RemoveError::BeingPulled { image: name_or_id.to_owned() });
        }
        let (core, image) = (self.core.clone(), name_or_id.to_owned());
        let removed = tokio::task::spawn_blocking(move || core.store.remove(&image)).await;
        let removed = removed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        match removed {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(RemoveError::NotFound { image: name_or_id.to_owned() }),
            Err(source) if source.kind() == std::io::ErrorKind::ResourceBusy => {
                Err(RemoveError::BeingPulled { image: name_or_id.to_owned() })
            }
            Err(source) => Err(RemoveError::Io { image: name_or_id.to_owned(), source }),
        }
    }

    /// Whether a pull of one of an image's names is under way.
    fn is_being_pulled(&self, image: &Image) -> bool {
        let pulled = self.flights.under_way();
        pulled.iter().any(|(request, _)| image.tags.contains(&request.image) || image.digests.contains(&request.image))
    }

    /// Says whether an image is to be kept although nothing uses it.
    pub async fn set_pinned(&self, name_or_id: &str, pinned: bool) -> Result<Arc<Image>, RemoveError> {
        let (core, image) = (self.core.clone(), name_or_id.to_owned());
        let set = tokio::task::spawn_blocking(move || core.store.set_pinned(&image, pinned)).await;
        match set.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(Some(image)) => Ok(image),
            Ok(None) => Err(RemoveError::NotFound { image: name_or_id.to_owned() }),
            Err(source) => Err(RemoveError::Io { image: name_or_id.to_owned(), source }),
        }
    }

    /// Imports every image of an archive (IMG-230).
    pub async fn import(&self, source: ImportSource, options: ImportOptions) -> Result<Vec<Arc<Image>>, ArchiveError> {
        let core = self.core.clone();
        let imported = self.core.tasks.spawn_blocking(move || archive::import::import(&core, source, &options)).await;
        imported.unwrap_or_else(|error| Err(ArchiveError::Invalid(format!("the import broke off: {error}"))))
    }

    /// Writes images into an archive; returns when it is whole.
    pub async fn export(&self, names: &[String], to: impl std::io::Write + Send + 'static) -> Result<(), ArchiveError> {
        let find = |name: &String| {
            let image = self.resolve(name).ok_or_else(|| ArchiveError::NotFound { image: name.clone() })?;
            Ok((name.clone(), image))
        };
        let images = names.iter().map(find).collect::<Result<Vec<_>, ArchiveError>>()?;
        let holds: Vec<Hold> = images.iter().map(|(_, image)| self.hold(image)).collect();
        let core = self.core.clone();
        let written = self.core.tasks.spawn_blocking(move || archive::export::export(&core, &images, to)).await;
        drop(holds);
        written.unwrap_or_else(|error| Err(ArchiveError::Invalid(format!("the export broke off: {error}"))))
    }

    /// The directories to stack for an image, topmost first, each once; an empty one for an image without layers.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        let mut seen: Vec<&Digest> = Vec::new();
        for diff_id in image.layers.iter().rev() {
            // overlayfs refuses a directory that is named twice; the upper place decides.
            if !seen.contains(&diff_id) {
                seen.push(diff_id);
            }
        }
        if seen.is_empty() {
            return vec![self.core.store.empty_directory()];
        }
        seen.into_iter().map(|diff_id| self.core.store.layer_files(diff_id)).collect()
    }

    /// Keeps the layers of an image on disk, also if the image is removed, until the hold is dropped. For whoever has
    /// them mounted.
    #[must_use]
    pub fn hold(&self, image: &Image) -> Hold {
        self.core.store.pin(&image.layers);
        Hold { core: self.core.clone(), layers: image.layers.clone() }
    }

    /// The manifests, indexes and config of an image, as they came from the registry: digest and bytes.
    pub fn documents(&self, image: &Image) -> std::io::Result<Vec<(Digest, Vec<u8>)>> {
        image.blobs.iter().map(|digest| Ok((digest.clone(), self.core.store.read_blob(digest)?))).collect()
    }

    /// Removes what pulls that failed have left and no pull under way needs: layers and partial blobs older than a day;
    /// where the file system is nearly full, all such layers but the newest (IMG-267). Blocks; cheap if there is nothing.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn relieve(&self) -> std::io::Result<()> {
        let store = &self.core.store;
        store.collect_leftovers()?;
        for digest in store.old_partials()? {
            // Held by whoever fetches the blob.
            if let Some(_lock) = self.core.layer_locks.try_lock(&format!("blob {digest}")) {
                store.drop_partial(&digest);
            }
        }
        Ok(())
    }

    /// What the store takes on disk.
    pub fn usage(&self) -> Usage {
        let (bytes, inodes) = self.core.store.usage();
        Usage { bytes, inodes }
    }

    /// Waits until everything in the background is done: flushes, and pulls that were left. For an orderly end; a
    /// kill needs none.
    pub async fn settle(&self) {
        self.core.tasks.close();
        self.core.tasks.wait().await;
        self.core.tasks.reopen();
    }
}

/// A claim on the layers of an image.
pub struct Hold {
    core: Arc<Core>,
    layers: Vec<Digest>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.core.store.unpin(&self.layers);
        let (core, layers) = (self.core.clone(), std::mem::take(&mut self.layers));
        let collect = move || {
            if let Err(error) = core.store.collect(&layers) {
                tracing::warn!(%error, "layers that nobody needs could not be removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(_) => drop(self.core.tasks.spawn_blocking(collect)),
            Err(_) => collect(),
        }
    }
}
