//! subPath: a place inside a volume, pinned so that the container's owner cannot lead the mount elsewhere.
//!
//! The path is walked by the kernel with `RESOLVE_BENEATH`, so neither `..` nor a symlink leaves the volume, and what
//! was opened is what gets bound: there is no second look-up to race with. Start at [`bind`].

use super::mounts;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// A subPath to pin.
#[derive(Debug, Clone, Copy)]
pub struct SubPath<'a> {
    /// The pod's directory on this node.
    pub pod_directory: &'a Path,
    /// The volume's name.
    pub volume: &'a str,
    /// The volume on the host.
    pub volume_path: &'a Path,
    /// The container's name.
    pub container: &'a str,
    /// The index of the mount in the container.
    pub index: usize,
    /// The path inside the volume, relative and without `..`.
    pub sub_path: &'a str,
    /// True when the container may only read it.
    pub read_only: bool,
}

/// Binds the subPath to a place below the pod's directory and returns that place. A directory that does not exist is
/// created, as Kubernetes does. An earlier bind is replaced; containers that have it mounted keep theirs.
///
/// # Errors
/// The operating system's, `EXDEV` when the path would leave the volume.
pub fn bind(want: &SubPath<'_>) -> io::Result<PathBuf> {
    let source = open_inside(want.volume_path, want.sub_path)?;
    let is_directory = rustix::fs::fstat(&source).map(|s| s.st_mode & 0o170_000 == 0o040_000)?;
    let parent = want.pod_directory.join("volume-subpaths").join(want.volume).join(want.container);
    let target = parent.join(want.index.to_string());
    fs::create_dir_all(&parent)?;
    mounts::unmount_all_at(&target)?;
    match (is_directory, target.symlink_metadata().ok().map(|m| m.is_dir())) {
        (true, Some(true)) | (false, Some(false)) => {}
        (_, Some(true)) => fs::remove_dir(&target)?,
        (_, Some(false)) => fs::remove_file(&target)?,
        (_, None) => {}
    }
    if is_directory {
        fs::create_dir_all(&target)?;
    } else {
        fs::OpenOptions::new().append(true).create(true).open(&target)?;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(&source, "", flags)?;
    move_mount(&tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(target)
}

/// Opens the path beneath the volume, creating missing directories on the way.
fn open_inside(volume: &Path, sub_path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, flags, Mode::empty())?;
    let open = |path: &str| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&root, if path.is_empty() { "." } else { path }, flags, Mode::empty(), resolve)
    };
    let mut walked = String::new();
    for part in sub_path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        let parent = walked.clone();
        walked = if walked.is_empty() { part.to_owned() } else { format!("{walked}/{part}") };
        if open(&walked).err() == Some(Errno::NOENT) {
            match mkdirat(open(&parent)?, part, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(open(&walked)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_symlink_leads_out_of_the_volume() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("v");
        fs::create_dir_all(volume.join("inner")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../..", volume.join("up")).unwrap();
        std::os::unix::fs::symlink("inner", volume.join("near")).unwrap();
        for (path, is_allowed) in
            [("inner", true), ("near", true), ("made/here", true), ("absolute", false), ("up/x", false), ("..", false)]
        {
            assert_eq!(open_inside(&volume, path).is_ok(), is_allowed, "{path}");
        }
        assert!(volume.join("made/here").is_dir());
    }
}
