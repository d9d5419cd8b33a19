//! The http probe: a GET without proxy, pool or certificate check (POD-59).
//!
//! Start at [`get`].

use super::{
    attempt::{Outcome, authority, dial_text},
    tls,
};
use crate::object::HttpGetAction;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

const REDIRECTS_MAX: usize = 10;
const AGENT: &str = "kube-probe/1.36";

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    is_tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }

    /// Where a `Location` leads; None when it cannot be read.
    fn follow(&self, location: &str) -> Option<Target> {
        let uri: Uri = location.parse().ok()?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let Some(host) = uri.host() else { return Some(Target { path, ..self.clone() }) };
        let is_tls = uri.scheme_str().map_or(self.is_tls, |s| s == "https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Some(Target { is_tls, host: host.trim_matches(['[', ']']).to_owned(), port, path })
    }
}

/// GETs the URL within the time limit and judges the answer.
pub(super) async fn get(action: &HttpGetAction, host: &str, port: u16, limit: Duration) -> Outcome {
    let path = if action.path.starts_with('/') { action.path.clone() } else { format!("/{}", action.path) };
    let first = Target { is_tls: action.scheme.eq_ignore_ascii_case("https"), host: host.to_owned(), port, path };
    let url = first.url();
    match tokio::time::timeout(limit, follow(action, first)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn follow(action: &HttpGetAction, first: Target) -> Outcome {
    let mut target = first.clone();
    for _ in 0..=REDIRECTS_MAX {
        let response = match once(action, &target).await {
            Ok(response) => response,
            Err(text) => return Outcome::Failure(format!("Get {:?}: {text}", target.url())),
        };
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        match location.filter(|_| is_redirect(status)).and_then(|l| target.follow(l)) {
            Some(next) if next.host == first.host => target = next,
            Some(next) => {
                return Outcome::Warning(format!("Probe terminated redirects, Response body: {}", next.url()));
            }
            None if (200..400).contains(&status.as_u16()) => return Outcome::Success,
            None => return Outcome::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
        }
    }
    Outcome::Failure(format!("Get {:?}: stopped after {REDIRECTS_MAX} redirects", first.url()))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

async fn once(action: &HttpGetAction, target: &Target) -> Result<Response<Incoming>, String> {
    let place = authority(&target.host, target.port);
    let connect = TcpStream::connect((target.host.as_str(), target.port));
    let stream = connect.await.map_err(|e| dial_text(&place, &e))?;
    let request = request(action, target, &place)?;
    if target.is_tls { exchange(tls::connect(stream).await?, request).await } else { exchange(stream, request).await }
}

/// Sends the request over a connection of its own. The connection ends with the answer's head: the body is not read.
async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let mut connection = std::pin::pin!(connection);
    let mut response = std::pin::pin!(sender.send_request(request));
    tokio::select! {
        biased;
        response = &mut response => response.map_err(|e| e.to_string()),
        ended = &mut connection => match response.await {
            Ok(response) => Ok(response),
            Err(error) => Err(ended.err().map_or_else(|| error.to_string(), |e| e.to_string())),
        },
    }
}

fn request(action: &HttpGetAction, target: &Target, place: &str) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(&target.path).body(Empty::new()).map_err(|e| e.to_string())?;
    let headers = request.headers_mut();
    for given in &action.http_headers {
        let name = HeaderName::from_bytes(given.name.as_bytes()).map_err(|e| e.to_string())?;
        let value = HeaderValue::from_str(&given.value).map_err(|e| e.to_string())?;
        headers.append(name, value);
    }
    let own_host = HeaderValue::from_str(place).map_err(|e| e.to_string())?;
    headers.entry(header::HOST).or_insert(own_host);
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers each connection with the next text; returns the port and the requests.
    async fn server(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        #[allow(clippy::disallowed_methods)] // The test awaits the handle.
        let handle = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                requests.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        });
        (port, handle)
    }

    async fn probe(answers: &[&str]) -> (Outcome, Vec<String>) {
        let (port, handle) = server(answers.iter().map(|a| format!("HTTP/1.1 {a}\r\n\r\n")).collect()).await;
        let action = HttpGetAction { path: "/x".into(), ..Default::default() };
        let outcome = get(&action, "127.0.0.1", port, Duration::from_secs(5)).await;
        (outcome, handle.await.unwrap())
    }

    #[tokio::test]
    async fn statuses_from_200_to_399_pass() {
        for (status, expect) in [
            ("200 OK", Outcome::Success),
            ("204 No Content", Outcome::Success),
            ("399 X", Outcome::Success),
            ("400 Bad", Outcome::Failure("HTTP probe failed with statuscode: 400".into())),
            ("503 Bad", Outcome::Failure("HTTP probe failed with statuscode: 503".into())),
        ] {
            let (outcome, requests) = probe(&[status]).await;
            assert_eq!(outcome, expect);
            let request = requests[0].to_ascii_lowercase();
            assert!(request.starts_with("get /x http/1.1") && request.contains("user-agent: kube-probe/1.36"));
        }
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host_only() {
        let (outcome, requests) = probe(&["302 Found\r\nLocation: /y?z", "200 OK"]).await;
        assert_eq!(outcome, Outcome::Success);
        assert!(requests[1].starts_with("GET /y?z "));
        let (outcome, _) = probe(&["302 Found\r\nLocation: http://other.invalid/"]).await;
        assert!(matches!(outcome, Outcome::Warning(_)), "{outcome:?}");
    }
}
