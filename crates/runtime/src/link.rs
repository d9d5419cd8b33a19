//! The runtime's end of the monitor's wall: one connection a sandbox, many requests at once.
//!
//! Owns framing on tokio and the matching of replies. Must not interpret events: they go, in their order, to the
//! [`Listener`]. Start with [`Link::connect`].

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use monitor::wire::socket::{Inbox, connect, send};
use monitor::wire::{Event, Failure, Hello, Incoming, Reply, Request, Snapshot, Subscribe, Welcome, code};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::descriptor::watch;

/// Longest time for a reply: the monitor's own limit for a step is two minutes.
const REPLY_TIMEOUT: Duration = Duration::from_secs(150);

/// What arrives without being asked for, in the monitor's order. Must not block.
pub(crate) trait Listener: Send + Sync + 'static {
    /// The state at the time of subscribing.
    fn snapshot(&self, snapshot: &Snapshot);
    /// Something happened after the snapshot.
    fn event(&self, event: Event);
    /// The connection has ended.
    fn closed(&self);
}

type Answer = (Result<Reply, Failure>, Vec<OwnedFd>);

/// A connection to one monitor. Dropping the last clone of its `Arc` ends it.
pub(crate) struct Link {
    shared: Arc<Shared>,
    reader: CancellationToken,
    /// Who answered.
    pub welcome: Welcome,
}

struct Shared {
    socket: AsyncFd<UnixStream>,
    /// Frames are written whole, one after the other.
    writing: tokio::sync::Mutex<()>,
    pending: Mutex<Option<HashMap<u32, oneshot::Sender<Answer>>>>,
    last_id: AtomicU32,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.cancel();
    }
}

fn broken(reason: impl std::fmt::Display) -> Failure {
    Failure::new(code::SYSTEM, "connection to the monitor", reason.to_string())
}

impl Link {
    /// Connects, greets and subscribes. The listener has had the snapshot when this returns.
    pub(crate) async fn connect(
        directory: &Path,
        listener: Arc<dyn Listener>,
        tasks: &TaskTracker,
    ) -> Result<Link, Failure> {
        let directory = directory.to_owned();
        // It blocks while a busy monitor has yet to accept others.
        let connected = tokio::task::spawn_blocking(move || connect(&directory)).await;
        let socket = connected.map_err(broken)?.map_err(broken)?;
        socket.set_nonblocking(true).map_err(broken)?;
        let shared = Arc::new(Shared {
            socket: watch(socket, Interest::READABLE | Interest::WRITABLE).map_err(broken)?,
            writing: tokio::sync::Mutex::new(()),
            pending: Mutex::new(Some(HashMap::new())),
            last_id: AtomicU32::new(0),
        });
        let reader = CancellationToken::new();
        let guard = reader.clone().drop_guard();
        tasks.spawn(read(shared.clone(), listener, reader.clone()));
        let hello = Request::Hello(Hello { agent: concat!("sampan/", env!("CARGO_PKG_VERSION")).into() });
        let Reply::Hello(welcome) = shared.call(&hello, &[]).await?.0 else {
            return Err(broken("unexpected greeting"));
        };
        shared.call(&Request::Subscribe(Subscribe {}), &[]).await?;
        Ok(Link { shared, reader: guard.disarm(), welcome })
    }

    /// Whether the connection has ended. True before the listener hears of it.
    pub(crate) fn is_ended(&self) -> bool {
        self.shared.pending().is_none()
    }

    /// One request and its reply, with the descriptors that came along.
    pub(crate) async fn call(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        self.shared.call(request, descriptors).await
    }

    /// A request without descriptors on either way.
    pub(crate) async fn ask(&self, request: Request) -> Result<Reply, Failure> {
        self.shared.call(&request, &[]).await.map(|(reply, _)| reply)
    }
}

impl Shared {
    async fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let frame = request.encode(id, fds.len()).map_err(broken)?;
        let (sender, receiver) = oneshot::channel();
        match self.pending().as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(broken("it has ended")),
        };
        if let Err(error) = self.write(&frame, fds).await {
            self.end();
            return Err(broken(error));
        }
        match tokio::time::timeout(REPLY_TIMEOUT, receiver).await {
            Ok(Ok((reply, descriptors))) => Ok((reply?, descriptors)),
            Ok(Err(_)) => Err(broken("it has ended")),
            Err(_) => {
                self.pending().as_mut().map(|pending| pending.remove(&id));
                Err(Failure::new(code::TIMED_OUT, "connection to the monitor", "no reply in time"))
            }
        }
    }

    async fn write(&self, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let _whole = self.writing.lock().await;
        let mut sent = 0;
        while sent < frame.len() {
            let with = if sent == 0 { descriptors } else { &[] };
            sent += self.socket.async_io(Interest::WRITABLE, |socket| send(socket, &frame[sent..], with)).await?;
        }
        Ok(())
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u32, oneshot::Sender<Answer>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for ever: dropping the senders ends the calls.
    fn end(&self) {
        drop(self.pending().take());
        let _ = rustix::net::shutdown(self.socket.get_ref().as_fd(), rustix::net::Shutdown::Both);
    }
}

async fn read(shared: Arc<Shared>, listener: Arc<dyn Listener>, stop: CancellationToken) {
    let ended = stop.run_until_cancelled(receive(&shared, &*listener)).await;
    if let Some(Err(error)) = &ended {
        tracing::debug!(%error, "the connection to a monitor broke");
    }
    shared.end();
    if ended.is_some() {
        listener.closed();
    }
}

async fn receive(shared: &Shared, listener: &dyn Listener) -> std::io::Result<()> {
    let mut inbox = Inbox::default();
    loop {
        if shared.socket.async_io(Interest::READABLE, |socket| inbox.fill(socket)).await? == 0 {
            return Ok(());
        }
        while let Some(frame) = inbox.next().map_err(std::io::Error::other)? {
            match Incoming::decode(frame.header, &frame.body).map_err(std::io::Error::other)? {
                Incoming::Event(event) => listener.event(event),
                Incoming::Unknown(kind) => tracing::debug!(kind, "a monitor speaks a newer language"),
                Incoming::Reply(id, reply) => {
                    if let Reply::State(snapshot) = &reply {
                        listener.snapshot(snapshot);
                    }
                    let waiting = shared.pending().as_mut().and_then(|pending| pending.remove(&id));
                    let answer = match reply {
                        Reply::Error(failure) => Err(failure),
                        reply => Ok(reply),
                    };
                    // Who asked may have gone; descriptors close with the answer.
                    let _ = waiting.map(|waiting| waiting.send((answer, frame.descriptors)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    struct Deaf;

    impl Listener for Deaf {
        fn snapshot(&self, _: &Snapshot) {}
        fn event(&self, _: Event) {}
        fn closed(&self) {}
    }

    /// A monitor that has yet to accept as many as its socket takes.
    fn busy_monitor(directory: &Path) -> (UnixListener, Vec<OwnedFd>) {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
        let socket =
            || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).expect("a socket");
        let address = SocketAddrUnix::new(directory.join(monitor::wire::socket::SOCKET_NAME)).expect("an address");
        let listener = socket();
        bind(&listener, &address).expect("bind");
        listen(&listener, 0).expect("listen");
        let mut waiting = Vec::new();
        for _ in 0..16 {
            let one = socket();
            if connect(&one, &address).is_err() {
                let listener = UnixListener::from(listener);
                listener.set_nonblocking(false).expect("set");
                return (listener, waiting);
            }
            waiting.push(one);
        }
        panic!("the queue has no end");
    }

    #[tokio::test]
    async fn a_monitor_that_does_not_accept_yet_keeps_nobody_else_waiting() {
        let directory = tempfile::tempdir().expect("a directory");
        let (listener, waiting) = busy_monitor(directory.path());
        let (goes_on, hears) = mpsc::channel();
        let monitor = std::thread::spawn(move || {
            let heard = hears.recv_timeout(Duration::from_secs(20));
            let count = waiting.len();
            // Whoever comes is sent away, until nobody does for good.
            for _ in 0..=count {
                drop(listener.accept().expect("accept"));
            }
            heard
        });
        let tasks = TaskTracker::new();
        let others = async move {
            tokio::task::yield_now().await;
            goes_on.send(()).expect("somebody hears it");
        };
        let (connected, ()) = tokio::join!(Link::connect(directory.path(), Arc::new(Deaf), &tasks), others);
        assert!(connected.is_err(), "it was sent away");
        assert_eq!(monitor.join().expect("the thread ends"), Ok(()), "others ran while it waited");
    }
}
