//! The termination message of a container (POD-38): its file, else the tail of its log.
//!
//! Owns the limits. Reads at most a few kilobytes and never follows a link that the container could have made.

use super::view::Record;
use crate::{config::Context, object::Pod};
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

const FILE_BYTES_MAX: u64 = 4096;
const LOG_BYTES_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;
const POD_BYTES_MAX: u64 = 12288;

/// What the container said at its end.
pub fn read(pod: &Pod, record: &Record, ctx: &Context) -> String {
    let Some((_, container)) = pod.container(&record.name) else { return String::new() };
    let containers = u64::try_from(pod.containers().count().max(1)).unwrap_or(1);
    let limit = FILE_BYTES_MAX.min(POD_BYTES_MAX / containers);
    let file = crate::config::termination_file(&ctx.data_dir, pod.uid(), &record.name, record.attempt);
    let said = String::from_utf8_lossy(&tail(&file, limit)).into_owned();
    let failed = record.exit().is_some_and(|exit| exit.code != 0);
    if said.is_empty() && failed && container.termination_message_policy == "FallbackToLogsOnError" {
        let log = match record.log_path.starts_with('/') {
            true => Path::new(&record.log_path).to_owned(),
            false => crate::config::pod_log_directory(&ctx.log_dir, pod).join(&record.log_path),
        };
        return log_tail(&tail(&log, 64 * 1024));
    }
    said
}

/// The last `limit` bytes of a regular file; empty if there is none.
fn tail(path: &Path, limit: u64) -> Vec<u8> {
    let open =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let Ok(mut file) = open.map(File::from) else { return Vec::new() };
    let Ok(length) = file.metadata().map(|m| if m.is_file() { m.len() } else { 0 }) else { return Vec::new() };
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(length.saturating_sub(limit))).is_ok() {
        let _ = file.take(limit).read_to_end(&mut bytes);
    }
    bytes
}

/// The last lines of a CRI log, without their heads.
fn log_tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let mut lines: Vec<&str> = text.lines().rev().take(LOG_LINES_MAX).collect();
    lines.reverse();
    let said: Vec<&str> = lines.into_iter().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let joined = said.iter().map(|line| format!("{line}\n")).collect::<String>();
    let mut from = joined.len().saturating_sub(LOG_BYTES_MAX);
    while !joined.is_char_boundary(from) {
        from += 1;
    }
    joined[from..].to_owned()
}
