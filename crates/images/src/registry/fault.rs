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

impl Fault {
    /// How much it tells: a host that could not be reached says nothing, one that lacks the content a little.
    fn rank(self) -> u8 {
        match self {
            Fault::Dns | Fault::Refused | Fault::Tls | Fault::TimedOut | Fault::Interrupted => 0,
            Fault::NotFound => 1,
            Fault::Denied | Fault::RateLimited | Fault::Server | Fault::Protocol => 2,
            Fault::TooLarge(_) => 3,
        }
    }
}

/// A failed request, with every host that was asked for it.
#[derive(Clone, Debug)]
pub(crate) struct RequestError {
    pub(crate) fault: Fault,
    pub(crate) tried: Vec<Attempt>,
}

impl RequestError {
    pub(crate) fn new(fault: Fault, host: &str, failure: impl Into<String>) -> RequestError {
        let attempt = Attempt { host: host.to_owned(), failure: failure.into(), is_decisive: true };
        RequestError { fault, tried: vec![attempt] }
    }

    /// Puts earlier attempts before this error's own; they decide nothing.
    pub(crate) fn after(mut self, earlier: Vec<Attempt>) -> RequestError {
        let own = std::mem::replace(&mut self.tried, earlier);
        self.tried.iter_mut().for_each(|attempt| attempt.is_decisive = false);
        self.tried.extend(own);
        self
    }

    /// One error of what all hosts said: the most informative decides, the later of equal ones, and every host is
    /// listed (IMG-137). `None` if nobody was asked.
    pub(crate) fn of_all(errors: Vec<RequestError>) -> Option<RequestError> {
        let best = errors.iter().enumerate().max_by_key(|(index, error)| (error.fault.rank(), *index))?.0;
        let fault = errors[best].fault;
        let tried = errors.into_iter().enumerate().flat_map(|(index, error)| {
            error
                .tried
                .into_iter()
                .map(move |attempt| Attempt { is_decisive: attempt.is_decisive && index == best, ..attempt })
        });
        Some(RequestError { fault, tried: tried.collect() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_informative_host_decides_and_every_host_is_listed() {
        use Fault::{Denied, NotFound, Refused, Server, TooLarge};
        #[track_caller]
        fn check(faults: &[Fault], decisive: usize) {
            let errors = faults.iter().enumerate().map(|(n, fault)| RequestError::new(*fault, &format!("h{n}"), "no"));
            let all = RequestError::of_all(errors.collect()).unwrap();
            assert_eq!((all.fault, all.tried.len()), (faults[decisive], faults.len()));
            let found: Vec<bool> = all.tried.iter().map(|attempt| attempt.is_decisive).collect();
            assert!(found.iter().enumerate().all(|(n, is)| *is == (n == decisive)), "{found:?}");
        }
        check(&[Server, NotFound], 0);
        check(&[NotFound, Refused], 0);
        check(&[Refused, NotFound], 1);
        check(&[Denied, Server], 1);
        check(&[TooLarge(9), Server], 0);
        assert!(RequestError::of_all(Vec::new()).is_none());
    }
}
