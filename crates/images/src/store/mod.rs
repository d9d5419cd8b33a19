//! What is on disk: layers, documents, the list of images, and the rules that make it survive a kill at any step.
//!
//! Owns `<root>` and its memory image. All methods block; the caller keeps them off the async threads. An image exists
//! exactly when `images.json` says so, and that file is replaced atomically after everything that it names is whole.
//! Start at [`Store::open`]; `files.rs` is the durable writing, `record.rs` what is written.

mod files;
mod open;
mod record;

pub use record::Image;
pub(crate) use record::{LayerRecord, NewImage};

use crate::error::PullError;
use crate::machine;
use files::write_durably;
use reference::{Digest, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const ID_PREFIX_DIGITS_MIN: usize = 12;
/// From here on space is needed more than what might help a next pull; the collection of images begins here (IMG-260).
const FULL_PERCENT: u64 = 85;
/// The pull that brought a layer may just be made again.
const LEFTOVER_AGE_MIN: Duration = Duration::from_secs(2 * 60);

pub(crate) struct Store {
    root: PathBuf,
    boot: String,
    state: Mutex<State>,
    /// Held while the list of images is rewritten, so that writers come one after another.
    writer: Mutex<()>,
    counter: AtomicU64,
    /// Keeps other processes out for as long as this one lives.
    _lock: File,
}

#[derive(Default)]
struct State {
    /// By image id.
    images: BTreeMap<String, Arc<Image>>,
    layers: BTreeMap<Digest, LayerRecord>,
    /// Layers that a pull or a container needs now, with the number of those who do.
    pins: BTreeMap<Digest, usize>,
    /// Images that a pull looks at now.
    leases: BTreeMap<String, usize>,
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single assignment: a panic leaves nothing half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.state().images.values().cloned().collect()
    }

    /// An image by id, id prefix, or any form of its names (IMG-231).
    pub(crate) fn resolve(&self, name_or_id: &str) -> Option<Arc<Image>> {
        let state = self.state();
        let id = if name_or_id.starts_with("sha") { name_or_id.to_owned() } else { format!("sha256:{name_or_id}") };
        if let Some(image) = state.images.get(&id) {
            return Some(image.clone());
        }
        if let Ok(reference) = Reference::parse(name_or_id) {
            let name = reference.stored().canonical();
            let named = |image: &&Arc<Image>| image.tags.contains(&name) || image.digests.contains(&name);
            if let Some(image) = state.images.values().find(named) {
                return Some(image.clone());
            }
        }
        let digits = id.split_once(':').map_or("", |(_, hex)| hex);
        if digits.len() < ID_PREFIX_DIGITS_MIN || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut matching = state.images.iter().filter(|(own, _)| own.starts_with(&id));
        match (matching.next(), matching.next()) {
            (Some((_, image)), None) => Some(image.clone()),
            _ => None,
        }
    }

    /// The image that a manifest or index digest stands for, if it is here. It is not removed before its lease ends.
    pub(crate) fn lease_by_root(&self, digest: &Digest) -> Option<Arc<Image>> {
        let suffix = format!("@{digest}");
        let mut state = self.state();
        let named = |image: &&Arc<Image>| image.digests.iter().any(|name| name.ends_with(&suffix));
        let image = state.images.values().find(named).cloned()?;
        *state.leases.entry(image.id.clone()).or_default() += 1;
        Some(image)
    }

    pub(crate) fn end_lease(&self, id: &str) {
        let mut state = self.state();
        if let Some(count) = state.leases.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                state.leases.remove(id);
            }
        }
    }

    /// Where a layer's files are.
    pub(crate) fn layer_files(&self, diff_id: &Digest) -> PathBuf {
        self.layer_directory(diff_id).join("fs")
    }

    fn layer_directory(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// An empty directory, for images without layers.
    pub(crate) fn empty_directory(&self) -> PathBuf {
        self.root.join("empty")
    }

    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.state().layers.contains_key(diff_id)
    }

    /// The file that keeps a blob's bytes until its layer is whole.
    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.hex())
    }

    /// How many bytes of a blob are at hand; a file that is longer than the blob is worthless.
    pub(crate) fn partial_bytes(&self, digest: &Digest, size: u64) -> u64 {
        let path = self.partial(digest);
        match std::fs::metadata(&path).map(|metadata| metadata.len()) {
            Ok(length) if length <= size => length,
            Ok(_) => {
                self.drop_partial(digest);
                0
            }
            Err(_) => 0,
        }
    }

    pub(crate) fn drop_partial(&self, digest: &Digest) {
        // If it cannot be removed now, the sweep will.
        let _ = std::fs::remove_file(self.partial(digest));
    }

    /// An empty directory for files that live as long as one import or export.
    pub(crate) fn begin_spool(&self) -> io::Result<NewLayer> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let directory = self.root.join("layers").join(format!("tmp-{number}"));
        std::fs::create_dir(&directory)?;
        Ok(NewLayer { directory: Some(directory) })
    }

    /// A new directory under construction; dropped, it is removed.
    pub(crate) fn begin_layer(&self) -> io::Result<NewLayer> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let directory = self.root.join("layers").join(format!("tmp-{number}"));
        std::fs::create_dir(&directory)?;
        let layer = NewLayer { directory: Some(directory) };
        std::fs::create_dir(layer.files())?;
        files::set_mode(&layer.files(), 0o755)?;
        Ok(layer)
    }

    /// Makes a finished directory the layer. From the rename on it is whole.
    pub(crate) fn commit_layer(&self, mut layer: NewLayer, record: LayerRecord) -> io::Result<()> {
        let target = self.layer_directory(&record.diff_id);
        let record = LayerRecord { boot: self.boot.clone(), ..record };
        std::fs::write(layer.path().join("layer.json"), serde_json::to_vec(&record)?)?;
        // The list of layers and their directories change together, so that no removal takes this one for its own.
        let mut state = self.state();
        let left = if target.exists() {
            if state.layers.contains_key(&record.diff_id) {
                // Another one was as quick, and may be mounted already.
                return Ok(());
            }
            // Left behind by a removal that was interrupted.
            Some(self.bury(&target)?)
        } else {
            None
        };
        std::fs::rename(layer.path(), &target)?;
        layer.directory = None;
        state.layers.insert(record.diff_id.clone(), record);
        drop(state);
        left.map_or(Ok(()), std::fs::remove_dir_all)
    }

    /// Takes a layer's directory out of sight in one step; returns where it waits for its removal.
    fn bury(&self, directory: &Path) -> io::Result<PathBuf> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let grave = self.root.join("layers").join(format!("tmp-gone-{number}"));
        std::fs::rename(directory, &grave)?;
        Ok(grave)
    }

    /// Keeps a manifest or config. Under the writer's lock, or a removal could take it away before an image names it.
    fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.blob(digest);
        if path.exists() {
            return Ok(());
        }
        write_durably(&path, bytes)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// The bytes of a manifest or config that an image names.
    pub(crate) fn read_blob(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        std::fs::read(self.blob(digest))
    }

    /// Keeps the documents of an image and makes it visible, or adds names to one; a tag that moves leaves the image it
    /// stood for (IMG-112).
    pub(crate) fn commit_image(
        &self,
        new: &NewImage,
        documents: &[(Digest, Vec<u8>)],
    ) -> Result<Arc<Image>, PullError> {
        let writing = |error: io::Error| PullError::storage("recording an image", &error);
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut images, missing, bytes) = {
            let state = self.state();
            let missing = new.layers.iter().find(|diff_id| !state.layers.contains_key(*diff_id)).cloned();
            let size = |diff_id: &Digest| state.layers.get(diff_id).map_or(0, |layer| layer.bytes);
            (state.images.clone(), missing, new.layers.iter().map(size).sum::<u64>())
        };
        if let Some(diff_id) = missing {
            return Err(writing(io::Error::other(format!("layer {diff_id} has vanished"))));
        }
        for (digest, bytes) in documents {
            let keeping = |error| PullError::storage(format!("keeping {digest}"), &error);
            self.write_blob(digest, bytes).map_err(keeping)?;
        }
        for image in images.values_mut() {
            if new.tag.as_ref().is_some_and(|tag| image.tags.contains(tag)) && image.id != new.id.as_str() {
                Arc::make_mut(image).tags.retain(|tag| Some(tag) != new.tag.as_ref());
            }
        }
        let image = new.merged_with(images.get(new.id.as_str()).map(Arc::as_ref), bytes);
        let image = Arc::new(image);
        images.insert(image.id.clone(), image.clone());
        self.write_list(&images).map_err(writing)?;
        self.state().images = images;
        Ok(image)
    }

    fn write_list(&self, images: &BTreeMap<String, Arc<Image>>) -> io::Result<()> {
        let list: Vec<record::SavedImage> = images.values().map(|image| record::SavedImage::of(image)).collect();
        write_durably(&self.root.join("images.json"), &serde_json::to_vec_pretty(&list)?)
    }

    /// Says whether an image is to be kept although nothing uses it.
    pub(crate) fn set_pinned(&self, name_or_id: &str, pinned: bool) -> io::Result<Option<Arc<Image>>> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(image) = self.resolve(name_or_id) else { return Ok(None) };
        let image = Arc::new(Image { pinned, ..Image::clone(&image) });
        let mut images = self.state().images.clone();
        images.insert(image.id.clone(), image.clone());
        self.write_list(&images)?;
        self.state().images = images;
        Ok(Some(image))
    }

    /// Forgets an image with all its names, then removes what no other image uses and nobody holds. An image that a
    /// pull looks at is busy.
    pub(crate) fn remove(&self, name_or_id: &str) -> io::Result<Option<Arc<Image>>> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(image) = self.resolve(name_or_id) else { return Ok(None) };
        // Out of sight in the same moment in which nobody looks at it: a pull that comes now finds nothing.
        let images = {
            let mut state = self.state();
            if state.leases.contains_key(&image.id) {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            state.images.remove(&image.id);
            state.images.clone()
        };
        if let Err(error) = self.write_list(&images) {
            self.state().images.insert(image.id.clone(), image);
            return Err(error);
        }
        self.collect_blobs(&image);
        drop(writer);
        self.collect(&image.layers)?;
        Ok(Some(image))
    }

    /// Removes those of the given layers that nothing needs.
    pub(crate) fn collect(&self, layers: &[Digest]) -> io::Result<()> {
        for diff_id in layers {
            let grave = {
                let mut state = self.state();
                let used = state.images.values().any(|image| image.layers.contains(diff_id));
                if used || state.pins.contains_key(diff_id) || state.layers.remove(diff_id).is_none() {
                    continue;
                }
                // Out of the list and out of sight in one step: a pull that comes now fetches it anew, to its place.
                self.bury(&self.layer_directory(diff_id))?
            };
            std::fs::remove_dir_all(grave)?;
        }
        Ok(())
    }

    /// Removes the layers that only failed pulls have brought: old ones, and nearly all where space is short.
    pub(crate) fn collect_leftovers(&self) -> io::Result<()> {
        let is_full = self.used_percent()? >= FULL_PERCENT;
        self.collect_older(if is_full { LEFTOVER_AGE_MIN } else { open::LEFTOVER_AGE_MAX })
    }

    /// Removes layers that nothing needs and that were made longer ago.
    fn collect_older(&self, age: Duration) -> io::Result<()> {
        let unused: Vec<Digest> = {
            let state = self.state();
            let used: BTreeSet<&Digest> = state.images.values().flat_map(|image| &image.layers).collect();
            let unused = state.layers.keys().filter(|diff_id| !used.contains(diff_id));
            unused.filter(|diff_id| !state.pins.contains_key(*diff_id)).cloned().collect()
        };
        let is_old = |diff_id: &Digest| {
            std::fs::metadata(self.layer_directory(diff_id)).is_ok_and(|metadata| machine::age(&metadata) > age)
        };
        // What was taken into use meanwhile stays.
        self.collect(&unused.into_iter().filter(is_old).collect::<Vec<_>>())
    }

    /// How full the store's file system is for those who are not root, as the collection of images reckons (IMG-262).
    fn used_percent(&self) -> io::Result<u64> {
        let fs = rustix::fs::statvfs(&self.root)?;
        Ok(100 - (fs.f_bavail * 100).checked_div(fs.f_blocks).unwrap_or(100).min(100))
    }

    /// The blobs of which bytes lie here that nobody has written to for a day (IMG-267).
    pub(crate) fn old_partials(&self) -> io::Result<Vec<Digest>> {
        let mut found = Vec::new();
        for entry in open::entries(&self.root.join("partial"))? {
            let is_old = entry.metadata().is_ok_and(|metadata| machine::age(&metadata) > open::LEFTOVER_AGE_MAX);
            let name = entry.file_name().into_string().unwrap_or_default();
            let algorithms = ["sha256", "sha384", "sha512"].map(|algorithm| format!("{algorithm}:{name}"));
            found.extend(algorithms.iter().find_map(|text| Digest::parse(text).ok()).filter(|_| is_old));
        }
        Ok(found)
    }

    /// Removes the documents of an image that no other one names. Under the writer's lock, like all that writes them.
    fn collect_blobs(&self, image: &Image) {
        let used = |blob: &Digest| self.state().images.values().any(|other| other.blobs.contains(blob));
        for blob in image.blobs.iter().filter(|blob| !used(blob)) {
            let _ = std::fs::remove_file(self.blob(blob));
        }
    }

    pub(crate) fn pin(&self, layers: &[Digest]) {
        let mut state = self.state();
        for diff_id in layers {
            *state.pins.entry(diff_id.clone()).or_default() += 1;
        }
    }

    pub(crate) fn unpin(&self, layers: &[Digest]) {
        let mut state = self.state();
        for diff_id in layers {
            if let Some(count) = state.pins.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(diff_id);
                }
            }
        }
    }

    /// Bytes and inodes of all layers and partial blobs.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let (bytes, inodes) =
            self.state().layers.values().fold((0, 0), |(bytes, inodes), l| (bytes + l.bytes, inodes + l.inodes));
        let partial = std::fs::read_dir(self.root.join("partial")).into_iter().flatten().flatten();
        let partial: u64 = partial.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum();
        (bytes + partial, inodes)
    }

    /// Flushes the layers that were written in this boot and says so beside them, so that they outlive a power loss.
    pub(crate) fn make_durable(&self) -> io::Result<()> {
        let fresh: Vec<Digest> =
            self.state().layers.values().filter(|layer| !layer.durable).map(|layer| layer.diff_id.clone()).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let root = File::open(&self.root)?;
        rustix::fs::syncfs(&root)?;
        for diff_id in fresh {
            let mut state = self.state();
            // Under the lock, so that the layer is not removed in between.
            if let Some(layer) = state.layers.get_mut(&diff_id) {
                File::create(self.layer_directory(&diff_id).join("durable"))?;
                layer.durable = true;
            }
        }
        // Without this the word itself could be lost, and the layer with it.
        rustix::fs::syncfs(&root)?;
        Ok(())
    }
}

/// A layer under construction.
pub(crate) struct NewLayer {
    directory: Option<PathBuf>,
}

impl NewLayer {
    pub(crate) fn path(&self) -> &Path {
        self.directory.as_deref().expect("the directory is only taken by the commit, which consumes the layer")
    }

    /// The directory to unpack into.
    pub(crate) fn files(&self) -> PathBuf {
        self.path().join("fs")
    }
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            // If it cannot be removed now, the next opening sweeps it.
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::digest_of;
    use reference::Algorithm;

    fn store(directory: &Path) -> Store {
        Store::open(directory).expect("open")
    }

    fn add_layer(store: &Store, diff_id: &Digest) {
        let fresh = store.begin_layer().expect("begin");
        std::fs::write(fresh.files().join("file"), diff_id.as_str()).expect("write");
        let record = LayerRecord { diff_id: diff_id.clone(), bytes: 1, inodes: 1, boot: String::new(), durable: false };
        store.commit_layer(fresh, record).expect("commit");
    }

    fn image(config: &[u8]) -> (NewImage, Vec<(Digest, Vec<u8>)>) {
        let id = digest_of(Algorithm::Sha256, config);
        let new = NewImage {
            id: id.clone(),
            config: config.to_vec(),
            tag: Some("registry.test/app:v1".into()),
            digest: None,
            layers: Vec::new(),
            blobs: vec![id.clone()],
            pulled_at: crate::machine::now(),
            pinned: false,
        };
        (new, vec![(id, config.to_vec())])
    }

    #[test]
    fn an_image_that_comes_while_it_goes_has_its_documents_exactly_if_it_is_there() {
        let directory = tempfile::tempdir().expect("directory");
        let store = store(directory.path());
        let (new, documents) = image(br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#);
        for round in 0..200 {
            store.commit_image(&new, &documents).expect("commit");
            std::thread::scope(|scope| {
                let goes = scope.spawn(|| store.remove(new.id.as_str()));
                store.commit_image(&new, &documents).expect("commit");
                goes.join().expect("thread").expect("remove");
            });
            if store.resolve(new.id.as_str()).is_some() {
                assert_eq!(store.read_blob(&new.id).expect("config"), new.config, "round {round}");
            }
        }
    }

    #[test]
    fn a_layer_that_comes_while_it_goes_is_on_the_list_exactly_if_it_is_there() {
        let directory = tempfile::tempdir().expect("directory");
        let store = store(directory.path());
        let diff_id = digest_of(Algorithm::Sha256, b"layer");
        for round in 0..500 {
            add_layer(&store, &diff_id);
            std::thread::scope(|scope| {
                let goes = scope.spawn(|| store.collect(std::slice::from_ref(&diff_id)));
                add_layer(&store, &diff_id);
                goes.join().expect("thread").expect("collect");
            });
            let is_there = store.layer_files(&diff_id).join("file").exists();
            assert_eq!(store.has_layer(&diff_id), is_there, "round {round}");
            store.collect(std::slice::from_ref(&diff_id)).expect("collect");
            assert!(!store.layer_files(&diff_id).exists() && !store.has_layer(&diff_id));
        }
        assert_eq!(std::fs::read_dir(directory.path().join("layers")).expect("layers").count(), 0);
    }
}
