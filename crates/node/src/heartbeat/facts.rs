//! What the machine and the runtime say about themselves.
//!
//! A leaf of reading; nothing is decided here.

use super::{Conditions, limited};
use crate::pod::act::rpc;
use api::handlers::ByHandler;
use cri::v1;
use std::{collections::BTreeMap, fs, path::Path};

/// Facts of the machine that do not change while it is up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub host_name: String,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
    pub system_uuid: String,
    pub cpus: u64,
    pub memory_kib: u64,
    pub storage_kib: u64,
    /// Bytes reserved per size name (`2Mi`).
    pub hugepages: BTreeMap<String, u64>,
}

/// What the runtime answered; everything empty when it did not.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Seen {
    /// `name://version`; "" without an answer.
    pub runtime_version: String,
    pub conditions: Conditions,
    pub handlers: Vec<v1::RuntimeHandler>,
    pub features: Option<v1::RuntimeFeatures>,
    pub images: Vec<v1::Image>,
    /// What the runtime found out about its handlers; other runtimes tell nothing.
    pub figures: ByHandler,
    /// Why what it says of its containers cannot be relied on, if so.
    pub unlisted: Option<String>,
    /// The machine is shutting down.
    pub is_shutting_down: bool,
}

impl Machine {
    /// Reads the machine; what cannot be read is empty.
    pub fn read(data_dir: &Path) -> Machine {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let uname = rustix::system::uname();
        let statistics = rustix::fs::statvfs(data_dir);
        Machine {
            host_name: uname.nodename().to_string_lossy().to_lowercase(),
            kernel: uname.release().to_string_lossy().into_owned(),
            os_image: os_image(&text("/etc/os-release")),
            machine_id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            system_uuid: text("/sys/class/dmi/id/product_uuid"),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_kib: memory_kib(&text("/proc/meminfo")),
            storage_kib: statistics.map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize) >> 10),
            hugepages: hugepages(),
        }
    }
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |n| n.trim_matches('"')).to_owned()
}

fn memory_kib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|t| t.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn hugepages() -> BTreeMap<String, u64> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let pages: u64 = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            Some((size_name(kib), pages.saturating_mul(kib << 10)))
        })
        .collect()
}

fn size_name(kib: u64) -> String {
    match kib {
        k if k % (1 << 20) == 0 => format!("{}Gi", k >> 20),
        k if k % (1 << 10) == 0 => format!("{}Mi", k >> 10),
        k => format!("{k}Ki"),
    }
}

/// Asks the runtime. Images are a courtesy: without them the rest still counts (IMG-268).
pub(super) async fn look(cri: &cri::Client) -> Result<Seen, String> {
    let (mut runtime, mut other, mut images) = (cri.runtime.clone(), cri.runtime.clone(), cri.images.clone());
    let version = runtime.version(limited(v1::VersionRequest::default()));
    let status = other.status(limited(v1::StatusRequest { verbose: true }));
    let list = images.list_images(limited(v1::ListImagesRequest { filter: None }));
    let (version, status, list) = tokio::join!(rpc(version), rpc(status), rpc(list));
    let version = version.map_err(|s| s.message().to_owned())?.into_inner();
    let status = status.map_err(|s| s.message().to_owned())?.into_inner();
    Ok(Seen {
        runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
        conditions: status.status.map(|s| s.conditions).unwrap_or_default(),
        handlers: status.runtime_handlers,
        features: status.features,
        figures: status.info.get("handlers").map(|text| api::handlers::parse(text)).unwrap_or_default(),
        unlisted: None,
        is_shutting_down: false,
        images: list.map(|l| l.into_inner().images).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_its_own_words() {
        assert_eq!(os_image("ID=x\nPRETTY_NAME=\"X Linux 1\"\n"), "X Linux 1");
        assert_eq!(memory_kib("MemFree: 1 kB\nMemTotal:    32880 kB\n"), 32880);
        assert_eq!([2048, 1 << 20, 64].map(size_name), ["2Mi", "1Gi", "64Ki"]);
    }
}
