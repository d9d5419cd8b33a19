//! The static pods that were begun, one file each: what the next agent takes over, or stops if the manifest has gone.
//!
//! Owns `<data-dir>/node/static/<uid>.json`, written before the pod begins and removed when nothing of it is left. A
//! missing or unreadable file means that the manifest is the only truth. Start at [`Ledger::all`].

use super::view::{Origin, StaticPod};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// The directory of the files.
#[derive(Debug, Clone)]
pub struct Ledger {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    origin: Origin,
    from: String,
    object: Value,
}

impl Ledger {
    /// That of a node, for reading.
    pub fn of_node(data_dir: &Path) -> Self {
        Self { directory: data_dir.join("node/static") }
    }

    /// That of a node, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let ledger = Self::of_node(data_dir);
        fs::create_dir_all(&ledger.directory)?;
        Ok(ledger)
    }

    /// Every pod that was begun and has not gone.
    pub fn all(&self) -> Vec<StaticPod> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
        let read = |path: PathBuf| match read(&path) {
            Ok(pod) => Some(pod),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "unreadable record of a static pod ignored");
                None
            }
        };
        paths.filter_map(read).collect()
    }

    /// Writes down a pod. Replaced atomically; not flushed: after a loss of power nothing of it runs.
    ///
    /// # Errors
    /// Of the file system.
    pub fn save(&self, pod: &StaticPod) -> io::Result<()> {
        let staged = self.directory.join(format!(".{}.new", pod.uid()));
        let entry = Entry { origin: pod.origin, from: pod.from.clone(), object: pod.object.clone() };
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
        file.write_all(&serde_json::to_vec(&entry)?)?;
        fs::rename(&staged, self.path(pod.uid()))
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &str) {
        match fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(uid, %error, "record of a static pod not removed");
            }
            _ => {}
        }
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.json"))
    }
}

fn read(path: &Path) -> io::Result<StaticPod> {
    let entry: Entry = serde_json::from_slice(&fs::read(path)?)?;
    Ok(StaticPod::new(entry.origin, entry.from, entry.object)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_begun_is_found_again_and_torn_files_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        let object = json!({"metadata": {"name": "a", "uid": "1"}, "spec": {"hostname": "h"}});
        let pod = StaticPod::new(Origin::Url, "http://x/".into(), object).unwrap();
        ledger.save(&pod).unwrap();
        fs::write(directory.path().join("node/static/2.json"), "{\"ori").unwrap();
        assert_eq!(ledger.all(), [pod]);
        ledger.remove("1");
        ledger.remove("1");
        assert!(ledger.all().is_empty());
    }
}
