//! Container logs in the CRI format (POD-64).
//!
//! Owns splitting output into lines and writing them in batches. It never blocks on a full disk and
//! never rotates by itself. Start with [`Log`] and [`Splitter`].

use crate::clock::put_rfc3339;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Longest piece of a line in one log line.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// A log file, shared by a container's streams.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    /// Length of the file as far as this process knows.
    file_bytes: u64,
    /// Written since the file was opened.
    pub written_bytes: u64,
    /// Not written because the disk was full.
    pub lost_bytes: u64,
}

impl Log {
    /// Opens the log; an empty path throws everything away.
    pub fn open(path: PathBuf) -> io::Result<Log> {
        let mut log = Log { path, file: None, file_bytes: 0, written_bytes: 0, lost_bytes: 0 };
        log.reopen(PathBuf::new())?;
        Ok(log)
    }

    /// Opens the file at the path (or at a new one) again, after somebody renamed it.
    pub fn reopen(&mut self, path: PathBuf) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { self.path.clone() } else { path };
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        self.file_bytes = file.metadata()?.len();
        self.path = path;
        self.written_bytes = 0;
        self.file = Some(file);
        Ok(())
    }

    /// Writes whole log lines. What does not fit is counted as lost, and no torn line stays.
    pub fn append(&mut self, lines: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if lines.is_empty() {
            return;
        }
        if file.write_all(lines).is_ok() {
            self.file_bytes += lines.len() as u64;
            self.written_bytes += lines.len() as u64;
        } else {
            // If cutting fails too, the next line joins the torn one; there is nothing better to do.
            let _ = file.set_len(self.file_bytes);
            self.lost_bytes += lines.len() as u64;
        }
    }
}

/// Which of a container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        }
    }
}

/// Splits one stream into log lines; holds at most one unfinished line.
#[derive(Debug)]
pub struct Splitter {
    stream: Stream,
    held: Vec<u8>,
}

impl Splitter {
    /// A splitter at the start of a line.
    pub fn new(stream: Stream) -> Splitter {
        Splitter { stream, held: Vec::new() }
    }

    /// Appends the log lines that `bytes` completes to `out`, stamped with `time` (nanoseconds since the epoch).
    pub fn split(&mut self, mut bytes: &[u8], time: u64, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.held.len();
            let end = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
            match end {
                Some(end) => {
                    self.put(b"F ", &bytes[..end], time, out);
                    bytes = &bytes[end + 1..];
                }
                // A line of exactly 16 KiB whose end may follow is held until it is known.
                None if bytes.len() > room => {
                    self.put(b"P ", &bytes[..room], time, out);
                    bytes = &bytes[room..];
                }
                None => {
                    self.held.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// Writes the unfinished line out, if there is one: the stream has ended.
    pub fn finish(&mut self, time: u64, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            self.put(b"P ", &[], time, out);
        }
    }

    fn put(&mut self, tag: &[u8], rest: &[u8], time: u64, out: &mut Vec<u8>) {
        put_rfc3339(time, out);
        out.extend_from_slice(self.stream.name());
        out.extend_from_slice(tag);
        out.extend_from_slice(&self.held);
        out.extend_from_slice(rest);
        out.push(b'\n');
        // An idle stream holds no memory.
        self.held = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits `input` in pieces of `step` bytes and joins the log lines as a reader does.
    fn round_trip(input: &[u8], step: usize) -> (Vec<u8>, usize) {
        let (mut splitter, mut out) = (Splitter::new(Stream::Stderr), Vec::new());
        for piece in input.chunks(step) {
            splitter.split(piece, 0, &mut out);
        }
        splitter.finish(0, &mut out);
        let (mut joined, mut longest) = (Vec::new(), 0);
        for line in out.split_inclusive(|byte| *byte == b'\n') {
            let content = line.strip_prefix(b"1970-01-01T00:00:00.000000000Z stderr ").expect("head");
            let content = &content[..content.len() - 1];
            longest = longest.max(content.len() - 2);
            joined.extend_from_slice(&content[2..]);
            if content.starts_with(b"F ") {
                joined.push(b'\n');
            } else {
                assert!(content.starts_with(b"P "));
            }
        }
        (joined, longest)
    }

    #[test]
    fn every_byte_comes_back_however_it_is_cut() {
        let mut input = b"one\n\ntwo\n".to_vec();
        for length in [LINE_BYTES_MAX - 1, LINE_BYTES_MAX, LINE_BYTES_MAX + 1, 3 * LINE_BYTES_MAX, 5] {
            input.extend(std::iter::repeat_n(b'x', length));
            input.push(b'\n');
        }
        input.extend_from_slice(b"no end");
        for step in [1, 7, 4096, 16_384, 16_385, 1 << 20] {
            let (joined, longest) = round_trip(&input, step);
            assert_eq!(joined, input, "in steps of {step}");
            assert_eq!(longest, LINE_BYTES_MAX);
        }
    }

    #[test]
    fn a_line_of_sixteen_kibibytes_is_one_full_line() {
        let (mut splitter, mut out) = (Splitter::new(Stream::Stdout), Vec::new());
        splitter.split(&[b'x'; LINE_BYTES_MAX], 0, &mut out);
        splitter.split(b"\n", 0, &mut out);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(out.starts_with(b"1970-01-01T00:00:00.000000000Z stdout F xxx"));
    }

    #[test]
    fn a_renamed_log_goes_on_in_a_new_file() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("0.log");
        let mut log = Log::open(path.clone()).expect("open");
        log.append(b"a\n");
        std::fs::rename(&path, directory.path().join("old")).expect("rename");
        log.append(b"b\n");
        log.reopen(PathBuf::new()).expect("reopen");
        log.append(b"c\n");
        assert_eq!(std::fs::read(directory.path().join("old")).expect("read"), b"a\nb\n");
        assert_eq!(std::fs::read(&path).expect("read"), b"c\n");
    }
}
