//! A pipe's or terminal's descriptor on tokio, either direction.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that does not block.
pub(crate) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// Makes the descriptor non-blocking. Needs a tokio runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Descriptor> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY;
        let reads = flags & OFlags::RWMODE != OFlags::WRONLY;
        let interest = match (reads, writes) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            _ => Interest::WRITABLE,
        };
        Ok(Descriptor(watch(fd, interest)?))
    }

    /// Reads once; 0 at the end. A terminal whose other side is gone has ended.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await;
        match read {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            other => other,
        }
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Sets a terminal's size in characters.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(self.0.get_ref(), size)?)
    }
}

/// Watches a descriptor for readiness.
#[allow(deprecated, reason = "sound for types that own one descriptor for life; the new call is unsafe")]
pub(crate) fn watch<T: std::os::fd::AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}

/// A pipe: our end on tokio, and the other's end to give away.
pub(crate) struct Pipe {
    pub ours: Descriptor,
    pub theirs: OwnedFd,
}

impl Pipe {
    /// We read what they write.
    pub(crate) fn to_read() -> io::Result<Pipe> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Pipe { ours: Descriptor::new(read)?, theirs: write })
    }

    /// They read what we write.
    pub(crate) fn to_write() -> io::Result<Pipe> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Pipe { ours: Descriptor::new(write)?, theirs: read })
    }
}

/// A descriptor of nothing.
pub(crate) fn null() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?)
}
