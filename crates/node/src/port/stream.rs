//! Passing an upgraded connection on to the runtime's streaming server.
//!
//! Bytes only: what is spoken on the stream is between the client and the runtime (POD-69). Start at [`pass_on`].

use super::{Answer, text};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

/// The streaming server is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The streams of one connection. They live as long as the task that awaits [`Upgrades::finish`].
#[derive(Clone, Default)]
pub(super) struct Upgrades(Arc<Mutex<JoinSet<()>>>);

impl Upgrades {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// Waits until all streams have ended.
    pub async fn finish(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }
}

/// Repeats the request towards `url` and, if both sides agree to switch, joins the two connections.
pub(super) async fn pass_on(url: &str, request: Request<Incoming>, upgrades: &Upgrades) -> Answer {
    match try_pass_on(url, request, upgrades).await {
        Ok(answer) => answer,
        Err(message) => text(StatusCode::BAD_GATEWAY, message),
    }
}

async fn try_pass_on(url: &str, mut request: Request<Incoming>, upgrades: &Upgrades) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|e| format!("the runtime's stream URL cannot be read: {e}"))?;
    let authority = uri.authority().ok_or("the runtime's stream URL names no server")?.clone();
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), port))).await;
    let stream = stream.map_err(|_| "the runtime's streaming server does not answer".to_owned())?;
    let stream = stream.map_err(|e| format!("cannot reach the runtime's streaming server: {e}"))?;
    let _delayed = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    upgrades.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "stream to the runtime ended");
        }
    });
    let outward = outward(&request, &uri, authority.as_str())?;
    let answer = timeout(ANSWER_TIMEOUT, sender.send_request(outward)).await;
    let mut answer =
        answer.map_err(|_| "the runtime's streaming server does not answer".to_owned())?.map_err(|e| e.to_string())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(whole(answer).await);
    }
    let (inner, outer) = (hyper::upgrade::on(&mut answer), hyper::upgrade::on(&mut request));
    upgrades.spawn(async move {
        let (Ok(inner), Ok(outer)) = tokio::join!(inner, outer) else { return };
        let (mut inner, mut outer) = (TokioIo::new(inner), TokioIo::new(outer));
        if let Err(error) = tokio::io::copy_bidirectional(&mut outer, &mut inner).await {
            tracing::debug!(%error, "stream ended");
        }
    });
    let mut switched = Response::new(Empty::new().boxed());
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = answer.headers().clone();
    Ok(switched)
}

/// The same request for the runtime: its headers (the upgrade's among them) without a body.
fn outward(request: &Request<Incoming>, uri: &Uri, authority: &str) -> Result<Request<Empty<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut out =
        Request::builder().method(request.method()).uri(path).body(Empty::new()).map_err(|e| e.to_string())?;
    let mut headers: HeaderMap = request.headers().clone();
    for name in [header::AUTHORIZATION, header::COOKIE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.insert(header::HOST, authority.parse().map_err(|_| "the stream URL names no host".to_owned())?);
    *out.headers_mut() = headers;
    Ok(out)
}

/// An answer that does not switch: most likely an error text.
async fn whole(answer: Response<Incoming>) -> Answer {
    let (parts, body) = answer.into_parts();
    let limited = http_body_util::Limited::new(body, 64 << 10);
    let body = limited.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let mut out = text(parts.status, body);
    if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
        out.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    out
}
