//! Frames and file descriptors over a Unix stream socket.
//!
//! Owns how bytes and descriptors travel together; it never interprets a body and never blocks by
//! itself: on a non-blocking socket `send` and `Inbox::fill` return `WouldBlock`. Start with [`Inbox`].

use super::codec::{BODY_BYTES_MAX, DESCRIPTORS_MAX, HEADER_BYTES, Header, Malformed};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Name of the socket in a sandbox's directory.
pub const SOCKET_NAME: &str = "monitor.sock";

/// Connects to the monitor of the sandbox directory `directory`, however long its path is.
///
/// # Errors
/// No such directory or socket, or nobody listens (`ConnectionRefused`: the monitor is dead).
pub fn connect(directory: &Path) -> io::Result<UnixStream> {
    // A socket address holds 108 bytes; through /proc every directory has a short name.
    let directory = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd()))
}

/// Sends the start of `bytes`, with `descriptors` on its first byte. Returns the bytes sent, at least one:
/// the descriptors have then left, and the rest is to be sent without them.
///
/// # Errors
/// `WouldBlock` if nothing was sent; else the connection is over.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for a frame"));
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => return Ok(sent),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends a whole frame on a blocking socket.
///
/// # Errors
/// The connection is over.
pub fn send_all(socket: impl AsFd, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = send(&socket, frame, descriptors)?;
    while sent < frame.len() {
        sent += send(&socket, &frame[sent..], &[])?;
    }
    Ok(())
}

/// One frame as it came.
#[derive(Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body, to be decoded by the kind.
    pub body: Vec<u8>,
    /// The descriptors that came with it; closed on drop.
    pub descriptors: Vec<OwnedFd>,
}

/// Collects bytes and descriptors until frames are whole. Bounded: one frame at most, and a read's worth.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Reads once from the socket. `Ok(0)`: the other side has closed.
    ///
    /// # Errors
    /// `WouldBlock` on a non-blocking socket; `InvalidData` for too many descriptors; else the connection is over.
    pub fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0_u8; 4096];
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut chunk)];
            match rustix::net::recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > 2 * DESCRIPTORS_MAX || self.bytes.len() > 2 * (BODY_BYTES_MAX + HEADER_BYTES) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more was sent than frames account for"));
        }
        self.bytes.extend_from_slice(&chunk[..received.bytes]);
        Ok(received.bytes)
    }

    /// Takes the next whole frame out.
    ///
    /// # Errors
    /// The stream is garbage and must be closed.
    #[allow(clippy::should_implement_trait, reason = "it is no iterator: more may come after None")]
    pub fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(header) = Header::decode(&self.bytes)? else { return Ok(None) };
        let end = HEADER_BYTES + header.length as usize;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let wanted = usize::from(header.descriptors);
        if self.descriptors.len() < wanted {
            return Err(Malformed("frame announces descriptors that did not come"));
        }
        let body = self.bytes[HEADER_BYTES..end].to_vec();
        self.bytes.drain(..end);
        if self.bytes.is_empty() {
            // An idle connection holds no memory.
            self.bytes = Vec::new();
        }
        Ok(Some(Frame { header, body, descriptors: self.descriptors.drain(..wanted).collect() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Hello, Reply, Request};
    use std::io::{Read, Write};

    #[test]
    fn descriptors_arrive_with_their_own_frame() {
        let (left, right) = UnixStream::pair().expect("pair");
        let (mut reader, writer) = io::pipe().expect("pipe");
        let plain = Request::Hello(Hello { agent: "x".into() }).encode(1, 0).expect("short");
        let carrying = Request::Hello(Hello { agent: "y".into() }).encode(2, 1).expect("short");
        send_all(&left, &plain, &[]).expect("send");
        send_all(&left, &carrying, &[writer.as_fd()]).expect("send");
        send_all(&left, &plain, &[]).expect("send");
        drop((left, writer));
        let mut inbox = Inbox::default();
        while inbox.fill(&right).expect("read") > 0 {}
        let counts: Vec<usize> =
            std::iter::from_fn(|| inbox.next().expect("well-formed")).map(|frame| frame.descriptors.len()).collect();
        assert_eq!(counts, [0, 1, 0]);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("the only writer was dropped with its frame");
    }

    #[test]
    fn a_frame_may_come_byte_by_byte() {
        let (mut left, right) = UnixStream::pair().expect("pair");
        let bytes = Reply::Done(crate::wire::Done {}).encode(3, 0).expect("short");
        let mut inbox = Inbox::default();
        for (position, byte) in bytes.iter().enumerate() {
            assert!(inbox.next().expect("well-formed").is_none(), "whole after {position} bytes");
            left.write_all(&[*byte]).expect("write");
            inbox.fill(&right).expect("read");
        }
        assert_eq!(inbox.next().expect("well-formed").expect("whole").header.id, 3);
    }
}
