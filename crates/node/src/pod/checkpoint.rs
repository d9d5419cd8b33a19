//! What the node must remember about a pod beyond the runtime's records: one small JSON file per pod UID.
//!
//! Owns the file's shape and its atomic replacement. A missing or unreadable file means an empty checkpoint: every fact
//! in it only improves on what can be observed again (HOOK-60, HOOK-63, RTC-44). Must not hold anything secret.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

/// The remembered facts of one pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Checkpoint {
    /// The runtime handler that the pod's class named when its first sandbox was made (RTC-44).
    pub handler: Option<String>,
    /// When termination began and its absolute deadline; the deadline only ever moves closer.
    pub stop: Option<StopRecord>,
    /// A verdict of the node itself; it is on disk before the first signal.
    pub verdict: Option<Verdict>,
    /// Hook runs by container id.
    pub hooks: BTreeMap<String, HookRecord>,
    /// Containers that are to be killed while the pod lives, by container id.
    pub kills: BTreeMap<String, Kill>,
    /// The images of volumes, by volume name: their content is fixed for the pod's life (IMG-306).
    pub volume_images: BTreeMap<String, VolumeImage>,
}

/// What the image of a volume turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeImage {
    /// As the pod names it.
    pub reference: String,
    /// The runtime's id.
    pub id: String,
    /// Its digest in the repository that the pod names; the id where there is none (IMG-309).
    pub digest: String,
}

/// Since when a pod is being stopped and until when it may take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StopRecord {
    /// When this node first saw the request.
    pub since: Timestamp,
    /// The instant at which the grace is used up.
    pub deadline: Timestamp,
}

/// The reason of a pod that ended so that a critical one finds room.
pub const PREEMPTED: &str = "Preempting";

/// A terminal phase that the node reached by its own decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// `status.reason`, for example `Evicted` or `RuntimeClassUnavailable`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// When it was reached.
    pub at: Timestamp,
    /// Seconds that the containers get.
    pub grace_seconds: i64,
    /// The pod was running well and had to go: it gets the condition DisruptionTarget.
    #[serde(default)]
    pub is_disruption: bool,
}

/// The runs of one container's hooks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HookRecord {
    /// `Some(Pending)` is written before StartContainer, so that the hook is delivered at least once (HOOK-63).
    pub post_start: Option<HookRun>,
    /// The preStop run of the current kill.
    pub pre_stop: Option<HookRun>,
}

/// How far one run of a hook got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum HookRun {
    /// To be run.
    Pending,
    /// Begun; without an end it is delivered again.
    Started(Timestamp),
    /// Ended; the text of its failure if it failed.
    Finished(Timestamp, Option<String>),
}

impl HookRun {
    /// True once the hook has ended, well or badly.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Finished(..))
    }
}

/// One container is to be killed although its pod lives on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// When that was decided.
    pub since: Timestamp,
    /// The instant at which its grace is used up.
    pub deadline: Timestamp,
    /// The text of the `Killing` event.
    pub message: String,
}

/// The directory of checkpoint files.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    directory: PathBuf,
}

impl Checkpoints {
    /// Opens `<data-dir>/node/pods`, creating it.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned() })
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.json"))
    }

    /// The checkpoint of a pod; empty when there is none that can be read.
    pub fn load(&self, uid: &str) -> Checkpoint {
        let Ok(bytes) = fs::read(self.path(uid)) else { return Checkpoint::default() };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(uid, %error, "unreadable checkpoint ignored");
            Checkpoint::default()
        })
    }

    /// Replaces the pod's file atomically. Survives a crash of the process at any point; it is not fsynced, because
    /// after a loss of power no container runs that it could speak about.
    pub fn save(&self, uid: &str, checkpoint: &Checkpoint) -> io::Result<()> {
        let staged = self.directory.join(format!(".{uid}.new"));
        let mut file = fs::File::create(&staged)?;
        file.write_all(&serde_json::to_vec(checkpoint)?)?;
        fs::rename(&staged, self.path(uid))
    }

    /// Forgets the pod.
    pub fn remove(&self, uid: &str) {
        match fs::remove_file(self.path(uid)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(uid, %error, "checkpoint not removed"),
        }
    }

    /// The pods that have a checkpoint.
    pub fn uids(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return BTreeSet::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
            .collect()
    }
}
