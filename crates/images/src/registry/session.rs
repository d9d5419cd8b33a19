//! One pull's conversation with a registry: resolve a name, fetch documents, open blobs.
//!
//! Owns what is asked for and the verification of documents; `asking.rs` asks the hosts. Start at [`Session::resolve`].

use super::asking::{Answer, Host, Need, Wanted};
use super::body::{Body, coding, read_document};
use super::endpoint::Endpoint;
use super::fault::{Fault, RequestError};
use super::hosts::HostsError;
use super::login::encode;
use super::pulse::Pulse;
use super::transport::{Ask, Reply, Transport, range_from};
use super::trust::Trust;
use crate::credential::Secret;
use crate::error::PullError;
use crate::hash::digest_of;
use crate::manifest::{ACCEPT, DOCUMENT_BYTES_MAX};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT as ACCEPT_HEADER, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use reference::{Algorithm, Digest, Reference};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Shorter secrets are found in every sentence, and hiding them there would only tell what they are.
const REDACTED_BYTES_MIN: usize = 4;
/// How often a document that breaks off is asked for.
const DOCUMENT_ATTEMPTS_MAX: usize = 3;
const FOREIGN_DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a session is opened with.
pub(crate) struct SessionOptions {
    pub(crate) transport: Arc<Transport>,
    pub(crate) reference: Reference,
    /// Where the repository is, in the order in which it is asked for.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Extra headers for the registry itself (IMG-163).
    pub(crate) headers: Vec<(String, String)>,
    /// Silence that ends a request (IMG-151).
    pub(crate) stall: Duration,
    /// The time that may be spent waiting for a registry that limits rates.
    pub(crate) budget: Duration,
}

pub(crate) struct Session {
    pub(super) options: SessionOptions,
    name: String,
    pub(super) hosts: Vec<Host>,
    pub(crate) pulse: Pulse,
    /// What was said already (IMG-144).
    pub(super) warned: Mutex<BTreeSet<String>>,
    /// What no message may show (IMG-146).
    secrets: Mutex<BTreeSet<String>>,
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
    pub(crate) body: Body,
    /// The number of the host that gave it; none for an address of the descriptor itself.
    pub(crate) host: Option<usize>,
    /// The offset of the first byte that will come.
    pub(crate) starts_at: u64,
    /// 416: there is nothing from that offset on.
    pub(crate) beyond_end: bool,
}

impl Session {
    /// Reads the certificates that the endpoints name.
    pub(crate) fn new(options: SessionOptions) -> Result<Session, HostsError> {
        let hosts = options.endpoints.iter().map(|endpoint| Host::new(endpoint.clone(), &options.headers));
        let session = Session {
            name: options.reference.canonical(),
            hosts: hosts.collect::<Result<_, _>>()?,
            pulse: Pulse::new(),
            warned: Mutex::default(),
            secrets: Mutex::default(),
            options,
        };
        for endpoint in &session.options.endpoints {
            match &endpoint.secret {
                Secret::Anonymous => {}
                Secret::Password { username, password } => {
                    session.hide(password);
                    session.hide(&STANDARD.encode(format!("{username}:{password}")));
                }
                Secret::Identity(token) | Secret::Registry(token) => session.hide(token),
            }
            endpoint.headers.iter().for_each(|(_, value)| session.hide(value));
        }
        session.options.headers.iter().for_each(|(_, value)| session.hide(value));
        Ok(session)
    }

    /// The canonical name, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn stall(&self) -> Duration {
        self.options.stall
    }

    /// Remembers what no message may show: a secret, or the header that holds it after a blank; also as a form spells it.
    pub(super) fn hide(&self, text: &str) {
        let bare = text.rsplit(' ').next().unwrap_or_default();
        let spellings = [text, bare].into_iter().flat_map(|secret| [secret.to_owned(), encode(secret)]);
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.extend(spellings.filter(|secret| secret.len() >= REDACTED_BYTES_MIN));
    }

    fn redacted(&self, text: &str) -> String {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        // The longest first: what is part of another secret must not leave the rest of it.
        let mut secrets: Vec<&String> = secrets.iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[redacted]"))
    }

    /// Makes a request's error the pull's, without anything secret that a server may have echoed.
    pub(crate) fn fail(&self, mut error: RequestError) -> PullError {
        for attempt in &mut error.tried {
            attempt.failure = self.redacted(&attempt.failure);
        }
        error.into_pull(&self.name)
    }

    async fn get(&self, rest: &str, public: HeaderMap, (need, first): (Need, usize)) -> Result<Answer, RequestError> {
        self.ask(&Wanted { method: Method::GET, rest, public, need, first }).await
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
        // What a digest stands for needs no resolving.
        let need = if pinned.is_some() { Need::Pull } else { Need::Resolve };
        let head = Wanted { method: Method::HEAD, rest: &rest, public: accept(), need, first: 0 };
        let head = match self.ask(&head).await {
            // A refused HEAD has no body: GET brings the registry's words (IMG-123), or works where HEAD does not.
            Err(error) if error.fault == Fault::Denied => None,
            Err(error) if error.fault == Fault::NotFound => match pinned {
                Some(digest) => return self.resolve_as_blob(digest, error).await,
                None => return Err(self.fail(error)),
            },
            Err(error) => return Err(self.fail(error)),
            Ok(answer) => Some(answer.reply).filter(|reply| reply.response.status().is_success()),
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
        let (media_type, body, announced) = self.document(&rest, need).await?;
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
        let found = self.whole(&format!("blobs/{digest}"), HeaderMap::new(), (Need::Pull, DOCUMENT_BYTES_MAX)).await;
        let (headers, body) = match found {
            Err(error) if matches!(error.fault, Fault::TooLarge(_)) => return Err(self.fail(error)),
            Err(_) => return Err(self.fail(first)),
            Ok(found) => found,
        };
        let media_type = content_type(&headers);
        check_digest(digest, &body)?;
        Ok(Resolved { digest: digest.clone(), media_type, body: Some(body) })
    }

    /// Fetches a manifest or index by digest and verifies it (IMG-105).
    pub(crate) async fn manifest(&self, digest: &Digest, size: Option<u64>) -> Result<(String, Vec<u8>), PullError> {
        let (media_type, body, _) = self.document(&format!("manifests/{digest}"), Need::Pull).await?;
        check_size(digest, size, &body)?;
        check_digest(digest, &body)?;
        Ok((media_type, body))
    }

    /// Fetches a small blob, such as a config, and verifies it.
    pub(crate) async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, PullError> {
        if size > DOCUMENT_BYTES_MAX {
            return Err(PullError::TooLarge { reference: self.name.clone(), bytes: size });
        }
        let found = self.whole(&format!("blobs/{digest}"), HeaderMap::new(), (Need::Pull, size)).await;
        let (_, body) = found.map_err(|e| match e.fault {
            Fault::TooLarge(received) => PullError::SizeMismatch { digest: digest.clone(), received, expected: size },
            _ => self.fail(e),
        })?;
        check_size(digest, Some(size), &body)?;
        check_digest(digest, &body)?;
        Ok(body)
    }

    async fn document(&self, rest: &str, need: Need) -> Result<(String, Vec<u8>, Option<Digest>), PullError> {
        let found = self.whole(rest, accept(), (need, DOCUMENT_BYTES_MAX)).await;
        let (headers, body) = found.map_err(|e| self.fail(e))?;
        Ok((content_type(&headers), body, content_digest(&headers)))
    }

    /// Fetches a document to its end; a host that breaks off gives way to the next one.
    async fn whole(
        &self,
        rest: &str,
        public: HeaderMap,
        (need, limit): (Need, u64),
    ) -> Result<(HeaderMap, Vec<u8>), RequestError> {
        let (mut first, mut broken) = (0, Vec::new());
        for _ in 0..DOCUMENT_ATTEMPTS_MAX {
            let Answer { reply, host } = self.get(rest, public.clone(), (need, first)).await?;
            let headers = reply.response.headers().clone();
            if let Some(bytes) = content_length(&headers).filter(|length| *length > limit) {
                return Err(RequestError::new(Fault::TooLarge(bytes), &reply.host, "document too large"));
            }
            match read_document(reply, limit, self.options.stall).await {
                Ok(body) => return Ok((headers, body)),
                Err(error) if matches!(error.fault, Fault::Interrupted | Fault::TimedOut) => broken.push(error),
                Err(error) => return Err(error),
            }
            first = host + 1;
        }
        Err(RequestError::of_all(broken).expect("at least one attempt was broken off"))
    }

    /// Opens a blob from an offset (IMG-140), beginning with a host.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64, first: usize) -> Result<Blob, RequestError> {
        let rest = format!("blobs/{digest}");
        let mut answer = self.get(&rest, range_from(offset), (Need::Pull, first)).await?;
        // A range of encoded bytes is no range of the blob: only the whole can be decoded.
        if answer.reply.response.status() == 206 && coding(answer.reply.response.headers()).is_some() {
            answer = self.get(&rest, HeaderMap::new(), (Need::Pull, first)).await?;
        }
        opened(answer.reply, offset, Some(answer.host))
    }

    /// Opens a blob at an address of its descriptor: anonymously, and without the registry's headers (IMG-110).
    pub(crate) async fn foreign_blob(&self, url: &str, offset: u64) -> Result<Blob, RequestError> {
        let uri = url.parse().map_err(|_| RequestError::new(Fault::Protocol, "urls", "not a usable address"))?;
        let trust = Trust::load(&Default::default(), FOREIGN_DIAL_TIMEOUT).expect("no file is read");
        let ask = Ask {
            method: Method::GET,
            uri,
            trust: Arc::new(trust),
            private: HeaderMap::new(),
            public: range_from(offset),
            form: None,
            timeout: self.options.stall,
        };
        let reply = self.options.transport.send(&ask).await?;
        match reply.response.status().as_u16() {
            200..300 | 416 => opened(reply, offset, None),
            _ => Err(self.status_error(reply).await),
        }
    }
}

fn opened(reply: Reply, offset: u64, host: Option<usize>) -> Result<Blob, RequestError> {
    let beyond_end = reply.response.status() == 416;
    let starts_at = match reply.response.status().as_u16() {
        206 => {
            let range = reply.response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
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
    Ok(Blob { body: Body::of(reply)?, host, starts_at, beyond_end })
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
