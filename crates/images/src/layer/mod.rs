//! A layer's way from compressed bytes to a directory, in one pass.
//!
//! Owns inflating, hashing and untarring; knows no network and no store. Start at [`pipeline::run`]; `archive.rs`
//! reads tar, `tree.rs` is the only code that writes what an archive says, and it cannot leave its directory.

mod archive;
mod pipeline;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use archive::unpack as read_archive;
pub(crate) use pipeline::{Feed, LayerFailure, LayerJob, Unpacked, run};
pub(crate) use tree::{Content, Kind, Node};

use std::io::BufRead;

/// Who takes the entries of an archive, one by one.
pub(crate) trait Place {
    /// Takes an entry. Content that is left over is skipped.
    fn place<R: BufRead>(&mut self, node: &Node, content: &mut Content<'_, R>) -> Result<(), UnpackError>;

    /// Hears that there are no more entries.
    fn finish(&mut self) -> Result<(), UnpackError>;
}

/// What unpacking can fail with.
#[derive(Debug)]
pub(crate) enum UnpackError {
    /// The archive is broken or evil; one clause.
    Invalid(String),
    /// The system refuses.
    Io { doing: String, source: std::io::Error },
}

impl UnpackError {
    /// Sorts a failed system call: what only the archive can have caused is the archive's fault.
    pub(crate) fn system(doing: &str, path: &[u8], source: std::io::Error) -> UnpackError {
        use rustix::io::Errno;
        let path = String::from_utf8_lossy(path).into_owned();
        let archives_fault = [
            Errno::NOENT,
            Errno::NOTDIR,
            Errno::LOOP,
            Errno::NAMETOOLONG,
            Errno::INVAL,
            Errno::ISDIR,
            Errno::XDEV,
            Errno::EXIST,
            Errno::MLINK,
            Errno::FBIG,
            Errno::NOTEMPTY,
        ];
        let fault = source.raw_os_error().map(Errno::from_raw_os_error);
        if fault.is_none() || fault.is_some_and(|errno| archives_fault.contains(&errno)) {
            return UnpackError::Invalid(format!("{doing} {path:?}: {source}"));
        }
        UnpackError::Io { doing: format!("{doing} {path:?}"), source }
    }
}
