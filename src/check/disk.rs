//! Whether the disk is so full that the node would evict pods, and take none, from its first minute on (HOOK-93).

use std::path::Path;

use api::quantity::Quantity;
use node::eviction::Policy;
use node::eviction::signal::Resource;

use super::{Finding, good, less};
use crate::settings::Resolved;

/// What a file system has, in bytes.
#[derive(Clone, Copy)]
struct Disk {
    free: u64,
    size: u64,
}

/// The disk of the data directory, which holds images too.
pub(super) fn finding(resolved: &Resolved) -> Finding {
    let dir = &resolved.instance.data_dir;
    match look(dir) {
        Ok(disk) => judge(dir, disk, &resolved.eviction),
        Err(error) => less("disk", format!("{}: {error}", dir.display())),
    }
}

/// The nearest directory that is there already tells.
fn look(dir: &Path) -> std::io::Result<Disk> {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there)?;
    Ok(Disk { free: stat.f_bavail * stat.f_frsize, size: stat.f_blocks * stat.f_frsize })
}

fn judge(dir: &Path, disk: Disk, policy: &Policy) -> Finding {
    let quantity = |bytes: u64| Quantity::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    let gibibytes = |bytes: i64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let bounds = policy.thresholds.iter().filter(|bound| bound.signal.resource() == Resource::EphemeralStorage);
    let needed = bounds.map(|bound| (bound.amount.of(quantity(disk.size)).value(), bound.signal.name())).max();
    let (place, free) = (dir.display(), gibibytes(quantity(disk.free).value()));
    match needed.filter(|(bytes, _)| quantity(disk.free).value() < *bytes) {
        None => good("disk", format!("{free} free for {place}")),
        Some((bytes, signal)) => less(
            "disk",
            format!(
                "{free} free for {place}, less than the {} of {signal}: the node will be under DiskPressure, take no pods \
                 and evict those that it has; free some, or lower --eviction-hard",
                gibibytes(bytes)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use node::eviction::Given;

    use super::*;
    use crate::check::Weight;

    #[test]
    fn a_disk_below_a_threshold_is_told_with_its_name() {
        let policy = Policy::parse(&Given::default()).unwrap();
        let at = |percent: u64| judge(Path::new("/data"), Disk { free: percent << 30, size: 100 << 30 }, &policy);
        assert_eq!(at(16).weight, Weight::Good);
        let tight = at(14);
        assert_eq!(tight.weight, Weight::Less);
        assert!(
            tight.seen.contains("14.0 GiB free for /data, less than the 15.0 GiB of imagefs.available"),
            "{}",
            tight.seen
        );
    }
}
