//! SPDY within a WebSocket: the binary messages, one after the other, are the bytes of a connection. kubectl 1.31 and
//! later forward ports so, with the subprotocol [`PROTOCOL`].

use std::io;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::spdy::Outlet;

/// The subprotocol.
pub(super) const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// The two directions of the connection within.
pub(super) fn open(socket: WebSocket) -> (impl AsyncRead + Send + Unpin + 'static, Outlet<tokio::io::Sink>) {
    let (sink, messages) = socket.split();
    (StreamReader::new(bytes(messages)), Outlet::Tunnel(sink))
}

fn bytes(messages: SplitStream<WebSocket>) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + Unpin {
    Box::pin(messages.filter_map(|message| {
        std::future::ready(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    }))
}
