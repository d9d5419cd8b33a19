//! The errors of this room, typed so that the caller can give each its reason (IMG-51), and worded for the person who
//! reads an event. No text here ever holds a secret: hosts are shown without user information and query.

use reference::{Digest, ParseError};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// One host that was asked, and how it answered (IMG-137).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Scheme and host, such as `https://registry.example:5000`.
    pub host: String,
    /// What went wrong there.
    pub failure: String,
    /// Whether this attempt's kind of failure is the pull's.
    pub is_decisive: bool,
}

/// The list of attempts as the tail of an error text.
struct Tried<'a>(&'a [Attempt]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.0.iter().enumerate() {
            let lead = if index == 0 { " (" } else { "; " };
            write!(formatter, "{lead}{}: {}", attempt.host, attempt.failure)?;
        }
        if self.0.is_empty() { Ok(()) } else { formatter.write_str(")") }
    }
}

/// Why a pull failed. It can be cloned because joined pulls share it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The name is not a reference.
    #[error("couldn't parse image name {image:?}: {source}")]
    InvalidName {
        /// The name as given.
        image: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// A file about hosts of registries cannot be understood (IMG-135).
    #[error("{path}: {detail}")]
    HostsFile {
        /// The file, with the line after a colon if the mistake is in one.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// The credential is unusable.
    #[error("{reference}: {detail}")]
    InvalidCredential {
        /// Canonical name.
        reference: String,
        /// What is wrong, without the secret.
        detail: String,
    },
    /// The registry does not have it (IMG-123).
    #[error("{reference}: not found{}", Tried(tried))]
    NotFound {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// The registry refuses, after authentication (IMG-123).
    #[error("{reference}: pull access denied, repository does not exist or may require authorization{}", Tried(tried))]
    AccessDenied {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// 429 to the end (IMG-139).
    #[error("{reference}: the registry limits the rate of requests{}", Tried(tried))]
    RateLimited {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// The registry answers with a server error.
    #[error("{reference}: the registry fails{}", Tried(tried))]
    ServerError {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// The registry's name does not resolve.
    #[error("{reference}: the registry's address cannot be looked up{}", Tried(tried))]
    Dns {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// Nothing listens at the registry's address.
    #[error("{reference}: the registry refuses connections{}", Tried(tried))]
    Refused {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// No trusted, encrypted connection.
    #[error("{reference}: no TLS connection to the registry{}", Tried(tried))]
    Tls {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// The registry is silent (IMG-151).
    #[error("{reference}: the registry does not answer in time{}", Tried(tried))]
    TimedOut {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// Any other failure of the connection.
    #[error("{reference}: the registry is unreachable{}", Tried(tried))]
    RegistryUnavailable {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// The registry's answer is not the protocol's.
    #[error("{reference}: unexpected answer of the registry{}", Tried(tried))]
    Protocol {
        /// Canonical name.
        reference: String,
        /// Every host asked.
        tried: Vec<Attempt>,
    },
    /// A blob ended early, again and again (IMG-140).
    #[error("{digest}: unexpected commit size {received}, expected {expected}: the registry sends no more")]
    Truncated {
        /// The blob.
        digest: Digest,
        /// Bytes that came.
        received: u64,
        /// Bytes that the descriptor promises.
        expected: u64,
    },
    /// Content is longer or shorter than its descriptor says (IMG-105).
    #[error("{digest}: unexpected commit size {received}, expected {expected}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// Bytes that came, or that the registry announced.
        received: u64,
        /// Bytes that the descriptor promises.
        expected: u64,
    },
    /// Content is not what its digest says (IMG-105).
    #[error("unexpected commit digest {actual}, expected {expected}")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// An unpacked layer is not what the config says (IMG-107).
    #[error("wrong diff id {actual} of layer {layer}, expected {expected}")]
    WrongDiffId {
        /// The layer's blob.
        layer: Digest,
        /// What the config says.
        expected: Digest,
        /// What was unpacked.
        actual: Digest,
    },
    /// Manifest and config disagree (IMG-107).
    #[error("number of layers and diffIDs don't match: {layers} != {diff_ids}")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Diff ids in the config.
        diff_ids: usize,
    },
    /// A document above the limit (IMG-106).
    #[error("rejecting {bytes} byte manifest for {reference}")]
    TooLarge {
        /// Canonical name.
        reference: String,
        /// Its announced size.
        bytes: u64,
    },
    /// A manifest of Docker's first format (IMG-95).
    #[error(
        "media type {media_type:?} of {reference} is no longer supported: schema 1 manifests must be rebuilt as Docker schema 2 or OCI images"
    )]
    Schema1 {
        /// Canonical name.
        reference: String,
        /// The type as delivered.
        media_type: String,
    },
    /// An index without an entry for this node (IMG-103).
    #[error("no match for platform in manifest {digest}: not found; node is {node}, the index offers {offered}")]
    NoPlatform {
        /// The index.
        digest: Digest,
        /// This node.
        node: String,
        /// What the index lists.
        offered: String,
    },
    /// A single manifest for another architecture (IMG-104).
    #[error("image offers {offered} only; node is {node}")]
    PlatformMismatch {
        /// The image's platform.
        offered: String,
        /// This node.
        node: String,
    },
    /// Content that verifies but makes no sense: bad JSON, unknown types, an evil or broken archive.
    #[error("{digest}: {detail}")]
    InvalidContent {
        /// The blob.
        digest: Digest,
        /// What is wrong.
        detail: String,
    },
    /// The file system of the store is full.
    #[error("no space left on the file system of the image store while {doing}")]
    DiskFull {
        /// What was being written.
        doing: String,
    },
    /// The store cannot be written or read.
    #[error("failed {doing}: {detail}")]
    Storage {
        /// What was attempted.
        doing: String,
        /// The system's words.
        detail: String,
    },
    /// The caller cancelled, or the store is being closed.
    #[error("pull of {reference} was cancelled")]
    Cancelled {
        /// Canonical name.
        reference: String,
    },
    /// A task of the pull ended without an answer. A bug.
    #[error("pull of {reference} ended without an answer: {detail}")]
    Broken {
        /// Canonical name.
        reference: String,
        /// The panic's text, if any.
        detail: String,
    },
}

impl PullError {
    /// A stable CamelCase word for the variant, for metrics, logs and gRPC details.
    pub fn reason(&self) -> &'static str {
        match self {
            PullError::InvalidName { .. } => "InvalidName",
            PullError::HostsFile { .. } => "HostsFile",
            PullError::InvalidCredential { .. } => "InvalidCredential",
            PullError::NotFound { .. } => "NotFound",
            PullError::AccessDenied { .. } => "AccessDenied",
            PullError::RateLimited { .. } => "RateLimited",
            PullError::ServerError { .. } => "ServerError",
            PullError::Dns { .. } => "Dns",
            PullError::Refused { .. } => "Refused",
            PullError::Tls { .. } => "Tls",
            PullError::TimedOut { .. } => "TimedOut",
            PullError::RegistryUnavailable { .. } => "RegistryUnavailable",
            PullError::Protocol { .. } => "Protocol",
            PullError::Truncated { .. } => "Truncated",
            PullError::SizeMismatch { .. } => "SizeMismatch",
            PullError::DigestMismatch { .. } => "DigestMismatch",
            PullError::WrongDiffId { .. } => "WrongDiffId",
            PullError::LayerCount { .. } => "LayerCount",
            PullError::TooLarge { .. } => "TooLarge",
            PullError::Schema1 { .. } => "Schema1",
            PullError::NoPlatform { .. } => "NoPlatform",
            PullError::PlatformMismatch { .. } => "PlatformMismatch",
            PullError::InvalidContent { .. } => "InvalidContent",
            PullError::DiskFull { .. } => "DiskFull",
            PullError::Storage { .. } => "Storage",
            PullError::Cancelled { .. } => "Cancelled",
            PullError::Broken { .. } => "Broken",
        }
    }

    /// Whether the registry as a whole could not serve, so that the reason is `RegistryUnavailable` (IMG-51).
    pub fn is_registry_unavailable(&self) -> bool {
        matches!(
            self,
            PullError::RegistryUnavailable { .. }
                | PullError::ServerError { .. }
                | PullError::Dns { .. }
                | PullError::Refused { .. }
                | PullError::Tls { .. }
                | PullError::TimedOut { .. }
        )
    }

    /// The class of the failure, one of a closed list of words (docs/walls/cri.md): what whoever retries must know.
    pub fn class(&self) -> &'static str {
        match self {
            PullError::AccessDenied { .. } | PullError::InvalidCredential { .. } => "credentials",
            PullError::NotFound { .. } => "not-found",
            PullError::RateLimited { .. } => "rate-limit",
            PullError::ServerError { .. }
            | PullError::RegistryUnavailable { .. }
            | PullError::Protocol { .. }
            | PullError::Truncated { .. } => "server",
            PullError::Dns { .. } => "dns",
            PullError::Tls { .. } => "tls",
            PullError::Refused { .. } => "refused",
            PullError::TimedOut { .. } => "timeout",
            PullError::DiskFull { .. } => "disk",
            PullError::NoPlatform { .. } | PullError::PlatformMismatch { .. } => "platform",
            PullError::InvalidName { .. }
            | PullError::SizeMismatch { .. }
            | PullError::DigestMismatch { .. }
            | PullError::WrongDiffId { .. }
            | PullError::LayerCount { .. }
            | PullError::TooLarge { .. }
            | PullError::Schema1 { .. }
            | PullError::InvalidContent { .. } => "invalid",
            PullError::Cancelled { .. } => "canceled",
            PullError::HostsFile { .. } | PullError::Storage { .. } | PullError::Broken { .. } => "other",
        }
    }

    /// Scheme and host at which it happened, if it happened at one: what to ask whether it is well again.
    pub fn host(&self) -> Option<&str> {
        match self {
            PullError::NotFound { tried, .. }
            | PullError::AccessDenied { tried, .. }
            | PullError::RateLimited { tried, .. }
            | PullError::ServerError { tried, .. }
            | PullError::Dns { tried, .. }
            | PullError::Refused { tried, .. }
            | PullError::Tls { tried, .. }
            | PullError::TimedOut { tried, .. }
            | PullError::RegistryUnavailable { tried, .. }
            | PullError::Protocol { tried, .. } => {
                let decisive = tried.iter().rfind(|attempt| attempt.is_decisive);
                decisive.or(tried.last()).map(|attempt| attempt.host.as_str())
            }
            _ => None,
        }
    }

    /// An error of the store's file system.
    pub(crate) fn storage(doing: impl Into<String>, error: &io::Error) -> PullError {
        let doing = doing.into();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PullError::DiskFull { doing },
            _ => PullError::Storage { doing, detail: error.to_string() },
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the image store {} is in use by another process", root.display())]
    InUse {
        /// The store's directory.
        root: PathBuf,
    },
    /// It was written by a newer or unknown version.
    #[error("the image store {} has the schema version {found:?}, this program knows {known:?}", root.display())]
    Version {
        /// The store's directory.
        root: PathBuf,
        /// What the version file says.
        found: String,
        /// What this program writes.
        known: &'static str,
    },
    /// A file of it cannot be read or written.
    #[error("failed to open {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The list of images is not what this program writes.
    #[error("the list of images {} is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

/// Why an image cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no such image.
    #[error("{image}: not found")]
    NotFound {
        /// The name as given.
        image: String,
    },
    /// A pull of it is under way (IMG-267).
    #[error("{image} is being pulled")]
    BeingPulled {
        /// The name as given.
        image: String,
    },
    /// The store cannot be written.
    #[error("failed to remove {image}: {source}")]
    Io {
        /// The name as given.
        image: String,
        /// The system's error.
        source: io::Error,
    },
}
