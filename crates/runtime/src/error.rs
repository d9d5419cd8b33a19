//! Why a verb failed, and which gRPC code that is (POD-73: `NotFound` and `DeadlineExceeded` are meaningful).

use std::io;
use std::path::PathBuf;

use tonic::Status;

/// An error of the embedded runtime. Displays as one clause with its cause, as clients show it in events.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such sandbox.
    #[error("sandbox {0:?} not found")]
    NoSandbox(String),
    /// No such container.
    #[error("container {0:?} not found")]
    NoContainer(String),
    /// No such image.
    #[error("image {0:?} not found")]
    NoImage(String),
    /// The request misses or contradicts something.
    #[error("{0}")]
    Invalid(String),
    /// Not in this state.
    #[error("{0}")]
    WrongState(String),
    /// A name is taken.
    #[error("{0}")]
    Exists(String),
    /// RTC-41.
    #[error("no runtime for {handler:?} is configured; available: {available}")]
    NoHandler {
        /// As asked.
        handler: String,
        /// Names that would be accepted.
        available: String,
    },
    /// A handler that is configured, without a program to run.
    #[error("no runtime for {handler:?} is configured that can run: its binary {} {reason}", binary.display())]
    NoBinary {
        /// The handler's name.
        handler: String,
        /// As configured.
        binary: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A step of a sandbox or a container.
    #[error("{step}: {reason}")]
    Step {
        /// What was attempted.
        step: String,
        /// Why it failed.
        reason: String,
    },
    /// Making a sandbox (names the handler, the step and the reason).
    #[error("handler {handler:?}: {step}: {reason}")]
    Sandbox {
        /// The handler's name.
        handler: String,
        /// What was attempted.
        step: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// Starting a container (names the handler; the reason begins with the step of its OCI runtime).
    #[error("start the container: handler {handler:?}: {reason}")]
    Start {
        /// The handler's name.
        handler: String,
        /// Which step failed, and why.
        reason: String,
    },
    /// The time given to a command is over.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// A file or directory.
    #[error("{what} {path}: {source}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// A failed step with its reason.
    pub(crate) fn step(step: impl Into<String>, reason: impl std::fmt::Display) -> Error {
        Error::Step { step: step.into(), reason: reason.to_string() }
    }

    /// A failed file operation.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { what, path, source }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let text = error.to_string();
        match error {
            Error::NoSandbox(_) | Error::NoContainer(_) | Error::NoImage(_) => Status::not_found(text),
            Error::Invalid(_) => Status::invalid_argument(text),
            Error::WrongState(_) => Status::failed_precondition(text),
            Error::Exists(_) => Status::already_exists(text),
            Error::DeadlineExceeded(_) => Status::deadline_exceeded(text),
            // Clients unwrap Unknown to the bare message (IMG-51).
            Error::NoHandler { .. }
            | Error::NoBinary { .. }
            | Error::Step { .. }
            | Error::Sandbox { .. }
            | Error::Start { .. }
            | Error::File { .. } => Status::unknown(text),
        }
    }
}
