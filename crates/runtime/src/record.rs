//! What is known of a sandbox or a container on disk, so that a new agent finds it again (docs/walls/files.md).
//!
//! A record is written once, before anything is made, and never changed; `made` beside it says that making succeeded.
//! Everything here blocks. No fsync: after a power loss sandboxes and containers are gone too, and a torn record
//! counts as a leftover.

use std::fs;
use std::io;
use std::path::Path;

use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};

/// A pod sandbox as it was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    /// 64 hex digits.
    pub id: String,
    /// As in the request; "" stays "".
    pub handler: String,
    /// Executable of the handler at that time.
    pub binary: std::path::PathBuf,
    /// Its global arguments.
    pub arguments: Vec<String>,
    /// Annotations of the pod that it is told.
    #[serde(default)]
    pub pod_annotations: Vec<String>,
    /// Annotations of a container that it is told.
    #[serde(default)]
    pub container_annotations: Vec<String>,
    /// Its state directory (`--root`).
    pub root: std::path::PathBuf,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Cgroup of the pod.
    pub cgroup: String,
    /// We made that cgroup, so we remove it.
    pub own_cgroup: bool,
    /// The request's configuration.
    #[serde(with = "encoded")]
    pub config: cri::v1::PodSandboxConfig,
}

impl SandboxRecord {
    /// The handler's own name, also where "" was asked for: its state directory bears it.
    pub(crate) fn handler_name(&self) -> String {
        match (self.handler.as_str(), self.root.file_name()) {
            ("", Some(name)) => name.to_string_lossy().into_owned(),
            (asked, _) => asked.to_owned(),
        }
    }
}

/// A container as it was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// 64 hex digits.
    pub id: String,
    /// Id of its sandbox.
    pub sandbox: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Digest of the image's config.
    pub image_id: String,
    /// The image by repository digest, or its id.
    pub image_ref: String,
    /// Ids of the images that are mounted as volumes.
    #[serde(default)]
    pub volume_images: Vec<String>,
    /// Number of the signal that stops it.
    pub stop_signal: u32,
    /// Absolute path of the log; empty for none.
    pub log_path: std::path::PathBuf,
    /// The request's configuration.
    #[serde(with = "encoded")]
    pub config: cri::v1::ContainerConfig,
}

/// CRI messages within JSON: protobuf in base64, so that no field is ever lost by us.
mod encoded {
    use super::{Message, STANDARD};
    use base64::Engine as _;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<M: Message, S: Serializer>(message: &M, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(message.encode_to_vec()))
    }

    pub(super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(from: D) -> Result<M, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        M::decode(bytes.as_slice()).map_err(D::Error::custom)
    }
}

/// Name of a record in its directory.
pub(crate) const RECORD: &str = "record.json";
/// An empty file: everything that the record asks for was made.
pub(crate) const MADE: &str = "made";
/// Who a container's first process is.
pub(crate) const IDENTITY: &str = "identity.json";
/// Why a container could not be started.
pub(crate) const FAILURE: &str = "failure";
/// An empty file: the stop signal has been sent.
pub(crate) const SIGNALLED: &str = "signalled";
/// The monitor's exit record.
pub(crate) const EXIT: &str = "exit";

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

/// Writes a record into its directory, which is made.
pub(crate) fn store<R: Serialize>(directory: &Path, record: &R) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    write(&directory.join(RECORD), &serde_json::to_vec(record)?)
}

/// Reads the record of a directory. None: there is none, it is torn, or making it did not end.
pub(crate) fn load<R: for<'de> Deserialize<'de>>(directory: &Path) -> Option<R> {
    if !directory.join(MADE).exists() {
        return None;
    }
    serde_json::from_slice(&fs::read(directory.join(RECORD)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ContainerRecord {
        ContainerRecord {
            id: "c".into(),
            sandbox: "s".into(),
            created_at: 1,
            image_id: "sha256:1".into(),
            image_ref: "r@sha256:1".into(),
            volume_images: vec![],
            stop_signal: 15,
            log_path: "/l".into(),
            config: cri::v1::ContainerConfig { command: vec!["a".into()], ..Default::default() },
        }
    }

    #[test]
    fn a_record_comes_back_once_it_was_made() {
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), &record()).unwrap();
        assert!(load::<ContainerRecord>(directory.path()).is_none());
        write(&directory.path().join(MADE), b"").unwrap();
        assert_eq!(load::<ContainerRecord>(directory.path()).unwrap().config, record().config);
    }

    #[test]
    fn a_torn_record_is_none() {
        let directory = tempfile::tempdir().unwrap();
        write(&directory.path().join(MADE), b"").unwrap();
        let whole = serde_json::to_vec(&record()).unwrap();
        for length in 0..whole.len() {
            write(&directory.path().join(RECORD), &whole[..length]).unwrap();
            assert!(load::<ContainerRecord>(directory.path()).is_none(), "{length}");
        }
    }
}
