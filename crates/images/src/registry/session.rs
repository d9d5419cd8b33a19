//! One pull's conversation with a registry: resolve a name, fetch documents, open blobs.
//!
//! Owns the order of hosts, the retries and the login of each host. Start at [`Session::resolve`].

use super::body::{error_text, read_document};
use super::endpoint::{Endpoint, Scheme};
use super::fault::{Fault, RequestError};
use super::login::{Applicant, Login};
use super::retry::{Outcome, Retry, retry_after};
use super::transport::{Ask, Reply, Transport, range_from};
use super::{challenge, endpoints};
use crate::credential::Secret;
use crate::error::{Attempt, PullError};
use crate::hash::digest_of;
use crate::machine;
use crate::manifest::{ACCEPT, DOCUMENT_BYTES_MAX};
use http::header::{ACCEPT as ACCEPT_HEADER, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RANGE, RETRY_AFTER, WARNING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reference::{Algorithm, Digest, Reference};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How long a first TLS attempt at a loopback registry may take, before plain HTTP is tried.
const LOOPBACK_PROBE: Duration = Duration::from_secs(10);
/// Shorter secrets are found in every sentence, and hiding them there would only tell what they are.
const REDACTED_BYTES_MIN: usize = 4;
const WARNING_CHARACTERS_MAX: usize = 4096;

/// What a session is opened with.
pub(crate) struct SessionOptions {
    pub(crate) transport: Arc<Transport>,
    pub(crate) reference: Reference,
    pub(crate) secret: Secret,
    /// Extra headers for the registry itself (IMG-163).
    pub(crate) headers: Vec<(String, String)>,
    /// Silence that ends a request (IMG-151).
    pub(crate) stall: Duration,
    /// The time that may be spent waiting for a registry that limits rates.
    pub(crate) budget: Duration,
}

struct Host {
    endpoint: Endpoint,
    /// The scheme that has worked.
    scheme: Mutex<Option<Scheme>>,
    login: tokio::sync::Mutex<Login>,
    /// Until when the host wants to be left alone; shared by all requests (IMG-139).
    quiet_until: Mutex<Option<Instant>>,
}

pub(crate) struct Session {
    options: SessionOptions,
    name: String,
    headers: HeaderMap,
    hosts: Vec<Host>,
}

/// What a name stands for at the registry.
pub(crate) struct Resolved {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    /// The document itself, if it had to be fetched to learn the digest.
    pub(crate) body: Option<Vec<u8>>,
}

/// An open blob: the answer to a request from an offset.
pub(crate) struct Blob {
    pub(crate) reply: Reply,
    /// The offset of the first byte that will come.
    pub(crate) starts_at: u64,
    /// 416: there is nothing from that offset on.
    pub(crate) beyond_end: bool,
}

impl Session {
    pub(crate) fn new(options: SessionOptions) -> Session {
        let hosts = endpoints(options.reference.domain()).into_iter().map(|endpoint| Host {
            endpoint,
            scheme: Mutex::new(None),
            login: tokio::sync::Mutex::new(Login::None),
            quiet_until: Mutex::new(None),
        });
        let (hosts, headers) = (hosts.collect(), own_headers(&options.headers));
        Session { name: options.reference.canonical(), hosts, headers, options }
    }

    /// The canonical name, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn stall(&self) -> Duration {
        self.options.stall
    }

    /// Makes a request's error the pull's, without anything secret that a server may have echoed.
    pub(crate) fn fail(&self, mut error: RequestError) -> PullError {
        let secrets: Vec<&str> = match &self.options.secret {
            Secret::Anonymous => Vec::new(),
            Secret::Password { password, .. } => vec![password],
            Secret::Identity(token) | Secret::Registry(token) => vec![token],
        };
        for attempt in &mut error.tried {
            for secret in secrets.iter().filter(|secret| secret.len() >= REDACTED_BYTES_MIN) {
                attempt.failure = attempt.failure.replace(secret, "[redacted]");
            }
        }
        error.into_pull(&self.name)
    }

    /// Asks what the reference stands for (IMG-121, IMG-122).
    pub(crate) async fn resolve(&self) -> Result<Resolved, PullError> {
        let reference = &self.options.reference;
        let pinned = reference.digest();
        let target = match (pinned, reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or(reference::DEFAULT_TAG).to_owned(),
        };
        let rest = format!("manifests/{target}");
        let head = match self.ask(Method::HEAD, &rest, &accept()).await {
            // A refused HEAD has no body: GET brings the registry's words (IMG-123), or works where HEAD does not.
            Err(error) if error.fault == Fault::Denied => None,
            Err(error) if error.fault == Fault::NotFound => match pinned {
                Some(digest) => return self.resolve_as_blob(digest, error).await,
                None => return Err(self.fail(error)),
            },
            Err(error) => return Err(self.fail(error)),
            Ok(reply) => Some(reply).filter(|reply| reply.response.status().is_success()),
        };
        if let Some(reply) = head {
            let digest = pinned.cloned().or_else(|| content_digest(reply.response.headers()));
            let length = content_length(reply.response.headers());
            if let (Some(digest), Some(length)) = (digest, length) {
                if length > DOCUMENT_BYTES_MAX {
                    return Err(PullError::TooLarge { reference: self.name.clone(), bytes: length });
                }
                let media_type = content_type(reply.response.headers());
                return Ok(Resolved { digest, media_type, body: None });
            }
        }
        let (media_type, body, announced) = self.document(&rest).await?;
        let algorithm = pinned.or(announced.as_ref()).map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = digest_of(algorithm, &body);
        match pinned.or(announced.as_ref()) {
            Some(expected) if *expected != digest => {
                Err(PullError::DigestMismatch { expected: expected.clone(), actual: digest })
            }
            _ => Ok(Resolved { digest, media_type, body: Some(body) }),
        }
    }

    async fn resolve_as_blob(&self, digest: &Digest, first: RequestError) -> Result<Resolved, PullError> {
        let reply = match self.ask(Method::GET, &format!("blobs/{digest}"), &HeaderMap::new()).await {
            Ok(reply) => reply,
            Err(_) => return Err(self.fail(first)),
        };
        let media_type = content_type(reply.response.headers());
        let body = read_document(reply, DOCUMENT_BYTES_MAX, self.options.stall).await.map_err(|e| self.fail(e))?;
        check_digest(digest, &body)?;
        Ok(Resolved { digest: digest.clone(), media_type, body: Some(body) })
    }

    /// Fetches a manifest or index by digest and verifies it (IMG-105).
    pub(crate) async fn manifest(&self, digest: &Digest, size: Option<u64>) -> Result<(String, Vec<u8>), PullError> {
        let (media_type, body, _) = self.document(&format!("manifests/{digest}")).await?;
        check_size(digest, size, &body)?;
        check_digest(digest, &body)?;
        Ok((media_type, body))
    }

    /// Fetches a small blob, such as a config, and verifies it.
    pub(crate) async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, PullError> {
        if size > DOCUMENT_BYTES_MAX {
            return Err(PullError::TooLarge { reference: self.name.clone(), bytes: size });
        }
        let reply =
            self.ask(Method::GET, &format!("blobs/{digest}"), &HeaderMap::new()).await.map_err(|e| self.fail(e))?;
        let body = read_document(reply, size + 1, self.options.stall).await.map_err(|e| match e.fault {
            Fault::TooLarge(received) => PullError::SizeMismatch { digest: digest.clone(), received, expected: size },
            _ => self.fail(e),
        })?;
        check_size(digest, Some(size), &body)?;
        check_digest(digest, &body)?;
        Ok(body)
    }

    async fn document(&self, rest: &str) -> Result<(String, Vec<u8>, Option<Digest>), PullError> {
        let reply = self.ask(Method::GET, rest, &accept()).await.map_err(|e| self.fail(e))?;
        let headers = reply.response.headers();
        let (media_type, announced) = (content_type(headers), content_digest(headers));
        if let Some(bytes) = content_length(headers).filter(|length| *length > DOCUMENT_BYTES_MAX) {
            return Err(PullError::TooLarge { reference: self.name.clone(), bytes });
        }
        let body = read_document(reply, DOCUMENT_BYTES_MAX, self.options.stall).await.map_err(|e| self.fail(e))?;
        Ok((media_type, body, announced))
    }

    /// Opens a blob from an offset (IMG-140).
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<Blob, RequestError> {
        let reply = self.ask(Method::GET, &format!("blobs/{digest}"), &range_from(offset)).await?;
        opened(reply, offset)
    }

    /// Opens a blob at an address of its descriptor: anonymously, and without the registry's headers (IMG-110).
    pub(crate) async fn foreign_blob(&self, url: &str, offset: u64) -> Result<Blob, RequestError> {
        let uri = url.parse().map_err(|_| RequestError::new(Fault::Protocol, "urls", "not a usable address"))?;
        let (private, public) = (HeaderMap::new(), range_from(offset));
        let ask = Ask { method: Method::GET, uri, private, public, form: None, timeout: self.options.stall };
        let reply = self.options.transport.send(&ask).await?;
        match reply.response.status().as_u16() {
            200..300 | 416 => opened(reply, offset),
            _ => Err(self.status_error(reply).await),
        }
    }

    /// Asks each host in turn. An answer is a success, a 405 or a 416; everything else is an error (IMG-137).
    async fn ask(&self, method: Method, rest: &str, public: &HeaderMap) -> Result<Reply, RequestError> {
        let mut earlier: Vec<Attempt> = Vec::new();
        let last = self.hosts.len() - 1;
        for (index, host) in self.hosts.iter().enumerate() {
            match self.ask_host(host, &method, rest, public).await {
                Ok(reply) => return Ok(reply),
                Err(error) if index == last => return Err(error.after(earlier)),
                Err(error) => earlier.extend(error.tried),
            }
        }
        unreachable!("every registry has an endpoint")
    }

    async fn ask_host(
        &self,
        host: &Host,
        method: &Method,
        rest: &str,
        public: &HeaderMap,
    ) -> Result<Reply, RequestError> {
        let mut retry = Retry::new(self.options.budget);
        loop {
            let quiet_until = *host.quiet_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(until) = quiet_until {
                tokio::time::sleep_until(until).await;
            }
            let result = self.ask_with_login(host, method, rest, public).await;
            let Some(outcome) = outcome_of(&result) else {
                return match result {
                    Ok(reply) if is_answer(&reply, method, public) => Ok(reply),
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
                let mut quiet = host.quiet_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *quiet = Instant::now().checked_add(wait);
            } else {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Sends a request with what is known to be wanted, and answers one challenge (IMG-124, IMG-129).
    async fn ask_with_login(
        &self,
        host: &Host,
        method: &Method,
        rest: &str,
        public: &HeaderMap,
    ) -> Result<Reply, RequestError> {
        let used = self.current_login(host).await?;
        let reply = self.ask_scheme(host, method, rest, (public, used.as_ref())).await?;
        // Only the registry itself may ask for the credential; a redirect's target may not (IMG-131).
        if reply.response.status() != 401 || reply.elsewhere {
            return Ok(reply);
        }
        {
            let mut login = host.login.lock().await;
            if login.header() == used {
                if matches!(*login, Login::Basic(_)) {
                    return Ok(reply);
                }
                let wanted = challenge::choose(reply.response.headers());
                *login = self.applicant(&reply.host).answer(wanted).await?;
            }
        }
        let renewed = self.current_login(host).await?;
        self.ask_scheme(host, method, rest, (public, renewed.as_ref())).await
    }

    async fn current_login(&self, host: &Host) -> Result<Option<HeaderValue>, RequestError> {
        let mut login = host.login.lock().await;
        if let Some(challenge) = login.due() {
            let scheme = host.scheme.lock().unwrap_or_else(std::sync::PoisonError::into_inner).unwrap_or(Scheme::Https);
            let origin = format!("{}://{}", scheme.name(), host.endpoint.authority);
            *login = self.applicant(&origin).answer(Some(challenge)).await?;
        }
        Ok(login.header())
    }

    fn applicant<'a>(&'a self, host: &'a str) -> Applicant<'a> {
        let SessionOptions { transport, secret, stall, reference, .. } = &self.options;
        Applicant { transport, secret, path: reference.path(), host, timeout: *stall }
    }

    /// Sends with the scheme that works, or finds out which one does (IMG-133).
    async fn ask_scheme(
        &self,
        host: &Host,
        method: &Method,
        rest: &str,
        (public, login): (&HeaderMap, Option<&HeaderValue>),
    ) -> Result<Reply, RequestError> {
        let known = *host.scheme.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let schemes = known.map_or_else(|| host.endpoint.schemes.clone(), |scheme| vec![scheme]);
        let mut private = self.headers.clone();
        private.extend(login.map(|login| (AUTHORIZATION, login.clone())));
        let mut earlier = Vec::new();
        for (index, scheme) in schemes.iter().enumerate() {
            let more = index + 1 < schemes.len();
            let (authority, path) = (&host.endpoint.authority, self.options.reference.path());
            let origin = format!("{}://{authority}", scheme.name());
            let uri = format!("{origin}/v2/{path}/{rest}")
                .parse()
                .map_err(|_| RequestError::new(Fault::Protocol, &origin, "not a usable address"))?;
            let timeout = if more { LOOPBACK_PROBE.min(self.options.stall) } else { self.options.stall };
            let (private, public) = (private.clone(), public.clone());
            let ask = Ask { method: method.clone(), uri, private, public, form: None, timeout };
            match self.options.transport.send(&ask).await {
                Ok(reply) => {
                    *host.scheme.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(*scheme);
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

    /// Says what the registry warns of (IMG-144).
    fn note_warnings(&self, reply: &Reply) {
        for value in reply.response.headers().get_all(WARNING) {
            if let Some(text) = value.to_str().ok().and_then(|value| value.strip_prefix("299 - ")) {
                let text: String = text.chars().take(WARNING_CHARACTERS_MAX).collect();
                tracing::warn!(image = self.name, registry = reply.host, warning = text, "registry warns");
            }
        }
    }

    async fn status_error(&self, reply: Reply) -> RequestError {
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

/// The caller's headers, without those that could change who asks or where (IMG-163).
fn own_headers(pairs: &[(String, String)]) -> HeaderMap {
    let forbidden = |name: &HeaderName| {
        matches!(name.as_str(), "authorization" | "host" | "cookie" | "proxy-authorization" | "content-length")
            || name.as_str() == "transfer-encoding"
    };
    let parse = |(name, value): &(String, String)| {
        let name = HeaderName::try_from(name.as_str()).ok()?;
        let mut value = HeaderValue::try_from(value.as_str()).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    pairs.iter().filter_map(parse).filter(|(name, _)| !forbidden(name)).collect()
}

/// A success, or one of the refusals that the one who asked knows how to take.
fn is_answer(reply: &Reply, method: &Method, public: &HeaderMap) -> bool {
    let status = reply.response.status();
    let no_head = status == 405 && method == Method::HEAD;
    let no_more = status == 416 && public.contains_key(RANGE);
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

fn opened(reply: Reply, offset: u64) -> Result<Blob, RequestError> {
    let headers = reply.response.headers();
    let coding = headers.get(http::header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    if let Some(coding) = coding.filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        let text = format!("content encoding {coding:?} was not asked for");
        return Err(RequestError::new(Fault::Protocol, &reply.host, text));
    }
    let beyond_end = reply.response.status() == 416;
    let starts_at = match reply.response.status().as_u16() {
        206 => {
            let range = headers.get(http::header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok());
            match start {
                Some(start) if start == offset => start,
                _ => {
                    return Err(RequestError::new(Fault::Protocol, &reply.host, "unhandled content range in response"));
                }
            }
        }
        _ => 0,
    };
    Ok(Blob { reply, starts_at, beyond_end })
}

fn accept() -> HeaderMap {
    [(ACCEPT_HEADER, HeaderValue::from_static(ACCEPT))].into_iter().collect()
}

fn content_type(headers: &HeaderMap) -> String {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get("docker-content-digest")?.to_str().ok()?.trim()).ok()
}

fn check_digest(expected: &Digest, body: &[u8]) -> Result<(), PullError> {
    let actual = digest_of(expected.algorithm(), body);
    if actual == *expected { Ok(()) } else { Err(PullError::DigestMismatch { expected: expected.clone(), actual }) }
}

fn check_size(digest: &Digest, expected: Option<u64>, body: &[u8]) -> Result<(), PullError> {
    let received = body.len() as u64;
    match expected {
        Some(expected) if expected != received => {
            Err(PullError::SizeMismatch { digest: digest.clone(), received, expected })
        }
        _ => Ok(()),
    }
}
