//! The container's root file system: an overlay of the image's layers and a writable directory.
//!
//! Owns mounting and unmounting. Must not know what a container is. Everything here blocks.
//! Why `volatile`: what a container wrote need not survive a power loss, because the container does not; without it
//! each unmount would write the whole file system back (docs/walls/files.md).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};

use crate::error::Error;

/// Where the parts of a root file system are.
#[derive(Clone, Debug)]
pub(crate) struct Rootfs {
    /// Topmost first.
    pub layers: Vec<PathBuf>,
    /// Holds `upper` and `work`.
    pub scratch: PathBuf,
    /// Mount point.
    pub target: PathBuf,
}

impl Rootfs {
    pub(crate) fn upper(&self) -> PathBuf {
        self.scratch.join("upper")
    }

    /// Makes the directories and mounts.
    pub(crate) fn mount(&self) -> Result<(), Error> {
        for directory in [&self.upper(), &self.scratch.join("work"), &self.target] {
            fs::create_dir_all(directory).map_err(Error::file("make directory", directory))?;
        }
        let mounted = self.by_file_descriptor().or_else(|error| {
            tracing::debug!(%error, "no overlay by descriptors; trying the classic call");
            self.by_option_string()
        });
        mounted.map_err(|error| Error::step("mount the root file system", error))
    }

    /// The new mount calls: no limit of a page for all options together.
    fn by_file_descriptor(&self) -> rustix::io::Result<()> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for layer in &self.layers {
            fsconfig_set_string(&context, "lowerdir+", layer)?;
        }
        fsconfig_set_string(&context, "upperdir", self.upper())?;
        fsconfig_set_string(&context, "workdir", self.scratch.join("work"))?;
        // An old kernel without the flag still mounts.
        let _ = fsconfig_set_flag(&context, "volatile");
        fsconfig_create(&context)?;
        let mounted: OwnedFd = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        move_mount(&mounted, "", CWD, &self.target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }

    fn by_option_string(&self) -> rustix::io::Result<()> {
        let layers: Vec<&str> = self.layers.iter().filter_map(|layer| layer.to_str()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            layers.join(":"),
            self.upper().display(),
            self.scratch.join("work").display()
        );
        let options = std::ffi::CString::new(options).map_err(|_| rustix::io::Errno::INVAL)?;
        mount("overlay", &self.target, "overlay", rustix::mount::MountFlags::empty(), options.as_c_str())
    }
}

/// Takes a mount away, even a busy one, until nothing is mounted there. Nothing mounted is fine.
pub(crate) fn unmount_all(target: &Path) -> io::Result<()> {
    for _ in 0..64 {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("too many mounts on one place"))
}

/// A small tmpfs, such as a pod's /dev/shm.
pub(crate) fn mount_shm(target: &Path) -> Result<(), Error> {
    fs::create_dir_all(target).map_err(Error::file("make directory", target))?;
    let flags =
        rustix::mount::MountFlags::NOEXEC | rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    mount("shm", target, "tmpfs", flags, c"mode=1777,size=65536k")
        .map_err(|error| Error::step("mount the pod's /dev/shm", error))
}

/// Mounts layers, topmost first, for reading only: nothing in them runs, is a device or changes a user. A single layer
/// is stacked upon the `empty` directory, because an overlay that is not written has two at least.
pub(crate) fn mount_read_only(layers: &[PathBuf], empty: &Path, target: &Path) -> Result<(), Error> {
    for directory in [empty, target] {
        fs::create_dir_all(directory).map_err(Error::file("make directory", directory))?;
    }
    let mut layers = layers.to_vec();
    if layers.len() < 2 {
        layers.push(empty.to_owned());
    }
    let mounted = read_only_by_file_descriptor(&layers, target).or_else(|error| {
        tracing::debug!(%error, "no overlay by descriptors; trying the classic call");
        let layers: Vec<&str> = layers.iter().filter_map(|layer| layer.to_str()).collect();
        let options = std::ffi::CString::new(format!("lowerdir={}", layers.join(":")));
        let options = options.map_err(|_| rustix::io::Errno::INVAL)?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("overlay", target, "overlay", flags, options.as_c_str())
    });
    mounted.map_err(|error| Error::step("mount the layers of the image", error))
}

fn read_only_by_file_descriptor(layers: &[PathBuf], target: &Path) -> rustix::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(&context, "lowerdir+", layer)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mounted: OwnedFd = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Unmounts and removes what a container has in the run directory: its root file system and its image volumes.
pub(crate) fn remove_bundle(bundle: &Path) -> Result<(), Error> {
    let volumes = bundle.join(crate::container::volumes::VOLUMES);
    for name in crate::startup::names(&volumes) {
        let target = volumes.join(name);
        unmount_all(&target).map_err(Error::file("unmount", &target))?;
    }
    remove_tree(bundle, &["rootfs"])
}

/// Unmounts what lies in a directory of ours and removes it. An absent directory is fine.
pub(crate) fn remove_tree(directory: &Path, mount_points: &[&str]) -> Result<(), Error> {
    for name in mount_points {
        let target = directory.join(name);
        unmount_all(&target).map_err(Error::file("unmount", &target))?;
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", directory)(error)),
        _ => Ok(()),
    }
}
