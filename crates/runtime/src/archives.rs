//! `sampan.v1`: archives in and out.
//!
//! Owns the bridge between messages and the blocking reader and writer that the images room works with.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use cri::sampan::import_part::What;
use cri::sampan::{ExportPart, ExportRequest, ImportOptions, ImportPart, ImportResult, StoredImage};
use images::{ArchiveError, Image, ImportSource};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::core::Core;
use crate::images::{refused, unremoved};
use crate::sandbox::run::report;

/// Messages under way between the two sides.
const PARTS: usize = 4;
/// Bytes of one message of an export.
const PART_BYTES: usize = 1 << 20;

/// Takes an archive, from a path or from the messages that follow the first.
pub(crate) async fn import(core: &Core, mut parts: Streaming<ImportPart>) -> Result<ImportResult, Status> {
    let first = parts.message().await?.and_then(|part| part.what);
    let Some(What::Options(ImportOptions { path, pinned, name })) = first else {
        return Err(Status::invalid_argument("the first message of an import says how"));
    };
    let options = images::ImportOptions { name: Some(name).filter(|name| !name.is_empty()), pinned };
    let imported = if path.is_empty() {
        let (bytes, incoming) = mpsc::channel(PARTS);
        let source = ImportSource::Stream(Box::new(Incoming { incoming, current: Vec::new(), position: 0 }));
        let import = core.images.import(source, options);
        tokio::pin!(import);
        tokio::select! {
            imported = &mut import => imported,
            // The reader must hear the end before it can come to its own.
            () = pass_on(parts, bytes) => import.await,
        }
    } else {
        core.images.import(ImportSource::Path(PathBuf::from(path)), options).await
    };
    let imported = imported.map_err(|error| failed(&error))?;
    Ok(ImportResult { images: imported.iter().map(|image| stored(image)).collect() })
}

/// Hands the bytes to the reader; what broke the stream is told as an error of reading.
async fn pass_on(mut parts: Streaming<ImportPart>, bytes: mpsc::Sender<io::Result<Vec<u8>>>) {
    loop {
        let part = match parts.message().await {
            Ok(None) => return,
            Ok(Some(ImportPart { what: Some(What::Data(data)) })) => Ok(data),
            Ok(Some(_)) => Err(io::Error::other("a message without bytes")),
            Err(status) => Err(io::Error::other(status.message().to_owned())),
        };
        let is_end = part.is_err();
        if bytes.send(part).await.is_err() || is_end {
            return;
        }
    }
}

/// The bytes of an import as a reader.
struct Incoming {
    incoming: mpsc::Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    position: usize,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            match self.incoming.blocking_recv() {
                None => return Ok(0),
                Some(part) => (self.current, self.position) = (part?, 0),
            }
        }
        let rest = &self.current[self.position..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

/// Writes an archive into a stream of messages. A failure is the stream's last word.
pub(crate) fn export(core: &Arc<Core>, request: ExportRequest) -> cri::Stream<ExportPart> {
    let (parts, reader) = mpsc::channel(PARTS);
    let inner = core.clone();
    core.tasks.spawn(async move {
        let outgoing = Outgoing { parts: parts.clone(), current: Vec::new() };
        if let Err(error) = inner.images.export(&request.images, outgoing).await {
            // Nobody listens any more, or hears why.
            let _ = parts.send(Err(failed(&error))).await;
        }
    });
    Box::pin(ReceiverStream::new(reader).fuse())
}

/// A writer whose bytes are messages.
struct Outgoing {
    parts: mpsc::Sender<Result<ExportPart, Status>>,
    current: Vec<u8>,
}

impl Outgoing {
    fn send(&mut self) -> io::Result<()> {
        let data = std::mem::take(&mut self.current);
        let sent = self.parts.blocking_send(Ok(ExportPart { data }));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader has gone"))
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.current.extend_from_slice(bytes);
        if self.current.len() >= PART_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.current.is_empty() { Ok(()) } else { self.send() }
    }
}

fn stored(image: &Image) -> StoredImage {
    let names = if image.tags.is_empty() { image.digests.clone() } else { image.tags.clone() };
    StoredImage { id: image.id.clone(), names, bytes: image.size_bytes }
}

fn failed(error: &ArchiveError) -> Status {
    match error {
        ArchiveError::Content(error) => refused(error),
        ArchiveError::NotFound { .. } => unremoved(&images::RemoveError::NotFound { image: text_of(error) }),
        _ => Status::unknown(report(error)),
    }
}

fn text_of(error: &ArchiveError) -> String {
    match error {
        ArchiveError::NotFound { image } => image.clone(),
        other => other.to_string(),
    }
}
