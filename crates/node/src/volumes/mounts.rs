//! Mounts below a pod's directory: making tmpfs, seeing what is mounted, taking all of it away.
//!
//! A leaf of system calls. Unmounting never follows a symlink, and a tree is removed only when nothing is mounted in
//! it any more, so that removal cannot reach out of it. Start at [`remove_tree`].

use super::TearDownError;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// Mounts can be stacked and can appear while we work; more rounds than this are not a race any more.
const ROUNDS_MAX: usize = 8;

/// The mount points at or below a directory, in the order in which they were mounted.
pub(super) fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = match fs::canonicalize(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).into_iter().filter(|point| point.starts_with(&directory)).collect())
}

/// The fifth field of each line, unescaped.
fn parse(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|b| *b == b'\n');
    lines.filter_map(|line| line.split(|b| *b == b' ').nth(4)).map(unescape).collect()
}

/// Blanks, tabs, newlines and backslashes are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// True when something is mounted exactly here.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = fs::canonicalize(path)?;
    Ok(below(&path)?.contains(&path))
}

/// Mounts a tmpfs that belongs to root and the given group.
pub(super) fn mount_tmpfs(path: &Path, size_bytes: Option<u64>, mode: u32, group: Option<u32>) -> io::Result<()> {
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    if let Some(group) = group {
        options.push_str(&format!(",gid={group}"));
    }
    let options = CString::new(options)?;
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .map_err(io::Error::from)
}

/// Unmounts whatever is mounted exactly here, all layers of it.
pub(super) fn unmount_all_at(path: &Path) -> io::Result<()> {
    for _ in 0..ROUNDS_MAX {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Unmounts everything at or below a directory, then removes it. Succeeds when there is none.
pub(super) fn remove_tree(directory: &Path) -> Result<(), TearDownError> {
    let failed = |attempt, path: &Path| {
        let path = path.to_owned();
        move |source| TearDownError::Io { attempt, path, source }
    };
    for _ in 0..ROUNDS_MAX {
        let mounted = below(directory).map_err(failed("list mounts below", directory))?;
        if mounted.is_empty() {
            break;
        }
        for point in mounted.iter().rev() {
            unmount_all_at(point).map_err(failed("unmount", point))?;
        }
    }
    if let Some(point) = below(directory).map_err(failed("list mounts below", directory))?.into_iter().next() {
        return Err(TearDownError::StillMounted(point));
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", directory)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = b"36 35 98:0 /mnt1 /a\\040b/c rw - ext3 /dev/root rw\n37 35 0:5 / /d\\134e rw - tmpfs tmpfs rw\n";
        assert_eq!(parse(table), [PathBuf::from("/a b/c"), PathBuf::from("/d\\e")]);
    }
}
