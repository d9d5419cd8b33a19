//! The files of intents and records (IMG-239, IMG-240).
//!
//! Owns `<data_dir>/image_manager`: names, atomic replacement, and what happens to files that cannot be read: they are
//! put aside and go on standing for an image that is to be verified. Must not decide. Start at [`Store::open`].

use super::record::{Intent, Preloaded, Record};
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// A larger file is none of ours.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The directories.
pub(super) struct Store {
    pulling: PathBuf,
    pulled: PathBuf,
    preloaded: PathBuf,
    aside: PathBuf,
}

/// A file could not be read, or not as what it should be.
#[derive(Debug)]
pub(super) struct Unreadable;

impl Store {
    /// Makes what is missing, removes what a crash left half-written, and rewrites records of an older version.
    pub(super) fn open(root: &Path) -> io::Result<Store> {
        let store = Store {
            pulling: root.join("pulling"),
            pulled: root.join("pulled"),
            preloaded: root.join("observed-preloaded"),
            aside: root.join("quarantine"),
        };
        for directory in [root, &store.pulling, &store.pulled, &store.preloaded, &store.aside] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        }
        for directory in [root, &store.pulling, &store.pulled, &store.preloaded] {
            for entry in fs::read_dir(directory)?.flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "tmp") {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        for path in named(&store.pulled)? {
            match fs::read(&path).ok().and_then(|bytes| Record::read(&bytes)) {
                Some((record, true)) => replace(&path, &json(&record))?,
                Some((_, false)) => {}
                None => store.put_aside(&path),
            }
        }
        Ok(store)
    }

    /// True if a pull of this image was begun and not ended in good order.
    pub(super) fn intended(&self, image: &str) -> Result<bool, Unreadable> {
        let name = name(image);
        if self.aside_of(&self.pulling, &name).exists() {
            return Ok(true);
        }
        match read(&self.pulling.join(&name))? {
            None => Ok(false),
            // What cannot be read stands for its name.
            Some(bytes) => Ok(Intent::read(&bytes).is_none_or(|intent| intent.image == image)),
        }
    }

    /// All intents that can be read.
    pub(super) fn intents(&self) -> io::Result<Vec<String>> {
        let read = |path: PathBuf| Intent::read(&fs::read(path).ok()?).map(|intent| intent.image);
        Ok(named(&self.pulling)?.into_iter().filter_map(read).collect())
    }

    pub(super) fn intend(&self, image: &str) -> io::Result<()> {
        replace(&self.pulling.join(name(image)), &json(&Intent::new(image)))
    }

    pub(super) fn end(&self, image: &str) -> io::Result<()> {
        let name = name(image);
        remove(&self.pulling.join(&name))?;
        remove(&self.aside_of(&self.pulling, &name))
    }

    /// The record of an image; an unreadable one is put aside, and stays unreadable until a new one is written.
    pub(super) fn record(&self, image_ref: &str) -> Result<Option<Record>, Unreadable> {
        let name = name(image_ref);
        let path = self.pulled.join(&name);
        match read(&path)? {
            None if self.aside_of(&self.pulled, &name).exists() => Err(Unreadable),
            None => Ok(None),
            Some(bytes) => match Record::read(&bytes) {
                Some((record, _)) => Ok((record.image_ref == image_ref).then_some(record)),
                None => {
                    self.put_aside(&path);
                    Err(Unreadable)
                }
            },
        }
    }

    /// All records that can be read.
    pub(super) fn records(&self) -> io::Result<Vec<Record>> {
        let read = |path: PathBuf| Record::read(&fs::read(path).ok()?).map(|(record, _)| record);
        Ok(named(&self.pulled)?.into_iter().filter_map(read).collect())
    }

    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        let name = name(&record.image_ref);
        replace(&self.pulled.join(&name), &json(record))?;
        remove(&self.aside_of(&self.pulled, &name))
    }

    /// True if the image was there under this name before the node pulled it. What cannot be read says nothing: then
    /// the image is verified.
    pub(super) fn was_preloaded(&self, image_ref: &str, repository: &str) -> bool {
        let bytes = read(&self.preloaded.join(name(image_ref))).ok().flatten();
        let found = bytes.and_then(|bytes| Preloaded::read(&bytes));
        found.is_some_and(|found| found.image_ref == image_ref && found.observed_images.contains(repository))
    }

    pub(super) fn observe(&self, preloaded: &Preloaded) -> io::Result<()> {
        replace(&self.preloaded.join(name(&preloaded.image_ref)), &json(preloaded))
    }

    pub(super) fn delete(&self, image_ref: &str) -> io::Result<()> {
        let name = name(image_ref);
        remove(&self.preloaded.join(&name))?;
        remove(&self.pulled.join(&name))?;
        remove(&self.aside_of(&self.pulled, &name))
    }

    /// How many intents and records there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let count = |directory| named(directory).map_or(0, |files| files.len());
        (count(&self.pulling), count(&self.pulled))
    }

    fn put_aside(&self, path: &Path) {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return;
        };
        let to = self.aside_of(directory, name);
        tracing::error!(path = %path.display(), to = %to.display(), "a pull record cannot be read; its image is verified");
        if let Err(error) = fs::rename(path, &to) {
            tracing::error!(path = %path.display(), %error, "it cannot be put aside either");
        }
    }

    fn aside_of(&self, directory: &Path, name: &str) -> PathBuf {
        let kind = if directory == self.pulling { "pulling" } else { "pulled" };
        self.aside.join(format!("{kind}-{name}"))
    }
}

/// The file name of a key: an image as the pod names it, or the runtime's id.
fn name(key: &str) -> String {
    format!("sha256-{}", hex::encode(Sha256::digest(key)))
}

/// The files of a directory that have such a name; others are not ours.
fn named(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_named = |name: &str| {
        name.strip_prefix("sha256-")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_named) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => return Err(Unreadable),
        _ => {}
    }
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(_) => Err(Unreadable),
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are strings, lists and maps of strings")
}

/// Writes beside, flushes, renames, flushes the directory: after a crash there is the old content or the new.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = super::hash::private().open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_directory(path)
}

/// Absence is what is wanted.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn open() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("image_manager")).unwrap();
        (directory, store)
    }

    fn bare(image_ref: &str) -> Record {
        Record::bare(image_ref, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn files_are_named_by_the_hash_of_their_key_and_closed_to_others() {
        let (directory, store) = open();
        store.intend("testimage").unwrap();
        store.write(&bare("testimage-anonpull")).unwrap();
        let root = directory.path().join("image_manager");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&root), 0o700);
        let pulled = root.join("pulled/sha256-a2eace2182b24cdbbb730798e47b10709b9ef5e0f0c1624a3bc06c8ca987727a");
        assert_eq!(mode(&pulled), 0o600);
        assert_eq!((mode(&root.join("pulling")), mode(&root.join("pulled"))), (0o700, 0o700));
        assert_eq!(store.counts(), (1, 1));
        assert!(store.intended("testimage").unwrap() && !store.intended("other").unwrap());
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed_and_strange_files_are_passed_over() {
        let (directory, store) = open();
        store.write(&bare("i")).unwrap();
        let pulled = directory.path().join("image_manager/pulled");
        fs::write(pulled.join("sha256-00.tmp"), "{").unwrap();
        fs::write(pulled.join("README"), "hello").unwrap();
        let store = Store::open(&directory.path().join("image_manager")).unwrap();
        assert!(!pulled.join("sha256-00.tmp").exists() && pulled.join("README").exists());
        assert_eq!(store.records().unwrap(), [bare("i")]);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_put_aside_and_stays_unreadable_until_it_is_replaced() {
        let (directory, store) = open();
        store.write(&bare("i")).unwrap();
        let path = store.pulled.join(name("i"));
        fs::write(&path, r#"{"kind":"ImagePulledRecord","surprise":1}"#).unwrap();
        assert!(store.record("i").is_err());
        assert!(!path.exists());
        let store = Store::open(&directory.path().join("image_manager")).unwrap();
        assert!(store.record("i").is_err(), "also after a restart: it must not count as placed by somebody else");
        store.write(&bare("i")).unwrap();
        assert_eq!(store.record("i").unwrap(), Some(bare("i")));
        store.delete("i").unwrap();
        assert_eq!(store.record("i").unwrap(), None);
    }

    #[test]
    fn a_file_with_the_key_of_another_counts_as_absent() {
        let (_directory, store) = open();
        store.write(&bare("a")).unwrap();
        fs::copy(store.pulled.join(name("a")), store.pulled.join(name("b"))).unwrap();
        assert_eq!(store.record("b").unwrap(), None);
        store.intend("a").unwrap();
        fs::copy(store.pulling.join(name("a")), store.pulling.join(name("b"))).unwrap();
        assert!(!store.intended("b").unwrap());
        fs::write(store.pulling.join(name("b")), "{").unwrap();
        assert!(store.intended("b").unwrap());
    }

    #[test]
    fn records_of_an_older_version_are_rewritten_at_the_start() {
        let (directory, store) = open();
        let old = String::from_utf8(json(&bare("i"))).unwrap().replace("v1beta1", "v1alpha1");
        let path = store.pulled.join(name("i"));
        fs::write(&path, old).unwrap();
        Store::open(&directory.path().join("image_manager")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), json(&bare("i")));
    }
}
