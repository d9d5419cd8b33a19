//! What can go wrong with one request, and how it becomes the error of a pull.

use crate::error::{Attempt, PullError};
use std::error::Error as StdError;
use std::io;

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NotFound,
    Denied,
    RateLimited,
    Server,
    Dns,
    Refused,
    Tls,
    TimedOut,
    /// The connection ended before the answer was whole.
    Interrupted,
    /// The answer is not the protocol's.
    Protocol,
    /// A document above the limit, with its size in bytes.
    TooLarge(u64),
}

/// A failed request, with every host that was asked for it.
#[derive(Clone, Debug)]
pub(crate) struct RequestError {
    pub(crate) fault: Fault,
    pub(crate) tried: Vec<Attempt>,
}

impl RequestError {
    pub(crate) fn new(fault: Fault, host: &str, failure: impl Into<String>) -> RequestError {
        let attempt = Attempt { host: host.to_owned(), failure: failure.into() };
        RequestError { fault, tried: vec![attempt] }
    }

    /// Puts earlier attempts before this error's own.
    pub(crate) fn after(mut self, earlier: Vec<Attempt>) -> RequestError {
        let own = std::mem::replace(&mut self.tried, earlier);
        self.tried.extend(own);
        self
    }

    /// The error of the pull that needed this request.
    pub(crate) fn into_pull(self, reference: &str) -> PullError {
        let (reference, tried) = (reference.to_owned(), self.tried);
        match self.fault {
            Fault::NotFound => PullError::NotFound { reference, tried },
            Fault::Denied => PullError::AccessDenied { reference, tried },
            Fault::RateLimited => PullError::RateLimited { reference, tried },
            Fault::Server => PullError::ServerError { reference, tried },
            Fault::Dns => PullError::Dns { reference, tried },
            Fault::Refused => PullError::Refused { reference, tried },
            Fault::Tls => PullError::Tls { reference, tried },
            Fault::TimedOut => PullError::TimedOut { reference, tried },
            Fault::Interrupted => PullError::RegistryUnavailable { reference, tried },
            Fault::Protocol => PullError::Protocol { reference, tried },
            Fault::TooLarge(bytes) => PullError::TooLarge { reference, bytes },
        }
    }
}

/// Classifies an error of the HTTP client by what stands in its chain of sources.
pub(crate) fn classify(error: &(dyn StdError + 'static)) -> (Fault, String) {
    let mut chain: Vec<String> = Vec::new();
    let mut fault = None;
    let mut link = Some(error);
    while let Some(current) = link {
        let text = current.to_string();
        fault = fault.or_else(|| fault_of(current, &text));
        if chain.last().is_none_or(|last| !last.ends_with(&text)) {
            chain.push(text);
        }
        link = match current.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            // An io::Error hides the error it wraps: its source is the wrapped error's source.
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => current.source(),
        };
    }
    // The outermost words ("client error (Connect)") say nothing that the inner ones do not.
    let detail = if chain.len() > 1 { chain[1..].join(": ") } else { chain.join(": ") };
    (fault.unwrap_or(Fault::Interrupted), detail)
}

fn fault_of(error: &(dyn StdError + 'static), text: &str) -> Option<Fault> {
    if error.downcast_ref::<rustls::Error>().is_some() || text.contains("tls handshake eof") {
        return Some(Fault::Tls);
    }
    if text.starts_with("dns error") {
        return Some(Fault::Dns);
    }
    let error = error.downcast_ref::<io::Error>()?;
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Fault::Refused),
        io::ErrorKind::TimedOut => Some(Fault::TimedOut),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if error.get_ref().is_none() => {
            Some(Fault::Interrupted)
        }
        _ => None,
    }
}
