//! The monitor's clients.
//!
//! Owns sockets and what waits to be sent. A client that sends garbage or does not read is dropped; it can
//! never block the monitor. Start with [`Connection`].

use crate::wire::codec::Malformed;
use crate::wire::socket::{Frame, Inbox, send};
use crate::wire::{Event, Failure, Reply, code};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// What may wait for a client.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// One client.
#[derive(Debug)]
pub struct Connection {
    /// Never reused.
    pub key: u32,
    /// Gets every event.
    pub subscribed: bool,
    /// To be dropped at the next occasion.
    pub finished: bool,
    /// Its socket.
    pub socket: UnixStream,
    inbox: Inbox,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    outbox_bytes: usize,
}

impl Connection {
    /// A client that has just come.
    pub fn new(key: u32, socket: UnixStream) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        Ok(Connection {
            key,
            subscribed: false,
            finished: false,
            socket,
            inbox: Inbox::default(),
            outbox: VecDeque::new(),
            outbox_bytes: 0,
        })
    }

    /// Whether something waits to be sent.
    pub fn has_waiting(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Reads once; returns the frames that are whole now.
    pub fn read(&mut self) -> Vec<Frame> {
        match self.inbox.fill(&self.socket) {
            Ok(0) => self.finished = true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.finished = true,
        }
        let mut frames = Vec::new();
        loop {
            match self.inbox.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return frames,
                Err(Malformed(_)) => {
                    self.finished = true;
                    return frames;
                }
            }
        }
    }

    /// Sends a reply, now or when the client reads.
    pub fn reply(&mut self, id: u32, reply: &Reply, descriptors: Vec<OwnedFd>) {
        let bytes = reply.encode(id, descriptors.len()).or_else(|error| {
            // Only a state of thousands of containers is too long; say so instead of nothing.
            Reply::Error(Failure::new(code::SYSTEM, "reply", error.0)).encode(id, 0)
        });
        self.push(bytes, descriptors);
    }

    /// Sends an event, now or when the client reads.
    pub fn tell(&mut self, event: &Event) {
        self.push(event.encode(), Vec::new());
    }

    fn push(&mut self, bytes: Result<Vec<u8>, Malformed>, descriptors: Vec<OwnedFd>) {
        let Ok(bytes) = bytes else {
            self.finished = true;
            return;
        };
        self.outbox_bytes += bytes.len();
        self.outbox.push_back((bytes, descriptors));
        self.write();
        if self.outbox_bytes > WAITING_BYTES_MAX {
            self.finished = true;
        }
    }

    /// Sends as much as the client takes.
    pub fn write(&mut self) {
        while let Some((bytes, descriptors)) = self.outbox.front_mut() {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match send(&self.socket, bytes, &borrowed) {
                Ok(sent) => {
                    self.outbox_bytes -= sent;
                    if sent == bytes.len() {
                        self.outbox.pop_front();
                    } else {
                        bytes.drain(..sent);
                        descriptors.clear();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.finished = true;
                    self.outbox.clear();
                    self.outbox_bytes = 0;
                }
            }
        }
    }
}
