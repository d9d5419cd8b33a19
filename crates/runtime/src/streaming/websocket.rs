//! A client on a WebSocket: stdin, stdout, stderr, the end and the terminal's size are channels 0 to 4.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::Mutex;

use super::channel::{Heard, Version};
use super::client::{self, End, From, Gone, Said};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// How long a client is given to answer our goodbye.
const PATIENCE: Duration = Duration::from_secs(5);

/// Both directions of a client.
pub(super) fn client(socket: WebSocket, version: Version) -> (Ear, Voice) {
    let (sink, messages) = socket.split();
    (Ear { messages, version }, Voice { sink: Mutex::new(sink), version })
}

/// Listens.
pub(super) struct Ear {
    messages: SplitStream<WebSocket>,
    version: Version,
}

impl client::Ear for Ear {
    async fn hear(&mut self) -> Option<Said> {
        while let Some(Ok(message)) = self.messages.next().await {
            if let Some(said) = said(self.version.read(message)) {
                return Some(said);
            }
        }
        None
    }

    async fn part(mut self) {
        let gone = async { while let Some(Ok(_)) = self.messages.next().await {} };
        let _ = tokio::time::timeout(PATIENCE, gone).await;
    }
}

fn said(heard: Heard) -> Option<Said> {
    match heard {
        Heard::Bytes { channel: STDIN, bytes } => Some(Said::Input(bytes)),
        Heard::Bytes { channel: RESIZE, bytes } => client::size(&serde_json::from_slice(&bytes).ok()?),
        Heard::Closed { channel: STDIN } => Some(Said::InputEnds),
        _ => None,
    }
}

/// Speaks.
pub(super) struct Voice {
    sink: Mutex<SplitSink<WebSocket, Message>>,
    version: Version,
}

impl Voice {
    async fn send(&self, channel: u8, bytes: &[u8]) -> Result<(), Gone> {
        self.sink.lock().await.send(self.version.write(channel, bytes)).await.map_err(|_| Gone)
    }
}

impl client::Voice for Voice {
    /// An empty message says that the streams are open.
    async fn greet(&self) {
        let _ = self.send(STDOUT, b"").await;
    }

    async fn say(&self, from: From, bytes: Bytes) -> Result<(), Gone> {
        let channel = match from {
            From::Stdout => STDOUT,
            From::Stderr => STDERR,
        };
        self.send(channel, &bytes).await
    }

    async fn end(&self, end: &End) {
        let text = if self.version.has_status { end.status() } else { end.plain() };
        if !text.is_empty() {
            let _ = self.send(ERROR, &text).await;
        }
        // Clients take a close without the code for a normal end as an error.
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let mut sink = self.sink.lock().await;
        let _ = sink.send(Message::Close(Some(frame))).await;
        let _ = sink.close().await;
    }
}
