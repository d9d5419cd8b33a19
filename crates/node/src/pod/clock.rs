//! The wall clock, as the shell of the node reads it.
//!
//! Owns the only place where the pod machine's shell asks for the time, so that tests can run five-minute back-offs in
//! milliseconds on tokio's paused clock. Cores never come here: they get `now` as an argument.

use jiff::Timestamp;
use tokio::time::Instant;

/// A source of wall-clock time.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A fixed start plus what tokio's clock has advanced since.
    Virtual {
        /// Wall time at `started`.
        origin: Timestamp,
        /// When the virtual clock was made.
        started: Instant,
    },
}

impl Clock {
    /// A clock that follows tokio's, beginning at `origin`.
    pub fn virtual_from(origin: Timestamp) -> Self {
        Self::Virtual { origin, started: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Virtual { origin, started } => *origin + started.elapsed(),
        }
    }
}
