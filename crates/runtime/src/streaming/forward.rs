//! Port-forward over SPDY: a connection to a port is a pair of streams, `data` and `error`, that name it in their headers.
//!
//! Start with [`serve`]. What carries the SPDY connection, a socket or a WebSocket, is not known here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::dial::dial;
use super::spdy::{Connection, Input, Output, Stream};
use crate::state::Sandbox;

/// The protocol's name.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";
/// How long the second stream of a pair may take.
const PAIR_PATIENCE: Duration = Duration::from_secs(30);
/// A client that forwards nothing for so long is told goodbye (POD-69).
const IDLE: Duration = Duration::from_secs(4 * 3600);
/// Largest piece that is passed on at a time.
const PIECE_BYTES: usize = 32 << 10;

/// Connects what the client asks for until it goes.
pub(super) async fn serve(sandbox: Arc<Sandbox>, mut connection: Connection) {
    let mut pairs = JoinSet::new();
    let mut waiting: BTreeMap<String, Half> = BTreeMap::new();
    let mut busy_at = Instant::now();
    loop {
        let deadline = waiting.values().map(|half| half.deadline).min();
        let deadline = deadline.unwrap_or(if pairs.is_empty() { busy_at } else { Instant::now() } + IDLE);
        tokio::select! {
            stream = connection.accept() => {
                let Some(stream) = stream else { return };
                busy_at = Instant::now();
                if let Some(pair) = receive(stream, &mut waiting).await {
                    pairs.spawn(carry(sandbox.clone(), pair));
                }
            }
            Some(_) = pairs.join_next() => busy_at = Instant::now(),
            () = tokio::time::sleep_until(deadline) => {
                let now = Instant::now();
                if pairs.is_empty() && waiting.is_empty() && busy_at + IDLE <= now {
                    return connection.close().await;
                }
                let (late, still) = waiting.into_iter().partition(|(_, half)| half.deadline <= now);
                waiting = still;
                let late: BTreeMap<_, _> = late;
                for half in late.into_values() {
                    half.stream.refuse().await;
                }
            }
        }
    }
}

/// A stream that waits for the other one.
struct Half {
    stream: Stream,
    port: u16,
    deadline: Instant,
}

/// A connection to make.
struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Agrees to a stream, and gives the pair if it is the second one.
async fn receive(stream: Stream, waiting: &mut BTreeMap<String, Half>) -> Option<Pair> {
    let header = |name: &str| stream.headers.get(name).map(String::as_str);
    let kind = match header("streamtype") {
        Some("data") => Some(Kind::Data),
        Some("error") => Some(Kind::Error),
        _ => None,
    };
    let port = header("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
    let (Some(kind), Some(port)) = (kind, port) else {
        stream.refuse().await;
        return None;
    };
    let request = match (header("requestid"), kind) {
        (Some(request), _) => request.to_owned(),
        // The first clients gave no id: they open the error's stream, then the data's.
        (None, Kind::Error) => stream.id.to_string(),
        (None, Kind::Data) => stream.id.saturating_sub(2).to_string(),
    };
    let Some(half) = waiting.remove(&request) else {
        stream.accept().await;
        waiting.insert(request, Half { stream, port, deadline: Instant::now() + PAIR_PATIENCE });
        return None;
    };
    let is_first_data = half.stream.headers.get("streamtype").is_some_and(|kind| kind == "data");
    if half.port != port || is_first_data == (kind == Kind::Data) {
        stream.refuse().await;
        waiting.insert(request, half);
        return None;
    }
    stream.accept().await;
    let (data, error) = if is_first_data { (half.stream, stream) } else { (stream, half.stream) };
    Some(Pair { port, data, error })
}

/// One connection, from its beginning to its end.
async fn carry(sandbox: Arc<Sandbox>, pair: Pair) {
    let Pair { port, data, error } = pair;
    match dial(&sandbox, port).await {
        Ok(target) => {
            tokio::select! {
                () = copy(target, data.input, (&data.output, &error.output)) => {}
                // A reset: the client wants neither what is on its way nor the connection.
                () = data.output.gone() => {}
            }
        }
        Err(failure) => {
            let text = format!("error forwarding port {port} to pod {}, uid : {failure}", sandbox.id());
            let _ = error.output.write(text.into()).await;
        }
    }
    error.output.finish().await;
    data.output.finish().await;
}

/// Moves bytes both ways until both ways have ended. That the target breaks off is the target's end.
async fn copy(target: TcpStream, mut input: Input, (output, error): (&Output, &Output)) {
    let (mut from_target, mut to_target) = target.into_split();
    let inward = async {
        while let Some(bytes) = input.next().await {
            if to_target.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to_target.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(read @ 1..) = from_target.read(&mut buffer).await {
            if output.write(bytes::Bytes::copy_from_slice(&buffer[..read])).await.is_err() {
                return;
            }
        }
        output.finish().await;
        // Old clients hold the connection open until this stream ends, and say nothing before.
        error.finish().await;
    };
    tokio::join!(inward, outward);
}
