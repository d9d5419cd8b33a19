//! What containers and sandboxes use, read from their cgroups and network namespaces at the time of the question.

use std::fs;
use std::path::PathBuf;

use cri::v1::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    LinuxPodSandboxStats, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes, PodSandboxStats,
    PodSandboxStatsFilter, ProcessUsage, UInt64Value,
};

use crate::cgroup::{Hierarchies, keyed, number};
use crate::clock;
use crate::core::Core;
use crate::sandbox::status::has_labels;
use crate::state::{Container, Sandbox, Stage, lock};

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// Statistics of the containers that a filter lets through. Blocks.
pub(crate) fn containers(core: &Core, filter: &ContainerStatsFilter) -> Vec<ContainerStats> {
    let wanted = |container: &&std::sync::Arc<Container>| {
        container.id().starts_with(&filter.id)
            && container.record.sandbox.starts_with(&filter.pod_sandbox_id)
            && has_labels(&container.record.config.labels, &filter.label_selector)
            && container.stage() == Stage::Running
    };
    core.state.containers().iter().filter(wanted).map(|container| of_container(core, container)).collect()
}

/// Statistics of one container. Blocks.
pub(crate) fn of_container(core: &Core, container: &Container) -> ContainerStats {
    let config = &container.record.config;
    let cgroup = container.cgroup();
    let mut cpu = cpu(&core.hierarchies, &cgroup);
    if let Some(used) = cpu.usage_core_nano_seconds {
        let last = lock(&container.last_cpu).replace((cpu.timestamp, used.value));
        cpu.usage_nano_cores = last.and_then(|last| rate(last, (cpu.timestamp, used.value))).and_then(value);
    }
    ContainerStats {
        attributes: Some(ContainerAttributes {
            id: container.record.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: Some(cpu),
        memory: Some(memory(&core.hierarchies, &cgroup)),
        writable_layer: Some(writable_layer(core, container)),
        ..ContainerStats::default()
    }
}

/// Nanoseconds of CPU a second between two readings.
fn rate(before: (i64, u64), after: (i64, u64)) -> Option<u64> {
    let elapsed = u128::try_from(after.0 - before.0).ok().filter(|elapsed| *elapsed > 0)?;
    let used = u128::from(after.1.checked_sub(before.1)?);
    u64::try_from(used * 1_000_000_000 / elapsed).ok()
}

fn cpu(hierarchies: &Hierarchies, cgroup: &str) -> CpuUsage {
    let used = hierarchies.directory("cpuacct", cgroup).and_then(|directory| {
        let of_v2 = || keyed(&directory, "cpu.stat", "usage_usec").map(|microseconds| microseconds * 1000);
        number(&directory, "cpuacct.usage").or_else(of_v2)
    });
    CpuUsage {
        timestamp: clock::now_nanoseconds(),
        usage_core_nano_seconds: used.and_then(value),
        ..CpuUsage::default()
    }
}

fn memory(hierarchies: &Hierarchies, cgroup: &str) -> MemoryUsage {
    let timestamp = clock::now_nanoseconds();
    let Some(directory) = hierarchies.directory("memory", cgroup) else {
        return MemoryUsage { timestamp, ..MemoryUsage::default() };
    };
    let stat =
        |v1: &str, v2: &str| keyed(&directory, "memory.stat", v1).or_else(|| keyed(&directory, "memory.stat", v2));
    let usage = number(&directory, "memory.usage_in_bytes").or_else(|| number(&directory, "memory.current"));
    let inactive = stat("total_inactive_file", "inactive_file").unwrap_or_default();
    let working_set = usage.map(|usage| usage.saturating_sub(inactive));
    let limit = number(&directory, "memory.limit_in_bytes").or_else(|| number(&directory, "memory.max"));
    // Version 1 says "no limit" by a number beyond every machine.
    let limit = limit.filter(|limit| *limit < 1 << 60);
    MemoryUsage {
        timestamp,
        working_set_bytes: working_set.and_then(value),
        available_bytes: limit.and_then(|limit| value(limit.saturating_sub(working_set.unwrap_or_default()))),
        usage_bytes: usage.and_then(value),
        rss_bytes: stat("total_rss", "anon").and_then(value),
        page_faults: stat("total_pgfault", "pgfault").and_then(value),
        major_page_faults: stat("total_pgmajfault", "pgmajfault").and_then(value),
        psi: None,
    }
}

fn writable_layer(core: &Core, container: &Container) -> FilesystemUsage {
    let upper = core.layout.container_data(container.id()).join("upper");
    let (bytes, inodes) = tree_size(upper);
    FilesystemUsage {
        timestamp: clock::now_nanoseconds(),
        fs_id: Some(FilesystemIdentifier { mountpoint: core.layout.data.to_string_lossy().into_owned() }),
        used_bytes: value(bytes),
        inodes_used: value(inodes),
    }
}

/// Bytes on disk and files of a tree; links are not followed.
fn tree_size(root: PathBuf) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let (mut bytes, mut inodes) = (0, 0);
    let mut open = vec![root];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

/// Statistics of the sandboxes that a filter lets through. Blocks.
pub(crate) fn sandboxes(core: &Core, filter: &PodSandboxStatsFilter) -> Vec<PodSandboxStats> {
    let wanted = |sandbox: &&std::sync::Arc<Sandbox>| {
        sandbox.id().starts_with(&filter.id) && has_labels(&sandbox.record.config.labels, &filter.label_selector)
    };
    core.state.sandboxes().iter().filter(wanted).map(|sandbox| of_sandbox(core, sandbox)).collect()
}

/// Statistics of one sandbox. Blocks.
pub(crate) fn of_sandbox(core: &Core, sandbox: &Sandbox) -> PodSandboxStats {
    let (record, timestamp) = (&sandbox.record, clock::now_nanoseconds());
    let processes = core.hierarchies.directory("pids", &record.cgroup).and_then(|d| number(&d, "pids.current"));
    let filter = ContainerStatsFilter { pod_sandbox_id: record.id.clone(), ..ContainerStatsFilter::default() };
    PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu: Some(cpu(&core.hierarchies, &record.cgroup)),
            memory: Some(memory(&core.hierarchies, &record.cgroup)),
            network: Some(network(sandbox)),
            process: Some(ProcessUsage { timestamp, process_count: processes.and_then(value) }),
            containers: containers(core, &filter),
            io: None,
        }),
        windows: None,
    }
}

fn network(sandbox: &Sandbox) -> NetworkUsage {
    let pid = sandbox.live().pid;
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut interfaces: Vec<NetworkInterfaceUsage> = table.lines().filter_map(interface).collect();
    let default = interfaces.iter().position(|interface| interface.name == "eth0");
    NetworkUsage {
        timestamp: clock::now_nanoseconds(),
        default_interface: default.map(|position| interfaces.remove(position)),
        interfaces,
    }
}

/// A line of `/proc/net/dev`.
fn interface(line: &str) -> Option<NetworkInterfaceUsage> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
    let [rx_bytes, _, rx_errors, _, _, _, _, _, tx_bytes, _, tx_errors, ..] = numbers[..] else { return None };
    Some(NetworkInterfaceUsage {
        name: name.trim().to_owned(),
        rx_bytes: value(rx_bytes),
        rx_errors: value(rx_errors),
        tx_bytes: value(tx_bytes),
        tx_errors: value(tx_errors),
    })
    .filter(|interface| interface.name != "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        let line = "  eth0:  100  1 2 0 0 0 0 0  300 4 5 0 0 0 0 0";
        let read = interface(line).unwrap();
        assert_eq!(
            (read.rx_bytes, read.rx_errors, read.tx_bytes, read.tx_errors),
            (value(100), value(2), value(300), value(5))
        );
        assert!(interface(" face |bytes    packets").is_none());
    }

    #[test]
    fn the_rate_needs_two_readings() {
        assert_eq!(rate((0, 0), (2_000_000_000, 1_000_000_000)), Some(500_000_000));
        assert_eq!(rate((5, 5), (5, 5)), None);
    }
}
