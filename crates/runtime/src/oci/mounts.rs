//! What is mounted where in a container, in the order of mounting.

use cri::v1::{LinuxContainerSecurityContext, Mount, MountPropagation};
use serde_json::{Value, json};

use super::Inputs;
use std::path::Path;

pub(super) fn of(inputs: &Inputs<'_>, security: &LinuxContainerSecurityContext) -> Vec<Value> {
    let asked = &inputs.config.mounts;
    let is_asked = |target: &str| asked.iter().any(|mount| trimmed(&mount.container_path) == target);
    let mut mounts: Vec<Value> = kernel(inputs, security);
    for (name, target) in [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")] {
        let mut options = vec!["rbind", "rprivate"];
        if security.readonly_rootfs {
            options.push("ro");
        }
        mounts.push(bind(&inputs.sandbox_files.join(name).to_string_lossy(), target, &options));
    }
    mounts.retain(|mount| !is_asked(mount["destination"].as_str().unwrap_or_default()));
    let mut own: Vec<(usize, &Mount)> = asked.iter().enumerate().collect();
    // Parents before what lies in them, or they would hide it.
    own.sort_by_key(|(_, mount)| trimmed(&mount.container_path).split('/').count());
    mounts.extend(own.into_iter().map(|(index, mount)| match inputs.volumes.get(&index) {
        Some(source) => image_volume(source, mount),
        None => wanted(mount),
    }));
    mounts
}

fn trimmed(path: &str) -> &str {
    if path.len() > 1 { path.trim_end_matches('/') } else { path }
}

/// What every container has from the kernel.
fn kernel(inputs: &Inputs<'_>, security: &LinuxContainerSecurityContext) -> Vec<Value> {
    let access = if security.privileged { "rw" } else { "ro" };
    let file_system = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    vec![
        file_system("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        file_system("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        file_system("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        file_system("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        file_system("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        file_system("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
        bind(&inputs.shm.to_string_lossy(), "/dev/shm", &["rbind", "rprivate", "nosuid", "nodev", "noexec"]),
    ]
}

fn bind(source: &str, target: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": "bind", "source": source, "options": options })
}

/// An image volume: nothing in it is written, run, or has a privilege (IMG-305).
fn image_volume(source: &Path, mount: &Mount) -> Value {
    let options = ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
    bind(&source.to_string_lossy(), trimmed(&mount.container_path), &options)
}

fn wanted(mount: &Mount) -> Value {
    let propagation = match MountPropagation::try_from(mount.propagation) {
        Ok(MountPropagation::PropagationHostToContainer) => "rslave",
        Ok(MountPropagation::PropagationBidirectional) => "rshared",
        _ => "rprivate",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    bind(&mount.host_path, trimmed(&mount.container_path), &["rbind", propagation, access])
}
