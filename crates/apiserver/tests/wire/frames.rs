//! HTTP/2 frame by frame, as no client library would send them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The beginning of a connection, with settings of the client.
pub fn begin(settings: &[(u16, u32)]) -> Vec<u8> {
    let settings: Vec<u8> =
        settings.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        out.push(u8::try_from(length).unwrap());
    } else {
        out.push(127);
        length -= 127;
        while length > 127 {
            out.push(u8::try_from(length & 127).unwrap() | 128);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap());
    }
    out.extend_from_slice(text);
}

/// The header block of a GET: `:method`, `:scheme`, `:path` and `:authority`, none of them remembered.
pub fn get(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x04];
    text(&mut block, path.as_bytes());
    block.push(0x01);
    text(&mut block, b"localhost");
    block
}

/// One more header, remembered or not.
pub fn header(block: &mut Vec<u8>, name: &str, value: &str, remembered: bool) {
    block.push(if remembered { 0x40 } else { 0 });
    text(block, name.as_bytes());
    text(block, value.as_bytes());
}

pub fn request(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &get(path))
}

/// One frame of the server.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a GOAWAY or a RST_STREAM.
    pub fn error(&self) -> Option<u32> {
        let code = match self.kind {
            GOAWAY => self.payload.get(4..8)?,
            RST_STREAM => self.payload.get(..4)?,
            _ => return None,
        };
        Some(u32::from_be_bytes(code.try_into().ok()?))
    }
}

fn parse(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while bytes.len() >= 9 {
        let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let Some(payload) = bytes.get(9..9 + length) else { break };
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        frames.push(Frame { kind: bytes[3], flags: bytes[4], stream, payload: payload.to_vec() });
        bytes = &bytes[9 + length..];
    }
    frames
}

/// Sends `first`, then `flood` so many times, while it reads; all frames of the server until it closes the connection, or
/// until so long after the last byte was sent, and whether it closed.
pub async fn flood(
    stream: TlsStream<TcpStream>,
    first: Vec<u8>,
    (flood, times): (Vec<u8>, usize),
    linger: Duration,
) -> (Vec<Frame>, bool) {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut said = Vec::new();
    let sends = async {
        let mut all = std::iter::once(&first).chain(std::iter::repeat_n(&flood, times));
        // Who has closed says so to the reader.
        while let Some(bytes) = all.next()
            && write.write_all(bytes).await.is_ok()
        {}
        tokio::time::sleep(linger).await;
    };
    let reads = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count) = read.read(&mut buffer).await
            && count > 0
        {
            said.extend_from_slice(&buffer[..count]);
        }
    };
    let both = async {
        tokio::select! {
            () = reads => true,
            () = sends => false,
        }
    };
    let closed = tokio::time::timeout(PATIENCE * 2, both).await.unwrap_or(false);
    (parse(&said), closed)
}
