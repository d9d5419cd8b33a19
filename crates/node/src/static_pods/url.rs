//! The source that is a URL: asked now and then, answers with a Pod or a PodList.
//!
//! What it said last holds until it says something else: a server that does not answer, or answers nonsense, stops no
//! pod. Headers may be secret: they are never logged. Start at [`watch`].

use super::{
    Update,
    view::{Origin, Reader, StaticPod, pods},
};
use crate::cause::innermost;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(10);
const BYTES_MAX: usize = 10 << 20;
/// So many failures in a row are told; after that it is known.
const TOLD_MAX: u32 = 3;

/// What is asked.
pub(super) struct Request {
    pub url: Uri,
    pub headers: HeaderMap,
}

type Door = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Tells what the URL held before, and then each change.
pub(super) async fn watch(
    request: Request,
    period: Duration,
    reader: Reader,
    known: Vec<StaticPod>,
    updates: mpsc::Sender<Update>,
) {
    let place = shown(&request.url);
    let (mut held, mut last, mut failures) = (known, Bytes::new(), 0_u32);
    let tell = async |pods: Vec<StaticPod>| updates.send(Update { origin: Origin::Url, pods }).await.is_ok();
    if !tell(held.clone()).await {
        return;
    }
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut door = None;
    loop {
        tick.tick().await;
        let answer = fetch(&mut door, &request).await;
        if answer.as_ref().is_ok_and(|bytes| *bytes == last) {
            failures = 0;
            continue;
        }
        let from = request.url.to_string();
        let read = answer.and_then(|bytes| {
            let pods = pods(&bytes, reader.place(Origin::Url, &from)).map_err(|refused| refused.to_string())?;
            Ok((bytes, pods))
        });
        match read {
            Ok((bytes, pods)) => {
                (last, failures) = (bytes, 0);
                let is_same = pods.len() == held.len() && pods.iter().zip(&held).all(|(a, b)| a.says_the_same(b));
                if !is_same {
                    tracing::info!(url = place, pods = pods.len(), "static pods read");
                    held = pods;
                    if !tell(held.clone()).await {
                        return;
                    }
                }
            }
            Err(why) => {
                failures = failures.saturating_add(1);
                if failures <= TOLD_MAX {
                    tracing::error!(url = place, why, "no static pods from this URL; what it said last holds");
                }
            }
        }
    }
}

/// The URL without what may be a secret in it.
fn shown(url: &Uri) -> String {
    let (scheme, host) = (url.scheme_str().unwrap_or_default(), url.host().unwrap_or_default());
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}{}", url.path())
}

async fn fetch(door: &mut Option<Door>, request: &Request) -> Result<Bytes, String> {
    match tokio::time::timeout(LIMIT, ask(door, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

async fn ask(door: &mut Option<Door>, request: &Request) -> Result<Bytes, String> {
    let client = match door {
        Some(client) => client,
        None => door.insert(open(request.url.scheme_str() == Some("https")).await?),
    };
    let mut question = http::Request::new(Empty::new());
    *question.uri_mut() = request.url.clone();
    *question.headers_mut() = request.headers.clone();
    let answer = client.request(question).await.map_err(|error| innermost(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| format!("its answer could not be read: {error}"))
}

async fn open(is_tls: bool) -> Result<Door, String> {
    let load = move || {
        let mut roots = rustls::RootCertStore::empty();
        if is_tls {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        roots
    };
    let roots = tokio::task::spawn_blocking(load).await.map_err(|error| error.to_string())?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::clock::Clock;
    use axum::{Router, extract::State, routing::get};
    use std::sync::Mutex;
    use tokio::task::JoinSet;

    /// What the server says, and the header it was sent last.
    #[derive(Clone, Default)]
    struct Server {
        says: Arc<Mutex<(u16, String)>>,
        token: Arc<Mutex<String>>,
    }

    async fn answer(State(server): State<Server>, headers: HeaderMap) -> (StatusCode, String) {
        *server.token.lock().unwrap() = headers["x-token"].to_str().unwrap().to_owned();
        let (code, text) = server.says.lock().unwrap().clone();
        (StatusCode::from_u16(code).unwrap(), text)
    }

    fn list(names: &[&str]) -> String {
        let pods: Vec<String> = names
            .iter()
            .map(|name| format!("{{metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: x}}]}}}}"))
            .collect();
        format!("apiVersion: v1\nkind: PodList\nitems: [{}]", pods.join(", "))
    }

    #[tokio::test]
    async fn a_url_says_which_pods_there_are_and_its_last_good_word_holds() {
        let server = Server::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}/pods?key=hush", listener.local_addr().unwrap()).parse().unwrap();
        assert!(!shown(&url).contains("hush"));
        let app = Router::new().route("/pods", get(answer)).with_state(server.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-token"), "t".parse().unwrap())]);
        let (sender, mut updates) = mpsc::channel(4);
        let reader = Reader { node_name: "n".into(), clock: Clock::System };
        *server.says.lock().unwrap() = (200, list(&["a", "b"]));
        let request = Request { url, headers };
        tasks.spawn(watch(request, Duration::from_millis(10), reader, Vec::new(), sender));
        let mut next = async || {
            let update = tokio::time::timeout(Duration::from_secs(60), updates.recv()).await.unwrap().unwrap();
            update.pods.iter().map(|pod| pod.pod.name().to_owned()).collect::<Vec<_>>()
        };
        assert!(next().await.is_empty(), "nothing was known before");
        assert_eq!(next().await, ["a-n", "b-n"]);
        assert_eq!(*server.token.lock().unwrap(), "t");
        for nonsense in [(500, list(&[])), (200, String::new()), (200, list(&["A"]))] {
            *server.says.lock().unwrap() = nonsense;
            // Two questions: when the second one comes, the answer to the first has been taken in.
            for _ in 0..2 {
                *server.token.lock().unwrap() = String::new();
                while server.token.lock().unwrap().is_empty() {
                    tokio::task::yield_now().await;
                }
            }
        }
        *server.says.lock().unwrap() = (200, list(&["b"]));
        assert_eq!(next().await, ["b-n"], "no word of the nonsense in between");
        *server.says.lock().unwrap() = (200, list(&[]));
        assert!(next().await.is_empty());
    }
}
