//! Packs a layer's directory into a tar again: the reverse of unpacking, in one fixed order.

use rustix::fs::{AtFlags, CWD, FileType, Stat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const OPAQUE_MARK: &str = ".wh..wh..opq";
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// Writes the files below a directory as a layer's tar.
pub(super) fn pack(root: &Path, to: impl Write) -> io::Result<()> {
    let mut packer = Packer { root, builder: Builder::new(to), linked: BTreeMap::new() };
    packer.directory(Path::new(""))?;
    packer.builder.into_inner()?.flush()
}

struct Packer<'a, W: Write> {
    root: &'a Path,
    builder: Builder<W>,
    /// The first name of a file with several.
    linked: BTreeMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<'_, W> {
    fn directory(&mut self, path: &Path) -> io::Result<()> {
        let mut names: Vec<_> = std::fs::read_dir(self.root.join(path))?.collect::<io::Result<_>>()?;
        names.sort_by_key(std::fs::DirEntry::file_name);
        if attributes(&self.root.join(path))?.iter().any(|(name, _)| name == OPAQUE) {
            self.mark(&path.join(OPAQUE_MARK))?;
        }
        for entry in names {
            self.entry(&path.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path) -> io::Result<()> {
        let full = self.root.join(path);
        let stat = rustix::fs::statat(CWD, &full, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            let name = [WHITEOUT_PREFIX, path.file_name().unwrap_or_default().as_bytes()].concat();
            return self.mark(&path.with_file_name(OsStr::from_bytes(&name)));
        }
        let mut header = header(&stat);
        if kind == FileType::RegularFile && stat.st_nlink > 1 {
            let first = self.linked.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.to_owned()).clone();
            if first != path {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, path, first);
            }
        }
        let attributes = attributes(&full)?;
        let kept = attributes.iter().filter(|(name, _)| !name.starts_with(b"trusted."));
        let records = kept.map(|(name, value)| (format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)), value));
        let records: Vec<(String, &Vec<u8>)> = records.collect();
        self.builder.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
        match kind {
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.builder.append_data(&mut header, path, io::empty())?;
                self.directory(path)
            }
            FileType::RegularFile => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(u64::try_from(stat.st_size).unwrap_or_default());
                self.builder.append_data(&mut header, path, std::fs::File::open(full)?)
            }
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                self.builder.append_link(&mut header, path, std::fs::read_link(full)?)
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let is_block = kind == FileType::BlockDevice;
                header.set_entry_type(if is_block { EntryType::Block } else { EntryType::Char });
                header.set_device_major(rustix::fs::major(stat.st_rdev))?;
                header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
                self.builder.append_data(&mut header, path, io::empty())
            }
            FileType::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.builder.append_data(&mut header, path, io::empty())
            }
            // A socket is of no use in an image, and no layer brings one.
            _ => Ok(()),
        }
    }

    /// An empty file that says what is gone.
    fn mark(&mut self, path: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        header.set_mode(0);
        self.builder.append_data(&mut header, path, io::empty())
    }
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
    header.set_size(0);
    header
}

/// The extended attributes of a file, without those of links, which have none here.
fn attributes(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Err(rustix::io::Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}
