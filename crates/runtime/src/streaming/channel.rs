//! The framing of channels on a WebSocket: the first byte of a message is the channel. Pure.

use axum::extract::ws::Message;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// The channel's number, then the bytes.
    Binary,
    /// The channel's digit, then the bytes in base64, as text.
    Base64,
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) name: &'static str,
    pub(super) coding: Coding,
    /// The end is told as a Status, not as text.
    pub(super) has_status: bool,
    /// One channel can be closed.
    pub(super) closes: bool,
}

/// Of remote commands, the best first.
pub(super) const COMMANDS: [Version; 5] = [
    Version { name: "v5.channel.k8s.io", coding: Coding::Binary, has_status: true, closes: true },
    Version { name: "v4.channel.k8s.io", coding: Coding::Binary, has_status: true, closes: false },
    Version { name: "v4.base64.channel.k8s.io", coding: Coding::Base64, has_status: true, closes: false },
    Version { name: "channel.k8s.io", coding: Coding::Binary, has_status: false, closes: false },
    Version { name: "base64.channel.k8s.io", coding: Coding::Base64, has_status: false, closes: false },
];
/// Of ports without SPDY.
pub(super) const PORTS: [Version; 2] = [COMMANDS[1], COMMANDS[2]];

/// The channel that a version with `closes` names in front of the closed one.
const CLOSE: u8 = 255;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Bytes { channel: u8, bytes: Bytes },
    Closed { channel: u8 },
    Noise,
}

impl Version {
    /// Reads a message of a client.
    pub(super) fn read(self, message: Message) -> Heard {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            // Some clients send what they hold as text in text messages.
            Message::Text(text) => text.into(),
            _ => return Heard::Noise,
        };
        let Some(first) = bytes.first().copied() else { return Heard::Noise };
        let rest = bytes.slice(1..);
        match self.coding {
            Coding::Binary if first == CLOSE && self.closes => match *rest {
                [channel] => Heard::Closed { channel },
                _ => Heard::Noise,
            },
            Coding::Binary => Heard::Bytes { channel: first, bytes: rest },
            Coding::Base64 => match (first.checked_sub(b'0'), BASE64.decode(&rest)) {
                (Some(channel), Ok(bytes)) => Heard::Bytes { channel, bytes: bytes.into() },
                _ => Heard::Noise,
            },
        }
    }

    /// A message on a channel.
    pub(super) fn write(self, channel: u8, bytes: &[u8]) -> Message {
        match self.coding {
            Coding::Binary => Message::Binary([&[channel], bytes].concat().into()),
            Coding::Base64 => {
                let mut text = String::from(char::from(b'0'.saturating_add(channel)));
                BASE64.encode_string(bytes, &mut text);
                Message::Text(text.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V5: Version = COMMANDS[0];
    const V4: Version = COMMANDS[1];
    const TEXT: Version = COMMANDS[2];

    fn binary(bytes: &'static [u8]) -> Message {
        Message::Binary(Bytes::from_static(bytes))
    }

    #[test]
    fn messages_are_told_apart_by_their_first_byte() {
        let said = |channel, bytes: &'static [u8]| Heard::Bytes { channel, bytes: Bytes::from_static(bytes) };
        assert_eq!(V4.read(binary(b"\x00abc")), said(0, b"abc"));
        assert_eq!(V4.read(Message::Text("\u{4}{}".into())), said(4, b"{}"));
        assert_eq!(V5.read(binary(b"\xff\x00")), Heard::Closed { channel: 0 });
        assert_eq!(V4.read(binary(b"\xff\x00")), said(255, b"\x00"));
        assert_eq!(TEXT.read(Message::Text("0YWJj".into())), said(0, b"abc"));
        for garbage in [binary(b""), binary(b"\xff"), Message::Ping(Bytes::new())] {
            assert_eq!(V5.read(garbage), Heard::Noise);
        }
        for garbage in ["", "0***", "\u{1}YWJj"] {
            assert_eq!(TEXT.read(Message::Text(garbage.into())), Heard::Noise);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for version in COMMANDS {
            let read = version.read(version.write(3, b"a\x00\xffb"));
            assert_eq!(read, Heard::Bytes { channel: 3, bytes: Bytes::from_static(b"a\x00\xffb") });
        }
    }
}
