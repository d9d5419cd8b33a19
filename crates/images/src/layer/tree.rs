//! The directory that a layer is unpacked into, and the only code that writes there.
//!
//! Invariant: nothing outside of the root is opened, created, changed or removed, whatever the archive says. A path is
//! split by hand, a parent is opened by `openat2` with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`, and the last
//! component is only ever used relative to that parent without following links. Whiteouts become overlayfs's own.

use super::{Place, UnpackError};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

const OPAQUE: &str = "trusted.overlay.opaque";
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const DISK_BLOCK: u64 = 4096;
const DEPTH_MAX: usize = 512;
/// Their times are kept in memory up to the end of the archive.
const DIRECTORIES_MAX: usize = 500_000;

/// What an entry is.
pub(crate) enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice(Dev),
    BlockDevice(Dev),
    Fifo,
}

/// An entry of an archive.
pub(crate) struct Node {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timespec,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The content of a file: the next `remaining` bytes of the stream.
pub(crate) struct Content<'a, R> {
    pub(crate) stream: &'a mut R,
    pub(crate) remaining: u64,
}

/// The tree under construction.
pub(super) struct Tree {
    root: Arc<OwnedFd>,
    /// The parent of the last entry; most entries share it with the one before.
    parent: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// Directories get their times at the end, because every entry below changes them.
    times: BTreeMap<Vec<u8>, Timespec>,
    /// Estimate of the space taken, in bytes.
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Tree {
    /// A tree in an existing, empty directory.
    pub(super) fn open(root: &Path) -> io::Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = Arc::new(rustix::fs::openat(CWD, root, flags, Mode::empty())?);
        Ok(Tree { root, parent: None, times: BTreeMap::new(), bytes: 0, inodes: 1 })
    }

    fn dress_root(&mut self, node: &Node) -> Result<(), UnpackError> {
        dress(self.root.as_fd(), node).map_err(|error| failed("unpacking", b"/", error))?;
        self.times.insert(Vec::new(), node.mtime);
        Ok(())
    }

    fn file(
        &mut self,
        parent: &Arc<OwnedFd>,
        name: &[u8],
        node: &Node,
        content: &mut Content<'_, impl BufRead>,
    ) -> Result<(), UnpackError> {
        let fail = |error: Errno| failed("unpacking", &node.path, error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self
            .replacing(parent, name, || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)))
            .map_err(fail)?;
        self.bytes += content.remaining.checked_next_multiple_of(DISK_BLOCK).unwrap_or(u64::MAX / 2);
        while content.remaining > 0 {
            let buffer = content.stream.fill_buf().map_err(|e| UnpackError::system("reading", &node.path, e))?;
            if buffer.is_empty() {
                return Err(UnpackError::Invalid(format!("the archive ends inside {:?}", lossy(&node.path))));
            }
            let want = buffer.len().min(usize::try_from(content.remaining).unwrap_or(usize::MAX));
            let written = rustix::io::write(&file, &buffer[..want]).map_err(fail)?;
            content.stream.consume(written);
            content.remaining -= written as u64;
        }
        dress(file.as_fd(), node).map_err(fail)?;
        rustix::fs::futimens(&file, &times(node.mtime)).map_err(fail)
    }

    fn directory(&mut self, parent: &Arc<OwnedFd>, name: &[u8], node: &Node) -> Result<(), Errno> {
        let was_whiteout = self.make_directory(parent, name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        if was_whiteout {
            // Removed and made anew in one layer: what lies below must not shine through.
            rustix::fs::fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty())?;
        }
        dress(directory.as_fd(), node)
    }

    /// Makes a directory, or keeps the one that is there. True if it replaced a whiteout.
    fn make_directory(&mut self, parent: &Arc<OwnedFd>, name: &[u8]) -> Result<bool, Errno> {
        let make = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755));
        match make() {
            Err(Errno::EXIST) => {}
            other => return other.map(|()| false),
        }
        let found = lstat(parent, name)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Ok(false);
        }
        self.remove(parent, name)?;
        make()?;
        Ok(is_whiteout(&found))
    }

    fn make_node(
        &mut self,
        parent: &Arc<OwnedFd>,
        name: &[u8],
        node: &Node,
        (kind, device): (FileType, Dev),
    ) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(node.mode & 0o777);
        self.replacing(parent, name, || rustix::fs::mknodat(parent, name, kind, mode, device))
    }

    fn hard_link(&mut self, parent: &Arc<OwnedFd>, name: &[u8], node: &Node, target: &[u8]) -> Result<(), UnpackError> {
        let fail = |error: Errno| failed("linking", &node.path, error);
        let components = split(target)?;
        let Some((target_name, above)) = components.split_last() else {
            return Err(UnpackError::Invalid(format!("{:?} is a hard link to the root", lossy(&node.path))));
        };
        let target_parent = self.open_directory(&above.join(&b'/')).map_err(fail)?;
        let wanted = lstat(&target_parent, target_name).map_err(fail)?;
        let present = lstat(parent, name);
        if present.is_ok_and(|present| (present.st_dev, present.st_ino) == (wanted.st_dev, wanted.st_ino)) {
            return Ok(());
        }
        self.inodes -= 1;
        let link = || rustix::fs::linkat(&target_parent, *target_name, parent, name, AtFlags::empty());
        self.replacing(parent, name, link).map_err(fail)
    }

    fn whiteout(&mut self, parent: &Arc<OwnedFd>, name: &[u8]) -> Result<(), Errno> {
        let opaque = |at: &Arc<OwnedFd>, path: &[u8]| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(at, path, flags, Mode::empty())?;
            rustix::fs::fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty())
        };
        if name == OPAQUE_MARK {
            return opaque(parent, b".");
        }
        // Bookkeeping of aufs, of no meaning here.
        if name.starts_with(AUFS_PREFIX) {
            return Ok(());
        }
        let gone = &name[WHITEOUT_PREFIX.len()..];
        if gone.is_empty() || gone == b"." || gone == b".." {
            return Err(Errno::INVAL);
        }
        match lstat(parent, gone) {
            // What this layer itself brings stays; of a directory only the layers below are hidden.
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => opaque(parent, gone),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                self.inodes += 1;
                rustix::fs::mknodat(parent, gone, FileType::CharacterDevice, Mode::empty(), 0)
            }
            Err(error) => Err(error),
        }
    }

    /// Runs a creating call; what is in its way is removed first.
    fn replacing<T>(
        &mut self,
        parent: &Arc<OwnedFd>,
        name: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make() {
            Err(Errno::EXIST) => {
                self.remove(parent, name)?;
                make()
            }
            other => other,
        }
    }

    fn remove(&mut self, parent: &Arc<OwnedFd>, name: &[u8]) -> Result<(), Errno> {
        // The cached parent may lie below what is removed.
        self.parent = None;
        remove_at(parent.as_fd(), name, 0)
    }

    /// The directory of an entry, made if the archive did not bring it.
    fn parent(&mut self, components: &[&[u8]]) -> Result<Arc<OwnedFd>, UnpackError> {
        let path = components.join(&b'/');
        if let Some((cached, directory)) = &self.parent
            && *cached == path
        {
            return Ok(directory.clone());
        }
        let directory = match self.open_directory(&path) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.make_parents(components).map_err(|error| failed("making the parents of", &path, error))?
            }
            Err(error) => return Err(failed("opening", &path, error)),
        };
        self.parent = Some((path, directory.clone()));
        Ok(directory)
    }

    fn make_parents(&mut self, components: &[&[u8]]) -> Result<Arc<OwnedFd>, Errno> {
        if components.len() > DEPTH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let mut above = self.root.clone();
        for depth in 1..=components.len() {
            let path = components[..depth].join(&b'/');
            above = match self.open_directory(&path) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let name = components[depth - 1];
                    // A link that leads nowhere, or a file: the archive contradicts itself.
                    if lstat(&above, name).is_ok_and(|found| !is_whiteout(&found)) {
                        return Err(Errno::NOTDIR);
                    }
                    let was_whiteout = self.make_directory(&above, name)?;
                    self.inodes += 1;
                    rustix::fs::chmodat(&above, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
                    if was_whiteout {
                        self.whiteout(&above, &[WHITEOUT_PREFIX, name].concat())?;
                    }
                    self.open_directory(&path)?
                }
                Err(error) => return Err(error),
            };
        }
        Ok(above)
    }

    /// Opens a directory by its path in the root; links on the way are followed inside the root.
    fn open_directory(&self, path: &[u8]) -> Result<Arc<OwnedFd>, Errno> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: a rename elsewhere raced with the resolution; it says nothing about this path.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other.map(Arc::new),
            }
        }
        Err(Errno::AGAIN)
    }
}

impl Place for Tree {
    fn place<R: BufRead>(&mut self, node: &Node, content: &mut Content<'_, R>) -> Result<(), UnpackError> {
        let components = split(&node.path)?;
        let Some((name, above)) = components.split_last() else {
            return match node.kind {
                Kind::Directory => self.dress_root(node),
                _ => Err(UnpackError::Invalid(format!("{:?} names the root", lossy(&node.path)))),
            };
        };
        let parent = self.parent(above)?;
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(&parent, name).map_err(|error| failed("removing", &node.path, error));
        }
        let fail = |error: Errno| failed("unpacking", &node.path, error);
        self.inodes += 1;
        match &node.kind {
            Kind::File => return self.file(&parent, name, node, content),
            Kind::Directory => {
                self.directory(&parent, name, node).map_err(fail)?;
                self.times.insert(components.join(&b'/'), node.mtime);
                if self.times.len() > DIRECTORIES_MAX {
                    return Err(UnpackError::Invalid(format!("a layer with more than {DIRECTORIES_MAX} directories")));
                }
                return Ok(());
            }
            Kind::HardLink(target) => return self.hard_link(&parent, name, node, target),
            Kind::Symlink(target) => {
                self.replacing(&parent, name, || rustix::fs::symlinkat(target.as_slice(), &parent, *name))
            }
            Kind::Fifo => self.make_node(&parent, name, node, (FileType::Fifo, 0)),
            Kind::CharDevice(device) => self.make_node(&parent, name, node, (FileType::CharacterDevice, *device)),
            Kind::BlockDevice(device) => self.make_node(&parent, name, node, (FileType::BlockDevice, *device)),
        }
        .map_err(fail)?;
        dress_by_name(&parent, name, node).map_err(fail)
    }

    /// Sets the times of directories.
    fn finish(&mut self) -> Result<(), UnpackError> {
        self.parent = None;
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
            let target = if path.is_empty() { b".".as_slice() } else { &path };
            // A directory that another entry replaced needs no times.
            if let Ok(directory) = rustix::fs::openat2(&self.root, target, flags, Mode::empty(), resolve) {
                rustix::fs::futimens(&directory, &times(mtime)).map_err(|error| failed("dating", &path, error))?;
            }
        }
        Ok(())
    }
}

/// Splits a path into components below the root. `..` may not lead out.
fn split(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if components.pop().is_none() {
                    return Err(UnpackError::Invalid(format!("path {:?} leads out of the layer", lossy(path))));
                }
            }
            _ => components.push(component),
        }
    }
    Ok(components)
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn failed(doing: &str, path: &[u8], error: Errno) -> UnpackError {
    UnpackError::system(doing, path, error.into())
}

fn lstat(parent: &OwnedFd, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Owner, attributes, mode: in this order, for changing the owner clears setuid bits and capabilities.
fn dress(file: BorrowedFd<'_>, node: &Node) -> Result<(), Errno> {
    rustix::fs::fchown(file, Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)))?;
    for (name, value) in node.xattrs.iter().filter(|(name, _)| is_wanted(name)) {
        tolerate(rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(node.mode))
}

/// The same for what cannot be opened: links, devices, fifos. The name was just made here, and nobody else writes.
fn dress_by_name(parent: &OwnedFd, name: &[u8], node: &Node) -> Result<(), Errno> {
    let (owner, group) = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
    rustix::fs::chownat(parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
    for (attribute, value) in node.xattrs.iter().filter(|(name, _)| is_wanted(name)) {
        let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat();
        tolerate(rustix::fs::lsetxattr(path, attribute.as_slice(), value, XattrFlags::empty()))?;
    }
    if !matches!(node.kind, Kind::Symlink(_)) {
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(node.mode), AtFlags::empty())?;
    }
    rustix::fs::utimensat(parent, name, &times(node.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// Which attributes an archive may set. Those of overlayfs could lead a mount out of its layers; those of the host's
/// security modules are the host's.
fn is_wanted(name: &[u8]) -> bool {
    let ours = name == b"security.capability" || name.starts_with(b"system.posix_acl_");
    ours || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// A file system without attributes is no reason to fail, nor are links and devices, which cannot have all of them.
fn tolerate(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        other => other,
    }
}

/// Removes whatever has that name, below the parent and without following links.
fn remove_at(parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    for below in names {
        remove_at(directory.as_fd(), &below, depth + 1)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
