//! One HTTP GET of a lifecycle hook: no proxy, no pool, no check of certificates, any response is a success.

use crate::{object::HttpGetAction, probes::tls};
use http::{HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// HOOK-62.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 10;

/// Sends the GET and follows redirects within the same host (HOOK-26).
pub(super) async fn get(action: &HttpGetAction, host: &str, port: u16) -> Result<(), String> {
    let is_tls = action.scheme.eq_ignore_ascii_case("https");
    let mut target = Target { is_tls, host: host.to_owned(), port, path: rooted(&action.path) };
    for _ in 0..=REDIRECTS_MAX {
        match once(action, &target).await? {
            Some(next) if next.host == host => target = next,
            _ => return Ok(()),
        }
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
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

/// One request; the next target if the answer is a redirect.
async fn once(action: &HttpGetAction, target: &Target) -> Result<Option<Target>, String> {
    let authority = target.authority();
    let connect = TcpStream::connect((target.host.as_str(), target.port));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
        .await
        .map_err(|_| format!("Get {:?}: dial tcp {authority}: i/o timeout", target.url()))?
        .map_err(|error| format!("Get {:?}: dial tcp {authority}: connect: {error}", target.url()))?;
    let request = request(action, target, &authority)?;
    let response = if target.is_tls {
        let stream = tls::connect(stream).await.map_err(|error| format!("Get {:?}: {error}", target.url()))?;
        exchange(stream, request).await?
    } else {
        exchange(stream, request).await?
    };
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    Ok(location.filter(|_| response.status().is_redirection()).and_then(|location| redirected(target, location)))
}

/// Sends the request and drops the connection with the answer's head: the body is nobody's business (HOOK-27).
async fn exchange<S>(stream: S, request: Request<Empty<&'static [u8]>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::select! {
        response = sender.send_request(request) => response.map_err(|error| error.to_string()),
        ended = connection => Err(ended.err().map_or("EOF".into(), |error| error.to_string())),
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
