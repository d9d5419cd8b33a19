//! The monitor's own log: few lines, bounded, never in the way.
//!
//! Owns `monitor.log` in the current directory. Standard error points there too, so a panic leaves its words.

use crate::clock::{now, put_rfc3339};
use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write};

const NAME: &str = "monitor.log";
const FORMER_NAME: &str = "monitor.log.1";
/// One file and one former file of this size at most.
const BYTES_MAX: u64 = 256 * 1024;

/// The log.
#[derive(Debug)]
pub struct Notes {
    file: File,
}

impl Notes {
    /// Opens the log and points standard output and error to it, standard input to nothing.
    pub fn open() -> io::Result<Notes> {
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(Notes { file: open()? })
    }

    /// Writes one line. Failures are ignored: there is nowhere to report them.
    pub fn put(&mut self, text: &str) {
        let mut line = Vec::with_capacity(text.len() + 40);
        put_rfc3339(now(), &mut line);
        line.push(b' ');
        line.extend(text.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }));
        line.push(b'\n');
        let _ = self.file.write_all(&line);
        if self.file.metadata().is_ok_and(|metadata| metadata.len() > BYTES_MAX)
            && rename(NAME, FORMER_NAME).is_ok()
            && let Ok(file) = open()
        {
            self.file = file;
        }
    }
}

fn open() -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(NAME)?;
    rustix::stdio::dup2_stdout(&file)?;
    rustix::stdio::dup2_stderr(&file)?;
    Ok(file)
}
