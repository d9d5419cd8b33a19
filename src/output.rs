//! What a person at the terminal sees: steps with their durations, errors that say what to do.
//!
//! The only module besides the verbs of the command line that writes to the standard streams.
#![allow(clippy::disallowed_macros)]

use std::io::Write;
use std::time::{Duration, Instant};

use crate::clock;

/// Prints each step of a longer job with the time it took.
pub struct Steps {
    started: Instant,
    last: Instant,
}

impl Steps {
    /// Starts the clock.
    pub fn begin() -> Steps {
        let now = clock::instant();
        Steps { started: now, last: now }
    }

    /// Says that a step has ended, and how long it took since the one before.
    pub fn done(&mut self, what: &str) {
        let now = clock::instant();
        line(&format!("  {what:<52} {:>7}", milliseconds(now - self.last)));
        self.last = now;
    }

    /// Time since [`Steps::begin`].
    pub fn elapsed(&self) -> Duration {
        clock::instant() - self.started
    }
}

/// A document as YAML, with every one-line text on one line: people take fields out with `grep` and `awk`.
///
/// # Errors
/// The value cannot be written as YAML.
pub fn yaml(value: &serde_json::Value) -> anyhow::Result<String> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    Ok(serde_saphyr::to_string_with_options(value, options)?)
}

/// Prints one line to standard output and flushes it, because a detached start relays line by line.
pub fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A closed pipe (`sampan up | head`) must not end the node.
    let _ = writeln!(stdout, "{text}");
    let _ = stdout.flush();
}

/// Prints one line to standard error.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A duration as a whole number of milliseconds.
pub fn milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
