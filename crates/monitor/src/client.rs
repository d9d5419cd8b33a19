//! A blocking client of one monitor: for tests and for tools that may wait.
//!
//! Owns nothing but the connection. A server that serves many pods uses [`crate::wire`] with its
//! own sockets instead. Start with [`Client::connect`].

use crate::wire::socket::{Inbox, connect, send_all};
use crate::wire::{Event, Failure, Hello, Incoming, Reply, Request, Welcome, code};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Time that a reply or an event may take.
const PATIENCE: Duration = Duration::from_secs(150);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    inbox: Inbox,
    events: VecDeque<Event>,
    last_id: u32,
    /// What the monitor said to the greeting.
    pub welcome: Welcome,
}

impl Client {
    /// Connects and greets. `directory` is the sandbox's directory in the run directory.
    ///
    /// # Errors
    /// Nobody listens, or it is no monitor.
    pub fn connect(directory: &Path) -> io::Result<Client> {
        let socket = connect(directory)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut client = Client {
            socket,
            inbox: Inbox::default(),
            events: VecDeque::new(),
            last_id: 0,
            welcome: Welcome::default(),
        };
        match client.call(&Request::Hello(Hello { agent: "sampan".into() }), &[])?.0 {
            Ok(Reply::Hello(welcome)) => client.welcome = welcome,
            other => return Err(io::Error::other(format!("unexpected greeting: {other:?}"))),
        }
        Ok(client)
    }

    /// Sends a request and waits for its reply. The inner error is the monitor's refusal.
    ///
    /// # Errors
    /// The connection is over.
    #[allow(clippy::type_complexity, reason = "two independent results; a name would hide which is which")]
    pub fn call(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<(Result<Reply, Failure>, Vec<OwnedFd>)> {
        self.last_id += 1;
        let id = self.last_id;
        let bytes = request.encode(id, descriptors.len()).map_err(io::Error::other)?;
        send_all(&self.socket, &bytes, descriptors)?;
        loop {
            let (incoming, descriptors) = self.receive()?;
            match incoming {
                Incoming::Reply(reply_id, Reply::Error(failure)) if reply_id == id => {
                    return Ok((Err(failure), descriptors));
                }
                Incoming::Reply(reply_id, reply) if reply_id == id => return Ok((Ok(reply), descriptors)),
                Incoming::Event(event) => self.events.push_back(event),
                Incoming::Reply(..) | Incoming::Unknown(_) => {}
            }
        }
    }

    /// Like [`Client::call`] for requests without descriptors, with both errors in one.
    ///
    /// # Errors
    /// The monitor's refusal, or `code::SYSTEM` for a broken connection.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, Failure> {
        let broken = |error: io::Error| Failure::new(code::SYSTEM, "connection", error.to_string());
        self.call(request, &[]).map_err(broken)?.0
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// The connection is over, or nothing came for very long.
    pub fn event(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if let (Incoming::Event(event), _) = self.receive()? {
                self.events.push_back(event);
            }
        }
    }

    fn receive(&mut self) -> io::Result<(Incoming, Vec<OwnedFd>)> {
        loop {
            if let Some(frame) = self.inbox.next().map_err(io::Error::other)? {
                let incoming = Incoming::decode(frame.header, &frame.body).map_err(io::Error::other)?;
                return Ok((incoming, frame.descriptors));
            }
            if self.inbox.fill(&self.socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
