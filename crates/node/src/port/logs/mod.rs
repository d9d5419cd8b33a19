//! `/containerLogs`: a container's log as its owner wants to read it (POD-64..67).
//!
//! Owns the reading of CRI log files: selection (tail, since, limit, stream), joining of partial lines, following over
//! rotation until the container ends. Must not write or rotate them. `line` is pure; `follow` waits; `read` streams.
//! Start at [`answer`].

mod follow;
mod line;
mod read;

use super::{Answer, Body, Node, query::Query, seek, text};
use crate::pod::act::rpc;
use bytes::Bytes;
use cri::v1;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use jiff::{SignedDuration, Timestamp};
use std::{convert::Infallible, path::PathBuf};
use tokio::sync::mpsc;

/// Blocks of bytes on the way to a client that may be slow.
const QUEUE_LENGTH: usize = 16;

/// Which part of a log, and in which form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    is_follow: bool,
    is_previous: bool,
    has_timestamps: bool,
    tail_lines: Option<u64>,
    limit_bytes: Option<u64>,
    since: Option<Timestamp>,
    /// `stdout` or `stderr`; None for both.
    stream: Option<line::Stream>,
}

impl Wanted {
    fn parse(query: &Query, now: Timestamp) -> Result<Wanted, String> {
        let since_time = match query.get("sinceTime").filter(|t| !t.is_empty()) {
            Some(text) => {
                Some(text.parse().map_err(|_| format!("Unable to decode query parameter sinceTime: {text:?}"))?)
            }
            None => None,
        };
        let since_seconds = query.number("sinceSeconds")?;
        let since_seconds = since_seconds.map(|seconds| {
            let past = i64::try_from(seconds).map(SignedDuration::from_secs).unwrap_or(SignedDuration::MAX);
            now.checked_sub(past).unwrap_or(Timestamp::MIN)
        });
        if since_time.is_some() && since_seconds.is_some() {
            return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned());
        }
        Ok(Wanted {
            is_follow: query.flag("follow"),
            is_previous: query.flag("previous"),
            has_timestamps: query.flag("timestamps"),
            tail_lines: query.number("tailLines")?,
            limit_bytes: query.number("limitBytes")?,
            since: since_time.or(since_seconds),
            stream: match query.get("stream") {
                Some("Stdout") => Some(line::Stream::Stdout),
                Some("Stderr") => Some(line::Stream::Stderr),
                _ => None,
            },
        })
    }
}

/// Answers a log request.
pub(super) async fn answer(node: &Node, names: [&str; 3], query: &Query) -> Answer {
    let now = crate::pod::clock::Clock::System.now();
    let wanted = match Wanted::parse(query, now) {
        Ok(wanted) => wanted,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    match source(node, names, &wanted).await {
        Ok(source) => streamed(read::Source { cri: node.cri.clone(), ..source }, wanted),
        Err(refusal) => *refusal,
    }
}

/// The container and the file of its log.
async fn source(
    node: &Node,
    [namespace, name, container]: [&str; 3],
    wanted: &Wanted,
) -> Result<read::Source, Box<Answer>> {
    let refuse = |status, message: String| Box::new(text(status, message));
    let pod = seek::pod(node, namespace, name).await?;
    if pod.container(container).is_none() {
        let message = format!("container {container:?} not found in pod {name:?}");
        return Err(refuse(StatusCode::NOT_FOUND, message));
    }
    let records = seek::records(node, namespace, name, (Some(pod.uid()), container)).await?;
    let id = seek::log_owner(&pod, container, wanted.is_previous, &records)
        .map_err(|message| refuse(StatusCode::BAD_REQUEST, message))?;
    let request = seek::limited(v1::ContainerStatusRequest { container_id: id.clone(), verbose: false });
    let status = rpc(node.cri.runtime.clone().container_status(request)).await;
    let path = status.ok().and_then(|answer| answer.into_inner().status).map(|s| s.log_path).unwrap_or_default();
    if path.is_empty() {
        let message = format!("unable to retrieve container logs for {id}");
        return Err(refuse(StatusCode::BAD_REQUEST, message));
    }
    Ok(read::Source { path: PathBuf::from(path), container_id: id, cri: node.cri.clone() })
}

/// An answer whose body is read as the client takes it; it ends with the client.
fn streamed(source: read::Source, wanted: Wanted) -> Answer {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE_LENGTH);
    let reading = read::read(source, wanted, sender);
    // The reader runs inside the body's own polling: no task outlives the connection.
    let chunks = futures_util::stream::unfold(
        (receiver, Box::pin(reading), false),
        |(mut receiver, mut reading, mut done)| async move {
            let block = loop {
                if done {
                    break receiver.recv().await;
                }
                tokio::select! {
                    biased;
                    block = receiver.recv() => break block,
                    () = &mut reading => done = true,
                }
            };
            block.map(|bytes| (Ok::<_, Infallible>(http_body::Frame::data(bytes)), (receiver, reading, done)))
        },
    );
    let body: Body = BodyExt::boxed(StreamBody::new(sync_wrapper(chunks)));
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// `BoxBody` wants `Sync`; a stream is only ever polled through `&mut`, which a mutex proves to the compiler.
pub(super) fn sync_wrapper<S>(stream: S) -> impl futures_util::Stream<Item = S::Item> + Send + Sync
where
    S: futures_util::Stream + Send,
{
    let mut pinned = std::sync::Mutex::new(Box::pin(stream));
    futures_util::stream::poll_fn(move |context| {
        let stream = pinned.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        stream.as_mut().poll_next(context)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_since_may_be_more_than_there_ever_were() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let since = |text: &str| Wanted::parse(&Query::parse(&format!("sinceSeconds={text}")), now).unwrap().since;
        assert_eq!(since("60"), Some(Timestamp::from_second(1_700_000_000 - 60).unwrap()));
        for seconds in [1_000_000_000_000, i64::MAX as u64, u64::MAX] {
            assert_eq!(since(&seconds.to_string()), Some(Timestamp::MIN), "{seconds}");
        }
    }
}
