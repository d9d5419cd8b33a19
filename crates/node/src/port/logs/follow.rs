//! Waiting until a log file, or what stands at its path, changes.
//!
//! A leaf over inotify. Closing the file by its writer is a change too: that is how the end of a container shows. A
//! slow heartbeat covers writers that close late. Start at [`Changes::of`].

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::Path, time::Duration};
use tokio::io::unix::AsyncFd;

/// How long the end of a container may go unnoticed when nothing is written.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Changes of one log.
#[derive(Debug)]
pub(super) struct Changes {
    inotify: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Watches the directory of the file: that covers writing, closing, and a new file of the same name.
    pub fn of(path: &Path) -> io::Result<Changes> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let flags = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF;
        add_watch(&inotify, directory, flags)?;
        // The replacement is unsafe because a descriptor could be closed behind its back; an `OwnedFd` cannot.
        #[allow(deprecated)]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Changes { inotify })
    }

    /// Returns when something may have changed, or after a while.
    pub async fn wait(&mut self) -> io::Result<()> {
        let Ok(ready) = tokio::time::timeout(HEARTBEAT, self.inotify.readable()).await else { return Ok(()) };
        let mut ready = ready?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(ready.get_inner(), &mut buffer);
        while reader.next().is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}
