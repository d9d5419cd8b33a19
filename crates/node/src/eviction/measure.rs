//! Reading the machine: memory, file systems, process ids, and what the pods use of them.
//!
//! A leaf of reading; nothing is decided here. The figures of every round cost a handful of small files and one call of
//! the runtime at the first; trees of files are walked only when a pod has to go for want of disk. Start at [`Gauge`].

use super::{
    signal::{Resource, Signal},
    view::{Candidate, ContainerUsage, Files, Layout, Observation, Observations, Usage},
};
use crate::{
    config::{label, pod_directory, pod_log_directory},
    object::Pod,
    pod::act::{Actor, limited, rpc, rpc_text},
};
use cri::v1;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const CRI_TIMEOUT: Duration = Duration::from_secs(60);

/// The instrument: it remembers where the file systems are.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    places: Option<Places>,
}

/// The file systems.
#[derive(Debug, Clone)]
struct Places {
    images: PathBuf,
    layout: Layout,
}

impl Gauge {
    /// All signals that can be seen now, and the file systems they are about.
    pub(super) async fn look(&mut self, actor: &Actor) -> (Observations, Layout) {
        if self.places.is_none() {
            match places(actor).await {
                Ok(places) => self.places = Some(places),
                Err(error) => tracing::warn!(error, "the file system of images is not known"),
            }
        }
        let mut seen = Observations::new();
        seen.extend(memory(actor).map(|seen| (Signal::MemoryAvailable, seen)));
        seen.extend(pids().map(|seen| (Signal::PidAvailable, seen)));
        let nodefs = (Signal::NodefsAvailable, Signal::NodefsInodesFree);
        seen.extend(file_system(&actor.ctx.data_dir, nodefs));
        if let Some(places) = &self.places {
            seen.extend(file_system(&places.images, (Signal::ImagefsAvailable, Signal::ImagefsInodesFree)));
        }
        (seen, self.places.as_ref().map_or(Layout::One, |places| places.layout))
    }
}

async fn places(actor: &Actor) -> Result<Places, String> {
    let request = limited(v1::ImageFsInfoRequest {}, CRI_TIMEOUT);
    let info = rpc(actor.cri.images.clone().image_fs_info(request)).await.map_err(|status| rpc_text(&status))?;
    let info = info.into_inner();
    let mount = |list: Vec<v1::FilesystemUsage>| {
        let point = list.into_iter().find_map(|usage| usage.fs_id)?.mountpoint;
        (!point.is_empty()).then(|| PathBuf::from(point))
    };
    let images = mount(info.image_filesystems).ok_or("the runtime does not name it")?;
    let containers = mount(info.container_filesystems).unwrap_or_else(|| images.clone());
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).map_err(|error| error.to_string());
    let layout = match (device(&actor.ctx.data_dir)?, device(&images)?, device(&containers)?) {
        (node, images, _) if node == images => Layout::One,
        (_, images, containers) if images == containers => Layout::Images,
        _ => Layout::Split,
    };
    Ok(Places { images, layout })
}

fn memory(actor: &Actor) -> Option<Observation> {
    let capacity = u64::try_from(actor.ctx.memory_bytes).ok()?;
    let used = actor.cgroups.machine_usage().working_set_bytes?;
    Some(Observation::bytes(capacity.saturating_sub(used), capacity))
}

/// The tasks that may still begin. `/proc/loadavg` has in its fourth field how many there are.
fn pids() -> Option<Observation> {
    let limit = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse::<i64>().ok();
    let capacity = [limit("pid_max"), limit("threads-max")].into_iter().flatten().min()?;
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let tasks: i64 = load.split(' ').nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(Observation::units(capacity - tasks, capacity))
}

fn file_system(path: &Path, (bytes, inodes): (Signal, Signal)) -> Vec<(Signal, Observation)> {
    let Ok(fs) = rustix::fs::statvfs(path) else { return Vec::new() };
    let whole = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
    let mut seen = vec![(bytes, Observation::bytes(whole(fs.f_bavail), whole(fs.f_blocks)))];
    // A file system that makes inodes as it needs them has no figure for them.
    if fs.f_files > 0 {
        let units = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        seen.push((inodes, Observation::units(units(fs.f_ffree), units(fs.f_files))));
    }
    seen
}

/// What the pods use of a resource.
pub(super) async fn candidates(actor: &Actor, pods: Vec<Arc<Pod>>, resource: Resource) -> Vec<Candidate> {
    let request = limited(v1::ListContainerStatsRequest { filter: None }, CRI_TIMEOUT);
    let mut stats: BTreeMap<String, Vec<v1::ContainerStats>> = BTreeMap::new();
    match rpc(actor.cri.runtime.clone().list_container_stats(request)).await {
        Ok(answer) => answer.into_inner().stats.into_iter().for_each(|one| {
            let uid = one.attributes.as_ref().and_then(|a| a.labels.get(label::POD_UID)).cloned();
            stats.entry(uid.unwrap_or_default()).or_default().push(one);
        }),
        Err(status) => tracing::warn!(error = rpc_text(&status), "what containers use is not known"),
    }
    let mut candidates = Vec::new();
    for pod in pods {
        let stats = stats.remove(pod.uid()).unwrap_or_default();
        let usage = usage(actor, &pod, stats, resource).await;
        candidates.push(Candidate { pod, usage });
    }
    candidates
}

async fn usage(actor: &Actor, pod: &Arc<Pod>, stats: Vec<v1::ContainerStats>, resource: Resource) -> Option<Usage> {
    let cgroup = actor.cgroups.usage(pod);
    if stats.is_empty() && cgroup.working_set_bytes.is_none() && cgroup.pids.is_none() {
        return None;
    }
    let mut usage = Usage { containers: stats.iter().filter_map(container).collect(), ..Usage::default() };
    let sum = usage.containers.values().filter_map(|container| container.memory_bytes).sum();
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    usage.memory_bytes = cgroup.working_set_bytes.map_or(sum, signed);
    usage.pids = cgroup.pids.map_or(0, signed);
    if matches!(resource, Resource::EphemeralStorage | Resource::Inodes) {
        let (volumes, logs) = files(actor, pod).await;
        usage.volumes = volumes;
        for (name, logs) in logs {
            usage.containers.entry(name).or_default().logs = Some(logs);
        }
    }
    Some(usage)
}

fn container(stats: &v1::ContainerStats) -> Option<(String, ContainerUsage)> {
    let name = stats.attributes.as_ref()?.metadata.as_ref()?.name.clone();
    let value = |of: &Option<v1::UInt64Value>| of.as_ref().map(|v| i64::try_from(v.value).unwrap_or(i64::MAX));
    let layer = stats.writable_layer.as_ref();
    let usage = ContainerUsage {
        memory_bytes: stats.memory.as_ref().and_then(|memory| value(&memory.working_set_bytes)),
        layer: layer.and_then(|layer| {
            let (bytes, inodes) = (value(&layer.used_bytes)?, value(&layer.inodes_used).unwrap_or(0));
            Some(Files { bytes, inodes })
        }),
        logs: None,
    };
    Some((name, usage))
}

/// The pod's volumes on the node's disk, and its containers' logs.
async fn files(actor: &Actor, pod: &Pod) -> (Files, BTreeMap<String, Files>) {
    let volumes = pod_directory(&actor.ctx.data_dir, pod.uid()).join("volumes");
    let logs = pod_log_directory(&actor.ctx.log_dir, pod);
    let names: Vec<String> = pod.containers().map(|(_, container)| container.name.clone()).collect();
    let walk = tokio::task::spawn_blocking(move || {
        let logs = names.into_iter().map(|name| (name.clone(), tree(&logs.join(&name)))).collect();
        (tree(&volumes), logs)
    });
    walk.await.unwrap_or_default()
}

/// Bytes on disk and inodes of a tree. Links are not followed, nor other file systems entered: what is in memory or on a
/// disk of its own does not count.
fn tree(root: &Path) -> Files {
    let Ok(top) = fs::symlink_metadata(root) else { return Files::default() };
    let (mut sum, mut open) = (Files::default(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != top.dev() {
                continue;
            }
            let bytes = i64::try_from(metadata.blocks().saturating_mul(512)).unwrap_or(i64::MAX);
            sum = sum.plus(Files { bytes, inodes: 1 });
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_files_is_added_up() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/b"), vec![1; 10_000]).unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("all")).unwrap();
        let files = tree(directory.path());
        assert_eq!(files.inodes, 3);
        assert!((10_000..1 << 20).contains(&files.bytes), "{files:?}");
        assert_eq!(tree(&directory.path().join("absent")), Files::default());
    }

    #[test]
    fn process_ids_and_file_systems_have_figures_on_every_machine() {
        let pids = pids().unwrap();
        assert!(pids.available.value() > 0 && pids.available < pids.capacity, "{pids:?}");
        let seen = file_system(Path::new("/"), (Signal::NodefsAvailable, Signal::NodefsInodesFree));
        assert!(seen.iter().all(|(_, seen)| seen.available <= seen.capacity), "{seen:?}");
        assert_eq!(seen[0].0, Signal::NodefsAvailable);
        assert!(
            file_system(Path::new("/no/such/place"), (Signal::NodefsAvailable, Signal::NodefsInodesFree)).is_empty()
        );
    }
}
