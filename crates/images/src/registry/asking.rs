//! Asking the hosts of a repository, one after the other, until one answers (IMG-136..IMG-139).
//!
//! Owns the choice of the host, its login, the scheme that works, retries and what warnings say. Start at
//! [`Session::ask`]; what is asked for is `session.rs`.

use super::body::error_text;
use super::challenge;
use super::endpoint::{Endpoint, Scheme};
use super::fault::{Fault, RequestError};
use super::hosts::HostsError;
use super::login::{Applicant, Login};
use super::retry::{Outcome, Retry, retry_after};
use super::session::{Session, SessionOptions};
use super::transport::{Ask, Reply};
use super::trust::Trust;
use crate::machine;
use http::header::{AUTHORIZATION, RANGE, RETRY_AFTER, WARNING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a first TLS attempt at a loopback registry may take, before plain HTTP is tried.
const LOOPBACK_PROBE: Duration = Duration::from_secs(10);
const WARNING_BYTES_MAX: usize = 4096;

/// One host of a repository, and what is known of it by now.
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    trust: Arc<Trust>,
    /// Headers for this host alone.
    headers: HeaderMap,
    /// The scheme that has worked.
    scheme: Mutex<Option<Scheme>>,
    login: tokio::sync::Mutex<Login>,
    /// Until when the host wants to be left alone; shared by all requests (IMG-139).
    quiet_until: Mutex<Option<Instant>>,
}

impl Host {
    pub(super) fn new(endpoint: Endpoint, pull_headers: &[(String, String)]) -> Result<Host, HostsError> {
        let trust = Arc::new(Trust::load(&endpoint.tls, endpoint.dial_timeout)?);
        let mut headers = if endpoint.gets_headers { own_headers(pull_headers) } else { HeaderMap::new() };
        for (name, value) in endpoint.headers.iter().filter_map(parse_header) {
            headers.append(name, value);
        }
        Ok(Host {
            endpoint,
            trust,
            headers,
            scheme: Mutex::new(None),
            login: tokio::sync::Mutex::new(Login::None),
            quiet_until: Mutex::new(None),
        })
    }

    fn known_scheme(&self) -> Option<Scheme> {
        *lock(&self.scheme)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a host must be good for (IMG-136).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Resolve,
    Pull,
}

/// A request for something of the repository.
pub(super) struct Wanted<'a> {
    pub(super) method: Method,
    /// What follows the repository's path.
    pub(super) rest: &'a str,
    /// Headers that redirect targets get too.
    pub(super) public: HeaderMap,
    pub(super) need: Need,
    /// The host to begin with; those before it come last.
    pub(super) first: usize,
}

/// An answer, and the number of the host that gave it.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) host: usize,
}

impl Session {
    /// Asks each host in turn. An answer is a success, a 405 or a 416; everything else is an error (IMG-137).
    pub(super) async fn ask(&self, wanted: &Wanted<'_>) -> Result<Answer, RequestError> {
        let _active = self.pulse.active();
        let count = self.hosts.len();
        let order = (0..count).map(|step| (wanted.first + step) % count);
        let able: Vec<usize> = order.filter(|index| self.can(*index, wanted.need)).collect();
        let mut errors = Vec::new();
        for (step, index) in able.iter().enumerate() {
            let is_last = step + 1 == able.len();
            match self.ask_host(&self.hosts[*index], wanted, is_last).await {
                Ok(reply) => return Ok(Answer { reply, host: *index }),
                Err(error) => errors.push(error),
            }
        }
        Err(RequestError::of_all(errors).unwrap_or_else(|| {
            let text = match wanted.need {
                Need::Resolve => "no host may be asked what a tag stands for",
                Need::Pull => "no host may be asked for content",
            };
            RequestError::new(Fault::Protocol, self.options.reference.domain(), text)
        }))
    }

    fn can(&self, index: usize, need: Need) -> bool {
        let endpoint = &self.hosts[index].endpoint;
        match need {
            Need::Resolve => endpoint.can_resolve,
            Need::Pull => endpoint.can_pull,
        }
    }

    async fn ask_host(&self, host: &Host, wanted: &Wanted<'_>, is_last: bool) -> Result<Reply, RequestError> {
        let mut retry = Retry::new(self.options.budget, is_last);
        loop {
            let quiet_until = *lock(&host.quiet_until);
            if let Some(until) = quiet_until {
                tokio::time::sleep_until(until).await;
            }
            let result = self.ask_with_login(host, wanted).await;
            let Some(outcome) = outcome_of(&result) else {
                return match result {
                    Ok(reply) if is_answer(&reply, wanted) => Ok(reply),
                    Ok(reply) => Err(self.status_error(reply).await),
                    Err(error) => Err(error),
                };
            };
            let Some(wait) = retry.next(outcome, machine::jitter()) else {
                return match result {
                    Ok(reply) => Err(self.status_error(reply).await),
                    Err(error) => Err(error),
                };
            };
            if matches!(outcome, Outcome::RateLimited { .. }) {
                *lock(&host.quiet_until) = Instant::now().checked_add(wait);
            } else {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Sends a request with what is known to be wanted, and answers one challenge (IMG-124, IMG-129).
    async fn ask_with_login(&self, host: &Host, wanted: &Wanted<'_>) -> Result<Reply, RequestError> {
        let used = self.current_login(host).await?;
        let reply = self.ask_scheme(host, wanted, used.as_ref()).await?;
        // Only the registry itself may ask for the credential; a redirect's target may not (IMG-131).
        if reply.response.status() != 401 || reply.elsewhere {
            return Ok(reply);
        }
        let before = challenge::choose(reply.response.headers());
        {
            let mut login = host.login.lock().await;
            if login.header() == used {
                if matches!(*login, Login::Basic(_)) {
                    return Ok(reply);
                }
                *login = self.log_in(host, &reply.host, before.clone()).await?;
            }
        }
        let renewed = self.current_login(host).await?;
        let reply = self.ask_scheme(host, wanted, renewed.as_ref()).await?;
        let after = challenge::choose(reply.response.headers()).filter(|_| reply.response.status() == 401);
        // Told twice that the token does not serve, there is no use in asking on.
        let said = |challenge: &Option<challenge::Challenge>| {
            let word = challenge.as_ref()?.parameter("error")?;
            matches!(word, "insufficient_scope" | "invalid_token").then(|| word.to_owned())
        };
        match said(&after).filter(|_| said(&before).is_some() || renewed.is_some()) {
            Some(word) => Err(RequestError::new(Fault::Denied, &reply.host, format!("server message: {word}"))),
            None => Ok(reply),
        }
    }

    async fn current_login(&self, host: &Host) -> Result<Option<HeaderValue>, RequestError> {
        let mut login = host.login.lock().await;
        if let Some(challenge) = login.due() {
            let scheme = host.known_scheme().unwrap_or(Scheme::Https);
            let origin = format!("{}://{}", scheme.name(), host.endpoint.authority);
            *login = self.log_in(host, &origin, Some(challenge)).await?;
        }
        Ok(login.header())
    }

    async fn log_in(
        &self,
        host: &Host,
        origin: &str,
        challenge: Option<challenge::Challenge>,
    ) -> Result<Login, RequestError> {
        let SessionOptions { transport, stall, .. } = &self.options;
        let applicant = Applicant {
            transport,
            trust: &host.trust,
            secret: &host.endpoint.secret,
            path: &host.endpoint.repository,
            host: origin,
            timeout: *stall,
        };
        let login = applicant.answer(challenge).await?;
        self.hide(login.header().as_ref().and_then(|header| header.to_str().ok()).unwrap_or_default());
        Ok(login)
    }

    /// Sends with the scheme that works, or finds out which one does (IMG-133).
    async fn ask_scheme(
        &self,
        host: &Host,
        wanted: &Wanted<'_>,
        login: Option<&HeaderValue>,
    ) -> Result<Reply, RequestError> {
        let schemes = host.known_scheme().map_or_else(|| host.endpoint.schemes.clone(), |scheme| vec![scheme]);
        let mut private = host.headers.clone();
        if let Some(login) = login {
            private.insert(AUTHORIZATION, login.clone());
        }
        let mut earlier = Vec::new();
        for (index, scheme) in schemes.iter().enumerate() {
            let more = index + 1 < schemes.len();
            let timeout = if more { LOOPBACK_PROBE.min(self.options.stall) } else { self.options.stall };
            let ask = self.request(host, *scheme, wanted, (private.clone(), timeout))?;
            match self.options.transport.send(&ask).await {
                Ok(reply) => {
                    self.pulse.beat();
                    *lock(&host.scheme) = Some(*scheme);
                    self.note_warnings(&reply);
                    return Ok(reply);
                }
                Err(error) if more && matches!(error.fault, Fault::Tls | Fault::TimedOut | Fault::Interrupted) => {
                    earlier.extend(error.tried);
                }
                Err(error) => return Err(error.after(earlier)),
            }
        }
        unreachable!("every endpoint has a scheme")
    }

    fn request(
        &self,
        host: &Host,
        scheme: Scheme,
        wanted: &Wanted<'_>,
        (private, timeout): (HeaderMap, Duration),
    ) -> Result<Ask, RequestError> {
        let Endpoint { authority, base, repository, namespace, .. } = &host.endpoint;
        let origin = format!("{}://{authority}", scheme.name());
        let query = namespace.as_ref().map(|namespace| format!("?ns={namespace}")).unwrap_or_default();
        let uri = format!("{origin}{base}/{repository}/{}{query}", wanted.rest)
            .parse()
            .map_err(|_| RequestError::new(Fault::Protocol, &origin, "not a usable address"))?;
        let (method, public) = (wanted.method.clone(), wanted.public.clone());
        self.pulse.note_host(&origin);
        Ok(Ask { method, uri, trust: host.trust.clone(), private, public, form: None, timeout })
    }

    /// Says what the registry warns of, each thing once (IMG-144).
    fn note_warnings(&self, reply: &Reply) {
        for value in reply.response.headers().get_all(WARNING) {
            let Some(text) = value.to_str().ok().and_then(warning) else { continue };
            if lock(&self.warned).insert(text.clone()) {
                tracing::warn!(image = self.name(), registry = reply.host, warning = text, "the registry warns");
            }
        }
    }

    pub(super) async fn status_error(&self, reply: Reply) -> RequestError {
        let fault = match reply.response.status().as_u16() {
            404 | 410 => Fault::NotFound,
            401 | 403 => Fault::Denied,
            429 => Fault::RateLimited,
            500.. => Fault::Server,
            408 => Fault::TimedOut,
            _ => Fault::Protocol,
        };
        let host = reply.host.clone();
        RequestError::new(fault, &host, error_text(reply, self.options.stall).await)
    }
}

/// The text of a `299 - "text"` warning of at most 4096 bytes.
fn warning(value: &str) -> Option<String> {
    let quoted = value.strip_prefix("299 ")?.split_once(' ')?.1.trim();
    let text = quoted.strip_prefix('"')?.strip_suffix('"')?;
    (text.len() <= WARNING_BYTES_MAX).then(|| text.replace("\\\"", "\"").replace("\\\\", "\\"))
}

fn parse_header((name, value): &(String, String)) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(name.as_str()).ok()?;
    let mut value = HeaderValue::try_from(value.as_str()).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// The caller's headers, without those that could change who asks or where (IMG-163).
fn own_headers(pairs: &[(String, String)]) -> HeaderMap {
    let forbidden = |name: &HeaderName| {
        matches!(name.as_str(), "authorization" | "host" | "cookie" | "proxy-authorization" | "content-length")
            || name.as_str() == "transfer-encoding"
    };
    pairs.iter().filter_map(parse_header).filter(|(name, _)| !forbidden(name)).collect()
}

/// A success, or one of the refusals that the one who asked knows how to take.
fn is_answer(reply: &Reply, wanted: &Wanted<'_>) -> bool {
    let status = reply.response.status();
    let no_head = status == 405 && wanted.method == Method::HEAD;
    let no_more = status == 416 && wanted.public.contains_key(RANGE);
    status.is_success() || no_head || no_more
}

/// What a result means for the next attempt; `None` if there shall be none.
fn outcome_of(result: &Result<Reply, RequestError>) -> Option<Outcome> {
    match result {
        Ok(reply) => match reply.response.status().as_u16() {
            408 => Some(Outcome::RequestTimeout),
            429 => {
                let header = reply.response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = header.and_then(|value| retry_after(value, machine::now()));
                Some(Outcome::RateLimited { retry_after })
            }
            500 | 502 | 503 | 504 => Some(Outcome::ServerError),
            _ => None,
        },
        Err(error) => match error.fault {
            Fault::Interrupted => Some(Outcome::Interrupted),
            Fault::TimedOut => Some(Outcome::TimedOut),
            Fault::RateLimited => Some(Outcome::RateLimited { retry_after: None }),
            Fault::Server => Some(Outcome::ServerError),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_warnings_of_code_299_are_told() {
        for (value, text) in [
            ("299 - \"soon gone\"", Some("soon gone")),
            ("299 r.io \"a \\\"b\\\"\"", Some("a \"b\"")),
            ("199 - \"other\"", None),
            ("299 - unquoted", None),
            ("299", None),
        ] {
            assert_eq!(warning(value).as_deref(), text, "{value}");
        }
        assert_eq!(warning(&format!("299 - \"{}\"", "x".repeat(WARNING_BYTES_MAX + 1))), None);
    }

    #[test]
    fn a_pulls_headers_cannot_say_who_asks_or_where() {
        let pairs: Vec<(String, String)> =
            ["X-Mine", "Authorization", "Host", "Cookie", "Proxy-Authorization", "Transfer-Encoding", "bad name"]
                .map(|name| (name.to_owned(), "v".to_owned()))
                .into();
        let kept = own_headers(&pairs);
        assert_eq!(kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-mine"]);
        assert!(kept.values().all(HeaderValue::is_sensitive));
    }
}
