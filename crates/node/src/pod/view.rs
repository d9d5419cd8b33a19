//! What the pod machine knows: the wish (`Desired`) and the facts (`Observed`), as small owned types.
//!
//! Owns the translation of CRI messages into these types and the rule that facts only move forward: a container never
//! goes back from exited to running, a sandbox never from dead to ready, so stale answers do no harm. Must not decide.
//! Start at [`View`].

use super::checkpoint::{Checkpoint, HookRun};
use crate::object::{Container, ContainerKind, ContainerStatus, LinuxUser, Pod, Volume};
use cri::v1;
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Annotation on a container record: the number of restarts since the crash back-off began.
pub const CRASH_STEP: &str = "sampan.dev/crash-step";
/// Annotation on a container record: hash of what makes a running container out of date (HOOK-91).
pub const SPEC_HASH: &str = crate::config::label::CONTAINER_HASH;
const RESTART_COUNT: &str = crate::config::label::RESTART_COUNT;

/// All that `decide` looks at.
#[derive(Debug, Clone)]
pub struct View {
    /// The pod as the API has it (spec, metadata, last known status).
    pub pod: Arc<Pod>,
    /// The wish.
    pub desired: Desired,
    /// The facts.
    pub observed: Observed,
    /// The node's addresses, for `status.hostIPs`.
    pub host_ips: Vec<String>,
    /// The runtime's name, the scheme of container ids.
    pub runtime: Arc<str>,
    /// How long a container that ended waits for its next start.
    pub crash_back_off: super::decide::CrashBackOff,
}

/// What is wanted of this pod.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Desired {
    /// It runs to its end.
    Run,
    /// It ends, by `deadline` at the latest.
    Stop(Stop),
}

/// A termination: why, since when, and the absolute instant at which the grace is used up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stop {
    /// Why.
    pub cause: Cause,
    /// When this node learned of it.
    pub since: Timestamp,
    /// When the grace is used up.
    pub deadline: Timestamp,
}

/// Why a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The API says so (deletionTimestamp).
    Deleted,
    /// It is no longer in the API.
    Removed,
    /// The node is emptied by `down`; the API object stays as it is.
    Drained,
    /// The node's own verdict.
    Verdict,
    /// It came to its end by itself, or the API has a terminal phase.
    Ended,
}

impl Cause {
    /// True if nothing of the pod may stay on the node afterwards, not even its records.
    pub fn removes_records(self) -> bool {
        matches!(self, Self::Deleted | Self::Removed | Self::Drained)
    }
}

/// The facts about one pod. All of it is observed again, or read from the checkpoint, after a restart.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Sandboxes by id.
    pub sandboxes: BTreeMap<String, Sandbox>,
    /// Container records by id.
    pub containers: BTreeMap<String, Record>,
    /// The pod's cgroup.
    pub cgroup: Fact,
    /// The pod's volumes.
    pub volumes: Fact,
    /// Records, logs and files of the pod have been removed.
    pub traces_removed: bool,
    /// The image that was ensured for a container's next start, by container name.
    pub images: BTreeMap<String, ImageReady>,
    /// Failed pulls by image string (IMG-71); containers and image volumes share them.
    pub image_failures: BTreeMap<String, crate::image::Failures>,
    /// When the last pull of an image string began.
    pub pulls_begun: BTreeMap<String, Timestamp>,
    /// How far pulls under way are, in words, by image string.
    pub pulling: BTreeMap<String, String>,
    /// What was heard that may end a back-off early (IMG-77).
    pub heard: crate::image::backoff::Heard,
    /// Why the image of a volume cannot be had, by volume name (IMG-304).
    pub volume_errors: BTreeMap<String, StartError>,
    /// Why a container's last start failed, by container name (POD-8).
    pub start_errors: BTreeMap<String, StartError>,
    /// What probes found, by container id.
    pub probes: BTreeMap<String, Probed>,
    /// Sandboxes for which StopPodSandbox has returned well.
    pub sandboxes_stopped: BTreeSet<String>,
    /// Actions that failed and when they may be tried again.
    pub retries: BTreeMap<super::decide::Key, Retry>,
    /// Notices that have been given, so that each is given once.
    pub told: BTreeSet<String>,
    /// The API no longer has this pod.
    pub api_gone: bool,
    /// Once the pod has ended, the records of its containers are to go: the disk is short (IMG-265).
    pub records_spare: bool,
    /// The highest attempt of each container of which the runtime has no record any more (POD-20).
    pub past_attempts: BTreeMap<String, u32>,
    /// By how much of themselves the pod's delays are longer, up to a half, so that pods do not act in step (POD-4).
    pub spread: f64,
    /// Termination messages by container id, read when the end was seen (POD-38).
    pub last_words: BTreeMap<String, String>,
    /// What is on disk.
    pub checkpoint: Checkpoint,
}

/// Whether something of the pod exists on the node, as far as this process knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fact {
    /// Not known; making it and removing it are both idempotent.
    #[default]
    Unknown,
    /// It is there.
    Ready,
    /// It has been removed.
    Gone,
}

/// One sandbox of the pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// 0 for the first.
    pub attempt: u32,
    /// False once it died or was stopped.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its addresses; none on the host network.
    pub ips: Vec<String>,
}

/// One container record: the ledger's unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// How many records came before.
    pub attempt: u32,
    /// How often the container was restarted, as its annotation says (POD-36).
    pub restarts: u32,
    /// The sandbox it was made in.
    pub sandbox: String,
    /// How far it got.
    pub state: RecordState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Restarts since the crash back-off began.
    pub step: u32,
    /// The spec hash it was made from; "" if unknown.
    pub hash: String,
    /// `ContainerStatus.image_ref`.
    pub image_ref: String,
    /// `ContainerStatus.image.image`.
    pub image: String,
    /// The runtime's path of its log.
    pub log_path: String,
    /// Paths in the container that are read-only all the way down (RTC-51).
    pub read_only_below: BTreeSet<String>,
    /// As whom it runs, where the runtime tells it (POD-41).
    pub user: Option<LinuxUser>,
    /// The signal that stops it, where the pod names one; "" else.
    pub stop_signal: String,
}

/// The state of a record; it only moves forward.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// The runtime has lost sight of it: a process may be there (HOOK-92).
    Unknown {
        /// Since when, if it ever was.
        started_at: Timestamp,
    },
    /// Its process ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// Exit code, 128+n for signal n.
    pub code: i32,
    /// The runtime's word: Completed, Error, OOMKilled …
    pub reason: String,
    /// The runtime's text, with the termination message.
    pub message: String,
    /// When the process began, if it did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// The image that a container will run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageReady {
    /// The spec's image string for which this holds.
    pub image: String,
    /// The attempt for which it was ensured (IMG-40: once per start).
    pub attempt: u32,
    /// The runtime's id.
    pub id: String,
    /// The numeric user of its configuration.
    pub uid: Option<i64>,
    /// The user name of its configuration; "" when numeric or absent.
    pub user: String,
    /// Its digest in the repository that the pod names; the id where there is none.
    pub digest: String,
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq)]
pub struct StartError {
    /// `waiting.reason`.
    pub reason: String,
    /// `waiting.message`.
    pub message: String,
    /// When it happened.
    pub at: Timestamp,
}

/// What probes found about one container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    /// The startup probe passed.
    pub started: bool,
    /// The last readiness result.
    pub ready: bool,
    /// The liveness or startup probe failed for good: the kind's name and the seconds it grants.
    pub failed: Option<(String, Option<i64>)>,
}

/// A failed action's next chance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// Consecutive failures.
    pub failures: u32,
    /// When the first of them was.
    pub since: Timestamp,
    /// Not before this.
    pub at: Timestamp,
}

impl Sandbox {
    /// From `PodSandboxStatus`.
    pub fn from_cri(status: &v1::PodSandboxStatus) -> Self {
        let network = status.network.as_ref();
        let ips = network
            .map(|n| std::iter::once(n.ip.clone()).chain(n.additional_ips.iter().map(|ip| ip.ip.clone())))
            .into_iter()
            .flatten()
            .filter(|ip| !ip.is_empty())
            .collect();
        Self {
            id: status.id.clone(),
            attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
            ready: status.state == v1::PodSandboxState::SandboxReady as i32,
            created_at: instant(status.created_at),
            ips,
        }
    }
}

impl Record {
    /// From `ContainerStatus` of a container in `sandbox`.
    pub fn from_cri(status: &v1::ContainerStatus, sandbox: &str) -> Self {
        let metadata = status.metadata.clone().unwrap_or_default();
        Self {
            id: status.id.clone(),
            name: metadata.name,
            attempt: metadata.attempt,
            restarts: status.annotations.get(RESTART_COUNT).and_then(|count| count.parse().ok()).unwrap_or(0),
            sandbox: sandbox.to_owned(),
            state: RecordState::from_cri(status),
            created_at: instant(status.created_at),
            step: status.annotations.get(CRASH_STEP).and_then(|s| s.parse().ok()).unwrap_or(metadata.attempt),
            hash: status.annotations.get(SPEC_HASH).cloned().unwrap_or_default(),
            image_ref: status.image_ref.clone(),
            image: status.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
            log_path: status.log_path.clone(),
            read_only_below: read_only_below(status),
            user: status.user.as_ref().and_then(|user| user.linux.as_ref()).map(|user| LinuxUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: user.supplemental_groups.clone(),
            }),
            stop_signal: stop_signal(status),
        }
    }

    /// True while a process of it may exist.
    pub fn is_running(&self) -> bool {
        matches!(self.state, RecordState::Running { .. } | RecordState::Unknown { .. })
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            RecordState::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

fn stop_signal(status: &v1::ContainerStatus) -> String {
    match status.stop_signal() {
        v1::Signal::RuntimeDefault => String::new(),
        signal => signal.as_str_name().trim_start_matches("SIGNAL_").to_owned(),
    }
}

fn read_only_below(status: &v1::ContainerStatus) -> BTreeSet<String> {
    let mounts = status.mounts.iter().filter(|mount| mount.recursive_read_only);
    mounts.map(|mount| mount.container_path.clone()).collect()
}

impl RecordState {
    fn from_cri(status: &v1::ContainerStatus) -> Self {
        match v1::ContainerState::try_from(status.state) {
            Ok(v1::ContainerState::ContainerCreated) => Self::Created,
            Ok(v1::ContainerState::ContainerExited) => Self::Exited(Exit {
                code: status.exit_code,
                reason: exit_reason(status),
                message: status.message.clone(),
                started_at: (status.started_at > 0).then(|| instant(status.started_at)),
                finished_at: instant(status.finished_at),
            }),
            Ok(v1::ContainerState::ContainerRunning) => Self::Running { started_at: instant(status.started_at) },
            Ok(v1::ContainerState::ContainerUnknown) | Err(_) => {
                Self::Unknown { started_at: instant(status.started_at) }
            }
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Created => 0,
            Self::Running { .. } | Self::Unknown { .. } => 1,
            Self::Exited(_) => 2,
        }
    }
}

/// POD-37: the runtime's reason, or the usual word for the exit code.
fn exit_reason(status: &v1::ContainerStatus) -> String {
    match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed".into(),
        ("", _) => "Error".into(),
        (reason, _) => reason.into(),
    }
}

/// A CRI time (nanoseconds since 1970) as a timestamp.
pub fn instant(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// So many causes are remembered of a pod; older ones have done what they could.
const HEARD_MAX: usize = 64;

impl Observed {
    /// Takes in that something changed on which pulls depend.
    pub fn hear(&mut self, cause: crate::image::Cause, now: Timestamp) {
        self.heard.insert(cause, now);
        while self.heard.len() > HEARD_MAX {
            let oldest = self.heard.iter().min_by_key(|(_, at)| **at).map(|(cause, _)| cause.clone());
            oldest.map(|cause| self.heard.remove(&cause));
        }
    }

    /// Takes in a sandbox as just seen; it never comes back to life.
    pub fn see_sandbox(&mut self, mut sandbox: Sandbox) {
        if let Some(known) = self.sandboxes.get(&sandbox.id) {
            sandbox.ready &= known.ready;
            if sandbox.ips.is_empty() {
                sandbox.ips.clone_from(&known.ips);
            }
        }
        self.sandboxes.insert(sandbox.id.clone(), sandbox);
    }

    /// Takes in a container record as just seen; its state never goes back.
    pub fn see_container(&mut self, record: Record) {
        match self.containers.get(&record.id) {
            Some(known) if known.state.rank() > record.state.rank() => {}
            _ => {
                self.containers.insert(record.id.clone(), record);
            }
        }
    }

    /// Replaces all records by a complete listing.
    pub fn see_all(&mut self, sandboxes: Vec<Sandbox>, records: Vec<Record>) {
        let sandbox_ids: BTreeSet<String> = sandboxes.iter().map(|s| s.id.clone()).collect();
        let record_ids: BTreeSet<String> = records.iter().map(|r| r.id.clone()).collect();
        sandboxes.into_iter().for_each(|sandbox| self.see_sandbox(sandbox));
        records.into_iter().for_each(|record| self.see_container(record));
        self.sandboxes.retain(|id, _| sandbox_ids.contains(id));
        self.containers.retain(|id, _| record_ids.contains(id));
    }

    /// The newest sandbox, dead or alive.
    pub fn newest_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.values().max_by_key(|s| (s.attempt, s.created_at))
    }

    /// The records of one container, newest first.
    pub fn records(&self, name: &str) -> Vec<&Record> {
        let mut records: Vec<&Record> = self.containers.values().filter(|r| r.name == name).collect();
        records.sort_by_key(|record| std::cmp::Reverse((record.attempt, record.created_at)));
        records
    }

    /// The newest record of one container.
    pub fn newest(&self, name: &str) -> Option<&Record> {
        self.containers.values().filter(|r| r.name == name).max_by_key(|r| (r.attempt, r.created_at))
    }

    /// Records whose process may exist.
    pub fn running(&self) -> impl Iterator<Item = &Record> {
        self.containers.values().filter(|r| r.is_running())
    }

    /// The state of a container's postStart hook; `None` if it has none to run.
    pub fn post_start(&self, id: &str) -> Option<&HookRun> {
        self.checkpoint.hooks.get(id)?.post_start.as_ref()
    }
}

impl View {
    /// True once the container's process runs, its postStart hook ended well and its startup probe passed.
    pub fn is_started(&self, container: &Container, record: &Record) -> bool {
        record.is_running()
            && self.post_start_done(record)
            && (container.startup_probe.is_none()
                || self.observed.probes.get(&record.id).is_some_and(|probed| probed.started))
    }

    /// True if the container has no postStart hook that is yet to end, and none that failed.
    pub fn post_start_done(&self, record: &Record) -> bool {
        matches!(self.observed.post_start(&record.id), None | Some(HookRun::Finished(_, None)))
    }

    /// `terminationGracePeriodSeconds`, never negative.
    pub fn grace(&self) -> SignedDuration {
        SignedDuration::from_secs(self.pod.spec.termination_grace_period_seconds.unwrap_or(0).max(0))
    }

    /// The attempt number of the next start of a container. Where the runtime has lost its records, its logs and the
    /// API's restart count are witnesses (POD-20).
    pub fn next_attempt(&self, name: &str) -> u32 {
        if let Some(record) = self.observed.newest(name) {
            return record.attempt + 1;
        }
        let past = self.observed.past_attempts.get(name).map(|attempt| attempt + 1);
        let counted = self.known_status(name).map(|status| {
            let count = u32::try_from(status.restart_count).unwrap_or(0);
            // A container that vanished has its next start counted already (POD-35).
            if status.container_id.is_empty() { count } else { count + 1 }
        });
        past.into_iter().chain(counted).max().unwrap_or(0)
    }

    /// What the API last knew of a container.
    pub fn known_status(&self, name: &str) -> Option<&ContainerStatus> {
        let status = &self.pod.status;
        let known = status.container_statuses.iter().chain(&status.init_container_statuses);
        known.chain(&status.ephemeral_container_statuses).find(|known| known.name == name)
    }

    /// POD-63: what an earlier agent knew of its probes holds until they say otherwise.
    pub fn remember_probes(&mut self) {
        let runtime = format!("{}://", self.runtime);
        let status = &self.pod.status;
        for known in status.container_statuses.iter().chain(&status.init_container_statuses) {
            let Some(id) = known.container_id.strip_prefix(&runtime) else { continue };
            if self.observed.containers.get(id).is_some_and(Record::is_running) {
                let probed =
                    || Probed { started: known.started == Some(true), ready: known.ready, ..Probed::default() };
                self.observed.probes.entry(id.to_owned()).or_insert_with(probed);
            }
        }
    }

    /// The volumes of a container that are images, in the order of the pod's volumes.
    pub fn image_volumes<'a>(&'a self, container: &'a Container) -> impl Iterator<Item = &'a Volume> {
        let mounts = |volume: &Volume| container.volume_mounts.iter().any(|mount| mount.name == volume.name);
        self.pod.spec.volumes.iter().filter(move |volume| volume.image.is_some() && mounts(volume))
    }

    /// True if the image of this volume is known and has not been changed since.
    pub fn has_volume_image(&self, volume: &Volume) -> bool {
        let known = self.observed.checkpoint.volume_images.get(&volume.name);
        known.is_some_and(|known| volume.image.as_ref().is_some_and(|image| image.reference == known.reference))
    }

    /// The image string whose pull an action in flight is about.
    pub fn image_of(&self, key: &super::decide::Key) -> Option<&str> {
        match key.0 {
            super::decide::Verb::EnsureImage => {
                self.pod.container(&key.1).map(|(_, container)| container.image.as_str())
            }
            super::decide::Verb::EnsureVolumeImage => {
                let volume = self.pod.spec.volumes.iter().find(|volume| volume.name == key.1)?;
                volume.image.as_ref().map(|image| image.reference.as_str())
            }
            _ => None,
        }
    }

    /// All containers of the spec that this pod runs, with their kind.
    pub fn containers(&self) -> impl Iterator<Item = (ContainerKind, &Container)> {
        self.pod.containers()
    }
}
