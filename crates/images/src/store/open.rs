//! Opening a store: lock, version, sweep, load.
//!
//! What an interrupted pull or removal has left is removed here, except what helps the next pull: whole layers and
//! partial blobs younger than a day.

use super::files::{set_mode, write_durably};
use super::record::{LayerRecord, SavedImage};
use super::{State, Store};
use crate::error::OpenError;
use crate::hash::digest_of;
use crate::machine;
use reference::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirEntry, File};
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SCHEMA_VERSION: &str = "1";
pub(super) const LEFTOVER_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// Opens a store, or makes a new one.
    pub(crate) fn open(root: &Path) -> Result<Store, OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| OpenError::Io { path, source }
        };
        std::fs::create_dir_all(root).map_err(at(root))?;
        set_mode(root, 0o700).map_err(at(root))?;
        let lock = lock(root)?;
        check_version(root)?;
        for directory in ["blobs/sha256", "blobs/sha384", "blobs/sha512", "partial", "layers", "empty"] {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).map_err(at(&path))?;
        }
        set_mode(&root.join("empty"), 0o755).map_err(at(root))?;
        sweep_partials(&root.join("partial")).map_err(at(&root.join("partial")))?;
        let boot = machine::boot_id();
        let layers = load_layers(&root.join("layers"), &boot).map_err(at(&root.join("layers")))?;
        let store = Store {
            root: root.to_owned(),
            boot,
            state: Mutex::new(State { layers, ..State::default() }),
            writer: Mutex::new(()),
            counter: AtomicU64::new(0),
            _lock: lock,
        };
        store.load_images()?;
        store.sweep().map_err(at(root))?;
        Ok(store)
    }

    /// Loads the list of images; one that is no longer whole is dropped from it.
    fn load_images(&self) -> Result<(), OpenError> {
        let path = self.root.join("images.json");
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(|source| OpenError::Io { path: path.clone(), source })?,
        };
        let list: Vec<SavedImage> = serde_json::from_slice(&bytes)
            .map_err(|error| OpenError::Damaged { path: path.clone(), detail: error.to_string() })?;
        let before = list.len();
        let mut images = BTreeMap::new();
        for saved in list {
            let id = saved.id.clone();
            match self.load_image(saved) {
                Ok(image) => drop(images.insert(id, Arc::new(image))),
                Err(reason) => tracing::warn!(image = id, reason, "an image is no longer whole and is forgotten"),
            }
        }
        if images.len() != before {
            self.write_list(&images).map_err(|source| OpenError::Io { path, source })?;
        }
        self.state().images = images;
        Ok(())
    }

    fn load_image(&self, saved: SavedImage) -> Result<super::Image, String> {
        let id = Digest::parse(&saved.id).map_err(|error| error.to_string())?;
        let config = self.read_blob(&id).map_err(|error| format!("config: {error}"))?;
        if digest_of(id.algorithm(), &config) != id {
            return Err("config: content is not what its digest says".to_owned());
        }
        let mut image = saved.with_config(&config, 0)?;
        let state = self.state();
        for diff_id in &image.layers {
            let layer = state.layers.get(diff_id).ok_or_else(|| format!("layer {diff_id} is missing"))?;
            image.size_bytes += layer.bytes;
        }
        Ok(image)
    }

    /// Removes old layers that no image uses, and documents that no image names.
    fn sweep(&self) -> io::Result<()> {
        self.collect_older(LEFTOVER_AGE_MAX)?;
        let used: BTreeSet<String> = self
            .state()
            .images
            .values()
            .flat_map(|image| image.blobs.iter().map(|blob| blob.hex().to_owned()))
            .collect();
        for algorithm in ["sha256", "sha384", "sha512"] {
            for entry in entries(&self.root.join("blobs").join(algorithm))? {
                if entry.file_name().to_str().is_none_or(|name| !used.contains(name)) {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }
}

fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|source| OpenError::Io { path: path.clone(), source })?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { root: root.to_owned() }),
        Err(error) => Err(OpenError::Io { path, source: error.into() }),
    }
}

fn check_version(root: &Path) -> Result<(), OpenError> {
    let path = root.join("version");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == SCHEMA_VERSION => Ok(()),
        Ok(text) => {
            Err(OpenError::Version { root: root.to_owned(), found: text.trim().to_owned(), known: SCHEMA_VERSION })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_durably(&path, format!("{SCHEMA_VERSION}\n").as_bytes())
                .map_err(|source| OpenError::Io { path, source })
        }
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

pub(super) fn entries(directory: &Path) -> io::Result<Vec<DirEntry>> {
    std::fs::read_dir(directory)?.collect()
}

fn sweep_partials(directory: &Path) -> io::Result<()> {
    for entry in entries(directory)? {
        if machine::age(&entry.metadata()?) > LEFTOVER_AGE_MAX {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Loads the layers that are whole and removes everything else.
fn load_layers(directory: &Path, boot: &str) -> io::Result<BTreeMap<Digest, LayerRecord>> {
    let mut layers = BTreeMap::new();
    for entry in entries(directory)? {
        match load_layer(&entry, boot) {
            Some(layer) => drop(layers.insert(layer.diff_id.clone(), layer)),
            None => std::fs::remove_dir_all(entry.path())?,
        }
    }
    Ok(layers)
}

fn load_layer(entry: &DirEntry, boot: &str) -> Option<LayerRecord> {
    let bytes = std::fs::read(entry.path().join("layer.json")).ok()?;
    let mut layer: LayerRecord = serde_json::from_slice(&bytes).ok()?;
    layer.durable = entry.path().join("durable").exists();
    // Written in another boot and never flushed: a power loss may have taken parts of it.
    let trusted = layer.durable || (!boot.is_empty() && layer.boot == boot);
    (trusted && entry.file_name().to_str() == Some(layer.diff_id.hex())).then_some(layer)
}
