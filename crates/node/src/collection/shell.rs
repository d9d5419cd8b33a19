//! The round of collection: look, plan, remove, tell; every five minutes, and at once when a pull found the disk full.
//!
//! A round that cannot learn who needs what removes nothing. Start at [`Collector::run`].

use super::{
    act::{self, Done},
    decide::{self, Plan, Policy},
    view::{Inventory, Space, Users},
};
use crate::{
    event::{Recorder, Target},
    image::{Pulls, full_name},
    object::Pod,
    pod::{
        act::{limited, rpc, rpc_text},
        checkpoint::Checkpoints,
        clock::Clock,
    },
    records::Records,
    static_pods::ledger::Ledger,
};
use cri::v1;
use jiff::Timestamp;
use kube::{Api, api::ListParams};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Between two rounds (IMG-260).
const PERIOD: Duration = Duration::from_secs(300);
const CRI_TIMEOUT: Duration = Duration::from_secs(60);
const API_TIMEOUT: Duration = Duration::from_secs(30);

/// What collection needs.
#[derive(Clone)]
pub struct Options {
    /// The runtime.
    pub cri: cri::Client,
    /// The API, as this node.
    pub client: kube::Client,
    /// The name of the Node object.
    pub node_name: String,
    /// Which images are collected.
    pub policy: Policy,
    /// The pods' checkpoints, which name the images of volumes.
    pub checkpoints: Checkpoints,
    /// The static pods, of which the API may know nothing.
    pub static_pods: Ledger,
    /// Events.
    pub recorder: Recorder,
    /// The pulls under way, and the numbers.
    pub pulls: Pulls,
    /// Who may use an image; records of images that are gone go too (IMG-243).
    pub records: Records,
    /// The time.
    pub clock: Clock,
}

/// Why a round removed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime does not answer.
    #[error("{0}")]
    Runtime(String),
    /// The API does not say which pods there are.
    #[error("list the pods of this node: {0}")]
    Api(String),
    /// What the node has written down cannot be read.
    #[error("read the records of this node: {0}")]
    Files(String),
    /// The file system of images cannot be looked at.
    #[error("look at the image file system {path}: {source}")]
    Space {
        /// Its mount point.
        path: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// It says that it has no bytes at all.
    #[error("invalid capacity 0 on image filesystem")]
    NoCapacity,
    /// Not enough could be freed.
    #[error("{0}")]
    NotEnough(String),
    /// Images could not be removed.
    #[error("wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {failures}")]
    Removal {
        /// The goal.
        wanted: u64,
        /// What was freed.
        freed: u64,
        /// The runtime's texts.
        failures: String,
    },
}

/// Collects images. Clones are one collector.
#[derive(Clone)]
pub struct Collector {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    /// One round at a time.
    inventory: Mutex<Inventory>,
    since: Timestamp,
}

impl Collector {
    /// A collector that begins to look now.
    pub fn new(options: Options) -> Self {
        let since = options.clock.now();
        Self { shared: Arc::new(Shared { options, inventory: Mutex::default(), since }) }
    }

    /// Collects until cancelled. At first it only looks: what pods of the API are about to use, it may not know yet.
    pub async fn run(self, cancel: CancellationToken) {
        if self.shared.options.policy.is_off() {
            return;
        }
        let mut failures = 0_u32;
        if let Some(Err(error)) = cancel.run_until_cancelled(self.plan()).await {
            tracing::debug!(%error, "images are not looked at yet");
        }
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
                () = self.shared.options.pulls.disk_is_full() => {}
            }
            match cancel.run_until_cancelled(self.collect()).await {
                None => return,
                Some(Ok(_)) => failures = 0,
                Some(Err(error)) => {
                    failures += 1;
                    self.shared.failed(&error, failures);
                }
            }
        }
    }

    /// One round.
    ///
    /// # Errors
    /// [`Error`]; it is tried again with the next round.
    pub async fn collect(&self) -> Result<Done, Error> {
        let shared = &self.shared;
        let mut inventory = shared.inventory.lock().await;
        let began = shared.options.clock.now();
        let (plan, space) = shared.look(&mut inventory).await?;
        let done = act::carry_out(&shared.options.cri, &shared.options.pulls.metrics, &plan).await;
        shared.forget(began).await;
        if !done.failures.is_empty() {
            let failures = format!("[{}]", done.failures.join(", "));
            return Err(Error::Removal { wanted: plan.goal_bytes, freed: done.freed_bytes, failures });
        }
        if done.freed_bytes < plan.goal_bytes {
            let message = not_enough(&plan, space, done.freed_bytes);
            shared.options.recorder.warning(shared.node(), "FreeDiskSpaceFailed", message.clone());
            return Err(Error::NotEnough(message));
        }
        Ok(done)
    }

    /// IMG-265: removes all images that nobody uses and that are neither pinned nor too young, however much room there is.
    ///
    /// # Errors
    /// As [`Self::collect`], but never for want of images.
    pub async fn collect_all(&self) -> Result<Done, Error> {
        let shared = &self.shared;
        let mut inventory = shared.inventory.lock().await;
        let began = shared.options.clock.now();
        let (plan, _) = shared.look(&mut inventory).await?;
        let plan = Plan { goal_bytes: u64::MAX, ..plan };
        let done = act::carry_out(&shared.options.cri, &shared.options.pulls.metrics, &plan).await;
        shared.forget(began).await;
        match done.failures.as_slice() {
            [] => Ok(done),
            failures => {
                let failures = format!("[{}]", failures.join(", "));
                Err(Error::Removal { wanted: plan.goal_bytes, freed: done.freed_bytes, failures })
            }
        }
    }

    /// What a round would do now.
    ///
    /// # Errors
    /// As [`Self::collect`].
    pub async fn plan(&self) -> Result<Plan, Error> {
        let mut inventory = self.shared.inventory.lock().await;
        self.shared.look(&mut inventory).await.map(|(plan, _)| plan)
    }
}

impl Shared {
    /// Lists images before users: what is pulled or started in between is either not listed or needed.
    async fn look(&self, inventory: &mut Inventory) -> Result<(Plan, Space), Error> {
        let Options { cri, policy, clock, .. } = &self.options;
        let told = |status: tonic::Status| Error::Runtime(rpc_text(&status));
        let request = limited(v1::ListImagesRequest { filter: None }, CRI_TIMEOUT);
        let images = rpc(cri.images.clone().list_images(request)).await.map_err(told)?.into_inner().images;
        let users = self.users().await?;
        let space = self.space().await?;
        let now = clock.now();
        inventory.see(&images, &users, now);
        let plan = decide::plan(*policy, inventory.images(), Some(space), now, self.since);
        Ok((plan, space))
    }

    /// IMG-243: by the complete list of what is there, asked for after the removals.
    async fn forget(&self, began: Timestamp) {
        let request = limited(v1::ListImagesRequest { filter: None }, CRI_TIMEOUT);
        match rpc(self.options.cri.images.clone().list_images(request)).await {
            Ok(answer) => {
                let there = answer.into_inner().images.into_iter().map(|image| image.id).collect();
                self.options.records.prune(&there, began).await;
            }
            Err(status) => tracing::warn!(error = rpc_text(&status), "records of pulls are not pruned"),
        }
    }

    async fn users(&self) -> Result<Users, Error> {
        let Options { cri, client, node_name, checkpoints, pulls, static_pods, .. } = &self.options;
        let mut users = Users::default();
        users.wanted.extend(pulls.board.images());
        let api: Api<Pod> = Api::all(client.clone());
        let filter = ListParams::default().fields(&format!("spec.nodeName={node_name}"));
        let pods = match tokio::time::timeout(API_TIMEOUT, api.list(&filter)).await {
            Ok(Ok(list)) => list.items,
            Ok(Err(error)) => return Err(Error::Api(error.to_string())),
            Err(_) => return Err(Error::Api("no answer".into())),
        };
        let (own, fixed) = written(static_pods.clone(), checkpoints.clone()).await?;
        for pod in pods.iter().chain(&own).filter(|pod| !pod.is_terminal()) {
            let volumes = pod.spec.volumes.iter().filter_map(|volume| volume.image.as_ref());
            let images = pod.containers().map(|(_, c)| &c.image).chain(volumes.map(|volume| &volume.reference));
            users.wanted.extend(images.map(|image| full_name(image)));
        }
        users.containers.extend(fixed);
        let request = limited(v1::ListContainersRequest { filter: None }, CRI_TIMEOUT);
        let containers = rpc(cri.runtime.clone().list_containers(request)).await;
        let containers = containers.map_err(|status| Error::Runtime(rpc_text(&status)))?.into_inner().containers;
        for container in containers {
            users.containers.extend([container.image_ref, container.image_id]);
            users.containers.extend(container.image.map(|spec| spec.image));
        }
        Ok(users)
    }

    async fn space(&self) -> Result<Space, Error> {
        let request = limited(v1::ImageFsInfoRequest {}, CRI_TIMEOUT);
        let info = rpc(self.options.cri.images.clone().image_fs_info(request)).await;
        let info = info.map_err(|status| Error::Runtime(rpc_text(&status)))?.into_inner();
        let place = info.image_filesystems.into_iter().find_map(|usage| usage.fs_id);
        let path = place.map(|place| place.mountpoint).filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| Error::Runtime("the runtime does not name the image file system".into()))?;
        let space = space_of(Path::new(&path)).map_err(|source| Error::Space { path, source })?;
        if space.capacity_bytes == 0 {
            let error = Error::NoCapacity;
            self.options.recorder.warning(self.node(), "InvalidDiskCapacity", error.to_string());
            return Err(error);
        }
        Ok(space)
    }

    /// IMG-263: one failure may be a moment's; the second in a row is told.
    fn failed(&self, error: &Error, in_a_row: u32) {
        tracing::warn!(%error, in_a_row, "images are not collected");
        if in_a_row > 1 {
            self.options.recorder.warning(self.node(), "ImageGCFailed", error.to_string());
        }
    }

    fn node(&self) -> Target {
        let name = self.options.node_name.clone();
        Target { kind: "Node", namespace: String::new(), uid: name.clone(), name, field_path: String::new() }
    }
}

/// The static pods and the images of volumes that the node has written down. What cannot be read may be in use.
async fn written(ledger: Ledger, checkpoints: Checkpoints) -> Result<(Vec<Pod>, Vec<String>), Error> {
    let read = move || {
        let own = ledger.all().into_iter().map(|known| (*known.pod).clone()).collect();
        let images = |uid: String| checkpoints.load(&uid).volume_images.into_values().map(|image| image.id);
        (own, checkpoints.uids().into_iter().flat_map(images).collect())
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| Error::Files(error.to_string()))
}

fn not_enough(plan: &Plan, space: Space, freed: u64) -> String {
    let percent = plan.usage_percent.unwrap_or(100);
    format!(
        "Insufficient free disk space on the node's image filesystem ({percent}% of {} used). Failed to free sufficient \
         space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active \
         images, logs, volumes, or other data.",
        binary_size(space.capacity_bytes)
    )
}

/// `26.4 GiB`.
fn binary_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10 + (1_u128 << (shift - 1))) >> shift;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

fn space_of(path: &Path) -> std::io::Result<Space> {
    let fs = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
    Ok(Space { capacity_bytes: bytes(fs.f_blocks), available_bytes: bytes(fs.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_disk_that_stays_full_are_those_of_kubernetes() {
        let plan = Plan { usage_percent: Some(95), ..Plan::default() };
        let space = Space { capacity_bytes: 28_346_784_153, available_bytes: 0 };
        assert_eq!(
            not_enough(&plan, space, 385_820_817),
            "Insufficient free disk space on the node's image filesystem (95% of 26.4 GiB used). Failed to free sufficient space by deleting unused images (freed 385820817 bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
        );
        assert_eq!([512, 1 << 20].map(binary_size), ["512 B", "1.0 MiB"]);
    }

    #[test]
    fn the_room_of_a_directory_is_that_of_its_file_system() {
        let space = space_of(Path::new("/")).unwrap();
        assert!(space.capacity_bytes > 0 && space.available_bytes <= space.capacity_bytes);
        assert!(space_of(Path::new("/no/such/place")).is_err());
    }
}
