//! Bringing about what `plan` decided.
//!
//! Every function is idempotent and leaves either the finished thing or something that the next call replaces. Start at
//! [`realise_all`].

use super::{Failure, MountedVolume, host_path, mounts, plan::MemoryBacked, plan::Plan, writer};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

/// Brings about all plans; a failure of one does not stop the others.
pub(super) fn realise_all(
    pod_directory: &Path,
    plans: Vec<(String, Plan)>,
    group: Option<u32>,
) -> (BTreeMap<String, MountedVolume>, Vec<Failure>) {
    let (mut volumes, mut failures) = (BTreeMap::new(), Vec::new());
    for (volume, plan) in plans {
        match realise(pod_directory, &volume, plan, group) {
            Ok(mounted) => {
                volumes.insert(volume, mounted);
            }
            Err(cause) => failures.push(Failure { volume, cause }),
        }
    }
    (volumes, failures)
}

fn realise(pod_directory: &Path, name: &str, plan: Plan, group: Option<u32>) -> Result<MountedVolume, String> {
    let directory = |kind: &str| pod_directory.join("volumes").join(format!("kubernetes.io~{kind}")).join(name);
    match plan {
        Plan::EmptyDir { memory } => {
            let path = directory("empty-dir");
            empty_dir(&path, memory.as_ref(), group).map_err(|e| e.to_string())?;
            Ok(MountedVolume::Path { path, read_only: false })
        }
        Plan::HostPath { path, type_ } => {
            host_path::check(&path, &type_)?;
            Ok(MountedVolume::Path { path, read_only: false })
        }
        Plan::Files { kind, payload, is_in_memory } => {
            let path = directory(kind);
            let memory = is_in_memory.then_some(MemoryBacked { size_bytes: None });
            empty_dir(&path, memory.as_ref(), group).map_err(|e| e.to_string())?;
            writer::write(&path, &payload, group).map_err(|e| e.to_string())?;
            Ok(MountedVolume::Path { path, read_only: true })
        }
        Plan::Image(image) => Ok(MountedVolume::Image(image)),
    }
}

/// An empty directory that every user may write, owned by the pod's group if it has one. The directory appears under
/// its name only when it is finished, so that an existing one needs nothing.
fn empty_dir(path: &Path, memory: Option<&MemoryBacked>, group: Option<u32>) -> io::Result<()> {
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if !path.is_dir() {
        let new = unfinished(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        if let Err(error) = fs::create_dir(&new)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        chown(&new, None, group)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
        fs::rename(&new, path)?;
    }
    match memory {
        Some(memory) if !mounts::is_mount_point(path)? => mounts::mount_tmpfs(path, memory.size_bytes, mode, group),
        _ => Ok(()),
    }
}

/// The name under which a directory is made: no volume name begins with a dot.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.with_file_name(format!(".{name}.new"))
}
