//! A stream as its user holds it: headers, an input, an output.
//!
//! Start with [`Stream`]. Dropping an input says that what still comes may be thrown away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::block::Headers;
use super::frame::{Frame, PIECE_BYTES_MAX, reset};
use super::window::{INITIAL, Windows};
use crate::state::lock;

/// The other side is gone, or wants no more of this stream.
#[derive(Debug, thiserror::Error)]
#[error("the client is gone")]
pub(in super::super) struct Gone;

/// Where frames go out, and how much may.
pub(super) struct Post {
    pub(super) frames: mpsc::Sender<Frame>,
    pub(super) windows: Mutex<Windows>,
    /// A window opened.
    pub(super) opened: Notify,
}

impl Post {
    pub(super) async fn send(&self, frame: Frame) -> Result<(), Gone> {
        self.frames.send(frame).await.map_err(|_| Gone)
    }

    /// Waits for leave to send some of `wanted` bytes.
    async fn leave(&self, stream: u32, wanted: usize) -> usize {
        loop {
            let mut opened = std::pin::pin!(self.opened.notified());
            // From here on no opening is missed.
            opened.as_mut().enable();
            let taken = lock(&self.windows).take(stream, wanted);
            if taken > 0 {
                return taken;
            }
            opened.await;
        }
    }
}

/// Bytes that came, and their share of the connection's memory.
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) _room: OwnedSemaphorePermit,
}

/// A stream that the client opened. It waits for [`accept`](Stream::accept) or [`refuse`](Stream::refuse).
pub(in super::super) struct Stream {
    pub(in super::super) id: u32,
    pub(in super::super) headers: Headers,
    pub(in super::super) input: Input,
    pub(in super::super) output: Output,
}

impl Stream {
    /// Agrees to the stream; the client waits for that.
    pub(in super::super) async fn accept(&self) {
        let reply = Frame::Reply { stream: self.id, is_last: false, headers: Headers::new() };
        // Who has gone is noticed by the next read.
        let _ = self.output.post.send(reply).await;
    }

    /// Wants nothing of it.
    pub(in super::super) async fn refuse(self) {
        self.output.reset(reset::REFUSED_STREAM).await;
    }
}

/// What the client sends on a stream.
pub(in super::super) struct Input {
    pub(super) stream: u32,
    pub(super) pieces: mpsc::Receiver<Piece>,
    /// Bytes that were read and not yet credited.
    pub(super) owed: i64,
    pub(super) post: Arc<Post>,
    pub(super) _held: Arc<()>,
}

impl Input {
    /// The next bytes; None at the end. Calling it says that those before are consumed. Cancelling it loses nothing.
    pub(in super::super) async fn next(&mut self) -> Option<Bytes> {
        if self.owed >= INITIAL / 2 {
            let bytes = u32::try_from(self.owed).unwrap_or(u32::MAX);
            let _ = self.post.send(Frame::Credit { stream: self.stream, bytes }).await;
            self.owed = 0;
        }
        let piece = self.pieces.recv().await?;
        self.owed += i64::try_from(piece.bytes.len()).unwrap_or(INITIAL);
        Some(piece.bytes)
    }
}

/// What is sent to the client on a stream.
pub(in super::super) struct Output {
    pub(super) stream: u32,
    pub(super) post: Arc<Post>,
    pub(super) is_finished: AtomicBool,
    /// The client reset the stream, or the connection is over.
    pub(super) gone: CancellationToken,
    pub(super) _held: Arc<()>,
}

impl Output {
    /// Sends, as fast as the client takes it.
    pub(in super::super) async fn write(&self, mut bytes: Bytes) -> Result<(), Gone> {
        let all = async {
            while !bytes.is_empty() {
                let taken = self.post.leave(self.stream, bytes.len().min(PIECE_BYTES_MAX)).await;
                let piece = bytes.split_to(taken);
                self.post.send(Frame::Data { stream: self.stream, is_last: false, bytes: piece }).await?;
            }
            Ok(())
        };
        self.gone.run_until_cancelled(all).await.unwrap_or(Err(Gone))
    }

    /// Says, once, that nothing more follows.
    pub(in super::super) async fn finish(&self) {
        if self.is_finished.swap(true, Ordering::Relaxed) {
            return;
        }
        let last = Frame::Data { stream: self.stream, is_last: true, bytes: Bytes::new() };
        let _ = self.gone.run_until_cancelled(self.post.send(last)).await;
    }

    /// Ends both directions at once.
    pub(in super::super) async fn reset(&self, status: u32) {
        let _ = self.gone.run_until_cancelled(self.post.send(Frame::Reset { stream: self.stream, status })).await;
    }

    /// Waits until the client wants no more of this stream.
    pub(in super::super) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}
