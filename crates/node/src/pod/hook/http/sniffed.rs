//! A connection of which the first bytes that come are remembered: a server that speaks plain HTTP where TLS was asked for
//! is known by them (HOOK-22).

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// So many bytes are remembered.
const FIRST_BYTES: usize = 5;

/// The connection.
#[derive(Debug)]
pub(super) struct Sniffed {
    pub(super) stream: TcpStream,
    pub(super) first: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Sniffed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let room = FIRST_BYTES - first.len();
        first.extend(buffer.filled()[before..].iter().take(room));
        polled
    }
}

impl AsyncWrite for Sniffed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
