//! One HTTP GET of a lifecycle hook: no proxy, no pool, no check of certificates, any response is a success.

mod sniffed;
#[cfg(test)]
mod tests;

use crate::{object::HttpGetAction, probes::tls};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sniffed::Sniffed;
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// HOOK-62.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 10;

/// Why there was no answer: in full, and in words that hold nothing of what the other side said.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) text: String,
    pub(super) outline: String,
    /// The other side of a TLS handshake spoke plain HTTP.
    is_plain: bool,
}

impl Error {
    pub(super) fn new(text: &str, outline: &str) -> Self {
        Self { text: text.to_owned(), outline: outline.to_owned(), is_plain: false }
    }
}

/// The last answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    /// Whom HTTPS was meant for, if plain HTTP was what it wanted.
    pub(super) plain_instead_of_tls: Option<String>,
}

/// Sends the GET and follows redirects within the same host (HOOK-26). A server that answers HTTPS in plain HTTP is asked
/// once more in its own way, without credentials (HOOK-22).
pub(super) async fn get(action: &HttpGetAction, host: &str, port: u16) -> Result<Answered, Error> {
    let is_tls = action.scheme.eq_ignore_ascii_case("https");
    let target = Target { is_tls, host: host.to_owned(), port, path: rooted(&action.path) };
    let authority = target.authority();
    let answer = |status, plain_instead_of_tls| Answered { status, plain_instead_of_tls };
    match follow(action, target).await {
        Err(first) if first.is_plain => {
            let mut action = action.clone();
            action.http_headers.retain(|header| !header.name.eq_ignore_ascii_case("authorization"));
            let target = Target { is_tls: false, host: host.to_owned(), port, path: rooted(&action.path) };
            let status = follow(&action, target).await.map_err(|_| first)?;
            Ok(answer(status, Some(authority)))
        }
        result => result.map(|status| answer(status, None)),
    }
}

async fn follow(action: &HttpGetAction, mut target: Target) -> Result<StatusCode, Error> {
    let host = target.host.clone();
    for _ in 0..=REDIRECTS_MAX {
        match once(action, &target).await? {
            (_, Some(next)) if next.host == host => target = next,
            (status, _) => return Ok(status),
        }
    }
    let text = format!("stopped after {REDIRECTS_MAX} redirects");
    Err(Error::new(&text, &text))
}

struct Target {
    is_tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.is_tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// One request; its status, and the next target if the answer is a redirect.
async fn once(action: &HttpGetAction, target: &Target) -> Result<(StatusCode, Option<Target>), Error> {
    let (authority, url) = (target.authority(), target.url());
    let connect = TcpStream::connect((target.host.as_str(), target.port));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
        .await
        .map_err(|_| Error::new(&format!("Get {url:?}: dial tcp {authority}: i/o timeout"), "no connection in time"))?
        .map_err(|error| {
            Error::new(&format!("Get {url:?}: dial tcp {authority}: connect: {error}"), "no connection")
        })?;
    let request = request(action, target, &authority).map_err(|error| Error::new(&error, "no valid request"))?;
    let response = if target.is_tls {
        exchange(encrypted(stream, &url).await?, request).await
    } else {
        exchange(stream, request).await
    };
    let response = response.map_err(|error| Error::new(&format!("Get {url:?}: {error}"), "no HTTP response"))?;
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let next = location.filter(|_| response.status().is_redirection());
    Ok((response.status(), next.and_then(|location| redirected(target, location))))
}

async fn encrypted(stream: TcpStream, url: &str) -> Result<TlsStream<Sniffed>, Error> {
    let failed = |error: String, is_plain| Error {
        text: format!("Get {url:?}: {error}"),
        outline: if is_plain { "HTTP instead of HTTPS".into() } else { "no TLS".into() },
        is_plain,
    };
    let name = stream.peer_addr().map(|address| ServerName::from(address.ip()));
    let name = name.map_err(|error| failed(error.to_string(), false))?;
    let first = Arc::default();
    let stream = Sniffed { stream, first: Arc::clone(&first) };
    tls::connect_over(stream, name).await.map_err(|error| {
        let is_plain = *first.lock().unwrap_or_else(PoisonError::into_inner) == *b"HTTP/";
        let error = if is_plain { "http: server gave HTTP response to HTTPS client".into() } else { error };
        failed(error, is_plain)
    })
}

/// Sends the request and drops the connection with the answer's head: the body is nobody's business (HOOK-27).
async fn exchange<S>(stream: S, request: Request<Empty<&'static [u8]>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    tokio::select! {
        biased;
        response = &mut answer => response.map_err(|error| error.to_string()),
        // A server may close with its answer: what it said before counts.
        _ = connection => answer.await.map_err(|error| error.to_string()),
    }
}

fn request(action: &HttpGetAction, target: &Target, authority: &str) -> Result<Request<Empty<&'static [u8]>>, String> {
    let mut request = Request::get(&target.path).body(Empty::new()).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(|error| error.to_string())?);
    for given in &action.http_headers {
        let name = HeaderName::from_bytes(given.name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(&given.value).map_err(|error| error.to_string())?;
        if name == header::HOST {
            headers.insert(name, value)
        } else {
            headers.append(name, value).then_some(HeaderValue::from_static(""))
        };
    }
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static("kube-lifecycle/1.36"));
    if headers.get(header::ACCEPT).is_some_and(HeaderValue::is_empty) {
        headers.remove(header::ACCEPT);
    } else {
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    }
    Ok(request)
}

fn redirected(from: &Target, location: &str) -> Option<Target> {
    let uri: Uri = location.parse().ok()?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let host = uri.host().map_or(from.host.clone(), str::to_owned);
    let is_tls = uri.scheme_str().map_or(from.is_tls, |scheme| scheme == "https");
    let port = match uri.host() {
        Some(_) => uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
        None => from.port,
    };
    Some(Target { is_tls, host, port, path })
}
