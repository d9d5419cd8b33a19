//! The exit record of a container: a small file that outlives monitor and agent.
//!
//! Owns the file's text and its atomic writing. The monitor writes it before it tells anybody of the exit;
//! whoever finds it may trust it. Lines are `key=value`; unknown keys are skipped. Start with [`Record`].

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// How a container ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Exit code; 128 + n after signal n.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub signal: u32,
    /// Nanoseconds since the epoch; 0 if it was never started.
    pub started_at: u64,
    /// Nanoseconds since the epoch.
    pub finished_at: u64,
    /// The kernel killed a process of it for want of memory.
    pub oom: bool,
}

impl Record {
    /// Reads a record's text; `None` if it is not whole.
    #[must_use]
    pub fn parse(text: &str) -> Option<Record> {
        let mut record = Record::default();
        let mut found = false;
        for line in text.lines() {
            let (key, value) = line.split_once('=')?;
            match key {
                "exit_code" => {
                    record.exit_code = value.parse().ok()?;
                    found = true;
                }
                "signal" => record.signal = value.parse().ok()?,
                "started_at" => record.started_at = value.parse().ok()?,
                "finished_at" => record.finished_at = value.parse().ok()?,
                "oom" => record.oom = value == "true",
                _ => {}
            }
        }
        found.then_some(record)
    }

    /// The record as text.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "exit_code={}\nsignal={}\nstarted_at={}\nfinished_at={}\noom={}\n",
            self.exit_code, self.signal, self.started_at, self.finished_at, self.oom
        )
    }

    /// Reads the file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no record.
    pub fn read(path: &Path) -> io::Result<Option<Record>> {
        match fs::read_to_string(path) {
            Ok(text) => Record::parse(&text).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the file at `path` so that it is there whole or not at all. It survives the death of every
    /// process; after power loss the containers are gone as well, so there is no fsync.
    ///
    /// # Errors
    /// The directory is missing or full.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        fs::File::create(&temporary)?.write_all(self.text().as_bytes())?;
        fs::rename(&temporary, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_from_its_text() {
        let record = Record { exit_code: 137, signal: 9, started_at: 1, finished_at: 2, oom: true };
        assert_eq!(Record::parse(&record.text()), Some(record));
        assert_eq!(Record::parse(&format!("{}colour=blue\n", record.text())), Some(record));
    }

    #[test]
    fn half_a_record_is_none() {
        assert_eq!(Record::parse(""), None);
        assert_eq!(Record::parse("exit_co"), None);
        assert_eq!(Record::parse("oom=true\n"), None);
    }
}
