//! The files of an archive, at hand by name: a directory's own, or those that a tar brought, put aside.

use super::ArchiveError;
use crate::layer::{Content, Kind, Node, Place, UnpackError, read_archive};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Files of one archive; more is a bomb.
const FILES_MAX: usize = 16 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;

/// Files by their name in the archive.
pub(super) struct Shelf {
    directory: PathBuf,
    /// `None` for a directory whose names are its own.
    names: Option<BTreeMap<String, Item>>,
}

enum Item {
    /// The number of the file put aside.
    File(usize),
    /// Another name in the archive.
    Link(String),
}

impl Shelf {
    /// The files of a directory as they are.
    pub(super) fn of_directory(directory: &Path) -> Shelf {
        Shelf { directory: directory.to_owned(), names: None }
    }

    /// Reads a tar, packed or not, and puts its files aside into a directory.
    pub(super) fn of_stream(stream: impl Read, aside: &Path) -> Result<Shelf, ArchiveError> {
        let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        let start = stream.fill_buf().map_err(ArchiveError::io("reading the archive"))?;
        let mut spool = Spool { directory: aside.to_owned(), names: BTreeMap::new(), count: 0 };
        let read = if start.starts_with(&[0x1f, 0x8b]) {
            let plain = flate2::bufread::MultiGzDecoder::new(stream);
            read_archive(&mut BufReader::with_capacity(BUFFER_BYTES, plain), &mut spool)
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let plain = zstd::stream::read::Decoder::with_buffer(stream);
            let plain = plain.map_err(ArchiveError::io("reading the archive"))?;
            read_archive(&mut BufReader::with_capacity(BUFFER_BYTES, plain), &mut spool)
        } else {
            read_archive(&mut stream, &mut spool)
        };
        match read {
            Ok(()) => Ok(Shelf { directory: aside.to_owned(), names: Some(spool.names) }),
            Err(UnpackError::Invalid(text)) => Err(ArchiveError::Invalid(text)),
            Err(UnpackError::Io { doing, source }) => Err(ArchiveError::io(doing)(source)),
        }
    }

    /// Whether there is a file of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.path(name).is_some_and(|path| path.is_file())
    }

    /// Opens a file; its length too.
    pub(super) fn open(&self, name: &str) -> Result<(File, u64), ArchiveError> {
        let path = self.path(name).ok_or_else(|| ArchiveError::invalid(format!("the archive has no {name:?}")))?;
        let reading = || ArchiveError::io(format!("reading {name:?} of the archive"));
        let file = File::open(path).map_err(reading())?;
        let metadata = file.metadata().map_err(reading())?;
        if !metadata.is_file() {
            return Err(ArchiveError::invalid(format!("{name:?} of the archive is no file")));
        }
        Ok((file, metadata.len()))
    }

    /// The content of a small file.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let (file, length) = self.open(name)?;
        if length > limit {
            return Err(ArchiveError::invalid(format!("{name:?} of the archive has {length} bytes, at most {limit}")));
        }
        let mut bytes = Vec::new();
        let read = file.take(limit).read_to_end(&mut bytes);
        read.map_err(ArchiveError::io(format!("reading {name:?} of the archive")))?;
        Ok(bytes)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let name = clean("", name)?;
        let Some(names) = &self.names else { return Some(self.directory.join(name)) };
        let mut name = name;
        // Links of links are not written by anybody; a few are followed all the same, so that a circle ends.
        for _ in 0..8 {
            match names.get(&name)? {
                Item::File(number) => return Some(self.directory.join(number.to_string())),
                Item::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

/// Puts files aside as they come.
struct Spool {
    directory: PathBuf,
    names: BTreeMap<String, Item>,
    count: usize,
}

impl Spool {
    fn keep<R: BufRead>(&mut self, name: String, content: &mut Content<'_, R>) -> std::io::Result<()> {
        let path = self.directory.join(self.count.to_string());
        let mut file = File::create(path)?;
        while content.remaining > 0 {
            let buffer = content.stream.fill_buf()?;
            if buffer.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let want = buffer.len().min(usize::try_from(content.remaining).unwrap_or(usize::MAX));
            file.write_all(&buffer[..want])?;
            content.stream.consume(want);
            content.remaining -= want as u64;
        }
        self.names.insert(name, Item::File(self.count));
        self.count += 1;
        Ok(())
    }
}

impl Place for Spool {
    fn place<R: BufRead>(&mut self, node: &Node, content: &mut Content<'_, R>) -> Result<(), UnpackError> {
        let path = String::from_utf8_lossy(&node.path).into_owned();
        let Some(name) = clean("", &path) else {
            return Err(UnpackError::Invalid(format!("{path:?} leads out of the archive")));
        };
        if self.names.len() >= FILES_MAX {
            return Err(UnpackError::Invalid(format!("an archive with more than {FILES_MAX} files")));
        }
        let above = name.rsplit_once('/').map_or("", |(above, _)| above).to_owned();
        match &node.kind {
            // The archive's own root, as `tar -c .` writes it.
            _ if name.is_empty() => Ok(()),
            Kind::File => self.keep(name, content).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => UnpackError::Invalid(format!("the archive ends inside {path:?}")),
                _ => UnpackError::system("keeping", &node.path, error),
            }),
            // Docker's older archives link a layer that two images share.
            Kind::Symlink(target) => self.link(name, clean(&above, &String::from_utf8_lossy(target))),
            Kind::HardLink(target) => self.link(name, clean("", &String::from_utf8_lossy(target))),
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), UnpackError> {
        Ok(())
    }
}

impl Spool {
    fn link(&mut self, name: String, target: Option<String>) -> Result<(), UnpackError> {
        let target = target.ok_or_else(|| UnpackError::Invalid(format!("{name:?} leads out of the archive")))?;
        self.names.insert(name, Item::Link(target));
        Ok(())
    }
}

/// A path without dots and double slashes, from the directory `base`; `None` if it leads out.
fn clean(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out() {
        assert_eq!(clean("", "./a//b/"), Some("a/b".into()));
        assert_eq!(clean("x/y", "../z/layer.tar"), Some("x/z/layer.tar".into()));
        assert_eq!(clean("x", "../../z"), None);
        assert_eq!(clean("", "../etc/passwd"), None);
    }
}
