//! The file of audit events: appended by a thread of its own, rotated by size.
//!
//! Whoever has an event to write never waits: when the disk is full or too slow, events are lost, counted and said in
//! the program's log, and the API goes on. A line is whole or not there. Start at [`Log::open`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How many events may wait for the disk.
const QUEUE_LENGTH: usize = 4096;

/// Where audit events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLog {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// The file is rotated before it would be larger.
    pub bytes_max: u64,
    /// How many rotated files are kept; 0 = all.
    pub backups_max: usize,
}

/// The way to the file.
pub struct Log {
    lines: Option<SyncSender<String>>,
    lost: Arc<AtomicU64>,
    writer: Option<JoinHandle<()>>,
}

impl Log {
    /// Opens the file and starts its writer. Lines of an earlier process are kept.
    pub fn open(options: AuditLog) -> io::Result<Arc<Log>> {
        let (lines, queue) = sync_channel(QUEUE_LENGTH);
        let lost = Arc::new(AtomicU64::new(0));
        let out = Out::open(options)?;
        let writer = Writer { out, lost: lost.clone(), is_failing: false };
        let thread = std::thread::Builder::new().name("audit-writer".into()).spawn(move || writer.run(&queue))?;
        Ok(Arc::new(Log { lines: Some(lines), lost, writer: Some(thread) }))
    }

    /// Writes a line soon; never waits.
    pub fn write(&self, mut line: String) {
        line.push('\n');
        let sent = self.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(Err(_)) = self.writer.take().map(JoinHandle::join) {
            tracing::error!("the audit log's writer had panicked");
        }
    }
}

struct Writer {
    out: Out,
    lost: Arc<AtomicU64>,
    is_failing: bool,
}

impl Writer {
    fn run(mut self, queue: &Receiver<String>) {
        while let Ok(line) = queue.recv() {
            match self.out.write(line.as_bytes()) {
                Ok(()) => self.well(),
                Err(error) => self.failed(&error),
            }
        }
        self.say_lost();
    }

    fn well(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("audit events are written again");
        }
        self.say_lost();
    }

    fn failed(&mut self, error: &io::Error) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(%error, "audit events cannot be written and are lost; the API goes on");
        }
    }

    fn say_lost(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::error!(lost, "audit events were lost");
        }
    }
}

enum Out {
    Stdout,
    File { options: AuditLog, file: File, bytes: u64, is_regular: bool },
}

impl Out {
    fn open(options: AuditLog) -> io::Result<Out> {
        if options.path == Path::new("-") {
            return Ok(Out::Stdout);
        }
        let (file, bytes, is_regular) = open(&options.path)?;
        Ok(Out::File { options, file, bytes, is_regular })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let Out::File { options, file, bytes, is_regular } = self else {
            let mut out = io::stdout().lock();
            return out.write_all(line).and_then(|()| out.flush());
        };
        if *is_regular && *bytes > 0 && *bytes + line.len() as u64 > options.bytes_max {
            rotate(&options.path, options.backups_max)?;
            (*file, *bytes, *is_regular) = open(&options.path)?;
        }
        let written = file.write_all(line);
        match (&written, *is_regular) {
            (Ok(()), _) => *bytes += line.len() as u64,
            // What of the line did get in goes out again.
            (Err(_), true) => file.set_len(*bytes)?,
            (Err(_), false) => {}
        }
        written
    }
}

/// Opens the file for appending, with its length. A line that a crash left half-written is ended.
fn open(path: &Path) -> io::Result<(File, u64, bool)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    let (mut bytes, is_regular) = (metadata.len(), metadata.is_file());
    if is_regular && bytes > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" && file.write_all(b"\n").is_ok() {
            bytes += 1;
        }
    }
    Ok((file, bytes, is_regular))
}

/// `audit.log` becomes `audit-2026-01-02T03-04-05.678.log`, as upstream's; the oldest beyond `keep` go.
fn rotate(path: &Path, keep: usize) -> io::Result<()> {
    let (stem, extension) = names(path);
    let time = crate::clock::micro();
    let time = time.get(..23).unwrap_or(&time).replace(':', "-");
    // Those of one millisecond are told apart by numbers, and stay in order.
    let same = format!("{stem}-{time}");
    let number = |path: &PathBuf| match path.file_stem()?.to_str()?.strip_prefix(&same)? {
        "" => Some(0),
        more => more.strip_prefix('-')?.parse::<usize>().ok(),
    };
    let more = match backups(path)?.iter().filter_map(number).max() {
        Some(last) => format!("-{:04}", last + 1),
        None => String::new(),
    };
    std::fs::rename(path, path.with_file_name(format!("{same}{more}{extension}")))?;
    if keep > 0 {
        let backups = backups(path)?;
        for old in backups.iter().rev().skip(keep) {
            std::fs::remove_file(old)?;
        }
    }
    Ok(())
}

fn names(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|extension| format!(".{}", text(Some(extension)))).unwrap_or_default();
    (text(path.file_stem()), extension)
}

/// The rotated files, oldest first.
fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = names(path);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_backup = |name: &str| {
        let middle = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        middle.is_some_and(|time| {
            time.len() >= 23 && time.as_bytes()[10] == b'T' && time.starts_with(|c: char| c.is_ascii_digit())
        })
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| is_backup(&name.to_string_lossy())) {
            found.push(path);
        }
    }
    found.sort_by(|a, b| a.file_stem().cmp(&b.file_stem()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(path: PathBuf, bytes_max: u64, backups_max: usize) -> AuditLog {
        AuditLog { path, bytes_max, backups_max }
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_file_is_rotated_before_it_is_too_large_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut out = Out::open(options(path.clone(), 29, 2)).unwrap();
        for nth in 0..10 {
            out.write(format!("line {nth} of many\n").as_bytes()).unwrap();
        }
        assert_eq!(lines(&path), ["line 9 of many"]);
        let kept: Vec<String> = backups(&path).unwrap().iter().flat_map(|path| lines(path)).collect();
        assert_eq!(kept, ["line 7 of many", "line 8 of many"]);
        let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn lines_of_an_earlier_process_are_kept_and_a_torn_one_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        std::fs::write(&path, "whole\nhal").unwrap();
        let mut out = Out::open(options(path.clone(), 1 << 20, 0)).unwrap();
        out.write(b"next\n").unwrap();
        assert_eq!(lines(&path), ["whole", "hal", "next"]);
    }

    #[test]
    fn a_full_disk_loses_events_and_stops_nobody() {
        let log = Log::open(options("/dev/full".into(), 1 << 20, 0)).unwrap();
        for nth in 0..QUEUE_LENGTH * 3 {
            log.write(format!("event {nth}"));
        }
        drop(log);
    }

    #[test]
    fn what_was_written_before_the_end_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = Log::open(options(path.clone(), 1 << 20, 0)).unwrap();
        (0..100).for_each(|nth| log.write(format!("event {nth}")));
        drop(log);
        assert_eq!(lines(&path).len(), 100);
    }
}
