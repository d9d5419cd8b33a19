//! Reading a log file from the right place to its end, and beyond while the container lives.
//!
//! Start at [`read`].

use super::{Wanted, follow::Changes, line, line::Render};
use crate::pod::act::rpc;
use bytes::Bytes;
use cri::v1;
use std::{
    collections::VecDeque,
    io::{self, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::mpsc,
};

/// Bytes read at a time.
const BLOCK_BYTES: usize = 64 << 10;
/// A raw line longer than this is given up: the runtime splits at 16 KiB.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Where a log is, and whose it is.
#[derive(Clone)]
pub(super) struct Source {
    pub path: PathBuf,
    pub container_id: String,
    pub cri: cri::Client,
}

/// Sends the wanted part of the log until its end, or while following until the container's end. Ends early when
/// nobody receives any more.
pub(super) async fn read(source: Source, wanted: Wanted, sink: mpsc::Sender<Bytes>) {
    if let Err(error) = try_read(&source, wanted, &sink).await {
        tracing::debug!(path = %source.path.display(), %error, "log not read to its end");
    }
}

async fn try_read(source: &Source, wanted: Wanted, sink: &mpsc::Sender<Bytes>) -> io::Result<()> {
    // Watching begins before reading, so that no change falls between the two.
    let mut changes = if wanted.is_follow { Some(Changes::of(&source.path)?) } else { None };
    let tail_lines = wanted.tail_lines;
    let mut reader = Reader { render: Render::new(wanted), rest: Vec::new(), sink };
    let mut file = open(&source.path).await?;
    if let (Some(file), Some(lines)) = (&mut file, tail_lines) {
        let offset = tail_offset(file, lines).await?;
        file.seek(SeekFrom::Start(offset)).await?;
    }
    loop {
        // The state is asked before the last read: what the container wrote is in the file when it has ended.
        let has_ended = changes.is_none() || !is_running(source).await;
        if let Some(file) = &mut file
            && !reader.drain(file).await?
        {
            return Ok(());
        }
        let next = replaced(&source.path, file.as_ref()).await?;
        match (next, &mut changes) {
            (Some(next), Some(_)) => file = Some(next),
            (None, Some(changes)) if !has_ended => changes.wait().await?,
            _ => return Ok(()),
        }
    }
}

/// The file; None while it is not there yet.
async fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path).await {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file that is now at the path, if it is another one: the log was rotated.
async fn replaced(path: &Path, current: Option<&File>) -> io::Result<Option<File>> {
    let Some(found) = open(path).await? else { return Ok(None) };
    let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
    let found_identity = identity(found.metadata().await?);
    Ok(match current {
        Some(current) if identity(current.metadata().await?) == found_identity => None,
        _ => Some(found),
    })
}

/// False only when the runtime says so, or does not know the container any more.
async fn is_running(source: &Source) -> bool {
    let id = source.container_id.clone();
    let request = crate::port::seek::limited(v1::ContainerStatusRequest { container_id: id, verbose: false });
    match rpc(source.cri.runtime.clone().container_status(request)).await {
        Ok(answer) => answer.into_inner().status.is_some_and(|s| {
            s.state == v1::ContainerState::ContainerRunning as i32
                || s.state == v1::ContainerState::ContainerCreated as i32
        }),
        Err(status) => status.code() != tonic::Code::NotFound,
    }
}

struct Reader<'a> {
    render: Render,
    /// The beginning of a raw line whose end is not written yet.
    rest: Vec<u8>,
    sink: &'a mpsc::Sender<Bytes>,
}

impl Reader<'_> {
    /// Sends all whole lines to the end of the file; false when the client has enough or is gone.
    async fn drain(&mut self, file: &mut File) -> io::Result<bool> {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let read = file.read(&mut block).await?;
            if read == 0 {
                return Ok(!self.sink.is_closed());
            }
            self.rest.extend_from_slice(&block[..read]);
            let out = self.whole_lines();
            if !out.is_empty() && self.sink.send(out.into()).await.is_err() || self.render.is_full() {
                return Ok(false);
            }
        }
    }

    fn whole_lines(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.rest[begin..].iter().position(|b| *b == b'\n') {
            self.render.add(&self.rest[begin..begin + length], &mut out);
            begin += length + 1;
        }
        self.rest.drain(..begin);
        if self.rest.len() > LINE_BYTES_MAX {
            self.rest.clear();
        }
        out
    }
}

/// Where the last `lines` lines begin; partial raw lines count as one with what they continue.
async fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let keep = usize::try_from(lines).unwrap_or(usize::MAX);
    let (mut begins, mut rest, mut at) = (VecDeque::new(), Vec::new(), 0u64);
    let mut is_continued = false;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let read = file.read(&mut block).await?;
        if read == 0 {
            break;
        }
        rest.extend_from_slice(&block[..read]);
        let mut begin = 0;
        while let Some(length) = rest[begin..].iter().position(|b| *b == b'\n') {
            if !is_continued {
                begins.push_back(at);
                if begins.len() > keep {
                    begins.pop_front();
                }
            }
            is_continued = line::parse(&rest[begin..begin + length]).is_some_and(|l| l.is_partial);
            begin += length + 1;
            at += length as u64 + 1;
        }
        rest.drain(..begin);
        // As where lines are sent: nobody ends such a line, and it is held by nobody.
        if rest.len() > LINE_BYTES_MAX {
            at += rest.len() as u64;
            rest.clear();
        }
    }
    Ok(begins.front().copied().filter(|_| keep > 0).unwrap_or(if keep == 0 { at } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tail(text: &str, lines: u64) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, text).unwrap();
        let mut file = File::open(&path).await.unwrap();
        let offset = tail_offset(&mut file, lines).await.unwrap();
        text[usize::try_from(offset).unwrap()..].to_owned()
    }

    #[tokio::test]
    async fn the_tail_counts_whole_lines() {
        let raw = |tag: &str, text: &str| format!("2026-01-01T00:00:00Z stdout {tag} {text}\n");
        let log = [raw("F", "a"), raw("P", "b"), raw("F", "c"), raw("F", "d")];
        let all = log.concat();
        assert_eq!(tail(&all, 0).await, "");
        assert_eq!(tail(&all, 1).await, log[3]);
        assert_eq!(tail(&all, 2).await, log[1..].concat());
        assert_eq!(tail(&all, 3).await, all);
        assert_eq!(tail(&all, 99).await, all);
        assert_eq!(tail("", 5).await, "");
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_not_held() {
        let last = "2026-01-01T00:00:00Z stdout F last\n";
        let endless = format!("{}\n{last}", "x".repeat(3 * LINE_BYTES_MAX));
        assert_eq!(tail(&endless, 1).await, last);
        let two = tail(&endless, 2).await;
        assert!(two.ends_with(last) && two.len() <= LINE_BYTES_MAX + last.len() + 1, "{}", two.len());
    }
}

#[cfg(test)]
mod following {
    use super::*;
    use cri::v1::{image_service_server::ImageService, runtime_service_server::RuntimeService};
    use std::{
        io::Write as _,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    /// A runtime with one container, which runs until it is told otherwise.
    struct One(Arc<AtomicBool>);
    struct NoImages;

    #[tonic::async_trait]
    impl RuntimeService for One {
        async fn container_status(
            &self,
            _request: tonic::Request<v1::ContainerStatusRequest>,
        ) -> Result<tonic::Response<v1::ContainerStatusResponse>, tonic::Status> {
            let state = match self.0.load(Ordering::SeqCst) {
                true => v1::ContainerState::ContainerRunning,
                false => v1::ContainerState::ContainerExited,
            };
            let status = v1::ContainerStatus { state: state as i32, ..Default::default() };
            Ok(tonic::Response::new(v1::ContainerStatusResponse { status: Some(status), ..Default::default() }))
        }
    }

    #[tonic::async_trait]
    impl ImageService for NoImages {}

    #[tokio::test]
    async fn a_followed_log_goes_on_over_rotation_and_ends_with_its_container() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let append = |path: &Path, text: &str| {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            writeln!(file, "2026-01-01T00:00:00Z stdout {text}").unwrap();
        };
        append(&path, "F one");
        let is_running = Arc::new(AtomicBool::new(true));
        let cri = cri::in_process(One(is_running.clone()), NoImages);
        let source = Source { path: path.clone(), container_id: "a".into(), cri };
        let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
        let wanted = Wanted { is_follow: true, ..Default::default() };
        let script = async {
            assert_eq!(receiver.recv().await.unwrap(), "one\n");
            append(&path, "P two ");
            append(&path, "F parts");
            let mut text = Vec::new();
            while text != b"two parts\n" {
                text.extend_from_slice(&receiver.recv().await.unwrap());
            }
            std::fs::rename(&path, directory.path().join("0.log.20260101-000000")).unwrap();
            append(&path, "F three");
            assert_eq!(receiver.recv().await.unwrap(), "three\n");
            is_running.store(false, Ordering::SeqCst);
            append(&path, "F last");
            assert_eq!(receiver.recv().await.unwrap(), "last\n");
            assert_eq!(receiver.recv().await, None);
        };
        tokio::join!(read(source, wanted, sender), script);
    }

    #[tokio::test]
    async fn without_following_the_log_ends_where_the_file_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F a\n2026-01-01T00:00:00Z stderr F b\n").unwrap();
        let cri = cri::in_process(One(Arc::new(AtomicBool::new(true))), NoImages);
        for (tail_lines, expect) in [(None, Some("a\nb\n")), (Some(1), Some("b\n")), (Some(0), None)] {
            let source = Source { path: path.clone(), container_id: "a".into(), cri: cri.clone() };
            let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
            read(source, Wanted { tail_lines, ..Default::default() }, sender).await;
            assert_eq!(receiver.recv().await.as_deref(), expect.map(str::as_bytes));
        }
    }
}
