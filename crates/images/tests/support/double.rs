//! A registry that does as it is told, on a loopback port of its own, and writes down what it was asked.

use super::tls::Identity;
use super::{Made, digest};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio::task::JoinSet;

#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub authorization: String,
    pub range: String,
    pub custom: String,
    /// Host and port that were asked for, and the protocol's version.
    pub authority: String,
    pub version: String,
    pub proxy_authorization: String,
    /// Whether this node showed a certificate of its own.
    pub certified: bool,
}

/// What to do with the next request whose path contains a text.
#[derive(Clone, Debug)]
pub enum Turn {
    Status(u16, Vec<(&'static str, String)>, String),
    /// Send this many bytes of what was asked for, then break the connection.
    Cut(usize),
    /// Send other bytes of the same length.
    Corrupt,
    /// Answer the whole although a range was asked for.
    IgnoreRange,
    /// Say nothing for ever.
    Hang,
    /// Send the head and so many bytes, then nothing for ever.
    Stall(usize),
    /// Send these bytes with this content encoding.
    Encoded(&'static str, Vec<u8>),
}

#[derive(Clone, Debug, Default)]
pub enum Login {
    #[default]
    Open,
    Basic(String),
    /// Tokens from this realm; the token that counts.
    Bearer {
        realm: String,
        token: String,
    },
}

#[derive(Default)]
struct Inner {
    content: BTreeMap<String, (String, Bytes)>,
    turns: VecDeque<(String, Turn)>,
    /// Cut every blob answer after so many bytes, for ever.
    cut_always: Option<usize>,
    login: Login,
    seen: Vec<Seen>,
    /// Headers of every answer.
    extra: Vec<(&'static str, String)>,
    /// Blob answers under way, and the most there were at once.
    under_way: usize,
    most_under_way: usize,
    /// Blobs that are answered once so many were asked for at the same time.
    gathered: Option<(usize, BTreeSet<String>)>,
    asked: Arc<Notify>,
}

#[derive(Clone)]
pub struct Double {
    inner: Arc<Mutex<Inner>>,
    pub address: SocketAddr,
    _tasks: Arc<JoinSet<()>>,
}

impl Double {
    pub async fn start() -> Double {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Mutex::new(Inner::default()));
        let router = Router::new().fallback(answer).with_state(inner.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Double { inner, address, _tasks: Arc::new(tasks) }
    }

    /// The same behind TLS, with both versions of HTTP; `client_ca` is who must have signed a client's certificate.
    pub async fn start_tls(identity: &Identity, client_ca: Option<&Identity>) -> Double {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Mutex::new(Inner::default()));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(identity.server(client_ca)));
        let mut tasks = JoinSet::new();
        let shared = inner.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let certified = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
                    let router = Router::new()
                        .fallback(answer)
                        .layer(axum::middleware::map_request(move |mut request: Request| async move {
                            request.extensions_mut().insert(Certified(certified));
                            request
                        }))
                        .with_state(shared);
                    let service = hyper_util::service::TowerToHyperService::new(router);
                    let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
                });
            }
        });
        Double { inner, address, _tasks: Arc::new(tasks) }
    }

    pub fn always(&self, name: &'static str, value: &str) {
        self.inner.lock().unwrap().extra.push((name, value.to_owned()));
    }

    /// The most blobs that were sent at once.
    pub fn most_under_way(&self) -> usize {
        self.inner.lock().unwrap().most_under_way
    }

    /// Holds the answers for an image's layers back until `many` blobs have been asked for at the same time.
    pub fn gather(&self, many: usize, image: &Made) {
        let layers = image.layers.iter().map(|layer| digest(&layer.blob)).collect();
        self.inner.lock().unwrap().gathered = Some((many, layers));
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Serves an image under a repository and tag.
    pub fn serve(&self, repository: &str, tag: &str, image: &Made) {
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        self.put(&format!("/v2/{repository}/manifests/{tag}"), manifest, &image.manifest);
        self.put(&format!("/v2/{repository}/manifests/{}", digest(&image.manifest)), manifest, &image.manifest);
        let blobs = image.layers.iter().map(|layer| &layer.blob).chain([&image.config]);
        for blob in blobs {
            self.put(&format!("/v2/{repository}/blobs/{}", digest(blob)), "application/octet-stream", blob);
        }
    }

    pub fn put(&self, path: &str, media_type: &str, bytes: &[u8]) {
        let content = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        self.inner.lock().unwrap().content.insert(path.to_owned(), content);
    }

    pub fn next(&self, path: &str, turn: Turn) {
        self.inner.lock().unwrap().turns.push_back((path.to_owned(), turn));
    }

    pub fn cut_always(&self, bytes: Option<usize>) {
        self.inner.lock().unwrap().cut_always = bytes;
    }

    pub fn login(&self, login: Login) {
        self.inner.lock().unwrap().login = login;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    pub fn forget(&self) {
        self.inner.lock().unwrap().seen.clear();
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.path.contains(part)).count()
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

async fn answer(State(inner): State<Arc<Mutex<Inner>>>, request: Request) -> Response<Body> {
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let (method, query) = (request.method().to_string(), request.uri().query().unwrap_or_default().to_owned());
    let authority = request.uri().authority().map_or_else(|| text(&headers, "host"), |a| a.to_string());
    let version = format!("{:?}", request.version());
    let certified = request.extensions().get::<Certified>().is_some_and(|certified| certified.0);
    let whole = inner.clone();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let seen = Seen {
        method: method.clone(),
        path: path.clone(),
        query: if body.is_empty() { query } else { String::from_utf8_lossy(&body).into_owned() },
        authorization: text(&headers, "authorization"),
        range: text(&headers, "range"),
        custom: text(&headers, "x-custom"),
        authority,
        version,
        proxy_authorization: text(&headers, "proxy-authorization"),
        certified,
    };
    let begun = match begin(&mut inner.lock().unwrap(), seen) {
        Ok(begun) => begun,
        Err(refusal) => return *refusal,
    };
    let ended = (method == "GET" && path.contains("/blobs/")).then(|| Ended(whole.clone()));
    gather(&whole, &path).await;
    let mut response = content(&method, &headers, begun.content, (begun.turn, begun.cut_always));
    for (name, value) in begun.extra {
        response.headers_mut().append(name, value.parse().unwrap());
    }
    if let Some(ended) = ended {
        let (parts, body) = response.into_parts();
        let body = Body::from_stream(body.into_data_stream().map(move |frame| {
            let _ended = &ended;
            frame
        }));
        return Response::from_parts(parts, body);
    }
    response
}

/// What a request is to be answered with.
struct Begun {
    content: (String, Bytes),
    turn: Option<Turn>,
    cut_always: Option<usize>,
    extra: Vec<(&'static str, String)>,
}

/// Writes a request down and looks up what it gets; the answer itself if that is no content.
fn begin(inner: &mut Inner, seen: Seen) -> Result<Begun, Box<Response<Body>>> {
    let Seen { method, path, authorization, .. } = seen.clone();
    inner.seen.push(seen);
    let extra = inner.extra.clone();
    if let Some(refusal) = challenge(&inner.login, &path, &authorization) {
        return Err(refusal.into());
    }
    let turn = inner
        .turns
        .iter()
        .position(|(part, _)| path.contains(part.as_str()) && method == "GET" || part == &format!("{method} {path}"));
    let turn = turn.and_then(|index| inner.turns.remove(index)).map(|(_, turn)| turn);
    if let Some(Turn::Hang) = turn {
        let nothing = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        return Err(Response::new(Body::from_stream(nothing)).into());
    }
    if let Some(Turn::Status(status, headers, body)) = turn {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        return Err(response.body(Body::from(body)).unwrap().into());
    }
    let Some(content) = inner.content.get(&path).cloned() else {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return Err(Response::builder().status(404).body(Body::from(body)).unwrap().into());
    };
    let cut_always = inner.cut_always.filter(|_| path.contains("/blobs/"));
    if method == "GET" && path.contains("/blobs/") {
        inner.under_way += 1;
        inner.most_under_way = inner.most_under_way.max(inner.under_way);
        inner.asked.notify_waiters();
    }
    Ok(Begun { content, turn, cut_always, extra })
}

/// Waits until enough blobs were asked for, if this is one that waits.
async fn gather(inner: &Mutex<Inner>, path: &str) {
    let asked = inner.lock().unwrap().asked.clone();
    loop {
        let more = asked.notified();
        let waits = {
            let inner = inner.lock().unwrap();
            let waits = |(many, blobs): &(usize, BTreeSet<String>)| {
                inner.most_under_way < *many && blobs.iter().any(|blob| path.ends_with(blob))
            };
            inner.gathered.as_ref().is_some_and(waits)
        };
        if !waits {
            return;
        }
        more.await;
    }
}

#[derive(Clone, Copy)]
struct Certified(bool);

/// Counts an answer as ended when its body is dropped.
struct Ended(Arc<Mutex<Inner>>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().unwrap().under_way -= 1;
    }
}

fn challenge(login: &Login, path: &str, authorization: &str) -> Option<Response<Body>> {
    let wanted = match login {
        Login::Open => return None,
        _ if path.starts_with("/token") => return None,
        Login::Basic(pair) if *authorization == format!("Basic {pair}") => return None,
        Login::Bearer { token, .. } if *authorization == format!("Bearer {token}") => return None,
        Login::Basic(_) => "Basic realm=\"double\"".to_owned(),
        Login::Bearer { realm, .. } => format!("Bearer realm=\"{realm}\",service=\"double\""),
    };
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    Some(Response::builder().status(401).header("www-authenticate", wanted).body(Body::from(body)).unwrap())
}

fn content(
    method: &str,
    headers: &HeaderMap,
    (media_type, bytes): (String, Bytes),
    (turn, cut_always): (Option<Turn>, Option<usize>),
) -> Response<Body> {
    if let Some(Turn::Encoded(coding, coded)) = turn {
        return Response::builder().header("content-encoding", coding).body(Body::from(coded)).unwrap();
    }
    let range = text(headers, "range");
    let start = range.strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse::<usize>().ok());
    let start = start.filter(|_| !matches!(turn, Some(Turn::IgnoreRange))).unwrap_or(0);
    if start > 0 && start >= bytes.len() {
        return Response::builder().status(StatusCode::RANGE_NOT_SATISFIABLE).body(Body::empty()).unwrap();
    }
    let mut response = Response::builder().header("content-type", media_type);
    if start > 0 {
        let shown = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header("content-range", shown);
    } else {
        response = response.header("docker-content-digest", digest(&bytes));
    }
    let mut rest = bytes.slice(start..);
    response = response.header("content-length", rest.len());
    if method == "HEAD" {
        return response.body(Body::empty()).unwrap();
    }
    if matches!(turn, Some(Turn::Corrupt)) {
        rest = rest.iter().map(|byte| byte ^ 0x55).collect();
    }
    if let Some(Turn::Stall(count)) = turn {
        let sent = rest.slice(..count);
        let stream = futures_util::stream::once(async { Ok::<_, std::io::Error>(sent) });
        return response.body(Body::from_stream(stream.chain(futures_util::stream::pending()))).unwrap();
    }
    let cut = match turn {
        Some(Turn::Cut(count)) => Some(count),
        _ => cut_always,
    };
    match cut.filter(|cut| *cut < rest.len()) {
        None => response.body(Body::from(rest)).unwrap(),
        Some(cut) => {
            // The break comes after the bytes have left: a server that fails at once would send nothing at all.
            let broken = async {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                Err(std::io::Error::other("cut"))
            };
            let sent = rest.slice(..cut);
            let stream = futures_util::stream::once(async { Ok(sent) }).chain(futures_util::stream::once(broken));
            response.body(Body::from_stream(stream)).unwrap()
        }
    }
}
