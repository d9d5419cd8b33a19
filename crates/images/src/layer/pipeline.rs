//! The streaming pass: compressed bytes → partial file and hash → inflate → (bounded buffers) → hash and untar.
//!
//! Owns the two threads of a layer. The first hashes and keeps the compressed bytes and inflates them; the second
//! hashes the plain bytes and unpacks them from the same buffers. Blocking; start at [`run`].

use super::tree::Tree;
use super::{UnpackError, archive};
use crate::error::PullError;
use crate::hash::Hasher;
use crate::manifest::Packing;
use bytes::Bytes;
use reference::{Algorithm, Digest};
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::mpsc;

const BUFFER_BYTES: usize = 256 * 1024;
const BUFFERS: usize = 8;

/// What to unpack, and where.
pub(crate) struct LayerJob {
    /// What the compressed bytes must be; an archive of images may not say.
    pub(crate) digest: Option<Digest>,
    /// Compressed size by the descriptor.
    pub(crate) size: u64,
    pub(crate) packing: Packing,
    pub(crate) diff_id: Digest,
    /// An empty directory to unpack into.
    pub(crate) target: PathBuf,
}

/// Where the compressed bytes come from.
pub(crate) enum Feed {
    /// The first `resume` bytes of a file, then what arrives, which is appended to it.
    Network { partial: PathBuf, resume: u64, chunks: mpsc::Receiver<Bytes> },
    /// A file that has them all.
    File(File),
}

/// What a layer takes on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpacked {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Why a layer cannot be had from the bytes that came.
#[derive(Debug)]
pub(crate) enum LayerFailure {
    /// The bytes ended early; the network knows why.
    Incomplete {
        received: u64,
    },
    WrongDigest {
        actual: Digest,
    },
    WrongDiffId {
        actual: Digest,
    },
    Invalid(String),
    Io {
        doing: String,
        source: io::Error,
    },
}

impl LayerFailure {
    /// The error of the pull whose layer this is.
    pub(crate) fn into_pull(self, digest: &Digest, size: u64, diff_id: &Digest) -> PullError {
        let digest = digest.clone();
        match self {
            LayerFailure::Incomplete { received } => PullError::Truncated { digest, received, expected: size },
            LayerFailure::WrongDigest { actual } => PullError::DigestMismatch { expected: digest, actual },
            LayerFailure::WrongDiffId { actual } => {
                PullError::WrongDiffId { layer: digest, expected: diff_id.clone(), actual }
            }
            LayerFailure::Invalid(detail) => PullError::InvalidContent { digest, detail },
            LayerFailure::Io { doing, source } => PullError::storage(doing, &source),
        }
    }

    /// Whether the compressed bytes on disk are worth keeping.
    pub(crate) fn keeps_partial(&self) -> bool {
        match self {
            LayerFailure::Incomplete { .. } => true,
            // On a full disk they are a part of the trouble.
            LayerFailure::Io { source, .. } => {
                !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Runs one layer to its end. `report` hears how many plain bytes are unpacked.
pub(crate) fn run(job: &LayerJob, feed: Feed, report: &(dyn Fn(u64) + Sync)) -> Result<Unpacked, LayerFailure> {
    let storage = |doing: &str, source: io::Error| LayerFailure::Io { doing: doing.to_owned(), source };
    let mut source = Compressed::open(job, feed).map_err(|error| storage("keeping a partial layer", error))?;
    let tree = Tree::open(&job.target).map_err(|error| storage("opening a layer's directory", error))?;
    let (buffers, filled) = sync_channel::<Vec<u8>>(BUFFERS);
    let (empty, returned) = sync_channel::<Vec<u8>>(BUFFERS * 2);
    let (inflated, unpacked) = std::thread::scope(|scope| {
        let stream = Plain::new(filled, empty, &job.diff_id, report);
        let second = scope.spawn(move || unpack(stream, tree));
        let inflated = inflate(job.packing, &mut source, &buffers, &returned);
        drop(buffers);
        (inflated, second.join())
    });
    let unpacked = unpacked.map_err(|_| LayerFailure::Invalid("the unpacking thread panicked".to_owned()))?;
    judge(job, source, inflated, unpacked)
}

/// Which of all findings is the truth: bytes that are missing or wrong explain everything that follows from them.
fn judge(
    job: &LayerJob,
    mut source: Compressed,
    inflated: io::Result<()>,
    unpacked: Result<(Unpacked, Digest), UnpackError>,
) -> Result<Unpacked, LayerFailure> {
    if !matches!(unpacked, Err(UnpackError::Io { .. })) {
        source.drain();
    }
    if let Some(error) = source.storage_error.take() {
        return Err(LayerFailure::Io { doing: "keeping a partial layer".to_owned(), source: error });
    }
    let received = source.received;
    if received >= job.size {
        let actual = source.hasher.finish();
        if job.digest.as_ref().is_some_and(|expected| *expected != actual) {
            return Err(LayerFailure::WrongDigest { actual });
        }
    }
    if let Err(UnpackError::Io { doing, source }) = unpacked {
        return Err(LayerFailure::Io { doing, source });
    }
    if received < job.size {
        return Err(LayerFailure::Incomplete { received });
    }
    inflated.map_err(|error| LayerFailure::Invalid(format!("the bytes are not {}: {error}", word(job.packing))))?;
    match unpacked {
        Err(UnpackError::Invalid(text)) => Err(LayerFailure::Invalid(text)),
        Err(UnpackError::Io { doing, source }) => Err(LayerFailure::Io { doing, source }),
        Ok((_, actual)) if actual != job.diff_id => Err(LayerFailure::WrongDiffId { actual }),
        Ok((unpacked, _)) => Ok(unpacked),
    }
}

fn word(packing: Packing) -> &'static str {
    match packing {
        Packing::Gzip => "gzip",
        Packing::Zstd => "zstd",
        Packing::Plain | Packing::Sniff => "a layer",
    }
}

fn inflate(
    packing: Packing,
    source: &mut Compressed,
    buffers: &SyncSender<Vec<u8>>,
    returned: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    let packing = match packing {
        Packing::Sniff => sniff(source)?,
        known => known,
    };
    match packing {
        Packing::Gzip => pump(flate2::bufread::MultiGzDecoder::new(source), buffers, returned),
        Packing::Zstd => pump(zstd::stream::read::Decoder::with_buffer(source)?, buffers, returned),
        Packing::Plain | Packing::Sniff => pump(source, buffers, returned),
    }
}

/// Looks at the first bytes (IMG-93).
fn sniff(source: &mut Compressed) -> io::Result<Packing> {
    let start = source.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Packing::Gzip
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Packing::Zstd
    } else {
        Packing::Plain
    })
}

fn pump(mut from: impl Read, buffers: &SyncSender<Vec<u8>>, returned: &Receiver<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut buffer = returned.try_recv().unwrap_or_default();
        buffer.resize(BUFFER_BYTES, 0);
        let mut filled = 0;
        let mut end = false;
        while filled < BUFFER_BYTES && !end {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => end = true,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        // The other thread is gone only after an error of its own, which it returns.
        if (filled > 0 && buffers.send(buffer).is_err()) || end {
            return Ok(());
        }
    }
}

fn unpack(mut stream: Plain<'_>, mut tree: Tree) -> Result<(Unpacked, Digest), UnpackError> {
    archive::unpack(&mut stream, &mut tree)?;
    let unpacked = Unpacked { bytes: tree.bytes + tree.inodes * 512, inodes: tree.inodes };
    Ok((unpacked, stream.hasher.finish()))
}

/// The compressed bytes: first those on disk, then those that arrive. Hashes all, keeps the new ones.
struct Compressed {
    /// None if the file has everything.
    chunks: Option<mpsc::Receiver<Bytes>>,
    file: File,
    /// Bytes of the file still to be read.
    again: u64,
    current: Bytes,
    hasher: Hasher,
    received: u64,
    storage_error: Option<io::Error>,
}

impl Compressed {
    fn open(job: &LayerJob, feed: Feed) -> io::Result<Compressed> {
        let (chunks, file, again) = match feed {
            Feed::Network { partial, resume, chunks } => {
                let file = File::options().read(true).write(true).create(true).truncate(false).open(partial)?;
                file.set_len(resume)?;
                (Some(chunks), file, resume)
            }
            Feed::File(file) => (None, file, job.size),
        };
        let hasher = Hasher::new(job.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm));
        Ok(Compressed { chunks, file, again, current: Bytes::new(), hasher, received: 0, storage_error: None })
    }

    /// The next bytes; empty at the end.
    fn next(&mut self) -> io::Result<Bytes> {
        if self.again > 0 {
            let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(self.again).unwrap_or(BUFFER_BYTES))];
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer.truncate(count);
            self.again -= count as u64;
            return Ok(buffer.into());
        }
        let Some(chunks) = &mut self.chunks else { return Ok(Bytes::new()) };
        let chunk = chunks.blocking_recv().unwrap_or_default();
        self.file.write_all(&chunk)?;
        Ok(chunk)
    }

    /// Takes everything that still comes, so that the hash is that of the whole.
    fn drain(&mut self) {
        while self.storage_error.is_none() {
            match self.fill_buf() {
                Ok([]) | Err(_) => return,
                Ok(bytes) => {
                    let count = bytes.len();
                    self.consume(count);
                }
            }
        }
    }
}

impl BufRead for Compressed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.next() {
                Ok(chunk) if chunk.is_empty() => break,
                Ok(chunk) => {
                    self.hasher.update(&chunk);
                    self.received += chunk.len() as u64;
                    self.current = chunk;
                }
                Err(error) => {
                    let shown = io::Error::new(error.kind(), error.to_string());
                    self.storage_error = Some(error);
                    return Err(shown);
                }
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        let _ = self.current.split_to(count);
    }
}

impl Read for Compressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// The plain bytes as the second thread reads them; hashes each buffer as it arrives and gives it back when it is empty.
struct Plain<'a> {
    filled: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    hasher: Hasher,
    total: u64,
    report: &'a (dyn Fn(u64) + Sync),
}

impl<'a> Plain<'a> {
    fn new(
        filled: Receiver<Vec<u8>>,
        empty: SyncSender<Vec<u8>>,
        diff_id: &Digest,
        report: &'a (dyn Fn(u64) + Sync),
    ) -> Plain<'a> {
        let hasher = Hasher::new(diff_id.algorithm());
        Plain { filled, empty, current: Vec::new(), position: 0, hasher, total: 0, report }
    }
}

impl BufRead for Plain<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len()
            && let Ok(next) = self.filled.recv()
        {
            // The pool is bounded; a buffer too many is simply freed.
            let _ = self.empty.try_send(std::mem::replace(&mut self.current, next));
            self.position = 0;
            self.hasher.update(&self.current);
            self.total += self.current.len() as u64;
            (self.report)(self.total);
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
