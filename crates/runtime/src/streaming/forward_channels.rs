//! Port-forward over a WebSocket without SPDY: for the nth port asked for, channel 2n carries the data and 2n + 1 the
//! error. One connection to each port. Clients outside the Go world (Python, Rust) speak it.

use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Mutex, mpsc};

use super::channel::{Heard, Version};
use super::dial::dial;
use crate::state::Sandbox;

/// Messages that may wait for a port that does not read; the client's other ports then wait too.
const WAITING_MAX: usize = 16;
/// Largest piece that is passed on at a time.
const PIECE_BYTES: usize = 32 << 10;
/// Ports of one client: channels are numbered by one byte, and by one digit in text.
pub(super) const PORTS_MAX: usize = 5;

/// Connects the ports and carries their bytes until they end or the client goes.
pub(super) async fn serve(sandbox: Arc<Sandbox>, socket: WebSocket, version: Version, ports: Vec<u16>) {
    let (sink, messages) = socket.split();
    let voice = Voice { sink: Mutex::new(sink), version };
    let mut inputs = Vec::new();
    let mut carried = Vec::new();
    for (number, port) in (0_u8..).zip(ports) {
        let (to, input) = mpsc::channel(WAITING_MAX);
        inputs.push(to);
        carried.push(carry(&sandbox, port, number * 2, input, &voice));
    }
    tokio::select! {
        _ = futures_util::future::join_all(carried) => {}
        () = listen(messages, version, &inputs) => return,
    }
    voice.close().await;
}

struct Voice {
    sink: Mutex<SplitSink<WebSocket, Message>>,
    version: Version,
}

impl Voice {
    async fn say(&self, channel: u8, bytes: &[u8]) -> Result<(), axum::Error> {
        self.sink.lock().await.send(self.version.write(channel, bytes)).await
    }

    async fn close(&self) {
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let mut sink = self.sink.lock().await;
        let _ = sink.send(Message::Close(Some(frame))).await;
        let _ = sink.close().await;
    }
}

/// Gives every port what the client says to it, until the client goes.
async fn listen(mut messages: SplitStream<WebSocket>, version: Version, inputs: &[mpsc::Sender<Bytes>]) {
    while let Some(Ok(message)) = messages.next().await {
        if let Heard::Bytes { channel, bytes } = version.read(message)
            && channel % 2 == 0
            && let Some(to) = inputs.get(usize::from(channel / 2))
        {
            // A port that has ended takes nothing more.
            let _ = to.send(bytes).await;
        }
    }
}

async fn carry(sandbox: &Sandbox, port: u16, channel: u8, mut input: mpsc::Receiver<Bytes>, voice: &Voice) {
    // The first message of each channel names the port.
    for channel in [channel, channel + 1] {
        if voice.say(channel, &port.to_le_bytes()).await.is_err() {
            return;
        }
    }
    let target = match dial(sandbox, port).await {
        Ok(target) => target,
        Err(failure) => {
            let text = format!("error forwarding port {port} to pod {}, uid : {failure}", sandbox.id());
            let _ = voice.say(channel + 1, text.as_bytes()).await;
            return;
        }
    };
    let (mut from_target, mut to_target) = target.into_split();
    let inward = async {
        while let Some(bytes) = input.recv().await {
            if to_target.write_all(&bytes).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let outward = async {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(read @ 1..) = from_target.read(&mut buffer).await {
            if voice.say(channel, &buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    // The protocol cannot say that a client has ended its half, so the target's end is the end.
    tokio::select! { () = inward => {}, () = outward => {} }
}
