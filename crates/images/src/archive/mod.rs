//! Archives of images: what other tools save is imported, what is here is exported.
//!
//! Owns the two forms in which images travel as files: Docker's archive and the OCI layout, as a directory or a tar,
//! gzip or zstd around it or not. Blocking. Start at [`import::import`] and [`export::export`].

pub(crate) mod export;
pub(crate) mod import;
mod packing;
mod shelf;

use crate::error::PullError;
use std::io;

/// Where images are imported from.
pub enum ImportSource {
    /// An archive's file, or the directory of an OCI layout.
    Path(std::path::PathBuf),
    /// An archive's bytes.
    Stream(Box<dyn io::Read + Send>),
}

/// What becomes of what is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The name for an image whose archive has none; a tag that the archive has is appended.
    pub name: Option<String>,
    /// Whether the images are kept although nothing uses them.
    pub pinned: bool,
}

/// Why images cannot be imported or exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is not an archive of images, or a broken one; one clause.
    #[error("{0}")]
    Invalid(String),
    /// Content is wrong, or does not fit this node or its disk.
    #[error(transparent)]
    Content(#[from] PullError),
    /// There is no such image.
    #[error("{image}: not found")]
    NotFound {
        /// The name as given.
        image: String,
    },
    /// The archive cannot be read or written.
    #[error("{doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
}

impl ArchiveError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> ArchiveError {
        let doing = doing.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ArchiveError::Content(PullError::storage(doing, &source))
            }
            _ => ArchiveError::Io { doing, source },
        }
    }

    fn invalid(text: impl Into<String>) -> ArchiveError {
        ArchiveError::Invalid(text.into())
    }
}
